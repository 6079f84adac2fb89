"""Compute intervals of figures and of paired differences over new seeds and new groups of clips.

docs/explanation/statistics.md says what the intervals mean, and how often they contain the true
value on generated results. `variances` computes the variances. Plain NumPy on the host.

Dimension letters: S seeds, n clips, G groups of clips (recordings).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import resampling, variances
from vidrec.evaluation.resampling import Spread, Values
from vidrec.evaluation.variances import ALPHA, Variances

Groups = Sequence[str] | np.ndarray  # (n,), the recording that each clip was cut from

MOST_SEEDS = 1000
SMALLEST_P = 1e-30
ONE_SEED = "one seed: the interval leaves seeds out"
ONE_GROUP = "one recording: the interval leaves new recordings out"
NO_SPREAD = (
    "no spread seen between seeds or recordings, so the width follows from their numbers alone"
)
NO_SPREAD_OF_DIFFERENCE = (
    "the difference is the same in all seeds and recordings (no spread seen), so the width follows "
    "from their numbers alone"
)
NO_SEEDS_HELP = "more seeds alone cannot settle it, more test recordings could"

# Share of experiments in which the interval contained the accuracy in the worst simulated case, by
# the number of seeds. The first value is for a share of the seeds in the variance of at most
# MOSTLY_SEEDS, the second for a larger share.
WORST_COVERAGE = {2: (0.929, 0.878), 3: (0.942, 0.895), 5: (0.95, 0.909)}
MOSTLY_SEEDS = 0.6


@dataclass(frozen=True)
class Interval:
    """95 % interval of the expected accuracy over new seeds and new groups of clips.

    Attributes:
        mean: accuracy over all seeds and clips.
        low: lower end.
        high: upper end.
        sd_seeds: standard deviation of the seeds' accuracies; None for one seed.
        df: degrees of freedom of the whole variance; 0 if no spread was seen.
        note: what the interval leaves out, in words.
        worst_coverage: share of experiments in which such an interval contained the accuracy in the
            worst simulated case; None for one seed.
    """

    mean: float
    low: float
    high: float
    sd_seeds: float | None
    df: float
    note: str = ""
    worst_coverage: float | None = None

    @property
    def too_few_seeds(self) -> bool:
        """Return whether there is only one seed, so that the interval says nothing of new seeds."""
        return ONE_SEED in self.note


def accuracy_interval(correct: np.ndarray, groups: Groups) -> Interval:
    """Return the interval of the mean accuracy of new seeds on new groups of clips.

    Args:
        correct: (S, n) bool, whether each seed was right about each clip.
        groups: (n,) the recording that each clip was cut from; clips of one recording are not
            independent.

    Raises:
        UserError: the shapes do not fit.
    """
    correct = _checked(correct, groups, "correct")
    parts = variances.estimate(*_by_group(correct, groups))
    low, high = variances.accuracy_bounds(parts)
    accuracy_S = correct.mean(axis=1)
    return Interval(
        mean=float(accuracy_S.mean()),
        low=float(low),
        high=float(high),
        sd_seeds=float(accuracy_S.std(ddof=1)) if parts.design.seeds > 1 else None,
        df=float(parts.df),
        note=_note(parts),
        worst_coverage=_worst_coverage(parts),
    )


def share_interval(values: Values, clips: int) -> Interval:
    """Return the interval of a figure from 0 to 1 that is not a mean over clips.

    Args:
        values: the figure of every seed, also with each recording left out.
        clips: the number of clips.
    """
    parts = resampling.spread(values, clips)
    low, high = resampling.share_bounds(parts, ALPHA)
    seeds = parts.design.seeds
    return Interval(
        mean=parts.mean,
        low=low,
        high=high,
        sd_seeds=float(values.whole_S.std(ddof=1)) if seeds > 1 else None,
        df=float(parts.df()),
        note=_note(parts),
    )


def _worst_coverage(parts: Variances) -> float | None:
    if parts.design.seeds == 1:
        return None
    simulated = max(seeds for seeds in WORST_COVERAGE if seeds <= parts.design.seeds)
    return WORST_COVERAGE[simulated][int(parts.seeds_share > MOSTLY_SEEDS)]


@dataclass(frozen=True)
class Difference:
    """How much better the first of two rows is, on the same seeds and clips.

    Attributes:
        mean: the figure of the first row minus that of the second.
        low: lower end of its 95 % interval.
        high: upper end.
        p: p value: the level (alpha) at which the interval just touches 0.
        within_noise: True if p is above 0.05.
        seeds_needed: total number of seeds with which this difference would be significant if it
            stays the same; None if no number would do.
        note: what the interval leaves out, in words.
        variances: the variances that the interval was computed from.
    """

    mean: float
    low: float
    high: float
    p: float
    within_noise: bool
    seeds_needed: int | None
    note: str
    variances: Variances | Spread = field(repr=False)

    @property
    def too_few_seeds(self) -> bool:
        """Return whether there is only one seed, so that the interval says nothing of new seeds."""
        return ONE_SEED in self.note


def paired(correct_a: np.ndarray, correct_b: np.ndarray, groups: Groups) -> Difference:
    """Return the accuracy of a minus that of b, over the same seeds and clips.

    One seed with one clip a group is judged by McNemar's exact test. It treats clips as
    independent, so it is valid in this case only. The interval is Tango's, as elsewhere.

    Args:
        correct_a: (S, n) bool, whether each seed was right about each clip.
        correct_b: the same for b, with the same seeds and clips in the same order.
        groups: (n,) the recording that each clip was cut from.

    Raises:
        UserError: the shapes do not fit.
    """
    a = _checked(correct_a, groups, "correct_a")
    b = _checked(correct_b, groups, "correct_b")
    if a.shape != b.shape:
        raise UserError(
            f"correct_a: {a.shape[0]} seeds, but correct_b has {b.shape[0]}; "
            "give the seeds that both have"
        )
    value_Sn, size_G = _by_group(a.astype(np.int8) - b, groups)
    parts = variances.estimate(value_Sn, size_G, variances.DIFFERENCE_PRIOR)
    if parts.design.seeds == 1 and size_G.max() == 1:
        return _mcnemar(value_Sn[0], parts)
    low, high = variances.difference_bounds(parts)
    p = _p_value(parts)
    unjudged = Difference(float(parts.mean), float(low), float(high), p, True, None, "", parts)
    return _judged(unjudged, p, ALPHA)


def share_difference(a: Values, b: Values, clips: int) -> Difference:
    """Return the paired difference of two figures from 0 to 1, a minus b; see `share_interval`."""
    values = Values(a.whole_S - b.whole_S, a.without_SG - b.without_SG)
    parts = resampling.spread(values, clips)
    low, high = resampling.difference_bounds(parts, ALPHA)
    p = _p_value(parts)
    return _judged(Difference(parts.mean, low, high, p, True, None, "", parts), p, ALPHA)


def _judged(difference: Difference, p: float, alpha: float) -> Difference:
    """Return the difference with its verdict by `p`, and the seeds needed at level `alpha`."""
    parts = difference.variances
    noise = p > ALPHA
    needed = _seeds_needed(parts, alpha) if noise else parts.design.seeds
    stuck = noise and needed is None and parts.design.seeds > 1 and parts.mean != 0
    note = _note(parts, NO_SPREAD_OF_DIFFERENCE, NO_SEEDS_HELP if stuck else "")
    return replace(difference, within_noise=noise, seeds_needed=needed, note=note)


def _mcnemar(difference_G: np.ndarray, parts: Variances) -> Difference:
    """Return the exact test of the clips that only one row got right, and Tango's interval.

    The exact test is stricter than the interval. Where the test is not significant, the interval is
    widened to contain 0.
    """
    from scipy import special  # slow to import; scipy.stats takes three times as long

    better, changed = int(np.sum(difference_G > 0)), int(np.count_nonzero(difference_G))
    note = f"{ONE_SEED}; McNemar's exact test"
    if not changed:
        half = parts.hidden_by_groups(ALPHA)
        return Difference(
            0.0, -half, half, 1.0, True, None, f"{note}; {NO_SPREAD_OF_DIFFERENCE}", parts
        )
    # If the rows are equally good, better and worse are equally likely, so both tails are too.
    p = min(1.0, 2 * float(special.bdtr(min(better, changed - better), changed, 0.5)))
    low, high = map(float, variances.difference_bounds(parts))
    noise = p > ALPHA
    if noise:
        low, high = min(low, 0.0), max(high, 0.0)
    needed = None if noise else 1
    return Difference(float(parts.mean), low, high, p, noise, needed, note, parts)


def _p_value(parts: Variances | Spread) -> float:
    """Return the level at which the interval just touches 0, at least SMALLEST_P."""
    distance = abs(float(parts.mean))
    if distance == 0:
        return 1.0
    # At a difference of 0 the score interval's variance is the share of answers that differ.
    touching = distance**2 / float(parts.plus + parts.minus)

    def excess(log_p: float) -> float:
        return float(parts.squared_half_width(math.exp(log_p))) - touching

    p = SMALLEST_P
    if excess(0.0) >= 0:
        # The seeds' quantile is taken at less than the level, so it is not 0 even at level 1.
        p = 1.0
    elif excess(math.log(SMALLEST_P)) > 0:
        low, high = math.log(SMALLEST_P), 0.0
        for _ in range(45):  # to 2e-12 of p; scipy.optimize takes longer to import
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        p = math.exp(high)
    if parts.moved_alike:
        # The p values of the bound `hidden_by_groups` and of a sign test.
        p = max(p, min(1.0, 2 * max(0.5, 1 - distance) ** parts.design.groups))
    return p


def _seeds_needed(parts: Variances | Spread, alpha: float) -> int | None:
    """Return the least larger number of seeds whose interval excludes 0; None if there is none."""
    if parts.design.seeds == 1 or parts.mean == 0:
        return None
    seeds = np.arange(parts.design.seeds + 1, MOST_SEEDS + 1)
    width = parts.squared_half_width(alpha, seeds) * (parts.plus + parts.minus)
    settled = width < parts.mean**2
    return int(seeds[np.argmax(settled)]) if settled.any() else None


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p values after S. Holm's correction (1979) for the number of comparisons.

    NaN (no comparison) stays NaN and does not count.
    """
    p = np.asarray(p, np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    factor = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1)
    return adjusted


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Judge the differences of one table together, by p values with Holm's correction.

    The seeds needed are computed at the level alpha / comparisons, the strictest one that Holm's
    correction may need.
    """
    adjusted = holm([one.p for one in differences])
    alpha = ALPHA / max(len(differences), 1)
    judged = []
    for one, p in zip(differences, adjusted, strict=True):
        again = _judged(one, float(p), alpha)
        # A note on McNemar's test stays, since the test did not change.
        note = one.note if one.too_few_seeds else again.note
        judged.append(replace(again, p=float(p), note=note))
    return judged


def _note(parts: Variances | Spread, no_spread: str = NO_SPREAD, more: str = "") -> str:
    notes = (
        ONE_SEED * (parts.design.seeds == 1),
        ONE_GROUP * (parts.design.groups == 1),
        no_spread * (not float(parts.variance)),
        more,
    )
    return "; ".join(note for note in notes if note)


def _checked(correct: np.ndarray, groups: Groups, name: str) -> np.ndarray:
    correct = np.asarray(correct)
    if correct.ndim != 2 or not correct.size or correct.shape[1] != len(groups):
        raise UserError(
            f"{name}: shape {correct.shape}; expected (seeds, clips) with at least one of each "
            f"and a group for each clip, {len(groups)} in all"
        )
    return correct.astype(bool)


def _by_group(value_Sn: np.ndarray, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Return answers in the order of their groups (S, n), and the groups' sizes (G,)."""
    _, group_n = np.unique(np.asarray(groups), return_inverse=True)
    return value_Sn[:, np.argsort(group_n, kind="stable")].astype(np.int8), np.bincount(group_n)
