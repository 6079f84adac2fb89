"""Convert recurrent weights of all layers and directions from and to PyTorch and Keras.

Parameters here are those of a `scanners.Recurrent`: a dictionary of "layer_0_forward",
"layer_0_backward", "layer_1_forward" …, each with the weights of its cell. Neither framework is
imported. PyTorch's weights are the state dict of an `nn.LSTM` or `nn.GRU`, with arrays or tensors.
Keras' weights are the lists that `get_weights()` returns.

Gate orders: LSTM i, f, g, o everywhere; GRU z, r, n here and in Keras, r, z, n in PyTorch. PyTorch
has two bias vectors for each gate. Keras has one, but two in a GRU with `reset_after`. If only the
sum of two vectors matters, it becomes the one vector. One vector becomes itself and a vector of
zeros.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UserError
from vidrec.models import cells
from vidrec.models.scanners import Recurrent

Params = dict[str, dict[str, np.ndarray]]
Shape = tuple[int | None, ...]  # None: any size
KERAS = (cells.LSTM, cells.GRU, cells.ConvLSTM)  # the cells that Keras has as layers


def from_torch(scanner: Recurrent, tensors: Mapping[str, Any], prefix: str = "") -> Params:
    """Return parameters from the state dict of an `nn.LSTM` or `nn.GRU`.

    Args:
        scanner: The scanner that gets the parameters.
        tensors: Tensors or arrays by PyTorch's names.
        prefix: Prefix of each name in `tensors`.

    Raises:
        UserError: A tensor is missing, unexpected or of the wrong shape.
    """
    _check_torch(scanner)
    cell, known = scanner.cell, set()
    params: Params = {}
    for layer, direction, features in _directions(scanner):
        width = cell.gates * cell.units
        suffix = _suffix(layer, direction)
        shapes = {
            "weight_ih": (width, features),
            "weight_hh": (width, cell.units),
            "bias_ih": (width,),
            "bias_hh": (width,),
        }
        names = {kind: f"{prefix}{kind}_{suffix}" for kind in shapes}
        known |= set(names.values())
        arrays = [_take(tensors, names[kind], shape) for kind, shape in shapes.items()]
        kernel, recurrent, bias, recurrent_bias = (_regate(cell, array) for array in arrays)
        params[f"layer_{layer}_{direction}"] = {
            "input_kernel": kernel.T,
            "recurrent_kernel": recurrent.T,
        } | _biases(cell, bias, recurrent_bias)
    _check_names(known, {name for name in tensors if name.startswith(prefix)})
    return params


def to_torch(scanner: Recurrent, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the state dict of the `nn.LSTM` or `nn.GRU` that computes the same."""
    _check_torch(scanner)
    cell = scanner.cell
    tensors: dict[str, np.ndarray] = {}
    for layer, direction, weights in _weights(scanner, params):
        suffix = _suffix(layer, direction)
        bias = weights["bias"]
        other = weights.get("recurrent_bias", np.zeros_like(bias))
        tensors |= {
            f"weight_ih_{suffix}": _regate(cell, weights["input_kernel"].T),
            f"weight_hh_{suffix}": _regate(cell, weights["recurrent_kernel"].T),
            f"bias_ih_{suffix}": _regate(cell, bias),
            f"bias_hh_{suffix}": _regate(cell, other),
        }
    return tensors


def from_keras(scanner: Recurrent, layers: Sequence[Sequence[Any]]) -> Params:
    """Return parameters from Keras' weights.

    Args:
        scanner: The scanner that gets the parameters.
        layers: `get_weights()` of each stacked layer: `LSTM`, `GRU` or `ConvLSTM2D`, or
            `Bidirectional` around them.

    Raises:
        UserError: An array is missing or of the wrong shape.
    """
    _check_keras(scanner)
    if len(layers) != scanner.layers:
        raise UserError(f"Keras weights: expected {scanner.layers} layers, got {len(layers)}")
    params: Params = {}
    for layer, direction, features in _directions(scanner):
        shapes = _keras_shapes(scanner.cell, features)
        both = scanner.bidirectional != "no"
        arrays = _part(layer, direction, both, layers[layer], tuple(shapes))
        kernel, recurrent, bias = (
            _take(arrays, name, shape, f"layer {layer} {direction}")
            for name, shape in shapes.items()
        )
        biases = tuple(bias) if bias.ndim == 2 else (bias, np.zeros_like(bias))
        params[f"layer_{layer}_{direction}"] = {
            "input_kernel": kernel,
            "recurrent_kernel": recurrent,
        } | _biases(scanner.cell, *biases)
    return params


def to_keras(scanner: Recurrent, params: Mapping[str, Any]) -> list[list[np.ndarray]]:
    """Return each Keras layer's arrays for `set_weights`, both directions in one list."""
    _check_keras(scanner)
    layers: list[list[np.ndarray]] = [[] for _ in range(scanner.layers)]
    for layer, _, weights in _weights(scanner, params):
        bias = weights["bias"]
        if "recurrent_bias" in weights:
            other = weights["recurrent_bias"]
            bias = np.stack([bias, other]) if _two_in_keras(scanner.cell) else bias + other
        layers[layer] += [weights["input_kernel"], weights["recurrent_kernel"], bias]
    return layers


class _Direction(NamedTuple):
    """One direction of a layer, and its number of input features (None: any, in the first)."""

    layer: int
    direction: str
    features: int | None


def _directions(scanner: Recurrent) -> Iterator[_Direction]:
    """Yield every direction of every layer."""
    both = scanner.bidirectional != "no"
    joined = scanner.cell.units * (2 if scanner.bidirectional == "concat" else 1)
    for layer in range(scanner.layers):
        for direction in ("forward", "backward") if both else ("forward",):
            yield _Direction(layer, direction, joined if layer else None)


def _weights(
    scanner: Recurrent, params: Mapping[str, Any]
) -> Iterator[tuple[int, str, dict[str, np.ndarray]]]:
    """Yield every layer and direction with its weights, checked against the cell."""
    for layer, direction, features in _directions(scanner):
        name = f"layer_{layer}_{direction}"
        if name not in params:
            raise UserError(f"{name}: missing; found {', '.join(sorted(params))}")
        arrays = {key: np.asarray(value) for key, value in params[name].items()}
        if features is None:
            kernel = arrays.get("input_kernel", np.zeros(0))
            features = kernel.shape[-2] if kernel.ndim > 1 else 0
        wanted = {key: shape for key, (_, shape) in scanner.cell.weights(features).items()}
        yield (
            layer,
            direction,
            {key: _take(arrays, key, shape, name) for key, shape in wanted.items()},
        )


def _take(arrays: Mapping[str, Any], name: str, shape: Shape, owner: str = "") -> np.ndarray:
    """Return the named array, if its shape fits."""
    label = f"{owner}.{name}" if owner else name
    if name not in arrays:
        raise UserError(f"{label}: missing; expected an array of shape {_words(shape)}")
    value = arrays[name]
    # A PyTorch tensor that requires a gradient has to be detached before NumPy can convert it.
    array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise UserError(f"{label}: expected shape {_words(shape)}, found {_words(array.shape)}")
    return array


def _words(shape: Shape) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _biases(cell: cells.Cell, bias: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Return both bias vectors if the cell has two, else their sum."""
    if cell.has_recurrent_bias():
        return {"bias": bias, "recurrent_bias": other}
    return {"bias": bias + other}


def _regate(cell: cells.Cell, array: np.ndarray) -> np.ndarray:
    """Swap the rows of z and r if the cell is a GRU; the same swap converts both ways."""
    if not isinstance(cell, cells.GRU):
        return array
    z, r, n = np.split(array, 3)
    return np.concatenate([r, z, n])


def _suffix(layer: int, direction: str) -> str:
    return f"l{layer}" + ("_reverse" if direction == "backward" else "")


def _check_torch(scanner: Recurrent) -> None:
    cell = scanner.cell
    if type(cell) not in (cells.LSTM, cells.GRU):
        raise UserError(
            f"PyTorch has no {type(cell).__name__}; LSTM and GRU can be exchanged with it"
        )
    if isinstance(cell, cells.GRU) and not cell.reset_after:
        raise UserError("PyTorch's GRU resets after the product: scanner.reset_after must be True")
    if scanner.bidirectional == "sum":
        raise UserError("PyTorch joins directions by concatenation: scanner.bidirectional concat")


def _check_names(known: set[str], names: set[str]) -> None:
    if names - known:
        surplus = ", ".join(sorted(names - known))
        raise UserError(f"{surplus}: not part of this scanner (check layers and bidirectional)")


def _two_in_keras(cell: cells.Cell) -> bool:
    return isinstance(cell, cells.GRU) and cell.reset_after


def _keras_shapes(cell: cells.Cell, features: int | None) -> dict[str, Shape]:
    width, window = cell.gates * cell.units, cell.window()
    return {
        "kernel": (*window, features, width),
        "recurrent_kernel": (*window, cell.units, width),
        "bias": (2, width) if _two_in_keras(cell) else (width,),
    }


def _part(
    layer: int, direction: str, both: bool, arrays: Sequence[Any], names: tuple[str, ...]
) -> dict[str, Any]:
    """Return one direction's arrays by name; a `Bidirectional` lists the forward arrays first."""
    wanted = names * (1 + both)
    if len(arrays) != len(wanted):
        listed = ", ".join(wanted)
        raise UserError(
            f"layer {layer}: expected {len(wanted)} arrays ({listed}), found {len(arrays)}"
        )
    start = len(names) if direction == "backward" else 0
    return dict(zip(names, arrays[start:], strict=False))


def _check_keras(scanner: Recurrent) -> None:
    if type(scanner.cell) not in KERAS:
        known = ", ".join(cell.__name__ for cell in KERAS)
        raise UserError(f"Keras has no {type(scanner.cell).__name__}; exchange {known} with it")
