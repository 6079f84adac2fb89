"""Fewer training clips of a class: the rest of the split stays as it is."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.small_datasets import features, settings

from vidrec.data import per_class, splits
from vidrec.errors import UserError


def parts(text, source, seed=0):
    return splits.make(source, replace(settings().data, per_class=text, split_seed=seed))


def counts(split, source):
    return np.bincount(source.labels[split.train], minlength=3).tolist()


def test_each_class_keeps_so_many_clips_and_smaller_numbers_a_part_of_them():
    source = features(clips=60)
    whole = parts("", source)
    assert min(counts(whole, source)) > 5
    before = set(whole.train.tolist())
    for most in (5, 3, 1):
        fewer = parts(str(most), source)
        assert counts(fewer, source) == [most] * 3
        assert set(fewer.train.tolist()) < before
        before = set(fewer.train.tolist())
        assert np.array_equal(fewer.val, whole.val)
        assert np.array_equal(fewer.test, whole.test)
        assert fewer.id != whole.id
        assert f"at most {most}" in fewer.how
    assert counts(parts("1000", source), source) == counts(whole, source)
    assert parts("3", source).train.tolist() == parts("3", source).train.tolist()


def test_named_classes_keep_fewer_and_the_others_all():
    source = features(clips=60)
    whole = counts(parts("", source), source)
    assert counts(parts("b=2, c=4", source), source) == [whole[0], 2, 4]
    assert counts(parts("b=2", source), source) == [whole[0], 2, whole[2]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0", "should be a whole number from 1"),
        ("-3", "should be a whole number from 1"),
        ("2.5", "should be a whole number from 1"),
        ("b=0", "should be a whole number from 1"),
        ("b=1,b=2", "each class once"),
        ("b", "NAME=NUMBER"),
        ("d=2", "no class is 'd'"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, line):
    with pytest.raises(UserError, match=line) as error:
        parts(text, features(clips=60))
    assert "\n" not in str(error.value)


def test_clips_of_several_labels_have_no_class_to_count():
    source = features(clips=60)
    source.labels = np.zeros((60, 3), bool)
    with pytest.raises(UserError, match="counts clips of one class each"):
        per_class.kept(source, np.arange(9), replace(settings().data, per_class="2"))
