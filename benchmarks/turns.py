"""What the benchmarks share: sides take turns, results are compared first, figures keep a spread.

Ratios are told one way everywhere: how many times as long as ours the other side takes. Above 1
ours is the quicker one. Each round gives a ratio of its own; their quartiles are shown.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

import numpy as np

OURS = "vidrec"
Side = Callable[[], Any]


def seconds(
    sides: Mapping[str, Side],
    rounds: int,
    fewer: Mapping[str, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each side in each round; whoever went first in one round goes last in the next.

    Sides in `fewer` join so many rounds only: one that is a hundred times slower needs no more.
    """
    spent: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for turn in range(rounds):
        for name in order:
            if turn >= (fewer or {}).get(name, rounds):
                continue
            began = clock()
            sides[name]()
            spent[name].append(clock() - began)
        order = order[1:] + order[:1]
    return spent


def figures(spent: Mapping[str, Sequence[float]], ours: str = OURS) -> dict[str, dict[str, Any]]:
    """Median, least and most of each side, and quartiles of its rounds' times over ours."""
    base = spent.get(ours)
    found: dict[str, dict[str, Any]] = {}
    for name, each in spent.items():
        found[name] = {
            "seconds": round(float(np.median(each)), 5),
            "least": round(min(each), 5),
            "most": round(max(each), 5),
        }
        if base:
            ratios = np.asarray(each) / np.asarray(base[: len(each)])
            quartiles = np.quantile(ratios, (0.25, 0.5, 0.75))
            found[name]["times_ours"] = [round(float(q), 3) for q in quartiles]
    return found


def compare(name: str, found: Any, ours: Any, within: float) -> float:
    """How far a side's arrays are from ours, as a share of our largest entry.

    Ends the benchmark where that is more than `within`: what computes something else is not timed.
    """
    found, ours = np.asarray(found, np.float64), np.asarray(ours, np.float64)
    if found.shape != ours.shape:
        raise SystemExit(f"{name} gives {found.shape} where ours gives {ours.shape}")
    furthest = float(np.abs(found - ours).max() / max(np.abs(ours).max(), 1e-30))
    if not furthest <= within:  # not a number is far, too
        raise SystemExit(f"{name} computes something else: {furthest:.2g} of the largest entry off")
    return furthest


def keras_step(layer: Any, weights: list, x: np.ndarray) -> Side:
    """A Keras layer on JAX, from these weights, as one jitted step.

    The step gives the gradients, for every weight, of the mean square of what the layer gives.
    """
    import jax
    import jax.numpy as jnp

    layer.build(x.shape)
    layer.set_weights(weights)
    fixed = [each.value for each in layer.non_trainable_variables]

    @jax.jit
    def step(trained: list, x: jax.Array) -> list:
        def loss(trained: list) -> jax.Array:
            return jnp.mean(layer.stateless_call(trained, fixed, x)[0] ** 2)

        return jax.grad(loss)(trained)

    given, values = jnp.asarray(x), [each.value for each in layer.trainable_variables]
    return lambda: jax.block_until_ready(step(values, given))


def torch_device() -> Any:
    """PyTorch's accelerator where it has one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arguments(text: str | None) -> argparse.ArgumentParser:
    """Words every benchmark takes, its docstring the help; memory is kept, as by our commands."""
    from vidrec.training import runtime

    runtime.keep_memory()
    words = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return words


def sizes(words: argparse.ArgumentParser, **defaults: int) -> None:
    """Options that are counts, with their defaults in the help."""
    for name, size in defaults.items():
        words.add_argument(f"--{name}", type=int, default=size, help=f"default {size}")


def shown(given: argparse.Namespace, *left_out: str) -> dict[str, Any]:
    """The options that a result states."""
    return {name: each for name, each in vars(given).items() if name not in ("json", *left_out)}


def versions(*packages: str) -> dict[str, str]:
    """Of what was compared, of the device and of the cores; a side left out may not be there."""
    from vidrec.io import machine

    found = machine.versions()
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if "torch" in found:
        found["torch_device"] = str(torch_device())
    return found | {"cores": str(len(os.sched_getaffinity(0)))}


def tell(line: str) -> None:
    """A line for whoever waits."""
    print(line, file=sys.stderr, flush=True)


def show(answer: Mapping[str, Any], as_json: bool) -> None:
    """One JSON object, or a line a side."""
    if as_json:
        print(json.dumps(answer))
        return
    wide = max(len(name) for name in answer["sides"])
    print(f"{'':{wide}}   median     least      most   times ours (quartiles)")
    for name, side in answer["sides"].items():
        ratios = " … ".join(f"{each:.2f}" for each in side.get("times_ours", ()))
        print(
            f"{name:{wide}} {side['seconds']:8.3f}s {side['least']:8.3f}s {side['most']:8.3f}s   "
            f"{ratios}"
        )
    for name, value in answer.items():
        if name not in ("sides", "versions"):
            print(f"{name}: {value}")
