"""Read the frames of a clip: all of them in order, chosen ones, or as a player shows them."""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vidrec.data import pictures
from vidrec.data.pictures import Declared, Still
from vidrec.data.video import promises, timing
from vidrec.data.video.container import opened, packets
from vidrec.data.video.opening import open_clip
from vidrec.data.video.scaling import PictureScaler, Poses, Scaler
from vidrec.data.video.seeking import read_by_seeking
from vidrec.data.video.timing import Clock
from vidrec.errors import UnreadableClip


def declared(path: str | os.PathLike) -> Declared:
    """Return the number of frames and the rate that a clip declares; no video is decoded.

    Args:
        path: path of a video, a folder of frames or an animation.

    Returns:
        The number of frames to be shown, and their mean rate (frames a second).

    Raises:
        UnreadableClip: the clip cannot be opened or holds no video.
    """
    if series := pictures.of(path):
        return series.declared()
    with opened(path) as (container, stream):
        usual = timing.rate_of(stream)
        if frames := promises.promised(container, stream).frames:
            return Declared(frames, usual)
        spans = [
            (packet.pts, packet.duration or 0)
            for packet in packets(container, stream)
            if promises.is_shown(packet, stream)
        ]
        return Declared(len(spans), timing.mean_rate(spans, stream.time_base, usual))


def stream(
    path: str | os.PathLike,
    size: int,
    chunk: int = 64,
    fps: float = 0,
    notes: list[str] | None = None,
    *,
    clock: Clock | None = None,
) -> Iterator[np.ndarray]:
    """Yield the whole clip in order, in chunks of frames.

    Args:
        path: path of a video, a folder of frames or an animation.
        size: height and width of frames.
        chunk: number of frames yielded at once; fewer at the end.
        fps: frames a second to resample to by timestamps; 0 takes every frame once.
        notes: gets a line for everything the file lacks.
        clock: stores the times of the frames, before or when the frames are yielded.

    Yields:
        uint8 (t, size, size, 3) with t at most `chunk`.

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    scaler, total, clock = Scaler(size), 0, Clock() if clock is None else clock
    clock.clear()
    block, filled = np.empty((chunk, size, size, 3), np.uint8), 0
    with open_clip(path) as clip:
        for frame, repeats in timing.paced(clip.shown(), fps, clock):
            picture = scaler.upright(path, frame)
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
        raise UnreadableClip(path, clip.no_frame())
    if notes is not None:
        notes += clip.lacking()


def read(
    path: str | os.PathLike,
    indices: Sequence[int] | np.ndarray,
    size: int,
    fps: float = 0,
    notes: list[str] | None = None,
) -> np.ndarray:
    """Return chosen frames.

    For an index past the end, the last frame is returned and a note is added, since a container may
    declare too many frames.

    Args:
        path: path of a video, a folder of frames or an animation.
        indices: T frame indices in any order; repeats are allowed.
        size: height and width of frames.
        fps: frames a second to resample to by timestamps; 0 takes every frame once.
        notes: gets a line if the clip ends before a requested frame.

    Returns:
        uint8 (T, size, size, 3).

    Raises:
        UnreadableClip: no frame can be decoded.
    """
    wanted = np.asarray(indices, np.int64)
    if wanted.ndim != 1 or (wanted < 0).any():
        raise ValueError(f"frame indices must be a list of whole numbers from 0 on, not {indices}")
    needed = sorted(set(wanted.tolist()))
    if not needed:
        return np.zeros((0, size, size, 3), np.uint8)
    frames = (None if fps else read_by_seeking(path, needed, size)) or _read_in_order(
        path, needed, size, fps, notes
    )
    return np.stack([frames[index] for index in wanted.tolist()])


def _read_in_order(
    path: str | os.PathLike, needed: list[int], size: int, fps: float, notes: list[str] | None
) -> dict[int, np.ndarray]:
    scaler, frames, last, position = Scaler(size), {}, None, 0
    indices = iter(needed)
    index = next(indices, None)
    with open_clip(path) as clip:
        for frame, repeats in timing.paced(clip.shown(), fps, Clock()):
            position += repeats
            while index is not None and index < position:
                frames[index] = scaler.upright(path, frame)
                index = next(indices, None)
            if index is None:
                return frames
            last = frame
        if last is None:
            raise UnreadableClip(path, clip.no_frame())
        picture = scaler.upright(path, last)
        clip.lacking()  # raises if a system error, not the file, ended the clip
    frames |= dict.fromkeys(needed[len(frames) :], picture)
    if notes is not None:
        notes.append(f"frame {needed[-1]} was asked for, but it ends after {position}")
    return frames


def shown(
    path: str | os.PathLike, fitted: Callable[[int, int], tuple[int, int]]
) -> Iterator[Still]:
    """Yield frames in their own proportions, as a player shows them.

    Args:
        path: path of a video, a folder of frames or an animation.
        fitted: maps width and height of the first frame, upright, to those of all yielded frames.

    Yields:
        Pictures, uint8 (H, W, 3), and the times in seconds at which their display starts and ends.

    Raises:
        UnreadableClip: the clip cannot be opened, or a frame cannot be converted.
    """
    scaler, poses, size = PictureScaler(), Poses(), None
    with open_clip(path) as clip:
        for frame, start, end in clip.shown():
            pose = poses.of(frame)
            if size is None:
                width = max(1, round(frame.width * clip.pixel_aspect))
                size = fitted(*pose.applied(width, frame.height))
            stored = scaler.rgb(path, frame, pose.applied(*size))
            yield Still(pose.upright(stored), start, end)
