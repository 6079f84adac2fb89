"""Define the base class of scanners, and the checks of their carry.

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
    """Base class of vidrec's scanners: a call checks its inputs, then scans them.

    Subclasses define `scan`. A user's scanner may be a subclass, or any other Flax module; see
    `scanners.apply`.
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
            mask_BT: False on padded frames; None: no frame is padded.
            carry: The carry that the previous call returned; None: zeros.
            train: See `CallOptions`, as for the arguments below.
            dropout: Dropout rate.
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
        """Return states and last carry, for float32 features that are 0 on padded frames."""
        raise NotImplementedError


def checked_carry(carry: Any, zeros: Any) -> Any:
    """Return the carry in the types of `zeros`, if structure and shapes are the same.

    Raises:
        UserError: The carry's structure or a shape differs from that of `zeros`.
    """
    shapes = jax.tree.map(jnp.shape, carry)
    wanted = jax.tree.map(jnp.shape, zeros)
    if shapes != wanted:
        raise UserError(f"carry: expected {wanted} for each layer, got {shapes}")
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), carry, zeros)


def check_whole(causal: bool, carry: Any) -> None:
    """Refuse a carry if frames see later frames (`causal` is False).

    Raises:
        UserError: There is a carry, and `causal` is False.
    """
    if carry is not None and not causal:
        raise UserError(
            "scanner.causal False: frames see those after them, so the scanner needs the whole "
            "clip at once and takes no carry (no streaming, chaining or truncation)"
        )
