"""A file on disk is whole or not there."""

import os
import threading
from pathlib import Path

from vidrec.errors import UserError


def write_whole(file: Path, content: str | bytes) -> Path:
    """Writes a file and the folders above it; until it is complete the old one is what stands.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there stays.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        return partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {error.strerror}") from error
