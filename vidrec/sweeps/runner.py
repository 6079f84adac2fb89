"""From a question to a filled table: an ablation becomes trials, trials become groups that compile
to one program each, and groups are trained one after another. A single run is a table of one trial.
"""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

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
from vidrec.data import datasets
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.errors import UserError, is_transient
from vidrec.io import checkpoint, escape, files, machine, runs
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import cost
from vidrec.sweeps.ablation import Ablation, Row, Trial
from vidrec.training import devices, feeds, loop, prepare, step

OF_A_ROW = ("row", "row_name", "overrides", "published", "doubtful")
AHEAD = 2  # programs compiled while others train
Part = tuple[str, list[loop.TrialRun], Path]  # a group to train: its name, trials and folder
SAMPLES = 12  # clips whose frames a report shows
SAMPLE_FRAMES = 8


class Reporter(Protocol):
    """What the engine says while it works; `Quiet` says nothing."""

    def say(self, line: str) -> None: ...

    def extracting(self, done: int, total: int) -> None: ...

    def group(self, name: str, members: Sequence[loop.TrialRun]) -> loop.Callback: ...


class Quiet:
    """For use from Python: nothing is printed."""

    def say(self, line: str) -> None:
        """A line for the user."""

    def extracting(self, done: int, total: int) -> None:
        """Clips decoded and encoded so far."""

    def group(self, name: str, members: Sequence[loop.TrialRun]) -> loop.Callback:
        """The watcher of a group that starts."""
        return loop.Silent()


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        folder: where everything lies.
        trials: the result.json of every trial, in the table's order.
    """

    folder: Path
    trials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a trial, with the columns of table.csv."""
        from vidrec import report

        return report.table(self.folder)[1]

    def frame(self) -> Any:
        """The rows as a pandas frame (pandas is not installed with vidrec)."""
        import pandas

        return pandas.DataFrame(self.rows)


def ablate(
    ablation: Ablation,
    workdir: str | Path = "runs",
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
    retry: str = "",
    screen: Reporter | None = None,
    dataset: Dataset | None = None,
) -> Table:
    """Trains every trial of a table that is not finished yet, and writes its report.

    Args:
        overrides: dotted settings for every trial.
        on: "motion" runs the table on the embedded data.
        retry: "failed" trains failed and diverged trials anew.
        dataset: clips from Python instead of those that the settings name.
    """
    devices.keep_memory()
    devices.use_cores()
    folder, members = plan(
        ablation, workdir, overrides=overrides, on=on, retry=retry, dataset=dataset
    )
    screen = screen or Quiet()
    trained = _fill(groups(members), folder, _group_folder(folder), screen, dataset)
    _strictly(members)
    made = _samples_again(folder, members, screen, dataset)
    return collect(folder, trained or made)


def plan(
    ablation: Ablation,
    workdir: str | Path = "runs",
    *,
    overrides: Mapping[str, Any] | None = None,
    on: str = "",
    retry: str = "",
    dataset: Dataset | None = None,
) -> tuple[Path, list[loop.TrialRun]]:
    """The table's folder, with its ablation.json, and its trials; see `ablate`."""
    trials = tables.with_code(tables.trials(ablation, overrides, on))
    name, workdir = runs.check_name(ablation.name), Path(workdir)
    known_data = _Data(dataset)
    fingerprints = devices.main_process_first(
        lambda: [known_data.fingerprint_of(t.config) for t in trials]
    )
    ids = [prepare.trial_id(t.config, of) for t, of in zip(trials, fingerprints, strict=True)]
    folder = runs.place_of_table(workdir, name, digest(ids), ids)
    known = _known(folder)
    members = [
        loop.TrialRun(
            ids[place],
            trial.config,
            folder / "trials" / ids[place],
            {
                "name": name,
                "row": trial.row,
                "row_name": trial.name,
                "overrides": dict(trial.overrides),
                "published": trial.published,
                "doubtful": list(trial.doubtful),
                "group": known.get(ids[place]) or group_name(trial.config),
            },
            fingerprints[place],
        )
        for place, trial in enumerate(trials)
    ]
    devices.main_process_first(lambda: _adopt(workdir, members, folder, _group_folder(folder)))
    members = _without_adopted(members, _group_folder(folder))
    failed = _failed(members) if retry == "failed" else []
    members = [_again(member, failed) for member in members]
    devices.barrier()  # what is there has been read by all
    _describe(ablation, members, folder, on)
    for member in failed:
        (member.folder / loop.RESULT).unlink(missing_ok=True)
    if devices.is_main():
        known_data.note(folder, members)
    devices.barrier()
    return folder, members


def collect(folder: Path, trained: bool = True) -> Table:
    """The results of a table whose trials are finished; `trained` writes its report anew."""
    described = files.read_json(folder / "ablation.json", files.TABLE_HOLDS)
    # Rows that came out equal share a trial; each keeps what its own row says.
    results = [
        _own_result(folder / "trials" / trial["id"], trial["id"])
        | {name: trial[name] for name in OF_A_ROW}
        for trial in described["trials"]
    ]
    if trained or "data" not in described:
        loop.write_json(folder / "ablation.json", described | {"data": results[0].get("data", {})})
    _report(folder, trained)
    return Table(folder, results)


def hold_groups(folder: Path, members: Sequence[loop.TrialRun]) -> dict[str, list[loop.TrialRun]]:
    """Writes the groups of a table that are not finished, so that others can train them."""
    todo = {name: group for name, group in groups(members).items() if not _finished(group)}
    for name, group in todo.items():
        _hold(_group_folder(folder)(name), group)
    return todo


def held(folder: Path, name: str) -> list[loop.TrialRun]:
    """The members of a group that `hold_groups` wrote, from the table's folder alone."""
    file = _group_folder(folder)(name) / "group.json"
    try:
        content = files.read_json(file, files.GROUP_HOLDS)
    except files.Missing:
        raise UserError(f"{folder} has no group {name}: {file} is missing") from None
    return [
        loop.TrialRun(
            trial["id"],
            _with_code(from_dict(trial["config"]), file, content.get("code")),
            Path(os.path.normpath(file.parent / trial["folder"])),
            trial["about"],
            trial.get("data", ""),
        )
        for trial in content["trials"]
    ]


def _with_code(cfg: Config, file: Path, said: Any) -> Config:
    """The settings of a held trial, which may run what this job's launcher named."""
    return override(cfg, plugins.inherited(file, file.parent / runs.CODE, user_code(cfg), said))


def train_group(folder: Path, name: str, screen: Reporter | None = None) -> None:
    """Trains one held group of a table, or goes on with it; what goes wrong is recorded."""
    devices.use_cores()
    named = {name: held(folder, name)}
    _fill(named, folder, _group_folder(folder), screen or Quiet(), None, record=True)


def _group_folder(folder: Path) -> Callable[[str], Path]:
    return lambda name: folder / "groups" / name


def _finished(group: Sequence[loop.TrialRun]) -> bool:
    return all((member.folder / loop.RESULT).exists() for member in group)


def run(
    cfg: Config,
    workdir: str | Path = "runs",
    *,
    name: str = "run",
    screen: Reporter | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Trains one configuration, or returns the result of the finished run; see `ablate`."""
    devices.keep_memory()
    if cfg.train.parallel == "batch":
        devices.use_cores()
    screen = screen or Quiet()
    table = Ablation(runs.check_name(name), cfg, [Row({})])
    [trial] = tables.with_code(tables.trials(table))
    data, workdir = _Data(dataset), Path(workdir)
    fingerprint = devices.main_process_first(lambda: data.fingerprint_of(trial.config))
    id_ = prepare.trial_id(trial.config, fingerprint)
    folder = runs.place_of_run(workdir, name, id_)
    member = loop.TrialRun(id_, trial.config, folder, {"name": name}, fingerprint)
    devices.main_process_first(lambda: _adopt(workdir, [member], folder, lambda _: folder))
    if devices.is_main() and not _finished([member]):
        files.check_writable(folder / loop.RESULT)  # before hours of extraction
    trained = _fill(
        *(groups([member]), folder, lambda _: folder, screen, dataset),
        begin=lambda: data.note(folder, [member]),
    )
    result = _own_result(folder, id_)
    _strictly([member])
    made = _samples_again(folder, [member], screen, dataset)
    _report(folder, trained or made)
    return result


def _own_result(folder: Path, id_: str) -> dict[str, Any]:
    """The result of a trial, which another one's in the same folder is not."""
    result = files.read_result(folder)
    if result["id"] != id_:
        raise _of_others(folder)
    return result


def _of_others(folder: Path) -> UserError:
    return UserError(
        f"{folder} belongs to other trials; take another --workdir or remove that folder"
    )


class _Data:
    """The data sets of a table's trials, each loaded and hashed once.

    Args:
        dataset: clips from Python instead of those that settings name.
        make: a set that can be generated or downloaded is, first.
    """

    def __init__(self, dataset: Dataset | None = None, make: bool = True):
        self.dataset, self.make = dataset, make
        self._known: dict[str, tuple[str, Dataset | None, Config]] = {}

    def fingerprint_of(self, cfg: Config) -> str:
        """Fingerprint of the data of a trial."""
        code = canonical({"data": repr(cfg.data)})
        if code not in self._known:
            dataset = self.dataset or prepare.dataset_of(cfg, self.make)
            found = prepare.fingerprint_of(dataset, cfg) if dataset else "absent"
            self._known[code] = found, dataset, cfg
        return self._known[code][0]

    def note(self, folder: Path, members: Sequence[loop.TrialRun]) -> None:
        """Writes what unfinished trials are of, so that a later difference can be named."""
        wanted = {member.data for member in members if not _finished([member])}
        for found, dataset, cfg in self._known.values():
            file = _data_file(folder, found)
            if found in wanted and dataset is not None and not file.exists():
                content = {"fingerprint": found, "clips": prepare.facts(dataset, cfg)}
                files.write_json(file, content)


def _data_file(folder: Path, fingerprint: str) -> Path:
    return folder / "data" / f"{fingerprint[:8]}.json"


def _check_data(members: Sequence[loop.TrialRun], top: Path, data: prepare.Prepared) -> None:
    """Refuses to train trials on other data than they were planned on, which their ids say."""
    there = _Data(data.dataset)
    for member in members:
        now = there.fingerprint_of(member.config)
        if prepare.trial_id(member.config, now) == member.id:
            continue
        raise loop.Changed(
            f"{top} was begun on other data: {_difference(member, top, data, now)}; give the "
            "command that began it again, for a run of what is there now"
        )


def _difference(member: loop.TrialRun, top: Path, data: prepare.Prepared, now: str) -> str:
    if member.data == "absent":
        return "they could not be read where the command was given"
    if member.data == now:
        return "none, but its settings or the code that they name were changed"
    try:
        kept = files.read_json(_data_file(top, member.data), files.DATA_HOLDS)["clips"]
    except UserError:
        return "it keeps no list of what they were"
    return prepare.difference(kept, prepare.facts(data.dataset, member.config)) or "their order"


def _adopt(
    workdir: Path,
    members: Sequence[loop.TrialRun],
    top: Path,
    place: Callable[[str], Path],
) -> None:
    """Copies trials that are finished elsewhere in the workdir; groups that are begun stay."""
    if not devices.is_main():
        return
    lacking = {
        member.id: member
        for name, group in groups(members).items()
        for member in group
        if not _finished([member]) and not (place(name) / "group.json").exists()
    }
    for id_, trial in runs.finished(workdir, lacking).items():
        member, theirs = lacking[id_], runs.top_of(trial)
        runs.adopt(trial, member.folder, member.about, to_dict(member.config))
        for name in ("samples.npz", "environment.json"):
            if (theirs / name).is_file() and not (top / name).exists():
                files.write_whole(top / name, files.read_bytes(theirs / name))


def _without_adopted(
    members: Sequence[loop.TrialRun], place: Callable[[str], Path]
) -> list[loop.TrialRun]:
    """Members of a group that is not begun and partly finished: the rest is a group of its own."""
    moved = {}
    for name, group in groups(members).items():
        rest = [member.id for member in group if not _finished([member])]
        if len(rest) < len(group) and not (place(name) / "group.json").exists():
            moved |= dict.fromkeys(rest, digest(name, *rest))
    return [
        replace(member, about={**member.about, "group": moved[member.id]})
        if member.id in moved
        else member
        for member in members
    ]


def _strictly(members: Sequence[loop.TrialRun]) -> None:
    """Refuses results without an unreadable clip that was tolerated when they were trained."""
    for member in members:
        if not member.config.data.strict:
            continue
        result = files.read_result(member.folder)
        if result["unreadable"]:
            clip = result["unreadable"][0]
            # Its name, where that was kept: the path may be that of a copy which lay elsewhere.
            [name, *_] = [*result.get("unreadable_names", ()), clip["path"]]
            raise UserError(
                f"{name}: {clip['reason']} (data.strict is set, and {member.folder} was trained "
                "without this clip)"
            )


def parameters(folder: str | Path) -> Any:
    """Arrays of a trained trial by name: what was trained, statistics, and what stayed fixed."""
    return checkpoint.read(Path(folder) / "model")[0]


def dry_run(
    ablation: Ablation, overrides: Mapping[str, Any] | None = None, on: str = ""
) -> list[dict[str, Any]]:
    """What `ablate` would train, with each model's parameters; needs no data set."""
    trials = tables.with_code(tables.trials(ablation, overrides, on))
    ids = _ids(trials, make=False)
    counted: dict[str, int] = {}
    plan = []
    for place, trial in enumerate(trials):
        code = group_name(trial.config)
        if code not in counted:
            counted[code] = prepare.count_params(trial.config)
        plan.append(
            {
                "id": ids[place],
                "row": trial.row,
                "seed": trial.seed,
                "overrides": dict(trial.overrides),
                "params": counted[code],
                "group": code,
                "published": trial.published is not None,
            }
        )
    return plan


def estimates(
    ablation: Ablation, overrides: Mapping[str, Any] | None = None, on: str = ""
) -> list[dict[str, Any]]:
    """For each group of a table: its trials, and bytes and seconds that it should take here.

    Without the data set these are None. Bytes are those of trials and data; what a step needs for
    its gradient comes on top, and a group for which that is too much is split before it trains.
    """
    trials = tables.with_code(tables.trials(ablation, overrides, on))
    trained = {step.training_id(each.config): each.config for each in trials}
    chosen: dict[str, list[Config]] = {}
    for cfg in trained.values():
        chosen.setdefault(group_name(cfg), []).append(cfg)
    sizes = {prepare.key(cfg): cfg for cfg, *_ in chosen.values()}
    known = {key: cost.known_size(cfg) for key, cfg in sizes.items()}
    found = []
    for name, [cfg, *others] in chosen.items():
        estimate: dict[str, Any] = {"group": name, "trials": 1 + len(others)}
        estimate |= {"bytes": None, "seconds": None}
        if size := known[prepare.key(cfg)]:
            each = cost.of(cfg, *size)
            epochs = sum(one.train.epochs for one in [cfg, *others])
            estimate["bytes"] = each.data + each.state * (1 + len(others))
            estimate["seconds"] = cost.seconds(each, epochs, *cost.measured_rates(cfg))
        found.append(estimate)
    return found


def group_name(cfg: Config) -> str:
    """Equal for trials that are compiled and trained together.

    One whose batches are spread over the devices is trained alone.
    """
    alone = (step.training_id(cfg),) if cfg.train.parallel == "batch" else ()
    return digest(signature(cfg), prepare.key(cfg), *alone)


def groups(members: Sequence[loop.TrialRun]) -> dict[str, list[loop.TrialRun]]:
    """Members by group, in the table's order."""
    found: dict[str, list[loop.TrialRun]] = {}
    for member in members:
        name = member.about.get("group") or group_name(member.config)
        found.setdefault(name, []).append(member)
    return found


def _ids(trials: Sequence[Trial], make: bool = True) -> list[str]:
    data = _Data(make=make)
    return [prepare.trial_id(trial.config, data.fingerprint_of(trial.config)) for trial in trials]


def _fill(
    table: Mapping[str, list[loop.TrialRun]],
    top: Path,
    place: Callable[[str], Path],
    screen: Reporter,
    dataset: Dataset | None,
    record: bool = False,
    begin: Callable[[], None] = lambda: None,
) -> bool:
    """Trains groups that are not finished, and says if any was; they share the data they need.

    `begin` is called where nothing stands against training any more, by the leading process.

    What goes wrong in one of several groups is recorded, and the others go on; in one alone it is
    raised, unless `record`. What the system refuses now is raised: it says nothing of the trials,
    which the same command goes on with.
    """
    todo = [
        part
        for name, group in table.items()
        for part in _parts(name, group, place(name))
        if not _finished(part[1])
    ]
    if todo:
        devices.check_devices()  # that none is there is no failure of the trials
    record = record or len(todo) > 1
    sharing: dict[str, list[Part]] = {}
    for part in todo:
        sharing.setdefault(prepare.key(part[1][0].config), []).append(part)
    for named in sharing.values():
        # One data set in memory at a time.
        cfg = named[0][1][0].config
        try:
            data = devices.main_process_first(
                partial(
                    prepare.prepare,
                    cfg,
                    tell=screen.say,
                    progress=screen.extracting,
                    dataset=dataset,
                )
            )
        except Exception as error:
            if not record or isinstance(error, loop.Interrupted) or is_transient(error):
                raise
            for name, group, _ in named:
                screen.say(f"group {name} failed: {error}")
                loop.record_failure(group, None, error)
            continue
        _check_data([member for _, group, _ in named for member in group], top, data)
        if not record:
            loop.check_watched(named[0][1], data)  # before a folder is made
        if devices.is_main():
            begin()
        for _, group, folder in named:
            _hold(folder, group)
            _environment(folder)
        _train(named, data, screen, record)
        _samples(top, [each for _, group, _ in named for each in group], data)
    return bool(todo)


def _parts(name: str, group: list[loop.TrialRun], folder: Path) -> Iterator[Part]:
    """A group, or what it was split into because it did not fit in memory."""
    file = folder / "group.json"
    count = files.read_json(file, {"parts?": int}).get("parts", 1) if file.exists() else 1
    if count == 1:
        yield name, group, folder
        return
    for index, part in enumerate(_split(group, count)):
        own = f"{name}-{index + 1}"
        yield from _parts(own, part, folder.with_name(own))


def _split(group: Sequence[loop.TrialRun], count: int) -> list[list[loop.TrialRun]]:
    """Equal parts, in order; variants that differ in scoring only stay together."""
    trained = list(dict.fromkeys(step.training_id(member.config) for member in group))
    share = -(-len(trained) // count)
    return [
        [m for m in group if step.training_id(m.config) in trained[start : start + share]]
        for start in range(0, len(trained), share)
    ]


def _train_parts(
    part: Part, data: prepare.Prepared, screen: Reporter, record: bool, why: loop.OutOfMemory
) -> None:
    """Splits a group for good, and trains its parts."""
    name, group, folder = part
    screen.say(f"group {name} is split: {why}")
    content = files.read_json(folder / "group.json", files.GROUP_HOLDS)
    loop.write_json(folder / "group.json", content | {"parts": why.parts})
    parts = list(_parts(name, group, folder))
    for _, members, place in parts:
        _hold(place, members)
        _environment(place)
    _train(parts, data, screen, record)


def _train(
    named: Sequence[Part],
    data: prepare.Prepared,
    screen: Reporter,
    record: bool,
) -> None:
    """Trains groups one after another, while the next ones compile.

    Several processes do one thing at a time, so that all do it in the same order. A group that
    another command trains is left to it: of two that were given at once, one must not end both.
    """
    elsewhere: list[tuple[list[loop.TrialRun], loop.FolderLocked]] = []
    ahead = AHEAD if devices.processes() == 1 else 0

    def ready(members: list[loop.TrialRun], folder: Path) -> loop.Group:
        _check_loops(members, data, folder)
        group = loop.Group(members, data, folder)
        group.ready()
        return group

    with ThreadPoolExecutor(max(ahead, 1)) as pool:
        coming: deque[Future] = deque()
        for place, (name, members, folder) in enumerate(named):
            while len(coming) <= ahead and place + len(coming) < len(named):
                coming.append(pool.submit(ready, *named[place + len(coming)][1:]))
            try:
                group = coming.popleft().result()
                if devices.processes() == 1 and _finished(members):  # by another command
                    group.close()
                    continue
                group.run(screen.group(name, members))
            except loop.OutOfMemory as error:
                _train_parts((name, members, folder), data, screen, record, error)
            except loop.FolderLocked as error:
                if devices.processes() > 1:
                    raise
                elsewhere.append((members, error))
            except Exception as error:
                stopped = isinstance(error, loop.Interrupted)
                if not record or stopped or is_transient(error):
                    _leave(pool, coming)
                    raise
                screen.say(f"group {name} failed: {error}")
                loop.record_failure(members, data, error)
    for members, error in elsewhere:
        if not _finished(members):
            raise error


def _check_loops(members: Sequence[loop.TrialRun], data: prepare.Prepared, folder: Path) -> None:
    """Raises OutOfMemory for trials that are quicker each in its own loop, unless begun."""
    count = len({step.training_id(each.config) for each in members})
    cfg = members[0].config
    begun = checkpoint.Checkpoints(folder / "checkpoints").steps()
    if count > 1 and not begun and feeds.by_step(cfg, data, devices.over(1, cfg.train.parallel)):
        raise loop.OutOfMemory("a processor trains from pixels one trial at a time", count)


def _leave(pool: ThreadPoolExecutor, coming: Iterable[Future]) -> None:
    """Gives back the groups that were made ready and will not be trained now."""
    pool.shutdown(cancel_futures=True)
    for each in coming:
        if not each.cancelled() and not each.exception():
            each.result().close()


def _samples(folder: Path, members: Sequence[loop.TrialRun], data: prepare.Prepared) -> None:
    """Frames of a few test clips for the report: those that trials got wrong most, and others."""
    import numpy as np

    if data.dataset.is_features or _has_samples(folder) or not devices.is_main():
        return
    clips = data.clips("test")
    wrong = np.zeros(len(clips))
    for member in members:
        file = member.folder / "predictions.npz"
        if not file.exists():
            continue
        saved = files.read_arrays(file, ["test_logits", "test_labels"])
        wrong += saved["test_logits"].argmax(1) != saved["test_labels"]
    hardest = np.argsort(-wrong, kind="stable")[: SAMPLES // 2]
    spread = np.linspace(0, len(clips) - 1, min(SAMPLES, len(clips))).astype(int)
    shown = clips[list(dict.fromkeys([*hardest, *spread]))[:SAMPLES]]
    size = min(max(members[0].config.encoder.size, 64), 112)
    frames, names = [], []
    for clip in shown:
        places = np.linspace(0, data.lengths[clip] - 1, SAMPLE_FRAMES).astype(int)
        try:
            frames.append(data.dataset.read(int(clip), places, size))
        except UnreadableClip:
            continue
        names.append(data.dataset.names[clip])
    # Without any that can be read an empty file says that they were looked at.
    shape = (0, SAMPLE_FRAMES, size, size, 3)
    arrays = {"frames": np.stack(frames) if frames else np.zeros(shape, np.uint8)}
    files.write_arrays(folder / "samples.npz", arrays | {"names": np.array(names, str)})


def _has_samples(folder: Path) -> bool:
    """True where the film strips are there and whole."""
    try:
        files.read_arrays(folder / "samples.npz")
    except (files.Missing, files.Damaged):
        return False
    return True


def _samples_again(
    folder: Path, members: Sequence[loop.TrialRun], screen: Reporter, dataset: Dataset | None
) -> bool:
    """Makes the film strips that a kill, a full disk or damage took from finished trials."""
    scored = [each for each in members if (each.folder / "predictions.npz").exists()]
    if not scored or devices.processes() > 1 or _has_samples(folder):
        return False
    cfg = scored[0].config
    try:
        dataset = dataset or datasets.load(cfg.data)
        if dataset.is_features:
            return False
        data = prepare.prepare(cfg, tell=screen.say, progress=screen.extracting, dataset=dataset)
    except UserError as error:
        screen.say(f"the report has no film strips: {error}")
        return False
    sharing = [each for each in scored if prepare.key(each.config) == prepare.key(cfg)]
    _samples(folder, sharing, data)
    return True


def _hold(folder: Path, group: Sequence[loop.TrialRun]) -> None:
    """Members and their order are fixed before the first step, and the same on every resume."""
    file = folder / "group.json"
    members = [member.id for member in group]
    held = files.read_json(file, {"members": [str]}) if file.exists() else {"members": members}
    if held["members"] != members:
        raise _of_others(folder)
    if "code" in held:  # an earlier version kept none
        return
    trials = [
        {
            "id": member.id,
            "config": to_dict(member.config),
            "folder": os.path.relpath(member.folder, folder),
            "about": dict(member.about),
            "data": member.data,
        }
        for member in group
    ]
    loop.make(folder)
    for name, text in loop.kept_code(group).items() if devices.is_main() else ():
        files.write_whole(folder / runs.CODE / name, text)
    specs = {spec: spec for member in group for spec in user_code(member.config).values()}
    code = {"trials": trials, "code": plugins.records(specs)}
    loop.write_json(file, held | code)


def _known(folder: Path) -> dict[str, str]:
    """Group of each trial of a table that was begun before: groups are fixed then."""
    try:
        trials = files.read_json(folder / "ablation.json", files.TABLE_HOLDS)["trials"]
    except files.Missing:
        return {}
    return {trial["id"]: trial["group"] for trial in trials if "group" in trial}


def _failed(members: Sequence[loop.TrialRun]) -> list[loop.TrialRun]:
    """Members of finished groups that failed or diverged."""
    ended = [member for group in groups(members).values() if _finished(group) for member in group]
    return [
        member
        for member in ended
        if files.read_result(member.folder)["status"] in ("failed", "diverged")
    ]


def _again(member: loop.TrialRun, failed: Sequence[loop.TrialRun]) -> loop.TrialRun:
    """A failed member moves, with those that failed beside it, to a group of their own."""
    ids = [each.id for each in failed if each.about["group"] == member.about["group"]]
    if member.id not in ids:
        return member
    group = digest(member.about["group"], *ids)
    return replace(member, about={**member.about, "group": group})


def _describe(ablation: Ablation, members: Sequence[loop.TrialRun], folder: Path, on: str) -> None:
    """ablation.json: the question and the plan, all that a report needs besides the results."""
    loop.make(folder)
    made = [
        {
            "id": member.id,
            "seed": member.config.seed,
            **{name: member.about[name] for name in (*OF_A_ROW, "group")},
        }
        for member in members
    ]
    file = folder / "ablation.json"
    known = files.read_json(file, files.TABLE_HOLDS) if file.exists() else {}
    plan = {
        "name": ablation.name,
        "question": ablation.question,
        "source": ablation.citation,
        "axes": tables.axes(ablation),
        "control": ablation.control,
        "seeds": ablation.seeds,
        "read": list(ablation.read),
        "on": on,
        "trials": made,
    }
    if canonical({name: known.get(name) for name in plan}) == canonical(plan):
        return  # a finished table may be looked at where nothing can be written
    kept = {"data": known["data"]} if "data" in known else {}
    said = {"command": escape.this_command(), "versions": {"vidrec": __version__}}
    loop.write_json(file, kept | plan | said)


def _environment(folder: Path) -> None:
    loop.write_json(
        folder / "environment.json",
        {
            "versions": machine.versions(),
            "platform": platform.platform(),
            "command": escape.this_command(),
        },
    )


def _report(folder: Path, trained: bool) -> None:
    """A report of what was trained just now, or of finished trials that it does not show."""
    if devices.is_main() and (trained or not has_report(folder)):
        from vidrec import report

        report.build(folder)


def has_report(folder: Path) -> bool:
    """True where the report is newer than all results: a kill may come between them."""
    made = [folder / name for name in ("table.csv", "table.md", "table.tex", "report.html")]
    results = [folder / loop.RESULT, *(folder / "trials").glob(f"*/{loop.RESULT}")]
    try:
        oldest = min(file.stat().st_mtime for file in made)
        return oldest >= max(file.stat().st_mtime for file in results if file.exists())
    except FileNotFoundError:
        return False
