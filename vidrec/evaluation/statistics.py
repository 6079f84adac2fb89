"""What saved answers are worth: intervals, paired tests, two runs compared.

docs/statistics.md says in plain words what the intervals mean
and how often they were right on generated results.

Dimension letters: S seeds, G groups of clips, n clips, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from vidrec.errors import UserError
from vidrec.evaluation import ucf_types

Groups = Sequence[str] | np.ndarray  # (n,), the source of each clip

ALPHA = 0.05
MOST_SEEDS = 1000
ONE_SEED = "one seed: the interval leaves seeds out"
ONE_GROUP = "one group of clips: the interval leaves new clips out"
NO_SPREAD = "no spread seen: bounded by the number of clips and groups alone"
NO_SEEDS_HELP = "more seeds alone would not settle it: more groups of clips would"

# What the intervals take for granted where the answers say little. Chosen so that they cover in the
# simulations of benchmarks/coverage.py; docs/statistics.md says what each does.
NOISE_TAKEN = {2: 0.0, 3: 2 / 3}  # share of what single answers make seeds differ by, taken off
NOISE_TAKEN_ELSE = 0.8
SEEDS_LEVEL = {3: 1.2}  # of alpha, at which the seeds' t quantile is taken
SEEDS_LEVEL_ELSE = 0.8
# Share of experiments in which the interval held the accuracy in the worst simulated case with so
# many seeds: where they give up to MOSTLY_SEEDS of the variance, and where they give more.
HELD = {2: (0.929, 0.878), 3: (0.942, 0.895), 5: (0.95, 0.909)}
MOSTLY_SEEDS = 0.6
LIKENESS = 40  # steps in which the likeness of the clips of a group is integrated over


# --- Seeds and groups of clips: how much a figure moves -------------------------------------------


@dataclass(frozen=True)
class Before:
    """What is taken for likely before any answer is seen."""

    agreement: float  # of two seeds about one clip; weighs as much as one mistake
    unlike: float  # of the clips of a group: the beta distribution's second parameter,
    unlike_unseen: float  # and how much larger it is where no mistake was seen


# Rows share what makes a recording hard, so that clips are less alike in differences.
OF_ACCURACIES, OF_DIFFERENCES = Before(0.15, 0.8, 12), Before(0.1, 1.3, 30)


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and clips, and the reasons why another experiment would differ.

    Fields may carry leading axes (of simulated experiments). J is the likeness of the clips of a
    group: the correlation of their answers, in steps from 0 to 1.
    """

    mean: np.ndarray
    plus: np.ndarray  # share of the answers that are 1, and
    minus: np.ndarray  # of those that are -1 (in differences)
    variance: np.ndarray  # of one answer
    var_seeds: np.ndarray  # of the mean, by leaving one seed out
    var_groups: np.ndarray  # of the mean, by leaving one group out
    seeds_alone: np.ndarray  # of the mean, by what seeds do to all clips; / variance
    agreement: np.ndarray  # correlation of two seeds' answers to one clip
    weight_J: np.ndarray  # how credible each likeness is
    factor_J: np.ndarray  # variance of the mean by what seeds share, to that of clips on their own
    df_groups: float | np.ndarray
    seeds: int
    groups: int
    clips: int

    @property
    def df_seeds(self) -> int:
        """Degrees of freedom of the variance by seeds."""
        return max(self.seeds - 1, 1)

    @property
    def df(self) -> np.ndarray:
        """Satterthwaite's degrees of freedom of the whole variance; 0 where no spread was seen."""
        whole = self.var_seeds + self.var_groups
        parts = self.var_seeds**2 / self.df_seeds + self.var_groups**2 / self.df_groups
        return np.divide(whole**2, parts, out=np.zeros_like(whole), where=parts > 0)

    def stretch(self, alpha: float, seeds: int | np.ndarray | None = None) -> np.ndarray:
        """Square of the half width at level `alpha`, in units of one answer's variance.

        Args:
          alpha: share of experiments that the interval may miss.
          seeds: as many instead of those that there are (one seed stays one).
        """
        seeds = self.seeds if seeds is None else seeds
        by_clips = (1 + (np.asarray(seeds) - 1) * self.agreement) / (seeds * self.clips)
        clips = _mixed_quantile(self.factor_J, self.weight_J, alpha) ** 2 * by_clips
        if self.seeds == 1:
            return clips
        known = [SEEDS_LEVEL.get(n, SEEDS_LEVEL_ELSE) for n in np.atleast_1d(seeds)]
        level = np.minimum(alpha * np.reshape(known, np.shape(seeds)), 1)
        t_seeds = special.stdtrit(np.asarray(seeds) - 1, level / 2)
        return clips + t_seeds**2 * self.seeds_alone * self.seeds / seeds

    @property
    def seeds_share(self) -> np.ndarray:
        """Of the variance of the mean, what seeds do to all clips."""
        by_clips = (1 + (self.seeds - 1) * self.agreement) / (self.seeds * self.clips)
        clips = (self.weight_J * self.factor_J).sum(axis=-1) * by_clips
        return self.seeds_alone / (self.seeds_alone + clips)

    def bound(self, alpha: float) -> float:
        """Half width by the number of groups alone: what so many may hide."""
        return 1 - (alpha / 2) ** (1 / self.groups)


def spread(value_Sn: np.ndarray, size_G: np.ndarray, before: Before = OF_ACCURACIES) -> Spread:
    """What seeds, groups and clips add to the variance of the mean.

    Args:
      value_Sn: (…, S, n) answers to clips sorted by group: 1 or 0, or a difference of such, -1 … 1.
      size_G: (G,) clips of each group.
      before: OF_ACCURACIES or OF_DIFFERENCES.
    """
    seeds, clips, groups = *value_Sn.shape[-2:], len(size_G)
    answers = seeds * clips
    seed_S = value_Sn.mean(axis=-1)
    clip_n = value_Sn.mean(axis=-2)
    first_G = np.cumsum(size_G) - size_G
    plus, minus = ((value_Sn == sign).sum(axis=(-2, -1)) / answers for sign in (1, -1))
    mean = np.asarray(plus - minus)
    away_G = np.add.reduceat(clip_n, first_G, axis=-1) / size_G - mean[..., None]
    # Sums of squares: of all answers, of the seeds' means, of the clips' means, what is left.
    whole = answers * (plus + minus - mean**2)
    by_seeds = clips * ((seed_S - mean[..., None]) ** 2).sum(axis=-1)
    by_clips = seeds * ((clip_n - mean[..., None]) ** 2).sum(axis=-1)
    variance = _rounded(whole / answers)
    var_seeds = _rounded(by_seeds / (answers * max(seeds - 1, 1)))
    # As many equal groups as would weigh the same: unequal ones tell less.
    weight_G = size_G / clips
    effective = (weight_G**2).sum() ** 2 / (weight_G**4).sum()
    alike = by_clips / max(clips - 1, 1)
    left = np.maximum(whole - by_seeds - by_clips, 0) / (max(clips - 1, 1) * answers)
    group_SG = np.add.reduceat(value_Sn, first_G, axis=-1, dtype=np.float64) / size_G
    own_SG = group_SG - seed_S[..., None] - away_G[..., None, :]
    left = np.maximum(left, _left_in_groups(own_SG, weight_G)) / max(seeds - 1, 1)
    weight_J, factor_J = _likeness(away_G, by_clips / seeds, size_G, (seeds, variance), before)
    return Spread(
        mean=mean,
        plus=plus,
        minus=minus,
        variance=variance,
        var_seeds=var_seeds,
        var_groups=_rounded(_without_one(away_G, weight_G)),
        seeds_alone=_seeds_alone(var_seeds, left, variance, (seeds, clips)),
        agreement=_agreement(alike, variance, (seeds, answers), before.agreement),
        weight_J=weight_J,
        factor_J=factor_J,
        df_groups=max(effective - 1, 1),
        seeds=seeds,
        groups=groups,
        clips=clips,
    )


def _rounded(variance: np.ndarray) -> np.ndarray:
    # Sums of shares leave about 1e-32 where all values are equal; one clip of a million leaves
    # 1e-14.
    return np.where(variance < 1e-20, 0.0, variance)


def _over(value: np.ndarray, by: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """`value / by`, and `empty` where `by` is 0."""
    full = np.full(np.broadcast_shapes(np.shape(value), np.shape(by)), empty)
    return np.divide(value, by, out=full, where=by > 0)


def _without_one(away_G: np.ndarray, weight_G: np.ndarray) -> np.ndarray:
    """Variance of the mean by leaving one group out; `away_G` is each group's distance from it."""
    groups = len(weight_G)
    if groups == 1:
        return np.zeros(away_G.shape[:-1])
    # Without group g the mean moves by w_g (mean - value_g) / (1 - w_g).
    moved_G = weight_G / (1 - weight_G) * away_G
    return (groups - 1) / groups * (moved_G**2).sum(axis=-1)


def _left_in_groups(own_SG: np.ndarray, weight_G: np.ndarray) -> np.ndarray:
    """Seeds less one times the variance of the mean by what is particular to a seed and group."""
    seeds, groups = own_SG.shape[-2:]
    squares = ((weight_G * own_SG) ** 2).sum(axis=(-2, -1))
    return squares / seeds * groups / max(groups - 1, 1)


def _telling(variance: np.ndarray, answers: float) -> np.ndarray:
    """How much the spread of sums of so many answers tells, to that of sums of very many.

    The variance of a variance grows with the kurtosis, and sums with few mistakes have a large one.
    """
    events = answers * variance
    return _over(2 * events, 2 * events + np.maximum(1 - 6 * variance, 0))


def _agreement(
    mean_square: np.ndarray, variance: np.ndarray, shape: tuple[int, int], before: float
) -> np.ndarray:
    """Correlation of two seeds' answers to one clip, drawn to `before` where mistakes are few."""
    seeds, answers = shape
    found = np.clip((_over(mean_square, variance, 1.0) - 1) / max(seeds - 1, 1), 0, 1)
    events = answers * variance
    return (events * found + before) / (events + 1)


def _seeds_alone(
    var_seeds: np.ndarray, left: np.ndarray, variance: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Variance of the mean by seeds alone, / one answer's variance.

    Less what is particular to a seed and a clip, or a seed and a group: that is in the variance by
    clips as well. Only a share of it is taken off: what seeds differ by is a rough figure, and to
    take off all would narrow too many intervals. One mistake alone says nothing about seeds.

    Args:
      var_seeds: of the mean, by all that seeds differ in.
      left: of the mean, by what is particular to a seed and a clip or group.
      variance: of one answer.
      shape: seeds, clips.
    """
    seeds, clips = shape
    if seeds == 1:
        return np.zeros(np.shape(variance))
    events = seeds * clips * variance
    share = NOISE_TAKEN.get(seeds, NOISE_TAKEN_ELSE)
    share = share + (1 - share) * np.minimum(1, _over(np.ones_like(events), events, 1.0))
    more = np.maximum(var_seeds - share * left, 0)
    return _over(more, variance) * _telling(variance, clips)


def _likeness(
    away_G: np.ndarray,
    squares: np.ndarray,
    size_G: np.ndarray,
    shape: tuple[int, np.ndarray],
    before: Before,
) -> tuple[np.ndarray, np.ndarray]:
    """How credible each likeness of the clips of a group is, and how wide it makes the mean.

    The likelihood is that of the one-way random model with unequal groups, the variance integrated
    out (restricted maximum likelihood). Before it, small likenesses are taken for more credible
    the fewer mistakes were seen.

    Args:
      away_G: (…, G) distance of each group's mean from the mean.
      squares: (…) sum over clips of the squared distance of the clip's mean over seeds.
      size_G: (G,).
      shape: number of seeds, variance of one answer.
      before: any mistake was seen.
    """
    seeds, variance = shape
    clips, groups = int(size_G.sum()), len(size_G)
    if groups == 1:
        return np.ones((*variance.shape, 1)), np.ones((*variance.shape, 1))
    like_J = (np.arange(LIKENESS) + 0.5) / LIKENESS
    factor_J = 1 + like_J * ((size_G**2).sum() / clips - 1)
    few = 1 / (1 + seeds * clips * variance / 0.7)[..., None]
    unlike = before.unlike + before.unlike_unseen * few**2
    edges = np.linspace(0, 1, LIKENESS + 1)
    prior_J = np.diff(special.betainc(0.5 + 0.5 * few, unlike, edges), axis=-1)
    # Variance of a group's mean, to that of one clip's.
    var_JG = (1 - like_J[:, None]) / size_G + like_J[:, None]
    sum_J = (1 / var_JG).sum(axis=1)
    between_J = (away_G**2) @ (1 / var_JG).T - (away_G @ (1 / var_JG).T) ** 2 / sum_J
    within = np.maximum(squares - (size_G * away_G**2).sum(axis=-1), 0)
    square_J = np.maximum(between_J, 0) + within[..., None] / (1 - like_J)
    seen = squares[..., None] > 1e-12
    found = (clips - groups) * np.log(1 - like_J) + np.log(var_JG).sum(axis=1) + np.log(sum_J)
    found = found + (clips - 1) * np.log(np.where(seen, np.maximum(square_J, 1e-12), 1))
    telling = np.where(seen, _telling(variance, seeds * clips / groups)[..., None], 0)
    logs = -0.5 * telling * found
    weight_J = prior_J * np.exp(logs - logs.max(axis=-1, keepdims=True))
    weight_J /= weight_J.sum(axis=-1, keepdims=True)
    # Clips that are alike show less than their variance about their own mean.
    hidden_J = np.clip(_over(square_J, squares[..., None] * np.ones(LIKENESS), 1.0), 1, 3)
    return weight_J, factor_J * hidden_J**telling


def _mixed_quantile(var_J: np.ndarray, weight_J: np.ndarray, alpha: float) -> np.ndarray:
    """Two-sided normal quantile, the variance being one of `var_J` with these weights."""
    low, high = (-special.ndtri(alpha / 2) * np.sqrt(end(var_J, -1)) for end in (np.min, np.max))
    scale_J = 1 / np.sqrt(var_J)
    at = high
    for _ in range(8):  # Newton's steps on the logarithm, kept between the two
        depth_J = at[..., None] * scale_J
        outside = 2 * (weight_J * special.ndtr(-depth_J)).sum(axis=-1)
        density = 2 * (weight_J * scale_J * np.exp(-(depth_J**2) / 2)).sum(axis=-1)
        low, high = np.where(outside > alpha, at, low), np.where(outside > alpha, high, at)
        step = at + np.log(outside / alpha) * outside * math.sqrt(2 * math.pi) / density
        at = np.where((step >= low) & (step <= high), step, (low + high) / 2)
    return at


def accuracy_bounds(found: Spread, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of the expected accuracy: E. B. Wilson's score interval, within 0 … 1.

    All p with (mean - p)² <= stretch · p (1 - p).
    """
    stretch = found.stretch(alpha)
    mean = found.mean
    half = np.sqrt(stretch * mean * (1 - mean) + stretch**2 / 4)
    low, high = ((mean + stretch / 2 + sign * half) / (1 + stretch) for sign in (-1, 1))
    # Rounding must leave the mean inside.
    return np.clip(np.minimum(low, mean), 0, 1), np.clip(np.maximum(high, mean), 0, 1)


def difference_bounds(found: Spread, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of a difference of two accuracies: T. Tango's score interval, within -1 … 1."""
    stretch = found.stretch(alpha)
    low = _lower_score(found.plus, found.minus, stretch)
    high = -_lower_score(found.minus, found.plus, stretch)
    # Below six groups not even a sign test could tell at 5 %.
    plain = found.bound(alpha) if 2 * 0.5**found.groups <= alpha else 1.0
    half = np.where(_moved_alike(found), plain, 0)
    return (
        np.clip(np.minimum(low, found.mean - half), -1, 1),
        np.clip(np.maximum(high, found.mean + half), -1, 1),
    )


def _moved_alike(found: Spread) -> np.ndarray:
    """Whether every seed and every group moved by the same amount."""
    return (found.var_seeds == 0) & (found.var_groups == 0) & (found.mean != 0)


def _lower_score(plus: np.ndarray, minus: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Least difference D with (plus - minus - D)² <= stretch · (variance of an answer given D).

    That variance is the largest-likelihood one (T. Tango, Statistics in Medicine 17, 1998).
    """
    mean = plus - minus
    low, high = np.full(np.shape(mean), -1.0), np.array(mean, np.float64)
    for _ in range(50):
        middle = (low + high) / 2
        linear = (2 - mean) * middle - plus - minus
        root = np.sqrt(np.maximum(linear**2 + 8 * minus * middle * (1 - middle), 0))
        variance = (root - linear) / 2 + middle * (1 - middle)
        outside = (mean - middle) ** 2 > stretch * variance
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return high


@dataclass(frozen=True)
class Interval:
    """95 % interval for the expected accuracy over new seeds and new groups of clips."""

    mean: float
    low: float
    high: float
    sd_seeds: float | None  # standard deviation of the seeds' accuracies; None of one seed
    df: float  # degrees of freedom of the whole variance: how much the width rests on
    note: str = ""
    held: float | None = None  # share of experiments in the worst simulated case; None of one seed

    @property
    def too_few_seeds(self) -> bool:
        """The interval is too narrow: it says nothing about other seeds."""
        return ONE_SEED in self.note


def accuracy_interval(correct: np.ndarray, groups: Groups) -> Interval:
    """Interval for the accuracy that new seeds would have on average on new groups of clips.

    Args:
      correct: (S, n), whether each seed was right about each clip.
      groups: (n,) the source that each clip was cut from; clips of a group rise and fall together.
    """
    correct = _seeds_by_clips(correct, groups, "correct")
    found = spread(*_by_group(correct, groups))
    low, high = accuracy_bounds(found)
    accuracy_S = correct.mean(axis=1)
    return Interval(
        mean=float(accuracy_S.mean()),
        low=float(low),
        high=float(high),
        sd_seeds=float(accuracy_S.std(ddof=1)) if found.seeds > 1 else None,
        df=float(found.df),
        note=_note(found),
        held=_held(found),
    )


def _held(found: Spread) -> float | None:
    if found.seeds == 1:
        return None
    most = max(seeds for seeds in HELD if seeds <= found.seeds)
    return HELD[most][int(found.seeds_share > MOSTLY_SEEDS)]


@dataclass(frozen=True)
class Difference:
    """How much better the first of two rows is: same seeds, same clips."""

    mean: float
    low: float
    high: float
    p: float
    within_noise: bool
    seeds_needed: int | None  # in all, if the difference stays as it is; None: no number would do
    note: str
    found: Spread = field(repr=False)

    @property
    def too_few_seeds(self) -> bool:
        """The interval is too narrow: it says nothing about other seeds."""
        return ONE_SEED in self.note


def paired(correct_a: np.ndarray, correct_b: np.ndarray, groups: Groups) -> Difference:
    """Accuracy of a minus accuracy of b, over the same seeds and the same clips.

    McNemar's exact test stands in for one seed with one clip a group, where it is right; anywhere
    else it takes clips of one source for independent.

    Args:
      correct_a: (S, n), right or wrong.
      correct_b: the same of b, seed s and clip i being those of a.
      groups: (n,) the source that each clip was cut from.
    """
    a = _seeds_by_clips(correct_a, groups, "correct_a")
    b = _seeds_by_clips(correct_b, groups, "correct_b")
    if a.shape != b.shape:
        raise UserError(
            f"correct_a: {a.shape[0]} seeds, but correct_b has {b.shape[0]}; "
            "give the seeds that both have"
        )
    value_Sn, size_G = _by_group(a.astype(np.int8) - b, groups)
    found = spread(value_Sn, size_G, OF_DIFFERENCES)
    if found.seeds == 1 and size_G.max() == 1:
        return _mcnemar(value_Sn[0], found)
    p = _p_value(found)
    low, high = difference_bounds(found)
    return _judged(
        Difference(float(found.mean), float(low), float(high), p, True, None, "", found), p, ALPHA
    )


def _judged(one: Difference, p: float, alpha: float) -> Difference:
    """Within noise or not by `p`, and the seeds that would settle it at level `alpha`."""
    found = one.found
    noise = p > ALPHA
    needed = _seeds_needed(found, alpha) if noise else found.seeds
    stuck = noise and needed is None and found.seeds > 1 and found.mean != 0
    note = _note(found, NO_SEEDS_HELP if stuck else "")
    return replace(one, within_noise=noise, seeds_needed=needed, note=note)


def _mcnemar(difference_G: np.ndarray, found: Spread) -> Difference:
    """Exact test of the clips that only one of the two got right, and the interval that matches."""
    from scipy import stats  # slow to import, and rarely needed

    better, changed = int(np.sum(difference_G > 0)), int(np.count_nonzero(difference_G))
    note = f"{ONE_SEED}; McNemar's exact test"
    if not changed:
        half = found.bound(ALPHA)
        return Difference(0.0, -half, half, 1.0, True, None, f"{note}; {NO_SPREAD}", found)
    test = stats.binomtest(better, changed)
    share = test.proportion_ci(1 - ALPHA, method="exact")
    low, high = ((2 * end - 1) * changed / len(difference_G) for end in (share.low, share.high))
    noise = bool(test.pvalue > ALPHA)
    needed = None if noise else 1
    return Difference(float(found.mean), low, high, float(test.pvalue), noise, needed, note, found)


def _p_value(found: Spread) -> float:
    """The level at which the interval just touches 0; never below 1e-30."""
    from scipy import optimize  # slow to import

    smallest, distance = 1e-30, abs(float(found.mean))
    if distance == 0:
        return 1.0
    # At a difference of 0 the score interval's variance is the share of answers that differ.
    touching = distance**2 / float(found.plus + found.minus)
    p = smallest
    if found.stretch(smallest) > touching:
        log_p = optimize.brentq(
            lambda log_p: float(found.stretch(math.exp(log_p))) - touching, math.log(smallest), 0
        )
        p = math.exp(log_p)
    if _moved_alike(found):
        # The bound on what the groups hide, and a sign test.
        p = max(p, min(1.0, 2 * max(0.5, 1 - distance) ** found.groups))
    return p


def _seeds_needed(found: Spread, alpha: float) -> int | None:
    """Fewest seeds, more than now, whose interval would leave 0 out; None: not within 1000."""
    if found.seeds == 1 or found.mean == 0:
        return None
    seeds = np.arange(found.seeds + 1, MOST_SEEDS + 1)
    settled = found.stretch(alpha, seeds) * (found.plus + found.minus) < found.mean**2
    return int(seeds[np.argmax(settled)]) if settled.any() else None


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p values after S. Holm's correction (1979) for the number of comparisons, in their order.

    NaN (no comparison) stays NaN and does not count.
    """
    p = np.asarray(p, np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    factor = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1)
    return adjusted


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The differences of one table, judged by Holm's p; each also says the seeds that takes.

    Seeds needed are counted at alpha / comparisons, the strictest level that Holm may ask.
    """
    adjusted = holm([one.p for one in differences])
    alpha = ALPHA / max(len(differences), 1)
    judged = []
    for one, p in zip(differences, adjusted, strict=True):
        again = _judged(one, float(p), alpha)
        # McNemar's note stays: how it was tested did not change.
        judged.append(
            replace(again, p=float(p), note=one.note if one.too_few_seeds else again.note)
        )
    return judged


def _note(found: Spread, more: str = "") -> str:
    still = not float(found.variance)
    notes = (
        ONE_SEED * (found.seeds == 1),
        ONE_GROUP * (found.groups == 1),
        NO_SPREAD * still,
        more,
    )
    return "; ".join(note for note in notes if note)


def _seeds_by_clips(correct: np.ndarray, groups: Groups, name: str) -> np.ndarray:
    correct = np.asarray(correct)
    if correct.ndim != 2 or not correct.size or correct.shape[1] != len(groups):
        raise UserError(
            f"{name}: shape {correct.shape}; expected (seeds, clips) with at least one of each "
            f"and a group for each clip, {len(groups)} in all"
        )
    return correct.astype(bool)


def _by_group(value_Sn: np.ndarray, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Clips in the order of their groups (S, n), and the groups' sizes (G,)."""
    _, group_n = np.unique(np.asarray(groups), return_inverse=True)
    return value_Sn[:, np.argsort(group_n, kind="stable")].astype(np.int8), np.bincount(group_n)


# --- Two runs compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassChange:
    """One class before and after: right answers of its clips (over all seeds)."""

    name: str
    clips: int
    right_before: int
    right_after: int
    seeds: int = 1
    difference: Difference | None = None  # after minus before, where groups were given

    @property
    def before(self) -> float:
        """Accuracy in the first run."""
        return self.right_before / (self.clips * self.seeds)

    @property
    def after(self) -> float:
        """Accuracy in the second run."""
        return self.right_after / (self.clips * self.seeds)


def class_changes(
    pred_a: np.ndarray,
    pred_b: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    groups: Groups | None = None,
) -> tuple[list[ClassChange], list[ClassChange], list[ClassChange]]:
    """Classes that improved from a to b, worsened, stayed; the largest change first.

    Args:
      pred_a: (n,) or (S, n) predicted classes.
      pred_b: the same of b, for the same clips.
      labels: (n,).
      groups: (n,); where given, each change carries its paired interval.
    """
    pred_a, pred_b, labels = np.atleast_2d(pred_a), np.atleast_2d(pred_b), np.asarray(labels)
    if pred_a.shape != pred_b.shape or pred_a.shape[1] != len(labels):
        raise UserError(
            f"predictions: shapes {pred_a.shape} and {pred_b.shape} for {len(labels)} labels; "
            "expected the same clips and seeds in both"
        )
    right_a, right_b = pred_a == labels, pred_b == labels
    changes = []
    for k in np.unique(labels):
        a, b = right_a[:, labels == k], right_b[:, labels == k]
        between = None if groups is None else paired(b, a, np.asarray(groups)[labels == k])
        changes.append(
            ClassChange(classes[k], a.shape[1], int(a.sum()), int(b.sum()), len(a), between)
        )
    changes.sort(key=lambda c: (-abs(c.after - c.before), c.name))
    improved = [c for c in changes if c.right_after > c.right_before]
    worsened = [c for c in changes if c.right_after < c.right_before]
    return improved, worsened, [c for c in changes if c.right_after == c.right_before]


def confusions_by_type(
    counts: np.ndarray, classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]] | None:
    """Confusions within and across UCF-101's five action types, most frequent first.

    Within a type a confusion is easily understood; across types it is not. None where a class is
    not UCF-101's.
    """
    types = [ucf_types.type_of(name) for name in classes]
    if None in types:
        return None
    counts = np.array(counts)
    np.fill_diagonal(counts, 0)
    sorted_: dict[str, list[dict[str, Any]]] = {"within": [], "across": []}
    for cell in np.argsort(-counts.ravel(), kind="stable")[: np.count_nonzero(counts)]:
        i, j = divmod(int(cell), len(classes))
        pair: Mapping[str, Any] = {
            "true": classes[i],
            "predicted": classes[j],
            "count": int(counts[i, j]),
            "types": (types[i], types[j]),
        }
        sorted_["within" if types[i] == types[j] else "across"].append(dict(pair))
    return sorted_
