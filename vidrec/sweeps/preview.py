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
    """Estimate the bytes and seconds of each group of trials on this machine.

    Both are None if the data set is not available. The bytes are those of the trials and the data.
    A training step needs additional memory for its gradients; a group that does not fit in memory
    is split before it trains. The seconds are those of compiling and of training to the last epoch,
    with nothing beside it. Features and their principal components are not included.

    Args:
        ablation: The table.
        overrides: Settings for all trials.
        on: The data set that replaces that of the table.
        left: For each trial of `dry_run`, whether it is left to train; None: all are.

    Returns:
        For each group its name, its number of trials, its bytes and its seconds.
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
        line: dict[str, Any] = {"group": name, "trials": len(configs)}
        line |= {"bytes": None, "seconds": None}
        if size := sizes[prepare.data_id(configs[0])]:
            one = cost.of(configs[0], *size)
            epochs = sum(cfg.train.epochs for cfg in configs)
            line["bytes"] = one.data + one.state * len(configs)
            line["seconds"] = cost.seconds(one, epochs, *cost.measured_rates(configs[0]))
        lines.append(line)
    return lines


def _trials(ablation: Ablation, overrides: Mapping[str, Any] | None, on: str) -> list[tables.Trial]:
    """Return the trials of a table; of one with `tune`, those that choose the values."""
    ablation = tuning.candidates(ablation) if ablation.tune else ablation
    return tables.concrete(tables.trials(ablation, overrides, on), at_hand=False)
