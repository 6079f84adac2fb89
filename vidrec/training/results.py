"""Write the results of a finished trial: scores, figures, weights and result.json."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vidrec import __version__
from vidrec.config import Config, override, plugins, to_dict, user_code
from vidrec.data import splits
from vidrec.data.datasets.base import PARTS, WARNING, Dataset
from vidrec.errors import UserError
from vidrec.evaluation import decisions
from vidrec.evaluation.task import Fitted, ScoredPart
from vidrec.io import checkpoint, files, machine, runs
from vidrec.models import model
from vidrec.models.encoders.weights import digest as weights_digest
from vidrec.training import devices
from vidrec.training.group import TrialGroup
from vidrec.training.prepare import Prepared
from vidrec.training.step import Scores, TrainState, Weights, training_id
from vidrec.training.stopping import Progress

Tree = Any
METRICS = "metrics.jsonl"
RESULT = "result.json"
COPIES = 10  # largest number of clips found in two parts of the split that a result names
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialRun:
    """A trial and the folder that its results go to.

    Attributes:
        about: further entries of result.json: the run's name, its row, its group.
        data: fingerprint of the trial's data.
    """

    id: str
    config: Config
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""


def is_finished(trials: Sequence[TrialRun]) -> bool:
    """Return True if every trial has its result."""
    return all((trial.folder / RESULT).exists() for trial in trials)


class GroupLog(NamedTuple):
    """How a group was trained.

    Attributes:
        metrics: file with a line for each trial and epoch.
        ids: training ids of the trials, in the group's order.
        seconds: seconds spent on compiling and on training.
        resumed_epoch: number of epochs that were trained before this process continued.
    """

    metrics: Path
    ids: list[str]
    seconds: dict[str, float]
    resumed_epoch: int


class Trained(NamedTuple):
    """One trial of a trained group, on the host.

    Attributes:
        best: weights of the best epoch.
        last: training state after the last epoch.
    """

    best: Weights
    last: TrainState
    progress: Progress


def write(group: TrialGroup, members: Sequence[TrialRun], trained: GroupLog) -> None:
    """Score every clip with each trial's best weights, and write the trials' folders."""
    whole = _clip_scores(group, members)
    windows = _window_scores(group, members)
    snapshot = group.snapshot()
    layers = _layers(group)
    for member in members if devices.is_main() else ():
        place = trained.ids.index(training_id(member.config))
        best, last = (
            jax.tree.map(lambda leaf, place=place: leaf[place], tree)
            for tree in (snapshot.best, snapshot.state)
        )
        own = Trained(best, last, group.progress[place])
        scores = Scores(
            *(_of_all(group.data, leaf[place]) for leaf in whole[member.config.eval.views])
        )
        cut = None
        if member.config.eval.inference != "single":
            cut = windows[_windows_name(member.config)][place]
        _Writer(group, member, own, scores).write(trained, cut, layers)
    devices.barrier()


def _clip_scores(group: TrialGroup, members: Sequence[TrialRun]) -> dict[str, Scores]:
    """Score every readable clip in one pass, (N, n, …), for each `eval.views` of the trials."""
    by_views = {member.config.eval.views: member.config for member in members}
    return {
        name: group.score(group.data.readable, cfg=override(cfg, {"eval.views": name}))
        for name, cfg in by_views.items()
    }


def _window_scores(group: TrialGroup, members: Sequence[TrialRun]) -> dict[str, np.ndarray]:
    """Return the scores (N, windows, K) of the windows of clips that trials use, by name."""
    scores: dict[str, np.ndarray] = {}
    for cfg in (member.config for member in members):
        name = _windows_name(cfg)
        if cfg.eval.inference != "single" and name not in scores:
            table = decisions.window_table(group.data.lengths, group.data.readable, cfg.eval)
            scores[name] = group.score_windows(table, cfg)
    return scores


def _layers(group: TrialGroup) -> list[dict[str, Any]]:
    """Return the layers of the model that a group trained, by shapes alone."""
    values = group.data.values
    clip = jax.ShapeDtypeStruct((1, group.data.length, *values.shape[1:]), values.dtype)
    return model.layers(group.spec.model, clip)


def _of_all(data: Prepared, values: np.ndarray) -> np.ndarray:
    """Return a row for every clip, from the rows of readable clips; the others have zeros."""
    whole = np.zeros((len(data.lengths), *values.shape[1:]), values.dtype)
    whole[data.readable] = values
    return whole


def _scored(data: Prepared, cfg: Config, scores: Scores, windows: Tree) -> decisions.ScoredClips:
    """Return the scores from which a trial's inference decides each clip."""
    by = scores.scores_BK if windows is None else windows
    frames = scores.correct_BT.shape[1]
    return decisions.ScoredClips(cfg, data.lengths, data.readable, by, frames)


class _Writer:
    """Writes one trial's folder."""

    def __init__(self, group: TrialGroup, member: TrialRun, trained: Trained, scores: Scores):
        self.group, self.data, self.member = group, group.data, member
        self.trained, self.scores = trained, scores

    def write(
        self, log_: GroupLog, windows: np.ndarray | None, layers: list[dict[str, Any]]
    ) -> None:
        """Write all files; result.json is the last, since it shows that the others are complete.

        Args:
            log_: how the group was trained.
            windows: scores of the windows that decide clips; None with inference `single`.
            layers: layers of the model.
        """
        folder, trial = self.member.folder, self.member
        make_folder(folder)
        scored = _scored(self.data, trial.config, self.scores, windows)
        decided = scored.decide()
        fitted = self._fitted(decided)
        weights = self._write_model(fitted)
        self._write_last_state()
        predictions, figures = self._predictions(decided, fitted)
        if windows is not None:
            self._add_windows(figures, scored)
        files.write_arrays(folder / "predictions.npz", predictions)
        lines = _own_metrics(log_.metrics, folder / METRICS, training_id(trial.config), trial.id)
        write_json(folder / "model.json", {"layers": layers})
        write_json(folder / "config.json", to_dict(trial.config))
        progress, data = self.trained.progress, self.data
        result = {
            "id": trial.id,
            **trial.about,
            "seed": trial.config.seed,
            "status": progress.status.word,
            "why": progress.status.reason,
            "counts": data.counts(),
            "unreadable": [{"path": path, "reason": why} for _, path, why in data.unreadable],
            "unreadable_names": [data.dataset.names[i] for i, _, _ in data.unreadable],
            "damaged": dict(data.dataset.warnings),
            "data_warnings": _warnings(data.dataset),
            "task": self.data.task.kind,
            "metrics": figures,
            **({"fitted": fitted} if fitted else {}),
            "params": sum(leaf.size for leaf in jax.tree.leaves(self.trained.best.params)),
            "weights": weights,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "epoch_lines": lines,
            "resumed_epoch": log_.resumed_epoch,
            "seconds": {name: round(value, 3) for name, value in log_.seconds.items()},
            "trials_in_group": len(log_.ids),
            "split": _split(data),
            "classes": list(data.classes),
            "data": {"name": data.dataset.name, **data.dataset.about},
            "versions": machine.versions(),
            "code": plugins.records(user_code(trial.config)),
            "dir": str(folder.absolute()),
        }
        write_json(folder / RESULT, result)

    def _part(self, decided: decisions.Decision, part: str, fitted: Fitted) -> ScoredPart:
        """Return the decided clips of a part of the split."""
        clips = self.data.clips(part)
        scores_nK, log_probs_nK = (leaf[clips] for leaf in decided)
        labels, classes = self.data.labels(clips), self.data.classes
        return ScoredPart(scores_nK, log_probs_nK, labels, classes, fitted)

    def _fitted(self, decided: decisions.Decision) -> Fitted:
        """Return what the task fits to validation clips for its decisions."""
        if not len(self.data.clips("val")):
            return {}
        return self.data.task.fit(self._part(decided, "val", {}))

    def _add_windows(self, figures: dict[str, Any], scored: decisions.ScoredClips) -> None:
        """Add the figures of windows for the clips that they decided."""
        for part in figures:
            clips = self.data.clips(part)
            figures[part] |= scored.of_windows(clips, self.data.labels(clips))

    def _predictions(
        self, decided: decisions.Decision, fitted: Fitted
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays of predictions.npz, and the figures of each part of the split."""
        dataset, scores = self.data.dataset, self.scores
        exact = self.data.task.exact_probabilities
        predictions: dict[str, np.ndarray] = {}
        figures: dict[str, Any] = {}
        for part in PARTS:
            clips = self.data.clips(part)
            of_part = self._part(decided, part, fitted)
            predictions |= {
                f"{part}_logits": of_part.scores,
                f"{part}_probabilities": np.exp(of_part.log_probs).astype(np.float32),
                f"{part}_labels": of_part.labels,
                **({f"{part}_log_probabilities": of_part.log_probs} if exact else {}),
                f"{part}_names": np.asarray(dataset.names)[clips],
                f"{part}_groups": np.asarray(dataset.groups)[clips],
            }
            if scores.correct_BT.shape[-1]:
                predictions[f"{part}_steps"] = self._correct_frames(clips)
            if not len(clips):
                continue
            figures[part] = self.data.task.summary(of_part)
            figures[part]["objective"] = float(scores.losses_B[clips].mean(dtype=np.float64))
        return predictions, figures

    def _correct_frames(self, clips: np.ndarray) -> np.ndarray:
        """Return for each frame 1 if right, 0 if wrong, and -1 after the clip's end, int8."""
        correct = self.scores.correct_BT[clips].astype(np.int8)
        if self.group.cfg.frames.rule == "whole":
            behind = np.arange(correct.shape[1]) >= self.data.lengths[clips, None]
            correct[behind] = -1
        return correct

    def _write_model(self, fitted: Fitted) -> str:
        """Write the model of the best epoch; return the hash of its arrays."""
        best, data, member = self.trained.best, self.data, self.member
        tree = {
            "trained": best.params,
            "stats": best.batch_stats,
            "fixed": data.frozen.params,
            "constants": data.frozen.collections,
            **data.saved,
        }
        about = {
            "id": member.id,
            "config": to_dict(member.config),
            "classes": list(data.classes),
            "length": data.length,
            "frame": list(data.values.shape[1:]),
            **_sampling(data),
            "class_weights": list(self.group.spec.class_weights),
            "fitted": fitted,
            "split": {"id": data.split.id, "leaked": data.split.leaked},
            **_trained_on(data),
            "epoch": self.trained.progress.best_epoch,
            "vidrec": __version__,
            "code": plugins.records(user_code(member.config)),
        }
        code = {f"{runs.CODE}/{name}": text for name, text in kept_code([member]).items()}
        arrays = jax.tree.map(np.asarray, tree)
        checkpoint.write(member.folder / "model", arrays, about, code)
        return weights_digest(arrays)[:32]

    def _write_last_state(self) -> None:
        """Write the state after the last epoch, optimiser included, to continue from."""
        state, progress = self.trained.last, self.trained.progress
        about = {"id": self.member.id, "epoch": progress.epoch, "vidrec": __version__}
        arrays = jax.tree.map(np.asarray, state._asdict())
        checkpoint.write(self.member.folder / runs.LAST_STATE, arrays, about)


def kept_code(members: Sequence[TrialRun]) -> dict[str, bytes]:
    """Return the source files of users' code that trials name, by path in the code folder."""
    return {k: v for each in members for k, v in plugins.files(user_code(each.config)).items()}


def record_failure(members: Sequence[TrialRun], data: Prepared | None, error: Exception) -> None:
    """Write results of trials that could not be trained: the reason, and no figures.

    `data` is None if the data could not be prepared.
    """
    known = {}
    if data:
        known = {
            "counts": data.counts(),
            "split": _split(data),
            "classes": list(data.classes),
            "data": {"name": data.dataset.name, **data.dataset.about},
        }
    nothing = {"counts": {}, "split": {"id": "", "leaked": "unknown"}, "classes": [], "data": {}}
    for member in members:
        make_folder(member.folder)
        write_json(member.folder / "config.json", to_dict(member.config))
        result = {
            "id": member.id,
            **member.about,
            "seed": member.config.seed,
            "status": "failed",
            "why": f"{type(error).__name__}: {error}".splitlines()[0],
            "unreadable": [],
            **nothing,
            **known,
            "metrics": {},
            "params": 0,
            "epochs": 0,
            "seconds": {"compile": 0.0, "train": 0.0},
            "versions": machine.versions(),
            "code": plugins.records(user_code(member.config)),
            "dir": str(member.folder.absolute()),
        }
        write_json(member.folder / RESULT, result)


def _warnings(dataset: Dataset) -> list[str]:
    """Return what the data set warns of, such as folders that are left out."""
    warned = [line for line in dataset.notes if line.startswith(WARNING)]
    return [line.removeprefix(WARNING) for line in warned]


def _split(data: Prepared) -> dict[str, Any]:
    """Return what a result says about its split; of many copies it names only the first."""
    split = data.split
    return {
        "id": split.id,
        "leaked": split.leaked,
        "copies": list(split.copies[:COPIES]),
        "copied_tests": splits.copied_tests(split),
        "leaks_into_test": splits.leaks_into_test(split),
        "recordings_known": bool(data.dataset.groups_known),
    }


def _trained_on(data: Prepared) -> dict[str, Any]:
    """Describe the training clips by their content, so that other clips can be recognised."""
    dataset, clips = data.dataset, data.clips("train")
    groups = sorted(set(dataset.groups[clips].tolist())) if dataset.groups_known else []
    return {
        "train_clips": np.asarray(dataset.names)[data.split.train].tolist(),
        "train_contents": [dataset.keys[clip] for clip in clips],
        "train_groups": groups,
        "hashed": dataset.hashed,
    }


def _windows_name(cfg: Config) -> str:
    """Name the scores of clip windows: trials of a group may cut them differently."""
    return f"windows {cfg.eval.window} {cfg.eval.stride} {cfg.eval.views}"


def _sampling(data: Prepared) -> dict[str, Any]:
    """Return the median length of training clips, in frames and, if rates are known, in seconds.

    Prediction samples new clips at the same rate.
    """
    clips = data.clips("train")
    found: dict[str, Any] = {"clip_frames": int(np.median(data.lengths[clips]))}
    rates = data.dataset.fps
    known = clips if rates is None else clips[rates[clips] > 0]
    if rates is not None and len(known):
        fps = rates[known].astype(np.float64)
        found["clip_seconds"] = float(np.median(data.lengths[known] / fps))
        found["fps"] = float(np.median(fps))
        found["fps_range"] = [float(fps.min()), float(fps.max())]
    return found


def _own_metrics(group: Path, own: Path, trained: str, trial: str) -> int:
    """Write a trial's lines of its group's metrics; return the number of lines."""
    lines, broken = files.sound_lines(group, files.LINE_HOLDS)
    for what in broken:  # lines that were damaged while the group trained
        log.warning("%s; the line is left out", what)
    mine = [line | {"trial": trial} for line in lines if line.get("trial") in (trained, trial)]
    files.write_lines(own, mine)
    return len(mine)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if they do not exist; only the main process does this."""
    if not devices.is_main():
        return
    with os_errors_as_user_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Write a whole file or none; only the main process writes."""
    if devices.is_main():
        files.write_json(file, content)


@contextlib.contextmanager
def os_errors_as_user_errors(folder: Path) -> Iterator[None]:
    """Report a full disk, or a folder that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise UserError(f"cannot write {place}: {error.strerror or error}") from error
