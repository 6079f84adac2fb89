"""Measure how the seconds of an epoch grow with trials in a group, frames, units, and clips.

    python benchmarks/growth.py                                     three points on each axis
    python benchmarks/growth.py --most 256 --points 5 --figure docs/images/growth.png    all of them
    python benchmarks/growth.py --axes units --rounds 2              one of the four

One LSTM over made-up features; each axis grows alone from one trial, 30 frames, 64 units and 128
clips in batches of 32. Each epoch is compared with the least time that it could take: the
operations of its matrix products over what one large product reaches on the same machine
(`of_limit` is the share). What grows slower than its axis pays a fixed cost at first; what grows
faster has left a cache. Each point compiles a program of its own; the first epoch is left out.
--most cuts the trials in a group, --points every axis.
"""

import contextlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import same_work
import turns

import vidrec
from vidrec.config import Data
from vidrec.sweeps import cost, runner
from vidrec.training import loop, runtime

AXES = {
    "trials": (1, 4, 16, 64, 256),
    "frames": (30, 60, 120, 240, 480),
    "units": (32, 64, 128, 256, 512),
    "clips": (64, 128, 256, 512, 1024),
}
START = {"trials": 1, "frames": 30, "units": 64, "clips": 128}
WIDTH, CLASSES, VAL = 128, 10, 16


def settings(size: dict[str, int]) -> vidrec.Config:
    """One trial of such a size."""
    return vidrec.override(
        replace(vidrec.Config(), data=Data(kind="features", split="given")),
        {
            "encoder.width": WIDTH,
            "frames.length": size["frames"],
            "scanner.units": size["units"],
            "train.batch_size": 32,
            "train.epochs": 10**6,
            "train.save_seconds": 1e9,
        },
    )


def measure(size: dict[str, int], rounds: int, peak: float) -> dict[str, Any]:
    """Seconds of an epoch of a group of such a size, and its least."""
    cfg, watch = settings(size), same_work.Epochs(rounds + 1)
    classes = [f"class {k}" for k in range(CLASSES)]
    source = same_work.signals((size["clips"], VAL, 1), (size["frames"], WIDTH), classes)
    made = vidrec.Ablation("growth", cfg, [vidrec.Row({})], seeds=size["trials"])
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(loop.Interrupted):
        runner.ablate(made, folder, dataset=source, screen=watch)
    all_frames = (size["clips"] + VAL) * size["frames"]
    one = cost.of(cfg, size["clips"], VAL, all_frames)
    least = size["trials"] * (one.small + one.large) / peak
    seconds = statistics.median(watch.spent[1:])
    return {
        **size,
        "seconds": round(seconds, 5),
        "least": round(min(watch.spent[1:]), 5),
        "most": round(max(watch.spent[1:]), 5),
        "limit": round(least, 6),
        "of_limit": round(least / seconds, 3),
    }


def product_peak(size: int, runs: int = 5) -> float:
    """Operations a second of one large float32 product."""
    product = jax.jit(lambda x, w: x @ w)
    x, w = jnp.ones((size, size)), jnp.ones((size, size))
    product(x, w).block_until_ready()
    spent = []
    for _ in range(runs):
        began = time.perf_counter()
        product(x, w).block_until_ready()
        spent.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(spent)


def growth(points: Sequence[dict[str, Any]], axis: str) -> float | None:
    """The power of the axis by which seconds grow, between its last two points; None with one."""
    if len(points) < 2:
        return None
    before, after = points[-2:]
    return round(
        math.log(after["seconds"] / before["seconds"]) / math.log(after[axis] / before[axis]), 2
    )


def draw(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Four panels: what was measured with its spread, and the limit."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
    for panel, (axis, points) in zip(panels.flat, found.items(), strict=False):
        x, y = [point[axis] for point in points], [point["seconds"] for point in points]
        spread = [
            [point["seconds"] - point["least"] for point in points],
            [point["most"] - point["seconds"] for point in points],
        ]
        panel.errorbar(x, y, spread, marker="o", capsize=3, label="measured")
        limit = [point["limit"] for point in points]
        panel.plot(x, limit, "--", color="black", label="products at the machine's peak")
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds an epoch")
        panel.set_xticks(x, [str(each) for each in x])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(found) :]:
        panel.remove()
    panels.flat[0].legend(frameon=False, loc="upper left")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measures point after point."""
    runtime.use_cores()  # before JAX starts
    small = jax.default_backend() == "cpu"
    words = turns.arguments(__doc__)
    words.add_argument("--axes", nargs="+", choices=AXES, default=AXES, metavar="AXIS")
    turns.sizes(words, rounds=5, product=2048 if small else 8192)
    turns.sizes(words, most=16 if small else 256, points=3 if small else 5)
    words.add_argument("--figure", type=Path, help="a file for the four panels")
    given = words.parse_args()
    peak = product_peak(given.product)
    found: dict[str, list[dict[str, Any]]] = {}
    for axis in given.axes:
        found[axis] = []
        for value in AXES[axis][: given.points]:
            if axis == "trials" and value > given.most:
                break
            turns.tell(f"{axis} {value}")
            size = {**START, axis: value}
            known = [
                point for each in found.values() for point in each if size.items() <= point.items()
            ]
            found[axis].append(known[0] if known else measure(size, given.rounds, peak))
    answer = {
        "work": "growth of an epoch",
        "peak_gflops": round(peak / 1e9, 1),
        "axes": found,
        "power": {axis: growth(points, axis) for axis, points in found.items()},
        "versions": turns.versions(),
    }
    if given.figure:
        draw(found, given.figure)
    if given.json:
        print(json.dumps(answer))
        return
    print(f"one large product: {answer['peak_gflops']} GFLOPS")
    for axis, points in found.items():
        print(f"{axis:>8}    median     least      most     limit  of limit")
        for point in points:
            print(
                f"{point[axis]:8} {point['seconds']:8.4f}s {point['least']:8.4f}s "
                f"{point['most']:8.4f}s {point['limit']:8.4f}s {point['of_limit']:9.1%}"
            )
        print(f"         grows by the power {answer['power'][axis]} of {axis} at the end")


if __name__ == "__main__":
    main()
