"""Losses against loops, Keras, and numerical gradients."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from vidrec.models import losses

B, T, K = 5, 7, 4


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (B, T, K)).astype(np.float32)
    labels = rng.integers(0, K, B)
    mask = np.arange(T) < np.array([7, 1, 4, 0, 6])[:, None]
    return logits, labels, mask


def softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def literal(kind, row, label):
    """One answer's loss, number by number."""
    row = [float(value) for value in row]
    if kind == "double_softmax":
        row = softmax(row)
    if kind != "keras_cross_entropy":
        return -math.log(softmax(row)[label])
    share = row[label] / max(sum(row), 1e-7)
    return -math.log(min(max(share, 1e-7), 1 - 1e-7))


@pytest.mark.parametrize("kind", losses.KINDS)
def test_one_answer_a_clip(batch, kind):
    outputs = np.maximum(batch[0][:, 0], 0)
    got = losses.per_clip(jnp.asarray(outputs), jnp.asarray(batch[1]), kind=kind)
    want = [literal(kind, outputs[b], batch[1][b]) for b in range(B)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("kind", losses.KINDS)
def test_smoothed_labels_and_class_weights(batch, kind):
    outputs, weights, share = np.maximum(batch[0], 0), (0.5, 2.0, 1.0, 3.0), 0.3
    labels, mask = batch[1], batch[2]

    def one(row, label):
        spread = sum(literal(kind, row, k) for k in range(K)) / K
        return weights[label] * ((1 - share) * literal(kind, row, label) + share * spread)

    targets = {"smoothing": share, "class_weights": weights}
    got = losses.per_clip(jnp.asarray(outputs[:, 0]), jnp.asarray(labels), kind=kind, **targets)
    want = [one(outputs[b, 0], labels[b]) for b in range(B)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    arguments = (jnp.asarray(outputs), jnp.asarray(labels), jnp.asarray(mask), kind)
    got = losses.per_clip(*arguments, linear=0.0, **targets)
    want = [sum(one(outputs[b, t], labels[b]) for t in range(T) if mask[b, t]) for b in range(B)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("kind", losses.KINDS)
@pytest.mark.parametrize("linear", [0.0, 1.0])
def test_steps_are_weighted_and_masked(batch, kind, linear):
    logits, labels, mask = np.maximum(batch[0], 0), batch[1], batch[2]
    offset, length = 50, 120
    want = np.zeros(B)
    for b in range(B):
        for j in range(T):
            if mask[b, j]:
                weight = (offset + j + 1) / length if linear else 1.0
                want[b] += weight * literal(kind, logits[b, j], labels[b])
    got = jax.jit(losses.per_clip, static_argnames="kind")(
        logits, labels, mask, kind=kind, linear=linear, offset=offset, length=length
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got[3] == 0


def test_windows_add_up_to_the_clip(batch):
    logits, labels, mask = (jnp.asarray(value) for value in batch)
    whole = losses.per_clip(logits, labels, mask, linear=1.0, length=T)
    parts = sum(
        losses.per_clip(logits[:, at : at + 3], labels, mask[:, at : at + 3], offset=at, length=T)
        for at in range(0, T, 3)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_padding_of_any_value_is_inert(batch):
    logits, labels, mask = (jnp.asarray(value) for value in batch)

    def total(logits):
        return losses.per_clip(logits, labels, mask, length=T).sum()

    spoiled = jnp.where(mask[..., None], logits, 1e30)
    assert total(spoiled) == total(logits)
    gradient = jax.grad(total)(spoiled)
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()


def test_float32_whatever_comes_in():
    logits = jnp.full((2, K), 3.0, jnp.bfloat16)
    for kind in losses.KINDS:
        assert losses.per_clip(logits, jnp.array([0, 1]), kind=kind).dtype == jnp.float32


@pytest.mark.slow
def test_equals_keras_on_positive_sums():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("gradients are compared on Keras' JAX backend")
    rng = np.random.default_rng(1)
    outputs = np.maximum(rng.normal(0, 2, (64, 3)), 0).astype(np.float32)
    outputs = outputs[outputs.sum(1) > 0]
    outputs[0] = [0, 5, 0]  # a share of one and shares of nothing: both of Keras' bounds
    outputs[1] = [1e-3, 2e-3, 0]
    labels = rng.integers(0, 3, len(outputs))
    one_hot = jnp.eye(3)[labels]

    def theirs(values):
        return keras.losses.categorical_crossentropy(one_hot, values)

    def ours(values):
        return losses.keras_cross_entropy(values, labels)

    np.testing.assert_allclose(ours(outputs), theirs(outputs), rtol=1e-6)
    gradients = [jax.grad(lambda v, f=f: f(v).sum())(jnp.asarray(outputs)) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-7)
    assert np.abs(gradients[0]).max() > 0.1


def test_a_row_of_zeros_has_a_loss_and_no_gradient():
    def loss(weights):
        return losses.keras_cross_entropy(jax.nn.relu(weights), jnp.array([1]))[0]

    for row in (jnp.zeros((1, 3)), -jnp.ones((1, 3))):
        value, gradient = jax.value_and_grad(loss)(row)
        np.testing.assert_allclose(value, -math.log(1e-7), rtol=1e-6)
        assert (gradient == 0).all()


def test_softmax_twice_cannot_fall_far():
    # Of eleven classes the surest right answer still costs log(1 + 10/e), the surest wrong one
    # log(10 + e): the bounds in which a doubled softmax leaves the loss.
    sure = 100 * jnp.eye(11)[:1]
    right = losses.double_softmax(sure, jnp.array([0]))[0]
    wrong = losses.double_softmax(sure, jnp.array([1]))[0]
    bounds = [math.log(1 + 10 / math.e), math.log(10 + math.e)]
    np.testing.assert_allclose([right, wrong], bounds, rtol=1e-6)


class Variants(chex.TestCase, parameterized.TestCase):
    """Compiled or not, the same losses; gradients as differences say."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    @parameterized.parameters(*losses.KINDS)
    def test_per_clip(self, kind):
        rng = np.random.default_rng(2)
        logits = rng.uniform(0.1, 2, (B, T, K)).astype(np.float32)
        labels = rng.integers(0, K, B)

        def loss(logits, labels):
            return losses.per_clip(logits, labels, kind=kind, length=T)

        got = self.variant(loss)(logits, labels)
        chex.assert_shape(got, (B,))
        chex.assert_tree_all_finite(got)
        np.testing.assert_allclose(got, loss(logits, labels), rtol=1e-6)

    @parameterized.parameters(*losses.KINDS)
    def test_gradients(self, kind):
        rng = np.random.default_rng(3)
        with jax.enable_x64(True):
            logits = jnp.asarray(rng.uniform(0.2, 2, (3, 4, K)))
            labels = jnp.asarray(rng.integers(0, K, 3))
            mask = jnp.asarray(rng.uniform(size=(3, 4)) < 0.7)

            def loss(logits):
                return losses.per_clip(logits, labels, mask, kind, linear=1.0, offset=2, length=9)

            chex.assert_numerical_grads(loss, (logits,), order=1, atol=1e-7)
