"""Choose the trained model of a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.io import files, runs
from vidrec.io.words import counted


class Choice(NamedTuple):
    """The folder of the chosen model, and the reason if there was a choice."""

    folder: Path
    reason: str = ""


def choose(folder: Path) -> Choice:
    """Return the folder of a run's or trial's model, or of an ablation's best on validation.

    Raises:
        UserError: the folder has no trained model.
    """
    if (folder / "model").is_dir():
        return Choice(folder)
    file = folder / "ablation.json"
    if not file.is_file():
        runs.refuse_search(folder)
        there = "holds no trained model" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {there}: give the folder of a finished run, of a trial, or of an ablation"
        )
    return _best(folder, files.read_json(file, files.TABLE_HOLDS)["trials"])


def _best(folder: Path, trials: Sequence[Mapping[str, Any]]) -> Choice:
    """Return the best seed of the row whose headline figure is best on validation."""
    rows: dict[int | str, list[tuple[float, Mapping[str, Any]]]] = {}
    words = ""
    for trial in trials:
        validated = _validated(folder / "trials" / trial["id"])
        if validated is not None:
            rows.setdefault(trial["row"], []).append((validated.score, trial))
            words = validated.words
    if not rows:
        raise UserError(
            f"{folder} has no finished trial with validation clips to choose by: name a trial's "
            f"folder, such as {folder / 'trials' / (trials[0]['id'] if trials else 'ID')}"
        )
    means = {row: float(np.mean([score for score, _ in seeds])) for row, seeds in rows.items()}
    # If several are equal, the first row and the lowest seed are taken.
    row = max(means, key=lambda name: means[name])
    score, trial = max(rows[row], key=lambda scored: (scored[0], -scored[1]["seed"]))
    settings = ", ".join(f"{name}={value}" for name, value in trial["overrides"].items())
    of_fold = f", fold {trial['fold']}" if trial.get("fold") else ""
    reason = (
        f"{settings or 'the base'}, of {len({trial['row'] for trial in trials})} rows the best "
        f"by mean validation {words} ({100 * means[row]:.1f} % over "
        f"{_seeds_and_folds([trial for _, trial in rows[row]])}); "
        f"of it seed {trial['seed']}{of_fold} ({100 * score:.1f} %)"
    )
    return Choice(folder / "trials" / trial["id"], reason)


def _seeds_and_folds(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return the number of seeds of trials in words, and the number of folds if there are any."""
    seeds, folds = (len({trial.get(name, 0) for trial in trials}) for name in ("seed", "fold"))
    text = counted(seeds, "seed")
    if not any(trial.get("fold") for trial in trials):
        return text
    whole = "" if seeds * folds == len(trials) else f", {len(trials)} trials"
    return f"{text} on {counted(folds, 'fold')}{whole}"


class _Validated(NamedTuple):
    score: float
    words: str  # what the figure is called


def _validated(trial: Path) -> _Validated | None:
    """Return the headline figure on validation; None if the trial cannot be chosen."""
    if not (trial / "result.json").is_file() or not (trial / "model").is_dir():
        return None
    result = files.read_result(trial)
    if result["status"] != "done":
        return None
    config = trial / "config.json"
    settings = files.read_json(config, files.CONFIG_HOLDS) if config.is_file() else {}
    headline = tasks.of_settings(settings).headline
    score = result["metrics"].get("val", {}).get(headline.figure)
    return None if score is None else _Validated(score, headline.words)
