"""Check that each clip of a data set is readable, complete, and in one part of the split only."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from vidrec.config import Data
from vidrec.data import split_text, splits
from vidrec.data.datasets.base import PARTS, WARNING, Dataset, Files, UnreadableClip
from vidrec.data.hashing import new_hash
from vidrec.data.read_ahead import map_clips
from vidrec.errors import UserError
from vidrec.io.words import counted

SIZE = 32  # frames are compared at this size: enough to tell clips apart, quick to hash
# What `leaked` of a split means if the split is not known to leak.
NO_LEAK = {
    False: "no clip and no recording stands in two parts",
    "unknown": "recordings are unknown, so parts may share some",
}
LISTED = 10  # largest number of findings of one kind that `lines` lists

Progress = Callable[[int, int], None]


class _Checked(NamedTuple):
    """One clip: number of decoded frames, their hash, and why it cannot be read (else "")."""

    frames: int
    content: str
    reason: str


def examine(
    dataset: Dataset, data: Data, progress: Progress | None = None, workers: int = 4
) -> dict[str, Any]:
    """Decode every frame of every clip, also frames that `data.fps` leaves out.

    Args:
        dataset: the clips.
        data: the settings of the data set's split.
        progress: called with the number of clips done and the number of all clips.
        workers: number of threads that decode.

    Returns:
        JSON-able findings: `healthy` (True if nothing needs to be done), `clips` (their number),
        `classes` (clips of each), `frames` (declared and decoded frames of all clips; frames of the
        shortest, median and longest clip), `unreadable` and `damaged` (path and reason),
        `duplicates` (names and files of clips with the same content, and their parts), `notes`.
        `rates` has the lowest and highest frames a second, and the rate that the settings use (0:
        all frames); it is empty if clips have no rate. `split` has the clips of each part, the id,
        `leaked`, recordings in two parts, and whether parts may share unknown recordings; or the
        error.
    """
    part_of, split = _split(dataset, data)
    if isinstance(dataset, Files):
        dataset = replace(dataset, rate=0)
    checked = list(map_clips(_check, dataset, progress, workers))
    frames = np.array([clip.frames for clip in checked], np.int64)
    unreadable = [
        {"path": dataset.path(clip), "reason": result.reason}
        for clip, result in enumerate(checked)
        if result.reason
    ]
    damaged = [
        {"path": dataset.path(clip), "reason": dataset.warnings[name]}
        for clip, name in enumerate(dataset.names)
        if name in dataset.warnings
    ]
    duplicates = _duplicates(dataset, checked, part_of)
    torn = [twins for twins in duplicates if len(twins["parts"]) > 1]
    healthy = not (unreadable or damaged or torn or split.get("error") or split.get("shared"))
    return {
        "healthy": healthy,
        "name": dataset.name,
        "clips": len(dataset),
        "classes": _per_class(dataset),
        "frames": _frame_counts(dataset, frames),
        "rates": _rates(dataset, data),
        "unreadable": unreadable,
        "damaged": damaged,
        "duplicates": duplicates,
        "split": split,
        "notes": list(dataset.notes),
    }


def _check(dataset: Dataset, clip: int) -> _Checked:
    content, frames = new_hash(), 0
    try:
        chunks = [dataset.features(clip)] if dataset.is_features else dataset.stream(clip, SIZE)
        for chunk in chunks:
            content.update(np.ascontiguousarray(chunk))
            frames += len(chunk)
    except UnreadableClip as error:
        return _Checked(0, "", error.reason)
    return _Checked(frames, content.hexdigest(), "")


def _split(dataset: Dataset, data: Data) -> tuple[dict[int, str], dict[str, Any]]:
    """Return the part of each clip, and the findings about the split."""
    try:
        split = splits.make(dataset, data)
    except UserError as error:
        return {}, {"error": str(error)}
    part_of = {int(clip): part for part in PARTS for clip in getattr(split, part)}
    parts_of_group = defaultdict(set)
    for clip, part in part_of.items():
        parts_of_group[str(dataset.groups[clip])].add(part)
    shared = {group: _ordered(parts) for group, parts in parts_of_group.items() if len(parts) > 1}
    return part_of, {
        "id": split.id,
        "how": split.how,
        "leaked": split.leaked,
        "counts": {part: len(getattr(split, part)) for part in PARTS},
        "shared": dict(sorted(shared.items())),
        "may_share_recordings": splits.may_share_recordings(dataset, split),
    }


def _ordered(parts: set[str]) -> list[str]:
    return [part for part in PARTS if part in parts]


def _duplicates(
    dataset: Dataset, checked: list[_Checked], part_of: dict[int, str]
) -> list[dict[str, list[str]]]:
    same = defaultdict(list)
    for clip, result in enumerate(checked):
        if result.content:
            same[result.content].append(clip)
    return [
        {
            "names": [dataset.names[clip] for clip in clips],
            "files": [_file_name(dataset, clip) for clip in clips],
            "parts": _ordered({part_of[clip] for clip in clips if clip in part_of}),
        }
        for clips in same.values()
        if len(clips) > 1
    ]


def _file_name(dataset: Dataset, clip: int) -> str:
    """Return a clip's name with the ending of its file.

    The official lists name videos, also where a folder has ready-made features in their place.
    """
    name, ending = PurePath(dataset.names[clip]), PurePath(dataset.path(clip)).suffix
    return name.with_suffix(ending).as_posix() if name.suffix and ending else dataset.names[clip]


def _per_class(dataset: Dataset) -> dict[str, int]:
    counts = dataset.membership.sum(axis=0)
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def _frame_counts(dataset: Dataset, frames: np.ndarray) -> dict[str, int]:
    held = frames[frames > 0]
    return {
        "declared": int(dataset.lengths.astype(np.int64).sum()),
        "decoded": int(frames.sum()),
        "shortest": int(held.min()) if len(held) else 0,
        "median": int(np.median(held)) if len(held) else 0,
        "longest": int(held.max()) if len(held) else 0,
    }


def _rates(dataset: Dataset, data: Data) -> dict[str, float]:
    known = [] if dataset.fps is None else dataset.fps[dataset.fps > 0].tolist()
    if not known:
        return {}
    return {"lowest": min(known), "highest": max(known), "taken": data.fps}


def lines(findings: dict[str, Any]) -> list[str]:
    """Return the findings as lines for people."""
    split = findings["split"]
    text = _frame_lines(findings)
    text += _listed("unreadable", [f"{e['path']}: {e['reason']}" for e in findings["unreadable"]])
    text += _listed("damaged", [f"{e['path']}: {e['reason']}" for e in findings["damaged"]])
    torn = [e for e in findings["duplicates"] if len(e["parts"]) > 1]
    twins = [e for e in findings["duplicates"] if len(e["parts"]) <= 1]
    text += _listed(
        "same content in two parts", [f"{' = '.join(e['files'])} ({_and(e)})" for e in torn]
    )
    text += _listed("same content", [" = ".join(e["files"]) for e in twins])
    if "error" in split:
        text.append(f"cannot be split: {split['error']}")
    else:
        counts = ", ".join(f"{count:,} {part}" for part, count in split["counts"].items())
        counts += " (with the unreadable ones)" * bool(findings["unreadable"])
        text.append(f"split {split['how']}: {counts}; {_leak(split, torn)}")
        shared = [f"{group} ({', '.join(parts)})" for group, parts in split["shared"].items()]
        text += _listed("recording in two parts", shared)
        if split["may_share_recordings"]:
            text.append(split_text.unnamed(findings["name"]))
    text += [f"to do: {step}" for step in _steps(findings)]
    text += findings["notes"]
    return [*text, _verdict(findings, text)]


def _leak(split: dict[str, Any], torn: list[dict[str, Any]]) -> str:
    """Return whether a split leaks, in words; `torn`: the same content in two parts."""
    if split["leaked"] is not True:
        return NO_LEAK[split["leaked"]]
    what = ["clips of the same content"] * bool(torn) + ["recordings"] * bool(split["shared"])
    return f"it leaks: {' and '.join(what) or 'clips or recordings'} stand in two parts"


def _frame_lines(findings: dict[str, Any]) -> list[str]:
    """Return a line on the clips and their frames, and one on the rate that is used, if any."""
    frames, rates = findings["frames"], findings["rates"]
    text = [
        f"{findings['name']}: {counted(len(findings['classes']), 'class')}, "
        f"{counted(findings['clips'], 'clip')}, {counted(frames['decoded'], 'frame')} read of "
        f"{frames['declared']:,} declared; {_lengths(frames)}{_at(rates)}"
    ]
    if rates.get("taken"):
        text.append(f"of these, {rates['taken']:g} frames a second are used (data.fps)")
    return text


def _lengths(frames: dict[str, int]) -> str:
    """Say how many frames clips have."""
    least, most = frames["shortest"], frames["longest"]
    if least == most:
        return f"every clip has {counted(least, 'frame')}"
    return f"a clip has {least} to {most} frames (median {frames['median']})"


def _at(rates: dict[str, float]) -> str:
    """Say at which rate frames were filmed."""
    if not rates:
        return ""
    low, high = (f"{rates[name]:.4g}" for name in ("lowest", "highest"))
    return f", filmed at {low if low == high else f'{low} to {high}'} a second"


def _verdict(findings: dict[str, Any], text: list[str]) -> str:
    """Return the last line; `text`: the lines above it."""
    if not findings["healthy"]:
        has_steps = any(line.startswith("to do: ") for line in text)
        return f'not healthy: see "{"to do" if has_steps else "cannot be split"}" above'
    warnings = sum(line.startswith(WARNING) for line in text)
    if not warnings:
        return "healthy"
    return f"all files can be read; see the warning{'s' * (warnings > 1)} above"


def _steps(findings: dict[str, Any]) -> list[str]:
    """Return what to do about each kind of finding, and what training does until then."""
    steps = []
    if findings["unreadable"]:
        steps.append("replace the unreadable files; until then training leaves them out")
    if findings["damaged"]:
        steps.append("replace the damaged files; until then training uses what can be decoded")
    if any(len(twins["parts"]) > 1 for twins in findings["duplicates"]):
        is_given = findings["split"]["how"].startswith("as given")
        other = "" if is_given else ", or give them one recording (groups.csv, --data.groups)"
        steps.append(
            f"of clips with the same content in two parts keep one{other}; until then training "
            "goes on, and says that the split leaks"
        )
    if findings["split"].get("shared"):
        steps.append(
            "--data.split group and --data.val_by group keep the clips of a recording together"
        )
    return steps


def _and(finding: dict[str, list[str]]) -> str:
    return ", ".join(finding["parts"])


def _listed(kind: str, items: list[str]) -> list[str]:
    """Return a line for each of the first items, and one that counts the other items."""
    if len(items) > LISTED + 1:
        items = [*items[:LISTED], f"{len(items) - LISTED} more (--json lists all)"]
    return [f"{kind}: {item}" for item in items]
