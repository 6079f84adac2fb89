"""Time a training step of a ConvLSTM: vidrec's, a plain one in PyTorch, and Keras' on JAX.

    python benchmarks/convlstm_step.py                   16 clips of 30 maps, 7x7x512, to 64 units
    python benchmarks/convlstm_step.py --units 256       report B's best model
    python benchmarks/convlstm_step.py --sides vidrec torch --rounds 9 --json
    python benchmarks/convlstm_step.py --batch 2 --frames 4 --width 16 --units 8      a first look

Every side takes the same maps and the same weights, gives the last state, and takes the gradient of
that state's mean square for every weight; float32. The gradients are compared before anything is
timed. PyTorch's is written the usual way, one convolution a step over inputs and state side by
side; "torch hoisted" takes the inputs' convolution for all frames at once, as ours does.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import turns

from vidrec.models import cells, interop, scanners

Gradients = dict[str, np.ndarray]  # by the names of our weights
SIDES = ("vidrec", "torch", "torch hoisted", "keras on jax")
NEAR = 1e-3  # of a gradient's largest entry; sums over tens of thousands of places in float32


def ours(scanner: scanners.Recurrent, params: Any, x_BTHWD: np.ndarray) -> Callable[[], Gradients]:
    """Our scanner under jit."""

    @jax.jit
    def step(params: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(scanner.apply({"params": params}, x)[0][:, -1] ** 2)

        return jax.grad(loss)(params)

    given = jnp.asarray(x_BTHWD)
    return lambda: jax.block_until_ready(step(params, given))["layer_0_forward"]


def in_torch(params: Any, x_BTHWD: np.ndarray, hoisted: bool) -> Callable[[], Gradients]:
    """A ConvLSTM as people write it; gates i, f, g, o."""
    import torch
    from torch.nn.functional import conv2d

    weights = {name: np.asarray(each) for name, each in params["layer_0_forward"].items()}
    kernels = [weights["input_kernel"], weights["recurrent_kernel"]]
    features, units, edge = kernels[0].shape[2], kernels[1].shape[2], kernels[0].shape[0] // 2
    joined = np.concatenate(kernels, axis=2).transpose(3, 2, 0, 1)
    on = {"device": turns.torch_device()}
    kernel = torch.tensor(np.ascontiguousarray(joined), requires_grad=True, **on)
    bias = torch.tensor(weights["bias"], requires_grad=True, **on)
    x = torch.tensor(np.ascontiguousarray(x_BTHWD.transpose(0, 1, 4, 2, 3)), **on)

    def inputs(x: torch.Tensor) -> list[torch.Tensor]:
        flat = conv2d(x.flatten(0, 1), kernel[:, :features], bias, padding=edge)
        return list(flat.unflatten(0, x.shape[:2]).unbind(1))

    def loss() -> torch.Tensor:
        h = c = x.new_zeros(len(x), units, *x.shape[3:])
        for each in inputs(x) if hoisted else x.unbind(1):
            if hoisted:
                gates = each + conv2d(h, kernel[:, features:], padding=edge)
            else:
                gates = conv2d(torch.cat([each, h], 1), kernel, bias, padding=edge)
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return (h**2).mean()

    def step() -> Gradients:
        kernel.grad = bias.grad = None
        loss().backward()
        both = kernel.grad.cpu().numpy().transpose(2, 3, 1, 0)
        return {
            "input_kernel": both[:, :, :features],
            "recurrent_kernel": both[:, :, features:],
            "bias": bias.grad.cpu().numpy(),
        }

    return step


def in_keras(
    scanner: scanners.Recurrent, params: Any, x_BTHWD: np.ndarray
) -> Callable[[], Gradients]:
    """keras.layers.ConvLSTM2D on JAX."""
    import keras

    cell = scanner.cell
    layer = keras.layers.ConvLSTM2D(cell.units, cell.kernel, padding="same")
    step = turns.keras_step(layer, interop.to_keras(scanner, params)[0], x_BTHWD)
    names = ("input_kernel", "recurrent_kernel", "bias")
    return lambda: dict(zip(names, step(), strict=True))


def main() -> None:
    """Compares, then times."""
    words = turns.arguments(__doc__)
    turns.sizes(words, batch=16, frames=30, places=7, width=512, units=64, kernel=3, rounds=5)
    words.add_argument(
        "--keras-rounds", type=int, default=1, help="fewer, since it takes a minute (default 1)"
    )
    words.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, metavar="SIDE")
    given = words.parse_args()
    rng = np.random.default_rng(0)
    shape = (given.batch, given.frames, given.places, given.places, given.width)
    x_BTHWD = rng.standard_normal(shape, np.float32)
    scanner = scanners.Recurrent(cells.ConvLSTM(units=given.units, kernel=given.kernel))
    params = scanner.init(jax.random.key(0), jnp.asarray(x_BTHWD[:1, :1]))["params"]
    makers = {
        "vidrec": lambda: ours(scanner, params, x_BTHWD),
        "torch": lambda: in_torch(params, x_BTHWD, False),
        "torch hoisted": lambda: in_torch(params, x_BTHWD, True),
        "keras on jax": lambda: in_keras(scanner, params, x_BTHWD),
    }
    sides = {name: makers[name]() for name in dict.fromkeys(("vidrec", *given.sides))}
    gradients = {name: side() for name, side in sides.items()}  # compiles, too
    furthest = {
        name: max(
            turns.compare(f"{name}, {weight}", each[weight], gradients["vidrec"][weight], NEAR)
            for weight in gradients["vidrec"]
        )
        for name, each in gradients.items()
    }
    fewer = {"keras on jax": given.keras_rounds}
    answer = {
        "work": "ConvLSTM training step",
        "step": turns.shown(given, "sides", "rounds", "keras_rounds"),
        "sides": turns.figures(turns.seconds(sides, given.rounds, fewer)),
        "gradients_off_at_most": max(furthest.values()),
        "versions": turns.versions("torch", "keras"),
    }
    turns.show(answer, given.json)


if __name__ == "__main__":
    main()
