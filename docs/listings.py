"""Hook of mkdocs: puts the commands and the experiments where a page asks for them.

A page says `[[commands]]` or `[[experiments]]`; the words are those of the source files.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ROOT / "vidrec" / "cli" / "commands"
SHARED = ROOT / "vidrec" / "cli" / "command.py"
HIDDEN = ("settings",)  # they have a page of their own
HEADS = "| option | default | meaning |\n|---|---|---|\n"


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
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return [each for each in fields if ast.unparse(each.target) not in HIDDEN]


def _option(field: ast.AnnAssign, text: str) -> str:
    name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
    default = "runs" if name == "workdir" else ""
    if (
        isinstance(field.value, ast.Constant)
        and "Flag" not in kind
        and field.value.value is not None
    ):
        default = str(field.value.value)
    word = name.upper() if kind.startswith("Positional") else f"--{name.replace('_', '-')}"
    return f"| `{word}` | {default and f'`{default}`'} | {_comment(field, text)} |"


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


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    for word, made in (("commands", commands), ("experiments", experiments)):
        if f"[[{word}]]" in markdown:
            markdown = markdown.replace(f"[[{word}]]", made())
    return markdown
