"""Measure frames a second of extraction, of decoding alone and of the encoder alone.

    python benchmarks/extraction.py FOLDER WEIGHTS.h5 [--clips 40] [--rounds 3] [--json]

The three are measured in turns, round after round, over the same clips, and the medians compared:
the share says how much of the slower of the two alone is left when both run at once. Decoding alone
is the same code as in the extraction, with its threads. The encoder alone takes frames that are
already in memory. Every round fills a store of its own.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from vidrec import config
from vidrec.config import Config
from vidrec.data import datasets
from vidrec.data.datasets.base import Dataset
from vidrec.data.read_ahead import stream_clips
from vidrec.features import extraction
from vidrec.features.store import Store
from vidrec.models import encoders


def settings(folder: Path, weights: str, size: int) -> Config:
    """SqueezeNet as it was trained."""
    return config.override(
        Config(),
        {
            "data.kind": "videos",
            "data.root": str(folder),
            "encoder.kind": "squeezenet",
            "encoder.weights": weights,
            "encoder.pooling": "average",
            "encoder.normalize": "caffe",
            "encoder.size": size,
        },
    )


def some(source: Dataset, count: int) -> Dataset:
    """`count` clips, evenly over the classes' order; 0: all."""
    chosen = np.linspace(0, len(source) - 1, min(count or len(source), len(source))).astype(int)
    return source.only(chosen)


def timed(work: Callable[[], int]) -> float:
    """Frames a second of work that returns how many frames it did."""
    began = time.perf_counter()
    frames = work()
    return frames / (time.perf_counter() - began)


def measure(cfg: Config, clips: int, rounds: int) -> dict[str, object]:
    """Frames a second of each round, their medians, and what bounds extraction."""
    source = some(datasets.load(cfg.data), clips)
    size, batch = cfg.encoder.size, extraction.frames_a_batch(cfg.encoder.size)
    module = encoders.build(cfg.encoder)
    encode = encoders.extractor(module, encoders.init(module, cfg.encoder), batch)

    def decode_all() -> int:
        decoded = stream_clips(source, range(len(source)), size)
        return sum(len(chunk) for _, chunks in decoded for chunk in chunks)

    total = decode_all()  # and the files come into the system's memory
    held = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    encode(held)

    def encode_all() -> int:
        for _ in range(total // batch):
            encode(held)
        return total // batch * batch

    def extract_all() -> int:
        with tempfile.TemporaryDirectory() as folder:
            store = Store.of({"benchmark": "extraction"}, Path(folder))
            extraction.extract(extraction.Extraction(source, store, encode, size, batch))
        return total

    works = {"decoding": decode_all, "encoder": encode_all, "extraction": extract_all}
    speeds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            speeds[name].append(timed(work))
    median = {name: float(np.median(each)) for name, each in speeds.items()}
    slower = min(("decoding", "encoder"), key=median.__getitem__)
    return {
        "clips": len(source),
        "frames": total,
        "size": size,
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "frames_a_second": median,
        "rounds": speeds,
        "bound_by": slower,
        "share_of_slower": median["extraction"] / median[slower],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", help="a file, or random")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cfg = settings(options.folder, options.weights, options.size)
    figures = measure(cfg, options.clips, options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    for name, speed in figures["frames_a_second"].items():
        print(f"{name:12} {speed:8.1f} frames a second")
    print(f"{figures['share_of_slower']:.1%} of the {figures['bound_by']} alone")


if __name__ == "__main__":
    main()
