"""VGG16, and the nine-layer network of the same kind that report C trains from pixels."""

from typing import ClassVar, Literal

import flax.linen as nn
from jax import Array

from vidrec.models.encoders.base import Staged, pool


class VGG16(Staged):
    """Simonyan and Zisserman 2014, configuration D: 13 convolutions in five blocks, 512 features.

    Attributes:
        top: the network's own dense layers instead of a pooling: "fc2" stops at the second one
            (4096 features), "predictions" goes on to the logits of `classes`.
    """

    channels: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    top: Literal["", "fc2", "predictions"] = ""
    classes: int = 1000

    blocks: ClassVar = ("block1", "block2", "block3", "block4", "block5")
    windows: ClassVar = ((3, 3),) * 5
    pools: ClassVar = ((2, 2),) * 5

    def read(self, maps: Array) -> Array:
        if not self.top:
            return super().read(maps)
        x = nn.relu(self.dense(4096, "fc1")(pool(maps, "flatten")))
        x = nn.relu(self.dense(4096, "fc2")(x))
        return self.dense(self.classes, "predictions")(x) if self.top == "predictions" else x


class VGG9(Staged):
    """Report C's: six convolutions, channels doubling at each pool, two dense layers, outputs.

    The report leaves open how its convolutions are spread over the blocks: two in each here. Its
    outputs (500 a frame, `width` with the dense pooling) are linear.
    """

    channels: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256))

    blocks: ClassVar = ("block1", "block2", "block3")
    windows: ClassVar = ((3, 3),) * 3
    pools: ClassVar = ((2, 2),) * 3
    hidden: ClassVar = (2048, 2048)
    dense_reads: ClassVar = "flatten"
    dense_relu: ClassVar = False
