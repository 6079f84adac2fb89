"""Convolution and pooling, in the form that is quick where it runs.

On a CPU the kernel gradient of `lax.conv` is over twenty times slower inside a scan than outside,
and under vmap it becomes a grouped convolution, which is slow there too. Cutting patches out and
taking one matrix product costs more memory and is quick in all these places. Outside of them
`lax.conv` is the quicker one over two dimensions, and patches are over three.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Form = Literal["auto", "alone", "lax", "patches"]
Padding = Literal["SAME", "VALID"]


def conv2d(
    x_BHWC: Array,
    kernel: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: Padding = "SAME",
    form: Form = "auto",
) -> Array:
    """`kernel` is (kh, kw, in, out); `auto` is patches on a CPU, lax.conv elsewhere.

    Ask for `lax` where the kernel is not differentiated: forward it is quicker on a CPU too; for
    `alone` where no scan, map or vmap stands around.
    """
    return _conv(x_BHWC, kernel, bias, stride, padding, form)


def conv3d(
    x_BTHWC: Array,
    kernel: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: Padding = "SAME",
    form: Form = "auto",
) -> Array:
    """`kernel` is (kt, kh, kw, in, out); otherwise as `conv2d`."""
    return _conv(x_BTHWC, kernel, bias, stride, padding, form)


def max_pool(x: Array, window: Sequence[int], stride: Sequence[int] | None = None) -> Array:
    """Largest value of each window over the axes between batch and channels, no padding.

    Maxima of strided slices: their gradient is several times quicker on a CPU than that of
    `lax.reduce_window`, which is a select-and-scatter.
    """
    stride = tuple(stride or window)
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, stride, strict=True)]
    return functools.reduce(jnp.maximum, _shifted(x, window, stride, sizes))


def _conv(
    x: Array, kernel: Array, bias: Array | None, stride: int, padding: Padding, form: Form
) -> Array:
    if form in ("auto", "alone"):
        patched = form == "auto" or kernel.ndim > 4
        form = "patches" if patched and jax.default_backend() == "cpu" else "lax"
    strides = (stride,) * (kernel.ndim - 2)
    y = (_lax if form == "lax" else _patches)(x, kernel, strides, padding)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def _lax(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    axes = "DHW"[-len(strides) :]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names)


def _patches(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    window = kernel.shape[:-2]
    pads = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)]
    patches = jnp.concatenate(_shifted(x, window, strides, sizes), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _shifted(
    x: Array, window: Sequence[int], strides: Sequence[int], sizes: Sequence[int]
) -> list[Array]:
    """One strided view of `x` for each place in the window, in the order of a kernel's entries."""
    views = []
    for place in np.ndindex(*window):
        cuts = [
            slice(o, o + s * (n - 1) + 1, s) for o, s, n in zip(place, strides, sizes, strict=True)
        ]
        views.append(x[(slice(None), *cuts)])
    return views
