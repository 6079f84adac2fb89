"""Draw the figures of a search's report: history, importance and parallel coordinates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vidrec.io.escape import plot
from vidrec.report.figures import GREY, PALETTE, new_figure
from vidrec.report.run import setting_text

BEST = 0.1  # share of the trials whose lines are highlighted
Trials = Sequence[Mapping[str, Any]]


def history(trials: Trials) -> Any:
    """Draw each trial's validation figure, and the best so far of those trained to their end."""
    figure = new_figure(7.6, 3.4)
    axes = figure.add_subplot()
    styles = {"done": (PALETTE[0], "o", "trained to its end"), "other": (GREY, "x", "stopped")}
    for state, (colour, mark, label) in styles.items():
        shown = [t for t in trials if t["end"] and (t["state"] == "done") == (state == "done")]
        numbers = [trial["number"] for trial in shown]
        values = [100 * trial["end"][0] for trial in shown]
        axes.plot(numbers, values, mark, color=colour, markersize=5, label=label)
    best, steps = -math.inf, []
    for trial in trials:
        if trial["end"] and trial["state"] == "done":
            best = max(best, 100 * trial["end"][0])
        steps.append(best)
    places = [trial["number"] for trial, step in zip(trials, steps, strict=True) if step >= 0]
    known = [step for step in steps if step >= 0]
    axes.step(places, known, where="post", color=PALETTE[1], label="best so far")
    axes.set(xlabel="trial", ylabel="validation, %")
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def importance(shares: Mapping[str, float]) -> Any:
    """Draw each setting's share of the importance as a bar, the first setting on top."""
    names = list(shares)[::-1]
    figure = new_figure(6, 0.9 + 0.3 * len(names))
    axes = figure.add_subplot()
    axes.barh(range(len(names)), [100 * shares[name] for name in names], color=PALETTE[0])
    axes.set_yticks(range(len(names)), list(map(plot, names)))
    axes.set(xlabel="share, %", xlim=(0, 100))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure


def parallel(trials: Trials, space: Mapping[str, Mapping[str, Any]]) -> Any:
    """Draw a line for each trial through its settings to its validation figure."""
    figure = new_figure(max(5.0, 1.9 * (len(space) + 1)), 4.2)
    axes = figure.add_subplot()
    ordered = sorted(trials, key=lambda trial: (trial["state"] == "done", trial["end"][0]))
    least, most = (f(trial["end"][0] for trial in trials) for f in (min, max))
    for place, trial in enumerate(ordered):
        heights = [_height(axis, trial["params"][name]) for name, axis in space.items()]
        heights.append((trial["end"][0] - least) / (most - least) if most > least else 0.5)
        stands_out = place >= len(ordered) - max(1, round(BEST * len(ordered)))
        done = trial["state"] == "done"
        axes.plot(
            range(len(heights)),
            heights,
            color=PALETTE[0] if stands_out else GREY,
            alpha=0.95 if stands_out else 0.6 if done else 0.3,
            linewidth=2 if stands_out else 1.2 if done else 0.7,
        )
    ends = [_marks(axis) for axis in space.values()]
    ends.append([(0.0, f"{100 * least:.1f} %"), (1.0, f"{100 * most:.1f} %")])
    beside: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    for place, marks in enumerate(ends):
        axes.axvline(place, color=GREY, linewidth=0.8)
        for height, text in marks:
            axes.annotate(plot(text), (place, height), **beside)
    names = [".\n".join(map(plot, name.split(".", 1))) for name in space]
    axes.set_xticks(range(len(ends)), [*names, "validation"])
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.1, len(ends) - 0.55))
    axes.spines["left"].set_visible(False)
    return figure


def _height(axis: Mapping[str, Any], value: Any) -> float:
    """Return the position of a value on its axis, from 0 to 1."""
    if "choices" in axis:
        place = next(i for i, each in enumerate(axis["choices"]) if each == value)
        return (place + 0.5) / len(axis["choices"])
    low, high = axis["low"], axis["high"]
    if axis["log"]:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _marks(axis: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return the marks of an axis: the position from 0 to 1 and the text of each."""
    if "choices" in axis:
        return [(_height(axis, each), setting_text(each)) for each in axis["choices"]]
    low, high = axis["low"], axis["high"]
    middle = math.sqrt(low * high) if axis["log"] else (low + high) / 2
    return [(_height(axis, value), f"{value:.3g}") for value in (low, middle, high)]
