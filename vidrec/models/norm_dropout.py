"""Define batch normalization over valid frames, and dropout with a PRNG key for each clip.

Dimension letters: B clips, T frames, U units.
"""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.errors import UserError
from vidrec.models import cells
from vidrec.models.inputs import CallOptions, spread, zero_padding


def drop(x_BTU: Array, rate: Array | float, keys_B: Array) -> Array:
    """Apply dropout: set a share `rate` of the outputs to 0 and scale the rest up.

    Args:
        x_BTU: Outputs of a layer.
        rate: Dropout rate from 0 to 1, a number or a traced array.
        keys_B: A PRNG key for each clip.
    """

    def keep(key: Array, x_TU: Array) -> Array:
        return jax.random.bernoulli(key, 1 - rate, x_TU.shape)

    mask = jax.vmap(keep)(keys_B, x_BTU)
    # At rate 1 nothing is kept; the lower bound avoids 0 · inf in the gradient.
    scale = 1 / jnp.maximum(1 - jnp.asarray(rate, x_BTU.dtype), 1e-6)
    return jnp.where(mask, x_BTU * scale, 0)


class BatchNorm(nn.Module):
    """Normalize each unit by its statistics over all valid (clip, frame) pairs of the batch.

    The running statistics (collection `batch_stats`) are used if `train` is False.

    Attributes:
        axis_name: Name of the device axis over which a batch is split: sums and counts are added
            over all devices before they are divided; None: one device.
        momentum: Share of the old running statistics that is kept after a batch.
        epsilon: Added to the variance.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BTU: Array, mask_BT: Array | None, train: bool) -> Array:
        """Return x normalized, (B, T, U)."""
        units = x_BTU.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (units,))
        shift = self.param("bias", nn.initializers.zeros, (units,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (units,))
        var = self.variable("batch_stats", "var", jnp.ones, (units,))
        if not train:
            return self._apply(x_BTU, mean.value, var.value, scale, shift)
        count, now_mean, now_var = self._moments(x_BTU, mask_BT)
        if not self.is_initializing():
            # A batch without valid frames does not change the running statistics.
            share = jnp.where(count > 0, 1 - self.momentum, 0)
            mean.value = mean.value + share * (now_mean - mean.value)
            var.value = var.value + share * (now_var - var.value)
        return self._apply(x_BTU, now_mean, now_var, scale, shift)

    def _apply(self, x: Array, mean: Array, var: Array, scale: Array, shift: Array) -> Array:
        factor = scale * lax.rsqrt(var + self.epsilon)
        return cells.add_bias((x - self._row(mean, x)) * self._row(factor, x), shift)

    def _moments(self, x_BTU: Array, mask_BT: Array | None) -> tuple[Array, Array, Array]:
        """Return the count of valid positions, mean and variance of each unit."""
        mask_BT = jnp.ones(x_BTU.shape[:2], bool) if mask_BT is None else mask_BT
        places = tuple(range(x_BTU.ndim - 1))
        weight = jnp.broadcast_to(spread(mask_BT, x_BTU), (*x_BTU.shape[:-1], 1))

        def total(values: Array) -> Array:
            summed = jnp.sum(jnp.where(weight, values, 0), places)
            return lax.psum(summed, self.axis_name) if self.axis_name else summed

        count = total(jnp.ones_like(x_BTU[..., :1]))[0]
        divisor = jnp.maximum(count, 1)
        mean = total(x_BTU) / divisor
        # The mean of squared deviations: E[x²] - E[x]² would lose precision in float32.
        var = total((x_BTU - self._row(mean, x_BTU)) ** 2) / divisor
        return count, mean, var

    def _row(self, statistic: Array, x: Array) -> Array:
        return statistic.reshape((1,) * (x.ndim - 1) + (-1,))


class NormDropout(nn.Module):
    """Batch normalization, then dropout; outputs of padded frames are 0.

    What is dropped depends on the clip's key, the layer (by this module's name), the frame and the
    unit. It does not depend on other clips of the batch or on padding.
    """

    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x_BTU: Array, mask_BT: Array | None, options: CallOptions) -> Array:
        """Return x normalized and, in training, with units dropped.

        Raises:
            UserError: Dropout is active, but there are no keys.
        """
        if self.batch_norm:
            x_BTU = BatchNorm(self.axis_name, name="norm")(x_BTU, mask_BT, options.train)
        rate = self.dropout if options.dropout is None else options.dropout
        # The value of a traced rate is not read: trials with and without dropout share a program.
        drops = not (isinstance(rate, (int, float)) and rate == 0)
        if options.train and drops and not self.is_initializing():
            if options.keys_B is None:
                raise UserError("keys_B: dropout in training needs a PRNG key for each clip")
            layer = zlib.crc32((self.name or "").encode())
            keys_B = jax.vmap(lambda key: jax.random.fold_in(key, layer))(options.keys_B)
            x_BTU = drop(x_BTU, rate, keys_B)
        return zero_padding(x_BTU, mask_BT)
