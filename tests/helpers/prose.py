"""The text of documents and docstrings as sentences, without code, tables and headings."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

LIST = re.compile(r"^(?:[-*]|\d+\.) ")
SENTENCE_END = re.compile(
    r"(?<!e\.g\.)(?<!i\.e\.)(?<!et al\.)(?:(?<=[.!?])|(?<=[.!?][)\"*]))\s+"
    r"(?=[\"(*]*(?:[A-Z`'0-9]|vidrec\b))"
)
SIGNED = re.compile(r"^(?:Args|Returns|Raises|Yields|Attributes|Example|Examples|Note):$")
FIELD = re.compile(r"^\*{0,2}\w+: ")  # `name: what it is` of a docstring


def paragraphs(page: str) -> Iterator[str]:
    """The paragraphs and list items of a Markdown page, each as one line."""
    page = re.sub(r"^ *```.*?^ *```$", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"^#+ .*$|^\|.*$|^:::.*$|^!\[.*$|^<.*$", "", page, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n", page):
        if re.match(r"\n*(?: {4}|\t)", block):
            continue  # code by indentation
        lines: list[str] = []
        for line in block.strip("\n").splitlines():
            if LIST.match(line.strip()) or not lines:
                lines.append(LIST.sub("", line.strip()))
            else:
                lines[-1] += " " + line.strip()
        yield from filter(None, lines)


def docstrings(module: Path) -> Iterator[str]:
    """The docstrings of a file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text


def parts(docstring: str) -> Iterator[str]:
    """The paragraphs of a docstring; each argument that it lists is one of its own."""
    for block in re.split(r"\n\s*\n", docstring):
        lines: list[str] = []
        for line in block.splitlines():
            text = line.strip()
            if SIGNED.match(text) or "   " in text:  # the latter is a table
                continue
            if not lines or LIST.match(text) or (line.startswith(" ") and FIELD.match(text)):
                lines.append(LIST.sub("", text))
            else:
                lines[-1] += " " + text
        yield from filter(None, lines)


def plain(text: str) -> str:
    """Text without the marks of Markdown; a quoted name or a link is what it shows."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)", "", text)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph."""
    text = plain(paragraph)
    hidden = re.sub(r"`[^`]+`", lambda code: "`" * len(code[0]), text)  # ends none inside code
    cuts = [0, *(end.end() for end in SENTENCE_END.finditer(hidden)), len(text)]
    found = (text[start:stop].strip() for start, stop in itertools.pairwise(cuts))
    return [each for each in found if each]


def length(sentence: str) -> int:
    """Words of a sentence; code counts as one word, and so does a list of names in code."""
    text = re.sub(r"`[^`]+`", "CODE", sentence)
    name = r"CODE(?: \([^()]*\))?"  # a remark may follow
    text = re.sub(rf"{name}(?:(?:,| and| or|, and|, or) {name})+", "CODE", text)
    return len(re.findall(r"[^\W_][\w'’.,-]*", text))
