"""Say what to do about classes with too few recordings or clips to be split."""

from collections.abc import Collection, Mapping

from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError
from vidrec.io import escape
from vidrec.io.words import counted, some

MOST_NAMED = 10  # classes that a message lists


def too_few(
    dataset: Dataset,
    few: Mapping[int, int],
    part: str,
    needs: int,
    unit: str,
    *,
    val_helps: bool = False,
) -> UserError:
    """Return the error for classes with too few recordings or clips.

    Args:
        dataset: the clips.
        few: how many recordings or clips each of these classes has.
        part: the part that cannot be split off.
        needs: how many a class needs.
        unit: "recordings" or "clips".
        val_helps: whether one fewer is enough without validation clips.
    """
    left = " left besides those of the test part" if part == "val" else ""
    advice = f"film more of it{_use_others(dataset, few)}"
    if part == "val" or val_helps:
        advice += _without_val(dataset, few, needs - 1)
    advice += "; for a model without a score use --data.test 0 --data.val 0, and no folds"
    have = [
        f"class {dataset.classes[label]!r}{'' if i else f' of {dataset.name}'} has "
        f"{counted(has, unit[:-1])}{left}"
        for i, (label, has) in enumerate(few.items())
    ]
    return UserError(
        f"{some(have, MOST_NAMED)}, too few to split off {part}: a class needs at least {needs} "
        f"{unit}; {advice}"
    )


def only_tested(dataset: Dataset, few: Mapping[int, int], how: str) -> UserError:
    """Return the error for classes of which a fold would test all and train nothing.

    Args:
        dataset: the clips.
        few: how many recordings each of these classes has.
        how: the split, in words.
    """
    unit = "recording" if dataset.groups_known else "file"
    have = (
        f"class {dataset.classes[label]!r} of {dataset.name} has {counted(has, unit)}"
        for label, has in few.items()
    )
    return UserError(
        f"{some(have, MOST_NAMED)}: where all of them are tested (split {how}), nothing of the "
        f"class is left to train; film more of it{_use_others(dataset, few)}, or, if it has "
        "several, use other folds or another data.split_seed"
    )


def _use_others(dataset: Dataset, few: Collection[int]) -> str:
    """Return the advice to use other classes than these; "" if fewer than two are left."""
    if len(dataset.classes) - len(few) < 2:
        return ""
    chosen = _choice_without(dataset, few)
    return ", or use only other classes" + (f" ({chosen})" if chosen else "")


def _without_val(dataset: Dataset, few: Mapping[int, int], enough: int) -> str:
    """Return the advice to train without validation clips, as far as it helps."""
    still_few = [label for label, has in few.items() if has < enough]
    if len(still_few) == len(few):
        return ""
    if not still_few:
        return f", or train without validation clips (--data.val 0): then {enough} are enough"
    chosen = _choice_without(dataset, still_few)
    if not chosen or len(dataset.classes) - len(still_few) < 2:
        return ""
    return f", or leave out only those with fewer than {enough} ({chosen} --data.val 0)"


def _choice_without(dataset: Dataset, left_out: Collection[int]) -> str:
    """Return the setting for all other classes; "" if they cannot be chosen or are too many."""
    kept = [name for label, name in enumerate(dataset.classes) if label not in left_out]
    if dataset.frame_labels or len(kept) > MOST_NAMED or any("," in name for name in kept):
        return ""
    return f"--data.classes {escape.shell(kept)}"
