"""Open a folder of videos or images, read in place.

The first layout that fits is used: `labels.csv` (columns path, label, and optionally group, split);
`train/CLASS/…`, `test/CLASS/…`, and optionally `val/CLASS/…`; `CLASS/…`, nested to any depth. A
clip is a file, or a folder of numbered frames below the folder of its class.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vidrec.config import Data
from vidrec.data import pictures
from vidrec.data.datasets import tables
from vidrec.data.datasets.base import WARNING, Files, nearest
from vidrec.data.datasets.finding import (
    TEXTS,
    clip_name,
    clips_among,
    frame_folders,
    is_hidden,
    is_image,
    is_video,
    walk,
)
from vidrec.data.datasets.naming import Recordings, indices_of, part_of, recordings_of
from vidrec.errors import UserError, path_of_printable, printable
from vidrec.io.files import expanded
from vidrec.io.words import counted, some

Kind = TypeVar("Kind", bound=Files)
Wanted = Callable[[Path], bool]


@dataclass
class Listing:
    """The clips of a folder.

    Attributes:
        paths: file or folder of each clip.
        names: name of each clip.
        classes: class name or label text of each clip.
        groups: recording of each clip; "" where unknown.
        parts: part of the split of each clip (train, val or test); "" for none.
        notes: lines that a user should read.
    """

    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load(data: Data, several: bool = False) -> Files:
    """Open the folder `data.root` as a data set of videos or of images; `several`: see `build`.

    Raises:
        UserError: no such folder, no clips in it, or a layout that cannot be understood.
    """
    if data.kind == "images":
        return build(ImageFiles, data, is_image, "images", several=several)
    return build(Files, data, is_video, "videos", several=several, rate=data.fps)


def build(
    kind: type[Kind],
    data: Data,
    wanted: Wanted,
    what: str,
    *,
    several: bool = False,
    **extra: Any,
) -> Kind:
    """Open the folder `data.root` as a data set.

    Args:
        kind: class of the data set.
        data: the settings.
        wanted: returns True for a file that is a clip.
        what: how messages call the clips, such as "videos".
        several: whether a labels.csv may leave labels empty or have a column for each class.
        extra: further fields of the data set.

    Raises:
        UserError: no such folder, no clips in it, or a layout that cannot be understood.
    """
    root = folder_of(data, what)
    found = listing(root, wanted, what, several)
    classes = tuple(sorted(set(found.classes)))
    groups, known = _recordings(found, root, data.groups)
    label_of = {name: label for label, name in enumerate(classes)}
    return kind(
        name=printable(root.resolve().name),
        classes=classes,
        names=tuple(found.names),
        labels=np.array([label_of[name] for name in found.classes], np.int32),
        groups=np.array(groups, str),
        groups_known=known,
        given=indices_of(found.parts),
        notes=[*found.notes, *(_framed_note(found, root) if kind is ImageFiles else ())],
        paths=tuple(found.paths),
        **extra,
    )


def _framed_note(found: Listing, root: Path) -> list[str]:
    """Warn if images seem to be frames of clips, which a split would put in different parts."""
    folders = frame_folders(found.paths, root, depth=2)
    inside = sum(path.parent in folders for path in found.paths)
    if 2 * inside <= len(found.paths) or inside < 4 * len(folders):
        return []
    lie = f"pictures lie as numbered frames in {counted(len(folders), 'folder')}"
    return [f"{WARNING}{lie}: --data.kind videos takes each folder for a clip"]


def folder_of(data: Data, what: str) -> Path:
    """Return the folder `data.root`.

    Raises:
        UserError: `data.root` is empty, or is not an existing folder.
    """
    if not data.root:
        raise UserError(f"data.root should name the folder of {what}: --data.root FOLDER")
    root = expanded(data.root)
    if not root.exists():  # a run's configuration stores non-UTF-8 bytes as escapes
        root = Path(path_of_printable(root))
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.root = {data.root} {state}: it should be the folder of {what}")
    return root


def listing(root: Path, wanted: Wanted, what: str, several: bool = False) -> Listing:
    """List the clips of a folder in any of the layouts; `several`: see `build`.

    Raises:
        UserError: the folder holds no clips, or its layout cannot be understood.
    """
    if labels := tables.find(root, "labels.csv"):
        return _from_csv(root, labels, several)
    found, ignored = Listing(), []
    files = list(walk(root))
    clips, framed = clips_among(files, root, wanted)
    tops = {path.relative_to(root).parts[0] for path in clips if path.parent != root}
    part_by_folder = _parts(root, tops)
    depth = 2 if part_by_folder else 1
    # Sorted by normalized name, so that the order does not depend on the file system.
    for path in sorted(clips, key=lambda path: clip_name(path, root)):
        parts = path.relative_to(root).parts
        if part_by_folder and len(parts) > 1 and parts[0] not in part_by_folder:
            continue
        if len(parts) <= depth:
            ignored.append(path)
            continue
        found.paths.append(path)
        found.classes.append(clip_name(root / parts[depth - 1], root))
        found.parts.append(part_by_folder.get(parts[0], ""))
    found.names = [clip_name(path, root) for path in found.paths]
    found.groups = [""] * len(found.paths)
    if not found.paths:
        raise _nothing(root, what, files, ignored)
    taken = set(clips)
    rest = (path for path in files if path not in taken and path.parent not in framed)
    _tell(found, root, [*ignored, *rest], what)
    _tell_empty(found, root, part_by_folder, what)
    _tell_parts(found, root, tops - set(part_by_folder) if part_by_folder else set(), what)
    return _unique(found)


def _parts(root: Path, tops: set[str]) -> dict[str, str]:
    """Map the folders below the root to parts of a split; empty if they are not parts.

    Raises:
        UserError: the folders look like parts, but lack a training part or are of several splits.
    """
    part_by_folder = {top: part for top in tops if (part := part_of(top))}
    parts = set(part_by_folder.values())
    everything = tops <= set(part_by_folder)
    if "train" in parts and (everything or len(parts) > 1):
        return part_by_folder
    if everything and len(tops) > 1:
        named = " and ".join(sorted(tops))
        raise UserError(
            f"{root} holds the folders {named}, which look like parts of a split, and none to "
            "train on: it needs train/CLASS/FILE, or one folder a class"
        )
    numbered = {part_of(re.sub(r"[ _-]*\d+$", "", top)) for top in tops}
    if "" not in numbered and len(numbered) > 1:
        named = ", ".join(sorted(tops))
        raise UserError(
            f"{root} holds the folders {named}, which look like parts of several splits: name one "
            "set of them train, val and test, or say by a labels.csv what they are"
        )
    return {}


def _nothing(root: Path, what: str, files: list[Path], loose: list[Path]) -> UserError:
    layout = f"one folder a class (CLASS/FILE), or a labels.csv with columns path,label, in {root}"
    hint = ""
    if what == "videos" and any(map(is_image, files)):
        hint = "; pictures are read by --data.kind images, or as CLASS/CLIP/0001.jpg, …"
    if loose:
        lie = f"{counted(len(loose), what[:-1])} {'lies' if len(loose) == 1 else 'lie'}"
        return UserError(f"{lie} outside of class folders: needed is {layout}{hint}")
    if files:
        among = f"among {counted(len(files), 'file')}"
        return UserError(f"no {what} {among} in {root}: needed is {layout}{hint}")
    return UserError(f"no {what}, the folder is empty: needed is {layout}")


def _tell(found: Listing, root: Path, ignored: list[Path], what: str) -> None:
    """Add a note that names the files that were left out."""
    ignored = [p for p in ignored if p.parent != root or p.suffix.lower() not in TEXTS]
    ignored = [p for p in ignored if p.name not in ("LICENSE", "groups.csv")]
    if ignored:
        left_out = f"{counted(len(ignored), 'file')} {'is' if len(ignored) == 1 else 'are'}"
        names = some(clip_name(path, root) for path in ignored)
        found.notes.append(f"{left_out} not taken for {what}: {names}")


def _tell_empty(found: Listing, root: Path, part_by_folder: Mapping[str, str], what: str) -> None:
    """Warn of class folders that hold no clip."""
    tops = [root / part for part in part_by_folder] or [root]
    used = {parent for path in found.paths for parent in path.parents}
    empty = sorted(
        folder
        for top in tops
        for folder in top.iterdir()
        if folder.is_dir() and not is_hidden(folder.name) and folder not in used
    )
    if empty:
        names = some(clip_name(folder, root) for folder in empty)
        folders, have, are = ("folder", "has", "is")
        if len(empty) > 1:
            folders, have, are = ("folders", "have", "are")
        found.notes.append(f"{WARNING}{folders} {names} {have} no {what} and {are} left out")


def _tell_parts(found: Listing, root: Path, others: set[str], what: str) -> None:
    """Add notes on folders that are parts of a split, and on other folders that are not used."""
    if any(found.parts):
        folders = sorted({path.relative_to(root).parts[0] for path in found.paths})
        named = " and ".join(clip_name(root / folder, root) for folder in folders)
        found.notes.append(f"folders {named} found: data.split given uses them")
    if others:
        named = ", ".join(clip_name(root / folder, root) for folder in sorted(others))
        found.notes.append(f"{WARNING}{what} of {named}, beside the parts of a split, are not used")
    called = sorted({name for name in found.classes if part_of(name)})
    if called and not any(found.parts):
        found.notes.append(
            f"{WARNING}{', '.join(called)} is called like a part of a split, and taken for a class"
        )
    if not any(found.parts) and any(
        part_of(part) for path in found.paths for part in path.relative_to(root).parts[1:-1]
    ):
        found.notes.append("folders named as parts of a split within classes are not used as such")


def _unique(found: Listing) -> Listing:
    """Append a number to clip names that are the same after normalization."""
    seen: Counter[str] = Counter()
    for place, name in enumerate(found.names):
        seen[name] += 1
        if seen[name] > 1:
            found.names[place] = f"{name}~{seen[name]}"
    return found


def _from_csv(root: Path, file: Path, several: bool) -> Listing:
    filled, more = (("path",), ("label",)) if several else (("path", "label"), ())
    table = tables.read(file, filled, (*more, "group", "split"))
    if several and "label" not in table.heading:
        tables.join_classes(table)
    found, rows, seen = Listing(), table.rows, set()
    if not rows:
        raise UserError(f"{file} lists no clips: give lines of path,label")
    grouped = [bool(row.get("group")) for _, row in rows]
    if any(grouped) and not all(grouped):
        lines = counted(grouped.count(False), "line")
        raise UserError(f"{file}: {lines} without a group; give all or none")
    for number, row in rows:
        part = row.get("split", "")
        if part and not part_of(part):
            raise UserError(f"{file}, line {number}: split {part!r} should be train, val or test")
        path, name = tables.located(root, row["path"])
        if name in seen:
            raise UserError(f"{file}, line {number} lists {name} twice")
        seen.add(name)
        found.paths.append(path)
        found.names.append(name)
        found.classes.append(unicodedata.normalize("NFC", row["label"]))
        found.groups.append(row.get("group", ""))
        found.parts.append(part_of(part))
    if table.unused:
        found.notes.append(f"{file.name}: columns not used: {', '.join(table.unused)}")
    return found


def _recordings(found: Listing, root: Path, rule: str) -> Recordings:
    """Find recordings by the user's rule, labels.csv, groups.csv or names; else one per file."""
    if not rule and all(found.groups):
        return Recordings(found.groups, True)
    file = None if rule else tables.find(root, "groups.csv")
    if file:
        group_of, unknown = _groups_from(file, found.names)
        lacking = [name for name in found.names if name not in group_of]
        if lacking:
            without = f"no group for {counted(len(lacking), 'clip')}, such as {lacking[0]}"
            before = f"{unknown}; the file" if unknown else file
            raise UserError(f"{before} names {without}")
        if unknown:
            found.notes.append(f"{WARNING}{unknown}")
        return Recordings([group_of[name] for name in found.names], True)
    return recordings_of(found.names, rule)


def _groups_from(file: Path, names: Sequence[str]) -> tuple[dict[str, str], str]:
    """Read a groups.csv; bytes of a name that are not UTF-8 may be written as escapes.

    Returns:
        The group of each name, and a message about lines that name no clip; "" if there are none.
    """
    group_of: dict[str, str] = {}
    known, unknown = set(names), []
    for number, row in tables.read(file, ("path", "group")).rows:
        spellings = {tables.plain(row["path"]), unicodedata.normalize("NFC", row["path"])}
        for name in spellings:
            if group_of.setdefault(name, row["group"]) != row["group"]:
                raise UserError(f"{file}, line {number}: {name} has two groups")
        if not spellings & known:
            unknown.append((number, row["path"]))
    if not unknown:
        return group_of, ""
    number, path = unknown[0]
    others = len(unknown) - 1
    names_none = "names none" if others == 1 else "name none"
    more = f", and {counted(others, 'other line')} {names_none}" if others else ""
    guess = nearest(path, names).replace("; did", " (did").replace("?", "?)")
    return group_of, f"{file}, line {number}: no clip is called '{path}'{guess}{more}"


@dataclass(eq=False)
class ImageFiles(Files):
    """Clips of one frame each."""

    @property
    def lengths(self) -> np.ndarray:
        """Return 1 for each clip."""
        return np.ones(len(self), np.int32)

    @property
    def fps(self) -> None:
        """Return None: pictures have no rate."""
        return None

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Read the picture, repeated for each requested frame."""
        picture = _picture(self.paths[clip], size)
        self.check_unchanged(clip)
        return np.repeat(picture[None], len(frame_indices), 0)

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """Yield the picture."""
        yield _picture(self.paths[clip], size)[None]
        self.check_unchanged(clip)


def _picture(path: Path, size: int) -> np.ndarray:
    """Read an upright picture, uint8 (size, size, 3)."""
    from PIL import Image

    return np.asarray(pictures.picture(path).resize((size, size), Image.Resampling.BILINEAR))
