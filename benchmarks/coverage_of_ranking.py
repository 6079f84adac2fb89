"""Measure how often intervals of mean average precision are right, on generated scores.

    python benchmarks/coverage_of_ranking.py               table of docs/explanation/statistics.md
    python benchmarks/coverage_of_ranking.py --draws 50     a first look

A clip has each of five classes with the case's share, more alike in one recording. The score of a
class is d where the clip has it, plus normal effects of recording (0.7), clip (0.5) and noise (1)
for each class; a seed moves d of each class by a normal number of the spread. Two rows differ by
0.5 in d and share what a recording, a clip and its labels are.

The mean average precision of few clips is higher on average than that of many, so there are two
truths: that of new data of the same size, which the interval is about, and that of endless data.
"""

import itertools
from typing import Any, NamedTuple

import figure_coverage
import numpy as np

from vidrec.evaluation import ranking, resampling, statistics
from vidrec.evaluation.resampling import Values

CLASSES, CLIPS, BETTER = 5, 4, 0.5
SEEDS, RECORDINGS, SHARES = (1, 3, 5), (7, 25, 100), (0.15, 0.3)
STRENGTHS, SPREADS = (1.0, 3.0), (0.0, 0.5)
MANY, REPEATS = 1500, 6  # recordings, and how often, of what stands for endless data
EXPECTED = 1500  # experiments whose mean is the truth of data of one size
LIKENESS = 0.7  # of labels within a recording and of each clip alone


class Case(NamedTuple):
    """What experiments are drawn from."""

    seeds: int
    recordings: int
    share: float
    strength: float
    spread: float


class Drawn(NamedTuple):
    """One experiment: scores (S, n, K) of both rows."""

    groups_n: np.ndarray
    labels_nK: np.ndarray
    rows: tuple[np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, case: Case) -> Drawn:
    groups_n = np.repeat(np.arange(case.recordings), CLIPS)
    shape = (case.recordings, CLASSES)
    like_nK = LIKENESS * rng.normal(size=shape)[groups_n]
    like_nK = like_nK + LIKENESS * rng.normal(size=(len(groups_n), CLASSES))
    labels_nK = (like_nK > np.sqrt(2) * LIKENESS * normal_quantile(1 - case.share)).astype(int)
    common_nK = 0.7 * rng.normal(size=shape)[groups_n] + 0.5 * rng.normal(size=like_nK.shape)

    def row(strength: float) -> np.ndarray:
        moved_SK = strength + case.spread * rng.normal(size=(case.seeds, 1, CLASSES))
        noise = rng.normal(size=(case.seeds, *like_nK.shape))
        return moved_SK * labels_nK + common_nK + noise

    return Drawn(groups_n, labels_nK, (row(case.strength), row(case.strength + BETTER)))


def normal_quantile(share: float) -> float:
    from scipy import special

    return float(special.ndtri(share))


def figure(scores_SnK: np.ndarray, labels_nK: np.ndarray) -> np.ndarray:
    return np.array([ranking.mean_average_precision(one, labels_nK) for one in scores_SnK])


def values(scores_SnK: np.ndarray, drawn: Drawn) -> Values:
    numbered = resampling.recordings(drawn.groups_n)
    without = [
        ranking.without_each(one, drawn.labels_nK, numbered.number_n, numbered.total)
        for one in scores_SnK
    ]
    return Values(figure(scores_SnK, drawn.labels_nK), np.stack(without))


def mean_figures(rng: np.random.Generator, case: Case, experiments: int) -> np.ndarray:
    """The mean figure of both rows over experiments, (2,)."""
    drawn = [draw(rng, case) for _ in range(experiments)]
    return np.mean([[figure(row, one.labels_nK).mean() for row in one.rows] for one in drawn], 0)


def measure(case: Case, draws: int) -> figure_coverage.Line:
    rng = np.random.default_rng([round(1000 * float(x)) for x in case])
    truth = figure_coverage.Truth(
        mean_figures(rng, case._replace(seeds=1), EXPECTED),
        mean_figures(rng, case._replace(seeds=4, recordings=MANY), REPEATS),
    )

    def experiment() -> tuple[Any, Any]:
        drawn = draw(rng, case)
        a, b = (values(row, drawn) for row in drawn.rows)
        clips = len(drawn.groups_n)
        return statistics.share_interval(a, clips), statistics.share_difference(b, a, clips)

    return figure_coverage.covered((experiment() for _ in range(draws)), truth)


def main() -> None:
    cases = itertools.starmap(
        Case, itertools.product(SEEDS, RECORDINGS, SHARES, STRENGTHS, SPREADS)
    )
    figure_coverage.tell(cases, measure, draws=400, about=__doc__)


if __name__ == "__main__":
    main()
