"""The report of a run or of an ablation as one self-contained HTML page."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.io import escape
from vidrec.io.escape import Html
from vidrec.report import classes, figures, markup, tables
from vidrec.report.markup import Cell, joined, tag
from vidrec.report.results import SPLITS, Ablation, Row, Run, best_of, difference, shown, table_of

LEAKS = {
    "True": "leaked: one recording in training and in test",
    "False": "no recording in two splits",
    "unknown": "recordings unknown",
}


def render(found: Run | Ablation, pictures: Path) -> Html:
    """The page; every figure in it is also written under `pictures` as SVG and PNG."""
    rows, control = table_of(found)
    best = found.best if isinstance(found, Ablation) else rows[0]
    best = best if best is not None and best.done else None
    run = _typical(best) if best else None
    draw = Drawer(pictures)
    sections = [
        _table(found, rows, best),
        _forest(rows, control, draw) if len(rows) > 1 else Html(),
        curves(rows, control, best, draw),
        classes.scores(rows, run, draw),
        classes.confusions(best, run, draw),
        classes.clips(found.folder, run),
        steps(rows, control, best, draw),
        _cost(rows, draw) if len(rows) > 1 else Html(),
        _model(run or next((r for row in rows for r in row.runs), None)),
        _counts(rows),
        _settings(found, run or next((r for row in rows for r in row.runs), None)),
    ]
    title = _title(found)
    return markup.page(title, _lead(found, rows, control, best), sections, _foot(found))


class Drawer:
    """Draws a figure once: into the page, and as files beside it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, name: str, alt: str, caption: str, paint: Any, *args: Any) -> Html:
        figure = figures.draw(paint, *args)
        width = figures.width(figure)
        svg = figures.inline(figures.save(figure, self.folder / name), name, alt, width)
        kind = "matrix-figure" if paint is figures.confusion else ""
        return markup.figure(svg, caption, kind, width)


def _title(found: Run | Ablation) -> str:
    if isinstance(found, Ablation):
        return f"Ablation: {found.meta.get('name', found.folder.name)}"
    return f"Run: {found.result.get('name') or found.folder.name}"


def _typical(row: Row) -> Run:
    """The seed whose test accuracy is the median: neither the lucky nor the unlucky one."""
    ordered = sorted(row.done, key=lambda run: run.metric("test_accuracy"))
    return ordered[(len(ordered) - 1) // 2]


# ---- what was asked, and the answer


def _lead(found: Any, rows: Sequence[Row], control: Row | None, best: Row | None) -> Html:
    meta = found.meta if isinstance(found, Ablation) else {}
    parts = [tag("p", meta["question"], kind="question")] if meta.get("question") else []
    parts += [tag("p", line, kind="warn") for line in warnings(rows)]
    parts.append(tag("p", answer(rows, control, best), kind="answer"))
    parts.append(markup.definitions(_asked(found, rows)))
    return joined(parts, "\n")


def warnings(rows: Sequence[Row]) -> list[str]:
    runs = [run for row in rows for run in row.runs]
    told = []
    if any(run.leaked is True for run in runs):
        told.append(
            "Leaked: clips cut from one recording stand in training and in test, so these figures "
            "are too high for new videos and cannot be set beside those of a split by recording."
        )
    elif any(run.leaked == "unknown" for run in runs):
        told.append(
            "The recordings of the clips are unknown: siblings may stand in training and in test."
        )
    if len({run.result.get("split", {}).get("id") for run in runs if run.done}) > 1:
        told.append("Trials were scored on different splits: differences are over shared clips.")
    return told


def answer(rows: Sequence[Row], control: Row | None, best: Row | None) -> str:
    """What the table says, in a sentence or two."""
    if best is None:
        return "No trial has finished yet, so there is no answer."
    count = len(best.done)
    accuracy = tables.percent(best.mean("test_accuracy"))
    where = f" (95 % interval {tables.span(best.interval)}\u00a0%)" if best.interval else ""
    of = f"{count} seed{'s' if count != 1 else ''}"
    if len(rows) == 1:
        return f"{best.name}: {accuracy} of the test clips{where}, {of}."
    told = f"Best on validation: {best.name}, {accuracy} test accuracy{where}, {of}"
    if best is control:
        return f"{told}. It is the control: no other setting did better on validation." + _top(
            rows, best
        )
    if best.difference is None or control is None:
        return told + "." + _top(rows, best)
    d = best.difference
    side = "above" if d.mean >= 0 else "below"
    gap = f"{abs(100 * d.mean):.1f} points {side} the control {control.name}"
    told += f"; {gap} ({tables.points(d.low, d.high)})"
    if best.within_noise:
        told += ", which is within noise." + needed(d)
    else:
        told += ", more than noise." + note(d)
    return told + _runner_up(rows, best, control) + _top(rows, best)


def _runner_up(rows: Sequence[Row], best: Row, control: Row) -> str:
    """Whether the winner can be told from the second on validation."""
    others = [row for row in rows if row is not best and row.done]
    second = best_of(others)
    if second is None or second is control:
        return ""
    gap = difference(best, second)
    if gap is None:
        return ""
    told = f" To {second.name}, second on validation: {tables.points(gap.mean)} points"
    told += f" ({tables.points(gap.low, gap.high)}), "
    return told + ("within noise." if gap.within_noise else "more than noise.")


def needed(difference: Any) -> str:
    needed = getattr(difference, "seeds_needed", None)
    if needed is None or not math.isfinite(needed):
        return note(difference)
    return f" About {needed:.0f} seeds a row would settle a difference of this size."


def note(difference: Any) -> str:
    note = getattr(difference, "note", "")
    return f" {note[0].upper()}{note[1:].rstrip('.')}." if note else ""


def _top(rows: Sequence[Row], best: Row) -> str:
    """Says so when the test split would have chosen another row."""
    scored = [row for row in rows if not math.isnan(row.mean("test_accuracy"))]
    top = max(scored, key=lambda row: row.mean("test_accuracy"), default=best)
    if top is best or top.mean("test_accuracy") <= best.mean("test_accuracy"):
        return ""
    return f" Highest on test: {top.name}, {tables.percent(top.mean('test_accuracy'))}."


def _asked(found: Any, rows: Sequence[Row]) -> list[tuple[str, Any]]:
    runs = [run for row in rows for run in row.runs]
    if isinstance(found, Ablation):
        meta = found.meta
        pairs: list[tuple[str, Any]] = [("axes", ", ".join(found.axes))]
        pairs.append(("control", found.control.name if found.control else None))
        planned = sum(len(row.planned) for row in rows)
        pairs.append(("trials", f"{planned} ({len(rows)} rows), {_statuses(rows)}"))
        pairs.append(("published figures from", meta.get("source")))
        pairs.append(("data", tables.trained_on(found)))
    else:
        config = found.config.get("data", {})
        named = config.get("tfds") if config.get("kind") == "tfds" else config.get("kind")
        pairs = [("setting", rows[0].name), ("seed", found.result.get("seed"))]
        pairs.append(("data", tables.trained_on(found) or named))
        pairs.append(("status", _status(found)))
    splits = {(r.result.get("split", {}).get("id"), str(r.leaked)) for r in runs}
    pairs += [
        ("split", f"{i}, {LEAKS.get(leaked, leaked)}") for i, leaked in sorted(splits, key=str)
    ]
    return [(name, value) for name, value in pairs if value not in (None, "")]


def _status(run: Run) -> str:
    why = run.result.get("why")
    return run.result.get("status", "unknown") + (f": {why}" if why else "")


def _statuses(rows: Sequence[Row]) -> str:
    found = [run.result.get("status", "unknown") for row in rows for run in row.runs]
    found += ["missing"] * (sum(len(row.planned) for row in rows) - len(found))
    return ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(found))


# ---- the table


def _table(found: Any, rows: Sequence[Row], best: Row | None) -> Html:
    heads, lines = tables.lines(found)
    body, fitted = [], []
    split = heads.index(tables.FITTED[0])
    fit_end = split + len(tables.FITTED)
    for row, cells in zip(rows, lines, strict=True):
        fitted.append([cells[0], *cells[split:fit_end]])
        badges = ["control"] * ("control" in cells[1:])
        badges += ["best"] * (row is best and len(rows) > 1)
        name = joined([cells[0], *(tag("span", badge, kind="badge") for badge in badges)])
        body.append([Cell(name), *(_verdict(row, cell) for cell in cells[1:split])])
    marked = rows.index(best) if best in rows and len(rows) > 1 else None
    caption = "Test split, means over seeds"
    fit = "Fit: the training figures, too, are measured in evaluation mode at the kept epoch"
    told = [tag("p", note, kind="small soft") for note in tables.notes(found)]
    if len(rows) > 1:
        noise = (
            "Within noise: p of the difference on the same seeds and clips, after Holm's "
            "correction for the number of rows, exceeds 0.05. The best row is chosen by "
            "validation accuracy."
        )
        told.append(tag("p", noise, kind="small soft"))
    beside_heads, beside_body = tables.beside(rows)
    beside = markup.table("Ours beside the published", beside_heads, beside_body)
    failed = [
        [r.result.get("id", ""), Cell(row.name, "text"), r.result.get("seed"), _why(r)]
        for row in rows
        for r in row.runs
        if not r.done
    ]
    without = markup.table("Trials without scores", ["trial", "setting", "seed", "status"], failed)
    return markup.section(
        "Results",
        "results",
        markup.table(caption, heads[:split], body, marked=marked),
        *told,
        markup.table(fit, [heads[0], *tables.FITTED], fitted),
        beside if len(beside_heads) > 1 else Html(),
        without if failed else Html(),
    )


def _why(run: Run) -> Cell:
    return Cell(_status(run), "wrap")


def _verdict(row: Row, cell: str) -> Any:
    """The difference with its verdict as a badge, so that it is seen without reading."""
    word = tables.verdict(row)
    if not word or not cell.endswith(", " + word):
        return cell
    kind = {"within noise": "noise"}.get(word, word)
    badge = tag("span", word, kind=f"badge {kind}")
    return Cell(joined([cell.removesuffix(", " + word), badge]))


def _forest(rows: Sequence[Row], control: Row | None, draw: Drawer) -> Html:
    caption = "Test accuracy: mean over seeds and 95 % interval, each seed a tick"
    caption += "; dashed: the control" if control else ""
    if any("test_accuracy" in row.published for row in rows):
        caption += "; open diamonds: published"
    picture = draw(
        "intervals", figures.alt_forest(rows), caption + ".", figures.forest, rows, control
    )
    return markup.section("Intervals", "intervals", picture)


def curves(rows: Sequence[Row], control: Row | None, best: Row | None, draw: Drawer) -> Html:
    if not any(run.epochs for row in rows for run in row.runs):
        return Html()
    told = [
        f"{row.name}: kept epoch {', '.join(str(run.best_epoch) for run in row.done)}"
        for row in rows
        if row.done
    ]
    alt = "Training loss, validation loss and validation accuracy over epochs. " + "; ".join(told)
    caption = "A line a trial, a dot at the epoch whose weights were kept."
    picture = draw("curves", alt + ".", caption, figures.curves, rows, control, best)
    return markup.section("Training", "training", picture)


# ---- time, cost, model


def steps(rows: Sequence[Row], control: Row | None, best: Row | None, draw: Drawer) -> Html:
    if not figures.has_steps(rows):
        return Html()
    caption = "Share of test clips that are right after each step, mean over seeds."
    return markup.section(
        "Accuracy against time step",
        "steps",
        draw("steps", caption, caption, figures.steps, rows, control, best),
    )


def _cost(rows: Sequence[Row], draw: Drawer) -> Html:
    if not any(row.done for row in rows):
        return Html()
    caption = "Test accuracy with its 95 % interval against trained parameters and seconds."
    alt = caption + " The figures stand in the table of results."
    return markup.section("Cost", "cost", draw("cost", alt, caption, figures.cost, rows))


def _model(run: Run | None) -> Html:
    if run is None or not run.layers:
        return Html()
    boxes, body = [], []
    for layer in run.layers:
        count = layer.get("params") or 0
        weights = f"{tables.whole(count)} trained" if count else "nothing trained"
        name, what = tag("b", layer.get("name", "")), layer.get("kind", "")
        box = joined([name, what, Html("<br>"), tag("span", weights, kind="soft")])
        boxes.append(tag("li", tag("div", box, kind="" if count else "frozen")))
        shapes = [Cell(_shape(layer.get(end, "")), "text") for end in ("input", "output")]
        kind = Cell(what, "text")
        body.append([layer.get("name", ""), kind, *shapes, tables.whole(count)])
    total = sum(layer.get("params") or 0 for layer in run.layers)
    body.append(["all", "", "", "", tables.whole(total)])
    heads = ["layer", "kind", "input", "output", "trained parameters"]
    said = {"aria-label": "The model, layer after layer"}
    drawn = tag("ol", joined(boxes), kind="flow", **said)
    caption = f"Layers of {run.name}"
    return markup.section("Model", "model", drawn, markup.table(caption, heads, body))


def _shape(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# ---- what was scored, and with what


def _counts(rows: Sequence[Row]) -> Html:
    """Clips expected and scored, worst case over the trials, and those that could not be read."""
    runs = [run for row in rows for run in row.runs]
    body = []
    for split in SPLITS:
        held = [run for run in runs if split in run.result.get("counts", {})]
        counts = [run.result["counts"][split] for run in held]
        if counts:
            scored = [c["scored"] for c, run in zip(counts, held, strict=True) if run.done] or [0]
            few, most = min(scored), max(scored)
            span = str(few) if few == most else f"{few} to {most}"
            unread = max(c["unreadable"] for c in counts)
            body.append([split, max(c["expected"] for c in counts), span, unread])
    parts = [
        markup.table("Clips of each split", ["split", "expected", "scored", "unreadable"], body)
    ]
    unreadable = {u["path"]: u["reason"] for run in runs for u in run.result.get("unreadable", ())}
    damaged = {name: why for run in runs for name, why in run.result.get("damaged", {}).items()}
    parts += [
        _quarantine("Clips that could not be read", unreadable),
        _quarantine("Clips that were read as far as they go", damaged),
    ]
    return markup.section("Clips scored", "counts", *parts) if body else Html()


def _quarantine(caption: str, reasons: Mapping[str, str]) -> Html:
    lines = [[Cell(tag("code", clip)), Cell(why, "wrap")] for clip, why in reasons.items()]
    return markup.table(caption, ["clip", "reason"], lines) if lines else Html()


def _settings(found: Any, run: Run | None) -> Html:
    if run is None:
        return Html()
    whose = "of this run"
    if isinstance(found, Ablation):
        whose = f"of {run.name}, seed {run.result.get('seed')}"
    lines = [[Cell(tag("code", n)), Cell(v, "wrap")] for n, v in flat(run.config)]
    config = markup.table(f"Settings {whose}", ["setting", "value"], lines)
    environment = run.environment
    command = found.meta.get("command") if isinstance(found, Ablation) else None
    command = command or environment.get("command")
    if isinstance(command, list):
        command = escape.shell(command)
    pairs: list[tuple[str, Any]] = []
    pairs += [("command", tag("code", command, kind="command"))] if command else []
    versions = run.result.get("versions") or environment.get("versions") or {}
    pairs += [(name, shown(value)) for name, value in versions.items()]
    pairs += [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else _plain(value))
        for name, value in environment.items()
        if name not in ("command", "versions")
    ]
    details = tag("details", joined([tag("summary", "All settings"), config]))
    details = details if lines else Html()
    return markup.section("How to repeat it", "repeat", markup.definitions(pairs), details)


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else shown(value)


def flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{name}.")
        else:
            lines.append((prefix + name, shown(value)))
    return lines


def _foot(found: Any) -> Html:
    files = ["table.csv", "table.md", "table.tex", "figures/"]
    links = joined([tag("a", name, href=name) for name in files], ", ")
    rebuild = tag("code", escape.shell(["vidrec", "report", found.folder.name]))
    return Html(f"Beside this page: {links}. Rebuilt by {rebuild}.")
