"""Read clips that consist of pictures: folders of numbered frames, and animated WebP.

A folder has no timestamps, so frames are timed by their numbers, at 25 frames a second. If a number
is missing, the frame before it is shown for longer.
"""

import itertools
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UnreadableClip, is_transient, raise_if_transient

RATE = 25.0  # frames a second of a folder
SHORTEST = 0.02  # seconds: as browsers do, a shorter duration of an animation's picture is …
USUAL = 0.1  # … replaced by this duration
LONGEST = 60.0  # seconds from a frame to the next: numbers further apart are not taken as times
LISTED = 5  # largest number of missing or broken frames that a note names
STILLS = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
NUMBER = re.compile(r"\d+")
EMPTY = "a folder that holds no numbered frames (0001.jpg, …)"


class Still(NamedTuple):
    """A picture, uint8 (H, W, 3), and the times in seconds at which its display starts and ends."""

    pixels: np.ndarray
    start: float
    end: float


class Declared(NamedTuple):
    """What a clip declares before it is decoded: its number of frames, and their mean rate."""

    frames: int
    fps: float


def check_file(path: str | os.PathLike) -> None:
    """Refuse files that must not be opened: a pipe, for example, would block without end.

    Raises:
        UnreadableClip: the path is not a regular file, or the file is empty or unreadable.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableClip(path, "a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableClip(path, "not a regular file")
        if status.st_size == 0:
            raise UnreadableClip(path, "empty file")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise UnreadableClip(path, "no such file") from None
    except PermissionError:
        raise UnreadableClip(path, "no permission to read it") from None
    except OSError as error:
        raise_if_transient(path, error)
        raise UnreadableClip(path, error.strerror or str(error)) from None


def picture(path: str | os.PathLike) -> Any:
    """Read a still picture, upright, as a Pillow image in RGB.

    Raises:
        UnreadableClip: the file is not a picture, or is damaged.
    """
    from PIL import Image, ImageOps

    check_file(path)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # a damaged picture fails in many ways
        raise _damaged(path, error) from None


def _damaged(path: str | os.PathLike, error: Exception) -> UnreadableClip:
    raise_if_transient(path, error)
    return UnreadableClip(path, f"not a picture, or damaged ({str(error)[:80]})")


def is_animated(path: str | os.PathLike) -> bool:
    """Return True for a WebP or PNG of several pictures, by its first bytes."""
    return bool({"webp", "png"} & {_animation(path)})


def is_animated_webp(path: str | os.PathLike) -> bool:
    """Return True for a WebP of several pictures, which FFmpeg does not decode."""
    return _animation(path) == "webp"


def _animation(path: str | os.PathLike) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with open(path, "rb") as file:
            head = file.read(32)
            if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
                return "webp"
            if head[:8] != b"\x89PNG\r\n\x1a\n":
                return ""
            head += file.read(1 << 16)
    except OSError as error:
        raise_if_transient(path, error)  # otherwise a clip would be taken for a picture
        return ""
    before, _, _ = head.partition(b"IDAT")
    return "png" if b"acTL" in before else ""


@dataclass
class Animation:
    """An animated WebP.

    Attributes:
        path: the file.
        notes: lines on what the file lacks, complete after `stills` has yielded its last picture.
    """

    path: Path
    notes: list[str] = field(default_factory=list)

    def stills(self) -> Iterator[Still]:
        """Yield the pictures in order.

        Raises:
            UnreadableClip: no picture can be decoded.
        """
        from PIL import Image

        check_file(self.path)
        start, count, total = 0.0, 0, 0
        try:
            with Image.open(self.path) as image:
                total = getattr(image, "n_frames", 1)
                for count in range(total):
                    image.seek(count)
                    pixels = np.asarray(image.convert("RGB"))
                    stay = image.info.get("duration", 0) / 1000
                    end = start + (stay if stay >= SHORTEST else USUAL)
                    yield Still(pixels, start, end)
                    start = end
        except Exception as error:
            if not count or is_transient(error):
                raise _damaged(self.path, error) from None
            self.notes.append(f"cannot be read on after {count} of {total} frames")

    def declared(self) -> Declared:
        """Return the number of pictures and their rate."""
        ends = [still.end for still in self.stills()]
        return Declared(len(ends), len(ends) / ends[-1])


@dataclass
class Folder:
    """A folder of numbered frames.

    Attributes:
        path: the folder.
        files: files of the frames, in the order of their numbers.
        starts: start of each frame, in seconds; the last entry is the end of the last frame.
        notes: lines on missing or broken frames, complete after `stills` has yielded its last one.
    """

    path: Path
    files: list[Path]
    starts: list[float]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> "Folder":
        """Find the frames of a folder.

        Raises:
            UnreadableClip: the folder holds no numbered frames, or several series of them.
        """
        inside = _names(path)
        names = frame_names(inside)
        if not names:
            several = ", ".join(sorted(_series(inside))[:LISTED])
            reason = f"a folder of several series ({several})" if several else EMPTY
            raise UnreadableClip(path, reason)
        numbers = _numbers(names)
        step = _usual_step(numbers)
        starts = [0.0]
        for before, number in itertools.pairwise([*numbers, numbers[-1] + step]):
            seconds = (number - before) / step / RATE
            starts.append(starts[-1] + (seconds if 0 < seconds <= LONGEST else 1 / RATE))
        missing = list(_gaps(numbers, step))
        notes = [_listed("frames missing", missing)] if missing else []
        return cls(path, [path / name for name in names], starts, notes)

    def stills(self) -> Iterator[Still]:
        """Yield the frames that can be read.

        Raises:
            UnreadableClip: no frame can be read.
        """
        broken: list[str] = []
        previous: tuple[np.ndarray, float] | None = None
        for file, start in zip(self.files, self.starts, strict=False):
            try:
                pixels = np.asarray(picture(file))
            except UnreadableClip as error:
                broken.append(f"{file.name} ({error.reason})")
                continue
            if previous:
                yield Still(*previous, start)
            previous = (pixels, start if previous else 0.0)
        if previous is None:
            raise UnreadableClip(self.path, _listed("no frame can be read", broken))
        yield Still(*previous, self.starts[-1])
        if broken:
            self.notes.append(_listed("broken frames skipped", broken))

    def declared(self) -> Declared:
        """Return the number of frames and their rate."""
        return Declared(len(self.files), len(self.files) / self.starts[-1])


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.is_dir()]
    except FileNotFoundError:
        raise UnreadableClip(folder, "no such folder") from None
    except PermissionError:
        raise UnreadableClip(folder, "no permission to list it") from None
    except OSError as error:
        raise_if_transient(folder, error)
        raise UnreadableClip(folder, error.strerror or str(error)) from None


def frame_names(names: Iterable[str]) -> list[str]:
    """Return a folder's frames, in the order of their numbers; [] if they cannot be identified.

    Frames are the pictures whose names differ in numbers only, if they are more than half of the
    numbered pictures. Optical flow beside the frames (flow_x_00001.jpg) is left out.
    """
    series = _series(names)
    largest = max(series.values(), key=len, default=[])
    if 2 * len(largest) <= sum(map(len, series.values())):
        return []
    return sorted(largest, key=lambda name: (_natural(name), name))


def hold_series(names: Iterable[str]) -> bool:
    """Return whether a folder of these files is a clip: whether any is a numbered picture."""
    return bool(_series(names))


def _series(names: Iterable[str]) -> dict[str, list[str]]:
    """Group numbered pictures by the common form of their names, such as frame#.jpg."""
    series: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if name.startswith(".") or f".{suffix.lower()}" not in STILLS or not NUMBER.search(stem):
            continue
        series[f"{NUMBER.sub('#', stem)}.{suffix.lower()}"].append(name)
    plain = {common: each for common, each in series.items() if not common.startswith("flow")}
    return plain or series


def _natural(name: str) -> list[int]:
    return [int(number) for number in NUMBER.findall(name.rpartition(".")[0])]


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the frames' numbers: the one number in their names that varies, else indices."""
    columns = zip(*(_natural(name) for name in names), strict=True)
    counting = [column for column in columns if len(set(column)) > 1]
    if len(counting) == 1 and len(set(counting[0])) == len(names):
        return list(counting[0])
    return list(range(len(names)))


def _usual_step(numbers: Sequence[int]) -> int:
    steps = Counter(after - before for before, after in itertools.pairwise(numbers))
    return min(steps, key=lambda step: (-steps[step], step), default=1)


def _gaps(numbers: Sequence[int], step: int) -> Iterator[str]:
    for before, after in itertools.pairwise(numbers):
        first, last = before + step, after - step
        if first <= last:
            yield str(first) if first == last else f"{first} to {last}"


def _listed(what: str, items: Sequence[str]) -> str:
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return f"{what}: {', '.join(items[:LISTED])}{more}"


def of(path: str | os.PathLike) -> Animation | Folder | None:
    """Open a clip of pictures; None for anything else.

    Raises:
        UnreadableClip: the path is a folder without frames, or with several series of them.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except PermissionError:
        raise UnreadableClip(path, "no permission to look into its folder") from None
    if is_folder:
        return Folder.of(path)
    return Animation(path) if is_animated_webp(path) else None
