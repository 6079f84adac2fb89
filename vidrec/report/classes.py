"""Write the sections on classes: F1, confusions, and the clips themselves."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.config.columns import F1
from vidrec.evaluation import metrics, presentation
from vidrec.io.words import counted, listed
from vidrec.report import figures, ucf101
from vidrec.report.blocks import (
    Block,
    Captioned,
    Group,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Shot,
    Strips,
)
from vidrec.report.formats import DASH, decimals, percent
from vidrec.report.results import RowResult
from vidrec.report.run import Run
from vidrec.report.table_model import Cell, Table
from vidrec.report.tables import DAGGER

WORST = 12  # confusions listed
STRIPS = 12  # film strips shown
TIMELINES = 8  # clips shown as timelines
TALL = 24  # a table with more rows scrolls vertically
STRIP_HEIGHT = 96  # pixels


def scores(rows: Sequence[RowResult], run: Run | None, pictures: Path) -> Section:
    """Return the section on each class's F1, or on the figure that the task has instead.

    The figures of the row that `run` belongs to are also drawn, in files under `pictures`.
    """
    scored = [row for row in rows if row.done and by_class(row)]
    if run is None or not scored or "classes" not in run.task.sections:
        return Section("Classes", "classes", [])
    name, _ = run.task.class_figure
    shown = next((row for row in scored if run in row.done), scored[0])
    drawing = figures.draw(figures.by_class, by_class(shown), run.task.class_figure[1])
    figures.save(drawing, pictures / name)
    parts: list[Block] = _extremes(shown)
    own = run.task.class_table(run.result["metrics"].get("test", {}))
    if len(scored) > 1:
        parts.append(_of_rows(scored, run.classes))
    else:
        parts.append(_own_table(run, own) if own else _of_one_row(scored[0]))
    return Section("Classes", "classes", parts)


def _own_table(run: Run, own: presentation.ClassTable) -> Table:
    """Return the task's table of classes, the weakest first."""
    heads = ["class", *own.heads]
    _, words = run.task.class_figure
    weakest = heads.index(words)
    ordered = sorted(own.rows, key=lambda row: math.inf if row[weakest] is None else row[weakest])
    body = [[row[0], *map(_number, row[1:])] for row in ordered]
    caption = f"Each class on the test split, the weakest first; {run.name}, {run.place}"
    return Table(heads, body, caption, tall=len(body) > TALL)


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else decimals(value)


def matrices(row: RowResult | None, run: Run | None, draw: Any) -> Section:
    """Return the section of the matrices that the task has instead of confusions."""
    if row is None or run is None or "matrices" not in run.task.sections:
        return Section("", "matrices", [])
    of_run = f", {row.name}, {run.place}"
    few = len(run.classes) <= figures.NUMBERED
    drawn: list[Block] = []
    for matrix in run.task.matrices(run.result["metrics"].get("test", {})):
        for shares in (False, True):
            what = "share of the row's class in %" if shares else f"number of {matrix.counted}"
            caption = f"{matrix.caption}: {what}{of_run}"
            counts = (matrix.counts_KK, run.classes, shares, matrix.of_K)
            if few:
                drawn.append(_matrix(caption, *counts))
            else:
                name = f"{matrix.name}_{'shares' if shares else 'counts'}"
                drawn.append(draw(name, caption, caption, figures.confusion, *counts))
    both: list[Block] = [Group(drawn, "pair" if few else "stack")] if drawn else []
    return Section(run.task.matrices_title, "matrices", both)


def timelines(row: RowResult | None, run: Run | None, draw: Any) -> Section:
    """Return the section of timelines: true and predicted segments of clips."""
    if row is None or run is None or "timelines" not in run.task.sections:
        return Section("Timelines", "timelines", [])
    part, saved = run.part(), run.predictions()
    if part is None or saved is None:
        return Section("Timelines", "timelines", [])
    lines = run.task.timelines(part, TIMELINES)
    if not lines.shown:
        return Section("Timelines", "timelines", [])
    names = [str(saved.names_B[line.clip]) for line in lines.shown]
    shares = "; ".join(
        f"{name} {percent(line.right, 0)}" for name, line in zip(names, lines.shown, strict=True)
    )
    caption = (
        f"Test clips of {row.name}, {run.place}, from the one with the fewest "
        "right frames to the one with the most: above what is true, below what was predicted. "
        "Background is grey; frames without a label are left out."
    )
    alt = f"Segments of test clips along time. Share of frames that are right: {shares}."
    figure = draw("timelines", alt, caption, figures.timelines, lines, names, run.classes)
    return Section("Timelines", "timelines", [figure])


def _extremes(row: RowResult) -> list[Block]:
    """Return a paragraph on the classes that were always right and those never right."""
    by_seed = _by_seed(row)
    if not by_seed:
        return []
    counts_KK, classes = confusion(row), row.done[0].classes
    always = listed(metrics.always_right(counts_KK, classes)) or "no class"
    never = listed(metrics.never_right(counts_KK, classes)) or "no class"
    clips_K = _clips(row)
    there_K = clips_K > 0
    clips = _span(clips_K[there_K], "test clip")
    if len(by_seed) > 1:
        clips = f"{_span(counts_KK.sum(axis=1)[there_K], 'answer')} to {clips}"
    text = f"Of {row.name} on {clips} of a class, {_whose(row)}. "
    text += f"Always right: {always}. Never right: {never}."
    if len(by_seed) > 1:
        text += " A class is always right if each answer to each of its clips is (recall 1)."
    return [Paragraph(text)]


def _span(number_K: np.ndarray, what: str) -> str:
    """Return how many clips or answers a class has, in words."""
    low, high = (int(number_K.min()), int(number_K.max())) if number_K.size else (0, 0)
    if low == high:
        return counted(low, what)
    return f"{low:,} to {counted(high, what)}"


def _whose(row: RowResult) -> str:
    """Return in words which seed, or how many seeds and folds, the counted answers are from."""
    scored = [run for run in row.done if _confusion(run) is not None]
    seeds = sorted({run.result.get("seed", 0) for run in scored})
    folds = sorted({run.fold for run in scored})
    if not any(folds):
        return f"seed {seeds[0]}" if len(scored) == 1 else f"{len(scored)} seeds"
    whose = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"{whose}, fold {folds[0]}" if len(folds) == 1 else f"{whose} on {len(folds)} folds"


def _by_seed(row: RowResult) -> dict[Any, np.ndarray]:
    """Return counts (K, K) by seed, summed over folds; a run without folds counts as a seed."""
    found: dict[Any, np.ndarray] = {}
    for place, run in enumerate(row.done):
        counts_KK = _confusion(run)
        if counts_KK is not None:
            seed = ("seed", run.result.get("seed", 0)) if run.fold else ("run", place)
            found[seed] = found[seed] + counts_KK if seed in found else counts_KK
    return found


def _clips(row: RowResult) -> np.ndarray:
    """Return the number of test clips of each class, (K,): the largest number of any seed."""
    return np.max([counts_KK.sum(axis=1) for counts_KK in _by_seed(row).values()], axis=0)


def _confusion(run: Run) -> np.ndarray | None:
    counts_KK = run.result["metrics"].get("test", {}).get("confusion")
    return None if counts_KK is None else np.asarray(counts_KK, int)


def confusion(row: RowResult) -> np.ndarray:
    """Return counts (K, K) summed over seeds; a row is a true, a column a predicted class."""
    counts = [counts_KK for counts_KK in map(_confusion, row.done) if counts_KK is not None]
    none_KK = np.zeros((len(row.runs[0].classes),) * 2, int)
    return np.sum([none_KK, *counts], axis=0)


def by_class(row: RowResult) -> dict[str, float]:
    """Return the figure of each class, such as F1, mean over seeds.

    With folds, the F1 of a seed is computed from its answers on all folds together. Other figures
    of a class are means over seeds and folds.
    """
    figure, _ = row.task.class_figure
    if row.out_of_fold and figure == "f1" and (of_seeds := _by_seed(row)):
        f1_SK = np.stack([_f1(counts_KK) for counts_KK in of_seeds.values()])
        return dict(zip(row.done[0].classes, f1_SK.mean(axis=0).tolist(), strict=True))
    by_seed = [run.result["metrics"].get("test", {}).get(figure) or {} for run in row.done]
    values = {name: [of[name] for of in by_seed if of.get(name) is not None] for name in by_seed[0]}
    return {name: float(np.mean(v)) if v else math.nan for name, v in values.items()}


def _f1(counts_KK: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, (K,); NaN for a class without clips."""
    clips_K = counts_KK.sum(axis=1)
    return np.where(clips_K > 0, metrics.class_f1(counts_KK, clips_K), math.nan)


def _published_f1(row: RowResult) -> dict[str, str]:
    """Return the published F1 of classes as text; doubtful values have a dagger."""
    return {
        column.removeprefix(F1): decimals(value) + f" {DAGGER}" * (column in row.doubtful)
        for column, value in row.published.items()
        if column.startswith(F1)
    }


def _of_one_row(row: RowResult) -> Table:
    counts_KK, theirs = confusion(row), _published_f1(row)
    several = len(_by_seed(row)) > 1
    clips_K = _clips(row) if several else counts_KK.sum(axis=1)
    body: list[list[Any]] = []
    for k, (name, score) in enumerate(by_class(row).items()):
        hits, answers, named = counts_KK[k, k], counts_KK[k].sum(), counts_KK[:, k].sum()
        line: list[Any] = [name, *[f"{answers}"] * several, f"{clips_K[k]}"]
        line += [_ratio(hits, named), _ratio(hits, answers), decimals(score)]
        line.append(Cell(bar=None if math.isnan(score) else score))
        body.append(line + [theirs.get(name, DASH)] * bool(theirs))
    body.sort(key=lambda line: line[4 + several])
    columns = ["class", *["answers"] * several, "clips", "precision", "recall", "F1", "F1 as a bar"]
    columns += ["published F1" + ", of another task" * bool(row.another_task)] * bool(theirs)
    caption = f"Each class on the test split, the weakest first; {_whose(row)}"
    caption += ": precision and recall of all answers, F1 mean over seeds" * several
    return Table(columns, body, caption, tall=len(body) > TALL)


def _ratio(part: int, total: int) -> str:
    return f"{part / total:.3f}" if total else DASH


def _of_rows(rows: Sequence[RowResult], classes: Sequence[str]) -> Table:
    f1 = {row: by_class(row) for row in rows}
    published = {row: _published_f1(row) for row in rows}

    def strength(name: str) -> float:
        known = [score for row in rows if not math.isnan(score := f1[row].get(name, math.nan))]
        return float(np.mean(known)) if known else math.inf  # without clips: last

    def cell(row: RowResult, name: str) -> Cell:
        score, theirs = f1[row].get(name, math.nan), published[row].get(name)
        beside = f" ({theirs})" if theirs else ""
        return Cell(decimals(score) + beside, heat=None if math.isnan(score) else score)

    names = sorted(classes, key=strength)
    body = [[name, *(cell(row, name) for row in rows)] for name in names]
    _, words = rows[0].task.class_figure
    caption = f"{words} of each class on the test split, mean over seeds, the weakest class first"
    if any(published.values()):
        caption += "; (published" + ", of another task" * any(r.another_task for r in rows) + ")"
    columns = ["class", *(row.name for row in rows)]
    return Table(columns, body, caption, tall=len(names) > TALL)


def confusions(row: RowResult | None, run: Run | None, draw: Any) -> Section:
    """Return the section on confusions between classes."""
    fits = run is not None and "confusions" in run.task.sections
    seeds = len(_by_seed(row)) if row is not None and fits else 0
    if row is None or run is None or not seeds:
        return Section("Confusions", "confusions", [])
    counts_KK, counted = confusion(row), "clips" if seeds == 1 else "answers"
    few = len(run.classes) <= figures.NUMBERED
    matrices: list[Block] = []
    for shares in (False, True):
        name = "confusion_shares" if shares else "confusion_counts"
        what = "share of the class in %" if shares else f"number of {counted}"
        whose = f"{row.name}, {_whose(row)}"
        caption = f"Confusions of {whose}: {what}; a row is a class, a column what it was taken for"
        alt = f"Confusion matrix as {what}; the largest confusions are listed in a table below."
        picture = draw(name, alt, caption, figures.confusion, counts_KK, run.classes, shares)
        matrices.append(_matrix(caption, counts_KK, run.classes, shares) if few else picture)
    both = Group(matrices, "pair" if few else "stack")
    return Section("Confusions", "confusions", [both, *_largest(row, counts_KK, counted)])


def _matrix(
    caption: str,
    counts_KK: np.ndarray,
    classes: Sequence[str],
    shares: bool,
    of_K: np.ndarray | None = None,
) -> Table:
    """Return the matrix as a table, for screen readers; see `figures.confusion`."""
    shares_KK = figures.shares_of(counts_KK, of_K)

    def cell(number: int, share: float) -> Cell | str:
        text = f"{100 * share:.0f}" if shares else str(number)
        return Cell(text, heat=math.sqrt(share)) if share else ""

    body = [
        [name, *map(cell, counts_K, shares_K)]
        for name, counts_K, shares_K in zip(classes, counts_KK, shares_KK, strict=True)
    ]
    return Table(["class", *classes], body, caption, style="matrix")


def _largest(row: RowResult, counts_KK: np.ndarray, counted: str) -> list[Block]:
    """Return the largest confusions, each with its clips of highest confidence."""
    classes = row.done[0].classes
    saved = [each for each in (run.predictions() for run in row.done) if each is not None]
    clips = None
    surest_of: dict[tuple[str, str], float] = {}  # confidence by clip and predicted class
    if saved:
        clips = metrics.PredictedClips(
            *(
                np.concatenate([getattr(each, name) for each in saved])
                for name in ("names_B", "labels_B", "predicted_B")
            )
        )
        for each in saved:
            said = zip(each.names_B.tolist(), each.predicted_B, each.confidence_B, strict=True)
            for name, predicted, confidence in said:
                at = (name, classes[predicted] if predicted >= 0 else "")
                surest_of[at] = max(float(confidence), surest_of.get(at, 0.0))
    confused = metrics.most_confused(counts_KK, classes, clips, top=WORST)
    if not confused:
        return [Paragraph("No clip of the test split was confused.")]
    body = []
    for pair in confused:
        sure = {name: surest_of[name, pair["predicted"]] for name in pair["clips"]}
        surest = sorted(sure, key=lambda name: -sure[name])[:3]
        named = ", ".join(f"{name} ({percent(sure[name], 0)})" for name in surest)
        share = f"{100 * pair['share']:.0f} %"
        taken = Cell(pair["predicted"], "text")
        body.append([pair["true"], taken, pair["count"], share, Cell(named, "wrap")])
    columns = ["class", "taken for", counted, "of the class", "surest clips (confidence)"]
    return [Table(columns, body, "Largest confusions"), *_types(counts_KK, classes, counted)]


def _types(counts_KK: np.ndarray, classes: Sequence[str], counted: str) -> list[Block]:
    """Return how many confusions are within an action type; empty for classes not of UCF-101."""
    confused = ucf101.confusions_by_type(counts_KK, classes)
    if confused is None:
        return []
    within, across = (
        sum(pair["count"] for pair in confused[kind]) for kind in ("within", "across")
    )
    text = (
        f"{within} of {within + across} confused {counted} were taken for a class of the same of "
        "UCF-101's five action types (such as sports), the others for a class of another type."
    )
    return [Paragraph(text)]


def clips(folder: Path, run: Run | None) -> Section:
    """Return the section of film strips of test clips, wrong predictions first."""
    samples = (run.samples or Run(folder, {}).samples) if run else None
    saved, part = (run.predictions(), run.part()) if run else (None, None)
    if run is None or samples is None or saved is None or part is None:
        return Section("Clips", "clips", [])
    index_of: Mapping[str, int] = {name: i for i, name in enumerate(saved.names_B.tolist())}
    known = [
        (index_of[name], frames)
        for name, frames in zip(samples.names.tolist(), samples.frames, strict=True)
        if name in index_of
    ]
    wrong = run.task.wrong(part)
    known.sort(key=lambda clip: not wrong[clip[0]])
    shots = [
        _shot(run.task.shot(part, i), str(saved.names_B[i]), frames) for i, frames in known[:STRIPS]
    ]
    what = f"Frames in order, with the class predicted by {run.place} and its confidence."
    parts: list[Block] = [Paragraph(what, "small soft"), Strips(shots)] if shots else []
    return Section("Clips", "clips", parts)


def _shot(said: presentation.Shot, name: str, frames: np.ndarray) -> Shot:
    label, predicted, confidence = said.label, said.predicted, percent(said.confidence, 0)
    alt = f"{len(frames)} frames of {name}: {label}, predicted {predicted} at {confidence}"
    return Shot(film_strip(frames, alt), predicted, confidence, label, name, said.correct)


def augmented(folder: Path, run: Run | None) -> Section:
    """Return the section of training clips before and after augmentation."""
    samples = (run.samples or Run(folder, {}).samples) if run else None
    if samples is None or samples.augmented is None:
        return Section("Augmented clips", "augmented", [])
    shown = []
    for before, after, name in zip(*samples.augmented, strict=True):
        alt = f"{len(before)} frames of {name}, and below them the same clip augmented"
        film = np.concatenate([_film(before), _edge(_film(before), 0), _film(after)])
        shown.append(Captioned(_picture(film, 2 * STRIP_HEIGHT, alt), str(name)))
    what = (
        "Training clips: above as they are, below as the first epoch showed them. What is drawn "
        "for a clip changes with the epoch and the seed."
    )
    parts: list[Block] = [Paragraph(what, "small soft"), Pictures(shown)]
    return Section("Augmented clips", "augmented", parts)


def film_strip(frames_THWC: np.ndarray, alt: str, most: int = STRIP_HEIGHT) -> Picture:
    """Return frames side by side as one picture, at most `most` pixels high."""
    return _picture(_film(frames_THWC), most, alt)


def _film(frames_THWC: np.ndarray) -> np.ndarray:
    """Return frames side by side, uint8 (H, w, 3)."""
    edge = _edge(frames_THWC[0], 1)
    return np.concatenate([part for frame in frames_THWC for part in (frame, edge)][:-1], axis=1)


def _edge(frame: np.ndarray, axis: int) -> np.ndarray:
    """Return a thin grey line, which separates frames on any background."""
    shape = list(frame.shape)
    shape[axis] = 2
    return np.full(shape, 128, np.uint8)


def _picture(film: np.ndarray, most: int, alt: str) -> Picture:
    """Return a film strip as a JPEG picture, at most `most` pixels high."""
    from PIL import Image

    picture = Image.fromarray(film)
    if picture.height > most:
        picture = picture.resize((round(picture.width * most / picture.height), most))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    data = base64.b64encode(out.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{data}", picture.width, picture.height, alt)
