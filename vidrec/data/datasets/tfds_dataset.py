"""Open by its name any TFDS data set that holds a video (or an image) and a label.

Names may have a configuration and keywords in the syntax of TFDS: `motion`, `motion/memory`,
`motion/clips=400,difficulty=1.0`. Sets stored as array_record need no TensorFlow.
"""

import contextlib
import hashlib
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.config import Data, digest
from vidrec.data.datasets.base import Dataset, per_clip
from vidrec.data.datasets.naming import Recordings, indices_of, part_of, recordings_of
from vidrec.data.datasets.tfds_records import (
    example_of,
    first_line,
    frame_labels,
    label_array,
    read_index,
    stacked,
)
from vidrec.data.hashing import contents
from vidrec.data.remembered import remembered
from vidrec.data.video import UnreadableClip
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files
from vidrec.io.machine import cache_dir, how_to_install
from vidrec.io.words import counted

# Extensions of files in which users keep clips; TFDS writes no such files.
CLIPS = (".npy", ".safetensors", ".avi", ".mp4", ".mov", ".mkv", ".mpg", ".webm", ".jpg", ".png")
# Numbers of training and test clips in the official lists.
UCF101_CLIPS = {
    "ucf101/ucf101_1_256": (9537, 3783),
    "ucf101/ucf101_1": (9537, 3783),
    "ucf101/ucf101_2": (9586, 3734),
    "ucf101/ucf101_3": (9624, 3696),
}


@dataclass(eq=False)
class TfdsDataset(Dataset):
    """Clips of a prepared TFDS set.

    Attributes:
        builder: TFDS builder of the set.
        places: position of each clip: (split, index in the split).
        declared: number of frames of each clip.
        hashes: hash of each clip's frames.
        video: name of the feature that holds frames.
    """

    builder: Any = None
    places: tuple[tuple[str, int], ...] = per_clip()
    declared: tuple[int, ...] = per_clip()
    hashes: tuple[str, ...] = per_clip()
    video: str = "video"

    @cached_property
    def _data(self) -> dict[str, Any]:
        return _open(self.builder)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of frames of each clip, (n,) int32."""
        return np.array(self.declared, np.int32)

    def key(self, clip: int) -> str:
        """Return the hash of a clip's frames."""
        return self.hashes[clip]

    @property
    def hashed(self) -> str:
        """Return "frames": keys are hashes of frames."""
        return "frames"

    def read(self, clip: int, frame_indices: Sequence[int], size: int) -> np.ndarray:
        """Read chosen frames, resized."""
        frames = self._frames(clip)
        return _resized(frames[np.minimum(np.asarray(frame_indices, int), len(frames) - 1)], size)

    def stream(self, clip: int, size: int, chunk: int = 64) -> Iterator[np.ndarray]:
        """Yield all frames in order, resized."""
        frames = self._frames(clip)
        for start in range(0, len(frames), chunk):
            yield _resized(frames[start : start + chunk], size)

    def _frames(self, clip: int) -> np.ndarray:
        split, index = self.places[clip]
        try:
            example = example_of(self.builder, split, self._data[split], index)
        except TransientError:
            vars(self).pop("_data", None)  # a reader whose file failed to open never recovers
            raise
        frames = stacked(example[self.video])
        if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or not frames.size:
            raise UnreadableClip(self.names[clip], f"not a video: an array of {frames.shape}")
        return np.broadcast_to(frames, (*frames.shape[:-1], 3)).astype(np.uint8, copy=False)


def _resized(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize frames (T, H, W, 3) to (T, size, size, 3)."""
    if frames.shape[1:3] == (size, size):
        return np.ascontiguousarray(frames)
    from PIL import Image

    kind = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), kind)) for f in frames])


def load(data: Data) -> TfdsDataset:
    """Open the set `data.tfds`, prepared on first use in `data.root` or the cache.

    Raises:
        UserError: the set does not exist, cannot be prepared here, or lacks a video or a label.
    """
    name = data.tfds or "motion"
    with _quiet():
        builder = _prepared(name, data.root)
    features = builder.info.features
    video, label = _feature_names(name, features)
    index = _index(builder, video, label)
    classes = tuple(_inner(features[label]).names)
    names = tuple(index["names"])
    groups, known = _recordings(index, names, data.groups)
    return TfdsDataset(
        name=builder.info.full_name if "=" in name else name,
        classes=classes,
        names=names,
        labels=label_array(index["labels"], len(classes)),
        groups=np.array(groups, str),
        groups_known=known,
        given=_given(index["places"]),
        about=_about(builder),
        notes=_unreadable_line(builder) + _skipped_line(builder),
        builder=builder,
        places=tuple((split, int(i)) for split, i in index["places"]),
        declared=tuple(index["lengths"]),
        hashes=tuple(index["hashes"]),
        frame_labels=tuple(frame_labels(lines) for lines in index.get("frame_labels", ())),
        video=video,
    )


def is_prepared(data: Data) -> bool:
    """Return whether `load` can open the set without generating or downloading it."""
    with _quiet():
        try:
            return _builder(data.tfds or "motion", data.root).is_prepared()
        except TransientError:
            raise
        except UserError:
            return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the output of TFDS: stdout is for results, and its warnings do not help the user."""
    import tensorflow_datasets as tfds

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    # For a set that is not prepared, TFDS asks the network and leaves an empty temporary folder.
    tfds.core.DatasetInfo.initialize_from_bucket = lambda info: None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _builder(name: str, root: str) -> Any:
    builder = _made(name, root or str(cache_dir() / "data"))
    if root and builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not builder.is_prepared():
        # Then the root holds files that the user unpacked, and nothing is written into it.
        if not files.expanded(root).is_dir():
            raise UserError(f"data.root = {root} does not exist: it should hold what {name} needs")
        return _made(name, str(cache_dir() / "data"))
    if root and not builder.is_prepared():
        _refuse_clips(files.expanded(root), name)
    return builder


def _refuse_clips(root: Path, name: str) -> None:
    """Refuse to prepare a set in a folder of a user's clips, for which `data.kind` is wrong."""
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.suffix.lower() in CLIPS:
                raise UserError(
                    f"data.root = {root} holds clips, such as {file.relative_to(root)}, and {name} "
                    "(data.kind tfds) is no folder of clips: for videos of your own use the "
                    "experiment my_videos; else say what they are with --data.kind ucf101, ucf11, "
                    "videos, images or features"
                )


def _made(name: str, folder: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=os.path.expanduser(folder))
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"data.tfds = {name!r}: TFDS knows no data set of this name") from None
    except ModuleNotFoundError as error:
        raise _needs_tensorflow(name, error) from None
    except Exception as error:  # each damaged file of a set raises another kind of error
        if is_transient(error):
            raise TransientError.of(f"data.tfds = {name!r}", error) from error
        line = f"data.tfds = {name!r} in {folder}: {first_line(error)}"
        if type(error).__name__ == "ParseError":  # protobuf's, of dataset_info.json
            line += (
                "; the set's dataset_info.json is damaged: remove its folder, and it is made anew"
            )
        raise UserError(line) from None


def _prepared(name: str, root: str) -> Any:
    """Open a set, and prepare it first if needed; only one of several processes prepares it."""
    builder = _builder(name, root)
    if not builder.is_prepared():
        with _alone(builder):
            builder = _builder(name, root)
            _prepare(builder, name, root)
    elif _in_cache(builder) and not Path(builder.data_path, files.SUMS).exists():
        # Prepared by an earlier version, or by a process that was killed before it wrote the sums.
        with contextlib.suppress(UserError), _alone(builder):
            _write_sums(builder)
    _check_stored(builder, name)
    _check_sums(builder)
    return builder


def _in_cache(builder: Any) -> bool:
    return cache_dir() in Path(builder.data_path).parents


@contextlib.contextmanager
def _alone(builder: Any) -> Iterator[None]:
    """Lock the preparation of a set, and remove what earlier processes left half-prepared."""
    folder = Path(builder.data_path)
    lock = cache_dir() / "data" / f"{digest(str(folder.resolve()))}.lock"
    with files.locked(lock):
        if _in_cache(builder):  # not in a folder that other programs may write to
            for half in folder.parent.glob(f"incomplete.??????_{folder.name}"):
                shutil.rmtree(half, ignore_errors=True)
        yield


def _prepare(builder: Any, name: str, root: str) -> None:
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        tfds.disable_progress_bar()
        print(f"preparing {name}, once, in {builder.data_path}", file=sys.stderr)
        manual = os.path.expanduser(root) if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        try:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual or None),
                file_format=_file_format(builder),
            )
        except ModuleNotFoundError as error:
            raise _needs_tensorflow(name, error) from None
        except (OSError, AssertionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"data.tfds = {name!r} cannot be prepared in {builder.data_path}: "
                f"{first_line(error)}; `vidrec ablate ABLATION --on motion` runs now"
            ) from error
        _write_sums(builder)


def _check_stored(builder: Any, name: str) -> None:
    stored = builder.info.file_format.value
    if stored != "array_record":
        raise UserError(
            f"data.tfds = {name!r} is stored as {stored}, which cannot be read clip by clip: "
            "prepare it as array_record (tfds build --file_format=array_record)"
        )


def _write_sums(builder: Any) -> None:
    """Write checksums of a newly prepared set: all files but records, which have their own."""
    folder = Path(builder.data_path)
    sums = {file.name: _sum(file) for file in _described_by(folder)}
    files.write_json(folder / files.SUMS, sums)


def _check_sums(builder: Any) -> None:
    """Check that the files that describe a set prepared by vidrec are unchanged."""
    folder = Path(builder.data_path)
    try:
        expected = files.read_json(folder / files.SUMS)
    except files.Missing:  # not prepared by vidrec
        return
    actual = {file.name: _sum(file) for file in _described_by(folder)}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            state = "missing" if name not in actual else "changed since it was written"
            raise files.Damaged(
                f"{folder / name} is {state}: remove {folder}, and the set is prepared again"
            )


def _described_by(folder: Path) -> list[Path]:
    """List the files that describe the records of a set."""
    beside = (file for file in sorted(folder.iterdir()) if file.is_file())
    plain = (file for file in beside if not file.name.startswith("."))
    return [file for file in plain if "record" not in file.name and file.name != files.SUMS]


def _sum(file: Path) -> str:
    return hashlib.sha256(files.read_bytes(file)).hexdigest()


def _file_format(builder: Any) -> str | None:
    """Return array_record, the only format with access by clip; None if it is the default."""
    return None if builder.info.file_format.value == "array_record" else "array_record"


def _needs_tensorflow(name: str, error: Exception) -> UserError:
    module = re.search(r"No module named '([\w.]+)'", str(error))
    return UserError(
        f"data.tfds = {name!r} needs {module[1] if module else 'tensorflow'}: "
        f"{how_to_install('tensorflow')}; `vidrec ablate ABLATION --on motion` runs without"
    )


def _feature_names(name: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the features that hold the frames and the class."""
    import tensorflow_datasets as tfds

    def is_video(feature: Any) -> bool:
        shape: tuple[int | None, ...] = getattr(feature, "shape", None) or ()
        return len(shape) in (3, 4) and shape[-1] in (1, 3) and feature.np_dtype == np.uint8

    videos = [n for n in ("video", "image", *features) if n in features and is_video(features[n])]
    labels = [
        n
        for n in ("label", *features)
        if n in features and isinstance(_inner(features[n]), tfds.features.ClassLabel)
    ]
    if not videos or not labels:
        raise UserError(
            f"data.tfds = {name!r} has features {', '.join(features)}: it needs a video or image "
            "of uint8 and a class label"
        )
    return videos[0], labels[0]


def _inner(feature: Any) -> Any:
    """Return the feature of the items of a list; return any other feature unchanged."""
    return getattr(feature, "feature", feature)


def _open(builder: Any, decoders: Any = None) -> dict[str, Any]:
    try:
        return builder.as_data_source(decoders=decoders)
    except ModuleNotFoundError as error:
        raise _needs_tensorflow(builder.name, error) from None


def _index(builder: Any, video: str, label: str) -> dict[str, list]:
    """Return everything but the frames, for all clips; cached, since reading takes a while."""
    name = digest("tfds", _content(builder), video, label, length=32)
    return remembered(name, lambda: read_index(builder, _open(builder), video, label))


def _recordings(index: dict[str, list], names: Sequence[str], rule: str) -> Recordings:
    if not rule and all(index["groups"]):
        return Recordings(index["groups"], True)
    return recordings_of(names, rule)


def _given(places: Sequence[tuple[str, int]]) -> dict[str, np.ndarray] | None:
    indices = indices_of([part_of(split) for split, _ in places])
    return indices if indices and {"train", "test"} <= set(indices) else None


def _about(builder: Any) -> dict[str, Any]:
    """Return the full name of the set, and the metadata that its builder states."""
    return {"tfds": builder.info.full_name, **(builder.info.metadata or {})}


def _unreadable_line(builder: Any) -> list[str]:
    """Return a line on clips that vidrec's builder could not read when it prepared the set."""
    lost = (builder.info.metadata or {}).get("unreadable", [])
    if not lost:
        return []
    first = f"{lost[0]['path']}: {lost[0]['reason']}"
    return [
        f"{counted(len(lost), 'clip')} could not be read when {builder.name} was prepared: {first}"
    ]


def _skipped_line(builder: Any) -> list[str]:
    """Return a line if ucf101 of TFDS lacks clips: TFDS skips files that it does not find."""
    expected = UCF101_CLIPS.get(builder.info.full_name.rpartition("/")[0])
    if expected is None:
        return []
    counts = tuple(builder.info.splits[part].num_examples for part in ("train", "test"))
    if counts == expected:
        return []
    return [
        "TFDS made {} training and {} test clips; ".format(*counts)
        + "the official lists have {} and {}: it skips files it does not find".format(*expected)
    ]


def _content(builder: Any) -> str:
    """Return a hash of a prepared set: of its full name and its record and text files."""
    files = sorted(file for file in Path(builder.data_path).iterdir() if file.is_file())
    files = [file for file in files if "record" in file.name or file.suffix == ".txt"]
    hashed = [[file.name, each.hash] for file, each in zip(files, contents(files), strict=True)]
    return digest(builder.info.full_name, hashed, length=32)
