"""Define report C's network over whole clips."""

from typing import ClassVar

from jax import Array

from vidrec.models.encoders.base import Staged


class C3D(Staged):
    """Six 3x3x3 convolutions, four max-pools, two dense layers: a clip (B,T,H,W,C) to (B,1,D).

    The first pool does not pool over time. The report does not state its numbers of channels; these
    are the first six of Tran et al. 2015. With the dense pooling, a hidden layer of 1024 units
    precedes the layer of `width` units.
    """

    channels: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512))

    POOLINGS: ClassVar = ("average", "flatten", "dense")
    takes_clips: ClassVar[bool] = True
    blocks: ClassVar = ("block1", "block2", "block3", "block4")
    windows: ClassVar = ((3, 3, 3),) * 4
    pools: ClassVar = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    hidden: ClassVar = (1024,)
    dense_reads: ClassVar = "flatten"

    def read(self, maps: Array) -> Array:
        """Return features with an axis of one frame, (B, 1, D)."""
        return super().read(maps)[:, None]
