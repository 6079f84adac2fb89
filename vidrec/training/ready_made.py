"""Read ready-made features once for a table, and project them once for each training set."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.config import Config, digest
from vidrec.data import datasets
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.errors import TransientError, UserError
from vidrec.features import ready
from vidrec.features.on_disk import OnDisk
from vidrec.features.pace import Throttle
from vidrec.features.projection import Projection, fit_projection, project_all
from vidrec.features.ragged import Features, Unreadable, ragged
from vidrec.io import files
from vidrec.io.machine import cache_dir

MOST_KEPT = 2**30  # bytes of projected features that are kept for later rows
WIDE = 1024  # numbers a frame; components of wider features take long to fit, so they are cached


class Projected(NamedTuple):
    """Features under a projection, and the projection."""

    projection: Projection
    features: Features | OnDisk


class Target(NamedTuple):
    """Where projected features go.

    Attributes:
        keys: keys of all clips, which identify their content.
        about: what else the features depend on, as JSON.
        room: bytes that the features may take in memory; larger features go to a store.
        tell: called with a line before a fit that takes long.
    """

    keys: Sequence[str]
    about: Any
    room: float
    tell: Callable[[str], None] = lambda line: None


def project(
    features: Features | OnDisk, train: np.ndarray, components: int, target: Target
) -> Projected:
    """Fit a projection to the training clips, and return all features under it.

    Args:
        features: features of all clips.
        train: indices of the training clips.
        components: number of components to keep; 0: features are only standardised.
        target: where the projected features go.
    """
    if components and features.values.shape[-1] > WIDE:
        target.tell(_before_fit(features, train, components))
    projection = fit_projection(features, train, components, _telling(target.tell))
    return _under(projection, features, target)


def _under(projection: Projection, features: Features | OnDisk, target: Target) -> Projected:
    made = project_all(projection, features, target.keys, target.about, target.room)
    return Projected(projection, made)


def _before_fit(features: Features | OnDisk, train: np.ndarray, components: int) -> str:
    """Return the message before a fit that takes long."""
    frames = int(features.lengths[train].sum(dtype=np.int64))
    return (
        f"fitting {components} principal components to {frames:,} training frames of "
        f"{features.values.shape[-1]:,} numbers"
    )


def _telling(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return a progress function that tells a line from time to time during a long fit."""
    throttle = Throttle()

    def progress(done: int, total: int) -> None:
        if throttle.due():
            tell(f"principal components: {done:,} of {total:,} frames")

    return progress


class Kept:
    """The features that were read last, and their projections.

    Rows that differ only in their frames, split or scanner reuse these features.
    """

    def __init__(self) -> None:
        self._of = ""
        self._keys: tuple[str, ...] = ()
        self._features: Features | OnDisk | None = None
        self._projected: dict[tuple[bytes, int], Projected] = {}

    def features(self, dataset: Dataset, strict: bool, room: float = math.inf) -> Features | OnDisk:
        """Return the features of a data set; read them unless they are the ones read last.

        Features that take more than `room` bytes stay on disk.

        Raises:
            UserError: no clip can be read, or `strict` is True and one clip cannot be read.
        """
        if self._features is None or self._of != dataset.fingerprint():
            self._projected.clear()
            self._features = None  # so that two sets are not held at once
            too_many = ready.size(dataset) > room
            self._features = ready.check(dataset) if too_many else _read(dataset)
            self._of, self._keys = dataset.fingerprint(), dataset.keys
        if strict and self._features.unreadable:
            _, path, reason = self._features.unreadable[0]
            raise UserError(f"{path} cannot be read: {reason}")
        return self._features

    def projected(
        self, features: Features | OnDisk, train: np.ndarray, components: int, target: Target
    ) -> Projected:
        """Return features under the projection that is fitted to `train`; see `project`."""
        key = (np.asarray(train, np.int64).tobytes(), components)
        if features is not self._features:
            return project(features, train, components, target)
        if key not in self._projected:
            keys = [self._keys[i] for i in train]
            projection = _fitted(features, train, components, keys, target.tell)
            made = _under(projection, features, target)
            held = sum(each.features.values.nbytes for each in self._projected.values())
            while self._projected and held + made.features.values.nbytes > MOST_KEPT:
                held -= self._projected.pop(next(iter(self._projected))).features.values.nbytes
            self._projected[key] = made
        return self._projected[key]


def _fitted(
    features: Features | OnDisk,
    train: np.ndarray,
    components: int,
    keys: list[str],
    tell: Callable[[str], None],
) -> Projection:
    """Return the projection fitted to training clips; that of wide features is kept in the cache.

    Args:
        features: features of all clips.
        train: indices of the training clips.
        components: number of components to keep.
        keys: keys of the training clips, which identify their content.
        tell: called with a line before a fit that takes long.
    """
    if not components or features.values.shape[-1] <= WIDE:
        return fit_projection(features, train, components)
    file = cache_dir() / "projections" / f"{digest('2', keys, components, length=32)}.npz"
    with contextlib.suppress(UserError):  # damaged, or not there yet
        return Projection(**files.read_arrays(file, Projection._fields))
    tell(f"{_before_fit(features, train, components)}, once for all commands")
    projection = fit_projection(features, train, components, _telling(tell))
    with contextlib.suppress(UserError):  # a cache that cannot be written only costs time
        files.write_arrays(file, projection._asdict(), durable=False)
    return projection


def _read(dataset: Dataset) -> Features:
    clips: list[np.ndarray | None] = []
    unreadable: list[Unreadable] = []
    for clip in range(len(dataset.names)):
        try:
            clips.append(dataset.features(clip))
        except UnreadableClip as error:
            clips.append(None)
            unreadable.append(Unreadable(clip, str(error.path), error.reason))
    return ragged(clips, unreadable)


def are_features(cfg: Config) -> bool:
    """Return True if the settings name ready-made features instead of frames."""
    if cfg.data.kind in ("ucf101", "ucf11") and cfg.encoder.kind == "none":
        from vidrec.data.datasets import ucf

        return ucf.holds_features(cfg.data)
    return cfg.data.kind == "features"


def shape(cfg: Config) -> tuple[int, ...]:
    """Return the shape of a frame's features; (`encoder.width`,) if they cannot be read."""
    found = _if_there(cfg, lambda dataset: dataset.shape) or (cfg.encoder.width,)
    return (*found[:-1], cfg.encoder.pca) if cfg.encoder.pca else found


def _if_there(cfg: Config, read: Callable[[Any], Any]) -> Any:
    try:
        return read(datasets.load(cfg.data))
    except TransientError:
        raise
    except UserError:
        return None
