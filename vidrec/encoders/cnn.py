"""A small convolutional network to be used frozen at random: one frame to one vector.

What makes it of use without training is its readout. A spatial softmax turns each channel's map
into a cloud of points whose moments say *where* in the frame the channel answers and how far that
spreads. Positions survive a random projection and few clips; flattened maps of the same network
overfit.
"""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vidrec.encoders import base, conv

SIDE = 32  # frames are shrunk to about this before the filters, which so see the same at any size
SHARPNESS = (
    2.0  # of the spatial softmax: weights are exp(SHARPNESS * answer / its root mean square)
)


class Filters(nn.Module):
    """One convolution at stride 2; its two signs become two channels."""

    channels: int
    window: int
    form: conv.Form = "lax"
    initialiser: str = "smooth"
    dtype: base.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        start = _initialiser(self.initialiser)
        shape = (self.window, self.window, x.shape[-1], self.channels)
        kernel = self.param("kernel", start, shape).astype(self.dtype)
        y = conv.conv2d(x, kernel, None, 2, "SAME", self.form)
        return jnp.concatenate([nn.relu(y), nn.relu(-y)], axis=-1)


class Cnn(base.Encoder):
    """Random filters on a frame less its mean colour.

    Attributes:
        readout: moments (B,16*channels), see `moments`; or as the other encoders.
        initialiser: "smooth": noise blurred over neighbours, mostly grey; or as the others.
        channels: filters, each of which makes two channels of the map.
        window: of a filter, in pixels of the shrunk frame.
    """

    readout: str = "moments"
    initialiser: str = "smooth"
    channels: int = 16
    window: int = 6

    VERSION: ClassVar[int] = 1
    READOUTS: ClassVar = (*base.Encoder.READOUTS, "moments")
    blocks: ClassVar = ("filters",)

    def maps(self, x: Array, train: bool) -> Array:
        x = _shrink(x, max(1, min(x.shape[1:3]) // SIDE))
        # Brightness and tint of the whole frame say nothing of places.
        x = x - x.mean(axis=(1, 2), keepdims=True)
        fields = {"channels": self.channels, "window": self.window}
        return self.block(Filters, "filters", train, **fields)(x)

    def read(self, maps: Array) -> Array:
        if self.readout == "moments":
            return moments(maps.astype(jnp.float32))
        return super().read(maps)


def moments(maps_BHWD: Array, sharpness: float = SHARPNESS) -> Array:
    """Where each channel answers, and how much: (B, 8*D) in float32.

    A channel's answers over their root mean square, times `sharpness`, go through a softmax over
    places. Its features are the mean of x, y, x², y² and xy under these weights (-1 to 1 across the
    frame), the logarithm of the root mean square, the largest answer over it, and the logarithm of
    how many places share that (the sum of the weights over the largest).
    """
    size, height, width, channels = maps_BHWD.shape
    answers_BPD = maps_BHWD.reshape(size, height * width, channels)
    # A blank frame has no answers: the small number makes its weights even.
    scale_BD = jnp.sqrt((answers_BPD**2).mean(axis=1) + 1e-6)
    answers_BPD = answers_BPD / scale_BD[:, None]
    peak_BD = answers_BPD.max(axis=1)
    weights_BPD = jnp.exp(sharpness * (answers_BPD - peak_BD[:, None]))
    sums_BDM = jnp.einsum("bpd,pm->bdm", weights_BPD, _powers(height, width))
    total_BD = sums_BDM[..., 0]
    means_BDM = sums_BDM[..., 1:] / total_BD[..., None]
    strength = [jnp.log(scale_BD), peak_BD, jnp.log(total_BD)]
    return jnp.concatenate([means_BDM.reshape(size, -1), *strength], axis=-1)


def _powers(height: int, width: int) -> Array:
    """1, x, y, x², y², xy of every place, (H*W, 6)."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    powers = jnp.stack([jnp.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    return powers.reshape(height * width, 6)


def _shrink(x_BHWC: Array, factor: int) -> Array:
    """Means over squares of pixels, as a sum of strided slices: quick on a CPU, as pooling is not.

    Rows and columns that fill no square are left out.
    """
    height, width = (n // factor * factor for n in x_BHWC.shape[1:3])
    squares = [
        x_BHWC[:, i:height:factor, j:width:factor] for i in range(factor) for j in range(factor)
    ]
    return sum(squares) / factor**2


def _smooth(key: Array, shape: tuple[int, ...], dtype: base.Dtype = jnp.float32) -> Array:
    """Random kernels (h, w, in, out) of unit norm that pixel noise passes badly.

    Noise, four fifths of it common to the colours, is blurred over neighbours by a Gaussian and
    fades towards the window's edges.
    """
    height, width, colours, _ = shape
    grey, tint = (
        jax.random.normal(half, (height, width, inputs, shape[-1]), dtype)
        for half, inputs in zip(jax.random.split(key), (1, colours), strict=True)
    )
    rows, columns = _blur(height), _blur(width)
    kernel = jnp.einsum("ai,bj,ijcd->abcd", rows, columns, 0.8 * grey + 0.6 * tint)
    return (
        kernel / jnp.linalg.norm(kernel.reshape(-1, shape[-1]), axis=0)[None, None, None]
    ).astype(dtype)


def _blur(window: int) -> Array:
    """Blur by a deviation of 1, then fade by one of a quarter of the window, (window, window)."""
    place = jnp.arange(window) - (window - 1) / 2
    blur = jnp.exp(-((place[:, None] - place[None]) ** 2) / 2)
    return jnp.exp(-((4 * place / window) ** 2) / 2)[:, None] * blur


def _initialiser(name: str) -> Callable:
    return _smooth if name == "smooth" else base.INITIALISERS[name]
