"""A frozen encoder over a data set, once: the feature store.

A store is a folder addressed by all that features depend on (encoder, weights, preprocessing, frame
size and rate, precision); in it lie the features of clips, each addressed by the clip's own content
(see shards). Sequence length, segments and splits are no part of either, so changing them never
extracts again. A clip's features are there whole or not at all, so that extraction can be killed,
resumed, or shared by processes.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vidrec.config import Config, canonical, digest, identifying_settings
from vidrec.data import video
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import decoders, stream_clips
from vidrec.errors import UserError
from vidrec.features.shards import LINE_BYTES, Shards, dtype_of
from vidrec.io.files import write_whole
from vidrec.io.machine import cache_dir

Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)
LAYOUT = 2  # of the files in a store; one of another layout has another folder and stays
TRIED = 8  # clips to time an extraction by, until one can be read


class Features(NamedTuple):
    """Features of all clips in a row; clip i is `values[offsets[i] : offsets[i] + lengths[i]]`.

    Attributes:
        values: (F, D) or (F, h, w, D).
        lengths: frames really decoded, 0 for an unreadable clip.
        unreadable: (clip, path, reason) of those.
    """

    values: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    unreadable: list[tuple[int, str, str]]


class Store(Shards):
    """One folder of features; its about.json says what they depend on."""

    @classmethod
    def of(cls, about: dict[str, Any], root: Path | None = None) -> "Store":
        """The store of these dependencies, made where it is missing."""
        root = root or cache_dir() / "features"
        store = cls(root / digest(about, {"layout": LAYOUT}, length=24))
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            if not (store.folder / "about.json").exists():
                write_whole(store.folder / "about.json", canonical(about))
        except OSError as error:
            raise UserError(f"cannot write features to {store.folder}: {error.strerror}") from error
        return store

    def has(self, key: str) -> bool:
        """True when the clip's features are there."""
        return self.entry(key) is not None

    def lacking(self, key: str) -> str:
        """What the clip's file was found to lack when it was decoded; "" where it was whole."""
        entry = self.entry(key)
        return entry.note if entry else ""


def about(cfg: Config, weights: str, module: Any) -> dict[str, Any]:
    """What features depend on besides the clip: `weights` is the digest of the encoder's arrays.

    An encoder's VERSION is raised where its code changes what it gives; a user's own has none.
    """
    encoder = cfg.encoder
    names = ("kind", "pooling", "width", "size", "normalize", "store_dtype", "dtype")
    settings = {name: getattr(encoder, name) for name in names}
    settings["kind"] = identifying_settings(cfg)[
        "encoder.kind"
    ]  # a user's file counts by its content
    return settings | {
        "weights": weights,
        "version": getattr(module, "VERSION", 0),
        "fps": cfg.data.fps,
        "decoding": video.DECODING,
    }


def extract(
    dataset: Dataset,
    store: Store,
    encode: Callable[[np.ndarray], np.ndarray],
    size: int,
    batch: int,
    *,
    strict: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> list[tuple[int, str, str]]:
    """Fills the store with what it lacks of a dataset; returns the unreadable clips.

    What its files were found to lack, now or when they were first read, is in its `damage`
    afterwards.

    Args:
        encode: frames (batch, size, size, 3) uint8 to features (batch, D…).
        size: height and width of frames.
        strict: an unreadable clip raises instead of being listed.
        progress: called with clips done and clips to do.
    """
    keys = [dataset.key(clip) for clip in range(len(dataset.names))]
    missing = lacked(dataset, store)
    unreadable: list[tuple[int, str, str]] = []
    writer = _Writer(store, encode, batch, dataset)
    with contextlib.closing(store):
        for done, (clip, chunks) in enumerate(stream_clips(dataset, missing, size, workers)):
            try:
                for frames in chunks:
                    writer.add(clip, frames)
                writer.end(clip)
            except UnreadableClip as error:
                writer.drop(clip)
                if strict:
                    raise UserError(f"{error.path} cannot be read: {error.reason}") from None
                unreadable.append((clip, str(error.path), error.reason))
            if progress:
                progress(done + 1, len(missing))
        writer.flush()
    recall_damage(dataset, store, range(len(keys)))
    twins = {keys[clip]: (path, reason) for clip, path, reason in unreadable}
    return [(clip, *twins[key]) for clip, key in enumerate(keys) if key in twins]


def lacked(dataset: Dataset, store: Store) -> list[int]:
    """Clips that the store lacks, in order; the same content under two names counts once."""
    keys = {clip: dataset.key(clip) for clip in range(len(dataset.names))}
    first = {key: clip for clip, key in reversed(keys.items())}
    there = store.keys()
    return sorted(clip for key, clip in first.items() if key not in there)


def recall_damage(dataset: Dataset, store: Store, clips: Iterable[int]) -> None:
    """Adds to `dataset.damage` what the files of stored clips lacked when they were decoded."""
    for clip in clips:
        if lacking := store.lacking(dataset.key(clip)):
            dataset.damage[dataset.names[clip]] = lacking


def narrowed(
    encode: Callable[[np.ndarray], np.ndarray], precision: str
) -> Callable[[np.ndarray], np.ndarray]:
    """`encode` with its features in the store's precision.

    Raises:
        UserError: on a call whose features are finite, and too large for that precision.
    """
    import ml_dtypes  # makes bfloat16 known to NumPy

    dtype = np.dtype(getattr(ml_dtypes, precision, precision))

    def narrow(frames: np.ndarray) -> np.ndarray:
        features = encode(frames)
        with np.errstate(over="ignore"):
            small = features.astype(dtype)
        if not np.array_equal(np.isfinite(small), np.isfinite(features)):
            raise UserError(
                f"encoder.store_dtype = {precision!r} cannot hold a feature of "
                f"{np.abs(features[np.isfinite(features)]).max():.0f}: take bfloat16 or float32"
            )
        return small

    return narrow


class Forecast(NamedTuple):
    """What an extraction will do: clips and frames (as declared) to go, bytes to write, seconds."""

    clips: int
    frames: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        time = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        return (
            f"features of {self.clips} clips are to be extracted: {self.frames:,} frames, "
            f"about {self.bytes / 1e6:,.1f} MB and {time}"
        )


def forecast(
    dataset: Dataset,
    store: Store,
    encode: Callable[[np.ndarray], np.ndarray],
    size: int,
    batch: int,
    workers: int | None = None,
) -> Forecast | None:
    """Size and time of what the store lacks, from one batch; None where that is nothing.

    The time is as though decoding and encoding took turns: on a processor they share its cores, a
    GPU is up to twice as quick.
    """
    clips = lacked(dataset, store)
    frames = int(dataset.lengths[clips].astype(np.int64).sum())
    for clip in clips[:TRIED]:
        began = time.perf_counter()
        try:
            chunk = next(dataset.stream(clip, size, batch))
        except (UnreadableClip, StopIteration):
            continue
        decode_seconds = (time.perf_counter() - began) / len(chunk) / (workers or decoders())
        padded = np.resize(chunk, (batch, *chunk.shape[1:]))
        encode(padded)  # compiles
        began = time.perf_counter()
        features = encode(padded)
        encode_seconds = (time.perf_counter() - began) / batch
        size_bytes = frames * features[0].nbytes + len(clips) * LINE_BYTES
        return Forecast(
            len(clips), frames, size_bytes, frames * max(decode_seconds, encode_seconds)
        )
    return None


class _Writer:
    """Collects frames of consecutive clips into full batches and writes finished clips."""

    def __init__(self, store: Store, encode: Callable, batch: int, dataset: Dataset):
        self.store, self.encode, self.batch, self.dataset = store, encode, batch, dataset
        self.block: np.ndarray | None = None  # the frames of one batch, in place
        self.owners: list[int] = []  # the clip of each frame in it
        self.parts: dict[int, list[np.ndarray]] = {}
        self.ended: dict[int, bool] = {}

    def add(self, clip: int, frames: np.ndarray) -> None:
        if self.block is None:
            self.block = np.zeros((self.batch, *frames.shape[1:]), frames.dtype)
        while len(frames):
            start = len(self.owners)
            part, frames = np.split(frames, [self.batch - start])
            self.block[start : start + len(part)] = part
            self.owners += [clip] * len(part)
            if len(self.owners) == self.batch:
                self._run()

    def end(self, clip: int) -> None:
        self.ended[clip] = True
        self._store_finished()

    def drop(self, clip: int) -> None:
        """Forgets a clip that broke half-way: the last frames of the batch are its own."""
        self.owners = [owner for owner in self.owners if owner != clip]
        self.parts.pop(clip, None)

    def flush(self) -> None:
        if self.owners:
            self._run()
        self._store_finished()

    def _run(self) -> None:
        owners, self.owners = self.owners, []
        self.block[len(owners) :] = 0
        features = np.asarray(self.encode(self.block))
        start = 0
        for place in range(1, len(owners) + 1):
            if place == len(owners) or owners[place] != owners[start]:
                self.parts.setdefault(owners[start], []).append(features[start:place])
                start = place
        self._store_finished()

    def _store_finished(self) -> None:
        waiting = set(self.owners)
        for clip in [clip for clip in self.ended if clip not in waiting]:
            del self.ended[clip]
            lacking = self.dataset.damage.get(self.dataset.names[clip], "")
            found = np.concatenate(self.parts.pop(clip))
            self.store.put(self.dataset.key(clip), found, lacking)


def frames_a_batch(size: int) -> int:
    """Frames encoded at once: 32 of 224x224, more of smaller ones.

    Of large frames a processor takes 8: their maps stay near its cores, and SqueezeNet is a third
    quicker. Small ones gain nothing by it.
    """
    if size >= 128 and jax.default_backend() == "cpu":
        return 8
    return int(np.clip(32 * (224 / size) ** 2, 8, 512))


class DamagedFeatures(UserError):
    """Features of a clip that are missing or not what was written; they count as missing."""


def fill(
    dataset: Dataset,
    store: Store,
    encode: Callable[[np.ndarray], np.ndarray],
    size: int,
    batch: int,
    **options: Any,
) -> Features:
    """`extract`, then `load`; what turns out to be damaged is extracted anew, once."""
    try:
        return load(dataset, store, extract(dataset, store, encode, size, batch, **options))
    except DamagedFeatures as error:
        log.warning("%s; they are extracted anew", error)
    return load(dataset, store, extract(dataset, store, encode, size, batch, **options))


def load(dataset: Dataset, store: Store, unreadable: list[tuple[int, str, str]]) -> Features:
    """All stored features of a dataset, in its order.

    Raises:
        DamagedFeatures: of a clip; an `extract` makes them anew.
        TransientError: the system refuses to read them now.
    """
    broken = {clip for clip, _, _ in unreadable}
    keys = {clip: dataset.key(clip) for clip in range(len(dataset.names)) if clip not in broken}
    if not keys:
        raise _nothing(unreadable)
    entries = {clip: entry for clip, key in keys.items() if (entry := store.entry(key))}
    _check_all(dataset, [clip for clip in keys if clip not in entries])
    lengths = np.zeros(len(dataset.names), np.int32)
    for clip, entry in entries.items():
        lengths[clip] = entry.shape[0]
    offsets, first = _offsets(lengths), next(iter(entries.values()))
    values = np.empty((lengths.sum(), *first.shape[1:]), dtype_of(first.dtype))
    parts = {clip: values[offsets[clip] :][: lengths[clip]] for clip in keys}
    # To the end, so that all that are damaged are known and extracted in one go.
    lost = [clip for clip, key in keys.items() if store.get(key, parts[clip]) is None]
    _check_all(dataset, lost)
    return Features(values, offsets, lengths, unreadable)


def _check_all(dataset: Dataset, lost: Sequence[int]) -> None:
    if lost:
        name = dataset.names[lost[0]]
        raise DamagedFeatures(f"features of {name} are missing or damaged: run the command again")


def ragged(clips: Sequence[np.ndarray | None], unreadable: list[tuple[int, str, str]]) -> Features:
    """Clips of unequal length in one array."""
    there = [clip for clip in clips if clip is not None]
    if not there:
        raise _nothing(unreadable)
    lengths = np.array([0 if clip is None else len(clip) for clip in clips], np.int32)
    return Features(np.concatenate(there), _offsets(lengths), lengths, unreadable)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return (np.cumsum(lengths) - lengths).astype(np.int32)


def _nothing(unreadable: list[tuple[int, str, str]]) -> UserError:
    return UserError(f"no clip can be read; the first: {unreadable[0][1]}: {unreadable[0][2]}")


class Projection(NamedTuple):
    """Features standardised and rotated by the training split's statistics.

    Attributes:
        mean, matrix: `(features - mean) @ matrix`, (D,) and (D, P).
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(…, D) to (…, P), float32."""
        return ((values.astype(np.float32) - self.mean) @ self.matrix).astype(np.float32)


def fit_projection(features: Features, train: np.ndarray, components: int) -> Projection:
    """Centres and scales each feature over the training clips' frames; keeps `components`.

    Kept components are scaled to unit variance together (by the first one's deviation), so that
    their ratios stay.
    """
    rows = np.concatenate(
        [np.arange(features.lengths[clip]) + features.offsets[clip] for clip in train]
    )
    width = features.values.shape[-1]
    values = np.asarray(features.values[rows], np.float64).reshape(-1, width)
    mean, spread = values.mean(0), values.std(0)
    scale = 1 / np.where(spread > 1e-6 * max(spread.max(), 1e-12), spread, np.inf)
    if not components:
        return Projection(mean.astype(np.float32), np.diag(scale).astype(np.float32))
    if components > width:
        raise UserError(f"encoder.pca = {components} is more than the {width} features there are")
    scaled = (values - mean) * scale
    variances, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    kept = vectors[:, ::-1][:, :components]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    kept = kept * np.sign(kept[np.abs(kept).argmax(0), np.arange(components)])
    matrix = scale[:, None] * kept / np.sqrt(variances[-1])
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))
