"""Writes the lists of settings, commands and experiments into their pages of docs/reference/.

    python docs/listings.py

The words are those of the source files. A list stands between the lines BEGINS and ENDS of a page.
"""

import ast
import functools
import inspect
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
BEGINS, ENDS = "<!-- written by docs/listings.py -->", "<!-- end of what is written -->"

CONFIG = ROOT / "vidrec" / "config" / "schema.py"
TASKS = sorted(
    file.stem
    for file in (ROOT / "vidrec" / "evaluation" / "tasks").glob("*.py")
    if not file.stem.startswith("_")
)
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


COMMANDS = ROOT / "vidrec" / "cli" / "commands"
SHARED = ROOT / "vidrec" / "cli" / "command.py"
HIDDEN = ("settings",)  # they have a page of their own
HEADS = "| option | default | meaning |\n|---|---|---|\n"


def settings() -> str:
    """A heading and a table a section, from the fields' types, defaults and comments."""
    text = CONFIG.read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    found = []
    for name in (ast.unparse(field.annotation) for field in _annotated(classes["Config"])):
        if name in classes:
            lines = [_setting(name.lower(), field, text) for field in _annotated(classes[name])]
            purpose = ast.get_docstring(classes[name])
            found.append(f"## {name.lower()}\n\n{purpose}\n\n{COLUMNS}" + "\n".join(lines))
    return "\n\n".join(found)


def _annotated(section: ast.ClassDef) -> list[ast.AnnAssign]:
    return [node for node in section.body if isinstance(node, ast.AnnAssign)]


def _setting(section: str, field: ast.AnnAssign, text: str) -> str:
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


def commands() -> str:
    """A heading, its docstring and a table of options for each command."""
    files = [SHARED, *sorted(COMMANDS.glob("*.py"))]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    classes = {
        node.name: (node, texts[file])
        for file in files
        for node in ast.parse(texts[file]).body
        if isinstance(node, ast.ClassDef)
    }
    named = re.findall(r'^    "(\w+)": (\w+),$', texts[COMMANDS / "__init__.py"], re.MULTILINE)
    parts = [_command(name, classes[kind], classes) for name, kind in named]
    node, text = classes["Command"]
    shared = [_option(field, text) for field in _fields(node)]
    parts.append("## Of all commands\n\n" + HEADS + "\n".join(shared))
    return "\n\n".join(parts)


def _command(name: str, found: tuple[ast.ClassDef, str], classes: dict[str, Any]) -> str:
    node, text = found
    lines = [_option(field, text) for field in _fields(node)]
    for base in (ast.unparse(each) for each in node.bases):
        if base != "Command":
            lines += [_option(field, classes[base][1]) for field in _fields(classes[base][0])]
    said, _, example = inspect.cleandoc(ast.get_docstring(node) or "").partition("Example: ")
    said = f"## {name}\n\n{said.strip()}\n\n```\n{example.strip()}\n```"
    return f"{said}\n\n{HEADS}" + "\n".join(lines) if lines else said


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [each for each in _annotated(node) if ast.unparse(each.target) not in HIDDEN]


def _option(field: ast.AnnAssign, text: str) -> str:
    name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
    default = "runs" if name == "workdir" else ""
    if (
        isinstance(field.value, ast.Constant)
        and "Flag" not in kind
        and field.value.value is not None
    ):
        default = str(field.value.value)
    word = _positional(kind) or f"--{name.replace('_', '-')}"
    return f"| `{word}` | {default and f'`{default}`'} | {_comment(field, text)} |"


@functools.cache
def _aliases() -> dict[str, str]:
    """The names that command.py gives to types of options, and what they stand for."""
    nodes = ast.parse(SHARED.read_text(encoding="utf-8")).body
    named = (node for node in nodes if isinstance(node, ast.Assign))
    return {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in named}


def _positional(kind: str) -> str:
    """The word that stands for a value without an option's name; "" for the type of an option."""
    kind = _aliases().get(kind, kind)
    found = re.search(r"metavar='([^']*)'", kind)
    return found[1] if found and "Positional" in kind else ""


def _comment(field: ast.AnnAssign, text: str) -> str:
    """What stands beside a field, or else in the lines above it."""
    lines = text.splitlines()
    beside = lines[(field.end_lineno or field.lineno) - 1].partition("  # ")[2]
    above, number = [], field.lineno - 2
    while not beside and lines[number].strip().startswith("# "):
        above.insert(0, lines[number].strip().removeprefix("# "))
        number -= 1
    return (beside or " ".join(above)).replace("|", "\\|")


def experiments() -> str:
    """A table of experiments and one of ablations, with the first sentence of each file."""
    parts = []
    for folder, words in (("experiments", "Experiments"), ("ablations", "Ablations")):
        lines = [
            f"| `{file.stem}` | {_first(file)} |" for file in sorted((ROOT / folder).glob("*.py"))
        ]
        parts.append(f"## {words}\n\n| name | what it asks |\n|---|---|\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _first(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split())


def written(page: str, listing: str) -> str:
    """Return the text of a page with its list replaced."""
    before, _, rest = page.partition(BEGINS)
    _, _, after = rest.partition(ENDS)
    return f"{before}{BEGINS}\n\n{listing}\n\n{ENDS}{after}"


PAGES = {"settings.md": settings, "commands.md": commands, "experiments.md": experiments}

if __name__ == "__main__":
    for name, make in PAGES.items():
        page = REFERENCE / name
        page.write_text(written(page.read_text(encoding="utf-8"), make()), encoding="utf-8")
