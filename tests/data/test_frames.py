"""The frame rule against lists of frames played forwards and backwards."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from vidrec.data import frames

UPTO = 60


def played(length: int, count: int) -> list[int]:
    """Forwards, backwards without doubling an end, forwards again … until `count` frames."""
    shown = list(range(length))
    while len(shown) < count:
        back = list(range(length - 2, -1, -1))
        forth = list(range(1, length))
        shown += (back + forth) or [0]
    return shown[:count]


@pytest.fixture(scope="module")
def lengths():
    return jnp.arange(1, UPTO + 1)


def test_played_by_hand():
    assert played(4, 12) == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert played(1, 3) == [0, 0, 0]


def every(take):
    """take(length, L) for every pair up to 60, compiled once: frames[L][length - 1]."""
    lengths = jnp.arange(1, UPTO + 1)

    @jax.jit
    def all_of_them():
        return {L: jax.vmap(lambda n, L=L: take(n, L))(lengths) for L in range(1, UPTO + 1)}

    return {L: np.asarray(shown) for L, shown in all_of_them().items()}


def test_continued():
    for L, shown in every(lambda length, L: frames.window_indices(length, 0, L)).items():
        for n in range(1, UPTO + 1):
            assert shown[n - 1].tolist() == played(n, L)


@pytest.mark.slow
def test_centre_segment():
    for L, shown in every(lambda n, L: frames.indices(n, L)[0]).items():
        for n in range(1, UPTO + 1):
            first = max(n - L, 0) // 2
            assert shown[n - 1].tolist() == played(n, first + L)[first:]


@pytest.mark.slow
def test_uniform():
    for L, shown in every(lambda n, L: frames.indices(n, L, "uniform")[0]).items():
        for n in range(1, UPTO + 1):
            assert shown[n - 1].tolist() == [int((2 * i + 1) * n / (2 * L)) for i in range(L)]


def test_only_whole_clips_are_masked(lengths):
    for rule in ("segment", "segment_mean_length", "uniform"):
        assert jax.vmap(lambda n, r=rule: frames.indices(n, 20, r)[1])(lengths).all()


@pytest.mark.parametrize("L", [1, 7, 59])
def test_random_segment(lengths, L):
    keys = jax.random.split(jax.random.key(L), (len(lengths), 40))
    draw = jax.vmap(lambda n, k: frames.indices(n, L, key=k)[0], in_axes=(None, 0))
    drawn = np.asarray(jax.vmap(draw)(lengths, keys))
    for n, samples in enumerate(drawn, start=1):
        if n <= L:
            assert (samples == played(n, L)).all()
        else:
            assert (np.diff(samples, axis=1) == 1).all()
            assert samples.min() >= 0
            assert samples.max() < n


def test_every_segment_is_drawn():
    keys = jax.random.split(jax.random.key(0), 300)
    starts = jax.vmap(lambda k: frames.indices(12, 5, key=k)[0][0])(keys)
    assert sorted(set(np.asarray(starts).tolist())) == list(range(8))


def test_uniform_of_a_long_clip_stays_in_it():
    got, _ = frames.indices(1_000_000, 180, "uniform")
    assert int(got[-1]) == 359 * 1_000_000 // 360


def test_whole_masks_what_the_clip_lacks(lengths):
    got, mask = jax.vmap(lambda n: frames.indices(n, 40, "whole"))(lengths)
    for n in range(1, UPTO + 1):
        assert mask[n - 1].tolist() == [i < n for i in range(40)]
        assert got[n - 1].tolist() == [min(i, n - 1) for i in range(40)]


@pytest.mark.parametrize("rule", ["segment", "segment_mean_length", "uniform", "whole"])
def test_a_clip_without_frames_is_masked(rule):
    index, mask = frames.indices(0, 6, rule)
    assert not mask.any()
    assert not index.any()


def test_windows_go_on_past_the_end(lengths):
    starts = jnp.array([0, 3, 30, 75])
    take = jax.vmap(lambda n, s: frames.window_indices(n, s, 60), in_axes=(None, 0))
    for n, windows in enumerate(np.asarray(jax.vmap(take, (0, None))(lengths, starts)), start=1):
        for start, window in zip(starts.tolist(), windows, strict=True):
            assert window.tolist() == played(n, start + 60)[start:]


@pytest.mark.parametrize("rule", ["segment", "uniform", "whole"])
@pytest.mark.parametrize("length", [1, 5, 50])
def test_shuffled_keeps_the_frames_and_loses_the_order(rule, length):
    kept, mask = frames.indices(length, 24, rule)
    got, mask_shuffled = frames.indices(
        length, 24, rule, order="shuffled", shuffle_key=jax.random.key(length)
    )
    np.testing.assert_array_equal(mask, mask_shuffled)
    assert sorted(got[mask].tolist()) == sorted(kept[mask].tolist())
    if length > 5:
        assert got[mask].tolist() != kept[mask].tolist()


def test_shuffled_orders_are_equally_likely():
    keys = jax.random.split(jax.random.key(1), 3000)
    drawn = jax.vmap(lambda k: frames.indices(3, 4, "whole", order="shuffled", shuffle_key=k)[0])(
        keys
    )
    orders, counts = np.unique(np.asarray(drawn)[:, :3], axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 400


def test_shuffled_in_training_needs_no_second_key():
    one, _ = frames.indices(9, 9, order="shuffled", key=jax.random.key(0))
    other, _ = frames.indices(9, 9, order="shuffled", key=jax.random.key(1))
    assert one.tolist() != other.tolist()
    with pytest.raises(ValueError, match="shuffle_key"):
        frames.indices(9, 9, order="shuffled")


def test_single_repeats_one_frame_that_counts():
    centre, mask = frames.indices(7, 20, "whole", order="single")
    assert centre.tolist() == [3] * 20
    assert int(mask.sum()) == 7
    keys = jax.random.split(jax.random.key(2), 200)
    drawn = jax.vmap(lambda k: frames.indices(7, 20, "whole", order="single", key=k)[0])(keys)
    assert (drawn == drawn[:, :1]).all()
    assert set(np.asarray(drawn[:, 0]).tolist()) == set(range(7))


def test_unknown_names():
    with pytest.raises(ValueError, match=r"frames\.rule"):
        frames.indices(3, 3, "middle")
    with pytest.raises(ValueError, match=r"frames\.order"):
        frames.indices(3, 3, order="sorted")


class Variants(chex.TestCase, parameterized.TestCase):
    """Jitted or not, on one device or eight, the same frames; one trace for every length."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    @parameterized.product(
        rule=["segment", "segment_mean_length", "uniform", "whole"],
        order=["kept", "shuffled", "single"],
    )
    def test_indices(self, rule, order):
        def take(length, key):
            return frames.indices(length, 16, rule, order=order, key=key)

        key = jax.random.key(3)
        index_L, mask_L = self.variant(take)(jnp.int32(9), key)
        chex.assert_shape([index_L, mask_L], (16,))
        chex.assert_type([index_L, mask_L], [jnp.int32, bool])
        chex.assert_trees_all_equal((index_L, mask_L), take(jnp.int32(9), key))

    def test_a_frame_gets_the_gradient_of_every_place_that_shows_it(self):
        def shown(features_TD):
            return features_TD[frames.window_indices(5, 0, 12)]

        rng = np.random.default_rng(0)
        features = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
        chex.assert_numerical_grads(shown, (features,), order=1, atol=1e-4)
        gradient = jax.grad(lambda values: shown(values).sum())(features)
        places = np.bincount(played(5, 12), minlength=5)
        np.testing.assert_array_equal(gradient, np.tile(places[:, None], (1, 2)))

    def test_one_trace_for_every_length(self):
        @jax.jit
        @chex.assert_max_traces(1)
        def take(length):
            return frames.indices(length, 30)

        for length in (1, 2, 29, 30, 31, 500):
            take(jnp.int32(length))
