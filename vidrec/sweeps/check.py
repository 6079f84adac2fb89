"""Builds a configuration and traces one epoch of it: computes nothing and needs no data."""

from functools import partial
from typing import Any

import jax
import numpy as np

from vidrec.config import Config
from vidrec.training import batches, prepare, step
from vidrec.training.batches import Resident

# Clips that stand in for a data set: a whole batch of training, a ragged end in validation.
TRAIN, VAL = 8, 3


def check(cfg: Config) -> int:
    """Traces initialisation, one epoch and scoring of a trial; returns its parameters.

    Raises:
        UserError: the settings do not fit each other.
    """
    plan, numbers, data = stand_in(cfg, TRAIN, VAL, (TRAIN + VAL) * cfg.frames.length)
    state = jax.eval_shape(partial(step.init, plan), numbers, data)
    jax.eval_shape(partial(step.epoch, plan), state, numbers, data)
    clips = jax.ShapeDtypeStruct((1, 2), np.int32)
    jax.eval_shape(partial(step.score, plan), state.best, numbers, clips, data)
    if cfg.eval.inference != "single":
        windows = jax.ShapeDtypeStruct((1, 2, 2), np.int32)
        jax.eval_shape(partial(step.score_windows, plan), state.best, numbers, windows, data)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.trained))


def stand_in(
    cfg: Config, train: int, val: int, frames: int
) -> tuple[step.Plan, dict[str, Any], Resident]:
    """Plan, numbers and data of a trial as shapes: so many clips of each kind, frames in all."""
    made = prepare.abstract(cfg)
    plan = step.Plan(cfg, made.model, cfg.frames.length, train, val)
    numbers = jax.eval_shape(lambda: step.hyper(cfg))

    def integers(count: int) -> Any:
        return jax.ShapeDtypeStruct((count,), np.int32)

    data = Resident(
        values=jax.ShapeDtypeStruct((frames, *made.frame), made.dtype),
        offsets=integers(train + val),
        lengths=integers(train + val),
        labels=integers(train + val),
        train=integers(train),
        val=integers(val),
        frozen=batches.frozen(made),
    )
    return plan, numbers, data
