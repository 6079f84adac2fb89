"""Define the arguments of every scanner: arrays of clips, their masks, and options of a call.

Dimension letters: B clips, T frames, D features, U units; feature maps are (B, T, H, W, D).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vidrec.errors import UserError


class CallOptions(NamedTuple):
    """Options of one call of a model or a scanner.

    Attributes:
        train: Drop units, and normalize by the batch's own statistics.
        dropout: Share that is dropped, traced or not; None: the module's own.
        keys_B: A PRNG key for each clip, for dropout.
        grad_clip: Bound on the derivative at each gate's pre-activation; None or 0: none.
    """

    train: bool = False
    dropout: Array | float | None = None
    keys_B: Array | None = None
    grad_clip: Array | float | None = None


def expect(name: str, array: Any, *letters: str) -> None:
    """Check an array's rank.

    Args:
        name: Of the array, for the message.
        array: Anything with a shape.
        letters: Axes that are right, such as "BTD".

    Raises:
        UserError: Its rank is none of those that the letters spell.
    """
    if array.ndim not in {len(axes) for axes in letters}:
        wanted = " or ".join(f"({', '.join(axes)})" for axes in letters)
        raise UserError(f"{name}: expected {wanted}, got shape {tuple(array.shape)}")


def check_inputs(x_BTD: Array, mask_BT: Array | None, keys_B: Array | None) -> None:
    """Check ranks and common axes of what every scanner takes.

    Raises:
        UserError: One of them is wrong.
    """
    expect("features_BTD", x_BTD, "BTD", "BTHWD")
    if mask_BT is not None:
        expect("mask_BT", mask_BT, "BT")
        if mask_BT.shape != x_BTD.shape[:2]:
            raise UserError(f"mask_BT: expected (B, T) = {x_BTD.shape[:2]}, got {mask_BT.shape}")
    if keys_B is not None:
        expect("keys_B", keys_B, "B")


def lengths_to_mask(lengths_B: Array, frames: int) -> Array:
    """Return mask_BT that is True on the first `lengths_B[b]` frames of clip b."""
    expect("lengths_B", lengths_B, "B")
    return jnp.arange(frames)[None] < lengths_B[:, None]


def ends(mask_BT: Array) -> Array:
    """Return True on each clip's last valid frame only; nowhere for a clip that has none."""
    later_BT = jnp.flip(jnp.cumsum(jnp.flip(mask_BT, 1), axis=1), 1)
    return mask_BT & (later_BT == 1)


def starts(mask_BT: Array) -> Array:
    """Return True on each clip's first valid frame only; nowhere for a clip that has none."""
    return mask_BT & (jnp.cumsum(mask_BT, axis=1) == 1)


class Packed(NamedTuple):
    """Clips whose valid frames come first, in their order.

    Attributes:
        x_BTD: Their features; what stands after the valid frames is 0.
        lengths_B: How many valid frames each has.
        places_BT: Where each frame went; None: all stayed.
    """

    x_BTD: Array
    lengths_B: Array
    places_BT: Array | None

    @property
    def mask_BT(self) -> Array | None:
        """False after the valid frames; None: all are valid."""
        if self.places_BT is None:
            return None
        return lengths_to_mask(self.lengths_B, self.x_BTD.shape[1])

    def unpack(self, y_BTU: Array, mask_BT: Array | None) -> Array:
        """Return values of the packed frames, moved back to the frames' old places."""
        if self.places_BT is None:
            return y_BTU
        return zero_padding(_rows(y_BTU, self.places_BT), mask_BT)


def pack(x_BTD: Array, mask_BT: Array | None) -> Packed:
    """Move the valid frames of each clip to its beginning, for scanners that count frames.

    Args:
        x_BTD: Features that are 0 where they are padded.
        mask_BT: False on padded frames, at the end or between others; None: there are none.
    """
    if mask_BT is None:
        return Packed(x_BTD, jnp.full(x_BTD.shape[0], x_BTD.shape[1]), None)
    order_BT = jnp.argsort(~mask_BT, axis=1, stable=True)
    places_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0)
    return Packed(_rows(x_BTD, order_BT), mask_BT.sum(1), places_BT)


def _rows(x_BTD: Array, places_BT: Array) -> Array:
    return jax.vmap(lambda x_TD, places_T: x_TD[places_T])(x_BTD, places_BT)


def window(x_BSD: Array, start_B: Array, size: int) -> Array:
    """Return a number of frames of each clip, from its own start on."""
    cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
    return jax.vmap(cut)(x_BSD, start_B)


def spread(mask: Array, like: Array) -> Array:
    """Return a mask with trailing axes of 1 up to the rank of `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def zero_padding(x_BTD: Array, mask_BT: Array | None) -> Array:
    """Return x with zeros in padded frames, whatever stood there (NaN included)."""
    return x_BTD if mask_BT is None else jnp.where(spread(mask_BT, x_BTD), x_BTD, 0)
