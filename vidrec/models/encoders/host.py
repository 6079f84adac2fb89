"""Encoders that another library runs on the host, outside of compiled programs; always frozen."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

Encode = Callable[[np.ndarray], np.ndarray]


class HostEncoder:
    """Base class, in place of a Flax module, of encoders that compiled programs cannot contain.

    Attributes:
        VERSION: Increased if a change of the code changes the values of features.
        takes_clips: False: the encoder takes frames.
        blocks: Empty, since no part trains.
    """

    VERSION: ClassVar[int] = 1
    takes_clips: ClassVar[bool] = False
    blocks: ClassVar[tuple[str, ...]] = ()

    def variables(self) -> dict[str, Any]:
        """Return the arrays that a run stores, so that the encoder can run on another machine.

        Raises:
            UserError: The encoder cannot be read.
        """
        raise NotImplementedError

    def feature_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of the features of one frame (size, size, 3).

        Raises:
            UserError: The encoder cannot be read, or does not take frames of this size.
        """
        raise NotImplementedError

    def extractor(self, variables: Mapping[str, Any], batch: int) -> Encode:
        """Return a function from frames (n, H, W, 3), uint8, to features in float32.

        Args:
            variables: What `variables` returned, here or on the machine that trained.
            batch: Number of frames to encode at once.

        Raises:
            UserError: The encoder cannot be run here.
        """
        raise NotImplementedError
