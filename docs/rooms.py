"""Draws docs/images/rooms.svg, the rooms of vidrec and what they import.

    python docs/rooms.py

A box stands for a folder of vidrec/ (errors is one file), with the first sentence of its docstring
and its main files. An arrow leads up to a room that is imported, unless a path of other arrows
leads there.
"""

import ast
import sys
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_rooms import HOUSE, ROOMS, imports, room_of  # noqa: E402

PICTURE = Path(__file__).parent / "images" / "rooms.svg"
# The files and folders of a room to read first, in that order.
MAIN_FILES = {
    "io": "files checkpoint runs escape",
    "config": "schema rules overrides parsing identity plugins",
    "data": "datasets video frames splits doctor",
    "models": "cells scanners model encoders losses interop",
    "features": "store extraction projection shards",
    "evaluation": "metrics decisions statistics predict export",
    "training": "step group loop order stopping feeds devices",
    "report": "results table_model rendering templates figures",
    "sweeps": "ablation plan runner cluster",
    "cli": "main commands progress",
}
LEFT = ("data", "features", "training")  # the others take the whole width
RIGHT = ("models", "report")
WIDTH, MARGIN, GAP, LINE = 900, 8, 26, 18  # of the picture, boxes, arrows and text; pixels
STYLE = """
text { fill: #1f2328; font-family: system-ui, sans-serif; font-size: 14px }
.name { font-weight: 700; font-size: 15px }
.files { fill: #59636e; font-family: ui-monospace, monospace; font-size: 12px }
rect { fill: #f6f8fa; stroke: #afb8c1 }
path { fill: none; stroke: #4250af; stroke-width: 1.6 }
marker path { fill: #4250af; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .files { fill: #9198a1 } rect { fill: #1c2128; stroke: #444c56 }
  path { stroke: #8c9eff } marker path { fill: #8c9eff }
}
"""


def uses() -> dict[str, set[str]]:
    """The rooms that each room imports, as far as none of them imports it for the room."""
    direct: dict[str, set[str]] = {room: set() for room in ROOMS}
    for file in HOUSE.rglob("*.py"):
        room = room_of(file)
        if room in direct:
            direct[room] |= set(imports(file)) & set(ROOMS) - {room}
    reached: dict[str, set[str]] = {}
    for room in ROOMS:  # from above, so that what a room uses is known before it
        reached[room] = direct[room].union(*(reached[other] for other in direct[room]))
    return {
        room: {other for other in others if not any(other in reached[via] for via in others)}
        for room, others in direct.items()
    }


def rows(edges: dict[str, set[str]]) -> list[list[str]]:
    """The rooms from top to bottom, each below all that it uses."""
    level: dict[str, int] = {}
    for room in ROOMS:
        level[room] = max((level[other] + 1 for other in edges[room]), default=0)
    return [
        [room for room in ROOMS if level[room] == row] for row in range(max(level.values()) + 1)
    ]


def purpose(room: str) -> str:
    """The first sentence of a room's docstring."""
    file = HOUSE / f"{room}.py"
    file = file if file.is_file() else HOUSE / room / "__init__.py"
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return text.replace("`", "").split(". ")[0].rstrip(".")


def main_files(room: str) -> str:
    """The names of a room's main files, folders with a slash; fails where one is gone."""
    names = []
    for name in MAIN_FILES.get(room, "").split():
        folder = (HOUSE / room / name).is_dir()
        assert folder or (HOUSE / room / f"{name}.py").is_file(), f"{room}/{name}: see MAIN_FILES"
        names.append(f"{name}/" if folder else name)
    return ", ".join(names)


def draw() -> str:
    """The picture as SVG."""
    edges, boxes, shapes = uses(), {}, []
    top = MARGIN
    for row in rows(edges):
        height = 0
        for room in row:
            half = (WIDTH - 3 * MARGIN) / 2
            x = MARGIN if room not in RIGHT else 2 * MARGIN + half
            width = half if room in LEFT + RIGHT else WIDTH - 2 * MARGIN
            lines = textwrap.wrap(f"{room} – {purpose(room)}", 54 if width == half else 110)
            files = main_files(room)
            assert len(files) < width / 7.4, f"{room}: its files do not fit into its box"
            boxes[room] = (x, top, width, LINE * (len(lines) + bool(files)) + 12)
            height = max(height, boxes[room][3])
            shapes.append(box(boxes[room], lines, files))
        top += height + GAP
    arrows = [arrow(boxes[room], boxes[other]) for room in ROOMS for other in sorted(edges[room])]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - GAP + MARGIN:g}" '
            'role="img" aria-label="The rooms of vidrec and their imports">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            *shapes,
            *arrows,
            "</svg>",
            "",
        ]
    )


def box(place: tuple[float, float, float, float], lines: list[str], files: str) -> str:
    """A room's frame and text."""
    x, y, width, height = place
    room, dash, rest = lines[0].partition(" – ")
    text = [f'<tspan class="name">{room}</tspan>{escape(dash + rest)}', *map(escape, lines[1:])]
    shown = [
        f'<text x="{x + 12:g}" y="{y + 20 + LINE * number:g}">{line}</text>'
        for number, line in enumerate(text)
    ]
    if files:
        last = y + 20 + LINE * len(lines)
        shown.append(f'<text class="files" x="{x + 12:g}" y="{last:g}">{escape(files)}</text>')
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>' + "".join(
        shown
    )


def arrow(user: tuple[float, float, float, float], used: tuple[float, float, float, float]) -> str:
    """A vertical line from the top of a box up to the bottom of another that is above it."""
    left, right = max(user[0], used[0]), min(user[0] + user[2], used[0] + used[2])
    assert left < right, "one box should be above the other: change LEFT and RIGHT"
    x = (left + right) / 2
    return f'<path d="M{x:g} {user[1]:g} V{used[1] + used[3] + 2:g}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
