"""Split clips into training, validation and test; by default, no recording is in two parts.

Everything is drawn from hashes of names and `data.split_seed`, so a split does not depend on the
order in which files are found, nor on the machine.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vidrec.config import Data, digest
from vidrec.data import per_class, split_errors
from vidrec.data.datasets.base import PARTS, Dataset
from vidrec.errors import UserError
from vidrec.io.words import counted

BY_CLIP = "at random by clip"


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the clips of each part.

    Attributes:
        train: indices of training clips.
        val: indices of validation clips.
        test: indices of test clips.
        id: hash of the clip names of each part.
        leaked: True if a recording or the same content is in two parts, or if `data.split` is
            random; else "unknown" if recordings are unknown, so that each file counts as one.
        how: how the split was made, in words.
        shared: pairs of parts that share a recording, such as "train/val".
        copies: names of clips with the same content in two parts, each with its part.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    id: str
    leaked: bool | Literal["unknown"]
    how: str
    shared: tuple[str, ...] = ()
    copies: tuple[dict[str, str], ...] = ()


def make(dataset: Dataset, data: Data) -> Split:
    """Split a data set as the settings say.

    Raises:
        UserError: the data cannot be split in this way; the message says what to change.
    """
    if len(dataset.classes) < 2:
        raise UserError(
            f"{dataset.name} has one class ({''.join(dataset.classes)}): a classifier needs two"
        )
    parts = _tested(dataset, data)
    if parts.val is not None:
        return _finished(dataset, data, parts)
    by_clip = data.val_by == "clip" or data.split == "random"
    carve = _by_clip if by_clip else _by_recording
    train, val = carve(dataset, parts.train, data.val, data, "val")
    how = parts.how
    if data.val_by == "clip" and data.split != "random":
        how += ", validation at random by clip"
    return _finished(dataset, data, _Parts(train, val, parts.test, how))


class _Parts(NamedTuple):
    """Indices of each part's clips, and how it was made; `val` None: still inside `train`."""

    train: np.ndarray
    val: np.ndarray | None
    test: np.ndarray
    how: str


class _Carved(NamedTuple):
    """Clips that were drawn from a pool, and the rest of it."""

    rest: np.ndarray
    drawn: np.ndarray


def _tested(dataset: Dataset, data: Data) -> _Parts:
    """Separate the test clips; `val` is None if it has still to be drawn from `train`."""
    if data.split == "given":
        return _given(dataset, data)
    every = np.arange(len(dataset))
    if data.split == "random":
        train, test = _by_clip(dataset, every, data.test, data, "test")
        return _Parts(train, None, test, BY_CLIP)
    if data.folds:
        return _fold(dataset, data)
    if data.fold:
        return _leave_one_out(dataset, data)
    train, test = _by_recording(dataset, every, data.test, data, "test")
    return _Parts(train, None, test, "by recording" if dataset.groups_known else "by file")


def _finished(dataset: Dataset, data: Data, made_parts: _Parts) -> Split:
    if data.per_class:
        kept = per_class.kept(dataset, made_parts.train, data)
        how = f"{made_parts.how}, training clips a class at most {data.per_class}"
        made_parts = made_parts._replace(train=kept, how=how)
    train, val, test = parts = [np.sort(np.asarray(part, np.int64)) for part in made_parts[:3]]
    if data.split != "given":  # lists are as their author made them: `describe` warns
        _refuse_untrained(dataset, train, made_parts.how)
    shared = tuple(_shared(dataset, parts))
    copies = tuple(_copies(dataset, parts))
    leaked: bool | Literal["unknown"] = bool(shared or copies) or data.split == "random"
    if not dataset.groups_known and not leaked:
        leaked = "unknown"
    names = [sorted(dataset.names[i] for i in part) for part in parts]
    id_ = digest(*names, length=16)
    return Split(train, val, test, id_, leaked, made_parts.how, shared, copies)


def untrained(dataset: Dataset, train: np.ndarray) -> list[int]:
    """Return the classes of which no clip is left to train, so that none is ever recognised."""
    there_K, trained_K = dataset.membership.any(0), dataset.membership[train].any(0)
    return np.flatnonzero(there_K & ~trained_K).tolist()


def _refuse_untrained(dataset: Dataset, train: np.ndarray, how: str) -> None:
    missing = untrained(dataset, train)
    if not missing:
        return
    recordings = {
        label: len(set(dataset.groups[dataset.membership[:, label]].tolist()))
        for label in range(len(dataset.classes))
    }
    # Other folds would test the other classes of one recording.
    few = {label: has for label, has in recordings.items() if label in missing or has == 1}
    raise split_errors.only_tested(dataset, few, how)


def _shared(dataset: Dataset, parts: Sequence[np.ndarray]) -> Iterable[str]:
    recordings = [set(dataset.groups[part].tolist()) for part in parts]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        if recordings[a] & recordings[b]:
            yield f"{PARTS[a]}/{PARTS[b]}"


def _copies(dataset: Dataset, parts: Sequence[np.ndarray]) -> Iterable[dict[str, str]]:
    """Return clips with the same bytes in several parts, as name to part."""
    part_of = {int(clip): name for name, part in zip(PARTS, parts, strict=True) for clip in part}
    same: dict[str, list[int]] = defaultdict(list)
    for clip in part_of:
        same[dataset.keys[clip]].append(clip)
    for clips in same.values():
        torn = len({part_of[clip] for clip in clips}) > 1
        # Files that cannot be opened are often the same error page, so they are not reported.
        if torn and all(dataset.lengths[clips] > 0):
            yield {dataset.names[clip]: part_of[clip] for clip in sorted(clips)}


def _given(dataset: Dataset, data: Data) -> _Parts:
    """Take the data set's own lists; refuse them if they share a recording."""
    lists = dataset.given
    if lists is None or not len(lists.get("train", ())) or not len(lists.get("test", ())):
        raise UserError(
            f"data.split given: {dataset.name} comes without lists of training and test clips; "
            "give folders train and test or a column split in labels.csv, or use data.split group"
        )
    parts = {part: np.asarray(indices) for part, indices in lists.items() if len(indices)}
    if dataset.groups_known:
        _refuse_shared(dataset, parts)
    train, test = parts["train"], parts["test"]
    how = "as given"
    if data.swapped:
        train, test, how = test, train, "as given, training and test exchanged"
    return _Parts(train, parts.get("val"), test, how)


def _refuse_shared(dataset: Dataset, parts: dict[str, np.ndarray]) -> None:
    owner: dict[str, str] = {}
    for part, indices in parts.items():
        for group in sorted(set(dataset.groups[indices].tolist())):
            if owner.setdefault(group, part) != part:
                raise UserError(
                    f"the split of {dataset.name} leaks: group {group!r} stands in both "
                    f"{owner[group]} and {part}; move its clips to one of them, or use data.split "
                    "group (data.split random shares groups on purpose and labels figures leaked)"
                )


def _wanted(share: float, clips: int) -> float:
    """Return the number of clips for a share (below 1) or a number (1 and above)."""
    return share * clips if share < 1 else share


def _shuffled(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    """Return names in a random order that depends on the seed but not on their given order."""
    return sorted(set(names), key=lambda name: (digest(purpose, seed, name, length=32), name))


def _by_clip(dataset: Dataset, pool: np.ndarray, share: float, data: Data, part: str) -> _Carved:
    """Draw exactly the wanted number of clips, from each class in proportion to its size."""
    count = round(_wanted(share, len(pool)))
    if count >= len(pool):
        raise UserError(f"data.{part} = {share:g} asks for {count} of {len(pool)} clips")
    if dataset.labels.ndim == 2:
        return _by_label_set(dataset, pool, count, data, part)
    labels = dataset.labels[pool]
    quota = _quotas(np.bincount(labels, minlength=len(dataset.classes)), count)
    drawn: list[int] = []
    for label, take in enumerate(quota):
        by_name = {dataset.names[i]: int(i) for i in pool[labels == label]}
        if len(by_name) <= take and take:
            raise split_errors.too_few(dataset, {label: len(by_name)}, part, take + 1, "clips")
        drawn += [by_name[n] for n in _shuffled(by_name, data.split_seed, f"clip {part}")[:take]]
    return _Carved(np.setdiff1d(pool, drawn), np.array(drawn, int))


def _by_label_set(dataset: Dataset, pool: np.ndarray, count: int, data: Data, part: str) -> _Carved:
    """Draw exactly `count` clips, from each set of labels in proportion to its frequency."""
    _, set_of = np.unique(dataset.labels[pool], axis=0, return_inverse=True)
    set_of = set_of.reshape(-1)
    drawn: list[int] = []
    for label_set, take in enumerate(_quotas(np.bincount(set_of), count)):
        by_name = {dataset.names[i]: int(i) for i in pool[set_of == label_set]}
        drawn += [by_name[n] for n in _shuffled(by_name, data.split_seed, f"clip {part}")[:take]]
    rest = np.setdiff1d(pool, drawn)
    has_K, left_K = (dataset.labels[clips].sum(axis=0) for clips in (pool, rest))
    for label in np.flatnonzero((has_K > 0) & (left_K == 0)).tolist():
        has = int(has_K[label])
        raise split_errors.too_few(dataset, {label: has}, part, has + 1, "clips")
    return _Carved(rest, np.array(drawn, int))


def _quotas(counts: np.ndarray, total: int) -> list[int]:
    """Divide `total` in proportion to `counts`, by the method of largest remainders."""
    exact = counts * (total / max(1, counts.sum()))
    quota = np.floor(exact).astype(int)
    behind = np.argsort(quota - exact, kind="stable")[: total - quota.sum()]
    quota[behind] += 1
    return quota.tolist()


def _by_recording(
    dataset: Dataset, pool: np.ndarray, share: float, data: Data, part: str
) -> _Carved:
    """Draw whole recordings greedily, so that each class comes near to its wanted share."""
    if share == 0:
        return _Carved(pool, np.zeros(0, int))
    if _wanted(share, len(pool)) >= len(pool):
        raise UserError(f"data.{part} = {share:g} asks for all of {counted(len(pool), 'clip')}")
    recordings = _recordings(dataset, pool)
    counts = recordings.counts
    order = _shuffled(counts, data.split_seed, f"group {part}")
    target = sum(counts.values()) * (_wanted(share, len(pool)) / len(pool))
    drawn, have = set(), np.zeros(np.shape(target))
    for recording in order:
        # A recording is drawn if that brings the classes nearer to their shares.
        with_it = have + counts[recording]
        if ((with_it - target) ** 2).sum() < ((have - target) ** 2).sum():
            drawn.add(recording)
            have = with_it
    # After the test clips are drawn, the rest must suffice for validation and training.
    spare = 2 if part == "test" and data.val > 0 else 1
    draw = _Draw(dataset, part, order, counts, spare)
    drawn = _complete(draw, drawn)
    clips = np.array(sorted(clip for name in drawn for clip in recordings.clips[name]))
    return _Carved(np.setdiff1d(pool, clips), clips)


class _Recordings(NamedTuple):
    """The clips of each recording, and their number in each class, by name of the recording.

    If there are clips without a label, they are counted as one more class after the others.
    """

    clips: dict[str, list[int]]
    counts: dict[str, np.ndarray]


def _recordings(dataset: Dataset, pool: np.ndarray) -> _Recordings:
    clips: dict[str, list[int]] = defaultdict(list)
    for i in pool.tolist():
        clips[str(dataset.groups[i])].append(i)
    membership = dataset.membership
    if not (some := membership.any(axis=1)).all():
        membership = np.column_stack([membership, ~some])
    counts = {name: membership[inside].sum(axis=0) for name, inside in clips.items()}
    return _Recordings(dict(clips), counts)


class _Draw(NamedTuple):
    """The recordings from which the clips of a part are drawn.

    Attributes:
        dataset: the clips.
        part: the part that is drawn.
        order: names of the recordings, shuffled.
        counts: number of clips of each class, by name of the recording.
        spare: number of recordings of each class that must not be drawn.
    """

    dataset: Dataset
    part: str
    order: list[str]
    counts: dict[str, np.ndarray]
    spare: int


def _complete(draw: _Draw, drawn: set[str]) -> set[str]:
    """Change the draw so that each class has a recording drawn and `spare` recordings left."""
    counts, spare, classes = draw.counts, draw.spare, draw.dataset.classes
    having = [{name for name in draw.order if counts[name][k]} for k in range(len(classes))]
    unit = "recordings" if draw.dataset.groups_known else "clips"
    few = {label: len(names) for label, names in enumerate(having) if len(names) < 1 + spare}
    if few:
        raise split_errors.too_few(
            draw.dataset, few, draw.part, 1 + spare, unit, val_helps=spare > 1
        )
    small_first = sorted(draw.order, key=lambda name: counts[name].sum())
    drawn = set(drawn)
    for names in having:
        if not drawn & names:
            drawn.add(next(name for name in small_first if name in names))
    for names in having:
        for name in small_first:
            if len(names - drawn) >= spare:
                break
            if name in names and all(drawn & others - {name} for others in having):
                drawn.discard(name)
    for label, names in enumerate(having):
        if not drawn & names or len(names - drawn) < spare:
            raise UserError(
                f"class {classes[label]!r} shares its recordings with other classes so "
                f"that no {draw.part} split by recording was found: choose another data.split_seed"
            )
    return drawn


def _fold(dataset: Dataset, data: Data) -> _Parts:
    """Assign recordings to folds, large ones first, each to the fold with least of its classes."""
    if data.folds < 2:
        raise UserError(f"data.folds = {data.folds} should be at least 2")
    clips, counts = _recordings(dataset, np.arange(len(dataset)))
    unit = "recordings" if dataset.groups_known else "files"
    if len(clips) < data.folds:
        raise UserError(
            f"data.folds = {data.folds}, but {dataset.name} has only {len(clips)} {unit}: "
            "take no more folds than that"
        )
    order = _shuffled(clips, data.split_seed, "fold")
    order.sort(key=lambda name: -counts[name].sum())
    have = np.zeros((data.folds, len(next(iter(counts.values())))))
    dealt: list[list[int]] = [[] for _ in range(data.folds)]
    for name in order:
        # Up to a constant, half the rise of the squared class counts: least where they are small.
        cost = have @ counts[name]
        fold = min(range(data.folds), key=lambda f: (cost[f], have[f].sum()))
        have[fold] += counts[name]
        dealt[fold] += clips[name]
    fold = max(1, data.fold)
    test = np.array(sorted(dealt[fold - 1]))
    return _Parts(_rest(dataset, test), None, test, f"fold {fold} of {data.folds} by {unit}")


def blocks(dataset: Dataset) -> list[str]:
    """Return the sorted names of the blocks that leave-one-out leaves out one at a time."""
    return sorted(set(_block_of_clip(dataset).tolist()))


def _block_of_clip(dataset: Dataset) -> np.ndarray:
    return dataset.groups if dataset.blocks is None else dataset.blocks


def _leave_one_out(dataset: Dataset, data: Data) -> _Parts:
    names = blocks(dataset)
    if not dataset.groups_known:
        raise UserError(
            f"data.fold = {data.fold} leaves one recording out, but the clips of {dataset.name} "
            "name no recording: give groups.csv or data.groups, or data.folds for folds by file"
        )
    if data.fold > len(names):
        raise UserError(
            f"data.fold = {data.fold}: {dataset.name} has {counted(len(names), 'recording')}"
        )
    left_out = names[data.fold - 1]
    test = np.flatnonzero(_block_of_clip(dataset) == left_out)
    return _Parts(_rest(dataset, test), None, test, f"recording {left_out} left out")


def _rest(dataset: Dataset, test: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(len(dataset)), test)


def may_share_recordings(dataset: Dataset, split: Split) -> bool:
    """Return whether parts may share recordings because the recordings are unknown.

    False if the parts were drawn by clip on purpose, which counts as leaked anyway.
    """
    return not dataset.groups_known and not split.how.startswith(BY_CLIP)


def without_test(dataset: Dataset, split: Split) -> tuple[Dataset, Split]:
    """Return the training and validation clips as a separate data set, and their split.

    The new data set has no test clips, so code that uses it cannot read any.
    """
    clips = np.sort(np.concatenate([split.train, split.val]))
    place = {int(clip): index for index, clip in enumerate(clips)}
    train, val = (
        np.array([place[int(clip)] for clip in part], np.int64) for part in (split.train, split.val)
    )
    copies = tuple(each for each in split.copies if "test" not in each.values())
    shared = tuple(pair for pair in split.shared if "test" not in pair)
    how = f"{split.how}, without its test clips"
    id_ = digest(split.id, "without test", length=16)
    none = np.zeros(0, np.int64)
    kept = dataset.only(clips)
    return kept, Split(train, val, none, id_, split.leaked, how, shared, copies)


def copied_tests(split: Split) -> int:
    """Return how many test clips have a copy in another part; 0 if recordings leak too.

    A few copies raise test figures only a little; shared recordings raise them much more.
    """
    if split.leaked is not True or split.shared or split.how.startswith(BY_CLIP):
        return 0
    return sum(part == "test" for clips in split.copies for part in clips.values())


def leaks_into_test(split: Split) -> bool:
    """Return whether a test clip, or its recording, is known to be in another part too."""
    if split.leaked is not True:
        return False
    by_clip = split.how.startswith(BY_CLIP)
    copied = any("test" in clips.values() for clips in split.copies)
    return by_clip or copied or any("test" in pair for pair in split.shared)
