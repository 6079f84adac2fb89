"""Hook of mkdocs: puts a table of every setting where a page says `[[settings]]`."""

import re
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent.parent / "vidrec" / "config.py"
SECTION = r'^class (\w+):\n    """(.*?)"""\n\n((?:    .*\n)+)'
FIELD = r"    (\w+): (.+?) = (.+?)(?:  # (.*))?"
WORDS = {
    "str": "text",
    "bool": "True or False",
    "int": "a whole number",
    "Count": "a whole number from 1",
    "Whole": "a whole number from 0",
    "Positive": "a number from 0",
    "Share": "a number from 0 to 1",
    "float | None": "a number or None",
    "tuple[str, ...]": "texts",
    "tuple[Count, ...]": "whole numbers from 1",
}
COLUMNS = "| setting | takes | default | |\n|---|---|---|---|\n"


def tables() -> str:
    """A heading and a table a section, from the fields' types, defaults and comments."""
    text, found = CONFIG.read_text(encoding="utf-8"), []
    sections = re.findall(r"(\w+) = field\(default_factory=\1\)", text)
    for title, purpose, body in re.findall(SECTION, text, re.MULTILINE):
        if title not in sections:
            continue
        rows = [re.fullmatch(FIELD, line) for line in body.splitlines()]
        lines = [_line(title.lower(), *row.groups()) for row in rows if row]
        found.append(f"### {title.lower()}\n\n{purpose}\n\n{COLUMNS}" + "\n".join(lines))
    return "\n\n".join(found)


def _line(section: str, name: str, kind: str, default: str, comment: str | None) -> str:
    choices = [f"`{each}`" for each in re.findall(r'"([^"]*)"', kind)]
    choices += ["`path.py:Name`"] * ("UserFile" in kind)
    taken = ", ".join(choices) or WORDS[kind]
    default = default.strip('"')
    return f"| `{section}.{name}` | {taken} | {default and f'`{default}`'} | {comment or ''} |"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace("[[settings]]", tables())
