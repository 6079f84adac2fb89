"""Many trials of a table as one program: beside one after another, and beside PyTorch."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import same_work

import vidrec
from benchmarks.gpu import harness
from benchmarks.gpu.harness import OURS, Record
from vidrec.training import loop, prepare, results

ROOT = Path(__file__).parents[2]
FORMS = ("auto", "unroll8", "kernel")
CLASSES = ("Basketball", "Diving", "GolfSwing", "Skiing")


def report_a(units: int, clips: int, kind: str = "lstm") -> tuple[Any, Any]:
    """Return report A's trial of so many units, and clips of its shape."""
    import units_table

    made = units_table.table(12, 1, 1000)
    cfg = vidrec.override(made.base, {"scanner.kind": kind, "scanner.units": units})
    counts = (clips - clips // 5, clips // 5, clips * 2 // 5)
    return cfg, same_work.signals(counts, (30, 512), CLASSES)


def report_d(tiny: bool) -> tuple[Any, Any]:
    """Return report D's trial, and a few batches of its clips."""
    from types import SimpleNamespace

    import trials_table

    sizes = {"frames": 120, "width": 1024, "units": 512, "batch": 128, "epochs": 100, "clips": 512}
    if tiny:
        sizes |= {"frames": 6, "width": 8, "units": 8, "batch": 4, "clips": 8}
    given = SimpleNamespace(**sizes)
    classes = [f"class {k}" for k in range(trials_table.CLASSES)]
    counts = (given.clips, given.clips // 8, 1)
    source = same_work.signals(counts, (given.frames, given.width), classes)
    return trials_table.settings(given), source


def run(record: Record) -> None:
    """Time report A's LSTM-200, then report D's window, in growing groups."""
    both = {
        "report A, LSTM 200": (report_a(16, 20) if record.tiny else report_a(200, 399)),
        "report D, LSTM 512": report_d(record.tiny),
    }
    sizes = {"report A, LSTM 200": (1, 64, 16, 256, 4), "report D, LSTM 512": (1, 16, 4)}
    for work, (cfg, source) in both.items():
        parts = same_work.arrays(source)
        if harness.has_torch() and not record.warm:
            with record.part(work, "torch", precision="tf32"), harness.precision_of("tf32"):
                in_torch(record, work, cfg, parts)
        for count in sizes[work][:1] if record.tiny else sizes[work]:
            for form in FORMS:
                if not record.wants(work, f"{form}.", f"{count}."):
                    continue
                side = OURS if form == "auto" else f"{OURS} {form}"
                with record.part(work, side, trials=count):
                    one(record, (work, side, form), cfg, source, count)


def epochs_of(cfg: Any, source: Any, count: int, folder: Path) -> tuple[Callable[[], None], Any]:
    """Return a function that trains one epoch of a group, and the group."""
    members = [
        results.TrialRun(
            str(seed),
            vidrec.override(cfg, {"seed": seed, "train.patience": 0, "train.epochs": 10**6}),
            folder / str(seed),
        )
        for seed in range(count)
    ]
    group = loop.GroupRun(members, prepare.prepare(cfg, dataset=source), folder)
    group.ready()

    def epoch() -> None:
        group.group.train_epoch()
        jax.block_until_ready(group.group.state)

    return epoch, group


def one(record: Record, named: tuple, cfg: Any, source: Any, count: int) -> None:
    """Time epochs of a group of so many trials, and tell its memory."""
    from vidrec.models import recurrence

    work, side, form = named
    with (
        tempfile.TemporaryDirectory() as place,
        harness.precision_of("tf32"),
        recurrence.scan_form(form),
    ):
        began = time.perf_counter()
        epoch, group = epochs_of(cfg, source, count, Path(place))
        compiling = time.perf_counter() - began
        spent = repeated(epoch, record)
        stats = jax.local_devices()[0].memory_stats() or {}
        record.row(
            work,
            side,
            trials=count,
            precision="tf32",
            seconds=spent,
            a_trial=spent / count,
            trials_a_second=count / spent,
            ready=compiling,
            program_gb=group.group.memory_needed() / 1e9,
            in_use_gb=stats.get("bytes_in_use", 0) / 1e9,
            peak_gb=stats.get("peak_bytes_in_use", 0) / 1e9,
        )
        group.close()


def repeated(epoch: Callable[[], None], record: Record) -> float:
    """Return the median seconds of some epochs, after one that warms up."""
    epoch()
    if record.warm:
        return float("nan")
    spent: list[float] = []
    while len(spent) < (2 if record.tiny else 5):
        began = time.perf_counter()
        epoch()
        spent.append(time.perf_counter() - began)
        if sum(spent) > 6 and len(spent) > 1:
            break
    return float(np.median(spent))


def in_torch(record: Record, work: str, cfg: Any, parts: Any) -> None:
    """Time one trial's epochs in PyTorch: one after another is as many times as long."""
    import trials_table
    import units_table

    epochs = 2 if record.tiny else 6
    few = vidrec.override(cfg, {"train.epochs": epochs, "train.patience": 0})
    if work.startswith("report A"):
        fit = units_table.Fit(0, 0)
        units_table.in_torch(few, parts, fit)
        spent = float(np.median(fit.epochs[1:]))
    else:
        trials_table.in_torch(vidrec.override(few, {"train.epochs": 1}), parts)
        began = time.perf_counter()
        trials_table.in_torch(vidrec.override(few, {"train.epochs": 2}), parts)
        spent = (time.perf_counter() - began) / 2
    record.row(work, "torch", trials=1, precision="tf32", seconds=spent, a_trial=spent)


def check(record: Record) -> None:
    """Compare losses with PyTorch's from the same weights, in float32."""
    if not harness.has_torch():
        record.row("losses beside PyTorch", note="no PyTorch here")
        return
    import trials_table
    import units_table

    with record.part("report A, losses"), harness.precision_of("float32"):
        made = units_table.table(1 if record.tiny else 3, 1, 1000)
        record.row("report A, losses", off=units_table.check(made, ("torch",)))
    with record.part("report D, losses"), harness.precision_of("float32"):
        cfg, source = report_d(record.tiny)
        record.row("report D, losses", off=trials_table.check(cfg, source))
