"""Pieces of an HTML page: escaped text, tables, figures, pictures."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from vidrec.io.escape import Html, html


@dataclass(frozen=True)
class Cell:
    """A table cell that is more than plain text: markup (`Html`), a style class, a heat in 0 … 1.

    Text that is not `Html` is escaped here as everywhere.
    """

    content: Any
    kind: str = ""
    heat: float | None = None


def tag(name: str, content: Any, **attributes: Any) -> Html:
    """An element around text, or around what is markup already; `kind` is its style class."""
    named = {"class" if key == "kind" else key: value for key, value in attributes.items()}
    told = "".join(f' {key}="{html(value)}"' for key, value in named.items() if value)
    return Html(f"<{name}{told}>{html(content)}</{name}>")


def joined(parts: Iterable[Any], between: str = "") -> Html:
    """Pieces of a page one after another."""
    return Html(between.join(map(html, parts)))


def _td(cell: Any) -> str:
    if not isinstance(cell, Cell):
        return f"<td>{html(cell)}</td>"
    kinds = f"{cell.kind} heat".strip() if cell.heat is not None else cell.kind
    style = f' style="--share:{cell.heat:.3f}"' if cell.heat is not None else ""
    kind = f' class="{kinds}"' if kinds else ""
    return f"<td{kind}{style}>{html(cell.content)}</td>"


def _head(head: str, column: Sequence[Any]) -> str:
    """A column's head, on the side on which its cells stand."""
    words = any(
        isinstance(cell, Cell) and cell.kind.split()[:1] in (["text"], ["wrap"]) for cell in column
    )
    return f'<th scope="col"{" class=text" if words else ""}>{html(head)}</th>'


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    kind: str = "",
    tall: bool = False,
    marked: int | None = None,
) -> Html:
    """A captioned table in its own scrolling box; the first cell of a line heads it.

    Args:
        kind: style class of the table.
        tall: the box scrolls downwards too.
        marked: number of the line to set off.
    """
    rows = list(rows)
    body = []
    for i, row in enumerate(rows):
        first = html(row[0].content if isinstance(row[0], Cell) else row[0])
        cells = f'<th scope="row">{first}</th>' + "".join(map(_td, row[1:]))
        kind_of_line = ' class="best"' if i == marked else ""
        body.append(f"<tr{kind_of_line}>{cells}</tr>")
    top = "".join(_head(head, [row[i] for row in rows]) for i, head in enumerate(heads))
    style = f' class="{kind}"' if kind else ""
    return Html(
        f'<div class="scroll{" tall" if tall else ""}" role="region" tabindex="0" '
        f'aria-label="{html(caption)}"><table{style}><caption>{html(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(svg: Html, caption: str, kind: str = "", width: float = 0) -> Html:
    """A drawing in its own scrolling box, with its caption below."""
    style = f' class="{kind}" style="--natural:{width:.0f}px"' if kind else ""
    return Html(
        f'<figure{style}><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{html(caption)}">{html(svg)}</div><figcaption>{html(caption)}</figcaption></figure>'
    )


def section(title: str, name: str, *parts: Html) -> Html:
    """A headed section; nothing where it would be empty."""
    inside = joined([part for part in parts if part], "\n")
    if not inside:
        return Html()
    return Html(f'<section id="{name}"><h2>{html(title)}</h2>\n{inside}\n</section>')


def definitions(pairs: Iterable[tuple[str, Any]]) -> Html:
    lines = joined(tag(*part) for name, value in pairs for part in (("dt", name), ("dd", value)))
    return tag("dl", lines) if lines else Html()


def strip(frames_THWC: np.ndarray, alt: str, height: int = 96) -> Html:
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
    return Html(f'<img src="data:image/jpeg;base64,{data}" {size} alt="{html(alt)}">')


def page(title: str, lead: Html, sections: Sequence[Html], foot: Html) -> Html:
    """The whole file: nothing in it asks another host for anything."""
    style = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    kept = [part for part in sections if part]
    links = "".join(f'<li><a href="#{_id(part)}">{_title(part)}</a></li>' for part in kept)
    return Html(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="vidrec">
<title>{html(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{html(title)}</h1>
{html(lead)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="content" tabindex="-1">
{joined(kept)}
</main>
<footer>{html(foot)}</footer>
</body>
</html>
""")


def _id(part: str) -> str:
    return part.split('id="', 1)[1].split('"', 1)[0]


def _title(part: str) -> str:
    return part.split("<h2>", 1)[1].split("</h2>", 1)[0]
