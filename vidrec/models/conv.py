"""Compute convolution and pooling in the form that is fast on the platform.

On a CPU the kernel gradient of `lax.conv` is slow. It takes up to ten times as long as the products
that it sums, and longer inside a scan. Under vmap it becomes a grouped convolution. Cutting out
patches and computing one matrix product needs more memory and is fast in all these cases. Outside
of loops the forward pass of `lax.conv` is as fast and takes less memory. So only its kernel
gradient is replaced there, by products of the patches of a few maps at a time. If nothing is
differentiated, 3x3 windows are computed with less than half of the multiplications. On a CPU,
depthwise convolutions are sums of shifted maps.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Form = Literal["auto", "outside_scan", "no_grad", "lax", "patches"]
# Zero padding: SAME keeps the size, VALID adds none; or (before, after) for each axis.
Padding = Literal["SAME", "VALID"] | tuple[tuple[int, int], ...]
NARROW = 81  # largest number of inputs of a window for which patches are faster and small
# Smallest numbers of channels, and of positions in all maps, for which the fewer multiplications
# of Winograd's algorithm outweigh its additional sums.
WIDE, PLACES = 32, 1024
# Largest size, in bytes, of the patches that one product of a kernel gradient reads. They fit into
# a core's cache.
NEAR = 2**20


def convolve(
    x: Array,
    kernel: Array,
    stride: int = 1,
    padding: Padding = "SAME",
    form: Form = "auto",
) -> Array:
    """Convolve over two or three dimensions.

    Args:
        x: Maps (B, H, W, C), or (B, T, H, W, C).
        kernel: (kh, kw, C, out), or (kt, kh, kw, C, out).
        stride: Stride of all axes.
        padding: SAME, VALID, or the numbers of zeros before and after each axis.
        form: `auto` is patches on a CPU, lax.conv elsewhere. Use `no_grad` if nothing is
            differentiated, and `outside_scan` if there is no scan, map or vmap around the call.
            Both are faster than `auto` on a CPU, and lax.conv elsewhere. `lax` is lax.conv and
            `patches` is patches on every platform.
    """
    if stride == 1 and padding == tuple((k // 2, k // 2) for k in kernel.shape[:-2]):
        padding = "SAME" if all(k % 2 for k in kernel.shape[:-2]) else padding
    strides = (stride,) * (kernel.ndim - 2)
    if form == "no_grad":
        on_cpu = partial(_no_grad, strides=strides, padding=padding)
        elsewhere = partial(_lax, strides=strides, padding=padding)
        # An exported network may contain both forms.
        return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)
    on_cpu_form = {"auto": _patches, "outside_scan": _outside_scan}
    if form in on_cpu_form:
        work = on_cpu_form[form] if jax.default_backend() == "cpu" else _lax
    else:
        work = _lax if form == "lax" else _patches
    return work(x, kernel, strides, padding)


def depthwise(
    x: Array, kernel: Array, stride: int = 1, padding: Padding = "SAME", form: Form = "auto"
) -> Array:
    """Convolve each channel separately (depthwise), over two or three dimensions.

    Args:
        x: Maps (B, H, W, C), or (B, T, H, W, C).
        kernel: (kh, kw, 1, C), or (kt, kh, kw, 1, C).
        stride: Stride of all axes.
        padding: SAME, VALID, or the numbers of zeros before and after each axis.
        form: `lax` is a grouped lax.conv, and `patches` is a sum of shifted maps. All other forms
            are the sum on a CPU, where a grouped convolution takes 5 to 100 times as long
            (docs/explanation/performance.md), and the grouped convolution elsewhere.
    """
    strides = (stride,) * (kernel.ndim - 2)
    summed = partial(_shifted_sum, strides=strides, padding=padding)
    grouped = partial(_lax, strides=strides, padding=padding, groups=x.shape[-1])
    if form in ("lax", "patches"):
        return (grouped if form == "lax" else summed)(x, kernel)
    if form == "no_grad":  # as in `convolve`
        return lax.platform_dependent(x, kernel, cpu=summed, default=grouped)
    return (summed if jax.default_backend() == "cpu" else grouped)(x, kernel)


def _shifted_sum(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """Sum the maps shifted to each position in the window, times the kernel's weights there.

    The sum and later operations on it (bias, normalization, ReLU) are one pass over the maps.
    """
    window = kernel.shape[:-2]
    x = _padded(x, window, strides, padding)
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)]
    views = _shifted(x, window, strides, sizes)
    weights = kernel.reshape(len(views), *(1,) * (x.ndim - 1), x.shape[-1])
    return reduce(jnp.add, [view * weight for view, weight in zip(views, weights, strict=True)])


def max_pool(x: Array, window: Sequence[int], stride: Sequence[int] | None = None) -> Array:
    """Max-pool over the axes between batch and channels, without padding.

    Maxima of strided slices are computed, since on a CPU their gradient is several times faster
    than that of `lax.reduce_window`, which is a select-and-scatter.
    """
    window, stride = tuple(window), tuple(stride or window)
    return _pooled(x, window) if window == stride else _maxima(x, window, stride)


def _maxima(x: Array, window: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, stride, strict=True)]
    return reduce(jnp.maximum, _shifted(x, window, stride, sizes))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pooled(x: Array, window: tuple[int, ...]) -> Array:
    """Max-pool adjacent windows, with a gradient in one pass; equal maxima share the gradient."""
    return _maxima(x, window, window)


def _pooled_forward(x: Array, window: tuple[int, ...]) -> tuple[Array, Any]:
    y = _pooled(x, window)
    return y, (x, y)


def _pooled_backward(window: tuple[int, ...], residuals: Any, gradient: Array) -> tuple[Array]:
    x, y = residuals
    inside = [n * k for n, k in zip(y.shape[1:-1], window, strict=True)]
    tiled = (len(x), *(n for pair in zip(y.shape[1:-1], window, strict=True) for n in pair), -1)
    axes = tuple(range(2, 2 * len(window) + 1, 2))  # of positions in a window
    tiles = x[:, *map(slice, inside)].reshape(tiled)
    # Summed view by view: a reduction over the tiles' axes would take longer than all other steps.
    views = _shifted(x, window, window, y.shape[1:-1])
    share = gradient / sum((view == y).astype(gradient.dtype) for view in views)
    largest, share = tiles == jnp.expand_dims(y, axes), jnp.expand_dims(share, axes)
    inner = jnp.where(largest, share, 0).reshape(len(x), *inside, -1)
    rest = [(0, n - k) for n, k in zip(x.shape[1:-1], inside, strict=True)]
    return (jnp.pad(inner, [(0, 0), *rest, (0, 0)]),)


_pooled.defvjp(_pooled_forward, _pooled_backward)


def _no_grad(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """Convolve in the form that is fastest on a CPU if nothing is differentiated."""
    if set(kernel.shape[:-2]) == {1} and x.dtype != jnp.bfloat16:
        return _patches(x, kernel, strides, padding)  # a matrix product
    # For 2x2 maps of 512 channels and a 3x3 window, lax.conv took 800 ms and patches took 11 ms.
    if any(n < k for n, k in zip(x.shape[1:-1], kernel.shape[:-2], strict=True)):
        return _patches(x, kernel, strides, padding)
    fits = kernel.shape[:-2] == (3, 3) and strides == (1, 1) and padding == "SAME"
    large = fits and min(kernel.shape[-2:]) >= WIDE and math.prod(x.shape[:3]) >= PLACES
    if large and x.dtype != jnp.bfloat16:
        return _winograd(x, kernel)
    return _lax(x, kernel, strides, padding)


def _winograd(x: Array, kernel: Array) -> Array:
    """Convolve with a 3x3 window by tiles of 2x2 outputs: 16 products for each tile, not 36.

    This raised VGG16 from 3.3 to 4.9 frames a second (docs/explanation/performance.md).

    The algorithm is F(2x2, 3x3) of Lavin and Gray, 2016. Its sums are as exact as those of `_lax`,
    up to a few units in the last place.
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
    """Apply `mix` along the columns of a grid, then along its rows."""
    columns = [mix(list(column)) for column in zip(*grid, strict=True)]
    return [mix(list(row)) for row in zip(*columns, strict=True)]


def _mixed(d: list) -> list:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _joined(m: list) -> list:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _outside_scan(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """Convolve in the form that is fastest on a CPU outside of scan, map and vmap."""
    if kernel.ndim == 5:
        return _by_frame(x, kernel, strides, padding)
    if math.prod(kernel.shape[:-1]) <= NARROW:
        return _patches(x, kernel, strides, padding)
    return _by_parts(x, kernel, strides, padding)


def _by_frame(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """Convolve over three dimensions by a 2-D convolution: a window's frames become channels."""
    (span, *window, inputs, out), (step, *steps) = kernel.shape, strides
    first, rest = (padding, padding) if isinstance(padding, str) else (padding[:1], padding[1:])
    x = _padded(x, (span,), (step,), first)
    count = (x.shape[1] - span) // step + 1
    wide = jnp.concatenate(_shifted(x, (span,), (step,), (count,)), axis=-1)
    flat = jnp.moveaxis(kernel, 0, -3).reshape(*window, span * inputs, out)
    y = _outside_scan(wide.reshape(-1, *wide.shape[2:]), flat, tuple(steps), rest)
    return y.reshape(-1, count, *y.shape[1:])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_parts(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    """Convolve, with a kernel gradient that is a sum of products, each over some of the patches.

    This took 32 instead of 50 ms for 256 maps of 8x8, from 32 to 64 channels, with a 5x5 window
    (docs/explanation/performance.md).
    """
    return _no_grad(x, kernel, strides, padding)


def _by_parts_forward(
    x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding
) -> tuple[Array, Any]:
    return _no_grad(x, kernel, strides, padding), (x, kernel)


def _by_parts_backward(
    strides: tuple[int, ...], padding: Padding, residuals: Any, gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    window = kernel.shape[:-2]
    if set(strides) == {1} and padding == "SAME" and all(k % 2 for k in window):
        turned = jnp.flip(kernel, range(len(window))).swapaxes(-1, -2)
        inputs = _no_grad(gradient, turned, strides, padding)
    else:
        [inputs] = jax.vjp(lambda x: _lax(x, kernel, strides, padding), x)[1](gradient)
    return inputs, _kernel_gradient(x, gradient, window, strides, padding).reshape(kernel.shape)


_by_parts.defvjp(_by_parts_forward, _by_parts_backward)


def _kernel_gradient(
    x: Array, gradient: Array, window: Sequence[int], strides: Sequence[int], padding: Padding
) -> Array:
    """Return the gradient of the kernel (positions in the window · in, out).

    It is computed from whole patches, for as many maps at a time as fit into the cache. If the
    patches of a single map do not fit, it is computed for all maps at once, one position in the
    window after another.
    """
    x, sizes = _padded(x, window, strides, padding), gradient.shape[1:-1]
    one = math.prod((*sizes, *window)) * x.shape[-1] * x.dtype.itemsize
    if one > NEAR:
        views = _shifted(x, window, strides, sizes)
        return jnp.stack([_rows(view).T @ _rows(gradient) for view in views])
    count = max(n for n in range(1, NEAR // one + 1) if len(x) % n == 0)
    some = [maps.reshape(-1, count, *maps.shape[1:]) for maps in (x, gradient)]
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add(total: Array, of: list[Array]) -> tuple[Array, None]:
        patches = jnp.concatenate(_shifted(of[0], window, strides, sizes), axis=-1)
        return total + jnp.matmul(_rows(of[1]).T, _rows(patches), preferred_element_type=wide), None

    begin = jnp.zeros((gradient.shape[-1], math.prod(window) * x.shape[-1]), wide)
    return lax.scan(add, begin, some)[0].T.astype(x.dtype)


def _rows(maps: Array) -> Array:
    return maps.reshape(-1, maps.shape[-1])


def _lax(
    x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding, groups: int = 1
) -> Array:
    axes = "DHW"[-len(strides) :]
    names = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=names, feature_group_count=groups
    )


def _patches(x: Array, kernel: Array, strides: tuple[int, ...], padding: Padding) -> Array:
    window = kernel.shape[:-2]
    x = _padded(x, window, strides, padding)
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)]
    patches = jnp.concatenate(_shifted(x, window, strides, sizes), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _padded(x: Array, window: Sequence[int], strides: Sequence[int], padding: Padding) -> Array:
    """Pad with zeros the axes that the window spans, which follow the first axis."""
    spanned = x.shape[1 : 1 + len(window)]
    named = isinstance(padding, str)
    pads = lax.padtype_to_pads(spanned, window, strides, padding) if named else padding  # type: ignore[arg-type]
    return jnp.pad(x, [(0, 0), *pads] + [(0, 0)] * (x.ndim - 1 - len(window)))


def _shifted(
    x: Array, window: Sequence[int], strides: Sequence[int], sizes: Sequence[int]
) -> list[Array]:
    """Return a strided view of `x` for each position in the window, in the kernel's order.

    The window spans the axes that follow the first axis; the axes after these are taken whole.
    """
    views = []
    for place in np.ndindex(*window):
        cuts = [
            slice(o, o + s * (n - 1) + 1, s) for o, s, n in zip(place, strides, sizes, strict=True)
        ]
        views.append(x[(slice(None), *cuts)])
    return views
