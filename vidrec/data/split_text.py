"""Describe a data set and its split in lines for people."""

from vidrec.data.datasets.base import PARTS, WARNING, Dataset
from vidrec.data.splits import (
    Split,
    copied_tests,
    leaks_into_test,
    may_share_recordings,
    untrained,
)
from vidrec.io.words import are, counted, some


def describe(dataset: Dataset, split: Split) -> list[str]:
    """Return lines that tell the user the classes, clips, minutes of video, parts and leaks."""
    lines = [_overview(dataset)]
    copied = copied_tests(split)
    parts = (getattr(split, part) for part in PARTS)
    sizes = ", ".join(f"{len(part)} {name}" for name, part in zip(PARTS, parts, strict=True))
    lines.append(f"split {split.how}: {sizes} (id {split.id})")
    if split.leaked is True:
        much = f", by {copied} of {len(split.test)} test clips at most" if copied else ""
        which = "figures" if leaks_into_test(split) else "validation figures"
        lines.append(f"{WARNING}this split leaks ({_why(split)}): its {which} are too high{much}")
    if may_share_recordings(dataset, split):
        lines.append(unnamed(dataset.name))
    if missing := untrained(dataset, split.train):
        names = some(dataset.classes[label] for label in missing)
        lines.append(
            f"{WARNING}no clip of {names} {are(len(missing))} in training: never recognised"
        )
    unused = len(dataset) - sum(len(getattr(split, part)) for part in PARTS)
    if unused:
        stand = "stands in no list and is" if unused == 1 else "stand in no list and are"
        lines.append(f"{counted(unused, 'clip')} {stand} not used")
    return lines + dataset.notes


def unnamed(name: str) -> str:
    """Return the warning for a data set whose clips name no recording."""
    return (
        f"{WARNING}the clips of {name} name no recording: clips cut from one recording may be "
        "both in training and in test, so the accuracy can be far too high. Say which belong "
        "together in groups.csv, in the folder of the data, or by --data.groups"
    )


def _why(split: Split) -> str:
    """Say what leaks between the parts of a split."""
    words = list(split.shared)
    if split.copies:
        first = " = ".join(f"{name} ({part})" for name, part in split.copies[0].items())
        more = f" and {len(split.copies) - 1} more" if len(split.copies) > 1 else ""
        words.append(f"the same content in two parts: {first}{more}")
    return ", ".join(words) or "clips drawn without regard to their recording"


def _overview(dataset: Dataset) -> str:
    text = f"{dataset.name}: {len(dataset.classes)} classes, {len(dataset)} clips"
    if dataset.fps is not None:
        known = dataset.fps > 0
        seconds = float((dataset.lengths[known] / dataset.fps[known]).sum())
        text += f", {seconds / 60:.1f} minutes of video"
    if dataset.groups_known:
        text += f", {len(set(dataset.groups.tolist()))} recordings"
    if empty := int((dataset.lengths == 0).sum()):
        text += f", {empty} that cannot be opened"
    return text
