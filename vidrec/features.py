"""A frozen encoder over a data set, once: the feature store.

A store is a folder addressed by all that features depend on (encoder, weights, preprocessing, frame
size and rate, precision); in it lies one file a clip, addressed by the clip's own content. Sequence
length, segments and splits are no part of either, so changing them never extracts again. A file
appears whole or not at all, so that extraction can be killed, resumed, or shared by processes.
"""

import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.config import Config, cache_dir, canonical, digest, identity
from vidrec.datasets.source import Source, UnreadableClip
from vidrec.errors import UserError

Progress = Callable[[int, int], None]
DIGEST_BYTES = hashlib.sha256().digest_size


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


@dataclass(frozen=True)
class Store:
    """One folder of features; `about` says what they depend on."""

    folder: Path

    @classmethod
    def of(cls, about: dict[str, Any], root: Path | None = None) -> "Store":
        """The store of these dependencies, made where it is missing."""
        root = root or cache_dir() / "features"
        store = cls(root / digest(about, length=24))
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            if not (store.folder / "about.json").exists():
                _write_whole(store.folder / "about.json", canonical(about).encode())
        except OSError as error:
            raise UserError(f"cannot write features to {store.folder}: {error.strerror}") from None
        return store

    def has(self, key: str) -> bool:
        """True when the clip's features are there."""
        return self._file(key).exists()

    def put(self, key: str, features: np.ndarray) -> None:
        """Stores a clip's features, (T, D…).

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, _plain(features), allow_pickle=False)
        content = buffer.getvalue()
        _write_whole(self._file(key), content + hashlib.sha256(content).digest())

    def get(self, key: str) -> np.ndarray | None:
        """A clip's features, memory-mapped; None where missing or damaged (then removed)."""
        file = self._file(key)
        try:
            content = np.memmap(file, np.uint8, "r")
            body, expected = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:].tobytes()
            if hashlib.sha256(body).digest() != expected:
                raise ValueError("checksum")
            return _typed(np.load(file, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            return None
        except (ValueError, OSError, EOFError):
            file.unlink(missing_ok=True)
            return None

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"


def _plain(features: np.ndarray) -> np.ndarray:
    """bfloat16 is no type of NumPy's own: its bits are stored."""
    return features.view(np.uint16) if features.dtype.name == "bfloat16" else features


def _typed(features: np.ndarray) -> np.ndarray:
    import ml_dtypes

    return features.view(ml_dtypes.bfloat16) if features.dtype == np.uint16 else features


def _write_whole(file: Path, content: bytes) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as handle:
            handle.write(content)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def about(cfg: Config, weights: str, version: int) -> dict[str, Any]:
    """What features depend on besides the clip: `weights` is the digest of the encoder's arrays."""
    encoder = cfg.encoder
    names = ("kind", "readout", "width", "size", "normalise", "precision", "compute")
    settings = {name: getattr(encoder, name) for name in names}
    settings["kind"] = identity(cfg)["encoder.kind"]  # a user's file counts by its content
    return settings | {"weights": weights, "version": version, "fps": cfg.data.fps}


def extract(
    source: Source,
    store: Store,
    encode: Callable[[np.ndarray], np.ndarray],
    size: int,
    batch: int,
    *,
    strict: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> list[tuple[int, str, str]]:
    """Fills the store with what it lacks of a source; returns the unreadable clips.

    Args:
        encode: frames (batch, size, size, 3) uint8 to features (batch, D…).
        size: height and width of frames.
        strict: an unreadable clip raises instead of being listed.
        progress: called with clips done and clips to do.
    """
    keys = [source.key(clip) for clip in range(len(source.names))]
    missing = [clip for clip in range(len(keys)) if not store.has(keys[clip])]
    # The same content under two names is encoded once.
    missing = list({keys[clip]: clip for clip in reversed(missing)}.values())[::-1]
    unreadable: list[tuple[int, str, str]] = []
    writer = _Writer(store, encode, batch, keys)
    for done, (clip, chunks) in enumerate(decoded(source, missing, size, workers)):
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
    twins = {keys[clip]: (path, reason) for clip, path, reason in unreadable}
    return [(clip, *twins[key]) for clip, key in enumerate(keys) if key in twins]


class _Writer:
    """Collects frames of consecutive clips into full batches and writes finished clips."""

    def __init__(self, store: Store, encode: Callable, batch: int, keys: Sequence[str]):
        self.store, self.encode, self.batch, self.keys = store, encode, batch, keys
        self.frames: list[np.ndarray] = []
        self.owners: list[int] = []
        self.parts: dict[int, list[np.ndarray]] = {}
        self.ended: dict[int, bool] = {}

    def add(self, clip: int, frames: np.ndarray) -> None:
        self.frames.append(frames)
        self.owners += [clip] * len(frames)
        while len(self.owners) >= self.batch:
            self._run(self.batch)

    def end(self, clip: int) -> None:
        self.ended[clip] = True
        self._store_finished()

    def drop(self, clip: int) -> None:
        """Forgets a clip that broke half-way."""
        frames = np.concatenate(self.frames) if self.frames else None
        keep = [owner != clip for owner in self.owners]
        self.frames = [frames[keep]] if frames is not None else []
        self.owners = [owner for owner in self.owners if owner != clip]
        self.parts.pop(clip, None)

    def flush(self) -> None:
        if self.owners:
            self._run(len(self.owners))
        self._store_finished()

    def _run(self, count: int) -> None:
        frames = np.concatenate(self.frames)
        now, later = frames[:count], frames[count:]
        padded = np.zeros((self.batch, *now.shape[1:]), now.dtype)
        padded[:count] = now
        features = np.asarray(self.encode(padded))[:count]
        owners, self.owners = self.owners[:count], self.owners[count:]
        self.frames = [later] if len(later) else []
        start = 0
        for place in range(1, count + 1):
            if place == count or owners[place] != owners[start]:
                self.parts.setdefault(owners[start], []).append(features[start:place])
                start = place
        self._store_finished()

    def _store_finished(self) -> None:
        waiting = set(self.owners)
        for clip in [clip for clip in self.ended if clip not in waiting]:
            del self.ended[clip]
            self.store.put(self.keys[clip], np.concatenate(self.parts.pop(clip)))


def decoded(
    source: Source, clips: Sequence[int], size: int, workers: int | None = None
) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """(clip, its frames in chunks), in order, decoded ahead by threads with bounded memory."""
    workers = workers or min(4, os.cpu_count() or 1)
    lanes: dict[int, queue.Queue] = {clip: queue.Queue(2) for clip in clips}
    turn, ahead, stop = iter(clips), threading.Semaphore(2 * workers), threading.Event()
    lock = threading.Lock()

    def put(lane: queue.Queue, item: Any) -> bool:
        while not stop.is_set():
            try:
                lane.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        while not stop.is_set():
            if not ahead.acquire(timeout=0.1):
                continue
            with lock:
                clip = next(turn, None)
            if clip is None:
                return
            try:
                for chunk in source.stream(clip, size):
                    if not put(lanes[clip], chunk):
                        return
                put(lanes[clip], None)
            except Exception as error:  # carried to the consumer, who knows the clip
                put(lanes[clip], error)

    def chunks(clip: int) -> Iterator[np.ndarray]:
        some = False
        while (item := lanes[clip].get()) is not None:
            if isinstance(item, Exception):
                raise item
            some = some or len(item) > 0
            yield item
        if not some:
            raise UnreadableClip(source.path(clip), "holds no frame")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for clip in clips:
            yield clip, chunks(clip)
            del lanes[clip]
            ahead.release()
    finally:
        stop.set()


def load(source: Source, store: Store, unreadable: list[tuple[int, str, str]]) -> Features:
    """All stored features of a source, in its order."""
    broken = {clip for clip, _, _ in unreadable}
    clips = [
        None if clip in broken else store.get(source.key(clip)) for clip in range(len(source.names))
    ]
    lost = [source.names[i] for i, each in enumerate(clips) if each is None and i not in broken]
    if lost:
        raise UserError(f"features of {lost[0]} are missing or damaged: run the command again")
    return ragged(clips, unreadable)


def ragged(clips: Sequence[np.ndarray | None], unreadable: list[tuple[int, str, str]]) -> Features:
    """Clips of unequal length in one array."""
    there = [clip for clip in clips if clip is not None]
    if not there:
        raise UserError(f"no clip can be read; the first: {unreadable[0][1]}: {unreadable[0][2]}")
    lengths = np.array([0 if clip is None else len(clip) for clip in clips], np.int32)
    offsets = (np.cumsum(lengths) - lengths).astype(np.int32)
    return Features(np.concatenate(there), offsets, lengths, unreadable)


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
        raise UserError(
            f"encoder.components = {components} is more than the {width} features there are"
        )
    scaled = (values - mean) * scale
    variances, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    kept = vectors[:, ::-1][:, :components]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    kept = kept * np.sign(kept[np.abs(kept).argmax(0), np.arange(components)])
    matrix = scale[:, None] * kept / np.sqrt(variances[-1])
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))
