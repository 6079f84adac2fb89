"""What commands print: text for people on a console, JSON for programs on stdout."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from vidrec.errors import UserError
from vidrec.io import escape, files


class Terminal(Console):
    """A console that shows text as it is: names are not read as markup or control sequences.

    A file or a pipe gets lines of any length, so that each row of a table and each sentence is one
    line there. The variable COLUMNS gives another width, in letters.
    """

    FILE_WIDTH = 5000  # letters

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        if not (self.is_terminal or "width" in options or os.environ.get("COLUMNS", "").isdigit()):
            self.width = self.FILE_WIDTH

    def tell(self, text: object, lines: bool = False) -> None:
        """Print a text on a line of its own, wrapped by the terminal.

        Args:
            text: What to print; control characters in it are escaped.
            lines: Whether the text has several lines.
        """
        self.print(escape.terminal(text, lines), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Raise an error, so that the command decides what to do when nobody reads its output."""
        raise BrokenPipeError


def program() -> str:
    """Return the name by which this program was started: vidrec, or launch.py in a checkout."""
    return "vidrec" if Path(sys.argv[0]).stem == "vidrec" else "launch.py"


def warn(text: object) -> None:
    """Print a line for people on stderr, so that it does not mix with an answer."""
    print(escape.terminal(text), file=sys.stderr, flush=True)


def check_parent(option: str, path: Path | None) -> None:
    """Refuse to write into a folder that does not exist: its name may be mistyped.

    Args:
        option: Name of the option that gives the path, for the message.
        path: A file or folder to be written; None for none.

    Raises:
        UserError: The folder above it does not exist.
    """
    if path is None:
        return
    folder = files.expanded(path).absolute().parent
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{option} {path}: the folder {folder} {state}; make it, or name another")


def print_json(content: Any) -> None:
    """Print a line of JSON on the process's own stdout.

    Letters that stdout's encoding, or UTF-8, does not have are written as escapes.
    """
    text = json.dumps(jsonable(content), ensure_ascii=False)
    try:
        text.encode(getattr(sys.__stdout__, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(jsonable(content))
    print(text, file=sys.__stdout__, flush=True)


def jsonable(content: Any) -> Any:
    """Return the content in types of standard JSON: text keys, lists, null for NaN and infinity."""
    if isinstance(content, dict):
        return {str(name): jsonable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [jsonable(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def keep_stdout_for_json() -> None:
    """Send what libraries write to file descriptor 1 to stderr; JSON keeps the real stdout.

    Gloo, which carries messages between processes, writes there without going through Python.
    """
    answers = os.dup(1)
    os.dup2(2, 1)
    sys.__stdout__ = os.fdopen(answers, "w")  # type: ignore[misc]


def short_path(folder: str | Path) -> Path:
    """Return a folder's path, relative to the current folder if that folder contains it."""
    path = Path(folder)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
