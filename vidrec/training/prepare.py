"""From settings to arrays: the clips of a data set, split, encoded or decoded, ready for a device.

What is prepared depends on the data, the encoder and the frames' rule only, so all trials of a
table that agree in these share it.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from vidrec.config import Config, canonical, digest, identifying_settings
from vidrec.data import datasets, splits
from vidrec.data.datasets.base import Dataset, UnreadableClip
from vidrec.data.read_ahead import stream_clips
from vidrec.data.remembered import decoded_name, remembered_clips
from vidrec.data.splits import Split
from vidrec.errors import TransientError, UserError
from vidrec.features import extraction
from vidrec.features.extraction import Progress
from vidrec.features.projection import fit_projection
from vidrec.features.ragged import Features, Unreadable, ragged
from vidrec.features.store import Store, dependencies
from vidrec.models import encoders
from vidrec.models.encoders.weights import digest as weights_digest
from vidrec.training import devices, runtime

Tree = Any
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Prepared:
    """What a group of trials trains on, as host arrays.

    Attributes:
        values, offsets, lengths: clips in a row (see features.Features): features, or uint8 frames
            where the encoder is trained.
        encoder: the module that is trained with the scanner; None after a frozen one.
        fixed, start: parameters of `encoder` that stay, and those that trials begin from.
        start_stats: running statistics of `encoder` that trials begin from.
        constants: other collections of `encoder`, and statistics of what stays.
        kept: what predicting needs besides the trained model: arrays, saved with it.
        length: frames of a clip that enter the model.
        streams: the frames are too many to be held, and `values` has only their shape and type.
        placed: the arrays on devices, by their number: groups share them.
    """

    dataset: Dataset
    split: Split
    values: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    unreadable: list[Unreadable]
    length: int
    streams: bool = False
    encoder: nn.Module | None = None
    fixed: Tree = field(default_factory=dict)
    start: Tree = field(default_factory=dict)
    start_stats: Tree = field(default_factory=dict)
    constants: Tree = field(default_factory=dict)
    kept: Tree = field(default_factory=dict)
    placed: dict[int, Tree] = field(default_factory=dict, compare=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return tuple(self.dataset.classes)

    def clips(self, part: str) -> np.ndarray:
        """Indices of the readable clips of a split."""
        chosen = getattr(self.split, part)
        return chosen[self.lengths[chosen] > 0].astype(np.int32)

    @property
    def readable(self) -> np.ndarray:
        """Indices of all clips that can be read."""
        return np.flatnonzero(self.lengths > 0).astype(np.int32)

    def counts(self) -> dict[str, dict[str, int]]:
        """Clips expected, scored and unreadable in each split."""
        return {
            part: {
                "expected": len(getattr(self.split, part)),
                "scored": len(self.clips(part)),
                "unreadable": len(getattr(self.split, part)) - len(self.clips(part)),
            }
            for part in SPLITS
        }


class Abstract(NamedTuple):
    """A trial without data: its model, and the shape and type of one frame that enters it."""

    model: nn.Module
    frame: tuple[int, ...]
    dtype: Any
    classes: int
    fixed: Tree
    start: Tree
    start_stats: Tree
    constants: Tree


def key(cfg: Config) -> str:
    """Equal for configs that share what is prepared."""
    settings = identifying_settings(cfg) | {"data.root": cfg.data.root}
    rooms = ("data.", "encoder.", "frames.")
    return canonical({name: value for name, value in settings.items() if name.startswith(rooms)})


def prepare(
    cfg: Config,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
    dataset: Dataset | None = None,
) -> Prepared:
    """Loads, splits and encodes a data set.

    Args:
        tell: called with each line that a user should read.
        progress: called while clips are decoded or encoded.
        dataset: clips to take instead of those that `cfg.data` names.
    """
    dataset = dataset or datasets.load(cfg.data)
    split = splits.make(dataset, cfg.data)
    for line in splits.describe(dataset, split):
        tell(line)
    if dataset.is_features:
        return _finished(cfg, dataset, split, _ready_made(dataset, cfg.data.strict))
    module = encoders.build(cfg.encoder)
    if cfg.encoder.trainable != "none":
        return _with_pixels(cfg, dataset, split, module, progress)
    _check_frozen(cfg, module)
    variables = encoders.init(module, cfg.encoder)
    store = Store.of(dependencies(cfg, weights_digest(variables), module))
    batch = extraction.frames_a_batch(cfg.encoder.size)
    encode = encoders.extractor(module, variables, batch)
    encode = extraction.cast_features(encode, cfg.encoder.store_dtype)
    work = extraction.Extraction(dataset, store, encode, cfg.encoder.size, batch)
    if expected := extraction.forecast(work):
        tell(str(expected))
    found = extraction.fill(work, strict=cfg.data.strict, progress=progress)
    return _finished(cfg, dataset, split, found, kept={"encoder": variables})


def _check_frozen(cfg: Config, module: nn.Module) -> None:
    """What only an encoder that trains can do."""
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
    found: Features,
    kept: Tree | None = None,
) -> Prepared:
    """Standardises features by the training split, where asked."""
    kept = dict(kept or {})
    readable = _to_train(dataset, split, found)
    values = found.values
    if cfg.encoder.standardize or cfg.encoder.pca:
        projection = fit_projection(found, readable, cfg.encoder.pca)
        values = projection(values)
        kept["projection"] = {"mean": projection.mean, "matrix": projection.matrix}
    return Prepared(
        dataset,
        split,
        devices.aligned(values),
        found.offsets,
        found.lengths,
        found.unreadable,
        length=_length(cfg, found.lengths, readable),
        kept=kept,
    )


def _to_train(dataset: Dataset, split: Split, found: Features) -> np.ndarray:
    """Training clips that can be read."""
    readable = split.train[found.lengths[split.train] > 0]
    if not len(readable):
        raise UserError(f"no training clip of {dataset.name} can be read")
    return readable


def _ready_made(dataset: Dataset, strict: bool) -> Features:
    clips: list[np.ndarray | None] = []
    unreadable: list[Unreadable] = []
    for clip in range(len(dataset.names)):
        try:
            clips.append(dataset.features(clip))
        except UnreadableClip as error:
            if strict:
                raise UserError(f"{error.path} cannot be read: {error.reason}") from None
            clips.append(None)
            unreadable.append(Unreadable(clip, str(error.path), error.reason))
    return ragged(clips, unreadable)


def _with_pixels(
    cfg: Config,
    dataset: Dataset,
    split: Split,
    module: nn.Module,
    progress: Progress | None,
) -> Prepared:
    """Frames for a trained encoder: kept in memory, or where they are too many only counted."""
    size = cfg.encoder.size
    needed = int(dataset.lengths.astype(np.int64).sum()) * size * size * 3
    streams = needed > runtime.room(cfg.train.memory_gb)
    found = (_counted if streams else _decoded)(cfg, dataset, progress)
    readable = _to_train(dataset, split, found)
    if streams:
        parts = (np.concatenate(list(each)) for _, each in stream_clips(dataset, readable, size))
    else:
        starts = found.offsets
        parts = (found.values[starts[i] : starts[i] + found.lengths[i]] for i in readable)
    module = encoders.fit_normalisation(module, parts)
    length = _length(cfg, found.lengths, readable)
    shape = (size, size, 3)
    whole = (length, *shape) if module.takes_clips else shape
    variables = encoders.init(module, cfg.encoder, frame_shape=whole)
    return Prepared(
        dataset,
        split,
        devices.aligned(found.values),
        found.offsets,
        found.lengths,
        found.unreadable,
        length=length,
        streams=streams,
        encoder=module,
        **_parts(cfg, module, variables),
    )


def _parts(cfg: Config, module: nn.Module, variables: Mapping[str, Any]) -> dict[str, Tree]:
    """Variables of an encoder that trains, as `Prepared` holds them."""
    parts = {}
    for name in ("params", "batch_stats"):
        tree = variables.get(name, {})
        mask = encoders.trainable_mask(module, tree, cfg.encoder.trainable)
        parts[name] = [_under_encoder(each) for each in encoders.partition(tree, mask)]
    (fixed, start), (fixed_stats, start_stats) = parts.values()
    constants = {n: _under_encoder(each) for n, each in variables.items() if n not in parts}
    # Random weights are drawn anew for each seed; those of a file are where all begin.
    begun = cfg.encoder.weights != "random"
    return {
        "fixed": fixed,
        "start": start if begun else {},
        "start_stats": start_stats if begun else {},
        "constants": constants | ({"batch_stats": fixed_stats} if fixed_stats else {}),
    }


def _decoded(cfg: Config, dataset: Dataset, progress: Progress | None) -> Features:
    """All frames of a data set."""
    clips: list[np.ndarray | None] = [None] * len(dataset.names)

    def keep(clip: int, chunks: Iterable[np.ndarray]) -> None:
        clips[clip] = np.concatenate(list(chunks))

    return ragged(clips, _each_clip(cfg, dataset, keep, progress, range(len(clips))))


def _counted(cfg: Config, dataset: Dataset, progress: Progress | None) -> Features:
    """Lengths of all clips, as decoded; containers promise other numbers. Remembered."""
    size = cfg.encoder.size

    def count(clips: list[int]) -> dict[int, Any]:
        found: dict[int, Any] = {}

        def add(clip: int, chunks: Iterable[np.ndarray]) -> None:
            frames = sum(len(chunk) for chunk in chunks)
            found[clip] = [frames, dataset.warnings.get(dataset.names[clip], "")]

        for clip, _, reason in _each_clip(cfg, dataset, add, progress, clips):
            found[clip] = [0, reason]
        return found

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
    """Refuses a clip that cannot be read, also one that was met before."""
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
    """Decodes clips for `take`; returns those that cannot be read."""
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
    """Where the model keeps its encoder's variables."""
    return {"encoder": dict(tree)} if tree else {}


def _length(cfg: Config, lengths: np.ndarray, train: np.ndarray) -> int:
    if cfg.frames.rule == "segment_mean_length":
        return max(1, round(float(lengths[train].mean())))
    if cfg.frames.rule == "whole":
        return int(lengths.max())
    return cfg.frames.length


def dataset_of(cfg: Config, make: bool = True) -> Dataset | None:
    """The data set of a trial; None where it cannot be had.

    Args:
        make: a set that can be generated or downloaded is, first.

    Raises:
        TransientError: the system cannot read it now.
    """
    try:
        return datasets.load(cfg.data) if make else datasets.load_if_there(cfg.data)
    except TransientError:
        raise
    except UserError:
        return None


def data_fingerprint(cfg: Config, make: bool = True) -> str:
    """Of the data set and its split, or "absent"; part of a trial's id. See `dataset_of`."""
    dataset = dataset_of(cfg, make)
    return fingerprint_of(dataset, cfg) if dataset else "absent"


def fingerprint_of(dataset: Dataset, cfg: Config) -> str:
    """Hash of everything in the data that a result rests on: clips, labels, groups, the split."""
    try:
        split = splits.make(dataset, cfg.data).id
    except UserError:
        split = "none"
    return digest(dataset.fingerprint(), split, length=32)


FACTS = ("class", "recording", "part", "content")  # of a clip, in the order of `facts`


def facts(dataset: Dataset, cfg: Config) -> dict[str, list[str]]:
    """What a run keeps of each clip by name, so that a later difference can be named."""
    parts = np.full(len(dataset), "none", object)
    with contextlib.suppress(UserError):
        split = splits.make(dataset, cfg.data)
        for part in SPLITS:
            parts[getattr(split, part)] = part
    labels = [dataset.classes[label] for label in dataset.labels]
    each = zip(labels, dataset.groups.tolist(), parts.tolist(), dataset.keys, strict=True)
    return dict(zip(dataset.names, map(list, each), strict=True))


def difference(before: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> str:
    """In which clips two data sets of the same place differ, as `facts` gives them."""
    found = []
    for words, names in (
        ("gone", [name for name in before if name not in now]),
        ("new", [name for name in now if name not in before]),
    ):
        if names:
            found.append(f"{_some(names)} {'is' if len(names) == 1 else 'are'} {words}")
    both = [name for name in before if name in now]
    for place, fact in enumerate(FACTS):
        names = [name for name in both if before[name][place] != now[name][place]]
        if names:
            was, became = before[names[0]][place], now[names[0]][place]
            how = "changed" if fact == "content" else f"was {was} and is {became}"
            found.append(f"the {fact} of {_some(names, how)}")
    return "; ".join(found)


def _some(names: Sequence[str], of_first: str = "") -> str:
    """The first of some names, and how many more."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]} {of_first}".strip() + more


def trial_id(cfg: Config, fingerprint: str) -> str:
    """The id of a trial: what it is, on which data."""
    return digest(identifying_settings(cfg), fingerprint, length=16)


def abstract(cfg: Config) -> Abstract:
    """Model and data of a trial as shapes and types alone: needs no data set and computes nothing.

    Where only the data would tell (classes of a user's folder, clips in a split), small numbers
    stand in.
    """
    from vidrec.models import model

    classes = class_count(cfg)
    if cfg.data.kind == "features" or cfg.encoder.trainable == "none":
        frame, dtype, encoder = feature_shape(cfg), np.float32, None
        parts = {name: {} for name in ("fixed", "start", "start_stats", "constants")}
    else:
        frame, dtype = (cfg.encoder.size, cfg.encoder.size, 3), np.uint8
        encoder = encoders.build(cfg.encoder)
        whole = (cfg.frames.length, *frame) if encoder.takes_clips else frame
        variables = encoders.shapes(encoder, whole)[1]
        parts = _parts(cfg, encoder, variables)
    built = model.build(cfg, classes, encoder=encoder)
    return Abstract(built, frame, dtype, classes, **parts)


def feature_shape(cfg: Config) -> tuple[int, ...]:
    """(D,) or (h, w, D) of one frame's features, without data and without weights."""
    if cfg.data.kind == "features":
        return (cfg.encoder.width,)
    size = cfg.encoder.size
    shape = encoders.feature_shape(cfg.encoder, (size, size, 3))
    return (*shape[:-1], cfg.encoder.pca) if cfg.encoder.pca else shape


def class_count(cfg: Config) -> int:
    """Classes of the data: as named in the settings, as published, or as found."""
    if cfg.data.classes:
        return len(cfg.data.classes)
    known = {"ucf101": 101, "ucf11": 11}
    if cfg.data.kind in known:
        return known[cfg.data.kind]
    if cfg.data.kind == "tfds":
        return {"motion": 10, "ucf101": 101, "ucf11": 11}.get(cfg.data.tfds.split("/")[0], 10)
    try:
        return len(datasets.load(cfg.data).classes)
    except TransientError:
        raise
    except UserError:
        return 2


def count_params(cfg: Config) -> int:
    """How many numbers a trial trains, by shapes alone; running statistics are none."""
    import math

    made = abstract(cfg)
    clip = jax.ShapeDtypeStruct((1, cfg.frames.length, *made.frame), made.dtype)
    params = jax.eval_shape(made.model.init, jax.random.key(0), clip).get("params", {})
    frozen = jax.tree.leaves(made.fixed)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) - sum(
        math.prod(leaf.shape) for leaf in frozen
    )
