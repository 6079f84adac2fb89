"""`fit`: trains a group of trials together. The loop only orders effects: run an epoch, write its
figures, save. Everything that is computed is in `steps`; every device is behind `parallel`.
"""

import contextlib
import errno
import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

import jax
import numpy as np

from vidrec import __version__
from vidrec.config import Config, override, plugins, to_dict, user_code
from vidrec.errors import UserError
from vidrec.evaluation import decisions, metrics
from vidrec.io import files, machine, runs
from vidrec.io.checkpoint import Checkpoints, write
from vidrec.models import encoders, model
from vidrec.models.encoders.weights import digest as weights_digest
from vidrec.training import devices, feeds, step
from vidrec.training.prepare import SPLITS, Prepared

Tree = Any
# Of a file system without locks.
NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
METRICS = "metrics.jsonl"
RESULT = "result.json"
COPIES = 10  # that a result names of the clips that stand in two parts
log = logging.getLogger(__name__)


class Interrupted(Exception):
    """Training was asked to stop; what is on disk goes on from there."""


class WorkerLost(Interrupted):
    """Another process of this training has died."""


class OutOfMemory(Exception):
    """A group of several trials should be trained in parts.

    Attributes:
        parts: how many.
    """

    def __init__(self, why: str, parts: int = 2):
        super().__init__(why)
        self.parts = parts


class Changed(UserError):
    """The data are no more those that a trial was planned on."""


class FolderLocked(UserError):
    """The folder is being trained by another process."""


@dataclass(frozen=True)
class TrialRun:
    """A trial of a group: its settings, and the folder that its results go to.

    Attributes:
        data: fingerprint of the data that the trial is of.
    """

    id: str
    config: Config
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""


class Callback(Protocol):
    """Is told how a group goes on; all it does is show it."""

    def compiled(self, seconds: float) -> None: ...

    def epoch(self, number: int, records: Mapping[str, Mapping[str, float]]) -> None: ...

    def should_stop(self) -> bool: ...


class Silent:
    """Shows nothing and never stops."""

    def compiled(self, seconds: float) -> None:
        """The group's program is ready."""

    def epoch(self, number: int, records: Mapping[str, Mapping[str, float]]) -> None:
        """Figures of the trials that trained this epoch, by id."""

    def should_stop(self) -> bool:
        """True ends training after a save."""
        return False


def fit(
    members: Sequence[TrialRun],
    data: Prepared,
    folder: Path,
    watcher: Callback | None = None,
) -> list[dict[str, Any]]:
    """Trains trials of one signature, or goes on where a killed run stopped; scores them.

    Writes checkpoints and metrics of the group into `folder`, and what each trial gave into its
    own; returns the contents of the trials' result.json.

    Raises:
        OutOfMemory: several trials need more memory than there is; nothing was trained.
        Interrupted: the watcher asked to stop; the state is saved.
        FolderLocked: another process trains in this folder.
        UserError: the data does not fit the model, or a file cannot be written.
    """
    return Group(members, data, folder).run(watcher)


class Group:
    """Trials that compile to one program. `ready` may be called ahead, in another thread."""

    def __init__(self, members: Sequence[TrialRun], data: Prepared, folder: Path):
        self.members, self.data, self.folder = members, data, Path(folder)
        self.cfg = members[0].config
        check_watched(members, data)
        fitted = override(self.cfg, {"frames.length": data.length})
        # Variants that differ in scoring only are trained once.
        self.trained = {step.training_id(each.config): each.config for each in members}
        self.over = devices.over(len(self.trained), self.cfg.train.parallel)
        by_step = feeds.by_step(self.cfg, data, self.over)
        encoder = encoders.outside_loops(data.encoder) if by_step else data.encoder
        self.model = model.build(fitted, len(data.classes), self.over.axis_name, encoder)
        self.plan = step.Plan(
            self.cfg,
            self.model,
            data.length,
            len(data.clips("train")),
            len(data.clips("val")),
            self.over.axis_name,
            self.over.shares,
            drops=any(config.scanner.dropout for config in self.trained.values()),
            cuts=bool(data.lengths.max() > data.length),
        )
        self.seconds = {"compile": 0.0, "train": 0.0}
        self.resumed_epoch = 0
        self.begun: feeds.Begun | None = None  # of an epoch that was stopped inside
        self.state: Tree = None
        self.checkpoints = Checkpoints(self.folder / "checkpoints")
        self._claimed: IO | None = None

    def ready(self) -> None:
        """Takes the untrained group or the saved one, and compiles its epoch."""
        with plainly(self.folder):
            make(self.folder)
            self._claimed = _claim(self.folder) if devices.is_main() else None
        try:
            self._ready()
        except BaseException:
            self.close()
            raise

    def _ready(self) -> None:
        began = time.perf_counter()
        seeds = [config.seed for config in self.trained.values()]
        self.feed = feeds.of(self.plan, self.over, self.data, seeds)
        numbers = [step.hyper(config) for config in self.trained.values()]
        self.numbers = self.over.shard(jax.tree.map(lambda *leaves: np.stack(leaves), *numbers))
        self.state = self.feed.init(self.numbers)
        self.host = self.over.fetch(self.state)
        saved = self.checkpoints.restore(self.host)
        if saved:
            _, self.host, meta = saved
            self.seconds |= meta["seconds"]
            self.resumed_epoch, self.begun = meta["epoch"], meta.get("begun")
            self.state = self.over.shard(self.host)
        if self.host.alive.any():
            self.feed.compile(self.state, self.numbers, self.begun)
            self._check_memory(begun=saved is not None)
        self.seconds["compile"] += time.perf_counter() - began

    def _check_memory(self, begun: bool) -> None:
        """Raises OutOfMemory for a group that may still be split: it has no save yet."""
        limit = 1e9 * self.cfg.train.memory_gb or self.over.memory_limit(self.feed.shared)
        needed = devices.memory_needed(self.feed.program)
        if needed > limit and len(self.trained) > 1 and not begun:
            raise OutOfMemory(
                f"{len(self.trained)} trials take {needed / 1e9:.2f} GB of a device, and there are "
                f"{limit / 1e9:.2f}"
            )

    def run(self, watcher: Callback | None = None) -> list[dict[str, Any]]:
        """Trains, scores, and writes what `fit` says."""
        if self.state is None:
            self.ready()
        try:
            with plainly(self.folder):
                if self.host.alive.any():
                    self._train(watcher or Silent())
                self.checkpoints.wait()
                return self._score()
        except jax.errors.JaxRuntimeError as error:
            if devices.processes() == 1:
                raise
            raise WorkerLost(
                f"another process was lost ({str(error).splitlines()[0]}); the same command, "
                "given to all of them, goes on from the last save"
            ) from error
        finally:
            self.close()

    def close(self) -> None:
        """Leaves the folder to others."""
        if self._claimed:
            self._claimed.close()
            self._claimed = None
        self.checkpoints.close()

    def _train(self, watcher: Callback) -> None:
        watcher.compiled(self.seconds["compile"])
        _cut_back(self.folder / METRICS, self.resumed_epoch)
        ids, alive, epoch = list(self.trained), self.host.alive, self.resumed_epoch
        self._saved_at = time.monotonic()

        def pause(state: Tree, begun: Callable[[], feeds.Begun]) -> None:
            self._clock()
            self._save(watcher, state, epoch, begun)

        while alive.any():
            self._since = time.perf_counter()
            self.state, records = self.feed.epoch(self.state, self.numbers, self.begun, pause)
            trained, epoch, self.begun = alive, epoch + 1, None
            alive, status, records = self.over.fetch((self.state.alive, self.state.status, records))
            self.state, self.numbers = self.over.rebalance(alive, (self.state, self.numbers))
            self._clock()
            lines = _lines(ids, trained, epoch, records, status)
            _append(self.folder / METRICS, lines)
            watcher.epoch(epoch, {line["trial"]: line for line in lines})
            self._save(watcher, self.state, epoch, last=not alive.any())

    def _clock(self) -> None:
        """Counts the seconds of training since it was last called."""
        now = time.perf_counter()
        self.seconds["train"] += now - self._since
        self._since = now

    def _save(
        self,
        watcher: Callback,
        state: Tree,
        epoch: int,
        begun: Callable[[], feeds.Begun] | None = None,
        last: bool = False,
    ) -> None:
        """Saves where it is time to; raises Interrupted where the watcher asks to stop."""
        stop = devices.any_process(watcher.should_stop())
        due = time.monotonic() - self._saved_at >= self.cfg.train.save_seconds
        if not devices.any_process(due or stop or last):
            return
        self.host = self.over.fetch(state)
        meta = {"epoch": epoch, "seconds": dict(self.seconds), "trials": list(self.trained)}
        done = 0
        if begun:
            meta["begun"] = begun()
            done = meta["begun"]["steps"]
        if devices.is_main():
            self.checkpoints.save(epoch * self.plan.steps + done, self.host, meta)
        self._saved_at = time.monotonic()
        if stop and not last:
            self.checkpoints.wait()
            inside = f" and {done} of {self.plan.steps} steps" if done else ""
            raise Interrupted(f"stopped after epoch {epoch}{inside}; the same command goes on")

    def _score(self) -> list[dict[str, Any]]:
        """Scores every clip with each trial's best weights, and writes the trials' folders."""
        scores = self._all_scores()
        ids = list(self.trained)
        for member in self.members if devices.is_main() else ():
            place = ids.index(step.training_id(member.config))
            own = {name: each[place] for name, each in scores.items()}
            self._finish(member, place, own)
        devices.barrier()
        return [files.read_result(each.folder) for each in self.members]

    def _all_scores(self) -> dict[str, np.ndarray]:
        """Scores of all readable clips: logits (N, n, K), losses (N, n), steps (N, n, T)."""
        clips = self.data.readable
        size = min(self.cfg.eval.batch_size, len(clips))
        padded = np.resize(clips, (-(-len(clips) // size), size))
        trees = (self.state.best, self.numbers)
        outputs = self.feed.score(step.score, self._scoring(), trees, padded)
        names = ("logits", "losses", "steps")
        scores = {}
        for name, leaf in zip(names, outputs, strict=True):
            flat = leaf.reshape(len(leaf), padded.size, *leaf.shape[3:])[:, : len(clips)]
            scores[name] = np.zeros(
                (len(flat), len(self.data.lengths), *flat.shape[2:]), flat.dtype
            )
            scores[name][:, clips] = flat
        for cfg in (each.config for each in self.members):
            if cfg.eval.inference != "single" and _windows(cfg) not in scores:
                scores[_windows(cfg)] = self._window_scores(clips, cfg)
        return scores

    def _scoring(self) -> step.Plan:
        """Each clip is scored whole, wherever it is."""
        return replace(self.plan, axis_name=None, shares=1)

    def _window_scores(self, clips: np.ndarray, cfg: Config) -> np.ndarray:
        """Weighted log-probabilities of each clip window: (N, windows, K)."""
        starts = decisions.window_table(self.data.lengths, clips, cfg.eval)
        size = min(self.cfg.eval.batch_size, len(starts))
        padded = np.resize(starts, (-(-len(starts) // size), size, 2))
        plan, trees = replace(self._scoring(), cfg=cfg), (self.state.best, self.numbers)
        logits = self.feed.score(step.score_windows, plan, trees, padded)
        return logits.reshape(len(self.trained), -1, logits.shape[-1])[:, : len(starts)]

    def _finish(self, member: TrialRun, place: int, scores: Mapping[str, np.ndarray]) -> None:
        """Writes one trial's folder; result.json last, since it says that the rest is there."""
        scored = self._scored_clips(member.config, scores)
        decided = scored.decide()
        predictions, figures = {}, {}
        for part in SPLITS:
            clips = self.data.clips(part)
            predictions |= {
                f"{part}_logits": decided.scores_nK[clips],
                f"{part}_probabilities": np.exp(decided.log_probs_nK[clips]).astype(np.float32),
                f"{part}_labels": self.data.dataset.labels[clips],
                f"{part}_names": np.asarray(self.data.dataset.names)[clips],
                f"{part}_groups": np.asarray(self.data.dataset.groups)[clips],
            }
            if scores["steps"].shape[-1]:
                predictions[f"{part}_steps"] = self._steps(scores["steps"], clips)
            if len(clips):
                labels = self.data.dataset.labels[clips]
                scores_nK, log_probs_nK = (each[clips] for each in decided)
                figures[part] = metrics.summary(scores_nK, labels, self.data.classes, log_probs_nK)
                figures[part]["objective"] = float(scores["losses"][clips].mean(dtype=np.float64))
                if member.config.eval.inference != "single":
                    figures[part] |= scored.clip_and_video_accuracy(clips, self.data.dataset.labels)
        best = jax.tree.map(lambda leaf: leaf[place], self.host.best)
        status = int(self.host.status[place])
        folder = member.folder
        make(folder)
        weights = self._write_model(member, best)
        files.write_arrays(folder / "predictions.npz", predictions)
        ids = list(self.trained)
        lines = _own_metrics(self.folder / METRICS, folder / METRICS, ids[place], member.id)
        write_json(folder / "model.json", {"layers": self.layers()})
        write_json(folder / "config.json", to_dict(member.config))
        result = {
            "id": member.id,
            **member.about,
            "seed": member.config.seed,
            "status": step.STATUS[status],
            "why": step.WHY[status],
            "counts": self.data.counts(),
            "unreadable": [
                {"path": path, "reason": reason} for _, path, reason in self.data.unreadable
            ],
            "unreadable_names": [self.data.dataset.names[i] for i, _, _ in self.data.unreadable],
            "damaged": dict(self.data.dataset.warnings),
            "metrics": figures,
            "params": sum(leaf.size for leaf in jax.tree.leaves(best.trained)),
            "weights": weights,
            "epochs": int(self.host.epoch[place]),
            "best_epoch": int(best.epoch),
            "epoch_lines": lines,
            "resumed_epoch": self.resumed_epoch,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "trials_in_group": len(self.trained),
            "split": _split(self.data),
            "classes": list(self.data.classes),
            "data": {"name": self.data.dataset.name, **self.data.dataset.about},
            "versions": machine.versions(),
            "code": plugins.records(user_code(member.config)),
            "dir": str(folder.absolute()),
        }
        write_json(folder / RESULT, result)

    def _steps(self, right: np.ndarray, clips: np.ndarray) -> np.ndarray:
        """Of each step of these clips 1 where right, 0 where wrong, -1 behind the clip's end."""
        steps = right[clips].astype(np.int8)
        if self.cfg.frames.rule == "whole":
            behind = np.arange(steps.shape[1]) >= self.data.lengths[clips, None]
            steps[behind] = -1
        return steps

    def layers(self) -> list[dict[str, Any]]:
        """Layers of the model that was trained, by shapes alone."""
        values = self.data.values
        clip = jax.ShapeDtypeStruct((1, self.data.length, *values.shape[1:]), values.dtype)
        return model.layers(self.model, clip)

    def _scored_clips(
        self, config: Config, scores: Mapping[str, np.ndarray]
    ) -> decisions.ScoredClips:
        """The scores by which a trial's inference decides."""
        name = "logits" if config.eval.inference == "single" else _windows(config)
        return decisions.ScoredClips(
            config,
            self.data.lengths,
            self.data.readable,
            scores[name],
            scores["steps"].shape[-1],
        )

    def _sampling(self) -> dict[str, Any]:
        """How long training clips lasted, medians: in frames, and where rates are known in seconds.

        Prediction shows new clips at the same pace.
        """
        clips = self.data.clips("train")
        found: dict[str, Any] = {"clip_frames": int(np.median(self.data.lengths[clips]))}
        rates = self.data.dataset.fps
        known = clips if rates is None else clips[rates[clips] > 0]
        if rates is not None and len(known):
            fps = rates[known].astype(np.float64)
            found["clip_seconds"] = float(np.median(self.data.lengths[known] / fps))
            found["fps"] = float(np.median(fps))
            found["fps_range"] = [float(fps.min()), float(fps.max())]
        return found

    def _write_model(self, member: TrialRun, best: step.Best) -> str:
        """Writes the trained model; returns the hash of its arrays."""
        tree = {
            "trained": best.trained,
            "stats": best.stats,
            "fixed": self.data.fixed,
            "constants": self.data.constants,
            **self.data.kept,
        }
        about = {
            "id": member.id,
            "config": to_dict(member.config),
            "classes": list(self.data.classes),
            "length": self.data.length,
            "frame": list(self.data.values.shape[1:]),
            **self._sampling(),
            "split": {"id": self.data.split.id, "leaked": self.data.split.leaked},
            **_trained_on(self.data),
            "epoch": int(best.epoch),
            "vidrec": __version__,
            "code": plugins.records(user_code(member.config)),
        }
        code = {f"{runs.CODE}/{name}": text for name, text in kept_code([member]).items()}
        arrays = jax.tree.map(np.asarray, tree)
        write(member.folder / "model", arrays, about, code)
        return weights_digest(arrays)[:32]


def kept_code(members: Sequence[TrialRun]) -> dict[str, bytes]:
    """Sources of the users' files that trials name, by path below their folder."""
    return {k: v for each in members for k, v in plugins.files(user_code(each.config)).items()}


def check_watched(members: Sequence[TrialRun], data: Prepared) -> None:
    """Raises a UserError where a trial would stop by validation clips that there are none of."""
    for config in (member.config for member in members):
        for name, value in (("patience", config.train.patience), ("target", config.train.target)):
            if value and not len(data.clips("val")):
                raise UserError(
                    f"train.{name} = {value:g} watches validation clips, and there are none: set "
                    f"it to 0, or data.val above 0"
                )


def record_failure(members: Sequence[TrialRun], data: Prepared | None, error: Exception) -> None:
    """Results of trials that could not be trained: the reason, and no figures.

    `data` is None where not even that could be prepared.
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
        make(member.folder)
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


def _split(data: Prepared) -> dict[str, Any]:
    """What a result says of its split; of many copies the first ones."""
    split = data.split
    return {"id": split.id, "leaked": split.leaked, "copies": list(split.copies[:COPIES])}


def _trained_on(data: Prepared) -> dict[str, Any]:
    """The training clips, so that others can be told from them whatever their names."""
    dataset, clips = data.dataset, data.clips("train")
    groups = sorted(set(dataset.groups[clips].tolist())) if dataset.groups_known else []
    return {
        "train_clips": np.asarray(dataset.names)[data.split.train].tolist(),
        "train_contents": [dataset.keys[clip] for clip in clips],
        "train_groups": groups,
        "hashed": dataset.hashed,
    }


def _windows(cfg: Config) -> str:
    """What the scores of clip windows are called: trials of a group may cut them differently."""
    return f"windows {cfg.eval.window} {cfg.eval.stride}"


def _lines(
    ids: Sequence[str], alive: np.ndarray, epoch: int, records: Tree, status: np.ndarray
) -> list[dict[str, Any]]:
    """An epoch's figures, one line a trial that trained; not-a-numbers become null."""
    names = {
        "train_loss": "train/loss",
        "val_loss": "val/loss",
        "val_accuracy": "val/accuracy",
        "gradient_norm": "grad/norm",
    }
    lines = []
    for place in np.flatnonzero(alive):
        figures = {new: float(records[old][place]) for old, new in names.items()}
        finite = {name: x if np.isfinite(x) else None for name, x in figures.items()}
        state = step.STATUS[int(status[place])]
        lines.append({"trial": ids[place], "epoch": epoch, **finite, "status": state})
    return lines


def _append(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    if devices.is_main():
        files.append_lines(file, lines)


def _cut_back(file: Path, epoch: int) -> None:
    """Drops lines of epochs that will be trained again, and what a kill or damage left of others.

    A line is a figure to look at: losing one must not stop the training.
    """
    if not (file.exists() and devices.is_main()):
        return
    sound, broken = files.sound_lines(file, files.LINE_HOLDS, whole=False)
    for what in broken:
        log.warning("%s; the line is left out", what)
    files.write_lines(file, [line for line in sound if line["epoch"] <= epoch])


def _own_metrics(group: Path, own: Path, trained: str, trial: str) -> int:
    """Writes a trial's lines of its group's, and says how many they are."""
    lines, broken = files.sound_lines(group, files.LINE_HOLDS)
    for what in broken:  # while the group trained
        log.warning("%s; the line is left out", what)
    mine = [line | {"trial": trial} for line in lines if line.get("trial") in (trained, trial)]
    files.write_lines(own, mine)
    return len(mine)


def make(folder: Path) -> None:
    """A folder and those above it, which may be there already; several processes make it once."""
    if not devices.is_main():
        return
    with plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_json(file: Path, content: Any) -> None:
    """A whole file or none; of several processes the leading one writes."""
    if devices.is_main():
        files.write_json(file, content)


def _claim(folder: Path) -> IO:
    """Keeps other processes out of a folder until the file is closed or this process ends."""
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


@contextlib.contextmanager
def plainly(folder: Path) -> Iterator[None]:
    """A full disk or a folder that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise UserError(f"cannot write {place}: {error.strerror or error}") from error
