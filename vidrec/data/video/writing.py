"""Encode frames into a video file."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace

from vidrec.data.video.scaling import HD_ROWS
from vidrec.data.video.timing import Clock, Shown, paced
from vidrec.io import files

ENCODERS = {".avi": "mpeg4", ".mpg": "mpeg1video", ".mpeg": "mpeg1video", ".webm": "libvpx-vp9"}
EVEN_PACE = {".avi", ".mpg", ".mpeg"}  # containers in which all frames have the same duration
TICKS = 60_000  # a second: a whole number for each frame at usual rates; MPEG-4 allows so many


def write(
    path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float = 30, codec: str = ""
) -> None:
    """Encode frames of one size; odd sizes are padded by one row or column.

    Args:
        path: path of the new file; its extension determines the container.
        frames: uint8 RGB (H, W, 3).
        fps: frames a second.
        codec: name of the encoder; empty: H.264, or the usual one for the file's extension.

    Raises:
        UserError: the file cannot be written.
    """
    rate = Fraction(fps).limit_denominator(1001)
    _encode(path, ((frame, place) for place, frame in enumerate(frames)), rate, 1 / rate, codec)


def write_timed(
    path: str | os.PathLike, shown: Iterable[tuple[np.ndarray, float, float]], fps: float
) -> None:
    """Encode frames that come with the seconds at which they begin and end.

    Args:
        path: path of the new file; its extension determines the container.
        shown: pictures, uint8 RGB (H, W, 3), as `pictures.Still` holds them.
        fps: mean rate of the frames; it is the file's rate if its format has a fixed rate.

    Raises:
        UserError: the file cannot be written.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if Path(path).suffix.lower() in EVEN_PACE:
        even = paced((Shown(*still) for still in shown), float(rate), Clock())
        write(path, (frame for frame, repeats in even for _ in range(repeats)), fps)
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
        stream: Any = None
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
