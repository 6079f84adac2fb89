"""Two runs set side by side: what the difference is worth, and which classes it comes from."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import statistics
from vidrec.io.escape import Html
from vidrec.report import figures, markup, page, tables, ucf101
from vidrec.report.class_changes import class_changes
from vidrec.report.classes import confusion
from vidrec.report.markup import Cell, joined, tag
from vidrec.report.results import Row, difference, row_of, shared

MOVED = 15  # confusions listed
ENDS = 20  # classes drawn from either end of a long table


def pair(dir_a: str | Path, dir_b: str | Path) -> tuple[Row, Row]:
    """The rows that are compared, of different names; the second has its difference to the first.

    Raises:
        UserError: nothing scored there, or different classes.
    """
    a, b = row_of(dir_a), row_of(dir_b)
    if a.done[0].classes != b.done[0].classes:
        raise UserError(
            f"{dir_a} and {dir_b} know different classes: compare runs on the same data"
        )
    if a.name == b.name:
        a, b = replace(a, name=f"{a.name} (A)"), replace(b, name=f"{b.name} (B)")
    return a, replace(b, difference=difference(b, a))


def render(dir_a: str | Path, dir_b: str | Path, pictures: Path) -> Html:
    """The page for B against A.

    Raises:
        UserError: nothing scored there, or different classes.
    """
    a, b = pair(dir_a, dir_b)
    draw = page.Drawer(pictures)
    sections = [
        _numbers(a, b),
        _classes(a, b, ucf101.published_changes(a.done[0].config, b.done[0].config), draw),
        _moved(a, b),
        page.curves([a, b], a, b, draw),
        page.steps([a, b], a, b, draw),
        _settings(a, b),
    ]
    warned = [*page.warnings([a, b]), *_other_data(a, b)]
    lead = [tag("p", line, kind="warn") for line in warned]
    lead.append(tag("p", _answer(a, b), kind="answer"))
    lead.append(markup.definitions([("A", f"{a.name}: {dir_a}"), ("B", f"{b.name}: {dir_b}")]))
    foot = Html('Figures lie in <a href="figures/">figures/</a>.')
    return markup.page(f"{b.name} against {a.name}", joined(lead, "\n"), sections, foot)


def _other_data(a: Row, b: Row) -> list[str]:
    """A line where clips of the same name are not said to be the same by both runs."""
    both = shared(a, b)
    if both is None:
        return []
    of_a, of_b = both
    counts = {"class": of_a.labels != of_b.labels, "recording": of_a.groups != of_b.groups}
    told = [
        f"{int(differ.sum())} have another {what}"
        for what, differ in counts.items()
        if differ.any()
    ]
    if not told:
        return []
    return [
        f"The two runs are not of the same data: of {len(of_a.names)} clips of the same names "
        f"{' and '.join(told)} in the second."
    ]


def _answer(a: Row, b: Row) -> str:
    if b.difference is None:
        return f"{a.name} and {b.name} scored no clip in common, so nothing can be said."
    d = b.difference
    side = "above" if d.mean >= 0 else "below"
    told = f"{b.name} is {abs(100 * d.mean):.1f} points {side} {a.name}"
    told += f" on the same clips ({tables.points(d.low, d.high)}), "
    if b.within_noise:
        return told + "which is within noise." + page.needed(d)
    return told + "more than noise." + page.note(d)


def _numbers(a: Row, b: Row) -> Html:
    columns = {
        "test accuracy": "test_accuracy",
        "average F1": "test_avg_f1",
        "top-5": "test_top5",
        "validation accuracy": "val_accuracy",
        "training accuracy": "train_accuracy",
    }
    body = []
    for name, column in columns.items():
        before, after = a.mean(column), b.mean(column)
        gap = tables.points(after - before) if after == after and before == before else "–"
        body.append([name, tables.percent(before), tables.percent(after), gap])
    body.append(
        ["95 % interval of the test accuracy", tables.span(a.interval), tables.span(b.interval), ""]
    )
    for name, column, style in (
        ("parameters", "params", tables.whole),
        ("epochs", "epochs", tables.whole),
        ("seconds of training", "seconds_train", tables.seconds),
    ):
        body.append([name, style(a.mean(column)), style(b.mean(column)), ""])
    body.append(["seeds", tables.seeds(a), tables.seeds(b), ""])
    heads = ["", a.name, b.name, "difference, points"]
    heads[0] = "figure"
    table = markup.table("Means over seeds", heads, body)
    return markup.section("Results", "results", table)


def _classes(a: Row, b: Row, theirs: Mapping[str, Sequence[float]], draw: Any) -> Html:
    both = shared(a, b)
    if both is None:
        return Html()
    classes, (before, after) = a.done[0].classes, both
    found = class_changes(
        before.predicted_Sn, after.predicted_Sn, before.labels, classes, before.groups
    )
    changes = sorted(itertools.chain(*found), key=lambda c: c.before - c.after)
    judged = statistics.corrected([each.difference for each in changes if each.difference])
    body = [_change(c, d, theirs) for c, d in zip(changes, judged, strict=True)]
    said = "{} classes improved, {} worsened, {} stayed.".format(*map(len, found))
    beyond = sum(not d.within_noise for d in judged)
    said += f" Of all changes {beyond} {'is' if beyond == 1 else 'are'} more than noise."
    heads = ["class", "clips", a.name, b.name, "change, points", "verdict"]
    heads += ["report D, frame CNN → LSTM"] if theirs else []
    caption = "Share of each class that is right, over the seeds and clips that both scored"
    table = markup.table(caption, heads, body, tall=len(body) > 24)
    # Of many classes the figure shows those that moved most, in either direction.
    most = changes if len(changes) <= 2 * ENDS else changes[:ENDS] + changes[-ENDS:]
    picture = draw(
        "changes",
        f"Recall of each class in {a.name} and {b.name}; the figures stand in the table.",
        f"From {a.name} (open) to {b.name} (filled)"
        + ("." if len(most) == len(changes) else f": the first and last {ENDS} of the table."),
        figures.changes,
        [c.name for c in most],
        [c.before for c in most],
        [c.after for c in most],
    )
    return markup.section("Classes", "classes", tag("p", said), picture, table)


def _change(change: Any, judged: Any, theirs: Mapping[str, Sequence[float]]) -> list[Any]:
    """A class's line, with the published change beside ours where there is one."""
    gap = change.after - change.before
    word = "improved" if gap > 0 else "worsened" if gap < 0 else "stayed"
    kind = {"improved": "better", "worsened": "worse", "stayed": "noise"}[word]
    if gap and judged.within_noise:
        word, kind = f"{word}, within noise", "noise"
    line = [change.name, change.clips, *map(tables.percent, (change.before, change.after))]
    line += [tables.points(gap), Cell(word, f"text {kind}")]
    if theirs:
        given = theirs.get(change.name)
        line.append(" → ".join(map(tables.percent, given)) if given else "–")
    return line


def _moved(a: Row, b: Row) -> Html:
    """Confusions that became fewer or more; of UCF-101 within and across its action types."""
    classes = a.done[0].classes
    means = [confusion(row) / len(row.done) for row in (a, b)]
    off_KK = 1 - np.eye(len(classes))
    types = np.array([ucf101.type_of(name) or "" for name in classes])
    if not all(types):
        body = _moves(means, off_KK, classes)
        told = _moved_table("Confusions that moved most, clips a seed", body, a, b)
        return markup.section("Confusions", "confusions", told) if body else Html()
    parts = []
    within_KK = types[:, None] == types
    for side, which_KK in (("within", within_KK), ("across", ~within_KK)):
        before, after = (float((mean_KK * off_KK * which_KK).sum()) for mean_KK in means)
        said = f"{before:.4g} clips a seed in {a.name}, {after:.4g} in {b.name}."
        parts.append(tag("p", f"Confused {side} action types: {said}"))
        if body := _moves(means, off_KK * which_KK, classes):
            caption = f"Confusions {side} action types that moved most, clips a seed"
            parts.append(_moved_table(caption, body, a, b))
    return markup.section("Confusions", "confusions", *parts)


def _moved_table(caption: str, body: list[list[Any]], a: Row, b: Row) -> Html:
    heads = ["class", "taken for", f"clips, {a.name}", f"clips, {b.name}", "change"]
    return markup.table(caption, heads, body)


def _moves(
    means: Sequence[np.ndarray], which_KK: np.ndarray, classes: Sequence[str]
) -> list[list[Any]]:
    """Lines of the confusions that moved most between two mean matrices."""
    mean_a_KK, mean_b_KK = means
    moved_KK = (mean_b_KK - mean_a_KK) * which_KK
    pairs = sorted(np.argwhere(moved_KK), key=lambda at: -abs(moved_KK[tuple(at)]))[:MOVED]
    return [
        [
            classes[i],
            Cell(classes[j], "text"),
            f"{mean_a_KK[i, j]:.3g}",
            f"{mean_b_KK[i, j]:.3g}",
            Cell(
                f"{moved_KK[i, j]:+.3g}".replace("-", "−"),
                "better" if moved_KK[i, j] < 0 else "worse",
            ),
        ]
        for i, j in pairs
    ]


def _settings(a: Row, b: Row) -> Html:
    """Only the settings in which the two differ."""
    mine, other = (dict(page.flat(row.done[0].config)) for row in (a, b))
    body = [
        [Cell(tag("code", name)), mine.get(name, "–"), other.get(name, "–")]
        for name in dict.fromkeys([*mine, *other])
        if mine.get(name) != other.get(name) and name != "seed"
    ]
    table = markup.table("Settings that differ", ["setting", a.name, b.name], body)
    return markup.section("Settings", "settings", table if body else tag("p", "None differ."))
