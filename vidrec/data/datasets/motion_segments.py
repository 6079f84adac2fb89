"""Draw `motion/segments`: motions one after another, a label for each frame.

The shape rests, then changes one property (place, size or opacity), then rests or changes another;
every change stays. So a frame does not show which property is changing. `clip(seed, True)` is
exactly `clip(seed, False)` played backwards, and each label is that of the reversed motion. So one
frame, or all frames without their order, cannot tell a motion from its reversal.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vidrec.data.datasets import motion
from vidrec.data.datasets.motion import PAIRS, PARTNER, Settings
from vidrec.data.read_ahead import map_ahead

BACKGROUND = "background"
# Without rotation, which can hardly be seen in so few pixels.
MOVES = {"x": PAIRS[0], "y": PAIRS[1], "radius": PAIRS[2], "opacity": PAIRS[4]}
CLASSES = (BACKGROUND, *sorted(name for pair in MOVES.values() for name in pair))
# The property that the first motion of each pair increases, and its range; lengths are shares of
# the frame's size.
RANGES = {
    "x": (-0.26, 0.26),
    "y": (-0.26, 0.26),
    "radius": (0.14, 0.32),
    "opacity": (0.3, 1.0),
}
LEAST = 0.4  # smallest share of the range that a motion covers
MOTION = (18, 37)  # frames of a motion, the upper bound left out
REST = (8, 25)  # frames of a stretch of background
RESTS = 0.6  # share of motions that come after a stretch of background


@dataclasses.dataclass(frozen=True)
class SegmentSettings(Settings):
    """The parameters of a set of clips with several motions; every clip has `frames` frames."""

    clips: int = 1000
    frames: int = 120
    size: int = 32
    difficulty: float = 0.3


def recording(seed: int) -> str:
    """Return the name of the recording of a seed: its two clips share one scene."""
    return f"source{seed:04d}"


class SegmentedClip(NamedTuple):
    """A clip and the label of each of its frames."""

    frames_THWC: np.ndarray
    labels_T: np.ndarray


def clip(seed: int, backwards: bool, settings: SegmentSettings | None = None) -> SegmentedClip:
    """Draw one clip.

    Args:
        seed: seed of the clip.
        backwards: play it backwards, with the labels of the reversed motions.
        settings: parameters of the data set; None: the defaults.
    """
    drawn = _drawn(seed, settings or SegmentSettings())
    return _reversed(drawn) if backwards else drawn


def _reversed(drawn: SegmentedClip) -> SegmentedClip:
    partner = [CLASSES.index(PARTNER.get(name, name)) for name in CLASSES]
    return SegmentedClip(drawn.frames_THWC[::-1], np.array(partner, np.int32)[drawn.labels_T[::-1]])


def _drawn(seed: int, settings: SegmentSettings) -> SegmentedClip:
    # A clip does not depend on the number of clips in the set.
    settings = dataclasses.replace(settings, clips=30)
    rng = motion.generator(settings, 3, seed)
    path, labels_T = timeline(rng, settings.frames)
    pose = motion.placed(rng, path, settings)
    return SegmentedClip(motion.draw(rng, seed, pose, settings), labels_T)


def timeline(rng: np.random.Generator, length: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw the course of a clip: which property changes in which frames.

    Args:
        rng: the random generator.
        length: number of frames of the clip.

    Returns:
        The values of each property of `RANGES` and of the angle, (T,), and the labels, (T,).
    """
    now = {name: rng.uniform(*between) for name, between in RANGES.items()}
    path = {name: np.zeros(length) for name in RANGES}
    path["angle"] = np.full(length, rng.uniform(-np.pi, np.pi))
    labels_T = np.full(length, CLASSES.index(BACKGROUND), np.int32)
    frame = -int(rng.integers(0, MOTION[1]))  # a clip may begin inside of a segment
    while frame < length:
        if rng.random() < RESTS:
            frame = _add(path, now, frame, int(rng.integers(*REST)))
        name, frames = list(RANGES)[rng.integers(len(RANGES))], int(rng.integers(*MOTION))
        values, label = _motion(rng, name, now[name], frames)
        labels_T[max(frame, 0) : max(frame + frames, 0)] = CLASSES.index(label)
        frame = _add(path, now | {name: values}, frame, frames)
        now[name] = values[-1]
    return path, labels_T


def _add(path: dict[str, np.ndarray], values: dict[str, Any], frame: int, frames: int) -> int:
    """Write scalars or arrays (frames,) into a path from `frame` on; return the next frame.

    Frames before the start or after the end of the clip are left out.
    """
    first, last = np.clip([frame, frame + frames], 0, len(path["x"]))
    for name, value in values.items():
        path[name][first:last] = np.broadcast_to(value, frames)[first - frame : last - frame]
    return frame + frames


def _motion(
    rng: np.random.Generator, name: str, start: float, frames: int
) -> tuple[np.ndarray, str]:
    """Draw how one property changes over a number of frames; also return the motion's name."""
    low, high = RANGES[name]
    least = LEAST * (high - low)
    below, above = max(start - least - low, 0.0), max(high - start - least, 0.0)
    place = rng.uniform(0, below + above)
    end = low + place if place < below else start + least + place - below
    time = np.arange(1, frames + 1) / frames
    # Its slope stays positive: a motion slows down and speeds up but never turns back.
    progress = time + rng.uniform(-0.6, 0.6) * np.sin(2 * np.pi * time) / (2 * np.pi)
    pair = MOVES[name]
    return start + (end - start) * progress, pair[0] if end > start else pair[1]


def generate(settings: SegmentSettings, test: bool) -> Iterator[tuple[int, int, SegmentedClip]]:
    """Yield every clip of a split in order, drawn by all cores: index, seed, clip."""
    seeds = [s for s in range(-(-settings.clips // 2)) if (s % 5 == 1) == test]
    drawn = map_ahead(lambda seed: _drawn(seed, settings), seeds)
    for seed, forwards in zip(seeds, drawn, strict=True):
        for side in range(2):
            if 2 * seed + side < settings.clips:
                yield 2 * seed + side, seed, _reversed(forwards) if side else forwards
