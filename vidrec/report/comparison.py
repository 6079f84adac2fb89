"""Compare two runs: their difference with its interval, and the classes that it comes from."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import statistics
from vidrec.io import runs
from vidrec.report import blocks, figures, formats, page, rendering, tables, ucf101, wording
from vidrec.report.answers import Answers
from vidrec.report.blocks import Block, Definition, Definitions, Paragraph, Section
from vidrec.report.class_changes import ClassChange, class_changes
from vidrec.report.classes import TALL, by_class, confusion
from vidrec.report.formats import DASH, percent, points
from vidrec.report.results import RowResult, difference, row_of, shared
from vidrec.report.table_model import Cell, Table

MOVED = 15  # confusions listed
ENDS = 20  # classes drawn from each end of a long table


def pair(dir_a: str | Path, dir_b: str | Path) -> tuple[RowResult, RowResult]:
    """Return two rows with unequal names; the second row has its difference to the first.

    Raises:
        UserError: a folder holds nothing scored, or the classes or the tasks differ.
    """
    a, b = row_of(dir_a), row_of(dir_b)
    if a.done[0].classes != b.done[0].classes:
        raise UserError(
            f"{dir_a} and {dir_b} know different classes: compare runs on the same data"
        )
    if a.task.kind != b.task.kind:
        raise UserError(
            f"{dir_a} is of task.kind = {a.task.kind!r} and {dir_b} of {b.task.kind!r}: compare "
            "runs of one task"
        )
    if a.name == b.name:
        a, b = replace(a, name=f"{a.name} (A)"), replace(b, name=f"{b.name} (B)")
    return a, replace(b, difference=difference(b, a))


def render(dir_a: str | Path, dir_b: str | Path, pictures: Path) -> str:
    """Return the page that compares the run B with the run A.

    Raises:
        UserError: a folder holds nothing scored, or the classes or the tasks differ.
    """
    a, b = pair(dir_a, dir_b)
    draw, both = page.Drawer(pictures), shared(a, b)
    facts = [Definition("A", f"{a.name}: {dir_a}"), Definition("B", f"{b.name}: {dir_b}")]
    chosen = rows_of_tables([dir_a, dir_b], [a, b])
    sections = [
        _results(a, b, [*chosen, *notes_of_two(a, b)]),
        _classes(a, b, both, draw),
        _confusions(a, b),
        page.curves([a, b], a, b, draw),
        page.steps([a, b], a, b, draw),
        _settings(a, b),
    ]
    content = blocks.Page(
        title=f"{b.name} against {a.name}",
        question="",
        warnings=[*wording.warnings([a, b]), *_other_data(both)],
        answer=wording.answer_of_two(a, b),
        facts=Definitions(facts),
        sections=sections,
    )
    return rendering.render(content)


def rows_of_tables(dirs: Sequence[str | Path], rows: Sequence[RowResult]) -> list[str]:
    """Return a line for each folder that is a table: which of its rows is compared."""
    return [
        f"{folder} is a table: {row.name}, its best row on validation, is compared."
        for folder, row in zip(dirs, rows, strict=True)
        if (Path(folder) / runs.TABLE).is_file()
    ]


def _other_data(both: tuple[Answers, Answers] | None) -> list[str]:
    """Return a warning if clips of the same name differ between the two runs."""
    if both is None:
        return []
    a, b = both
    differ = {
        "class": _differing(a.labels, b.labels),
        "recording": int((a.groups != b.groups).sum()),
    }
    differences = [f"{number} have another {what}" for what, number in differ.items() if number]
    if not differences:
        return []
    return [
        f"The two runs are not of the same data: of {len(a.names)} clips of the same names "
        f"{' and '.join(differences)} in the second."
    ]


def _differing(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many clips have different labels in the two runs."""
    if a.shape != b.shape:
        return len(a)
    return int((a != b).reshape(len(a), -1).any(axis=1).sum())


def _results(a: RowResult, b: RowResult, notes: Sequence[str]) -> Section:
    headline = a.task.headline
    figures_of_two = percent(a.headline), percent(b.headline)
    body: list[list[Any]] = [
        [f"test {headline.words}", *figures_of_two, tables.versus_control(b, a)]
    ]
    for name, column in (
        *((shown.head, shown.column) for shown in a.task.compared),
        (f"validation {headline.words}", headline.val),
        (f"training {headline.words}", headline.train),
    ):
        before, after = a.mean(column), b.mean(column)
        change = points(after - before) if after == after and before == before else DASH
        body.append([name, percent(before), percent(after), change])
    name = f"95 % interval of the test {headline.words}"
    body.append([name, tables.interval(a), tables.interval(b), ""])
    for name, column in (
        ("parameters", "params"),
        ("epochs", "epochs"),
        ("seconds of training", "seconds_train"),
    ):
        style = formats.of_column(column)
        body.append([name, style(a.mean(column)), style(b.mean(column)), ""])
    body.append(["seeds", tables.seeds(a), tables.seeds(b), ""])
    columns = ["figure", a.name, b.name, "difference, points"]
    lines = [Paragraph(note, "small soft") for note in notes]
    return Section("Results", "results", [Table(columns, body, "Means over seeds"), *lines])


def notes_of_two(a: RowResult, b: RowResult) -> list[str]:
    """Return the notes below the figures of two rows: on leaks, and on rows with one seed."""
    more = "A table of these two rows, `vidrec ablate` with --seeds 3,"
    return [*wording.leaks([a, b]), *wording.one_seed([a, b], more)]


def _classes(
    a: RowResult, b: RowResult, both: tuple[Answers, Answers] | None, draw: page.Drawer
) -> Section:
    if "confusions" not in a.task.sections:
        return Section("Classes", "classes", _figures_of_classes(a, b))
    if both is None:
        return Section("Classes", "classes", [])
    before, after = both
    sorted_changes = class_changes(
        before.predicted_Sn, after.predicted_Sn, before.labels, a.done[0].classes, before.groups
    )
    changes = sorted(
        itertools.chain(*sorted_changes), key=lambda change: change.before - change.after
    )
    judged = statistics.corrected([change.difference for change in changes if change.difference])
    beyond = sum(not gap.within_noise for gap in judged)
    said = "{} classes improved, {} worsened, {} stayed.".format(*map(len, sorted_changes))
    said += f" Of all changes {beyond} {'is' if beyond == 1 else 'are'} more than noise."
    theirs = ucf101.published_changes(a.done[0].config, b.done[0].config)
    body = [_change(change, gap, theirs) for change, gap in zip(changes, judged, strict=True)]
    columns = ["class", "clips", a.name, b.name, "change, points", "verdict"]
    columns += ["report D, frame CNN → LSTM"] if theirs else []
    caption = "Share of each class that is right, over the seeds and clips that both scored"
    table = Table(columns, body, caption, tall=len(body) > TALL)
    parts: list[Block] = [Paragraph(said), _drawn_changes(a, b, changes, draw), table]
    return Section("Classes", "classes", parts)


def _figures_of_classes(a: RowResult, b: RowResult) -> list[Block]:
    """Return a table of each class's figure in both rows, for a task without confusions."""
    if "classes" not in a.task.sections:
        return []
    before, after = by_class(a), by_class(b)
    _, words = a.task.class_figure
    names = [name for name in before if not math.isnan(before[name] + after.get(name, math.nan))]
    names.sort(key=lambda name: before[name] - after[name])
    body = [
        [name, percent(before[name]), percent(after[name]), points(after[name] - before[name])]
        for name in names
    ]
    caption = f"{words} of each class on the test split, means over seeds"
    table = Table(["class", a.name, b.name, "change, points"], body, caption, tall=len(body) > TALL)
    return [table] if body else []


def _drawn_changes(
    a: RowResult, b: RowResult, changes: list[ClassChange], draw: page.Drawer
) -> blocks.Figure:
    """Return the drawing of changes; for many classes, the largest ones in each direction."""
    most = changes if len(changes) <= 2 * ENDS else changes[:ENDS] + changes[-ENDS:]
    caption = f"From {a.name} (open) to {b.name} (filled)"
    caption += "." if len(most) == len(changes) else f": the first and last {ENDS} of the table."
    alt = f"Recall of each class in {a.name} and {b.name}; the figures stand in the table."
    names = [change.name for change in most]
    ends = [change.before for change in most], [change.after for change in most]
    return draw("changes", alt, caption, figures.changes, names, *ends)


def _change(
    change: ClassChange, judged: statistics.Difference, theirs: Mapping[str, Sequence[float]]
) -> list[Any]:
    """Return the table row of a class, with the published change if there is one."""
    gap = change.after - change.before
    word = "improved" if gap > 0 else "worsened" if gap < 0 else "stayed"
    style = {"improved": "better", "worsened": "worse", "stayed": "noise"}[word]
    if gap and judged.within_noise:
        word, style = f"{word}, within noise", "noise"
    line = [change.name, change.clips, percent(change.before), percent(change.after)]
    line += [points(gap), Cell(word, f"text {style}")]
    if theirs:
        published = theirs.get(change.name)
        line.append(" → ".join(map(percent, published)) if published else DASH)
    return line


def _confusions(a: RowResult, b: RowResult) -> Section:
    """Return the section on confusions that changed; those of UCF-101 by action type."""
    if "confusions" not in a.task.sections:
        return Section("Confusions", "confusions", [])
    classes = a.done[0].classes
    mean_a_KK, mean_b_KK = (confusion(row) / row.seeds for row in (a, b))
    off_KK = 1 - np.eye(len(classes))
    types = np.array([ucf101.type_of(name) or "" for name in classes])
    within_KK = off_KK * (types[:, None] == types)
    sides = {"within": within_KK, "across": off_KK - within_KK} if all(types) else {"": off_KK}
    parts: list[Block] = []
    for side, which_KK in sides.items():
        of_types = f" {side} action types" if side else ""
        if side:
            before, after = ((mean * which_KK).sum() for mean in (mean_a_KK, mean_b_KK))
            said = f"{before:.4g} clips a seed in {a.name}, {after:.4g} in {b.name}."
            parts.append(Paragraph(f"Confused{of_types}: {said}"))
        if body := _moves(mean_a_KK * which_KK, mean_b_KK * which_KK, classes):
            columns = ["class", "taken for", f"clips, {a.name}", f"clips, {b.name}", "change"]
            caption = f"Confusions{of_types} that moved most, clips a seed"
            parts.append(Table(columns, body, caption))
    return Section("Confusions", "confusions", parts)


def _moves(a_KK: np.ndarray, b_KK: np.ndarray, classes: Sequence[str]) -> list[list[Any]]:
    """Return the rows of the confusions that changed most between two mean matrices."""
    moved_KK = b_KK - a_KK
    cells = sorted(np.argwhere(moved_KK), key=lambda at: -abs(moved_KK[tuple(at)]))[:MOVED]
    rows = []
    for i, j in cells:
        change = f"{moved_KK[i, j]:+.3g}".replace("-", "−")
        style = "better" if moved_KK[i, j] < 0 else "worse"
        ends = [f"{a_KK[i, j]:.3g}", f"{b_KK[i, j]:.3g}"]
        rows.append([classes[i], Cell(classes[j], "text"), *ends, Cell(change, style)])
    return rows


def _settings(a: RowResult, b: RowResult) -> Section:
    """Return the section on the settings that differ between the two rows."""
    first, second = (page.flat_settings(row.done[0].config) for row in (a, b))
    body = [
        [Cell(name, code=True), first.get(name, DASH), second.get(name, DASH)]
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name) and name != "seed"
    ]
    table = Table(["setting", a.name, b.name], body, "Settings that differ")
    return Section("Settings", "settings", [table if body else Paragraph("None differ.")])
