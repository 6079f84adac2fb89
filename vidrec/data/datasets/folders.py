"""A folder of videos or images, read in place.

Layouts, in this order: `labels.csv` (columns path, label and, if you like, group, split);
`train/CLASS/…`, `test/CLASS/…` and perhaps `val/CLASS/…`; `CLASS/…`, nested as deep as you like. A
clip is a file, or a folder of numbered frames below the folder of its class.
"""

import functools
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

from vidrec.config import Data
from vidrec.data import pictures, video
from vidrec.data.datasets import tables
from vidrec.data.datasets.base import PARTS, Files
from vidrec.data.video import UnreadableClip
from vidrec.errors import TransientError, UserError, is_transient, spelled, unspelled
from vidrec.io.files import expanded

Kind = TypeVar("Kind", bound=Files)
Wanted = Callable[[Path], bool]

# Names of the parts of a split, as data sets on the web spell them; letters in any case.
PART_NAMES = {
    "train": r"train(ing)?",
    "val": r"val(id(at(e|ion))?)?|dev",
    "test": r"test(ing)?",
}
PART_ENDING = r"([ _-]*(set|split|data|videos?|clips?|frames?|images?))?"
IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Extensions that PyAV's demuxers claim, and that are no videos.
TEXTS = {".txt", ".nfo", ".diz", ".asc", ".srt", ".ass", ".vtt", ".sub", ".cue", ".json", ".csv"}
TEXTS |= {".md", ".html", ".xml", ".npy", ".npz", ".safetensors", ".pdf", ".zip", ".py", ".yaml"}
RECORDING = re.compile(r"(.*_g\d+)_")  # UCF's v_Archery_g07_c02.avi and its like


@dataclass
class Listing:
    """Clips of a folder.

    Attributes:
        paths: of the clips.
        names: of the clips.
        classes: of the clips.
        groups: recording of each clip; "" where unknown.
        parts: of a split, for each clip; "" for none.
        notes: what a user should read.
    """

    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load(data: Data) -> Files:
    """Open the folder `data.root` as a data set of videos or of images.

    Raises:
        UserError: no such folder, no clips in it, or a layout that cannot be understood.
    """
    if data.kind == "images":
        return build(ImageFiles, data, is_image, "images")
    return build(Files, data, is_video, "videos", rate=data.fps)


def part_of(name: str) -> str:
    """Return the part of a split that a folder or a cell names: train, val or test; else ""."""
    for part, pattern in PART_NAMES.items():
        if re.fullmatch(f"({pattern}){PART_ENDING}", name.strip(), re.I):
            return part
    return ""


def build(kind: type[Kind], data: Data, wanted: Wanted, what: str, **extra: Any) -> Kind:
    """Open the folder `data.root` as a data set.

    Args:
        kind: class of the data set.
        data: the settings.
        wanted: True for a file that is a clip.
        what: clips are called in messages.
        extra: further fields of the class.

    Raises:
        UserError: no such folder, no clips in it, or a layout that cannot be understood.
    """
    root = folder_of(data, what)
    found = listing(root, wanted, what)
    classes = tuple(sorted(set(found.classes)))
    groups, known = _groups(found, root, data.groups)
    label_of = {name: label for label, name in enumerate(classes)}
    return kind(
        name=spelled(root.resolve().name),
        classes=classes,
        names=tuple(found.names),
        labels=np.array([label_of[name] for name in found.classes], np.int32),
        groups=np.array(groups, str),
        groups_known=known,
        given=given_of(found.parts),
        notes=[*found.notes, *(_framed_note(found, root) if kind is ImageFiles else ())],
        paths=tuple(found.paths),
        **extra,
    )


def _framed_note(found: Listing, root: Path) -> list[str]:
    """Warn where pictures are the frames of clips: those in training betray those in the test."""
    folders = frame_folders(found.paths, root, depth=2)
    inside = sum(path.parent in folders for path in found.paths)
    if 2 * inside <= len(found.paths) or inside < 4 * len(folders):
        return []
    return [
        f"warning: pictures lie as numbered frames in {len(folders)} folders: --data.kind videos "
        "takes each folder for a clip"
    ]


def folder_of(data: Data, what: str) -> Path:
    """Return `data.root`, a folder that exists.

    Raises:
        UserError: it does not.
    """
    if not data.root:
        raise UserError(f"data.root should name the folder of {what}: --data.root FOLDER")
    root = expanded(data.root)
    if not root.exists():  # a run's configuration is UTF-8, and has such a name spelled out
        root = Path(unspelled(root))
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.root = {data.root} {state}: it should be the folder of {what}")
    return root


def walk(root: Path) -> Iterator[Path]:
    """Yield all files below, in order of names; hidden ones left out, links followed once.

    Raises:
        UserError: a folder that may not be listed, rather than silently fewer clips.
    """

    def refuse(error: OSError) -> None:
        kind = TransientError if is_transient(error) else UserError
        raise kind(f"{error.filename} cannot be listed: {error.strerror}")

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
    """Return a path below the root as the same text everywhere: `/`, composed letters, UTF-8."""
    return unicodedata.normalize("NFC", spelled(path.relative_to(root).as_posix()))


def is_image(path: Path) -> bool:
    """Return True for a picture, by its extension."""
    return path.suffix.lower() in IMAGES


def is_video(path: Path) -> bool:
    """Return True for a video, by its extension; where that says nothing, by opening it."""
    suffix = path.suffix.lower()
    if suffix in IMAGES | TEXTS:
        return suffix == ".gif" or (suffix in IMAGES and pictures.is_animated(path))
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


def listing(root: Path, wanted: Wanted, what: str) -> Listing:
    """List the clips of a folder, by whichever layout it has.

    Raises:
        UserError: it holds none, or its layout cannot be understood.
    """
    if labels := tables.find(root, "labels.csv"):
        return _from_csv(root, labels)
    found, ignored = Listing(), []
    files = list(walk(root))
    clips, framed = clips_among(files, root, wanted)
    tops = {path.relative_to(root).parts[0] for path in clips if path.parent != root}
    part_by_folder = _parts(root, tops)
    depth = 2 if part_by_folder else 1
    # In the order of names, which is the same however a disk spells its letters.
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
    _tell_parts(found, root, tops - set(part_by_folder) if part_by_folder else set(), what)
    return _unique(found)


def clips_among(
    files: Sequence[Path], root: Path, wanted: Callable[[Path], bool], depth: int = 2
) -> tuple[list[Path], set[Path]]:
    """Find clips among files: those that `wanted` accepts, and folders of frames.

    Frames are looked for where videos are wanted. They lie in a folder of their own, with no video
    beside them. An empty folder between such ones is a clip that lost its frames.

    Args:
        files: all files below the root.
        root: of the data set.
        wanted: True for a file that is a clip.
        depth: how far below the root such a folder lies at least; 2: below that of its class.

    Returns:
        The clips, and those of them that are folders.
    """
    if wanted is not is_video:
        return [path for path in files if wanted(path)], set()
    framed = frame_folders(files, root, depth)
    clips = [path for path in files if path.parent not in framed and is_video(path)]
    # The frames of a video that lies beside them are that clip once more.
    twice = {path.with_suffix("") for path in clips}
    return [*clips, *sorted(framed - twice)], framed - twice


def frame_folders(files: Sequence[Path], root: Path, depth: int) -> set[Path]:
    """Return the folders of frames; see `clips_among`."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    framed = {
        folder
        for folder, inside in by_folder.items()
        if len(folder.relative_to(root).parts) >= depth and _holds_frames(inside, depth)
    }
    return framed | _emptied(framed, by_folder)


def _holds_frames(files: Sequence[Path], depth: int) -> bool:
    if not pictures.hold_series([path.name for path in files]):
        return False
    stills = {path for path in files if path.suffix.lower() in pictures.STILLS}
    first = min(stills)
    if len(stills) == 1 and not depth:  # a picture that happens to have a number
        return False
    return not pictures.is_animated(first) and not any(map(is_video, set(files) - stills))


def _emptied(framed: set[Path], known: Container[Path]) -> set[Path]:
    """Folders without anything beside folders of frames."""
    parents = {folder.parent for folder in framed}
    beside = {each for parent in parents for each in parent.iterdir()} - framed
    return {each for each in beside if each not in known and _is_empty(each)}


def _is_empty(folder: Path) -> bool:
    if _hidden(folder.name) or not folder.is_dir():
        return False
    return all(_hidden(each.name) for each in folder.iterdir())


def _parts(root: Path, tops: set[str]) -> dict[str, str]:
    """Folder to part, where folders below the root are the parts of a split; else nothing.

    Raises:
        UserError: they look like parts, but there is none to train on.
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
        return UserError(
            f"{len(loose)} {what} lie outside of class folders: needed is {layout}{hint}"
        )
    if files:
        return UserError(f"no {what} among the {len(files)} files: needed is {layout}{hint}")
    return UserError(f"no {what}, the folder is empty: needed is {layout}")


def _tell(found: Listing, root: Path, ignored: list[Path], what: str) -> None:
    """Names what was left out, so that nothing is in silence."""
    ignored = [p for p in ignored if p.parent != root or p.suffix.lower() not in TEXTS]
    ignored = [p for p in ignored if p.name not in ("LICENSE", "groups.csv")]
    if ignored:
        some = ", ".join(clip_name(path, root) for path in ignored[:3])
        more = ", …" if len(ignored) > 3 else ""
        found.notes.append(f"{len(ignored)} files are not taken for {what}: {some}{more}")


def _tell_parts(found: Listing, root: Path, others: set[str], what: str) -> None:
    """Says which folders are parts of a split, and which ones beside them are not used."""
    if any(found.parts):
        folders = sorted({path.relative_to(root).parts[0] for path in found.paths})
        named = " and ".join(clip_name(root / folder, root) for folder in folders)
        found.notes.append(f"folders {named} found: data.split given uses them")
    if others:
        named = ", ".join(clip_name(root / folder, root) for folder in sorted(others))
        found.notes.append(f"warning: {what} of {named}, beside the parts of a split, are not used")
    called = sorted({name for name in found.classes if part_of(name)})
    if called and not any(found.parts):
        found.notes.append(
            f"warning: {', '.join(called)} is called like a part of a split, and taken for a class"
        )
    if not any(found.parts) and any(
        part_of(part) for path in found.paths for part in path.relative_to(root).parts[1:-1]
    ):
        found.notes.append("folders named as parts of a split within classes are not used as such")


def _unique(found: Listing) -> Listing:
    """Names that normalize to the same text get a number."""
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


def given_of(parts: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Return part to indices, where the data set names parts."""
    array = np.array(parts)
    given = {part: np.flatnonzero(array == part) for part in PARTS if (array == part).any()}
    return given or None


def _groups(found: Listing, root: Path, rule: str) -> tuple[list[str], bool]:
    """Find recordings: by the user's rule, labels.csv, groups.csv, names, or each file its own."""
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
    """Find the recording of each clip by a rule, or by UCF's way of naming.

    Args:
        names: of the clips.
        rule: regular expression whose first bracket names the recording.

    Returns:
        The recording of each clip, and whether it is known; if not, it is the clip's name.
    """
    if rule:
        return [_by_rule(name, rule) for name in names], True
    found = [_recording(name) for name in names]
    if names and all(found):
        return found, True
    return list(names), False


def _recording(name: str) -> str:
    """As the clip's name says, or that of a folder it lies in below its class; else ""."""
    *above, own = name.split("/")
    classes = 2 if above and part_of(above[0]) else 1  # folders, down to that of the class
    for part in (own, *reversed(above[classes:])):
        if match := RECORDING.match(part):
            return match.group(1)
    return ""


def _by_rule(name: str, rule: str) -> str:
    try:
        match = re.search(rule, name)
    except re.error as error:
        raise UserError(f"data.groups = {rule!r} is no regular expression: {error}") from None
    if match is None or not match.groups() or match.group(1) is None:
        raise UserError(
            f"data.groups = {rule!r} does not name the recording of {name}: its first bracket "
            "should"
        )
    return match.group(1)


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
        """Read the picture, as often as it is asked for."""
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
