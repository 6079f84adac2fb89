"""Does training fit at the reports' full sizes? Seconds and memory of one epoch on made-up clips.

    python benchmarks/published_sizes.py                 every case, each in its own process
    python benchmarks/published_sizes.py A "D 180"       some
    python benchmarks/published_sizes.py --json

Shapes, layers and batches are the reports'; the largest model of each. Clips are noise, and fewer
than the data sets have where an epoch would take long on a CPU: `clips` says how many, and an epoch
of all takes as many times longer. Memory is the process's peak (`device_gb`: the accelerator's),
XLA's compilation and the clips themselves included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vidrec
from vidrec.config import Data, digest
from vidrec.data.datasets.base import Dataset, per_clip
from vidrec.sweeps import runner


@dataclass(eq=False)
class Noise(Dataset):
    """Clips of one shape, drawn anew from their place whenever they are asked for."""

    shape: tuple[int, ...] = ()  # (T, D), (T, h, w, D), or (T, H, W, 3) of frames
    is_features: bool = True
    places: tuple[int, ...] = per_clip()

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self), self.shape[0], np.int32)

    def key(self, clip: int) -> str:
        return digest(self.name, self.shape, self.places[clip], length=32)

    def features(self, clip: int) -> np.ndarray:
        rng = np.random.default_rng(self.places[clip])
        return rng.standard_normal(self.shape, np.float32)

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        rng = np.random.default_rng(self.places[clip])
        return rng.integers(0, 256, self.shape, np.uint8)[list(frame_indices)]

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        yield self.read(clip, range(self.shape[0]), size)


@dataclass(frozen=True)
class Case:
    """One model at its published size."""

    experiment: str
    settings: dict[str, Any]
    shape: tuple[int, ...]
    classes: int
    clips: int
    published_clips: int
    pixels: bool = False


C3D = {"encoder.kind": "c3d", "encoder.width": 1024, "scanner.kind": "none", "head.kind": "last"}
VGG9 = {"encoder.kind": "vgg9", "encoder.width": 500, "scanner.kind": "none"}
CONVLSTM = {"scanner.kind": "convlstm", "scanner.bias": "single", "encoder.pooling": "map"}
RANDOM = {"encoder.weights": "random"}
IMAGES = {"shape": (1, 224, 224, 3), "classes": 3, "published_clips": 1034, "pixels": True}
CLIPS = {"shape": (30, 64, 64, 3), "classes": 11, "published_clips": 1120, "pixels": True}
CASES = {
    "A": Case(
        "ucf101_four_classes", {"scanner.units": 500, "scanner.layers": 2}, (30, 512), 4, 399, 399
    ),
    "B LSTM": Case("ucf11_recurrent", {"scanner.units": 512}, (30, 512), 11, 1024, 1024),
    "B ConvLSTM 64": Case(
        "ucf11_recurrent", {**CONVLSTM, "scanner.units": 64}, (30, 7, 7, 512), 11, 128, 1024
    ),
    "B ConvLSTM 512": Case(
        "ucf11_recurrent", {**CONVLSTM, "scanner.units": 512}, (30, 7, 7, 512), 11, 32, 1024
    ),
    "C CNN+LSTM": Case("ucf11_pixels", {"train.batches_per_epoch": 0}, clips=64, **CLIPS),
    "C VGG9": Case("ucf11_pixels", {**VGG9, "train.batches_per_epoch": 0}, clips=16, **CLIPS),
    "C C3D": Case("ucf11_pixels", {**C3D, "train.batches_per_epoch": 0}, clips=16, **CLIPS),
    "D 120": Case("ucf101_lstm", {"frames.length": 120}, (120, 1024), 101, 512, 8600),
    "D 180": Case("ucf101_lstm", {"frames.length": 180}, (180, 1024), 101, 512, 8600),
    "E frozen": Case("transfer_vgg16", RANDOM, clips=64, **IMAGES),
    "E 3-a": Case(
        "transfer_vgg16", {**RANDOM, "encoder.trainable": "last_block"}, clips=32, **IMAGES
    ),
    "E 3-c": Case("transfer_vgg16", {**RANDOM, "encoder.trainable": "all"}, clips=32, **IMAGES),
}


def noise(case: Case) -> Noise:
    """The case's training clips, and one of each class to validate and to test."""
    total = case.clips + 2 * case.classes
    places = np.arange(total)
    parts = np.split(places, [case.clips, case.clips + case.classes])
    return Noise(
        name="noise",
        classes=tuple(f"class {k}" for k in range(case.classes)),
        names=tuple(f"clip {i}" for i in places),
        labels=(places % case.classes).astype(np.int32),
        groups=np.array([f"clip {i}" for i in places]),
        given=dict(zip(("train", "val", "test"), parts, strict=True)),
        shape=case.shape,
        is_features=not case.pixels,
        places=tuple(places.tolist()),
    )


def measure(name: str) -> dict[str, Any]:
    """One epoch of a case, in this process."""
    case = CASES[name]
    cfg = vidrec.override(
        vidrec.load(f"experiments/{case.experiment}.py"), {"train.epochs": 1, **case.settings}
    )
    cfg = vidrec.override(cfg, {"encoder.weights": "random"})
    data = {"kind": "videos" if case.pixels else "features", "split": "given"}
    cfg = replace(cfg, data=Data(**data))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = runner.run(cfg, folder, dataset=noise(case))
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "case": name,
        "batch": [cfg.train.batch_size, *case.shape],
        "params": result["params"],
        "clips": case.clips,
        "published_clips": case.published_clips,
        "status": result["status"],
        "seconds_compile": result["seconds"]["compile"],
        "seconds_epoch": result["seconds"]["train"],
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gb": peak_gb(),
        "device_gb": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
        "device": result["versions"]["device"],
    }


def peak_gb() -> float:
    """The most memory that this process has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return round(int(kilobytes) / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help="one case, in this process")
    settings = parser.parse_args()
    if settings.here:
        print(json.dumps(measure(*settings.cases)))
        return
    for name in settings.cases or CASES:
        command = [sys.executable, __file__, name, "--here"]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        if settings.json:
            print(line.strip(), flush=True)
            continue
        found = json.loads(line)
        print(
            f"{name:15} batch {'x'.join(map(str, found['batch'])):20} {found['params']:>11,} "
            f"parameters {found['seconds_epoch']:7.1f} s an epoch of {found['clips']} clips "
            f"{found['seconds_compile']:6.1f} s compiling {found['peak_gb']:5.1f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
