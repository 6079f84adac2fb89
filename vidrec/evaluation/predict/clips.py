"""Define one interface for everything that can be classified: videos, pictures and arrays."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidrec.config import Config
from vidrec.data import pictures, video
from vidrec.data.datasets import feature_files, finding, folders
from vidrec.data.datasets.base import Files
from vidrec.errors import UserError, printable

CHUNK = 64  # frames in memory at once


@dataclass(frozen=True)
class Clip:
    """Frames, or features, that can be read in order or by index.

    Attributes:
        path: the clip's path or name in answers.
        fps: frames a second that `chunks` yields; the mean if the rate varies.
        chunks: yields the whole clip in order, in arrays of at most 64 frames; raises
            UnreadableClip.
        read: returns frames by their indices.
        notes: problems that were found while the clip was read.
        clock: times of the frames that `chunks` has yielded so far; None: `fps` is exact.
    """

    path: str
    fps: float
    chunks: Callable[[], Iterator[np.ndarray]]
    read: Callable[[np.ndarray], np.ndarray]
    notes: list[str] = field(default_factory=list)
    clock: video.Clock | None = None

    def at(self, frame: int) -> float:
        """Return the time in seconds at which a frame begins; after the last frame, its end."""
        return self.clock.at(frame) if self.clock else frame / self.fps


def of_file(path: str | os.PathLike, cfg: Config) -> Clip:
    """Open a video or a picture, with frames prepared as in training.

    Raises:
        UnreadableClip: the file cannot be opened.
    """
    size, rate = cfg.encoder.size, cfg.data.fps
    notes: list[str] = []
    if is_picture(path):
        whole = _alone(folders.ImageFiles, path)
        return Clip(
            printable(path),
            1.0,
            lambda: whole.stream(0, size),
            lambda indices: whole.read(0, indices, size),
        )
    fps, clock = rate or video.declared(path)[1], video.Clock()
    return Clip(
        printable(path),
        fps,
        lambda: video.stream(path, size, CHUNK, rate, notes, clock=clock),
        lambda indices: video.read(path, indices, size, rate),
        notes,
        clock,
    )


def _alone(kind: type[Files], path: str | os.PathLike) -> Any:
    """Return a data set of one file and no classes."""
    name = printable(path)
    label, group = np.zeros(1, np.int32), np.array([name])
    return kind(name, (), (name,), label, group, paths=(Path(path),))


def of_array(frames: np.ndarray, cfg: Config, fps: float) -> Clip:
    """Return a clip of frames uint8 (T, H, W, 3) of any size.

    Raises:
        UserError: the array has another shape or type, or no frame.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise UserError(
            f"frames should be uint8 (T, H, W, 3), RGB; got {frames.dtype}{list(frames.shape)}"
        )
    resize = Resizer(cfg.encoder.size)
    return _of_rows("array", fps, frames, lambda part: np.stack([resize(frame) for frame in part]))


class UnfitClip(UserError):
    """Error: a file can be read, but does not fit the model."""


def of_feature_file(
    path: str | os.PathLike,
    fps: float,
    like: tuple[int, ...] | None = None,
    kind: type[feature_files.ArrayFiles] = feature_files.ArrayFiles,
) -> Clip:
    """Open a .npy or .safetensors file of features, read as training reads them.

    Args:
        path: path of the file.
        fps: frames a second.
        like: shape of one frame's features in training; None: unknown.
        kind: class of the data set that reads the file.

    Raises:
        UnfitClip: the file does not hold features like those that the model was trained on.
    """
    if Path(path).suffix.lower() not in feature_files.EXTENSIONS:
        raise UnfitClip(
            f"{path}: this model was trained on features made elsewhere; give theirs of this clip, "
            f"an array (T, D) or a file ({', '.join(feature_files.EXTENSIONS)})"
        )
    features = _alone(kind, path).features(0)
    try:
        return of_features(features, printable(path), fps, like)
    except UserError as error:
        raise UnfitClip(str(error)) from None


def of_features(
    features: np.ndarray, name: str, fps: float, like: tuple[int, ...] | None = None
) -> Clip:
    """Return a clip of features (T, D…), which were made in the same way as those of training.

    Args:
        features: the array.
        name: the clip's name in answers.
        fps: frames a second.
        like: shape of one frame's features in training; None: unknown.
    """
    if features.ndim not in (2, 4) or features.dtype.kind != "f":
        raise UserError(
            f"{name}: features should be float (T, D) or (T, h, w, D), as in training; got "
            f"{features.dtype}{list(features.shape)}"
        )
    check_features(features.shape[1:], like, name)
    return _of_rows(name, fps, features, lambda part: np.asarray(part, np.float32))


def check_features(shape: tuple[int, ...], like: tuple[int, ...] | None, name: str) -> None:
    """Raise a UserError where a frame's features have another shape than in training."""
    if like is not None and tuple(shape) != tuple(like):
        raise UserError(
            f"{name}: features of shape {list(shape)} a frame are not what the model was trained "
            f"on, {list(like)}"
        )


def _of_rows(
    name: str, fps: float, rows: np.ndarray, prepared: Callable[[np.ndarray], np.ndarray]
) -> Clip:
    if not len(rows):
        raise UserError(f"{name}: a clip needs at least one frame")
    starts = range(0, len(rows), CHUNK)
    return Clip(
        name,
        fps,
        lambda: (prepared(rows[start : start + CHUNK]) for start in starts),
        lambda indices: prepared(rows[indices]),
    )


class Resizer:
    """Scales RGB frames of any size to squares, in the same way as the decoding of files."""

    def __init__(self, size: int):
        self.size, self.scale = size, video.Scaler(size)

    def __call__(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame as a square, uint8 (size, size, 3)."""
        if frame_HWC.shape[:2] == (self.size, self.size):
            return frame_HWC
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        return self.scale(frame)


def is_picture(path: str | os.PathLike) -> bool:
    """Return whether a file is a still picture; a .gif and other animated ones are videos."""
    path = Path(path)
    still = finding.is_image(path) and path.suffix.lower() != ".gif"
    return still and not path.is_dir() and not pictures.is_animated(path)
