"""Pieces of an HTML page: escaped text, tables, figures, pictures."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cell:
    """A table cell that is more than plain text: markup, a style class, a heat from 0 to 1."""

    markup: str
    kind: str = ""
    heat: float | None = None


def text(value: Any) -> str:
    return html.escape(str(value))


def _td(cell: Any) -> str:
    if not isinstance(cell, Cell):
        return f"<td>{text(cell)}</td>"
    kinds = f"{cell.kind} heat".strip() if cell.heat is not None else cell.kind
    style = f' style="--share:{cell.heat:.3f}"' if cell.heat is not None else ""
    kind = f' class="{kinds}"' if kinds else ""
    return f"<td{kind}{style}>{cell.markup}</td>"


def _head(head: str, column: Sequence[Any]) -> str:
    """A column's head, on the side on which its cells stand."""
    words = any(
        isinstance(cell, Cell) and cell.kind.split()[:1] in (["text"], ["wrap"]) for cell in column
    )
    return f'<th scope="col"{" class=text" if words else ""}>{text(head)}</th>'


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    kind: str = "",
    tall: bool = False,
    marked: int | None = None,
) -> str:
    """A captioned table in its own scrolling box; the first cell of a line heads it.

    Args:
        kind: style class of the table.
        tall: the box scrolls downwards too.
        marked: number of the line to set off.
    """
    rows = list(rows)
    body = []
    for i, row in enumerate(rows):
        first = row[0].markup if isinstance(row[0], Cell) else text(row[0])
        cells = f'<th scope="row">{first}</th>' + "".join(map(_td, row[1:]))
        kind_of_line = ' class="best"' if i == marked else ""
        body.append(f"<tr{kind_of_line}>{cells}</tr>")
    top = "".join(_head(head, [row[i] for row in rows]) for i, head in enumerate(heads))
    style = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll{" tall" if tall else ""}" role="region" tabindex="0" '
        f'aria-label="{text(caption)}"><table{style}><caption>{text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(svg: str, caption: str, kind: str = "", width: float = 0) -> str:
    """A drawing in its own scrolling box, with its caption below."""
    style = f' class="{kind}" style="--natural:{width:.0f}px"' if kind else ""
    return (
        f'<figure{style}><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{text(caption)}">{svg}</div><figcaption>{text(caption)}</figcaption></figure>'
    )


def section(title: str, name: str, *parts: str) -> str:
    """A headed section; nothing where it would be empty."""
    inside = "\n".join(part for part in parts if part)
    return f'<section id="{name}"><h2>{text(title)}</h2>\n{inside}\n</section>' if inside else ""


def definitions(pairs: Iterable[tuple[str, Any]]) -> str:
    lines = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs)
    return f"<dl>{lines}</dl>" if lines else ""


def strip(frames_THWC: np.ndarray, alt: str, height: int = 96) -> str:
    """Frames side by side as one picture."""
    from PIL import Image

    # A thin grey edge parts the frames on any background.
    edge = np.full((*frames_THWC.shape[1:2], 2, 3), 128, np.uint8)
    film = np.concatenate([part for frame in frames_THWC for part in (frame, edge)][:-1], axis=1)
    picture = Image.fromarray(film)
    if picture.height > height:
        picture = picture.resize((round(picture.width * height / picture.height), height))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    data = base64.b64encode(out.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" {size} alt="{text(alt)}">'


def page(title: str, lead: str, sections: Sequence[str], foot: str) -> str:
    """The whole file: nothing in it asks another host for anything."""
    style = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    kept = [part for part in sections if part]
    links = "".join(f'<li><a href="#{_id(part)}">{_title(part)}</a></li>' for part in kept)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="vidrec">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{text(title)}</h1>
{lead}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="content" tabindex="-1">
{"".join(kept)}
</main>
<footer>{foot}</footer>
</body>
</html>
"""


def _id(part: str) -> str:
    return part.split('id="', 1)[1].split('"', 1)[0]


def _title(part: str) -> str:
    return part.split("<h2>", 1)[1].split("</h2>", 1)[0]
