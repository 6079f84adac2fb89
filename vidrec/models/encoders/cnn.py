"""Define a small convolutional network with frozen, random weights: one frame to one vector.

It is useful without training because of its pooling. The pooling says where in the frame each
channel responds, how far the response spreads, and how all channels respond at the position of the
largest energy. Positions are still recognisable after a random projection and with few clips,
whereas flattened maps of the same network overfit.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.models import conv
from vidrec.models.encoders import base
from vidrec.models.layers import Dense, initialisers

SIDE = 32  # about the size to which frames are shrunk, so that filters see the same at any size
STRIDE = 2  # of the filters
NEARBY = 1.5  # standard deviation of the blur of energy, in positions of the map
CALM = 1e-6  # added to mean squares, so that a blank frame does not cause a division by 0


class Filters(nn.Module):
    """One convolution without bias."""

    channels: int
    window: int
    form: conv.Form = "lax"
    initialiser: str = "smooth"
    dtype: base.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return responses (B, h, w, channels)."""
        shape = (self.window, self.window, x.shape[-1], self.channels)
        own = self.initialiser == "smooth"
        start = _smooth if own else initialisers(self.initialiser, math.prod(shape[:-1])).kernel
        kernel = self.param("kernel", start, shape).astype(self.dtype)
        return conv.convolve(x, kernel, STRIDE, "SAME", self.form)


class Cnn(base.Encoder):
    """Random filters on a frame minus its mean colour; responses are separated by their sign.

    Attributes:
        pooling: moments (B,17*channels+2), see `moments`; or a pooling of `base.Encoder`. The maps
            of these hold each filter's positive responses, then the negative ones:
            (B,h,w,2*channels).
        initialiser: "smooth": slightly blurred noise, mostly grey; or one of `base.Encoder`.
        channels: Number of filters.
        window: Height and width of a filter, in pixels of the shrunk frame.
    """

    pooling: str = "moments"
    initialiser: str = "smooth"
    channels: int = 16
    window: int = 6

    VERSION: ClassVar[int] = 1
    POOLINGS: ClassVar = ("moments", *base.Encoder.POOLINGS)
    blocks: ClassVar = ("filters",)

    def maps(self, x: Array, train: bool) -> Array:
        """Return the filters' responses."""
        x = _shrink(x, max(1, min(x.shape[1:3]) // SIDE))
        # Brightness and tint of the whole frame say nothing about positions.
        x = x - x.mean(axis=(1, 2), keepdims=True)
        fields = {"channels": self.channels, "window": self.window}
        return self.block(Filters, "filters", train, **fields)(x)

    def read(self, maps: Array) -> Array:
        """Return moments, or another pooling of the positive and the negative responses."""
        if self.pooling == "moments":
            return moments(maps.astype(jnp.float32))
        return super().read(_signs(maps))

    def dense(self, width: int, name: str) -> Dense:
        """Return a dense layer, with "he" instead of "smooth", which is for filters only."""
        start = "he" if self.initialiser == "smooth" else self.initialiser
        return Dense(width, start, self.dtype, name=name)


def moments(answers_BHWC: Array) -> Array:
    """Return where and how strongly each filter responds, and all responses at the peak of energy.

    Energy is the mean square of all filters' responses at a position, blurred over nearby positions
    and divided by its mean over the frame. A shape of several tones has more energy than a texture,
    whose tones are further apart.

    Positive and negative responses are two channels for each filter. Each channel is divided by its
    root mean square, and the energy is added. The exponential of this sum is the weight of a
    position. Five features of a channel are the weighted means of x, y, x², y² and xy, with x and y
    from -1 to 1. Three more are the logarithms of the sum of weights over the largest weight, of
    the largest weight, and of the root mean square. These are (B, 16*C) features.

    Another (B, C+2) are each filter's response and the energy at the position of the largest
    energy, and the logarithm of the mean energy.
    """
    size, height, width, channels = answers_BHWC.shape
    energy_BP, level_B = _energy(answers_BHWC)
    answers_BPC = answers_BHWC.reshape(size, height * width, channels)
    signs_BPD = _signs(answers_BPC)
    scale_BD = jnp.sqrt((signs_BPD**2).mean(axis=1) + CALM)
    salience_BPD = signs_BPD / scale_BD[:, None] + energy_BP[..., None]
    # Computed once: the gradient of `max` divides by the number of positions that equal the
    # maximum. It is 0 if the compiler computes the salience twice, with different rounding.
    salience_BPD = lax.optimization_barrier(salience_BPD)
    peak_BD = salience_BPD.max(axis=1)
    weights_BPD = jnp.exp(salience_BPD - peak_BD[:, None])
    sums_BDM = jnp.einsum("bpd,pm->bdm", weights_BPD, _powers(height, width))
    total_BD = sums_BDM[..., 0]
    places_BDM = sums_BDM[..., 1:] / total_BD[..., None]
    # Sharp enough to select one position, whose responses tell how the shape there is rotated.
    liveliest_BP = jax.nn.softmax(4 * energy_BP, axis=1)
    seen_BC = jnp.einsum("bp,bpc->bc", liveliest_BP, answers_BPC) / jnp.sqrt(level_B)[:, None]
    parts = (
        places_BDM.reshape(size, -1),
        jnp.log(total_BD),
        peak_BD,
        jnp.log(scale_BD),
        seen_BC,
        energy_BP.max(axis=1, keepdims=True),
        jnp.log(level_B)[:, None],
    )
    return jnp.concatenate(parts, axis=-1)


def _signs(x: Array) -> Array:
    return jnp.concatenate([nn.relu(x), nn.relu(-x)], axis=-1)


def _energy(answers_BHWC: Array) -> tuple[Array, Array]:
    """Return the energy at every position divided by its mean, (B, H*W), and the mean, (B,)."""
    power_BHW = (answers_BHWC**2).mean(axis=-1)
    rows, columns = (_blur(n, NEARBY) for n in power_BHW.shape[1:])
    nearby = jnp.einsum("yi,xj,bij->byx", rows, columns, power_BHW)
    nearby = nearby.reshape(len(nearby), -1) + CALM
    level_B = nearby.mean(axis=1)
    return nearby / level_B[:, None], level_B


def _powers(height: int, width: int) -> Array:
    """Return 1, x, y, x², y², xy of every position, (H*W, 6)."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    powers = jnp.stack([jnp.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    return powers.reshape(height * width, 6)


def _shrink(x_BHWC: Array, factor: int) -> Array:
    """Return means over squares of pixels.

    They are computed as a sum of strided slices, since pooling is slow on a CPU. Rows and columns
    that do not fill a square are left out.
    """
    height, width = (n // factor * factor for n in x_BHWC.shape[1:3])
    squares = [
        x_BHWC[:, i:height:factor, j:width:factor] for i in range(factor) for j in range(factor)
    ]
    return sum(squares[1:], squares[0]) / factor**2


def _smooth(key: Array, shape: tuple[int, ...], dtype: base.Dtype = jnp.float32) -> Array:
    """Draw kernels (h, w, in, out) of unit norm that fade towards the window's edges.

    The colour channels share most of the noise, since brightness tells more than tint.
    """
    height, width, colours, filters = shape
    grey, tint = (
        jax.random.normal(half, (height, width, inputs, filters))
        for half, inputs in zip(jax.random.split(key), (1, colours), strict=True)
    )
    rows, columns = (_fade(n)[:, None] * _blur(n, 0.5) for n in (height, width))
    kernel = jnp.einsum("yi,xj,ijco->yxco", rows, columns, 0.8 * grey + 0.6 * tint)
    norm = jnp.sqrt((kernel**2).sum(axis=(0, 1, 2), keepdims=True))
    return (kernel / norm).astype(dtype)


def _fade(window: int) -> Array:
    """Return a Gaussian whose standard deviation is a quarter of the window, (window,)."""
    position = jnp.arange(window) - (window - 1) / 2
    return jnp.exp(-((4 * position / window) ** 2) / 2)


def _blur(places: int, deviation: float) -> Array:
    """Return the matrix of a Gaussian blur along an axis, (places, places); rows sum to 1."""
    position = jnp.arange(places)
    return jax.nn.softmax(-(((position[:, None] - position[None]) / deviation) ** 2) / 2, axis=1)
