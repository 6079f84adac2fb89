"""Define ResNets of 18 to 152 layers, as in torchvision and timm.

He et al. 2016, with the stride of a bottleneck in its 3x3 convolution (called v1.5) and with
PyTorch's zero padding. Keras' ResNets are other networks: they have the stride in another
convolution, and biases.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from vidrec.models import conv
from vidrec.models.encoders.base import Conv, Encoder, pool
from vidrec.models.encoders.weights.names import File, Layer, PretrainedNet

TORCH_URL = "https://download.pytorch.org/models/"
STAGES = ("stage1", "stage2", "stage3", "stage4")
EXPANSION = 4  # number of output channels of a bottleneck for each of its inner channels


class Part(nn.Module):
    """Base class of the network's parts: convolutions without bias, and batch normalization.

    Attributes:
        channels: Number of output channels of the stem, or of channels inside each residual block.
        running: Normalize by the running statistics, not the batch's.
        form: See `conv.convolve`.
        initialiser: Convention of the initial kernels, see `layers.initialisers`.
        dtype: Type of the arithmetic; parameters stay in float32.
    """

    channels: int
    running: bool = True
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    def conv_norm(self, x: Array, channels: int, k: int, stride: int, name: str) -> Array:
        """Convolve with a centred window of k x k, and normalize.

        Args:
            x: Maps (B, h, w, C).
            channels: Number of output channels.
            k: Height and width of the window, odd.
            stride: Stride of both axes.
            name: Suffix of the layers' names: "1" for layers conv1 and bn1.
        """
        around = ((k // 2, k // 2),) * 2
        how = (self.form, self.initialiser, self.dtype)
        layer = Conv(channels, (k, k), stride, around, *how, use_bias=False, name=f"conv{name}")
        return nn.BatchNorm(self.running, momentum=0.9, dtype=self.dtype, name=f"bn{name}")(
            layer(x)
        )


class Stem(Part):
    """A 7x7 convolution and a max-pool, both of stride 2; height and width become a quarter."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, h, w, channels)."""
        x = nn.relu(self.conv_norm(x, self.channels, 7, 2, "1"))
        # A ReLU's outputs are at least 0, so padding with zeros does not change a maximum.
        return conv.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))


class Block(Part):
    """A residual block of two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

    Attributes:
        bottleneck: True: the three convolutions of a bottleneck; False: two 3x3 convolutions.
        stride: Stride of the first 3x3 convolution.
    """

    bottleneck: bool = False
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, h, w, D)."""
        out = self.channels * (EXPANSION if self.bottleneck else 1)
        if self.bottleneck:
            y = nn.relu(self.conv_norm(x, self.channels, 1, 1, "1"))
            y = nn.relu(self.conv_norm(y, self.channels, 3, self.stride, "2"))
            y = self.conv_norm(y, out, 1, 1, "3")
        else:
            y = nn.relu(self.conv_norm(x, self.channels, 3, self.stride, "1"))
            y = self.conv_norm(y, out, 3, 1, "2")
        if self.stride > 1 or x.shape[-1] != out:
            x = self.conv_norm(x, out, 1, self.stride, "0")
        return nn.relu(x + y)


class Stage(Part):
    """Residual blocks block0, block1 …, of which the first may have a stride.

    Attributes:
        depth: Number of blocks.
        bottleneck: True: the blocks are bottlenecks.
        stride: Stride of the first block.
    """

    depth: int = 1
    bottleneck: bool = False
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the last block's maps."""
        how = (self.channels, self.running, self.form, self.initialiser, self.dtype)
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            x = Block(*how, self.bottleneck, stride, name=f"block{i}")(x)
        return x


def _weights_of_others(depths: Sequence[int], bottleneck: bool, *originals: str) -> PretrainedNet:
    """Return PyTorch's names of the layers, and the files of torchvision's original weights."""
    layers = [
        Layer(("stem", "conv1"), torch=("conv1",)),
        Layer(("stem", "bn1"), torch=("bn1",), kind="norm"),
    ]
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            theirs = {f"{n}": (f"conv{n}", f"bn{n}") for n in range(1, 4 if bottleneck else 3)}
            # Only a block that changes size or channels has a convolution in its shortcut.
            if i == 0 and (stage > 1 or bottleneck):
                theirs["0"] = ("downsample.0", "downsample.1")
            for ours, (conv_name, norm_name) in theirs.items():
                path, prefix = (f"stage{stage}", f"block{i}"), f"layer{stage}.{i}."
                layers.append(Layer((*path, f"conv{ours}"), torch=(prefix + conv_name,)))
                layers.append(Layer((*path, f"bn{ours}"), torch=(prefix + norm_name,), kind="norm"))
    layers.append(Layer(("fc",), torch=("fc",), kind="dense", top=True))
    # The digits in a file's name are the first digits of the content's SHA-256.
    files = [File(f"{name}.pth", sha256=name.rpartition("-")[2]) for name in originals]
    return PretrainedNet(tuple(layers), {"torch": "torch"}, TORCH_URL, tuple(files))


class ResNet(Encoder):
    """Stem and four stages of residual blocks.

    Attributes:
        channels: Number of channels of each stage; the stem has as many as the first stage.
        top: "fc": return logits of the network's own dense layer on the average; "": return
            features.
        classes: Number of classes of the top.
        depths: Number of residual blocks of each stage.
        bottleneck: True: the blocks are bottlenecks, which have four times as many outputs.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    top: Literal["", "fc"] = ""
    classes: int = 1000

    depths: ClassVar[tuple[int, ...]] = ()
    bottleneck: ClassVar[bool] = False
    blocks: ClassVar = ("stem", *STAGES)
    defaults: ClassVar = {"size": 224, "pooling": "average"}

    def maps(self, x: Array, train: bool) -> Array:
        """Return the last stage's maps."""
        running = not train
        x = self.block(Stem, "stem", train, channels=self.channels[0], running=running)(x)
        for name, channels, depth in zip(STAGES, self.channels, self.depths, strict=True):
            stage = self.block(
                Stage,
                name,
                train,
                channels=channels,
                running=running,
                depth=depth,
                bottleneck=self.bottleneck,
                stride=1 if name == "stage1" else 2,
            )
            x = stage(x)
        return x

    def read(self, maps: Array) -> Array:
        """Return features, or logits of the top."""
        if not self.top:
            return super().read(maps)
        return self.dense(self.classes, "fc")(pool(maps, "average"))


class ResNet18(ResNet):
    """18 layers, 512 features."""

    depths: ClassVar = (2, 2, 2, 2)
    pretrained: ClassVar = _weights_of_others(depths, False, "resnet18-f37072fd")


class ResNet34(ResNet):
    """34 layers, 512 features."""

    depths: ClassVar = (3, 4, 6, 3)
    pretrained: ClassVar = _weights_of_others(depths, False, "resnet34-b627a593")


class ResNet50(ResNet):
    """50 layers, 2048 features."""

    depths: ClassVar = (3, 4, 6, 3)
    bottleneck: ClassVar = True
    pretrained: ClassVar = _weights_of_others(
        depths, True, "resnet50-0676ba61", "resnet50-11ad3fa6"
    )


class ResNet101(ResNet):
    """101 layers, 2048 features."""

    depths: ClassVar = (3, 4, 23, 3)
    bottleneck: ClassVar = True
    pretrained: ClassVar = _weights_of_others(
        depths, True, "resnet101-63fe2227", "resnet101-cd907fc2"
    )


class ResNet152(ResNet):
    """152 layers, 2048 features."""

    depths: ClassVar = (3, 8, 36, 3)
    bottleneck: ClassVar = True
    pretrained: ClassVar = _weights_of_others(
        depths, True, "resnet152-394f9c45", "resnet152-f82ba261"
    )
