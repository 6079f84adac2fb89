"""Read the original ImageNet weights from a file in the cache or through keras.applications."""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from vidrec.errors import UserError
from vidrec.models.encoders.weights import finding, formats
from vidrec.models.encoders.weights.names import PARTS, PretrainedNet, Tensor


def read(net: PretrainedNet, params: Mapping[str, Any]) -> tuple[formats.Content, str]:
    """Read the original weights, and return them with the path or library they are from.

    Args:
        net: What the encoder declares as `pretrained`.
        params: The encoder's parameters, which show whether it has a top.

    Raises:
        UserError: The weights are not available; the message says what to fetch.
    """
    with_top = any(layer.path[0] in params for layer in net.layers if layer.top)
    originals = finding.originals(net, with_top)
    if not originals:
        what = "with its top " if net.files else ""
        raise UserError(f"no original weights of this encoder {what}are known: name a file")
    for file in originals:
        if path := finding.original(file):
            return formats.read(net, path), str(path)
    name = originals[0].name
    fetch = f"{finding.how_to_fetch(net, originals[0])}, or name a file with --encoder.weights"
    if not net.in_keras:
        raise UserError(f"ImageNet weights {name} are not at hand: {fetch}")
    try:
        tensors = _through_keras(net, with_top)
    except Exception as error:  # no keras, no network, a half download: the remedy is the same
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"ImageNet weights {name} are not at hand ({reason}): {fetch}") from None
    return formats.Content(tensors, "keras"), "keras.applications"


def _through_keras(net: PretrainedNet, with_top: bool) -> dict[str, Tensor]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    # Keras reports its download on stdout, which is reserved for results.
    with contextlib.redirect_stdout(sys.stderr):
        model = getattr(keras.applications, net.in_keras)(weights="imagenet", include_top=with_top)
    known = {layer.keras: layer for layer in net.layers if layer.keras}
    tensors = {}
    for layer in model.layers:
        ours = known.get(layer.name)
        name, parts = (ours.name, PARTS[ours.kind]) if ours else (layer.name, PARTS["norm"])
        for part, array in zip(parts, layer.get_weights(), strict=False):
            tensors[f"{name}/{part}"] = Tensor(f"{layer.name}/{part}", array)
    return tensors
