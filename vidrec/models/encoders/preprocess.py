"""Pixels to what a network was trained on. Pixels count from 0 to 255 whatever their dtype."""

from collections.abc import Iterable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

Mode = Literal["unit", "standard", "caffe", "torch"]

# ImageNet: BGR means of the Caffe models, RGB means and deviations of torchvision's.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_STD_RGB = (0.229, 0.224, 0.225)


def normalize(
    frames: Array,
    mode: Mode,
    mean_C: ArrayLike | None = None,
    std_C: ArrayLike | None = None,
) -> Array:
    """RGB pixels (..., C) to float32, in one of four ways.

    unit: to 0-1. standard: minus `mean_C`, over `std_C`, both in pixels and of the training split.
    caffe: BGR minus ImageNet's mean. torch: to 0-1, minus ImageNet's mean, over its deviation.
    """
    x = frames.astype(jnp.float32)
    if mode == "unit":
        return x / 255
    if mode == "caffe":
        return x[..., ::-1] - _last(CAFFE_MEAN_BGR, x)
    if mode == "torch":
        return (x / 255 - _last(TORCH_MEAN_RGB, x)) / _last(TORCH_STD_RGB, x)
    if mode == "standard" and mean_C is not None and std_C is not None:
        return (x - _last(mean_C, x)) / _last(std_C, x)
    raise ValueError(f"normalize is {mode!r}: say unit, caffe, torch, or standard with statistics")


def statistics(chunks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, in pixels, float32 (C,), over uint8 chunks (..., C).

    Sums of integers are exact, so neither the order of chunks nor their size matters. A constant
    channel gets deviation 1.
    """
    count, total, squares = 0, 0, 0
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
    """Values (C,) with as many axes as `x`: promotion of ranks is never left to chance."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
