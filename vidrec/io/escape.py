"""Escape text from users for each place that shows it.

Names of classes, rows, files and folders, and the messages of libraries, may contain anything:
tags, formulas, control sequences of a terminal. All text for a page, a figure, a terminal, a table
or a shell goes through the function for that place. No other code escapes text.
"""

import html as _html
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters, line separators, marks that change the direction of text, lone surrogates.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|nan)", re.ASCII | re.I)
LONGEST = 60  # letters of a name in a figure: a longer name would leave no room for the drawing


def visible(text: Any, keep: str = "") -> str:
    r"""Write control characters as escapes such as \x1b and \n.

    Args:
        text: any value; it is converted to text.
        keep: the control characters that are not escaped.
    """

    def shown(found: re.Match[str]) -> str:
        code = ord(found[0])
        if found[0] in keep:
            return found[0]
        if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
            return f"\\x{code - 0xDC00:02x}"
        return found[0].encode("unicode_escape").decode()

    return _HIDDEN.sub(shown, str(text))


def html(value: Any) -> str:
    """Escape text for a page or an SVG drawing, inside a tag or in an attribute."""
    return _html.escape(visible(value, keep="\n\t"))


def short(text: Any) -> str:
    """Shorten a name to at most `LONGEST` letters, for a figure."""
    name = visible(text)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def plot(text: Any) -> str:
    """Escape a name for matplotlib, which reads text between two $ as a formula."""
    name = short(text).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name  # legends leave out names with _


def terminal(text: Any, lines: bool = False) -> str:
    """Escape text for a terminal or a log, on one line.

    Args:
        text: any value; it is converted to text.
        lines: True to keep line breaks and tabs, for text of several lines.
    """
    return visible(text, keep="\n\t" if lines else "")


def cell(value: str) -> str:
    """Escape a cell of a csv file, so that a spreadsheet does not read it as a formula.

    Text that begins like a formula gets an apostrophe in front, which `uncell` removes. Numbers
    stay as they are.
    """
    text = visible(value, keep="\t\r\n")
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def uncell(text: str) -> str:
    """Return the text that was given to `cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv(lines: Iterable[Sequence[str]]) -> str:
    """Return the text of a csv file.

    A cell with a semicolon or a tab is quoted too: where a comma is the decimal sign, spreadsheets
    split cells at these characters.
    """
    return "".join(",".join(map(_quoted, line)) + "\n" for line in lines)


def _quoted(value: str) -> str:
    text = cell(value)
    if any(sign in text for sign in ',;"\t\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def markdown(text: Any) -> str:
    """Escape a cell of a Markdown table; an underscore inside a word needs no escape."""
    safe = _html.escape(visible(text), quote=False)
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", safe)


_TEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # TeX reads them as arguments of a \\ before them
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"$^\dagger$",
    "−": "$-$",
    "–": "--",
    "\u202f": r"\,",
    "\u00a0": "~",
}


def tex(text: Any) -> str:
    """Escape text for LaTeX."""
    return "".join(_TEX.get(sign, sign) for sign in visible(text))


def shell(words: Iterable[Any]) -> str:
    """Return the words as a command line, quoted for a shell."""
    return shlex.join(map(str, words))


def this_command() -> str:
    """Return the command line that started this process, to be pasted into a shell."""
    script = str(sys.argv[0]).endswith(".py")
    return shell([*(["python"] if script else []), *sys.argv])
