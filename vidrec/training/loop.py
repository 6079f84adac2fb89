"""`fit` trains a group of trials: the loop over epochs, their figures and saves.

The computation is in `group` and `step`; `results` writes the files of a finished trial.
"""

import errno
import fcntl
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import jax
import numpy as np

from vidrec.config import Config
from vidrec.errors import UserError
from vidrec.io import files
from vidrec.io.checkpoint import Checkpoints
from vidrec.training import continuing, devices, results, runtime
from vidrec.training.group import PartialEpoch, Snapshot, TrialGroup
from vidrec.training.prepare import Prepared
from vidrec.training.results import METRICS, TrialRun, make_folder, os_errors_as_user_errors
from vidrec.training.step import training_id
from vidrec.training.stopping import Figures, Progress

# Error numbers of a file system without locks.
NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
log = logging.getLogger(__name__)


class Interrupted(Exception):
    """Training was asked to stop; it can continue from the state that is saved on disk."""


class WorkerLost(Interrupted):
    """Another process of this training has died."""


class OutOfMemory(Exception):
    """A group of several trials needs more memory than a device has."""


class FolderLocked(UserError):
    """The folder is being trained by another process."""


class Callback(Protocol):
    """Receives the progress of a group, for display; it may ask to stop."""

    def compiled(self, seconds: float) -> None:
        """Note that the group's programs are ready."""
        ...

    def epoch(self, number: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Receive the figures of the trials that trained in epoch `number`, by id."""
        ...

    def should_stop(self) -> bool:
        """Return True to end training after a save."""
        ...


class Silent:
    """A callback that shows nothing and never stops."""

    def compiled(self, seconds: float) -> None:
        """See `Callback`."""

    def epoch(self, number: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        """See `Callback`."""

    def should_stop(self) -> bool:
        """See `Callback`."""
        return False


def fit(
    members: Sequence[TrialRun],
    data: Prepared,
    folder: Path,
    callback: Callback | None = None,
) -> list[dict[str, Any]]:
    """Train trials of one signature, or continue where a killed run stopped, and score them.

    Writes checkpoints and metrics of the group into `folder`, and each trial's results into its
    own folder.

    Returns:
        The contents of the trials' result.json.

    Raises:
        OutOfMemory: several trials need more memory than there is; nothing was trained.
        Interrupted: the callback asked to stop; the state is saved.
        FolderLocked: another process trains in this folder.
        UserError: the data does not fit the model, or a file cannot be written.
    """
    return GroupRun(members, data, folder).run(callback)


class GroupRun:
    """A group of trials that trains in a folder. `ready` may be called before `run`, in a thread.

    Args:
        members: the trials.
        data: the data that they train on.
        folder: the folder in which the group is saved.
        make: a function that makes the group from the trials' settings and data.
    """

    def __init__(
        self,
        members: Sequence[TrialRun],
        data: Prepared,
        folder: Path,
        make: Callable[[list[Config], Prepared], TrialGroup] = TrialGroup,
    ):
        self.members, self.data, self.folder = members, data, Path(folder)
        check_watched(members, data)
        # Variants that differ in scoring only are trained once.
        self.trained = {training_id(each.config): each.config for each in members}
        self.group = make(list(self.trained.values()), data)
        self.seconds = {"compile": 0.0, "train": 0.0}
        self.resumed_epoch = 0
        self.begun: PartialEpoch | None = None  # trained part of an epoch that was stopped
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self._is_ready = False
        self._claimed: IO | None = None

    def ready(self) -> None:
        """Initialize the group or restore its last checkpoint, and compile its epoch program."""
        make_folder(self.folder)
        with os_errors_as_user_errors(self.folder):
            self._claimed = claim(self.folder) if devices.is_main() else None
        try:
            with os_errors_as_user_errors(self.folder):
                self._ready()
        except BaseException:
            self.close()
            raise

    def _ready(self) -> None:
        began = time.perf_counter()
        self.group.initialize()
        saved = self.checkpoints.restore(self.group.snapshot())
        if saved:
            _, snapshot, meta = saved
            self.group.restore(Snapshot(*snapshot))
            self.seconds |= meta["seconds"]
            self.resumed_epoch, self.begun = meta["epoch"], _begun(meta.get("begun"))
        if self.group.active.any():
            self.group.compile(self.begun.steps if self.begun else 0)
            if not saved:
                self._check_memory()
                self.group.judge_untrained()
                if self.group.cfg.train.continues:
                    continuing.begin(self.group)
            truncate_metrics(self.folder / METRICS, self.resumed_epoch)
        self.seconds["compile"] += time.perf_counter() - began
        self._is_ready = True

    def _check_memory(self) -> None:
        """Raise OutOfMemory if several trials do not fit; the caller can then split the group."""
        count, placement = len(self.trained), self.group.placement
        settings = self.group.cfg.train
        limit = 1e9 * settings.memory_gb or placement.memory_limit(self.group.feed.shared)
        needed = self.group.memory_needed()
        if needed > limit and count > 1:
            raise OutOfMemory(
                f"{count} trials take {needed / 1e9:.2f} GB of a device, and there are "
                f"{limit / 1e9:.2f}"
            )

    def run(self, callback: Callback | None = None) -> list[dict[str, Any]]:
        """Train, score and write results; see `fit`."""
        if not self._is_ready:
            self.ready()
        try:
            with os_errors_as_user_errors(self.folder):
                if self.group.active.any():
                    self._train(callback or Silent())
                self.checkpoints.wait()
                results.write(self.group, self.members, self._log())
            return [files.read_result(each.folder) for each in self.members]
        except jax.errors.JaxRuntimeError as error:
            if runtime.processes() == 1:
                raise
            raise WorkerLost(
                f"another process was lost ({str(error).splitlines()[0]}); the same command, "
                "given to all of them, goes on from the last checkpoint"
            ) from error
        finally:
            self.close()

    def train_to(self, epoch: int, callback: Callback | None = None) -> None:
        """Train until the active trials have completed this number of epochs, and save."""
        if not self._is_ready:
            self.ready()
        with os_errors_as_user_errors(self.folder):
            self._train(callback or Silent(), epoch)
            self.checkpoints.wait()

    def close(self) -> None:
        """Unlock the folder for other processes."""
        if self._claimed:
            self._claimed.close()
            self._claimed = None
        self.checkpoints.close()

    def _log(self) -> results.GroupLog:
        return results.GroupLog(
            self.folder / METRICS, list(self.trained), self.seconds, self.resumed_epoch
        )

    def _train(self, callback: Callback, until: float = math.inf) -> None:
        callback.compiled(self.seconds["compile"])
        ids, group = list(self.trained), self.group
        self._saved_at = time.monotonic()

        def pause(begun: Callable[[], PartialEpoch]) -> None:
            self._count_seconds()
            self._save(callback, begun)

        while group.active.any() and group.epoch < until:
            self._since = time.perf_counter()
            figures, self.begun = group.train_epoch(self.begun, pause), None
            self._count_seconds()
            records = {
                id_: _record(id_, own, progress, group.data.task.epoch_figures)
                for id_, own, progress in zip(ids, figures, group.progress, strict=True)
                if own is not None
            }
            if devices.is_main():
                files.append_lines(self.folder / METRICS, list(records.values()))
            callback.epoch(group.epoch, records)
            self._save(callback, wanted=group.epoch >= until)

    def _count_seconds(self) -> None:
        """Add the seconds of training since this was last called."""
        now = time.perf_counter()
        self.seconds["train"] += now - self._since
        self._since = now

    def _save(
        self,
        callback: Callback,
        begun: Callable[[], PartialEpoch] | None = None,
        *,
        wanted: bool = False,
    ) -> None:
        """Save if it is time to; raise Interrupted if the callback asks to stop.

        Args:
            callback: may ask to stop.
            begun: returns the trained part of an unfinished epoch; None between epochs.
            wanted: save in any case.
        """
        last = not begun and not self.group.active.any()
        stop = devices.any_process(callback.should_stop())
        due = time.monotonic() - self._saved_at >= self.group.cfg.train.save_seconds
        if not devices.any_process(due or stop or last or wanted):
            return
        epoch, steps, done = self.group.epoch, self.group.spec.steps_per_epoch, 0
        meta = {"epoch": epoch, "seconds": dict(self.seconds), "trials": list(self.trained)}
        if begun:
            done, sums = begun()
            own = {name: leaf.tolist() for name, leaf in sums.items()}
            meta["begun"] = {"steps": done, "sums": own}
        snapshot = self.group.snapshot()
        if devices.is_main():
            self.checkpoints.save(epoch * steps + done, snapshot, meta)
        self._saved_at = time.monotonic()
        if stop and not last:
            self.checkpoints.wait()
            inside = f" and {done} of {steps} steps" if done else ""
            raise Interrupted(f"stopped after epoch {epoch}{inside}; the same command goes on")


def _begun(meta: Mapping[str, Any] | None) -> PartialEpoch | None:
    if not meta:
        return None
    return PartialEpoch(
        meta["steps"], {n: np.array(x, np.float32) for n, x in meta["sums"].items()}
    )


def _record(
    id_: str, figures: Figures, progress: Progress, validated: Sequence[str]
) -> dict[str, Any]:
    """Return a trial's line of an epoch; numbers that are not finite become null.

    Args:
        id_: id of the trial.
        figures: figures of the epoch.
        progress: progress of the trial after the epoch.
        validated: names of the task's figures; their values are null without validation clips.
    """
    named = {
        "train/loss": figures.train_loss,
        "val/loss": figures.val_loss,
        **{f"val/{name}": figures.val.get(name) for name in validated},
        "grad/norm": figures.gradient_norm,
    }
    finite = {n: x if x is not None and np.isfinite(x) else None for n, x in named.items()}
    return {"trial": id_, "epoch": progress.epoch, **finite, "status": progress.status.word}


def check_watched(members: Sequence[TrialRun], data: Prepared) -> None:
    """Raise a UserError if a trial would stop by validation clips and there are none."""
    for config in (member.config for member in members):
        for name, value in (("patience", config.train.patience), ("target", config.train.target)):
            if value and not len(data.clips("val")):
                raise UserError(
                    f"train.{name} = {value:g} watches validation clips, and there are none: set "
                    f"it to 0, or data.val above 0"
                )


def truncate_metrics(file: Path, epoch: int) -> None:
    """Drop lines of epochs that will be trained again, and lines that are incomplete or damaged.

    The lines are only for people to read, so a lost line must not stop the training.
    """
    if not (file.exists() and devices.is_main()):
        return
    sound, broken = files.sound_lines(file, files.LINE_HOLDS, whole=False)
    for what in broken:
        log.warning("%s; the line is left out", what)
    files.write_lines(file, [line for line in sound if line["epoch"] <= epoch])


def claim(folder: Path) -> IO:
    """Keep other processes out of a folder until the file is closed or this process ends."""
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FolderLocked(
            f"{folder} is being trained by another process: wait for it, or take another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise
    return file
