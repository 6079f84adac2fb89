"""Classify camera frames one by one: each page has a stream, which keeps the recurrent state."""

import io
import secrets
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation.predict import answers
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.evaluation.predict.streams import Stream

PICTURE_BYTES, LONGEST_SIDE = 2_000_000, 1920  # limits of a frame: bytes, pixels
STREAMS = 4  # open at the same time; beyond that, the least recently used one is closed
QUICKEST = 30.0  # the highest number of frames a second that a page is asked for


class Gone(UserError):
    """Error: a stream was closed, by its page or because newer streams were opened."""


class Live:
    """The streams of the pages that show a camera."""

    def __init__(self, model: Classifier):
        self._model = model
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._lock = threading.Lock()

    def why_not(self) -> str:
        """Return why the model cannot stream; "" if it can."""
        try:
            self._model.network.check_streams()
        except UserError as error:
            return str(error)
        return ""

    def begin(self) -> dict[str, Any]:
        """Open a stream and compile its programs.

        Returns:
            {"stream": its name, "fps": frames a second that the page should send}.

        Raises:
            UserError: the model needs the whole clip at once; the message says why.
        """
        stream = self._model.stream()
        # A camera may drop frames, so the times of the frames decide which ones the model sees.
        stream.rate = stream.rate or stream.fps
        size = self._model.cfg.encoder.size
        stream.push(np.zeros((size, size, 3), np.uint8), 1 / stream.rate)
        stream.reset()
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._streams[name] = stream
            while len(self._streams) > STREAMS:
                self._streams.popitem(last=False)
        return {"stream": name, "fps": min(stream.rate, QUICKEST)}

    def push(self, name: str, picture: bytes, end: float) -> dict[str, Any]:
        """Return the model's answer after one more frame.

        Args:
            name: name of the stream.
            picture: a JPEG.
            end: seconds from the first frame to the end of this one.
        """
        frame = _decoded(picture)
        with self._lock:
            stream = self._stream(name)
            said = answers.of_stream(self._model, stream, stream.push(frame, end))
            return said | {"frames": stream.frames, "seen": stream.seen}

    def reset(self, name: str) -> None:
        """Reset a stream to its state before the first frame."""
        with self._lock:
            self._stream(name).reset()

    def end(self, name: str) -> None:
        """Close a stream, if it is still open."""
        with self._lock:
            self._streams.pop(name, None)

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            raise Gone("this stream was closed; start the camera again")
        self._streams.move_to_end(name)
        return self._streams[name]


def _decoded(picture: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture), formats=["JPEG"]) as image:
            if max(image.size) > LONGEST_SIDE:
                raise UserError(f"a frame should have sides of {LONGEST_SIDE} pixels at most")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError("a frame should be a JPEG picture") from None
