"""Define the parts of a page as plain data; `templates/` says how each part looks.

`piece` names the macro of templates/blocks.html that shows a block. Only drawings are markup; all
other text is escaped by the templates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from markupsafe import Markup

from vidrec.report.table_model import Table


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text with a style class."""

    piece: ClassVar[str] = "paragraph"

    text: str
    style: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption.

    Attributes:
        svg: the drawing.
        caption: text below it.
        width: natural width in CSS pixels.
        style: style class of a figure that is never drawn narrower than `width`; else empty.
    """

    piece: ClassVar[str] = "figure"

    svg: Markup
    caption: str
    width: float
    style: str = ""


class Definition(NamedTuple):
    """A name and its value; `command` is True if the value is a command line."""

    name: str
    value: Any
    command: bool = False


@dataclass(frozen=True)
class Definitions:
    """A list of names and their meanings."""

    piece: ClassVar[str] = "definitions"

    entries: Sequence[Definition]


class Picture(NamedTuple):
    """A picture within the page: its address, size in pixels, and description."""

    address: str
    width: int
    height: int
    alt: str


class Shot(NamedTuple):
    """Frames of a clip and the prediction for it.

    Attributes:
        picture: the frames side by side.
        predicted: the predicted class.
        confidence: its probability, as text.
        label: the true class.
        name: the name of the clip.
        correct: whether the prediction is right.
    """

    picture: Picture
    predicted: str
    confidence: str
    label: str
    name: str
    correct: bool


@dataclass(frozen=True)
class Strips:
    """Film strips."""

    piece: ClassVar[str] = "strips"

    shots: Sequence[Shot]


class Captioned(NamedTuple):
    """A picture and the text below it."""

    picture: Picture
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, each with a caption."""

    piece: ClassVar[str] = "pictures"

    shown: Sequence[Captioned]


class Layer(NamedTuple):
    """A layer of a model: name, kind, and trained parameters as text ("" for none)."""

    name: str
    kind: str
    weights: str


@dataclass(frozen=True)
class Layers:
    """The layers of a model as boxes in a row."""

    piece: ClassVar[str] = "layers"

    layers: Sequence[Layer]


@dataclass(frozen=True)
class Details:
    """A table that is hidden until a reader opens it; `summary` is always shown."""

    piece: ClassVar[str] = "details"

    summary: str
    table: Table


@dataclass(frozen=True)
class Group:
    """Blocks side by side or below each other, by style class."""

    piece: ClassVar[str] = "group"

    blocks: Sequence["Block"]
    style: str


Block = Paragraph | Figure | Definitions | Strips | Pictures | Layers | Details | Group | Table


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; a part without blocks is left out."""

    title: str
    id: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: the title of the page.
        question: the question that was studied; may be empty.
        warnings: warnings that are shown before anything else.
        answer: the result, in a few sentences.
        facts: what was trained, such as the control and the trials, and on which data.
        sections: the sections of the page.
        rebuild: the command that makes the page again; empty for a page without files such as
            table.csv beside it.
        beside: names of the files beside the page; empty if it has none, and no figures either.
    """

    title: str
    question: str
    warnings: Sequence[str]
    answer: str
    facts: Definitions
    sections: Sequence[Section]
    rebuild: str = ""
    beside: Sequence[str] = ("table.csv", "table.md", "table.tex")
