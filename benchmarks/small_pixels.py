"""Report C at a size for processors: its networks at an eighth of their channels, and few clips.

--encoder.kind benchmarks/small_pixels.py:C3D          (or VGG9)
--data.kind benchmarks/small_pixels.py:clips           40 clips of motion, drawn at encoder.size
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vidrec.config import Data, digest
from vidrec.data.datasets import Dataset, motion
from vidrec.models.encoders import c3d, vgg

SEEDS = range(4)  # of motion; a source has two


class C3D(c3d.C3D):
    """Six convolutions as report C has them, 8 to 64 channels wide."""

    channels: tuple[tuple[int, ...], ...] = ((8,), (16,), (32, 32), (64, 64))


class VGG9(vgg.VGG9):
    """Six convolutions as report C has them, 8 to 32 channels wide."""

    channels: tuple[tuple[int, ...], ...] = ((8, 8), (16, 16), (32, 32))


@dataclass(eq=False)
class Drawn(Dataset):
    """Clips of motion, drawn when they are asked for."""

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self), motion.Settings().frames, np.int32)

    def key(self, clip: int) -> str:
        return digest(self.name, self.names[clip], length=32)

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        return self._drawn(clip, size)[list(frame_indices)]

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        yield self._drawn(clip, size)

    def _drawn(self, clip: int, size: int) -> np.ndarray:
        seed = clip // len(self.classes)
        return motion.clip(seed, int(self.labels[clip]), motion.Settings(size=size))


def clips(data: Data) -> Drawn:
    """Every class of motion from every seed."""
    del data
    named = [(seed, name) for seed in SEEDS for name in motion.CLASSES]
    return Drawn(
        name="few motions",
        classes=motion.CLASSES,
        names=tuple(f"{name}_{seed}" for seed, name in named),
        labels=np.array([motion.CLASSES.index(name) for _, name in named], np.int32),
        groups=np.array([motion.group(seed) for seed, _ in named]),
    )
