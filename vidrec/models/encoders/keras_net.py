"""Use any network of keras.applications, without its top, by Keras' own `stateless_call`.

Keras builds the network and computes it, on its JAX backend, inside vidrec's compiled programs. The
network's arrays are the encoder's variables. In training, batch normalization is Flax's, so that
padding, devices and frozen statistics work as in every other encoder. Networks are called as in
prediction: their dropout and stochastic depth are off, also in training.
"""

import contextlib
import functools
import importlib
import importlib.util
import math
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.models.encoders.base import pool
from vidrec.models.encoders.keras_table import NETWORKS
from vidrec.models.encoders.weights.names import PretrainedNet

# Arrays of a batch normalization: their names in Keras, and their collections and names in Flax.
NORM = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
# Whether batch normalization is Flax's in the current call.
_by_flax: ContextVar[bool] = ContextVar("_by_flax", default=False)
_train: ContextVar[bool] = ContextVar("_train", default=False)


class Place(NamedTuple):
    """Where an array is among the encoder's variables: variables[collection][layer][name]."""

    collection: str
    layer: str
    name: str


class Entry(NamedTuple):
    """One array of a network.

    Attributes:
        place: Where it is among the encoder's variables.
        initial: Its value when Keras has just built the network.
        initializer: Keras' initializer of an array that is drawn at random, else None.
    """

    place: Place
    initial: np.ndarray
    initializer: Any

    @property
    def distribution(self) -> str:
        """Return the distribution of its initial values: uniform, truncated_normal or normal."""
        name = getattr(self.initializer, "distribution", "") if self.initializer else ""
        return name.replace("untruncated_normal", "normal")

    @property
    def deviation(self) -> float:
        """Return the standard deviation of its initial values, from Keras' variance scaling."""
        *window, inputs, outputs = self.initial.shape
        fans = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}
        return math.sqrt(self.initializer.scale / (math.prod(window) * fans[self.initializer.mode]))


class Network(NamedTuple):
    """A network that Keras built for frames of one size.

    Attributes:
        model: Keras' model, without the top.
        preprocess: Keras' function from pixels, 0 to 255, to what the model takes.
        entries: The model's arrays, except states of dropout, by the `id` of Keras' variable.
    """

    model: Any
    preprocess: Any
    entries: dict[int, Entry]


class KerasNet(nn.Module):
    """A network of keras.applications; `encoder` returns the class of each.

    Attributes:
        pooling: How maps become features: average (B,D); map (B,h,w,D); flatten (B,hwD).
        trainable: none or all.
        NETWORK: Name of the network in keras.applications.
        VERSION: Increased if a change of the code changes the values of frozen features.
        POOLINGS: Values of `pooling` that the encoder has.
        takes_clips: False: the encoder takes frames.
        blocks: Empty: the network has no named blocks.
        requires: Normalization "own": Keras' function for the network, or layers inside it.
        defaults: The size of the frames that the network was trained on.
        pretrained: Keras' file of the network's weights.
    """

    pooling: str = "average"
    trainable: str = "none"

    NETWORK: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    POOLINGS: ClassVar[tuple[str, ...]] = ("average", "map", "flatten")
    takes_clips: ClassVar[bool] = False
    blocks: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[Mapping[str, Any]] = {"normalize": "own"}
    defaults: ClassVar[Mapping[str, Any]] = {}
    pretrained: ClassVar[PretrainedNet | None] = None

    @nn.compact
    def __call__(self, frames_BHWC: Array, train: bool = False) -> Array:
        """Return features (B, D), or maps (B, h, w, D).

        Args:
            frames_BHWC: Pixels from 0 to 255.
            train: True: batch normalization uses the batch's statistics.
        """
        pooling = "avg" if self.pooling == "average" else None
        net = network(self.NETWORK, tuple(frames_BHWC.shape[1:]), pooling)
        values = self._values(net)
        states = [
            [values.get(id(variable), np.asarray(variable.value)) for variable in variables]
            for variables in (net.model.trainable_variables, net.model.non_trainable_variables)
        ]
        tokens = _train.set(train), _by_flax.set(train or self.is_initializing())
        try:
            with jax.numpy_rank_promotion("allow"):  # Keras relies on it
                x = net.preprocess(frames_BHWC.astype(jnp.float32), data_format="channels_last")
                x, _ = net.model.stateless_call(*states, x, training=False)
        finally:
            _train.reset(tokens[0])
            _by_flax.reset(tokens[1])
        return (pool(x, "flatten") if self.pooling == "flatten" else x).astype(jnp.float32)

    def _values(self, net: Network) -> dict[int, Any]:
        """Return the arrays by the `id` of Keras' variable.

        During initialization, Flax's layers create the arrays of batch normalizations.
        """
        norms = {entry.place.layer for entry in net.entries.values() if entry.place.name == "var"}
        layers: dict[tuple[str, str], dict[int, Entry]] = {}
        for identity, entry in net.entries.items():
            if entry.place.layer not in norms:
                layers.setdefault(entry.place[:2], {})[identity] = entry
        begin: dict[int, Any] = {identity: e.initial for identity, e in net.entries.items()}
        if self.is_initializing():
            begin |= _drawn(self.make_rng("params"), net.entries)
        values: dict[int, Any] = {}
        for (collection, layer), entries in layers.items():
            first = {entry.place.name: jnp.asarray(begin[i]) for i, entry in entries.items()}
            if collection == "params":
                arrays = self.param(layer, lambda _, first=first: first)
            else:
                arrays = self.variable(collection, layer, lambda first=first: first).value
            values |= {identity: arrays[entry.place.name] for identity, entry in entries.items()}
        if not self.is_initializing():
            for identity, entry in net.entries.items():
                if entry.place.layer in norms:
                    collection, layer, array = entry.place
                    values[identity] = self.variables[collection][layer][array]
        return values

    def read_weights(self, source: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables with their values replaced by the weights of a file.

        Args:
            source: imagenet, NAME@HASH or a file.
            variables: The variables that `init` returns.

        Raises:
            UserError: The weights are not available, damaged, or those of another network.
        """
        from vidrec.models.encoders import keras_weights

        return keras_weights.read(self.NETWORK, source, variables)


def _drawn(key: Array, entries: Mapping[int, Entry]) -> dict[int, Array]:
    """Draw arrays as Keras' variance scaling does.

    Arrays of one distribution are parts of a single draw. A program with one draw for each of
    several hundred arrays would take minutes to compile.
    """
    # Each has standard deviation 1; Keras truncates the normal distribution at two deviations.
    draws = {
        "normal": jax.random.normal,
        "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1.0) * math.sqrt(3),
        "truncated_normal": lambda key, shape: (
            jax.random.truncated_normal(key, -2.0, 2.0, shape) / 0.87962566103423978
        ),
    }
    arrays = {}
    for number, (distribution, draw) in enumerate(draws.items()):
        members = [(i, entry) for i, entry in entries.items() if entry.distribution == distribution]
        ends = np.cumsum([entry.initial.size for _, entry in members], dtype=np.int64)
        if not members:
            continue
        numbers = draw(jax.random.fold_in(key, number), (int(ends[-1]),))
        for (identity, entry), end in zip(members, ends.tolist(), strict=True):
            part = numbers[end - entry.initial.size : end].reshape(entry.initial.shape)
            arrays[identity] = part * entry.deviation
    return arrays


@functools.cache
def encoder(kind: str) -> type[KerasNet]:
    """Return the class of an encoder `keras:NAME`.

    Raises:
        UserError: keras.applications has no such network.
    """
    import difflib

    name = kind.removeprefix("keras:")
    if name not in NETWORKS:
        folded = {known.lower(): known for known in NETWORKS}
        near = difflib.get_close_matches(name.lower(), folded, 3, 0.6)
        guess = " or ".join(f"keras:{folded[match]}" for match in near)
        raise UserError(
            f"encoder.kind = {kind!r}: keras.applications has no network {name!r}"
            + (f"; did you mean {guess}?" if near else f"; it has {', '.join(NETWORKS)}")
        )
    entry = NETWORKS[name]
    weights = PretrainedNet((), {"keras": "own"}, entry.url, (entry.file,), name)
    declared = {
        "__doc__": KerasNet.__doc__,
        "NETWORK": name,
        "defaults": {"size": entry.size},
        "pretrained": weights,
    }
    return type(f"Keras{name}", (KerasNet,), declared | {"__module__": __name__})


@functools.lru_cache(maxsize=4)
def network(
    name: str, frame_shape: tuple[int, ...], pooling: str | None = "avg", top: bool = False
) -> Network:
    """Build a network for frames of this shape.

    The network is built in a separate thread. So it does not depend on a JAX trace in the calling
    thread, or on names and policies that other uses of Keras have set in that thread.

    Args:
        name: Name in keras.applications.
        frame_shape: (H, W, C).
        pooling: Pooling by Keras, avg or None; ConvNeXt has a normalization after it.
        top: True: include the layers after the features.

    Raises:
        UserError: Keras is missing, has other settings, or refuses frames of this size.
    """
    keras = imported()
    with ThreadPoolExecutor(1) as thread:
        chosen = {"input_shape": frame_shape, "pooling": pooling, "include_top": top}
        return thread.submit(_built, keras, name, chosen).result()


def _built(keras: types.ModuleType, name: str, chosen: Mapping[str, Any]) -> Network:
    try:
        with jax.numpy_rank_promotion("allow"):
            model = getattr(keras.applications, name)(weights=None, **chosen)
    except ValueError as error:
        height, width = chosen["input_shape"][:2]
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"keras:{name} takes no frames of {height}x{width}, see encoder.size ({reason})"
        ) from None
    entries = {}
    for layer, place_name in _layers(keras, model):
        for variable in layer.weights:
            place = _place(layer, place_name, variable)
            initial = np.asarray(variable.value)
            drawn = _initializer(layer, variable.name) if np.ptp(initial) else None
            entries[id(variable)] = Entry(place, initial, drawn)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.call = functools.partial(_normalize, layer, layer.call, place_name)
        elif isinstance(layer, keras.layers.Normalization):
            layer.call = functools.partial(_standardize, layer)
    module = getattr(keras.applications, NETWORKS[name].module)
    return Network(model, module.preprocess_input, entries)


def _layers(keras: types.ModuleType, model: Any) -> Iterator[tuple[Any, str]]:
    """Yield the layers that hold arrays, named by kind and number as in a `.weights.h5`."""
    counts: dict[str, int] = {}
    for layer in _leaves(model):
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        counts[kind] = counts.get(kind, -1) + 1
        if layer.weights:
            yield layer, f"{kind}_{counts[kind]}"


def _leaves(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield from _leaves(layer) if hasattr(layer, "layers") else (layer,)


def _place(layer: Any, name: str, variable: Any) -> Place:
    if variable.name in NORM and hasattr(layer, "moving_mean"):
        collection, ours = NORM[variable.name]
        return Place(collection, name, ours)
    return Place("params" if variable.trainable else "constants", name, variable.name)


def _initializer(layer: Any, name: str) -> Any:
    """Return the initializer of a layer's array; that of depthwise kernels has another name."""
    for attribute in (name, name.removesuffix("_kernel"), "depthwise"):
        if found := getattr(layer, f"{attribute}_initializer", None):
            return found
    return None


def _normalize(layer: Any, call: Any, name: str, inputs: Array, **more: Any) -> Array:
    """Apply a Keras batch normalization: by Flax's layer in training, else by Keras' own call."""
    del more
    if not _by_flax.get():
        return call(inputs, training=False)
    norm = nn.BatchNorm(
        use_running_average=not _train.get(),
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        axis=layer.axis,
        use_scale=layer.scale,
        use_bias=layer.center,
        name=name,
    )
    return norm(inputs)


def _standardize(layer: Any, inputs: Array) -> Array:
    """Centre and scale as Keras' layer `Normalization` does, by the layer's variables.

    Keras' own call reads copies of these variables that were made when the layer was built or
    adapted. So weights that are loaded later would have no effect.
    """
    mean, variance = (
        jnp.reshape(variable.value, (1,) * (inputs.ndim - 1) + (-1,))
        for variable in (layer.adapt_mean, layer.adapt_variance)
    )
    return (inputs - mean) / jnp.maximum(jnp.sqrt(variance), 1e-7)


def imported() -> types.ModuleType:
    """Import Keras, on its JAX backend unless KERAS_BACKEND names another one.

    Raises:
        UserError: Keras is not installed, or its settings do not allow the use of its networks.
    """
    if importlib.util.find_spec("keras") is None:
        how = how_to_install("keras")
        raise UserError(f"encoder.kind = keras:…: Keras is not installed: {how}")
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            keras = importlib.import_module("keras")
            importlib.import_module("keras.applications")
        found = keras.config.backend(), keras.config.image_data_format(), keras.config.floatx()
    except Exception as error:  # a backend that is not installed, a version before 3, …
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        backend = os.environ.get("KERAS_BACKEND")
        raise UserError(
            f"Keras cannot be imported ({reason}); KERAS_BACKEND is {backend!r}, should be 'jax', "
            f"and Keras 3.5 or newer: {how_to_install('keras')}"
        ) from None
    wanted = ("jax", "channels_last", "float32")
    if found != wanted:
        settings = ("backend", "image_data_format", "floatx")
        [(name, is_, should), *_] = [
            row for row in zip(settings, found, wanted, strict=True) if row[1] != row[2]
        ]
        how = "KERAS_BACKEND=jax" if name == "backend" else f"{name} in ~/.keras/keras.json"
        raise UserError(
            f"encoder.kind = keras:…: Keras' {name} is {is_!r}, should be {should!r}: set {how}"
        )
    return keras
