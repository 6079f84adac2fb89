"""One training step of one recurrent layer: ours beside PyTorch's, flax's and Keras'.

    python benchmarks/recurrent_step.py [--cell lstm|gru] [--batch 128 --frames 120 --width 1024
                                         --units 512] [--rounds 7]

Each side takes the same clips and the same weights, gives its last state, and takes the gradient of
that state's mean square for every weight; float32. Gradients are compared before anything is timed.
Sides take turns, so that what else the machine does hits all alike. PyTorch's compiled form is
timed where a compiler is there; Keras runs on JAX.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from vidrec import cells, interop, scanners, train

Side = Callable[[], Any]  # a step; gives the gradient of the recurrent weights


def ours(cell: str, x_BTD: np.ndarray, units: int) -> tuple[Side, dict, scanners.Recurrent]:
    """Our scanner; and its weights, for the others."""
    kind = {"lstm": cells.LSTM, "gru": cells.GRU}[cell]
    scanner = scanners.Recurrent(kind(units=units, bias="double" if cell == "lstm" else "single"))
    variables = scanner.init(jax.random.key(0), jnp.asarray(x_BTD[:1, :1]))

    @jax.jit
    def step(variables: Any, x_BTD: jax.Array) -> Any:
        def loss(variables: Any) -> jax.Array:
            return jnp.mean(scanner.apply(variables, x_BTD)[0][:, -1] ** 2)

        return jax.grad(loss)(variables)

    given = jnp.asarray(x_BTD)

    def run() -> np.ndarray:
        gradient = jax.block_until_ready(step(variables, given))
        return gradient["params"]["layer_0_forward"]["input_kernel"]

    return run, variables["params"], scanner


def in_torch(cell: str, x_BTD: np.ndarray, units: int, tensors: dict, compiled: bool) -> Side:
    """torch.nn.LSTM or GRU, whose input weights are (gates, D)."""
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    layer = made(x_BTD.shape[-1], units, batch_first=True)
    layer.load_state_dict({name: torch.tensor(each) for name, each in tensors.items()})
    given = torch.tensor(x_BTD)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return (layer(x)[0][:, -1] ** 2).mean()

    loss = torch.compile(forward) if compiled else forward

    def run() -> np.ndarray:
        layer.zero_grad()
        loss(given).backward()
        return layer.weight_ih_l0.grad.numpy().T

    return run


def in_flax(cell: str, x_BTD: np.ndarray, units: int) -> Side:
    """flax's nn.RNN; weights of its own, since its gates are other parameters."""
    kind = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[cell]
    layer = nn.RNN(kind(units))
    given = jnp.asarray(x_BTD)
    variables = layer.init(jax.random.key(0), given[:1, :1])

    @jax.jit
    def step(variables: Any, x_BTD: jax.Array) -> Any:
        return jax.grad(lambda v: jnp.mean(layer.apply(v, x_BTD)[:, -1] ** 2))(variables)

    return lambda: jax.block_until_ready(step(variables, given)) and None


def in_keras(cell: str, x_BTD: np.ndarray, units: int, weights: list) -> Side:
    """keras.layers.LSTM or GRU on JAX, as a pure function of its weights."""
    import keras

    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[cell](units)
    given = jnp.asarray(x_BTD)
    layer.build(x_BTD.shape)
    layer.set_weights(weights)
    fixed = [each.value for each in layer.non_trainable_variables]

    @jax.jit
    def step(trained: list, x_BTD: jax.Array) -> Any:
        def loss(trained: list) -> jax.Array:
            return jnp.mean(layer.stateless_call(trained, fixed, x_BTD)[0] ** 2)

        return jax.grad(loss)(trained)

    values = [each.value for each in layer.trainable_variables]
    return lambda: jax.block_until_ready(step(values, given))[0]


def milliseconds(side: Side) -> float:
    began = time.perf_counter()
    side()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    """Prints one JSON object: medians, and ratios of each round with their quartiles."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--cell", choices=("lstm", "gru"), default="lstm")
    for name, size in (("batch", 128), ("frames", 120), ("width", 1024), ("units", 512)):
        words.add_argument(f"--{name}", type=int, default=size)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--compiled", action="store_true", help="time torch.compile too")
    given = words.parse_args()
    rng = np.random.default_rng(0)
    x_BTD = rng.normal(size=(given.batch, given.frames, given.width)).astype(np.float32)
    first, params, scanner = ours(given.cell, x_BTD, given.units)
    tensors = interop.to_torch(scanner, params)
    sides: dict[str, Side] = {"vidrec": first}
    sides["torch"] = in_torch(given.cell, x_BTD, given.units, tensors, False)
    if given.compiled:
        sides["torch compiled"] = in_torch(given.cell, x_BTD, given.units, tensors, True)
    sides["flax nn.RNN"] = in_flax(given.cell, x_BTD, given.units)
    keras_like = scanners.Recurrent(
        replace(scanner.cell, bias="single") if given.cell == "lstm" else scanner.cell
    )
    weights = interop.to_keras(keras_like, _single(params, given.cell))[0]
    sides["keras on jax"] = in_keras(given.cell, x_BTD, given.units, weights)
    gradients = {name: side() for name, side in sides.items()}  # compiles, too
    for name, found in gradients.items():
        if found is not None:
            # Gates stand in another order in each, so the gradients' sizes are compared.
            sizes = [np.linalg.norm(each) for each in (found, gradients["vidrec"])]
            np.testing.assert_allclose(*sizes, rtol=1e-4, err_msg=name)
    rounds = [
        {name: milliseconds(side) for name, side in sides.items()} for _ in range(given.rounds)
    ]
    figures = {
        name: {
            "ms": round(float(np.median([each[name] for each in rounds])), 1),
            "times_ours": [
                round(float(q), 2)
                for q in np.quantile([e[name] / e["vidrec"] for e in rounds], (0.25, 0.5, 0.75))
            ],
        }
        for name in sides
    }
    shape = {k: v for k, v in vars(given).items() if k not in ("rounds", "compiled")}
    versions = train.versions() | {"torch": torch.__version__}
    print(json.dumps({"step": shape, "sides": figures, "versions": versions}, indent=1))


def _single(params: dict, cell: str) -> dict:
    """Keras' LSTM has one bias where PyTorch has two that are added."""
    if cell == "gru":
        return params
    layer = dict(params["layer_0_forward"])
    other = layer.pop("recurrent_bias", 0.0)
    return {"layer_0_forward": layer | {"bias": np.asarray(layer["bias"]) + other}}


if __name__ == "__main__":
    main()
