"""The random CNN: shapes, places it names, and that a frame's features are its own alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from vidrec import config
from vidrec.models import encoders
from vidrec.models.encoders.cnn import Cnn, _shrink, moments


def frames(count: int, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def variables(module: Cnn, pixels: np.ndarray, seed: int = 0) -> dict:
    return jax.jit(module.init)(jax.random.key(seed), pixels[:1])


def features(module: Cnn, weights: dict, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(module.apply)(weights, pixels))


class Variants(chex.TestCase, parameterized.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(
        ("moments", (17 * 5 + 2,)),
        ("average", (10,)),
        ("map", (16, 20, 10)),
        ("flatten", (16 * 20 * 10,)),
        ("dense", (7,)),
    )
    def test_shapes(self, pooling, expected):
        module = Cnn(pooling=pooling, width=7, channels=5)
        pixels = frames(3, 64, 80)
        found = self.variant(module.apply)(variables(module, pixels), pixels)
        chex.assert_shape(found, (3, *expected))
        chex.assert_type(found, jnp.float32)
        chex.assert_tree_all_finite(found)
        assert np.std(np.asarray(found), axis=0).max() > 0

    @chex.variants(with_jit=True, without_jit=True)
    def test_moments_are_those_of_slow_loops(self):
        rng = np.random.default_rng(1)
        answers = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
        expected = [slow_moments(each.astype(np.float64)) for each in answers]
        found = self.variant(moments)(jnp.asarray(answers))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def slow_moments(answers_HWC: np.ndarray) -> np.ndarray:
    """What `moments` says in words, place by place."""
    height, width, channels = answers_HWC.shape
    power = (answers_HWC**2).mean(axis=-1)
    energy = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        weights = np.empty((height, width))
        for j, i in np.ndindex(height, width):
            # Sums to 1 along either axis.
            down = sum(np.exp(-(((y - k) / 1.5) ** 2) / 2) for k in range(height))
            across = sum(np.exp(-(((x - k) / 1.5) ** 2) / 2) for k in range(width))
            distance = (y - j) ** 2 + (x - i) ** 2
            weights[j, i] = np.exp(-distance / 1.5**2 / 2) / down / across
        energy[y, x] = (weights * power).sum() + 1e-6
    level = energy.mean()
    energy /= level
    places, totals, peaks, scales = [], [], [], []
    for sign in (1, -1):
        for c in range(channels):
            answer = np.maximum(sign * answers_HWC[..., c], 0)
            scale = np.sqrt((answer**2).mean() + 1e-6)
            salience = answer / scale + energy
            weights = np.exp(salience - salience.max())
            sums = np.zeros(5)
            for j, i in np.ndindex(height, width):
                y, x = 2 * j / (height - 1) - 1, 2 * i / (width - 1) - 1
                sums += weights[j, i] * np.array([x, y, x * x, y * y, x * y])
            places.append(sums / weights.sum())
            totals.append(np.log(weights.sum()))
            peaks.append(salience.max())
            scales.append(np.log(scale))
    look = np.exp(4 * energy) / np.exp(4 * energy).sum()
    seen = (look[..., None] * answers_HWC).sum(axis=(0, 1)) / np.sqrt(level)
    parts = (np.ravel(places), totals, peaks, scales, seen, [energy.max()], [np.log(level)])
    return np.concatenate(parts)


def test_a_frame_is_read_without_its_neighbours():
    module, pixels = Cnn(), frames(6)
    weights = variables(module, pixels)
    together = features(module, weights, pixels)
    alone = features(module, weights, pixels[4:5])
    np.testing.assert_allclose(alone, together[4:5], rtol=1e-4, atol=1e-4)
    turned = features(module, weights, pixels[::-1])
    np.testing.assert_allclose(turned[::-1], together, rtol=1e-4, atol=1e-4)


def test_the_key_fixes_the_filters():
    module, pixels = Cnn(), frames(2)
    first, again, other = (variables(module, pixels, seed) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    kernel = first["params"]["filters"]["kernel"]
    assert not np.allclose(kernel, other["params"]["filters"]["kernel"])
    norms = np.sqrt((kernel**2).sum(axis=(0, 1, 2)))
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (31, 33), (97, 40), (224, 224)])
def test_finite_on_every_size_and_on_blank_frames(size):
    pixels = frames(3, *size)
    pixels[0], pixels[1] = 0, 255
    module = Cnn()
    found = features(module, variables(module, pixels), pixels)
    assert np.isfinite(found).all()


def blob(x: float, y: float, side: int = 64, halves: str = "rows") -> np.ndarray:
    """A disc with a light and a dark half on grey, uint8 (1, side, side, 3)."""
    rows, columns = np.mgrid[:side, :side] / side
    frame = np.full((side, side), 128)
    inside = np.hypot(rows - y, columns - x) < 0.16
    light = (rows < y) if halves == "rows" else (columns < x)
    frame[inside & light] = 240
    frame[inside & ~light] = 15
    return np.repeat(frame[None, ..., None], 3, axis=-1).astype(np.uint8)


def test_moments_follow_a_shape():
    module = Cnn()
    weights = variables(module, blob(0.5, 0.5))
    channels = 2 * module.channels

    def centre(x: float, y: float, side: int = 64) -> np.ndarray:
        read = features(module, weights, blob(x, y, side))[0]
        return np.median(read[: 5 * channels].reshape(channels, 5)[:, :2], axis=0)

    for x, y in ((0.3, 0.5), (0.7, 0.4), (0.5, 0.72)):
        for side in (64, 128):
            np.testing.assert_allclose(centre(x, y, side), [2 * x - 1, 2 * y - 1], atol=0.15)


def test_turning_a_shape_shows():
    """Half a turn swaps light and dark, so what is seen at the shape changes its sign."""
    module = Cnn()
    upright = blob(0.5, 0.5)
    weights = variables(module, upright)
    seen = slice(-2 - module.channels, -2)
    frames_of_turns = [upright, upright[:, ::-1], blob(0.5, 0.5, halves="columns")]
    a, opposite, quarter = (features(module, weights, each)[0, seen] for each in frames_of_turns)
    assert np.corrcoef(a, opposite)[0, 1] < -0.5
    assert abs(np.corrcoef(a, quarter)[0, 1]) < 0.5


def test_brightness_of_a_frame_changes_no_place():
    pixels = frames(2) // 2
    module = Cnn()
    weights = variables(module, pixels)
    np.testing.assert_allclose(
        features(module, weights, pixels),
        features(module, weights, pixels + 100),
        rtol=1e-3,
        atol=1e-3,
    )


def test_shrinking_averages_squares():
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    expected = x[:, :6, :9].reshape(2, 2, 3, 3, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(_shrink(jnp.asarray(x), 3), expected, rtol=1e-5, atol=1e-6)


def test_settings_build_it():
    cfg = config.Encoder(kind="cnn", size=48)
    module = encoders.build(cfg)
    assert isinstance(module, Cnn)
    assert module.pooling == "moments"
    assert encoders.feature_shape(cfg) == (17 * 16 + 2,)


def test_it_can_be_trained():
    module, pixels = Cnn(trainable="all"), frames(2)
    weights = variables(module, pixels)
    slope = jax.jit(jax.grad(lambda w: module.apply(w, pixels, train=True).sum()))(weights)
    chex.assert_tree_all_finite(slope)
    assert np.abs(slope["params"]["filters"]["kernel"]).max() > 0
