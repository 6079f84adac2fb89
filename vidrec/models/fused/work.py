"""Define the arguments of the fused kernel: its form, its arrays, and the division of its work.

Dimension letters: N trials, B clips, T frames, G gates, U units.
"""

import math
from typing import NamedTuple

import jax
from jax import Array

# Rows and columns of a matrix unit's smallest tile; clips and units are padded to multiples of it.
TILE = 16


class Blocks(NamedTuple):
    """How the kernel divides its work.

    Attributes:
        clips: Number of clips (rows) of a program.
        units: Number of units (columns) of a product.
        inner: Number of terms of a product's sums that are read at once.
        slices: Number of programs that share the units of one tile of clips, and wait for each
            other.
        warps: Number of warps (of 32 threads) in a program.
        stages: Number of parts of a sum that are loaded from memory at the same time.
    """

    clips: int
    units: int
    inner: int
    slices: int
    warps: int = 4
    stages: int = 3


class Form(NamedTuple):
    """Options that are fixed when the kernel is compiled.

    Attributes:
        cell: 'lstm' or 'gru' (with the reset gate after the product).
        reverse: Run from the last frame to the first.
        exact: True: products in float32; False: in TF32 (or bfloat16 if the weights are bfloat16).
        blocks: The division of the work; None: `blocks_for` chooses it.
        interpret: Run on a CPU, for tests; the work has one slice only.
    """

    cell: str
    reverse: bool = False
    exact: bool = False
    blocks: Blocks | None = None
    interpret: bool = False

    @property
    def gates(self) -> int:
        """Number of blocks of U columns in the kernel of weights."""
        return {"lstm": 4, "gru": 3}[self.cell]


def blocks_for(trials: int, clips: int, units: int, processors: int, exact: bool = False) -> Blocks:
    """Divide the work so that every multiprocessor has a program, and only one if programs wait.

    Args:
        trials: Number of trials in the group.
        clips: Number of clips in the batch.
        units: Number of units in the layer.
        processors: Number of multiprocessors of the device.
        exact: Products are in float32, which scalar units compute.
    """
    rows = 16 if clips <= 16 else 32 if clips <= 32 or exact else 64
    if rows == 64 and trials * math.ceil(clips / 32) * math.ceil(units / TILE) <= processors:
        rows = 32
    # Parts of a sum are kept in shared memory, which limits their size for tall tiles. Exact
    # products are unrolled one by one, so larger parts would take minutes to compile.
    inner = 32 if exact or rows == 64 or units <= 32 else 64 if units <= 192 else 128
    padded = round_up(units, inner)
    most = padded // TILE  # largest number of slices of a tile of clips
    slices = max(1, min(most, processors // (trials * math.ceil(clips / rows))))
    columns = TILE if exact or slices == most else 2 * TILE
    own = math.ceil(padded / columns / slices)  # number of products of a program
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
        mask: (N, B, T) float, 0 on frames that do not change the carry.
        bound: (N, 1) bound on the gradient at each gate's pre-activation; 0: no clipping.
    """

    inputs: Array
    kernel: Array
    bias: Array
    h: Array
    c: Array
    mask: Array
    bound: Array


class Saved(NamedTuple):
    """Results of the forward pass: states of all frames, and what the backward pass needs.

    States have T + 1 entries along time: one before the first frame, and one after each frame.
    """

    h: Array  # (N, B, T + 1, U)
    c: Array  # (N, B, T + 1, U)
    gates: Array  # (N, B, T, 4, U): i f g o, or z r n and the candidate's recurrent part


class Derivatives(NamedTuple):
    """Derivatives that the backward pass computes."""

    inputs: Array  # (N, B, T, G, U) at the pre-activations, which is also that at the inputs
    recurrent: Array  # (N, B, T, G, U) at the recurrent products
    h: Array  # (N, B, U) at h before the first frame
    c: Array  # (N, B, U) at c before the first frame


def processors() -> int:
    """Return how many multiprocessors the first device has; 1 if it is unknown."""
    return int(getattr(jax.local_devices()[0], "core_count", 1))


def is_exact() -> bool:
    """Return True if JAX's settings require float32 products in float32, not in TF32."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined,unused-ignore]
    return precision in ("highest", "float32")
