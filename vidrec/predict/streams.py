"""Frames one by one: the recurrent carry is kept, so each costs one step."""

import jax
import numpy as np

from vidrec.errors import UserError
from vidrec.predict.clips import Resizer
from vidrec.predict.network import Network


class Stream:
    """A clip that is still going on.

    >>> stream = model.stream()
    >>> for frame in camera:
    ...     probabilities_K = stream.push(frame)

    After n frames it says what the model says of a clip of these n frames. Nothing is forgotten by
    itself: `reset` where something new begins.

    Attributes:
        classes: their names, in the order of the probabilities.
        frames: pushed since the last reset.
    """

    def __init__(self, network: Network, classes: tuple[str, ...]):
        network.check_streams()
        self.classes = classes
        self._features = network.takes_features
        self._resize = Resizer(network.cfg.encoder.size)
        self._variables, self._begin = network.variables, network.begin
        self._encode = jax.jit(network.encode)
        self._step = jax.jit(network.step, donate_argnums=1)
        self.reset()

    def reset(self) -> None:
        """Forgets what went by."""
        self._carry, self.frames = None, 0

    def push(self, frame: np.ndarray) -> np.ndarray:
        """Class probabilities (K,) after one more frame, uint8 (H, W, 3) of any size.

        Where the model was trained on features, a frame's features (D…).
        """
        return np.asarray(self.step(self.encode(frame)))

    def encode(self, frame: np.ndarray) -> jax.Array:
        """What the recurrence takes of a frame, (1, D…)."""
        if self._features:
            return self._encode(self._variables, np.asarray(frame, np.float32)[None])
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            raise UserError(
                f"a frame should be uint8 (H, W, 3), RGB; got {frame.dtype}{list(frame.shape)}"
            )
        return self._encode(self._variables, self._resize(frame)[None])

    def step(self, inputs: jax.Array) -> jax.Array:
        """Class probabilities (K,) after what `encode` gave; moves the carry on."""
        if self._carry is None:
            self._carry = self._begin(inputs)
        self._carry, probabilities_K = self._step(self._variables, self._carry, inputs)
        self.frames += 1
        return probabilities_K
