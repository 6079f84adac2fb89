"""Write a page with frames of each clip of a data set, to see which clips belong together."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import map_clips
from vidrec.errors import UserError
from vidrec.io import files
from vidrec.io.words import counted
from vidrec.report import blocks, rendering
from vidrec.report.classes import film_strip

SIDE = 224  # pixels of a frame
MOST = 3000  # clips of a page: some 60 MB
AT = (0.0, 0.5, 1.0)  # frames shown: the first, the middle and the last


def write(
    dataset: Dataset,
    file: Path,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 4,
) -> Path:
    """Write a page with three frames of each clip, by class and recording.

    Args:
        dataset: the clips.
        file: the page.
        progress: called with the number of clips done and the number of all clips.
        workers: number of threads that decode.

    Raises:
        UserError: the data set holds features, of which there are no pictures, or too many clips.
    """
    if dataset.is_features:
        raise UserError(f"--sheet: {dataset.name} holds features, not frames that could be shown")
    if len(dataset) > MOST:
        raise UserError(
            f"--sheet: {dataset.name} has {len(dataset):,} clips, more than the {MOST:,} that one "
            "page can show: choose some classes by --data.classes"
        )
    shown = list(map_clips(_clip, dataset, progress, workers))
    order = sorted(range(len(dataset)), key=lambda clip: _place(dataset, clip))
    sections = [
        _section(label, name, [shown[i] for i in order if dataset.membership[i, label]])
        for label, name in enumerate(dataset.classes)
    ]
    bare = [shown[clip] for clip in order if not dataset.membership[clip].any()]
    if bare:
        sections.append(_section(len(sections), "without a label", bare))
    page = blocks.Page(
        title=f"Clips of {dataset.name}",
        question="",
        warnings=[],
        answer="The first, the middle and the last frame of each clip. Clips with the same person, "
        "place and light are of one recording; a clip with a cut between two places joins both.",
        facts=blocks.Definitions([blocks.Definition("clips", f"{len(dataset):,}")]),
        sections=sections,
        beside=(),
    )
    return files.write_whole(file, rendering.render(page))


def _place(dataset: Dataset, clip: int) -> list[tuple[int, str]]:
    """Return what clips are sorted by: recording and name, with numbers by size (2 before 10)."""
    recording = f"{dataset.groups[clip]} " if dataset.groups_known else ""
    pieces = re.split(r"(\d+)", recording + dataset.names[clip])
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _section(label: int, name: str, clips: list[blocks.Captioned | str]) -> blocks.Section:
    pictures = [clip for clip in clips if not isinstance(clip, str)]
    parts: list[blocks.Block] = [blocks.Pictures(pictures)] if pictures else []
    parts += [blocks.Paragraph(clip) for clip in clips if isinstance(clip, str)]
    return blocks.Section(f"{name} ({counted(len(clips), 'clip')})", f"class{label}", parts)


def _clip(dataset: Dataset, clip: int) -> blocks.Captioned | str:
    """Return the picture of a clip; for a clip that cannot be read, a line of text."""
    name, last = dataset.names[clip], max(int(dataset.lengths[clip]) - 1, 0)
    try:
        frames = dataset.read(clip, [round(share * last) for share in AT], SIDE)
    except UnreadableClip as error:
        return f"{name} cannot be read: {error.reason}"
    recording = f", recording {dataset.groups[clip]}" if dataset.groups_known else ""
    picture = film_strip(np.asarray(frames), f"3 frames of {name}", SIDE)
    return blocks.Captioned(picture, f"{name}{recording}")
