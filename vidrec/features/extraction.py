"""Run a frozen encoder over a data set once: only features that the store lacks are extracted."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import decoders, map_ahead, stream_clips
from vidrec.errors import UserError
from vidrec.features.on_disk import StoredFeatures, stored
from vidrec.features.pace import Pace, Stopwatch, duration
from vidrec.features.ragged import (
    Features,
    Unreadable,
    aligned_empty,
    nothing_readable,
    offsets_of,
)
from vidrec.features.shards import LINE_BYTES, dtype_of
from vidrec.features.store import Store
from vidrec.io.words import are, counted, some

Progress = Callable[[int, int], None]
TellPace = Callable[[Pace], None]
Encode = Callable[[np.ndarray], np.ndarray]
log = logging.getLogger(__name__)
TRIED = 8  # clips that `forecast` tries to read, until one can be read


class Extraction(NamedTuple):
    """The clips to extract features from, and the settings of the extraction.

    Attributes:
        dataset: the clips.
        store: the store of the features.
        encode: function from frames (batch, size, size, 3) uint8 to features (batch, D…).
        size: height and width of frames.
        batch: number of frames encoded at once.
    """

    dataset: Dataset
    store: Store
    encode: Encode
    size: int
    batch: int


class DamagedFeatures(UserError):
    """Error: features of a clip are missing, or not as they were written."""


def fill(
    extraction: Extraction,
    *,
    strict: bool = False,
    progress: Progress | None = None,
    pace: TellPace | None = None,
    workers: int | None = None,
    room: float = math.inf,
) -> Features | StoredFeatures:
    """Extract the features that the store lacks and load all; damaged ones are extracted once more.

    Args and errors are those of `extract`, and `room` is that of `load`.
    """
    dataset, store = extraction.dataset, extraction.store
    for attempt in range(2):
        how: dict[str, Any] = {"progress": progress, "pace": pace, "workers": workers}
        unreadable = extract(extraction, strict=strict, **how)
        try:
            return load(dataset, store, unreadable, room)
        except DamagedFeatures as error:
            if attempt:
                raise
            log.warning("%s; they are extracted again", error)
    raise AssertionError("two attempts return or raise")


def extract(
    extraction: Extraction,
    *,
    strict: bool = False,
    progress: Progress | None = None,
    pace: TellPace | None = None,
    workers: int | None = None,
) -> list[Unreadable]:
    """Extract the features of a data set that the store lacks.

    Afterwards the data set's `warnings` has what is damaged in the clips' files, found now or when
    they were first read.

    Args:
        extraction: the clips, and the settings of the extraction.
        strict: an unreadable clip raises instead of being listed.
        progress: called with the numbers of clips done and of clips to extract.
        pace: called before `progress`, with the speed of encoding so far.
        workers: number of threads that decode.

    Returns:
        The unreadable clips.

    Raises:
        UserError: the store cannot be written; or `strict`, and a clip cannot be read.
    """
    dataset, store = extraction.dataset, extraction.store
    missing = store.missing(dataset)
    unreadable: list[Unreadable] = []
    writer = _Writer(extraction)
    watch = Stopwatch(int(dataset.lengths[missing].astype(np.int64).sum()))
    streams = stream_clips(dataset, missing, extraction.size, workers)
    with contextlib.closing(store):
        for done, (clip, chunks) in enumerate(streams, 1):
            try:
                for frames in chunks:
                    writer.add(clip, frames)
                writer.end(clip)
            except UnreadableClip as error:
                writer.drop(clip)
                if strict:
                    raise UserError(f"{error.path} cannot be read: {error.reason}") from None
                unreadable.append(Unreadable(clip, str(error.path), error.reason))
            if pace:
                pace(watch.pace(writer.encoded, writer.bytes))
            if progress:
                progress(done, len(missing))
        writer.flush()
    store.recall_warnings(dataset, range(len(dataset)))
    return _with_copies(dataset, unreadable)


def _with_copies(dataset: Dataset, unreadable: Sequence[Unreadable]) -> list[Unreadable]:
    """Return the unreadable clips, with clips of the same content, which were not tried."""
    keys = [dataset.key(clip) for clip in range(len(dataset))]
    by_key = {keys[clip.clip]: clip for clip in unreadable}
    return [by_key[key]._replace(clip=clip) for clip, key in enumerate(keys) if key in by_key]


class Forecast(NamedTuple):
    """The expected size and time of an extraction.

    Attributes:
        clips: number of clips to extract.
        frames: number of their frames, as declared.
        bytes: number of bytes to write.
        seconds: expected time in seconds.
    """

    clips: int
    frames: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"features of {counted(self.clips, 'clip')} are to be extracted: "
            f"{counted(self.frames, 'frame')}, "
            f"about {self.bytes / 1e6:,.1f} MB and {duration(self.seconds)}"
        )


def forecast(extraction: Extraction, workers: int | None = None) -> Forecast | None:
    """Estimate the size and time of an extraction, from one batch.

    The estimate assumes that decoding and encoding run at the same time, so that the slower of them
    decides. On a CPU they share its cores, and extraction may take up to twice as long.

    Returns:
        The forecast; None if nothing is to be extracted, or no clip could be tried.
    """
    dataset, _, encode, size, batch = extraction
    clips = extraction.store.missing(dataset)
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
        seconds = frames * max(decode_seconds, encode_seconds)
        return Forecast(len(clips), frames, size_bytes, seconds)
    return None


def ahead(extraction: Extraction) -> str:
    """Return a line of text that announces an extraction; "" if nothing is to be extracted."""
    if expected := forecast(extraction):
        return str(expected)
    missing = extraction.store.missing(extraction.dataset)
    if not missing:
        return ""
    names = some(map(extraction.dataset.path, missing))
    return f"{counted(len(missing), 'clip')} without features {are(len(missing))} tried: {names}"


def load(
    dataset: Dataset, store: Store, unreadable: list[Unreadable], room: float = math.inf
) -> Features | StoredFeatures:
    """Load all stored features of a data set in its order; if larger than `room`, only check them.

    Args:
        dataset: the clips.
        store: has features of all clips except `unreadable`.
        unreadable: clips that have no features.
        room: bytes that the features may take in memory.

    Raises:
        DamagedFeatures: features of a clip are missing or damaged; `extract` makes them again.
        TransientError: the system refuses to read the features now.
        UserError: no clip can be read.
    """
    without = {clip.clip for clip in unreadable}
    keys = {clip: dataset.key(clip) for clip in range(len(dataset)) if clip not in without}
    if not keys:
        raise nothing_readable(unreadable)
    entries = {clip: entry for clip, key in keys.items() if (entry := store.entry(key))}
    _check_none_lost(dataset, [clip for clip in keys if clip not in entries])
    lengths = np.zeros(len(dataset), np.int32)
    for clip, entry in entries.items():
        lengths[clip] = entry.shape[0]
    first = next(iter(entries.values())).place
    frames = int(lengths.sum(dtype=np.int64))
    if frames * math.prod(first.shape[1:]) * first.dtype.itemsize > room:
        _check_none_lost(dataset, damaged(store, keys))
        places = {clip: entry.place for clip, key in keys.items() if (entry := store.entry(key))}
        return stored(lengths, unreadable, places)
    values = aligned_empty((frames, *first.shape[1:]), first.dtype)
    features = Features(values, offsets_of(lengths), lengths, unreadable)
    # All clips are read, so that all damaged ones are known and extracted together.
    lost = [clip for clip, key in keys.items() if store.get(key, features.of(clip)) is None]
    _check_none_lost(dataset, lost)
    return features


def damaged(store: Store, keys: Mapping[int, str]) -> list[int]:
    """Read the features of clips; return the clips whose features are missing or damaged."""
    whole = map_ahead(lambda clip: store.get(keys[clip]) is not None, keys)
    return [clip for clip, is_whole in zip(keys, whole, strict=True) if not is_whole]


def _check_none_lost(dataset: Dataset, lost: Sequence[int]) -> None:
    if lost:
        name = dataset.names[lost[0]]
        raise DamagedFeatures(f"features of {name} are missing or damaged: run the command again")


def cast_features(encode: Encode, precision: str) -> Encode:
    """Return `encode` with its features in the store's precision.

    Args:
        encode: frames to features.
        precision: float32, float16 or bfloat16.

    Raises:
        UserError: when the result is called: a finite feature is too large for that precision.
    """
    dtype = dtype_of(precision)

    def cast(frames: np.ndarray) -> np.ndarray:
        features = encode(frames)
        with np.errstate(over="ignore"):
            small = features.astype(dtype)
        if not np.array_equal(np.isfinite(small), np.isfinite(features)):
            raise UserError(
                f"encoder.store_dtype = {precision!r} cannot hold a feature of "
                f"{np.abs(features[np.isfinite(features)]).max():.0f}: take bfloat16 or float32"
            )
        return small

    return cast


def frames_a_batch(size: int, encoder: object = None) -> int:
    """Return how many frames are encoded at once: 32 of 224x224, more of smaller ones.

    An encoder may give another number, as `batch` of its `defaults`.

    On a CPU, large frames are encoded 8 at once: their feature maps fit into its cache, and
    SqueezeNet is a third faster. Small frames gain nothing from that: 64 are encoded at once, as
    many as `predict` reads at once, so that both run the same compiled program.
    """
    if batch := getattr(encoder, "defaults", {}).get("batch"):
        return batch
    if jax.default_backend() == "cpu":
        return 8 if size >= 128 else 64
    return int(np.clip(32 * (224 / size) ** 2, 8, 512))


class _Writer:
    """Collects frames of consecutive clips into full batches and writes finished clips.

    Attributes:
        encoded: Number of frames encoded so far.
        bytes: Size of their features in bytes.
    """

    def __init__(self, extraction: Extraction):
        self._dataset, self._store, self._encode, _, self._batch = extraction
        self.encoded = self.bytes = 0
        self._block: np.ndarray | None = None  # the frames of the next batch
        self._owners: list[int] = []  # the clip of each frame in it
        self._parts: dict[int, list[np.ndarray]] = {}  # features of clips that are not finished
        self._ended: set[int] = set()  # clips whose frames are all in a batch

    def add(self, clip: int, frames: np.ndarray) -> None:
        if self._block is None:
            self._block = np.zeros((self._batch, *frames.shape[1:]), frames.dtype)
        while len(frames):
            start = len(self._owners)
            part, frames = np.split(frames, [self._batch - start])
            self._block[start : start + len(part)] = part
            self._owners += [clip] * len(part)
            if len(self._owners) == self._batch:
                self._run()

    def end(self, clip: int) -> None:
        self._ended.add(clip)
        self._store_finished()

    def drop(self, clip: int) -> None:
        """Discard a clip that failed half-way: the last frames of the batch are from this clip."""
        self._owners = [owner for owner in self._owners if owner != clip]
        self._parts.pop(clip, None)

    def flush(self) -> None:
        if self._owners:
            self._run()
        self._store_finished()

    def _run(self) -> None:
        assert self._block is not None
        owners, self._owners = self._owners, []
        self._block[len(owners) :] = 0
        features = np.asarray(self._encode(self._block))
        self.encoded += len(owners)
        self.bytes += features[: len(owners)].nbytes
        start = 0
        for stop in range(1, len(owners) + 1):
            if stop == len(owners) or owners[stop] != owners[start]:
                self._parts.setdefault(owners[start], []).append(features[start:stop])
                start = stop
        self._store_finished()

    def _store_finished(self) -> None:
        for clip in sorted(self._ended - set(self._owners)):
            self._ended.remove(clip)
            warning = self._dataset.warnings.get(self._dataset.names[clip], "")
            features = np.concatenate(self._parts.pop(clip))
            self._store.put(self._dataset.key(clip), features, warning)
