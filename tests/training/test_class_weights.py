"""Weights by class: what they are, and that training and scoring use them."""

import numpy as np
import pytest
from helpers.small_datasets import features, group_of, prepared, settings

from vidrec.config.class_weights import named
from vidrec.errors import UserError
from vidrec.training import class_weights

CLASSES = ("run", "jump", "sit", "fall")
LABELS = np.array([0] * 7 + [1] * 2 + [3] * 3)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    want = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    got = class_weights.of("balanced", CLASSES, LABELS)
    np.testing.assert_allclose(np.array(got)[[0, 1, 3]], want)
    assert np.mean(np.array(got)[LABELS]) == pytest.approx(1)


def test_named_classes_weigh_as_said_and_others_one():
    assert class_weights.of("sit=2.5, run=0.5", CLASSES, LABELS) == (0.5, 1, 2.5, 1)
    assert class_weights.of("none", CLASSES, LABELS) == ()
    assert class_weights.of("a=b=2", ("a=b", "c"), LABELS) == (2, 1)


@pytest.mark.parametrize("text", ["run", "run=", "run=0", "run=-1", "run=inf", "=2", "a=1,a=2", ""])
def test_what_is_no_weight_is_refused(text):
    with pytest.raises(UserError, match=r"loss\.class_weights = .* should be none, balanced"):
        named(text)


def test_an_unknown_class_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"no class is 'jmp'; did you mean 'jump'"):
        class_weights.of("jmp=2", CLASSES, LABELS)


def test_a_clips_loss_is_multiplied_by_the_weight_of_its_class():
    source = features(clips=40)
    losses = {}
    for weights in ("none", f"{source.classes[1]}=3.5", "balanced"):
        cfg = settings(loss__class_weights=weights)
        group = group_of([cfg], prepared(cfg, source))
        group.initialize()
        losses[weights] = group.score(group.data.readable).losses_B[0]
        labels = source.labels[group.data.readable]
    plain, by_name, balanced = losses.values()
    np.testing.assert_allclose(by_name, plain * np.where(labels == 1, 3.5, 1), rtol=1e-5)
    trained = source.labels[group.data.clips("train")]
    counts = np.bincount(trained)
    factors = len(trained) / (len(counts) * counts)
    np.testing.assert_allclose(balanced, plain * factors[labels], rtol=1e-5)


def test_balanced_sampling_trains_on_each_class_equally_often():
    source = features(clips=40)
    cfg = settings(train__sampling="balanced", train__batch_size=6)
    group = group_of([cfg], prepared(cfg, source))
    source.labels = (source.labels > 1).astype(int)  # unequal classes
    order = group._order(0)
    seen = source.labels[group.data.clips("train")[order.places_SB[0]]]
    assert order.valid_SB.all()
    for batch in seen:
        assert len(set(np.bincount(batch).tolist())) == 1
