"""Video decisions, intervals and comparisons against literal loops and a known truth."""

import dataclasses
import importlib.util
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vidrec import evaluate
from vidrec.datasets import ucf_types
from vidrec.errors import UserError


def load_coverage():
    """The simulation of docs/statistics.md."""
    path = Path(__file__).parent.parent / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_simulation", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# --- From clips to videos


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 70))
def test_windows_are_the_literal_ones_and_miss_no_frame(length, clip, stride):
    stride = min(stride, clip)
    starts = [0]
    while starts[-1] + clip < length:
        starts.append(starts[-1] + stride)
    got = evaluate.windows(length, clip, stride)
    assert got.tolist() == starts
    seen = {frame for start in starts for frame in range(start, start + clip)}
    assert set(range(length)) <= seen
    assert got[-1] < length, "a clip must not lie wholly in the continuation"


@pytest.mark.parametrize(
    ("length", "clip", "stride", "says"),
    [
        (0, 60, 30, "video length: 0"),
        (9, 0, 30, "eval.clip: 0"),
        (9, 60, 0, "eval.stride: 0"),
        (9, 30, 31, "eval.stride: 31 leaves frames out"),
    ],
)
def test_windows_that_cannot_be_are_refused(length, clip, stride, says):
    with pytest.raises(UserError, match=says):
        evaluate.windows(length, clip, stride)


def literal_decisions(scores, video, videos):
    """Average and vote, class by class; ties of votes by the sum, ties of that by class order."""
    averaged, voted = [], []
    for v in range(videos):
        mine = [row for row, where in zip(scores, video, strict=True) if where == v]
        classes = range(scores.shape[1])
        total = [sum(row[k] for row in mine) for k in classes]
        votes = [0 for _ in classes]
        for row in mine:
            votes[max(classes, key=lambda k, row=row: row[k])] += 1
        averaged.append(max(classes, key=lambda k: total[k]))
        voted.append(max(classes, key=lambda k: (votes[k], total[k])))
    return averaged, voted


@pytest.mark.parametrize("seed", range(5))
def test_average_and_vote_equal_literal_loops_ties_included(seed):
    rng = np.random.default_rng(seed)
    video = np.concatenate([np.arange(40), rng.integers(0, 40, 90)])
    rng.shuffle(video)
    scores = -rng.integers(0, 4, (130, 6)).astype(float)  # whole numbers: many ties
    averaged, voted = literal_decisions(scores, video, 40)
    average, vote = evaluate.average(scores, video, 40), evaluate.vote(scores, video, 40)
    assert average.argmax(1).tolist() == averaged
    assert vote.argmax(1).tolist() == voted
    assert averaged != voted
    tied = [np.sum(np.floor(row) == np.floor(row.max())) > 1 for row in vote]
    assert sum(tied) > 5, "the inputs must hold ties of votes"


def test_clip_and_video_accuracy_are_two_figures():
    scores = np.log([[0.6, 0.4], [0.1, 0.9], [0.6, 0.4], [0.3, 0.7]])
    video, labels = np.array([0, 0, 0, 1]), np.array([0, 1])
    by_average = evaluate.clip_and_video_accuracy(scores, video, labels, "clips")
    by_vote = evaluate.clip_and_video_accuracy(scores, video, labels, "vote")
    assert by_average == {"clip_accuracy": 0.75, "video_accuracy": 0.5}
    assert by_vote == {"clip_accuracy": 0.75, "video_accuracy": 1.0}


@pytest.mark.parametrize("video", [[0, 0, 2], [0, 1, 3]])
def test_a_video_without_clips_is_no_decision(video):
    with pytest.raises(ValueError, match="expected all 3"):
        evaluate.vote(np.zeros((3, 2)), np.array(video), 3)


# --- Intervals


def experiment(rng, seeds=4, groups=9, chance=0.7):
    """Right or wrong (S, n) and unequal groups in no order."""
    group = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, 9, groups)))
    skill = chance + 0.2 * rng.normal(size=(1, groups)) + 0.1 * rng.normal(size=(seeds, 1))
    return rng.random((seeds, len(group))) < skill[:, group], np.array([f"g{g}" for g in group])


def test_the_two_variances_are_leave_one_out_ones():
    correct, groups = experiment(np.random.default_rng(0))
    found = evaluate.spread(*evaluate._by_group(correct, groups))
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
    rng, draws, seeds, groups, size = np.random.default_rng(1), 4000, 4, 12, 50
    value = (
        0.5
        + 0.03 * rng.normal(size=(draws, seeds, 1))
        + 0.06 * rng.normal(size=(draws, 1, groups))
        + 0.05 * rng.normal(size=(draws, seeds, groups))
    )
    found = evaluate.spread(value * size, np.full(groups, size))
    both = 0.05**2 / (seeds * groups)
    np.testing.assert_allclose(found.var_both.mean(), both, rtol=0.03)
    np.testing.assert_allclose(found.var_seeds.mean(), 0.03**2 / seeds + both, rtol=0.05)
    np.testing.assert_allclose(found.var_groups.mean(), 0.06**2 / groups + both, rtol=0.05)


def test_the_interval_by_hand():
    correct, groups = experiment(np.random.default_rng(2))
    got = evaluate.accuracy_interval(correct, groups)
    found = evaluate.spread(*evaluate._by_group(correct, groups))
    sizes = np.array([np.mean(groups == g) for g in sorted(set(groups))])
    equal = sum(sizes**2) ** 2 / sum(sizes**4)
    half = math.sqrt(
        stats.t.ppf(0.98, 3) ** 2 * found.var_seeds
        + stats.t.ppf(0.98, equal - 1) ** 2 * found.var_groups
    )
    m = correct.mean()
    for sign, end in ((-1, got.low), (1, got.high)):
        odds = m / (1 - m) * math.exp(sign * half / (m * (1 - m)))
        np.testing.assert_allclose(end, odds / (1 + odds), rtol=1e-9)
    assert got.sd_seeds == pytest.approx(np.std(correct.mean(1), ddof=1))
    assert got.note == ""
    assert not got.too_few_seeds


def test_one_seed_is_marked_and_narrower_than_it_should_be():
    correct, groups = experiment(np.random.default_rng(3))
    one, all_ = (evaluate.accuracy_interval(c, groups) for c in (correct[:1], correct))
    assert "one seed: the interval leaves seeds out" in one.note
    assert one.too_few_seeds
    assert one.sd_seeds is None
    assert not all_.too_few_seeds
    assert evaluate.paired(correct[:1], ~correct[:1], groups).too_few_seeds


def test_nothing_wrong_is_no_proof_of_perfection():
    got = evaluate.accuracy_interval(np.ones((3, 50), bool), np.arange(50) // 2)
    # A share x of bad groups stays unseen in 25 groups with probability (1-x)^25.
    assert got.high == got.mean == 1
    assert got.low == pytest.approx(0.02 ** (1 / 25))
    assert "no spread" in got.note


def test_one_group_says_so():
    correct = np.random.default_rng(4).random((3, 40)) < 0.6
    got = evaluate.accuracy_interval(correct, ["g"] * 40)
    assert "one group of clips" in got.note
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
        evaluate.accuracy_interval(correct, groups)


def test_different_seeds_cannot_be_paired():
    with pytest.raises(UserError, match="correct_a: 3 seeds, but correct_b has 2"):
        evaluate.paired(np.zeros((3, 4)), np.zeros((2, 4)), range(4))


# --- Differences


@pytest.mark.parametrize("seed", range(4))
def test_p_is_the_level_at_which_the_interval_touches_zero(seed):
    rng = np.random.default_rng(seed)
    a, groups = experiment(rng)
    b = np.where(rng.random(a.shape) < 0.2, rng.random(a.shape) < 0.5, a)
    got = evaluate.paired(a, b, groups)
    other = evaluate.paired(b, a, groups)
    assert 0 < got.p < 1
    low, high = evaluate.difference_bounds(got.found, got.p)
    assert min(abs(low), abs(high)) < 1e-6
    assert got.within_noise == (got.low <= 0 <= got.high) == (got.p > 0.05)
    np.testing.assert_allclose([other.low, other.high], [-got.high, -got.low], atol=1e-12)
    assert got.mean == pytest.approx(a.mean() - b.mean())


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(5)
    a, groups = experiment(rng, groups=40)
    b = a & (rng.random(a.shape) > 0.04)
    got = evaluate.paired(a, b, groups)
    alone = evaluate.accuracy_interval(a, groups)
    assert got.high - got.low < (alone.high - alone.low) / 2
    assert not got.within_noise
    assert got.seeds_needed == 4


def test_identical_and_opposite_runs():
    a = np.ones((3, 10), bool)
    same = evaluate.paired(a, a, range(10))
    assert (same.mean, same.p, same.within_noise, same.seeds_needed) == (0, 1, True, None)
    assert same.low == -same.high < 0
    assert evaluate.paired(a, ~a, range(10)).p == pytest.approx(2 * 0.5**10)
    # Three groups cannot tell, however large the difference.
    few = evaluate.paired(a[:, :3], ~a[:, :3], range(3))
    assert few.within_noise
    assert few.low <= 0


@pytest.mark.parametrize(("better", "worse"), [(9, 2), (3, 3), (1, 0), (0, 12)])
def test_mcnemar_only_for_one_seed_and_one_clip_a_group(better, worse):
    n = 40
    a, b = np.zeros((2, 1, n), bool)
    a[0, :better] = True
    b[0, better : better + worse] = True
    got = evaluate.paired(a, b, range(n))
    changed = better + worse
    tail = sum(math.comb(changed, k) for k in range(min(better, worse) + 1)) / 2**changed
    assert got.p == pytest.approx(min(1, 2 * tail))
    assert "McNemar" in got.note
    assert got.within_noise == (got.low <= 0 <= got.high)
    assert "McNemar" not in evaluate.paired(a, b, np.arange(n) // 2).note
    assert "McNemar" not in evaluate.paired(np.tile(a, (2, 1)), np.tile(b, (2, 1)), range(n)).note


def test_clips_of_one_source_are_not_independent():
    """Ten copies of each clip leave p as it was; McNemar would call it certain."""
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 3, 30)) < np.array([[[0.7]], [[0.55]]])
    once = evaluate.paired(a, b, range(30))
    copied = evaluate.paired(np.repeat(a, 10, 1), np.repeat(b, 10, 1), np.arange(300) // 10)
    assert copied.p == pytest.approx(once.p)
    as_if = evaluate.paired(np.repeat(a[:1], 10, 1), np.repeat(b[:1], 10, 1), range(300))
    assert as_if.p < 0.1 * evaluate.paired(a[:1], b[:1], range(30)).p


def test_seeds_needed_is_the_first_number_that_a_loop_finds():
    rng = np.random.default_rng(7)
    numbers = []
    t_seeds = dict(enumerate(stats.t.ppf(0.975, range(3, 1000)), start=4))
    for _ in range(30):
        a, groups = experiment(rng, seeds=3, groups=30)
        b, _ = experiment(rng, seeds=3, groups=30, chance=0.63)
        b = np.resize(b, a.shape)
        got = evaluate.paired(a, b, groups)
        numbers.append(got.seeds_needed)
        if not got.within_noise:
            assert got.seeds_needed == 3
            continue
        f, expected = got.found, None
        t_groups = stats.t.ppf(0.975, f.df_groups)
        for seeds in range(4, 1001):
            groups_then = max(f.var_groups - f.var_both, 0) + f.var_both * 3 / seeds
            half = math.sqrt(
                t_seeds[seeds] ** 2 * f.var_seeds * 3 / seeds + t_groups**2 * groups_then
            )
            if half < abs(f.mean):
                expected = seeds
                break
        assert got.seeds_needed == expected
        assert ("more groups of clips would" in got.note) == (expected is None and got.mean != 0)
    assert None in numbers
    assert any(n and 3 < n < 1000 for n in numbers)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p):
    got = evaluate.holm(p)
    ranked = sorted(range(len(p)), key=lambda i: p[i])
    largest = 0.0
    for place, i in enumerate(ranked):
        largest = max(largest, min(1, (len(p) - place) * p[i]))
        assert got[i] == pytest.approx(largest)


def test_holm_leaves_out_what_was_not_compared():
    got = evaluate.holm([0.01, math.nan, 0.04])
    np.testing.assert_allclose(got, [0.02, math.nan, 0.04])
    assert evaluate.holm([]).size == 0


def test_a_table_is_judged_by_the_corrected_p():
    rng = np.random.default_rng(8)
    a, groups = experiment(rng, groups=40)
    pairs = [evaluate.paired(a, a & (rng.random(a.shape) > r), groups) for r in (0.025, 0.3, 0.4)]
    pairs += [replace_p(pairs[0])] * 9
    assert not pairs[0].within_noise
    judged = evaluate.corrected(pairs)
    np.testing.assert_allclose([j.p for j in judged], evaluate.holm([p.p for p in pairs]))
    assert [j.within_noise for j in judged[:3]] == [j.p > 0.05 for j in judged[:3]]
    assert not judged[2].within_noise
    noisy = [j for j in judged if j.within_noise]
    assert noisy
    assert all(j.seeds_needed is None or j.seeds_needed > 4 for j in noisy)


def test_more_comparisons_take_more_seeds():
    rng = np.random.default_rng(7)
    a, groups = experiment(rng, seeds=3, groups=30)
    one = evaluate.paired(a, a & (rng.random(a.shape) > [[0.001], [0.06], [0.1]]), groups)
    assert one.within_noise
    (alone,), among = evaluate.corrected([one]), evaluate.corrected([one] * 12)
    assert alone == one
    assert 3 < one.seeds_needed < among[0].seeds_needed


def replace_p(one):
    """The same difference, nearly within noise."""
    return dataclasses.replace(one, p=0.04)


def test_five_seeds_of_ucf101_take_milliseconds():
    rng = np.random.default_rng(9)
    groups = rng.integers(0, 707, 3783).astype(str)
    a, b = rng.random((2, 5, 3783)) < 0.66
    evaluate.paired(a, b, groups)  # imports SciPy's optimiser
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        evaluate.paired(a, b, groups)
        evaluate.accuracy_interval(a, groups)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1  # 0.01 on an idle machine


# --- Against a known truth


def test_coverage_and_false_alarms_of_two_cases():
    """Three standard errors of 300 draws below 95 %; what ignores groups or seeds is far out."""
    coverage = load_coverage()
    for case in (
        coverage.Case(3, 25, "unequal", 0.4, 0.8, 0.4, 0.66),
        coverage.Case(5, 100, "equal", 0.8, 0.1, 0.0, 0.9),
    ):
        rng = np.random.default_rng(10)
        found = coverage.measure(case, 300, rng)
        assert found.coverage > 0.91
        assert found.difference_coverage > 0.91
        assert found.false_alarms < 0.09
        right, size = coverage.right(case, 300, rng), case.size_G()
        mean = right.sum((1, 2)) / (case.seeds * size.sum())
        plain = 1.96 * np.sqrt(mean * (1 - mean) / (case.seeds * size.sum()))
        assert np.mean(np.abs(mean - case.truth()) < plain) < 0.8


@pytest.mark.slow(minutes=10)
def test_coverage_and_false_alarms_of_all_cases():
    """The table of docs/statistics.md: at least 93 % and at most 7 %, over 2,000 draws a case."""
    coverage = load_coverage()
    for i, case in enumerate(coverage.cases()):
        found = coverage.measure(case, 2000, np.random.default_rng((0, i)))
        assert not coverage.misses(found), (case, found)


# --- Two runs compared


def test_class_changes_equal_a_loop():
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 8, 120)
    labels[labels == 5] = 4
    a, b = (np.where(rng.random(120) < 0.6, labels, rng.integers(0, 8, 120)) for _ in range(2))
    b[labels == 2] = a[labels == 2]
    classes = [f"c{k}" for k in range(8)]
    improved, worsened, stayed = evaluate.class_changes(a, b, labels, classes, np.arange(120) // 3)
    for found, sign in ((improved, 1), (worsened, -1), (stayed, 0)):
        for change in found:
            k = classes.index(change.name)
            before = [p == k for p, label in zip(a, labels, strict=True) if label == k]
            after = [p == k for p, label in zip(b, labels, strict=True) if label == k]
            assert (change.before, change.after) == (np.mean(before), np.mean(after))
            assert change.clips == len(before)
            assert np.sign(sum(after) - sum(before)) == sign
            assert change.difference.mean == pytest.approx(change.after - change.before)
    names = [c.name for c in improved + worsened + stayed]
    assert sorted(names) == sorted(set(classes) - {"c5"}), "each class with clips, once"
    assert "c2" in [c.name for c in stayed]
    sizes = [c.after - c.before for c in improved]
    assert sizes == sorted(sizes, reverse=True)


def test_runs_on_other_clips_cannot_be_compared():
    with pytest.raises(UserError, match="expected the same clips"):
        evaluate.class_changes(np.zeros(3), np.zeros(4), np.zeros(3, int), "a")


def test_confusions_are_sorted_by_action_type():
    classes = ["ApplyEyeMakeup", "ApplyLipstick", "Haircut", "Diving"]
    counts = np.array([[8, 19, 2, 0], [7, 3, 0, 0], [0, 0, 5, 1], [0, 0, 0, 9]])
    got = evaluate.confusions_by_type(counts, classes)
    within, across = (
        [(p["true"], p["predicted"], p["count"]) for p in got[k]] for k in ("within", "across")
    )
    assert within == [
        ("ApplyEyeMakeup", "ApplyLipstick", 19),
        ("ApplyLipstick", "ApplyEyeMakeup", 7),
    ]
    assert across == [("ApplyEyeMakeup", "Haircut", 2), ("Haircut", "Diving", 1)]
    assert evaluate.confusions_by_type(counts, [*classes[:3], "mine"]) is None


def test_the_five_types_hold_each_class_once(real_data):
    listed = (real_data / "ucfTrainTestlist" / "classInd.txt").read_text(encoding="ascii")
    official = [line.split()[1] for line in listed.splitlines()]
    named = [name for names in ucf_types.TYPES.values() for name in names]
    assert sorted(named) == sorted(official)
    assert len(named) == 101
    assert ucf_types.type_of("HandStandPushups") == "Body-Motion Only"
