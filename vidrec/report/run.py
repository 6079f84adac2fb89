"""Read one trained trial from its folder."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.evaluation import metrics, tasks
from vidrec.evaluation.task import ScoredPart, Task
from vidrec.io import files

SPLITS = ("train", "val", "test")
MATRICES = ("confusion", "co_occurrence")  # figures with a value for each pair of classes
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
        names_B: names of the clips.
        groups_B: recordings of the clips.
        steps_BT: for each frame, 1 if the prediction is right, 0 if wrong, -1 after the clip's end;
            None if the head does not score frames.
        probabilities_BK: probabilities as prediction prints them; None if the run did not save
            them. They are then computed from the scores.
        log_probabilities_BK: logarithms of the probabilities, for a task that saves them; else
            None.
    """

    logits_BK: np.ndarray
    labels_B: np.ndarray
    names_B: np.ndarray
    groups_B: np.ndarray
    steps_BT: np.ndarray | None
    probabilities_BK: np.ndarray | None = None
    log_probabilities_BK: np.ndarray | None = None

    @property
    def predicted_B(self) -> np.ndarray:
        """Return the class of the largest score; -1 where a score is NaN."""
        return metrics.predictions(self.logits_BK)

    @property
    def correct_B(self) -> np.ndarray:
        """Return which clips were classified correctly."""
        return self.predicted_B == self.labels_B

    @property
    def confidence_B(self) -> np.ndarray:
        """Return the probability of the predicted class."""
        if self.probabilities_BK is not None:
            return self.probabilities_BK.max(1)
        shifted_BK = self.logits_BK - self.logits_BK.max(1, keepdims=True)
        return 1 / np.exp(shifted_BK.astype(np.float64)).sum(1)


class Samples(NamedTuple):
    """Frames kept for the report and the names of their clips.

    Attributes:
        frames: uint8 (n, k, H, W, 3), k frames of each of n test clips.
        names: (n,) names of these test clips.
        augmented: frames of training clips; None if augmentation does not change what can be seen.
    """

    frames: np.ndarray
    names: np.ndarray
    augmented: "Augmented | None" = None


class Augmented(NamedTuple):
    """Frames of training clips before and after augmentation, uint8 (n, k, H, W, 3), and names."""

    before: np.ndarray
    after: np.ndarray
    names: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """One trained trial, read from its folder.

    Attributes:
        folder: the folder of the trial.
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
    def is_unscored(self) -> bool:
        """Return whether it finished without any validation and test clips."""
        return self.result.get("status") == "done" and not self.done

    @property
    def is_complete(self) -> bool:
        """Return whether it has all scores that its clips allow."""
        return self.done or self.is_unscored

    @property
    def task(self) -> Task:
        """Return the task that the trial's settings name."""
        return tasks.of_settings(self.config)

    @property
    def name(self) -> str:
        """Return the name of its row in a table; outside a table, the name of the run."""
        return label_of(self.result) or self.result.get("name") or self.folder.name

    @property
    def fold(self) -> int:
        """Return the fold that it was tested on, counted from 1; 0 in a table without folds."""
        return int(self.result.get("fold", 0))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes by number."""
        return tuple(self.result.get("classes", ()))

    @property
    def leaked(self) -> Any:
        """Return whether a recording or equal clips are in two parts: True, False or "unknown"."""
        return self.result.get("split", {}).get("leaked", "unknown")

    @property
    def copied_tests(self) -> int:
        """Return how many test clips have a copy in another part; 0 if recordings leak too."""
        return self.result.get("split", {}).get("copied_tests", 0)

    @property
    def shares_recordings(self) -> bool:
        """Return whether test clips are known to share recordings with clips of other parts.

        Results of earlier versions do not say whether a leak concerns test clips; this is assumed.
        """
        into_test = self.result.get("split", {}).get("leaks_into_test", True)
        return self.leaked is True and into_test and not self.copied_tests

    @property
    def recordings_known(self) -> bool | None:
        """Return whether clips name their recordings; None if the result does not say."""
        return recordings_known(self.result)

    @property
    def may_share_recordings(self) -> bool:
        """Return whether test clips may share unknown recordings with training clips."""
        return self.recordings_known is False and not self.shares_recordings

    @property
    def place(self) -> str:
        """Return the trial's seed and, if the table has folds, its fold, in words."""
        fold = f", fold {self.fold}" if self.fold else ""
        return f"seed {self.result.get('seed', 0)}{fold}"

    def metric(self, column: str) -> float:
        """Return a figure by its column of table.csv; NaN if there is none."""
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
        """Return the lines of metrics.jsonl, one for each epoch."""
        file = self.folder / "metrics.jsonl"
        if not file.is_file():
            return []
        lines, wanted = files.read_lines(file), self.result.get("epoch_lines")
        if wanted is not None and len(lines) != wanted:
            raise files.Damaged(f"{file} is damaged: it has {len(lines)} of {wanted} lines")
        return lines

    def curve(self, name: str) -> np.ndarray:
        """Return one figure over epochs; NaN if it was not finite or not measured."""
        values = [line.get(name) for line in self.epochs]
        return np.array([math.nan if v is None else v for v in values], float)

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch whose weights were kept, numbered as in metrics.jsonl."""
        best = self.result.get("best_epoch")
        return None if best is None else int(best)

    def predictions(self, split: str = "test") -> Predictions | None:
        """Return the saved scores of a split, read once; None if there are none."""
        if split not in self._read:
            self._read[split] = self._predictions(split)
        return self._read[split]

    def part(self, split: str = "test") -> ScoredPart | None:
        """Return scores, log probabilities and labels of a split; None if none were saved."""
        saved = self.predictions(split)
        if saved is None:
            return None
        logits, probabilities = saved.logits_BK, saved.probabilities_BK
        if saved.log_probabilities_BK is not None:
            log_probs = saved.log_probabilities_BK
        elif probabilities is None:
            log_probs = self.task.log_probabilities(logits)
        else:
            with np.errstate(divide="ignore"):
                log_probs = np.log(probabilities)
        fitted = self.result.get("fitted", {})
        return ScoredPart(logits, log_probs, saved.labels_B, self.classes, fitted)

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """Return predictions.npz, read once; empty if there is none."""
        file = self.folder / "predictions.npz"
        return files.read_arrays(file) if file.exists() else {}

    def _predictions(self, split: str) -> Predictions | None:
        file = self.folder / "predictions.npz"
        arrays = self._arrays
        if f"{split}_logits" not in arrays:
            return None
        parts = [f"{split}_{part}" for part in ("logits", "labels", "names", "groups")]
        more = [f"{split}_{part}" for part in ("steps", "probabilities", "log_probabilities")]
        for name in (*parts, *(name for name in more if name in arrays)):
            if name not in arrays or len(arrays[name]) != len(arrays[parts[0]]):
                raise files.Damaged(f"{file} is damaged: {name} does not fit {parts[0]}")
        return Predictions(*(arrays[name] for name in parts), *map(arrays.get, more))

    @functools.cached_property
    def samples(self) -> Samples | None:
        """Return the frames that were kept for the report; None if there are none."""
        file = self.folder / "samples.npz"
        if not file.is_file():
            return None
        arrays = files.read_arrays(file, ["frames", "names"])
        frames, names = arrays["frames"], arrays["names"]
        if frames.ndim != 5 or frames.dtype != np.uint8 or names.shape != frames.shape[:1]:
            raise files.Damaged(f"{file} is damaged: its frames and names do not fit")
        return Samples(frames, names, _augmented(file, arrays)) if len(names) else None

    @functools.cached_property
    def layers(self) -> list[dict[str, Any]]:
        """Return the layers of the model; empty if they were not saved."""
        file = self.folder / "model.json"
        return files.read_json(file, files.MODEL_HOLDS)["layers"] if file.is_file() else []


def _augmented(file: Path, arrays: Mapping[str, np.ndarray]) -> Augmented | None:
    """Return the augmented clips among kept frames; None if there are none."""
    if "after" not in arrays:
        return None
    found = Augmented(*(arrays.get(name, np.zeros(0)) for name in ("before", "after", "clips")))
    frames = (found.before, found.after)
    shapes = {(each.shape, each.dtype) for each in frames}
    whole = len(shapes) == 1 and found.after.ndim == 5 and found.after.dtype == np.uint8
    if not whole or found.names.shape != found.after.shape[:1]:
        raise files.Damaged(f"{file} is damaged: its augmented frames do not fit")
    return found


def read_run(folder: Path) -> Run:
    """Return a trial, read from its folder."""
    optional = {
        name: files.read_json(folder / f"{name}.json", holds)
        if (folder / f"{name}.json").is_file()
        else {}
        for name, holds in OPTIONAL.items()
    }
    result = files.read_result(folder)
    count = len(result.get("classes", ()))
    for split, figures in result["metrics"].items():
        for name in MATRICES:
            counts = figures.get(name)
            if counts is not None and {len(counts), *map(len, counts)} != {count}:
                raise files.Damaged(
                    f"{folder / 'result.json'} is damaged: metrics.{split}.{name} should have "
                    f"{count} lines of {count} numbers"
                )
    return Run(folder, result, **optional)


def recordings_known(result: Mapping[str, Any]) -> bool | None:
    """Return whether the clips of a result name their recordings; None if it does not say."""
    split = result.get("split", {})
    if split.get("id") and split.get("leaked") == "unknown":  # as earlier versions say it
        return False
    return split.get("recordings_known")


def all_recordings_known(results: Iterable[Mapping[str, Any]]) -> bool | None:
    """Return whether the clips of all results name their recordings; None if they do not say."""
    said = {recordings_known(result) for result in results}
    return False if False in said else said == {True} or None


def label_of(trial: Mapping[str, Any]) -> str:
    """Return a row's name in the table: its own name, else its settings."""
    if trial.get("row_name"):
        return trial["row_name"]
    if isinstance(trial.get("row"), str) and trial["row"]:
        return trial["row"]
    changes = trial.get("overrides") or {}
    return ", ".join(f"{name.rpartition('.')[2]}={setting_text(v)}" for name, v in changes.items())


def setting_text(value: Any) -> str:
    """Return the value of a setting as text for readers."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(setting_text, value)) + ")"
    return str(value)
