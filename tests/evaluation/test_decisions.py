"""Decisions on clips and videos against literal loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from vidrec.errors import UserError
from vidrec.evaluation import decisions


def softmax(x_K):
    e_K = np.exp(np.asarray(x_K, np.float64) - np.max(x_K))
    return e_K / e_K.sum()


# --- From frames to a clip


class Traced(chex.TestCase):
    """What compiled steps ask: compiled or not."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    @parameterized.parameters(0, 1, 2)
    def test_right_equals_a_loop(self, seed):
        rng = np.random.default_rng(seed)
        logits_BTK = rng.integers(0, 3, (4, 6, 5)).astype(np.float32)  # whole numbers: ties
        labels_B = rng.integers(0, 5, (4, 1))
        got_BT = self.variant(decisions.is_correct)(logits_BTK, labels_B)
        for b, t in np.ndindex(4, 6):
            first = max(range(5), key=lambda k, row=logits_BTK[b, t]: row[k])
            assert got_BT[b, t] == (first == labels_B[b, 0])

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(True, False)
    def test_clip_scores_equal_a_loop(self, masked):
        rng = np.random.default_rng(3)
        logits, mask = rng.normal(size=(4, 6, 3)) * 2, rng.random((4, 6)) < 0.6
        given = (jnp.asarray(logits, jnp.float32), *([mask] if masked else []))
        got = self.variant(decisions.weighted_log_probs)(*given)
        expected = np.zeros((4, 3))
        for b, j in np.ndindex(4, 6):
            if mask[b, j] or not masked:
                expected[b] += (j + 1) / 6 * np.log(softmax(logits[b, j]))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_clip_scores_have_their_gradient_and_a_masked_step_has_none():
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, 4)), jnp.float32)
    mask = jnp.array([[True, False, True], [True, True, False]])

    def score(x_BTK):
        return decisions.weighted_log_probs(x_BTK, mask)[:, 1].sum()

    slope = jax.grad(score)(logits)
    assert not np.any(slope[~mask])
    assert np.all(np.abs(slope[mask]).sum(1) > 0)
    check_grads(score, (logits,), order=1, modes=["rev"], rtol=1e-2)


def test_bfloat16_logits_are_scored_in_float32():
    got = decisions.weighted_log_probs(jnp.zeros((1, 999, 2), jnp.bfloat16))
    # bfloat16 stops counting at 256.
    np.testing.assert_allclose(got, np.full((1, 2), -500 * np.log(2)), rtol=1e-5)
    assert got.dtype == jnp.float32


# --- From clips to videos


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 70))
def test_windows_are_the_literal_ones_and_miss_no_frame(length, clip, stride):
    stride = min(stride, clip)
    starts = [0]
    while starts[-1] + clip < length:
        starts.append(starts[-1] + stride)
    got = decisions.window_starts(length, clip, stride)
    assert got.tolist() == starts
    seen = {frame for start in starts for frame in range(start, start + clip)}
    assert set(range(length)) <= seen
    assert got[-1] < length, "a clip must not lie wholly in the continuation"


@pytest.mark.parametrize(
    ("length", "clip", "stride", "says"),
    [
        (0, 60, 30, "video length: 0"),
        (9, 0, 30, "eval.window: 0"),
        (9, 60, 0, "eval.stride: 0"),
        (9, 30, 31, "eval.stride: 31 leaves frames out"),
    ],
)
def test_windows_that_cannot_be_are_refused(length, clip, stride, says):
    with pytest.raises(UserError, match=says):
        decisions.window_starts(length, clip, stride)


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
    average, vote = (
        decisions.decide_videos(scores, 1.0, video, 40, inference).scores_nK
        for inference in ("average", "vote")
    )
    assert average.argmax(1).tolist() == averaged
    assert vote.argmax(1).tolist() == voted
    assert averaged != voted
    tied = [np.sum(np.floor(row) == np.floor(row.max())) > 1 for row in vote]
    assert sum(tied) > 5, "the inputs must hold ties of votes"


def test_clip_and_video_accuracy_are_two_figures():
    scores = np.log([[0.6, 0.4], [0.1, 0.9], [0.6, 0.4], [0.3, 0.7]])
    video, labels = np.array([0, 0, 0, 1]), np.array([0, 1])
    by_average = decisions.clip_and_video_accuracy(scores, video, labels, "average")
    by_vote = decisions.clip_and_video_accuracy(scores, video, labels, "vote")
    assert by_average == {"clip_accuracy": 0.75, "video_accuracy": 0.5}
    assert by_vote == {"clip_accuracy": 0.75, "video_accuracy": 1.0}


@pytest.mark.parametrize("video", [[0, 0, 2], [0, 1, 3]])
def test_a_video_without_clips_is_no_decision(video):
    with pytest.raises(ValueError, match="expected all 3"):
        decisions.decide_videos(np.zeros((3, 2)), 1.0, np.array(video), 3, "vote")
