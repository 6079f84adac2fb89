"""Intervals and comparisons against literal loops and a known truth."""

import dataclasses
import importlib.util
import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from vidrec.errors import UserError
from vidrec.evaluation import statistics, variances


def load_coverage():
    """The simulation of docs/explanation/statistics.md."""
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_simulation", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# --- Intervals


def experiment(rng, seeds=4, groups=9, chance=0.7):
    """Right or wrong (S, n) and unequal groups in no order."""
    group = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, 9, groups)))
    skill = chance + 0.2 * rng.normal(size=(1, groups)) + 0.1 * rng.normal(size=(seeds, 1))
    return rng.random((seeds, len(group))) < skill[:, group], np.array([f"g{g}" for g in group])


def test_the_two_variances_are_leave_one_out_ones():
    correct, groups = experiment(np.random.default_rng(0))
    found = variances.estimate(*statistics._by_group(correct, groups))
    seeds, names = len(correct), sorted(set(groups))
    without_seed = [np.delete(correct, s, axis=0).mean() for s in range(seeds)]
    jackknife = (seeds - 1) / seeds * sum((x - np.mean(without_seed)) ** 2 for x in without_seed)
    np.testing.assert_allclose(found.var_seeds, jackknife, rtol=1e-9)
    # Around the whole mean, for unequal groups.
    moved = [correct[:, groups != g].mean() - correct.mean() for g in names]
    expected = (len(names) - 1) / len(names) * sum(x**2 for x in moved)
    np.testing.assert_allclose(found.var_groups, expected, rtol=1e-9)
    np.testing.assert_allclose(found.mean, correct.mean(), rtol=1e-12)


def test_variances_find_their_sources():
    """Over many experiments each variance is, on average, what was put in."""
    rng, draws, seeds, groups, size = np.random.default_rng(1), 2000, 4, 12, 20
    chance = (
        0.5 + 0.05 * rng.normal(size=(draws, seeds, 1)) + 0.08 * rng.normal(size=(draws, 1, groups))
    )
    answers = rng.random((draws, seeds, groups * size)) < np.repeat(chance, size, axis=2)
    found = variances.estimate(answers.astype(np.int8), np.full(groups, size))
    luck = 0.25 / (seeds * groups * size)
    np.testing.assert_allclose(found.var_seeds.mean(), 0.05**2 / seeds + luck, rtol=0.05)
    np.testing.assert_allclose(found.var_groups.mean(), 0.08**2 / groups + luck, rtol=0.05)
    # The part left of the luck, and a little for variances that were cut at 0.
    alone = (found.seeds_alone * found.variance).mean()
    np.testing.assert_allclose(alone, 0.05**2 / seeds + 0.2 * luck, rtol=0.08)


def dense_weights(clip_n, group_n, likeness, telling):
    """Likelihood of each likeness by whole covariance matrices, the mean and variance removed."""
    n, logs = len(clip_n), []
    for like in likeness:
        same = (group_n[:, None] == group_n).astype(float)
        inverse = np.linalg.inv((1 - like) * np.eye(n) + like * same)
        fixed = np.ones(n) @ inverse @ np.ones(n)
        square = clip_n @ inverse @ clip_n - (np.ones(n) @ inverse @ clip_n) ** 2 / fixed
        logs.append((np.linalg.slogdet(inverse)[1] - np.log(fixed) - (n - 1) * np.log(square)) / 2)
    return np.exp(telling * (np.array(logs) - np.max(logs)))


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_the_interval_by_plain_steps(seed):
    """All of it again: dense matrices, SciPy's roots, sums over every pair of answers."""
    correct, groups = experiment(np.random.default_rng(seed))
    got = statistics.accuracy_interval(correct, groups)
    seeds, n = correct.shape
    names, group_n = np.unique(groups, return_inverse=True)
    m = correct.mean()
    mistakes = seeds * n * m * (1 - m)
    clip_n = correct.mean(axis=0)
    # Two seeds about a clip: what is left of the variance of a clip's mean, if they are alike.
    alone = clip_n.var(ddof=1) * seeds / (m * (1 - m))
    agreement = (mistakes * np.clip((alone - 1) / (seeds - 1), 0, 1) + 0.15) / (mistakes + 1)
    one = (1 + (seeds - 1) * agreement) / (seeds * n)

    def telling(events):
        return 1 / (1 + max(1 - 6 * m * (1 - m), 0) / (2 * events))

    steps = np.arange(41) / 40
    likeness = (steps[1:] + steps[:-1]) / 2
    few = 1 / (1 + mistakes / 0.7)
    prior = np.diff(stats.beta.cdf(steps, 0.5 + 0.5 * few, 0.8 + 12 * few**2))
    told = telling(mistakes / len(names))
    weight = prior * dense_weights(clip_n, group_n, likeness, told)
    weight /= weight.sum()
    size_G = np.bincount(group_n)
    variance = []
    for like in likeness:
        same = (group_n[:, None] == group_n).astype(float)
        inverse = np.linalg.inv((1 - like) * np.eye(n) + like * same)
        fixed = np.ones(n) @ inverse @ np.ones(n)
        square = clip_n @ inverse @ clip_n - (np.ones(n) @ inverse @ clip_n) ** 2 / fixed
        hidden = np.clip(square / (clip_n.var() * n), 1, 3) ** told
        variance.append((1 + like * ((size_G**2).sum() / n - 1)) * hidden)
    clips = optimize.brentq(
        lambda k: 2 * weight @ stats.norm.sf(k / np.sqrt(variance)) - 0.05, 0.1, 50
    )
    own = correct - correct.mean(1, keepdims=True) - clip_n + m
    left = (own**2).sum() / ((seeds - 1) * (n - 1) * seeds * n)
    by_group = [(own[:, group_n == g].sum(axis=1) ** 2).sum() for g in range(len(names))]
    in_groups = sum(by_group) / n**2 / (seeds * (seeds - 1)) * len(names) / (len(names) - 1)
    share = 0.8 + 0.2 * min(1, 1 / mistakes)
    more = max(correct.mean(1).var(ddof=1) / seeds - share * max(left, in_groups), 0)
    more *= telling(mistakes / seeds) / (m * (1 - m))
    stretch = clips**2 * one + stats.t.ppf(0.98, seeds - 1) ** 2 * more
    for end in (got.low, got.high):
        np.testing.assert_allclose((m - end) ** 2, stretch * end * (1 - end), rtol=1e-6)
    assert got.low < m < got.high
    assert got.sd_seeds == pytest.approx(np.std(correct.mean(1), ddof=1))
    assert got.note == ""
    assert not got.too_few_seeds


@pytest.mark.parametrize("n", [20, 60])
def test_single_clips_and_one_seed_cover_as_the_binomial_says(n):
    """Every number of right answers, weighed by its exact chance."""
    ends = []
    for right in range(n + 1):
        found = statistics.accuracy_interval(np.arange(n)[None] < right, np.arange(n))
        ends.append((found.low, found.high))
    low, high = np.array(ends).T
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()
    np.testing.assert_allclose(low, 1 - high[::-1], atol=1e-9)
    covered = []
    for p in np.linspace(0.02, 0.98, 97):
        chance = stats.binom.pmf(np.arange(n + 1), n, p)
        covered.append(chance[(low <= p) & (p <= high)].sum())
    assert min(covered) > 0.91
    assert 0.945 < np.mean(covered) < 0.975


def wrong_on(counts, clips=20, apart=False):
    """Seeds that are wrong about so many clips of their own recordings: the same, or others."""
    correct, first = np.ones((len(counts), clips), bool), 0
    for s, count in enumerate(counts):
        correct[s, first : first + count] = False
        first += count * apart
    return correct


@pytest.mark.parametrize("apart", [False, True])
def test_more_mistakes_never_raise_the_lower_bound(apart):
    """Also where the seeds come to agree, which lowers the variance between them to nothing."""
    more = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 1), (3, 3, 3)]
    found = [statistics.accuracy_interval(wrong_on(c, apart=apart), np.arange(20)) for c in more]
    assert (np.diff([f.low for f in found]) < 0).all()
    assert (np.diff([f.high for f in found]) < 0).all()
    assert found[1].low > 0.85, "59 of 60; a t interval of three seeds begins at 0.21"


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 5),
    st.lists(st.integers(1, 7), min_size=2, max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_more_recordings_every_seed_is_wrong_about_the_lower(seeds, sizes, random):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = list(range(len(sizes)))
    random.shuffle(order)
    correct = np.ones((seeds, len(groups)), bool)
    ends = []
    for wrong in [None, *order]:
        correct[:, groups == wrong] = False
        found = statistics.accuracy_interval(correct, groups)
        assert 0 <= found.low <= found.mean <= found.high <= 1
        ends.append((found.low, found.high))
    assert (np.diff(ends, axis=0) < 0).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**20))
def test_bounds_hold_the_estimate_in_any_design(seeds, clips, groups, seed):
    rng = np.random.default_rng(seed)
    group_n = rng.integers(0, groups, clips)
    a, b = rng.random((2, seeds, clips)) < rng.choice([0, 0.05, 0.5, 0.95, 1], (2, 1, 1))
    one, two = statistics.accuracy_interval(a, group_n), statistics.paired(a, b, group_n)
    assert 0 <= one.low <= one.mean + 1e-12
    assert one.mean - 1e-12 <= one.high <= 1
    assert one.high - one.low > 0.02
    assert -1 <= two.low <= two.mean + 1e-12
    assert two.mean - 1e-12 <= two.high <= 1
    assert two.high - two.low > 0.02
    assert 0 <= two.p <= 1
    flipped = statistics.accuracy_interval(~a, group_n)
    np.testing.assert_allclose([one.low, one.high], [1 - flipped.high, 1 - flipped.low], atol=1e-9)


def test_one_seed_is_marked_and_narrower_than_it_should_be():
    correct, groups = experiment(np.random.default_rng(3))
    one, all_ = (statistics.accuracy_interval(c, groups) for c in (correct[:1], correct))
    assert "one seed: the interval leaves seeds out" in one.note
    assert one.too_few_seeds
    assert one.sd_seeds is None
    assert not all_.too_few_seeds
    assert statistics.paired(correct[:1], ~correct[:1], groups).too_few_seeds


def test_nothing_wrong_is_no_proof_of_perfection():
    got = statistics.accuracy_interval(np.ones((3, 50), bool), np.arange(50) // 2)
    assert got.high == got.mean == 1
    # Between what 50 clips and what 150 answers could hide, were each on its own.
    assert 0.025 ** (1 / 50) < got.low < 0.025 ** (1 / 150)
    assert "no spread" in got.note


def test_one_group_says_so():
    correct = np.random.default_rng(4).random((3, 40)) < 0.6
    got = statistics.accuracy_interval(correct, ["g"] * 40)
    assert "one recording: " in got.note
    assert 0 < got.low < got.mean < got.high < 1


@pytest.mark.parametrize(
    ("correct", "groups", "says"),
    [
        (np.zeros(3), [1, 2, 3], r"correct: shape \(3,\)"),
        (np.zeros((2, 3)), [1, 2], "a group for each clip, 2 in all"),
        (np.zeros((2, 0)), [], r"correct: shape \(2, 0\)"),
    ],
)
def test_what_does_not_fit_is_refused(correct, groups, says):
    with pytest.raises(UserError, match=says):
        statistics.accuracy_interval(correct, groups)


def test_different_seeds_cannot_be_paired():
    with pytest.raises(UserError, match="correct_a: 3 seeds, but correct_b has 2"):
        statistics.paired(np.zeros((3, 4)), np.zeros((2, 4)), range(4))


# --- Differences


@pytest.mark.parametrize("seed", range(4))
def test_p_is_the_level_at_which_the_interval_touches_zero(seed):
    rng = np.random.default_rng(seed)
    a, groups = experiment(rng)
    b = np.where(rng.random(a.shape) < 0.2, rng.random(a.shape) < 0.5, a)
    got = statistics.paired(a, b, groups)
    other = statistics.paired(b, a, groups)
    assert 0 < got.p < 1
    low, high = variances.difference_bounds(got.variances, got.p)
    assert min(abs(low), abs(high)) < 1e-6
    assert got.within_noise == (got.low <= 0 <= got.high) == (got.p > 0.05)
    np.testing.assert_allclose([other.low, other.high], [-got.high, -got.low], atol=1e-12)
    assert got.mean == pytest.approx(a.mean() - b.mean())


@pytest.mark.parametrize("seed", range(4))
def test_p_is_near_that_of_turning_recordings_round(seed):
    """One seed: under no difference each recording's sum may as well have the other sign."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), 3)
    hard = rng.normal(size=40)[groups]
    a, b = (rng.random((1, 120)) < 1 / (1 + np.exp(-hard - x)) for x in (1.4, 0.9))
    got = statistics.paired(a, b, groups)
    sums = np.add.reduceat(a[0].astype(int) - b[0], np.arange(0, 120, 3))
    turned = rng.choice([-1, 1], (20000, 40)) @ sums
    p = np.mean(np.abs(turned) >= abs(sums.sum()))
    assert p / 3 < got.p < 3 * p + 0.02


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(5)
    a, groups = experiment(rng, groups=40)
    b = a & (rng.random(a.shape) > 0.04)
    got = statistics.paired(a, b, groups)
    alone = statistics.accuracy_interval(a, groups)
    assert got.high - got.low < (alone.high - alone.low) / 2
    assert not got.within_noise
    assert got.seeds_needed == 4


def test_identical_and_opposite_runs():
    a = np.ones((3, 10), bool)
    same = statistics.paired(a, a, range(10))
    assert (same.mean, same.p, same.within_noise, same.seeds_needed) == (0, 1, True, None)
    assert same.low == -same.high < 0
    assert statistics.paired(a, ~a, range(10)).p == pytest.approx(2 * 0.5**10)
    # Three groups cannot tell, however large the difference.
    few = statistics.paired(a[:, :3], ~a[:, :3], range(3))
    assert few.within_noise
    assert few.low <= 0


@pytest.mark.parametrize(("better", "worse"), [(9, 2), (3, 3), (1, 0), (0, 12)])
def test_mcnemar_only_for_one_seed_and_one_clip_a_group(better, worse):
    n = 40
    a, b = np.zeros((2, 1, n), bool)
    a[0, :better] = True
    b[0, better : better + worse] = True
    got = statistics.paired(a, b, range(n))
    changed = better + worse
    tail = sum(math.comb(changed, k) for k in range(min(better, worse) + 1)) / 2**changed
    assert got.p == pytest.approx(min(1, 2 * tail))
    assert "McNemar" in got.note
    assert got.within_noise == (got.low <= 0 <= got.high)
    assert "McNemar" not in statistics.paired(a, b, np.arange(n) // 2).note
    assert "McNemar" not in statistics.paired(np.tile(a, (2, 1)), np.tile(b, (2, 1)), range(n)).note


def tango(better: int, worse: int, n: int) -> tuple[float, float]:
    """T. Tango's interval (1998) by its definition: all D that the score test does not reject.

    The share that only the second row gets right is the likeliest one given D, found by search.
    """

    def excess(d: float) -> float:
        def unlikely(q: float) -> float:
            terms = ((better, q + d), (worse, q), (n - better - worse, 1 - 2 * q - d))
            return -sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

        ends = max(0.0, -d), (1 - d) / 2
        found = optimize.minimize_scalar(
            unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}
        )
        q = min(*ends, found.x, key=unlikely)
        variance = n * max(2 * q + d - d * d, 1e-300)
        return (better - worse - n * d) ** 2 / variance - stats.chi2.ppf(0.95, 1)

    mean, least = (better - worse) / n, 1e-9
    low = -1.0 if excess(least - 1) < 0 else optimize.brentq(excess, least - 1, mean - least)
    high = 1.0 if excess(1 - least) < 0 else optimize.brentq(excess, mean + least, 1 - least)
    return low, high


def of_one_seed(better: int, worse: int, n: int) -> statistics.Difference:
    """The difference where so many of n clips were right in one row only."""
    a, b = np.zeros((2, 1, n), bool)
    a[0, :better] = True
    b[0, better : better + worse] = True
    return statistics.paired(a, b, range(n))


def test_one_seed_has_tangos_interval():
    """One clip of twenty that differs says little: -23.6 to +11.9 points, not -5.0 to +4.8."""
    got = of_one_seed(0, 1, 20)
    assert [got.low, got.high] == pytest.approx([-0.2361, 0.1192], abs=1e-4)
    rng = np.random.default_rng(11)
    for n in (7, 20, 33, 60):
        for _ in range(6):
            better, worse, _ = rng.multinomial(n, rng.dirichlet((0.5, 0.5, 1.5)))
            if not better + worse > 0 or abs(better - worse) == n:
                continue  # bounded by the number of clips instead
            got, (low, high) = of_one_seed(better, worse, n), tango(better, worse, n)
            if got.within_noise:  # by the exact test, which is stricter
                low, high = min(low, 0), max(high, 0)
            assert [got.low, got.high] == pytest.approx([low, high], abs=1e-6), (better, worse, n)


@pytest.mark.parametrize("n", [7, 20])
def test_intervals_of_one_seed_cover_by_exact_sums(n):
    """And an interval leaves 0 out exactly where McNemar's test is clear."""
    assert min(load_coverage().of_single_clips(n).values()) > 0.94
    found = [of_one_seed(i, j, n) for i in range(n + 1) for j in range(n + 1 - i)]
    assert all(one.within_noise == (one.low <= 0 <= one.high) for one in found)


def test_a_difference_far_below_what_seeds_differ_by_has_a_p_of_one():
    """Two seeds gain ten clips, two lose about as many: no level's interval leaves 0 out."""
    a, b = (np.arange(40) < np.array(counts)[:, None] for counts in ([30, 30, 10, 11], [20] * 4))
    got = statistics.paired(a, b, range(40))
    assert got.mean == pytest.approx(1 / 160)
    assert (got.p, got.within_noise) == (1, True)
    assert got.low < 0 < got.high


def test_clips_of_one_source_are_not_independent():
    """Ten copies of each clip leave p as it was; McNemar would call it certain."""
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 3, 30)) < np.array([[[0.7]], [[0.55]]])
    once = statistics.paired(a, b, range(30))
    copied = statistics.paired(np.repeat(a, 10, 1), np.repeat(b, 10, 1), np.arange(300) // 10)
    # Not to the digit: ten clips that always agree are seen to be alike, which one cannot be.
    assert copied.p == pytest.approx(once.p, rel=0.1)
    as_if = statistics.paired(np.repeat(a[:1], 10, 1), np.repeat(b[:1], 10, 1), range(300))
    assert as_if.p < 0.1 * statistics.paired(a[:1], b[:1], range(30)).p


def test_seeds_needed_is_the_first_number_that_a_loop_finds():
    rng = np.random.default_rng(7)
    numbers = []
    t_seeds = dict(enumerate(stats.t.ppf(0.98, range(3, 1000)), start=4))
    for _ in range(30):
        a, groups = experiment(rng, seeds=3, groups=30)
        b, _ = experiment(rng, seeds=3, groups=30, chance=0.63)
        b = np.resize(b, a.shape)
        got = statistics.paired(a, b, groups)
        numbers.append(got.seeds_needed)
        if not got.within_noise:
            assert got.seeds_needed == 3
            continue
        f, expected = got.variances, None
        now = f.squared_half_width(0.05) - stats.t.ppf(0.97, 2) ** 2 * f.seeds_alone
        for seeds in range(4, 1001):
            # What seeds do shrinks, the clips stay; seeds agree about them as far as they did.
            clips = now * (1 + (seeds - 1) * f.agreement) / seeds / (1 + 2 * f.agreement) * 3
            stretch = clips + t_seeds[seeds] ** 2 * f.seeds_alone * 3 / seeds
            if f.mean**2 / (f.plus + f.minus) > stretch:
                expected = seeds
                break
        assert got.seeds_needed == expected
        assert ("more test recordings could" in got.note) == (expected is None and got.mean != 0)
    assert None in numbers
    assert any(n and 3 < n < 1000 for n in numbers)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p):
    got = statistics.holm(p)
    ranked = sorted(range(len(p)), key=lambda i: p[i])
    largest = 0.0
    for place, i in enumerate(ranked):
        largest = max(largest, min(1, (len(p) - place) * p[i]))
        assert got[i] == pytest.approx(largest)


def test_holm_leaves_out_what_was_not_compared():
    got = statistics.holm([0.01, math.nan, 0.04])
    np.testing.assert_allclose(got, [0.02, math.nan, 0.04])
    assert statistics.holm([]).size == 0


def test_a_table_is_judged_by_the_corrected_p():
    rng = np.random.default_rng(8)
    a, groups = experiment(rng, groups=40)
    pairs = [statistics.paired(a, a & (rng.random(a.shape) > r), groups) for r in (0.025, 0.3, 0.4)]
    pairs += [replace_p(pairs[0])] * 9
    assert not pairs[0].within_noise
    judged = statistics.corrected(pairs)
    np.testing.assert_allclose([j.p for j in judged], statistics.holm([p.p for p in pairs]))
    assert [j.within_noise for j in judged[:3]] == [j.p > 0.05 for j in judged[:3]]
    assert not judged[2].within_noise
    noisy = [j for j in judged if j.within_noise]
    assert noisy
    assert all(j.seeds_needed is None or j.seeds_needed > 4 for j in noisy)


def test_more_comparisons_take_more_seeds():
    rng = np.random.default_rng(7)
    a, groups = experiment(rng, seeds=3, groups=30)
    one = statistics.paired(a, a & (rng.random(a.shape) > [[0.001], [0.06], [0.1]]), groups)
    assert one.within_noise
    (alone,), among = statistics.corrected([one]), statistics.corrected([one] * 12)
    assert alone == one
    assert 3 < one.seeds_needed < among[0].seeds_needed


def replace_p(one):
    """The same difference, nearly within noise."""
    return dataclasses.replace(one, p=0.04)


def test_five_seeds_of_ucf101_take_milliseconds():
    rng = np.random.default_rng(9)
    groups = rng.integers(0, 707, 3783).astype(str)
    a, b = rng.random((2, 5, 3783)) < 0.66
    statistics.paired(a, b, groups)  # imports SciPy's optimiser
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        statistics.paired(a, b, groups)
        statistics.accuracy_interval(a, groups)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1  # 0.01 on an idle machine


# --- Against a known truth


def test_intervals_say_how_often_they_held_where_seeds_differ_much():
    """Seeds apart by 20 points on 700 clips; seeds that are all right about 80 %; one seed."""
    rng = np.random.default_rng(12)
    apart = rng.random((3, 700)) < np.array([[0.6], [0.8], [0.95]])
    alike = np.stack([np.roll(np.arange(700) % 5 > 0, 7 * s) for s in range(3)])
    held = [
        statistics.accuracy_interval(c, np.arange(700) // 4).worst_coverage for c in (apart, alike)
    ]
    assert held == [statistics.WORST_COVERAGE[3][1], statistics.WORST_COVERAGE[3][0]]
    assert held[0] < held[1]
    assert statistics.accuracy_interval(alike[:1], range(700)).worst_coverage is None
    four = statistics.accuracy_interval(np.vstack([alike, alike[:1]]), range(700))
    # Four seeds were not simulated: as three.
    assert four.worst_coverage == statistics.WORST_COVERAGE[3][0]


CHECKED = (
    # accuracies, seeds, groups, mix, spread of seeds, spreads shared
    ((0.95,), 3, 25, "both", 0.3, "apart"),
    ((0.5,), 5, 7, "recordings", 0.3, "apart"),
    ((0.9, 0.99), 5, 25, "none", 0.3, "alike"),
    ((0.9, 0.99), 3, 7, "clips", 0.0, "apart"),
)


@pytest.mark.parametrize(("true", "seeds", "groups", "mix", "spread", "shared"), CHECKED)
def test_coverage_of_some_cases(true, seeds, groups, mix, spread, shared):
    """Three standard errors of 300 draws below 95 %; what ignores groups or seeds is far out."""
    coverage = load_coverage()
    case = coverage.Case(seeds, groups, true, mix, spread, shared)
    found = coverage.measure(case, 300, np.random.default_rng(10))
    assert found.coverage > 0.91
    assert found.width < 2.6
    if len(true) == 1:
        assert found.width < 0.8 * found.width_before
    size = coverage.sizes(groups)
    mean = coverage.answers(case, 300, np.random.default_rng(10)).mean((1, 2))
    plain = 1.96 * math.sqrt(true[0] * (1 - true[0]) / (seeds * size.sum()))
    if mix == "recordings":
        assert np.mean(np.abs(mean - true[0]) < plain) < 0.8


def test_the_oracle_knows_the_variance():
    """Of the mean, by quadrature, against as many experiments as it takes."""
    coverage = load_coverage()
    case = coverage.Case(3, 7, (0.8,), "all", 0.5)
    mean = coverage.answers(case, 20000, np.random.default_rng(0)).mean((1, 2))
    seeds, whole = coverage.true_variances(0.8, 3, coverage.sizes(7), case.spreads)
    np.testing.assert_allclose(mean.mean(), 0.8, atol=0.003)
    np.testing.assert_allclose(mean.var(), whole, rtol=0.03)
    assert coverage.spread_of_seeds(seeds / whole, 0.8, 3, 7, "all") == pytest.approx(0.5, abs=1e-3)


def test_a_case_below_the_promise_is_measured_again_before_it_counts_as_missed(monkeypatch):
    coverage = load_coverage()
    sound, lucky, bad = (coverage.Case(5, groups, (0.5,), "none", 0.0) for groups in (7, 25, 707))
    asked = []

    def found(share, draws=2000):
        return coverage.Found(draws, 0.0, 0.1, share, 1.0, 0.0, 0.0, share, 1.0)

    def measure(case, draws, rng):
        asked.append((case, draws))
        return found({lucky: 0.947, bad: 0.93}[case], draws)

    monkeypatch.setattr(coverage, "measure", measure)
    first = [(sound, found(0.95)), (lucky, found(0.92)), (bad, found(0.92))]
    again, still = coverage.missed(first, 0)
    assert asked == [(lucky, 10_000), (bad, 10_000)]
    assert [case for case, _ in again] == [lucky, bad]
    assert [case for case, _ in still] == [bad]


@pytest.mark.slow(minutes=5)
@pytest.mark.parametrize("accuracies", [(0.5,), (0.95,), (0.99,), (0.9, 0.99), (0.5, 0.6)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_coverage_where_seeds_do_not_dominate(seeds, accuracies):
    """At least 93 %, less three standard errors of 2,000 draws."""
    coverage = load_coverage()
    for i, (groups, mix) in enumerate(itertools.product((7, 25), ("none", "all", "recordings"))):
        spread = 0.1 if accuracies[0] == 0.5 else 0.3
        case = coverage.Case(seeds, groups, accuracies, mix, spread)
        found = coverage.measure(case, 2000, np.random.default_rng((0, i)))
        if found.seeds_share < 0.6:
            assert found.coverage > 0.93 - 3 * math.sqrt(0.93 * 0.07 / 2000), (case, found)
        assert not coverage.misses(case, found), (case, found)
