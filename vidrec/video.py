"""Decode and encode video files (PyAV): only the frames asked for, resized while decoding.

Frame i is the i-th that the decoder yields, whatever the container declares; with `fps` it is the
frame on screen at i / fps seconds. A file that yields at least one frame is readable: what it lacks
is noted, not hidden. Everything else raises `UnreadableClip` with a plain reason.
"""

import bisect
import functools
import itertools
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

MAX_PIXELS = 8192 * 8192  # of one frame: more is a damaged header, and would fill the memory
MAX_SILENCE = 4000  # packets in a row without a frame
MAX_SECONDS = 60.0  # without a frame, for decoders that turn in circles
MAX_GAP = 60.0  # seconds between two frames; timestamps further apart are not believed
SEEK_GAP = 250  # frames skipped at once before looking for a key frame pays
# What PyAV raises on damaged files, found by fuzzing; a bare Exception would hide our own slips.
FAULTS = (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError)
DAMAGED = "damaged, or not a video"
# A title in no known alphabet is no reason to refuse a file; PyAV 19 needs not be told.
_OLD = int(av.__version__.partition(".")[0]) < 19
TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if _OLD else {}
# Containers whose timestamps stay the same after a seek.
EXACT_SEEK = ("mov", "matroska")
# Text and pictures that the demuxers take for videos, and lists of other files.
NO_VIDEO = ("tty", "image2", "concat", "hls", "dash", "sdp", "rtsp", "lavfi", "ffmetadata")
# Bit-exact and accurate: the same pixels on every machine, at no cost that could be measured.
# (libswscale's flags BILINEAR, ACCURATE_RND, BITEXACT; older PyAV names only the first.)
SCALING = 0x2 | 0x40000 | 0x80000


class UnreadableClip(Exception):
    """A clip of which no frame can be had.

    Attributes:
        path, reason: which file, and why in plain words.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Probe:
    """What a file says of itself, and what its first frame shows.

    Attributes:
        frames: by counting packets.
        width, height: as stored, before `rotation` (degrees anticlockwise that a player turns it).
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    seconds: float


@dataclass
class _Record:
    """What happened while a file was decoded."""

    frames: int = 0
    seconds: float = 0.0  # at which the last frame is shown
    lost_packets: int = 0
    reason: str = ""
    ended_early: bool = False

    def blame(self, error: Exception) -> None:
        self.reason = self.reason or _plain(error)


def declared(path: str | os.PathLike) -> tuple[int, float]:
    """(frames, frames a second) as the container says; counts packets where it does not say.

    Raises:
        UnreadableClip: it cannot be opened or holds no video.
    """
    with _opened(path) as (container, stream):
        rate = _rate(stream)
        return max(0, stream.frames) or sum(1 for _ in _packets(container, stream)), rate


def probe(path: str | os.PathLike) -> Probe:
    """A file's properties; decodes one frame.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    with _opened(path) as (container, stream):
        frames = sum(1 for _ in _packets(container, stream))
    with _opened(path) as (container, stream):
        record = _Record()
        first = next(_frames(container, stream, record), None)
        if first is None:
            raise UnreadableClip(path, _no_frame(record))
        rate = _rate(stream)
        return Probe(frames, rate, first.width, first.height, first.rotation, frames / rate)


def stream(
    path: str | os.PathLike,
    size: int,
    chunk: int = 64,
    fps: float = 0,
    notes: list[str] | None = None,
) -> Iterator[np.ndarray]:
    """The whole clip in order, uint8 (t, size, size, 3) with t at most `chunk`.

    Args:
        fps: frames a second to resample to by timestamps; 0 takes every frame once.
        notes: gets a line for everything the file lacks.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    scale, total, record = Scaler(size), 0, _Record()
    block, filled = np.empty((chunk, size, size, 3), np.uint8), 0
    with _opened(path) as (container, source):
        promised = _promised(container, source)
        for frame, repeats in _paced(_frames(container, source, record), source, fps):
            picture = _shrunk(path, scale, frame)
            for _ in range(repeats):
                block[filled] = picture
                filled += 1
                if filled == chunk:
                    yield block
                    total += chunk
                    block, filled = np.empty_like(block), 0
    if filled:
        total += filled
        yield block[:filled]
    if not total:
        raise UnreadableClip(path, _no_frame(record))
    if notes is not None:
        notes += _lacking(promised, record)


def read(
    path: str | os.PathLike,
    indices: Sequence[int] | np.ndarray,
    size: int,
    fps: float = 0,
    notes: list[str] | None = None,
) -> np.ndarray:
    """Chosen frames, uint8 (T, size, size, 3); indices in any order, repeats allowed.

    Frames past the end show the last one, and are noted: a container may promise too many.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    wanted = np.asarray(indices, np.int64)
    if wanted.ndim != 1 or (wanted < 0).any():
        raise ValueError(f"frame indices must be a list of whole numbers from 0 on, not {indices}")
    needed = sorted(set(wanted.tolist()))
    if not needed:
        return np.zeros((0, size, size, 3), np.uint8)
    found = (None if fps else _read_by_seeking(path, needed, size)) or _read_in_order(
        path, needed, size, fps, notes
    )
    return np.stack([found[index] for index in wanted.tolist()])


def _read_in_order(
    path: Any, needed: list[int], size: int, fps: float, notes: list[str] | None
) -> dict[int, np.ndarray]:
    scale, found, record, last, position = Scaler(size), {}, _Record(), None, 0
    places = iter(needed)
    place: int | None = next(places)
    with _opened(path) as (container, source):
        for frame, repeats in _paced(_frames(container, source, record), source, fps):
            position += repeats
            while place is not None and place < position:
                found[place] = _shrunk(path, scale, frame)
                place = next(places, None)
            if place is None:
                return found
            last = frame
        if last is None:
            raise UnreadableClip(path, _no_frame(record))
        picture = _shrunk(path, scale, last)
    found |= dict.fromkeys([place, *places], picture)
    if notes is not None:
        notes.append(f"frame {needed[-1]} was asked for, but it ends after {position}")
    return found


class _Inexact(Exception):
    """A seek did not arrive where the file's timestamps say."""


def _read_by_seeking(path: Any, needed: list[int], size: int) -> dict[int, np.ndarray] | None:
    """The same frames by way of key frames; None where that does not pay or is not exact."""
    gaps = [after - before for before, after in zip([0, *needed], needed, strict=False)]
    if max(gaps) < SEEK_GAP:
        return None
    table = _timestamps(path)
    if table is None or needed[-1] >= len(table.all):
        return None
    scale, found, position = Scaler(size), {}, 0
    try:
        with _opened(path) as (container, source):
            frames = _ranked(container, source, table, 0)
            for index in needed:
                start = table.key_before(index)
                if index - position >= SEEK_GAP and start > position:
                    container.seek(table.all[start], stream=source)
                    frames = _ranked(container, source, table, start)
                for position, frame in frames:
                    if position == index:
                        found[index] = _shrunk(path, scale, frame)
                        break
                if index not in found:
                    raise _Inexact
    except (_Inexact, UnreadableClip, *FAULTS):
        return None
    return found


@dataclass(frozen=True)
class _Timestamps:
    """Presentation times of a file's frames in order, and which places are key frames."""

    all: list[int]
    keys: list[int]
    rank: dict[int, int] = field(repr=False, default_factory=dict)

    def key_before(self, index: int) -> int:
        return self.keys[bisect.bisect_right(self.keys, index) - 1]


def _timestamps(path: Any) -> _Timestamps | None:
    _check_file(os.path.abspath(path))
    status = os.stat(path)
    return _timestamps_of(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _timestamps_of(path: str, size: int, changed: int) -> _Timestamps | None:
    """None where a frame has no timestamp, or two have the same, or any is damaged or hidden."""
    with _opened(path) as (container, stream):
        if not container.format.name.startswith(EXACT_SEEK):
            return None
        times = [
            (packet.pts, packet.is_keyframe, packet.is_corrupt or packet.is_discard)
            for packet in _packets(container, stream)
        ]
    if not times or any(pts is None or bad for pts, _, bad in times):
        return None
    times.sort()
    ordered = [pts for pts, _, _ in times]
    keys = [place for place, (_, is_key, _) in enumerate(times) if is_key]
    if len(set(ordered)) < len(ordered) or not keys or keys[0] != 0:
        return None
    return _Timestamps(ordered, keys, {pts: place for place, pts in enumerate(ordered)})


def _ranked(
    container: Any, stream: Any, table: _Timestamps, start: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(place, frame) from `start` on; raises _Inexact where a place is missing or unknown."""
    record, expected = _Record(), start
    for frame in _frames(container, stream, record):
        place = table.rank.get(frame.pts, -1)
        if 0 <= place < start:
            continue  # leading pictures of an open group, which need what lies before
        if place != expected or record.lost_packets:
            raise _Inexact
        yield place, frame
        expected += 1


@contextmanager
def _opened(path: Any) -> Iterator[tuple[Any, Any]]:
    """Container and its first video stream, one thread each: clips are decoded side by side."""
    path = os.path.abspath(path)
    _check_file(path)
    try:
        container = av.open(
            path,
            options={"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "file"},
            **TOLERANT,
        )
    except FAULTS as error:
        raise UnreadableClip(path, _plain(error)) from None
    with container:
        kind = container.format.name
        if kind.split(",")[0] in NO_VIDEO or kind.endswith("_pipe"):
            raise UnreadableClip(path, f"not a video ({kind})")
        video = [s for s in container.streams.video if not _is_cover(s)]
        if not video:
            kinds = sorted({s.type for s in container.streams})
            reason = f"no video in it, only {' and '.join(kinds)}" if kinds else DAMAGED
            raise UnreadableClip(path, reason)
        stream = video[0]
        context = stream.codec_context
        if context is None:
            raise UnreadableClip(path, "in a codec that cannot be decoded here")
        if stream.width * stream.height > MAX_PIXELS:
            raise UnreadableClip(path, f"frames of {stream.width}x{stream.height} are too large")
        context.thread_count = 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _is_cover(stream: Any) -> bool:
    """A picture attached to music."""
    return "attached_pic" in str(stream.disposition).lower()


def _check_file(path: str) -> None:
    """Raises UnreadableClip for what must not even be opened (a pipe would wait for ever)."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableClip(path, "a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableClip(path, "not a regular file")
        if status.st_size == 0:
            raise UnreadableClip(path, "empty file")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise UnreadableClip(path, "no such file") from None
    except PermissionError:
        raise UnreadableClip(path, "no permission to read it") from None
    except OSError as error:
        raise UnreadableClip(path, error.strerror or str(error)) from None


def _packets(container: Any, stream: Any, record: _Record | None = None) -> Iterator[Any]:
    """Packets with content; ends where the file cannot be read on."""
    packets, empty = container.demux(stream), 0
    while empty < MAX_SILENCE:
        try:
            packet = next(packets, None)
        except IndexError:  # a stream that the head did not announce begins here
            packets, empty = container.demux(stream), empty + 1
            continue
        except FAULTS as error:
            if record is not None:
                record.blame(error)
                record.ended_early = True
            return
        if packet is None:
            return
        # The last, empty packet only tells a decoder to finish.
        if packet.size:
            empty = 0
            yield packet
        else:
            empty += 1


def _frames(container: Any, stream: Any, record: _Record) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded, in order; packets that cannot are skipped and counted."""
    silence, since, base = 0, time.monotonic(), stream.time_base
    for packet in itertools.chain(_packets(container, stream, record), (None,)):
        frames = _decode(stream, packet, record)
        for frame in frames:
            record.frames += 1
            record.seconds = max(record.seconds, _stamp(frame, base) or 0.0)
            yield frame
        silence = 0 if frames else silence + 1
        # The reader's time is not the decoder's: the clock starts when the reader comes back.
        since = time.monotonic() if frames else since
        if silence > MAX_SILENCE or time.monotonic() - since > MAX_SECONDS:
            record.reason = record.reason or "the decoder yields no more frames"
            record.ended_early = True
            return


def _decode(stream: Any, packet: Any, record: _Record) -> list[av.VideoFrame]:
    try:
        return [f for f in stream.codec_context.decode(packet) if f.width and f.height]
    except EOFError:
        return []
    except FAULTS as error:
        record.lost_packets += packet is not None
        record.blame(error)
        return []


def _rate(stream: Any) -> float:
    """Frames a second as declared; 25 where the file says nothing that can be true."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and 0.01 <= float(rate) <= 1000:
            return float(rate)
    return 25.0


def _paced(
    frames: Iterator[av.VideoFrame], stream: Any, fps: float
) -> Iterator[tuple[av.VideoFrame, int]]:
    """(frame, how often it is shown): once, or as often as i / fps falls into its time."""
    if not fps:
        yield from ((frame, 1) for frame in frames)
        return
    usual, shown, start, held = 1 / _rate(stream), 0, 0.0, None
    for frame, begin in _timed(frames, stream, usual):
        if held is not None:
            repeats = _ticks(begin, fps) - shown
            if repeats:
                yield held, repeats
            shown += repeats
        held, start = frame, begin
    if held is not None:
        # A clip shorter than one tick still shows a frame.
        repeats = max(_ticks(start + usual, fps) - shown, int(shown == 0))
        if repeats:
            yield held, repeats


def _ticks(seconds: float, fps: float) -> int:
    """How many of 0, 1/fps, 2/fps, … lie before `seconds`; a microsecond is rounding."""
    return int(np.ceil(seconds * fps - 1e-6 * fps))


def _stamp(frame: av.VideoFrame, base: Fraction | None) -> float | None:
    """Seconds of a frame by the stream's time base: before PyAV 19 the last ones lack their own."""
    if frame.pts is None or not base:
        return None
    return frame.pts * base.numerator / base.denominator


def _timed(
    frames: Iterator[av.VideoFrame], stream: Any, usual: float
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Frames with their seconds since the first; impossible steps become the usual one."""
    clock, before, base = 0.0, None, stream.time_base
    for number, frame in enumerate(frames):
        stamp = _stamp(frame, base)
        step = stamp - before if stamp is not None and before is not None else usual
        clock += 0 if number == 0 else step if 0 < step <= MAX_GAP else usual
        before = stamp if stamp is not None else (before + usual if before is not None else None)
        yield frame, clock


class Scaler:
    """Frames to squares of RGB; one for all of a file, since setting one up costs most."""

    def __init__(self, size: int):
        self.size, self._scaler = size, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(size, size, 3) uint8."""
        # Left to itself it starts a thread a core for every file, and wakes them for every frame.
        return self._scaler.reformat(
            frame, self.size, self.size, "rgb24", interpolation=SCALING, threads=1
        ).to_ndarray()


def _shrunk(path: Any, scale: Scaler, frame: av.VideoFrame) -> np.ndarray:
    """The frame as a player shows it: upright."""
    try:
        small, turns = scale(frame), round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(small, turns)) if turns else small
    except FAULTS as error:
        raise UnreadableClip(path, f"a frame cannot be converted: {_plain(error)}") from None


def _promised(container: Any, stream: Any) -> tuple[int, float]:
    """(frames, seconds) that the container declares; 0 for what it does not."""
    alone = len(container.streams) == 1  # else its duration may be the sound's
    return max(0, stream.frames), (container.duration or 0) / av.time_base if alone else 0.0


def _lacking(promised: tuple[int, float], record: _Record) -> list[str]:
    """Lines on what a readable file lacks."""
    lines, total = [], record.frames
    frames, seconds = promised
    if record.lost_packets:
        lines.append(f"damaged packets skipped: {record.lost_packets} ({record.reason})")
    # Encoders that pack frames (Xvid, so UCF-101) miscount by one.
    if total < frames - 1:
        lines.append(f"truncated after {total} of {frames} frames")
    elif record.ended_early:
        lines.append(f"cannot be read on after {total} frames ({record.reason})")
    elif total > frames + 1 > 1:
        lines.append(f"declares {frames} frames, holds {total}")
    elif not frames and record.seconds < 0.8 * seconds - 0.5:
        lines.append(f"truncated after {record.seconds:.1f} of {seconds:.1f} seconds")
    return lines


def _no_frame(record: _Record) -> str:
    return "no frame can be decoded" + (f" ({record.reason})" if record.reason else "")


def _plain(error: Exception) -> str:
    """A decoder's error in words for people."""
    if isinstance(error, av.InvalidDataError):
        return DAMAGED
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


ENCODERS = {".avi": "mpeg4", ".mpg": "mpeg1video", ".mpeg": "mpeg1video", ".webm": "libvpx-vp9"}


def write(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float = 30, codec: str = ""
) -> None:
    """Encodes uint8 RGB frames (H, W, 3) of one size; odd sizes get one more row or column.

    Args:
        codec: of the encoder; empty: H.264, or what suits the file's extension.
    """
    codec = codec or ENCODERS.get(Path(path).suffix.lower(), "libx264")
    if codec == "libx264" and codec not in av.codecs_available:
        codec = "mpeg4"
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(os.path.abspath(path), "w") as container:
        stream = None
        for frame in frames:
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height, stream.pix_fmt = *even.shape[1::-1], "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one frame")
        container.mux(stream.encode())
