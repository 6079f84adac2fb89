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
        train: True in training: apply dropout, and normalize by the batch's statistics.
        dropout: Dropout rate, a number or a traced array; None: the module's own rate.
        keys_B: A PRNG key for each clip, for dropout.
        grad_clip: Bound on the gradient at each gate's pre-activation; None or 0: no clipping.
    """

    train: bool = False
    dropout: Array | float | None = None
    keys_B: Array | None = None
    grad_clip: Array | float | None = None


def expect(name: str, array: Any, *letters: str) -> None:
    """Check an array's rank.

    Args:
        name: Name of the array, for the message.
        array: Anything with a shape.
        letters: Accepted axes, one letter for each axis, such as "BTD".

    Raises:
        UserError: The array's rank fits none of `letters`.
    """
    if array.ndim not in {len(axes) for axes in letters}:
        wanted = " or ".join(f"({', '.join(axes)})" for axes in letters)
        raise UserError(f"{name}: expected {wanted}, got shape {tuple(array.shape)}")


def check_inputs(x_BTD: Array, mask_BT: Array | None, keys_B: Array | None) -> None:
    """Check the ranks and common axes of the arrays that every scanner takes.

    Raises:
        UserError: A rank is wrong, or common axes differ in size.
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
    """Return a mask that is True on each clip's last valid frame only, if the clip has one."""
    later_BT = jnp.flip(jnp.cumsum(jnp.flip(mask_BT, 1), axis=1), 1)
    return mask_BT & (later_BT == 1)


def starts(mask_BT: Array) -> Array:
    """Return a mask that is True on each clip's first valid frame only, if the clip has one."""
    return mask_BT & (jnp.cumsum(mask_BT, axis=1) == 1)


class Packed(NamedTuple):
    """Clips whose valid frames are moved to the front, in their order.

    Attributes:
        x_BTD: Features of the clips, 0 after the valid frames.
        lengths_B: Number of valid frames of each clip.
        places_BT: Index of each valid frame after the move; None: no frame was moved.
    """

    x_BTD: Array
    lengths_B: Array
    places_BT: Array | None

    @property
    def mask_BT(self) -> Array | None:
        """Mask that is False after the valid frames; None: all frames are valid."""
        if self.places_BT is None:
            return None
        return lengths_to_mask(self.lengths_B, self.x_BTD.shape[1])

    def unpack(self, y_BTU: Array, mask_BT: Array | None) -> Array:
        """Move values of the packed frames back to the frames' original positions."""
        if self.places_BT is None:
            return y_BTU
        return zero_padding(_rows(y_BTU, self.places_BT), mask_BT)


def pack(x_BTD: Array, mask_BT: Array | None) -> Packed:
    """Move each clip's valid frames to its start, for scanners that use distances in frames.

    Args:
        x_BTD: Features, 0 on padded frames.
        mask_BT: False on padded frames, at the end or between others; None: no frame is padded.
    """
    if mask_BT is None:
        return Packed(x_BTD, jnp.full(x_BTD.shape[0], x_BTD.shape[1]), None)
    order_BT = jnp.argsort(~mask_BT, axis=1, stable=True)
    places_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0)
    return Packed(_rows(x_BTD, order_BT), mask_BT.sum(1), places_BT)


def _rows(x_BTD: Array, places_BT: Array) -> Array:
    return jax.vmap(lambda x_TD, places_T: x_TD[places_T])(x_BTD, places_BT)


def window(x_BSD: Array, start_B: Array, size: int) -> Array:
    """Return `size` frames of each clip, beginning at the clip's index in `start_B`."""
    cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=size)
    return jax.vmap(cut)(x_BSD, start_B)


def spread(mask: Array, like: Array) -> Array:
    """Return a mask with trailing axes of 1 up to the rank of `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def zero_padding(x_BTD: Array, mask_BT: Array | None) -> Array:
    """Set padded frames of x to 0, even if they contain NaN."""
    return x_BTD if mask_BT is None else jnp.where(spread(mask_BT, x_BTD), x_BTD, 0)
