"""Define the names of an encoder's layers in published weights, and the sources of weights."""

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
STATISTICS = ("mean", "var")  # in the collection batch_stats; the others are in params
# PyTorch's names of the same arrays.
TORCH_PARTS: Mapping[str, Mapping[str, str]] = {
    "conv": {"weight": "kernel", "bias": "bias"},
    "dense": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
}
TORCH_COUNTERS = ("num_batches_tracked",)  # arrays of a layer that are not read


class Layer(NamedTuple):
    """One layer of an encoder.

    Attributes:
        path: Path of its arrays in the encoder's variables.
        keras: Its name in Keras; "" if no Keras file has it.
        torch: Its names in PyTorch state dicts; each file uses one of them.
        kind: conv, dense or norm (`nn.BatchNorm`): which arrays it has, and in which layout.
        top: True for layers after the features, which an encoder may lack.
        maps: Number of channels of the flattened maps that a dense layer reads; 0: it reads none.
            Keras flattens maps position by position, PyTorch channel by channel.
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
        name: Name of the file.
        md5: MD5 of its content; "" if `sha256` is published instead.
        top: True if the file contains the top.
        sha256: SHA-256 of its content, or the first digits of it, as in PyTorch's file names.
    """

    name: str
    md5: str = ""
    top: bool = True
    sha256: str = ""


class Package(NamedTuple):
    """An installed Python package that brings a file of weights.

    Attributes:
        module: Name of the module to import.
        function: Dotted name, within the module, of the function that returns the file's path.
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
        layers: The layers, in the order of the network.
        normalize: Values of `encoder.normalize` that weights require, by framework: keras, torch.
        url: URL of the folder with the original weights; "" if it is not known.
        files: The files of original weights.
        in_keras: Name of the network in keras.applications; "" if it is not there.
        package: The Python package that brings weights; None if there is none.
    """

    layers: tuple[Layer, ...]
    normalize: Mapping[str, str] = field(default_factory=_by_framework)
    url: str = ""
    files: tuple[File, ...] = ()
    in_keras: str = ""
    package: Package | None = None

    def has_source(self) -> bool:
        """Return True if a package or files of weights are declared."""
        return bool(self.package or self.files)

    def normalize_of(self, file: str) -> str:
        """Return the normalization that a file's weights require, by its name; "" if unknown."""
        return self.normalize.get("keras" if file.endswith(".h5") else "torch", "")

    def usual_normalize(self) -> str:
        """Return the normalization of the weights that `auto` would take first."""
        return self.normalize_of("" if self.package or not self.files else self.files[0].name)


class Tensor(NamedTuple):
    """An array and its name in the file."""

    name: str
    array: np.ndarray
