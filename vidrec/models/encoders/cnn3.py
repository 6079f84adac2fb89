"""The small network under report C's LSTM."""

from typing import ClassVar

from vidrec.models.encoders.base import Staged


class CNN3(Staged):
    """Convolutions 2x2, 3x3 and 5x5, each with ReLU and a 2x2 max-pool.

    The report does not state its channels; these make a frame of 64 x 64 cost 20 million products.
    """

    channels: tuple[tuple[int, ...], ...] = ((16,), (32,), (64,))

    blocks: ClassVar = ("block1", "block2", "block3")
    windows: ClassVar = ((2, 2), (3, 3), (5, 5))
    pools: ClassVar = ((2, 2),) * 3
    dense_reads: ClassVar = "flatten"
