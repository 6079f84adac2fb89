"""Decode and encode video files (PyAV): only the frames asked for, resized while decoding.

Frame i is the i-th that a player shows, whatever the container declares; with `fps` it is the frame
on screen at i / fps seconds. Seconds are those of the timestamps. Frames are turned and mirrored as
the display matrix says. Colours without a tag are BT.709 from 720 rows on, else BT.601. A file that
yields at least one frame is readable: what it lacks is noted, not hidden. Everything else raises
`UnreadableClip` with a plain reason.
"""

import bisect
import errno
import functools
import itertools
import math
import mmap
import os
import struct
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, VideoReformatter

from vidrec.data import pictures
from vidrec.errors import TransientError, UnreadableClip, raise_if_transient
from vidrec.io import files

MAX_PIXELS = 8192 * 8192  # of one frame: more is a damaged header, and would fill the memory
MAX_SILENCE = 4000  # packets in a row without a frame
MAX_SECONDS = 60.0  # without a frame, for decoders that turn in circles
MAX_GAP = 60.0  # seconds between two frames; timestamps further apart are not believed
SEEK_GAP = 250  # frames skipped at once before looking for a key frame pays
# What PyAV raises on damaged files, found by fuzzing; a bare Exception would hide our own slips.
FAULTS = (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError)
# Numbers that no decoder gives for damage.
NEVER_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.ESTALE)
SPARE = 1 << 28  # bytes: more than a frame of usual size takes
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
HD_ROWS = 720  # from which on colours without a tag are BT.709, as players take them
UNTAGGED = (0, 2, 3)  # AVCOL_SPC_RGB (of a YUV picture: a wrong tag), UNSPECIFIED, RESERVED
DECODING = 2  # raised where the same file gives other frames: what was kept of them is not used


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


class Clock:
    """When the frames of a clip are shown, in seconds from its first; filled while it is read.

    Attributes:
        starts: of the frames read so far.
        end: of the last of them.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets a reading, before another one."""
        self.starts, self.end = array("d"), 0.0

    def at(self, frame: int) -> float:
        """When a frame begins; behind the last one, when that ends."""
        return self.starts[frame] if frame < len(self.starts) else self.end


class _Shown(NamedTuple):
    """A frame and the seconds between which it is on screen."""

    frame: av.VideoFrame
    start: float
    end: float


@dataclass
class _Record:
    """What happened while a file was decoded."""

    frames: int = 0
    packets: int = 0  # with those that are not to be shown
    seconds: float = 0.0  # at which the last frame is shown
    lost_packets: int = 0
    reason: str = ""
    ended_early: bool = False
    errors: list[Exception] = field(default_factory=list)  # one of each kind

    def blame(self, error: Exception) -> None:
        self.reason = self.reason or _plain(error)
        if all(type(error) is not type(each) for each in self.errors):
            self.errors.append(error)


def declared(path: str | os.PathLike) -> tuple[int, float]:
    """(frames to be shown, their mean number a second) by the container; nothing is decoded.

    Raises:
        UnreadableClip: it cannot be opened or holds no video.
    """
    if series := pictures.of(path):
        return series.declared()
    with _opened(path) as (container, stream):
        usual = _rate(stream)
        frames = _promised(container, stream).frames
        if frames:
            return frames, usual
        spans = [
            (packet.pts, packet.duration or 0)
            for packet in _packets(container, stream)
            if _is_shown(packet, stream)
        ]
        return len(spans), _mean_rate(spans, stream.time_base, usual)


def _mean_rate(spans: list[tuple[int | None, int]], base: Fraction | None, usual: float) -> float:
    """Frames a second by their times and durations: what a container declares is often guessed."""
    known = sorted((stamp, stay) for stamp, stay in spans if stamp is not None)
    if len(known) < max(2, len(spans)) or not base:
        return usual
    clock, start = _Steps(1 / usual), 0.0
    for stamp, _ in known:
        start = clock(_stamp(stamp, base))
    rate = len(known) / (start + clock.last(_stamp(known[-1][1], base) or 0.0))
    return rate if abs(rate - usual) > 0.001 * usual else usual


def probe(path: str | os.PathLike) -> Probe:
    """A file's properties; decodes one frame.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    frames, rate = declared(path)
    with _film(path) as film:
        first = next(film.shown(), None)
        if first is None:
            raise UnreadableClip(path, film.no_frame())
        frame = first.frame
        return Probe(frames, rate, frame.width, frame.height, frame.rotation, frames / rate)


def stream(
    path: str | os.PathLike,
    size: int,
    chunk: int = 64,
    fps: float = 0,
    notes: list[str] | None = None,
    *,
    clock: Clock | None = None,
) -> Iterator[np.ndarray]:
    """The whole clip in order, uint8 (t, size, size, 3) with t at most `chunk`.

    Args:
        fps: frames a second to resample to by timestamps; 0 takes every frame once.
        notes: gets a line for everything the file lacks.
        clock: gets the seconds of the frames, no later than the frames are given.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    scale, total, clock = Scaler(size), 0, Clock() if clock is None else clock
    clock.clear()
    block, filled = np.empty((chunk, size, size, 3), np.uint8), 0
    with _film(path) as film:
        for frame, repeats in _paced(film.shown(), fps, clock):
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
        raise UnreadableClip(path, film.no_frame())
    if notes is not None:
        notes += film.lacking()


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
    scale, found, last, position = Scaler(size), {}, None, 0
    places = iter(needed)
    place: int | None = next(places)
    with _film(path) as film:
        for frame, repeats in _paced(film.shown(), fps, Clock()):
            position += repeats
            while place is not None and place < position:
                found[place] = _shrunk(path, scale, frame)
                place = next(places, None)
            if place is None:
                return found
            last = frame
        if last is None:
            raise UnreadableClip(path, film.no_frame())
        picture = _shrunk(path, scale, last)
        film.lacking()  # raises where the system, not the file, ended it
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
    if pictures.of(path):
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
    pictures.check_file(path)
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


def shown(
    path: str | os.PathLike, fitted: Callable[[int, int], tuple[int, int]]
) -> Iterator[tuple[np.ndarray, float, float]]:
    """Frames in their own proportions, as a player shows them: (uint8 (H, W, 3), start, end).

    Args:
        fitted: width and height of the first frame, upright, to those of all that are given.

    Raises:
        UnreadableClip: it cannot be opened, or a frame cannot be converted.
    """
    scaler, poses, size = VideoReformatter(), _Poses(), None
    with _film(path) as film:
        for frame, start, end in film.shown():
            pose = poses(frame)
            if size is None:
                width = max(1, round(frame.width * film.pixel_aspect))
                size = fitted(*pose.applied(width, frame.height))
            yield pose.upright(_rgb(path, scaler, frame, pose.applied(*size))), start, end


class _Video:
    """A file of a container format."""

    def __init__(self, container: Any, stream: Any):
        self._container, self._stream, self._record = container, stream, _Record()
        self._promised = _promised(container, stream)
        ratio = stream.sample_aspect_ratio
        # Another ratio is a damaged head.
        self.pixel_aspect = float(ratio) if ratio and 0.1 <= ratio <= 10 else 1.0

    def shown(self) -> Iterator[_Shown]:
        """Its frames, once."""
        return _spans(_frames(self._container, self._stream, self._record), self._stream)

    def lacking(self) -> list[str]:
        """Lines on what was not there, after `shown` has come to its end."""
        lines = _lacking(self._promised, self._record)
        if lines:
            _raise_if_system(self._container.name, *self._record.errors)
        return lines

    def no_frame(self) -> str:
        """Why `shown` gave nothing."""
        _raise_if_system(self._container.name, *self._record.errors)
        return _no_frame(self._record)


class _Pictures:
    """A folder of frames, or an animation that FFmpeg does not know."""

    pixel_aspect = 1.0

    def __init__(self, series: pictures.Animation | pictures.Folder):
        self._series = series

    def shown(self) -> Iterator[_Shown]:
        """Its frames, once."""
        for pixels, start, end in self._series.stills():
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            yield _Shown(frame, start, end)

    def lacking(self) -> list[str]:
        """Lines on what was not there, after `shown` has come to its end."""
        return self._series.notes

    def no_frame(self) -> str:
        """Why `shown` gave nothing."""
        return "no frame can be decoded"


class _Film(Protocol):
    """What a clip is while it is read: a container's stream, or a series of pictures.

    Attributes:
        pixel_aspect: width of a stored pixel by its height.
    """

    pixel_aspect: float

    def shown(self) -> Iterator[_Shown]: ...
    def lacking(self) -> list[str]: ...
    def no_frame(self) -> str: ...


@contextmanager
def _film(path: Any) -> Iterator[_Film]:
    """A clip, open for one reading."""
    if series := pictures.of(path):
        yield _Pictures(series)
        return
    with _opened(path) as (container, stream):
        yield _Video(container, stream)


@contextmanager
def _opened(path: Any) -> Iterator[tuple[Any, Any]]:
    """Container and its first video stream, one thread each: clips are decoded side by side."""
    path = os.path.abspath(path)
    pictures.check_file(path)
    try:
        container = av.open(
            path,
            options={"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "file"},
            **TOLERANT,
        )
    except FAULTS as error:
        _raise_if_system(path, error)
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


def _raise_if_system(path: str, *errors: Exception) -> None:
    """Raises a TransientError where a file seems damaged because the system refused something.

    Decoders give the numbers of the system's errors for damage too, and hide an error of the disk
    behind a clip that ends early. So the file is read to its end without them; and where memory
    was lacking, but is there for anything usual, the file asked for too much.
    """
    for error in errors:
        if isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM:
            if not isinstance(error, av.FFmpegError | MemoryError) or not _has_memory():
                raise TransientError.of(path, error) from error
        elif getattr(error, "errno", 0) in NEVER_DAMAGE or not isinstance(error, av.FFmpegError):
            raise_if_transient(path, error)
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        raise_if_transient(path, error)


def _has_memory() -> bool:
    try:
        mmap.mmap(-1, SPARE).close()
    except (OSError, ValueError, MemoryError):
        return False
    return True


def _is_cover(stream: Any) -> bool:
    """A picture attached to music."""
    return "attached_pic" in str(stream.disposition).lower()


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
            if record is None:
                _raise_if_system(container.name, error)
            else:
                record.blame(error)
                record.ended_early = True
            return
        if packet is None:
            return
        if record is not None and (packet.size or packet.dts is not None):
            record.packets += 1  # an empty one with a time says that the picture stays
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
            record.seconds = max(record.seconds, _stamp(frame.pts, base) or 0.0)
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
        if _is_rate(rate):
            return float(rate)
    return 25.0


def _is_rate(rate: Fraction | None) -> bool:
    return rate is not None and 0.01 <= float(rate) <= 1000


def _paced(
    shown: Iterator[_Shown], fps: float, clock: Clock
) -> Iterator[tuple[av.VideoFrame, int]]:
    """(frame, how often it is given): once, or as often as i / fps falls into its time."""
    given = 0
    for frame, start, end in shown:
        if fps:
            # A clip shorter than one tick still shows a frame.
            repeats = max(_ticks(end, fps) - given, int(given == 0))
            clock.starts.extend((given + k) / fps for k in range(repeats))
            clock.end = (given + repeats) / fps
        else:
            repeats = 1
            clock.starts.append(start)
            clock.end = end
        given += repeats
        if repeats:
            yield frame, repeats


def _ticks(seconds: float, fps: float) -> int:
    """How many of 0, 1/fps, 2/fps, … lie before `seconds`; a microsecond is rounding."""
    return int(np.ceil(seconds * fps - 1e-6 * fps))


def _stamp(ticks: int | None, base: Fraction | None) -> float | None:
    """Seconds by the stream's time base: before PyAV 19 the last frames lack their own."""
    if ticks is None or not base:
        return None
    return ticks * base.numerator / base.denominator


class _Steps:
    """Seconds since the first frame; steps that cannot be true become the usual one."""

    def __init__(self, usual: float):
        self.usual, self.now, self.count = usual, 0.0, 0
        self._before: float | None = None

    def __call__(self, stamp: float | None) -> float:
        """Seconds of the next frame, whose own stamp this is."""
        before = self._before
        step = stamp - before if stamp is not None and before is not None else self.usual
        if self.count:
            self.now += step if 0 < step <= MAX_GAP else self.usual
        self._before = stamp if stamp is not None else before and before + self.usual
        self.count += 1
        return self.now

    def last(self, seconds: float) -> float:
        """How long the last frame stays: as it says, else as the others do."""
        if 0 < seconds <= MAX_GAP:
            return seconds
        return self.now / (self.count - 1) if self.count > 1 else self.usual


def _spans(frames: Iterator[av.VideoFrame], stream: Any) -> Iterator[_Shown]:
    """Frames with their seconds since the first: each lasts until the next begins."""
    clock, base, held, start = _Steps(1 / _rate(stream)), stream.time_base, None, 0.0
    for frame in frames:
        begin = clock(_stamp(frame.pts, base))
        if held is not None:
            yield _Shown(held, start, begin)
        held, start = frame, begin
    if held is not None:
        yield _Shown(held, start, start + clock.last(_stamp(held.duration, base) or 0.0))


class _Pose(NamedTuple):
    """How a stored picture is shown: rows and columns exchanged first, then mirrored."""

    exchanged: bool = False
    left_right: bool = False
    upside_down: bool = False

    def applied(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the one from those of the other."""
        return (height, width) if self.exchanged else (width, height)

    def upright(self, picture_HWC: np.ndarray) -> np.ndarray:
        """The picture as it is to be seen."""
        if self == UPRIGHT:
            return picture_HWC
        shown = picture_HWC.swapaxes(0, 1) if self.exchanged else picture_HWC
        if self.left_right or self.upside_down:
            step = (-1 if self.upside_down else 1, -1 if self.left_right else 1)
            shown = shown[:: step[0], :: step[1]]
        return np.ascontiguousarray(shown)


UPRIGHT = _Pose()


class _Poses:
    """Poses of a clip's frames; looked up again where they may change, for that takes a while."""

    def __init__(self) -> None:
        self._known, self._rotation = UPRIGHT, math.nan

    def __call__(self, frame: av.VideoFrame) -> _Pose:
        if frame.rotation != self._rotation or frame.key_frame:
            self._known, self._rotation = _pose(frame), frame.rotation
        return self._known


def _pose(frame: av.VideoFrame) -> _Pose:
    """By the display matrix (x, y) -> (a x + c y, b x + d y); other angles go to the nearest."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Pose(True, c < 0, b < 0)
    return _Pose(False, a < 0, d < 0)


class Scaler:
    """Frames to squares of RGB; one for all of a file, since setting one up costs most."""

    def __init__(self, size: int):
        self.size, self._scaler = size, VideoReformatter()
        self.pose = _Poses()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(size, size, 3) uint8."""
        return _scaled(self._scaler, frame, self.size, self.size)


def _scaled(scaler: VideoReformatter, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    colours = Colorspace.ITU709 if _is_untagged_hd(frame) else None
    # Left to itself it starts a thread a core for every file, and wakes them for every frame.
    return scaler.reformat(
        frame,
        width,
        height,
        "rgb24",
        src_colorspace=colours,
        interpolation=SCALING,
        threads=1,
    ).to_ndarray()


def _is_untagged_hd(frame: av.VideoFrame) -> bool:
    return frame.height >= HD_ROWS and int(frame.colorspace) in UNTAGGED and not frame.format.is_rgb


def _rgb(
    path: Any, scaler: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int]
) -> np.ndarray:
    try:
        return _scaled(scaler, frame, *size)
    except FAULTS as error:
        _raise_if_system(os.fspath(path), error)
        raise UnreadableClip(path, f"a frame cannot be converted: {_plain(error)}") from None


def _shrunk(path: Any, scale: Scaler, frame: av.VideoFrame) -> np.ndarray:
    """The frame as a player shows it: upright."""
    try:
        return scale.pose(frame).upright(scale(frame))
    except FAULTS as error:
        _raise_if_system(os.fspath(path), error)
        raise UnreadableClip(path, f"a frame cannot be converted: {_plain(error)}") from None


class _Promised(NamedTuple):
    """What a container declares; 0 for what it does not."""

    frames: int  # to be shown
    packets: int
    seconds: float
    odd_clock: bool = False  # timestamps that cannot be true, so they hide what should be shown
    # A frame at so many seconds is from the end, however many were counted: where an AVI repeats a
    # picture, nothing is stored.
    reach: float = math.inf
    slack: float = math.inf  # seconds by which it may end before those declared
    is_cut: bool = False  # by its structure: its last part is longer than the file


def _promised(container: Any, stream: Any) -> _Promised:
    # A sound beside it has a duration of its own.
    alone = len(container.streams) == 1
    seconds = (container.duration or 0) / av.time_base if alone else 0.0
    frames = packets = max(0, stream.frames)
    if frames and container.format.name.startswith("mov"):
        # What an edit list leaves out is not in the index, or hidden there.
        times = [(entry.timestamp, entry.is_discard) for entry in stream.index_entries]
        frames, packets = sum(not hidden for _, hidden in times), len(times)
        frozen = sum(a == b for (a, _), (b, _) in itertools.pairwise(times)) > packets // 2
        odd = frames < packets and (frozen or not _is_rate(stream.average_rate))
        return _Promised(frames, packets, seconds, odd)
    kind = container.format.name
    if kind.startswith("mov"):
        return _Promised(0, 0, seconds, is_cut=_is_cut_mp4(container.name))
    if kind == "gif":
        return _Promised(frames, packets, seconds, is_cut=_is_cut_gif(container.name))
    if kind.startswith("matroska"):
        return _Promised(frames, packets, seconds, slack=2 / _rate(stream) + 0.05)
    if frames and kind == "avi":
        return _Promised(frames, packets, seconds, reach=(frames - 2) / _rate(stream))
    return _Promised(frames, packets, seconds)


def _is_shown(packet: Any, stream: Any) -> bool:
    """False for what only helps to decode others: before a cut, or VP8's hidden pictures."""
    if packet.is_discard:
        return False
    return stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] & 0x10)


def _lacking(promised: _Promised, record: _Record) -> list[str]:
    """Lines on what a readable file lacks."""
    lines, total = [], record.frames
    frames, packets, seconds, odd_clock = promised[:4]
    slack = min(promised.slack, 0.2 * seconds + 0.5)
    if record.lost_packets:
        lines.append(f"damaged packets skipped: {record.lost_packets} ({record.reason})")
    # By packets, for not every one is to be shown. Encoders that pack frames (Xvid, so UCF-101)
    # miscount by one.
    if record.packets < packets - 1 and total < frames and record.seconds < promised.reach:
        lines.append(f"truncated after {total} of {frames} frames")
    elif odd_clock:
        lines.append(f"timestamps that cannot be true: {total} of {packets} frames are shown")
    elif record.ended_early:
        lines.append(f"cannot be read on after {total} frames ({record.reason})")
    elif total > frames + 1 > 1:
        lines.append(f"declares {frames} frames, holds {total}")
    elif not frames and record.seconds < seconds - slack:
        lines.append(f"truncated after {record.seconds:.1f} of {seconds:.1f} seconds")
    elif promised.is_cut:
        lines.append(f"truncated after {total} frames: its end is missing")
    return lines


def _is_cut_mp4(path: str) -> bool:
    """Whether a part with pictures (a box) is longer than what is left of the file, or missing."""
    place, total, kind = 0, os.path.getsize(path), b""
    with open(path, "rb") as file:
        while place + 8 <= total:
            file.seek(place)
            head = file.read(16)
            size, kind = struct.unpack_from(">I4s", head)
            if size == 1 and len(head) == 16:
                (size,) = struct.unpack_from(">Q", head, 8)
            if size < 8:  # 0: as far as the file goes; others are no box
                return False
            place += size
            if place > total:
                return kind in (b"moof", b"mdat")
    return kind == b"moof"  # announces pictures that should follow


def _is_cut_gif(path: str) -> bool:
    """Whether the mark of the end is missing; zeros and line breaks may follow it."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return not file.read().rstrip(b"\0\r\n ").endswith(b";")


def _no_frame(record: _Record) -> str:
    return "no frame can be decoded" + (f" ({record.reason})" if record.reason else "")


def _plain(error: Exception) -> str:
    """A decoder's error in words for people."""
    if isinstance(error, av.InvalidDataError):
        return DAMAGED
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


ENCODERS = {".avi": "mpeg4", ".mpg": "mpeg1video", ".mpeg": "mpeg1video", ".webm": "libvpx-vp9"}
EVEN_PACE = {".avi", ".mpg", ".mpeg"}  # containers whose frames all last equally long
TICKS = 60_000  # a second: whole numbers of them at every usual rate, and no more than MPEG-4 takes


def write(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float = 30, codec: str = ""
) -> None:
    """Encodes uint8 RGB frames (H, W, 3) of one size; odd sizes get one more row or column.

    Args:
        codec: of the encoder; empty: H.264, or what suits the file's extension.
    """
    rate = Fraction(fps).limit_denominator(1001)
    _encode(path, ((frame, place) for place, frame in enumerate(frames)), rate, 1 / rate, codec)


def write_timed(
    path: str | os.PathLike, shown: Iterable[tuple[np.ndarray, float, float]], fps: float
) -> None:
    """As `write`, of frames that come with the seconds at which they begin and end.

    Args:
        fps: their mean rate; that of the file where its format knows but one.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if Path(path).suffix.lower() in EVEN_PACE:
        given = _paced((_Shown(*each) for each in shown), float(rate), Clock())
        write(path, (frame for frame, repeats in given for _ in range(repeats)), fps)
        return
    base = Fraction(1, TICKS)
    stamped = ((frame, round(start * TICKS)) for frame, start, _ in shown)
    _encode(path, stamped, rate, base)


def _encode(
    path: str | os.PathLike,
    stamped: Iterable[tuple[np.ndarray, int]],
    rate: Fraction,
    base: Fraction,
    codec: str = "",
) -> None:
    codec = codec or ENCODERS.get(Path(path).suffix.lower(), "libx264")
    if codec == "libx264" and codec not in av.codecs_available:
        codec = "mpeg4"
    with files.writing(path) as opened, av.open(opened, "w") as container:
        stream = None
        for frame, stamp in stamped:
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.width, stream.height, stream.pix_fmt = *even.shape[1::-1], "yuv420p"
                stream.codec_context.time_base = base
                if len(even) >= HD_ROWS:
                    stream.codec_context.colorspace = Colorspace.ITU709
            container.mux(stream.encode(_picture(even, stamp, base)))
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one frame")
        container.mux(stream.encode())


def _picture(even_HWC: np.ndarray, stamp: int, base: Fraction) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even_HWC), format="rgb24")
    if len(even_HWC) >= HD_ROWS:
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
    picture.pts, picture.time_base = stamp, base
    return picture
