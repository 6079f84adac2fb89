"""Read labels of frames from files: `segments.csv`, or one label file for each video.

`segments.csv` has the columns path, start, end and label, and optionally unit (seconds or frames),
group and split. A label file has one label on each line, one line for each frame. Breakfast,
50Salads and GTEA have these files: `groundTruth/VIDEO.txt`, `mapping.txt`, `features/VIDEO.npy`,
`splits/train.split1.bundle`.
"""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidrec.data.datasets import tables
from vidrec.data.datasets.base import nearest
from vidrec.data.datasets.frame_labels import UNLABELLED, FrameLabels, LabelRules, Unit
from vidrec.data.datasets.naming import part_of
from vidrec.errors import UserError
from vidrec.io.files import Damaged, read_text
from vidrec.io.words import counted

TRUTH = ("groundtruth", "ground_truth")  # names of folders of label files, in lower case
UNITS: tuple[Unit, ...] = ("seconds", "frames")


@dataclass
class LabelledClips:
    """Clips whose frames are labelled, as read from files.

    Attributes:
        classes: names of the classes.
        paths: file or folder of each clip.
        names: name of each clip.
        labels: frame labels of each clip.
        groups: recording of each clip; "" where unknown.
        parts: part of the split of each clip (train, val or test); "" for none.
        notes: lines that a user should read.
        files: for messages, the file (and line) with the labels of each clip.
    """

    classes: tuple[str, ...]
    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[FrameLabels] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


# --- segments.csv ---------------------------------------------------------------------------------


class _Segment(NamedTuple):
    line: int
    start: float
    end: float
    label: str
    unit: Unit


def from_csv(root: Path, file: Path, rules: LabelRules, unit: Unit) -> LabelledClips:
    """Read the clips and segments of a `segments.csv`.

    Args:
        root: folder of the clips.
        file: the table.
        rules: how labels are read.
        unit: unit of start and end where the column `unit` does not give it.

    Raises:
        UserError: the table is empty or a line is invalid; the message names the line.
    """
    table = tables.read(file, ("path", "start", "end", "label"), ("unit", "group", "split"))
    if not table.rows:
        raise UserError(f"{file} lists no segments: give lines of path,start,end,label")
    segments: dict[str, list[_Segment]] = defaultdict(list)
    clips: dict[str, tuple[Path, str, str]] = {}
    for number, row in table.rows:
        path, name = tables.located(root, row["path"])
        about = (path, row.get("group", ""), _part(file, number, row.get("split", "")))
        if clips.setdefault(name, about) != about:
            raise UserError(f"{file}, line {number}: {name} has another group or split above")
        segments[name].append(_segment(file, number, row, unit))
    grouped = [bool(group) for _, group, _ in clips.values()]
    if any(grouped) and not all(grouped):
        raise UserError(
            f"{file}: {counted(grouped.count(False), 'clip')} without a group; give all or none"
        )
    named = {each.label for own in segments.values() for each in own} - set(rules.ignore)
    classes = tuple(sorted(named | set(_fill(rules))))
    found = LabelledClips(classes)
    for name, (path, group, part) in clips.items():
        found.paths.append(path)
        found.names.append(name)
        found.groups.append(group)
        found.parts.append(part)
        found.files.append(f"{file}, line {segments[name][0].line}")
        found.labels.append(_in_order(file, name, segments[name], classes, rules))
    if table.unused:
        found.notes.append(f"{file.name}: columns not used: {', '.join(table.unused)}")
    return found


def _part(file: Path, number: int, text: str) -> str:
    if text and not part_of(text):
        raise UserError(f"{file}, line {number}: split {text!r} should be train, val or test")
    return part_of(text)


def _fill(rules: LabelRules) -> tuple[str, ...]:
    """Return the class of frames that no segment covers; empty if they have no label."""
    if rules.unlabelled == "ignore":
        return ()
    if not rules.background:
        raise UserError(
            "task.unlabelled = 'background' needs task.background: the class of frames that no "
            "segment covers"
        )
    return rules.background[:1]


def _segment(file: Path, number: int, row: dict[str, str], unit: Unit) -> _Segment:
    said = (row.get("unit") or unit).strip().lower()
    if said not in UNITS:
        raise UserError(f"{file}, line {number}: unit {said!r} should be {' or '.join(UNITS)}")
    times = [_time(file, number, name, row[name], said) for name in ("start", "end")]
    if times[1] <= times[0]:
        raise UserError(
            f"{file}, line {number}: end {row['end']} should be behind start {row['start']}"
        )
    label = unicodedata.normalize("NFC", row["label"])
    return _Segment(number, times[0], times[1], label, "frames" if said == "frames" else "seconds")


def _time(file: Path, number: int, name: str, text: str, unit: str) -> float:
    try:
        time = float(text)
    except ValueError:
        time = -1.0
    whole = unit == "seconds" or time == int(time) if abs(time) < 2**31 else False
    if time >= 0 and whole:
        return time
    wanted = "a number of seconds" if unit == "seconds" else "a whole number of frames"
    raise UserError(f"{file}, line {number}: {name} {text!r} should be {wanted}, 0 or more")


def _in_order(
    file: Path, name: str, segments: list[_Segment], classes: Sequence[str], rules: LabelRules
) -> FrameLabels:
    """Return a clip's segments sorted by time; refuse segments that overlap."""
    units = {each.unit for each in segments}
    if len(units) > 1:
        raise UserError(f"{file}: {name} has segments in seconds and in frames; give one unit")
    segments = sorted(segments, key=lambda each: each.start)
    for before, after in itertools.pairwise(segments):
        if after.start < before.end:
            raise UserError(
                f"{file}, line {after.line}: {after.label} of {name} begins at {after.start:g}, "
                f"before {before.label} of line {before.line} ends at {before.end:g}: a frame has "
                "one label (several at once are task.kind multilabel, of whole clips)"
            )
    fill = _fill(rules)
    number_of = {label: number for number, label in enumerate(classes)}
    return FrameLabels(
        tuple(each.start for each in segments),
        tuple(each.end for each in segments),
        tuple(number_of.get(each.label, UNLABELLED) for each in segments),
        units.pop(),
        number_of[fill[0]] if fill else UNLABELLED,
    )


# --- One label file a video -----------------------------------------------------------------------


def truth_folder(root: Path) -> Path | None:
    """Return the folder of label files below a root; None if there is none."""
    folders = (each for each in sorted(root.iterdir()) if each.is_dir())
    return next((each for each in folders if each.name.lower() in TRUTH), None)


def from_label_files(
    root: Path, truth: Path, clips: Sequence[Path], rules: LabelRules, what: str
) -> LabelledClips:
    """Read the label files of a folder, and find the clip of each by its name.

    Args:
        root: root folder of the data set.
        truth: folder of label files.
        clips: all clips below the root.
        rules: how labels are read.
        what: how messages call the clips, such as "videos".

    Raises:
        UserError: a label file is missing or invalid; the message says which file and line.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for clip in clips:
        by_stem[_stem(clip)].append(clip)
    labelled = {_stem(file): file for file in sorted(truth.glob("*.txt"))}
    if not labelled:
        raise UserError(f"{truth} holds no label files VIDEO.txt with a label a line")
    lines = {stem: _labels(file) for stem, file in labelled.items()}
    classes = _classes(root, labelled, lines, rules)
    found = LabelledClips(classes)
    number_of = {name: number for number, name in enumerate(classes)}
    number_of |= dict.fromkeys(rules.ignore, UNLABELLED)
    for stem, file in labelled.items():
        if len(by_stem.get(stem, ())) > 1:
            both = " and ".join(str(path.relative_to(root)) for path in by_stem[stem][:2])
            raise UserError(f"{file} may be of {both}: keep one of them")
        for clip in by_stem.get(stem, ()):
            found.paths.append(clip)
            found.names.append(stem)
            found.files.append(str(file))
            numbers = [number_of[label] for label in lines[stem]]
            found.labels.append(FrameLabels.of(np.array(numbers)))
    if not found.paths:
        raise UserError(
            f"{root} holds no {what} named as the {len(labelled)} label files of {truth.name}, "
            f"such as {min(labelled)}"
        )
    found.groups = _people(found.names)
    found.parts = [""] * len(found.paths)
    _tell_unmatched(found, labelled, by_stem, what)
    return found


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _lines(file: Path) -> list[str]:
    try:
        text = read_text(file)
    except Damaged as error:
        raise UserError(f"{error}; save it as UTF-8 text") from None
    return [line.strip() for line in unicodedata.normalize("NFC", text).splitlines()]


def _labels(file: Path) -> list[str]:
    lines = _lines(file)
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{file} is empty: it should have a label a line, one for each frame")
    if "" in lines:
        raise UserError(f"{file}, line {lines.index('') + 1}: no label; a line should have one")
    return lines


def _classes(
    root: Path, labelled: dict[str, Path], lines: dict[str, list[str]], rules: LabelRules
) -> tuple[str, ...]:
    """Return the classes in `mapping.txt`; without that file, all labels sorted by name."""
    file = tables.find(root, "mapping.txt")
    known = _mapping(file) if file else sorted({label for own in lines.values() for label in own})
    for stem, own in lines.items():
        for label in sorted(set(own) - set(known) - set(rules.ignore)):
            number = own.index(label) + 1
            raise UserError(
                f"{labelled[stem]}, line {number}: {label!r} is no class of {file}"
                f"{nearest(label, known)}; add it there, or name it in task.ignore"
            )
    return tuple(name for name in known if name not in rules.ignore)


def _mapping(file: Path) -> list[str]:
    """Read lines such as "0 background"; return the names in the order of their numbers."""
    names: dict[int, str] = {}
    for number, line in enumerate(_lines(file), 1):
        if not line:
            continue
        parts = re.fullmatch(r"(\d+)[\s,;]+(.+)", line)
        if not parts:
            raise UserError(f"{file}, line {number}: {line!r} should be a number and a name")
        place, name = int(parts[1]), parts[2].strip()
        if place in names or name in names.values():
            raise UserError(f"{file}, line {number}: {line!r} is there twice")
        names[place] = name
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{file}: numbers should be 0 to {len(names) - 1}, each once")
    return [names[place] for place in range(len(names))]


# The person in the name of a video of GTEA (S1_Cheese_C1), Breakfast (P03_cam01_P03_cereals) or
# 50Salads (rgb-01-1). Several videos of one person are as similar as clips of one recording.
PERSON = re.compile(r"([SP]\d+(?=_)|rgb-\d+(?=-))")


def _people(names: Sequence[str]) -> list[str]:
    people = [match[0] if (match := PERSON.match(name)) else "" for name in names]
    return people if all(people) else [""] * len(names)


def _tell_unmatched(
    found: LabelledClips, labelled: dict[str, Path], by_stem: dict[str, list[Path]], what: str
) -> None:
    without = sorted(set(labelled) - set(by_stem))
    if without:
        found.notes.append(f"{len(without)} label files have no {what}, such as {without[0]}")
    unlabelled = sorted(set(by_stem) - set(labelled))
    if unlabelled:
        found.notes.append(f"{len(unlabelled)} {what} have no labels, such as {unlabelled[0]}")


def bundle_parts(root: Path, names: Sequence[str], number: int, asked: bool) -> list[str]:
    """Return the part of each clip by lists such as `splits/train.split1.bundle`; "" for none.

    Args:
        root: root folder of the data set.
        names: names of the clips.
        number: number of the split, such as 1 in the name above.
        asked: whether the settings ask for the lists; other numbers only are then an error.

    Raises:
        UserError: the lists are asked for but have other numbers, or a clip is in two parts.
    """
    folder = tables.find(root, "splits")
    files = sorted(folder.glob("*.bundle")) if folder else []
    numbers = sorted({int(m[1]) for f in files if (m := re.search(r"split(\d+)", f.name))})
    if number not in numbers:
        if asked and numbers:
            raise UserError(
                f"data.fold = {number}: {folder} has the lists {', '.join(map(str, numbers))}"
            )
        return [""] * len(names)
    part_by_name: dict[str, str] = {}
    for file in files:
        part = part_of(file.name.split(".")[0])
        if not part or f"split{number}." not in f"{file.name}.":
            continue
        for stem in (Path(line).stem for line in _lines(file) if line):
            if part_by_name.setdefault(stem, part) != part:
                raise UserError(f"{file}: {stem} stands in {part_by_name[stem]}, too")
    return [part_by_name.get(name, "") for name in names]
