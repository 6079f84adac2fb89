"""Preview what a table trains and what it costs, without training or reading a clip."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec.config import Config
from vidrec.io import runs
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import cost, tuning
from vidrec.sweeps.ablation import Ablation
from vidrec.sweeps.plan import group_name, notes_on_data
from vidrec.sweeps.planned_data import PlannedData
from vidrec.training import prepare
from vidrec.training.step import training_id


def dry_run(
    ablation: Ablation, overrides: Mapping[str, Any] | None = None, on: str = ""
) -> list[dict[str, Any]]:
    """Return the trials that `ablate` would train and their parameter counts; needs no data set.

    For a table with `tune`, these are the trials that choose the values.
    """
    trials = _trials(ablation, overrides, on)
    ids = PlannedData(make=False).trial_ids([trial.config for trial in trials])
    counted: dict[str, int] = {}
    lines = []
    for id_, trial in zip(ids, trials, strict=True):
        group = group_name(trial.config)
        if group not in counted:
            counted[group] = prepare.count_params(trial.config)
        lines.append(
            {
                "id": id_,
                "row": trial.row,
                "seed": trial.seed,
                "overrides": dict(trial.overrides),
                "params": counted[group],
                "group": group,
                "published": trial.published is not None,
                **({"fold": trial.fold} if trial.fold else {}),
            }
        )
    return lines


def notes(
    ablation: Ablation, overrides: Mapping[str, Any] | None = None, on: str = ""
) -> list[str]:
    """Return how the table's trials are adapted to the data, as the report's notes say it."""
    trials = _trials(ablation, overrides, on)
    return notes_on_data(trials, overrides)


def trained(ids: Iterable[str], workdir: Path) -> set[str]:
    """Return those of the trial ids of `dry_run` that `ablate` does not train again.

    These are finished in the workdir, in this table or in another one.
    """
    return set(runs.finished(workdir, ids)) if workdir.is_dir() else set()


def estimates(
    ablation: Ablation,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
    *,
    left: Sequence[bool] | None = None,
) -> list[dict[str, Any]]:
    """Describe each group of trials, and estimate its bytes and seconds on this machine.

    What needs the data set is None if it is not available: the numbers of clips, the bytes and the
    seconds. The bytes are those of the trials and the data.
    A training step needs additional memory for its gradients; a group that does not fit in memory
    is split before it trains. The seconds are those of compiling and of training to the last epoch,
    with nothing beside it. Features and their principal components are not included.

    Args:
        ablation: The table.
        overrides: Settings for all trials.
        on: The data set that replaces that of the table.
        left: For each trial of `dry_run`, whether it is left to train; None: all are.

    Returns:
        For each group its name, its number of trials, the least and the largest number of
        `epochs`, its `batch_size`, its numbers of clips `train` and `val`, and its bytes and
        seconds. In a group of several folds, the clips are those of its first fold.
    """
    trials = _trials(ablation, overrides, on)
    if left is not None:
        trials = [trial for trial, todo in zip(trials, left, strict=True) if todo]
    distinct = {training_id(trial.config): trial.config for trial in trials}
    groups: dict[str, list[Config]] = {}
    for cfg in distinct.values():
        groups.setdefault(group_name(cfg), []).append(cfg)
    data = {prepare.data_id(cfg): cfg for cfg, *_ in groups.values()}
    sizes = {key: cost.known_size(cfg) for key, cfg in data.items()}
    lines = []
    for name, configs in groups.items():
        first, epochs = configs[0], [cfg.train.epochs for cfg in configs]
        line: dict[str, Any] = {"group": name, "trials": len(configs)}
        line |= {"epochs": [min(epochs), max(epochs)], "batch_size": first.train.batch_size}
        line |= dict.fromkeys(("train", "val", "bytes", "seconds"))
        if size := sizes[prepare.data_id(first)]:
            one = cost.of(first, *size)
            line |= {"train": size[0], "val": size[1]}
            line["bytes"] = one.data + one.state * len(configs)
            line["seconds"] = cost.seconds(one, sum(epochs), *cost.measured_rates(first))
        lines.append(line)
    return lines


def _trials(ablation: Ablation, overrides: Mapping[str, Any] | None, on: str) -> list[tables.Trial]:
    """Return the trials of a table; of one with `tune`, those that choose the values."""
    ablation = tuning.candidates(ablation) if ablation.tune else ablation
    return tables.concrete(tables.trials(ablation, overrides, on), at_hand=False)
