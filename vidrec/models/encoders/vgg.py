"""Define VGG16, and the similar nine-layer network that report C trains from pixels."""

from typing import ClassVar, Literal

import flax.linen as nn
from jax import Array

from vidrec.models.encoders.base import Staged, pool
from vidrec.models.encoders.weights.names import File, Layer, PretrainedNet

KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"


def _weights_of_others() -> PretrainedNet:
    """Return Keras' and PyTorch's names of the layers, and where the original weights are."""
    layers, index = [], 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for conv in range(1, convolutions + 1):
            path = (f"block{block}", f"conv{conv}")
            layers.append(Layer(path, f"block{block}_conv{conv}", (f"features.{index}",)))
            index += 2  # PyTorch also counts the ReLU
        index += 1  # and the pool
    for name, maps, *torch in (
        ("fc1", 512, "classifier.0", "pre_logits.fc1"),
        ("fc2", 0, "classifier.3", "pre_logits.fc2"),
        ("predictions", 0, "classifier.6", "head.fc"),
    ):
        layers.append(Layer((name,), name, tuple(torch), "dense", top=True, maps=maps))
    stem = "vgg16_weights_tf_dim_ordering_tf_kernels"
    files = (
        File(f"{stem}_notop.h5", "6d6bbae143d832006294945121d1f1fc", top=False),
        File(f"{stem}.h5", "64373286793e3c8b2b4e3219cbf3544b", top=True),
    )
    return PretrainedNet(tuple(layers), url=KERAS_URL, files=files, in_keras="VGG16")


class VGG16(Staged):
    """Simonyan and Zisserman 2014, configuration D: 13 convolutions in five blocks, 512 features.

    Attributes:
        top: The network's own dense layers instead of a pooling: "fc2" stops at the second one
            (4096 features), "predictions" continues to the logits of `classes`; "": a pooling.
        classes: Number of classes of the top.
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

    pretrained: ClassVar = _weights_of_others()
    defaults: ClassVar = {"size": 224, "pooling": "average"}
    blocks: ClassVar = ("block1", "block2", "block3", "block4", "block5")
    windows: ClassVar = ((3, 3),) * 5
    pools: ClassVar = ((2, 2),) * 5

    def read(self, maps: Array) -> Array:
        """Return features, or the outputs of the top."""
        if not self.top:
            return super().read(maps)
        x = nn.relu(self.dense(4096, "fc1")(pool(maps, "flatten")))
        x = nn.relu(self.dense(4096, "fc2")(x))
        return self.dense(self.classes, "predictions")(x) if self.top == "predictions" else x


class VGG9(Staged):
    """Report C's network: six convolutions, a pool after every two, and three dense layers.

    Channels double after each pool. The report does not state how its convolutions are divided into
    blocks; here each block has two. The last dense layer is linear. It has `width` outputs with the
    dense pooling; the report's has 500 for each frame.
    """

    channels: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256))

    blocks: ClassVar = ("block1", "block2", "block3")
    windows: ClassVar = ((3, 3),) * 3
    pools: ClassVar = ((2, 2),) * 3
    hidden: ClassVar = (2048, 2048)
    dense_reads: ClassVar = "flatten"
    dense_relu: ClassVar = False
