"""Average precision, thresholds and what recordings change of them, beside scikit-learn's."""

import numpy as np
import pytest

from vidrec.evaluation import ranking


def drawn(seed, clips=None, classes=3):
    """Scores with ties, labels, and recordings of unequal size."""
    rng = np.random.default_rng(seed)
    clips = clips or int(rng.integers(4, 40))
    scores = np.round(rng.normal(size=(clips, classes)), int(rng.integers(0, 4)))
    labels = (rng.random((clips, classes)) < rng.uniform(0.1, 0.8, classes)).astype(int)
    return scores, labels, rng.integers(0, 4, clips)


@pytest.mark.parametrize("seed", range(40))
def test_average_precision_is_scikit_learns(seed):
    from sklearn.metrics import average_precision_score

    scores, labels, _ = drawn(seed)
    got = ranking.average_precisions(scores, labels)
    for k in range(scores.shape[1]):
        if labels[:, k].any():
            assert got[k] == pytest.approx(
                average_precision_score(labels[:, k], scores[:, k]), abs=1e-12
            )
        else:
            assert np.isnan(got[k])
    if labels.any(0).all():
        want = average_precision_score(labels, scores, average="macro")
        assert ranking.mean_average_precision(scores, labels) == pytest.approx(want, abs=1e-12)


def test_a_score_that_is_no_number_comes_last_and_no_class_has_no_figure():
    scores, labels = np.array([[0.1], [np.nan], [0.3]]), np.array([[0], [1], [1]])
    assert ranking.average_precision(scores[:, 0], labels[:, 0]) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(ranking.mean_average_precision(scores, np.zeros((3, 1))))


@pytest.mark.parametrize("block", [2**24, 50])
@pytest.mark.parametrize("seed", range(20))
def test_without_each_recording_is_the_figure_of_the_others(seed, block, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", block)  # of one recording at a time, too
    scores, labels, recording = drawn(seed)
    got = ranking.without_each(scores, labels, recording, 4)
    want = [
        ranking.mean_average_precision(scores[recording != g], labels[recording != g])
        for g in range(4)
    ]
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_have_the_highest_f1_that_any_has(seed):
    from sklearn.metrics import f1_score

    scores, labels, _ = drawn(seed)
    shares = 1 / (1 + np.exp(-scores))
    got = ranking.best_thresholds(shares, labels)
    for k in range(shares.shape[1]):
        if not labels[:, k].any():
            assert got[k] == 0.5
            continue
        every = np.concatenate([np.unique(shares[:, k]), [2.0]])
        best = max(f1_score(labels[:, k], shares[:, k] >= t, zero_division=0) for t in every)
        assert f1_score(labels[:, k], shares[:, k] >= got[k]) == pytest.approx(best)
        assert not np.isin(got[k], shares[:, k])
