"""Score a trained run on another split or data set; the run itself is not changed."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vidrec.config import (
    Config,
    digest,
    identifying_settings,
    override,
    pin_code,
    resolve_setting_paths,
    to_dict,
)
from vidrec.data import splits
from vidrec.data.augment import flips
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.evaluation.predict.classifier import Classifier, Evaluation
from vidrec.evaluation.predict.reading import ClipReader
from vidrec.evaluation.task import Matched, ScoredPart
from vidrec.features.extraction import Progress
from vidrec.io import files, machine

# Part of an evaluation's id: results under an older definition of the figures are not reused.
FIGURES = "loss and calibration of probabilities"
Part = Literal["test", "val", "train", "all"]


class _Selection(NamedTuple):
    """Clips to score.

    Attributes:
        clips: their indices in the data set.
        split: id of the split that the clips belong to.
        left_out: number of clips of each class that the model does not know.
        overlap: entries of the result about clips that are also training clips.
    """

    clips: np.ndarray
    split: str
    left_out: dict[str, int]
    overlap: dict[str, Any]


class _Scores(NamedTuple):
    """The scores of clips.

    Attributes:
        clips: (n,) indices of the clips that could be read.
        evaluations: scores and loss of each of these clips.
        unreadable: (clip, path, reason) of each clip that could not be read.
    """

    clips: np.ndarray
    evaluations: list[Evaluation]
    unreadable: list[tuple[int, str, str]]


def score(
    folder: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None,
    *,
    part: Part = "test",
    force: bool = False,
    trust_code: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda done, total: None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Score a trained run on the clips that the settings name; classes are matched by name.

    Writes config.json, predictions.npz and result.json into FOLDER/evaluations/ID. If the same
    evaluation was done before, its result is read instead.

    Args:
        folder: the folder of a run, a trial or an ablation.
        overrides: dotted settings of `data` and `eval` to change; no others can be changed.
        part: the part of the data's split to score; "all": every clip, without a split.
        force: score even clips that the model was trained on; the result says how many.
        trust_code: see `Classifier.load`.
        tell: is called with lines of text for people.
        progress: is called with the numbers of clips that are done and of all clips.
        dataset: a data set to score instead of the one that the settings name.

    Returns:
        The content of result.json.

    Raises:
        UserError: `overrides` has a setting of the model, data and model share no class, or the
            model was trained on some of the clips and `force` is False.
    """
    model = Classifier.load(folder, trust_code=trust_code)
    _check_root(model.cfg.data.root, overrides or {}, dataset)
    for line in model.notes:
        tell(line)
    cfg = pin_code(_settings(model, resolve_setting_paths(overrides or {}, Path.cwd())))
    flips.check(cfg, model.classes)
    model = model.with_eval(cfg.eval)
    task = tasks.of(cfg)
    dataset = task.labelled(dataset) if dataset else task.load(cfg)
    matched = task.matched(dataset, model.classes)
    selection = _selected(model, dataset, cfg, part, matched=matched, force=force)
    settings = identifying_settings(cfg)
    parts = (model.meta["id"], settings, dataset.fingerprint(), selection.split, part, FIGURES)
    out = Path(folder) / "evaluations" / digest(*parts)
    if (out / "result.json").exists():
        return _earlier(out, dataset, cfg)
    files.check_writable(out / "result.json")
    for class_name, count in selection.left_out.items():
        tell(f"{count} clips of {class_name} are left out: the model does not know that class")
    scores = _scored(ClipReader(model, cfg, dataset), selection.clips, matched, progress)
    labels = matched.labels[scores.clips]
    result = {
        "id": out.name,
        "status": "done",
        "model": {
            "id": model.meta["id"],
            "folder": str(folder),
            "chosen": model.chosen,
            "split": model.meta["split"],
        },
        **_outcome(dataset, selection, scores, part),
        "task": task.kind,
        "metrics": {part: _figures(model, scores.evaluations, labels)},
        "classes": list(model.classes),
        "versions": machine.versions(),
        "dir": str(out.absolute()),
    }
    # result.json is written last: where it exists, the other files are complete.
    files.write_arrays(out / "predictions.npz", _predictions(dataset, scores, labels, part))
    files.write_json(out / "config.json", to_dict(cfg))
    files.write_json(out / "result.json", result)
    return files.read_json(out / "result.json", files.RESULT_HOLDS)


def _selected(
    model: Classifier,
    dataset: Dataset,
    cfg: Config,
    part: Part,
    *,
    matched: Matched,
    force: bool,
) -> _Selection:
    clips, split = _clips(dataset, cfg, part)
    clips, left_out = _known(dataset, clips, matched, model.classes)
    return _Selection(clips, split, left_out, _overlap(model, dataset, clips, force))


def _earlier(out: Path, dataset: Dataset, cfg: Config) -> dict[str, Any]:
    """Return the result of an evaluation that was done before."""
    result = files.read_json(out / "result.json", files.RESULT_HOLDS)
    result |= {"dir": str(out.absolute())}
    result |= _located(dataset, result)
    if cfg.data.strict and result["unreadable"]:
        clip = result["unreadable"][0]
        raise UserError(f"{clip['path']} cannot be read: {clip['reason']}")
    return result


def _outcome(
    dataset: Dataset, selection: _Selection, scores: _Scores, part: Part
) -> dict[str, Any]:
    """Return the entries of a result about its clips."""
    unreadable = scores.unreadable
    count = {
        "expected": len(selection.clips),
        "scored": len(scores.clips),
        "unreadable": len(unreadable),
    }
    split = {"id": selection.split, "part": part, "recordings_known": bool(dataset.groups_known)}
    return {
        "counts": {part: count},
        "unreadable": [{"path": path, "reason": reason} for _, path, reason in unreadable],
        "unreadable_names": [dataset.names[clip] for clip, _, _ in unreadable],
        "damaged": dict(dataset.warnings),
        "left_out": selection.left_out,
        "split": split | selection.overlap,
        "data": {"name": dataset.name, "about": dataset.about},
    }


def _predictions(
    dataset: Dataset, scores: _Scores, labels: np.ndarray, part: Part
) -> dict[str, np.ndarray]:
    """Return the content of predictions.npz."""
    scores_nK = _stacked([one.scores_K for one in scores.evaluations])
    log_probs_nK = np.stack([one.log_probs_K for one in scores.evaluations])
    return {
        f"{part}_logits": scores_nK.astype(np.float32),
        f"{part}_probabilities": np.exp(log_probs_nK).astype(np.float32),
        f"{part}_labels": labels,
        f"{part}_names": np.asarray(dataset.names)[scores.clips],
        f"{part}_groups": np.asarray(dataset.groups)[scores.clips],
    }


def _located(dataset: Dataset, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result's entry of unreadable clips with the paths that they have now."""
    names = before.get("unreadable_names", ())
    index_of = {name: i for i, name in enumerate(dataset.names)} if names else {}
    if not names or any(name not in index_of for name in names):
        return {}
    listed = zip(names, before["unreadable"], strict=True)
    return {"unreadable": [clip | {"path": dataset.path(index_of[name])} for name, clip in listed]}


def _check_root(root: str, overrides: Mapping[str, Any], dataset: Dataset | None) -> None:
    """Refuse a relative `data.root`, which earlier versions recorded: its folder is unknown."""
    if dataset is None and "data.root" not in overrides and root and root[0] not in "/~":
        raise UserError(
            f"the run was trained on data.root = {root!r}, taken from a folder that it does not "
            "name: give --data.root"
        )


def _settings(model: Classifier, overrides: Mapping[str, Any]) -> Config:
    wrong = [name for name in overrides if not name.startswith(("data.", "eval."))]
    if wrong:
        raise UserError(
            f"{wrong[0]} belongs to the trained model: evaluate changes settings of data and eval"
        )
    moved = {"data.kind", "data.tfds", "data.root"} & set(overrides)
    if moved and "data.classes" not in overrides and model.cfg.data.classes:
        # `data.classes` was for the old data; here the classes are those that the model knows.
        overrides = {**overrides, "data.classes": ()}
    return override(model.cfg, overrides)


def _clips(dataset: Dataset, cfg: Config, part: Part) -> tuple[np.ndarray, str]:
    """Return the clips to score, and the id of the split that they belong to."""
    if part == "all":
        return np.arange(len(dataset)), digest(sorted(dataset.names), length=16)
    split = splits.make(dataset, cfg.data)
    return getattr(split, part), split.id


def _known(
    dataset: Dataset, clips: np.ndarray, matched: Matched, classes: Sequence[str]
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the clips whose class the model knows, and the numbers of other clips by class."""
    known = matched.known[clips]
    if not known.any():
        raise UserError(
            f"the model knows none of the classes of {dataset.name} "
            f"({', '.join(dataset.classes)}); it knows {', '.join(classes)}"
        )
    return clips[known], dict(Counter(matched.classes[clips[~known]].tolist()))


def _overlap(model: Classifier, dataset: Dataset, clips: np.ndarray, force: bool) -> dict[str, Any]:
    """Return how many clips are also training clips; refuse them unless forced.

    Two clips are the same if their content is the same, even under different names.
    """
    meta = model.meta
    comparable = meta.get("hashed") == dataset.hashed
    if "train_contents" not in meta:  # of an earlier version, which kept names only
        trained, known_as = set(meta["train_clips"]), dataset.names
    else:
        trained, known_as = set(meta["train_contents"] if comparable else ()), dataset.keys
    seen = [i for i, known in enumerate(known_as) if known in trained]
    scored = set(clips.tolist())
    shared = [dataset.names[i] for i in seen if i in scored]
    if shared and not force:
        raise UserError(
            f"{len(shared)} of {len(clips)} clips were trained on, such as {shared[0]}: the figure "
            "would say nothing about new ones; take another split or --part, or --force"
        )
    groups = set(dataset.groups[seen].tolist())
    siblings = any(group in groups for group in dataset.groups[clips].tolist())
    leaked: bool | str = bool(shared or siblings)
    if not leaked and (not comparable or _may_be_siblings(model, dataset, clips, bool(seen))):
        leaked = "unknown"
    return {"leaked": leaked, "trained_on": len(shared) if comparable or shared else None}


def _may_be_siblings(
    model: Classifier, dataset: Dataset, clips: np.ndarray, same_set: bool
) -> bool:
    """Return whether new clips may come from recordings that the model was trained on.

    Args:
        model: the model.
        dataset: the data set of the clips.
        clips: indices of the clips.
        same_set: True if training clips are in this data set too.
    """
    if not dataset.groups_known:
        return same_set
    # Recordings of the same name in two data sets may be different ones.
    return bool(set(model.meta["train_groups"]) & set(dataset.groups[clips].tolist()))


def _scored(reader: ClipReader, clips: np.ndarray, matched: Matched, progress: Progress) -> _Scores:
    """Score clips; for each clip that cannot be read, the reason is kept.

    Raises:
        UserError: no clip can be read, or `data.strict` is set and a clip cannot be read.
    """
    model, dataset = reader.model, reader.dataset
    scored, evaluations, unreadable = [], [], []
    for done, (clip, inputs) in enumerate(reader.read(clips.tolist(), progress)):
        if isinstance(inputs, UnreadableClip):
            if reader.cfg.data.strict:
                raise UserError(f"{inputs.path} cannot be read: {inputs.reason}")
            unreadable.append((clip, inputs.path, inputs.reason))
        else:
            scored.append(clip)
            evaluations.append(model.evaluate(inputs, matched.labels[clip]))
        progress(done + 1, len(clips))
    if not scored:
        raise UserError(f"no clip of {dataset.name} can be read, such as {unreadable[0][1]}")
    return _Scores(np.array(scored), evaluations, unreadable)


def _stacked(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Stack the scores of clips; scores of frames are padded with -1 to the longest clip."""
    longest = max(map(len, scores))
    if all(len(each) == longest for each in scores):
        return np.stack(scores)
    return np.stack([np.pad(each, (0, longest - len(each)), constant_values=-1) for each in scores])


def _figures(
    model: Classifier, evaluations: Sequence[Evaluation], labels: np.ndarray
) -> dict[str, Any]:
    """Return the figures of these clips, with the same definitions as in training."""
    scores_nK = _stacked([one.scores_K for one in evaluations])
    log_probs_nK = np.stack([one.log_probs_K for one in evaluations])
    task = tasks.of(model.cfg)
    part = ScoredPart(scores_nK, log_probs_nK, labels, model.classes, model.fitted)
    figures = task.summary(part)
    figures["objective"] = float(np.mean([one.objective for one in evaluations]))
    if model.cfg.eval.inference == "single":
        return figures
    windows = [one.windows_MK for one in evaluations if one.windows_MK is not None]
    video_M = np.repeat(np.arange(len(windows)), [len(scores_MK) for scores_MK in windows])
    inference = model.cfg.eval.inference
    return figures | task.of_windows(np.concatenate(windows), video_M, labels, inference)
