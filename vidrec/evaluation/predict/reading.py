"""Read the scanner's inputs for a data set's clips: stored features if training kept them."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from vidrec.config import Config
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import stream_clips
from vidrec.errors import UserError
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.features.extraction import Progress
from vidrec.features.store import Store, dependencies
from vidrec.models.encoders.weights import digest as weights_digest


class ClipInputs(NamedTuple):
    """A clip's index, and the scanner's inputs for all its frames, or the error of reading it."""

    clip: int
    inputs: np.ndarray | UnreadableClip


@dataclass(frozen=True)
class ClipReader:
    """Reads a data set's clips as the inputs of a model's scanner.

    Attributes:
        model: the model.
        cfg: settings of the evaluation.
        dataset: the clips.
    """

    model: Classifier
    cfg: Config
    dataset: Dataset

    def read(self, clips: list[int], progress: Progress) -> Iterator[ClipInputs]:
        """Yield clips in order; `progress` is called while missing features are extracted.

        Raises:
            UserError: the data set has features and the model takes frames, or the reverse.
        """
        dataset, network = self.dataset, self.model.network
        if dataset.is_features != network.takes_features:
            wanted = "features made elsewhere" if network.takes_features else "frames"
            raise UserError(f"{dataset.name}: the model was trained on {wanted}, these are not")
        if dataset.is_features:
            for clip in clips:
                features = _or_error(partial(dataset.features, clip))
                if not isinstance(features, UnreadableClip):
                    features = self.model.project(features)
                yield ClipInputs(clip, features)
        elif store := self._store():
            yield from self._through(store, clips, progress)
        else:
            yield from self._decoded(self.model.encode, clips)

    def _store(self) -> Store | None:
        """Return the store of a frozen encoder's features; None if there is no frozen encoder."""
        network = self.model.network
        if self.cfg.encoder.trainable != "none" or network.encoder is None:
            return None
        weights = weights_digest(network.variables["encoder"])
        return Store.of(dependencies(self.cfg, weights, network.encoder))

    def _through(self, store: Store, clips: list[int], progress: Progress) -> Iterator[ClipInputs]:
        """Add the features that the store lacks of these clips, then yield all from the store."""
        unreadable: dict[int, UnreadableClip] = {}
        stored = store.keys()
        missing = [clip for clip in clips if self.dataset.key(clip) not in stored]
        with contextlib.closing(store):
            for done, (clip, features) in enumerate(self._decoded(self.model.extract, missing)):
                progress(done + 1, len(missing))
                if isinstance(features, UnreadableClip):
                    unreadable[clip] = features
                else:
                    self._put(store, clip, features)
        store.recall_warnings(self.dataset, clips)
        for clip in clips:
            features = unreadable.get(clip) or self.stored(store, clip)
            if not isinstance(features, UnreadableClip):
                features = self.model.project(features)
            yield ClipInputs(clip, features)

    def stored(self, store: Store, clip: int) -> np.ndarray | UnreadableClip:
        """Return a clip's features from the store; damaged ones are extracted again."""
        features: np.ndarray | UnreadableClip | None = store.get(self.dataset.key(clip))
        if features is not None:
            return features
        [(_, features)] = self._decoded(self.model.extract, [clip])
        if not isinstance(features, UnreadableClip):
            with contextlib.closing(store):
                self._put(store, clip, features)
        return features

    def _put(self, store: Store, clip: int, features: np.ndarray) -> None:
        warning = self.dataset.warnings.get(self.dataset.names[clip], "")
        store.put(self.dataset.key(clip), features, warning)

    def _decoded(
        self, encode: Callable[[np.ndarray], np.ndarray], clips: list[int]
    ) -> Iterator[ClipInputs]:
        """Yield clips with their encoded frames, decoded ahead."""
        for clip, chunks in stream_clips(self.dataset, clips, self.model.cfg.encoder.size):
            yield ClipInputs(clip, _or_error(partial(_encoded, encode, chunks)))


def _encoded(encode: Callable[[np.ndarray], np.ndarray], chunks: Iterable) -> np.ndarray:
    return np.concatenate([encode(part) for part in chunks])


def _or_error(read: Callable[[], np.ndarray]) -> np.ndarray | UnreadableClip:
    try:
        return read()
    except UnreadableClip as error:
        return error
