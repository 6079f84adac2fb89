"""Turn decoded frames into upright RGB pictures of a given size."""

import math
import os
import struct
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, VideoReformatter

from vidrec.data.video.container import FAULTS, raise_if_system, reason_of
from vidrec.errors import UnreadableClip

# Bit-exact and accurate: the same pixels on every machine, at no cost that could be measured.
# (libswscale's flags BILINEAR, ACCURATE_RND, BITEXACT; older PyAV names only the first.)
SCALING = 0x2 | 0x40000 | 0x80000
HD_ROWS = 720  # untagged frames of at least this height are taken as BT.709, as by players
UNTAGGED = (0, 2, 3)  # AVCOL_SPC_RGB (of a YUV picture: a wrong tag), UNSPECIFIED, RESERVED


class Pose(NamedTuple):
    """How a stored picture is shown: rows and columns exchanged first, then mirrored."""

    exchanged: bool = False
    left_right: bool = False
    upside_down: bool = False

    def applied(self, width: int, height: int) -> tuple[int, int]:
        """Convert width and height as stored into those as shown, or the reverse."""
        return (height, width) if self.exchanged else (width, height)

    def upright(self, picture_HWC: np.ndarray) -> np.ndarray:
        """Return the picture as it is displayed."""
        if self == UPRIGHT:
            return picture_HWC
        shown = picture_HWC.swapaxes(0, 1) if self.exchanged else picture_HWC
        if self.left_right or self.upside_down:
            step = (-1 if self.upside_down else 1, -1 if self.left_right else 1)
            shown = shown[:: step[0], :: step[1]]
        return np.ascontiguousarray(shown)


UPRIGHT = Pose()


class Poses:
    """Look up how the frames of a clip are shown.

    A look-up is slow, so it is repeated only at key frames and where the rotation changes.
    """

    def __init__(self) -> None:
        self._known, self._rotation = UPRIGHT, math.nan

    def of(self, frame: av.VideoFrame) -> Pose:
        """Return how a frame is shown; call it for the frames in their order."""
        if frame.rotation != self._rotation or frame.key_frame:
            self._known, self._rotation = _pose(frame), frame.rotation
        return self._known


def _pose(frame: av.VideoFrame) -> Pose:
    """Return the pose of the display matrix (x, y) -> (a x + c y, b x + d y).

    Other angles are rounded to the nearest quarter turn.
    """
    side_data: Any = frame.side_data  # PyAV's type stubs lack `Type`
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Pose(True, c < 0, b < 0)
    return Pose(False, a < 0, d < 0)


class Scaler:
    """Scale frames to RGB squares; use one for a whole file, since its setup takes longest."""

    def __init__(self, size: int):
        self.size, self._scaler, self._poses = size, VideoReformatter(), Poses()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the frame as it is stored, uint8 (size, size, 3)."""
        return _scaled(self._scaler, frame, self.size, self.size)

    def upright(self, path: str | os.PathLike, frame: av.VideoFrame) -> np.ndarray:
        """Return the frame as a player shows it, uint8 (size, size, 3).

        Raises:
            UnreadableClip: the frame cannot be converted; the error names `path`.
        """
        try:
            return self._poses.of(frame).upright(self(frame))
        except FAULTS as error:
            raise _unconverted(path, error) from None


class PictureScaler:
    """Scale frames to RGB of any size."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()

    def rgb(
        self, path: str | os.PathLike, frame: av.VideoFrame, size: tuple[int, int]
    ) -> np.ndarray:
        """Return the frame as it is stored, uint8 (height, width, 3).

        Args:
            path: path of the clip, for the error message.
            frame: the decoded frame.
            size: width and height of the result, in pixels.

        Raises:
            UnreadableClip: the frame cannot be converted.
        """
        try:
            return _scaled(self._scaler, frame, *size)
        except FAULTS as error:
            raise _unconverted(path, error) from None


def _unconverted(path: str | os.PathLike, error: Exception) -> UnreadableClip:
    raise_if_system(os.fspath(path), error)
    return UnreadableClip(path, f"a frame cannot be converted: {reason_of(error)}")


def _scaled(scaler: VideoReformatter, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    colours = Colorspace.ITU709 if _is_untagged_hd(frame) else None
    # By default every file has one thread for each core, and all threads wake for every frame.
    return scaler.reformat(
        frame,
        width,
        height,
        "rgb24",
        src_colorspace=colours,
        interpolation=SCALING,
        threads=1,
    ).to_ndarray()


def _is_untagged_hd(frame: av.VideoFrame) -> bool:
    return frame.height >= HD_ROWS and int(frame.colorspace) in UNTAGGED and not frame.format.is_rgb
