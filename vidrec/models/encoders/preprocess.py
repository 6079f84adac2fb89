"""Normalize pixels (values from 0 to 255, of any type) as in the training of a network."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

# ImageNet: BGR means of the Caffe models, RGB means and deviations of torchvision's.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_STD_RGB = (0.229, 0.224, 0.225)


def normalize(
    frames: Array,
    mode: str,
    mean_C: ArrayLike | None = None,
    std_C: ArrayLike | None = None,
) -> Array:
    """Return RGB pixels (..., C) normalized, in float32.

    Args:
        frames: Pixels from 0 to 255.
        mode: unit: to 0-1. standard: minus `mean_C`, over `std_C`. caffe: BGR minus ImageNet's
            mean. torch: to 0-1, minus ImageNet's mean, over its deviation. signed: minus 127, over
            128, as EfficientNet-Lite was trained.
        mean_C: Mean of each channel in the training split, for pixels from 0 to 255.
        std_C: Standard deviation of each channel, likewise.

    Raises:
        ValueError: There is no such mode, or the mode is standard without statistics.
    """
    x = frames.astype(jnp.float32)
    if mode == "unit":
        return x / 255
    if mode == "caffe":
        return x[..., ::-1] - _last(CAFFE_MEAN_BGR, x)
    if mode == "torch":
        return (x / 255 - _last(TORCH_MEAN_RGB, x)) / _last(TORCH_STD_RGB, x)
    if mode == "signed":
        return (x - 127) / 128
    if mode == "standard" and mean_C is not None and std_C is not None:
        return (x - _last(mean_C, x)) / _last(std_C, x)
    raise ValueError(
        f"normalize is {mode!r}: say unit, caffe, torch, signed, or standard with statistics"
    )


def statistics(chunks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, for pixels from 0 to 255, float32 (C,).

    Sums of integers are exact, so neither the order of chunks nor their size matters. A constant
    channel gets deviation 1.

    Args:
        chunks: Pixels, uint8 (..., C).

    Raises:
        ValueError: There are no pixels.
    """
    count = 0
    total = squares = np.zeros((), np.int64)
    for chunk in chunks:
        pixels = np.asarray(chunk).reshape(-1, chunk.shape[-1])
        counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])
        count += len(pixels)
        total = total + counts @ np.arange(256)
        squares = squares + counts @ np.arange(256) ** 2
    if not count:
        raise ValueError("statistics of no frames")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.astype(np.float32), np.where(std < 1e-6, 1, std).astype(np.float32)


def _last(values: ArrayLike, x: Array) -> Array:
    """Return values (C,) with as many axes as `x`, so that ranks are never promoted."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
