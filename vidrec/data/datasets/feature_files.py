"""Read ready-made features: one .npy or .safetensors file for each clip.

Folders are laid out as for videos. A file holds an array (T, D), (T, h, w, D), or (D,)
for one step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vidrec.config import Data
from vidrec.data import pictures
from vidrec.data.datasets import folders
from vidrec.data.datasets.base import Files
from vidrec.data.rows import Place, read_rows
from vidrec.data.video import UnreadableClip
from vidrec.errors import UserError, raise_if_transient

EXTENSIONS = (".npy", ".safetensors")


@dataclass(eq=False)
class ArrayFiles(Files):
    """Clips that are files of ready-made features."""

    is_features = True

    def steps(self, clip: int) -> np.ndarray:
        """Open a clip's array as (T, D…), of any numeric type; check its shape and type.

        Raises:
            UnreadableClip: the array cannot be opened, or has an unsupported shape or type.
        """
        return open_steps(self.paths[clip])

    @cached_property
    def shapes(self) -> list[tuple[int, ...] | None]:
        """Return the shape (T, D…) of each array, from the header of a .npy; None: unreadable."""
        return [self._shape(clip) for clip in range(len(self))]

    def _shape(self, clip: int) -> tuple[int, ...] | None:
        try:
            return self.steps(clip).shape
        except UnreadableClip:
            return None

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of steps of each array; 0 if the array cannot be read."""
        return np.array([shape[0] if shape else 0 for shape in self.shapes], np.int32)

    @property
    def fps(self) -> None:
        """Return None: features have no rate."""
        return None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Return the most frequent shape of one step, (D,) or (h, w, D)."""
        ends = [shape[1:] for shape in self.shapes if shape]
        if not ends:
            raise UserError(f"no array of {self.name} can be read: {self.paths[0]}")
        return max(sorted(set(ends)), key=ends.count)

    def features(self, clip: int) -> np.ndarray:
        """Read the features of a clip, float32 (T, D…).

        Raises:
            UnreadableClip: the features cannot be read, are not finite, or have another shape than
                most clips.
        """
        values = np.array(self.steps(clip), np.float32, order="C")
        if not np.isfinite(values).all():
            raise UnreadableClip(self.paths[clip], "holds values that are not finite")
        if values.shape[1:] != self.shape:
            raise UnreadableClip(
                self.paths[clip], f"features of shape {values.shape[1:]}, others have {self.shape}"
            )
        self.check_unchanged(clip)
        return values

    def read_features(self, clip: int, frame_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the features of chosen frames, as float16 if the file holds that, else float32.

        From a .npy file, only the needed part is read.
        """
        if clip not in self._places:
            self._places[clip] = _place(self.paths[clip], self.steps(clip))
        place = self._places[clip]
        rows = read_rows(place, frame_indices) if place else self._rows(clip, frame_indices)
        self.check_unchanged(clip)
        return rows if rows.dtype == np.float16 else np.asarray(rows, np.float32)

    def _rows(self, clip: int, frame_indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.steps(clip)[np.asarray(frame_indices)]

    @cached_property
    def _places(self) -> dict[int, Place | None]:
        """Map a clip to its array's position in the file; None: rows cannot be read directly."""
        return {}

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Refuse: there are no frames."""
        raise TypeError(f"{self.name} holds features, not frames")

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """Refuse: there are no frames."""
        raise TypeError(f"{self.name} holds features, not frames")


def load(data: Data, several: bool = False) -> ArrayFiles:
    """Open the folder `data.root` of ready-made features; `several`: see `folders.build`.

    Raises:
        UserError: no such folder, no files in it, or a layout that cannot be understood.
    """
    what = "feature files (.npy, .safetensors)"
    return folders.build(
        ArrayFiles,
        data,
        lambda path: path.suffix.lower() in EXTENSIONS,
        what,
        several=several,
    )


def _opened(path: Path) -> np.ndarray:
    pictures.check_file(path)
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return _tensor(path)
    except UnreadableClip:
        raise
    except Exception as error:  # a damaged header can raise any error
        raise_if_transient(path, error)
        raise UnreadableClip(path, f"damaged, or no array ({str(error)[:80]})") from None


def _tensor(path: Path) -> np.ndarray:
    """Read the only tensor of a file, or the one named "features"."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        names = list(file.keys())
        name = "features" if "features" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise UnreadableClip(path, f"holds {len(names)} tensors, none named features")
        return file.get_tensor(name)


def _place(path: Path, values: np.ndarray) -> Place | None:
    """Return where a .npy array is in its file; None if not in C order and native byte order."""
    if not isinstance(values, np.memmap) or not values.flags.c_contiguous:
        return None
    if not values.dtype.isnative:
        return None
    return Place(path, values.offset, values.shape, values.dtype)


def open_steps(path: Path) -> np.ndarray:
    """Open an array as (T, D…); see `ArrayFiles.steps`."""
    values = _opened(path)
    values = values[None] if values.ndim == 1 else values
    if values.ndim not in (2, 4) or not values.size:
        raise UnreadableClip(path, f"an array of {values.shape}, not (T, D) or (T, h, w, D)")
    if values.dtype.kind not in "fiu":
        raise UnreadableClip(path, f"an array of {values.dtype}, not of numbers")
    return values
