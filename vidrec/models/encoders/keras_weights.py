"""Read weights of a network of keras.applications by Keras' own loaders.

The loaders read arrays of HDF5 files and `.keras` archives. They do not build what a file's
configuration describes, so no code of a file runs.
"""

import contextlib
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vidrec import config
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files
from vidrec.models.encoders.keras_net import Network, encoder, imported, network
from vidrec.models.encoders.keras_table import NETWORKS
from vidrec.models.encoders.preprocess import TORCH_MEAN_RGB, TORCH_STD_RGB
from vidrec.models.encoders.weights import finding

SUFFIXES = (".h5", ".hdf5", ".keras")


def read(name: str, source: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables with values from a file of weights; see `KerasNet.read_weights`."""
    net = network(name, (NETWORKS[name].size, NETWORKS[name].size, 3))
    arrays = _arrays(name, net, source)
    ours = flatten_dict(dict(variables))
    for path, array in arrays.items():
        if path not in ours or ours[path].shape != array.shape:
            raise UserError(f"{source} does not fit keras:{name} at {'/'.join(path)}")
        if not np.isfinite(array).all():
            raise UserError(f"{source}: the array {'/'.join(path)} is not finite")
    return unflatten_dict(ours | _as_trained(name, arrays))


def _arrays(name: str, net: Network, source: str) -> dict[tuple[str, ...], np.ndarray]:
    """Return a file's arrays by their paths in the encoder's variables."""
    declared = encoder(f"keras:{name}").pretrained
    assert declared is not None
    if config.BY_CONTENT.fullmatch(source):
        path: Path | None = finding.of_content(declared, source)
    elif source == "imagenet":
        path = finding.original(declared.files[0])
    else:
        path = files.expanded(source)
    if path is None:
        return _of_model(net, _through_keras(name))
    _check_form(path, name)
    size = NETWORKS[name].size
    try:
        model = net.model
        _load(model, path)
    except UserError as error:
        try:
            model = network(name, (size, size, 3), top=True).model
            _load(model, path)
        except UserError:
            raise error from None
    return _of_model(net, model)


def _of_model(net: Network, model: Any) -> dict[tuple[str, ...], np.ndarray]:
    """Return a model's arrays by path; the model's first layers are those of the network."""
    values = [np.asarray(variable.value) for variable in model.weights]
    places = [net.entries[id(variable)].place for variable in net.model.weights]
    return {tuple(place): value for place, value in zip(places, values, strict=False)}


def _check_form(path: Path, name: str) -> None:
    if not path.is_file():
        raise UserError(f"encoder.weights: there is no file {path}")
    with path.open("rb") as handle:
        is_hdf5 = handle.read(8) == b"\x89HDF\r\n\x1a\n"
    sound = zipfile.is_zipfile(path) if path.suffix == ".keras" else is_hdf5
    if path.suffix not in SUFFIXES or not sound:
        raise UserError(
            f"{path} is no file of weights that keras:{name} reads: .weights.h5, .h5 or .keras"
        )


def _load(model: Any, path: Path) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model.load_weights(str(path))
    except Exception as error:  # a damaged file can raise any error in Keras and h5py
        if is_transient(error):
            raise TransientError.of(path, error) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or of another network ({reason})") from None


def _through_keras(name: str) -> Any:
    """Return the model with the weights that Keras downloads."""
    entry, size = NETWORKS[name], NETWORKS[name].size
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return getattr(imported().applications, name)(
                weights="imagenet", include_top=False, input_shape=(size, size, 3)
            )
    except UserError:
        raise
    except Exception as error:  # no network, a half download: the remedy is the same
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"ImageNet weights {entry.file.name} are not at hand ({reason}): fetch "
            f"{entry.url}{entry.file.name} into {finding.folder()}, or name a file with "
            "--encoder.weights"
        ) from None


def _as_trained(
    name: str, arrays: dict[tuple[str, ...], np.ndarray]
) -> dict[tuple[str, ...], np.ndarray]:
    """Return the arrays, with the rescaling that EfficientNet's weights were trained with.

    Keras rescales in a layer without weights after the normalization. It builds this layer only if
    it loads "imagenet" itself. If a file contains ImageNet's means, its weights were trained with
    this layer, so the factor of the layer is included in the variance.
    """
    if not re.fullmatch(r"EfficientNetB\d", name):
        return arrays
    mean = ("constants", "normalization_0", "mean")
    variance = ("constants", "normalization_0", "variance")
    if not np.allclose(np.ravel(arrays[mean]), TORCH_MEAN_RGB, atol=1e-3):
        return arrays
    deviation = np.asarray(TORCH_STD_RGB, np.float32).reshape(arrays[variance].shape)
    return arrays | {variance: arrays[variance] * deviation}
