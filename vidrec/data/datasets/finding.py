"""Find clips among the files of a folder: videos, pictures, and folders of numbered frames."""

import functools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path

import av

from vidrec.data import pictures, video
from vidrec.data.video import UnreadableClip
from vidrec.errors import TransientError, UserError, is_transient, printable

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Extensions of files that are not videos, though PyAV's demuxers accept some of them.
TEXTS = {".txt", ".nfo", ".diz", ".asc", ".srt", ".ass", ".vtt", ".sub", ".cue", ".json", ".csv"}
TEXTS |= {".md", ".html", ".xml", ".npy", ".npz", ".safetensors", ".pdf", ".zip", ".py", ".yaml"}


def walk(root: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted by name, but no hidden ones; follow links once.

    Raises:
        UserError: a folder cannot be listed; its clips would be missing silently.
    """

    def refuse(error: OSError) -> None:
        kind = TransientError if is_transient(error) else UserError
        raise kind(f"{error.filename} cannot be listed: {error.strerror}")

    seen = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(n for n in inner if not is_hidden(n))
        if real not in seen:
            yield from (Path(folder) / name for name in sorted(files) if not is_hidden(name))
        seen.add(real)


def is_hidden(name: str) -> bool:
    """Return whether a name is that of a hidden file or of one that a system leaves behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def clip_name(path: Path, root: Path) -> str:
    """Return a path below the root as text that is the same on all systems: `/`, NFC, UTF-8."""
    return unicodedata.normalize("NFC", printable(path.relative_to(root).as_posix()))


def is_image(path: Path) -> bool:
    """Return True for a picture, by its extension."""
    return path.suffix.lower() in IMAGES


def is_video(path: Path) -> bool:
    """Return True for a video, by its extension; if that is unknown, by opening it."""
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


def clips_among(
    files: Sequence[Path], root: Path, wanted: Callable[[Path], bool], depth: int = 2
) -> tuple[list[Path], set[Path]]:
    """Find clips among files: those that `wanted` accepts, and folders of frames.

    Folders of frames are looked for only if videos are wanted. Such a folder contains no video. An
    empty folder beside folders of frames counts as a clip that lost its frames.

    Args:
        files: all files below the root.
        root: root folder of the data set.
        wanted: returns True for a file that is a clip.
        depth: least depth of a folder of frames below the root; 2: inside the folder of a class.

    Returns:
        The clips, and the set of those that are folders.
    """
    if wanted is not is_video:
        return [path for path in files if wanted(path)], set()
    framed = frame_folders(files, root, depth)
    clips = [path for path in files if path.parent not in framed and is_video(path)]
    # A folder of frames beside the video of the same name would be the same clip again.
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
    """Return the empty folders beside folders of frames."""
    parents = {folder.parent for folder in framed}
    beside = {each for parent in parents for each in parent.iterdir()} - framed
    return {each for each in beside if each not in known and _is_empty(each)}


def _is_empty(folder: Path) -> bool:
    if is_hidden(folder.name) or not folder.is_dir():
        return False
    return all(is_hidden(each.name) for each in folder.iterdir())
