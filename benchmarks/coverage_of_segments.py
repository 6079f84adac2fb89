"""Measure how often intervals of F1@50 are right, on generated segments.

    python benchmarks/coverage_of_segments.py              table of docs/explanation/statistics.md
    python benchmarks/coverage_of_segments.py --draws 20     a first look

A clip has 4 to 8 segments of 10 to 40 frames of five classes, the first of which is background. A
model's skill in a clip is the case's, plus normal effects of recording (0.7) and clip (0.5), plus
one of the seed with the case's spread. It names a segment rightly with probability expit(skill),
cuts one in two with probability expit(-skill - 1), and puts each boundary off by a normal number of
frames whose deviation is 12 expit(-skill). Two rows differ by 0.5 in skill and share true segments
and what recordings and clips do. Counting is that of `evaluation.segments`, intervals and
differences are those of the task.

F1 is no mean over clips, so there are two truths, that of new data of the same size, which the
interval is about, and that of endless data; here they are nearly the same.
"""

import itertools
from functools import cache
from typing import Any, NamedTuple

import figure_coverage
import numpy as np

from vidrec.evaluation import segments
from vidrec.evaluation.tasks.segmentation import TASK

CLASSES, CLIPS, BETTER = 5, 2, 0.5
SEEDS, RECORDINGS = (1, 3, 5), (7, 25, 100)
SKILLS, SPREADS = (0.0, 1.5), (0.0, 0.5)
MANY = 4500  # recordings that stand for endless data, divided among seeds
NODES = 9  # seeds that stand for all of them (Gauss and Hermite)
EXPECTED = 200  # experiments whose mean is the truth of data of one size
BACKGROUND = (0,)


class Case(NamedTuple):
    """What experiments are drawn from."""

    seeds: int
    recordings: int
    skill: float
    spread: float


class Drawn(NamedTuple):
    """One experiment: right, extra and missed segments (S, n, 3) of both rows."""

    groups_n: np.ndarray
    rows: tuple[np.ndarray, np.ndarray]


def expit(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def other_than(rng: np.random.Generator, label: int) -> int:
    return int((label + rng.integers(1, CLASSES)) % CLASSES)


def true_pieces(rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Labels of a clip's segments, no two alike in a row, and where each ends."""
    labels = [int(rng.integers(CLASSES))]
    for _ in range(rng.integers(3, 8)):
        labels.append(other_than(rng, labels[-1]))
    return labels, np.cumsum(rng.integers(10, 41, len(labels)))


def frames_of(labels: list[int], ends: np.ndarray) -> np.ndarray:
    return np.repeat(labels, np.diff(ends, prepend=0))


def predicted_frames(
    rng: np.random.Generator, labels: list[int], ends: np.ndarray, skill: float
) -> np.ndarray:
    """What a model of this skill says of each frame."""
    said, until, start = [], [], 0
    for label, end in zip(labels, ends.tolist(), strict=True):
        named = label if rng.random() < expit(skill) else other_than(rng, label)
        if rng.random() < expit(-skill - 1):
            said.append(named)
            until.append(rng.integers(start + 1, end))
            named = other_than(rng, named)
        said.append(named)
        until.append(end)
        start = end
    moved = np.array(until) + rng.normal(0, 12 * expit(-skill), len(until))
    moved = np.sort(np.clip(np.round(moved), 0, ends[-1])).astype(int)
    moved[-1] = ends[-1]
    return frames_of(said, moved)


def counted(predicted_T: np.ndarray, true_T: np.ndarray) -> list[int]:
    predicted, true = (segments.segments_of(each, BACKGROUND) for each in (predicted_T, true_T))
    return [int(each.sum()) for each in segments.match(predicted, true, 50, CLASSES)]


def draw(rng: np.random.Generator, case: Case, of_seeds_S: np.ndarray | None = None) -> Drawn:
    """Draw an experiment; its seeds move skill by normal numbers, or by those given."""
    groups_n = np.repeat(np.arange(case.recordings), CLIPS)
    easy_n = 0.7 * rng.normal(size=case.recordings)[groups_n] + 0.5 * rng.normal(size=len(groups_n))
    clips = [true_pieces(rng) for _ in groups_n]

    def row(skill: float) -> np.ndarray:
        normal_S = rng.normal(size=case.seeds) if of_seeds_S is None else of_seeds_S
        return np.array(
            [
                [
                    counted(predicted_frames(rng, *clip, own + easy), frames_of(*clip))
                    for clip, easy in zip(clips, easy_n, strict=True)
                ]
                for own in skill + case.spread * normal_S
            ]
        )

    return Drawn(groups_n, (row(case.skill), row(case.skill + BETTER)))


def f1(counts_n3: np.ndarray) -> float:
    return segments.f1(segments.Matches(*counts_n3.T))


@cache
def expected(case: Case) -> tuple[float, float]:
    """The mean figure of both rows over experiments of this size."""
    rng = np.random.default_rng([1, *(round(1000 * x) for x in case)])
    drawn = [draw(rng, case) for _ in range(EXPECTED)]
    a, b = (float(np.mean([f1(one.rows[i][0]) for one in drawn])) for i in (0, 1))
    return a, b


@cache
def endless(skill: float, spread: float) -> tuple[float, float]:
    """The same of endless data: the mean over all seeds of each one's figure."""
    rng = np.random.default_rng([2, round(1000 * skill), round(1000 * spread)])
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES) if spread else (np.zeros(1), [1.0])
    drawn = draw(rng, Case(len(nodes), MANY // len(nodes), skill, spread), nodes)
    a, b = (float(np.average([f1(own) for own in row], weights=weights)) for row in drawn.rows)
    return a, b


def measure(case: Case, draws: int) -> figure_coverage.Line:
    rng = np.random.default_rng([3, *(round(1000 * x) for x in case)])
    truth = figure_coverage.Truth(
        expected(case._replace(seeds=1)), endless(case.skill, case.spread)
    )

    def experiment() -> tuple[Any, Any]:
        groups_n, (a, b) = draw(rng, case)
        return TASK.interval(a, groups_n, groups_n), TASK.difference(b, a, groups_n, groups_n)

    return figure_coverage.covered((experiment() for _ in range(draws)), truth)


def main() -> None:
    cases = itertools.starmap(Case, itertools.product(SEEDS, RECORDINGS, SKILLS, SPREADS))
    figure_coverage.tell(cases, measure, draws=100, about=__doc__)


if __name__ == "__main__":
    main()
