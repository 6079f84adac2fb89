"""How clips reach a group's programs: from the devices, where all lie, or streamed from the host.

Both give the same figures to the bit. A stream reads frames ahead in threads in the order
that (seed, epoch, step) alone says, as bytes, and hands them over in chunks of steps; a program
trains on a chunk, and another one ends the epoch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np

from vidrec.config import Config
from vidrec.data.datasets import Dataset, UnreadableClip
from vidrec.data.read_ahead import map_ahead
from vidrec.errors import UserError
from vidrec.io.machine import cores
from vidrec.training import batches, devices, step
from vidrec.training.batches import Resident
from vidrec.training.prepare import Prepared

Tree = Any
Over = devices.TrialParallel | devices.DataParallel
Begun = dict[str, Any]  # steps of an epoch that are done, and their sums: what a save keeps
Pause = Callable[[Tree, Callable[[], Begun]], None]
CHUNK = 256 * 2**20  # bytes of frames handed over at once, at most
THREADS = cores()  # more of them wait for the interpreter


def resident(data: Prepared) -> Resident:
    """The arrays that all trials of a group read."""
    return Resident(
        values=data.values,
        offsets=data.offsets,
        lengths=data.lengths,
        labels=np.asarray(data.dataset.labels, np.int32),
        train=data.clips("train"),
        val=data.clips("val"),
        frozen=batches.frozen(data),
    )


class Held:
    """All clips lie on the devices; an epoch is one program.

    Args:
        seeds: of the trials, in their order.
    """

    def __init__(self, plan: step.Plan, over: Over, data: Prepared, seeds: Sequence[int]):
        self.plan, self.over, self.seeds = plan, over, list(map(np.uint32, seeds))
        self.shared = over.share_once(resident(data), data.placed)
        self.program: Callable | None = None

    def init(self, numbers: Tree) -> Tree:
        """The untrained trials."""
        init = partial(step.init, self.plan)
        if self.plan.model.encoder is None:
            return self.over.run_unoptimized(init, numbers, self.shared)
        return self.over.map(init)(numbers, self.shared)  # its first batch is worth compiling well

    def compile(self, state: Tree, numbers: Tree, begun: Begun | None = None) -> None:
        """Makes `epoch` ready for these arrays; `begun` as there."""
        del begun
        program = partial(step.epoch, self.plan)
        self.program = self.over.compile(program, state, numbers, self.shared)

    def epoch(
        self, state: Tree, numbers: Tree, begun: Begun | None = None, pause: Pause = lambda *_: None
    ) -> tuple[Tree, Tree]:
        """Trains an epoch: the state, which is donated, and the trials' records.

        Args:
            begun: what a stopped epoch had done.
            pause: called inside an epoch, where it has several programs, with the state and a
                function that tells what is done.
        """
        del begun, pause
        return self.program(state, numbers, self.shared)

    def score(self, fn: Callable, plan: step.Plan, trees: tuple, rows: np.ndarray) -> Tree:
        """`fn(plan, *trees, rows, data)` of `steps` for each trial; rows (S, B) or (S, B, 2)."""
        return self.over.score(partial(fn, plan), trees, rows, self.shared)


class Stepwise(Held):
    """As `Held`, but an epoch is many calls of a program for `size` steps."""

    size = 1

    def compile(self, state: Tree, numbers: Tree, begun: Begun | None = None) -> None:
        """As `Held.compile`."""
        self.size = self._size(begun)
        given = self.over.shard((self._each(np.int32(0)), self._example(), self._nothing()))
        program = partial(step.train_chunk, self.plan, self.size)
        self.program = self.over.compile(program, state, (numbers, *given), self.shared)
        self._validate = self.over.map(partial(step.validate_chunk, self.plan), trees=2)
        self._conclude = self.over.carry(partial(step.conclude, self.plan), donate=True)

    def epoch(
        self, state: Tree, numbers: Tree, begun: Begun | None = None, pause: Pause = lambda *_: None
    ) -> tuple[Tree, Tree]:
        """As `Held.epoch`."""
        alive, epochs = self.over.fetch((state.alive, state.epoch))
        done, sums = 0, self._nothing()
        if begun:
            done = begun["steps"]
            sums = {
                name: np.asarray(begun["sums"][name], each.dtype) for name, each in sums.items()
            }
        sums = self.over.shard(sums)
        for inputs in self._training(int(epochs[alive].max()), done):
            given = self.over.shard((self._each(np.int32(done)), inputs))
            before = sums
            state, sums = self.program(state, (numbers, *given, sums), self.shared)
            done += self.size
            if done < self.plan.steps:
                pause(state, partial(self._begun, done, sums))
            # Reading goes on while a chunk is trained on, but not without end.
            jax.block_until_ready(before)
        found = self.over.shard(self._each(jax.device_get(step.nothing_validated())))
        for given in self._validation():
            found = self._validate(
                state, (numbers, *self.over.shard(self._each(given)), found), self.shared
            )
        return self._conclude(state, (numbers, sums, found), self.shared)

    def _begun(self, done: int, sums: Tree) -> Begun:
        sums = self.over.fetch(sums)
        return {"steps": done, "sums": {name: each.tolist() for name, each in sums.items()}}

    def _nothing(self) -> Tree:
        return self._each(jax.device_get(step.nothing_trained(self.plan)))

    def _each(self, tree: Tree) -> Tree:
        """The same for every trial."""
        count = len(self.seeds)
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), tree)

    def _size(self, begun: Begun | None) -> int:
        """Steps of a chunk; a divisor of what an epoch has and of what is done."""
        del begun
        return 1

    def _example(self) -> np.ndarray | None:
        """Inputs of a chunk as to shape and type; None where the device holds them."""

    def _training(self, epoch: int, done: int) -> Iterator[np.ndarray | None]:
        """Inputs (N, S, B, T, …) of each chunk of an epoch, after so many steps."""
        del epoch
        yield from [None] * (self.plan.steps - done)

    def _validation(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Places (S, B) of validation clips and their inputs, the same for every trial."""
        if self.plan.val_clips:
            yield np.asarray(step.validation(self.plan)), None


class Streamed(Stepwise):
    """Frames stay where they come from; each trial gets those of its own order, chunk by chunk."""

    def __init__(self, plan: step.Plan, over: Over, data: Prepared, seeds: Sequence[int]):
        super().__init__(plan, over, data, seeds)
        self.data = data
        self.host = resident(data)._replace(values=None, frozen=None)
        self._frame = data.values.shape[1:]
        self._order = jax.jit(partial(_order, plan))

    def init(self, numbers: Tree) -> Tree:
        """The untrained trials."""

        def init(given: Tree, shared: Resident) -> Tree:
            return step.init(self.plan, given[0], shared, given[1])

        first = []
        for seed in self.seeds:
            clips_SB, _ = self._order(self.host, seed, 0)
            [inputs] = self._read(clips_SB[:1], self._centre(clips_SB[:1]), 1)
            first.append(inputs[0])
        return self.over.map(init)((numbers, self.over.shard(np.stack(first))), self.shared)

    def score(self, fn: Callable, plan: step.Plan, trees: tuple, rows: np.ndarray) -> Tree:
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
            places = batches.window_places(
                self.host.lengths[flat[:, 0]], flat, plan.cfg.eval.window
            )
            places = np.asarray(places).reshape(*clips.shape, -1)
        size = self._chunk(*places.shape)
        parts = []
        for first, inputs in enumerate(self._read(clips, places, size)):
            given = (rows[first * size :][:size], inputs)
            given = self.over.shard(self._each(given))
            parts.append(self.over.fetch(scorer(*trees, given, self.shared)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *parts)

    def _size(self, begun: Begun | None) -> int:
        if by_step(self.plan.cfg, self.data, self.over):
            return 1
        size = self._chunk(self.plan.steps, self.plan.cfg.train.batch_size, self.plan.length)
        return math.gcd(size, begun["steps"]) if begun else size

    def _example(self) -> np.ndarray:
        step = (self.size, self.plan.cfg.train.batch_size, self.plan.length)
        return self._each(np.zeros((*step, *self._frame), np.uint8))

    def _training(self, epoch: int, done: int) -> Iterator[np.ndarray]:
        readers = {}
        for seed in set(self.seeds):
            clips_SB, places_SBT = self._order(self.host, seed, epoch)
            readers[seed] = self._read(clips_SB[done:], places_SBT[done:], self.size)
        for _ in range(done, self.plan.steps, self.size):
            inputs = {seed: next(reader) for seed, reader in readers.items()}
            yield np.stack([inputs[seed] for seed in self.seeds])

    def _validation(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for places_SB, _ in super()._validation():
            clips_SB = self.host.val[np.minimum(places_SB, self.plan.val_clips - 1)]
            size = self._chunk(*clips_SB.shape, self.plan.length)
            for part, inputs in enumerate(self._read(clips_SB, self._centre(clips_SB), size)):
                yield places_SB[part * size :][:size], inputs

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
            self.data.dataset, clips.reshape(-1), flat, self.plan.cfg.encoder.size, rows
        ):
            yield frames.reshape(size, -1, *frames.shape[1:])


def of(plan: step.Plan, over: Over, data: Prepared, seeds: Sequence[int]) -> Held:
    """The feed that these data need."""
    if data.streams:
        return Streamed(plan, over, data, seeds)
    return (Stepwise if by_step(plan.cfg, data, over) else Held)(plan, over, data, seeds)


def by_step(cfg: Config, data: Prepared, over: Over) -> bool:
    """True where no loop stands around a step: one trial that trains from pixels on a processor."""
    loops = (
        cfg.train.tbptt_every or cfg.train.grad_accum > 1 or isinstance(over, devices.TrialParallel)
    )
    return devices.is_cpu() and data.encoder is not None and not loops


def read_ahead(
    dataset: Dataset, clips_P: np.ndarray, places_PT: np.ndarray, size: int, rows: int
) -> Iterator[np.ndarray]:
    """Frames (rows, T, size, size, 3) uint8 of so many clips after another, in this order.

    Raises:
        UserError: a clip can no longer be read.
    """

    def read(row: int) -> np.ndarray:
        try:
            return dataset.read(int(clips_P[row]), places_PT[row], size)
        except UnreadableClip as error:
            raise UserError(f"{error.path} can no longer be read: {error.reason}") from None

    frames = map_ahead(read, range(len(clips_P)), threads=THREADS, ahead=max(rows, THREADS))
    while batch := list(islice(frames, rows)):
        yield np.stack(batch)


def _order(
    plan: step.Plan, data: Resident, seed: jax.Array, epoch: jax.Array
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
