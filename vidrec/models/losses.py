"""Compute the loss of each clip, in float32; the training step averages it over valid clips."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vidrec.models.cells import floats

# Keras clips probabilities to this distance from 0 and 1 before it takes the logarithm.
KERAS_EPSILON = 1e-7


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the softmax cross-entropy (…) of logits (…, K) with class indices (…)."""
    return optax.softmax_cross_entropy_with_integer_labels(floats(logits), labels)


def keras_cross_entropy(outputs: Array, labels: Array) -> Array:
    """Return Keras' categorical cross-entropy (…) of a head's outputs (…, K), all ≥ 0.

    Keras treats outputs as probabilities and divides them by their sum. So it accepts ReLU outputs,
    but a row of zeros gives NaN. Here the loss of a row of zeros is -log 1e-7, without a gradient.
    """
    return -jnp.take_along_axis(_log_shares(outputs), labels[..., None], -1)[..., 0]


def _log_shares(outputs: Array) -> Array:
    """Return log(outputs / sum of outputs) for outputs (…, K), all ≥ 0, clipped as in Keras."""
    outputs = floats(outputs)
    total = jnp.maximum(outputs.sum(-1, keepdims=True), KERAS_EPSILON)
    return jnp.log(jnp.clip(outputs / total, KERAS_EPSILON, 1 - KERAS_EPSILON))


def scores(outputs: Array, kind: str) -> Array:
    """Return scores (…, K) that rank the classes and whose softmax gives their probabilities.

    Scores are the outputs themselves. With Keras' cross-entropy, which treats outputs as
    probabilities, they are log(outputs / sum of outputs). A row of zeros gives equal scores.
    """
    return _log_shares(outputs) if kind == "keras_cross_entropy" else outputs


def double_softmax(logits: Array, labels: Array) -> Array:
    """Return the cross-entropy with probabilities treated as logits: two softmaxes in a row."""
    return cross_entropy(jax.nn.softmax(floats(logits)), labels)


KINDS: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": cross_entropy,
    "keras_cross_entropy": keras_cross_entropy,
    "double_softmax": double_softmax,
}


def smoothed(
    outputs: Array, labels: Array, kind: str = "cross_entropy", smoothing: Array | float = 0.0
) -> Array:
    """Return the loss (…) with label smoothing: `smoothing` is spread evenly over all K classes.

    It is (1 - smoothing) times the true class's loss plus `smoothing` times the mean over all
    classes, the true one included (Szegedy et al. 2016; Keras and PyTorch define it in the same
    way).
    """
    return (1 - smoothing) * KINDS[kind](outputs, labels) + smoothing * _mean_loss(outputs, kind)


def _mean_loss(outputs: Array, kind: str) -> Array:
    """Return the mean (…) of the losses that each of the classes would have as the true one."""
    if kind == "keras_cross_entropy":
        return -_log_shares(outputs).mean(-1)
    logits = floats(outputs)
    logits = jax.nn.softmax(logits) if kind == "double_softmax" else logits
    return -jax.nn.log_softmax(logits).mean(-1)


def frame_weights(
    linear: Array | float, offset: Array | int, count: int, length: Array | int
) -> Array:
    """Return the weights of frames j = `offset` …: (j+1)/length if `linear` is 1, 1 if it is 0."""
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
    smoothing: Array | float | None = None,
    class_weights: Sequence[float] = (),
) -> Array:
    """Return the loss of each clip, (B,).

    If there are scores for each frame, the losses of the frames in `mask` are weighted and summed.
    So the loss of a window of frames is its part of the clip's loss.

    Args:
        logits: Scores (B, K) of each clip, or (B, T, K) of each frame.
        labels_B: Class index of each clip.
        mask: (B, T), False on frames that do not count; None: all count.
        kind: A name in `KINDS`.
        linear: 1: frame j has the weight (j+1)/length; 0: all have weight 1; may be traced.
        offset: Index of the window's first frame in the clip.
        length: Number of frames of a clip in the settings, not of this clip.
        smoothing: Share of the target spread over all classes; may be traced; None: no smoothing.
        class_weights: Factors (K,) of clips' losses by their class; empty: all 1.
    """
    weight_B = jnp.asarray(class_weights, jnp.float32)[labels_B] if len(class_weights) else 1.0

    def loss(labels: Array) -> Array:
        if smoothing is None:
            return KINDS[kind](logits, labels)
        return smoothed(logits, labels, kind, smoothing)

    if logits.ndim == 2:
        return loss(labels_B) * weight_B
    losses_BT = loss(jnp.broadcast_to(labels_B[:, None], logits.shape[:2]))
    weights_T = frame_weights(linear, offset, logits.shape[1], length)
    return over_frames(losses_BT, mask, weights_T) * weight_B


def per_frame(logits: Array, labels_BT: Array, mask_BT: Array | None, how: Any) -> Array:
    """Return the loss of each clip whose frames are labelled, (B,).

    Losses of the labelled frames are summed and divided by `how.length`. So the loss of a window of
    frames is its part of the clip's loss. `how.smoothness` is the weight of a second term: the
    truncated squared change of log-probabilities from one frame to the next, averaged over classes
    (MS-TCN, Abu Farha and Gall 2019). As in that paper, only the later frame gets a gradient.

    Args:
        logits: Scores (B, T, K) of each frame.
        labels_BT: Class indices; -1 on frames without a label.
        mask_BT: False on frames that do not count; None: all count.
        how: A `LossOptions`.
    """
    counted_BT = labels_BT >= 0
    mask_BT = jnp.ones_like(counted_BT) if mask_BT is None else mask_BT
    counted_BT = counted_BT & mask_BT
    true_BT = jnp.maximum(labels_BT, 0).astype(jnp.int32)
    if how.smoothing is None:
        losses_BT = KINDS[how.kind](logits, true_BT)
    else:
        losses_BT = smoothed(logits, true_BT, how.kind, how.smoothing)
    if len(how.class_weights):
        losses_BT = losses_BT * jnp.asarray(how.class_weights, jnp.float32)[true_BT]
    total_B = jnp.where(counted_BT, losses_BT, 0.0).sum(1)
    if how.smoothness:
        log_probs = jax.nn.log_softmax(floats(logits))
        change = log_probs[:, 1:] - jax.lax.stop_gradient(log_probs[:, :-1])
        cut_BT = jnp.minimum(change**2, how.smoothness_limit**2).mean(-1)
        both_BT = mask_BT[:, 1:] & mask_BT[:, :-1]
        total_B = total_B + how.smoothness * jnp.where(both_BT, cut_BT, 0.0).sum(1)
    return total_B / how.length


def over_frames(losses_BT: Array, mask: Array | None, weights_T: Array) -> Array:
    """Return the weighted sum of frames' losses, (B,), over the frames in `mask`; None: all."""
    counted_BT = losses_BT if mask is None else jnp.where(mask, losses_BT, 0.0)
    return (counted_BT * weights_T[None]).sum(1)


def binary_cross_entropy(
    logits: Array,
    labels: Array,
    smoothing: Array | float | None = None,
    class_weights: Sequence[float] = (),
) -> Array:
    """Return the mean over classes (…) of the binary cross-entropy of logits (…, K).

    Args:
        logits: Independent scores of the classes, (…, K).
        labels: 0 or 1 for each class, (…, K).
        smoothing: Label smoothing s: the target is 1 - s/2 for 1 and s/2 for 0, as in Keras;
            None: no smoothing.
        class_weights: (K,) factors of the loss of positive labels, PyTorch's `pos_weight`.
    """
    logits, target = floats(logits), labels.astype(jnp.float32)
    if smoothing is not None:
        target = target * (1 - smoothing) + smoothing / 2
    there, absent = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
    if len(class_weights):
        weight_K = jnp.asarray(class_weights, jnp.float32)
        there = there * weight_K.reshape((1,) * (there.ndim - 1) + (-1,))
    return (target * there + (1 - target) * absent).mean(-1)
