"""Train the trials of a round, rung by rung; one compiled program trains similar trials together.

Trials share a program if `config.signature` is equal for their settings.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vidrec.config import Config
from vidrec.data.datasets.base import Dataset
from vidrec.data.splits import Split
from vidrec.errors import is_transient
from vidrec.evaluation import tasks
from vidrec.sweeps import plan, tracking
from vidrec.sweeps.plan import GroupPlan
from vidrec.sweeps.reporter import Reporter
from vidrec.sweeps.search.halving import Standing
from vidrec.training import devices, loop, prepare, runtime
from vidrec.training.feeds import Placement
from vidrec.training.group import Programs, TrialGroup
from vidrec.training.prepare import Prepared
from vidrec.training.results import TrialRun
from vidrec.training.step import training_id


class Reached(NamedTuple):
    """The progress of a trial.

    Attributes:
        epochs: the number of epochs that the trial was trained for.
        state: running, done, diverged or failed.
        why: the reason why the trial ended.
        standing: the validation figures of its best weights; None if it diverged or failed.
    """

    epochs: int
    state: str
    why: str
    standing: Standing | None


class Trainer:
    """Trains the rounds of a search, one after another, and keeps their compiled programs.

    Args:
        folder: the search's folder.
        dataset: the clips that the search may use, which exclude the test clips.
        split: the split of these clips.
        screen: shows progress.
        told: the trackers that receive the events.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        split: Split,
        screen: Reporter,
        *,
        told: tracking.Tracking,
    ):
        self.folder, self.dataset, self.split, self.screen = folder, dataset, split, screen
        self._told = told
        self._programs: Programs = {}
        self._data: dict[str, Prepared] = {}
        self._runs: dict[Path, loop.GroupRun] = {}
        self._groups: list[GroupPlan] = []

    def begin(self, number: int, trials: Sequence[TrialRun]) -> None:
        """Set the trials of the round to train; those with checkpoints will continue from them."""
        self.end()
        top = self.folder / "groups"
        self._groups = plan.grouped(trials, lambda name: top / f"{number}-{name}")

    def end(self) -> None:
        """End the round, and delete its checkpoints."""
        self.close()
        for group in self._groups:
            for folder in group.folder.parent.glob(f"{group.folder.name}*/checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)
        self._groups = []

    def close(self) -> None:
        """Unlock the folders; the checkpoints stay."""
        for run in self._runs.values():
            run.close()
        self._runs.clear()

    def train(self, live: Collection[str], epoch: int) -> dict[str, Reached]:
        """Train the live trials until they have completed an epoch or have ended.

        Args:
            live: ids of the trials that continue; the other trials of the round take no time.
            epoch: the number of completed epochs after which training pauses.

        Returns:
            The progress of each live trial, by id.
        """
        groups = [group for group in self._groups if any(t.id in live for t in group.trials)]
        by_data: dict[str, list[GroupPlan]] = {}
        for group in groups:
            by_data.setdefault(prepare.data_id(group.trials[0].config), []).append(group)
        reached: dict[str, Reached] = {}
        for key, sharing in by_data.items():
            if key not in self._data:
                self.close()  # one data set in memory at a time
                self._data.clear()
            for group in sharing:
                reached |= self._of_group(group, live, epoch)
        return reached

    def _of_group(self, group: GroupPlan, live: Collection[str], epoch: int) -> dict[str, Reached]:
        """Train the live trials of a group and return their progress; record a failure."""
        reached: dict[str, Reached] = {}
        try:
            data = self._prepared(group.trials[0].config)
            plan.hold(group)
            for part in self._parts(group, data):
                if any(trial.id in live for trial in part.trials):
                    reached |= self._of_part(part, data, live, epoch)
        except (loop.Interrupted, loop.FolderLocked):
            raise
        except Exception as error:
            if is_transient(error):
                raise
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            self.screen.say(f"group {group.name} failed: {error}")
            failed = Reached(0, "failed", why, None)
            reached |= {t.id: failed for t in group.trials if t.id in live and t.id not in reached}
        return reached

    def _parts(self, group: GroupPlan, data: Prepared) -> Iterator[GroupPlan]:
        """Yield the parts in which a held group is trained here."""
        for part in plan.parts(group):
            yield from plan.for_platform(part, data)

    def _of_part(
        self, group: GroupPlan, data: Prepared, live: Collection[str], epoch: int
    ) -> dict[str, Reached]:
        try:
            run = self._ready(group, data)
        except loop.OutOfMemory as error:
            self.screen.say(f"group {group.name} is split: {error}")
            halves = [half for half in plan.split(group) if any(t.id in live for t in half.trials)]
            found = [self._of_part(half, data, live, epoch) for half in halves]
            return {id_: one for half in found for id_, one in half.items()}
        places = {training_id(trial.config): trial.id for trial in group.trials}
        ids = [places[name] for name in run.trained]
        out = [place for place, id_ in enumerate(ids) if id_ not in live]
        run.group.leave_out(out)
        shown = self.screen.group(group.name, group.trials)
        run.train_to(epoch, self._told.group(group.trials, group.folder, shown))
        which = np.array([id_ in live for id_ in ids])
        return _reached(run.group, ids, which)

    def _ready(self, group: GroupPlan, data: Prepared) -> loop.GroupRun:
        """Return the group with its programs compiled; programs of earlier groups are reused."""
        if group.folder not in self._runs:
            if len(self._programs) >= runtime.GROUPS_KEPT:
                self.close()  # each group continues from its checkpoint
                self._programs.clear()
                runtime.free_programs()
            run = loop.GroupRun(group.trials, data, group.folder, self._make)
            run.ready()
            self._runs[group.folder] = run
        return self._runs[group.folder]

    def _make(self, configs: list[Config], data: Prepared) -> TrialGroup:
        placement = _roomy(len(configs), configs[0].train.parallel)
        return TrialGroup(configs, data, placement, self._programs)

    def _prepared(self, cfg: Config) -> Prepared:
        key = prepare.data_id(cfg)
        if key not in self._data:
            self._data[key] = prepare.prepare(
                cfg,
                tell=self.screen.say,
                progress=self.screen.extracting,
                pace=self.screen.pace,
                dataset=self.dataset,
                split=self.split,
            )
        return self._data[key]


def _roomy(trials: int, spread: devices.Spread) -> Placement:
    """Return how a group uses the devices, with room for more trials than it has.

    Groups of similar sizes can thus share programs. If trials are trained one after another, an
    empty place costs only memory. If trials are batched (vmap), an empty place would cost as much
    as a trial, so there is none.
    """
    usual = devices.placement(trials, spread)
    if isinstance(usual, devices.DataParallel) or usual.how == "vmap":
        return usual
    share = 1 << (usual.share - 1).bit_length()
    return devices.TrialParallel(trials, places=share * len(jax.devices()))


def figure_of(cfg: Config) -> str:
    """Return the name of the figure that a search maximises.

    It is the figure of `train.monitor`, unless that is a loss. For a loss it is the task's headline
    figure or, if that is not measured in each epoch, the first figure that is.
    """
    task = tasks.of(cfg)
    watched = cfg.train.monitor.removeprefix("val_")
    known = task.epoch_figures
    if watched in known:
        return watched
    return task.headline.figure if task.headline.figure in known else known[0]


def _reached(group: TrialGroup, ids: Sequence[str], which: np.ndarray) -> dict[str, Reached]:
    """Return the progress of the trials that `which` marks, by id."""
    validated, name = group.validate(which=which), figure_of(group.cfg)
    assert validated is not None
    found = {}
    for place in np.flatnonzero(which).tolist():
        progress, figures = group.progress[place], validated.figures_N[place]
        standing = Standing(float(figures[name]), float(validated.loss_N[place]))
        found[ids[place]] = Reached(
            progress.epoch,
            progress.status.word,
            progress.status.reason,
            None if progress.status.word == "diverged" else standing,
        )
    return found
