"""A temporal convolutional network: dilated convolutions over frames, in residual blocks.

Bai, Kolter and Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent
Networks for Sequence Modeling", arXiv:1803.01271. Instead of the paper's weight norm it has
optional batch norm.

Dimension letters: B clips, T frames, S frames read, D features, U units.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vidrec.errors import UserError
from vidrec.models import layers
from vidrec.models.inputs import CallOptions, Packed, expect, pack, window, zero_padding
from vidrec.models.layers import Dense, add_bias, matmul
from vidrec.models.norm_dropout import NormDropout
from vidrec.models.scanner import Scanner, check_whole, checked_carry


class Convolution(nn.Module):
    """A convolution that reads `kernel` frames which are `dilation` frames apart.

    Attributes:
        width: Number of outputs.
        kernel: Number of frames that are read for one output.
        dilation: Distance from one of these frames to the next, in frames.
        causal: True: the output's own frame is the last one that is read; False: the middle one.
        initialiser: Name of a convention, see `layers.initialisers`.
        dtype: Type of the operands of matrix products: float32 or bfloat16.
    """

    width: int
    kernel: int
    dilation: int
    causal: bool
    initialiser: str
    dtype: str

    @nn.compact
    def __call__(self, x_BTD: Array, lengths_B: Array, before: Any = None) -> tuple[Array, Array]:
        """Convolve frames that are 0 after the valid ones.

        Args:
            x_BTD: Features of the frames.
            lengths_B: Number of valid frames of each clip.
            before: Frames before the first, as the previous causal call returned them; None: zeros.

        Returns:
            Outputs (B, T, width), and the last valid frames, which the next call has to read.
        """
        clips, frames, features = x_BTD.shape
        reach = (self.kernel - 1) * self.dilation
        begin = layers.initialisers(self.initialiser, self.kernel * features)
        kernel = self.param("kernel", begin.kernel, (self.kernel, features, self.width))
        bias = self.param("bias", begin.bias, (self.width,))
        if self.causal:
            zeros = jnp.zeros((clips, reach, features), x_BTD.dtype)
            before = zeros if before is None else checked_carry(before, zeros)
            x_BSD = jnp.concatenate([before, x_BTD], 1)
        else:
            x_BSD = jnp.pad(x_BTD, ((0, 0), (reach // 2, reach // 2), (0, 0)))
        # One product for each frame that is read, since the gradient of a convolution is slow on a
        # CPU, and slower for many trials at once.
        products = [
            matmul(x_BSD[:, place * self.dilation :][:, :frames], kernel[place], self.dtype)
            for place in range(self.kernel)
        ]
        return add_bias(sum(products[1:], products[0]), bias), window(x_BSD, lengths_B, reach)


class TCN(Scanner):
    """Residual blocks of two convolutions; in block i their dilation is `dilation` ** i.

    Batch norm and dropout follow each convolution. In block i a frame sees the 2 · (kernel - 1) ·
    dilation ** i frames before it; if `causal` is False, it sees half as many on either side. The
    carry holds the last frames that each convolution has to read again in the next call.

    >>> scanner = TCN(units=8, layers=2)
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> states_BTU, carry = scanner.apply(variables, features_BTD, mask_BT)

    Attributes:
        units: Width U of every block.
        layers: Number of blocks.
        kernel: Number of frames that a convolution reads for one output.
        causal: True: a frame sees only itself and frames before it.
        dilation: See above.
        batch_norm: Apply batch normalization after each convolution.
        dropout: Dropout rate after each convolution, used if a call gives none.
        axis_name: Name of the device axis over which a batch is split; None: one device.
        initialiser: Convention of the initial weights: keras, torch or normal.
        dtype: Type of the operands of matrix products: float32 or bfloat16.
    """

    units: int
    layers: int = 1
    kernel: int = 3
    causal: bool = True
    dilation: int = 2
    batch_norm: bool = False
    dropout: float = 0.0
    axis_name: str | None = None
    initialiser: str = "keras"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dilation < 1:
            raise UserError(f"scanner.args: dilation = {self.dilation} should be at least 1")
        if not self.causal and self.kernel % 2 == 0:
            raise UserError(
                f"scanner.kernel: {self.kernel} is even; with scanner.causal False an odd one "
                "reads as many frames after as before"
            )

    @property
    def streams(self) -> bool:  # type: ignore[override]
        """Return True if a call can continue from the carry of the previous call."""
        return self.causal

    def check(self, x_BTD: Array, carry: Any) -> None:
        """Check the rank of features, and the number of convolutions in a carry."""
        expect("features of TCN", x_BTD, "BTD")
        check_whole(self.causal, carry)
        count = 2 * self.layers
        if carry is not None and (not isinstance(carry, tuple) or len(carry) != count):
            raise UserError(f"carry: expected a tuple of {count}, two entries a block")

    @nn.compact
    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return the last block's outputs, and the last frames of each convolution."""
        packed = pack(x_BTD, mask_BT)
        x_BTD, before = packed.x_BTD, carry or (None,) * (2 * self.layers)
        after = []
        for index in range(self.layers):
            y_BTU = x_BTD
            for part in (0, 1):
                place = 2 * index + part
                y_BTU, last = self._convolve(place, y_BTU, packed, before[place], options)
                after.append(last)
            if x_BTD.shape[-1] != self.units:
                name = f"layer_{index}_shortcut"
                x_BTD = Dense(self.units, self.initialiser, self.dtype, name=name)(x_BTD)
            x_BTD = zero_padding(nn.relu(x_BTD + y_BTU), packed.mask_BT)
        return packed.unpack(x_BTD, mask_BT), tuple(after) if self.causal else ()

    def _convolve(
        self, place: int, x_BTD: Array, packed: Packed, before: Any, options: CallOptions
    ) -> tuple[Array, Array]:
        """Return a convolution's rectified outputs and its last frames."""
        name = f"layer_{place // 2}_{'first' if place % 2 == 0 else 'second'}"
        dilation = self.dilation ** (place // 2)
        convolution = Convolution(
            self.units, self.kernel, dilation, self.causal, self.initialiser, self.dtype, name=name
        )
        y_BTU, last = convolution(x_BTD, packed.lengths_B, before)
        norm_dropout = NormDropout(
            self.batch_norm, self.dropout, self.axis_name, name=f"after_{name}"
        )
        return nn.relu(norm_dropout(y_BTU, packed.mask_BT, options)), last
