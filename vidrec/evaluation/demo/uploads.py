"""Keep an uploaded video while it is classified, and its overlay for a while after that."""

import re
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.evaluation.predict import answers, clips, drawing
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.io import files

OVERLAYS = 4  # number of overlays that are kept, so that a page can replay its latest one


class TooLarge(UserError):
    """Error: an upload has more bytes than are allowed."""


class Uploads:
    """Classifies uploaded files, one at a time.

    Args:
        model: a trained model of frames.
        folder: an empty folder for the files, which no other user can read.
        limit: largest size of a file, in bytes.
    """

    def __init__(self, model: Classifier, folder: Path, limit: int):
        self._model, self._folder, self._limit = model, folder, limit
        self._overlays: deque[str] = deque()
        self._one = threading.Lock()

    async def receive(self, name: str, announced: str, body: AsyncIterable[bytes]) -> Path:
        """Write an upload to a file.

        Args:
            name: original name of the file; only its ending is used.
            announced: number of bytes that the request declares; "" if it declares none.
            body: the bytes.

        Raises:
            TooLarge: the upload has too many bytes; nothing is kept.
            UserError: the upload is empty.
        """
        if announced.isdigit() and int(announced) > self._limit:
            raise self._too_large()
        ending = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
        file = self._folder / f"{secrets.token_hex(16)}{ending[0].lower() if ending else ''}"
        size = 0
        with files.writing(file, durable=False) as opened:
            async for part in body:
                size += len(part)
                if size > self._limit:
                    raise self._too_large()
                opened.write(part)
        if not size:
            file.unlink()
            raise UserError("the file is empty")
        return file

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the file has more than {self._limit / 1e6:g} MB: --limit allows more")

    def answer(self, file: Path) -> dict[str, Any]:
        """Classify a file, draw its overlay, and remove the file.

        Returns:
            {"whole": line of the file, "along": lines of its windows, "overlay": token or None};
            for lines, see `answers.lines`.

        Raises:
            UserError: the file cannot be read, or does not fit the model.
        """
        with self._one:
            try:
                return self._answer(file)
            finally:
                file.unlink(missing_ok=True)

    def _answer(self, file: Path) -> dict[str, Any]:
        *along, whole = answers.lines(self._model, [file])
        if whole["class"] is None:
            raise UserError(f"the file cannot be read: {whole['error']}")
        overlay = None if clips.is_picture(file) else self._draw(file, along)
        for line in (*along, whole):
            del line["path"]  # the file is removed
        return {"whole": whole, "along": along, "overlay": overlay}

    def _draw(self, file: Path, along: list[answers.Line]) -> str:
        token = secrets.token_urlsafe(16)
        drawing.draw(self._model, file, self.overlay(token), along)
        self._overlays.append(token)
        while len(self._overlays) > OVERLAYS:
            self.overlay(self._overlays.popleft()).unlink(missing_ok=True)
        return token

    def overlay(self, token: str) -> Path:
        """Return the path of an overlay, which may already be removed."""
        return self._folder / f"{token}.mp4"

    def has(self, token: str) -> bool:
        """Return whether an overlay is still kept."""
        return token in self._overlays
