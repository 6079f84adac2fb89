"""What happened to each class: F1, confusions, and the clips themselves."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.config.columns import F1
from vidrec.evaluation import metrics
from vidrec.io.escape import Html
from vidrec.report import figures, markup, tables, ucf101
from vidrec.report.markup import Cell, joined, tag
from vidrec.report.results import Row, Run

WORST = 12  # confusions listed
STRIPS = 12  # film strips shown


def scores(rows: Sequence[Row], run: Run | None, draw: Any) -> Html:
    scored = [row for row in rows if row.done and _f1(row)]
    if run is None or not scored:
        return Html()
    figure = figures.draw(figures.f1, run)
    figures.save(figure, draw.folder / "f1")
    body = _one_row(scored[0], run) if len(scored) == 1 else _many_rows(scored, run)
    return markup.section("Classes", "classes", _extremes(run), body)


def _extremes(run: Run) -> Html:
    """The classes of which every clip was right, and those of which none was."""
    counts_KK = run.result["metrics"].get("test", {}).get("confusion")
    if counts_KK is None:
        return Html()
    told = [
        f"{which}: {', '.join(find(counts_KK, run.classes)) or 'no class'}."
        for which, find in (
            ("Always right", metrics.always_right),
            ("Never right", metrics.never_right),
        )
    ]
    whose = f"Of {run.name}, seed {run.result.get('seed', 0)}. "
    return tag("p", whose + " ".join(told))


def _published_f1(row: Row) -> dict[str, str]:
    """Published F1 of classes, a mark where it is doubtful."""
    found = {}
    for column, value in row.published.items():
        if column.startswith(F1):
            mark = f" {tables.DAGGER}" if column in row.doubtful else ""
            found[column.removeprefix(F1)] = _fixed(value) + mark
    return found


def _f1(row: Row) -> dict[str, float]:
    """F1 of each class, mean over seeds."""
    each = [run.result["metrics"].get("test", {}).get("f1") or {} for run in row.done]
    values = {name: [f[name] for f in each if f.get(name) is not None] for name in each[0]}
    return {name: float(np.mean(v)) if v else math.nan for name, v in values.items()}


def _one_row(row: Row, run: Run) -> Html:
    counts_KK = confusion(row)
    theirs = _published_f1(row)
    body: list[list[Any]] = []
    for k, (name, score) in enumerate(_f1(row).items()):
        hits, clips, named = counts_KK[k, k], counts_KK[k].sum(), counts_KK[:, k].sum()
        bar = tag("span", tag("i", ""), kind="bar", style=f"--share:{score:.3f}")
        line: list[Any] = [name, f"{clips}", _ratio(hits, named), _ratio(hits, clips)]
        line += [_fixed(score), Cell("" if math.isnan(score) else bar)]
        body.append(line + [theirs.get(name, "–")] * bool(theirs))
    body.sort(key=lambda line: line[4])
    heads = ["class", "clips", "precision", "recall", "F1", "F1 as a bar"]
    heads += ["published F1"] * bool(theirs)
    caption = "Each class on the test split, the weakest first"
    return markup.table(caption, heads, body, tall=len(body) > 24)


def _ratio(part: int, total: int) -> str:
    return f"{part / total:.3f}" if total else "–"


def _fixed(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _many_rows(rows: Sequence[Row], run: Run) -> Html:
    scores = {row: _f1(row) for row in rows}
    published = {row: _published_f1(row) for row in rows}

    def strength(name: str) -> float:
        known = [each[name] for each in scores.values() if not math.isnan(each.get(name, math.nan))]
        return float(np.mean(known)) if known else math.inf  # without clips: last

    def cell(row: Row, name: str) -> Cell:
        score, theirs = scores[row].get(name, math.nan), published[row].get(name)
        beside = f" ({theirs})" if theirs else ""
        return Cell(_fixed(score) + beside, heat=None if math.isnan(score) else score)

    names = sorted(run.classes, key=strength)
    body = [[name, *(cell(row, name) for row in rows)] for name in names]
    caption = "F1 of each class on the test split, mean over seeds, the weakest class first"
    caption += "; (published)" * any(published.values())
    heads = ["class", *(row.name for row in rows)]
    return markup.table(caption, heads, body, tall=len(names) > 24)


def confusion(row: Row) -> np.ndarray:
    """Counts (K, K) summed over seeds: row the class, column the prediction."""
    each = [run.result["metrics"].get("test", {}).get("confusion") for run in row.done]
    counts = [np.asarray(counts_KK, int) for counts_KK in each if counts_KK is not None]
    none_KK = np.zeros((len(row.runs[0].classes),) * 2, int)
    return np.sum([none_KK, *counts], axis=0)


def confusions(row: Row | None, run: Run | None, draw: Any) -> Html:
    if row is None or run is None or "confusion" not in run.result["metrics"].get("test", {}):
        return Html()
    counts_KK = np.asarray(run.result["metrics"]["test"]["confusion"], int)
    whose = f"{row.name}, seed {run.result.get('seed', 0)}"
    parts = []
    for shares in (False, True):
        name = "confusion_shares" if shares else "confusion_counts"
        what = "share of the class in %" if shares else "number of clips"
        caption = f"Confusions of {whose}: {what}; a row is a class, a column what it was taken for"
        alt = f"Confusion matrix as {what}; the largest confusions are listed in a table below."
        picture = draw(name, alt, caption, figures.confusion, counts_KK, run.classes, shares)
        small = len(run.classes) <= figures.NUMBERED
        parts.append(_matrix(caption, counts_KK, run.classes, shares) if small else picture)
    kind = "pair" if len(run.classes) <= figures.NUMBERED else "stack"
    both = tag("div", joined(parts), kind=kind)
    return markup.section("Confusions", "confusions", both, _worst(run, counts_KK))


def _matrix(caption: str, counts_KK: np.ndarray, classes: Sequence[str], shares: bool) -> Html:
    """The matrix as a table, which a screen reader can walk."""
    shares_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    body = []
    for name, counts_K, shares_K in zip(classes, counts_KK, shares_KK, strict=True):
        said = [
            f"{100 * s:.0f}" if shares else str(c) for c, s in zip(counts_K, shares_K, strict=True)
        ]
        cells = [
            Cell(t, heat=math.sqrt(s)) if s else "" for t, s in zip(said, shares_K, strict=True)
        ]
        body.append([name, *cells])
    return markup.table(caption, ["class", *classes], body, kind="matrix")


def _worst(run: Run, counts_KK: np.ndarray) -> Html:
    """Largest confusions with the surest of their clips."""
    p = run.predictions()
    which: dict[str, Any] = {}
    if p is not None:
        which = {"names": p.names_B, "labels": p.labels_B, "predicted": p.predicted_B}
    pairs = metrics.most_confused(counts_KK, run.classes, top=WORST, **which)
    if not pairs:
        return tag("p", "No clip of the test split was confused.")
    sure = dict(zip(p.names_B.tolist(), p.confidence_B, strict=True)) if p is not None else {}
    body = []
    for pair in pairs:
        clips = sorted(pair["clips"], key=lambda name: -sure[name])[:3]
        told = ", ".join(f"{name} ({tables.percent(sure[name], 0)})" for name in clips)
        share = f"{100 * pair['share']:.0f} %"
        taken = Cell(pair["predicted"], "text")
        body.append([pair["true"], taken, pair["count"], share, Cell(told, "wrap")])
    heads = ["class", "taken for", "clips", "of the class", "surest of them (confidence)"]
    table = markup.table("Largest confusions", heads, body)
    return joined([table, _types(counts_KK, run.classes)])


def _types(counts_KK: np.ndarray, classes: Sequence[str]) -> Html:
    """How many confusions stay within one action type, where the classes are UCF-101's."""
    found = ucf101.confusions_by_type(counts_KK, classes)
    if found is None:
        return Html()
    within, across = (sum(pair["count"] for pair in found[kind]) for kind in ("within", "across"))
    return tag(
        "p",
        f"{within} of {within + across} confused clips were taken for a class of the same "
        "action type, which is easily understood; the others across types.",
    )


def clips(folder: Path, run: Run | None) -> Html:
    """Film strips with what was predicted, the wrong ones first."""
    if run is None:
        return Html()
    samples = run.samples or Run(folder, {}).samples
    p = run.predictions()
    if samples is None or p is None:
        return Html()
    place = {name: i for i, name in enumerate(p.names_B.tolist())}
    shots = [
        (place[n], frames)
        for n, frames in zip(samples.names.tolist(), samples.frames, strict=True)
        if n in place
    ]
    shots.sort(key=lambda shot: bool(p.correct_B[shot[0]]))
    items = []
    for i, frames in shots[:STRIPS]:
        label, said = run.classes[p.labels_B[i]], run.classes[p.predicted_B[i]]
        right, sure = bool(p.correct_B[i]), tables.percent(p.confidence_B[i], 0)
        alt = f"{len(frames)} frames of {p.names_B[i]}: {label}, predicted {said} at {sure}"
        sign = "✓ right" if right else f"✗ wrong, it is {label}"
        verdict = tag("span", sign, kind="right" if right else "wrong")
        name = tag("span", p.names_B[i], kind="small soft")
        told = joined([tag("b", said), f" {sure} ", verdict, Html("<br>"), name])
        strip = markup.strip(frames, alt)
        items.append(tag("li", joined([strip, tag("div", told, kind="said")])))
    what = "Frames in order, with the predicted class and its confidence."
    note, strips = tag("p", what, kind="small soft"), tag("ul", joined(items), kind="strips")
    return markup.section("Clips", "clips", note, strips) if items else Html()
