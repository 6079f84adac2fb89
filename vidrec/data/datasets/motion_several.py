"""Draw `motion/several`: two motions at once; a clip has the labels of both.

One shape changes two properties at once, such as its place and its size, each in one of two
directions. A clip and its time reversal have the same frames in another order, and whether a clip
is reversed is random. So the frames without their order show which properties change, but not in
which direction.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vidrec.data.datasets import motion
from vidrec.data.datasets.motion import PAIRS, PARTNER, TAKES, Settings
from vidrec.data.read_ahead import map_ahead

TOGETHER = tuple(itertools.combinations(range(len(PAIRS)), 2))  # a clip has one motion of each pair


@dataclasses.dataclass(frozen=True)
class SeveralSettings(Settings):
    """The parameters of a set of clips with two motions at once."""


class SeveralClip(NamedTuple):
    """A clip and its labels, in alphabetical order."""

    frames_THWC: np.ndarray
    labels: tuple[str, ...]


def clip(
    seed: int, together: int, backwards: bool, settings: SeveralSettings | None = None
) -> SeveralClip:
    """Draw one clip.

    Args:
        seed: seed of the clip.
        together: which two properties change, an index into `TOGETHER`.
        backwards: play it backwards, with the labels of the reversed motions.
        settings: parameters of the data set; None: the defaults.
    """
    drawn = _drawn(seed, together, settings or SeveralSettings())
    return _reversed(drawn) if backwards else drawn


def _reversed(drawn: SeveralClip) -> SeveralClip:
    labels = tuple(sorted(PARTNER[name] for name in drawn.labels))
    return SeveralClip(drawn.frames_THWC[::-1], labels)


def _drawn(seed: int, together: int, settings: SeveralSettings) -> SeveralClip:
    # A clip does not depend on the number of clips in the set.
    settings = dataclasses.replace(settings, clips=30)
    rng = motion.generator(settings, 4, seed, together)
    path, labels = motion.resting(rng, settings.frames), []
    for pair in TOGETHER[together]:
        other_way = int(rng.integers(2))
        for name, values in motion.motion_of(rng, pair, settings.frames).items():
            path[name] = values[::-1].copy() if other_way else values
        labels.append(PAIRS[pair][other_way])
    pose = motion.placed(rng, path, settings)
    frames_THWC = motion.draw(rng, seed // TAKES, pose, settings)
    return SeveralClip(frames_THWC, tuple(sorted(labels)))


def generate(settings: SeveralSettings, test: bool) -> Iterator[tuple[int, int, SeveralClip]]:
    """Yield every clip of a split in order, drawn by all cores: index, seed, clip.

    Each of a recording's two seeds has one half of `TOGETHER`.
    """
    seeds = [s for s in range(-(-settings.clips // 10)) if (s // TAKES % 5 == 1) == test]
    drawings = [(seed, which) for seed in seeds for which in range(seed % 2, len(TOGETHER), 2)]
    drawn = map_ahead(lambda drawing: _drawn(*drawing, settings), drawings)
    for (seed, which), forwards in zip(drawings, drawn, strict=True):
        for side in range(2):
            index = 10 * seed + 2 * (which // 2) + side
            if index < settings.clips:
                yield index, seed, _reversed(forwards) if side else forwards
