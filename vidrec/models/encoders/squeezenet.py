"""SqueezeNet 1.1: ImageNet features at a fiftieth of VGG16's arithmetic."""

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from vidrec.models import conv
from vidrec.models.encoders.base import Conv, Encoder, pool
from vidrec.models.encoders.weights.names import File, Layer, PretrainedNet

# Channels of each fire's squeeze and of each of its two expansions; fires 3 and 5 end in a pool.
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
POOLED = ("fire3", "fire5")


KERAS_URL = "https://github.com/rcmalli/keras-squeezenet/releases/download/v1.0/"


def _weights_of_others() -> PretrainedNet:
    """Keras' and PyTorch's names of the layers, and where the original weights are."""
    layers = [Layer(("conv1", "conv"), "conv1", ("features.0",))]
    for fire, place in enumerate((3, 4, 6, 7, 9, 10, 11, 12), start=2):
        for part, torch in (("squeeze1x1", "squeeze"), ("expand1x1",) * 2, ("expand3x3",) * 2):
            path = (f"fire{fire}", part)
            layers.append(Layer(path, "/".join(path), (f"features.{place}.{torch}",)))
    layers.append(Layer(("conv10",), "conv10", ("classifier.1",), top=True))
    name = "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    files = (File(name, "80b66c92d79d4310e07fb60a297bf0d1", top=False),)
    return PretrainedNet(tuple(layers), url=KERAS_URL, files=files)


class Stem(nn.Module):
    """A strided 3x3 convolution and a pool; a quarter of the size is left."""

    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layer = Conv(64, (3, 3), 2, "VALID", self.form, self.initialiser, self.dtype, name="conv")
        return shrink(nn.relu(layer(x)))


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    channels: tuple[int, int]
    pool: bool
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def layer(name: str, channels: int, k: int, x: Array) -> Array:
            fields = {"form": self.form, "initialiser": self.initialiser, "dtype": self.dtype}
            return nn.relu(Conv(channels, (k, k), name=name, **fields)(x))

        narrow, wide = self.channels
        squeezed = layer("squeeze1x1", narrow, 1, x)
        both = [layer("expand1x1", wide, 1, squeezed), layer("expand3x3", wide, 3, squeezed)]
        x = jnp.concatenate(both, axis=-1)
        return shrink(x) if self.pool else x


class SqueezeNet(Encoder):
    """Iandola et al. 2016, version 1.1: 512 features.

    Pools take whole windows only, as the Keras original does; torchvision's also take cut ones,
    which is the same for every size that 16 divides.

    Attributes:
        top: "predictions": a 1x1 convolution to `classes`, ReLU and average, as logits.
    """

    top: Literal["", "predictions"] = ""
    classes: int = 1000

    pretrained: ClassVar = _weights_of_others()
    blocks: ClassVar = ("conv1", *FIRES)

    def maps(self, x: Array, train: bool) -> Array:
        x = self.block(Stem, "conv1", train)(x)
        for name, channels in FIRES.items():
            x = self.block(Fire, name, train, channels=channels, pool=name in POOLED)(x)
        return x

    def read(self, maps: Array) -> Array:
        if not self.top:
            return super().read(maps)
        fields = {"initialiser": self.initialiser, "dtype": self.dtype}
        return pool(nn.relu(Conv(self.classes, (1, 1), name="conv10", **fields)(maps)), "average")


def shrink(x: Array) -> Array:
    return conv.max_pool(x, (3, 3), (2, 2))
