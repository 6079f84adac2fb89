"""Decide about a trial between two epochs: best weights, early stopping, divergence."""

import math
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from vidrec.config import Config
from vidrec.evaluation import tasks

# A trial diverges if an epoch's loss exceeds this multiple of the untrained model's.
DIVERGED_LOSS = 10.0


class Status(IntEnum):
    """The status of a trial."""

    RUNNING = 0
    FINISHED = 1
    STOPPED = 2
    TARGET = 3
    DIVERGED = 4

    @property
    def word(self) -> str:
        """The status as result.json names it."""
        return {Status.RUNNING: "running", Status.DIVERGED: "diverged"}.get(self, "done")

    @property
    def reason(self) -> str:
        """Why the trial ended, for result.json."""
        return REASONS[self]


REASONS = {
    Status.RUNNING: "",
    Status.FINISHED: "all epochs trained",
    Status.STOPPED: "no improvement within train.patience epochs",
    Status.TARGET: "train.target reached",
    Status.DIVERGED: "loss, gradient or parameters are not finite, or the loss is ten times the "
    "untrained model's",
}


class Figures(NamedTuple):
    """The figures of an epoch.

    Attributes:
        train_loss: mean loss of the epoch's clips.
        gradient_norm: mean gradient norm of the epoch's updates.
        finite: False if a loss, a gradient or a parameter is not finite.
        val_loss: mean loss of the validation clips; None if there are none.
        val: the task's figures of the validation clips, by name.
    """

    train_loss: float
    gradient_norm: float
    finite: bool
    val_loss: float | None = None
    val: Mapping[str, float] = MappingProxyType({})


class Progress(NamedTuple):
    """How far a trial has come.

    Attributes:
        epoch: epochs trained.
        best_score: the monitored figure of the best epoch; lower is better.
        best_epoch: the epoch whose weights are kept, counted from 1; 0: the untrained weights.
        untrained_loss: mean loss of the untrained model, by which divergence is judged.
    """

    epoch: int = 0
    best_score: float = math.inf
    best_epoch: int = 0
    epochs_without_improvement: int = 0
    status: Status = Status.RUNNING
    untrained_loss: float = math.inf

    @property
    def active(self) -> bool:
        """True while the trial trains."""
        return self.status == Status.RUNNING

    @property
    def improved(self) -> bool:
        """True if the last epoch's weights are the best so far."""
        return self.epoch > 0 and self.best_epoch == self.epoch


def after_epoch(cfg: Config, before: Progress, figures: Figures) -> Progress:
    """Return the progress after one more epoch.

    Improvement is as Keras defines it: better than the best so far by more than `train.min_delta`.
    A figure that is not a number is not an improvement. Without validation clips every epoch counts
    as better than the one before.
    """
    epoch, train = before.epoch + 1, cfg.train
    loss, headline = figures.train_loss, figures.val.get(tasks.of(cfg).headline.figure)
    diverged = not (figures.finite and loss <= DIVERGED_LOSS * before.untrained_loss)
    diverged |= not math.isfinite(loss)
    score = monitored(cfg, figures, epoch)
    improved = not diverged and score < before.best_score - train.min_delta
    wait = 0 if improved else before.epochs_without_improvement + 1
    if diverged:
        status = Status.DIVERGED
    elif train.target and headline is not None and headline >= train.target:
        status = Status.TARGET
    elif train.patience and wait >= train.patience:
        status = Status.STOPPED
    elif epoch >= train.epochs:
        status = Status.FINISHED
    else:
        status = Status.RUNNING
    best = (score, epoch) if improved else (before.best_score, before.best_epoch)
    return Progress(epoch, *best, wait, status, before.untrained_loss)


def monitored(cfg: Config, figures: Figures, epoch: int) -> float:
    """Return the figure that decides which weights are best; lower is better."""
    if figures.val_loss is None:
        return -float(epoch)
    name = cfg.train.monitor.removeprefix("val_")
    return figures.val_loss if name == "loss" else -figures.val[name]
