"""Splits: no group in two parts, every class in each, and the same whatever finds the files."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrec.config import Data
from vidrec.data import split_text, splits
from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError

PARTS = ("train", "val", "test")


class Names(Dataset):
    """Clips that are names only."""

    @property
    def lengths(self):
        return np.full(len(self), 30, np.int32)

    def key(self, clip):
        return self.names[clip]

    def read(self, clip, frame_indices, size):
        raise NotImplementedError

    def stream(self, clip, size, chunk=64):
        raise NotImplementedError


def source(labels, groups=None, given=None, classes=None, order=None) -> Names:
    """A source of these labels; groups None: every clip its own."""
    names = [f"clip{i:04d}" for i in range(len(labels))]
    known = groups is not None
    groups = list(groups) if known else names
    order = range(len(labels)) if order is None else order
    return Names(
        "toy",
        tuple(classes or (f"class{k}" for k in range(max(labels, default=-1) + 1))),
        tuple(names[i] for i in order),
        np.array([labels[i] for i in order], np.int32),
        np.array([groups[i] for i in order], str),
        known,
        given,
    )


def even(classes=5, groups=10, clips=4) -> Names:
    """`groups` groups a class of `clips` clips each."""
    labels = [k for k in range(classes) for _ in range(groups * clips)]
    return source(labels, [f"{k}-{i // clips % groups}" for i, k in enumerate(labels)])


def groups_of(data, part) -> set:
    return set(data.groups[part].tolist())


def check_whole(data, split) -> None:
    """Every clip in exactly one part; no group in two; every class in each part."""
    clips = np.concatenate([getattr(split, part) for part in PARTS])
    assert sorted(clips.tolist()) == list(range(len(data)))
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not groups_of(data, getattr(split, a)) & groups_of(data, getattr(split, b))
    for part in PARTS:
        assert set(data.labels[getattr(split, part)].tolist()) == set(range(len(data.classes)))


def test_shares_are_met_in_every_class():
    data = even()
    split = splits.make(data, Data(split="group"))
    check_whole(data, split)
    assert split.leaked is False
    assert [len(getattr(split, part)) for part in PARTS] == [120, 40, 40]
    for part, share in (("train", 24), ("val", 8), ("test", 8)):
        counts = Counter(data.labels[getattr(split, part)].tolist())
        assert set(counts.values()) == {share}


@given(st.integers(0, 10**6), st.integers(2, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_unequal_groups_stay_whole(seed, classes, crossing):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, (classes, 8))
    labels = [k for k in range(classes) for g in range(8) for _ in range(sizes[k, g])]
    groups = [
        f"g{g}" if crossing else f"{k}-g{g}"
        for k in range(classes)
        for g in range(8)
        for _ in range(sizes[k, g])
    ]
    data = source(labels, groups)
    split = splits.make(data, Data(split="group", split_seed=seed % 7))
    check_whole(data, split)
    assert split.leaked is False
    # As near to a fifth as the largest groups allow.
    largest = max(Counter(groups).values())
    assert abs(len(split.test) - len(data) / 5) <= largest * (1 if crossing else classes)


def test_the_order_of_files_changes_nothing():
    data = even()
    for how in (Data(split="group"), Data(split="random"), Data(split="group", folds=3, fold=2)):
        names = [{data.names[i] for i in getattr(splits.make(data, how), p)} for p in PARTS]
        order = np.random.default_rng(0).permutation(len(data))
        mixed = data.only(order)
        again = splits.make(mixed, how)
        assert [{mixed.names[i] for i in getattr(again, p)} for p in PARTS] == names
        assert again.id == splits.make(data, how).id


def test_seeds_draw_anew_and_ids_tell():
    data = even()
    ids = {splits.make(data, Data(split_seed=seed)).id for seed in range(10)}
    assert len(ids) == 10
    assert splits.make(data, Data(split_seed=3)).id == splits.make(data, Data(split_seed=3)).id


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_test_every_group_once(folds):
    data = even()
    tested = []
    for fold in range(1, folds + 1):
        split = splits.make(data, Data(folds=folds, fold=fold))
        check_whole(data, split)
        assert split.leaked is False
        tested += sorted(groups_of(data, split.test))
        assert abs(len(split.test) - len(data) / folds) <= 5 * 4
    assert sorted(tested) == sorted(groups_of(data, np.arange(len(data))))
    zero, first = (splits.make(data, Data(folds=folds, fold=f)) for f in (0, 1))
    assert zero.id == first.id


def test_folds_over_clips_where_sources_are_unknown():
    data = source([k for k in range(3) for _ in range(20)])
    split = splits.make(data, Data(folds=4, fold=2))
    assert split.leaked == "unknown"
    assert Counter(data.labels[split.test].tolist()) == {0: 5, 1: 5, 2: 5}
    assert split.how == "fold 2 of 4 by files"


def test_leaving_one_out():
    data = even()
    blocks = np.array([group.partition("-")[2] for group in data.groups])
    data = replace(data, blocks=blocks)
    for fold in range(1, 11):
        split = splits.make(data, Data(fold=fold))
        check_whole(data, split)
        assert set(blocks[split.test]) == {str(fold - 1)}
        assert len(split.test) == 20
    with pytest.raises(UserError, match="toy has 10 recordings"):
        splits.make(data, Data(fold=11))
    with pytest.raises(UserError, match="name no recording"):
        splits.make(source([0, 0, 0, 1, 1, 1]), Data(fold=1))


def test_random_splits_are_labelled_leaked():
    data = even()
    split = splits.make(data, Data(split="random"))
    assert split.leaked is True
    assert "train/test" in split.shared
    assert [len(getattr(split, part)) for part in PARTS] == [128, 32, 40]
    assert Counter(data.labels[split.test].tolist()) == dict.fromkeys(range(5), 8)
    # By clip, so labelled even where no group happens to be shared.
    lone = source([0, 1] * 20)
    assert splits.make(lone, Data(split="random")).leaked is True
    assert any("leaks" in line for line in split_text.describe(data, split))


def test_validation_by_clip_takes_exactly_as_many_and_is_labelled():
    data = even(clips=5)
    split = splits.make(data, Data(val=33, val_by="clip"))
    assert len(split.val) == 33
    assert split.leaked is True
    assert split.shared == ("train/val",)
    assert "validation at random by clip" in split.how
    assert not groups_of(data, split.test) & groups_of(data, split.train)


def test_numbers_of_clips():
    data = even()
    split = splits.make(data, Data(test=60, val=40))
    check_whole(data, split)
    assert (len(split.test), len(split.val)) == (60, 40)
    empty = splits.make(data, Data(val=0))
    assert len(empty.val) == 0
    with pytest.raises(UserError, match=re.escape("data.test = 500 asks for")):
        splits.make(data, Data(test=500))
    with pytest.raises(UserError, match=re.escape("data.val = 190 asks for")):
        splits.make(data, Data(test=0.2, val=190, val_by="clip"))


def test_given_lists_are_taken_as_they_are():
    data = even()
    test = np.flatnonzero([group.endswith(("-0", "-1", "-2")) for group in data.groups])
    train = np.setdiff1d(np.arange(len(data)), test)
    data = replace(data, given={"train": train, "test": test})
    split = splits.make(data, Data(split="given"))
    check_whole(data, split)
    assert split.test.tolist() == test.tolist()
    assert split.leaked is False
    swapped = splits.make(data, Data(split="given", swapped=True))
    assert swapped.test.tolist() == train.tolist()
    assert sorted([*swapped.train, *swapped.val]) == test.tolist()
    assert swapped.id != split.id
    val = train[:8]
    own = replace(data, given={"train": train[8:], "val": val, "test": test})
    own = replace(own, groups=np.array(own.names), groups_known=False)
    split = splits.make(own, Data(split="given"))
    assert split.val.tolist() == val.tolist()
    assert split.leaked == "unknown"
    # Clips of no list are counted, not hidden.
    few = replace(own, given={"train": train[8:], "val": val[:3], "test": test})
    line = split_text.describe(few, splits.make(few, Data(split="given")))[-1]
    assert line == "5 clips stand in no list and are not used"


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_leak_is_refused_by_name(other):
    data = even()
    last = np.flatnonzero([group.endswith("-9") for group in data.groups])
    train = np.setdiff1d(np.arange(len(data)), last)
    parts = {"train": train, "val": last[:10], "test": last[10:]}
    # One clip of group 3-7 in the wrong list.
    stray = np.flatnonzero(data.groups == "3-7")[0]
    parts["train"] = np.setdiff1d(train, [stray])
    parts[other] = np.append(parts[other], stray)
    parts["val"] = parts["val"][~np.isin(data.groups[parts["val"]], data.groups[parts["test"]])]
    leaking = replace(data, given=parts)
    with pytest.raises(UserError, match=f"group '3-7' stands in both train and {other}"):
        splits.make(leaking, Data(split="given"))
    assert splits.make(leaking, Data(split="random")).leaked is True
    assert splits.make(leaking, Data(split="group")).leaked is False


def message_of(dataset, data):
    with pytest.raises(UserError) as refused:
        splits.make(dataset, data)
    return str(refused.value)


def test_what_cannot_be_split_says_what_is_needed():
    with pytest.raises(UserError, match="toy comes without lists"):
        splits.make(even(), Data(split="given"))
    with pytest.raises(UserError, match="one class"):
        splits.make(source([0] * 9), Data())
    two = source([0] * 12 + [1] * 12, ["a", "b"] * 6 + [f"c{i}" for i in range(12)])
    advice = "film more of it.*--data.val 0.: then 2 are enough; for a model without a score use"
    with pytest.raises(
        UserError, match=rf"'class0' of toy has 2 recordings.*at least 3 recordings; {advice}"
    ):
        splits.make(two, Data())
    assert splits.make(two, Data(val=0)).leaked is False
    groups = ["a", "b"] * 3 + ["c"] * 6 + [f"{name}{i}" for name in "de" for i in range(6)]
    some = source([0] * 6 + [1] * 6 + [2] * 6 + [3] * 6, groups)
    both = "'class0' of toy has 2 recordings, class 'class1' has 1 recording, too few"
    with pytest.raises(UserError, match=f"{both}.*--data.classes class2 class3"):
        splits.make(some, Data())
    message = message_of(some, Data())
    assert "fewer than 2 (--data.classes class0 class2 class3 --data.val 0)" in message
    assert "then 2 are enough" not in message  # not for class1
    assert splits.make(source([0] * 6 + [1] * 6, groups[:6] + groups[12:18]), Data(val=0))
    assert len(splits.make(some, Data(test=0, val=0)).train) == 24
    only = source([0] * 6 + [1] * 6 + [2] * 6, groups[6:])
    with pytest.raises(UserError, match="has 1 recording, too few to split off test") as refused:
        splits.make(only, Data())
    assert "--data.val 0)" not in str(refused.value)  # a class of one recording needs more
    lone = source([0] * 12 + [1])
    for how in ("group", "random"):
        with pytest.raises(UserError, match="'class1' of toy has 1 clip, too few"):
            splits.make(lone, Data(split=how, test=0.6))
    with pytest.raises(UserError, match=r"data.folds = 30, but toy has only 13 files"):
        splits.make(lone, Data(folds=30, fold=1))
    with pytest.raises(UserError, match="at least 2"):
        splits.make(even(), Data(folds=1, fold=1))


def test_a_class_that_a_fold_would_only_test_is_refused():
    """Without validation clips nothing else would notice, and its figure would be 0."""
    groups = [f"a{i}" for i in range(6)] + [f"b{i}" for i in range(6)] + ["c"] * 6
    data = source([0] * 6 + [1] * 6 + [2] * 6, groups)
    refused = []
    for fold in range(1, 4):
        try:
            split = splits.make(data, Data(folds=3, fold=fold, val=0))
        except UserError as error:
            refused.append(str(error))
        else:
            assert set(data.labels[split.train].tolist()) == {0, 1, 2}
    [message] = refused
    assert "class 'class2' of toy has 1 recording: where all of them are tested" in message
    assert "--data.classes class0 class1" in message
    assert "--data.val" not in message  # it is given
    joint = source(
        [0] * 10 + [1] * 2 + [0] * 7, ["b1"] * 10 + ["m1", "m2"] + ["m1"] * 5 + ["m2"] * 2
    )
    with pytest.raises(UserError, match=r"'class1' of toy has 2 recordings: where all of them are"):
        splits.make(joint, Data(folds=2, fold=2, val=0))
    random = source([0] * 2 + [1] * 8)
    with pytest.raises(UserError, match="too few to split off test") as refused:
        splits.make(random, Data(split="random", test=0.8, val=0.2))
    assert "--data.val 0)" not in str(refused.value)  # it would not help
    lone = source([0] * 6 + [1] * 6 + [2] * 6, [*groups[:6], *["b"] * 6, *["c"] * 6])
    for fold in (1, 2):  # both classes are named, whichever the fold tests
        with pytest.raises(
            UserError, match=r"'class1' of toy has 1 rec.*'class2' of toy has 1 rec"
        ):
            splits.make(lone, Data(folds=2, fold=fold, val=0))
    last = len(splits.blocks(data))
    with pytest.raises(UserError, match="'class2' of toy has 1 recording"):
        splits.make(data, Data(fold=last, val=0))
    lists = {"train": np.arange(12), "test": np.arange(12, 18)}
    given = source(data.labels.tolist(), groups, lists)
    split = splits.make(given, Data(split="given", val=0))
    told = "warning: no clip of class2 is in training: never recognised"
    assert told in split_text.describe(given, split)


def test_small_classes_are_in_every_part():
    data = source([k for k in range(4) for _ in range(3 + 20 * (k == 0))])
    check_whole(data, splits.make(data, Data()))


def test_a_warning_where_sources_are_unknown():
    data = source([k for k in range(3) for _ in range(9)])
    lines = split_text.describe(data, splits.make(data, Data()))
    assert lines[0] == "toy: 3 classes, 27 clips"
    assert sum("name no recording" in line for line in lines) == 1
    known = split_text.describe(even(), splits.make(even(), Data()))
    assert known[0] == "toy: 5 classes, 200 clips, 50 recordings"
    assert not any("warning" in line for line in known)


def copied(dataset: Names, of: dict[int, int]) -> Names:
    """The same clips, some with the content of another."""
    keys = {i: dataset.names[of.get(i, i)] for i in range(len(dataset))}
    dataset.key = keys.__getitem__
    return dataset


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_copied_file_does_not_hide_that_recordings_are_unknown(part):
    plain = source([k for k in range(3) for _ in range(20)])
    before = splits.make(plain, Data())
    twin = {int(getattr(before, part)[0]): int(before.train[0])}
    data = copied(source(plain.labels.tolist()), twin)
    split = splits.make(data, Data())
    assert split.leaked is True
    assert splits.copied_tests(split) == (part == "test")
    assert splits.leaks_into_test(split) is (part == "test")
    _, _, leak, unknown = split_text.describe(data, split)
    which = "validation figures" if part == "val" else "figures"
    assert f"the same content in two parts: {data.names[split.train[0]]} (train) = " in leak
    assert f"): its {which} are too high" in leak
    assert "name no recording" in unknown
    known = replace(data, groups_known=True)
    known.key = data.key
    assert split_text.describe(known, splits.make(known, Data()))[2:] == [leak]


def test_a_split_by_clip_is_called_leaked_alone():
    """Nothing is left to doubt, and copies are not all that leaks."""
    data = copied(source([k for k in range(3) for _ in range(20)]), dict.fromkeys(range(20), 0))
    for more in ({}, {"per_class": "4"}):
        split = splits.make(data, Data(split="random", **more))
        assert splits.leaks_into_test(split)
        assert splits.copied_tests(split) == 0
        told = split_text.describe(data, split)
        assert sum("leaks" in line for line in told) == 1
        assert not any("name no recording" in line for line in told)


def test_copies_of_test_clips_are_counted_where_recordings_do_not_leak():
    groups = [f"g{i // 2}" for i in range(24)]
    lists = {"train": np.arange(12), "val": np.arange(12, 16), "test": np.arange(16, 24)}
    data = Data(split="given", val=0.2)
    for copies, copied in (({}, 0), ({20: 3}, 1), ({20: 3, 21: 3, 13: 0}, 2)):
        dataset = source([i // 2 % 2 for i in range(24)], groups, lists)
        own = list(dataset.names)
        key_of = {i: own[copies.get(i, i)] for i in range(24)}
        dataset.key = key_of.__getitem__
        split = splits.make(dataset, data)
        assert split.leaked is bool(copies)
        assert splits.copied_tests(split) == copied
        text = " ".join(split_text.describe(dataset, split))
        assert (f"by {copied} of 8 test clips at most" in text) is bool(copied)
    random = splits.make(source([0, 1] * 12, groups), Data(split="random"))
    assert splits.copied_tests(random) == 0
