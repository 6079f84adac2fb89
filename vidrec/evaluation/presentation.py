"""Define what a task gives to reports: its headline, columns, tables and matrices as plain data."""

import colorsys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.evaluation.segments import Segments

GOLDEN = 0.618  # step of the hue from one class to the next, as a share of the colour circle


class Headline(NamedTuple):
    """The figure by which rows of a table are compared.

    Attributes:
        figure: its key among the figures of a part of the split.
        words: its name for people, used after "test", "validation" and "training".
        short: a shorter name for narrow tables.
        sentence: a phrase with {} for the value, such as "{} of the test clips".
    """

    figure: str
    words: str
    short: str
    sentence: str

    @property
    def test(self) -> str:
        """Return the name of its column for test clips."""
        return f"test_{self.figure}"

    @property
    def val(self) -> str:
        """Return the name of its column for validation clips."""
        return f"val_{self.figure}"

    @property
    def train(self) -> str:
        """Return the name of its column for training clips."""
        return f"train_{self.figure}"


class Shown(NamedTuple):
    """A column of the table for people, besides the headline.

    Attributes:
        column: name of the column in table.csv.
        head: heading of the column in the table for people.
        rare: True: the column is shown only if at least one row has the figure.
    """

    column: str
    head: str
    rare: bool = False


class Baseline(NamedTuple):
    """The figure of a trivial answer, which does not look at the clips.

    Attributes:
        figure: its key among the figures of a part of the split.
        line: a sentence with {} for the value: "The most frequent class is {} of the test clips."
        worse: a sentence with {} for the names of rows: "No better than …: {}".
        of_labels: computes the figure from the test labels of all folds; None: the mean of the
            folds' figures is as good.
    """

    figure: str
    line: str
    worse: str
    of_labels: Callable[[np.ndarray], float] | None = None


class ClassTable(NamedTuple):
    """The figures of each class, for the report of one row.

    Attributes:
        heads: headings of the columns after the class.
        rows: a row for each class: its name, then numbers or None. Integers are shown as they are,
            other numbers with three decimals.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Matrix(NamedTuple):
    """Counts by pairs of classes, drawn as counts and as shares.

    Attributes:
        name: name of its files.
        caption: text that says what a row and a column are.
        counts_KK: the counts.
        of_K: the number by which each row is divided to give shares.
        counted: what is counted, in words.
    """

    name: str
    caption: str
    counts_KK: np.ndarray
    of_K: np.ndarray
    counted: str = "clips"


class Timeline(NamedTuple):
    """The true and the predicted segments of a clip.

    Attributes:
        clip: index of the clip.
        frames: number of its frames.
        true: the true segments; frames outside of them are not labelled.
        predicted: the predicted segments.
        right: share of labelled frames that are right.
    """

    clip: int
    frames: int
    true: Segments
    predicted: Segments
    right: float


class Timelines(NamedTuple):
    """The time lines of several clips.

    Attributes:
        shown: the time lines.
        background: numbers of the classes in which nothing happens.
    """

    shown: Sequence[Timeline]
    background: Collection[int]


class Shot(NamedTuple):
    """What the report says next to the frames of a clip."""

    predicted: str
    confidence: float
    label: str
    correct: bool


def colour(number: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class, far from those of classes with near numbers."""
    rgb = colorsys.hsv_to_rgb(number * GOLDEN % 1, (0.75, 0.5)[number % 2], 0.9)
    return int(255 * rgb[0]), int(255 * rgb[1]), int(255 * rgb[2])
