"""Open video files and decode them; damage is recorded, system errors are raised."""

import errno
import itertools
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av

from vidrec.data import pictures
from vidrec.data.video.timing import seconds_of
from vidrec.errors import TransientError, UnreadableClip, raise_if_transient

MAX_PIXELS = 8192 * 8192  # of one frame: more means a damaged header, and would fill the memory
MAX_SILENCE = 4000  # packets in a row without a frame
MAX_SECONDS = 60.0  # without a frame, for decoders that never end
# What PyAV raises on damaged files, found by fuzzing; a bare Exception would hide our own bugs.
FAULTS = (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError)
# Error numbers that no decoder gives for damage.
NEVER_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.ESTALE)
SPARE = 1 << 28  # bytes: more than a frame of usual size takes
DAMAGED = "damaged, or not a video"
# A title that is not UTF-8 is no reason to refuse a file; PyAV 19 accepts it without an option.
_OLD = int(av.__version__.partition(".")[0]) < 19
TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if _OLD else {}
# Formats that the demuxers accept but that are not videos: text, pictures, lists of other files.
NO_VIDEO = ("tty", "image2", "concat", "hls", "dash", "sdp", "rtsp", "lavfi", "ffmetadata")


@dataclass
class DecodeRecord:
    """Record what happened while a file was decoded.

    Attributes:
        frames: number of decoded frames.
        packets: number of packets that were read, including packets without a new picture.
        seconds: time at which the last frame is shown.
        lost_packets: number of packets that could not be decoded.
        reason: the first error, in words for people.
        ended_early: True if reading stopped before the end of the file.
        errors: the first error of each type.
    """

    frames: int = 0
    packets: int = 0
    seconds: float = 0.0
    lost_packets: int = 0
    reason: str = ""
    ended_early: bool = False
    errors: list[Exception] = field(default_factory=list)

    def blame(self, error: Exception) -> None:
        """Keep an error; the first one is the reason."""
        self.reason = self.reason or reason_of(error)
        if all(type(error) is not type(known) for known in self.errors):
            self.errors.append(error)


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[Any, Any]]:
    """Open a container; yield it with its first video stream.

    Decoding uses one thread, since several clips are decoded in parallel.

    Raises:
        UnreadableClip: the file cannot be opened or holds no video.
        TransientError: the system refuses to read the file now.
    """
    path = os.path.abspath(path)
    pictures.check_file(path)
    try:
        container = av.open(
            path,
            options={"max_pixels": str(MAX_PIXELS), "protocol_whitelist": "file"},
            **TOLERANT,
        )
    except FAULTS as error:
        raise_if_system(path, error)
        raise UnreadableClip(path, reason_of(error)) from None
    with container:
        stream = _video_stream(path, container)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _video_stream(path: str, container: Any) -> Any:
    """Find the first video stream that can be decoded here."""
    kind = container.format.name
    if kind.split(",")[0] in NO_VIDEO or kind.endswith("_pipe"):
        raise UnreadableClip(path, f"not a video ({kind})")
    video = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not video:
        kinds = sorted({stream.type for stream in container.streams})
        reason = f"no video in it, only {' and '.join(kinds)}" if kinds else DAMAGED
        raise UnreadableClip(path, reason)
    stream = video[0]
    if stream.codec_context is None:
        raise UnreadableClip(path, "in a codec that cannot be decoded here")
    if stream.width * stream.height > MAX_PIXELS:
        raise UnreadableClip(path, f"frames of {stream.width}x{stream.height} are too large")
    return stream


def _is_cover(stream: Any) -> bool:
    """Return True for a cover picture, as of a music file."""
    return "attached_pic" in str(stream.disposition).lower()


def packets(container: Any, stream: Any, record: DecodeRecord | None = None) -> Iterator[Any]:
    """Yield packets with content; end if the file cannot be read any further.

    Args:
        container: the open container, from `opened`.
        stream: its video stream, from `opened`.
        record: stores the error that ended reading; None: system errors are raised.
    """
    demuxed, empty = container.demux(stream), 0
    while empty < MAX_SILENCE:
        try:
            packet = next(demuxed, None)
        except IndexError:  # a stream that the header did not declare begins here
            demuxed, empty = container.demux(stream), empty + 1
            continue
        except FAULTS as error:
            if record is None:
                raise_if_system(container.name, error)
            else:
                record.blame(error)
                record.ended_early = True
            return
        if packet is None:
            return
        if record is not None and (packet.size or packet.dts is not None):
            record.packets += 1  # an empty packet with a time repeats the last picture
        # The last, empty packet only tells a decoder to finish.
        if packet.size:
            empty = 0
            yield packet
        else:
            empty += 1


def frames(container: Any, stream: Any, record: DecodeRecord) -> Iterator[av.VideoFrame]:
    """Yield all frames that can be decoded, in order; skip and count the other packets."""
    silence, since, base = 0, time.monotonic(), stream.time_base
    for packet in itertools.chain(packets(container, stream, record), (None,)):
        decoded = decode(stream, packet, record)
        for frame in decoded:
            record.frames += 1
            record.seconds = max(record.seconds, seconds_of(frame.pts, base) or 0.0)
            yield frame
        silence = 0 if decoded else silence + 1
        # The caller's own work does not count: the time restarts after the caller took a frame.
        since = time.monotonic() if decoded else since
        if silence > MAX_SILENCE or time.monotonic() - since > MAX_SECONDS:
            record.reason = record.reason or "the decoder yields no more frames"
            record.ended_early = True
            return


def decode(stream: Any, packet: Any, record: DecodeRecord) -> list[av.VideoFrame]:
    """Decode one packet; for None return the frames that the decoder still holds."""
    try:
        return [f for f in stream.codec_context.decode(packet) if f.width and f.height]
    except EOFError:
        return []
    except FAULTS as error:
        record.lost_packets += packet is not None
        record.blame(error)
        return []


def raise_if_system(path: str, *errors: Exception) -> None:
    """Raise a TransientError if a system error, not damage to the file, made decoding fail.

    A decoder's error does not tell them apart: damage may give the number of a system error, and a
    disk fault may look like a clip that ends early. So the file is read to its end without the
    decoder. A decoder's lack of memory counts as damage (a picture that is too large) if there is
    memory for a picture of usual size.
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


def reason_of(error: Exception) -> str:
    """Return a decoder's error in words for people."""
    if isinstance(error, av.InvalidDataError):
        return DAMAGED
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
