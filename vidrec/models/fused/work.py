"""How the fused kernel is called: its form, its arrays, and how its work is cut.

Dimension letters: N trials, B clips, T frames, G gates, U units.
"""

import math
from typing import NamedTuple

import jax
from jax import Array

# Rows and columns of a matrix unit's smallest tile: clips and units are padded to multiples.
TILE = 16


class Blocks(NamedTuple):
    """How the kernel cuts its work.

    Attributes:
        clips: rows of a program.
        units: columns of a product.
        inner: terms of a product's sums that are read at once.
        slices: programs that share the units of one tile of clips, and wait for each other.
        warps: of 32 threads, in a program.
        stages: parts of a sum that are on their way from memory at once.
    """

    clips: int
    units: int
    inner: int
    slices: int
    warps: int = 4
    stages: int = 3


class Form(NamedTuple):
    """What is fixed before compiling.

    Attributes:
        cell: 'lstm' or 'gru' (the reset gate after the product).
        reverse: from the last frame to the first.
        exact: products in float32; otherwise TF32 (bfloat16 where the weights are).
        blocks: None: chosen by `blocks_for`.
        interpret: run on a CPU, for tests; one slice only.
    """

    cell: str
    reverse: bool = False
    exact: bool = False
    blocks: Blocks | None = None
    interpret: bool = False

    @property
    def gates(self) -> int:
        """Blocks of U columns."""
        return {"lstm": 4, "gru": 3}[self.cell]


def blocks_for(trials: int, clips: int, units: int, processors: int, exact: bool = False) -> Blocks:
    """Divide the work so that every multiprocessor has a program, and only one if programs wait.

    Args:
        trials: Size of the group.
        clips: Size of the batch.
        units: Size of the layer.
        processors: multiprocessors of the device.
        exact: products in float32, by scalar units.
    """
    rows = 16 if clips <= 16 else 32 if clips <= 32 or exact else 64
    if rows == 64 and trials * math.ceil(clips / 32) * math.ceil(units / TILE) <= processors:
        rows = 32
    # Parts of a sum lie in shared memory, which is small for tall tiles. Exact products are
    # written out one by one: larger parts would take minutes to compile.
    inner = 32 if exact or rows == 64 or units <= 32 else 64 if units <= 192 else 128
    padded = round_up(units, inner)
    most = padded // TILE  # slices that a tile of clips could have
    slices = max(1, min(most, processors // (trials * math.ceil(clips / rows))))
    columns = TILE if exact or slices == most else 2 * TILE
    own = math.ceil(padded / columns / slices)  # products of a program
    return Blocks(rows, columns, inner, math.ceil(padded / columns / own))


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `size`."""
    return -(-size // multiple) * multiple


class Operands(NamedTuple):
    """Arrays of a scan, each with a leading axis of trials.

    Attributes:
        inputs: (N, B, T, G, U) projected inputs, biases included.
        kernel: (N, U, G, U) recurrent weights.
        bias: (N, U) recurrent bias of a GRU's candidate; zeros for an LSTM.
        h, c: (N, B, U) carry before the first frame; a GRU's c is not used.
        mask: (N, B, T) float, 0 in frames that leave the carry alone.
        bound: (N, 1) on the derivative at each gate's pre-activation; 0 is none.
    """

    inputs: Array
    kernel: Array
    bias: Array
    h: Array
    c: Array
    mask: Array
    bound: Array


class Saved(NamedTuple):
    """What the forward pass leaves: states of all frames, and what the backward pass needs.

    States have T + 1 places along time: one before the first frame, and one after each.
    """

    h: Array  # (N, B, T + 1, U)
    c: Array  # (N, B, T + 1, U)
    gates: Array  # (N, B, T, 4, U): i f g o, or z r n and the candidate's recurrent part


class Derivatives(NamedTuple):
    """Derivatives that the backward pass leaves."""

    inputs: Array  # (N, B, T, G, U) of the pre-activations, as the inputs add to them
    recurrent: Array  # (N, B, T, G, U) of the recurrent products
    h: Array  # (N, B, U) of the carry before the first frame
    c: Array  # (N, B, U)


def processors() -> int:
    """Return how many multiprocessors the first device has; 1 if it is unknown."""
    return int(getattr(jax.local_devices()[0], "core_count", 1))


def is_exact() -> bool:
    """Return True where float32 products are asked for in float32, not in TF32."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined,unused-ignore]
    return precision in ("highest", "float32")
