"""Pool frames by attention: a mean over frames, weighted by learned scores of their features.

Ilse, Tomczak and Welling 2018, "Attention-based Deep Multiple Instance Learning", arXiv:1802.04712;
with several heads as in Lee et al. 2019, "Set Transformer", arXiv:1810.00825.

Dimension letters: B clips, T frames, D features, U units, H heads, E = U / H.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from vidrec.errors import UserError
from vidrec.models import cells, recurrence
from vidrec.models.inputs import CallOptions, expect, zero_padding
from vidrec.models.layers import Dense
from vidrec.models.norm_dropout import NormDropout
from vidrec.models.scanner import Scanner, checked_carry


class Pooled(NamedTuple):
    """Sums over the frames so far, each frame weighted by exp(score - largest).

    Attributes:
        largest: Largest score so far, (B, H); 0 before the first frame.
        sums: Weighted sums of the E values and, as the last entry, the sum of the weights,
            (B, H, E + 1).
    """

    largest: Array
    sums: Array


class Attention(Scanner):
    """Each frame's output is the mean of the valid frames so far, weighted by learned scores.

    Scores are w · tanh(V x), and values are a linear layer of x. Each head has its own E values.
    Attention counts as one layer, followed by batch norm and dropout. The carry is a `Pooled`.

    >>> scanner = Attention(units=8)
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> states_BTU, carry = scanner.apply(variables, features_BTD, mask_BT)

    Attributes:
        units: Width U of values and of the scores' hidden layer.
        heads: Number H of heads, each with one score for a frame.
        batch_norm: Normalize the outputs.
        dropout: Dropout rate of the outputs, used if a call gives none.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        initialiser: Convention of the initial weights: keras, torch or normal.
        dtype: Type of the operands of matrix products: float32 or bfloat16.
    """

    units: int
    heads: int = 1
    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None
    initialiser: str = "keras"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1 or self.units % self.heads:
            raise UserError(
                f"scanner.args: heads = {self.heads} should be at least 1 and divide scanner.units "
                f"= {self.units}"
            )

    def check(self, x_BTD: Array, carry: Any) -> None:
        """Check the rank of features."""
        expect("features of Attention", x_BTD, "BTD")

    @nn.compact
    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return the weighted mean so far at each frame, and the sums after the last frame."""
        hidden = jnp.tanh(Dense(self.units, self.initialiser, self.dtype, name="hidden")(x_BTD))
        begin = cells.initialisers(self.initialiser, self.units).kernel
        kernel = self.param("scores", begin, (self.units, self.heads))
        scores_BTH = cells.matmul(hidden, kernel, self.dtype)
        values = Dense(self.units, self.initialiser, self.dtype, name="values")(x_BTD)
        values_BTHE = values.reshape(*values.shape[:2], self.heads, -1)
        y_BTHE, after = pool(scores_BTH, values_BTHE, mask_BT, carry)
        norm_dropout = NormDropout(
            self.batch_norm, self.dropout, self.axis_name, name="after_layer_0"
        )
        return norm_dropout(y_BTHE.reshape(values.shape), mask_BT, options), after


def pool(
    scores_BTH: Array, values_BTHE: Array, mask_BT: Array | None, carry: Any
) -> tuple[Array, Pooled]:
    """Return each frame's mean of the values so far, weighted by exp(score), and the last sums.

    Raises:
        UserError: The carry has the wrong structure or a wrong shape.
    """
    clips, _, heads, width = values_BTHE.shape
    zeros = Pooled(jnp.zeros((clips, heads)), jnp.zeros((clips, heads, width + 1)))
    before = zeros if carry is None else checked_carry(carry, zeros)
    lowest = jnp.finfo(scores_BTH.dtype).min
    empty_BH = before.sums[..., -1] == 0
    first_BH = jnp.where(empty_BH, lowest, before.largest)
    seen_BTH = scores_BTH if mask_BT is None else jnp.where(mask_BT[..., None], scores_BTH, lowest)
    # Subtracting a number from all scores does not change the mean, so it needs no derivative.
    seen_BTH = jnp.concatenate([first_BH[:, None], lax.stop_gradient(seen_BTH)], 1)
    largest_BTH = lax.stop_gradient(lax.cummax(seen_BTH, axis=1))
    if mask_BT is not None:
        # A padded frame's weight is set to 0 below. With its own score, exp could overflow here.
        scores_BTH = jnp.where(mask_BT[..., None], scores_BTH, largest_BTH[:, 1:])
    weights_BTH1 = zero_padding(jnp.exp(scores_BTH - largest_BTH[:, 1:])[..., None], mask_BT)
    add = jnp.concatenate([weights_BTH1 * values_BTHE, weights_BTH1], -1)
    keep_BTH1 = jnp.exp(largest_BTH[:, :-1] - largest_BTH[:, 1:])[..., None]
    factors = cells.LinearFactors(jnp.broadcast_to(keep_BTH1, add.shape), add)
    sums, last = recurrence.scan_linear(factors, mask_BT, before.sums)
    total = sums[..., -1:]
    y_BTHE = zero_padding(sums[..., :-1] / jnp.where(total == 0, 1, total), mask_BT)
    largest_BH = jnp.where(last[..., -1] == 0, 0, largest_BTH[:, -1])
    return y_BTHE, Pooled(largest_BH, last)
