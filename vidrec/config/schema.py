"""All settings of a run: frozen dataclasses, one flat section for each stage of the flow.

Dimension letters of the whole code: B clips, T frames, H W C pixels, D features, U units,
K classes, N trials. A *row* is one setting of an ablation, a *trial* a row with one seed.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from vidrec.config import plugins
from vidrec.config.arguments import Args


@dataclass(frozen=True)
class Range:
    """A closed interval that a number must lie in."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        low, high = (f"{x:g}" if isinstance(x, float) else str(x) for x in (self.low, self.high))
        return (
            f"at least {low}" if self.high in (float("inf"), MOST) else f"between {low} and {high}"
        )


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a text must match, and a description of it in words."""

    regex: str
    words: str

    def __str__(self) -> str:
        return self.words


MOST = 2**31 - 1  # whole numbers enter compiled programs in 32 bits
PositiveInt = Annotated[int, Range(1, MOST)]
NonNegativeInt = Annotated[int, Range(0, MOST)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # a random key has 32 bits: larger seeds would repeat
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
AreaShare = Annotated[float, Range(0.05, 1)]
Degrees = Annotated[float, Range(0, 180)]
# A class of the user's own: the file is hashed by content, so editing it makes a new trial.
UserFile = Annotated[str, Pattern(plugins.SPEC, "path.py:Name")]
# A network of keras.applications.
KerasName = Annotated[str, Pattern(r"keras:\w*", "keras:NAME")]
# A network in an ONNX file, which is also hashed by content.
OnnxFile = Annotated[str, Pattern(r"(?s).+\.onnx", "FILE.onnx")]

# Each module in the folder vidrec/evaluation/tasks is a task of the same name.
TASKS = tuple(
    sorted(
        file.stem
        for file in Path(__file__).parent.parent.joinpath("evaluation", "tasks").glob("*.py")
        if not file.stem.startswith("_")
    )
)
if typing.TYPE_CHECKING:
    TaskKind = str
else:
    TaskKind = Literal[TASKS]

ValFigure = Annotated[str, Pattern(r"val_[a-z0-9_]+", "val_loss, or val_ and a figure of the task")]


@dataclass(frozen=True)
class Data:
    """Where clips come from and how they are split."""

    # where clips come from: generated or downloaded (tfds), UCF's folders, or files of your own
    kind: Literal["tfds", "ucf101", "ucf11", "videos", "images", "features"] | UserFile = "tfds"
    root: str = ""  # folder of the data (for tfds: its data_dir); not part of a trial's id
    tfds: str = ""  # TFDS name, for example motion, motion/memory or ucf101
    classes: tuple[str, ...] = ()  # use only these classes; empty: all
    # group: by recording; given: the data set's own; random: by clip, which leaks
    split: Literal["given", "group", "random"] = "group"
    # official list, left-out group or fold, counted from 1; 0: the fixed split
    fold: NonNegativeInt = 0
    folds: NonNegativeInt = 0  # divide recordings into this many folds, of which `fold` is tested
    split_seed: Seed = 0  # decides the split, together with the names of recordings
    # test part: a share of the clips (below 1) or a number of clips (1 and above)
    test: NonNegative = 0.2
    val: NonNegative = 0.2  # validation part, taken from training clips in the same way
    val_by: Literal["group", "clip"] = "group"  # by recording, or by clip, which leaks
    swapped: bool = False  # train on the test list and test on the training list (report A)
    groups: str = ""  # regex whose first bracket names the recording of a clip
    fps: NonNegative = 0  # resample videos to this many frames a second; 0: the original rate
    # train on at most this many clips of each class: N, or NAME=N,NAME=N; "": all
    per_class: str = ""
    strict: bool = False  # stop at an unreadable clip instead of listing it


@dataclass(frozen=True)
class Task:
    """What a label means: it decides the loss, the metrics and the predictions."""

    # clip: one label for each clip; multilabel: several or none; segmentation: one for each frame
    kind: TaskKind = "clip"
    # segmentation: classes in which nothing happens; F1 and edit score leave out their segments
    background: tuple[str, ...] = ("background",)
    # segmentation: frames that no line of segments.csv covers are left out, or are background
    unlabelled: Literal["ignore", "background"] = "ignore"
    ignore: tuple[str, ...] = ()  # segmentation: labels whose frames are left out


@dataclass(frozen=True)
class Frames:
    """Which frames of a clip a model sees."""

    length: PositiveInt = 30  # number of frames that the model sees of a clip
    # segment: consecutive frames; uniform: spread over the clip; segment_mean_length: a segment of
    # the training clips' mean length; whole: all frames
    rule: Literal["segment", "uniform", "segment_mean_length", "whole"] = "segment"
    # shuffled and single (one frame for all) are controls
    order: Literal["kept", "shuffled", "single"] = "kept"


@dataclass(frozen=True)
class Encoder:
    """The network from a frame (for c3d: a clip) to features."""

    # the network: a built-in one, one of Keras, an ONNX file, or a class of your own
    kind: (
        Literal["none", "cnn", "cnn3", "vgg9", "vgg16", "squeezenet", "c3d"]
        | Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
        | Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
        | KerasName
        | OnnxFile
        | UserFile
    ) = "cnn"
    # auto (from an extra or the cache), random, imagenet, a file, or a finished run
    weights: str = "auto"
    # which part of the encoder trains
    trainable: Literal["none", "head", "last_block", "last_two_blocks", "all"] = "none"
    # statistics by which trained blocks normalize: the batch's (trained), or those of the weights
    # (frozen)
    batch_norm: Literal["trained", "frozen"] = "trained"
    # how feature maps are pooled to features; auto: the default of the kind
    pooling: Literal["auto", "average", "map", "dense", "flatten", "moments"] = "auto"
    width: PositiveInt = 1024  # outputs of dense pooling
    # height and width that frames are resized to, in pixels; 0: the default of the kind
    size: NonNegativeInt = 0
    # auto: as the weights require; own: as the makers of a keras:NAME or FILE.onnx do
    normalize: Literal["auto", "unit", "standard", "caffe", "torch", "signed", "own"] = "auto"
    seed: Seed = 0  # seed of random weights; all seeds of a table share a frozen encoder
    init: Literal["own", "normal"] = "own"  # random weights: the encoder's own, or normal(0, 0.1)
    standardize: bool = False  # centre and scale features by the training split's statistics
    # shorten each frame's features to this many numbers (principal components); 0: keep all
    pca: NonNegativeInt = 0
    store_dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # type of stored features
    dtype: Literal["float32", "bfloat16"] = "float32"  # of matrix products; weights stay float32
    remat: bool = False  # recompute activations in the backward pass
    args: Args = Args()  # fields of the encoder's class that no other setting fills


@dataclass(frozen=True)
class Scanner:
    """A recurrence over the frames' features."""

    # the recurrence; none: the frames as they are; mean: their running mean, a control
    kind: (
        Literal["none", "mean", "lstm", "gru", "mingru", "minlstm", "convlstm", "convgru"]
        | Literal["lru", "attention", "tcn", "transformer"]
        | UserFile
    ) = "lstm"
    units: PositiveInt = 64  # width of the state
    layers: PositiveInt = 1  # number of stacked layers
    # how a recurrence joins both directions; no: forwards only
    bidirectional: Literal["no", "concat", "sum"] = "no"
    # tcn and transformer: a frame sees only those before it; False: also those after it
    causal: bool = True
    dense: tuple[PositiveInt, ...] = ()  # widths of linear layers before the recurrence
    kernel: PositiveInt = 3  # width of the kernel of convlstm, convgru and tcn
    # bias vectors of a gate: one as in Keras, or two as in PyTorch
    bias: Literal["single", "double"] = "single"
    reset_after: bool = True  # GRU: the reset gate acts after the recurrent product
    init: Literal["keras", "torch", "normal"] = "keras"  # convention of the initial weights
    # LSTM: the initial forget bias; None: 1 with init keras, else 0
    forget_bias: float | None = None
    batch_norm: bool = False  # batch normalization after every layer
    dropout: Fraction = 0.0  # share of units dropped after every layer
    dtype: Literal["float32", "bfloat16"] = "float32"  # of matrix products; weights stay float32
    args: Args = Args()  # fields of the cell's or module's class that no other setting fills


@dataclass(frozen=True)
class Head:
    """The layer from states to class scores."""

    # what the head reads: last state, mean of states, each frame, or all states side by side
    kind: Literal["last", "mean", "per_frame", "flatten"] = "last"
    dense: tuple[PositiveInt, ...] = ()  # widths of hidden layers before the output
    activation: Literal["softmax", "relu"] = "softmax"  # of the output layer


@dataclass(frozen=True)
class Loss:
    """The loss that training minimises."""

    # keras_cross_entropy: outputs divided by their sum are the probabilities; double_softmax: a
    # softmax of the softmax
    kind: Literal["cross_entropy", "keras_cross_entropy", "double_softmax"] = "cross_entropy"
    # weight of frame j of L if head.kind is per_frame: (j+1)/L if linear, 1 if uniform
    frame_weights: Literal["linear", "uniform"] = "linear"
    # weight of a clip's loss by its class: none, balanced (clips / (classes * clips of the class)
    # over the training split), or NAME=WEIGHT,NAME=WEIGHT, where other classes have 1
    class_weights: str = "none"
    label_smoothing: Fraction = 0.0  # share of the target that is spread evenly over all classes
    # segmentation: weight of the squared change of log-probabilities between frames (MS-TCN: 0.15)
    smoothness: NonNegative = 0.0
    smoothness_limit: NonNegative = 4.0  # segmentation: larger changes count as this one


@dataclass(frozen=True)
class Optim:
    """One optax chain: L2, clip, optimiser, schedule.

    `clip_norm` means different things for the two values of `clip_mode`:

    - gradient: it limits the L2 norm of the batch's mean gradient over all trained arrays.
    - preactivation: it limits every derivative of one clip's loss with respect to an input of a
      gate, to within plus or minus that many nats per unit. The loss is summed over the clip's
      weighted frames and not divided by the clips of the batch. A framework that clips the
      derivative of the batch's mean loss there gets the same with clip_norm / train.batch_size.
    """

    kind: Literal["sgd", "momentum", "adam", "rmsprop"] | UserFile = "adam"  # the optimiser
    learning_rate: NonNegative = 1e-3  # at its highest, after the warm-up
    momentum: Fraction = 0.9  # for kind momentum
    b1: Fraction = 0.9  # Adam's decay of the mean gradient
    b2: Fraction = 0.999  # Adam's decay of the mean square
    weight_decay: NonNegative = 0.0  # L2 penalty, or decoupled decay
    decoupled: bool = False  # decay after the optimiser instead of L2 in the gradient
    # largest L2 norm of a batch's mean gradient, or see clip_mode; 0: no clipping
    clip_norm: NonNegative = 0.0
    # preactivation: clip_norm limits each derivative of a clip's loss (nats) at a gate's input
    clip_mode: Literal["gradient", "preactivation"] = "gradient"
    schedule: Literal["constant", "cosine", "step"] = "constant"  # schedule of the learning rate
    warmup_epochs: NonNegativeInt = 0  # epochs of linear warm-up
    rms_decay: Fraction = 0.99  # RMSProp's decay of the mean square
    epsilon: NonNegative = 1e-8  # of Adam and RMSProp: keeps a division from being by zero


@dataclass(frozen=True)
class Augment:
    """Random changes of training clips, drawn anew in each epoch.

    Changes of pixels are the same for all frames of a clip and need an encoder that trains; noise
    and time_mask differ between frames and need a frozen encoder.
    """

    flip: Fraction = 0.0  # share of the clips that are mirrored, left to right
    # classes that a flip turns into each other, so that a flip is refused: auto (left or right in
    # the name), none, or names
    flip_exchanges: tuple[str, ...] = ("auto",)
    # crop to at least this share of the area, resized to the whole frame; 1: no crop
    crop: AreaShare = 1.0
    brightness: Fraction = 0.0  # multiply pixels by a factor from 1 - this to 1 + this
    contrast: Fraction = 0.0  # scale distances from the clip's mean grey by 1 - this to 1 + this
    color: Fraction = 0.0  # scale distances from the pixel's own grey by 1 - this to 1 + this
    rotation: Degrees = 0.0  # rotate by at most this many degrees; edges are repeated
    speed: NonNegative = 0.0  # play up to 1 + this times as fast or as slow
    jitter: NonNegativeInt = 0  # take each frame up to this many frames earlier or later
    drop: Fraction = 0.0  # drop this share of the frames and repeat the frame before
    # add noise to features: this times the standard deviation of the clip's features
    noise: NonNegative = 0.0
    # replace a stretch of at most this share of the frames by the clip's mean
    time_mask: Fraction = 0.0
    # mix two clips and their labels, in shares drawn from Beta(mixup, mixup); 0: no mixing
    mixup: NonNegative = 0.0


@dataclass(frozen=True)
class Train:
    """How long to train, in which batches, and when to stop."""

    epochs: PositiveInt = 30  # largest number of epochs
    batch_size: PositiveInt = 32  # clips of a batch, over all devices
    batches_per_epoch: NonNegativeInt = 0  # batches; 0: as many as hold every training clip once
    # shuffled: each clip once in an epoch; balanced: each class equally often in every batch
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    # truncated back-propagation: frames from one update to the next; 0: the whole clip
    tbptt_every: NonNegativeInt = 0
    # frames that the gradient of an update covers, at least tbptt_every; 0: tbptt_every
    tbptt_length: NonNegativeInt = 0
    # what chooses the best epoch: val_loss, or val_ and a figure such as val_accuracy or val_map
    monitor: ValFigure = "val_loss"
    patience: NonNegativeInt = 0  # stop after this many epochs without improvement; 0: never
    min_delta: NonNegative = 0.0  # smaller changes do not count as improvement
    # stop when the task's main figure (accuracy of clips) reaches this on validation; 0: never
    target: Fraction = 0.0
    continues: str = ""  # folder of a finished run that this one continues (train --more-epochs)
    grad_accum: PositiveInt = 1  # compute a batch in this many parts, one after another
    # what several devices share: the trials of a group, or the batches of one trial
    parallel: Literal["auto", "trials", "batch"] = "auto"
    memory_gb: NonNegative = 0.0  # memory that a group may take on a device; 0: all of it
    save_seconds: NonNegative = 20.0  # least time between two saves, in seconds


@dataclass(frozen=True)
class Eval:
    """How clips are scored."""

    # single: one pass over the clip; average, vote: over the scores of windows of the clip
    inference: Literal["single", "average", "vote"] = "single"
    window: PositiveInt = 60  # frames of a window
    stride: PositiveInt = 30  # frames from one window to the next
    # average over views of the frames; one: no other view; flip: also mirrored; five_crops: of 7/8
    # of height and width; ten_crops: these crops, also mirrored
    views: Literal["one", "flip", "five_crops", "ten_crops"] = "one"
    batch_size: PositiveInt = 64  # clips that are scored at once


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    frames: Frames = field(default_factory=Frames)
    encoder: Encoder = field(default_factory=Encoder)
    scanner: Scanner = field(default_factory=Scanner)
    head: Head = field(default_factory=Head)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    seed: Seed = 0  # seed of the initial weights, the order of clips and all other random draws


# Settings that are inputs of a compiled program: trials that differ only in them train together.
TRACED = (
    "seed",
    "optim.learning_rate",
    "optim.momentum",
    "optim.b1",
    "optim.b2",
    "optim.weight_decay",
    "optim.clip_norm",
    "scanner.dropout",
    "loss.frame_weights",
    "loss.label_smoothing",
    "train.epochs",
    "train.patience",
    "train.min_delta",
    "train.target",
)


# What encoder.weights may be besides a path. Before a run gets its id, `auto` is replaced: by
# random, by own (the weights of an ONNX file), or by NAME@HASH, where NAME is the file or package
# that has the weights and HASH is a hash of their content.
WORDS = ("auto", "random", "imagenet", "own")
BY_CONTENT = re.compile(r"([\w.-]+)@([0-9a-f]{32})")


# Values with which vidrec chooses the setting, by the encoder and its weights.
OPEN = {
    "encoder.weights": "auto",
    "encoder.pooling": "auto",
    "encoder.size": 0,
    "encoder.normalize": "auto",
}


def is_open(name: str, value: Any) -> bool:
    """Return whether a setting has the value with which vidrec chooses the setting."""
    return name in OPEN and value == OPEN[name]


def is_onnx(kind: str) -> bool:
    """Return whether `encoder.kind` names an ONNX file."""
    return kind.endswith(".onnx")


def is_path(weights: str) -> bool:
    """Return whether `encoder.weights` names a file or a run, by its path or name."""
    return weights not in WORDS and not BY_CONTENT.fullmatch(weights)


# Paths, devices and how often to save: settings that change no result, left out of a trial's id.
NOT_IDENTITY = (
    "data.root",
    "data.strict",
    "train.parallel",
    "train.memory_gb",
    "train.save_seconds",
    "eval.batch_size",
)


# Settings that were added later, and the value at which a trial keeps the id that it had before.
ADDED: Mapping[str, Any] = {
    "data.per_class": "",
    "eval.views": "one",
    "task.kind": "clip",
    "task.background": ("background",),
    "task.unlabelled": "ignore",
    "task.ignore": (),
    "loss.smoothness": 0.0,
    "loss.smoothness_limit": 4.0,
    "encoder.batch_norm": "trained",
    "loss.class_weights": "none",
    "scanner.causal": True,
    "loss.label_smoothing": 0.0,
    "train.sampling": "shuffled",
    "train.continues": "",
    **{f"augment.{entry.name}": entry.default for entry in dataclasses.fields(Augment)},
}


class Setting(NamedTuple):
    """One setting.

    Attributes:
        name: Its dotted name.
        hint: Its declared type, with bounds.
        value: Its value, or its default.
    """

    name: str
    hint: Any
    value: Any


def fields(cfg: Any = Config, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting, section by section.

    Args:
        cfg: Settings, or their class to get the defaults.
        prefix: Prefix of all names.
    """
    hints = typing.get_type_hints(cfg if isinstance(cfg, type) else type(cfg), include_extras=True)
    instance = cfg() if isinstance(cfg, type) else cfg
    for entry in dataclasses.fields(instance):
        value = getattr(instance, entry.name)
        name = prefix + entry.name
        if dataclasses.is_dataclass(value):
            yield from fields(value, name + ".")
        else:
            yield Setting(name, hints[entry.name], value)


def get(cfg: Config, name: str) -> Any:
    """Return the value of one dotted setting."""
    section, dot, leaf = name.partition(".")
    return getattr(getattr(cfg, section), leaf) if dot else getattr(cfg, section)
