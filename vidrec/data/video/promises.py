"""Compare what a container declares with its frames, and say what a clip lacks."""

import itertools
import math
import os
import struct
from typing import Any, NamedTuple

import av

from vidrec.data.video.container import DecodeRecord
from vidrec.data.video.timing import is_rate, rate_of


class Promised(NamedTuple):
    """What a container declares; 0 for a number that it does not declare.

    Attributes:
        frames: number of frames to be shown.
        packets: number of packets, including packets that are not shown.
        seconds: duration of the clip.
        odd_clock: True if timestamps cannot be true, so that they hide frames.
        reach: time in seconds. A clip with a frame at this time or later is complete, however few
            frames were counted, since an AVI stores nothing for a repeated picture.
        slack: number of seconds by which the clip may end before its declared duration.
        is_cut: True if the structure of the file shows that its end is missing.
    """

    frames: int
    packets: int
    seconds: float
    odd_clock: bool = False
    reach: float = math.inf
    slack: float = math.inf
    is_cut: bool = False


def promised(container: Any, stream: Any) -> Promised:
    """Read what a container declares of its video stream."""
    # A sound stream in the same file may have another duration.
    alone = len(container.streams) == 1
    seconds = (container.duration or 0) / av.time_base if alone else 0.0
    frames = max(0, stream.frames)
    kind = container.format.name
    if kind.startswith("mov"):
        if frames:
            return _promised_by_index(stream, seconds)
        return Promised(0, 0, seconds, is_cut=_is_cut_mp4(container.name))
    if kind == "gif":
        return Promised(frames, frames, seconds, is_cut=_is_cut_gif(container.name))
    if kind.startswith("matroska"):
        return Promised(frames, frames, seconds, slack=2 / rate_of(stream) + 0.05)
    if frames and kind == "avi":
        return Promised(frames, frames, seconds, reach=(frames - 2) / rate_of(stream))
    return Promised(frames, frames, seconds)


def _promised_by_index(stream: Any, seconds: float) -> Promised:
    """Count an MP4's index, in which frames that an edit list leaves out are missing or hidden."""
    times = [(entry.timestamp, entry.is_discard) for entry in stream.index_entries]
    frames, packets = sum(not hidden for _, hidden in times), len(times)
    frozen = sum(a == b for (a, _), (b, _) in itertools.pairwise(times)) > packets // 2
    odd = frames < packets and (frozen or not is_rate(stream.average_rate))
    return Promised(frames, packets, seconds, odd)


def is_shown(packet: Any, stream: Any) -> bool:
    """Return False for a packet that only serves to decode others: before a cut, or hidden."""
    if packet.is_discard:
        return False
    return stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] & 0x10)


def lacking(promise: Promised, record: DecodeRecord) -> list[str]:
    """Return lines on what a readable file lacks."""
    lines, total = [], record.frames
    frames, packets, seconds = promise.frames, promise.packets, promise.seconds
    slack = min(promise.slack, 0.2 * seconds + 0.5)
    if record.lost_packets:
        lines.append(f"damaged packets skipped: {record.lost_packets} ({record.reason})")
    # Compare packets, since not every packet is shown. Encoders that pack frames (Xvid, as in
    # UCF-101) miscount by one.
    if record.packets < packets - 1 and total < frames and record.seconds < promise.reach:
        lines.append(f"truncated after {total} of {frames} frames")
    elif promise.odd_clock:
        lines.append(f"timestamps that cannot be true: {total} of {packets} frames are shown")
    elif record.ended_early:
        lines.append(f"cannot be read on after {total} frames ({record.reason})")
    elif total > frames + 1 > 1:
        lines.append(f"declares {frames} frames, holds {total}")
    elif not frames and record.seconds < seconds - slack:
        lines.append(f"truncated after {record.seconds:.1f} of {seconds:.1f} seconds")
    elif promise.is_cut:
        lines.append(f"truncated after {total} frames: its end is missing")
    return lines


def _is_cut_mp4(path: str) -> bool:
    """Return True if a box with picture data is missing or longer than the rest of the file."""
    place, total, kind = 0, os.path.getsize(path), b""
    with open(path, "rb") as file:
        while place + 8 <= total:
            file.seek(place)
            head = file.read(16)
            size, kind = struct.unpack_from(">I4s", head)
            if size == 1 and len(head) == 16:
                (size,) = struct.unpack_from(">Q", head, 8)
            if size < 8:  # 0: up to the end of the file; other sizes are no box
                return False
            place += size
            if place > total:
                return kind in (b"moof", b"mdat")
    return kind == b"moof"  # declares picture data that should follow


def _is_cut_gif(path: str) -> bool:
    """Return True if the end mark is missing; zeros and line breaks may follow the mark."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return not file.read().rstrip(b"\0\r\n ").endswith(b";")
