"""Read a folder: a run, or an ablation as rows of runs with their statistics."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import metrics, statistics
from vidrec.io import files

SPLITS = ("train", "val", "test")
# Files that a run may lack, and what they hold.
OPTIONAL: dict[str, Mapping[str, Any]] = {
    "config": files.CONFIG_HOLDS,
    "environment": files.ENVIRONMENT_HOLDS,
}


class Predictions(NamedTuple):
    """Saved scores of one split.

    Attributes:
        logits_BK: scores that rank the classes.
        labels_B: true classes.
        names_B: of the clips.
        groups_B: recordings of the clips.
        steps_BT: of each frame 1 right, 0 wrong, -1 behind the clip's end; None where the head does
            not score frames.
        probabilities_BK: as prediction prints them; None of runs that did not save them, for which
            they are the softmax of the scores.
    """

    logits_BK: np.ndarray
    labels_B: np.ndarray
    names_B: np.ndarray
    groups_B: np.ndarray
    steps_BT: np.ndarray | None
    probabilities_BK: np.ndarray | None = None

    @property
    def predicted_B(self) -> np.ndarray:
        """Return the class of the largest score; -1 where a score is NaN."""
        return metrics.predictions(self.logits_BK)

    @property
    def correct_B(self) -> np.ndarray:
        """Return which clips were right."""
        return self.predicted_B == self.labels_B

    @property
    def confidence_B(self) -> np.ndarray:
        """Return the probability of the predicted class."""
        if self.probabilities_BK is not None:
            return self.probabilities_BK.max(1)
        shifted_BK = self.logits_BK - self.logits_BK.max(1, keepdims=True)
        return 1 / np.exp(shifted_BK.astype(np.float64)).sum(1)


class Samples(NamedTuple):
    """Frames kept for the report, uint8 (n, k, H, W, 3), and the clips they are from."""

    frames: np.ndarray
    names: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """One trained trial, read from its folder.

    Attributes:
        folder: where it lies.
        result: content of result.json.
        config: content of config.json.
        environment: content of environment.json.
    """

    folder: Path
    result: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    _read: dict[str, Predictions | None] = field(default_factory=dict, repr=False)

    @property
    def done(self) -> bool:
        """Return whether it has scores: it finished, or stopped after a first checkpoint."""
        return "test" in self.result.get("metrics", {}) or "val" in self.result.get("metrics", {})

    @property
    def name(self) -> str:
        """Return the name of its row in a table; alone, its own."""
        return _label(self.result) or self.result.get("name") or self.folder.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by number."""
        return tuple(self.result.get("classes", ()))

    @property
    def leaked(self) -> Any:
        """Return whether a recording is in two splits: True, False or "unknown"."""
        return self.result.get("split", {}).get("leaked", "unknown")

    def metric(self, column: str) -> float:
        """Return a figure by its column of table.csv; NaN where there is none."""
        split, _, name = column.partition("_")
        if split in SPLITS:
            value = self.result.get("metrics", {}).get(split, {}).get(name)
        elif split == "seconds":
            value = self.result.get("seconds", {}).get(name)
        else:
            value = self.result.get(column)
        return math.nan if value is None else float(value)

    @functools.cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, one an epoch."""
        file = self.folder / "metrics.jsonl"
        if not file.is_file():
            return []
        lines, wanted = files.read_lines(file), self.result.get("epoch_lines")
        if wanted is not None and len(lines) != wanted:
            raise files.Damaged(f"{file} is damaged: it has {len(lines)} of {wanted} lines")
        return lines

    def curve(self, name: str) -> np.ndarray:
        """Return one figure over epochs; NaN where it was not finite or not measured."""
        values = [line.get(name) for line in self.epochs]
        return np.array([math.nan if v is None else v for v in values], float)

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch whose weights were kept, counted as metrics.jsonl counts."""
        best = self.result.get("best_epoch")
        return None if best is None else int(best)

    def predictions(self, split: str = "test") -> Predictions | None:
        """Return the saved scores of a split, read once; None where there are none."""
        if split not in self._read:
            self._read[split] = self._predictions(split)
        return self._read[split]

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """Return predictions.npz, read once; empty where there is none."""
        file = self.folder / "predictions.npz"
        return files.read_arrays(file) if file.exists() else {}

    def _predictions(self, split: str) -> Predictions | None:
        file = self.folder / "predictions.npz"
        arrays = self._arrays
        if f"{split}_logits" not in arrays:
            return None
        parts = [f"{split}_{part}" for part in ("logits", "labels", "names", "groups")]
        more = [f"{split}_{part}" for part in ("steps", "probabilities")]
        for name in (*parts, *(name for name in more if name in arrays)):
            if name not in arrays or len(arrays[name]) != len(arrays[parts[0]]):
                raise files.Damaged(f"{file} is damaged: {name} does not fit {parts[0]}")
        return Predictions(*(arrays[name] for name in parts), *map(arrays.get, more))

    @functools.cached_property
    def samples(self) -> Samples | None:
        """Return the frames that were kept for the report; None where there are none."""
        file = self.folder / "samples.npz"
        if not file.is_file():
            return None
        arrays = files.read_arrays(file, ["frames", "names"])
        frames, names = arrays["frames"], arrays["names"]
        if frames.ndim != 5 or frames.dtype != np.uint8 or names.shape != frames.shape[:1]:
            raise files.Damaged(f"{file} is damaged: its frames and names do not fit")
        return Samples(frames, names) if len(names) else None

    @functools.cached_property
    def layers(self) -> list[dict[str, Any]]:
        """Return the layers of the model; empty where they were not saved."""
        file = self.folder / "model.json"
        return files.read_json(file, files.MODEL_HOLDS)["layers"] if file.is_file() else []


@dataclass(frozen=True, eq=False)
class RowResult:
    """One setting with all its seeds, and what its difference to the control is worth.

    Attributes:
        key: number or name of the row in its table.
        name: as the table calls it.
        planned: its trials as planned.
        runs: those of which there is a result.
        published: published figures by column of table.csv.
        doubtful: columns whose published figure its own report contradicts.
        interval: of test accuracy; None where nothing was scored.
        difference: to the control, judged after Holm's correction; None of the control.
        another_task: why published figures are of another task; "" where they are of the same.
    """

    key: Any
    name: str
    planned: tuple[dict[str, Any], ...]
    runs: tuple[Run, ...]
    published: Mapping[str, float]
    doubtful: tuple[str, ...]
    interval: statistics.Interval | None = None
    difference: statistics.Difference | None = None
    another_task: str = ""

    @property
    def done(self) -> tuple[Run, ...]:
        """Return the runs that have scores."""
        return tuple(run for run in self.runs if run.done)

    def mean(self, column: str) -> float:
        """Return the mean over the seeds that have the figure; NaN where none has."""
        values = [run.metric(column) for run in self.done or self.runs]
        values = [value for value in values if not math.isnan(value)]
        return float(np.mean(values)) if values else math.nan

    @property
    def within_noise(self) -> bool | None:
        """Return the verdict; None for the control and where nothing could be compared."""
        return None if self.difference is None else bool(self.difference.within_noise)


@dataclass(frozen=True, eq=False)
class AblationResult:
    """A table of runs, read from its folder.

    Attributes:
        folder: where it lies.
        meta: content of ablation.json.
        rows: its rows.
        control: the row that others are compared with.
    """

    folder: Path
    meta: dict[str, Any]
    rows: tuple[RowResult, ...]
    control: RowResult | None

    @property
    def axes(self) -> list[str]:
        """Return the settings in which rows differ."""
        named = [name for name in self.meta.get("axes") or () if isinstance(name, str)]
        used = [name for row in self.rows for t in row.planned for name in t["overrides"]]
        return list(dict.fromkeys(named + used))

    @property
    def runs(self) -> list[Run]:
        """Return the runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def scored(self) -> list[RowResult]:
        """Return the rows that have scores."""
        return [row for row in self.rows if row.done]

    @property
    def best(self) -> RowResult | None:
        """Return the best row on validation: choosing by the test split would flatter it."""
        return best_of(self.scored)


def rows_and_control(
    results: Run | AblationResult,
) -> tuple[list[RowResult], RowResult | None]:
    """Return the rows of a table and its control; a run alone is a row of its own."""
    if isinstance(results, AblationResult):
        return list(results.rows), results.control
    return [row_of_run(results)], None


def best_of(rows: list[RowResult]) -> RowResult | None:
    """Return the row of the highest mean validation accuracy; without any, test accuracy."""
    for column in ("val_accuracy", "test_accuracy"):
        measured = [row for row in rows if not math.isnan(row.mean(column))]
        if measured:
            return max(measured, key=lambda row: row.mean(column))
    return None


def read(folder: str | Path) -> Run | AblationResult:
    """Read a run or an ablation, by what the folder holds.

    Raises:
        UserError: neither result.json nor ablation.json there, or one that is no JSON.
    """
    folder = Path(folder)
    if (folder / "ablation.json").is_file():
        return _ablation(folder)
    if (folder / "result.json").is_file():
        return _run(folder)
    raise UserError(
        f"{folder} holds no result.json and no ablation.json: name a run or an ablation"
    )


def row_of(folder: str | Path) -> RowResult:
    """Return a run as a row of one seed; of an ablation its best row on validation.

    Raises:
        UserError: nothing there is scored.
    """
    results = read(folder)
    row = results.best if isinstance(results, AblationResult) else row_of_run(results)
    if row is None or not row.done:
        raise UserError(f"{folder} holds no finished run: train it before it is compared")
    return row


def row_of_run(run: Run) -> RowResult:
    """Return a run on its own, as a row of one seed."""
    result = run.result
    row = RowResult(
        key=result.get("row", 0),
        name=run.name,
        planned=({"overrides": {}, **result},),
        runs=(run,),
        published=dict(result.get("published") or {}),
        doubtful=tuple(result.get("doubtful") or ()),
        another_task=result.get("another_task", ""),
    )
    return _with_interval(row)


def _run(folder: Path) -> Run:
    optional = {
        name: files.read_json(folder / f"{name}.json", holds)
        if (folder / f"{name}.json").is_file()
        else {}
        for name, holds in OPTIONAL.items()
    }
    result = files.read_result(folder)
    count = len(result.get("classes", ()))
    for split, figures in result["metrics"].items():
        counts = figures.get("confusion")
        if counts is not None and {len(counts), *map(len, counts)} != {count}:
            raise files.Damaged(
                f"{folder / 'result.json'} is damaged: metrics.{split}.confusion should have "
                f"{count} lines of {count} numbers"
            )
    return Run(folder, result, **optional)


def _label(trial: Mapping[str, Any]) -> str:
    """Return what the table calls a row: its own name, else what it sets."""
    if trial.get("row_name"):
        return trial["row_name"]
    if isinstance(trial.get("row"), str) and trial["row"]:
        return trial["row"]
    changes = trial.get("overrides") or {}
    return ", ".join(f"{name.rpartition('.')[2]}={setting_text(v)}" for name, v in changes.items())


def setting_text(value: Any) -> str:
    """Return a setting as a reader would write it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(setting_text, value)) + ")"
    return str(value)


def _ablation(folder: Path) -> AblationResult:
    meta = files.read_json(folder / "ablation.json", files.TABLE_HOLDS)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for trial in meta.get("trials", ()):
        grouped.setdefault(json.dumps(trial["row"]), []).append(trial)
    rows = [_row(folder, trials) for trials in grouped.values()]
    control = _control(rows, meta.get("control"))
    return AblationResult(folder, meta, tuple(_with_differences(rows, control)), control)


def _row(folder: Path, trials: list[dict[str, Any]]) -> RowResult:
    folders = [folder / "trials" / str(trial["id"]) for trial in trials]
    first = trials[0]
    row = RowResult(
        key=first["row"],
        name=_label(first) or "base",
        planned=tuple(trials),
        runs=tuple(_run(trial) for trial in folders if (trial / "result.json").is_file()),
        published=dict(first.get("published") or {}),
        doubtful=tuple(first.get("doubtful") or ()),
        another_task=first.get("another_task", ""),
    )
    return _with_interval(row)


def _control(rows: list[RowResult], control: Any) -> RowResult | None:
    """Return the row that is named, or counted from 0."""
    for i, row in enumerate(rows):
        if control in (row.key, row.name) or (control == i and not isinstance(control, bool)):
            return row
    return None


class Answers(NamedTuple):
    """What S seeds said of the n clips that all of them scored, in the order of their names.

    Attributes:
        predicted_Sn: predicted classes.
        labels: true classes.
        groups: recordings.
        names: of the clips.
    """

    predicted_Sn: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    names: np.ndarray

    @property
    def correct_Sn(self) -> np.ndarray:
        """Return which answers are right."""
        return self.predicted_Sn == self.labels

    def only(self, index: np.ndarray) -> "Answers":
        """Return the answers to the clips at these indices."""
        return Answers(self.predicted_Sn[:, index], *(values[index] for values in self[1:]))


def answers(runs: Sequence[Run]) -> Answers | None:
    """Return the answers of runs to the test split; None where none was saved."""
    scored = [p for p in (run.predictions() for run in runs) if p is not None]
    if not scored:
        return None
    names = functools.reduce(np.intersect1d, [p.names_B for p in scored])
    orders = [np.intersect1d(p.names_B, names, return_indices=True)[1] for p in scored]
    predicted = [p.predicted_B[order] for p, order in zip(scored, orders, strict=True)]
    first, order = scored[0], orders[0]
    return Answers(np.stack(predicted), first.labels_B[order], first.groups_B[order], names)


def _with_interval(row: RowResult) -> RowResult:
    said = answers(row.done)
    if said is None or not len(said.names):
        return row
    return replace(row, interval=statistics.accuracy_interval(said.correct_Sn, said.groups))


def shared(a: RowResult, b: RowResult) -> tuple[Answers, Answers] | None:
    """Return the answers of both rows to the clips, and of the seeds, that both have."""
    of_a, of_b = (answers(runs) for runs in _same_seeds(a.done, b.done))
    if of_a is None or of_b is None:
        return None
    names, i, j = np.intersect1d(of_a.names, of_b.names, return_indices=True)
    return (of_a.only(i), of_b.only(j)) if len(names) else None


def difference(row: RowResult, control: RowResult) -> statistics.Difference | None:
    """Return the difference in test accuracy over what both scored; None where that is nothing."""
    both = shared(row, control)
    if both is None:
        return None
    return statistics.paired(both[0].correct_Sn, both[1].correct_Sn, both[0].groups)


def _same_seeds(a: Sequence[Run], b: Sequence[Run]) -> tuple[Sequence[Run], Sequence[Run]]:
    """Return the runs of the seeds that both have; where they share none, as many of each."""
    by_seed_a, by_seed_b = ({run.result.get("seed"): run for run in runs} for runs in (a, b))
    shared = [seed for seed in by_seed_a if seed in by_seed_b]
    if not shared:
        count = min(len(a), len(b))
        return a[:count], b[:count]
    return [by_seed_a[seed] for seed in shared], [by_seed_b[seed] for seed in shared]


def _with_differences(rows: list[RowResult], control: RowResult | None) -> list[RowResult]:
    """Return rows with their differences to the control, judged together."""
    if control is None:
        return rows
    gaps = {row: difference(row, control) for row in rows if row is not control}
    compared = {row: gap for row, gap in gaps.items() if gap is not None}
    of_row = dict(zip(compared, statistics.corrected(list(compared.values())), strict=True))
    return [replace(row, difference=of_row[row]) if row in of_row else row for row in rows]
