"""Define the small network whose features report C's LSTM reads."""

from typing import ClassVar

from vidrec.models.encoders.base import Staged


class CNN3(Staged):
    """Convolutions 2x2, 3x3 and 5x5, each with ReLU and a 2x2 max-pool.

    The report does not state its numbers of channels; with these, a frame of 64 x 64 takes 20
    million multiplications.
    """

    channels: tuple[tuple[int, ...], ...] = ((16,), (32,), (64,))

    blocks: ClassVar = ("block1", "block2", "block3")
    windows: ClassVar = ((2, 2), (3, 3), (5, 5))
    pools: ClassVar = ((2, 2),) * 3
    dense_reads: ClassVar = "flatten"
