"""Is it right on this device: the figures that tests on a CPU hold, measured here."""

import contextlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import same_work

import vidrec
from benchmarks.gpu import harness, table
from benchmarks.gpu.harness import Record
from vidrec.models import recurrence, scanners
from vidrec.training import loop, prepare, results

ROOT = Path(__file__).parents[2]
MOST = {"float32": 2e-5, "tf32": 5e-3}  # off the NumPy truth


def run(record: Record) -> None:
    """Check every promise that a device could break."""
    for check in (truth, kernel_truth, cudnn_truth, group, stopped, resume, accuracy):
        if record.wants(check.__name__):
            with record.part(check.__name__):
                check(record)


def expect(record: Record, work: str, found: float, most: float, **more: Any) -> None:
    """Write a figure, and whether it is as small as it has to be."""
    verdict = {} if found <= most else {"failed": f"{found:.3g} is more than {most:.3g}"}
    record.row(work, off=found, most=most, **more, **verdict)


def truths() -> Any:
    """Return the tests' module of plain NumPy loops."""
    file = ROOT / "tests" / "models" / "test_scanners_truth.py"
    spec = importlib.util.spec_from_file_location("scanners_truth", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def against_numpy(name: str, form: str, precision: str, seed: int = 0) -> float:
    """Return how far a scanner's outputs are from a loop in float64."""
    module = truths()
    cell, step, count, frame = module.TRUTHS[name]
    scanner = scanners.Recurrent(cell, 1 if cell.maps else 2, "concat")
    rng = np.random.default_rng(seed)
    clips, frames = module.B, module.T
    x = rng.normal(size=(clips, frames, *frame)).astype(np.float32)
    mask_BT = rng.random((clips, frames)) < 0.7
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    with harness.precision_of(precision), recurrence.scan_form(form):
        y, _ = jax.jit(lambda p, x, m: scanner.apply({"params": p}, x, m))(params, x, mask_BT)
    exact = jax.tree.map(lambda a: a.astype(np.float64), params)
    furthest = 0.0
    for b in range(clips):
        wanted, _ = module.stack_clip(
            step, count, scanner.layers, exact, x[b].astype(np.float64), mask_BT[b], "concat"
        )
        furthest = max(furthest, float(np.abs(np.asarray(y[b]) - wanted).max()))
    return furthest


def truth(record: Record) -> None:
    """Compare the cells that are used most with their NumPy loops."""
    names = ("lstm", "gru", "gru before", "mingru", "convlstm")
    for name in names[:2] if record.tiny else names:
        for precision, most in MOST.items():
            found = against_numpy(name, "loop", precision)
            expect(record, f"{name} against NumPy", found, most, precision=precision)


def kernel_truth(record: Record) -> None:
    """Compare the kernel with the same loops, several seeds."""
    for name in ("lstm", "gru"):
        for precision, most in MOST.items():
            found = max(against_numpy(name, "kernel", precision, seed) for seed in range(2))
            expect(record, f"{name}, kernel, against NumPy", found, most, precision=precision)


def cudnn_truth(record: Record) -> None:
    """Compare cuDNN's LSTM with our loop, outputs and carry."""
    if not harness.on_gpu():
        record.row("cuDNN against our loop", note="no GPU here")
        return
    from vidrec.models import cells

    scanner = scanners.Recurrent(cells.LSTM(units=24))
    x = jax.random.normal(jax.random.key(0), (3, 7, 12))
    variables = scanner.init(jax.random.key(1), x)
    for precision, most in MOST.items():
        outs = []
        for form in ("loop", "cudnn"):
            with harness.precision_of(precision), recurrence.scan_form(form):
                apply = jax.jit(lambda v, x: scanner.apply(v, x))
                outs.append(harness.flat(apply(variables, x)))
        expect(
            record, "cuDNN against our loop", harness.off(outs[1], outs[0]), most,
            precision=precision,
        )  # fmt: skip


def fit(configs: list, source: Any, folder: Path) -> list[dict[str, Any]]:
    """Train trials as one group, and return their results with their validation losses."""
    members = [
        results.TrialRun(str(place), cfg, folder / str(place)) for place, cfg in enumerate(configs)
    ]
    written = loop.fit(members, prepare.prepare(configs[0], dataset=source), folder)
    for member, result in zip(members, written, strict=True):
        lines = (member.folder / "metrics.jsonl").read_text().splitlines()
        result["losses"] = [json.loads(line)["val/loss"] for line in lines]
    return written


def small(record: Record) -> tuple[Any, Any]:
    """Return report A's trial and few clips, for a few epochs."""
    units, clips = (16, 20) if record.tiny else (200, 200)
    cfg, source = table.report_a(units, clips)
    changes = {"train.epochs": 3, "train.patience": 0, "scanner.dropout": 0.3}
    return vidrec.override(cfg, changes), source


def group(record: Record) -> None:
    """Compare a trial in a group of 16 (learning rates, seeds) with itself alone."""
    cfg, source = small(record)
    count = 3 if record.tiny else 16
    configs = [
        vidrec.override(cfg, {"seed": seed, "optim.learning_rate": 1e-3 * (1 + seed % 3)})
        for seed in range(count)
    ]
    bounds = {"float32": 1e-4} if record.tiny else {"float32": 1e-4, "tf32": 2e-2}
    for precision, most in bounds.items():
        with tempfile.TemporaryDirectory() as place, harness.precision_of(precision):
            together = fit(configs, source, Path(place) / "all")[-1]
            alone = fit(configs[-1:], source, Path(place) / "one")[0]
        apart = np.abs(np.subtract(together["losses"], alone["losses"])) / np.abs(alone["losses"])
        expect(record, f"a trial of {count} and alone, 3 epochs", float(apart.max()), most,
               precision=precision)  # fmt: skip


def stopped(record: Record) -> None:
    """Check that a trial that stops early keeps its epochs while others go on."""
    cfg, source = small(record)
    configs = [vidrec.override(cfg, {"train.epochs": epochs}) for epochs in (1, 4)]
    with tempfile.TemporaryDirectory() as place, harness.precision_of("float32"):
        both = fit(configs, source, Path(place) / "all")
        alone = fit(configs[:1], source, Path(place) / "one")[0]
    apart = abs(both[0]["losses"][0] - alone["losses"][0])
    right = [each["epochs"] for each in both] == [1, 4] and len(both[0]["losses"]) == 1
    expect(record, "a stopped trial beside one that goes on", apart if right else 1.0, 1e-4)


def resume(record: Record) -> None:
    """Compare a run that was stopped after an epoch with one that was not."""
    cfg, source = small(record)
    cfg = vidrec.override(cfg, {"train.epochs": 4, "train.save_seconds": 0})

    class Stop(same_work.Epochs):
        """Stops after two epochs."""

    with tempfile.TemporaryDirectory() as place:
        whole = fit([cfg], source, Path(place) / "whole")[0]
        folder = Path(place) / "parts"
        member = results.TrialRun("0", cfg, folder / "0")
        with contextlib.suppress(loop.Interrupted):
            loop.fit([member], prepare.prepare(cfg, dataset=source), folder, Stop(2))
        parts = fit([cfg], source, folder)[0]
    apart = np.abs(np.subtract(whole["losses"], parts["losses"])).max()
    more = {"resumed_epoch": parts["resumed_epoch"]}
    expect(record, "stopped and resumed, beside straight on", float(apart), 1e-6, **more)


def accuracy(record: Record) -> None:
    """Train the embedded set in float32 and in bfloat16, and compare test accuracies."""
    changes = {"train.epochs": 2 if record.tiny else 15}
    if record.tiny:
        changes |= {"data.tfds": "motion/plain/clips=30", "data.split": "random"}
    found = {}
    for low in ("float32", "bfloat16"):
        cfg = vidrec.load(str(ROOT / "experiments/motion.py"))
        cfg = vidrec.override(cfg, {**changes, "scanner.dtype": low, "encoder.dtype": low})
        with tempfile.TemporaryDirectory() as place:
            result = vidrec.train(cfg, place)
        found[low] = result["metrics"]["test"]["accuracy"]
    apart = abs(found["float32"] - found["bfloat16"])
    expect(record, "motion, LSTM: bfloat16 beside float32", apart, 1.0 if record.tiny else 0.1,
           accuracy=found)  # fmt: skip
