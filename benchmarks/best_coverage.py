"""The best coverage that any interval of few seeds can have within a limit on its width.

    python benchmarks/best_coverage.py   the table of docs/explanation/statistics.md (a few seconds)

An easier problem than that of vidrec.evaluation.statistics: normal means, and the variance that
clips give is known (1). A share of it, `seen`, is luck that seeds differ by as well, so that the
variance between seeds is A = (R + seen) times a chi-square of S - 1 degrees of freedom over them,
where R is what
seeds add. An interval is a function h(A) >= 0, the half width, and R is unknown to it. Coverage is
concave in h and width is linear in it, so the h with the largest worst coverage over all R is found
by convex optimization; no method does better, and with real answers none does as well.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

ADDED = np.array([0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 5, 8, 15, 30.0])  # R
KNOTS = np.concatenate([[0], np.geomspace(0.05, 400, 28)])  # of A, h is linear between them
DRAWS = 400  # quantiles of the chi-square


@dataclass(frozen=True)
class Best:
    """The best interval: its coverage and mean width (to the oracle's) for each of ADDED."""

    coverage: np.ndarray
    width: np.ndarray


def best(seeds: int, seen: float, few: float, many: float) -> Best:
    """Largest worst coverage, width at most `few` where seeds give 3/4 or less, else `many`."""
    quantile = special.gammaincinv((seeds - 1) / 2, (np.arange(DRAWS) + 0.5) / DRAWS)
    between = (ADDED[:, None] + seen) * quantile * 2 / (seeds - 1)
    place = np.clip(np.searchsorted(KNOTS, between) - 1, 0, len(KNOTS) - 2)
    part = np.clip((between - KNOTS[place]) / np.diff(KNOTS)[place], 0, 1)
    # Half widths are in units of sqrt(1 + A), and then of the true standard deviation.
    unit = np.sqrt((1 + between) / (1 + ADDED[:, None]))
    half = np.zeros((*between.shape, len(KNOTS)))
    np.put_along_axis(half, place[..., None], ((1 - part) * unit)[..., None], axis=2)
    np.put_along_axis(half, place[..., None] + 1, (part * unit)[..., None], axis=2)
    width = half.mean(axis=1) / 1.96
    limit = np.where(ADDED <= 3, few, many)

    def coverage(h: np.ndarray) -> np.ndarray:
        return (2 * special.ndtr(half @ h) - 1).mean(axis=1)

    def slope(h: np.ndarray) -> np.ndarray:
        density = 2 * np.exp(-((half @ h) ** 2) / 2) / np.sqrt(2 * np.pi)
        return np.einsum("rd,rdk->rk", density, half) / DRAWS

    ones = np.ones((len(ADDED), 1))
    found = optimize.minimize(
        lambda x: -x[-1],
        np.append(np.full(len(KNOTS), 2.3), 0.85),
        jac=lambda x: np.append(np.zeros(len(KNOTS)), -1.0),
        bounds=[(0, 20)] * len(KNOTS) + [(0, 1)],
        constraints=[
            {
                "type": "ineq",
                "fun": lambda x: coverage(x[:-1]) - x[-1],
                "jac": lambda x: np.hstack([slope(x[:-1]), -ones]),
            },
            {
                "type": "ineq",
                "fun": lambda x: limit - width @ x[:-1],
                "jac": lambda x: np.hstack([-width, 0 * ones]),
            },
        ],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-8},
    )
    return Best(coverage(found.x[:-1]), width @ found.x[:-1])


def table(limits: Sequence[tuple[float, float]]) -> str:
    """Worst coverage for each number of seeds, share that is seen, and limit on widths."""
    heads = " | ".join(f"width {few:g}, {many:g}" for few, many in limits)
    lines = [f"| seeds | luck that seeds differ by | {heads} |", "|" + "---|" * (2 + len(limits))]
    for seeds in (3, 5):
        for seen in (0.0, 0.3, 1.0):
            worst = [best(seeds, seen, *limit).coverage.min() for limit in limits]
            cells = " | ".join(f"{100 * one:.1f} %" for one in worst)
            lines.append(f"| {seeds} | {seen:g} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(table([(1.5, 2.0), (1.65, 2.0), (1.8, 2.0)]))


if __name__ == "__main__":
    main()
