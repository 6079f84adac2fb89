"""The whole model: published sizes, heads, and where batch norm and dropout stand."""

import doctest
from dataclasses import replace
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidrec.config import Config, Frames, Head, Scanner, override
from vidrec.errors import UserError
from vidrec.models import model, scanners
from vidrec.models.encoders.c3d import C3D
from vidrec.models.scanners import lengths_to_mask

# Small programs that run a few times each: nearly all their time would go into optimising them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, T, D, U, K = 3, 5, 4, 3, 6
LENGTHS = jnp.array([5, 2, 3])
MASK_BT = lengths_to_mask(LENGTHS, T)
X_BTD = jax.random.normal(jax.random.key(0), (B, T, D))


def config(head="last", activation="softmax", head_dense=(), **scanner):
    scanner = {"kind": "gru", "units": U} | scanner
    return Config(
        frames=Frames(length=T),
        scanner=Scanner(**scanner),
        head=Head(kind=head, activation=activation, dense=head_dense),
    )


@cache
def held(built, shape=X_BTD.shape):
    shapes = jax.eval_shape(built.init, jax.random.key(0), jnp.zeros(shape))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(-0.8, 0.9, s.shape), s.dtype), shapes)


def run(cfg, x=X_BTD, mask_BT=MASK_BT, **more):
    built = model.build(cfg, K)
    variables = held(built, x.shape)
    if "batch_stats" in variables:
        positive = jax.tree.map(jnp.abs, variables["batch_stats"])
        variables = {**variables, "batch_stats": positive}
    return variables, jit(partial(built.apply, **more))(variables, x, mask_BT)


# Report A: Keras' counts, 4 classes. Report B: PyTorch's, 11 classes; its ConvLSTM has one bias.
UNITS_A = (50, 100, 200, 500)
COUNTS_A = {
    ("lstm", 1): (112_804, 245_604, 571_204, 2_028_004),
    ("gru", 1): (84_804, 184_604, 429_204, 1_523_004),
    ("lstm", 2): (133_004, 326_004, 892_004, 4_030_004),
}
UNITS_B = (64, 128, 256, 512)
COUNTS_B = {
    ("lstm", 1): (148_683, 330_123, 791_307, 2_106_891),
    ("gru", 1): (111_691, 247_947, 594_187, 1_581_579),
    ("lstm", 2): (181_963, 462_219, 1_317_643, 4_208_139),
    ("convlstm", 1): (1_328_075, 2_951_051, 7_081_739, 18_882_059),
}
PUBLISHED = [
    (4, "single", kind, layers, units, count)
    for (kind, layers), counts in COUNTS_A.items()
    for units, count in zip(UNITS_A, counts, strict=True)
] + [
    (11, "single" if kind == "convlstm" else "double", kind, layers, units, count)
    for (kind, layers), counts in COUNTS_B.items()
    for units, count in zip(UNITS_B, counts, strict=True)
]


@pytest.mark.parametrize(("classes", "bias", "kind", "layers", "units", "count"), PUBLISHED)
def test_sizes_are_the_published_ones(classes, bias, kind, layers, units, count):
    cfg = Config(scanner=Scanner(kind=kind, units=units, layers=layers, bias=bias))
    frame = (7, 7, 512) if kind == "convlstm" else (512,)
    assert trained(cfg, frame, classes) == count


def trained(cfg, frame=(D,), classes=K):
    """How many numbers the model trains."""
    clip = jax.ShapeDtypeStruct((1, 3, *frame), jnp.float32)
    params = jax.eval_shape(model.build(cfg, classes).init, jax.random.key(0), clip)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_batch_norm_adds_two_numbers_a_unit_and_running_statistics_add_none():
    plain = trained(config())
    assert trained(config(batch_norm=True)) == plain + 2 * U
    both = config(batch_norm=True, bidirectional="concat")
    without = config(bidirectional="concat")
    assert trained(both) == trained(without) + 4 * U
    # A linear layer before the recurrence has its own.
    dense = trained(config(dense=(7,)))
    assert trained(config(dense=(7,), batch_norm=True)) == dense + 2 * (7 + U)


@pytest.mark.parametrize("kind", ["lstm", "mean"])
def test_dropout_changes_the_training_loss_of_one_layer(kind):
    cfg, keys = config(kind=kind), jax.random.split(jax.random.key(0), B)
    built = model.build(cfg, K)

    @jit
    def logits(rate):
        more = {"train": True, "dropout": rate, "keys_B": keys}
        return built.apply(held(built), X_BTD, MASK_BT, **more)[0]

    assert float(jnp.abs(logits(0.5) - logits(0.0)).max()) > 1e-3
    np.testing.assert_allclose(logits(0.0), run(cfg)[1][0], atol=1e-6)


# --- heads


@pytest.mark.parametrize("kind", ["gru", "mean", "none"])
def test_heads_read_what_they_say(kind):
    for head in ("per_frame", "last", "mean", "flatten"):
        variables, (logits, _, taps) = run(config(head, kind=kind))
        score = jax.tree.map(np.asarray, variables["params"]["head"]["scores"])
        states = np.asarray(taps["scanner"])
        for b, n in enumerate(LENGTHS):
            read = {
                "per_frame": states[b],
                "last": states[b, n - 1],
                "mean": states[b, :n].mean(0),
                "flatten": states[b].reshape(-1),
            }[head]
            np.testing.assert_allclose(logits[b], read @ score["kernel"] + score["bias"], atol=1e-5)


def test_a_clip_without_frames_scores_finitely():
    mask = MASK_BT.at[1].set(False)
    for head in ("last", "mean"):
        _, (logits, _, taps) = run(config(head), mask_BT=mask)
        assert np.isfinite(logits).all()
        assert not taps["head_read"][1].any()


def test_the_last_state_of_both_directions_is_the_final_one():
    _, (_, carry, taps) = run(config(bidirectional="concat"))
    ((forward, backward),) = carry
    np.testing.assert_allclose(taps["head_read"], jnp.concatenate([forward, backward], -1))


def test_hidden_layers_and_activations():
    _, (logits, _, taps) = run(config(head_dense=(7, 8)))
    assert taps["head_dense_0"].shape == (B, 7)
    assert taps["head_dense_1"].shape == (B, 8)
    assert float(taps["head_dense_1"].min()) == 0
    assert float(logits.min()) < 0
    _, (rectified, *_) = run(config(head_dense=(7, 8), activation="relu"))
    np.testing.assert_allclose(rectified, np.maximum(logits, 0))


def test_linear_layers_before_the_recurrence_are_linear():
    cfg = config(kind="none", dense=(7, 2))
    variables, (_, _, taps) = run(cfg)
    x = np.asarray(X_BTD)
    for index in range(2):
        layer = jax.tree.map(np.asarray, variables["params"][f"dense_{index}"])
        x = x @ layer["kernel"] + layer["bias"]
    x = np.where(np.asarray(MASK_BT)[..., None], x, 0)
    np.testing.assert_allclose(taps["scanner"], x, atol=1e-5)


def test_a_flatten_head_is_for_one_length_and_takes_no_carry():
    cfg = config("flatten")
    with pytest.raises(UserError, match=r"frames.length = 5 frames, got 4"):
        model.build(cfg, K).init(jax.random.key(0), X_BTD[:, :4])
    _, (_, carry, _) = run(cfg)
    with pytest.raises(UserError, match="flatten needs the whole clip"):
        run(cfg, carry=carry)


# --- features


def test_feature_maps_are_scanned_then_pooled():
    maps = jax.random.normal(jax.random.key(1), (B, T, 4, 3, D))
    for kind in ("convlstm", "mean", "none"):
        _, (logits, _, taps) = run(config(kind=kind), maps)
        assert logits.shape == (B, K)
        np.testing.assert_allclose(taps["pooled"], taps["scanner"].mean((2, 3)))
    with pytest.raises(UserError, match=r"features of GRU: expected \(B, T, D\), got shape"):
        run(config(), maps)
    with pytest.raises(UserError, match=r"features of ConvLSTM: expected \(B, T, H, W, D\)"):
        run(config(kind="convlstm"))


class Frame(nn.Module):
    takes_clips = False

    @nn.compact
    def __call__(self, frames_BHWC, train=False):
        return nn.Dense(D)(frames_BHWC.astype(jnp.float32).reshape(len(frames_BHWC), -1))


class Clip(nn.Module):
    takes_clips = True

    @nn.compact
    def __call__(self, clips, train=False):
        return nn.Dense(D)(clips.mean((1, 2, 3)))[:, None]


def test_an_encoder_stands_before_all():
    frames = jax.random.normal(jax.random.key(0), (B, T, 2, 2, 3))
    cfg = config()
    built = model.build(cfg, K, encoder=Frame())
    variables = held(built, frames.shape)
    logits, _, taps = jit(built.apply)(variables, frames, MASK_BT)
    rest = {"params": {k: v for k, v in variables["params"].items() if k != "encoder"}}
    from_features = jit(model.build(cfg, K).apply)
    np.testing.assert_allclose(logits, from_features(rest, taps["features"], MASK_BT)[0], atol=1e-6)
    of_clips = model.build(config(kind="none"), K, encoder=Clip())
    variables = of_clips.init(jax.random.key(1), frames, MASK_BT)
    _, _, taps = of_clips.apply(variables, frames, MASK_BT)
    assert taps["features"].shape == (B, 1, D)
    with pytest.raises(UserError, match=r"frames: expected \(B, T, H, W, C\), got shape \(3, 5, 4"):
        of_clips.apply(variables, X_BTD)


@pytest.mark.parametrize("kind", ["lstm", "mean", "none"])
def test_padding_changes_no_logits(kind):
    for head in ("last", "mean"):
        variables, (logits, *_) = run(config(head, kind=kind, dense=(4,)))
        padded = jnp.concatenate([X_BTD, jnp.full_like(X_BTD, jnp.nan)], 1)
        mask = jnp.concatenate([MASK_BT, jnp.zeros_like(MASK_BT)], 1)
        built = model.build(config(head, kind=kind, dense=(4,)), K)
        np.testing.assert_allclose(jit(built.apply)(variables, padded, mask)[0], logits, atol=1e-6)


def test_streaming_gives_the_scores_of_every_frame():
    cfg = config("per_frame", kind="lstm", layers=2, batch_norm=True, dense=(4,))
    built = model.build(cfg, K)
    variables, (whole, _, _) = run(cfg, mask_BT=None)
    carry = model.initial_carry(built, jax.ShapeDtypeStruct((B, 1, D), jnp.float32))
    step = jit(lambda v, x, carry: built.apply(v, x, carry=carry)[:2])
    for t in range(T):
        scores, carry = step(variables, X_BTD[:, t : t + 1], carry)
        np.testing.assert_allclose(scores[:, 0], whole[:, t], atol=1e-6)


def test_what_cannot_stream_has_no_initial_carry():
    for cfg in (config(bidirectional="sum"), config("flatten")):
        with pytest.raises(UserError, match="whole clip at once"):
            model.initial_carry(model.build(cfg, K), X_BTD)


def test_half_precision_features_are_computed_in_float32():
    _, (logits, carry, _) = run(config(), X_BTD.astype(jnp.float16))
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, carry))} == {jnp.dtype("float32")}


def test_every_setting_reaches_its_place():
    cfg = config(
        "mean", kind="lstm", layers=2, init="torch", dtype="bfloat16", dropout=0.25,
        batch_norm=True, bidirectional="sum", dense=(9,), head_dense=(8,), activation="relu",
    )  # fmt: skip
    built = model.build(cfg, K, axis_name="batch")
    assert built.scanner.cell == replace(built.scanner.cell, init="torch", dtype="bfloat16")
    assert (built.scanner.dropout, built.scanner.batch_norm) == (0.25, True)
    assert (built.scanner.axis_name, built.axis_name) == ("batch", "batch")
    assert (built.dropout, built.batch_norm, built.dense) == (0.25, True, (9,))
    assert (built.head.dense, built.head.activation) == ((8,), "relu")
    assert {built.initialiser, built.head.initialiser} == {"torch"}
    assert {built.dtype, built.head.dtype} == {"bfloat16"}


def test_docstring_shows_a_use_that_runs():
    assert doctest.testmod(model).failed == 0
    assert isinstance(model.build(config(kind="none"), K).scanner, scanners.Identity)


@pytest.mark.parametrize("head", ["per_frame", "flatten"])
def test_an_encoder_of_whole_clips_has_one_state_to_read(head):
    """A user's encoder too, of which settings alone say nothing."""
    cfg = override(Config(), {"head.kind": head})
    with pytest.raises(UserError, match=rf"head\.kind should be last or mean, not '{head}'"):
        model.build(cfg, 3, encoder=C3D())
    assert model.build(override(cfg, {"head.kind": "mean"}), 3, encoder=C3D()).head.kind == "mean"


def test_layers_name_a_direction_by_its_cell():
    built = model.build(config(layers=2, bidirectional="concat"), K)
    listed = model.layers(built, jax.ShapeDtypeStruct(X_BTD.shape, jnp.float32))
    kinds = {each["name"]: each["kind"] for each in listed}
    directions = {"scanner/layer_0_forward", "scanner/layer_1_backward"}
    assert {kinds[name] for name in directions} == {"GRU"}
    assert kinds["head/scores"] == "Dense"
