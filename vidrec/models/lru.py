"""Define a linear recurrent unit: each complex number of the state has its own decay and rotation.

Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences", arXiv:2303.06349.
Inputs are scaled by sqrt(1 - |keep|²), which is computed as in De et al. 2024, arXiv:2402.19427,
and not learned. The skip connection around the recurrence is a matrix, so that widths may differ.

Dimension letters: B clips, T frames, D features, S states, U units.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vidrec.errors import UserError
from vidrec.models.cells import Declared, Linear, LinearFactors, StepOps, Weights
from vidrec.models.layers import Initialiser, add_bias


@dataclass(frozen=True)
class LRU(Linear):
    """h' = keep · h + sqrt(1 - |keep|²) · B x, all complex, where keep is learned and diagonal.

    The layer's output is a · sigmoid(G a) + F x, with a = gelu(Re(C h)).

    Attributes:
        states: Number S of complex numbers in the state; 0: as many as units.
        r_min: Smallest initial |keep|.
        r_max: Largest initial |keep|.
        max_phase: Largest initial rotation from frame to frame, in radians.
    """

    states: int = 0
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    def __post_init__(self) -> None:
        if self.states < 0:
            raise UserError(f"scanner.args: states = {self.states} should be at least 0")
        if not 0 <= self.r_min < self.r_max <= 1:
            raise UserError(
                f"scanner.args: r_min = {self.r_min:g} and r_max = {self.r_max:g} should be "
                "between 0 and 1, r_max the larger"
            )
        if not 0 < self.max_phase <= 2 * math.pi:
            raise UserError(
                f"scanner.args: max_phase = {self.max_phase:g} should be above 0 and at most 2 pi"
            )

    @property
    def width(self) -> int:
        """Return S, the number of complex numbers in the state."""
        return self.states or self.units

    def weights(self, features: int) -> Declared:
        """Declare all weights; each complex matrix is stored as two real matrices."""
        begin, states, units = self.initialisers(features), self.width, self.units
        return {
            "log_decay": (self._begin_decay(), (states,)),
            "log_phase": (self._begin_phase(), (states,)),
            "input_kernel": (begin.kernel, (features, 2 * states)),
            "output_kernel": (begin.kernel, (2 * states, units)),
            "gate_kernel": (begin.kernel, (units, units)),
            "gate_bias": (begin.bias, (units,)),
            "past_kernel": (begin.kernel, (features, units)),
        }

    def _begin_decay(self) -> Initialiser:
        low, high = self.r_min**2, self.r_max**2

        def begin(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            # keep is uniform over the ring's area; the ends, whose logarithm is infinite, are
            # excluded.
            share = jax.random.uniform(key, shape, dtype, 1e-6, 1 - 1e-6)
            return jnp.log(-0.5 * jnp.log(low + share * (high - low)))

        return begin

    def _begin_phase(self) -> Initialiser:
        def begin(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return jnp.log(jax.random.uniform(key, shape, dtype, 1e-6, 1) * self.max_phase)

        return begin

    def project(self, weights: Weights, x_BTD: Array) -> Array:
        """Return sqrt(1 - |keep|²) · B x of all frames, complex (B, T, S)."""
        real, imaginary = jnp.split(self.product(x_BTD, weights["input_kernel"]), 2, axis=-1)
        # 1 - |keep|² by expm1, since the difference would lose digits if |keep| is nearly 1.
        scale_S = jnp.sqrt(-jnp.expm1(-2 * jnp.exp(weights["log_decay"])))
        return jax.lax.complex(real, imaginary) * scale_S.reshape(1, 1, -1)

    def factors(self, weights: Weights, inputs: Array, ops: StepOps) -> LinearFactors:
        """Return keep, the same for all clips and frames, and the inputs themselves."""
        decay_S, phase_S = jnp.exp(weights["log_decay"]), jnp.exp(weights["log_phase"])
        keep_S = jnp.exp(jax.lax.complex(-decay_S, phase_S))
        return LinearFactors(jnp.broadcast_to(keep_S, inputs.shape), inputs)

    def initialize_carry(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return complex zeros (B, S)."""
        return jnp.zeros((*shape, self.width), dtype)

    def readout(self, weights: Weights, h_BTS: Array, x_BTD: Array) -> Array:
        """Return the layer's outputs, (B, T, U)."""
        parts = jnp.concatenate([h_BTS.real, h_BTS.imag], -1)
        a_BTU = jax.nn.gelu(self.product(parts, weights["output_kernel"]), approximate=False)
        gate = add_bias(self.product(a_BTU, weights["gate_kernel"]), weights["gate_bias"])
        past = self.product(x_BTD, weights["past_kernel"])
        return a_BTU * jax.nn.sigmoid(gate) + past
