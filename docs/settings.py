"""Hook of mkdocs: puts a table of every setting where a page says `[[settings]]`."""

import ast
import re
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parent.parent / "vidrec" / "config" / "schema.py"
FOLDER = CONFIG.parent.parent / "evaluation" / "tasks"
TASKS = sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))
WORDS = {
    "Args": "a dictionary, on the command line as JSON",
    "str": "text",
    "bool": "True or False",
    "int": "a whole number",
    "PositiveInt": "a whole number from 1",
    "NonNegativeInt": "a whole number from 0",
    "Seed": "a whole number from 0 to 4294967295",
    "NonNegative": "a number from 0",
    "Fraction": "a number from 0 to 1",
    "TaskKind": ", ".join(f"`{name}`" for name in TASKS),
    "ValFigure": "`val_loss`, or `val_` and a figure of the task",
    "AreaShare": "a number from 0.05 to 1",
    "Degrees": "a number from 0 to 180",
    "float | None": "a number or None",
    "tuple[str, ...]": "texts",
    "tuple[PositiveInt, ...]": "whole numbers from 1",
}
COLUMNS = "| setting | takes | default | meaning |\n|---|---|---|---|\n"


def tables() -> str:
    """A heading and a table a section, from the fields' types, defaults and comments."""
    text = CONFIG.read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    found = []
    for name in (ast.unparse(field.annotation) for field in _fields(classes["Config"])):
        if name in classes:
            lines = [_line(name.lower(), field, text) for field in _fields(classes[name])]
            purpose = ast.get_docstring(classes[name])
            found.append(f"### {name.lower()}\n\n{purpose}\n\n{COLUMNS}" + "\n".join(lines))
    return "\n\n".join(found)


def _fields(section: ast.ClassDef) -> list[ast.AnnAssign]:
    return [node for node in section.body if isinstance(node, ast.AnnAssign)]


def _line(section: str, field: ast.AnnAssign, text: str) -> str:
    kind, default = (
        ast.unparse(field.annotation),
        ast.unparse(field.value).strip("'").replace("Args()", "{}"),
    )
    choices = [f"`{each}`" for each in re.findall(r"'([^']*)'", kind)]
    choices += ["`path.py:Name`"] * ("UserFile" in kind)
    taken = ", ".join(choices) or WORDS[kind]
    lines = text.splitlines()
    comment, above = lines[field.end_lineno - 1].partition("  # ")[2], field.lineno - 2
    while lines[above].strip().startswith("# "):
        comment = f"{lines[above].strip().removeprefix('# ')} {comment}".strip()
        above -= 1
    return (
        f"| `{section}.{ast.unparse(field.target)}` | {taken} "
        f"| {default and f'`{default}`'} | {comment} |"
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace("[[settings]]", tables())
