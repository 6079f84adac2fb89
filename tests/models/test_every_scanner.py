"""Every scanner of vidrec is in each place that CONTRIBUTING.md lists; what is missing is named."""

import ast
import re
import typing
from pathlib import Path
from typing import NamedTuple

import pytest

from vidrec.config import Scanner as Settings
from vidrec.models import scanners

ROOT = Path(__file__).parents[2]


class Place(NamedTuple):
    """Where a scanner has to be named.

    Attributes:
        file: path in the repository.
        part: name of the assignment or function, or the beginning of the page's table.
        pattern: what names the scanner there; `KIND` and `CLASS` stand for its names.
        of_cells: True if only cells are named there.
    """

    file: str
    part: str
    pattern: str
    of_cells: bool = False


PLACES = (
    Place("tests/models/test_scanners.py", "ONE_WAY", r"\bCLASS\("),
    Place("tests/models/test_scanners_truth.py", "TRUTHS", r"\bCLASS\(", of_cells=True),
    Place("tests/models/test_scanners_pure.py", "MADE", r"\bCLASS\(", of_cells=True),
    Place(
        "tests/models/test_cells.py",
        "test_weights_count_as_published",
        r"\bCLASS\(",
        of_cells=True,
    ),
    Place("tests/evaluation/test_predict.py", "SCANNERS", '"KIND"'),
    Place("benchmarks/scanner_growth.py", "KINDS", '"KIND"'),
    Place("docs/reference/scanners.md", "| `scanner.kind` |", "`KIND`"),
    Place("docs/reference/scanners.md", "| | 30 frames |", r"^\| `KIND` "),
)


def kinds():
    """Return every `scanner.kind` that is not a file of a user, but `none`."""
    hint = typing.get_type_hints(Settings)["kind"]
    return [
        kind
        for part in typing.get_args(hint)
        if typing.get_origin(part) is typing.Literal
        for kind in typing.get_args(part)
        if kind != "none"
    ]


def source(place):
    """Return the text of the part of the file where scanners are named."""
    text = (ROOT / place.file).read_text(encoding="utf-8")
    if place.file.endswith(".md"):
        return "".join(re.findall(rf"^{re.escape(place.part)}.*\n((?:\|.*\n)+)", text, re.M))
    for node in ast.parse(text).body:
        names = [getattr(node, "name", "")]
        names += [target.id for target in getattr(node, "targets", ()) if hasattr(target, "id")]
        if place.part in names:
            decorators = getattr(node, "decorator_list", ())
            first = min([node.lineno, *(each.lineno for each in decorators)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return ""


@pytest.mark.parametrize("kind", kinds())
def test_a_scanner_is_in_every_place(kind):
    named = kind in scanners.CELLS or kind in scanners.OWN
    assert named, (
        f"{kind} has no class: neither CELLS nor OWN of vidrec/models/scanners.py names it"
    )
    built = scanners.build(Settings(kind=kind))
    cell = getattr(built, "cell", None)
    names = {"KIND": kind, "CLASS": type(cell or built).__name__}
    missing = []
    for place in PLACES:
        pattern = re.sub("KIND|CLASS", lambda found: re.escape(names[found[0]]), place.pattern)
        if place.of_cells and cell is None:
            continue
        if not re.search(pattern, source(place), re.M):
            missing.append(f"{place.part} of {place.file}")
    assert not missing, f"{kind} has no line in " + "; ".join(missing)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.file} {place.part}")
def test_a_name_that_no_scanner_has_is_in_no_place(place):
    text = source(place)
    assert text
    pattern = place.pattern.replace("KIND", "no_such_kind").replace("CLASS", "NoSuchClass")
    assert not re.search(pattern, text, re.M), f"{place.file} names a scanner that is none"
