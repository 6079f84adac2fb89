"""What a table says, in sentences."""

import math
from collections.abc import Sequence

from vidrec.evaluation.statistics import Difference
from vidrec.report import formats
from vidrec.report.formats import percent, points
from vidrec.report.results import RowResult, best_of, difference


def warnings(rows: Sequence[RowResult]) -> list[str]:
    """Return the warnings above the figures."""
    runs = [run for row in rows for run in row.runs]
    lines = []
    lines += copies(rows)
    if any(run.leaked is True and not run.copied_tests for run in runs):
        lines.append(
            "Leaked: clips cut from one recording stand in training and in test, so these figures "
            "are too high for new videos and cannot be set beside those of a split by recording."
        )
    elif any(run.leaked == "unknown" for run in runs):
        lines.append(
            "The recordings of the clips are unknown: siblings may stand in training and in test."
        )
    splits = {(run.fold, run.result.get("split", {}).get("id")) for run in runs if run.done}
    if len(splits) > len({fold for fold, _ in splits}):
        lines.append("Trials were scored on different splits: differences are over shared clips.")
    return lines


def one_seed(rows: Sequence[RowResult]) -> list[str]:
    """Return what the intervals of rows with one seed leave out, and what would tell it."""
    known = [row for row in rows if row.interval is not None]
    single = [row.name for row in known if row.interval and row.interval.too_few_seeds]
    if not single:
        return []
    whose = "" if len(single) == len(known) else f" ({', '.join(single)})"
    return [
        f"One seed{whose}: the interval is about other test clips alone. It does not "
        "include what another seed would change; `ablate` with --seeds 3 shows that."
    ]


def copies(rows: Sequence[RowResult]) -> list[str]:
    """Return how many test clips have a copy in another part, where no recording leaks."""
    counts = {run.copied_tests for row in rows for run in row.runs if run.copied_tests}
    if not counts:
        return []
    some = "1 test clip has a copy" if counts == {1} else f"{max(counts)} test clips have copies"
    return [
        f"Leaked: {some} in another part of the split, and no recording stands in two: figures are "
        "too high by so many clips at most."
    ]


def answer(rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None) -> str:
    """Return the result of the table in one or two sentences."""
    if best is None:
        return "No trial has finished yet, so there is no answer."
    number = best.seeds
    headline, reached = best.task.headline, percent(best.headline)
    ends = best.interval
    where = f" (95 % interval {formats.span(ends.low, ends.high)}\u00a0%)" if ends else ""
    of = f"{number} seed{'s' if number != 1 else ''}"
    if best.out_of_fold:
        of += f" on each of {best.out_of_fold.folds} folds, scored out of fold"
    if len(rows) == 1:
        return f"{best.name}: {headline.sentence.format(reached)}{where}, {of}."
    text = f"Best on validation: {best.name}, {reached} test {headline.words}{where}, {of}"
    if best is control:
        text += ". It is the control: no other setting did better on validation."
        return text + _highest_on_test(rows, best)
    if best.difference is None or control is None:
        return text + "." + _highest_on_test(rows, best)
    gap = best.difference
    side = "above" if gap.mean >= 0 else "below"
    text += f"; {abs(100 * gap.mean):.1f} points {side} the control {control.name}"
    text += f" ({points(gap.low, gap.high)}), {worth(gap)}"
    return text + _runner_up(rows, best, control) + _highest_on_test(rows, best)


def answer_of_two(a: RowResult, b: RowResult) -> str:
    """Return how much better the second of two rows is."""
    if b.difference is None:
        return f"{a.name} and {b.name} scored no clip in common, so nothing can be said."
    gap = b.difference
    side = "above" if gap.mean >= 0 else "below"
    text = f"{b.name} is {abs(100 * gap.mean):.1f} points {side} {a.name}"
    return text + f" on the same clips ({points(gap.low, gap.high)}), {worth(gap)}"


def worth(gap: Difference) -> str:
    """Return whether a difference is more than noise, and how many seeds would settle it."""
    if not gap.within_noise:
        return "more than noise." + _note(gap)
    if gap.seeds_needed is None:
        return "which is within noise." + _note(gap)
    return (
        "which is within noise. "
        f"About {gap.seeds_needed} seeds a row would settle a difference of this size."
    )


def _note(gap: Difference) -> str:
    return f" {gap.note[0].upper()}{gap.note[1:].rstrip('.')}." if gap.note else ""


def _runner_up(rows: Sequence[RowResult], best: RowResult, control: RowResult) -> str:
    """Return whether the best row is clearly better than the second on validation."""
    second = best_of([row for row in rows if row is not best and row.done])
    if second is None or second is control:
        return ""
    gap = difference(best, second)
    if gap is None:
        return ""
    text = f" To {second.name}, second on validation: {points(gap.mean)} points"
    noise = "within noise" if gap.within_noise else "more than noise"
    return f"{text} ({points(gap.low, gap.high)}), {noise}."


def _highest_on_test(rows: Sequence[RowResult], best: RowResult) -> str:
    """Return the row that is best on test, if it is another one."""
    scored = [row for row in rows if not math.isnan(row.headline)]
    top = max(scored, key=lambda row: row.headline, default=best)
    if top is best or top.headline <= best.headline:
        return ""
    return f" Highest on test: {top.name}, {percent(top.headline)}."
