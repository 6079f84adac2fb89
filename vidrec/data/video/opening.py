"""Open a clip to read it once, whether it is a video file or a series of pictures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import av
import numpy as np

from vidrec.data import pictures
from vidrec.data.video import promises, timing
from vidrec.data.video.container import DecodeRecord, frames, opened, raise_if_system
from vidrec.data.video.timing import Shown


class OpenClip(Protocol):
    """A clip that is open for reading.

    Attributes:
        pixel_aspect: width of a stored pixel divided by its height.
    """

    pixel_aspect: float

    def shown(self) -> Iterator[Shown]:
        """Yield the frames of the clip; it can be called only once."""

    def lacking(self) -> list[str]:
        """Return lines on what the clip lacks; call it after `shown` has yielded all frames."""

    def no_frame(self) -> str:
        """Return the reason why `shown` yielded no frame."""


class _OpenVideo:
    """A video file in a container format."""

    def __init__(self, container: Any, stream: Any):
        self._container, self._stream, self._record = container, stream, DecodeRecord()
        self._promised = promises.promised(container, stream)
        ratio = stream.sample_aspect_ratio
        # A ratio outside this range means a damaged header.
        self.pixel_aspect = float(ratio) if ratio and 0.1 <= ratio <= 10 else 1.0

    def shown(self) -> Iterator[Shown]:
        return timing.spans(frames(self._container, self._stream, self._record), self._stream)

    def lacking(self) -> list[str]:
        lines = promises.lacking(self._promised, self._record)
        if lines:
            raise_if_system(self._container.name, *self._record.errors)
        return lines

    def no_frame(self) -> str:
        raise_if_system(self._container.name, *self._record.errors)
        reason = self._record.reason
        return "no frame can be decoded" + (f" ({reason})" if reason else "")


class _OpenPictures:
    """A folder of frames, or an animation that FFmpeg does not know."""

    pixel_aspect = 1.0

    def __init__(self, series: pictures.Animation | pictures.Folder):
        self._series = series

    def shown(self) -> Iterator[Shown]:
        for pixels, start, end in self._series.stills():
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            yield Shown(frame, start, end)

    def lacking(self) -> list[str]:
        return self._series.notes

    def no_frame(self) -> str:
        return "no frame can be decoded"


@contextmanager
def open_clip(path: str | os.PathLike) -> Iterator[OpenClip]:
    """Open a clip to read it once.

    Raises:
        UnreadableClip: the clip cannot be opened or holds no video.
    """
    if series := pictures.of(path):
        yield _OpenPictures(series)
        return
    with opened(path) as (container, stream):
        yield _OpenVideo(container, stream)
