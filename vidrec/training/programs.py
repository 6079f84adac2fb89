"""Define the functions that run on a device: a trial's first state, batches, scores of clips.

Each function is for one trial; `devices` applies it to a group's trials or to shares of a batch.

Dimension letters: S batches, B clips, T frames, K classes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vidrec.data import keys
from vidrec.models import encoders
from vidrec.training import batches, packed
from vidrec.training.batches import Batch, Clips, Resident
from vidrec.training.step import (
    Scores,
    TrainState,
    TrialSpec,
    Weights,
    eval_step,
    optimizer,
    scored_outputs,
    train_step,
    without,
)

Tree = Any


class TrainBatches(NamedTuple):
    """The batches of an epoch, or of a part of it, as one trial sees them.

    Attributes:
        hyper: the trial's traced numbers.
        epoch: epoch, counted from 0.
        clips_SB, valid_SB: clips of each batch, and False where a place is padding.
        frames: frames of the clips (S, B, T, …) if the device does not hold them; else None.
    """

    hyper: dict
    epoch: Any
    clips_SB: Any
    valid_SB: Any
    frames: Any


class ScoredBatches(NamedTuple):
    """Clips to be scored, the same for all trials.

    Attributes:
        rows: clips (S, B), or windows (S, B, 2) of clips, each given by its clip and first frame.
        frames: frames of the rows (S, B, T, …) if the device does not hold them; else None.
    """

    rows: Any
    frames: Any = None


def initial_state(spec: TrialSpec, hyper: dict, data: Resident) -> TrainState:
    """Return the state of an untrained trial: weights drawn from its seed, or pretrained.

    Parameters are packed for the optimiser if they are many and small. For a user's optimiser they
    are not packed, since it may treat parameters by their names.
    """
    frozen = data.frozen
    example = jnp.zeros((1, spec.length, *data.values.shape[1:]), data.values.dtype)
    key = keys.fold_key(hyper["seed"], keys.INIT)
    variables = spec.model.init(key, example, jnp.ones((1, spec.length), bool))
    drawn = without(variables["params"], frozen.params)
    params = _full_precision(encoders.merge(drawn, frozen.init_params))
    stats = frozen.trained_stats(variables.get("batch_stats", {}))
    stats = _full_precision(encoders.merge(stats, frozen.init_batch_stats))
    packs = packed.is_worth(params) and ".py:" not in spec.cfg.optim.kind
    opt_state = optimizer(spec, hyper).init(packed.pack(params) if packs else params)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state)


def train_batches(
    spec: TrialSpec, state: TrainState, inputs: TrainBatches, data: Resident
) -> tuple[TrainState, dict[str, Any]]:
    """Train on one batch after another.

    Returns:
        The new state, and a dictionary: `sums` has the packed sums of each step (S,), and
        `params_norm` has the norm of the parameters.
    """

    def one_step(state: TrainState, row: tuple) -> tuple[TrainState, packed.Packed]:
        clips_B, valid_B, frames = row
        clips = Clips(clips_B, valid_B, frames)
        batch = _load(spec, data, inputs.hyper, clips, inputs.epoch)
        state, sums = train_step(spec, state, inputs.hyper, data.frozen, batch)
        return state, packed.pack(sums)

    rows = (inputs.clips_SB, inputs.valid_SB, inputs.frames)
    if len(inputs.clips_SB) == 1:  # no loop around the step, not even one with a single round
        state, sums = one_step(state, jax.tree.map(lambda leaf: leaf[0], rows))
        sums = jax.tree.map(lambda leaf: leaf[None], sums)
    else:
        state, sums = lax.scan(one_step, state, rows)
    return state, {"sums": sums, "params_norm": optax.tree.norm(state.params)}


def score_clips(
    spec: TrialSpec, weights: Weights, hyper: dict, inputs: ScoredBatches, data: Resident
) -> Scores:
    """Score each clip whole, or by its centre segment: (S, B, …)."""

    def one_batch(_: None, row: ScoredBatches) -> tuple[None, Scores]:
        clips = Clips(row.rows, jnp.ones(row.rows.shape, bool), row.frames)
        batch = _load(spec, data, hyper, clips, None)
        return None, eval_step(spec, weights, hyper, data.frozen, batch)

    return lax.scan(one_batch, None, inputs)[1]


def score_windows(
    spec: TrialSpec, weights: Weights, hyper: dict, inputs: ScoredBatches, data: Resident
) -> Array:
    """Return the scores (S, B, K) of windows of clips, each window from a zero carry."""
    del hyper

    def one_batch(_: None, row: ScoredBatches) -> tuple[None, Array]:
        batch = batches.gather_windows(data, row.rows, spec.cfg.eval.window, row.frames)
        logits_BTK = scored_outputs(spec, data.frozen.variables(weights), batch)
        return None, spec.task.scores(logits_BTK, spec.cfg.loss.kind, batch.mask_BT).scores_BK

    return lax.scan(one_batch, None, inputs)[1]


def _load(spec: TrialSpec, data: Resident, hyper: dict, clips: Clips, epoch: Array | None) -> Batch:
    """Return the batch of these clips, or this device's share of a training batch."""
    sampling = batches.Sampling(spec.cfg, spec.length, hyper["seed"], epoch, spec.random_segments)
    clips = batches.paired(clips, sampling)
    if spec.axis_name and epoch is not None:
        clips = batches.share(clips, spec.num_shards, lax.axis_index(spec.axis_name))
    return batches.gather(data, clips, sampling)


def _full_precision(tree: Tree) -> Tree:
    """Return the tree in JAX's default precision: float32, or float64 if that is enabled."""
    return jax.tree.map(lambda leaf: leaf.astype(float), tree)
