"""Describe all encoders to users: size, features, and whether weights are available."""

import importlib.util
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax

from vidrec import config
from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.models import encoders
from vidrec.models.encoders.weights import finding

CLIP = 16  # number of frames of the clip for which an encoder of clips is described


class Entry(NamedTuple):
    """What is known of an encoder without computing features.

    Attributes:
        kind: The value of `encoder.kind`.
        params: The number of parameters that its features depend on.
        features: Number of features of a frame (or a clip), with the encoder's usual pooling.
        size: Usual height and width of frames.
        normalize: The normalization of pixels that its weights require.
        weights: The weights that `auto` selects on this machine: NAME@HASH, or random; "" if none
            are available.
        get: How to get weights, as a command or an instruction; "" if `auto` has some.
    """

    kind: str
    params: int
    features: int
    size: int
    normalize: str
    weights: str
    get: str

    @property
    def source(self) -> str:
        """Return a short description of the weights."""
        return {"": "not here", "random": "random"}.get(self.weights, "at hand")


def entries() -> Iterator[Entry]:
    """Yield the description of each encoder in `encoders.KINDS`, except none."""
    for kind in encoders.KINDS:
        if kind != "none":
            yield entry(kind)


def of_others() -> Iterator[str]:
    """Yield a line of text for each kind of encoder that another library runs."""
    from vidrec.models.encoders.keras_table import NETWORKS

    for kind, what, library, extra in (
        ("keras:NAME", f"{len(NETWORKS)} networks, such as keras:ConvNeXtTiny", "keras", "keras"),
        ("FILE.onnx", "any network of frames in an ONNX file", "onnxruntime", "onnx"),
    ):
        missing = importlib.util.find_spec(library) is None
        yield f"{kind}: {what}" + (f" ({how_to_install(extra)})" if missing else "")


def entry(kind: str) -> Entry:
    """Describe an encoder.

    Raises:
        UserError: There is no such kind.
    """
    cfg = encoders.resolved(config.Encoder(kind=kind), at_hand=False)
    get = ""
    if cfg.weights == "auto":
        net = encoders.pretrained(cfg)
        try:
            finding.find(net)
            get = finding.how_to_get(net)
        except UserError as error:  # a file that is there and damaged
            get = str(error)
    module = encoders.build(cfg)
    frame = (cfg.size, cfg.size, 3)
    shape, variables = encoders.shapes(module, (CLIP, *frame) if module.takes_clips else frame)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    weights = "" if cfg.weights == "auto" else cfg.weights
    return Entry(kind, params, math.prod(shape), cfg.size, cfg.normalize, weights, get)
