"""Standardise features and reduce them to principal components."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.data.read_ahead import map_ahead
from vidrec.errors import UserError
from vidrec.features.extraction import damaged
from vidrec.features.on_disk import OnDisk, StoredFeatures, stored
from vidrec.features.ragged import Features, aligned_empty
from vidrec.features.store import Store

BLOCK = 4096  # rows that are summed at once, whether features are in memory or on disk


class Projection(NamedTuple):
    """A linear map that standardises and rotates features by the training split's statistics.

    Attributes:
        mean: (D,) mean of each feature; the projection is `(features - mean) @ matrix`.
        matrix: (D, P) scales of the features, and principal axes if there are any.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @property
    def hash(self) -> str:
        """Return a hash of both arrays."""
        content = hashlib.sha256(f"{self.matrix.shape}".encode())
        for array in self:
            content.update(np.asarray(array, np.float32).tobytes())
        return content.hexdigest()

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Project features (…, D) to float32 (…, P)."""
        centred = values.astype(np.float32) - self.mean
        rows, columns = self.matrix.shape
        scale = self.matrix.diagonal()
        if rows == columns and np.count_nonzero(self.matrix) == np.count_nonzero(scale):
            return centred * scale + np.float32(0)  # equals the product bit by bit: -0 becomes 0
        return (centred @ self.matrix).astype(np.float32)


def fit_projection(
    features: Features | OnDisk,
    train: np.ndarray,
    components: int,
    progress: Callable[[int, int], None] | None = None,
) -> Projection:
    """Fit a projection to the frames of the training clips.

    Each feature is centred and scaled to unit variance. The principal components that are kept are
    all divided by the standard deviation of the first one, so that their ratios stay. Sums are over
    blocks of rows, so features on disk give the same numbers as those in memory.

    Args:
        features: features of all clips.
        train: indices of the training clips.
        components: number of components to keep; 0: features are only standardised.
        progress: called with the number of frames whose products are summed, and of all frames.

    Raises:
        UserError: there are more components than features.
    """
    width = features.values.shape[-1]
    if components > width:
        raise UserError(f"encoder.pca = {components} is more than the {width} features there are")
    count, total = 0, np.zeros(width)
    for block in _blocks(features, train):
        count, total = count + len(block), total + block.sum(0)
    mean = total / count
    products = np.zeros((width, width) if components else width)
    done = 0
    for block in _blocks(features, train):
        block -= mean
        products += block.T @ block if components else (block**2).sum(0)
        done += len(block)
        if progress:
            progress(done, count)
    products /= count
    deviation = np.sqrt(products.diagonal() if components else products)
    # A feature that never changes is set to 0 instead of being divided by 0.
    varies = deviation > 1e-6 * max(deviation.max(), 1e-12)
    scale = 1 / np.where(varies, deviation, np.inf)
    if not components:
        return Projection(mean.astype(np.float32), np.diag(scale).astype(np.float32))
    variances, vectors = np.linalg.eigh(scale[:, None] * products * scale)
    axes = vectors[:, ::-1][:, :components]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(components)])
    matrix = scale[:, None] * axes / np.sqrt(variances[-1])
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))


def _blocks(features: Features | OnDisk, train: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the training clips' rows in order, float64 (BLOCK, D); the last block may be shorter.

    The memory of a block is used again for the next one, so the caller may change a block.
    """
    block = np.empty((BLOCK, features.values.shape[-1]))
    filled = 0
    for values in map_ahead(features.of, train.tolist()):
        rows = values.reshape(-1, block.shape[1])
        while len(rows):
            part = rows[: BLOCK - filled]
            block[filled : filled + len(part)] = part
            filled, rows = filled + len(part), rows[len(part) :]
            if filled == BLOCK:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def project_all(
    projection: Projection,
    features: Features | OnDisk,
    keys: Sequence[str],
    about: Any,
    room: float,
) -> Features | StoredFeatures:
    """Project all features clip by clip; if they take more than `room` bytes, they go to a store.

    Args:
        projection: the projection to apply.
        features: features of all clips.
        keys: key of each clip, by its content.
        about: what the features depend on besides the clip, JSON-able.
        room: bytes that the projected features may take in memory.
    """
    clips = np.flatnonzero(features.lengths > 0).tolist()
    shape = (*features.values.shape[1:-1], projection.matrix.shape[1])
    frames = int(features.lengths.sum(dtype=np.int64))
    if 4.0 * frames * math.prod(shape) > room:
        store = Store.of({"projection": projection.hash, "features": about})
        return _stored(projection, features, {clip: keys[clip] for clip in clips}, store)
    made = Features(
        aligned_empty((frames, *shape), np.dtype(np.float32)),
        features.offsets,
        features.lengths,
        features.unreadable,
    )
    for clip, values in zip(clips, map_ahead(features.of, clips), strict=True):
        made.of(clip)[...] = projection(values)
    return made


def _stored(
    projection: Projection, features: Features | OnDisk, keys: dict[int, str], store: Store
) -> StoredFeatures:
    """Add the projected features that a store lacks, and return all of them."""
    lacking = damaged(store, keys)
    with contextlib.closing(store):
        for clip, values in zip(lacking, map_ahead(features.of, lacking), strict=True):
            store.put(keys[clip], projection(values))
    places = {clip: entry.place for clip, key in keys.items() if (entry := store.entry(key))}
    return stored(features.lengths, features.unreadable, places)
