"""Apply batch normalization in an encoder that trains: over valid frames and all devices.

An encoder gets frames, not clips. It does not know which of them are padding, that a batch may be
spread over several devices, or which of its blocks do not train. This module handles all three from
outside while the encoder is called in training, so that a user's encoder may contain plain
`flax.linen.BatchNorm`.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax


@contextlib.contextmanager
def batch_statistics(
    mask_N: Array | None, axis_name: str | None = None, frozen: Collection[tuple[str, ...]] = ()
) -> Iterator[None]:
    """Make each `nn.BatchNorm` of an encoder use the right frames in training.

    Statistics are over the valid frames (or clips) of all devices; if there are none, the running
    statistics stay the same. Modules in `frozen` normalize by the running statistics and do not
    change them.

    Args:
        mask_N: False for input frames (or clips) of the encoder that are padding; None: no padding.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        frozen: Paths of modules whose statistics stay as they are.
    """

    def normalize(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        ours = isinstance(module, nn.BatchNorm) and context.method_name == "__call__"
        if not ours or module.is_initializing() or not _takes_batch(module, args, kwargs):
            return call(*args, **kwargs)
        if any(module.path[: len(path)] == path for path in frozen):
            return _by_running(module, call, args[0])
        if kwargs.get("mask") is not None:  # the call has its own mask
            return call(*args, **kwargs)
        return _by_batch(module, call, args[0], mask_N, axis_name)

    with nn.intercept_methods(normalize):
        yield


def _takes_batch(module: nn.BatchNorm, args: tuple, kwargs: dict) -> bool:
    """Return True if the call would normalize by the batch's statistics."""
    argument = args[1] if len(args) > 1 else kwargs.get("use_running_average")
    running = module.use_running_average if argument is None else argument
    return bool(args) and not running


def _by_running(module: nn.BatchNorm, call: Callable, x: Array) -> Array:
    """Normalize by the statistics in the collection `batch_stats`."""
    if module.use_running_average is None:
        return call(x, use_running_average=True)
    before = module.use_running_average
    object.__setattr__(module, "use_running_average", True)  # only for this call
    try:
        return call(x)
    finally:
        object.__setattr__(module, "use_running_average", before)


def _by_batch(
    module: nn.BatchNorm, call: Callable, x: Array, mask_N: Array | None, axis_name: str | None
) -> Array:
    count, *now = _moments(module, x, mask_N, axis_name or module.axis_name)
    running: list[Any] = [module.get_variable("batch_stats", name) for name in ("mean", "var")]
    share = jnp.where(count > 0, 1 - module.momentum, 0)
    _put(module, now)
    y = _by_running(module, call, x)
    _put(module, [old + share * (new - old) for old, new in zip(running, now, strict=True)])
    return y


def _put(module: nn.BatchNorm, values: Sequence[Array]) -> None:
    for name, value in zip(("mean", "var"), values, strict=True):
        module.put_variable("batch_stats", name, value)


def _moments(
    module: nn.BatchNorm, x: Array, mask_N: Array | None, axis_name: str | None
) -> tuple[Array, Array, Array]:
    """Return the count of valid positions, mean and variance of each feature."""
    axes = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
    features = {axis % x.ndim for axis in axes}
    positions = tuple(axis for axis in range(x.ndim) if axis not in features)
    weight = jnp.ones((1,) * x.ndim, bool)
    if mask_N is not None and 0 in positions and len(mask_N) == len(x):
        weight = mask_N.reshape(-1, *(1,) * (x.ndim - 1))
    weight = jnp.broadcast_to(weight, x.shape)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def total(values: Array) -> Array:
        summed = jnp.sum(jnp.where(weight, values, 0), positions)
        return lax.psum(summed, axis_name) if axis_name else summed

    def row(values: Array) -> Array:
        return jnp.expand_dims(values, positions)

    count = total(jnp.ones_like(x))
    divisor = jnp.maximum(count, 1)
    mean = total(x) / divisor
    # The mean of squared deviations: E[x²] - E[x]² would lose precision in float32.
    return count, mean, total((x - row(mean)) ** 2) / divisor
