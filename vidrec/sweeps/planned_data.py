"""Record the data of a table's trials: fingerprints, and what has changed since planning."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vidrec.config import Config, canonical
from vidrec.data import splits
from vidrec.data.augment import flips
from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.io import files
from vidrec.training import facts, prepare
from vidrec.training.results import TrialRun, is_finished


class DataChanged(UserError):
    """The data have changed since a trial was planned."""


class _Known(NamedTuple):
    """A data set that a trial names.

    Attributes:
        fingerprint: hash of the data set and its split; "absent" if it cannot be read here.
        dataset: the clips; None if they cannot be read here.
        cfg: settings of a trial that names the data set.
    """

    fingerprint: str
    dataset: Dataset | None
    cfg: Config


class PlannedData:
    """The data sets of a table's trials, each loaded and hashed once.

    Args:
        dataset: clips passed from Python, used instead of those that the settings name.
        make: whether to generate or download a missing data set, where that is possible.
    """

    def __init__(self, dataset: Dataset | None = None, make: bool = True):
        self.dataset, self.make = dataset, make
        self._known: dict[str, _Known] = {}

    def fingerprint_of(self, cfg: Config) -> str:
        """Return the fingerprint of a trial's data; "absent" where they cannot be read here."""
        code = _code(cfg)
        if code not in self._known:
            dataset = self.dataset and tasks.of(cfg).labelled(self.dataset)
            dataset = dataset or prepare.dataset_of(cfg, self.make)
            fingerprint = prepare.fingerprint_of(dataset, cfg) if dataset else "absent"
            self._known[code] = _Known(fingerprint, dataset, cfg)
        return self._known[code].fingerprint

    @property
    def recordings_known(self) -> bool:
        """Return whether the clips of all data sets that can be read here name their recordings."""
        return all(known.dataset.groups_known for known in self._known.values() if known.dataset)

    def trial_ids(self, configs: Sequence[Config]) -> list[str]:
        """Return the ids of trials, which are hashes of their settings and their data.

        Raises:
            UserError: a trial's settings do not fit the classes of its data.
        """
        ids = [prepare.trial_id(cfg, self.fingerprint_of(cfg)) for cfg in configs]
        for cfg in configs:
            if dataset := self._known[_code(cfg)].dataset:
                flips.check(cfg, dataset.classes)
        return ids

    def check_splits(self, configs: Sequence[Config], folds: str = "") -> None:
        """Refuse a table whose data cannot be split, before anything trains.

        With folds every clip must be scored, so the data of each fold must have a valid split.
        Without folds, a row whose data cannot be split is recorded as failed when it is trained.
        The table is then refused only if no row's data can be split.

        Args:
            configs: the settings of the trials.
            folds: as `Ablation.folds`; "" for none.

        Raises:
            UserError: the data cannot be split; the message says why.
        """
        refusals = [self._refusal(code) for code in dict.fromkeys(map(_code, configs))]
        refused = [error for error in refusals if error]
        if folds and refused:
            raise UserError(f"--folds {folds}: {refused[0]}")
        if refused and len(refused) == len(refusals):
            raise refused[0]

    def _refusal(self, code: str) -> UserError | None:
        """Return why known data cannot be split; None if they can, or are not available."""
        known = self._known[code]
        if known.dataset is None:
            return None
        try:
            splits.make(known.dataset, known.cfg.data)
        except UserError as error:
            return error
        return None

    def write_facts(self, folder: Path, trials: Sequence[TrialRun]) -> None:
        """Write a description of the data of unfinished trials, so that changes can be named."""
        wanted = {trial.data for trial in trials if not is_finished([trial])}
        for fingerprint, dataset, cfg in self._known.values():
            file = _facts_file(folder, fingerprint)
            if fingerprint in wanted and dataset is not None and not file.exists():
                content = {"fingerprint": fingerprint, "clips": facts.of(dataset, cfg)}
                files.write_json(file, content)


def _code(cfg: Config) -> str:
    """Return a text that is equal for settings with the same data and task."""
    return canonical({"data": repr(cfg.data), "task": repr(cfg.task)})


def check_unchanged(trials: Sequence[TrialRun], top: Path, data: prepare.Prepared) -> None:
    """Refuse to train trials on other data than those from which their ids were computed.

    Raises:
        DataChanged: the data differ; the message says how.
    """
    now = PlannedData(data.dataset)
    for trial in trials:
        fingerprint = now.fingerprint_of(trial.config)
        if prepare.trial_id(trial.config, fingerprint) == trial.id:
            continue
        raise DataChanged(
            f"{top} was begun on other data: {_difference(trial, top, data, fingerprint)}; give "
            "the command that began it again, for a run of what is there now"
        )


def _facts_file(folder: Path, fingerprint: str) -> Path:
    return folder / "data" / f"{fingerprint[:8]}.json"


def _difference(trial: TrialRun, top: Path, data: prepare.Prepared, now: str) -> str:
    if trial.data == "absent":
        return "they could not be read where the command was given"
    if trial.data == now:
        return "none, but its settings or the code that they name were changed"
    try:
        before = files.read_json(_facts_file(top, trial.data), files.DATA_HOLDS)["clips"]
    except UserError:
        return "it keeps no list of what they were"
    return facts.difference(before, facts.of(data.dataset, trial.config)) or "their order"
