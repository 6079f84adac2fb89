"""Train the trials of one group on the devices, epoch by epoch, and score clips with them.

Nothing here writes a file. The order of clips, early stopping, divergence and which weights are
best are decided in plain Python between epochs. Compiled programs train batches and score clips,
nothing else.

Dimension letters: N trials, S batches, B clips, K classes, T frames.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from vidrec.config import Config, override, signature
from vidrec.data.augment import flips
from vidrec.evaluation import decisions, tasks, views
from vidrec.models import encoders, model
from vidrec.training import class_weights, devices, feeds, packed, programs
from vidrec.training.order import Order, epoch_order
from vidrec.training.prepare import Prepared, data_id
from vidrec.training.programs import ScoredBatches, TrainBatches
from vidrec.training.step import (
    Scores,
    TrainState,
    TrialSpec,
    Weights,
    hyperparameters,
)
from vidrec.training.stopping import Figures, Progress, Status, after_epoch

Tree = Any
# Compiled programs: for groups that can share them, each program by its name.
Programs = dict[tuple, dict[Any, Callable]]
SUMS = ("loss", "gradient_norm", "updates", "not_finite", "clips")


class Snapshot(NamedTuple):
    """The state of a group between two epochs, or inside one, on the host: the content of a save.

    Attributes:
        state, best: training state and best weights of all trials, (N, …).
        progress: a row for each trial, the fields of its `Progress`, float64 (N, 6).
    """

    state: TrainState
    best: Weights
    progress: np.ndarray


class PartialEpoch(NamedTuple):
    """The trained part of an epoch that is not complete.

    Attributes:
        steps: number of batches that were trained.
        sums: for each name in `SUMS`, one number for each trial and batch, (N, steps).
    """

    steps: int
    sums: dict[str, np.ndarray]


# Called during an epoch. The argument is a function that returns the part trained so far.
Pause = Callable[[Callable[[], PartialEpoch]], None]


class TrialGroup:
    """Trials that compile to one program.

    Args:
        configs: settings of the trials, which share a signature.
        data: the data that all trials train on.
        placement: how the trials use the devices; None: as `train.parallel` says.
        programs: compiled programs of groups; this group uses those that fit, and adds its own.

    Attributes:
        state, best: training state and best weights, on the devices.
        progress: how far each trial has come.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        data: Prepared,
        placement: feeds.Placement | None = None,
        programs: Programs | None = None,
    ):
        self.configs, self.data = list(configs), data
        self.cfg = self.configs[0]
        self.placement = placement or devices.placement(len(self.configs), self.cfg.train.parallel)
        self.spec = self._spec()
        self.state: Any = None
        self.best: Any = None
        self.progress = [Progress() for _ in self.configs]
        self._left_out = np.zeros(len(self.configs), bool)
        self._programs = {} if programs is None else programs.setdefault(self._key(), {})
        self._steps_at_once = 1  # batches that the compiled program trains on

    def _spec(self) -> TrialSpec:
        data, cfg = self.data, self.cfg
        flips.check(cfg, data.classes)
        encoder = data.encoder
        if encoder is not None and feeds.by_step(cfg, data, self.placement):
            encoder = encoders.outside_loops(encoder)
        fitted = override(cfg, {"frames.length": data.length})
        cfg = override(cfg, {"eval.views": views.ONE})  # validation uses one view
        return TrialSpec(
            cfg,
            model.build(fitted, len(data.classes), self.placement.axis_name, encoder),
            data.length,
            len(data.clips("train")),
            self.placement.axis_name,
            self.placement.num_shards,
            uses_dropout=any(each.scanner.dropout for each in self.configs),
            random_segments=bool(data.lengths.max() > data.length),
            smooths_labels=any(each.loss.label_smoothing for each in self.configs),
            class_weights=class_weights.of(
                cfg.loss.class_weights, data.classes, self._train_labels(), tasks.of(cfg)
            ),
        )

    def _key(self) -> tuple:
        """Return what the group's programs depend on: equal for groups that can share them."""
        spec = {
            entry.name: getattr(self.spec, entry.name)
            for entry in fields(TrialSpec)
            if entry.name not in ("cfg", "model")
        }
        split = self.data.split.id
        return signature(self.cfg), data_id(self.cfg), split, self.placement.layout, *spec.values()

    def _train_labels(self) -> np.ndarray:
        """Return the labels of the training clips."""
        return self.data.labels(self.data.clips("train"))

    @property
    def active(self) -> np.ndarray:
        """Return True for trials that still train, (N,)."""
        return np.array([each.active for each in self.progress]) & ~self._left_out

    @property
    def epoch(self) -> int:
        """How many epochs the active trials have completed."""
        return max(each.epoch for each in self.progress)

    # ------------------------------------------------------------------ first state, saves

    def initialize(self) -> None:
        """Place data and settings on the devices, and draw the first weights."""
        seeds = [cfg.seed for cfg in self.configs]
        self.feed = feeds.of(self.spec, self.placement, self.data, seeds)
        numbers = [hyperparameters(cfg) for cfg in self.configs]
        self.hyper = self.placement.shard(jax.tree.map(lambda *leaves: np.stack(leaves), *numbers))
        arguments = (self.hyper, self.feed.shared)
        if "first" not in self._programs:
            first = partial(programs.initial_state, self.spec)
            self._programs["first"] = self.placement.unoptimized(first, *arguments)
        self.state = self._programs["first"](*arguments)
        # A copy: fetched arrays may be views of the state, whose memory the next step reuses.
        weights = jax.tree.map(np.array, self.placement.fetch(self.state.weights))
        self.best = self.placement.shard(weights)

    def snapshot(self) -> Snapshot:
        """Return a copy of everything that training changes, on the host of every process."""
        state, best = packed.unpack(self.placement.fetch((self.state, self.best)))
        progress = np.array([tuple(each) for each in self.progress], np.float64)
        return Snapshot(state, best, progress)

    def restore(self, saved: Snapshot) -> None:
        """Continue from a snapshot, which may come from another number of devices."""
        whole = packed.pack_like((saved.state, saved.best), (self.state, self.best), leading=1)
        self.state, self.best = self.placement.shard(whole)
        self.progress = [_progress(line) for line in saved.progress.tolist()]

    # ------------------------------------------------------------------ training

    def compile(self, done: int = 0) -> None:
        """Compile the program that trains batches of an epoch.

        Args:
            done: batches of the first epoch that were trained before.
        """
        self._steps_at_once = self.feed.steps_at_once(done)
        if self._train_name in self._programs:
            return
        shape = (len(self.configs), self._steps_at_once, self.cfg.train.batch_size)
        clips = np.zeros(shape, np.int32)
        frames = None
        if self.data.streams:
            frame = self.data.values.shape[1:]
            frames = np.zeros((*shape, self.spec.length, *frame), self.feed.dtype)
        inputs = self._inputs(0, clips, np.zeros(shape, bool), frames)
        train = partial(programs.train_batches, self.spec)
        program = self.placement.advance(train, donate=True)
        arguments = (self._active_on_devices(), self.state, inputs, self.feed.shared)
        self._programs[self._train_name] = devices.compiled(program, *arguments)

    @property
    def _train_name(self) -> tuple:
        """Name of the program that trains as many batches at once as this group does."""
        return "train", self._steps_at_once

    def memory_needed(self) -> float:
        """Return the bytes that the compiled epoch and the best weights take on each device."""
        best = sum(leaf.nbytes for leaf in jax.tree.leaves(self.best)) / len(self.placement.devices)
        return devices.memory_needed(self._programs[self._train_name]) + best

    def judge_untrained(self) -> None:
        """Record the untrained models' loss on a batch of clips, to detect divergence later."""
        clips = self.data.clips("val")
        clips = clips if len(clips) else self.data.clips("train")
        count = min(len(clips), self.cfg.eval.batch_size)
        parts: list[Any] = []
        trees, rows = (self.state.weights, self.hyper), self._rows(clips)
        score = programs.score_clips
        for part in self._run_scorer(score, self.spec, trees, rows, which=self.active):
            parts.append(part.losses_B)
            if sum(map(np.size, parts)) >= count * len(self.configs):
                break  # a stream need not read the other clips
        losses = _joined(parts, count).mean(1, dtype=np.float64)
        self.progress = [
            each._replace(untrained_loss=float(loss))
            for each, loss in zip(self.progress, losses, strict=True)
        ]

    def leave_out(self, places: Sequence[int]) -> None:
        """Stop training some trials. Snapshots do not record this."""
        self._left_out[list(places)] = True
        self._rebalance()

    def _rebalance(self) -> None:
        """Assign the trials to the devices again if stopped trials left unequal work."""
        trees = (self.state, self.best, self.hyper)
        self.state, self.best, self.hyper = self.placement.rebalance(self.active, trees)

    def train_epoch(
        self, begun: PartialEpoch | None = None, pause: Pause | None = None
    ) -> list[Figures | None]:
        """Train one epoch, validate, and decide how each trial continues.

        Args:
            begun: the part of this epoch that was trained before a stop.
            pause: called between the calls of the epoch's program, if there are several; its
                argument is a function that returns the part trained so far.

        Returns:
            The figures of each trial; None for a trial that is not active.
        """
        sums = self._train(begun or PartialEpoch(0, {}), pause)
        validated = self.validate(self.state.weights)
        active = self.active
        figures = [
            self._figures({name: leaf[trial] for name, leaf in sums.items()}, validated, trial)
            if active[trial]
            else None
            for trial in range(len(self.configs))
        ]
        self.progress = [
            before if now is None else after_epoch(cfg, before, now)
            for cfg, before, now in zip(self.configs, self.progress, figures, strict=True)
        ]
        self._keep_best(active)
        self._rebalance()
        return figures

    def _train(self, begun: PartialEpoch, pause: Pause | None) -> dict[str, np.ndarray]:
        """Train the epoch's batches; return sums of each (N, S) and the parameters' norm (N,)."""
        epoch, done = self.epoch, begun.steps
        order = self._order(epoch)
        clips = self.data.clips("train")[order.places_SB]
        steps = self._steps_at_once
        parts: list[dict] = []
        for frames in self.feed.training(clips[:, done:], epoch, steps):
            chunk = slice(done, done + steps)
            valid = order.valid_SB[:, chunk]
            inputs = self._inputs(epoch, clips[:, chunk], valid, frames)
            arguments = (self._active_on_devices(), self.state, inputs, self.feed.shared)
            self.state, sums = self._programs[self._train_name](*arguments)
            if parts:  # the next chunk is read while this one trains, but no further ahead
                jax.block_until_ready(parts[-1])
            parts.append(sums)
            done += steps
            if pause and done < self.spec.steps_per_epoch:
                pause(partial(self._begun, begun, done, list(parts)))
        norm = self.placement.fetch(parts[-1]["params_norm"])
        return self._begun(begun, done, parts).sums | {"params_norm": norm}

    def _begun(self, before: PartialEpoch, done: int, parts: list[dict]) -> PartialEpoch:
        """Return the trained part of the epoch: the steps in `before`, then those in `parts`."""
        fetched = packed.unpack(self.placement.fetch([part["sums"] for part in parts]))
        sums = {}
        for name in SUMS:
            earlier = [np.asarray(before.sums[name])] if before.steps else []
            sums[name] = np.concatenate([*earlier, *(part[name] for part in fetched)], 1)
        return PartialEpoch(done, sums)

    def _figures(self, sums: dict, validated: "Validated | None", trial: int) -> Figures:
        totals = {name: float(sums[name].sum(dtype=np.float64)) for name in SUMS}
        norm = float(sums["params_norm"])
        return Figures(
            totals["loss"] / max(totals["clips"], 1),
            totals["gradient_norm"] / max(totals["updates"], 1),
            totals["not_finite"] == 0 and math.isfinite(norm),
            None if validated is None else float(validated.loss_N[trial]),
            {} if validated is None else validated.figures_N[trial],
        )

    def _keep_best(self, active: np.ndarray) -> None:
        """Copy the weights of trials that improved."""
        improved = active & np.array([each.improved for each in self.progress])
        if not improved.any():
            return
        if "best" not in self._programs:
            self._programs["best"] = self.placement.selector()
        chosen = self.placement.shard(improved)
        self.best = self._programs["best"](chosen, self.state.weights, self.best)

    def _order(self, epoch: int) -> Order:
        """Return each trial's batches as indices into the list of training clips, (N, S, B)."""
        labels = self._train_labels()
        by_seed = {cfg.seed: epoch_order(cfg, cfg.seed, epoch, labels) for cfg in self.configs}
        orders = [by_seed[cfg.seed] for cfg in self.configs]
        return Order(*(np.stack(leaves) for leaves in zip(*orders, strict=True)))

    def _inputs(
        self,
        epoch: int,
        clips_NSB: np.ndarray,
        valid_NSB: np.ndarray,
        frames: np.ndarray | None,
    ) -> TrainBatches:
        """Place batches on the devices."""
        epoch_N = np.full(len(self.configs), epoch, np.int32)
        placed = self.placement.shard((epoch_N, clips_NSB, valid_NSB, frames))
        return TrainBatches(self.hyper, *placed)

    def _active_on_devices(self) -> Tree:
        """Place `active` on the devices."""
        return self.placement.shard_active(self.active)

    # ------------------------------------------------------------------ scores

    def validate(
        self, weights: Tree | None = None, which: np.ndarray | None = None
    ) -> "Validated | None":
        """Score validation clips; return None if there are none.

        Args:
            weights: as for `score`.
            which: trials that are scored, as for `score`; figures of other trials have no meaning.
        """
        clips = self.data.clips("val")
        if not len(clips):
            return None
        labels, task = self.data.labels(clips), self.data.task
        scored = self.score(clips, weights, which)
        weight_n = decisions.clip_weights(
            self.cfg, self.data.lengths[clips], scored.correct_BT.shape[-1]
        )
        figures_N = [
            task.epoch(
                decisions.decide_clips(scores, weight_n, task.log_probabilities),
                labels,
                self.data.classes,
            )
            for scores in scored.scores_BK
        ]
        return Validated(scored.losses_B.mean(1, dtype=np.float64), figures_N)

    def score(
        self,
        clips: np.ndarray,
        weights: Tree | None = None,
        which: np.ndarray | None = None,
        cfg: Config | None = None,
    ) -> Scores:
        """Score clips with each trial's weights.

        Args:
            clips: indices of the clips.
            weights: weights on the devices; None: the best weights.
            which: trials that are scored (N,), the others give zeros; None: the active trials, or
                all trials if `weights` is None.
            cfg: settings with the views of the frames to score; None: one view.

        Returns:
            Host arrays (N, n, …), with a row for each clip.
        """
        if weights is None:
            weights, which = self.best, self._all if which is None else which
        which = self.active if which is None else which
        spec = replace(self.spec, cfg=cfg) if cfg else self.spec
        trees, rows = (weights, self.hyper), self._rows(clips)
        scored = self._run_scorer(programs.score_clips, spec, trees, rows, which=which)
        parts = list(scored)
        return jax.tree.map(lambda *leaves: _joined(leaves, len(clips)), *parts)

    def score_windows(self, windows: np.ndarray, cfg: Config) -> np.ndarray:
        """Score windows (n, 2) of clips with the best weights: (N, n, K) log-probabilities."""
        rows = self._rows(windows)
        spec, trees = self.spec_of(cfg), (self.best, self.hyper)
        scored = self._run_scorer(programs.score_windows, spec, trees, rows, which=self._all)
        parts = list(scored)
        return _joined(parts, len(windows))

    def spec_of(self, cfg: Config) -> TrialSpec:
        """Return the group's spec with the settings of one trial, which may be scored otherwise."""
        return TrialSpec(cfg, self.spec.model, self.spec.length, self.spec.train_clips)

    @property
    def _all(self) -> np.ndarray:
        return np.ones(len(self.configs), bool)

    def _run_scorer(
        self,
        score: Callable,
        spec: TrialSpec,
        trees: tuple,
        rows: np.ndarray,
        *,
        which: np.ndarray,
    ) -> Iterator[Tree]:
        """Yield host arrays (N, S, B, …), block by block; zeros for trials not in `which`."""
        window = spec.cfg.eval.window
        program = (score, window, spec.cfg.eval.views)
        if program not in self._programs:
            self._programs[program] = self.placement.scorer(partial(score, spec))
        active = self.placement.shard_active(which)
        at_once = self.feed.rows_at_once(self._block)
        for part, frames in enumerate(self.feed.scoring(rows, at_once, window)):
            inputs = ScoredBatches(rows[part * at_once :][:at_once], frames)
            out = self._programs[program](active, trees, inputs, self.feed.shared)
            yield self.placement.fetch(out)

    def _rows(self, clips: np.ndarray) -> np.ndarray:
        """Arrange clips as batches, (S, B) or (S, B, 2); some clips are repeated to fill the last.

        All scoring has batches of one size, that of the validation clips, so that one program
        serves validation and the final scores.
        """
        size = self._score_batch
        count = -(-len(clips) // size)
        count = -(-count // self._block) * self._block
        return np.resize(clips, (count * size, *clips.shape[1:])).reshape(
            count, size, *clips.shape[1:]
        )

    @property
    def _score_batch(self) -> int:
        """Number of clips in a scored batch; validation clips fill few batches of one size."""
        clips = len(self.data.clips("val")) or len(self.data.readable)
        return score_batch_size(clips, self.cfg.eval.batch_size, self.placement.num_shards)

    @property
    def _block(self) -> int:
        """Largest number of batches that a scoring program takes: as many as validation has."""
        batches = -(-len(self.data.clips("val")) // self._score_batch)
        return self.placement.rows(max(batches, 1))


class Validated(NamedTuple):
    """Losses of trials on the validation clips, and the task's figures by their names."""

    loss_N: np.ndarray
    figures_N: list[dict[str, float]]


def score_batch_size(clips: int, most: int, shards: int = 1) -> int:
    """Return the size of batches that hold `clips` clips: few batches, all of one size.

    Args:
        clips: number of clips.
        most: largest number of clips in a batch.
        shards: number of devices that share the batches.
    """
    count = shards * -(-clips // (most * shards))
    return -(-clips // max(count, 1)) or 1


def _progress(line: Sequence[float]) -> Progress:
    epoch, score, best_epoch, wait, status, loss = line
    return Progress(int(epoch), score, int(best_epoch), int(wait), Status(int(status)), loss)


def _joined(parts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Join (N, S, B, …) arrays to one (N, count, …)."""
    whole = np.concatenate(parts, 1)
    trials, batches, size = whole.shape[:3]
    return whole.reshape(trials, batches * size, *whole.shape[3:])[:, :count]
