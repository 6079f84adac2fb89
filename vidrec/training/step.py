"""One trial's training and scoring as pure functions: no devices, no files, no other trials.

What every trial of a group shares is in a `Plan` (static) and in `Resident` data; what differs is a
dictionary `hyper` of traced numbers, named as in the configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from vidrec.config import TRACED, Config, digest, get, identifying_settings
from vidrec.data import keys
from vidrec.evaluation import decisions
from vidrec.models import encoders, losses
from vidrec.models.cells import floats
from vidrec.training import batches, optim
from vidrec.training.batches import Batch, Resident

Tree = Any
RUNNING, FINISHED, STOPPED, TARGET, DIVERGED = range(5)
SUMS = ("loss", "gradient_norm", "updates", "not_finite", "clips")
STATUS = ("running", "done", "done", "done", "diverged")
WHY = (
    "",
    "all epochs trained",
    "no improvement within train.patience epochs",
    "train.target reached",
    "loss, gradient or parameters are not finite, or the loss is ten times the untrained model's",
)


@dataclass(frozen=True)
class Plan:
    """What is fixed before compiling.

    Attributes:
        length: frames of a clip that enter the model.
        train_clips, val_clips: how many clips the splits hold.
        axis_name: the devices' axis where a batch is spread over devices.
        shares: how many devices that are.
        drops: False where no trial of the group drops anything, so that nothing is drawn for it.
        cuts: False where no clip is longer than `length`, so that no segment is drawn.
    """

    cfg: Config
    model: nn.Module
    length: int
    train_clips: int
    val_clips: int
    axis_name: str | None = None
    shares: int = 1
    drops: bool = True
    cuts: bool = True

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        train = self.cfg.train
        return batches.steps_per_epoch(self.train_clips, train.batch_size, train.batches_per_epoch)

    @property
    def updates(self) -> int:
        """Parameter updates an epoch: one a batch, or one a window of it."""
        every = self.cfg.train.tbptt_every or self.length
        return self.steps * -(-self.length // every)


class Best(NamedTuple):
    """The weights that validation liked most, and when."""

    trained: Tree
    stats: Tree
    score: jax.Array
    epoch: jax.Array


class TrainState(NamedTuple):
    """Everything that changes while a trial trains."""

    trained: Tree
    stats: Tree
    opt_state: Tree
    best: Best
    epoch: jax.Array
    wait: jax.Array
    alive: jax.Array
    status: jax.Array
    untrained_loss: jax.Array


def hyper(cfg: Config) -> dict[str, Any]:
    """The traced numbers of a trial, by dotted name."""
    numbers = {name: get(cfg, name) for name in TRACED}
    numbers["loss.frame_weights"] = float(cfg.loss.frame_weights == "linear")
    kinds = {"seed": jnp.uint32}  # all 32 bits: a sign would make two seeds one
    return {
        name: jnp.asarray(value, kinds.get(name, jnp.int32 if isinstance(value, int) else float))
        for name, value in numbers.items()
    }


def training_id(cfg: Config) -> str:
    """Equal for trials that differ in scoring only: they are trained once."""
    settings = identifying_settings(cfg)
    return digest({name: each for name, each in settings.items() if not name.startswith("eval.")})


def init(plan: Plan, numbers: dict, data: Resident, inputs: jax.Array | None = None) -> TrainState:
    """An untrained trial, and the loss it has on its first batch.

    Here and below, `inputs` are frames (B, T, H, W, C) of clips that `data` does not hold.
    """
    seed = numbers["seed"]
    example = jnp.zeros((1, plan.length, *data.values.shape[1:]), data.values.dtype)
    variables = plan.model.init(
        keys.fold_key(seed, keys.INIT), example, jnp.ones((1, plan.length), bool)
    )
    fixed = data.frozen.get("fixed", {})
    start = data.frozen.get("start", {})
    trained = _full(encoders.merge(_without(variables["params"], fixed), start))
    stats = _trained_stats(data.frozen, variables.get("batch_stats", {}))
    stats = _full(encoders.merge(stats, data.frozen.get("start_stats", {})))
    opt_state = _optimiser(plan, numbers).init(trained)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        trained=trained,
        stats=stats,
        opt_state=opt_state,
        best=Best(trained, stats, jnp.array(jnp.inf), zero),
        epoch=zero,
        wait=zero,
        alive=jnp.array(True),
        status=jnp.array(RUNNING, jnp.int32),
        untrained_loss=jnp.array(jnp.inf),
    )
    clips_SB, valid_SB = _order(plan, seed, zero)
    batch = _gather(plan, data, data.train[clips_SB[0]], valid_SB[0], numbers, None, inputs)
    _, losses_B, _ = score_batch(plan, state, numbers, data.frozen, batch)
    mean = _total(plan, losses_B * batch.valid_B) / _total(plan, batch.valid_B)
    return state._replace(untrained_loss=mean)


def _trained_stats(frozen: Tree, stats: Tree) -> Tree:
    """Running statistics less those of an encoder's blocks that stay as they are."""
    return _without(stats, frozen.get("constants", {}).get("batch_stats", {}))


def _full(tree: Tree) -> Tree:
    """In JAX's own precision: float32, or float64 throughout where that is enabled."""
    return jax.tree.map(lambda leaf: leaf.astype(float), tree)


def _without(params: Tree, fixed: Tree) -> Tree:
    """`params` less what is frozen."""
    kept = {}
    for name, value in params.items():
        if name not in fixed:
            kept[name] = value
        elif isinstance(value, dict) and (rest := _without(value, fixed[name])):
            kept[name] = rest
    return kept


def epoch(
    plan: Plan, state: TrainState, numbers: dict, data: Resident
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Trains one epoch, validates, and decides whether to go on."""
    state, sums = _train(plan, state, numbers, data, _order(plan, numbers["seed"], state.epoch))
    found = _validate(plan, state, numbers, data, validation(plan))
    return conclude(plan, state, (numbers, sums, found), data)


def train_chunk(
    plan: Plan, size: int, state: TrainState, given: tuple, data: Resident
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`size` steps of an epoch, and its sums (S,) with theirs filled in.

    Args:
        given: (numbers, place of the first step, inputs (size, B, …) or None, sums).
    """
    numbers, first, inputs, sums = given
    order = _order(plan, numbers["seed"], state.epoch)
    part = [lax.dynamic_slice_in_dim(each, first, size) for each in order]
    state, found = _train(plan, state, numbers, data, part, inputs)

    def fill(whole: jax.Array, part: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), first, 0)

    return state, jax.tree.map(fill, sums, found)


def nothing_trained(plan: Plan) -> dict[str, jax.Array]:
    """The sums (S,) of an epoch before its first step."""
    return {name: jnp.zeros(plan.steps) for name in SUMS}


def validate_chunk(plan: Plan, state: TrainState, given: tuple, data: Resident) -> tuple:
    """Some batches of validation: `given` is (numbers, places (S, B), inputs, sums before)."""
    numbers, places_SB, inputs, sums = given
    return _validate(plan, state, numbers, data, places_SB, inputs, sums)


def conclude(
    plan: Plan, state: TrainState, given: tuple, data: Resident
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Ends an epoch: `given` is (numbers, the steps' sums (S,), those of validation)."""
    numbers, sums, found = given
    record = summarise(jax.tree.map(lambda each: each.sum(0), sums))
    record |= _validated(plan, found)
    return decide(plan, state, numbers, record), record


def _train(
    plan: Plan,
    state: TrainState,
    numbers: dict,
    data: Resident,
    order_SB: Sequence[jax.Array],
    inputs: jax.Array | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Batch after batch; the steps' sums, (S,)."""

    def step(state: TrainState, given: tuple) -> tuple[TrainState, dict]:
        (clips_B, valid_B), inputs = given
        batch = _gather(plan, data, data.train[clips_B], valid_B, numbers, state.epoch, inputs)
        return train_step(plan, state, numbers, data.frozen, batch)

    given = (tuple(order_SB), inputs)
    if len(order_SB[0]) == 1:  # no loop around the step, not even one of a single round
        state, sums = step(state, jax.tree.map(lambda each: each[0], given))
        return state, jax.tree.map(lambda each: each[None], sums)
    return lax.scan(step, state, given)


def train_step(
    plan: Plan, state: TrainState, numbers: dict, frozen: Tree, batch: Batch
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One batch: one update, or one for each window of truncated back-propagation."""
    every = plan.cfg.train.tbptt_every
    if not every:
        state, sums, _ = _update(plan, state, numbers, frozen, batch, None, 0, batch.mask_BT)
    else:
        state, sums = _windows(plan, state, numbers, frozen, batch, every)
    # Windows share the batch's clips: a clip counts once however many windows it has.
    return state, sums | {"clips": _total(plan, batch.valid_B)}


def _windows(
    plan: Plan, state: TrainState, numbers: dict, frozen: Tree, batch: Batch, every: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """An update every `every` steps, its gradient reaching back over `reach` of them.

    Windows begin `reach - every` steps before what they score, so the clip is padded by as much on
    the left; masked steps leave the carry alone.
    """
    reach = plan.cfg.train.tbptt_length or every
    count = -(-plan.length // every)
    before, after = reach - every, count * every - plan.length

    def pad(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf, [(0, 0), (before, after)] + [(0, 0)] * (leaf.ndim - 2))

    inputs, mask = pad(batch.inputs), pad(batch.mask_BT)
    counted = jnp.arange(reach) >= before

    def window(carried: tuple, index: jax.Array) -> tuple[tuple, dict]:
        state, carry = carried

        def cut(leaf: jax.Array) -> jax.Array:
            return lax.dynamic_slice_in_dim(leaf, index * every, reach, 1)

        # Dropout is drawn anew in each window.
        keys_B = jax.vmap(lambda key: jax.random.fold_in(key, index))(batch.keys_B)
        part = batch._replace(inputs=cut(inputs), mask_BT=cut(mask), keys_B=keys_B)
        scored = part.mask_BT & counted[None]
        offset = index * every - before
        updated, sums, end = _update(plan, state, numbers, frozen, part, carry, offset, scored)
        if before:
            # The next window begins inside this one: the carry it starts from is the one reached
            # after `every` steps, which masking the rest leaves untouched.
            early = part.mask_BT & (jnp.arange(reach) < every)[None]
            short = part._replace(mask_BT=early)
            _, (end, _) = _loss(
                state.trained, plan, state, numbers, frozen, short, carry, offset, early
            )
        some = _total(plan, scored) > 0
        kept = jax.tree.map(lambda new, old: jnp.where(some, new, old), updated, state)
        sums = jax.tree.map(lambda leaf: jnp.where(some, leaf, jnp.zeros_like(leaf)), sums)
        return (kept, lax.stop_gradient(end)), sums

    shape = jax.eval_shape(
        lambda: _loss(
            state.trained,
            plan,
            state,
            numbers,
            frozen,
            batch._replace(inputs=inputs[:, :reach], mask_BT=mask[:, :reach]),
            None,
            0,
            mask[:, :reach],
        )[1][0]
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    (state, _), sums = lax.scan(window, (state, zeros), jnp.arange(count))
    return state, jax.tree.map(lambda leaf: leaf.sum(0), sums)


def _update(
    plan: Plan,
    state: TrainState,
    numbers: dict,
    frozen: Tree,
    batch: Batch,
    carry: Tree,
    offset: jax.Array | int,
    scored_BT: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array], Tree]:
    """One parameter update; sums over devices are taken before anything is divided."""
    gradients = _accumulated if plan.cfg.train.grad_accum > 1 else _gradient
    loss, gradient, carry, stats = gradients(
        plan, state, numbers, frozen, batch, carry, offset, scored_BT
    )
    loss, gradient = _total(plan, loss), _psum(plan, gradient)
    clips = jnp.maximum(_total(plan, batch.valid_B), 1)
    gradient = jax.tree.map(lambda g: g / clips.astype(g.dtype), gradient)
    norm = optax.tree.norm(gradient)
    changes, opt_state = _optimiser(plan, numbers).update(gradient, state.opt_state, state.trained)
    updated = state._replace(
        trained=optax.apply_updates(state.trained, changes), stats=stats, opt_state=opt_state
    )
    sums = {
        "loss": loss,
        "gradient_norm": norm,
        "updates": jnp.ones(()),
        "not_finite": 1.0 - (jnp.isfinite(loss) & jnp.isfinite(norm)),
    }
    return updated, sums, carry


def _gradient(
    plan: Plan,
    state: TrainState,
    numbers: dict,
    frozen: Tree,
    batch: Batch,
    carry: Tree,
    offset: jax.Array | int,
    scored_BT: jax.Array,
) -> tuple[jax.Array, Tree, Tree, Tree]:
    """The summed loss of a batch, its gradient, and the carry and statistics that came out."""
    (loss, (carry, stats)), gradient = jax.value_and_grad(_loss, has_aux=True)(
        state.trained, plan, state, numbers, frozen, batch, carry, offset, scored_BT
    )
    return loss, gradient, carry, stats


def _accumulated(
    plan: Plan,
    state: TrainState,
    numbers: dict,
    frozen: Tree,
    batch: Batch,
    carry: Tree,
    offset: jax.Array | int,
    scored_BT: jax.Array,
) -> tuple[jax.Array, Tree, Tree, Tree]:
    """As `_gradient`, by parts of the batch one after another: only one's activations are kept.

    Batch normalisation takes each part's own statistics.
    """
    parts = plan.cfg.train.grad_accum
    size = len(batch.valid_B)
    each = -(-size // parts)

    def cut(leaf: jax.Array) -> jax.Array:
        padded = jnp.pad(leaf, [(0, parts * each - size)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(parts, each, *leaf.shape[1:])

    def part(sums: tuple, given: tuple) -> tuple[tuple, Tree]:
        loss, gradient, stats = sums
        batch, carry, scored_BT = given
        more, slope, carry, stats = _gradient(
            plan, state._replace(stats=stats), numbers, frozen, batch, carry, offset, scored_BT
        )
        return (loss + more, jax.tree.map(jnp.add, gradient, slope), stats), carry

    keys = jnp.resize(batch.keys_B, (parts * each,)).reshape(parts, each)
    cuts = jax.tree.map(cut, batch._replace(keys_B=None))._replace(keys_B=keys)
    nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.trained), state.stats)
    (loss, gradient, stats), carries = lax.scan(
        part, nothing, (cuts, jax.tree.map(cut, carry), cut(scored_BT))
    )
    carry = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], carries)
    return loss, gradient, carry, stats


def _loss(
    trained: Tree,
    plan: Plan,
    state: TrainState,
    numbers: dict,
    frozen: Tree,
    batch: Batch,
    carry: Tree,
    offset: jax.Array | int,
    scored_BT: jax.Array,
) -> tuple[jax.Array, tuple[Tree, Tree]]:
    """Sum of the valid clips' losses; and the carry and running statistics that came out."""
    cfg = plan.cfg
    clip = numbers["optim.clip_norm"] if cfg.optim.clip_mode == "preactivation" else None
    (logits, carry, _), changed = plan.model.apply(
        _variables(frozen, trained, state.stats),
        batch.inputs,
        batch.mask_BT,
        carry=carry,
        train=True,
        dropout=numbers["scanner.dropout"] if plan.drops else 0.0,
        keys_B=batch.keys_B,
        grad_clip=clip,
        mutable=["batch_stats"],
    )
    losses_B = losses.per_clip(
        logits,
        batch.labels_B,
        scored_BT,
        cfg.loss.kind,
        linear=numbers["loss.frame_weights"],
        offset=offset,
        length=plan.length,
    )
    total = jnp.where(batch.valid_B, losses_B, 0.0).sum()
    return total, (carry, _trained_stats(frozen, changed.get("batch_stats", {})))


def score_batch(
    plan: Plan, weights: TrainState | Best, numbers: dict, frozen: Tree, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Class scores (B, K), losses (B,), and which steps are right, (B, T) or (B, 0)."""
    logits, _, _ = plan.model.apply(
        _variables(frozen, weights.trained, weights.stats), batch.inputs, batch.mask_BT
    )
    losses_B = losses.per_clip(
        logits,
        batch.labels_B,
        batch.mask_BT,
        plan.cfg.loss.kind,
        linear=numbers["loss.frame_weights"],
        length=plan.length,
    )
    if logits.ndim == 2:
        scores = losses.scores(logits, plan.cfg.loss.kind)
        return scores, losses_B, jnp.zeros((len(losses_B), 0), bool)
    right_BT = decisions.is_correct(logits, batch.labels_B[:, None]) & batch.mask_BT
    return decisions.weighted_log_probs(logits, batch.mask_BT), losses_B, right_BT


def _variables(frozen: Tree, trained: Tree, stats: Tree) -> Tree:
    constants = frozen.get("constants", {})
    return constants | {
        "params": encoders.merge(frozen.get("fixed", {}), trained),
        "batch_stats": encoders.merge(constants.get("batch_stats", {}), stats),
    }


def validation(plan: Plan) -> jax.Array:
    """Places in the list of validation clips by batches, (S, B); from `val_clips` on padding.

    As few batches as `eval.batch_size` allows, and all of a size, so that little is padding.
    """
    count = -(-plan.val_clips // plan.cfg.eval.batch_size)
    size = -(-plan.val_clips // max(1, count)) or 1
    return jnp.arange(count * size).reshape(count, size)


def _validate(
    plan: Plan,
    state: TrainState,
    numbers: dict,
    data: Resident,
    places_SB: jax.Array,
    inputs: jax.Array | None = None,
    sums: tuple | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Loss and right answers on validation clips, added to `sums`."""
    if not plan.val_clips:
        return nothing_validated()

    def step(sums: tuple, given: tuple) -> tuple[tuple, None]:
        places_B, inputs = given
        valid_B = places_B < plan.val_clips
        clips_B = data.val[jnp.minimum(places_B, plan.val_clips - 1)]
        batch = _gather(plan, data, clips_B, valid_B, numbers, None, inputs)
        logits, losses_B, _ = score_batch(plan, state, numbers, data.frozen, batch)
        right_B = decisions.is_correct(logits, batch.labels_B) & batch.valid_B
        found = (jnp.where(batch.valid_B, losses_B, 0.0).sum(), right_B.sum(dtype=jnp.int32))
        return jax.tree.map(jnp.add, sums, _psum(plan, found)), None

    return lax.scan(step, sums or nothing_validated(), (places_SB, inputs))[0]


def nothing_validated() -> tuple[jax.Array, jax.Array]:
    """The sums before the first batch of validation."""
    return jnp.zeros(()), jnp.zeros((), jnp.int32)


def _validated(plan: Plan, sums: tuple) -> dict[str, jax.Array]:
    if not plan.val_clips:
        return {"val_loss": jnp.array(jnp.nan), "val_accuracy": jnp.array(jnp.nan)}
    loss, right = sums
    return {"val_loss": loss / plan.val_clips, "val_accuracy": right / plan.val_clips}


def score(
    plan: Plan,
    best: Best,
    numbers: dict,
    clips_SB: jax.Array,
    data: Resident,
    inputs: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores (S, B, K), losses (S, B) and right steps (S, B, T) of clips, in scoring mode."""

    def step(_: None, given: tuple) -> tuple[None, tuple]:
        clips_B, inputs = given
        valid_B = jnp.ones(clips_B.shape, bool)
        batch = _gather(plan, data, clips_B, valid_B, numbers, None, inputs)
        return None, score_batch(plan, best, numbers, data.frozen, batch)

    return lax.scan(step, None, (clips_SB, inputs))[1]


def score_windows(
    plan: Plan,
    best: Best,
    numbers: dict,
    windows_SB2: jax.Array,
    data: Resident,
    inputs: jax.Array | None = None,
) -> jax.Array:
    """Weighted log-probabilities (S, B, K) of (clip, first frame) windows, from zero carries."""

    def step(_: None, given: tuple) -> tuple[None, jax.Array]:
        batch = batches.gather_windows(data, given[0], plan.cfg.eval.window, given[1])
        logits_BTK, _, _ = plan.model.apply(
            _variables(data.frozen, best.trained, best.stats), batch.inputs, batch.mask_BT
        )
        return None, decisions.weighted_log_probs(logits_BTK, batch.mask_BT)

    return lax.scan(step, None, (windows_SB2, inputs))[1]


def summarise(sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """An epoch's training figures from its sums."""
    clips = jnp.maximum(sums["clips"], 1)
    updates = jnp.maximum(sums["updates"], 1)
    return {
        "train_loss": sums["loss"] / clips,
        "gradient_norm": sums["gradient_norm"] / updates,
        "not_finite": sums["not_finite"],
    }


def decide(plan: Plan, state: TrainState, numbers: dict, record: dict) -> TrainState:
    """Keeps the best weights; stops at the target, the patience or the last epoch; spots failure.

    Improvement is Keras': better than the best so far by more than `min_delta`; a figure that is
    not a number is no improvement. Without validation clips the last epoch counts as best.
    """
    epoch = state.epoch + 1
    accuracy = record["val_accuracy"]
    figure = -accuracy if plan.cfg.train.monitor == "val_accuracy" else record["val_loss"]
    if not plan.val_clips:
        figure = -epoch.astype(float)
    loss = record["train_loss"]
    finite = (record["not_finite"] == 0) & jnp.isfinite(optax.tree.norm(state.trained))
    diverged = ~finite | ~jnp.isfinite(loss) | (loss > 10 * state.untrained_loss)
    improved = (figure < state.best.score - numbers["train.min_delta"]) & ~diverged
    better = Best(state.trained, state.stats, figure, epoch)
    best = jax.tree.map(lambda new, old: jnp.where(improved, new, old), better, state.best)
    wait = jnp.where(improved, 0, state.wait + 1)
    target, patience = numbers["train.target"], numbers["train.patience"]
    status = jnp.select(
        [
            diverged,
            (target > 0) & (accuracy >= target),
            (patience > 0) & (wait >= patience),
            epoch >= numbers["train.epochs"],
        ],
        [DIVERGED, TARGET, STOPPED, FINISHED],
        RUNNING,
    ).astype(jnp.int32)
    return state._replace(best=best, epoch=epoch, wait=wait, status=status, alive=status == RUNNING)


def _optimiser(plan: Plan, numbers: dict) -> optax.GradientTransformation:
    return optim.build(plan.cfg.optim, numbers, plan.updates, numbers["train.epochs"])


def _order(plan: Plan, seed: jax.Array, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
    train = plan.cfg.train
    return batches.order(seed, epoch, plan.train_clips, train.batch_size, train.batches_per_epoch)


def _gather(
    plan: Plan,
    data: Resident,
    clips_B: jax.Array,
    valid_B: jax.Array,
    numbers: dict,
    epoch: jax.Array | None,
    inputs: jax.Array | None = None,
) -> Batch:
    """The batch of these clips, or this device's share of it."""
    batch = clips_B, valid_B, inputs
    if plan.axis_name:
        batch = batches.share(batch, plan.shares, lax.axis_index(plan.axis_name))
    clips_B, valid_B, inputs = batch
    seed = numbers["seed"]
    return batches.gather(
        data, clips_B, valid_B, plan.cfg, plan.length, seed, epoch, inputs, plan.cuts
    )


def _psum(plan: Plan, value: Tree) -> Tree:
    return lax.psum(value, plan.axis_name) if plan.axis_name else value


def _total(plan: Plan, values: jax.Array) -> jax.Array:
    return _psum(plan, floats(values.sum()))
