"""Convolution and pooling, in the form that is quick where it runs.

On a CPU the kernel gradient of `lax.conv` is slow: up to ten times as long as the products that it
adds up, more inside a scan, and under vmap it becomes a grouped convolution. Cutting patches out
and taking one matrix product costs more memory and is quick in all these places. Outside of loops
`lax.conv` is as quick forwards and takes less memory, so there only its kernel gradient is
replaced, by one product for each place of the window. Where nothing is differentiated, windows of
3x3 are computed with less than half of the multiplications.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Form = Literal["auto", "alone", "forward", "lax", "patches"]
Padding = Literal["SAME", "VALID"]
NARROW = 81  # inputs of a window up to which patches are quicker and small
# Channels, and places of all maps, from which on fewer products outweigh the sums around them.
WIDE, PLACES = 32, 1024


def convolve(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: Padding = "SAME",
    form: Form = "auto",
) -> Array:
    """Over two dimensions or three: (B,H,W,C) by (kh,kw,in,out), (B,T,H,W,C) by (kt,kh,kw,in,out).

    `auto` is patches on a CPU, lax.conv elsewhere. Ask for `forward` where nothing is
    differentiated, and for `alone` where no scan, map or vmap stands around: both are lax.conv
    elsewhere, and quicker than `auto` on a CPU.
    """
    how = {"strides": (stride,) * (kernel.ndim - 2), "padding": padding}
    if form == "forward":
        on_cpu, elsewhere = partial(_forward, **how), partial(_lax, **how)
        # An exported network may hold both.
        y = lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)
    elif form in ("auto", "alone"):
        on_cpu = _patches if form == "auto" else _alone
        y = (on_cpu if jax.default_backend() == "cpu" else _lax)(x, kernel, **how)
    else:
        y = (_lax if form == "lax" else _patches)(x, kernel, **how)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def max_pool(x: Array, window: Sequence[int], stride: Sequence[int] | None = None) -> Array:
    """Largest value of each window over the axes between batch and channels, no padding.

    Maxima of strided slices: their gradient is several times quicker on a CPU than that of
    `lax.reduce_window`, which is a select-and-scatter.
    """
    stride = tuple(stride or window)
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, stride, strict=True)]
    return reduce(jnp.maximum, _shifted(x, window, stride, sizes))


def _forward(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """What is quickest on a CPU where nothing is differentiated."""
    fits = kernel.shape[:-2] == (3, 3) and strides == (1, 1) and padding == "SAME"
    large = fits and min(kernel.shape[-2:]) >= WIDE and math.prod(x.shape[:3]) >= PLACES
    if large and x.dtype != jnp.bfloat16:
        return _winograd(x, kernel)
    return _lax(x, kernel, strides, padding)


def _winograd(x: Array, kernel: Array) -> Array:
    """A 3x3 convolution by tiles of 2x2: 16 products of channels for each in place of 36.

    F(2x2, 3x3) of Lavin and Gray, 2016. Sums are as exact as those of `_lax` to a few units in the
    last place.
    """
    size, height, width, inputs = x.shape
    down, across, out = -(-height // 2), -(-width // 2), kernel.shape[-1]
    x = jnp.pad(x, [(0, 0), (1, 2 * down + 1 - height), (1, 2 * across + 1 - width), (0, 0)])
    views = _shifted(x, (4, 4), (2, 2), (down, across))
    tiles = _both_ways(_mixed, [views[row : row + 4] for row in range(0, 16, 4)])
    to_four = jnp.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], kernel.dtype)
    factors = jnp.einsum("ui,vj,ijco->uvco", to_four, to_four, kernel)
    products = [
        [tiles[u][v].reshape(-1, inputs) @ factors[u, v] for v in range(4)] for u in range(4)
    ]
    y = jnp.stack([jnp.stack(row, 1) for row in _both_ways(_joined, products)], 1)
    y = y.reshape(size, down, across, 2, 2, out).swapaxes(2, 3)
    return y.reshape(size, 2 * down, 2 * across, out)[:, :height, :width]


def _both_ways(mix: Callable[[list], list], grid: list[list]) -> list[list]:
    """`mix` along the columns of a grid, then along its rows."""
    columns = [mix(list(column)) for column in zip(*grid, strict=True)]
    return [mix(list(row)) for row in zip(*columns, strict=True)]


def _mixed(d: list) -> list:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _joined(m: list) -> list:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _alone(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """What is quickest on a CPU with no loop around."""
    if kernel.ndim == 5:
        return _by_frame(x, kernel, strides, padding)
    if math.prod(kernel.shape[:-1]) <= NARROW:
        return _patches(x, kernel, strides, padding)
    return _by_place(x, kernel, strides, padding)


def _by_frame(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """Over three dimensions as over two: the frames that a window spans become channels."""
    (span, *window, inputs, out), (step, *steps) = kernel.shape, strides
    x = _padded(x, (span,), (step,), padding)
    count = (x.shape[1] - span) // step + 1
    wide = jnp.concatenate(_shifted(x, (span,), (step,), (count,)), axis=-1)
    flat = jnp.moveaxis(kernel, 0, -3).reshape(*window, span * inputs, out)
    y = _alone(wide.reshape(-1, *wide.shape[2:]), flat, tuple(steps), padding)
    return y.reshape(-1, count, *y.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_place(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """A convolution whose kernel gradient is one product for each place of the window."""
    return _forward(x, kernel, strides, padding)


def _by_place_forward(
    x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding
) -> tuple[Array, Any]:
    return _forward(x, kernel, strides, padding), (x, kernel)


def _by_place_backward(
    strides: tuple[int, ...], padding: Padding, kept: Any, slope: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    window = kernel.shape[:-2]
    if set(strides) == {1} and padding == "SAME" and all(k % 2 for k in window):
        turned = jnp.flip(kernel, range(len(window))).swapaxes(-1, -2)
        inputs = _forward(slope, turned, strides, padding)
    else:
        [inputs] = jax.vjp(lambda x: _lax(x, kernel, strides, padding), x)[1](slope)
    x = _padded(x, window, strides, padding)
    flat = slope.reshape(-1, slope.shape[-1])
    views = _shifted(x, window, strides, slope.shape[1:-1])
    each = [view.reshape(-1, view.shape[-1]).T @ flat for view in views]
    return inputs, jnp.stack(each).reshape(kernel.shape)


_by_place.defvjp(_by_place_forward, _by_place_backward)


def _lax(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    axes = "DHW"[-len(strides) :]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names)


def _patches(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    window = kernel.shape[:-2]
    x = _padded(x, window, strides, padding)
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)]
    patches = jnp.concatenate(_shifted(x, window, strides, sizes), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _padded(x: Array, window: Sequence[int], strides: Sequence[int], padding: Padding) -> Array:
    """Zeros around the axes after the first, as many as the window asks for."""
    spanned = x.shape[1 : 1 + len(window)]
    pads = lax.padtype_to_pads(spanned, window, strides, padding)
    return jnp.pad(x, [(0, 0), *pads] + [(0, 0)] * (x.ndim - 1 - len(window)))


def _shifted(
    x: Array, window: Sequence[int], strides: Sequence[int], sizes: Sequence[int]
) -> list[Array]:
    """One strided view of `x` for each place in the window, in the order of a kernel's entries.

    The window spans the axes after the first; what lies behind is taken whole.
    """
    views = []
    for place in np.ndindex(*window):
        cuts = [
            slice(o, o + s * (n - 1) + 1, s) for o, s, n in zip(place, strides, sizes, strict=True)
        ]
        views.append(x[(slice(None), *cuts)])
    return views
