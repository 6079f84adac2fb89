"""A folder of videos or images, read in place.

Layouts, in this order: `labels.csv` (columns path, label and, if you like, group, split);
`train/CLASS/…`, `test/CLASS/…` and perhaps `val/CLASS/…`; `CLASS/…`, nested as deep as you like.
"""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from vidrec import video
from vidrec.config import Data
from vidrec.datasets import tables
from vidrec.datasets.source import PARTS, Files
from vidrec.errors import UserError
from vidrec.video import UnreadableClip

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Extensions that PyAV's demuxers claim, and that are no videos.
TEXTS = {".txt", ".nfo", ".diz", ".asc", ".srt", ".ass", ".vtt", ".sub", ".cue", ".json", ".csv"}
TEXTS |= {".md", ".html", ".xml", ".npy", ".npz", ".safetensors", ".pdf", ".zip", ".py", ".yaml"}
RECORDING = re.compile(r"(?:.*/)?(.*_g\d+)_[^/]*$")  # UCF's v_Archery_g07_c02.avi and its like


@dataclass
class Listing:
    """Clips found: paths, and for each its name, class, group ("" unknown) and part ("" none)."""

    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load(data: Data) -> Files:
    """The folder `data.root` as a data set of videos or of images.

    Raises:
        UserError: no such folder, no clips in it, or a layout that cannot be understood.
    """
    if data.kind == "images":
        return build(ImageFiles, data, lambda path: path.suffix.lower() in IMAGES, "images")
    return build(Files, data, is_video, "videos", rate=data.fps)


def build(kind: type, data: Data, wanted, what: str, **extra) -> Files:
    """A source of class `kind` over the files that `wanted` accepts."""
    root = folder_of(data, what)
    found = listing(root, wanted, what)
    classes = tuple(sorted(set(found.classes)))
    groups, known = _groups(found, root, data.groups)
    label_of = {name: label for label, name in enumerate(classes)}
    return kind(
        name=root.resolve().name,
        classes=classes,
        names=tuple(found.names),
        labels=np.array([label_of[name] for name in found.classes], np.int32),
        groups=np.array(groups, str),
        groups_known=known,
        given=given_of(found.parts),
        notes=found.notes,
        paths=tuple(found.paths),
        **extra,
    )


def folder_of(data: Data, what: str) -> Path:
    """`data.root` as a folder that is there."""
    if not data.root:
        raise UserError(f"data.root should name the folder of {what}: --data.root FOLDER")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.root = {data.root} {state}: it should be the folder of {what}")
    return root


def walk(root: Path) -> Iterator[Path]:
    """All files below, in order of names; hidden ones left out, links followed once.

    Raises:
        UserError: a folder that may not be listed, rather than silently fewer clips.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}")

    seen = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(n for n in inner if not _hidden(n))
        if real not in seen:
            yield from (Path(folder) / name for name in sorted(files) if not _hidden(name))
        seen.add(real)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def clip_name(path: Path, root: Path) -> str:
    """Path below the root, the same text on every machine: `/`, composed letters, valid UTF-8."""
    text = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def is_video(path: Path) -> bool:
    """By extension; where that says nothing, by trying to open it."""
    suffix = path.suffix.lower()
    if suffix in IMAGES | TEXTS:
        return suffix == ".gif"
    if suffix in _video_extensions():
        return True
    try:
        video.declared(path)
    except UnreadableClip:
        return False
    return True


@functools.cache
def _video_extensions() -> frozenset[str]:
    known = {".mpg", ".m2v", ".mts", ".vob", ".divx", ".xvid", ".qt", ".mp4", ".avi", ".m4v"}
    for name in av.formats_available:
        try:
            known |= {f".{e}" for e in av.ContainerFormat(name, "r").extensions}
        except ValueError:
            continue
    return frozenset(known - IMAGES - TEXTS)


def listing(root: Path, wanted, what: str) -> Listing:
    """The clips of a folder, by whichever layout it has."""
    if labels := tables.find(root, "labels.csv"):
        return _from_csv(root, labels)
    found, ignored = Listing(), []
    files = list(walk(root))
    clips = [path for path in files if wanted(path)]
    tops = {path.relative_to(root).parts[0].lower() for path in clips if path.parent != root}
    split_folders = bool(tops) and tops <= set(SPLIT_NAMES) and {"train", "training"} & tops
    depth = 2 if split_folders else 1
    # In the order of names, which is the same however a disk spells its letters.
    for path in sorted(clips, key=lambda path: clip_name(path, root)):
        parts = path.relative_to(root).parts
        if len(parts) <= depth:
            ignored.append(path)
            continue
        found.paths.append(path)
        found.classes.append(clip_name(root / parts[depth - 1], root))
        found.parts.append(SPLIT_NAMES[parts[0].lower()] if split_folders else "")
    found.names = [clip_name(path, root) for path in found.paths]
    found.groups = [""] * len(found.paths)
    if not found.paths:
        raise _nothing(root, what, files, ignored)
    taken = set(clips)
    _tell(found, root, [*ignored, *(p for p in files if p not in taken)], what)
    return _unique(found)


def _nothing(root: Path, what: str, files: list[Path], loose: list[Path]) -> UserError:
    layout = f"one folder a class (CLASS/FILE), or a labels.csv with columns path,label, in {root}"
    if loose:
        return UserError(f"{len(loose)} {what} lie outside of class folders: needed is {layout}")
    if files:
        return UserError(f"no {what} among the {len(files)} files: needed is {layout}")
    return UserError(f"no {what}, the folder is empty: needed is {layout}")


def _tell(found: Listing, root: Path, ignored: list[Path], what: str) -> None:
    """Names what was left out, so that nothing is in silence."""
    ignored = [p for p in ignored if p.parent != root or p.suffix.lower() not in TEXTS]
    ignored = [p for p in ignored if p.name not in ("LICENSE", "groups.csv")]
    if ignored:
        some = ", ".join(clip_name(path, root) for path in ignored[:3])
        more = ", …" if len(ignored) > 3 else ""
        found.notes.append(f"{len(ignored)} files are not taken for {what}: {some}{more}")
    if any(found.parts):
        found.notes.append("folders train and test found: data.split given uses them")


def _unique(found: Listing) -> Listing:
    """Names that normalise to the same text get a number."""
    seen: Counter[str] = Counter()
    for place, name in enumerate(found.names):
        seen[name] += 1
        if seen[name] > 1:
            found.names[place] = f"{name}~{seen[name]}"
    return found


def _from_csv(root: Path, file: Path) -> Listing:
    table = tables.read(file, ("path", "label"), ("group", "split"))
    found, rows, seen = Listing(), table.rows, set()
    if not rows:
        raise UserError(f"{file} lists no clips: give lines of path,label")
    grouped = [bool(row.get("group")) for _, row in rows]
    if any(grouped) and not all(grouped):
        raise UserError(f"{file}: {grouped.count(False)} lines have no group; give all or none")
    for number, row in rows:
        part = row.get("split", "").lower()
        if part and part not in SPLIT_NAMES:
            raise UserError(f"{file}, line {number}: split {part!r} should be train, val or test")
        path, name = tables.located(root, row["path"])
        if name in seen:
            raise UserError(f"{file}, line {number} lists {name} twice")
        seen.add(name)
        found.paths.append(path)
        found.names.append(name)
        found.classes.append(unicodedata.normalize("NFC", row["label"]))
        found.groups.append(row.get("group", ""))
        found.parts.append(SPLIT_NAMES.get(part, ""))
    if table.unused:
        found.notes.append(f"{file.name}: columns not used: {', '.join(table.unused)}")
    return found


def given_of(parts: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Part to indices, where the data set names parts."""
    array = np.array(parts)
    given = {part: np.flatnonzero(array == part) for part in PARTS if (array == part).any()}
    return given or None


def _groups(found: Listing, root: Path, rule: str) -> tuple[list[str], bool]:
    """The user's rule, else labels.csv, else groups.csv, else names, else each file its own."""
    if not rule and all(found.groups):
        return found.groups, True
    file = None if rule else tables.find(root, "groups.csv")
    if file:
        group_of = _groups_from(file)
        lacking = [name for name in found.names if name not in group_of]
        if lacking:
            raise UserError(f"{file} names no group for {len(lacking)} clips, such as {lacking[0]}")
        return [group_of[name] for name in found.names], True
    return groups_of(found.names, rule)


def _groups_from(file: Path) -> dict[str, str]:
    """Clip to group; a name that is no UTF-8 may be spelled as it is shown."""
    group_of: dict[str, str] = {}
    for number, row in tables.read(file, ("path", "group")).rows:
        for name in {tables.plain(row["path"]), unicodedata.normalize("NFC", row["path"])}:
            if group_of.setdefault(name, row["group"]) != row["group"]:
                raise UserError(f"{file}, line {number}: {name} has two groups")
    return group_of


def groups_of(names: Sequence[str], rule: str = "") -> tuple[list[str], bool]:
    """(group of each clip, whether they are known), by a rule or by UCF's way of naming.

    Args:
        rule: regular expression whose first bracket names the source.
    """
    if rule:
        return [_by_rule(name, rule) for name in names], True
    matches = [RECORDING.match(name) for name in names]
    if names and all(matches):
        return [m.group(1) for m in matches if m], True
    return list(names), False


def _by_rule(name: str, rule: str) -> str:
    try:
        match = re.search(rule, name)
    except re.error as error:
        raise UserError(f"data.groups = {rule!r} is no regular expression: {error}") from None
    if match is None or not match.groups() or match.group(1) is None:
        raise UserError(
            f"data.groups = {rule!r} does not name the source of {name}: its first bracket should"
        )
    return match.group(1)


@dataclass(eq=False)
class ImageFiles(Files):
    """Clips of one frame each."""

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self), np.int32)

    @property
    def fps(self) -> None:
        return None

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        picture = _picture(self.paths[clip], size)
        return np.repeat(picture[None], len(frame_indices), 0)

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        yield _picture(self.paths[clip], size)[None]


def _picture(path: Path, size: int) -> np.ndarray:
    """An upright picture, uint8 (size, size, 3)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))
    except FileNotFoundError:
        raise UnreadableClip(path, "no such file") from None
    except PermissionError:
        raise UnreadableClip(path, "no permission to read it") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableClip(path, f"not a picture, or damaged ({str(error)[:80]})") from None
