"""Feed the frames of clips to training, from the devices or from the host.

Both give exactly the same figures. On the host, threads read frames or features ahead, in an order
that depends only on (seed, epoch). Frames are passed on as bytes, features as stored on disk, in
chunks of several batches.

Dimension letters: N trials, S batches, B clips, T frames.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol

import jax
import numpy as np

from vidrec.config import Config
from vidrec.data.datasets import Dataset, UnreadableClip
from vidrec.data.read_ahead import map_ahead
from vidrec.errors import UserError
from vidrec.features.on_disk import read_batches
from vidrec.io.machine import cores
from vidrec.training import batches, devices, runtime
from vidrec.training.batches import Resident
from vidrec.training.prepare import Prepared
from vidrec.training.step import TrialSpec

Tree = Any
Placement = devices.TrialParallel | devices.DataParallel
CHUNK = 256 * 2**20  # largest number of bytes of frames that are passed on at once
FEATURES = (
    32 * 2**20
)  # the same for features: memory that is used for the first time costs more than reading
THREADS = cores()  # more threads would wait for the interpreter


class Feed(Protocol):
    """Passes the frames of clips that the devices do not hold to a group's programs.

    Attributes:
        shared: arrays on the devices that all trials read.
        dtype: type of the frames that are passed on.
    """

    shared: Tree
    dtype: np.dtype

    def steps_at_once(self, done: int = 0) -> int:
        """Return how many batches a program trains on at once, after `done` batches of an epoch."""
        ...

    def rows_at_once(self, rows: int) -> int:
        """Return how many of `rows` batches a program scores at once."""
        ...

    def training(
        self, clips_NSB: np.ndarray, epoch: int, steps: int
    ) -> Iterator[np.ndarray | None]:
        """Yield the frames (N, steps, B, T, …) of one chunk of batches after another."""
        ...

    def scoring(
        self, rows: np.ndarray, at_once: int, window: int = 0
    ) -> Iterator[np.ndarray | None]:
        """Yield the frames (at_once, B, T, …) of clips (S, B), or of windows (S, B, 2).

        Args:
            rows: indices of clips, or windows, each given by its clip and first frame.
            at_once: number of batches that are scored at once.
            window: number of frames of a window.
        """
        ...


class ResidentFeed:
    """All clips are on the devices, so there are no frames to pass on.

    Args:
        by_step: whether each batch is a separate call of a program, see `by_step`.
    """

    def __init__(self, spec: TrialSpec, placement: Placement, data: Prepared, by_step: bool):
        self.spec, self.by_step = spec, by_step
        self.dtype = data.values.dtype
        self.shared = placement.share_once(resident(data), data.on_devices)

    def steps_at_once(self, done: int = 0) -> int:
        """See `Feed`."""
        return 1 if self.by_step else self.spec.steps_per_epoch

    def rows_at_once(self, rows: int) -> int:
        """See `Feed`."""
        return rows

    def training(self, clips_NSB: np.ndarray, epoch: int, steps: int) -> Iterator[None]:
        """See `Feed`."""
        yield from [None] * (clips_NSB.shape[1] // steps)

    def scoring(self, rows: np.ndarray, at_once: int, window: int = 0) -> Iterator[None]:
        """See `Feed`."""
        yield from [None] * (len(rows) // at_once)


class StreamedFeed:
    """Frames are read during training; each trial gets those of its batches, chunk by chunk.

    Args:
        seeds: seeds of the trials, in the order of the trials.
    """

    def __init__(self, spec: TrialSpec, placement: Placement, data: Prepared, seeds: Sequence[int]):
        self.spec, self.data, self.seeds = spec, data, list(seeds)
        self.shared = placement.share_once(resident(data), data.on_devices)
        self.by_step = by_step(spec.cfg, data, placement)
        self._frame = data.values.shape[1:]
        self.dtype = data.on_disk.dtype if data.on_disk else data.values.dtype
        self._indices = jax.jit(partial(_frame_indices, spec))

    def steps_at_once(self, done: int = 0) -> int:
        """See `Feed`; the number divides the batches of an epoch, and `done`."""
        if self.by_step:
            return 1
        count, cfg = self.spec.steps_per_epoch, self.spec.cfg
        size = self._divisor(count, len(self.seeds) * cfg.train.batch_size * self.spec.length)
        return math.gcd(size, done) if done else size

    def rows_at_once(self, rows: int) -> int:
        """See `Feed`."""
        frames = max(self.spec.length, self.spec.cfg.eval.window)
        shards = self.spec.num_shards  # each shard takes the same number
        return shards * self._divisor(
            rows // shards, shards * self.spec.cfg.eval.batch_size * frames
        )

    def training(self, clips_NSB: np.ndarray, epoch: int, steps: int) -> Iterator[np.ndarray]:
        """See `Feed`."""
        readers = {}
        for seed, clips_SB in zip(self.seeds, clips_NSB, strict=True):
            if seed not in readers:
                indices = self._frames_of(clips_SB, seed, epoch)
                readers[seed] = self._read(clips_SB, indices, steps)
        for _ in range(clips_NSB.shape[1] // steps):
            frames = {seed: next(reader) for seed, reader in readers.items()}
            if len(frames) == 1:  # no copy for each trial
                [same] = frames.values()
                yield np.broadcast_to(same, (len(self.seeds), *same.shape))
            else:
                yield np.stack([frames[seed] for seed in self.seeds])

    def scoring(self, rows: np.ndarray, at_once: int, window: int = 0) -> Iterator[np.ndarray]:
        """See `Feed`."""
        if rows.ndim == 2:
            clips, indices = rows, self._frames_of(rows, 0, None)
        else:
            clips, flat = rows[..., 0], rows.reshape(-1, 2)
            lengths = self.data.lengths[flat[:, 0]]
            table: Any = flat
            chosen: Any = batches.window_indices(lengths, table, window)
            indices = np.asarray(chosen).reshape(*clips.shape, -1)
        yield from self._read(clips, indices, at_once)

    def _frames_of(self, clips_SB: np.ndarray, seed: int, epoch: int | None) -> np.ndarray:
        """Return the indices (S, B, T) of the frames that each clip shows; epoch None: scoring."""
        flat = clips_SB.reshape(-1)
        indices = self._indices(self.data.lengths[flat], flat, np.uint32(seed), epoch)
        return np.asarray(indices).reshape(*clips_SB.shape, -1)

    def _divisor(self, count: int, frames: int) -> int:
        """Return the largest number of batches a chunk may have; all chunks have the same number.

        Args:
            count: number of batches, which all chunks together have.
            frames: frames of a batch.
        """
        chunk = min(CHUNK, FEATURES) if self.data.on_disk else CHUNK
        most = max(1, chunk // (frames * math.prod(self._frame) * self.dtype.itemsize))
        return max(size for size in range(1, min(most, count) + 1) if count % size == 0)

    def _read(
        self, clips_SB: np.ndarray, indices_SBT: np.ndarray, size: int
    ) -> Iterator[np.ndarray]:
        """Yield frames (size, B, T, …), each time those of the next `size` batches."""
        rows = size * clips_SB.shape[1]
        flat = indices_SBT.reshape(-1, indices_SBT.shape[-1])
        clips, data = clips_SB.reshape(-1), self.data
        if data.on_disk:
            chunks = read_batches(data.on_disk, clips, flat, rows)
        else:
            chunks = read_ahead(data.dataset, clips, flat, self.spec.cfg.encoder.size, rows)
        for frames in chunks:
            yield frames.reshape(size, -1, *frames.shape[1:])


def of(spec: TrialSpec, placement: Placement, data: Prepared, seeds: Sequence[int]) -> Feed:
    """Return the feed that these data need."""
    if data.streams:
        return StreamedFeed(spec, placement, data, seeds)
    return ResidentFeed(spec, placement, data, by_step(spec.cfg, data, placement))


def by_step(cfg: Config, data: Prepared, placement: Placement) -> bool:
    """Return True if each batch is a separate call: for one trial that trains from pixels on a CPU.

    The step is then not in a loop: XLA's convolutions on a CPU use only one core inside a loop.
    """
    several = isinstance(placement, devices.TrialParallel)
    loops = cfg.train.tbptt_every or cfg.train.grad_accum > 1 or several
    return runtime.is_cpu() and data.encoder is not None and not loops


def resident(data: Prepared) -> Resident:
    """Return the arrays that all trials of a group read, on the host."""
    return Resident(
        data.values,
        data.offsets,
        data.lengths,
        data.task.resident(data.dataset),
        frozen=data.frozen,
    )


def read_ahead(
    dataset: Dataset, clips_P: np.ndarray, indices_PT: np.ndarray, size: int, rows: int
) -> Iterator[np.ndarray]:
    """Yield frames (rows, T, size, size, 3) uint8, each time those of the next `rows` clips.

    Raises:
        UserError: a clip can no longer be read.
    """

    def read(row: int) -> np.ndarray:
        try:
            return dataset.read(int(clips_P[row]), indices_PT[row], size)
        except UnreadableClip as error:
            raise UserError(f"{error.path} can no longer be read: {error.reason}") from None

    frames = map_ahead(read, range(len(clips_P)), threads=THREADS, ahead=max(rows, THREADS))
    while batch := list(islice(frames, rows)):
        yield np.stack(batch)


def _frame_indices(
    spec: TrialSpec, lengths_B: jax.Array, clips_B: jax.Array, seed: jax.Array, epoch: Any
) -> jax.Array:
    """Return the indices (B, T) of the frames that a batch holds of each clip."""
    sampling = batches.Sampling(spec.cfg, spec.length, seed, epoch)
    return batches.frame_indices(lengths_B, clips_B, sampling).indices_BT
