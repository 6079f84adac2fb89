"""Open data sets whose frames are labelled: folders of videos or features with files of labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.config import Data
from vidrec.data import video
from vidrec.data.datasets import folders, segment_files, tables
from vidrec.data.datasets.base import Dataset, Files
from vidrec.data.datasets.feature_files import EXTENSIONS, ArrayFiles
from vidrec.data.datasets.finding import clips_among, is_video, walk
from vidrec.data.datasets.frame_labels import LabelRules, most_frequent
from vidrec.data.datasets.naming import indices_of, recordings_of
from vidrec.data.datasets.segment_files import LabelledClips
from vidrec.data.video import UnreadableClip
from vidrec.errors import UserError, printable

FEATURES_FIRST = "files of (D, T)"
# The labels may be longer or shorter than the clip, since frame rates in files are not exact: by
# this share of its frames, or by this number of frames.
SLACK, LEAST_SLACK = 0.1, 2


@dataclass(eq=False)
class FeaturesFirst(ArrayFiles):
    """Features stored as arrays (D, T), as those of Breakfast, 50Salads and GTEA."""

    @property
    def hashed(self) -> str:
        """Return what keys are hashes of: files whose arrays are read transposed."""
        return FEATURES_FIRST

    def steps(self, clip: int) -> np.ndarray:
        """Open a clip's array (D, T) as (T, D)."""
        return super().steps(clip).T


def load(data: Data, rules: LabelRules) -> Dataset:
    """Open the folder `data.root` of clips whose frames are labelled.

    Args:
        data: the settings; `kind` is videos or features.
        rules: how labels are read.

    Raises:
        UserError: frame labels are missing or do not fit the clips; the message names the file.
    """
    features = data.kind == "features"
    what = "feature files (.npy, .safetensors)" if features else "videos"
    root = folders.folder_of(data, what)
    if file := tables.find(root, "segments.csv"):
        found = segment_files.from_csv(root, file, rules, "frames" if features else "seconds")
    elif truth := segment_files.truth_folder(root):
        found = segment_files.from_label_files(root, truth, _clips(root, features), rules, what)
        asked = data.split == "given"
        number = max(1, data.fold) if asked else 1
        found.parts = segment_files.bundle_parts(root, found.names, number, asked)
    else:
        raise UserError(
            f"{root} has no labels of frames: needed is a segments.csv with columns "
            "path,start,end,label, or a folder groundTruth with a label file for each video"
        )
    return _checked(_dataset(data, root, found), found)


def _clips(root: Path, features: bool) -> list[Path]:
    files = list(walk(root))
    if features:
        return [path for path in files if path.suffix.lower() in EXTENSIONS]
    return clips_among(files, root, is_video)[0]


def _dataset(data: Data, root: Path, found: LabelledClips) -> Dataset:
    groups, known = _recordings(data, found)
    fields: dict[str, Any] = {
        "name": printable(root.resolve().name),
        "classes": found.classes,
        "names": tuple(found.names),
        "labels": np.array([most_frequent(each) for each in found.labels], np.int32),
        "groups": np.array(groups, str),
        "groups_known": known,
        "given": indices_of(found.parts),
        "notes": found.notes,
        "frame_labels": tuple(found.labels),
        "paths": tuple(found.paths),
    }
    if data.kind == "features":
        dataset = ArrayFiles(**fields)
        return FeaturesFirst(**fields) if _is_transposed(dataset) else dataset
    videos = Files(**fields, rate=data.fps)
    # Labels count the frames as filmed, so labels of resampled frames are looked up by time.
    return _in_seconds(videos) if data.fps else videos


def _recordings(data: Data, found: LabelledClips) -> tuple[Sequence[str], bool]:
    if not data.groups and all(found.groups):
        return found.groups, True
    return recordings_of(found.names, data.groups)


def _in_seconds(dataset: Files) -> Files:
    labels = []
    for path, own in zip(dataset.paths, dataset.frame_labels, strict=True):
        try:
            fps = video.declared(path).fps if own.unit == "frames" else 1.0
        except UnreadableClip:
            fps = 1.0
        labels.append(own.in_seconds(fps))
    return replace(dataset, frame_labels=tuple(labels))


def _is_transposed(dataset: ArrayFiles) -> bool:
    """Return whether arrays are (D, T): whether their second axis fits more labels in length."""
    shapes = [shape if shape and len(shape) == 2 else None for shape in dataset.shapes]
    fits = np.zeros(2, int)
    for shape, labels in zip(shapes, dataset.frame_labels, strict=True):
        if shape:
            off = np.abs(np.array(shape) - labels.last())
            fits[off.argmin()] += off[0] != off[1]
    return bool(fits[1] > fits[0])


def _checked(dataset: Dataset, found: LabelledClips) -> Dataset:
    """Refuse labels whose length shows that they belong to other clips."""
    if not any(each.classes for each in found.labels) or len(dataset.classes) < 2:
        raise UserError(
            f"{dataset.name} labels frames of {len(dataset.classes)} class "
            f"({', '.join(dataset.classes)}): two are needed, or task.unlabelled background"
        )
    rates = dataset.fps if dataset.fps is not None else np.zeros(len(dataset))
    for clip, (length, fps) in enumerate(zip(dataset.lengths, rates, strict=True)):
        labels, file = dataset.frame_labels[clip], found.files[clip]
        if labels.unit == "seconds" and not dataset.is_features and not fps:
            continue  # a clip that cannot be opened is listed elsewhere
        if labels.unit == "seconds" and dataset.is_features:
            raise UserError(
                f"{file}: features have no rate, so start and end of {dataset.names[clip]} should "
                "count frames (a column unit: frames)"
            )
        last, slack = labels.last(float(fps)), max(LEAST_SLACK, SLACK * length)
        lacks = found.labels[clip].fill < 0 and file.endswith(".txt") and last < length - slack
        if length and (last > length + slack or lacks):
            raise UserError(
                f"{file} labels {last} frames, and {dataset.path(clip)} has {length}: a label file "
                "has a line for each frame; segments end with the clip"
            )
    return dataset
