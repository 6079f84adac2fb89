"""How clips reach a group's programs: from the devices, where all lie, or streamed from the host.

Both give the same figures to the bit. A stream reads frames ahead in threads (grain) in the order
that (seed, epoch, step) alone says, as bytes, and hands them over in chunks of steps; a program
trains on a chunk, and another one ends the epoch.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from vidrec import batches, parallel, steps
from vidrec.batches import Resident
from vidrec.datasets import Source, UnreadableClip
from vidrec.errors import UserError
from vidrec.prepare import Prepared

Tree = Any
CHUNK = 256 * 2**20  # bytes of frames handed over at once, at most
THREADS = 2 * (os.cpu_count() or 1)


def resident(data: Prepared) -> Resident:
    """The arrays that all trials of a group read."""
    frozen = {"fixed": data.fixed, "start": data.start, "constants": data.constants}
    return Resident(
        values=data.values,
        offsets=data.offsets,
        lengths=data.lengths,
        labels=np.asarray(data.source.labels, np.int32),
        train=data.clips("train"),
        val=data.clips("val"),
        frozen={name: tree for name, tree in frozen.items() if tree},
    )


class Held:
    """All clips lie on the devices; an epoch is one program."""

    def __init__(self, plan: steps.Plan, over: parallel.Trials | parallel.Batches, data: Prepared):
        self.plan, self.over = plan, over
        self.shared = over.share_once(resident(data), data.placed)

    def init(self, numbers: Tree) -> Tree:
        """The untrained trials."""
        return self.over.map(partial(steps.init, self.plan))(numbers, self.shared)

    def compile(self, state: Tree, numbers: Tree) -> Callable:
        """`epoch(state, numbers, shared) -> (state, records)`, its state donated."""
        return self.over.compile(partial(steps.epoch, self.plan), state, numbers, self.shared)

    def score(self, fn: Callable, plan: steps.Plan, trees: tuple, rows: np.ndarray) -> Tree:
        """`fn(plan, *trees, rows, data)` of `steps` for each trial; rows (S, B) or (S, B, 2)."""
        return self.over.score(partial(fn, plan), trees, rows, self.shared)


class Streamed:
    """Frames stay where they come from; each trial gets those of its own order, chunk by chunk."""

    def __init__(
        self,
        plan: steps.Plan,
        over: parallel.Trials | parallel.Batches,
        data: Prepared,
        seeds: Sequence[int],
    ):
        self.plan, self.over, self.data, self.seeds = plan, over, data, list(seeds)
        everything = resident(data)
        self.shared = over.share_once(everything, data.placed)
        self.host = everything._replace(values=None, frozen=None)
        self._frame = data.values.shape[1:]
        self._order = jax.jit(partial(_order, plan))

    def init(self, numbers: Tree) -> Tree:
        """The untrained trials."""

        def init(given: Tree, shared: Resident) -> Tree:
            return steps.init(self.plan, given[0], shared, given[1])

        first = []
        for seed in self.seeds:
            clips_SB, _ = self._order(self.host, seed, 0)
            [inputs] = self._read(clips_SB[:1], self._centre(clips_SB[:1]), 1)
            first.append(inputs[0])
        return self.over.map(init)((numbers, self.over.spread(np.stack(first))), self.shared)

    def compile(self, state: Tree, numbers: Tree) -> Callable:
        """As `Held.compile`; what memory the chunks' program takes is the epoch's to tell."""
        step, size = (self.plan.cfg.train.batch_size, self.plan.length), self._frame
        frames = np.zeros((self._chunk(self.plan.steps, *step), *step, *size), np.uint8)
        example = self.over.spread((self._each(np.int32(0)), self._each(frames)))
        program = partial(steps.train_chunk, self.plan)
        train = self.over.compile(program, state, (numbers, *example), self.shared)
        validate = self.over.map(partial(steps.validate_chunk, self.plan), trees=2)
        conclude = self.over.carry(partial(steps.conclude, self.plan), donate=True)

        def epoch(state: Tree, numbers: Tree, shared: Resident) -> tuple[Tree, Tree]:
            alive, epochs = self.over.gather((state.alive, state.epoch))
            sums = []
            for given in self._training(int(epochs[alive].max())):
                state, part = train(state, (numbers, *self.over.spread(given)), shared)
                sums.append(part)
                # Reading goes on while a chunk is trained on, but not without end.
                jax.block_until_ready(sums[-2:-1])
            nothing = jax.device_get(steps.nothing_validated())
            found = self.over.spread(jax.tree.map(self._each, nothing))
            for given in self._validation():
                found = validate(state, (numbers, *self.over.spread(given), found), shared)
            return conclude(state, (numbers, sums, found), shared)

        epoch.memory_analysis = getattr(train, "memory_analysis", lambda: None)
        return epoch

    def score(self, fn: Callable, plan: steps.Plan, trees: tuple, rows: np.ndarray) -> Tree:
        """As `Held.score`."""

        def score(*given: Tree) -> Tree:
            *trees, (rows, inputs), shared = given
            return fn(plan, *trees, rows, shared, inputs)

        scorer = self.over.map(score, trees=len(trees) + 1)
        if rows.ndim == 2:
            clips, places = rows, self._centre(rows)
        else:
            clips = rows[..., 0]
            flat = rows.reshape(-1, 2)
            places = batches.window_places(self.host.lengths[flat[:, 0]], flat, plan.cfg.eval.clip)
            places = np.asarray(places).reshape(*clips.shape, -1)
        size = self._chunk(*places.shape)
        parts = []
        for first, inputs in enumerate(self._read(clips, places, size)):
            given = (rows[first * size :][:size], inputs)
            given = self.over.spread(jax.tree.map(self._each, given))
            parts.append(self.over.gather(scorer(*trees, given, self.shared)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *parts)

    def _training(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """First step and frames (N, S, B, T, …) of each chunk of an epoch."""
        readers = {}
        for seed in set(self.seeds):
            clips_SB, places_SBT = self._order(self.host, seed, epoch)
            size = self._chunk(*places_SBT.shape)
            readers[seed] = self._read(clips_SB, places_SBT, size)
        for first in range(0, self.plan.steps, size):
            inputs = {seed: next(reader) for seed, reader in readers.items()}
            frames = np.stack([inputs[seed] for seed in self.seeds])
            yield self._each(np.int32(first)), frames

    def _validation(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `_training`, the same for every trial and epoch."""
        if not self.plan.val_clips:
            return
        places = np.minimum(np.asarray(steps.validation(self.plan)), self.plan.val_clips - 1)
        clips_SB = self.host.val[places]
        size = self._chunk(*clips_SB.shape, self.plan.length)
        for part, inputs in enumerate(self._read(clips_SB, self._centre(clips_SB), size)):
            yield self._each(np.int32(part * size)), self._each(inputs)

    def _each(self, array: np.ndarray) -> np.ndarray:
        """The same for every trial."""
        return np.broadcast_to(array, (len(self.seeds), *np.shape(array)))

    def _centre(self, clips_SB: np.ndarray) -> np.ndarray:
        """Frames that scoring sees of each clip, (S, B, T)."""
        flat = np.asarray(clips_SB).reshape(-1)
        cfg, lengths = self.plan.cfg, self.host.lengths[flat]
        places, _ = batches.places(lengths, flat, cfg, self.plan.length, 0, None)
        return np.asarray(places).reshape(*np.shape(clips_SB), -1)

    def _chunk(self, count: int, *step: int) -> int:
        """How many steps are read at once: all chunks are alike, so that one program fits them."""
        each = len(self.seeds) * math.prod(step) * math.prod(self._frame)
        most = max(1, CHUNK // each)
        return max(size for size in range(1, min(most, count) + 1) if count % size == 0)

    def _read(self, clips_SB: Any, places_SBT: Any, size: int) -> Iterator[np.ndarray]:
        """Frames (size, B, T, …) of so many steps after another."""
        clips, places = np.asarray(clips_SB), np.asarray(places_SBT)
        rows = size * clips.shape[1]
        flat = places.reshape(-1, places.shape[-1])
        for frames in read_ahead(
            self.data.source, clips.reshape(-1), flat, self.plan.cfg.encoder.size, rows
        ):
            yield frames.reshape(size, -1, *frames.shape[1:])


def of(
    plan: steps.Plan,
    over: parallel.Trials | parallel.Batches,
    data: Prepared,
    seeds: Sequence[int],
) -> Held | Streamed:
    """The feed that these data need."""
    return Streamed(plan, over, data, seeds) if data.streams else Held(plan, over, data)


def read_ahead(
    source: Source, clips_P: np.ndarray, places_PT: np.ndarray, size: int, rows: int
) -> Iterator[np.ndarray]:
    """Frames (rows, T, size, size, 3) uint8 of so many clips after another, in this order.

    Raises:
        UserError: a clip can no longer be read.
    """
    import grain

    def read(row: int) -> np.ndarray:
        try:
            return source.read(int(clips_P[row]), places_PT[row], size)
        except UnreadableClip as error:
            raise UserError(f"{error.path} can no longer be read: {error.reason}") from None

    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(rows, THREADS))
    clips = grain.MapDataset.range(len(clips_P)).map(read)
    return iter(clips.to_iter_dataset(options).batch(rows))


def _order(
    plan: steps.Plan, data: Resident, seed: jax.Array, epoch: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Clips of an epoch's batches (S, B), and the frames (S, B, T) that each gives."""
    train = plan.cfg.train
    order_SB, _ = batches.order(
        seed, epoch, plan.train_clips, train.batch_size, train.batches_per_epoch
    )
    clips_SB = data.train[order_SB]
    flat = clips_SB.reshape(-1)
    places, _ = batches.places(data.lengths[flat], flat, plan.cfg, plan.length, seed, epoch)
    return clips_SB, places.reshape(*clips_SB.shape, -1)
