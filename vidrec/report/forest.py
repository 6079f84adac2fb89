"""Draw the rows of a table with their intervals, and their differences to the control."""

from collections.abc import Sequence
from typing import Any

from vidrec.io.escape import plot
from vidrec.report.figures import GREY, INK, MANY_ROWS, PALETTE, colours, new_figure
from vidrec.report.formats import percent, points
from vidrec.report.results import RowResult, task_of


def draw(rows: Sequence[RowResult], control: RowResult | None) -> Any:
    """Draw the rows' intervals on the left; on the right their differences, if there are any.

    A tick is a trial, an open diamond a published figure of the same task.
    """
    compared = any(row.difference is not None for row in rows)
    figure = new_figure(7.6, 0.9 + 0.34 * len(rows))
    panels = figure.subplots(1, 1 + compared, sharey=True, squeeze=False)[0]
    hue = colours(rows, control, None)
    if len(rows) > MANY_ROWS:
        hue = dict.fromkeys(rows, PALETTE[0])
    _draw_figures(panels[0], rows, hue)
    if control is not None and control.interval is not None:
        panels[0].axvline(
            100 * control.interval.mean, color=GREY, linestyle="--", linewidth=1, zorder=0.5
        )
    if compared:
        _draw_differences(panels[1], rows, hue)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(rows)), [plot(row.name) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def has_published(rows: Sequence[RowResult]) -> bool:
    """Return whether the drawing shows published figures: those of the same task."""
    column = task_of(rows).headline.test
    return any(row.is_comparable(column) for row in rows)


def _draw_figures(axes: Any, rows: Sequence[RowResult], hue: dict[RowResult, str]) -> None:
    headline = task_of(rows).headline
    for y, row in enumerate(rows):
        if row.interval is None:
            axes.text(0.01, y, "not scored", transform=axes.get_yaxis_transform(), va="center")
            continue
        low, mean, high = (100 * getattr(row.interval, x) for x in ("low", "mean", "high"))
        _bar(axes, (low, mean, high), y, hue[row], "o")
        seeds = [100 * run.metric(headline.test) for run in row.done]
        axes.plot(seeds, [y + 0.26] * len(seeds), "|", color=GREY, markersize=6)
    for y, row in enumerate(rows):
        if row.is_comparable(headline.test):
            _diamond(axes, 100 * row.published[headline.test], y, headline.test in row.doubtful)
    axes.set_xlabel(f"test {headline.words}, %")


def _draw_differences(axes: Any, rows: Sequence[RowResult], hue: dict[RowResult, str]) -> None:
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for y, row in enumerate(rows):
        if row.difference is not None:
            ends = (100 * getattr(row.difference, x) for x in ("low", "mean", "high"))
            _bar(axes, tuple(ends), y, hue[row], "|" if row.difference.within_noise else "o")
    axes.set_xlabel("difference to the control, points")


def _bar(axes: Any, ends: tuple[float, ...], y: float, colour: str, marker: str) -> None:
    """Draw an interval, given by its low end, mean and high end."""
    low, mean, high = ends
    axes.plot([low, high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot(mean, y, marker, color=colour, markersize=7 if marker == "o" else 10)


def _diamond(axes: Any, x: float, y: float, dubious: bool) -> None:
    style = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 7}
    axes.plot(x, y, "D", alpha=0.4 if dubious else 1, **style)
    if dubious:
        axes.annotate("†", (x, y), (6, 3), textcoords="offset points")


def described(rows: Sequence[RowResult]) -> str:
    """Return the drawing in words."""
    intervals = [
        f"{row.name} {percent(row.interval.mean)} "
        f"({percent(row.interval.low)} to {percent(row.interval.high)})"
        for row in rows
        if row.interval is not None
    ]
    text = f"Test {task_of(rows).headline.words} with 95 % intervals: {'; '.join(intervals)}."
    gaps = [
        f"{row.name} {points(row.difference.mean)} "
        f"({points(row.difference.low, row.difference.high)})"
        for row in rows
        if row.difference is not None
    ]
    return text + f" Differences to the control in points: {'; '.join(gaps)}." * bool(gaps)
