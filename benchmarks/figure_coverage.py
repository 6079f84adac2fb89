"""Measure how often intervals are right for a figure that is not a mean over clips.

Such a figure has two truths: that of new data of the same size, which an interval is about, and
that of endless data. `coverage_of_ranking.py` and `coverage_of_segments.py` draw the experiments.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Line = dict[str, float]


class Truth(NamedTuple):
    """The true figure of both rows, by what data it is of."""

    expected: Sequence[float]
    endless: Sequence[float]


def covered(experiments: Iterable[tuple[Any, Any]], truth: Truth) -> Line:
    """Return how often intervals contained the truths, and their width relative to the best
    possible.

    Args:
        experiments: the interval of the first row and that of the difference, of each one.
        truth: of both rows.
    """
    means, inside, widths = [], [], []
    for own, gap in experiments:
        means.append([own.mean, gap.mean])
        widths.append([own.high - own.low, gap.high - gap.low])
        inside.append(
            [
                *(own.low <= each[0] <= own.high for each in truth),
                *(gap.low <= each[1] - each[0] <= gap.high for each in truth),
            ]
        )
    oracle = 2 * 1.96 * np.std(means, axis=0)
    share, wide = np.mean(inside, axis=0), np.mean(widths, axis=0) / oracle
    return {
        **{"expected": truth.expected[0], "endless": truth.endless[0]},
        **{"interval": share[0], "interval_endless": share[1], "width": wide[0]},
        **{"difference": share[2], "difference_endless": share[3], "difference_width": wide[1]},
    }


def tell(
    cases: Iterable[Any], measure: Callable[[Any, int], Line], *, draws: int, about: str | None
) -> None:
    """Measure every case that the command line asks for, and print a table by seeds and recordings.

    Args:
        cases: each with `seeds`, `recordings` and, last, the spread of seeds.
        measure: what gives the line of a case for a number of draws.
        draws: how many, unless the command line says.
        about: the description.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--draws", type=int, default=draws)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines: list[Line] = []
    # One seed has no spread.
    for case in (each for each in cases if each.seeds > 1 or not each.spread):
        lines.append({**case._asdict(), **measure(case, options.draws)})
        if options.json:
            shown = {name: round(float(x), 4) for name, x in lines[-1].items()}
            print(json.dumps(shown), flush=True)
    print("seeds | recordings | cases | coverage | of endless data | width | differences | width")
    sizes = (dict.fromkeys(line[name] for line in lines) for name in ("seeds", "recordings"))
    for seeds, recordings in itertools.product(*sizes):
        own = [x for x in lines if (x["seeds"], x["recordings"]) == (seeds, recordings)]
        print(" | ".join([f"{seeds} | {recordings} | {len(own)}", *_cells(own)]))


def _cells(own: Sequence[Line]) -> list[str]:
    """Return the worst case and the mean of the cases, of each figure."""
    cells = []
    for name in ("interval", "interval_endless", "width", "difference", "difference_width"):
        some = [x[name] for x in own]
        if "width" in name:
            cells.append(f"{np.mean(some):.2f} ({max(some):.2f})")
        else:
            cells.append(f"{100 * min(some):.1f} ({100 * np.mean(some):.1f}) %")
    return cells
