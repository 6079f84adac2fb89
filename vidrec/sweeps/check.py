"""Check a configuration by tracing one epoch, without computing anything or reading data."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from vidrec.config import Config
from vidrec.evaluation import tasks
from vidrec.training import prepare, programs, step
from vidrec.training.batches import Resident
from vidrec.training.programs import ScoredBatches, TrainBatches
from vidrec.training.step import TrialSpec

# Numbers of training and validation clips that stand in for a data set.
TRAIN, VAL = 8, 3


class StandIn(NamedTuple):
    """A trial that is described by array shapes and types alone.

    Attributes:
        spec: the settings and the model, which are fixed before compiling.
        hyper: the hyperparameters by name.
        data: the clips.
        inputs: the training batches of an epoch.
        scored: the batches of validation clips.
    """

    spec: TrialSpec
    hyper: dict[str, Any]
    data: Resident
    inputs: TrainBatches
    scored: ScoredBatches

    def state(self) -> Any:
        """Return the shapes and types of the initial training state."""
        return jax.eval_shape(partial(programs.initial_state, self.spec), self.hyper, self.data)


def check(cfg: Config) -> int:
    """Trace initialisation, one epoch and scoring of a trial; return its number of parameters.

    Raises:
        UserError: the settings contradict each other.
    """
    tasks.of(cfg).check(cfg)
    trial = stand_in(cfg, TRAIN, VAL, (TRAIN + VAL) * cfg.frames.length)
    state, spec = trial.state(), trial.spec
    jax.eval_shape(partial(programs.train_batches, spec), state, trial.inputs, trial.data)
    arguments = (state.weights, trial.hyper, trial.scored, trial.data)
    jax.eval_shape(partial(programs.score_clips, spec), *arguments)
    if cfg.eval.inference != "single":
        windows = ScoredBatches(_integers(1, VAL, 2))
        arguments = (state.weights, trial.hyper, windows, trial.data)
        jax.eval_shape(partial(programs.score_windows, spec), *arguments)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))


def stand_in(cfg: Config, train: int, val: int, frames: int) -> StandIn:
    """Return the shapes of a trial on these numbers of training clips, validation clips, frames."""
    made = prepare.abstract(cfg)
    spec = TrialSpec(cfg, made.model, cfg.frames.length, train)
    hyper = jax.eval_shape(lambda: step.hyperparameters(cfg))
    data = Resident(
        values=jax.ShapeDtypeStruct((frames, *made.frame), made.dtype),
        offsets=_integers(train + val),
        lengths=_integers(train + val),
        labels=_integers(*tasks.of(cfg).label_shape(train + val, frames, made.classes)),
        frozen=made.frozen,
    )
    steps, size = spec.steps_per_epoch, cfg.train.batch_size
    valid = jax.ShapeDtypeStruct((steps, size), bool)
    inputs = TrainBatches(hyper, _integers(), _integers(steps, size), valid, None)
    return StandIn(spec, hyper, data, inputs, ScoredBatches(_integers(1, max(val, 1))))


def _integers(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, np.int32)
