"""Tiny data sets that need no disk, and tiny trials on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from vidrec.config import Config, digest, override
from vidrec.data.datasets.base import Dataset, UnreadableClip, per_clip
from vidrec.training import devices, prepare
from vidrec.training.group import TrialGroup
from vidrec.training.stopping import Progress

# A few clips of unequal length, some shorter than SETTINGS' frames.length.
SETTINGS = {
    "data.split": "group",
    "data.test": 0.25,
    "data.val": 0.25,
    "frames.length": 6,
    "scanner.kind": "gru",
    "scanner.units": 4,
    "train.batch_size": 5,
    "train.epochs": 3,
    "train.save_seconds": 0,
    "optim.kind": "momentum",
    "optim.learning_rate": 0.05,
    "eval.batch_size": 7,
}


def settings(**changes) -> Config:
    """A configuration of SETTINGS, changed: `section__name=value`."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return override(Config(), SETTINGS | named)


@dataclass(eq=False)
class ArrayDataset(Dataset):
    """Ready-made features in memory; an empty clip cannot be read."""

    arrays: tuple[np.ndarray, ...] = per_clip()
    is_features = True

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(each) for each in self.arrays], np.int32)

    def key(self, clip: int) -> str:
        return digest(self.arrays[clip].tolist(), length=32)

    def features(self, clip: int) -> np.ndarray:
        if not len(self.arrays[clip]):
            raise UnreadableClip(self.names[clip], "is empty")
        return self.arrays[clip]

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        raise TypeError("features, not frames")

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        raise TypeError("features, not frames")


@dataclass(eq=False)
class PixelDataset(ArrayDataset):
    """Frames in memory, uint8 (T, H, H, 3), given whatever size is asked for; counts readings."""

    is_features = False
    streamed: list[str] = field(default_factory=list)

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        self.streamed.append(self.names[clip])
        frames = self.arrays[clip]
        if not len(frames):
            raise UnreadableClip(self.names[clip], "is empty")
        for start in range(0, len(frames), min(chunk, 3)):
            yield frames[start : start + min(chunk, 3)]

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        return self.arrays[clip][list(frame_indices)]


def features(clips=32, classes=3, width=5, lengths=(2, 9), seed=0, broken=()) -> ArrayDataset:
    """Noise about a direction of each class's own; two clips a group."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) // 2 % classes
    centres = rng.normal(size=(classes, width))
    arrays = []
    for clip, label in enumerate(labels):
        frames = 0 if clip in broken else rng.integers(*lengths)
        arrays.append((centres[label] + rng.normal(size=(frames, width))).astype(np.float32))
    return ArrayDataset(**_about("features", labels, classes), arrays=tuple(arrays))


def pixels(clips=12, classes=2, size=8, lengths=(2, 9), seed=0, broken=()) -> PixelDataset:
    """Random frames."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) // 2 % classes
    arrays = [
        rng.integers(
            0, 256, (0 if i in broken else rng.integers(*lengths), size, size, 3), np.uint8
        )
        for i in range(clips)
    ]
    return PixelDataset(**_about("pixels", labels, classes), arrays=tuple(arrays))


def _about(name: str, labels: np.ndarray, classes: int) -> dict:
    clips = len(labels)
    return {
        "name": name,
        "classes": tuple("abcdefgh"[:classes]),
        "names": tuple(f"clip_{i:03d}" for i in range(clips)),
        "labels": labels.astype(np.int32),
        "groups": np.array([f"group_{i // 2:03d}" for i in range(clips)]),
    }


def prepared(cfg: Config, source: Dataset | None = None) -> prepare.Prepared:
    """What a group trains on."""
    return prepare.prepare(cfg, dataset=source or features())


def group_of(configs, data=None, how="map", on=None) -> TrialGroup:
    """Trials of one signature, which train in memory and write no file.

    With `how` "batch" it is one trial, whose batches are spread over the devices `on`.
    """
    data = data or prepared(configs[0])
    on = on or jax.devices()[:1]
    if how == "batch":
        placement = devices.DataParallel(on)
    else:
        placement = devices.TrialParallel(len(configs), how, on)
    group = TrialGroup(configs, data, placement)
    # One program for all, whether a trial drops or not: only then are bits the same.
    group.spec = replace(group.spec, uses_dropout=True)
    return group


def train(group: TrialGroup, epochs=None, begun=None):
    """(last snapshot, figures of each epoch and trial) of a group that starts anew.

    Goes on from `begun`, a snapshot, where it is given.
    """
    group.progress = [Progress() for _ in group.configs]
    group.initialize()
    if begun:
        group.restore(begun)
    group.compile()
    if not begun:
        group.judge_untrained()
    records = []
    while group.active.any() and len(records) != epochs:
        records.append(group.train_epoch())
    return jax.tree.map(np.array, group.snapshot()), records


def one(tree, place):
    """The tree of one trial."""
    return jax.tree.map(lambda leaf: leaf[place], tree)


def same(a, b) -> bool:
    """Equal to the bit, types too, not-a-numbers included."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        np.asarray(x).dtype == np.asarray(y).dtype
        and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in pairs
    )


def furthest(a, b) -> float:
    """Largest difference between two trees; equal infinities do not differ."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(np.where(x == y, 0, np.abs(x - np.where(np.isinf(x), 0, y))).max(initial=0))
        for x, y in ((np.asarray(x, float), np.asarray(y, float)) for x, y in pairs)
    )


def given(data) -> ArrayDataset:
    """As a user's own data set: data.kind small_datasets.py:given."""
    del data
    return features()
