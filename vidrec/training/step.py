"""Compute one training step and one evaluation step of one trial, as pure functions.

Nothing here knows files or other trials. Devices appear only as the axis over which sums are added
up. Trials of a group share a static `TrialSpec`, and the data on the device. Numbers that may
differ between trials are traced values in `hyper`, by the names of their settings.

Dimension letters: B clips, T frames, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vidrec.config import TRACED, Config, digest, get, identifying_settings
from vidrec.data.augment import mixing
from vidrec.evaluation import tasks, views
from vidrec.evaluation.task import LossOptions, Task
from vidrec.models import encoders
from vidrec.models.cells import floats
from vidrec.training import optim, packed
from vidrec.training.batches import Batch
from vidrec.training.order import steps_per_epoch

Tree = Any


@dataclass(frozen=True)
class TrialSpec:
    """What is fixed before compiling, shared by the trials of a group.

    Attributes:
        cfg: settings of one trial of the group; those that may differ are read from `hyper`.
        model: encoder, scanner and head.
        length: frames of a clip that enter the model.
        train_clips: how many clips the training split holds.
        axis_name: name of the axis of devices if a batch is spread over devices; else None.
        num_shards: number of devices over which a batch is spread.
        uses_dropout: False if no trial of the group uses dropout, so that no mask is drawn.
        random_segments: False if no clip is longer than `length`, so that no segment is drawn.
        smooths_labels: False if no trial of the group smooths labels.
        class_weights: factors of clips' losses by class; empty: 1.
    """

    cfg: Config
    model: nn.Module
    length: int
    train_clips: int
    axis_name: str | None = None
    num_shards: int = 1
    uses_dropout: bool = True
    random_segments: bool = True
    smooths_labels: bool = False
    class_weights: tuple[float, ...] = ()

    @property
    def task(self) -> Task:
        """The task, which says what a label means."""
        return tasks.of(self.cfg)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        train = self.cfg.train
        return steps_per_epoch(self.train_clips, train.batch_size, train.batches_per_epoch)

    @property
    def updates_per_epoch(self) -> int:
        """Parameter updates of an epoch: one for each batch, or one for each window of it."""
        every = self.cfg.train.tbptt_every or self.length
        return self.steps_per_epoch * -(-self.length // every)


class Weights(NamedTuple):
    """The trained part of a trial: trained parameters and running statistics."""

    params: Tree
    batch_stats: Tree


class TrainState(NamedTuple):
    """Everything that changes on the device while a trial trains.

    Attributes:
        step: updates made so far.
        opt_state: state of the optimiser, which may be packed.
    """

    step: Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree

    @property
    def weights(self) -> Weights:
        """The part of the state that evaluation needs."""
        return Weights(self.params, self.batch_stats)


class Frozen(NamedTuple):
    """Variables that no trial of a group trains; one copy serves all of them.

    Attributes:
        params: parameters that stay as they are, a part of the model's tree.
        collections: other variables of the model, such as pixel statistics; under `batch_stats`
            the running statistics of encoder blocks that stay as they are.
        init_params: pretrained values from which trained parameters start.
        init_batch_stats: pretrained values from which running statistics start.
    """

    params: Tree
    collections: Tree
    init_params: Tree
    init_batch_stats: Tree

    def variables(self, weights: Weights) -> Tree:
        """Return the model's variables with a trial's weights in their places."""
        kept = self.collections
        return kept | {
            "params": encoders.merge(self.params, weights.params),
            "batch_stats": encoders.merge(kept.get("batch_stats", {}), weights.batch_stats),
        }

    def trained_stats(self, batch_stats: Tree) -> Tree:
        """Return running statistics without those of frozen encoder blocks."""
        return without(batch_stats, self.collections.get("batch_stats", {}))


class Window(NamedTuple):
    """The frames of a batch that one update sees.

    Attributes:
        carry: the recurrent state before the first frame; None: zeros.
        offset: index of the first frame within the clip.
        scored_BT: True for frames whose losses count.
    """

    batch: Batch
    carry: Tree
    offset: Array | int
    scored_BT: Array


class Gradients(NamedTuple):
    """The results of a backward pass over a window.

    Attributes:
        loss: summed over the window's clips.
        params: gradient of that sum.
        carry: the recurrent state after the window.
        batch_stats: running statistics after the window.
    """

    loss: Array
    params: Tree
    carry: Tree
    batch_stats: Tree


class Scores(NamedTuple):
    """A model's outputs for a batch of clips, or on the host for many clips.

    Attributes:
        scores_BK: class scores of each clip.
        losses_B: each clip's loss, as training minimises it.
        correct_BT: which frames are classified right; (B, 0) for a head with one answer a clip.
    """

    scores_BK: Any
    losses_B: Any
    correct_BT: Any


def train_step(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """Train on one batch: one update, or one for each window of truncated back-propagation.

    Returns:
        The new state, and sums over the batch: `loss`, `clips`, `updates`, the `gradient_norm` of
        the updates, and how many of the updates were `not_finite`.
    """
    if spec.cfg.train.tbptt_every:
        state, sums = _update_by_windows(spec, state, hyper, frozen, batch)
    else:
        whole = Window(batch, None, 0, batch.mask_BT)
        state, sums, _ = update(spec, state, hyper, frozen, whole)
    # A clip counts once, however many windows it has.
    return state, sums | {"clips": _total(spec, batch.valid_B)}


def update(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, window: Window
) -> tuple[TrainState, dict[str, Array], Tree]:
    """Make one parameter update.

    Returns:
        The new state, the update's sums, and the recurrent state after the window.
    """
    compute = accumulated_gradients if spec.cfg.train.grad_accum > 1 else gradients
    found = compute(spec, state, hyper, frozen, window)
    # Sums are added over devices before anything is divided: a mean of device means is wrong where
    # their shares of the batch are unequal.
    loss, gradient = _total(spec, found.loss), _psum(spec, found.params)
    clips = jnp.maximum(_total(spec, window.batch.valid_B), 1)

    params, opt_state, norm = _applied(spec, hyper, state, gradient, clips)
    sums = {
        "loss": loss,
        "gradient_norm": norm,
        "updates": jnp.ones(()),
        "not_finite": 1.0 - (jnp.isfinite(loss) & jnp.isfinite(norm)),
    }
    return TrainState(state.step + 1, params, found.batch_stats, opt_state), sums, found.carry


def _applied(
    spec: TrialSpec, hyper: dict, state: TrainState, gradient: Tree, clips: Array
) -> tuple[Tree, Tree, Array]:
    """Return parameters and the optimiser's state after a gradient, and the gradient's norm.

    Args:
        spec: spec of the trial.
        hyper: traced numbers of the trial.
        state: state before the update.
        gradient: gradient of the loss that is summed over clips.
        clips: number of clips.
    """
    params = state.params
    if packed.holds_packed(state.opt_state):
        gradient, params = packed.pack(gradient), packed.pack(params)
    gradient = jax.tree.map(lambda g: g / clips.astype(g.dtype), gradient)
    norm = optax.tree.norm(gradient)
    changes, opt_state = optimizer(spec, hyper).update(gradient, state.opt_state, params)
    return optax.apply_updates(state.params, packed.unpack(changes)), opt_state, norm


def gradients(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, window: Window
) -> Gradients:
    """Return the summed loss of a window's clips, its gradient, and what the window changed."""
    loss_fn = summed_loss(spec, state, hyper, frozen, window)
    (loss, (carry, stats)), params = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return Gradients(loss, params, carry, stats)


def summed_loss(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, window: Window
) -> Callable[[Tree], tuple[Array, tuple[Tree, Tree]]]:
    """Return params -> (sum of the valid clips' losses, (recurrent state, batch_stats))."""
    cfg, batch = spec.cfg, window.batch
    bound = hyper["optim.clip_norm"] if cfg.optim.clip_mode == "preactivation" else None

    def loss_fn(params: Tree) -> tuple[Array, tuple[Tree, Tree]]:
        outputs, changed = spec.model.apply(
            frozen.variables(Weights(params, state.batch_stats)),
            batch.inputs,
            batch.mask_BT,
            carry=window.carry,
            train=True,
            dropout=hyper["scanner.dropout"] if spec.uses_dropout else 0.0,
            keys_B=batch.keys_B,
            grad_clip=bound,
            mutable=["batch_stats"],
        )
        logits, carry, _ = outputs
        how = _loss_options(spec, hyper)._replace(offset=window.offset)
        losses_B = mixing.loss(
            lambda labels: spec.task.loss(logits, labels, window.scored_BT, how),
            batch.labels_B,
            batch.mix,
        )
        total = jnp.where(batch.valid_B, losses_B, 0.0).sum()
        return total, (carry, frozen.trained_stats(changed.get("batch_stats", {})))

    return loss_fn


def eval_step(
    spec: TrialSpec, weights: Weights, hyper: dict, frozen: Frozen, batch: Batch
) -> Scores:
    """Score one batch: no dropout, and batch norm by running statistics."""
    task, variables = spec.task, frozen.variables(weights)
    logits = scored_outputs(spec, variables, batch)
    losses_B = task.loss(logits, batch.labels_B, batch.mask_BT, _loss_options(spec, hyper))
    scores_BK = task.scores(logits, spec.cfg.loss.kind, batch.mask_BT).scores_BK
    if logits.ndim == 2:
        return Scores(scores_BK, losses_B, jnp.zeros((len(losses_B), 0), bool))
    correct_BT = task.correct_frames(logits, batch.labels_B, batch.mask_BT)
    return Scores(scores_BK, losses_B, correct_BT)


def scored_outputs(spec: TrialSpec, variables: Tree, batch: Batch) -> Array:
    """Return a head's outputs of clips, averaged over the views that `eval.views` names."""

    def apply(inputs: Array) -> Array:
        return spec.model.apply(variables, inputs, batch.mask_BT)[0]

    cfg = spec.cfg
    return views.outputs(apply, batch.inputs, cfg.eval.views, spec.task, cfg.loss.kind)


def _loss_options(spec: TrialSpec, hyper: dict) -> LossOptions:
    """Return what the loss depends on besides outputs and labels, for whole clips."""
    return LossOptions(
        spec.cfg.loss.kind,
        linear=hyper["loss.frame_weights"],
        length=spec.length,
        smoothing=hyper["loss.label_smoothing"] if spec.smooths_labels else None,
        class_weights=spec.class_weights,
        smoothness=spec.cfg.loss.smoothness,
        smoothness_limit=spec.cfg.loss.smoothness_limit,
    )


def accumulated_gradients(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, window: Window
) -> Gradients:
    """Return what `gradients` returns, computed from one part of the batch after another.

    Only one part's activations are kept at a time. Sums are added up, not averaged, so unequal
    parts give the whole batch's gradient. Batch normalisation takes each part's own statistics.
    """
    parts, size = spec.cfg.train.grad_accum, len(window.batch.valid_B)
    part_size = -(-size // parts)

    def cut(leaf: Array) -> Array:
        padded = jnp.pad(leaf, [(0, parts * part_size - size)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(parts, part_size, *leaf.shape[1:])

    def add_part(sums: Gradients, part: tuple) -> tuple[Gradients, Tree]:
        batch, carry, scored_BT = part
        more = gradients(
            spec,
            state._replace(batch_stats=sums.batch_stats),
            hyper,
            frozen,
            Window(batch, carry, window.offset, scored_BT),
        )
        added = jax.tree.map(jnp.add, sums.params, more.params)
        return Gradients(sums.loss + more.loss, added, None, more.batch_stats), more.carry

    # Keys cannot be padded with zeros; padded clips do not count, so any key can be used.
    keys = jnp.resize(window.batch.keys_B, (parts * part_size,)).reshape(parts, part_size)
    own = {n: leaf for n, leaf in window.batch._asdict().items() if n != "keys_B"}
    batches = Batch(**jax.tree.map(cut, own), keys_B=keys)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    sums, carries = lax.scan(
        add_part,
        Gradients(jnp.zeros(()), zeros, None, state.batch_stats),
        (batches, jax.tree.map(cut, window.carry), cut(window.scored_BT)),
    )
    carry = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], carries)
    return sums._replace(carry=carry)


def _update_by_windows(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """Make an update every `tbptt_every` frames, each gradient reaching back `tbptt_length`.

    A window begins `tbptt_length - tbptt_every` frames before those it scores, so the clip is
    padded by this number on the left. Masked frames do not change the recurrent state.
    """
    every = spec.cfg.train.tbptt_every
    reach = spec.cfg.train.tbptt_length or every
    count, pad_left = -(-spec.length // every), reach - every
    pad_right = count * every - spec.length

    def pad(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, 0), (pad_left, pad_right)] + [(0, 0)] * (leaf.ndim - 2))

    padded = batch._replace(inputs=pad(batch.inputs), mask_BT=pad(batch.mask_BT))
    if spec.task.framewise:
        padded = padded._replace(labels_B=pad(batch.labels_B))

    def one_window(carried: tuple, index: Array) -> tuple[tuple, dict]:
        state, carry = carried
        window = _window(spec, padded, index)._replace(carry=carry)
        updated, sums, next_carry = update(spec, state, hyper, frozen, window)
        if pad_left:
            next_carry = _carry_after(spec, state, hyper, frozen, _first_frames(window, every))
        # A window that no clip of the batch reaches makes no update.
        reached = _total(spec, window.scored_BT) > 0
        state = jax.tree.map(lambda new, old: jnp.where(reached, new, old), updated, state)
        sums = jax.tree.map(lambda leaf: jnp.where(reached, leaf, jnp.zeros_like(leaf)), sums)
        return (state, lax.stop_gradient(next_carry)), sums

    first = _window(spec, padded, 0)
    carry = jax.eval_shape(lambda: _carry_after(spec, state, hyper, frozen, first))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)
    (state, _), sums = lax.scan(one_window, (state, zeros), jnp.arange(count))
    return state, jax.tree.map(lambda leaf: leaf.sum(0), sums)


def _window(spec: TrialSpec, padded: Batch, index: Array | int) -> Window:
    """Cut window `index` from a batch that was padded on the left by its reach."""
    every = spec.cfg.train.tbptt_every
    reach = spec.cfg.train.tbptt_length or every

    def cut(leaf: Array) -> Array:
        return lax.dynamic_slice_in_dim(leaf, index * every, reach, 1)

    # Dropout is drawn again in each window.
    keys_B = jax.vmap(lambda key: jax.random.fold_in(key, index))(padded.keys_B)
    batch = padded._replace(inputs=cut(padded.inputs), mask_BT=cut(padded.mask_BT), keys_B=keys_B)
    if spec.task.framewise:
        batch = batch._replace(labels_B=cut(padded.labels_B))
    counted_T = jnp.arange(reach) >= reach - every
    offset = index * every - (reach - every)
    return Window(batch, None, offset, batch.mask_BT & counted_T[None])


def _first_frames(window: Window, count: int) -> Window:
    """Return the window with all but its first `count` frames masked.

    Masked frames do not change the recurrent state. So the state after this window is the one after
    `count` frames, where the next window begins.
    """
    mask_BT = window.batch.mask_BT
    mask_BT = mask_BT & (jnp.arange(mask_BT.shape[1]) < count)[None]
    return window._replace(batch=window.batch._replace(mask_BT=mask_BT), scored_BT=mask_BT)


def _carry_after(
    spec: TrialSpec, state: TrainState, hyper: dict, frozen: Frozen, window: Window
) -> Tree:
    """Return the recurrent state after a window."""
    _, (carry, _) = summed_loss(spec, state, hyper, frozen, window)(state.params)
    return carry


def hyperparameters(cfg: Config) -> dict[str, Any]:
    """Return the traced numbers of a trial, by the names of their settings."""
    numbers = {name: get(cfg, name) for name in TRACED}
    numbers["loss.frame_weights"] = float(cfg.loss.frame_weights == "linear")
    kinds = {"seed": jnp.uint32}  # a seed may have all 32 bits
    return {
        name: jnp.asarray(value, kinds.get(name, jnp.int32 if isinstance(value, int) else float))
        for name, value in numbers.items()
    }


def training_id(cfg: Config) -> str:
    """Return an id that is equal for trials that differ only in scoring; these train once."""
    settings = identifying_settings(cfg)
    return digest({name: value for name, value in settings.items() if not name.startswith("eval.")})


def optimizer(spec: TrialSpec, hyper: dict) -> optax.GradientTransformation:
    """Return the trial's optax chain."""
    epochs = hyper["train.epochs"]
    return optim.build(spec.cfg.optim, hyper, spec.updates_per_epoch, epochs)


def without(tree: Tree, part: Tree) -> Tree:
    """Return a nested dictionary without the leaves that are also in `part`."""
    kept = {}
    for name, value in tree.items():
        if name not in part:
            kept[name] = value
        elif isinstance(value, dict) and (rest := without(value, part[name])):
            kept[name] = rest
    return kept


def _psum(spec: TrialSpec, tree: Tree) -> Tree:
    return lax.psum(tree, spec.axis_name) if spec.axis_name else tree


def _total(spec: TrialSpec, values: Array) -> Array:
    """Sum over all clips of the batch, those on other devices included."""
    return _psum(spec, floats(values.sum()))
