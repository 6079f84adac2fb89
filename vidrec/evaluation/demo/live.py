"""Frames of a camera, one after another: each page has a stream with the recurrent state kept."""

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

PICTURE_BYTES, LONGEST_SIDE = 2_000_000, 1920  # of a frame
STREAMS = 4  # at once; the one that was used longest ago is closed
QUICKEST = 30.0  # frames a second that a page is asked for


class Gone(UserError):
    """A stream that was closed, or replaced by newer ones."""


class Live:
    """The streams of the pages that show a camera."""

    def __init__(self, model: Classifier):
        self._model = model
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._lock = threading.Lock()

    def why_not(self) -> str:
        """Return why the model cannot stream; "" where it can."""
        try:
            self._model.network.check_streams()
        except UserError as error:
            return str(error)
        return ""

    def begin(self) -> dict[str, Any]:
        """Open a stream, its programs compiled.

        Returns:
            {"stream": its name, "fps": frames a second that the model wants}.

        Raises:
            UserError: the model needs the whole clip at once; says why.
        """
        stream = self._model.stream()
        # A camera may leave out frames, so their own times decide when one is seen.
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
        """Return what the model says after one more frame.

        Args:
            name: of the stream.
            picture: a JPEG.
            end: seconds from the first frame to the end of this one.
        """
        frame = _decoded(picture)
        with self._lock:
            stream = self._stream(name)
            said = answers.of_stream(self._model, stream, stream.push(frame, end))
            return said | {"frames": stream.frames, "seen": stream.seen}

    def reset(self, name: str) -> None:
        """Forget what a stream has seen."""
        with self._lock:
            self._stream(name).reset()

    def end(self, name: str) -> None:
        """Close a stream, if it is still there."""
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
