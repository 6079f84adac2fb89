"""Define base classes of encoders: normalized pixels, blocks of convolutions, and poolings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from vidrec.models import conv, layers
from vidrec.models.encoders import preprocess
from vidrec.models.encoders.weights.names import PretrainedNet
from vidrec.models.layers import Dense


def trained_blocks(trainable: str, blocks: Sequence[str]) -> tuple[str, ...]:
    """Return the blocks that train.

    Everything that is not a block is the head, which trains unless the encoder is frozen.
    """
    counts = {"none": 0, "head": 0, "last_block": 1, "last_two_blocks": 2, "all": len(blocks)}
    return tuple(blocks[len(blocks) - min(counts[trainable], len(blocks)) :])


class Conv(nn.Module):
    """A 2-D or 3-D convolution, computed by `conv.convolve`.

    Attributes:
        channels: Number of output channels.
        window: Size of the kernel along each axis.
        stride: Stride of all axes.
        padding: SAME, VALID, or the numbers of zeros before and after each axis.
        form: See `conv.convolve`.
        initialiser: Convention of the initial kernel, see `layers.initialisers`.
        dtype: Type of the arithmetic; parameters stay in float32.
        pool: Window of a max-pool before the bias; empty: no pool. The result is the same as with a
            pool after bias and ReLU, which then compute fewer values.
        use_bias: False for a layer that batch normalization follows.
    """

    channels: int
    window: tuple[int, ...]
    stride: int = 1
    padding: conv.Padding = "SAME"
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32
    pool: tuple[int, ...] = ()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, …, channels)."""
        shape = (*self.window, x.shape[-1], self.channels)
        begin = layers.initialisers(self.initialiser, math.prod(shape[:-1]))
        kernel = self.param("kernel", begin.kernel, shape).astype(self.dtype)
        x = conv.convolve(x.astype(self.dtype), kernel, self.stride, self.padding, self.form)
        if self.pool:
            # A clip that is too short for all pools is pooled as far as possible.
            window = [min(k, n) for k, n in zip(self.pool, x.shape[1:-1], strict=True)]
            x = conv.max_pool(x, window)
        if not self.use_bias:
            return x
        bias = self.param("bias", begin.bias, (self.channels,))
        return layers.add_bias(x, bias.astype(self.dtype))


class Depthwise(nn.Module):
    """A depthwise convolution (each channel separately) without bias, by `conv.depthwise`.

    Attributes:
        window: Size of the kernel along each axis.
        stride: Stride of all axes.
        padding: SAME, VALID, or the numbers of zeros before and after each axis.
        form: See `conv.depthwise`.
        initialiser: Convention of the initial kernel, see `layers.initialisers`.
        dtype: Type of the arithmetic; parameters stay in float32.
    """

    window: tuple[int, ...]
    stride: int = 1
    padding: conv.Padding = "SAME"
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, …, C)."""
        shape = (*self.window, 1, x.shape[-1])
        begin = layers.initialisers(self.initialiser, math.prod(self.window)).kernel
        kernel = self.param("kernel", begin, shape).astype(self.dtype)
        return conv.depthwise(x.astype(self.dtype), kernel, self.stride, self.padding, self.form)


class Stage(nn.Module):
    """Convolutions conv1, conv2 …, each with a ReLU, and a max-pool in the last one."""

    channels: tuple[int, ...]
    window: tuple[int, ...]
    pool: tuple[int, ...]
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the last convolution's maps, pooled."""
        last = len(self.channels)
        for i, channels in enumerate(self.channels, start=1):
            layer = Conv(
                channels,
                self.window,
                form=self.form,
                initialiser=self.initialiser,
                dtype=self.dtype,
                pool=self.pool if i == last else (),
                name=f"conv{i}",
            )
            x = nn.relu(layer(x))
        return x


class Encoder(nn.Module):
    """Encode frames (B,H,W,C), or clips (B,T,H,W,C) if `takes_clips`, as features in float32.

    Subclasses name their `blocks` in order and define `maps`. Parameters outside of these blocks
    belong to the head.

    Attributes:
        pooling: How maps become features: average (B,D); map (B,h,w,D); flatten (B,hwD); dense
            (B,width).
        width: Number of features of the dense pooling.
        normalize: A mode of `preprocess.normalize`; "standard" keeps its statistics in the
            collection "constants", so that they are saved with the parameters.
        trainable: Which blocks are differentiated when `train`.
        form: Form of convolutions that are differentiated; the others are always `no_grad`.
        initialiser: "he", or "normal": normal(0, 0.1), as in report C.
        dtype: Type of the arithmetic; parameters stay in float32.
        remat: Recompute each block's activations in the backward pass.
        mean: Mean of each channel that "constants" starts with; empty: unknown, NaN.
        std: Standard deviation of each channel, likewise.
        VERSION: Increased if a change of the code changes the values of frozen features.
        POOLINGS: Values of `pooling` that the encoder has.
        takes_clips: True for an encoder of whole clips.
        blocks: Names of the blocks.
        requires: Settings that only have one right value, such as {"size": 224}.
        defaults: Values of settings that the user does not give: size, pooling, normalize; and
            batch, the number of frames that are encoded at once.
        pretrained: The layers' names in published weights; None: such weights are not read.
        hidden: Widths of ReLU layers before the dense pooling's last layer.
        dense_reads: What the dense pooling reads: average or flatten.
        dense_relu: Whether the dense pooling ends in a ReLU.
    """

    pooling: str = "average"
    width: int = 1024
    normalize: str = "unit"
    trainable: str = "none"
    form: conv.Form = "auto"
    initialiser: str = "he"
    dtype: str = "float32"
    remat: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    VERSION: ClassVar[int] = 1
    POOLINGS: ClassVar[tuple[str, ...]] = ("average", "map", "flatten", "dense")
    takes_clips: ClassVar[bool] = False
    blocks: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[Mapping[str, Any]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    pretrained: ClassVar[PretrainedNet | None] = None
    hidden: ClassVar[tuple[int, ...]] = ()  # ReLU layers before the dense pooling's last
    dense_reads: ClassVar[str] = "average"  # or flatten
    dense_relu: ClassVar[bool] = True

    @nn.compact
    def __call__(self, frames_BHWC: Array, train: bool = False) -> Array:
        """Return features (B, D), or maps (B, h, w, D).

        Args:
            frames_BHWC: Pixels from 0 to 255.
            train: True: trained blocks are differentiated, which determines their form.
        """
        maps = self.maps(self.pixels(frames_BHWC), train)
        return self.read(maps).astype(jnp.float32)

    def maps(self, x: Array, train: bool) -> Array:
        """Return the last block's output of normalized pixels."""
        raise NotImplementedError

    def pixels(self, frames: Array) -> Array:
        """Return normalized pixels in the encoder's `dtype`."""
        mean_C = std_C = None
        if self.normalize == "standard":
            unknown = (jnp.nan,) * frames.shape[-1]
            mean_C = self.variable("constants", "mean", jnp.asarray, self.mean or unknown).value
            std_C = self.variable("constants", "std", jnp.asarray, self.std or unknown).value
        return preprocess.normalize(frames, self.normalize, mean_C, std_C).astype(self.dtype)

    def read(self, maps: Array) -> Array:
        """Pool maps into features."""
        if self.pooling == "map":
            return maps
        if self.pooling in ("average", "flatten"):
            return pool(maps, self.pooling)
        if self.pooling != "dense":
            raise ValueError(f"pooling {self.pooling!r} should be one of {self.POOLINGS}")
        x = pool(maps, self.dense_reads)
        for i, width in enumerate(self.hidden, start=1):
            x = nn.relu(self.dense(width, f"hidden{i}")(x))
        x = self.dense(self.width, "dense")(x)
        return nn.relu(x) if self.dense_relu else x

    def dense(self, width: int, name: str) -> Dense:
        """Return a dense layer in the encoder's `dtype`."""
        return Dense(width, self.initialiser, self.dtype, name=name)

    def block(self, kind: type[nn.Module], name: str, train: bool, **fields: object) -> nn.Module:
        """Return a block with its form of convolutions, rematerialized if `remat`."""
        trained = train and name in trained_blocks(self.trainable, self.blocks)
        kind = nn.remat(kind) if self.remat else kind
        form = self.form if trained else "no_grad"
        return kind(form=form, initialiser=self.initialiser, dtype=self.dtype, name=name, **fields)


class Staged(Encoder):
    """Blocks that are `Stage`s.

    Attributes:
        channels: Output channels of each convolution, block by block.
        windows: Kernel sizes of each block, one for each axis.
        pools: Max-pool sizes of each block, one for each axis.
    """

    channels: tuple[tuple[int, ...], ...] = ()

    windows: ClassVar[tuple[tuple[int, ...], ...]] = ()
    pools: ClassVar[tuple[tuple[int, ...], ...]] = ()

    def maps(self, x: Array, train: bool) -> Array:
        """Return the last stage's output."""
        stages = zip(self.blocks, self.channels, self.windows, self.pools, strict=True)
        for name, channels, window, pool in stages:
            x = self.block(Stage, name, train, channels=channels, window=window, pool=pool)(x)
        return x


class NoEncoder(nn.Module):
    """Return pixels unchanged, in float32."""

    VERSION: ClassVar[int] = 1
    takes_clips: ClassVar[bool] = False
    blocks: ClassVar[tuple[str, ...]] = ()

    @nn.compact
    def __call__(self, features_BD: Array, train: bool = False) -> Array:
        """Return the pixels in float32."""
        del train
        return features_BD.astype(jnp.float32)


def pool(maps: Array, pooling: str) -> Array:
    """Average maps (B,…,D) over positions, (B,D) in float32, or flatten them, (B,…D)."""
    if pooling == "flatten":
        return maps.reshape(len(maps), -1)
    return maps.mean(axis=tuple(range(1, maps.ndim - 1)), dtype=jnp.float32)


def count(params: object) -> int:
    """Count all numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
