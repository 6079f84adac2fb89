"""One training step of one recurrent layer: ours beside PyTorch's, flax's and Keras'.

    python benchmarks/recurrent_step.py                  an LSTM: 128 x 120 x 1024 to 512 units
    python benchmarks/recurrent_step.py --cell gru --compiled      torch.compile beside, too
    python benchmarks/recurrent_step.py --batch 4 --frames 6 --width 16 --units 8      a first look

Each side takes the same clips and the same weights, gives its last state, and takes the gradient of
that state's mean square for every weight; float32. Gradients are compared before anything is timed.
Keras runs on JAX; flax's gates are other parameters, so it starts from weights of its own.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import turns

from vidrec.models import cells, interop, scanners

Step = Callable[[], Any]  # gives the gradient of the input weights; flax's gives none
NEAR = 1e-4  # of the gradient's size


def ours(cell: str, x_BTD: np.ndarray, units: int) -> tuple[Step, dict, scanners.Recurrent]:
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


def in_torch(cell: str, x_BTD: np.ndarray, units: int, tensors: dict, compiled: bool) -> Step:
    """torch.nn.LSTM or GRU, whose input weights are (gates, D)."""
    import torch

    device = turns.torch_device()
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    layer = made(x_BTD.shape[-1], units, batch_first=True)
    layer.load_state_dict({name: torch.tensor(each) for name, each in tensors.items()})
    layer.to(device)
    given = torch.tensor(x_BTD, device=device)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return (layer(x)[0][:, -1] ** 2).mean()

    loss = torch.compile(forward) if compiled else forward

    def run() -> np.ndarray:
        layer.zero_grad()
        loss(given).backward()
        return layer.weight_ih_l0.grad.cpu().numpy().T

    return run


def in_flax(cell: str, x_BTD: np.ndarray, units: int) -> Step:
    """flax's nn.RNN; it has its own weights, since its gates have other parameters."""
    kind = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[cell]
    layer = nn.RNN(kind(units))
    given = jnp.asarray(x_BTD)
    variables = layer.init(jax.random.key(0), given[:1, :1])

    @jax.jit
    def step(variables: Any, x_BTD: jax.Array) -> Any:
        return jax.grad(lambda v: jnp.mean(layer.apply(v, x_BTD)[:, -1] ** 2))(variables)

    return lambda: jax.block_until_ready(step(variables, given)) and None


def in_keras(cell: str, x_BTD: np.ndarray, units: int, weights: list) -> Step:
    """keras.layers.LSTM or GRU on JAX."""
    import keras

    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[cell](units)
    step = turns.keras_step(layer, weights, x_BTD)
    return lambda: step()[0]


def main() -> None:
    """Compares, then times."""
    words = turns.arguments(__doc__)
    words.add_argument("--cell", choices=("lstm", "gru"), default="lstm", help="default lstm")
    turns.sizes(words, batch=128, frames=120, width=1024, units=512, rounds=7)
    words.add_argument("--compiled", action="store_true", help="time torch.compile too")
    given = words.parse_args()
    rng = np.random.default_rng(0)
    x_BTD = rng.standard_normal((given.batch, given.frames, given.width), np.float32)
    first, params, scanner = ours(given.cell, x_BTD, given.units)
    tensors = interop.to_torch(scanner, params)
    sides: dict[str, Step] = {turns.OURS: first}
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
    # Gates stand in another order in each, so the gradients' sizes are compared.
    sizes = {
        name: np.linalg.norm(each)[None] for name, each in gradients.items() if each is not None
    }
    furthest = {
        name: turns.compare(name, size, sizes[turns.OURS], NEAR) for name, size in sizes.items()
    }
    answer = {
        "work": f"{given.cell.upper()} training step",
        "step": turns.shown(given, "rounds", "compiled"),
        "sides": turns.figures(turns.seconds(sides, given.rounds)),
        "gradients_off_at_most": max(furthest.values()),
        "versions": turns.versions("torch", "keras"),
    }
    turns.show(answer, given.json)


def _single(params: dict, cell: str) -> dict:
    """Keras' LSTM has one bias where PyTorch has two that are added."""
    if cell == "gru":
        return params
    layer = dict(params["layer_0_forward"])
    other = layer.pop("recurrent_bias", 0.0)
    return {"layer_0_forward": layer | {"bias": np.asarray(layer["bias"]) + other}}


if __name__ == "__main__":
    main()
