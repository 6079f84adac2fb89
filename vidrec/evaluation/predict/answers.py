"""Classify files and folders; each answer is a line: a dict that can be written as JSON."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from vidrec.data.datasets import feature_files, finding
from vidrec.data.video import UnreadableClip
from vidrec.errors import UserError, printable
from vidrec.evaluation import tasks
from vidrec.evaluation.predict import clips
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.evaluation.predict.prediction import Answer
from vidrec.evaluation.predict.streams import Stream
from vidrec.evaluation.task import Task
from vidrec.io import escape

Line = dict[str, Any]


def lines(
    model: Classifier,
    paths: Iterable[str | os.PathLike],
    *,
    stream: bool = False,
    every: float = 0.0,
) -> Iterator[Line]:
    """Yield a line for each window, then one for each file.

    The line of a window is {"path", "start", "end", "class", "confidence", "topk"}; the line of a
    file has no "start". If a file cannot be read, its "class" is None and "error" says why.

    Args:
        model: a trained model.
        paths: files, or folders (all videos and pictures below).
        stream: yield a line for each frame, with the recurrent carry kept from frame to frame; the
            line of the file repeats that of its last frame.
        every: seconds between windows, see `Classifier.predict`; 0 for a stream, which has none.

    Raises:
        UserError: there is no file, or the only file does not fit the model. If there are several
            files, a file that does not fit gets a line with an "error" instead.
    """
    wanted = listed(paths, model)
    for path in wanted:
        try:
            if stream:
                if every:
                    raise UserError(
                        f"every = {every:g}: a stream answers at every frame, so it has no seconds "
                        "between windows"
                    )
                yield from _streamed(model, path)
            else:
                yield from _judged(model, path, every)
        except UnreadableClip as error:
            yield _unanswered(path, error.reason)
        except clips.UnfitClip as error:
            if len(wanted) == 1:
                raise
            # The answers for the other files are kept.
            yield _unanswered(path, str(error).removeprefix(f"{printable(path)}: "))


def _unanswered(path: Path, reason: str) -> Line:
    return {"path": printable(path), "class": None, "confidence": None, "error": reason}


def listed(paths: Iterable[str | os.PathLike], model: Classifier) -> list[Path]:
    """Return the files among the paths, and the files in the folders among them.

    Raises:
        UserError: a path does not exist, or a folder holds no videos.
    """
    listed_files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path} does not exist")
        inside = _inside(path, model) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} holds no videos")
        listed_files += inside
    return listed_files


def _inside(folder: Path, model: Classifier) -> list[Path]:
    """Return the clips below a folder: files, and folders that hold the frames of one clip."""
    files = list(finding.walk(folder))
    if model.network.takes_features:
        return [path for path in files if path.suffix.lower() in feature_files.EXTENSIONS]
    if model.cfg.data.kind == "images":
        return [path for path in files if clips.is_picture(path) or finding.is_video(path)]
    videos, framed = finding.clips_among(files, folder, finding.is_video, depth=0)
    still = [path for path in files if clips.is_picture(path) and path.parent not in framed]
    return sorted([*videos, *still])


def write_csv(
    answered: Iterable[Line], file: TextIO, task: Task | None = None, *, windows: bool = False
) -> None:
    """Write lines as the csv table of a task.

    Args:
        answered: lines of files and of their windows.
        file: the text file to write to.
        task: the task of the answers; None: the task of one label a clip.
        windows: a row for each window, with its seconds, instead of a row for each file.
    """
    task, lines = task or tasks.named("clip"), list(answered)
    # a task's table with a column "start" has a row for each segment anyway
    of_windows = windows and "start" not in task.csv([])[0]
    file.write(escape.csv(_of_windows(task, lines) if of_windows else task.csv(lines)))


def _of_windows(task: Task, lines: Sequence[Line]) -> list[list[Any]]:
    """Return a task's table with a row for each window, and columns for its start and end."""
    chosen = [line for line in lines if "start" in line or line["class"] is None]
    plain = [{key: line[key] for key in line if key not in ("start", "end")} for line in chosen]
    heads, *rows = task.csv(plain)
    table = [[heads[0], "start", "end", *heads[1:]]]
    for line, row in zip(chosen, rows, strict=True):
        seconds = [f"{line[key]:.6f}" if key in line else "" for key in ("start", "end")]
        table.append([row[0], *seconds, *row[1:]])
    return table


def as_text(line: Line, task: Task | None = None) -> str:
    """Return a line as text for people.

    Args:
        line: the line.
        task: the task of the answers; None: the task of one label a clip.
    """
    if line["class"] is None:
        return f"{line['path']}: cannot be read: {line['error']}"
    where = f"{line['start']:8.2f} – {line['end']:.2f} s" if "start" in line else line["path"]
    notes = "".join(f"; {note}" for note in line.get("notes", ()))
    return f"{where}  {(task or tasks.named('clip')).text(line)}{notes}"


def _judged(model: Classifier, path: Path, every: float) -> Iterator[Line]:
    whole = model.predict(path, every=every)
    for window in whole.windows:
        place: Line = {"start": window.start, "end": window.end}
        if window.frames:
            place |= dict(zip(("frames_from", "frames_to"), window.frames, strict=True))
        yield {"path": whole.path, **place, **window.as_dict()}
    line = {"path": whole.path, **whole.as_dict(), "frames": whole.frames, "seconds": whole.seconds}
    yield line | ({"notes": whole.notes} if whole.notes else {})


def _streamed(model: Classifier, path: Path) -> Iterator[Line]:
    clip = model.open(path)
    stream, answer, end = model.stream(clip.fps), None, 0.0
    for start, end, frame in _frames(clip):
        answer = of_stream(model, stream, stream.push(frame, end))
        yield {"path": printable(path), "start": start, "end": end, **answer}
    if answer:
        line = {"path": printable(path), **answer, "frames": stream.frames, "seconds": end}
        notes = [*clip.notes, *stream.unlike_prediction()]
        yield line | ({"notes": notes} if notes else {})


def of_stream(model: Classifier, stream: Stream, probabilities_K: np.ndarray) -> Line:
    """Return a model's answer after the last frame of a stream, for JSON.

    Args:
        model: the model of the stream.
        stream: the stream after `push`.
        probabilities_K: what `push` returned.
    """
    said = (stream.classes, stream.scores_K, probabilities_K)
    return Answer(*said, task=model.network.task, fitted=model.fitted).as_dict()


def _frames(clip: clips.Clip) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yield (start, end, frame) for each frame, with times in seconds."""
    index = 0
    for chunk in clip.chunks():
        for frame in chunk:
            yield clip.at(index), clip.at(index + 1), frame
            index += 1
