"""Draws docs/rooms.svg, the rooms of the house, from what its files really import.

    python docs/rooms.py

An arc leads from a room up to one that it uses. Uses that other arcs already imply are left out.
"""

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_rooms import HOUSE, ROOMS, imports, room_of  # noqa: E402

PICTURE = Path(__file__).with_name("rooms.svg")
HEIGHT, LEFT, WIDTH = 24, 210, 900  # of a line, of the arcs, of the picture; pixels


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


def purpose(room: str) -> str:
    """The first sentence of a room's docstring; of a long one what stands before its colon."""
    file = HOUSE / f"{room}.py"
    file = file if file.is_file() else HOUSE / room / "__init__.py"
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    sentence = text.replace("`", "").split(". ")[0].rstrip(".")
    return sentence if len(sentence) < 100 else sentence.split(":")[0]


def draw() -> str:
    """The picture as SVG."""
    middle = {room: (place + 0.5) * HEIGHT + 8 for place, room in enumerate(ROOMS)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(ROOMS) * HEIGHT + 16}" '
        'font-family="sans-serif" font-size="13" role="img" aria-label="Rooms and their imports">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<g fill="none" stroke="#5c6bc0" stroke-opacity="0.6">',
    ]
    for room, others in uses().items():
        for other in sorted(others, key=ROOMS.index):
            start, end = middle[room], middle[other]
            reach = LEFT - 12 - min(LEFT - 20, 12 + (start - end) * 0.35)
            lines.append(
                f'<path d="M{LEFT - 8} {start:g} C{reach:g} {start:g} {reach:g} {end:g} '
                f'{LEFT - 8} {end:g}"/>'
            )
    lines.append("</g>")
    for room, y in middle.items():
        lines.append(
            f'<circle cx="{LEFT - 8}" cy="{y:g}" r="2.5" fill="#303f9f"/>'
            f'<text x="{LEFT}" y="{y + 4:g}"><tspan font-weight="bold">{room}</tspan>'
            f'<tspan x="{LEFT + 90}" fill="#555" font-size="12">{escape(purpose(room))}</tspan>'
            "</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
