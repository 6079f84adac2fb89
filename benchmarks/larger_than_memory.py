"""Does training on features larger than memory fit, and what does reading them from disk cost?

    python benchmarks/larger_than_memory.py                        UCF-101's size: 5 GB, 15 minutes
    python benchmarks/larger_than_memory.py --clips 2000 --within 500          a tenth of it
    python benchmarks/larger_than_memory.py --figure docs/images/streaming.png    a memory curve
    python benchmarks/larger_than_memory.py --pca 256              over principal components

Clips are .npy files of noise in half precision, as long as UCF-101's are: 186 frames in the mean,
29 to 1,776, 1,024 numbers a frame. They lie in a folder below --folder, removed at the end. First
both ways of training take turns on as many clips as fit in memory (--fit), and their weights must
be the same bits. Then a process of its own trains on all clips, in a control group of --within MB
where one can be made. Its memory is read from /proc ten times a second: `anonymous` is what cannot
be given back, `file` what is mapped of files. --room MB sets `train.memory_gb`, where no control
group says what there is.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import same_work
import turns

import vidrec
from vidrec.sweeps import runner
from vidrec.training import prepare, runtime
from vidrec.training.group import TrialGroup

FRAMES, SHORTEST, LONGEST, WIDTH, CLASSES = 186, 29, 1776, 1024, 101
HELD_OUT = 160  # clips to validate, and as many to test
TICK = 0.1  # seconds between two looks at a process's memory
POINTS = 40  # of the curve that is printed


def lengths(clips: int) -> np.ndarray:
    """Frames of so many clips: unequal, their mean that of UCF-101."""
    drawn = np.random.default_rng(0).lognormal(0, 0.5, clips)
    return np.clip(drawn / drawn.mean() * FRAMES, SHORTEST, LONGEST).astype(int)


def generate(folder: Path, clips: int) -> None:
    """Write clips into train/, val/ and test/, each a slice of the same noise."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(LONGEST * WIDTH * 2, np.float32).astype(np.float16)
    parts = ["val"] * HELD_OUT + ["test"] * HELD_OUT + ["train"] * (clips - 2 * HELD_OUT)
    for clip, (part, length) in enumerate(zip(parts, lengths(clips), strict=True)):
        place = folder / part / f"class_{clip % CLASSES:03d}" / f"clip_{clip:05d}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        start = rng.integers(LONGEST * WIDTH)
        np.save(place, noise[start : start + length * WIDTH].reshape(length, WIDTH))


def settings(folder: Path, given: argparse.Namespace) -> vidrec.Config:
    """A GRU over segments of the clips' mean length."""
    return vidrec.override(
        vidrec.Config(),
        {
            "data.kind": "features",
            "data.root": str(folder),
            "data.split": "given",
            "encoder.width": WIDTH,
            "encoder.pca": given.pca,
            "frames.rule": "segment_mean_length",
            "scanner.kind": "gru",
            "scanner.units": given.units,
            "train.epochs": given.epochs,
            "train.memory_gb": given.room / 1e3,
        },
    )


def side(cfg: vidrec.Config) -> TrialGroup:
    """A group of one trial, ready to train."""
    group = TrialGroup([cfg], prepare.prepare(cfg))
    group.initialize()
    group.compile()
    return group


def compare(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Epochs in memory and from disk in turn, on clips that fit; the same weights to the bit."""
    cfg = vidrec.override(settings(folder, given), {"train.epochs": 1000, "train.memory_gb": 0})
    groups = {
        "memory": side(cfg),
        "disk": side(vidrec.override(cfg, {"train.memory_gb": 1e-6})),
    }
    assert [group.data.streams for group in groups.values()] == [False, True]
    for group in groups.values():
        group.train_epoch()  # not counted
    spent = turns.seconds({n: group.train_epoch for n, group in groups.items()}, given.rounds)
    weights = [jax.tree.leaves(group.snapshot().state) for group in groups.values()]
    if any(a.tobytes() != b.tobytes() for a, b in zip(*weights, strict=True)):
        raise SystemExit("features from disk train to other weights than features in memory")
    found = turns.figures(spent, ours="memory")
    frames = int(groups["memory"].data.lengths.sum())
    rates = np.asarray(spent["memory"]) / np.asarray(spent["disk"])
    return {
        "clips": len(groups["memory"].data.lengths),
        "frames": frames,
        "seconds": found,
        "rate_of_resident": [round(float(q), 3) for q in np.quantile(rates, (0.25, 0.5, 0.75))],
    }


def train(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train on all clips, in the process that is watched."""
    cfg, watch = settings(folder, given), _Told(given.epochs + 1)
    made = vidrec.Ablation("larger", cfg, [vidrec.Row({})], seeds=1)
    with tempfile.TemporaryDirectory(dir=given.folder) as runs:
        began = time.perf_counter()
        runner.ablate(made, runs, screen=watch)
        whole = time.perf_counter() - began
    frames = (given.clips - HELD_OUT) * FRAMES  # trained and validated, a segment a clip
    return {
        "told": watch.told,
        "epoch_seconds": [round(each, 1) for each in watch.spent],
        "seconds_with_preparing_and_scoring": round(whole, 1),
        "frames_a_second": round(frames / watch.spent[-1]),
        "machine_gb": round(runtime.machine_bytes() / 1e9, 2),
    }


class _Told(same_work.Epochs):
    """Keeps lines that a user would read."""

    def __init__(self, epochs: int):
        super().__init__(epochs)
        self.told: list[str] = []

    def say(self, line: str) -> None:
        """Keep a line."""
        self.told.append(line)


class Watch(threading.Thread):
    """Reads a process's memory until it ends."""

    def __init__(self, process: int):
        super().__init__(daemon=True)
        self.process, self.seen = process, []
        self.began = time.perf_counter()
        self.start()

    def run(self) -> None:
        """Poll the process; record anonymous and file-backed MB by the second."""
        while sizes := self._sizes():
            self.seen.append((time.perf_counter() - self.began, *sizes))
            time.sleep(TICK)

    def _sizes(self) -> tuple[float, float] | None:
        try:
            lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        except OSError:
            return None
        told = dict(line.split(":", 1) for line in lines if ":" in line)
        if "RssAnon" not in told:  # it has ended
            return None
        anonymous, file = (float(told[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile"))
        return anonymous, file

    def figures(self) -> dict[str, Any]:
        """The peak, and the curve in few points, each the most of its share of time."""
        parts = np.array_split(np.array(self.seen), min(POINTS, len(self.seen)))
        curve = [[round(float(x)) for x in part.max(0)] for part in parts]
        return {
            "peak_anonymous_mb": round(max(each[1] for each in self.seen)),
            "peak_file_mb": round(max(each[2] for each in self.seen)),
            "curve": {"of": ["second", "anonymous MB", "file MB"], "points": curve},
        }


@contextlib.contextmanager
def control_group(megabytes: int) -> Iterator[tuple[Path | None, str]]:
    """A group of processes with so much memory; None and why where there is none."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = {name: path for _, name, path in (line.split(":", 2) for line in lines)}
    top = Path("/sys/fs/cgroup")
    parent, limit = top / own.get("", "/").lstrip("/"), "memory.max"
    if "memory" in own:  # version 1
        parent, limit = top / "memory" / own["memory"].lstrip("/"), "memory.limit_in_bytes"
    folder = parent / f"vidrec-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        yield None, f"none could be made: {error.strerror}"
        return
    try:
        try:
            (folder / limit).write_text(str(megabytes * 10**6))
        except OSError as error:
            yield None, f"none could be limited: {error.strerror}"
            return
        yield folder, f"{megabytes} MB by {limit}"
    finally:
        folder.rmdir()


def watched(folder: Path, given: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Train on all clips in a process of its own, and watch its memory."""
    with control_group(given.within) as (group, how):
        turns.tell(f"training on {given.clips} clips; control group: {how}")
        command = [sys.executable, __file__, *words, "--train", str(folder)]
        if group:  # the shell joins the group and becomes the process, so all of it counts
            enter = 'echo $$ > "$0" && exec "$@"'
            command = ["sh", "-c", enter, str(group / "cgroup.procs"), *command]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watch = Watch(child.pid)
        printed, _ = child.communicate()
        watch.join()
        most = _number(group / "memory.max_usage_in_bytes") if group else None
    if child.returncode:
        raise SystemExit(f"training ended with {child.returncode}")
    answer = json.loads(printed.splitlines()[-1])
    return {**answer, "control_group": how, "group_peak_mb": most, **watch.figures()}


def _number(file: Path) -> int | None:
    try:
        return round(int(file.read_text()) / 1e6)
    except OSError:
        return None


def draw(found: dict[str, Any], file: Path, within: int) -> None:
    """The curve of memory."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(7, 3.2), layout="constrained")
    seconds, anonymous, file_backed = np.array(found["curve"]["points"]).T
    panel.plot(seconds, anonymous / 1e3, label="anonymous")
    panel.plot(seconds, file_backed / 1e3, label="of files", color="gray", linewidth=1)
    panel.axhline(within / 1e3, color="black", linestyle="--", label="limit")
    panel.set(xlabel="seconds", ylabel="GB", ylim=0, xlim=0)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, loc="center right")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Generates, compares, trains on all, and cleans up."""
    words = turns.arguments(__doc__)
    turns.sizes(words, clips=13320, fit=1600, units=64, pca=0, epochs=1, rounds=3)
    turns.sizes(words, within=4000, room=0)
    words.add_argument("--folder", type=Path, help="for the clips; by default a temporary one")
    words.add_argument("--figure", type=Path, help="a file for the curve of memory")
    words.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.train:
        runtime.use_cores()
        print(json.dumps(train(given.train, given)))
        return
    folder = Path(tempfile.mkdtemp(prefix="larger-", dir=given.folder))
    try:
        with _cache(folder):
            generate(folder / "few", given.fit)
            turns.tell(f"epochs in turn on {given.fit} clips")
            both = compare(folder / "few", given)
            shutil.rmtree(folder / "few")
            turns.tell(f"making {given.clips} clips")
            generate(folder / "all", given.clips)
            size = sum(each.stat().st_size for each in (folder / "all").rglob("*.npy"))
            found = watched(folder / "all", given, sys.argv[1:])
    finally:
        shutil.rmtree(folder)
    answer = {
        "work": "features larger than memory",
        "sizes": {**turns.shown(given, "folder", "figure", "train"), "gb": round(size / 1e9, 2)},
        "frames": int(lengths(given.clips).sum()),
        "both": both,
        "all": found,
        "versions": turns.versions(),
    }
    if given.figure:
        draw(found, given.figure, given.within)
    if given.json:
        print(json.dumps(answer))
        return
    for name, figures in both["seconds"].items():
        print(f"{name:>8}: {figures['seconds']:8.2f} s an epoch of {both['clips']} clips")
    print(f"rate from disk over that in memory: {both['rate_of_resident']}")
    for name in ("told", "control_group", "group_peak_mb", "epoch_seconds", "frames_a_second"):
        print(f"{name}: {found[name]}")
    print(f"whole command: {found['seconds_with_preparing_and_scoring']} s")
    print(f"peak: {found['peak_anonymous_mb']} MB anonymous, {found['peak_file_mb']} MB of files")


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Keep what training leaves in the cache beside the clips, which are removed."""
    before = os.environ.get("VIDREC_CACHE")
    os.environ["VIDREC_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        del os.environ["VIDREC_CACHE"]
        if before is not None:
            os.environ["VIDREC_CACHE"] = before


if __name__ == "__main__":
    main()
