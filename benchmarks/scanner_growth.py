"""What each scanner takes in time and memory against the frames of a clip.

    python benchmarks/scanner_growth.py                              30, 300 and 3,000 frames
    python benchmarks/scanner_growth.py --kinds lstm lru --rounds 5      two of them
    python benchmarks/scanner_growth.py --frames 6 12 --batch 2 --units 8      a first look

A training step: the gradient of the mean square of the states of all frames, for every weight, of
clips of random features; float32, every clip has a mask. Kinds take turns. Memory is what the
compiled step allocates beside its arguments and results, by XLA's own account. A stream's frame is
one call for one clip with the carry, and `carry` the bytes that it keeps for a clip. A kind of maps
gets as many features as 3 x 3 places.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns

from vidrec.config import Scanner
from vidrec.models import scanners
from vidrec.models.inputs import lengths_to_mask

KINDS = (
    *("mean", "lstm", "gru", "mingru", "minlstm", "lru"),
    *("attention", "tcn", "transformer", "whole transformer", "convlstm", "convgru"),
)
PLACES = 3


class Measured:
    """One kind at one length: its step, and its memory."""

    def __init__(self, kind: str, frames: int, given: argparse.Namespace) -> None:
        rng = np.random.default_rng(0)
        maps, width = (), given.width
        if kind.startswith("conv"):
            maps, width = (PLACES, PLACES), max(1, given.width // PLACES**2)
        self.scanner = built(kind, given)
        self.x_BTD = jnp.asarray(
            rng.standard_normal((given.batch, frames, *maps, width), np.float32)
        )
        self.mask_BT = lengths_to_mask(jnp.full(given.batch, frames), frames)
        self.variables = self.scanner.init(jax.random.key(0), self.x_BTD[:1, :1])
        compiled = jax.jit(self.gradient).lower(self.variables, self.x_BTD, self.mask_BT).compile()
        self.bytes = compiled.memory_analysis().temp_size_in_bytes
        self.step = compiled

    def gradient(self, variables: Any, x_BTD: jax.Array, mask_BT: jax.Array) -> Any:
        """Return the gradient for every weight; a mean has none, and gives its features'."""

        def loss(variables: Any, x_BTD: jax.Array) -> jax.Array:
            return jnp.mean(self.scanner.apply(variables, x_BTD, mask_BT)[0] ** 2)

        return jax.grad(loss, argnums=0 if "params" in variables else 1)(variables, x_BTD)

    def side(self) -> Callable[[], Any]:
        """Return one step, to be timed."""
        return lambda: jax.block_until_ready(self.step(self.variables, self.x_BTD, self.mask_BT))


def built(kind: str, given: argparse.Namespace) -> Any:
    """The scanner of a kind; `whole` are those whose frames see later ones."""
    whole = kind.startswith("whole ")
    settings = Scanner(
        kind=kind.removeprefix("whole "),
        units=given.units,
        layers=given.blocks if kind == "tcn" else 1,
        causal=not whole,
    )
    return scanners.build(settings)


def stream(measured: Measured, frames: int) -> tuple[float, int] | None:
    """Median seconds of one clip's next frame, and bytes of its carry; None: it does not stream."""
    scanner, variables = measured.scanner, measured.variables
    if not scanner.streams:
        return None
    x_BTD = measured.x_BTD[:1, :1]
    step = jax.jit(lambda variables, x, carry: scanner.apply(variables, x, carry=carry))
    _, carry = jax.eval_shape(lambda x: scanner.apply(variables, x), x_BTD)
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(carry))
    held = [carry]

    def one() -> None:
        held[0] = jax.block_until_ready(step(variables, x_BTD, held[0]))[1]

    one()
    return statistics.median(turns.seconds({"": one}, frames)[""]), size


def main() -> None:
    """Measures length after length."""
    words = turns.arguments(__doc__)
    words.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    words.add_argument("--frames", nargs="+", type=int, default=(30, 300, 3000), metavar="T")
    turns.sizes(words, batch=4, width=64, units=64, blocks=4, rounds=3, streamed=200)
    given = words.parse_args()
    found: dict[str, dict[str, Any]] = {kind: {} for kind in given.kinds}
    for frames in given.frames:
        turns.tell(f"{frames} frames")
        measured = {kind: Measured(kind, frames, given) for kind in given.kinds}
        for each in measured.values():
            each.side()()
        spent = turns.seconds({kind: m.side() for kind, m in measured.items()}, given.rounds)
        for kind, seconds in spent.items():
            found[kind][str(frames)] = {
                "seconds": round(statistics.median(seconds), 5),
                "least": round(min(seconds), 5),
                "most": round(max(seconds), 5),
                "bytes": measured[kind].bytes,
            }
    for kind in given.kinds:
        streamed = stream(measured[kind], given.streamed)
        weights = jax.tree.leaves(measured[kind].variables.get("params", {}))
        found[kind] |= {
            "weights": sum(leaf.size for leaf in weights),
            "stream_seconds": streamed and round(streamed[0], 6),
            "carry_bytes": streamed and streamed[1],
        }
    answer = {
        "work": "time and memory of a training step against frames",
        "step": turns.shown(given, "kinds"),
        "kinds": found,
        "versions": turns.versions(),
    }
    if given.json:
        print(json.dumps(answer))
        return
    heads = "".join(f"{f'{frames} frames':>26}" for frames in given.frames)
    print(f"{'':18}{heads}    a stream's frame, its carry, weights")
    for kind, each in found.items():
        cells = ""
        for frames in given.frames:
            at = each[str(frames)]
            cells += f"{1e3 * at['seconds']:12.1f} ms {at['bytes'] / 1e6:8.1f} MB"
        streamed = ""
        if each["carry_bytes"] is not None:
            streamed = f"{1e6 * each['stream_seconds']:8.0f} us {each['carry_bytes']:9} bytes"
        print(f"{kind:18}{cells}   {streamed:28} {each['weights']}")


if __name__ == "__main__":
    main()
