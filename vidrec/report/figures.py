"""Draw figures; each drawing is used for the page (both themes) and for SVG and PNG files."""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from vidrec.evaluation import metrics, presentation
from vidrec.io import files
from vidrec.io.escape import html, plot, short
from vidrec.report.formats import percent
from vidrec.report.results import RowResult, task_of
from vidrec.report.run import Run

# Colours for colour-blind readers too (after Okabe and Ito), contrast 3:1 on white and on black.
PALETTE = ("#0b7bc1", "#d55e00", "#009e73", "#c2649a", "#b98200", "#7b6fd0", "#6b8e23")
INK = "#1b1f24"  # replaced by the page's own text colour
GREY = "#8a8f98"
DASHES = ("-", "--", ":", "-.")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "svg.hashsalt": "vidrec",  # the same figure gives the same file
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
MANY_ROWS = 7  # with more rows, only the best and the control have a colour
NAME_INCHES = 0.17  # height of a name beside the points of a long table
# What a row costs: columns of table.csv, and their names on an axis.
COSTS = {
    "params": "trained parameters",
    "seconds_train": "seconds of training, compiling apart",
}
NUMBERED = 24  # with more classes, a cell has no room for a number of normal size


def draw(paint: Callable[..., Any], *args: Any) -> Any:
    """Call a drawing function with the style of reports; the global style stays as it is."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return paint(*args)


def width(figure: Any) -> float:
    """Return the natural width of a figure in CSS pixels."""
    if isinstance(figure, str):
        return float(re.findall(r'width="([\d.]+)', figure)[0])
    return 96 * figure.get_figwidth()


def save(figure: Any, file: Path) -> str:
    """Write FILE.svg and FILE.png on white; return the SVG without a background.

    A figure that is given as SVG text is written as SVG only.
    """
    svg = figure if isinstance(figure, str) else _save_png(figure, file.with_suffix(".png"))
    white = svg.replace("<svg ", '<svg style="background:white" ', 1)
    files.write_whole(file.with_suffix(".svg"), white, durable=False)
    return svg


def _save_png(figure: Any, file: Path) -> str:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Letters that the font lacks are shown in the SVG, and are boxes in the PNG.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        svg = _svg(figure)
        # Keep the positions that the layout found: finding them takes most of the time.
        figure.set_layout_engine("none")
        FigureCanvasAgg(figure)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120, facecolor="white")
    files.write_whole(file, picture.getvalue(), durable=False)
    return svg


def inline(svg: str, name: str, alt: str, width: float) -> Markup:
    """Return SVG for the page, in the text's colour, with unique ids and a description.

    Args:
        svg: the drawing.
        name: name of the figure; its ids begin with it.
        alt: description for screen readers.
        width: natural width in CSS pixels; the page never draws it wider.
    """
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)

    def own_ids(element: re.Match[str]) -> str:
        # A page has several figures: their ids must differ.
        own = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element[0])
        return own.replace(INK, "currentColor")

    # Inside tags only: the text between them has names, which may look like an id.
    text = re.sub(r"<[^>]*>", own_ids, text)
    described = f'<svg role="img" aria-label="{html(alt)}" style="max-width:{width:.0f}px"'
    return Markup(described + text.removeprefix("<svg"))


def _svg(figure: Any) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colours(
    rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None
) -> dict[RowResult, str]:
    """Return each row's colour; in a long table all but the best and the control are grey."""
    if len(rows) <= MANY_ROWS:
        return {row: PALETTE[i % len(PALETTE)] for i, row in enumerate(rows)}
    marked = {control: PALETTE[1], best: PALETTE[0]}
    return {row: marked.get(row, GREY) for row in rows}


def curves(rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None) -> Any:
    """Draw losses and the headline figure over epochs, a line for each trial.

    Without validation clips only the training loss is drawn.
    """
    validated = _are_validated([run for row in rows for run in row.runs])
    figure = new_figure(7.6, 6.4 if len(rows) > 1 and validated else 3.2)
    hue = colours(rows, control, best)
    if len(rows) == 1 and len(rows[0].runs) == 1:
        return _own_curves(figure, rows[0].runs[0], validated)
    figure.get_layout_engine().set(h_pad=0.12)
    headline = task_of(rows).headline
    watched = f"val/{headline.figure}"
    layout = [["train/loss", "val/loss"], [watched, "names"]]
    panels = figure.subplot_mosaic(layout if validated else [["train/loss", "names"]])
    titles = {"train/loss": "training loss", "val/loss": "validation loss"}
    for name, axes in panels.items():
        if name == "names":
            continue
        scale = 100 if name == watched else 1
        axes.set_title(titles.get(name, f"validation {headline.words}, %"))
        for row in sorted(rows, key=lambda r: hue[r] != GREY):
            for i, run in enumerate(row.runs):
                _curve(axes, run, name, scale, color=hue[row], linestyle=DASHES[i % 4])
        _epochs_axis(axes)
    _names(panels["names"], rows, hue)
    return figure


def _own_curves(figure: Any, run: Run, validated: bool) -> Any:
    left, *others = figure.subplots(1, 1 + validated, squeeze=False)[0]
    _curve(left, run, "train/loss", 1, color=PALETTE[1], linestyle="--", label="training")
    if not validated:
        left.set_title("training loss")
        _epochs_axis(left)
        return figure
    [right] = others
    _curve(left, run, "val/loss", 1, color=PALETTE[0], linestyle="-", label="validation")
    headline = run.task.headline
    _curve(right, run, f"val/{headline.figure}", 100, color=PALETTE[0], linestyle="-")
    left.set_title("loss")
    right.set_title(f"validation {headline.words}, %")
    left.legend()
    for axes in (left, right):
        _epochs_axis(axes)
    return figure


def _are_validated(runs: Sequence[Run]) -> bool:
    """Return whether any run has validation clips; True if its results do not say."""
    return any(run.result.get("counts", {}).get("val", {}).get("expected", 1) for run in runs)


def _curve(axes: Any, run: Run, name: str, scale: float, **style: Any) -> None:
    """Draw a curve with a dot at the kept epoch, or a cross at the end of a run without one."""
    values = scale * run.curve(name)
    epochs = np.array([line.get("epoch", i + 1) for i, line in enumerate(run.epochs)])
    axes.plot(epochs, values, **({"linewidth": 1.3, "alpha": 0.9} | style))
    finite = np.isfinite(values)
    if run.is_complete and run.best_epoch is not None:
        best = (epochs == run.best_epoch) & finite
        axes.plot(epochs[best], values[best], "o", color=style["color"], markersize=5)
    elif finite.any():
        axes.plot(epochs[finite][-1], values[finite][-1], "x", color=style["color"], markersize=6)


def _epochs_axis(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    if axes.get_title(loc="left").endswith("%"):
        axes.set_ylim(0, 100)
    elif axes.lines:
        axes.set_ylim(bottom=0)


def _names(axes: Any, rows: Sequence[RowResult], hue: dict[RowResult, str]) -> None:
    """Draw a panel that only names the colours."""
    from matplotlib.lines import Line2D

    axes.set_axis_off()
    named = [row for row in rows if hue[row] != GREY]
    handles = [Line2D([], [], color=hue[row], linewidth=2.2) for row in named]
    names = [plot(row.name) for row in named]
    if len(named) < len(rows):
        handles.append(Line2D([], [], color=GREY, linewidth=2.2))
        names.append(f"{len(rows) - len(named)} other rows")
    handles.append(Line2D([], [], color=GREY, marker="o", linestyle=""))
    names.append("kept epoch")
    if any(not run.done for row in rows for run in row.runs):
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle=""))
        names.append("diverged or stopped here")
    axes.legend(handles, names, loc="upper left")


def confusion(
    counts_KK: np.ndarray, classes: Sequence[str], shares: bool, of_K: np.ndarray | None = None
) -> str:
    """Return SVG of confusions: a row is the true class, a column the predicted one.

    The SVG is written without matplotlib, which takes half a minute for the thousands of texts
    of a hundred classes.

    Args:
        counts_KK: counts, such as numbers of clips.
        classes: names by class number.
        shares: True to write percentages instead of numbers.
        of_K: for each row, the number that is 100 %; None for the sum of the row.
    """
    num, side = len(classes), 16 if len(classes) > NUMBERED else 26
    font = 7.5 if num > NUMBERED else 11
    shown = list(map(short, classes))
    edge = 14 + 0.62 * (font + 1) * max(map(len, shown))
    size = edge + side * num + 4
    shares_KK = shares_of(counts_KK, of_K)
    numbers_KK = np.rint(100 * shares_KK).astype(int) if shares else counts_KK
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size:.0f} {size:.0f}" '
        f'width="{size:.0f}" height="{size:.0f}" font-family="sans-serif" fill="{INK}">'
    ]
    for y, x in np.argwhere(counts_KK):
        # One colour of varying opacity is readable on a white page and on a black page.
        left, top = edge + side * x, edge + side * y
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{side}" height="{side}" '
            f'fill="{PALETTE[0]}" fill-opacity="{0.6 * math.sqrt(shares_KK[y, x]):.2f}"/>'
            f'<text x="{left + side / 2:.1f}" y="{top + side / 2 + font / 3:.1f}" '
            f'font-size="{font}" text-anchor="middle">{numbers_KK[y, x]}</text>'
        )
    far = edge + side * num
    grid = "".join(
        f"M{edge:.1f} {at:.1f}H{far:.1f}M{at:.1f} {edge:.1f}V{far:.1f}"
        for at in edge + side * np.arange(num + 1)
    )
    parts.append(f'<path d="{grid}" stroke="{GREY}" stroke-opacity="0.35" stroke-width="0.5"/>')
    for k, name in enumerate(map(html, shown)):
        at = edge + side * (k + 0.5) + font / 3
        parts.append(
            f'<text x="{edge - 5:.1f}" y="{at:.1f}" font-size="{font + 1}" text-anchor="end">'
            f'{name}</text><text transform="translate({at:.1f} {edge - 5:.1f}) rotate(-90)" '
            f'font-size="{font + 1}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def shares_of(counts_KK: np.ndarray, of_K: np.ndarray | None = None) -> np.ndarray:
    """Return each row of counts divided by its number in `of_K`; None: by the row's sum."""
    of_K = counts_KK.sum(1) if of_K is None else of_K
    return counts_KK / np.maximum(of_K, 1)[:, None]


def by_class(measured: Mapping[str, float], words: str) -> Any:
    """Draw each class's figure, such as F1, as a bar, the best on top; NaN is left out."""
    scores = {name: score for name, score in measured.items() if not math.isnan(score)}
    names = sorted(scores, key=lambda name: scores[name])
    figure = new_figure(6, 0.8 + 0.19 * len(names))
    axes = figure.add_subplot()
    axes.barh(range(len(names)), [scores[name] for name in names], color=PALETTE[0], height=0.7)
    axes.set_yticks(range(len(names)), list(map(plot, names)))
    axes.set(xlabel=f"{words}, test split", xlim=(0, 1), ylim=(-0.6, len(names) - 0.4))
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.grid(axis="x")
    return figure


def steps(rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None) -> Any:
    """Draw the share of clips that are right at each frame, mean over seeds."""
    figure = new_figure(7.6, 3.4)
    axes = figure.add_subplot()
    hue = colours(rows, control, best)
    for row in rows:
        saved = [p.steps_BT for p in map(_test, row.done) if p and p.steps_BT is not None]
        seeds = [metrics.step_accuracy(steps_BT == 1, steps_BT >= 0) for steps_BT in saved]
        if not seeds:
            continue
        mean_T = 100 * np.mean([curve for curve in seeds if len(curve) == len(seeds[0])], 0)
        axes.plot(np.arange(1, len(mean_T) + 1), mean_T, color=hue[row], label=plot(row.name))
    axes.set(xlabel="step", ylabel="accuracy at this step, %", ylim=(0, 100))
    axes.grid(axis="y")
    if len(rows) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def timelines(lines: presentation.Timelines, names: Sequence[str], classes: Sequence[str]) -> Any:
    """Draw the segments of clips over time: true ones above, predicted ones below.

    Args:
        lines: the segments of each clip.
        names: the names of these clips.
        classes: names by class number.
    """
    from matplotlib.patches import Patch

    figure = new_figure(7.6, 0.9 + 0.5 * len(names) + 0.2 * math.ceil(len(classes) / 6))
    axes = figure.add_subplot()
    hue = {
        k: GREY + "66" if k in lines.background else _hex(presentation.colour(k))
        for k in range(len(classes))
    }
    seen: set[int] = set()
    for y, line in enumerate(lines.shown):
        for offset, pieces in ((-0.36, line.true), (0.02, line.predicted)):
            for label, start, end in zip(*pieces, strict=True):
                bar = [(start, end - start)]
                axes.broken_barh(bar, (y + offset, 0.34), facecolor=hue[label], linewidth=0)
                seen.add(int(label))
        axes.text(line.frames, y, f"  {percent(line.right, 0)}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [plot(name) for name in names], fontsize=8)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="frame; at the end the share that is right")
    axes.set_xlim(0, 1.08 * max(line.frames for line in lines.shown))
    axes.tick_params(axis="y", length=0)
    patches = [Patch(color=hue[k], label=plot(classes[k])) for k in sorted(seen)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _test(run: Run) -> Any:
    return run.predictions("test")


def has_steps(rows: Sequence[RowResult]) -> bool:
    """Return whether any run has scores for every frame of its clips."""
    saved = (_test(run) for row in rows for run in row.done)
    return any(p is not None and p.steps_BT is not None for p in saved)


def costs(rows: Sequence[RowResult]) -> list[str]:
    """Return the columns of table.csv that say what a row costs and differ between rows."""
    columns = {column: {row.mean(column) for row in rows if row.done} for column in COSTS}
    return [column for column, values in columns.items() if len(values) > 1]


def cost(rows: Sequence[RowResult]) -> Any:
    """Draw the headline figure against each of `costs`."""
    many, columns = len(rows) > MANY_ROWS, costs(rows)
    height = max(3.4, 1 + NAME_INCHES * len(rows) if many else 0)
    figure = new_figure(7.6 if len(columns) > 1 else 5.4, height)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        points = []
        for i, row in enumerate(rows):
            x, y = row.mean(column), 100 * row.headline
            if math.isnan(x) or math.isnan(y):
                continue
            colour = PALETTE[0] if many else PALETTE[i % len(PALETTE)]
            if row.interval is not None:
                bar = [100 * row.interval.low, 100 * row.interval.high]
                axes.plot([x, x], bar, color=colour, linewidth=1.2, alpha=0.3 if many else 0.7)
            axes.plot(x, y, "o", color=colour, markersize=6, label=plot(row.name))
            points.append((x, y, plot(row.name)))
        _amounts_axis(axes, [x for x, _, _ in points if x > 0])
        axes.set_xlabel(COSTS[column])
        if many:
            _name_points(axes, points)
    panels[0].set_ylabel(f"test {task_of(rows).headline.words}, %")
    if not many:
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _amounts_axis(axes: Any, amounts: Sequence[float]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.margins(x=0.2)
    axes.grid()
    if amounts and max(amounts) > 10 * min(amounts):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)  # or a hundredth of a second would look like a large difference
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _name_points(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write the names of points in a column to the right, each with a line to its point."""
    low, high = axes.get_ylim()
    points = sorted(points, key=lambda point: point[1])
    wanted = [(y - low) / (high - low) for _, y, _ in points]
    for (x, y, name), at in zip(points, spread(wanted), strict=True):
        axes.annotate(
            name,
            (x, y),
            (1.06, at),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 1},
        )


def spread(wanted: Sequence[float]) -> list[float]:
    """Return positions from 0 to 1 near the ascending `wanted`, far enough apart for names."""
    gap = 1 / max(len(wanted), 1)
    places: list[float] = []
    for at in wanted:
        places.append(max(at, places[-1] + gap) if places else max(at, 0.0))
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places


def changes(names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Any:
    """Draw the recall of each class in two runs, from top to bottom as in `names`."""
    figure = new_figure(7.6, 0.9 + 0.2 * len(names))
    axes = figure.add_subplot()
    for y, (a, b) in enumerate(zip(100 * np.array(before), 100 * np.array(after), strict=True)):
        colour = PALETTE[2] if b > a else PALETTE[1] if b < a else GREY
        axes.plot([a, b], [y, y], color=colour, linewidth=2)
        axes.plot(a, y, "o", markerfacecolor="none", markeredgecolor=colour, markersize=5)
        axes.plot(b, y, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(names)), list(map(plot, names)), fontsize=8)
    axes.set(xlabel="clips of the class that are right, %", xlim=(-3, 103))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure
