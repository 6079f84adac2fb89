"""The jackknife over recordings, beside what is known of a mean."""

import numpy as np
import pytest

from vidrec.evaluation import resampling, statistics
from vidrec.evaluation.resampling import Values


def mean_values(seeds, recordings, clips=4, spread=(1.0, 0.0), seed=0):
    """Figures that are means over clips, of recordings of one size; and their answers."""
    rng = np.random.default_rng(seed)
    by_group, by_seed = spread
    groups = np.repeat(np.arange(recordings), clips)
    answers = 0.1 * rng.normal(size=(seeds, len(groups)))
    answers += by_group * 0.1 * rng.normal(size=recordings)[groups]
    answers += by_seed * 0.1 * rng.normal(size=(seeds, 1)) + 0.5
    return (
        resampling.values(lambda s, chosen: answers[s, chosen].mean(), seeds, groups),
        answers,
        groups,
    )


def test_of_a_mean_the_variance_by_recordings_is_that_of_their_means():
    values, answers, groups = mean_values(1, 9)
    parts = resampling.spread(values, len(groups))
    means = [answers[0, groups == g].mean() for g in range(9)]
    assert parts.var_groups == pytest.approx(np.var(means, ddof=1) / 9)
    assert parts.var_seeds == 0
    assert parts.df() == pytest.approx(8)
    low, high = resampling.difference_bounds(parts, 0.05)
    half = 2.306004 * np.sqrt(np.var(means, ddof=1) / 9)  # Student's t of 8 degrees of freedom
    assert (low, high) == pytest.approx((parts.mean - half, parts.mean + half), rel=1e-5)


def test_seeds_add_what_they_do_to_all_recordings():
    values, answers, groups = mean_values(6, 30, spread=(1.0, 5.0))
    parts = resampling.spread(values, len(groups))
    whole = answers.mean(1).var(ddof=1) / 6
    assert 0.9 * whole < parts.var_seeds <= whole
    alike, *_ = mean_values(6, 30, spread=(1.0, 0.0))
    assert resampling.spread(alike, 120).var_seeds < 0.02 * parts.var_seeds
    more = parts.squared_half_width(0.05, seeds=24)
    assert more < parts.squared_half_width(0.05)
    assert parts.squared_half_width(0.05, seeds=6) == parts.squared_half_width(0.05)


def test_intervals_of_shares_hold_the_estimate_and_stay_within_0_and_1():
    rng = np.random.default_rng(0)
    for _ in range(200):
        seeds, groups = int(rng.integers(1, 5)), int(rng.integers(1, 9))
        level = rng.choice([0.01, 0.5, 0.99, 1.0])
        whole = np.clip(level + 0.02 * rng.normal(size=seeds), 0, 1)
        without = np.clip(whole[:, None] + 0.02 * rng.normal(size=(seeds, groups)), 0, 1)
        interval = statistics.share_interval(Values(whole, without), 4 * groups)
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        assert interval.high > interval.low
        assert (interval.sd_seeds is None) == (seeds == 1)


def test_a_difference_is_paired_and_judged_as_accuracies_are():
    base, *_ = mean_values(3, 20)
    better = Values(base.whole_S + 0.02, base.without_SG + 0.02)
    gap = statistics.share_difference(better, base, 80)
    assert gap.mean == pytest.approx(0.02)
    assert "no spread seen" in gap.note
    other, *_ = mean_values(3, 20, seed=1)
    apart = statistics.share_difference(other, base, 80)
    assert apart.low < apart.mean < apart.high
    assert apart.within_noise == (apart.low < 0 < apart.high)
    assert (apart.p > 0.05) == apart.within_noise
    same = statistics.share_difference(base, base, 80)
    assert (same.mean, same.p, same.within_noise) == (0.0, 1.0, True)
    assert statistics.corrected([apart, gap])[0].p >= apart.p


def test_many_recordings_are_left_out_in_bunches():
    names = np.array([f"r{i:04d}" for i in range(1000)])
    numbered = resampling.recordings(names)
    assert numbered.total == resampling.MOST
    assert np.ptp(np.bincount(numbered.number_n)) <= 1
    few = resampling.recordings(np.array(["b", "a", "b"]))
    assert (few.number_n.tolist(), few.total) == ([1, 0, 1], 2)
