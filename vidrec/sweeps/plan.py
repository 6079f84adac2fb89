"""Plan what trains together: divide a table into trials, trials into groups, groups into parts.

The plan is written to files before anything trains, so that a continued run follows the same plan.
Trials share a group if they have the same data, and settings that one compiled program can train. A
group is trained in parts if this is faster, or if the compiled program needs more memory than the
device has. A group is *held* once its group.json lists its trials: from then on they are fixed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vidrec import __version__
from vidrec.config import (
    Config,
    canonical,
    digest,
    from_dict,
    override,
    plugins,
    signature,
    to_dict,
    user_code,
)
from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.io import checkpoint, escape, files, runs
from vidrec.models import model
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import embedded, folds, ready_features
from vidrec.sweeps.ablation import Ablation, Row
from vidrec.sweeps.planned_data import PlannedData
from vidrec.training import continuing, devices, feeds, prepare, results
from vidrec.training.results import TrialRun, is_finished
from vidrec.training.step import training_id

# Fields of result.json and ablation.json that describe a trial's row.
ROW_FIELDS = ("row", "row_name", "overrides", "published", "doubtful")
OF_SOME = ("another_task", "fold")  # fields that only some trials have


class GroupPlan(NamedTuple):
    """Trials that train together, and the folder of their checkpoints."""

    name: str
    trials: list[TrialRun]
    folder: Path


class TablePlan(NamedTuple):
    """A table that can be trained.

    Attributes:
        folder: the table's folder.
        trials: the trials, in the table's order.
    """

    folder: Path
    trials: list[TrialRun]

    @property
    def groups(self) -> list[GroupPlan]:
        """The groups, in the table's order."""
        return grouped(self.trials, lambda name: group_folder(self.folder, name))


def plan_table(
    ablation: Ablation,
    workdir: str | Path = "runs",
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
    retry: str = "",
    dataset: Dataset | None = None,
) -> TablePlan:
    """Plan a table and write its ablation.json; for the arguments see `runner.ablate`."""
    if ablation.tune:
        raise UserError(f"table {ablation.name}: {' and '.join(ablation.tune)} is not chosen yet")
    trials = tables.concrete(tables.trials(ablation, overrides, on))
    name, workdir = runs.check_name(ablation.name), Path(workdir)
    data, configs = PlannedData(dataset), [trial.config for trial in trials]
    if len(kinds := {cfg.task.kind for cfg in configs}) > 1:
        raise UserError(
            f"ablation {ablation.name}: rows of task.kind {' and '.join(sorted(kinds))} have no "
            "figure in common: give each task a table of its own"
        )
    for cfg in configs:
        tasks.of(cfg).check(cfg)
        model.check_user_classes(cfg)
    ids = devices.main_process_first(lambda: data.trial_ids(configs))
    data.check_splits(configs, ablation.folds)
    folder = runs.place_of_table(workdir, name, digest(ids), ids)
    known = _groups_of_begun(folder)
    planned = [
        TrialRun(
            id_,
            trial.config,
            folder / "trials" / id_,
            {
                "name": name,
                "row": trial.row,
                "row_name": trial.name,
                "overrides": dict(trial.overrides),
                "published": trial.published,
                "doubtful": list(trial.doubtful),
                "group": known.get(id_) or group_name(trial.config),
                **_another_task(trial),
                **continuing.parent(trial.config),
                **({"fold": trial.fold} if trial.fold else {}),
            },
            data.fingerprint_of(trial.config),
        )
        for id_, trial in zip(ids, trials, strict=True)
    ]
    _take_over(workdir, TablePlan(folder, planned).groups, folder)
    planned = _regroup_unfinished(TablePlan(folder, planned))
    failed = _failed(TablePlan(folder, planned)) if retry == "failed" else []
    planned = [_regroup_failed(trial, failed) for trial in planned]
    devices.barrier()  # every process has read what the files say
    notes = notes_on_data(trials, overrides)
    how = _folds(ablation.folds, planned, data) if ablation.folds else ""
    _describe(ablation, planned, folder, on, notes, folds=how)
    for trial in failed:
        (trial.folder / results.RESULT).unlink(missing_ok=True)
    if devices.is_main():
        data.write_facts(folder, planned)
    devices.barrier()
    return TablePlan(folder, planned)


def notes_on_data(
    trials: Sequence[tables.Trial], overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """Return how trials were adapted to the data that they run on, one text for each line.

    Args:
        trials: the trials of a table.
        overrides: settings that the command line gives.
    """
    notes = ready_features.notes([trial.moved for trial in trials if trial.moved])
    return notes + embedded.notes((trial.on_motion for trial in trials), typed=bool(overrides))


def _another_task(trial: tables.Trial) -> dict[str, str]:
    """Return a field that says why published figures are for another task; else an empty dict."""
    reasons = [
        trial.moved.task if trial.moved else "",
        "clips out of every fold" * bool(trial.fold),
    ]
    said = ", ".join(reason for reason in reasons if reason)
    return {"another_task": said} if said else {}


class RunPlan(NamedTuple):
    """A single run: one trial, whose folder is the folder of the run."""

    trial: TrialRun
    data: PlannedData

    @property
    def group(self) -> GroupPlan:
        """The trial as a group."""
        return GroupPlan(group_name(self.trial.config), [self.trial], self.trial.folder)


def plan_run(cfg: Config, workdir: Path, name: str, dataset: Dataset | None = None) -> RunPlan:
    """Plan a single run."""
    table = Ablation(runs.check_name(name), cfg, [Row({})])
    [trial] = tables.concrete(tables.trials(table))
    tasks.of(trial.config).check(trial.config)
    model.check_user_classes(trial.config)
    data = PlannedData(dataset)
    [id_] = devices.main_process_first(lambda: data.trial_ids([trial.config]))
    folder = runs.place_of_run(workdir, name, id_)
    about = {"name": name, **_another_task(trial), **continuing.parent(trial.config)}
    fingerprint = data.fingerprint_of(trial.config)
    run = RunPlan(TrialRun(id_, trial.config, folder, about, fingerprint), data)
    _take_over(workdir, [run.group], folder)
    return run


# ------------------------------------------------------------------ groups


def group_name(cfg: Config) -> str:
    """Return the name of a trial's group: equal for trials that compile to one program.

    A trial whose batches are spread over the devices is trained alone.
    """
    alone = (training_id(cfg),) if cfg.train.parallel == "batch" else ()
    return digest(signature(cfg), prepare.data_id(cfg), *alone)


def grouped(trials: Sequence[TrialRun], folder_of: Callable[[str], Path]) -> list[GroupPlan]:
    """Return the groups of trials, in the table's order."""
    members: dict[str, list[TrialRun]] = {}
    for trial in trials:
        name = trial.about.get("group") or group_name(trial.config)
        members.setdefault(name, []).append(trial)
    return [GroupPlan(name, group, folder_of(name)) for name, group in members.items()]


def group_folder(table: Path, name: str) -> Path:
    """Return the folder of a table's group."""
    return table / "groups" / name


def _groups_of_begun(folder: Path) -> dict[str, str]:
    """Return each trial's group from the table's ablation.json; empty if there is no such file."""
    try:
        trials = files.read_json(folder / "ablation.json", files.TABLE_HOLDS)["trials"]
    except files.Missing:
        return {}
    return {trial["id"]: trial["group"] for trial in trials if "group" in trial}


def _take_over(workdir: Path, groups: Sequence[GroupPlan], top: Path) -> None:
    """Copy trials that are finished elsewhere in the workdir, except into groups that are held."""

    def take_over() -> None:
        missing = {
            trial.id: trial
            for group in groups
            for trial in group.trials
            if not is_finished([trial]) and not (group.folder / "group.json").exists()
        }
        for id_, other in runs.finished(workdir, missing).items():
            trial, theirs = missing[id_], runs.top_of(other)
            runs.adopt(other, trial.folder, trial.about, to_dict(trial.config))
            for name in ("samples.npz", "environment.json"):
                if (theirs / name).is_file() and not (top / name).exists():
                    files.write_whole(top / name, files.read_bytes(theirs / name))

    devices.main_process_first(lambda: take_over() if devices.is_main() else None)


def _regroup_unfinished(table: TablePlan) -> list[TrialRun]:
    """Move the unfinished trials of partly finished groups to new groups, except in held groups."""
    moved: dict[str, str] = {}
    for group in table.groups:
        rest = [trial.id for trial in group.trials if not is_finished([trial])]
        if len(rest) < len(group.trials) and not (group.folder / "group.json").exists():
            moved |= dict.fromkeys(rest, digest(group.name, *rest))
    return [
        _moved(trial, moved[trial.id]) if trial.id in moved else trial for trial in table.trials
    ]


def _failed(table: TablePlan) -> list[TrialRun]:
    """Return the failed and diverged trials of finished groups."""
    ended = [trial for group in table.groups if is_finished(group.trials) for trial in group.trials]
    bad = ("failed", "diverged")
    return [trial for trial in ended if files.read_result(trial.folder)["status"] in bad]


def _regroup_failed(trial: TrialRun, failed: Sequence[TrialRun]) -> TrialRun:
    """Move a failed trial to a new group, which all failed trials of its old group share."""
    ids = [each.id for each in failed if each.about["group"] == trial.about["group"]]
    return _moved(trial, digest(trial.about["group"], *ids)) if trial.id in ids else trial


def _moved(trial: TrialRun, group: str) -> TrialRun:
    return replace(trial, about={**trial.about, "group": group})


# ------------------------------------------------------------------ parts of a group


def parts(group: GroupPlan) -> Iterator[GroupPlan]:
    """Yield the group, or the parts that it was split into."""
    file = group.folder / "group.json"
    count = files.read_json(file, {"parts?": int}).get("parts", 1) if file.exists() else 1
    if count == 1:
        yield group
        return
    for index, trials in enumerate(_split(group.trials, count)):
        name = f"{group.name}-{index + 1}"
        yield from parts(GroupPlan(name, trials, group.folder.with_name(name)))


def split(group: GroupPlan, count: int = 2) -> list[GroupPlan]:
    """Split a held group into `count` parts, note that in its group.json, and hold the parts."""
    content = files.read_json(group.folder / "group.json", files.GROUP_HOLDS)
    results.write_json(group.folder / "group.json", content | {"parts": count})
    devices.barrier()
    divided = list(parts(group))
    for part in divided:
        hold(part)
    return divided


def for_platform(group: GroupPlan, data: prepare.Prepared) -> list[GroupPlan]:
    """Return the parts in which this platform trains a held group.

    On a CPU, trials that read pixels are trained one at a time: convolutions are fast there only
    outside of a loop over trials. A group that has a checkpoint is not split any more.
    """
    cfg, count = group.trials[0].config, len({training_id(each.config) for each in group.trials})
    begun = checkpoint.Checkpoints(group.folder / "checkpoints").steps()
    alone = feeds.by_step(cfg, data, devices.placement(1, cfg.train.parallel))
    return split(group, count) if alone and count > 1 and not begun else [group]


def _split(trials: Sequence[TrialRun], count: int) -> list[list[TrialRun]]:
    """Split trials into equal parts, in order; trials that differ only in scoring stay together."""
    trained = list(dict.fromkeys(training_id(trial.config) for trial in trials))
    share = -(-len(trained) // count)
    return [
        [trial for trial in trials if training_id(trial.config) in trained[first : first + share]]
        for first in range(0, len(trained), share)
    ]


# ------------------------------------------------------------------ what is written down


def hold(group: GroupPlan) -> None:
    """Write a group's trials and their order to its group.json, or check them if the file exists.

    This is called before the group's first training step and on every resume.

    Raises:
        UserError: the folder holds other trials.
    """
    file = group.folder / "group.json"
    ids = [trial.id for trial in group.trials]
    content = files.read_json(file, {"members": [str]}) if file.exists() else {"members": ids}
    if content["members"] != ids:
        raise belongs_to_others(group.folder)
    if "code" in content:  # complete; a file of an earlier version is completed below
        return
    trials = [
        {
            "id": trial.id,
            "config": to_dict(trial.config),
            "folder": os.path.relpath(trial.folder, group.folder),
            "about": dict(trial.about),
            "data": trial.data,
        }
        for trial in group.trials
    ]
    results.make_folder(group.folder)
    for name, text in results.kept_code(group.trials).items() if devices.is_main() else ():
        files.write_whole(group.folder / runs.CODE / name, text)
    specs = {spec: spec for trial in group.trials for spec in user_code(trial.config).values()}
    results.write_json(file, content | {"trials": trials, "code": plugins.records(specs)})


def hold_groups(table: TablePlan) -> list[GroupPlan]:
    """Hold the groups of a table that are not finished, so that other processes can train them."""
    unfinished = [group for group in table.groups if not is_finished(group.trials)]
    for group in unfinished:
        hold(group)
    return unfinished


def held(table: Path, name: str) -> GroupPlan:
    """Return a group that `hold_groups` wrote, from the table's folder alone."""
    file = group_folder(table, name) / "group.json"
    try:
        content = files.read_json(file, files.GROUP_HOLDS)
    except files.Missing:
        raise UserError(f"{table} has no group {name}: {file} is missing") from None
    trials = [
        TrialRun(
            trial["id"],
            _with_code(from_dict(trial["config"]), file, content.get("code")),
            Path(os.path.normpath(file.parent / trial["folder"])),
            trial["about"],
            trial.get("data", ""),
        )
        for trial in content["trials"]
    ]
    return GroupPlan(name, trials, file.parent)


def _with_code(cfg: Config, file: Path, recorded: Any) -> Config:
    """Return a held trial's settings with its saved code, if the job's launcher named that code."""
    kept = file.parent / runs.CODE
    return override(cfg, plugins.inherited(file, kept, user_code(cfg), recorded))


def belongs_to_others(folder: Path) -> UserError:
    """Return the error for a folder that holds other trials."""
    return UserError(
        f"{folder} belongs to other trials; take another --workdir or remove that folder"
    )


def _folds(how: str, trials: Sequence[TrialRun], data: PlannedData) -> str:
    """Return a description of a table's folds."""
    count = max(trial.about["fold"] for trial in trials)
    return folds.words(how, count, recordings_known=data.recordings_known)


def _describe(
    ablation: Ablation,
    trials: Sequence[TrialRun],
    folder: Path,
    on: str,
    notes: Sequence[str],
    *,
    folds: str,
) -> None:
    """Write ablation.json: the question, the plan, and all that a report needs except results.

    Args:
        ablation: the table.
        trials: the table's trials.
        folder: the table's folder.
        on: "motion" if the table runs on the embedded data, else "".
        notes: what the table's report must say about the data, one text for each line.
        folds: a description of the table's folds; "": no folds.
    """
    results.make_folder(folder)
    file = folder / "ablation.json"
    known = files.read_json(file, files.TABLE_HOLDS) if file.exists() else {}
    described = {
        "name": ablation.name,
        "question": ablation.question,
        "source": ablation.citation,
        "axes": tables.axes(ablation) + ["data.fold"] * bool(ablation.folds),
        "control": ablation.control,
        "seeds": ablation.seeds,
        "read": list(ablation.read),
        "on": on,
        "trials": [
            {
                "id": trial.id,
                "seed": trial.config.seed,
                **{name: trial.about[name] for name in (*ROW_FIELDS, "group")},
                **{name: trial.about[name] for name in OF_SOME if name in trial.about},
            }
            for trial in trials
        ],
        **({"notes": list(notes)} if notes else {}),
        **({"folds": folds} if folds else {}),
    }
    if canonical({name: known.get(name) for name in described}) == canonical(described):
        return  # a finished table can be opened in a folder that is read-only
    data = {"data": known["data"]} if "data" in known else {}
    about = {"command": escape.this_command(), "versions": {"vidrec": __version__}}
    results.write_json(file, data | described | about)
