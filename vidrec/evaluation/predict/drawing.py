"""Draw predictions on a video."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from vidrec.data import video
from vidrec.errors import UnreadableClip, UserError
from vidrec.evaluation.predict import answers, clips
from vidrec.evaluation.predict.answers import Line
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.evaluation.presentation import colour
from vidrec.evaluation.task import Task
from vidrec.io import escape, files

LONGEST, SHORTEST = 1280, 360  # pixels of a side: larger is slow to encode, smaller hard to read
ENDINGS = (".mp4", ".mkv", ".mov", ".m4v", ".avi", ".webm", ".mpg", ".mpeg", ".ts")
BACKGROUND, TRACK, FILL = (18, 20, 24), (92, 98, 108), (88, 196, 255)
LINE = 10  # pixels, the height of a time line
SHADE = 190  # of 255: the opacity of the panel


def overlay(
    model: Classifier,
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    stream: bool = False,
    every: float = 0.0,
) -> Line:
    """Write `out`: the video with class and confidence on every frame.

    Each frame shows the answer for the window whose middle is nearest, or with `stream` the answer
    so far. If the model labels frames, each frame shows the label of its segment, and a coloured
    time line shows all segments. There is no sound. Only a few frames are in memory at once.

    Args:
        model: a trained model of frames.
        path: one video file.
        out: the video to write.
        stream: see `answers.lines`.
        every: see `Classifier.predict`.

    Returns:
        The line of the file, see `answers.lines`. If the file cannot be decoded, "error" says why,
        and nothing is written.

    Raises:
        UserError: `out` is the video itself, or cannot be written; or `path` is not a video file;
            or the model was trained on features.
    """
    path, out = Path(path), Path(out)
    if model.network.takes_features:
        raise UserError(
            f"{path}: --overlay draws on a video, and this model was trained on features made "
            "elsewhere"
        )
    if clips.is_picture(path) or answers.listed([path], model) != [path]:
        raise UserError(f"{path}: --overlay draws on one video file")
    if out.exists() and path.exists() and out.samefile(path):
        raise UserError(f"--overlay {out} would replace the video itself: name another file")
    check_name(out)
    files.check_writable(out)
    *along, whole = answers.lines(model, [path], stream=stream, every=every)
    if whole["class"] is None:
        return whole
    draw(model, path, out, along, stream=stream)
    return whole


def draw(
    model: Classifier, path: Path, out: Path, along: list[Line], *, stream: bool = False
) -> None:
    """Write `out`: the video with answers over time drawn on its frames.

    Args:
        model: the model that gave the answers.
        path: a video file.
        out: the video to write.
        along: lines of windows or frames, as `answers.lines` gives them; at least one.
        stream: whether the lines are a stream's, one for each frame.

    Raises:
        UserError: `out` cannot be written, or the video cannot be read to its end.
    """
    _, fps = video.declared(path)
    try:
        if (task := model.network.task).framewise:
            drawn = _labelled(path, along, model.classes, stream)
        else:
            drawn = _drawn(path, along, task)
        video.write_timed(out, drawn, fps)
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    except UnreadableClip as error:
        raise UserError(f"{out} is not written: {error}") from None


def check_name(out: str | os.PathLike) -> None:
    """Raise a UserError if a name does not end in one of `ENDINGS`."""
    if Path(out).suffix.lower() not in ENDINGS:
        raise UserError(f"--overlay {out}: the name should end in {', '.join(ENDINGS)}")


def _drawn(path: Path, along: list[Line], task: Task) -> Iterator[tuple[np.ndarray, float, float]]:
    middles = np.array([(line["start"] + line["end"]) / 2 for line in along])
    # The nearest window changes half-way between the middles of two windows.
    changes = (middles[1:] + middles[:-1]) / 2
    for frame, start, end in video.shown(path, _fitted):
        line = along[int(np.searchsorted(changes, (start + end) / 2))]
        yield with_panel(frame, task.caption(line), line["confidence"]), start, end


def _labelled(
    path: Path, along: list[Line], classes: Sequence[str], stream: bool
) -> Iterator[tuple[np.ndarray, float, float]]:
    """Yield frames with their segment's label and a time line; a stream's ends at the frame."""
    starts = np.array([line["start"] for line in along])
    for frame, start, end in video.shown(path, _fitted):
        middle = (start + end) / 2
        at = max(int(np.searchsorted(starts, middle, side="right")) - 1, 0)
        drawn = with_panel(frame, along[at]["class"], along[at]["confidence"])
        panel = max(52, len(frame) // 6)
        line = timeline(along, classes, frame.shape[1], now=middle, known=at if stream else None)
        drawn[-panel : -panel + len(line)] = line
        yield drawn, start, end


def timeline(
    along: Sequence[Line],
    classes: Sequence[str],
    width: int,
    *,
    now: float,
    known: int | None = None,
) -> np.ndarray:
    """Return a time line, uint8 (LINE, width, 3): a colour for each class, and a mark for now.

    Args:
        along: segments, or frames, with `start`, `end` and `class`.
        classes: names of all classes; their order decides the colours.
        width: width of the time line in pixels.
        now: time of the mark in seconds.
        known: index of the last segment that is drawn; None: all are drawn.
    """
    line = np.empty((LINE, width, 3), np.uint8)
    line[:] = TRACK
    scale = width / max(along[-1]["end"], 1e-9)
    for segment in along if known is None else along[: known + 1]:
        first, last = round(segment["start"] * scale), round(segment["end"] * scale)
        line[:, first : max(last, first + 1)] = colour(list(classes).index(segment["class"]))
    mark = min(max(round(now * scale), 1), width - 1)
    line[:, mark - 1 : mark + 1] = 255
    return line


def with_panel(frame_HWC: np.ndarray, label: str, confidence: float) -> np.ndarray:
    """Return the frame with a panel along its lower edge: class, percent, and a bar."""
    height, width = frame_HWC.shape[:2]
    panel_HWC = _panel(width, max(52, height // 6), label, round(100 * confidence))
    drawn = frame_HWC.copy()
    below = drawn[-len(panel_HWC) :]
    shade = panel_HWC[..., 3:].astype(np.uint16)
    mixed = below * (255 - shade) + panel_HWC[..., :3] * shade
    drawn[-len(panel_HWC) :] = (mixed // 255).astype(np.uint8)
    return drawn


@functools.lru_cache(maxsize=128)
def _panel(width: int, height: int, label: str, percent: int) -> np.ndarray:
    """Return the panel, uint8 (height, width, 4): colours and their opacity."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (width, height), (*BACKGROUND, SHADE))
    draw = ImageDraw.Draw(image)
    margin, font = height // 6, _font(int(height * 0.4))
    share = f"{percent} %" if percent < 100 else ">99 %"  # no model is certain
    share_width = draw.textlength(share, font)
    room = width - 3 * margin - share_width
    text = escape.visible(label)  # Pillow cannot measure text of several lines
    while text and draw.textlength(text, font) > room:
        text = text.removesuffix("…")[:-1] + "…" if len(text.removesuffix("…")) > 1 else ""
    draw.text((margin, margin * 0.6), text, (255, 255, 255, 255), font)
    draw.text((width - margin - share_width, margin * 0.6), share, (255, 255, 255, 255), font)
    top, bottom = int(height * 0.72), int(height * 0.86)
    long = width - 2 * margin
    draw.rectangle((margin, top, margin + long, bottom), (*TRACK, 255))
    if percent:
        draw.rectangle((margin, top, margin + long * percent / 100, bottom), (*FILL, 255))
    return np.asarray(image)


@functools.cache
def _font(size: int):
    """Return the font DejaVu, which comes with matplotlib: Latin, Greek, Cyrillic and more."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Return a frame size at which text is legible: even, in proportion, at most LONGEST."""
    factor = min(LONGEST / max(width, height), max(1.0, SHORTEST / min(width, height)))
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)
