"""Find experiment and ablation files: the user's own, and those that come with vidrec."""

import contextlib
import difflib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from vidrec.errors import UserError

SHIPPED = ("experiments", "ablations")
# The parent folders of these: in an installed wheel, and in a source checkout.
ROOTS = (Path(__file__).parents[1], Path(__file__).parents[2])
# The experiment or ablation file that is being read: file names in it are relative to its folder.
_READING: ContextVar[Path | None] = ContextVar("reading", default=None)


class Shipped(str):
    """The name of a file that comes with vidrec, even if the current folder has the same name."""


def is_shipped(folder: Path) -> bool:
    """Return True for a folder of files that came with vidrec."""
    return folder in [root / name for root in ROOTS for name in SHIPPED]


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Resolve file names relative to this file's folder while the file is being read."""
    before = _READING.set(file)
    try:
        yield
    finally:
        _READING.reset(before)


def find(path: str | Path) -> Path:
    """Return the path of an experiment or ablation file.

    A path that appears in an experiment or ablation file is relative to that file's folder. If this
    folder is called `ablations` or `experiments`, the path may also be relative to its parent.

    Args:
        path: A path, or the bare name of a file that came with vidrec: `motion`.

    Raises:
        UserError: There is no such file; the message suggests the most similar shipped one.
    """
    for candidate in _as_given(path):
        if candidate.suffix and candidate.is_file():
            return candidate
    path = Path(path)
    folders = SHIPPED if len(path.parts) == 1 else ("",)
    for candidate in (root / folder / path for root in ROOTS for folder in folders):
        if candidate.parent.name in SHIPPED and candidate.with_suffix(".py").is_file():
            return candidate.with_suffix(".py")
    shipped = sorted(
        f"{folder}/{file.name}"
        for folder in SHIPPED
        for root in ROOTS
        for file in (root / folder).glob("*.py")
    )
    near = difflib.get_close_matches(str(path), shipped, 1, 0.5)
    guess = f"; did you mean '{near[0]}'?" if near else ""
    if path.is_dir():
        guess = f": it is a folder; to use its clips, write `my_videos --data.root {path}` instead"
    raise UserError(f"no file {path}{guess}")


def _as_given(path: str | Path) -> list[Path]:
    if isinstance(path, Shipped):
        return []
    reading = _READING.get()
    if reading is None or Path(path).is_absolute():
        return [Path(path)]
    folder = Path(os.path.abspath(reading)).parent
    folders = [folder, folder.parent] if folder.name in SHIPPED else [folder]
    return [folder / path for folder in folders]
