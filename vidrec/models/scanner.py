"""What all scanners are: a call that checks its arrays, and a carry.

Dimension letters: B clips, T frames, D features, U units; feature maps are (B, T, H, W, D).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vidrec.errors import UserError
from vidrec.models.inputs import CallOptions, check_inputs, zero_padding
from vidrec.models.layers import floats


class Scanner(nn.Module):
    """A scanner of vidrec's own: checks its inputs, then scans them.

    Subclasses define `scan`. A user's scanner may be one, or any Flax module; see `apply`.
    """

    streams: ClassVar[bool] = True

    def __call__(
        self,
        x_BTD: Array,
        mask_BT: Array | None = None,
        *,
        carry: Any = None,
        train: bool = False,
        dropout: Array | float | None = None,
        keys_B: Array | None = None,
        grad_clip: Array | float | None = None,
    ) -> tuple[Array, Any]:
        """Scan all frames.

        Args:
            x_BTD: Features (B, T, D), or maps (B, T, H, W, D).
            mask_BT: False on padded frames; None: there are none.
            carry: From the call before; None: zeros.
            train: See `CallOptions`, also for the other arguments.
            dropout: Share that is dropped.
            keys_B: A PRNG key for each clip.
            grad_clip: Bound on the derivative at each gate's pre-activation.

        Returns:
            States (B, T, …, U) and the carry after the last frame.

        Raises:
            UserError: An array has the wrong rank, or a carry does not fit.
        """
        check_inputs(x_BTD, mask_BT, keys_B)
        self.check(x_BTD, carry)
        x_BTD = zero_padding(floats(x_BTD), mask_BT)
        return self.scan(x_BTD, mask_BT, carry, CallOptions(train, dropout, keys_B, grad_clip))

    def check(self, x_BTD: Array, carry: Any) -> None:
        """Check the requirements of this scanner; raises a UserError."""

    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return states and carry of float32 features that are 0 where they are padded."""
        raise NotImplementedError


def checked_carry(carry: Any, zeros: Any) -> Any:
    """Return the carry, if it has the structure and shapes of a fresh one.

    Raises:
        UserError: It has not.
    """
    shapes = jax.tree.map(jnp.shape, carry)
    wanted = jax.tree.map(jnp.shape, zeros)
    if shapes != wanted:
        raise UserError(f"carry: expected {wanted} for each layer, got {shapes}")
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), carry, zeros)


def check_whole(causal: bool, carry: Any) -> None:
    """Refuse a carry if a frame sees those after it.

    Raises:
        UserError: There is one.
    """
    if carry is not None and not causal:
        raise UserError(
            "scanner.causal False: frames see those after them, so the scanner needs the whole "
            "clip at once and takes no carry (no streaming, chaining or truncation)"
        )
