"""Write the warnings, the result and the notes of a table as sentences."""

import math
from collections.abc import Sequence

from vidrec.evaluation.statistics import NO_SPREAD, Difference
from vidrec.io.words import are, counted, listed, some
from vidrec.report import formats
from vidrec.report.formats import percent, points
from vidrec.report.results import RowResult, best_of, difference

UNKNOWN = "Recordings unknown: this figure can be far too high and its interval too narrow."
UNKNOWN_OF_ROWS = (
    "Recordings unknown: these figures can be far too high and their intervals too narrow."
)


def warnings(rows: Sequence[RowResult]) -> list[str]:
    """Return the warnings above the figures."""
    runs = [run for row in rows for run in row.runs]
    lines = []
    lines += copies(rows)
    if any(run.shares_recordings for run in runs):
        lines.append(
            "Leaked: clips cut from one recording stand in training and in test, so these figures "
            "are too high for new videos and cannot be set beside those of a split by recording."
        )
    if any(run.may_share_recordings for run in runs):
        lines.append(
            "The recordings of the clips are unknown. Clips cut from one recording may be both in "
            "training and in test, so accuracies can be far too high and intervals too narrow."
        )
    splits = {(run.fold, run.result.get("split", {}).get("id")) for run in runs if run.done}
    if len(splits) > len({fold for fold, _ in splits}):
        lines.append("Trials were scored on different splits: differences are over shared clips.")
    return lines


def out_of_fold(rows: Sequence[RowResult], folds: str) -> list[str]:
    """Return a note on how rows that were trained on several folds were scored.

    Args:
        rows: the rows of the table.
        folds: what the folds of the table are, in words.
    """
    scored = next((row.out_of_fold for row in rows if row.out_of_fold), None)
    if scored is None:
        return []
    count = formats.count(scored.recordings)
    if _unit(rows) == "files":
        folds = folds.replace("recordings", "files")  # earlier versions call files recordings
        of_what = f"clips of {count} files"  # the note of `leaks` says what this means
    else:
        of_what = f"clips of {count} recordings, with models that saw no clip of that recording"
    others = "Figures of training and validation" if scored.pooled else "Other columns"
    text = (
        f"Out of fold: each row was trained once for each fold, without its test clips ({folds}). "
        f"Accuracy, interval and differences are over all folds: each seed gave "
        f"{formats.count(scored.answers)} answers to {of_what}. {others} are means of the folds."
    )
    if scored.untested:
        text += f" No fold tests {formats.count(scored.untested)} clips, which have no such answer."
    return [text]


def _unit(rows: Sequence[RowResult]) -> str:
    """Return what intervals treat as independent: "recordings", or "files" if they are unknown."""
    return "files" if any(row.recordings_known is False for row in rows) else "recordings"


def intervals(rows: Sequence[RowResult]) -> list[str]:
    """Return a note on what the intervals of rows with several seeds cover."""
    if not any(row.interval and not row.interval.too_few_seeds for row in rows):
        return []
    return [
        f"A 95 % interval is over new seeds and new test {_unit(rows)}. The training clips stay "
        "the same: other training clips could change the figures."
    ]


def last_epoch(rows: Sequence[RowResult]) -> list[str]:
    """Return a note on rows most of whose trials did not stop early: they may not be finished."""
    long = []
    for row in rows:
        settings = [run.config.get("train", {}) for run in row.done]
        ends = [
            run.metric("epochs") == each.get("epochs")
            for run, each in zip(row.done, settings, strict=True)
            if 0 < each.get("patience", 0) < each.get("epochs", 0)  # else no trial can stop early
        ]
        if 2 * sum(ends) > len(ends):
            long.append(f"{row.name} ({sum(ends)} of {counted(len(ends), 'trial')})")
    if not long:
        return []
    return [f"Did not stop early: {listed(long)}; more epochs (train.epochs) may be better."]


def shared_seconds(rows: Sequence[RowResult]) -> list[str]:
    """Return a note if rows were trained by one program, whose seconds each of them shows."""
    seconds = [row.mean("seconds_train") for row in rows if row.done]
    if len(seconds) == len(set(seconds)):
        return []
    return ["Rows with the same seconds were trained together; the seconds are for all of them."]


def one_seed(
    rows: Sequence[RowResult], more: str = "`vidrec ablate` with the same arguments and --seeds 3"
) -> list[str]:
    """Return a note on what the intervals of rows with one seed do not include.

    Args:
        rows: the rows.
        more: what shows how much seeds change.
    """
    known = [row for row in rows if row.interval is not None]
    single = [row.name for row in known if row.interval and row.interval.too_few_seeds]
    if not single:
        return []
    whose = "" if len(single) == len(known) else f" ({listed(single)})"
    return [
        f"One seed{whose}: the interval covers only the choice of test clips. It does not "
        f"include what another seed would change. {more} shows that."
    ]


def no_spread(rows: Sequence[RowResult]) -> list[str]:
    """Return a note on rows whose answers show no spread; it says what their intervals use."""
    alike = [row.name for row in rows if row.interval and NO_SPREAD in row.interval.note]
    return [f"{listed(alike)}: {NO_SPREAD}."] if alike else []


def left_out(rows: Sequence[RowResult]) -> list[str]:
    """Return notes on classes and clips that are left out, and the warnings of the data set."""
    results = [run.result for row in rows for run in row.runs]
    unread = {name for result in results for name in result.get("unreadable_names", ())}
    # Where published figures are of other classes, another note tells.
    told = [row for row in rows if row.published and row.another_task]
    data = [run.config.get("data", {}) for row in rows if row not in told for run in row.runs]
    chosen = dict.fromkeys(tuple(each.get("classes", ())) for each in data)
    lines = [f"Only these classes (data.classes): {listed(names)}." for names in chosen if names]
    if unread:
        clips = f"{counted(len(unread), 'clip')} could not be read"
        lines.append(f"{clips} and {are(len(unread))} left out: {some(sorted(unread))}.")
    warned = dict.fromkeys(line for result in results for line in result.get("data_warnings", ()))
    return lines + [f"{line[0].upper()}{line[1:]}." for line in warned if line]


def leaks(rows: Sequence[RowResult]) -> list[str]:
    """Return the notes below a table on splits that leak or may leak."""
    runs = [run for row in rows for run in row.runs]
    lines = copies(rows)
    if any(run.shares_recordings for run in runs):
        lines.append("Leaked: clips of one recording stand in training and in test.")
    if any(run.may_share_recordings for run in runs):
        lines.append(UNKNOWN if len(rows) == 1 else UNKNOWN_OF_ROWS)
    return lines


def copies(rows: Sequence[RowResult]) -> list[str]:
    """Return notes on copies of test clips, and on leaks between training and validation."""
    runs = [run for row in rows for run in row.runs]
    lines = []
    if most := max(map(_copied_tests, rows), default=0):
        some = "1 test clip has a copy" if most == 1 else f"{most} test clips have copies"
        known = all(run.recordings_known for run in runs if run.copied_tests)
        apart = "; apart from that, no recording is in two parts" if known else ""
        clips = "that clip" if most == 1 else "so many clips"
        lines.append(
            f"Leaked: {some} in another part of the split{apart}. "
            f"This makes figures too high by {clips} at most."
        )
    if any(run.leaked is True and not (run.shares_recordings or run.copied_tests) for run in runs):
        lines.append(
            "Leaked: training and validation have clips or recordings in common, so validation "
            "figures are too high."
        )
    return lines


def _copied_tests(row: RowResult) -> int:
    """Return how many test clips of a row have a copy in another part, summed over folds."""
    of_fold: dict[int, int] = {}
    for run in row.runs:
        of_fold[run.fold] = max(run.copied_tests, of_fold.get(run.fold, 0))
    return sum(of_fold.values())


def answer(rows: Sequence[RowResult], control: RowResult | None, best: RowResult | None) -> str:
    """Return the result of the table in one or two sentences."""
    if best is None:
        unscored = [run for row in rows for run in row.runs if run.is_unscored]
        if not unscored:
            return "No trial has finished yet, so there is no answer."
        clips = unscored[0].result.get("counts", {}).get("train", {}).get("scored", 0)
        return f"Trained on {counted(clips, 'clip')}. There are no test clips, so no accuracy."
    number = best.seeds
    headline, reached = best.task.headline, percent(best.headline)
    ends = best.interval
    where = f" (95 % interval {formats.span(ends.low, ends.high)}\u00a0%)" if ends else ""
    of = f"{number} seed{'s' if number != 1 else ''}"
    if best.out_of_fold:
        of += f" on each of {best.out_of_fold.folds} folds, scored out of fold"
    if len(rows) == 1:
        scored = best.done[0].result.get("counts", {}).get("test", {}).get("scored")
        clips = f", {counted(scored, 'test clip')}" if scored and not best.out_of_fold else ""
        return f"{best.name}: {headline.sentence.format(reached)}{where}, {of}{clips}."
    lead = "Best on validation"
    if not best.is_validated:
        lead = "There are no validation clips to choose a row by. Highest on test"
    lead += f": {best.name}{_beside_others(rows, best)}"
    text = f"{lead}, {reached} test {headline.words}{where}, {of}"
    if len(rows) == 2 and control is not None:
        [other] = [row for row in rows if row is not control]
        if other.difference is not None:
            return f"{answer_of_two(control, other)} {text}.{_highest_on_test(rows, best)}"
    if best is control:
        part = "validation" if best.is_validated else "test"
        text += f". It is the control: no other setting did better on {part}."
        return text + _highest_on_test(rows, best)
    if best.difference is None or control is None:
        return text + "." + _highest_on_test(rows, best)
    gap = best.difference
    text += f"; {_away(gap)} the control {control.name}"
    text += f" ({points(gap.low, gap.high)}), {worth(gap)}"
    return text + _runner_up(rows, best, control) + _highest_on_test(rows, best)


def equals(rows: Sequence[RowResult], best: RowResult) -> list[str]:
    """Return the names of the other rows with the same figure as the row chosen as best."""
    others = (row for row in rows if row is not best and row.is_validated == best.is_validated)
    return [row.name for row in others if math.isclose(row.chosen_by, best.chosen_by)]


def _beside_others(rows: Sequence[RowResult], best: RowResult) -> str:
    """Return the best row's equals and, if it was validated, its figure and the next; or ""."""
    equal = equals(rows, best)
    if not best.is_validated:
        return f" (as high as {listed(equal)})" if equal else ""
    own = best.chosen_by
    if equal:
        return f" ({percent(own)}, as high as {listed(equal)})"
    others = [row.chosen_by for row in rows if row is not best and row.done]
    below = [value for value in others if not math.isnan(value)]
    return f" ({percent(own)}, the next {percent(max(below))})" if below else ""


def answer_of_two(a: RowResult, b: RowResult) -> str:
    """Return how much better the second of two rows is."""
    if b.difference is None:
        return f"{a.name} and {b.name} scored no clip in common, so nothing can be said."
    gap = b.difference
    text = f"{b.name} is {_away(gap)} {a.name}"
    return text + f" on the same clips ({points(gap.low, gap.high)}), {worth(gap)}"


def _away(gap: Difference) -> str:
    """Return how far a row is above or below another: "1.2 points above", "as high as"."""
    away = abs(100 * gap.mean)
    if away < 1e-9:
        return "as high as"
    far = f"{away:.1f}" if away >= 0.05 else "less than 0.1"
    return f"{far} points {'above' if gap.mean > 0 else 'below'}"


def worth(gap: Difference) -> str:
    """Return whether a difference is more than noise, and how many seeds would settle it."""
    if not gap.within_noise:
        return "more than noise." + _note(gap)
    if gap.seeds_needed is None:
        return "within noise: neither is shown to be better." + _note(gap)
    return (
        "within noise: neither is shown to be better. If the difference really is this large, "
        f"about {gap.seeds_needed} seeds a row would show it, fewer with more test recordings "
        f"(now {gap.variances.design.groups})."
    )


def _note(gap: Difference) -> str:
    return f" {gap.note[0].upper()}{gap.note[1:].rstrip('.')}." if gap.note else ""


def _runner_up(rows: Sequence[RowResult], best: RowResult, control: RowResult) -> str:
    """Return whether the best row is clearly better than the second on validation."""
    second = best_of([row for row in rows if row is not best and row.done])
    if second is None or second is control or not second.is_validated:
        return ""
    gap = difference(best, second)
    if gap is None:
        return ""
    text = f" To {second.name}, second on validation: {points(gap.mean)} points"
    noise = "within noise" if gap.within_noise else "more than noise"
    return f"{text} ({points(gap.low, gap.high)}), {noise}."


def _highest_on_test(rows: Sequence[RowResult], best: RowResult) -> str:
    """Return a sentence on the row that is best on test; "" if `best` is not below it."""
    scored = [row for row in rows if not math.isnan(row.headline)]
    top = max(scored, key=lambda row: row.headline, default=best)
    if top is best or top.headline <= best.headline:
        return ""
    return f" Highest on test: {top.name}, {percent(top.headline)}."
