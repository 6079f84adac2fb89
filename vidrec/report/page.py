"""Write the report of a run or of an ablation as one self-contained HTML page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.config import Config, to_dict
from vidrec.io import escape
from vidrec.report import blocks, classes, figures, forest, formats, rendering, tables, wording
from vidrec.report.blocks import Block, Definition, Definitions, Figure, Paragraph, Section
from vidrec.report.results import AblationResult, RowResult, rows_and_control, task_of
from vidrec.report.run import SPLITS, Run, setting_text
from vidrec.report.table_model import Badge, Cell, Table


def _leak(run: Run) -> str:
    """Return whether a run's split leaks, in words."""
    if run.shares_recordings:
        return "leaked: one recording in training and in test"
    words = []
    if run.leaked == "unknown" or run.recordings_known is False:
        words.append("recordings unknown")
    elif run.leaked is False or (run.copied_tests and run.recordings_known):
        words.append("no recording in two parts")
    if run.copied_tests:
        clips = "a test clip" if run.copied_tests == 1 else f"{run.copied_tests} test clips"
        words.append(f"copies of {clips} in another")
    elif run.leaked is True:
        words.append("training and validation have clips or recordings in common")
    return ", ".join(words)


WITHIN_NOISE = (
    "Within noise: p of the difference on the same seeds and clips{} exceeds 0.05 (every p is in "
    "summary.csv)."
)
HOLM = ", after Holm's correction for the number of rows,"


def render(results: Run | AblationResult, pictures: Path) -> str:
    """Return the page; every figure in it is also written under `pictures` as SVG and PNG."""
    rows, control = rows_and_control(results)
    best = results.best if isinstance(results, AblationResult) else rows[0]
    best = best if best is not None and best.done else None
    run = _typical(best) if best else None
    any_run = run or next((r for row in rows for r in row.runs), None)
    draw = Drawer(pictures)
    page = blocks.Page(
        title=_title(results),
        question=results.meta.get("question", "") if isinstance(results, AblationResult) else "",
        warnings=wording.warnings(rows),
        answer=wording.answer(rows, control, best),
        facts=Definitions(_facts(results, rows)),
        sections=[
            _results(results, rows, best),
            _intervals(rows, control, draw),
            curves(rows, control, best, draw),
            classes.scores(rows, run, draw.folder),
            classes.confusions(best, run, draw),
            classes.matrices(best, run, draw),
            classes.timelines(best, run, draw),
            classes.clips(results.folder, run),
            classes.augmented(results.folder, run),
            steps(rows, control, best, draw),
            _cost(rows, draw),
            _model(any_run),
            _counts(rows),
            _settings(results, any_run),
        ],
        rebuild=escape.shell(["vidrec", "report", results.folder.name]),
        beside=_beside(results, rows),
    )
    return rendering.render(page)


def _beside(results: Run | AblationResult, rows: Sequence[RowResult]) -> list[str]:
    """Return the names of the files with the page's figures; see `report.build`."""
    names = ["table.csv", "table.md", "table.tex"]
    names += ["summary.csv"] * isinstance(results, AblationResult)
    return names + ["folds.csv"] * any(row.out_of_fold for row in rows)


class Drawer:
    """Draws a figure once, both for the page and as files in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str, alt: str, caption: str, paint: Any, *args: Any) -> Figure:
        """Return the figure that `paint` draws from `args`; `alt` is for screen readers."""
        figure = figures.draw(paint, *args)
        width = figures.width(figure)
        svg = figures.inline(figures.save(figure, self.folder / name), name, alt, width)
        style = "matrix-figure" if paint is figures.confusion else ""
        return Figure(svg, caption, width, style)


def _title(results: Run | AblationResult) -> str:
    if isinstance(results, AblationResult):
        return f"Ablation: {results.meta.get('name', results.folder.name)}"
    return f"Run: {results.result.get('name') or results.folder.name}"


def _typical(row: RowResult) -> Run:
    """Return the run whose headline figure is the median (the lower one) of the row's runs."""
    ordered = sorted(row.done, key=lambda run: run.metric(row.task.headline.test))
    return ordered[(len(ordered) - 1) // 2]


# --- What was asked -------------------------------------------------------------------------------


def _facts(results: Run | AblationResult, rows: Sequence[RowResult]) -> list[Definition]:
    if isinstance(results, AblationResult):
        planned = sum(len(row.planned) for row in rows)
        pairs: list[tuple[str, Any]] = [
            ("axes", ", ".join(axis for axis in results.axes if axis != "data.fold")),
            ("control", results.control.name if results.control else None),
            ("trials", f"{planned} ({len(rows)} rows), {_statuses(rows)}"),
            ("published figures from", results.meta.get("source")),
            ("data", tables.trained_on(results)),
        ]
    else:
        data = results.config.get("data", {})
        named = data.get("tfds") if data.get("kind") == "tfds" else data.get("kind")
        pairs = [
            ("setting", rows[0].name),
            ("seed", results.result.get("seed")),
            ("data", tables.trained_on(results) or named),
            ("status", _status(results)),
            ("continues", _parent(results)),
        ]
    runs = [run for row in rows for run in row.runs]
    splits = {(run.result.get("split", {}).get("id"), _leak(run)) for run in runs}
    if len(splits) > 1:  # their ids are in each result.json
        leaks = dict.fromkeys(leak for _, leak in sorted(splits, key=str))
        pairs += [("splits", f"{len(splits)}, {'; '.join(leaks)}")]
    else:
        pairs += [("split", f"{i}, {leak}") for i, leak in splits]
    return [Definition(name, value) for name, value in pairs if value not in (None, "")]


def _parent(run: Run) -> str:
    """Return the run that a run continues; "" where it continues none."""
    parent = run.result.get("parent")
    return f"{Path(parent['dir']).name} after epoch {parent['epochs']}" if parent else ""


def _status(run: Run) -> str:
    why = run.result.get("why")
    return run.result.get("status", "unknown") + (f": {why}" if why else "")


def _statuses(rows: Sequence[RowResult]) -> str:
    statuses = [run.result.get("status", "unknown") for row in rows for run in row.runs]
    statuses += ["missing"] * (sum(len(row.planned) for row in rows) - len(statuses))
    return ", ".join(f"{statuses.count(kind)} {kind}" for kind in dict.fromkeys(statuses))


# --- The table ------------------------------------------------------------------------------------


def _results(
    results: Run | AblationResult, rows: Sequence[RowResult], best: RowResult | None
) -> Section:
    columns = tables.summary_columns(results)
    fitted = [columns[0], *(column for column in columns if column.fit)]
    first_fit = columns.index(fitted[1])
    scored = columns[:first_fit]  # the published figures after these are in another table
    parts: list[Block] = [_scored_table(rows, scored, best, rows_and_control(results)[1])]
    notes = tables.notes(results)
    notes += wording.intervals(rows)
    if len(rows) > 1:
        note = WITHIN_NOISE.format(HOLM if len(rows) > 2 else "")
        if best is not None and best.is_validated:
            note += f" The best row is chosen by validation {task_of(rows).headline.words}."
        notes.append(note)
    parts += [Paragraph(note, "small soft") for note in notes]
    if any(row.out_of_fold for row in rows):
        parts.append(tables.folds_table(rows))
    caption = "Training, and the figures of the weights that were kept (without dropout, also on "
    caption += "training clips)"
    body = [[column.cell(row) for column in fitted] for row in rows]
    parts.append(Table([column.head for column in fitted], body, caption))
    parts += [Paragraph(note, "small soft") for note in wording.shared_seconds(rows)]
    if tables.also_published(rows):
        parts.append(tables.published_table(rows))
    if failed := _failed(rows):
        parts.append(failed)
    return Section("Results", "results", parts)


def _scored_table(
    rows: Sequence[RowResult],
    columns: Sequence[tables.Column],
    best: RowResult | None,
    control: RowResult | None,
) -> Table:
    several = len(rows) > 1
    tied = best is not None and not best.is_validated and wording.equals(rows, best)
    body = []
    for row in rows:
        badges = [Badge("control")] * (several and row is control)
        best_on = "best on validation" if row.is_validated else "highest on test"
        badges += [Badge(best_on)] * (several and row is best and not tied)
        name = Cell(row.name, badges=tuple(badges))
        body.append([name, *(column.cell(row) for column in columns[1:])])
    marked = next((i for i, row in enumerate(rows) if several and row is best), None)
    heads = [column.head for column in columns]
    what = "Test clips of every fold" if any(row.out_of_fold for row in rows) else "Test split"
    return Table(heads, body, f"{what}, means over seeds", marked=marked)


def _failed(rows: Sequence[RowResult]) -> Table | None:
    body = [
        [
            run.result.get("id", ""),
            Cell(row.name, "text"),
            run.result.get("seed"),
            Cell(_status(run), "wrap"),
        ]
        for row in rows
        for run in row.runs
        if not run.is_complete
    ]
    if not body:
        return None
    return Table(["trial", "setting", "seed", "status"], body, "Trials without scores")


# --- Figures --------------------------------------------------------------------------------------


def _intervals(rows: Sequence[RowResult], control: RowResult | None, draw: Drawer) -> Section:
    recordings = tables.recordings_table(rows)
    of_recordings = [recordings] if recordings else []
    if len(rows) < 2:
        return Section("Recordings", "intervals", of_recordings)
    headline = task_of(rows).headline
    caption = (
        f"Test {headline.words}: mean over seeds and 95 % interval. A tick is one seed's model"
    )
    caption += " on the test clips of one fold" * any(row.out_of_fold for row in rows)
    caption += "; the dashed line is the control" if control else ""
    caption += "; open diamonds: published" if forest.has_published(rows) else ""
    if any(row.difference for row in rows):
        caption += ". Right: difference to the control on the same seeds and clips; with a dot if "
        caption += "it is more than noise"
    alt = forest.described(rows)
    figure = draw("intervals", alt, caption + ".", forest.draw, rows, control)
    return Section("Intervals", "intervals", [figure, *of_recordings])


def curves(
    rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None, draw: Drawer
) -> Section:
    """Return the section on losses and accuracies over epochs."""
    if not any(run.epochs for row in rows for run in row.runs):
        return Section("Training", "training", [])
    best_epochs = [
        f"{row.name}: kept epoch {', '.join(str(run.best_epoch) for run in row.done)}"
        for row in rows
        if row.done
    ]
    headline = task_of(rows).headline
    alt = f"Training loss, validation loss and validation {headline.words} over epochs. "
    alt += "; ".join(best_epochs)
    caption = "Losses are those that training minimises. Each line is a trial. Its dot is the "
    caption += "epoch whose weights were kept: the best one on validation clips, if there are any."
    figure = draw("curves", alt + ".", caption, figures.curves, rows, control, best)
    return Section("Training", "training", [figure])


def steps(
    rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None, draw: Drawer
) -> Section:
    """Return the section on accuracy at each frame; empty if no run scores every frame."""
    parts = []
    if "steps" in task_of(rows).sections and figures.has_steps(rows):
        caption = "Share of test clips that are right after each step, mean over seeds."
        parts = [draw("steps", caption, caption, figures.steps, rows, control, best)]
    return Section("Accuracy against time step", "steps", parts)


def _cost(rows: Sequence[RowResult], draw: Drawer) -> Section:
    columns = figures.costs(rows)
    if not columns:
        return Section("Cost", "cost", [])
    words = task_of(rows).headline.words
    against = " and ".join(figures.COSTS[column] for column in columns)
    caption = f"Test {words} with its 95 % interval against {against}."
    if "seconds_train" in columns and len({row.mean("epochs") for row in rows if row.done}) > 1:
        caption += " A row that trains for more epochs takes longer."
    alt = caption + " The figures stand in the table of results."
    return Section("Cost", "cost", [draw("cost", alt, caption, figures.cost, rows)])


# --- The model, the clips, the settings -----------------------------------------------------------


def _model(run: Run | None) -> Section:
    if run is None or not run.layers:
        return Section("Model", "model", [])
    boxes, body = [], []
    for layer in run.layers:
        number, name, kind = layer.get("params") or 0, layer.get("name", ""), layer.get("kind", "")
        boxes.append(blocks.Layer(name, kind, formats.count(number) if number else ""))
        shapes = [Cell(_shape(layer.get(end, "")), "text") for end in ("input", "output")]
        body.append([name, Cell(kind, "text"), *shapes, formats.count(number)])
    total = sum(layer.get("params") or 0 for layer in run.layers)
    body.append(["all", "", "", "", formats.count(total)])
    heads = ["layer", "kind", "input", "output", "trained parameters"]
    table = Table(heads, body, f"Layers of {run.name}")
    return Section("Model", "model", [blocks.Layers(boxes), table])


def _shape(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _counts(rows: Sequence[RowResult]) -> Section:
    """Return the section on the clips expected, scored and unreadable, over all trials."""
    runs = [run for row in rows for run in row.runs]
    lines = [_count_line(split, runs) for split in SPLITS]
    body = [line for line in lines if line]
    if not body:
        return Section("Clips scored", "counts", [])
    heads = ["split", "expected", "scored", "unreadable"]
    several = len({run.fold for run in runs}) > 1
    parts: list[Block] = [Table(heads, body, "Clips of each split" + ", in one fold" * several)]
    unreadable = {u["path"]: u["reason"] for run in runs for u in run.result.get("unreadable", ())}
    damaged = {name: why for run in runs for name, why in run.result.get("damaged", {}).items()}
    for caption, reasons in (
        ("Clips that could not be read", unreadable),
        ("Clips that were read as far as they go", damaged),
    ):
        named = [[Cell(clip, code=True), Cell(why, "wrap")] for clip, why in reasons.items()]
        parts += [Table(["clip", "reason"], named, caption)] if named else []
    return Section("Clips scored", "counts", parts)


def _count_line(split: str, runs: Sequence[Run]) -> list[Any]:
    counted = [run for run in runs if split in run.result.get("counts", {})]
    counts = [run.result["counts"][split] for run in counted]
    if not counts:
        return []
    done = zip(counts, counted, strict=True)
    scored = [count["scored"] for count, run in done if run.is_complete] or [0]
    expected = [count["expected"] for count in counts]
    unreadable = max(count["unreadable"] for count in counts)
    return [split, _range(expected), _range(scored), unreadable]


def _range(numbers: Sequence[int]) -> str:
    few, most = min(numbers), max(numbers)
    return str(few) if few == most else f"{few} to {most}"


def _settings(results: Run | AblationResult, run: Run | None) -> Section:
    if run is None:
        return Section("How to repeat it", "repeat", [])
    whose = "of this run"
    command = run.environment.get("command")
    if isinstance(results, AblationResult):
        whose = f"of {run.name}, {run.place} (median test figure of its seeds)"
        command = results.meta.get("command") or command
    parts: list[Block] = [Definitions(_environment(run, command))]
    if settings := flat_settings(run.config):
        usual = flat_settings(to_dict(Config()))
        body = []
        for name, value in settings.items():
            badges = [Badge("changed")] * (name in usual and value != usual[name])
            body.append([Cell(name, code=True, badges=tuple(badges)), Cell(value, "wrap")])
        caption = f"Settings {whose}; changed: other than vidrec's default"
        table = Table(["setting", "value"], body, caption)
        parts.append(blocks.Details(f"All settings {whose}", table))
    return Section("How to repeat it", "repeat", parts)


def _environment(run: Run, command: str | list[str] | None) -> list[Definition]:
    if isinstance(command, list):
        command = escape.shell(command)
    entries = [Definition("command", command, command=True)] if command else []
    versions = run.result.get("versions") or run.environment.get("versions") or {}
    entries += [Definition(name, setting_text(value)) for name, value in versions.items()]
    for name, value in run.environment.items():
        if name not in ("command", "versions"):
            listed = ", ".join(map(str, value)) if isinstance(value, list) else None
            plain = json.dumps(value) if isinstance(value, dict) else setting_text(value)
            entries.append(Definition(name, plain if listed is None else listed))
    return entries


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return settings by their dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = setting_text(value)
    return flat
