"""How often the intervals of vidrec.evaluate are right, on generated results with a known truth.

    python benchmarks/coverage.py                  the table of docs/statistics.md (15 minutes)
    python benchmarks/coverage.py --draws 200      a first look
    python benchmarks/coverage.py --json           every case, for machines

Seed s is right about a clip of group g with probability expit(m + a_s + b_g + c_sg): a, b and c are
normal with the case's spreads, m is the accuracy's logit. The truth is the mean of that over all
seeds and groups. For false alarms two settings share what a group does to both (spread 0.8), and
each has effects of its own with the case's spreads, so that they differ in every experiment and not
on average; a third is better by half a logit, and the interval must hold the true difference.
Beside ours: one t of the crossed variances with Satterthwaite's degrees of freedom.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy import special

from vidrec import evaluate

SEEDS, GROUPS, SPREADS = (3, 5, 10), (25, 100), (0.1, 0.2, 0.3, 0.4, 0.8)
BOTH = (0.0, 0.4)  # spread of what is particular to a seed and group
LOGITS = {0.66: special.logit(0.66), 0.9: special.logit(0.9)}
SHARED, BETTER = 0.8, 0.5


@dataclass(frozen=True)
class Case:
    """One kind of experiment; spreads are standard deviations on the logit scale."""

    seeds: int
    groups: int
    sizes: str  # equal: 6 clips each; unequal: 1 to 25, as many small as large ones by ratio
    seed_spread: float
    group_spread: float
    both_spread: float
    accuracy: float  # of an average seed on an average group

    def size_G(self) -> np.ndarray:
        """Clips of each group."""
        if self.sizes == "equal":
            return np.full(self.groups, 6)
        return np.rint(np.geomspace(1, 25, self.groups)).astype(int)

    def truth(self, better: float = 0.0, shared: float = 0.0) -> float:
        """Expected accuracy over seeds and groups, by Gauss-Hermite quadrature."""
        spreads = (self.seed_spread, self.group_spread, self.both_spread, shared)
        x, weight = np.polynomial.hermite_e.hermegauss(80)
        logit = special.logit(self.accuracy) + better + np.linalg.norm(spreads) * x
        probability = special.expit(logit)
        return float(probability @ weight / weight.sum())


@dataclass(frozen=True)
class Found:
    """Shares over the draws of one case, and mean widths."""

    coverage: float
    width: float
    false_alarms: float
    difference_coverage: float
    difference_width: float
    plain_coverage: float  # of one t with Satterthwaite's degrees of freedom
    plain_false_alarms: float


def cases() -> Iterator[Case]:
    """Every case of the table."""
    for values in itertools.product(
        SEEDS, GROUPS, ("equal", "unequal"), SPREADS, SPREADS, BOTH, LOGITS
    ):
        yield Case(*values)


def right(case: Case, draws: int, rng: np.random.Generator, shared=0.0) -> np.ndarray:
    """Right answers of each seed in each group, (draws, S, G)."""
    logit = special.logit(case.accuracy) + shared
    logit = logit + case.seed_spread * rng.normal(size=(draws, case.seeds, 1))
    logit = logit + case.group_spread * rng.normal(size=(draws, 1, case.groups))
    logit = logit + case.both_spread * rng.normal(size=(draws, case.seeds, case.groups))
    return rng.binomial(case.size_G(), special.expit(logit))


def satterthwaite(found: evaluate.Spread) -> np.ndarray:
    """Half width by crossed variance (less what is counted twice) and a single t."""
    whole = found.var_seeds + found.var_groups - found.var_both
    whole = np.maximum(whole, np.maximum(found.var_seeds, found.var_groups))
    parts = found.var_seeds**2 / found.df_seeds + found.var_groups**2 / found.df_groups
    df = np.divide(whole**2, parts, out=np.ones_like(whole), where=parts > 0)
    return -special.stdtrit(df, 0.025) * np.sqrt(whole)


def measure(case: Case, draws: int, rng: np.random.Generator) -> Found:
    """Coverage of accuracies and false alarms of differences in one case."""
    found = evaluate.spread(right(case, draws, rng), case.size_G())
    low, high = evaluate.accuracy_bounds(found)
    truth, gain = case.truth(), case.truth(BETTER, SHARED) - case.truth(0, SHARED)
    shared = SHARED * rng.normal(size=(draws, 1, case.groups))
    a, b = right(case, draws, rng, shared), right(case, draws, rng, shared)
    between = evaluate.spread(a - b, case.size_G())
    below, above = evaluate.difference_bounds(between)
    better = evaluate.spread(right(case, draws, rng, shared + BETTER) - a, case.size_G())
    least, most = evaluate.difference_bounds(better)
    return Found(
        coverage=float(np.mean((low <= truth) & (truth <= high))),
        width=float(np.mean(high - low)),
        false_alarms=float(np.mean((below > 0) | (above < 0))),
        difference_coverage=float(np.mean((least <= gain) & (gain <= most))),
        difference_width=float(np.mean(above - below)),
        plain_coverage=float(np.mean(np.abs(found.mean - truth) <= satterthwaite(found))),
        plain_false_alarms=float(np.mean(np.abs(between.mean) > satterthwaite(between))),
    )


def table(results: list[tuple[Case, Found]]) -> str:
    """Worst case (and mean over the cases) of each number of seeds and groups."""
    lines = [
        "| seeds | groups | accuracy | coverage | width | false alarms | difference: coverage "
        "| width | one t: coverage | false alarms |",
        "|" + "---|" * 10,
    ]
    for seeds, groups, accuracy in itertools.product(SEEDS, GROUPS, LOGITS):
        some = [
            f for c, f in results if (c.seeds, c.groups, c.accuracy) == (seeds, groups, accuracy)
        ]
        cover, false = [f.coverage for f in some], [f.false_alarms for f in some]
        gain = [f.difference_coverage for f in some]
        lines.append(
            f"| {seeds} | {groups} | {accuracy:g} "
            f"| {100 * min(cover):.1f} ({100 * np.mean(cover):.1f}) % "
            f"| {100 * np.mean([f.width for f in some]):.1f} "
            f"| {100 * max(false):.1f} ({100 * np.mean(false):.1f}) % "
            f"| {100 * min(gain):.1f} ({100 * np.mean(gain):.1f}) % "
            f"| {100 * np.mean([f.difference_width for f in some]):.1f} "
            f"| {100 * min(f.plain_coverage for f in some):.1f} % "
            f"| {100 * max(f.plain_false_alarms for f in some):.1f} % |"
        )
    return "\n".join(lines)


def one_seed(draws: int, seed: int) -> dict[float, dict[int, float]]:
    """Coverage of the interval over groups alone that one seed gets, by spread of seeds, groups."""
    shares: dict[float, dict[int, float]] = {spread: {} for spread in SPREADS}
    for spread, groups in itertools.product(SPREADS, GROUPS):
        case = Case(1, groups, "equal", spread, 0.4, 0.0, 0.66)
        answers = right(case, draws, np.random.default_rng((seed, groups)))
        low, high = evaluate.accuracy_bounds(evaluate.spread(answers, case.size_G()))
        truth = case.truth()
        shares[spread][groups] = float(np.mean((low <= truth) & (truth <= high)))
    return shares


def one_seed_table(shares: dict[float, dict[int, float]]) -> str:
    """Coverage with one seed, a line for each spread of seeds."""
    lines = ["| spread of seeds | 25 groups | 100 groups |", "|---|---|---|"]
    for spread, found in shares.items():
        lines.append(f"| {spread:g} | {100 * found[25]:.1f} % | {100 * found[100]:.1f} % |")
    return "\n".join(lines)


def misses(found: Found) -> bool:
    """Whether a case falls short of what the docs promise."""
    return min(found.coverage, found.difference_coverage) < 0.93 or found.false_alarms > 0.07


def main() -> int:
    """Exit status 1 where a case covers less than 93 % or raises more than 7 % false alarms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--draws", type=int, default=2000, help="experiments generated for each case"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="every case, on stdout")
    args = parser.parse_args()
    everything = list(cases())
    results = []
    for i, case in enumerate(everything):
        rng = np.random.default_rng((args.seed, i))
        results.append((case, measure(case, args.draws, rng)))
        if i % 40 == 0:
            print(f"{i} of {len(everything)} cases", file=sys.stderr)
    missed = [(c, f) for c, f in results if misses(f)]
    if args.json:
        rows = [asdict(c) | asdict(f) for c, f in results]
        alone = one_seed(args.draws, args.seed)
        answer = {"draws": args.draws, "cases": rows, "one_seed": alone, "missed": len(missed)}
        print(json.dumps(answer))
    else:
        print(f"{len(results)} cases, {args.draws} draws each; widths in points of accuracy\n")
        print(table(results))
        print("\none seed, accuracy 0.66, spread of groups 0.4: coverage\n")
        print(one_seed_table(one_seed(args.draws, args.seed)))
        for c, f in missed:
            print(f"missed: {c} {f}")
        print(f"\n{len(missed)} cases missed (coverage under 93 % or false alarms over 7 %)")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
