"""Compute intervals and differences of any figure by leaving out one recording at a time.

`variances` computes the intervals of accuracies. This module is for figures that are not means over
clips, such as mean average precision or F1 of segments. It needs the figure of each seed, and the
same figure with each recording left out. The spread of the latter says what new recordings would
change (the jackknife). The spread over the seeds says what new seeds would change. See
docs/explanation/statistics.md for how often these intervals contain the true value.

Dimension letters: S seeds, n clips, G recordings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vidrec.evaluation.variances import SUBTRACTED_SHARE, SUBTRACTED_SHARE_ELSE, Design

MOST = 300  # more recordings than this are left out in this number of bunches, not one by one

# A function from the number of a seed and the indices of clips to the figure.
Figure = Callable[[int, np.ndarray], float]


class Recordings(NamedTuple):
    """The recordings of clips, numbered.

    Attributes:
        number_n: (n,) number of each clip's recording.
        total: G, the number of recordings; if there are more than `MOST`, of bunches of them.
    """

    number_n: np.ndarray
    total: int


def recordings(groups: np.ndarray) -> Recordings:
    """Return each clip's recording number; more than `MOST` recordings form `MOST` bunches."""
    names, number_n = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) <= MOST:
        return Recordings(number_n, len(names))
    # Sorted by name, recordings of one class are often neighbours: they go to different bunches.
    return Recordings(number_n % MOST, MOST)


class Values(NamedTuple):
    """A figure of every seed.

    Attributes:
        whole_S: the figure on all clips.
        without_SG: the figure with each recording left out.
    """

    whole_S: np.ndarray
    without_SG: np.ndarray


def values(figure: Figure, seeds: int, groups: np.ndarray) -> Values:
    """Return the values of a figure for each seed, also with each recording left out."""
    clips, of_clip = np.arange(len(groups)), recordings(groups)
    whole_S = np.array([figure(seed, clips) for seed in range(seeds)])
    without_SG = np.array(
        [
            [
                figure(seed, clips[of_clip.number_n != recording])
                for recording in range(of_clip.total)
            ]
            for seed in range(seeds)
        ]
    )
    return Values(whole_S, without_SG if of_clip.total > 1 else whole_S[:, None])


@dataclass(frozen=True)
class Spread:
    """The variance of a mean over seeds between experiments; see `variances.Variances`.

    Attributes:
        mean: mean of the figure over seeds.
        var_groups: variance of the mean due to recordings, estimated by leaving one out.
        var_seeds: variance of the mean due to effects of a seed that all recordings share.
        design: numbers of seeds, clips and recordings.
    """

    mean: float
    var_groups: float
    var_seeds: float
    design: Design
    plus: float = 1.0  # half widths are in units of the figure itself
    minus: float = 0.0

    @property
    def variance(self) -> float:
        """Return the variance of the mean; 0 if all seeds and recordings agree."""
        return self.var_groups + self.var_seeds

    @property
    def moved_alike(self) -> bool:
        """Return whether a difference is the same for every seed and recording, and not 0."""
        return not self.variance and self.mean != 0

    def hidden_by_groups(self, alpha: float) -> float:
        """Return the half width of an interval if all recordings agree: 1 - (alpha / 2)^(1 / G).

        If a larger share of all recordings differed, G recordings would show it with a probability
        above 1 - alpha / 2.
        """
        return 1 - (alpha / 2) ** (1 / self.design.groups)

    def df(self, seeds: int | np.ndarray | None = None) -> np.ndarray:
        """Return Satterthwaite's degrees of freedom of the variance for a number of seeds."""
        own, groups = self.design.seeds, max(self.design.groups - 1, 1)
        seeds = np.asarray(own if seeds is None else seeds)
        by_seeds = self.var_seeds * own / seeds
        whole = self.var_groups + by_seeds
        parts = self.var_groups**2 / groups + by_seeds**2 / np.maximum(seeds - 1, 1)
        return np.divide(whole**2, parts, out=np.ones_like(whole), where=parts > 0)

    def squared_half_width(self, alpha: float, seeds: int | np.ndarray | None = None) -> np.ndarray:
        """Return the square of the half width, in units of the figure.

        Args:
            alpha: share of experiments that the interval may miss.
            seeds: number of seeds instead of the experiment's own.
        """
        from scipy import special  # slow to import

        own = self.design.seeds
        whole = self.var_groups + self.var_seeds * own / np.asarray(own if seeds is None else seeds)
        return special.stdtrit(self.df(seeds), alpha / 2) ** 2 * whole


def spread(of: Values, clips: int) -> Spread:
    """Estimate the variance of the mean over seeds: the part of seeds and that of recordings."""
    seeds, groups = of.without_SG.shape
    design = Design(seeds, clips, groups)
    moved_SG = of.whole_S[:, None] - of.without_SG
    moved_SG = moved_SG - moved_SG.mean(axis=1, keepdims=True)
    moved_G = moved_SG.mean(axis=0)
    factor = (groups - 1) / groups
    var_seeds = 0.0
    if seeds > 1:
        # The interaction of seeds and recordings is in the recordings' part already.
        own_SG = moved_SG - moved_G
        rest = factor * float((own_SG**2).sum()) / (seeds - 1)
        share = SUBTRACTED_SHARE.get(seeds, SUBTRACTED_SHARE_ELSE)
        var_seeds = max(float(of.whole_S.var(ddof=1)) - share * rest, 0.0) / seeds
    var_groups = factor * float((moved_G**2).sum())
    return Spread(
        float(of.whole_S.mean()),
        _without_rounding(var_groups),
        _without_rounding(var_seeds),
        design,
    )


def _without_rounding(variance: float) -> float:
    return 0.0 if variance < 1e-20 else variance


class Bounds(NamedTuple):
    """Ends of an interval."""

    low: float
    high: float


def share_bounds(parts: Spread, alpha: float) -> Bounds:
    """Return the interval of a figure from 0 to 1, symmetric on the logit scale."""
    from scipy import special  # slow to import

    mean, half = parts.mean, float(np.sqrt(parts.squared_half_width(alpha)))
    if not parts.variance or not 0 < mean < 1:
        hidden = parts.hidden_by_groups(alpha)
        return Bounds(max(mean - max(half, hidden), 0.0), min(mean + max(half, hidden), 1.0))
    middle, reach = np.log(mean / (1 - mean)), half / (mean * (1 - mean))
    low, high = special.expit([middle - reach, middle + reach])
    return Bounds(float(low), float(high))


def difference_bounds(parts: Spread, alpha: float) -> Bounds:
    """Return the interval of a difference of two figures from 0 to 1."""
    half = float(np.sqrt(parts.squared_half_width(alpha)))
    if parts.moved_alike:
        # With fewer than six recordings, not even a sign test can be significant at 5 %.
        too_few = 2 * 0.5**parts.design.groups > alpha
        half = max(half, 1.0 if too_few else parts.hidden_by_groups(alpha))
    return Bounds(max(parts.mean - half, -1.0), min(parts.mean + half, 1.0))
