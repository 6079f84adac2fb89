"""Define what both kernels do on the device: products, synchronization, and dividing the work."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from vidrec.models.fused.work import Blocks, Form

# After reading the counter this often, a waiting program gives up, so that a fault cannot hang the
# device.
PATIENCE = 200_000


def dot(form: Form, a: Array, b: Array, transposed: bool = False) -> Array:
    """Return a @ b, or a @ b.T, summed in float32."""
    dims = (((1,), (1 if transposed else 0,)), ((), ()))
    precision = None
    if b.dtype == jnp.float32:
        # HIGH selects TF32, and HIGHEST selects exact products.
        precision = lax.Precision.HIGHEST if form.exact else lax.Precision.HIGH
    return lax.dot_general(
        a.astype(b.dtype), b, dims, precision=precision, preferred_element_type=jnp.float32
    )


def wait(form: Form, sync: Any, counter: tuple, target: Any, slices: int) -> None:
    """Wait until every program of this tile of clips has reached this call."""
    if form.interpret:
        return
    from jax.experimental.pallas import triton

    triton.debug_barrier()
    if slices == 1:
        return
    reached = triton.atomic_add(sync, counter, 1) + 1

    def far(state: tuple) -> Array:
        return (state[0] < target) & (state[1] < PATIENCE)

    def look(state: tuple) -> tuple:
        return triton.atomic_add(sync, counter, 0), state[1] + 1

    lax.while_loop(far, look, (reached, jnp.int32(0)))
    triton.debug_barrier()


def load(form: Form, ref: Any, *index: Any) -> Array:
    """Read what another program may have written, bypassing the cache of this processor."""
    if form.interpret:
        return ref[index]
    from jax.experimental.pallas import triton

    return triton.load(ref.at[index], volatile=True)


class Place(NamedTuple):
    """The part of the work that one program does.

    Attributes:
        trial: Index of the trial.
        tile: Index of the tile of clips.
        rows: Clips of the tile.
        first: Index of the program's first product; each product gives `width` units.
        stop: Index after the program's last product.
        width: Number of units of a product.
    """

    trial: Any
    tile: Any
    rows: Any
    first: Any
    stop: Any
    width: int

    def columns(self, chunk: Any) -> Any:
        """Return the units of one product."""
        return pl.ds(chunk * self.width, self.width)


def place_of(blocks: Blocks, units: int) -> Place:
    """Return the part of the work that this program does.

    Slices are the grid's fastest axis, so that programs that wait for each other start together.
    """
    chunks = units // blocks.units
    own = math.ceil(chunks / blocks.slices)
    first = pl.program_id(0) * own
    return Place(
        trial=pl.program_id(2),
        tile=pl.program_id(1),
        rows=pl.ds(pl.program_id(1) * blocks.clips, blocks.clips),
        first=first,
        stop=jnp.minimum(first + own, chunks),
        width=blocks.units,
    )
