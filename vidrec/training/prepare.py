"""Prepare the clips of a data set: split, encoded or decoded, as arrays for a device.

The result depends only on the data, the encoder and the frames' rule. Trials of a table that agree
in these share the result.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from vidrec.config import Config, canonical, digest, identifying_settings
from vidrec.data import datasets, split_text, splits
from vidrec.data.datasets.base import PARTS, Dataset, UnreadableClip
from vidrec.data.read_ahead import stream_clips
from vidrec.data.remembered import decoded_name, remembered_clips
from vidrec.data.splits import Split
from vidrec.errors import TransientError, UserError
from vidrec.evaluation import tasks
from vidrec.evaluation.task import Task
from vidrec.features import extraction
from vidrec.features.extraction import Progress, TellPace
from vidrec.features.on_disk import OnDisk
from vidrec.features.ragged import Features, Unreadable, ragged
from vidrec.features.store import Store, dependencies
from vidrec.models import encoders
from vidrec.models.encoders.weights import digest as weights_digest
from vidrec.training import devices, ready_made, runtime
from vidrec.training.announcing import announced
from vidrec.training.step import Frozen

Tree = Any
ASSUMED_CLASSES = 10  # for a data set that would have to be downloaded to count its classes
NOTHING_FROZEN = Frozen({}, {}, {}, {})


@dataclass(frozen=True)
class Prepared:
    """What a group of trials trains on, as host arrays.

    Attributes:
        dataset: the clips.
        split: the split of the clips.
        values: features of all clips, concatenated (see features.Features), or uint8 frames if
            the encoder is trained.
        offsets: (n,) int32, index in `values` of each clip's first frame.
        lengths: (n,) int32, number of frames; 0 for an unreadable clip.
        unreadable: the unreadable clips.
        length: frames of a clip that enter the model.
        streams: True if the values do not fit into memory; `values` then has only shape and type.
        on_disk: features that are read from disk during training; None otherwise.
        encoder: the module that is trained with the scanner; None if the encoder is frozen.
        frozen: variables of `encoder` that no trial trains, and initial values of those trained.
        saved: arrays that prediction needs besides the trained model; they are saved with it.
        on_devices: copies of the arrays on devices, by the number of devices; groups share them.
        task: the task of the labels.
    """

    dataset: Dataset
    split: Split
    values: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    unreadable: list[Unreadable]
    length: int
    streams: bool = False
    on_disk: OnDisk | None = None
    encoder: nn.Module | None = None
    frozen: Frozen = NOTHING_FROZEN
    saved: Tree = field(default_factory=dict)
    on_devices: dict[int, Tree] = field(default_factory=dict, compare=False)
    task: Task = field(default_factory=lambda: tasks.named("clip"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the logits."""
        return tuple(self.dataset.classes)

    def clips(self, part: str) -> np.ndarray:
        """Return the indices of the readable clips of a part of the split."""
        chosen = getattr(self.split, part)
        return chosen[self.lengths[chosen] > 0].astype(np.int32)

    def labels(self, clips: np.ndarray) -> np.ndarray:
        """Return the labels of clips, in the form of the task."""
        return self.task.labels_of(self.dataset, clips)

    @property
    def readable(self) -> np.ndarray:
        """Return the indices of all clips that can be read."""
        return np.flatnonzero(self.lengths > 0).astype(np.int32)

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the expected, scored and unreadable clips of each part of the split."""
        return {
            part: {
                "expected": len(getattr(self.split, part)),
                "scored": len(self.clips(part)),
                "unreadable": len(getattr(self.split, part)) - len(self.clips(part)),
            }
            for part in PARTS
        }


class Abstract(NamedTuple):
    """The model of a trial, and the shapes of its inputs, without data.

    Attributes:
        model: the model of the trial.
        frame: shape of one frame that enters the model.
        dtype: type of the frames.
        classes: number of classes.
        frozen: shapes of the variables that no trial trains.
    """

    model: nn.Module
    frame: tuple[int, ...]
    dtype: Any
    classes: int
    frozen: Frozen


def data_id(cfg: Config) -> str:
    """Return a text that is equal for settings that can share prepared data."""
    settings = identifying_settings(cfg) | {"data.root": cfg.data.root}
    sections = ("data.", "encoder.", "frames.", "task.")
    return canonical({name: value for name, value in settings.items() if name.startswith(sections)})


def prepare(
    cfg: Config,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    pace: TellPace | None = None,
    dataset: Dataset | None = None,
    split: Split | None = None,
    kept: ready_made.Kept | None = None,
) -> Prepared:
    """Load, split and encode a data set.

    Args:
        cfg: the settings.
        tell: called with each line that a user should read.
        progress: called while clips are decoded or encoded.
        pace: called with the speed at which frames are encoded.
        dataset: data set to use instead of the one that `cfg.data` names.
        split: split of the clips to use instead of the one that `cfg.data` describes.
        kept: ready-made features that were read for another row of the table.

    Raises:
        UserError: the data cannot be found, split, read or encoded.
    """
    task = tasks.of(cfg)
    dataset = task.labelled(dataset) if dataset else task.load(cfg)
    split = split or splits.make(dataset, cfg.data)
    for line in split_text.describe(dataset, split):
        tell(line)
    room = runtime.room(cfg.train.memory_gb)
    if dataset.is_features:
        kept = kept or ready_made.Kept()
        features = kept.features(dataset, cfg.data.strict, room)
        done = _finished(cfg, dataset, split, features, about=dataset.hashed, kept=kept, tell=tell)
        return announced(done, room, tell)
    cfg = encoders.concrete(cfg)
    module = encoders.build(cfg.encoder)
    for line in encoders.described(cfg):
        tell(line)
    if cfg.encoder.trainable != "none":
        return announced(_with_pixels(cfg, dataset, split, module, progress), room, tell)
    _check_frozen(cfg, module)
    variables = encoders.init(module, cfg.encoder)
    about = dependencies(cfg, weights_digest(variables), module)
    store = Store.of(about)
    batch = extraction.frames_a_batch(cfg.encoder.size, module)
    encode = encoders.extractor(module, variables, batch)
    encode = extraction.cast_features(encode, cfg.encoder.store_dtype)
    work = extraction.Extraction(dataset, store, encode, cfg.encoder.size, batch)
    if line := extraction.ahead(work):
        tell(line)
    features = extraction.fill(
        work, strict=cfg.data.strict, progress=progress, pace=pace, room=room
    )
    saved = {"encoder": variables}
    done = _finished(cfg, dataset, split, features, about=about, saved=saved, tell=tell)
    return announced(done, room, tell)


def _check_frozen(cfg: Config, module: nn.Module) -> None:
    """Refuse settings that need an encoder that trains."""
    if module.takes_clips:
        raise UserError(
            f"encoder.kind = {cfg.encoder.kind!r} sees a whole clip at once, so no frame has "
            "features to keep: encoder.trainable should be all"
        )
    if cfg.encoder.normalize == "standard":
        raise UserError(
            "encoder.normalize = 'standard' depends on the training clips, features in the store "
            "must not: take unit, or train the encoder (encoder.trainable all)"
        )


def _finished(
    cfg: Config,
    dataset: Dataset,
    split: Split,
    features: Features | OnDisk,
    *,
    about: Any,
    saved: Mapping[str, Tree] | None = None,
    kept: ready_made.Kept | None = None,
    tell: Callable[[str], None],
) -> Prepared:
    """Return the prepared features, standardised if set; `about` says what features depend on."""
    saved = dict(saved or {})
    train = _to_train(dataset, split, features)
    if cfg.encoder.standardize or cfg.encoder.pca:
        target = ready_made.Target(dataset.keys, about, runtime.room(cfg.train.memory_gb), tell)
        project = kept.projected if kept else ready_made.project
        projection, features = project(features, train, cfg.encoder.pca, target)
        saved["projection"] = projection._asdict()
    on_disk = features if isinstance(features, OnDisk) else None
    return Prepared(
        dataset,
        split,
        devices.aligned(features.values),
        features.offsets,
        features.lengths,
        features.unreadable,
        length=_length(cfg, features.lengths, train),
        streams=on_disk is not None,
        on_disk=on_disk,
        saved=saved,
        task=tasks.of(cfg),
    )


def _to_train(dataset: Dataset, split: Split, features: Features | OnDisk) -> np.ndarray:
    """Return the training clips that can be read."""
    readable = split.train[features.lengths[split.train] > 0]
    if not len(readable):
        raise UserError(f"no training clip of {dataset.name} can be read")
    return readable


def _with_pixels(
    cfg: Config,
    dataset: Dataset,
    split: Split,
    module: nn.Module,
    progress: Progress | None,
) -> Prepared:
    """Prepare frames for a trained encoder: hold them in memory, or only count too many frames."""
    size = cfg.encoder.size
    needed = int(dataset.lengths.astype(np.int64).sum()) * size * size * 3
    streams = needed > runtime.room(cfg.train.memory_gb)
    features = (_counted if streams else _decoded)(cfg, dataset, progress)
    train = _to_train(dataset, split, features)
    if streams:
        decoded = stream_clips(dataset, train.tolist(), size)
        clips = (np.concatenate(list(part)) for _, part in decoded)
    else:
        clips = (features.of(clip) for clip in train)
    module = encoders.fit_normalisation(module, clips)
    length = _length(cfg, features.lengths, train)
    variables = encoders.init(module, cfg.encoder, frame_shape=_input_shape(cfg, module, length))
    return Prepared(
        dataset,
        split,
        devices.aligned(features.values),
        features.offsets,
        features.lengths,
        features.unreadable,
        length=length,
        streams=streams,
        encoder=module,
        frozen=_frozen(cfg, module, variables),
        task=tasks.of(cfg),
    )


def _input_shape(cfg: Config, module: nn.Module, length: int) -> tuple[int, ...]:
    """Return the shape of an encoder's input: that of a frame, or of a clip."""
    frame = (cfg.encoder.size, cfg.encoder.size, 3)
    return (length, *frame) if module.takes_clips else frame


def _frozen(cfg: Config, module: nn.Module, variables: Mapping[str, Any]) -> Frozen:
    """Divide the variables of an encoder that trains into frozen ones and initial values."""
    encoders.check_batch_norm(cfg.encoder, variables)
    trained = {"params": cfg.encoder.trainable, "batch_stats": cfg.encoder.trainable}
    if cfg.encoder.batch_norm == "frozen":
        trained["batch_stats"] = "none"
    halves = {}
    for name, trainable in trained.items():
        tree = variables.get(name, {})
        mask = encoders.trainable_mask(module, tree, trainable)
        halves[name] = [_under_encoder(half) for half in encoders.partition(tree, mask)]
    (params, init_params), (stats, init_stats) = halves.values()
    collections = {
        name: _under_encoder(tree) for name, tree in variables.items() if name not in halves
    }
    if stats:
        collections["batch_stats"] = stats
    # Random weights differ for each seed; weights of a file are the same for all.
    if cfg.encoder.weights == "random":
        init_params, init_stats = {}, {}
    return Frozen(params, collections, init_params, init_stats)


def _decoded(cfg: Config, dataset: Dataset, progress: Progress | None) -> Features:
    """Decode all frames of a data set."""
    clips: list[np.ndarray | None] = [None] * len(dataset.names)

    def keep(clip: int, chunks: Iterable[np.ndarray]) -> None:
        clips[clip] = np.concatenate(list(chunks))

    return ragged(clips, _each_clip(cfg, dataset, keep, progress, range(len(clips))))


def _counted(cfg: Config, dataset: Dataset, progress: Progress | None) -> Features:
    """Count the frames of all clips by decoding the clips; the counts are cached."""
    size = cfg.encoder.size

    def count(clips: list[int]) -> dict[int, Any]:
        counted: dict[int, Any] = {}

        def add(clip: int, chunks: Iterable[np.ndarray]) -> None:
            frames = sum(len(chunk) for chunk in chunks)
            counted[clip] = [frames, dataset.warnings.get(dataset.names[clip], "")]

        for clip, _, reason in _each_clip(cfg, dataset, add, progress, clips):
            counted[clip] = [0, reason]
        return counted

    name = decoded_name("counted", dataset, cfg.data.fps)
    known = remembered_clips(name, dataset, count)
    unreadable: list[Unreadable] = []
    for clip, (frames, lacking) in known.items():
        if frames and lacking:
            dataset.warnings[dataset.names[clip]] = lacking
        elif not frames:
            unreadable.append(Unreadable(clip, dataset.path(clip), lacking))
    _strictly(cfg, unreadable)
    lengths = np.array([known[clip][0] for clip in range(len(dataset))], np.int32)
    nothing = np.zeros((0, size, size, 3), np.uint8)
    return Features(nothing, np.zeros_like(lengths), lengths, unreadable)


def _strictly(cfg: Config, unreadable: list[Unreadable]) -> None:
    """Raise a UserError if `data.strict` is set and a clip cannot be read."""
    if cfg.data.strict and unreadable:
        _, path, reason = unreadable[0]
        raise UserError(f"{path} cannot be read: {reason}")


def _each_clip(
    cfg: Config,
    dataset: Dataset,
    take: Callable[[int, Iterable[np.ndarray]], None],
    progress: Progress | None,
    clips: Sequence[int],
) -> list[Unreadable]:
    """Pass each decoded clip to `take`; return the clips that cannot be read."""
    unreadable: list[Unreadable] = []
    for done, (clip, chunks) in enumerate(stream_clips(dataset, clips, cfg.encoder.size)):
        try:
            take(clip, chunks)
        except UnreadableClip as error:
            unreadable.append(Unreadable(clip, str(error.path), error.reason))
            _strictly(cfg, unreadable)
        if progress:
            progress(done + 1, len(clips))
    return unreadable


def _under_encoder(tree: Mapping[str, Any]) -> Tree:
    """Return variables under the name that the model gives its encoder."""
    return {"encoder": dict(tree)} if tree else {}


def _length(cfg: Config, lengths: np.ndarray, train: np.ndarray) -> int:
    if cfg.frames.rule == "segment_mean_length":
        return max(1, round(float(lengths[train].mean())))
    if cfg.frames.rule == "whole":
        return int(lengths.max())
    return cfg.frames.length


def dataset_of(cfg: Config, make: bool = True) -> Dataset | None:
    """Return the data set of a trial; None if it cannot be loaded.

    Args:
        cfg: the settings.
        make: whether a missing data set is generated or downloaded, if possible.

    Raises:
        TransientError: the system cannot read the data set at the moment.
    """
    try:
        task = tasks.of(cfg)
        return task.load(cfg) if make else datasets.load_if_there(cfg.data, lambda: task.load(cfg))
    except TransientError:
        raise
    except UserError:
        return None


def data_fingerprint(cfg: Config, make: bool = True) -> str:
    """Return a hash of the data set and its split, or "absent"; part of a trial's id."""
    dataset = dataset_of(cfg, make)
    return fingerprint_of(dataset, cfg) if dataset else "absent"


def fingerprint_of(dataset: Dataset, cfg: Config) -> str:
    """Return a hash of everything in the data that a result depends on, including the split."""
    try:
        split = splits.make(dataset, cfg.data).id
    except UserError:
        split = "none"
    return digest(dataset.fingerprint(), split, length=32)


def trial_id(cfg: Config, fingerprint: str) -> str:
    """Return the id of a trial: a hash of its settings and of the fingerprint of its data."""
    return digest(
        identifying_settings(encoders.concrete(cfg, at_hand=False)), fingerprint, length=16
    )


def abstract(cfg: Config) -> Abstract:
    """Return model and data of a trial as shapes and types alone.

    It needs no data set and computes nothing. A number that only the data show (classes of a user's
    folder, clips in a split) is replaced by a small number.
    """
    from vidrec.models import model

    cfg = encoders.concrete(cfg, at_hand=False)
    classes = class_count(cfg)
    if cfg.encoder.trainable == "none" or ready_made.are_features(cfg):
        built = model.build(cfg, classes, encoder=None)
        return Abstract(built, feature_shape(cfg), np.float32, classes, NOTHING_FROZEN)
    encoder = encoders.build(cfg.encoder)
    seen = _input_shape(cfg, encoder, cfg.frames.length)
    variables = encoders.shapes(encoder, seen)[1]
    built = model.build(cfg, classes, encoder=encoder)
    return Abstract(built, seen[-3:], np.uint8, classes, _frozen(cfg, encoder, variables))


def feature_shape(cfg: Config) -> tuple[int, ...]:
    """Return the shape of one frame's features, (D,) or (h, w, D), without data and weights."""
    if ready_made.are_features(cfg):
        return ready_made.shape(cfg)
    size = cfg.encoder.size
    shape = encoders.feature_shape(cfg.encoder, (size, size, 3))
    return (*shape[:-1], cfg.encoder.pca) if cfg.encoder.pca else shape


def class_count(cfg: Config) -> int:
    """Return the number of classes: those that are named, published, or found in the data."""
    if cfg.data.classes or not ready_made.are_features(cfg):
        known = datasets.known_class_count(cfg.data)
        if known is not None:
            return known
    if cfg.data.kind == "tfds":
        return ASSUMED_CLASSES
    try:
        return len(tasks.of(cfg).load(cfg).classes)
    except TransientError:
        raise
    except UserError:
        return 2


def count_params(cfg: Config) -> int:
    """Count the parameters that a trial trains, from shapes alone, without running statistics."""
    trial = abstract(cfg)
    clip = jax.ShapeDtypeStruct((1, cfg.frames.length, *trial.frame), trial.dtype)
    params = jax.eval_shape(trial.model.init, jax.random.key(0), clip).get("params", {})

    def count(tree: Tree) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    return count(params) - count(trial.frozen.params)
