"""A frozen encoder over a data set, once: the feature store.

A store is a folder addressed by all that features depend on (encoder, weights, preprocessing, frame
size and rate, precision); in it lies one file a clip, addressed by the clip's own content. Sequence
length, segments and splits are no part of either, so changing them never extracts again. A file
appears whole or not at all, so that extraction can be killed, resumed, or shared by processes.
"""

import hashlib
import io
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec import video
from vidrec.config import Config, cache_dir, canonical, cores, digest, identity
from vidrec.datasets.source import Source, UnreadableClip
from vidrec.errors import UserError
from vidrec.files import write_whole

Progress = Callable[[int, int], None]
DIGEST_BYTES = hashlib.sha256().digest_size
HEAD_BYTES = 128  # of a .npy file
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


@dataclass(frozen=True)
class Store:
    """One folder of features; its about.json says what they depend on."""

    folder: Path

    @classmethod
    def of(cls, about: dict[str, Any], root: Path | None = None) -> "Store":
        """The store of these dependencies, made where it is missing."""
        root = root or cache_dir() / "features"
        store = cls(root / digest(about, length=24))
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            if not (store.folder / "about.json").exists():
                write_whole(store.folder / "about.json", canonical(about))
        except OSError as error:
            raise UserError(f"cannot write features to {store.folder}: {error.strerror}") from None
        return store

    def has(self, key: str) -> bool:
        """True when the clip's features are there."""
        return self._file(key).exists()

    def put(self, key: str, features: np.ndarray, lacking: str = "") -> None:
        """Stores a clip's features, (T, D…), and what its file was found to lack.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        if lacking:  # first, so that whoever finds the features finds this too
            write_whole(self._note(key), lacking)
        buffer = io.BytesIO()
        np.save(buffer, _plain(features), allow_pickle=False)
        content = buffer.getvalue()
        write_whole(self._file(key), content + hashlib.sha256(content).digest())

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

    def lacking(self, key: str) -> str:
        """What the clip's file was found to lack when it was decoded; "" where it was whole."""
        try:
            return self._note(key).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

    def _note(self, key: str) -> Path:
        return self._file(key).with_suffix(".lacking")


def _plain(features: np.ndarray) -> np.ndarray:
    """bfloat16 is no type of NumPy's own: its bits are stored."""
    return features.view(np.uint16) if features.dtype.name == "bfloat16" else features


def _typed(features: np.ndarray) -> np.ndarray:
    import ml_dtypes

    return features.view(ml_dtypes.bfloat16) if features.dtype == np.uint16 else features


def about(cfg: Config, weights: str, module: Any) -> dict[str, Any]:
    """What features depend on besides the clip: `weights` is the digest of the encoder's arrays.

    An encoder's VERSION is raised where its code changes what it gives; a user's own has none.
    """
    encoder = cfg.encoder
    names = ("kind", "readout", "width", "size", "normalise", "precision", "compute")
    settings = {name: getattr(encoder, name) for name in names}
    settings["kind"] = identity(cfg)["encoder.kind"]  # a user's file counts by its content
    return settings | {
        "weights": weights,
        "version": getattr(module, "VERSION", 0),
        "fps": cfg.data.fps,
        "decoding": video.DECODING,
    }


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

    What the source's files were found to lack, now or when they were first read, is in its `damage`
    afterwards.

    Args:
        encode: frames (batch, size, size, 3) uint8 to features (batch, D…).
        size: height and width of frames.
        strict: an unreadable clip raises instead of being listed.
        progress: called with clips done and clips to do.
    """
    keys = [source.key(clip) for clip in range(len(source.names))]
    missing = lacked(source, store)
    unreadable: list[tuple[int, str, str]] = []
    writer = _Writer(store, encode, batch, source)
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
    recall_damage(source, store, range(len(keys)))
    twins = {keys[clip]: (path, reason) for clip, path, reason in unreadable}
    return [(clip, *twins[key]) for clip, key in enumerate(keys) if key in twins]


def lacked(source: Source, store: Store) -> list[int]:
    """Clips that the store lacks, in order; the same content under two names counts once."""
    keys = {clip: source.key(clip) for clip in range(len(source.names))}
    first = {key: clip for clip, key in reversed(keys.items())}
    return sorted(clip for key, clip in first.items() if not store.has(key))


def recall_damage(source: Source, store: Store, clips: Iterable[int]) -> None:
    """Adds to `source.damage` what the files of stored clips lacked when they were decoded."""
    for clip in clips:
        if lacking := store.lacking(source.key(clip)):
            source.damage[source.names[clip]] = lacking


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
                f"encoder.precision = {precision!r} cannot hold a feature of "
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
    source: Source,
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
    clips = lacked(source, store)
    frames = int(source.lengths[clips].astype(np.int64).sum())
    for clip in clips[:TRIED]:
        began = time.perf_counter()
        try:
            chunk = next(source.stream(clip, size, batch))
        except (UnreadableClip, StopIteration):
            continue
        decode_seconds = (time.perf_counter() - began) / len(chunk) / (workers or default_workers())
        padded = np.resize(chunk, (batch, *chunk.shape[1:]))
        encode(padded)  # compiles
        began = time.perf_counter()
        features = encode(padded)
        encode_seconds = (time.perf_counter() - began) / batch
        size_bytes = frames * features[0].nbytes + len(clips) * (HEAD_BYTES + DIGEST_BYTES)
        return Forecast(
            len(clips), frames, size_bytes, frames * max(decode_seconds, encode_seconds)
        )
    return None


class _Writer:
    """Collects frames of consecutive clips into full batches and writes finished clips."""

    def __init__(self, store: Store, encode: Callable, batch: int, source: Source):
        self.store, self.encode, self.batch, self.source = store, encode, batch, source
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
            lacking = self.source.damage.get(self.source.names[clip], "")
            found = np.concatenate(self.parts.pop(clip))
            self.store.put(self.source.key(clip), found, lacking)


def default_workers() -> int:
    """Threads that decode: one a core that this process may use."""
    return min(4, cores())


def decoded(
    source: Source, clips: Sequence[int], size: int, workers: int | None = None
) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """(clip, its frames in chunks), in order, decoded ahead by threads with bounded memory."""
    workers = workers or default_workers()
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
