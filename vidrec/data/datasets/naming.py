"""Find in names the part of a split, and the recording that a clip was cut from."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidrec.data.datasets.base import PARTS
from vidrec.errors import UserError

# Names of the parts of a split in public data sets; upper and lower case are equal.
PART_NAMES = {
    "train": r"train(ing)?",
    "val": r"val(id(at(e|ion))?)?|dev",
    "test": r"test(ing)?",
}
PART_ENDING = r"([ _-]*(set|split|data|videos?|clips?|frames?|images?))?"
RECORDING = re.compile(r"(.*_g\d+)_")  # as in UCF's v_Archery_g07_c02.avi


class Recordings(NamedTuple):
    """The recordings of clips.

    Attributes:
        names: name of each clip's recording.
        known: False if no recordings were found, so that `names` are the names of the clips.
    """

    names: list[str]
    known: bool


def part_of(name: str) -> str:
    """Return the part that the name of a folder or a table cell means: train, val, test or ""."""
    for part, pattern in PART_NAMES.items():
        if re.fullmatch(f"({pattern}){PART_ENDING}", name.strip(), re.I):
            return part
    return ""


def indices_of(parts: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Return the clip indices of each part; None if no clip has a part."""
    array = np.array(parts)
    indices = {part: np.flatnonzero(array == part) for part in PARTS if (array == part).any()}
    return indices or None


def recordings_of(names: Sequence[str], rule: str = "") -> Recordings:
    """Find the recording of each clip by a rule, or by names in the style of UCF.

    Args:
        names: names of the clips.
        rule: regular expression whose first bracket (group) matches the name of the recording;
            "": names in the style of UCF.
    """
    if rule:
        return Recordings([_by_rule(name, rule) for name in names], True)
    recordings = [_recording(name) for name in names]
    if names and all(recordings):
        return Recordings(recordings, True)
    return Recordings(list(names), False)


def _recording(name: str) -> str:
    """Return the recording in the name of a clip, or of a folder inside its class; else ""."""
    *above, own = name.split("/")
    depth = 2 if above and part_of(above[0]) else 1  # of the class folder; a part's is above
    for text in (own, *reversed(above[depth:])):
        if match := RECORDING.match(text):
            return match.group(1)
    return ""


def _by_rule(name: str, rule: str) -> str:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(f"data.groups = '{rule}' is no regular expression: {error}") from None
    if not pattern.groups:
        raise UserError(
            f"data.groups = '{rule}': the expression has no bracket (group); the first one should "
            r"be the recording in a clip's name, as in '(session\d+)_'"
        )
    match = pattern.search(name)
    if match is None or match.group(1) is None:
        raise UserError(
            f"data.groups = '{rule}' does not name the recording of {name}: its first bracket "
            "should match a part of each clip's name"
        )
    return match.group(1)
