"""What saved logits are worth: video decisions, intervals, paired tests, two runs compared.

Everything here runs on the host after training, so that an axis which touches only `eval` is scored
from the logits of one training. docs/statistics.md says in plain words what the intervals mean
and how often they were right on generated results.

Dimension letters: S seeds, G groups of clips, M clips cut from videos, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from vidrec import metrics
from vidrec.datasets import ucf_types
from vidrec.errors import UserError

Groups = Sequence[str] | np.ndarray  # (n,), the source of each clip

ALPHA = 0.05
# An interval for an accuracy is computed at 96 % to be right 95 % of the time: where seeds differ
# much their accuracies are skewed, and a symmetric width misses on one side (docs/statistics.md).
ACCURACY_ALPHA = 0.04
MOST_SEEDS = 1000
ONE_SEED = "one seed: the interval leaves seeds out"
ONE_GROUP = "one group of clips: the interval leaves new clips out"
NO_SPREAD = "no spread seen: bounded by the number of groups alone"
NO_SEEDS_HELP = "more seeds alone would not settle it: more groups of clips would"


# --- From clips to videos -------------------------------------------------------------------------


class Decision(NamedTuple):
    """What a model decides of videos: one definition for training, evaluation and prediction.

    Attributes:
        scores_nK: rank the classes.
        log_probs_nK: logarithms of the probabilities that prediction prints; -inf for no vote.
    """

    scores_nK: np.ndarray
    log_probs_nK: np.ndarray


def decide(
    scores_MK: np.ndarray,
    weight_M: np.ndarray | float,
    inference: str = "once",
    video_M: np.ndarray | None = None,
    videos: int = 0,
) -> Decision:
    """Decides videos by their scores, or by those of their windows.

    Args:
      scores_MK: of `metrics.clip_scores`, or logits.
      weight_M: what the weights of the steps add up to in each; 1 for logits.
      inference: as of the settings: "once" takes each line for a video.
      video_M: index of the video that each window was cut from.
    """
    if inference == "once":
        return Decision(scores_MK, metrics.log_probabilities(scores_MK, weight_M))
    assert video_M is not None
    total_nK = average(scores_MK, video_M, videos)
    if inference == "vote":
        windows = np.bincount(video_M, minlength=videos)
        return by_votes(votes(scores_MK, video_M, videos), total_nK, windows)
    weight_M = np.broadcast_to(np.asarray(weight_M, np.float64), len(video_M))
    weight = np.bincount(video_M, weight_M, minlength=videos)
    return Decision(total_nK, metrics.log_probabilities(total_nK, weight))


def by_votes(votes_nK: np.ndarray, total_nK: np.ndarray, windows_n: np.ndarray) -> Decision:
    """Decides videos by the votes of so many windows, ties broken by summed log-probabilities."""
    with np.errstate(divide="ignore"):
        shares = np.log(votes_nK / np.asarray(windows_n)[:, None])
    return Decision(_ranked(votes_nK, total_nK), np.where(np.isnan(total_nK), np.nan, shares))


def windows(length: int, clip: int, stride: int) -> np.ndarray:
    """First frames of the clips of a video: 0, stride, … until one reaches the last frame.

    The last clip may pass the end; the frame rule continues the video there.
    """
    for name, value in (("video length", length), ("eval.clip", clip), ("eval.stride", stride)):
        if value < 1:
            raise UserError(f"{name}: {value} frames; expected at least 1")
    if stride > clip:
        raise UserError(
            f"eval.stride: {stride} leaves frames out between clips of {clip}; "
            f"expected at most eval.clip"
        )
    count = 1 + max(0, math.ceil((length - clip) / stride))
    return stride * np.arange(count)


def average(scores_MK: np.ndarray, video_M: np.ndarray, videos: int) -> np.ndarray:
    """Video scores (videos, K): the sum of the clips' scores.

    Args:
      scores_MK: of `metrics.clip_scores`: the weighted sum of log-probabilities over steps.
      video_M: index of the video that each clip was cut from.
    """
    scores_MK, video_M = np.asarray(scores_MK, np.float64), np.asarray(video_M)
    _each_video_has_clips(video_M, videos)
    total = np.zeros((videos, scores_MK.shape[1]))
    np.add.at(total, video_M, scores_MK)
    return total


def vote(scores_MK: np.ndarray, video_M: np.ndarray, videos: int) -> np.ndarray:
    """Video scores (videos, K): clips that chose the class, ties broken by `average`.

    The whole part is the number of votes; the fraction orders equal votes by summed
    log-probability. So the largest is the decision, and the five largest are the top five. A window
    whose scores are not numbers makes its video's so.
    """
    scores_MK = np.asarray(scores_MK)
    return _ranked(votes(scores_MK, video_M, videos), average(scores_MK, video_M, videos))


def votes(scores_MK: np.ndarray, video_M: np.ndarray, videos: int) -> np.ndarray:
    """How many windows of each video chose each class, (videos, K)."""
    counted = np.zeros((videos, scores_MK.shape[1]))
    np.add.at(counted, (np.asarray(video_M), scores_MK.argmax(axis=1)), 1)
    return counted


def _ranked(votes_nK: np.ndarray, total_nK: np.ndarray) -> np.ndarray:
    # Ranks instead of the sums themselves: exact, and always less than one vote.
    order = np.argsort(-total_nK, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    classes = total_nK.shape[1]
    scores = votes_nK + (classes - 1 - rank) / classes
    return np.where(np.isnan(total_nK), np.nan, scores)


def clip_and_video_accuracy(
    scores_MK: np.ndarray, video_M: np.ndarray, labels: np.ndarray, inference: str
) -> dict[str, float]:
    """`clip_accuracy` (each clip judged alone) and `video_accuracy` (clips judged together)."""
    joined = {"clips": average, "vote": vote}[inference]
    scores = joined(scores_MK, video_M, len(labels))
    return {
        "clip_accuracy": float(np.mean(metrics.predictions(scores_MK) == labels[video_M])),
        "video_accuracy": float(np.mean(metrics.predictions(scores) == labels)),
    }


def _each_video_has_clips(video_M: np.ndarray, videos: int) -> None:
    counts = np.bincount(video_M, minlength=videos)
    if len(counts) > videos or not counts.all():
        raise ValueError(f"video_M names {np.count_nonzero(counts)} videos; expected all {videos}")


# --- Seeds and groups of clips: how much a figure moves -------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and clips, and the two reasons why another experiment would differ.

    Each variance is that of the mean, estimated by leaving one seed, or one group, out. Fields may
    carry leading axes (of simulated experiments).
    """

    mean: np.ndarray
    var_seeds: np.ndarray
    var_groups: np.ndarray
    var_both: np.ndarray  # of what is particular to a seed and group; counted in both of the above
    df_seeds: float | np.ndarray
    df_groups: float | np.ndarray
    seeds: int
    groups: int

    def half_width(self, alpha: float) -> np.ndarray:
        """Half of an interval that misses at most a share `alpha`.

        Each source gets its own t quantile before the squares are added. For independent normal
        means this never misses more often than it says (K. S. Banerjee, Sankhya 22, 1960). One t
        with Satterthwaite's degrees of freedom does: the chance that makes a variance too small
        makes the degrees of freedom too large.
        """
        t_seeds = -special.stdtrit(self.df_seeds, alpha / 2)
        t_groups = -special.stdtrit(self.df_groups, alpha / 2)
        return np.hypot(t_seeds * np.sqrt(self.var_seeds), t_groups * np.sqrt(self.var_groups))

    def bound(self, alpha: float) -> float:
        """Half width where no spread was seen: what this many groups may hide."""
        return 1 - (alpha / 2) ** (1 / self.groups)

    @property
    def df(self) -> np.ndarray:
        """Satterthwaite's degrees of freedom of the whole variance; 0 where no spread was seen."""
        whole = self.var_seeds + self.var_groups
        parts = self.var_seeds**2 / self.df_seeds + self.var_groups**2 / self.df_groups
        return np.divide(whole**2, parts, out=np.zeros_like(whole), where=parts > 0)


def spread(total_SG: np.ndarray, size_G: np.ndarray) -> Spread:
    """Variance of the mean over clips, due to seeds and due to groups.

    Args:
      total_SG: (…, S, G) sum over the clips of a group (right answers, or their difference).
      size_G: (G,) clips of each group.
    """
    seeds, groups = total_SG.shape[-2:]
    weight_G = size_G / size_G.sum()
    value_SG = total_SG / size_G
    seed_S = value_SG @ weight_G
    group_G = value_SG.mean(axis=-2)
    mean = np.asarray(seed_S.mean(axis=-1))
    var_seeds = seed_S.var(axis=-1, ddof=1) / seeds if seeds > 1 else np.zeros_like(mean)
    own_SG = value_SG - group_G[..., None, :] - seed_S[..., None] + mean[..., None, None]
    if groups == 1:
        var_groups = var_both = np.zeros_like(mean)
    else:
        # Without group g the mean moves by w_g (mean - value_g) / (1 - w_g).
        moved_G = weight_G / (1 - weight_G) * (group_G - mean[..., None])
        var_groups = (groups - 1) / groups * (moved_G**2).sum(axis=-1)
        pairs = max(seeds * (seeds - 1), 1)
        var_both = ((weight_G * own_SG) ** 2).sum(axis=(-2, -1)) / pairs * groups / (groups - 1)
    # As many equal groups as would weigh the same: unequal ones tell less.
    effective = (weight_G**2).sum() ** 2 / (weight_G**4).sum()
    return Spread(
        mean=mean,
        var_seeds=_rounded(var_seeds),
        var_groups=_rounded(var_groups),
        var_both=_rounded(var_both),
        df_seeds=max(seeds - 1, 1),
        df_groups=max(effective - 1, 1),
        seeds=seeds,
        groups=groups,
    )


def _rounded(variance: np.ndarray) -> np.ndarray:
    # Sums of shares of groups leave about 1e-32 where all values are equal; one clip of a million
    # leaves 1e-14.
    return np.where(variance < 1e-20, 0.0, variance)


def accuracy_bounds(found: Spread) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of the expected accuracy, within 0 … 1; symmetric on the logit scale."""
    mean = found.mean
    half = found.half_width(ACCURACY_ALPHA)
    inside = np.clip(mean, 1e-12, 1 - 1e-12)
    step = half / (inside * (1 - inside))
    plain = found.bound(ACCURACY_ALPHA)
    low = np.where(half > 0, special.expit(special.logit(inside) - step), mean - plain)
    high = np.where(half > 0, special.expit(special.logit(inside) + step), mean + plain)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def difference_bounds(found: Spread, alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of a difference of two accuracies, within -1 … 1."""
    half = found.half_width(alpha)
    # Below six groups not even a sign test could tell at 5 %.
    plain = found.bound(alpha) if 2 * 0.5**found.groups <= alpha else 1.0
    half = np.where(half > 0, half, plain)
    return np.clip(found.mean - half, -1, 1), np.clip(found.mean + half, -1, 1)


@dataclass(frozen=True)
class Interval:
    """95 % interval for the expected accuracy over new seeds and new groups of clips."""

    mean: float
    low: float
    high: float
    sd_seeds: float | None  # standard deviation of the seeds' accuracies; None of one seed
    df: float  # degrees of freedom of the whole variance: how much the width rests on
    note: str = ""

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
    )


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
    total_SG, size_G = _by_group(a.astype(np.int8) - b, groups)
    found = spread(total_SG, size_G)
    if found.seeds == 1 and size_G.max() == 1:
        return _mcnemar(total_SG[0], found)
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

    distance = abs(float(found.mean))
    if distance == 0:
        return 1.0
    if found.half_width(ALPHA) == 0:
        # Every group moved by the same amount: the bound on what they hide, and a sign test.
        return min(1.0, 2 * max(0.5, 1 - distance) ** found.groups)
    smallest = 1e-30
    if found.half_width(smallest) <= distance:
        return smallest
    log_p = optimize.brentq(
        lambda log_p: float(found.half_width(math.exp(log_p))) - distance, math.log(smallest), 0
    )
    return math.exp(log_p)


def _seeds_needed(found: Spread, alpha: float) -> int | None:
    """Fewest seeds, more than now, whose interval would leave 0 out; None: not within 1000."""
    if found.seeds == 1 or found.mean == 0:
        return None
    seeds = np.arange(found.seeds + 1, MOST_SEEDS + 1)
    # What belongs to seeds shrinks with their number; what belongs to the groups stays.
    share = found.seeds / seeds
    var_groups = max(found.var_groups - found.var_both, 0) + found.var_both * share
    then = replace(
        found, var_seeds=found.var_seeds * share, var_groups=var_groups, df_seeds=seeds - 1
    )
    settled = then.half_width(alpha) < abs(found.mean)
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
    still = float(found.half_width(ALPHA)) == 0
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


def _by_group(values_Sn: np.ndarray, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each group's clips (S, G), and the groups' sizes (G,)."""
    names, group_n = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(group_n, kind="stable")
    size_G = np.bincount(group_n)
    first_G = np.cumsum(size_G) - size_G
    total_SG = np.add.reduceat(values_Sn[:, order].astype(np.int64), first_G, axis=1)
    return total_SG.reshape(-1, len(names)), size_G


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
