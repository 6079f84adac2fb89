"""Loss of each clip, in float32; the mean is the step's, which knows which clips are real."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vidrec.models.cells import floats

# Keras' own bound on a share before its logarithm.
KERAS_EPSILON = 1e-7


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the softmax cross-entropy (…) of logits (…, K) with class indices (…)."""
    return optax.softmax_cross_entropy_with_integer_labels(floats(logits), labels)


def keras_cross_entropy(outputs: Array, labels: Array) -> Array:
    """Return Keras' categorical cross-entropy (…) of a head's outputs (…, K), all ≥ 0.

    Keras takes outputs for probabilities and divides them by their sum, so ReLU outputs pass
    through it, and a row of zeros gives NaN there. Here such a row scores -log 1e-7 and has no
    gradient.
    """
    return -jnp.take_along_axis(_log_shares(outputs), labels[..., None], -1)[..., 0]


def _log_shares(outputs: Array) -> Array:
    """Return logarithms of outputs (…, K), all ≥ 0, as shares of their sum, in Keras' bounds."""
    outputs = floats(outputs)
    total = jnp.maximum(outputs.sum(-1, keepdims=True), KERAS_EPSILON)
    return jnp.log(jnp.clip(outputs / total, KERAS_EPSILON, 1 - KERAS_EPSILON))


def scores(outputs: Array, kind: str) -> Array:
    """Return what ranks classes, and whose softmax is their probabilities, of outputs (…, K).

    These are the outputs themselves; after Keras' cross-entropy, which takes outputs for
    probabilities, the logarithms of their shares. A row of zeros is equal shares.
    """
    return _log_shares(outputs) if kind == "keras_cross_entropy" else outputs


def double_softmax(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy of probabilities taken for logits: two softmaxes in a row."""
    return cross_entropy(jax.nn.softmax(floats(logits)), labels)


KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": cross_entropy,
    "keras_cross_entropy": keras_cross_entropy,
    "double_softmax": double_softmax,
}


def frame_weights(
    linear: Array | float, offset: Array | int, count: int, length: Array | int
) -> Array:
    """Return weights (count,) of frames `offset` …: (j+1)/length where `linear` is 1, else 1."""
    rising_T = (offset + jnp.arange(count) + 1) / length
    return linear * rising_T + (1 - linear) * jnp.ones(count)


def per_clip(
    logits: Array,
    labels_B: Array,
    mask: Array | None = None,
    kind: str = "cross_entropy",
    *,
    linear: Array | float = 1.0,
    offset: Array | int = 0,
    length: Array | int = 1,
) -> Array:
    """Return the loss of each clip, (B,).

    Of an answer a frame, losses of the frames in `mask` are weighted and summed: a window's loss is
    its part of the clip's.

    Args:
        logits: (B, K), one answer a clip, or (B, T, K), one a frame.
        labels_B: Class indices.
        mask: (B, T), False on frames that do not count; None: all count.
        kind: A name in `KINDS`.
        linear: 1 weights frame j by (j+1)/length, 0 sums plainly; may be traced.
        offset: Index of the window's first frame in the clip.
        length: The configured frames of a clip, not this clip's own.
    """
    if logits.ndim == 2:
        return KINDS[kind](logits, labels_B)
    frames = logits.shape[1]
    labels_BT = jnp.broadcast_to(labels_B[:, None], logits.shape[:2])
    losses_BT = KINDS[kind](logits, labels_BT)
    weights_T = frame_weights(linear, offset, frames, length)
    counted_BT = losses_BT if mask is None else jnp.where(mask, losses_BT, 0.0)
    return (counted_BT * weights_T[None]).sum(1)
