"""Encoders: forms of convolution, preprocessing, shapes, what trains, and one program a size."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from jax import lax

from vidrec import config
from vidrec.errors import UserError
from vidrec.models import conv, encoders
from vidrec.models.encoders import base, preprocess
from vidrec.models.encoders.c3d import C3D
from vidrec.models.encoders.cnn3 import CNN3
from vidrec.models.encoders.squeezenet import SqueezeNet
from vidrec.models.encoders.vgg import VGG9, VGG16

SMALL_VGG16 = ((2, 3), (4,), (5, 4, 3), (6,), (7, 6))
# Small enough to be differentiated in a test; the shape of their frames goes with them.
SMALL = {
    "vgg16": (VGG16(channels=SMALL_VGG16), (32, 34, 3)),
    "vgg9": (VGG9(channels=((3, 2), (4,), (5,))), (9, 10, 3)),
    "cnn3": (CNN3(channels=((3,), (4,), (5,))), (9, 12, 3)),
    "squeezenet": (SqueezeNet(), (33, 40, 3)),
    "c3d": (C3D(channels=((2,), (3,), (4, 3), (5,))), (9, 16, 18, 3)),
}


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def params_of(module: nn.Module, shape: tuple[int, ...], seed: int = 0) -> dict:
    """Random parameters, biases too, drawn where nothing needs compiling."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        deviation = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim > 1 else 0.1
        return jnp.asarray(rng.normal(0, deviation, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, encoders.shapes(module, shape)[1]["params"])


def settings(**changes) -> config.Encoder:
    return config.Encoder(**{"pooling": "average", **changes})


def loop_conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: conv.Padding) -> np.ndarray:
    """The definition, an output number at a time."""
    window, axes = kernel.shape[:-2], range(kernel.ndim - 2)
    sizes = x.shape[1:-1]
    if padding == "SAME":
        outs = [-(-n // stride) for n in sizes]
        extra = [
            max((o - 1) * stride + k - n, 0) for o, k, n in zip(outs, window, sizes, strict=True)
        ]
        x = np.pad(x, [(0, 0), *[(e // 2, e - e // 2) for e in extra], (0, 0)])
    else:
        if padding != "VALID":
            x = np.pad(x, [(0, 0), *padding, (0, 0)])
        outs = [(n - k) // stride + 1 for n, k in zip(x.shape[1:-1], window, strict=True)]
    y = np.zeros((len(x), *outs, kernel.shape[-1]))
    for place in np.ndindex(*outs):
        cut = tuple(slice(place[a] * stride, place[a] * stride + window[a]) for a in axes)
        patch = x[(slice(None), *cut)].reshape(len(x), -1)
        y[(slice(None), *place)] = patch @ kernel.reshape(-1, kernel.shape[-1])
    return y


@pytest.mark.parametrize("form", ["lax", "patches", "outside_scan", "no_grad"])
@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [
        ((5, 7), (3, 3), 1, "SAME"),
        ((6, 5), (2, 2), 1, "SAME"),
        ((7, 6), (5, 5), 1, "SAME"),
        ((9, 8), (3, 3), 2, "VALID"),
        ((8, 9), (3, 2), 2, "SAME"),
        ((5, 6), (1, 1), 1, "SAME"),
        ((2, 5), (3, 3), 1, "SAME"),
        ((2, 1), (3, 3), 2, ((1, 1), (1, 1))),
        ((7, 6), (1, 1), 2, ((0, 0), (0, 0))),
        ((9, 7), (7, 7), 2, ((3, 3), (3, 3))),
        ((4, 5, 6), (3, 3, 3), 1, "SAME"),
    ],
)
def test_all_forms_are_the_definition(size, window, stride, padding, form):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*window, 3, 4)).astype(np.float32)
    found = conv.convolve(jnp.asarray(x), jnp.asarray(kernel), stride, padding, form)
    np.testing.assert_allclose(found, loop_conv(x, kernel, stride, padding), atol=1e-4)


@pytest.mark.parametrize(("size", "channels"), [((34, 33), 32), ((35, 32), 40), ((1, 1), 33)])
def test_tiles_of_a_wide_convolution_are_the_definition(size, channels):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, 32)).astype(np.float32)
    expected = loop_conv(x, kernel, 1, "SAME")
    for convolve in (conv._winograd, partial(conv.convolve, form="no_grad")):
        found = jax.jit(convolve)(jnp.asarray(x), jnp.asarray(kernel))
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["patches", "outside_scan"])
@pytest.mark.parametrize("channels", [3, 11])
@pytest.mark.parametrize(
    ("window", "stride"),
    [((3, 3), 2), ((1, 1), 2), ((3, 2, 3), 2), ((5, 5), 1), ((4, 5), 1), ((5, 4), 2)],
)
def test_gradients_of_all_forms_agree(window, stride, channels, form):
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(2, *(7, 6, 5)[: len(window)], channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, channels, 4)), jnp.float32)

    def score(x, kernel, form):
        return (conv.convolve(x, kernel, stride=stride, form=form) ** 2).sum()

    found, expected = (
        jax.jit(jax.grad(score, (0, 1)), static_argnums=2)(x, kernel, each)
        for each in (form, "lax")
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", ["lax", "patches", "auto", "outside_scan", "no_grad"])
@pytest.mark.parametrize(
    ("size", "window", "stride", "padding"),
    [
        ((5, 7), (3, 3), 1, "SAME"),
        ((6, 5), (2, 4), 1, "VALID"),
        ((9, 8), (5, 5), 2, "SAME"),
        ((8, 7), (3, 2), 2, "SAME"),
        ((4, 5, 6), (3, 1, 3), 2, "SAME"),
    ],
)
def test_depthwise_convolves_each_map_by_itself(size, window, stride, padding, form):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(*window, 1, 3)).astype(np.float32)
    each = [loop_conv(x[..., i : i + 1], kernel[..., i : i + 1], stride, padding) for i in range(3)]
    found = conv.depthwise(jnp.asarray(x), jnp.asarray(kernel), stride, padding, form)
    np.testing.assert_allclose(found, np.concatenate(each, axis=-1), atol=1e-4)


@pytest.mark.parametrize(("window", "stride"), [((3, 3), 2), ((5, 5), 1), ((3, 2, 3), 2)])
def test_gradients_of_depthwise_forms_agree(window, stride):
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(2, *(7, 6, 5)[: len(window)], 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, 1, 4)), jnp.float32)

    def score(x, kernel, form):
        return (conv.depthwise(x, kernel, stride, form=form) ** 2).sum()

    found, expected = (
        jax.jit(jax.grad(score, (0, 1)), static_argnums=2)(x, kernel, each)
        for each in ("auto", "lax")
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("window", "stride"), [((2, 2), None), ((3, 3), (2, 2)), ((1, 2), None)])
def test_max_pool_is_flax_max_pool_with_its_gradient(window, stride):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 7, 9, 3)), jnp.float32)
    weigh = jnp.cos(jnp.arange(100.0))

    def score(pool):
        def of(x):
            y = pool(x).reshape(-1)
            return (y * jnp.resize(weigh, y.shape)).sum()

        return jax.value_and_grad(of)(x)

    found = score(lambda x: conv.max_pool(x, window, stride))
    expected = score(lambda x: nn.max_pool(x, window, stride or window))
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "pool"), [((6, 7), (2, 2)), ((4, 5, 7), (1, 2, 2)), ((1, 5), (2, 3))]
)
def test_a_stage_pools_behind_its_relu(size, pool):
    rng = np.random.default_rng(5)
    window = (3,) * len(size)
    x = jnp.asarray(rng.normal(size=(3, *size, 2)), jnp.float32)
    kernel, bias = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((*window, 2, 4), 4))

    def plain(params, x):
        bias = params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))
        y = nn.relu(conv.convolve(x, params["kernel"], form="lax") + bias)
        least = tuple(min(k, n) for k, n in zip(pool, size, strict=True))
        return nn.max_pool(y, least, least)

    def ours(params, x):
        return base.Stage((4,), window, pool).apply({"params": {"conv1": params}}, x)

    params = {"kernel": kernel, "bias": bias}
    np.testing.assert_array_equal(jax.jit(ours)(params, x), jax.jit(plain)(params, x))
    found, expected = (
        jax.grad(lambda *given, of=of: (of(*given) ** 2).sum(), (0, 1))(params, x)
        for of in (ours, plain)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_equal_maxima_share_the_gradient():
    x = jnp.ones((1, 5, 4, 1)).at[0, 0, 1].set(2)
    found = jax.grad(lambda x: conv.max_pool(x, (2, 2)).sum())(x)[0, ..., 0]
    expected = np.full((5, 4), 0.25)
    expected[:2, :2], expected[0, 1], expected[4] = 0, 1, 0  # the last row is in no window
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("near", [1, 3])
def test_kernel_gradients_from_parts_of_the_patches(near, monkeypatch):
    """Place by place where not even one map lies near, and so many maps at a time as divide all."""
    x = jnp.asarray(np.random.default_rng(6).normal(size=(8, 5, 6, 11)), jnp.float32)
    kernel = jnp.asarray(np.random.default_rng(7).normal(size=(3, 3, 11, 4)), jnp.float32)
    patches = 5 * 6 * 9 * 11 * 4  # bytes of a map
    monkeypatch.setattr(conv, "NEAR", near * patches - 1)

    def score(kernel, form):
        return (conv.convolve(x, kernel, form=form) ** 2).sum()

    found, expected = (jax.grad(score)(kernel, form) for form in ("outside_scan", "lax"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_normalisation_is_keras_preprocess_input(mode):
    keras = pytest.importorskip("keras")
    frames = pixels(2, 5, 6, 3)
    expected = keras.applications.imagenet_utils.preprocess_input(
        frames.astype(np.float32), data_format="channels_last", mode=mode
    )
    np.testing.assert_allclose(preprocess.normalize(frames, mode), expected, rtol=1e-5, atol=1e-5)


def test_unit_and_standard_in_plain_numpy():
    frames = pixels(3, 4, 5, 3)
    mean, std = np.array([90.0, 100.0, 120.0]), np.array([50.0, 60.0, 70.0])
    np.testing.assert_allclose(preprocess.normalize(frames, "unit"), frames / 255.0, rtol=1e-6)
    found = preprocess.normalize(frames, "standard", mean, std)
    np.testing.assert_allclose(found, (frames - mean) / std, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="statistics"):
        preprocess.normalize(frames, "standard")


class PreprocessVariants(chex.TestCase):
    """Every mode, jitted and not, of bytes and of floats: the same float32."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_all_modes(self):
        frames, mean, std = pixels(2, 4, 5, 3), np.full(3, 99.0), np.full(3, 9.0)
        for mode in ("unit", "standard", "caffe", "torch"):
            apply = self.variant(lambda x, mode=mode: preprocess.normalize(x, mode, mean, std))
            found = apply(jnp.asarray(frames))
            chex.assert_shape(found, (2, 4, 5, 3))
            chex.assert_type(found, jnp.float32)
            chex.assert_tree_all_finite(found)
            np.testing.assert_array_equal(found, apply(jnp.asarray(frames, jnp.float32)))


def test_statistics_of_unequal_chunks():
    frames = pixels(7, 6, 5, 3) // np.array([1, 2, 3], np.uint8)
    mean, std = preprocess.statistics([frames[:1], frames[1:5], frames[5:]])
    flat = frames.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, flat.std(0), rtol=1e-6)
    with pytest.raises(ValueError, match="no frames"):
        preprocess.statistics([])


def test_statistics_come_from_the_named_clips_and_stay_with_the_variables():
    frames = np.concatenate([pixels(4, 8, 8, 3) // 4, pixels(5, 8, 8, 3, seed=1)])
    cfg = settings(kind="cnn3", normalize="standard", size=8)
    module = encoders.build(cfg)
    with pytest.raises(ValueError, match="fit_normalisation"):
        encoders.init(module, cfg)
    module = encoders.fit_normalisation(module, [frames[4:6], frames[:0], frames[6:]])
    variables = encoders.init(module, cfg)
    flat = frames[4:].reshape(-1, 3)
    np.testing.assert_allclose(variables["constants"]["mean"], flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variables["constants"]["std"], flat.std(0), rtol=1e-5)
    # A module built without the statistics takes those that were saved.
    np.testing.assert_array_equal(
        encoders.build(cfg).apply(variables, frames), module.apply(variables, frames)
    )
    other = encoders.build(settings(kind="cnn3"))
    assert encoders.fit_normalisation(other, [frames]) is other


def layers(kind: str, shape: tuple[int, ...], **changes) -> dict[str, tuple[int, ...]]:
    module = encoders.build(settings(kind=kind, **changes))
    params = encoders.shapes(module, shape)[1]["params"]
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels = {"/".join(key.key for key in path): leaf.shape for path, leaf in flat}
    assert all(len(shape) == 1 for name, shape in kernels.items() if name.endswith("bias"))
    return {
        name.removesuffix("/kernel"): shape
        for name, shape in kernels.items()
        if name.endswith("kernel")
    }


def parameters(module: nn.Module, shape: tuple[int, ...]) -> int:
    return encoders.count(encoders.shapes(module, shape)[1]["params"])


def test_vgg9_as_in_report_c():
    found = layers("vgg9", (64, 64, 3), pooling="dense", width=500)
    assert found == {
        "block1/conv1": (3, 3, 3, 64),
        "block1/conv2": (3, 3, 64, 64),
        "block2/conv1": (3, 3, 64, 128),
        "block2/conv2": (3, 3, 128, 128),
        "block3/conv1": (3, 3, 128, 256),
        "block3/conv2": (3, 3, 256, 256),
        "hidden1": (8 * 8 * 256, 2048),
        "hidden2": (2048, 2048),
        "dense": (2048, 500),
    }
    assert parameters(VGG9(pooling="dense", width=500), (64, 64, 3)) == 39_922_740


def test_c3d_as_in_report_c():
    found = layers("c3d", (30, 64, 64, 3), pooling="dense")
    assert found == {
        "block1/conv1": (3, 3, 3, 3, 64),
        "block2/conv1": (3, 3, 3, 64, 128),
        "block3/conv1": (3, 3, 3, 128, 256),
        "block3/conv2": (3, 3, 3, 256, 256),
        "block4/conv1": (3, 3, 3, 256, 512),
        "block4/conv2": (3, 3, 3, 512, 512),
        "hidden1": (3 * 4 * 4 * 512, 1024),  # 30 frames -> 30 -> 15 -> 7 -> 3
        "dense": (1024, 1024),
    }
    assert parameters(C3D(pooling="dense"), (30, 64, 64, 3)) == 39_715_584


def test_cnn3_as_in_report_c():
    found = layers("cnn3", (64, 64, 3), pooling="dense", width=100)
    assert found == {
        "block1/conv1": (2, 2, 3, 16),
        "block2/conv1": (3, 3, 16, 32),
        "block3/conv1": (5, 5, 32, 64),
        "dense": (8 * 8 * 64, 100),
    }
    assert parameters(CNN3(), (64, 64, 3)) == 56_112


@pytest.mark.parametrize(
    ("module", "published"),
    [
        (VGG16(), 14_714_688),
        (VGG16(top="predictions"), 138_357_544),
        (SqueezeNet(top="predictions"), 1_235_496),
    ],
)
def test_parameters_are_the_published_ones(module, published):
    assert parameters(module, (224, 224, 3)) == published


@pytest.mark.parametrize(
    ("kind", "pooling", "expected"),
    [
        ("vgg16", "average", (512,)),
        ("vgg16", "map", (7, 7, 512)),
        ("vgg16", "flatten", (7 * 7 * 512,)),
        ("vgg16", "dense", (1024,)),
        ("squeezenet", "average", (512,)),
        ("squeezenet", "map", (13, 13, 512)),
        ("cnn3", "map", (28, 28, 64)),
    ],
)
def test_feature_shape(kind, pooling, expected):
    assert encoders.feature_shape(settings(kind=kind, pooling=pooling, size=224)) == expected


def test_feature_shape_of_clips_and_of_ready_features():
    assert encoders.feature_shape(settings(kind="c3d"), (16, 32, 32, 3)) == (1, 512)
    assert encoders.feature_shape(config.Encoder(kind="none"), (77,)) == (77,)
    with pytest.raises(ValueError, match="frame_shape"):
        encoders.feature_shape(settings(kind="c3d"))


# Maps of the small encoders for their frames.
MAPS = {
    "vgg16": (1, 1, 6),
    "vgg9": (1, 1, 5),
    "cnn3": (1, 1, 5),
    "squeezenet": (1, 1, 512),
    "c3d": (1, 1, 1, 5),
}


class EncoderVariants(chex.TestCase):
    """Each encoder, jitted and not, on random bytes."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters(*((kind, kind) for kind in SMALL))
    def test_shape_type_and_structure(self, kind):
        module, shape = SMALL[kind]
        frames, params = pixels(2, *shape), params_of(module, shape)
        found = self.variant(module.apply)({"params": params}, frames)
        chex.assert_shape(found, (2, *((1,) if kind == "c3d" else ()), MAPS[kind][-1]))
        chex.assert_type(found, jnp.float32)
        chex.assert_tree_all_finite(found)
        chex.assert_type(jax.tree.leaves(params), jnp.float32)
        assert set(params) == set(module.blocks)
        assert float(jnp.std(found)) > 0


class Bare(base.Encoder):
    """Nothing but a pooling."""

    hidden = (7,)
    dense_reads = "flatten"

    def maps(self, x, train):
        return x


class ReadoutVariants(chex.TestCase):
    """Each pooling against plain NumPy, jitted and not."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters(*((name, name) for name in base.Encoder.POOLINGS))
    def test_readout(self, pooling):
        module, frames = Bare(pooling=pooling, width=5), pixels(2, 3, 4, 3)
        variables = module.init(jax.random.key(0), frames)
        found = self.variant(module.apply)(variables, frames)
        x = frames / 255.0
        if pooling == "dense":
            params = jax.tree.map(np.asarray, variables["params"])
            x = x.reshape(2, -1)
            for name in ("hidden1", "dense"):
                x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        plain = {"average": x.mean((1, 2)) if x.ndim == 4 else x, "flatten": x.reshape(2, -1)}
        chex.assert_type(found, jnp.float32)
        np.testing.assert_allclose(found, plain.get(pooling, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_readouts_of_each_encoder(kind):
    module, shape = SMALL[kind]
    one_step = (1,) if kind == "c3d" else ()
    maps = MAPS[kind]
    sizes = {
        "average": maps[-1:],
        "map": maps,
        "flatten": (int(np.prod(maps)),),
        "dense": (11,),
    }
    for pooling in module.POOLINGS:
        this = module.clone(pooling=pooling, width=11)
        found, variables = encoders.shapes(this, shape)
        assert found == (*one_step, *sizes[pooling])
        heads = set(variables["params"]) - set(module.blocks)
        hidden = {f"hidden{i + 1}" for i in range(len(module.hidden))}
        assert heads == ({"dense", *hidden} if pooling == "dense" else set())


@pytest.mark.parametrize("kind", SMALL)
def test_bytes_and_floats_are_the_same_pixels(kind):
    module, shape = SMALL[kind]
    frames, params = pixels(2, *shape), params_of(module, shape)
    apply = jax.jit(module.apply)
    found = apply({"params": params}, frames.astype(np.float32))
    np.testing.assert_array_equal(found, apply({"params": params}, frames))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "trainable"),
    [("vgg9", "all"), ("c3d", "last_block"), ("squeezenet", "last_block")],
)
def test_form_and_remat_change_no_gradient(kind, trainable):
    module, shape = SMALL[kind]
    module = module.clone(trainable=trainable)
    frames, params = pixels(2, *shape), params_of(module, shape)
    frozen, trained = encoders.partition(params, encoders.trainable_mask(module, params))

    def gradient(**fields):
        def loss(trained):
            variables = {"params": encoders.merge(frozen, trained)}
            return (module.clone(**fields).apply(variables, frames, train=True) ** 2).mean()

        return jax.jit(jax.grad(loss))(trained)

    expected = gradient(form="lax")
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert scale > 0
    chex.assert_trees_all_close(gradient(form="patches", remat=True), expected, atol=1e-4 * scale)


def test_only_trained_blocks_take_their_form_and_only_when_they_train():
    module, shape = SMALL["vgg9"]

    def forward_only(trainable: str, train: bool) -> int:
        this = module.clone(trainable=trainable, form="patches")
        frames = pixels(1, *shape)
        params = encoders.shapes(this, shape)[1]
        traced = jax.make_jaxpr(lambda params: this.apply(params, frames, train=train))(params)
        return str(traced).count("platform_index")

    assert forward_only("all", train=False) == 4
    assert forward_only("none", train=True) == 4
    assert forward_only("last_block", train=True) == 3
    assert forward_only("last_two_blocks", train=True) == 2
    assert forward_only("all", train=True) == 0


def test_remat_keeps_less_for_the_backward_pass():
    module, shape = SMALL["vgg9"]
    frames, params = pixels(2, *shape), params_of(module, shape)

    def kept(**fields) -> int:
        apply = module.clone(**fields).apply
        back = jax.eval_shape(
            lambda params: jax.vjp(lambda params: apply({"params": params}, frames), params)[1],
            params,
        )
        return encoders.count(back)

    assert kept(remat=True) < 0.7 * kept()


@pytest.mark.slow
def test_bfloat16_computes_coarsely_on_float32_parameters():
    module, shape = SMALL["cnn3"]
    frames, params = pixels(2, *shape), params_of(module, shape)
    fine = module.apply({"params": params}, frames)
    coarse_module = module.clone(dtype="bfloat16")
    chex.assert_trees_all_equal_dtypes(params_of(coarse_module, shape), params)
    coarse = coarse_module.apply({"params": params}, frames)
    chex.assert_type(coarse, jnp.float32)
    error = float(jnp.abs(fine - coarse).max() / jnp.abs(fine).max())
    assert 1e-5 < error < 0.05


def test_initialisers():
    module, shape = CNN3(channels=((40,), (60,), (50,))), (9, 12, 3)
    he, normal = (
        module.clone(initialiser=name).init(jax.random.key(0), pixels(1, *shape))["params"]
        for name in ("he", "normal")
    )
    assert encoders.build(settings(kind="cnn3")).initialiser == "he"
    assert encoders.build(settings(kind="cnn3", init="normal")).initialiser == "normal"
    for params in (normal, he):
        assert not any(leaf.any() for leaf in jax.tree.leaves(params) if leaf.ndim == 1)
    assert float(normal["block2"]["conv1"]["kernel"].std()) == pytest.approx(0.1, rel=0.03)
    expected = (2 / (9 * 40)) ** 0.5
    assert float(he["block2"]["conv1"]["kernel"].std()) == pytest.approx(expected, rel=0.03)


def test_random_weights_follow_the_encoders_seed():
    first, again, other = (
        encoders.init(encoders.build(cfg), cfg)
        for cfg in (settings(kind="cnn3", size=16, seed=seed) for seed in (3, 3, 4))
    )
    chex.assert_trees_all_equal(first, again)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(first, other)


TRAINED = {
    "none": set(),
    "head": {"hidden1", "hidden2", "dense"},
    "last_block": {"block3", "hidden1", "hidden2", "dense"},
    "last_two_blocks": {"block2", "block3", "hidden1", "hidden2", "dense"},
    "all": {"block1", "block2", "block3", "hidden1", "hidden2", "dense"},
}


@pytest.mark.parametrize("trainable", TRAINED)
def test_partition_by_block(trainable):
    module, shape = SMALL["vgg9"]
    module = module.clone(trainable=trainable, pooling="dense", width=5)
    params = params_of(module, shape)
    mask = encoders.trainable_mask(module, params)
    chex.assert_trees_all_equal_structs(mask, params)
    frozen, trained = encoders.partition(params, mask)
    assert set(trained) == TRAINED[trainable]
    assert set(frozen) == set(params) - TRAINED[trainable]
    chex.assert_trees_all_equal(encoders.merge(frozen, trained), params)


def test_partition_inside_a_layer():
    params = {"a": {"kernel": 1, "bias": 2}, "b": {"c": {"kernel": 3}}}
    mask = {"a": {"kernel": True, "bias": False}, "b": {"c": {"kernel": False}}}
    frozen, trained = encoders.partition(params, mask)
    assert trained == {"a": {"kernel": 1}}
    assert frozen == {"a": {"bias": 2}, "b": {"c": {"kernel": 3}}}
    assert encoders.merge(frozen, trained) == params


def test_training_leaves_frozen_parts_alone_and_the_optimiser_never_sees_them():
    module, shape = SMALL["squeezenet"]
    module = module.clone(trainable="last_two_blocks", pooling="dense", width=4)
    params, frames = params_of(module, shape), pixels(3, *shape)
    before = jax.tree.map(np.array, params)
    frozen, trained = encoders.partition(params, encoders.trainable_mask(module, params))
    optimiser = optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2))
    moments = optimiser.init(trained)

    def loss(trained):
        variables = {"params": encoders.merge(frozen, trained)}
        return ((module.apply(variables, frames, train=True) - 1) ** 2).mean()

    step = jax.jit(jax.value_and_grad(loss))
    losses = []
    for _ in range(3):
        value, gradient = step(trained)
        updates, moments = optimiser.update(gradient, moments, trained)
        trained = optax.apply_updates(trained, updates)
        losses.append(float(value))
    after = encoders.merge(frozen, trained)
    assert losses[-1] < losses[0]
    for name in params:
        kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(after[name])]
        same = all(map(np.array_equal, kernels, jax.tree.leaves(before[name])))
        assert same == (name not in ("fire8", "fire9", "dense")), name
    assert set(moments[1][0].mu) == {"fire8", "fire9", "dense"}


def test_arithmetic_falls_with_each_frozen_block():
    module, shape = SMALL["vgg9"]

    def flops(trainable: str) -> float:
        this = module.clone(trainable=trainable, form="lax")
        params = params_of(this, shape)
        frozen, trained = encoders.partition(params, encoders.trainable_mask(this, params))

        def loss(trained, frozen):
            variables = {"params": encoders.merge(frozen, trained)}
            return this.apply(variables, pixels(2, *shape), train=True).sum()

        return jax.jit(jax.grad(loss)).lower(trained, frozen).compile().cost_analysis()["flops"]

    one, two, everything = map(flops, ("last_block", "last_two_blocks", "all"))
    assert one < two < everything


@pytest.mark.slow
def test_extractor_is_traced_once_for_a_whole_data_set():
    module, shape = SMALL["squeezenet"]
    traces = []

    class Counted(SqueezeNet):
        def maps(self, x, train):
            traces.append(x.shape)
            return super().maps(x, train)

    variables = {"params": params_of(module, shape)}
    extract = encoders.extractor(Counted(), variables, batch=4)
    frames = pixels(11, *shape)
    found = np.concatenate([extract(frames[:4]), extract(frames[4:8]), extract(frames[8:])])
    assert traces == [(4, *shape)]
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, module.apply(variables, frames), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(extract(frames), found)
    assert len(traces) == 1
    assert extract(frames[:0]).shape == (0, 512)


def test_c3d_takes_clips_shorter_than_its_pools_halve():
    module = SMALL["c3d"][0]
    for steps in (1, 2, 3):
        assert encoders.shapes(module.clone(pooling="flatten"), (steps, 16, 16, 3))[0] == (1, 5)


@pytest.mark.slow
def test_trained_convolutions_under_vmap_and_scan_as_alone():
    """Two trials side by side and two steps in one program: the same as by hand."""
    module, shape = SMALL["cnn3"]
    module = module.clone(trainable="all", form="patches")
    frames = pixels(2, *shape)
    trials = [params_of(module, shape, seed) for seed in (1, 2)]

    def step(params, _):
        loss = lambda p: (module.apply({"params": p}, frames, train=True) ** 2).mean()  # noqa: E731
        return jax.tree.map(lambda p, g: p - 1e-4 * g, params, jax.grad(loss)(params)), None

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)
    found = jax.jit(jax.vmap(lambda p: lax.scan(step, p, None, length=2)[0]))(stacked)
    for i, params in enumerate(trials):
        alone = step(step(params, None)[0], None)[0]
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        chex.assert_trees_all_close(mine, alone, rtol=1e-4, atol=1e-5)


USER_ENCODER = """
import flax.linen as nn

class Mean(nn.Module):
    takes_clips = False
    blocks = ()

    @nn.compact
    def __call__(self, frames, train=False):
        return nn.Dense(6)(frames.mean((1, 2)) / 255)
"""


def test_a_users_own_encoder(tmp_path):
    (tmp_path / "mine.py").write_text(USER_ENCODER)
    cfg = config.Encoder(kind=f"{tmp_path}/mine.py:Mean", size=8)
    module = encoders.build(cfg)
    variables = encoders.init(module, cfg)
    assert encoders.feature_shape(cfg) == (6,)
    assert encoders.extractor(module, variables, 4)(pixels(5, 8, 8, 3)).shape == (5, 6)
    (tmp_path / "mine.py").write_text(USER_ENCODER.replace("takes_clips", "other"))
    for name in ("Mean", "nn"):
        with pytest.raises(UserError, match="a Flax module that says takes_clips"):
            encoders.build(config.Encoder(kind=f"{tmp_path}/mine.py:{name}", size=8))
    (tmp_path / "mine.py").write_text(USER_ENCODER)
    with pytest.raises(UserError, match="'blocks'"):
        encoders.trainable_mask(module, variables["params"], "last_block")
    with pytest.raises(UserError, match=r"encoder.remat = True.*no field"):
        encoders.build(config.Encoder(kind=cfg.kind, remat=True))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "vgg16", "pooling": "moments"}, "average, map, flatten, dense"),
        ({"kind": "c3d", "pooling": "map"}, "average, flatten, dense"),
    ],
)
def test_readouts_that_an_encoder_lacks_are_refused(changes, line):
    with pytest.raises(UserError, match=line):
        encoders.build(config.Encoder(**changes))


def test_every_encoder_carries_a_version():
    for kind in ("none", "cnn3", "vgg9", "vgg16", "squeezenet", "c3d"):
        assert encoders.build(settings(kind=kind)).VERSION >= 1
    assert base.Encoder.VERSION == 1
