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

OVERLAYS = 4  # that are kept, so that a page can play and wind back its latest


class TooLarge(UserError):
    """An upload of more bytes than are allowed."""


class Uploads:
    """Answers for uploaded files, one after another.

    Args:
        model: a trained model of frames.
        folder: an empty one for files that nobody else can read.
        limit: bytes of a file.
    """

    def __init__(self, model: Classifier, folder: Path, limit: int):
        self._model, self._folder, self._limit = model, folder, limit
        self._overlays: deque[str] = deque()
        self._one = threading.Lock()

    async def receive(self, name: str, announced: str, body: AsyncIterable[bytes]) -> Path:
        """Write an upload to a file.

        Args:
            name: what the file was called, of which only the ending counts.
            announced: how many bytes are said to come; "" where nothing is said.
            body: the bytes.

        Raises:
            TooLarge: there are too many; nothing is kept.
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
        """Return what the model says about a file, which is removed.

        Returns:
            {"whole": the file's line, "along": lines of its windows, "overlay": token or None}.

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
            del line["path"]  # of a file that is gone
        return {"whole": whole, "along": along, "overlay": overlay}

    def _draw(self, file: Path, along: list[answers.Line]) -> str:
        token = secrets.token_urlsafe(16)
        drawing.draw(self._model, file, self.overlay(token), along)
        self._overlays.append(token)
        while len(self._overlays) > OVERLAYS:
            self.overlay(self._overlays.popleft()).unlink(missing_ok=True)
        return token

    def overlay(self, token: str) -> Path:
        """Return the file of an overlay, which may be gone."""
        return self._folder / f"{token}.mp4"

    def has(self, token: str) -> bool:
        """Return whether an overlay is still kept."""
        return token in self._overlays
