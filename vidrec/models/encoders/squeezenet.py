"""Define SqueezeNet 1.1: ImageNet features with a fiftieth of VGG16's arithmetic."""

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from vidrec.models import conv
from vidrec.models.encoders.base import Conv, Encoder, pool
from vidrec.models.encoders.weights.names import File, Layer, PretrainedNet

# Channels of the squeeze of each fire module, and of each of its two expansions.
FIRES = {
    "fire2": (16, 64),
    "fire3": (16, 64),
    "fire4": (32, 128),
    "fire5": (32, 128),
    "fire6": (48, 192),
    "fire7": (48, 192),
    "fire8": (64, 256),
    "fire9": (64, 256),
}
POOLED = ("fire3", "fire5")  # modules that end in a max-pool


KERAS_URL = "https://github.com/rcmalli/keras-squeezenet/releases/download/v1.0/"


def _weights_of_others() -> PretrainedNet:
    """Return Keras' and PyTorch's names of the layers, and where the original weights are."""
    layers = [Layer(("conv1", "conv"), "conv1", ("features.0",))]
    for fire, index in enumerate((3, 4, 6, 7, 9, 10, 11, 12), start=2):
        for part, torch in (("squeeze1x1", "squeeze"), ("expand1x1",) * 2, ("expand3x3",) * 2):
            path = (f"fire{fire}", part)
            layers.append(Layer(path, "/".join(path), (f"features.{index}.{torch}",)))
    layers.append(Layer(("conv10",), "conv10", ("classifier.1",), top=True))
    name = "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    files = (File(name, "80b66c92d79d4310e07fb60a297bf0d1", top=False),)
    return PretrainedNet(tuple(layers), url=KERAS_URL, files=files)


class Stem(nn.Module):
    """A 3x3 convolution and a max-pool, both of stride 2; height and width become a quarter."""

    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, h, w, 64)."""
        layer = Conv(64, (3, 3), 2, "VALID", self.form, self.initialiser, self.dtype, name="conv")
        return shrink(nn.relu(layer(x)))


class Fire(nn.Module):
    """A fire module: a 1x1 squeeze, then 1x1 and 3x3 expansions in parallel."""

    channels: tuple[int, int]
    pool: bool
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the concatenated maps of both expansions."""

        def layer(name: str, channels: int, k: int, x: Array) -> Array:
            how = (self.form, self.initialiser, self.dtype)
            return nn.relu(Conv(channels, (k, k), 1, "SAME", *how, name=name)(x))

        narrow, wide = self.channels
        squeezed = layer("squeeze1x1", narrow, 1, x)
        both = [layer("expand1x1", wide, 1, squeezed), layer("expand3x3", wide, 3, squeezed)]
        x = jnp.concatenate(both, axis=-1)
        return shrink(x) if self.pool else x


class SqueezeNet(Encoder):
    """Iandola et al. 2016, version 1.1: 512 features.

    Pools use only whole windows, as in the Keras original. torchvision's pools also use incomplete
    windows, which gives the same result if 16 divides the frame's size.

    Attributes:
        top: "predictions": return logits by a 1x1 convolution to `classes`, ReLU and average; "":
            return features.
        classes: Number of classes of the top.
    """

    top: Literal["", "predictions"] = ""
    classes: int = 1000

    pretrained: ClassVar = _weights_of_others()
    defaults: ClassVar = {"size": 224, "pooling": "average"}
    blocks: ClassVar = ("conv1", *FIRES)

    def maps(self, x: Array, train: bool) -> Array:
        """Return the last fire module's maps."""
        x = self.block(Stem, "conv1", train)(x)
        for name, channels in FIRES.items():
            x = self.block(Fire, name, train, channels=channels, pool=name in POOLED)(x)
        return x

    def read(self, maps: Array) -> Array:
        """Return features, or logits of the top."""
        if not self.top:
            return super().read(maps)
        how = (self.initialiser, self.dtype)
        top = Conv(self.classes, (1, 1), 1, "SAME", "lax", *how, name="conv10")
        return pool(nn.relu(top(maps)), "average")


def shrink(x: Array) -> Array:
    """Apply a max-pool with windows of 3x3 and stride 2."""
    return conv.max_pool(x, (3, 3), (2, 2))
