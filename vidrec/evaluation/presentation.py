"""Define what a task gives to reports: its headline, columns, tables and matrices as plain data."""

import colorsys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidrec.evaluation.segments import Segments

GOLDEN = 0.618  # of the circle of colours, from one class to the next


class Headline(NamedTuple):
    """The figure by which rows of a table are compared.

    Attributes:
        figure: its name among the figures of a part.
        words: what it is called after "test", "validation" and "training".
        short: the same where there is little room.
        sentence: "{} of the test clips": how its value is said in a sentence.
    """

    figure: str
    words: str
    short: str
    sentence: str

    @property
    def test(self) -> str:
        """Return its column of test clips."""
        return f"test_{self.figure}"

    @property
    def val(self) -> str:
        """Return its column of validation clips."""
        return f"val_{self.figure}"

    @property
    def train(self) -> str:
        """Return its column of training clips."""
        return f"train_{self.figure}"


class Shown(NamedTuple):
    """A column of the table for people, beside the headline.

    Attributes:
        column: of table.csv.
        head: of the table for people.
        rare: shown only where a row has the figure.
    """

    column: str
    head: str
    rare: bool = False


class Baseline(NamedTuple):
    """What answering without a look reaches.

    Attributes:
        figure: its name among the figures of a part.
        line: "The most frequent class is {} of the test clips."
        worse: "No better than …: {}", with the names of rows.
        of_labels: it, computed from the labels of clips out of all folds; None: the mean of the
            folds' figures is as good.
    """

    figure: str
    line: str
    worse: str
    of_labels: Callable[[np.ndarray], float] | None = None


class ClassTable(NamedTuple):
    """The figures of each class, for the report of one row.

    Attributes:
        heads: of the columns after the class.
        rows: a line for each class: its name, then numbers (shown with three decimals, or as they
            are where they are whole) or None.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Matrix(NamedTuple):
    """Counts by two classes, drawn with their shares.

    Attributes:
        name: of its files.
        caption: what a row and a column are.
        counts_KK: what is counted.
        of_K: how many a row's shares are of.
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
        clip: its index.
        frames: how many it has.
        true: its segments; where there is none, frames are not labelled.
        predicted: the same of the prediction.
        right: share of labelled frames that are right.
    """

    clip: int
    frames: int
    true: Segments
    predicted: Segments
    right: float


class Timelines(NamedTuple):
    """Clips along their time.

    Attributes:
        shown: the clips.
        background: classes in which nothing happens.
    """

    shown: Sequence[Timeline]
    background: Collection[int]


class Shot(NamedTuple):
    """What the report says beside the frames of a clip."""

    predicted: str
    confidence: float
    label: str
    correct: bool


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class, far from those of the classes with numbers near."""
    rgb = colorsys.hsv_to_rgb(number * GOLDEN % 1, (0.75, 0.5)[number % 2], 0.9)
    return int(255 * rgb[0]), int(255 * rgb[1]), int(255 * rgb[2])
