"""Every setting of a run: frozen dataclasses, one flat section a stage of the flow.

Dimension letters of the whole code: B clips, T frames, H W C pixels, D features, U units,
K classes, N trials. A *row* is one setting of an ablation, a *trial* a row with one seed.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from vidrec import files, usercode
from vidrec.errors import TransientError, UserError, check_spelling, is_transient


@dataclass(frozen=True)
class Range:
    """Closed interval that a number must lie in."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        low, high = (f"{x:g}" if isinstance(x, float) else str(x) for x in (self.low, self.high))
        return (
            f"at least {low}" if self.high in (float("inf"), MOST) else f"between {low} and {high}"
        )


@dataclass(frozen=True)
class Pattern:
    """Text that must match a regular expression, said in words."""

    regex: str
    words: str

    def __str__(self) -> str:
        return self.words


MOST = 2**31 - 1  # whole numbers enter compiled programs in 32 bits
Count = Annotated[int, Range(1, MOST)]
Whole = Annotated[int, Range(0, MOST)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # 32 bits of a key: a larger one would repeat another
Positive = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
# A class of the user's own: the file is hashed by content, so editing it makes a new trial.
UserFile = Annotated[str, Pattern(usercode.SPEC, "path.py:Name")]


@dataclass(frozen=True)
class Data:
    """Where clips come from and how they are split."""

    kind: Literal["tfds", "ucf101", "ucf11", "videos", "images", "features"] | UserFile = "tfds"
    root: str = ""  # folder of the data (for tfds: its data_dir); never part of a trial's id
    tfds: str = ""  # TFDS name, for example motion, motion/memory or ucf101
    classes: tuple[str, ...] = ()  # keep only these; none named: all
    split: Literal["given", "group", "random"] = "group"  # random leaks siblings: a control
    fold: Whole = 0  # official list, left-out group or fold, counted from 1; 0: the fixed split
    folds: Whole = 0  # group k-fold: this many folds, of which `fold` is tested
    split_seed: Seed = 0
    test: Positive = 0.2  # share of clips (below 1) or number of clips (1 and above)
    val: Positive = 0.2  # carved from training, the same way
    val_by: Literal["group", "clip"] = "group"  # by clip leaks into validation: a control
    swapped: bool = False  # train on the test list and test on the training list (report A)
    groups: str = ""  # regex whose first bracket names the source of a clip
    fps: Positive = 0  # resample videos to this many frames a second; 0: as filmed
    strict: bool = False  # an unreadable clip stops the run instead of being listed


@dataclass(frozen=True)
class Frames:
    """Which frames of a clip a model sees."""

    length: Count = 30
    rule: Literal["segment", "uniform", "mean", "whole"] = "segment"  # mean: mean length of train
    order: Literal["kept", "shuffled", "single"] = "kept"  # the last two are controls


@dataclass(frozen=True)
class Encoder:
    """A frame (or a clip, for c3d) to features."""

    kind: Literal["none", "cnn", "cnn3", "vgg9", "vgg16", "squeezenet", "c3d"] | UserFile = "cnn"
    weights: str = "random"  # random, imagenet, a .h5 or .safetensors file, or a finished run
    trainable: Literal["none", "head", "last_block", "last_two_blocks", "all"] = "none"
    readout: Literal["average", "map", "dense", "flatten", "moments"] = "moments"
    width: Count = 1024  # of the dense readout
    size: Count = 64  # height and width that frames are resized to
    normalise: Literal["unit", "standard", "caffe", "torch"] = "unit"
    seed: Seed = 0  # of random weights; a frozen encoder is shared by all seeds of a table
    init: Literal["own", "normal"] = "own"  # of random weights: the encoder's, or normal(0, 0.1)
    standardise: bool = False  # centre and scale features by the training split's statistics
    components: Whole = 0  # then keep this many principal components; 0: all
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of features in the store
    compute: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False  # recompute activations in the backward pass


@dataclass(frozen=True)
class Scanner:
    """A recurrence over the frames' features."""

    kind: Literal["none", "mean", "lstm", "gru", "mingru", "convlstm"] | UserFile = "lstm"
    units: Count = 64
    layers: Count = 1
    bidirectional: Literal["no", "concat", "sum"] = "no"
    dense: tuple[Count, ...] = ()  # linear layers before the recurrence
    kernel: Count = 3  # of convlstm
    bias: Literal["single", "double"] = "single"  # Keras has one bias vector a gate, PyTorch two
    reset_after: bool = True  # GRU: the reset gate acts after the recurrent product
    init: Literal["keras", "torch", "normal"] = "keras"
    forget_bias: float | None = None  # LSTM's at the start; None: 1 as Keras has it, else 0
    batch_norm: bool = False  # after every layer, the last included
    dropout: Share = 0.0  # share dropped after every layer, the last included
    compute: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Head:
    """From states to class scores."""

    kind: Literal["last", "mean", "every", "flatten"] = "last"
    dense: tuple[Count, ...] = ()  # hidden layers before the output
    activation: Literal["softmax", "relu"] = "softmax"


@dataclass(frozen=True)
class Loss:
    """What is minimised."""

    kind: Literal["cross_entropy", "keras_cross_entropy", "double_softmax"] = "cross_entropy"
    step_weights: Literal["scaled", "sum"] = "scaled"  # (j+1)/L or 1 for step j of head.kind every


@dataclass(frozen=True)
class Optim:
    """One optax chain: clip, L2, optimiser, schedule.

    `clip_norm` bounds, at the gradient, the L2 norm of the batch's mean gradient over all trained
    arrays; at the pre-activation, every single derivative of one clip's own loss (in nats, summed
    over its weighted steps, not divided by the clips of a batch) with respect to what enters a
    gate of the recurrence, to within plus or minus that many nats per unit. So a value means
    another thing at each place: a framework that clips there the derivative of a batch's mean loss
    reaches the same with clip_norm / train.batch_size.
    """

    kind: Literal["sgd", "momentum", "adam", "rmsprop"] | UserFile = "adam"
    learning_rate: Positive = 1e-3
    momentum: Share = 0.9
    weight_decay: Positive = 0.0
    decoupled: bool = False  # decay after the optimiser instead of L2 added to the gradient
    clip_norm: Positive = 0.0  # L2 norm of a batch's mean gradient, or as clip_at says; 0: off
    # preactivation: clip_norm bounds each derivative of one clip's loss (nats) at a gate's input
    clip_at: Literal["gradient", "preactivation"] = "gradient"
    schedule: Literal["constant", "cosine", "step"] = "constant"  # of the learning rate
    warmup: Whole = 0  # epochs of linear warm-up
    decay: Share = 0.99  # of RMSProp's mean square
    epsilon: Positive = 1e-8


@dataclass(frozen=True)
class Train:
    """How long, in what portions, and when to stop."""

    epochs: Count = 30
    batch_size: Count = 32
    batches_per_epoch: Whole = 0  # 0: a pass over the training clips
    truncation: Whole = 0  # frames a window of truncated back-propagation; 0: the whole clip
    reach: Whole = 0  # frames the gradient reaches back, truncation or more; 0: truncation
    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"  # loss: of what training minimises
    patience: Whole = 0  # epochs without improvement before it stops; 0: never
    min_delta: Positive = 0.0
    target: Share = 0.0  # stop when validation accuracy reaches this; 0: never
    accumulate: Count = 1  # gradient accumulation: parts of a batch
    spread: Literal["auto", "trials", "batch"] = "auto"  # what several devices share
    memory_gb: Positive = 0.0  # that a group may take of a device; 0: what the device has
    save_seconds: Positive = 20.0  # at least this long between two saves


@dataclass(frozen=True)
class Eval:
    """How a video is decided."""

    inference: Literal["once", "clips", "vote"] = "once"
    clip: Count = 60
    stride: Count = 30
    batch_size: Count = 64


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    data: Data = field(default_factory=Data)
    frames: Frames = field(default_factory=Frames)
    encoder: Encoder = field(default_factory=Encoder)
    scanner: Scanner = field(default_factory=Scanner)
    head: Head = field(default_factory=Head)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    seed: Seed = 0


# Numbers that enter a compiled program as values: trials that differ only here train together.
TRACED = (
    "seed",
    "optim.learning_rate",
    "optim.momentum",
    "optim.weight_decay",
    "optim.clip_norm",
    "scanner.dropout",
    "loss.step_weights",
    "train.epochs",
    "train.patience",
    "train.min_delta",
    "train.target",
)
# What encoder.weights may be besides a path.
WORDS = ("random", "imagenet")
# Pairs of whether two settings contradict each other, and the line that says so.
Contradictions = Iterator[tuple[bool, str]]
# Kinds of data that know no frames a second.
NO_RATE = ("tfds", "images", "features")
# Kinds of data whose given split is a single one.
ONE_LIST = ("tfds", "videos", "images", "features")
# Where things lie and how often they are saved: never part of a trial's identity.
PLACES = (
    "data.root",
    "data.strict",
    "train.spread",
    "train.memory_gb",
    "train.save_seconds",
    "eval.batch_size",
)


def fields(cfg: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, declared type, value or default) of every leaf setting."""
    hints = typing.get_type_hints(cfg if isinstance(cfg, type) else type(cfg), include_extras=True)
    instance = cfg() if isinstance(cfg, type) else cfg
    for entry in dataclasses.fields(instance):
        value = getattr(instance, entry.name)
        name = prefix + entry.name
        if dataclasses.is_dataclass(value):
            yield from fields(value, name + ".")
        else:
            yield name, hints[entry.name], value


def override(cfg: Config, overrides: Mapping[str, Any], *, keep: Collection[str] = ()) -> Config:
    """Returns `cfg` with dotted settings replaced; the only way to change one.

    Settings that follow one of them, and no longer fit, go back to their defaults (see `cleared`).

    Args:
        keep: settings that stay as they are in `cfg`.

    Raises:
        UserError: an unknown name (with the nearest right one), or a value out of type or range.
    """
    changed = _exactly(cfg, overrides)
    changed = _replaced(changed, _cleared(cfg, changed, {*overrides, *keep}))
    _check_together(changed)
    return changed


def _exactly(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """`cfg` with these settings checked and replaced, and no other."""
    known = {name: hint for name, hint, _ in fields(Config)}
    checked = {}
    for name, value in overrides.items():
        if name not in known:
            raise UserError(_unknown(name, known))
        checked[name] = check(name, value, known[name])
    return _replaced(cfg, checked)


def _replaced(cfg: Config, values: Mapping[str, Any]) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, leaf = name.partition(".")
        if dot:
            sections.setdefault(section, {})[leaf] = value
        else:
            top[section] = value
    for section, leaves in sections.items():
        top[section] = dataclasses.replace(getattr(cfg, section), **leaves)
    return dataclasses.replace(cfg, **top)


@dataclass(frozen=True)
class Follower:
    """A setting that follows others: where it no longer fits them, it goes back to its default.

    Attributes:
        stale: whether it no longer fits, of the settings before and after.
    """

    name: str
    leaders: tuple[str, ...]
    stale: Callable[[Config, Config], bool]


def _data_set(data: Data) -> str:
    """Which clips are meant: those of a folder are the same as videos, images or features."""
    if data.kind in ("videos", "images", "features"):
        return "a folder"
    return data.tfds.partition("/")[0] if data.kind == "tfds" else data.kind


def _is_other_data(before: Config, after: Config) -> bool:
    return _data_set(before.data) != _data_set(after.data)


def _reads_weights(cfg: Config) -> bool:
    """True for encoders that read weights of others; a user's own may be what a run holds."""
    return cfg.encoder.kind in ("vgg16", "squeezenet") or ".py:" in cfg.encoder.kind


def _no_encoder(cfg: Config) -> bool:
    return cfg.data.kind == "features" or cfg.encoder.kind == "none"


def _trains_encoder(cfg: Config) -> bool:
    return cfg.encoder.trainable != "none"


# In the order in which one follows from another.
FOLLOWERS = (
    Follower("data.tfds", ("data.kind",), lambda _, cfg: cfg.data.kind != "tfds"),
    Follower("data.classes", ("data.kind", "data.tfds"), _is_other_data),
    Follower("data.groups", ("data.kind", "data.tfds"), _is_other_data),
    Follower("data.swapped", ("data.kind", "data.split"), lambda _, cfg: cfg.data.split != "given"),
    Follower(
        "data.fold",
        ("data.kind", "data.split"),
        lambda _, cfg: (
            cfg.data.split == "random" or (cfg.data.split == "given" and cfg.data.kind in ONE_LIST)
        ),
    ),
    Follower("data.folds", ("data.split",), lambda _, cfg: cfg.data.split != "group"),
    Follower("data.fps", ("data.kind",), lambda _, cfg: cfg.data.kind in NO_RATE),
    Follower("encoder.weights", ("encoder.kind",), lambda _, cfg: not _reads_weights(cfg)),
    Follower("encoder.trainable", ("data.kind", "encoder.kind"), lambda _, cfg: _no_encoder(cfg)),
    Follower("encoder.standardise", ("encoder.trainable",), lambda _, cfg: _trains_encoder(cfg)),
    Follower("encoder.components", ("encoder.trainable",), lambda _, cfg: _trains_encoder(cfg)),
    Follower("eval.inference", ("head.kind",), lambda _, cfg: cfg.head.kind != "every"),
    Follower("train.truncation", ("head.kind",), lambda _, cfg: cfg.head.kind != "every"),
    Follower(
        "train.reach",
        ("head.kind", "train.truncation"),
        lambda _, cfg: not 0 < cfg.train.truncation <= cfg.train.reach,
    ),
    Follower(
        "train.accumulate",
        ("train.batch_size",),
        lambda _, cfg: cfg.train.accumulate > cfg.train.batch_size,
    ),
    Follower("train.patience", ("data.val",), lambda _, cfg: cfg.data.val == 0),
    Follower("train.target", ("data.val",), lambda _, cfg: cfg.data.val == 0),
    Follower("optim.warmup", ("train.epochs",), lambda _, cfg: cfg.optim.warmup > cfg.train.epochs),
    Follower(
        "optim.clip_at", ("scanner.kind",), lambda _, cfg: cfg.scanner.kind in ("none", "mean")
    ),
    Follower("optim.decoupled", ("optim.kind",), lambda _, cfg: ".py:" in cfg.optim.kind),
)


def cleared(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Settings of `cfg` that `override` puts back to their defaults, and what each follows."""
    before = dict(overrides)
    changed = _replaced(cfg, before)
    gone = _cleared(cfg, changed, set(before))
    leaders = {each.name: each.leaders for each in FOLLOWERS}
    return {
        name: next(leader for leader in leaders[name] if leader in before or leader in gone)
        for name in gone
    }


def _cleared(before: Config, after: Config, given: Collection[str]) -> dict[str, Any]:
    """Defaults of the settings that were not given, and follow one that has changed."""
    defaults = {name: value for name, _, value in fields(Config)}
    found: dict[str, Any] = {}
    for each in FOLLOWERS:
        moved = any(get(before, leader) != get(after, leader) for leader in each.leaders)
        if each.name in given or not moved or get(after, each.name) == defaults[each.name]:
            continue
        if each.stale(before, after):
            found[each.name] = defaults[each.name]
            after = _replaced(after, found)
    return found


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    near = _nearest(name, known) or f"; sections are {', '.join(_sections())}"
    return f"unknown setting '{name}'{near}"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    leaves = {full.rpartition(".")[2]: full for full in known}
    near = difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, 1, 0.7)]
    return f"; did you mean '{near[0]}'?" if near else ""


def _sections() -> list[str]:
    return [entry.name for entry in dataclasses.fields(Config)]


def check(name: str, value: Any, hint: Any) -> Any:
    """The value in its declared type, or a UserError that says what would be right."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _checked_choice(name, value, hint)
    if typing.get_origin(hint) is Annotated:
        base, bound = typing.get_args(hint)
        value = check(name, value, base)
        right = (
            re.fullmatch(bound.regex, value)
            if isinstance(bound, Pattern)
            else bound.low <= value <= bound.high
        )
        if not right:
            raise UserError(f"{name} = {value!r} should be {bound}")
        return value
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            near = difflib.get_close_matches(str(value), typing.get_args(hint), 1)
            guess = f" (did you mean '{near[0]}'?)" if near else ""
            raise UserError(f"{name} = {value!r} should be {_words(hint)}{guess}")
        return value
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UserError(f"{name} = {value!r} should be a list of values")
        return tuple(check(name, each, element) for each in value)
    if hint is type(None) and value is not None:
        raise UserError(f"{name} = {value!r} should be None")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{name} = {value!r} should be {_words(hint)}")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{name} = {value!r} should be a number, and finite")
    return value


def _checked_choice(name: str, value: Any, hint: Any) -> Any:
    for option in typing.get_args(hint):
        try:
            return check(name, value, option)
        except UserError:
            continue
    named = [o for o in typing.get_args(hint) if typing.get_origin(o) is Literal]
    choices = [choice for option in named for choice in typing.get_args(option)]
    near = difflib.get_close_matches(str(value), choices, 1)
    guess = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(f"{name} = {value!r} should be {_words(hint)}{guess}")


def _words(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ", or ".join(_words(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        return str(typing.get_args(hint)[1])
    names = {
        type(None): "None",
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "text",
    }
    return names.get(hint, str(hint))


def _check_together(cfg: Config) -> None:
    """Contradictions between settings, found before anything is built.

    A setting of what a row does not have (units of a mean) is left unread, so that the rows of a
    table can share a base. Refused is what would train or score otherwise than it says.
    """
    for found in (_of_data(cfg), _of_frames(cfg), _of_model(cfg), _of_training(cfg)):
        for wrong, line in found:
            if wrong:
                raise UserError(line)


def _of_data(cfg: Config) -> Contradictions:
    data = cfg.data
    yield (
        bool(data.tfds) and data.kind != "tfds",
        f"data.tfds = {data.tfds!r} needs data.kind = 'tfds', not {data.kind!r}",
    )
    yield (
        data.split == "random" and max(data.fold, data.folds) > 0,
        "data.split = 'random' draws clips and knows no folds: set data.fold and data.folds to 0 "
        "(another draw is another data.split_seed)",
    )
    yield (
        data.split == "given" and data.folds > 0,
        f"data.folds = {data.folds} needs data.split = 'group', not 'given'",
    )
    yield (
        data.split == "given" and data.fold > 0 and data.kind in ONE_LIST,
        f"data.fold = {data.fold} with data.split = 'given' names one of several lists, and "
        f"data.kind = {data.kind!r} has one",
    )
    yield (
        data.fold > 0 and data.folds > 0 and data.fold > data.folds,
        f"data.fold = {data.fold} should be at most data.folds = {data.folds}",
    )
    yield data.folds == 1, "data.folds = 1 should be at least 2, or 0 for none"
    yield (
        data.swapped and data.split != "given",
        "data.swapped = True exchanges given lists: it needs data.split = 'given', not "
        f"{data.split!r}",
    )
    yield (
        bool(data.groups) and data.kind in ("ucf101", "ucf11"),
        f"data.groups = {data.groups!r}: the clips of data.kind = {data.kind!r} name their sources "
        "themselves",
    )
    yield (
        data.fps > 0 and data.kind in NO_RATE,
        f"data.fps = {data.fps:g} resamples videos, and data.kind = {data.kind!r} has none",
    )
    for name in ("test", "val"):
        share = getattr(data, name)
        yield (
            share > 1 and share != int(share),
            f"data.{name} = {share:g} should be a share below 1 or a whole number of clips",
        )


def _of_frames(cfg: Config) -> Contradictions:
    frames, head, settings = cfg.frames, cfg.head, cfg.eval
    yield (
        head.kind == "flatten" and frames.rule == "whole",
        "head.kind = 'flatten' reads clips of one length, and frames.rule = 'whole' shows each "
        "clip's own: take segment, mean or uniform",
    )
    yield (
        settings.inference != "once" and head.kind != "every",
        f"eval.inference = {settings.inference!r} needs head.kind = 'every', not {head.kind!r}",
    )
    yield (
        settings.inference != "once" and settings.stride > settings.clip,
        f"eval.inference = {settings.inference!r}: eval.stride = {settings.stride} leaves frames "
        f"out between clips of eval.clip = {settings.clip}; it should be at most that",
    )
    yield (
        settings.inference != "once" and frames.order != "kept",
        f"frames.order = {frames.order!r} orders the frames of one pass: eval.inference = "
        f"{settings.inference!r} cuts clips whose frames stay in order",
    )
    yield (
        cfg.encoder.kind == "c3d" and head.kind in ("every", "flatten"),
        f"encoder.kind = 'c3d' gives a clip one feature: head.kind should be last or mean, not "
        f"{head.kind!r}",
    )


def _of_model(cfg: Config) -> Contradictions:
    encoder, scanner, loss, head = cfg.encoder, cfg.scanner, cfg.loss, cfg.head
    yield (
        usercode.is_code(encoder.weights),
        f"encoder.weights = {encoder.weights!r} should be random, imagenet, a file of weights "
        "or a finished run: code goes in as encoder.kind",
    )
    yield (
        encoder.trainable != "none" and cfg.data.kind == "features",
        f"encoder.trainable = {encoder.trainable!r}: data.kind = 'features' brings features made "
        "elsewhere, so no encoder trains",
    )
    yield (
        encoder.trainable != "none" and encoder.kind == "none",
        f"encoder.trainable = {encoder.trainable!r}: encoder.kind = 'none' has nothing to train",
    )
    for name in ("standardise", "components"):
        value = getattr(encoder, name)
        yield (
            bool(value) and encoder.trainable != "none",
            f"encoder.{name} = {value} is fitted to features that stay: it needs encoder.trainable "
            f"= 'none', not {encoder.trainable!r}",
        )
    yield (
        loss.kind == "keras_cross_entropy" and head.kind == "every",
        "loss.kind = 'keras_cross_entropy' scores one output a clip: head.kind 'every' has many",
    )
    yield (
        loss.kind == "keras_cross_entropy" and head.activation != "relu",
        "loss.kind = 'keras_cross_entropy' takes outputs for shares, which raw logits are not: it "
        f"needs head.activation = 'relu', not {head.activation!r} (cross_entropy is Keras' loss of "
        "a softmax)",
    )
    yield (
        loss.kind == "double_softmax" and head.activation != "softmax",
        "loss.kind = 'double_softmax' takes the network's softmax for logits: it needs "
        f"head.activation = 'softmax', not {head.activation!r}",
    )
    yield (
        cfg.optim.clip_at == "preactivation" and scanner.kind in ("none", "mean"),
        f"optim.clip_at = 'preactivation': scanner.kind = {scanner.kind!r} has no gates, so "
        "nothing would be clipped",
    )


def _of_training(cfg: Config) -> Contradictions:
    train, optim = cfg.train, cfg.optim
    yield (
        0 < train.reach < train.truncation,
        f"train.reach = {train.reach} should be at least train.truncation = "
        f"{train.truncation}: the gradient of a window reaches back over all of it",
    )
    yield (
        train.reach > 0 and train.truncation == 0,
        f"train.reach = {train.reach} needs train.truncation: how often to update",
    )
    yield (
        train.truncation > 0 and cfg.head.kind != "every",
        f"train.truncation = {train.truncation} needs head.kind = 'every' (a loss in every "
        f"window), not {cfg.head.kind!r}",
    )
    yield (
        train.truncation > 0 and cfg.scanner.bidirectional != "no",
        "train.truncation cannot be used with scanner.bidirectional = "
        f"{cfg.scanner.bidirectional!r}: the backward direction needs the whole clip",
    )
    yield (
        train.accumulate > train.batch_size,
        f"train.accumulate = {train.accumulate} parts are more than the clips of a batch "
        f"(train.batch_size = {train.batch_size})",
    )
    for name in ("patience", "target"):
        value = getattr(train, name)
        yield (
            value > 0 and cfg.data.val == 0 and cfg.data.split != "given",
            f"train.{name} = {value:g} watches validation clips, and data.val = 0 leaves none",
        )
    yield (
        optim.warmup > train.epochs,
        f"optim.warmup = {optim.warmup} epochs are more than train.epochs = {train.epochs}",
    )
    yield (
        optim.decoupled and usercode.is_code(optim.kind),
        f"optim.decoupled = True: optim.kind = {optim.kind!r} has to bring its own decay",
    )
    yield (
        optim.momentum == 1 and optim.kind in ("momentum", "adam"),
        f"optim.momentum = 1 never forgets a gradient (optim.kind = {optim.kind!r}): it should be "
        "below 1",
    )
    yield (
        optim.decay == 1 and optim.kind == "rmsprop",
        "optim.decay = 1 never sees a gradient (optim.kind = 'rmsprop'): it should be below 1",
    )
    yield (
        optim.epsilon == 0 and optim.kind in ("adam", "rmsprop"),
        f"optim.epsilon = 0 divides a gradient of 0 by 0 (optim.kind = {optim.kind!r}): it should "
        "be above 0",
    )


def takes_many(name: str) -> bool:
    """True for settings that are a list of values."""
    hints = {full: hint for full, hint, _ in fields(Config)}
    return typing.get_origin(hints.get(name)) is tuple


def parse(name: str, *words: str) -> Any:
    """A setting's value from the command line's words, in its declared type.

    One word holds a list with commas between its values; a value with a comma stands in quotes. Of
    several words each is a value of a list of texts, its commas included. A relative path is taken
    from the current folder.

    Raises:
        UserError: no such setting, or a value out of type or range.
    """
    hints = {full: hint for full, hint, _ in fields(Config)}
    if name not in hints:
        raise UserError(_unknown(name, hints))
    hint = hints[name]
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        value: Any = _texts(words)
    else:
        value = _parsed(name, ",".join(words), hint)
    return placed({name: check(name, value, hint)}, Path.cwd())[name]


def _texts(words: Sequence[str]) -> tuple[str, ...]:
    whole = " ".join(words).strip()
    inside = _without_brackets(whole)
    if len(words) == 1 or inside != whole:
        words = pieces(inside)
    # `a, b` as a shell gives it: the comma is no part of the first word.
    values = (word if word.strip(", ") == word else word.strip(", ") for word in words)
    return tuple(unquoted(value) for value in values if value)


def pieces(text: str) -> list[str]:
    """Cuts a text at its commas, those in quotes or brackets left out.

    Raises:
        UserError: a quote or bracket is not closed.
    """
    found, brackets, quote, before = [""], [], "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and before in ("", ",", "=", "(", "["):
            quote = sign  # inside of a word it is an apostrophe
        elif sign in "([{":
            brackets.append(")]}"["([{".index(sign)])
        elif brackets and sign == brackets[-1]:
            brackets.pop()
        elif sign == "," and not brackets:
            found.append("")
            before = sign
            continue
        found[-1] += sign
        before = sign if sign.strip() else before
    if quote or brackets:
        raise UserError(
            f"{text}: {quote or brackets[-1]} is missing; a value that has a comma, quote or "
            'bracket of its own should stand in quotes, such as "a, b",c'
        )
    return [each.strip() for each in found]


def unquoted(text: str) -> str:
    """A text without the quotes around it."""
    held = len(text) > 1 and text[0] in "\"'" and text.find(text[0], 1) == len(text) - 1
    return text[1:-1] if held else text


def _without_brackets(text: str) -> str:
    """The inside of (a, b) or [a, b]; a text such as `(a) b (c)` stays as it is."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return text[1:-1].strip() if place and place == len(text) - 1 else text
    return text


def _parsed(name: str, text: str, hint: Any) -> Any:
    if type(None) in typing.get_args(hint):
        [hint] = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.lower() == "none" else _parsed(name, text, hint)
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        parts = re.split(r"[,\s]+", text.strip("()[] "))
        return tuple(_parsed(name, part, element) for part in parts if part)
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise UserError(f"{name} = {text!r} should be True or False")
        return words[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{name} = {text!r} should be {_words(hint)}") from None
    return text


def user_code(cfg: Config) -> dict[str, str]:
    """Settings that name a user's own file, by dotted name."""
    return {
        name: value
        for name, _, value in fields(cfg)
        if name.endswith(".kind") and usercode.is_code(value)
    }


def pin(cfg: Config) -> Config:
    """The same settings; what a user's file holds now is what they mean from here on.

    Raises:
        UserError: a file cannot be read.
    """
    return _exactly(cfg, {name: usercode.pinned(spec) for name, spec in user_code(cfg).items()})


def placed(settings: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Dotted settings with their relative paths taken from `folder`, the one of who named them."""
    found = dict(settings)
    for name, value in settings.items():
        if isinstance(value, usercode.UserCode):
            continue  # it means what it meant where it was named
        if name.endswith(".kind") and usercode.is_code(value):
            path, _, attribute = value.rpartition(":")
            if not Path(path).is_absolute():
                found[name] = f"{_joined(folder, path)}:{attribute}"
        elif name == "data.root" or (name == "encoder.weights" and value not in WORDS):
            found[name] = _joined(folder, value)
    return found


def place(cfg: Config, folder: str | Path) -> Config:
    """As `placed`, of a whole configuration."""
    settings = {name: value for name, _, value in fields(cfg)}
    moved = placed(settings, folder)
    return _exactly(cfg, {n: each for n, each in moved.items() if each != settings[n]})


def _joined(folder: str | Path, path: Any) -> Any:
    """An absolute path; "" and what begins with a home stay."""
    if not isinstance(path, str) or not path or path.startswith("~"):
        return path
    return os.path.abspath(os.path.join(folder, path))


def to_dict(cfg: Config) -> dict[str, Any]:
    """Nested plain dict, as in config.json."""
    return dataclasses.asdict(cfg)


def from_dict(nested: Mapping[str, Any]) -> Config:
    """The Config of a config.json; unknown or ill-typed entries raise UserError.

    Code that it names does not run: nothing in a folder says whose it is (see `usercode.trusted`).
    """
    flat: dict[str, Any] = {}
    for section, value in nested.items():
        if isinstance(value, Mapping):
            flat.update({f"{section}.{leaf}": each for leaf, each in value.items()})
        else:
            flat[section] = value
    cfg = override(Config(), flat)
    named = {n: spec for n, spec in user_code(cfg).items() if type(spec) is str}
    return _exactly(cfg, {name: usercode.UserCode(spec) for name, spec in named.items()})


def get(cfg: Config, name: str) -> Any:
    """Value of one dotted setting."""
    section, dot, leaf = name.partition(".")
    return getattr(getattr(cfg, section), leaf) if dot else getattr(cfg, section)


def canonical(value: Any) -> str:
    """JSON that is the same text for the same values, on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: Any, length: int = 8) -> str:
    """Short hash of values; also the ID8 of a folder's name."""
    text = "\x00".join(part if isinstance(part, str) else canonical(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def identity(cfg: Config, without: tuple[str, ...] = PLACES) -> dict[str, Any]:
    """The settings that make a trial what it is, dotted.

    User files and weights count by their content, so that they may lie anywhere.
    """
    settings = {}
    for name, hint, value in fields(cfg):
        if name in without:
            continue
        if type(value) is int and float in (hint, *typing.get_args(hint)):
            value = float(value)  # as it is when read back from a file
        if name.endswith(".kind") and usercode.is_code(value):
            value = f"{usercode.code_hash(value)[:16]}:{value.rpartition(':')[2]}"
        settings[name] = _weights(value) if name == "encoder.weights" else value
    return settings


def _weights(name: str) -> str:
    """What weights are: a file's content, a run's arrays; what is not there, and words, stay."""
    if name in WORDS:
        return name
    path = files.expanded(name)
    try:
        if path.is_file():
            stat = path.stat()
            return _content(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        result = files.read_json(run_folder(path) / "result.json", {"id": str, "weights?": str})
        return result.get("weights") or result["id"]
    except (OSError, UserError) as error:
        if is_transient(error):  # another id would be another run
            raise TransientError.of(f"encoder.weights = {name}", error) from error
        return name


@functools.cache
def _content(file: Path, *stamp: int) -> str:
    """Hash of a file, read once for each time it was written."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]


def run_folder(path: Path) -> Path:
    """The folder of a finished run: `path` itself, or the only `path-ID` there is.

    Raises:
        UserError: no such run, several, or one that did not finish.
    """
    named = re.compile(re.escape(path.name) + r"-[0-9a-f]+")
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    found = [path] if path.is_dir() else [each for each in beside if named.fullmatch(each.name)]
    done = [folder for folder in found if (folder / "result.json").is_file()]
    if len(done) > 1:
        raise UserError(f"{path} may be {' or '.join(map(str, done))}: say which")
    if done:
        return done[0]
    if not found:
        raise UserError(f"there is no file and no run {path}")
    whole = (found[0] / "ablation.json").is_file()
    raise UserError(
        f"{found[0]} is an ablation: name one of its trials, {found[0]}/trials/ID"
        if whole
        else f"{found[0]} is no finished run (result.json is missing): train it to its end first"
    )


def signature(cfg: Config) -> str:
    """Equal for configs that one compiled program can train together."""
    scoring = tuple(name for name, _, _ in fields(cfg) if name.startswith("eval."))
    return digest(identity(cfg, PLACES + TRACED + scoring), length=16)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_dir() -> Path:
    """Where data sets, features and compiled programs are kept between runs.

    Raises:
        UserError: there is no home folder, and the temporary one is somebody else's; or its path is
            no UTF-8.
    """
    folder = _cache_dir()
    check_spelling(folder, "the cache (VIDREC_CACHE)")
    return folder


def _cache_dir() -> Path:
    for name, inside in (("VIDREC_CACHE", ""), ("XDG_CACHE_HOME", "vidrec")):
        if os.environ.get(name):
            return files.expanded(os.environ[name]) / inside
    home = os.path.expanduser("~")
    usual = Path(home, ".cache", "vidrec")
    there = next(folder for folder in (usual, *usual.parents) if os.path.exists(folder))
    if os.path.isabs(home) and home != "/" and os.access(there, os.W_OK | os.X_OK):
        return usual
    return _temporary_cache()


def _temporary_cache() -> Path:
    """For a user without a home folder, as in many containers: one that nobody else can write."""
    folder = Path(tempfile.gettempdir(), f"vidrec-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise UserError(
            f"there is no home folder to keep data sets and features in, and others can write to "
            f"{folder}: name one by VIDREC_CACHE"
        )
    return folder


def load_user(spec: str) -> Any:
    """The object that 'path.py:Name' means; see `usercode.load`."""
    return usercode.load(spec)


def load_module(path: str) -> Any:
    """A user's Python file, run anew."""
    return usercode.run(usercode.collect(path))
