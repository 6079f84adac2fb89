"""A trained run scored on another split or data set; the run itself stays as it is."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from vidrec.data import datasets, splits
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import stream_clips
from vidrec.errors import UserError
from vidrec.evaluation import decisions, metrics
from vidrec.evaluation.predict.classifier import Classifier, Judged
from vidrec.features.extraction import Progress
from vidrec.features.store import Store, dependencies
from vidrec.io import files, machine
from vidrec.models.encoders.weights import digest as weights_digest

# What the figures mean, part of an evaluation's id: one made before a change is not read for it.
FIGURES = "loss and calibration of probabilities"
Part = Literal["test", "val", "train", "all"]


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
    """Scores a trained run on the clips that the settings name; classes are matched by name.

    Writes config.json, predictions.npz and result.json into FOLDER/evaluations/ID and returns the
    result; what was scored before is only read.

    Args:
        overrides: dotted settings of the data and of `eval`; the rest belongs to the model.
        part: of the data's split; "all" takes every clip and makes no split.
        force: score clips that the model was trained on; the result says how many.
        trust_code: see `Classifier.load`.
        dataset: clips from Python instead of those that the settings name.

    Raises:
        UserError: a setting of the model, no class in common, or clips of the training.
    """
    model = Classifier.load(folder, trust_code=trust_code)
    _check_root(model.cfg.data.root, overrides or {}, dataset)
    for line in model.notes:
        tell(line)
    cfg = pin_code(_settings(model, resolve_setting_paths(overrides or {}, Path.cwd())))
    model = model.with_eval(cfg.eval)
    dataset = dataset or datasets.load(cfg.data)
    clips, split = _clips(dataset, cfg, part)
    clips, left_out = _known(dataset, clips, model.classes)
    overlap = _overlap(model, dataset, clips, force)
    code = digest(
        model.meta["id"], identifying_settings(cfg), dataset.fingerprint(), split, part, FIGURES
    )
    out = Path(folder) / "evaluations" / code
    place: dict[str, Any] = {"dir": str(out.absolute())}
    if (out / "result.json").exists():
        before = files.read_json(out / "result.json", files.RESULT_HOLDS) | place
        before |= _located(dataset, before)
        if cfg.data.strict and before["unreadable"]:
            clip = before["unreadable"][0]
            raise UserError(f"{clip['path']} cannot be read: {clip['reason']}")
        return before
    files.check_writable(out / "result.json")
    for class_name, count in left_out.items():
        tell(f"{count} clips of {class_name} are left out: the model does not know that class")
    found, unreadable = _scored(model, cfg, dataset, clips, progress)
    if not found:
        raise UserError(f"no clip of {dataset.name} can be read, such as {unreadable[0][1]}")
    scored, judged = np.array([clip for clip, _ in found]), [each for _, each in found]
    labels, names = _labels(model, dataset)[scored], np.asarray(dataset.names)
    log_probs_MK = np.stack([each.log_probs_K for each in judged])
    _write(
        out,
        cfg,
        {
            f"{part}_logits": np.stack([each.scores_K for each in judged]).astype(np.float32),
            f"{part}_probabilities": np.exp(log_probs_MK).astype(np.float32),
            f"{part}_labels": labels,
            f"{part}_names": names[scored],
            f"{part}_groups": np.asarray(dataset.groups)[scored],
        },
        {
            "id": code,
            "status": "done",
            "model": {
                "id": model.meta["id"],
                "folder": str(folder),
                "chosen": model.chosen,
                "split": model.meta["split"],
            },
            "counts": {
                part: {
                    "expected": len(clips),
                    "scored": len(scored),
                    "unreadable": len(unreadable),
                }
            },
            "unreadable": [{"path": path, "reason": reason} for _, path, reason in unreadable],
            "unreadable_names": [dataset.names[clip] for clip, _, _ in unreadable],
            "damaged": dict(dataset.warnings),
            "left_out": left_out,
            "metrics": {part: _figures(model, judged, labels)},
            "split": {"id": split, "part": part, **overlap},
            "classes": list(model.classes),
            "data": {"name": dataset.name, "about": dataset.about},
            "versions": machine.versions(),
            **place,
        },
    )
    return files.read_json(out / "result.json", files.RESULT_HOLDS)


def _located(dataset: Dataset, before: Mapping[str, Any]) -> dict[str, Any]:
    """The clips that could not be read, which may have lain elsewhere, where they lie now."""
    names = before.get("unreadable_names", ())
    places = {name: place for place, name in enumerate(dataset.names)} if names else {}
    if not names or any(name not in places for name in names):
        return {}
    found = zip(names, before["unreadable"], strict=True)
    return {"unreadable": [each | {"path": dataset.path(places[name])} for name, each in found]}


def _check_root(root: str, overrides: Mapping[str, Any], dataset: Dataset | None) -> None:
    """Refuses a folder of data that earlier versions recorded as seen from another folder."""
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
        # Which classes to keep was said of the old data; here, those that the model knows.
        overrides = {**overrides, "data.classes": ()}
    return override(model.cfg, overrides)


def _clips(dataset: Dataset, cfg: Config, part: Part) -> tuple[np.ndarray, str]:
    """Indices of the clips to score, and the id of the split that they are a part of."""
    if part == "all":
        return np.arange(len(dataset)), digest(sorted(dataset.names), length=16)
    split = splits.make(dataset, cfg.data)
    return getattr(split, part), split.id


def _known(
    dataset: Dataset, clips: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, dict[str, int]]:
    """The clips whose class the model knows, and how many of which class it does not."""
    names = np.array([dataset.classes[label] for label in dataset.labels[clips]])
    known = np.isin(names, classes)
    if not known.any():
        raise UserError(
            f"the model knows none of the classes of {dataset.name} "
            f"({', '.join(dataset.classes)}); it knows {', '.join(classes)}"
        )
    return clips[known], dict(Counter(names[~known].tolist()))


def _overlap(model: Classifier, dataset: Dataset, clips: np.ndarray, force: bool) -> dict[str, Any]:
    """How these clips and those of the training meet; refuses clips of the training itself.

    Clips are the same where their content is, whatever they are called.
    """
    meta = model.meta
    comparable = meta.get("hashed") == dataset.hashed
    if "train_contents" not in meta:  # of an earlier version, which kept names only
        trained, known_as = set(meta["train_clips"]), dataset.names
    else:
        trained, known_as = set(meta["train_contents"] if comparable else ()), dataset.keys
    places = [place for place, known in enumerate(known_as) if known in trained]
    scored = set(clips.tolist())
    shared = [dataset.names[place] for place in places if place in scored]
    if shared and not force:
        raise UserError(
            f"{len(shared)} of {len(clips)} clips were trained on, such as {shared[0]}: the figure "
            "would say nothing about new ones; take another split or --part, or --force"
        )
    groups = set(dataset.groups[places].tolist())
    siblings = any(group in groups for group in dataset.groups[clips].tolist())
    leaked: bool | str = bool(shared or siblings)
    if not leaked and (not comparable or _may_be_siblings(model, dataset, clips, bool(places))):
        leaked = "unknown"
    return {"leaked": leaked, "trained_on": len(shared) if comparable or shared else None}


def _may_be_siblings(
    model: Classifier, dataset: Dataset, clips: np.ndarray, same_set: bool
) -> bool:
    """True where clips that are new may be cut from recordings that were trained on.

    Args:
        same_set: the training clips are in this data set too.
    """
    if not dataset.groups_known:
        return same_set
    # Recordings of the same name in another data set may be others.
    return bool(set(model.meta["train_groups"]) & set(dataset.groups[clips].tolist()))


def _scored(
    model: Classifier,
    cfg: Config,
    dataset: Dataset,
    clips: np.ndarray,
    progress: Progress,
) -> tuple[list[tuple[int, Judged]], list[tuple[int, str, str]]]:
    """(clip, what the model says of it), and those that cannot be read as (clip, path, reason)."""
    judged, unreadable = [], []
    label_of = _labels(model, dataset)
    for place, (clip, inputs) in enumerate(_inputs(model, cfg, dataset, clips, progress)):
        if isinstance(inputs, UnreadableClip):
            if cfg.data.strict:
                raise UserError(f"{inputs.path} cannot be read: {inputs.reason}")
            unreadable.append((clip, inputs.path, inputs.reason))
        else:
            judged.append((clip, model.evaluated(inputs, label_of[clip])))
        progress(place + 1, len(clips))
    return judged, unreadable


def _labels(model: Classifier, dataset: Dataset) -> np.ndarray:
    """The model's number of each clip's class; -1 of a class that it does not know."""
    place_of = {name: place for place, name in enumerate(model.classes)}
    labels = [place_of.get(dataset.classes[label], -1) for label in dataset.labels]
    return np.array(labels, np.int32)


def _figures(model: Classifier, judged: list[Judged], labels: np.ndarray) -> dict[str, Any]:
    """The figures that training gives of these clips, by the same definitions."""
    scores_MK = np.stack([each.scores_K for each in judged])
    log_probs_MK = np.stack([each.log_probs_K for each in judged])
    figures = metrics.summary(scores_MK, labels, model.classes, log_probs_MK)
    figures["objective"] = float(np.mean([each.objective for each in judged]))
    if model.cfg.eval.inference == "single":
        return figures
    windows = [each.windows_MK for each in judged if each.windows_MK is not None]
    video_W = np.repeat(np.arange(len(windows)), [len(each) for each in windows])
    return figures | decisions.clip_and_video_accuracy(
        np.concatenate(windows), video_W, labels, model.cfg.eval.inference
    )


def _inputs(
    model: Classifier,
    cfg: Config,
    dataset: Dataset,
    clips: np.ndarray,
    progress: Progress,
) -> Iterator[tuple[int, np.ndarray | UnreadableClip]]:
    """(clip, what the model scans of all its frames), in order, or why there is none."""
    if dataset.is_features != model.network.takes_features:
        wanted = "features made elsewhere" if model.network.takes_features else "frames"
        raise UserError(f"{dataset.name}: the model was trained on {wanted}, these are not")
    if dataset.is_features:
        for clip in clips.tolist():
            yield clip, _or_error(partial(dataset.features, clip))
        return
    store = _store(model, cfg)
    if store is None:
        yield from _decoded(model.encode, dataset, clips.tolist(), model.cfg.encoder.size)
        return
    broken = {}
    there = store.keys()
    missing = [clip for clip in clips.tolist() if dataset.key(clip) not in there]
    with contextlib.closing(store):
        found_missing = _decoded(model.extract, dataset, missing, model.cfg.encoder.size)
        for done, (clip, found) in enumerate(found_missing):
            progress(done + 1, len(missing))
            if isinstance(found, UnreadableClip):
                broken[clip] = found
            else:
                store.put(dataset.key(clip), found, dataset.warnings.get(dataset.names[clip], ""))
    store.recall_warnings(dataset, clips.tolist())
    for clip in clips.tolist():
        found = broken.get(clip) or _stored(model, dataset, store, clip)
        yield clip, found if isinstance(found, UnreadableClip) else model.project(found)


def _stored(
    model: Classifier, dataset: Dataset, store: Store, clip: int
) -> np.ndarray | UnreadableClip:
    """A clip's features; damaged ones are made anew."""
    stored = store.get(dataset.key(clip))
    if stored is not None:
        return stored
    [(_, found)] = _decoded(model.extract, dataset, [clip], model.cfg.encoder.size)
    if not isinstance(found, UnreadableClip):
        with contextlib.closing(store):
            store.put(dataset.key(clip), found, dataset.warnings.get(dataset.names[clip], ""))
    return found


def _store(model: Classifier, cfg: Config) -> Store | None:
    """Where training keeps this encoder's features; None where the encoder was trained itself."""
    network = model.network
    if cfg.encoder.trainable != "none" or network.encoder is None:
        return None
    weights = weights_digest(network.variables["encoder"])
    return Store.of(dependencies(cfg, weights, network.encoder))


def _decoded(
    encode: Callable[[np.ndarray], np.ndarray], dataset: Dataset, clips: list[int], size: int
) -> Iterator[tuple[int, np.ndarray | UnreadableClip]]:
    """(clip, its encoded frames), decoded ahead."""
    for clip, chunks in stream_clips(dataset, clips, size):
        yield clip, _or_error(partial(_encoded, encode, chunks))


def _encoded(encode: Callable[[np.ndarray], np.ndarray], chunks: Iterable) -> np.ndarray:
    return np.concatenate([encode(part) for part in chunks])


def _or_error(read: Callable[[], np.ndarray]) -> np.ndarray | UnreadableClip:
    try:
        return read()
    except UnreadableClip as error:
        return error


def _write(
    out: Path, cfg: Config, predictions: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """The folder of an evaluation; result.json last, since it says that the rest is there."""
    files.write_arrays(out / "predictions.npz", predictions)
    files.write_json(out / "config.json", to_dict(cfg))
    files.write_json(out / "result.json", result)
