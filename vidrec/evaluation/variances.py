"""Estimate the variance of a mean over seeds and clips by its sources, and its score interval.

docs/explanation/statistics.md derives each step. Every function takes answers of one experiment
or, with leading axes, of many simulated experiments (benchmarks/coverage.py).

Dimension letters: S seeds, n clips, G groups of clips (recordings), J steps of the intraclass
correlation from 0 to 1.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ALPHA = 0.05

# Assumptions where the answers say little. The values were chosen so that intervals contain the
# true value in the simulations of benchmarks/coverage.py, and for no other reason.
#
# Single answers add to the variance of the seeds' means. This share of the addition is subtracted,
# by the number of seeds. Subtracting all of it would make too many intervals too narrow.
SUBTRACTED_SHARE = {2: 0.0, 3: 2 / 3}
SUBTRACTED_SHARE_ELSE = 0.8
# The seeds' t quantile is taken at this multiple of alpha, by the number of seeds.
SEEDS_LEVEL = {3: 1.2}
SEEDS_LEVEL_ELSE = 0.8
ICC_STEPS = 40


@dataclass(frozen=True)
class Prior:
    """The prior: what is assumed before any answer is seen.

    Attributes:
        agreement: correlation of two seeds' answers to one clip; weighs as much as one mistake.
        icc_beta: second parameter of the beta distribution of the intraclass correlation.
        icc_beta_unseen: what is added to `icc_beta` if no mistake was seen.
    """

    agreement: float
    icc_beta: float
    icc_beta_unseen: float


ACCURACY_PRIOR = Prior(0.15, 0.8, 12)
# Rows share a recording's difficulty, so clips of a recording are less alike in differences.
DIFFERENCE_PRIOR = Prior(0.1, 1.3, 30)


class Design(NamedTuple):
    """The size of an experiment."""

    seeds: int
    clips: int
    groups: int


@dataclass(frozen=True)
class Variances:
    """The mean over seeds and clips, and its variance over experiments.

    Attributes:
        mean: the mean answer.
        plus: share of the answers that are 1.
        minus: share of the answers that are -1, in differences.
        variance: variance of one answer.
        var_seeds: variance of the mean due to seeds, estimated by leaving one out.
        var_groups: variance of the mean due to groups, estimated by leaving one out.
        seeds_alone: variance of the mean due to effects of a seed on all clips, in units of
            `variance`.
        agreement: correlation of two seeds' answers to one clip.
        icc_weight_J: posterior weight of each intraclass correlation of the clips of a group.
        design_effect_J: ratio of the variance of the mean with each of these correlations to that
            with independent clips.
        df_groups: degrees of freedom of `var_groups`.
        design: numbers of seeds, clips and groups.
    """

    mean: np.ndarray
    plus: np.ndarray
    minus: np.ndarray
    variance: np.ndarray
    var_seeds: np.ndarray
    var_groups: np.ndarray
    seeds_alone: np.ndarray
    agreement: np.ndarray
    icc_weight_J: np.ndarray
    design_effect_J: np.ndarray
    df_groups: float | np.ndarray
    design: Design

    @property
    def df_seeds(self) -> int:
        """Return the degrees of freedom of `var_seeds`."""
        return max(self.design.seeds - 1, 1)

    @property
    def df(self) -> np.ndarray:
        """Return Satterthwaite's degrees of freedom of the whole variance; 0 without spread."""
        whole = self.var_seeds + self.var_groups
        parts = self.var_seeds**2 / self.df_seeds + self.var_groups**2 / self.df_groups
        return np.divide(whole**2, parts, out=np.zeros_like(whole), where=parts > 0)

    def squared_half_width(self, alpha: float, seeds: int | np.ndarray | None = None) -> np.ndarray:
        """Return the square of the interval's half width, in units of one answer's variance.

        Args:
            alpha: share of experiments that the interval may miss.
            seeds: number of seeds instead of the experiment's own. An experiment of one seed says
                nothing about the variance between seeds, which is then left out.
        """
        from scipy import special  # slow to import

        seeds = self.design.seeds if seeds is None else seeds
        by_clips = (1 + (np.asarray(seeds) - 1) * self.agreement) / (seeds * self.design.clips)
        quantile = _mixed_quantile(self.design_effect_J, self.icc_weight_J, alpha)
        clips = quantile**2 * by_clips
        if self.design.seeds == 1:
            return clips
        known = [SEEDS_LEVEL.get(n, SEEDS_LEVEL_ELSE) for n in np.atleast_1d(seeds)]
        level = np.minimum(alpha * np.reshape(known, np.shape(seeds)), 1)
        t_seeds = special.stdtrit(np.asarray(seeds) - 1, level / 2)
        return clips + t_seeds**2 * self.seeds_alone * self.design.seeds / seeds

    @property
    def seeds_share(self) -> np.ndarray:
        """Return the share of the mean's variance that is due to effects of seeds on all clips."""
        seeds, clips, _ = self.design
        by_clips = (1 + (seeds - 1) * self.agreement) / (seeds * clips)
        clip_part = (self.icc_weight_J * self.design_effect_J).sum(axis=-1) * by_clips
        return self.seeds_alone / (self.seeds_alone + clip_part)

    def hidden_by_groups(self, alpha: float) -> float:
        """Return the half width of an interval if all groups agree: 1 - (alpha / 2)^(1 / G).

        If a larger share of all groups differed, G groups would show it with a probability above
        1 - alpha / 2.
        """
        return 1 - (alpha / 2) ** (1 / self.design.groups)

    @property
    def moved_alike(self) -> np.ndarray:
        """Return whether the mean is the same for every seed and every group, and not 0."""
        return (self.var_seeds == 0) & (self.var_groups == 0) & (self.mean != 0)


def estimate(value_Sn: np.ndarray, size_G: np.ndarray, prior: Prior = ACCURACY_PRIOR) -> Variances:
    """Estimate what seeds, groups and clips add to the variance of the mean.

    Args:
        value_Sn: (…, S, n) answers to clips sorted by group: 1 or 0, or differences of these.
        size_G: number of clips of each group.
        prior: the prior of accuracies or of differences.
    """
    seeds, clips = value_Sn.shape[-2:]
    design = Design(seeds, clips, len(size_G))
    answers = seeds * clips
    seed_S = value_Sn.mean(axis=-1)
    clip_n = value_Sn.mean(axis=-2)
    first_G = np.cumsum(size_G) - size_G
    plus, minus = ((value_Sn == sign).sum(axis=(-2, -1)) / answers for sign in (1, -1))
    mean = np.asarray(plus - minus)
    away_G = np.add.reduceat(clip_n, first_G, axis=-1) / size_G - mean[..., None]
    # Sums of squares: of all answers, of the seeds' means, of the clips' means.
    whole = answers * (plus + minus - mean**2)
    by_seeds = clips * ((seed_S - mean[..., None]) ** 2).sum(axis=-1)
    by_clips = seeds * ((clip_n - mean[..., None]) ** 2).sum(axis=-1)
    variance = _without_rounding(whole / answers)
    var_seeds = _without_rounding(by_seeds / (answers * max(seeds - 1, 1)))
    # The number of equal groups that would give the same information: unequal groups give less.
    weight_G = size_G / clips
    effective = (weight_G**2).sum() ** 2 / (weight_G**4).sum()
    rest = np.maximum(whole - by_seeds - by_clips, 0) / (max(clips - 1, 1) * answers)
    group_SG = np.add.reduceat(value_Sn, first_G, axis=-1, dtype=np.float64) / size_G
    own_SG = group_SG - seed_S[..., None] - away_G[..., None, :]
    rest = np.maximum(rest, _seed_group_variance(own_SG, weight_G)) / max(seeds - 1, 1)
    icc_weight_J, design_effect_J = _intraclass_correlation(
        _Groups(away_G, size_G, by_clips / seeds), seeds, variance, prior
    )
    clip_square = by_clips / max(clips - 1, 1)
    return Variances(
        mean=mean,
        plus=plus,
        minus=minus,
        variance=variance,
        var_seeds=var_seeds,
        var_groups=_without_rounding(_jackknife(away_G, weight_G)),
        seeds_alone=_seeds_alone(var_seeds, rest, variance, design),
        agreement=_agreement(clip_square, variance, design, prior.agreement),
        icc_weight_J=icc_weight_J,
        design_effect_J=design_effect_J,
        df_groups=max(effective - 1, 1),
        design=design,
    )


def _without_rounding(variance: np.ndarray) -> np.ndarray:
    # Rounding leaves about 1e-32 if all values are equal; one different clip of a million leaves
    # 1e-14.
    return np.where(variance < 1e-20, 0.0, variance)


def _ratio(value: np.ndarray, by: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """Return `value / by`, and `empty` where `by` is 0."""
    full = np.full(np.broadcast_shapes(np.shape(value), np.shape(by)), empty)
    return np.divide(value, by, out=full, where=by > 0)


def _jackknife(away_G: np.ndarray, weight_G: np.ndarray) -> np.ndarray:
    """Return the variance of the mean due to groups, estimated by leaving one out.

    Args:
        away_G: distance of each group's mean from the mean.
        weight_G: share of the clips in each group.
    """
    groups = len(weight_G)
    if groups == 1:
        return np.zeros(away_G.shape[:-1])
    # Without group g the mean moves by w_g (mean - value_g) / (1 - w_g).
    moved_G = weight_G / (1 - weight_G) * away_G
    return (groups - 1) / groups * (moved_G**2).sum(axis=-1)


def _seed_group_variance(own_SG: np.ndarray, weight_G: np.ndarray) -> np.ndarray:
    """Return S - 1 times the variance of the mean due to the interaction of seeds and groups."""
    seeds, groups = own_SG.shape[-2:]
    squares = ((weight_G * own_SG) ** 2).sum(axis=(-2, -1))
    return squares / seeds * groups / max(groups - 1, 1)


def _information(variance: np.ndarray, answers: float) -> np.ndarray:
    """Return the information in the spread of sums of answers, relative to normal values.

    The variance of a variance grows with the kurtosis, which is large for sums with few mistakes.

    Args:
        variance: variance of one answer.
        answers: number of answers in a sum.
    """
    events = answers * variance
    return _ratio(2 * events, 2 * events + np.maximum(1 - 6 * variance, 0))


def _agreement(
    mean_square: np.ndarray, variance: np.ndarray, design: Design, prior: float
) -> np.ndarray:
    """Return the correlation of two seeds' answers to one clip, near `prior` with few mistakes."""
    seeds, clips, _ = design
    observed = np.clip((_ratio(mean_square, variance, 1.0) - 1) / max(seeds - 1, 1), 0, 1)
    events = seeds * clips * variance
    return (events * observed + prior) / (events + 1)


def _seeds_alone(
    var_seeds: np.ndarray, rest: np.ndarray, variance: np.ndarray, design: Design
) -> np.ndarray:
    """Return the variance of the mean due to seeds alone, in units of one answer's variance.

    The interaction of seeds with clips or groups is in the variance due to clips as well, so a
    share of it is subtracted. One mistake alone says nothing about seeds.

    Args:
        var_seeds: variance of the mean due to all differences between seeds.
        rest: variance of the mean due to the interaction of seeds with clips or groups.
        variance: variance of one answer.
        design: numbers of seeds, clips and groups.
    """
    seeds, clips, _ = design
    if seeds == 1:
        return np.zeros(np.shape(variance))
    events = seeds * clips * variance
    share = SUBTRACTED_SHARE.get(seeds, SUBTRACTED_SHARE_ELSE)
    share = share + (1 - share) * np.minimum(1, _ratio(np.ones_like(events), events, 1.0))
    more = np.maximum(var_seeds - share * rest, 0)
    return _ratio(more, variance) * _information(variance, clips)


class _Groups(NamedTuple):
    """Distances of groups from the mean.

    Attributes:
        away_G: (…, G) distance of each group's mean.
        size_G: number of clips of each group.
        squares: (…) sum over clips of the squared distance of the clip's mean over seeds.
    """

    away_G: np.ndarray
    size_G: np.ndarray
    squares: np.ndarray


def _intraclass_correlation(
    data: _Groups, seeds: int, variance: np.ndarray, prior: Prior
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior weight of each intraclass correlation, and its design effect.

    The likelihood is that of the one-way random model with unequal groups, the variance integrated
    out (restricted maximum likelihood). The fewer mistakes were seen, the more the prior favours
    small correlations.

    Args:
        data: the groups' distances.
        seeds: number of seeds.
        variance: variance of one answer.
        prior: the prior of the correlation.
    """
    from scipy import special  # slow to import

    away_G, size_G, squares = data
    clips, groups = int(size_G.sum()), len(size_G)
    if groups == 1:
        return np.ones((*variance.shape, 1)), np.ones((*variance.shape, 1))
    icc_J = (np.arange(ICC_STEPS) + 0.5) / ICC_STEPS
    design_effect_J = 1 + icc_J * ((size_G**2).sum() / clips - 1)
    few = 1 / (1 + seeds * clips * variance / 0.7)[..., None]
    beta = prior.icc_beta + prior.icc_beta_unseen * few**2
    edges = np.linspace(0, 1, ICC_STEPS + 1)
    prior_J = np.diff(special.betainc(0.5 + 0.5 * few, beta, edges), axis=-1)
    # Variance of a group's mean, relative to the variance of one clip.
    var_JG = (1 - icc_J[:, None]) / size_G + icc_J[:, None]
    sum_J = (1 / var_JG).sum(axis=1)
    between_J = (away_G**2) @ (1 / var_JG).T - (away_G @ (1 / var_JG).T) ** 2 / sum_J
    within = np.maximum(squares - (size_G * away_G**2).sum(axis=-1), 0)
    square_J = np.maximum(between_J, 0) + within[..., None] / (1 - icc_J)
    seen = squares[..., None] > 1e-12
    deviance_J = (clips - groups) * np.log(1 - icc_J) + np.log(var_JG).sum(axis=1) + np.log(sum_J)
    deviance_J = deviance_J + (clips - 1) * np.log(np.where(seen, np.maximum(square_J, 1e-12), 1))
    flattened = np.where(seen, _information(variance, seeds * clips / groups)[..., None], 0)
    logs = -0.5 * flattened * deviance_J
    weight_J = prior_J * np.exp(logs - logs.max(axis=-1, keepdims=True))
    weight_J /= weight_J.sum(axis=-1, keepdims=True)
    # Correlated clips vary less about their own mean than about the true mean.
    hidden_J = np.clip(_ratio(square_J, squares[..., None] * np.ones(ICC_STEPS), 1.0), 1, 3)
    return weight_J, design_effect_J * hidden_J**flattened


def _mixed_quantile(var_J: np.ndarray, weight_J: np.ndarray, alpha: float) -> np.ndarray:
    """Return the two-sided quantile of a mixture of normal values, with variances `var_J`.

    Args:
        var_J: variance of each component.
        weight_J: weight of each component.
        alpha: probability outside of both quantiles.
    """
    from scipy import special  # slow to import

    low, high = (-special.ndtri(alpha / 2) * np.sqrt(end(var_J, -1)) for end in (np.min, np.max))
    scale_J = 1 / np.sqrt(var_J)
    at = high
    for _ in range(8):  # Newton's steps on the logarithm, kept between `low` and `high`
        depth_J = at[..., None] * scale_J
        outside = 2 * (weight_J * special.ndtr(-depth_J)).sum(axis=-1)
        density = 2 * (weight_J * scale_J * np.exp(-(depth_J**2) / 2)).sum(axis=-1)
        low, high = np.where(outside > alpha, at, low), np.where(outside > alpha, high, at)
        step = at + np.log(outside / alpha) * outside * math.sqrt(2 * math.pi) / density
        at = np.where((step >= low) & (step <= high), step, (low + high) / 2)
    return at


# --- Score intervals ------------------------------------------------------------------------------


class Bounds(NamedTuple):
    """Ends of the interval of each experiment."""

    low: np.ndarray
    high: np.ndarray


def accuracy_bounds(parts: Variances, alpha: float = ALPHA) -> Bounds:
    """Return E. B. Wilson's score interval of the expected accuracy, within 0 … 1.

    It contains all p with (mean - p)² <= k · p (1 - p), where k is the squared half width.
    """
    k, mean = parts.squared_half_width(alpha), parts.mean
    half = np.sqrt(k * mean * (1 - mean) + k**2 / 4)
    low, high = ((mean + k / 2 + sign * half) / (1 + k) for sign in (-1, 1))
    # The mean must be inside the interval despite rounding.
    return Bounds(
        np.clip(np.minimum(low, mean), 0, 1),
        np.clip(np.maximum(high, mean), 0, 1),
    )


def difference_bounds(parts: Variances, alpha: float = ALPHA) -> Bounds:
    """Return T. Tango's score interval of a difference of two accuracies, within -1 … 1."""
    k = parts.squared_half_width(alpha)
    low = _lower_score(parts.plus, parts.minus, k)
    high = -_lower_score(parts.minus, parts.plus, k)
    # With fewer than six groups, not even a sign test can be significant at 5 %.
    too_few = 2 * 0.5**parts.design.groups > alpha
    plain = 1.0 if too_few else parts.hidden_by_groups(alpha)
    half = np.where(parts.moved_alike, plain, 0)
    return Bounds(
        np.clip(np.minimum(low, parts.mean - half), -1, 1),
        np.clip(np.maximum(high, parts.mean + half), -1, 1),
    )


def _lower_score(plus: np.ndarray, minus: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the least difference D with (plus - minus - D)² <= k · (variance given D).

    The variance is the maximum-likelihood one (T. Tango, Statistics in Medicine 17, 1998).
    """
    mean = plus - minus
    low, high = np.full(np.shape(mean), -1.0), np.array(mean, np.float64)
    for _ in range(50):
        middle = (low + high) / 2
        linear = (2 - mean) * middle - plus - minus
        root = np.sqrt(np.maximum(linear**2 + 8 * minus * middle * (1 - middle), 0))
        variance = (root - linear) / 2 + middle * (1 - middle)
        outside = (mean - middle) ** 2 > k * variance
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    return high
