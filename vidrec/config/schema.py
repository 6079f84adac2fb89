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
    """Text that must match a regular expression, said in words."""

    regex: str
    words: str

    def __str__(self) -> str:
        return self.words


MOST = 2**31 - 1  # whole numbers enter compiled programs in 32 bits
PositiveInt = Annotated[int, Range(1, MOST)]
NonNegativeInt = Annotated[int, Range(0, MOST)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # 32 bits of a key: a larger one would repeat another
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
AreaShare = Annotated[float, Range(0.05, 1)]
Degrees = Annotated[float, Range(0, 180)]
# A class of the user's own: the file is hashed by content, so editing it makes a new trial.
UserFile = Annotated[str, Pattern(plugins.SPEC, "path.py:Name")]
# A network of keras.applications.
KerasName = Annotated[str, Pattern(r"keras:\w*", "keras:NAME")]
# A network in a file, hashed by content, too.
OnnxFile = Annotated[str, Pattern(r"(?s).+\.onnx", "FILE.onnx")]

# A task is a module of vidrec/evaluation/tasks, by its name: that folder says which there are.
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

    kind: Literal["tfds", "ucf101", "ucf11", "videos", "images", "features"] | UserFile = "tfds"
    root: str = ""  # folder of the data (for tfds: its data_dir); never part of a trial's id
    tfds: str = ""  # TFDS name, for example motion, motion/memory or ucf101
    classes: tuple[str, ...] = ()  # keep only these; none named: all
    split: Literal["given", "group", "random"] = "group"  # random leaks siblings: a control
    fold: NonNegativeInt = (
        0  # official list, left-out group or fold, counted from 1; 0: the fixed split
    )
    folds: NonNegativeInt = 0  # group k-fold: this many folds, of which `fold` is tested
    split_seed: Seed = 0
    test: NonNegative = 0.2  # share of clips (below 1) or number of clips (1 and above)
    val: NonNegative = 0.2  # carved from training, the same way
    val_by: Literal["group", "clip"] = "group"  # by clip leaks into validation: a control
    swapped: bool = False  # train on the test list and test on the training list (report A)
    groups: str = ""  # regex whose first bracket names the recording of a clip
    fps: NonNegative = 0  # resample videos to this many frames a second; 0: as filmed
    # of each class at most so many clips are trained on: N, or NAME=N,NAME=N; "": all
    per_class: str = ""
    strict: bool = False  # an unreadable clip stops the run instead of being listed


@dataclass(frozen=True)
class Task:
    """What a label means: it decides the loss, the metrics and the predictions."""

    # clip: one label a clip; multilabel: several, or none; segmentation: one a frame
    kind: TaskKind = "clip"
    # of segmentation: classes in which nothing happens, whose segments do not count in F1 and edit
    background: tuple[str, ...] = ("background",)
    # of segmentation: what frames are that no line of segments.csv covers: left out, or background
    unlabelled: Literal["ignore", "background"] = "ignore"
    ignore: tuple[str, ...] = ()  # of segmentation: labels of frames that are left out


@dataclass(frozen=True)
class Frames:
    """Which frames of a clip a model sees."""

    length: PositiveInt = 30
    # segment_mean_length: a segment as long as training clips are on average
    rule: Literal["segment", "uniform", "segment_mean_length", "whole"] = "segment"
    order: Literal["kept", "shuffled", "single"] = "kept"  # the last two are controls


@dataclass(frozen=True)
class Encoder:
    """A frame (or a clip, for c3d) to features."""

    kind: (
        Literal["none", "cnn", "cnn3", "vgg9", "vgg16", "squeezenet", "c3d"]
        | Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
        | Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
        | KerasName
        | OnnxFile
        | UserFile
    ) = "cnn"
    # auto (what an extra or the cache has), random, imagenet, a file, or a finished run
    weights: str = "auto"
    trainable: Literal["none", "head", "last_block", "last_two_blocks", "all"] = "none"
    # statistics by which trained blocks normalize: the batch's, or the ones that they began with
    batch_norm: Literal["trained", "frozen"] = "trained"
    pooling: Literal["auto", "average", "map", "dense", "flatten", "moments"] = "auto"  # by kind
    width: PositiveInt = 1024  # of dense pooling
    size: NonNegativeInt = 0  # height and width that frames are resized to; 0: as suits the kind
    # auto: as the weights ask; own: as a network's makers do, of keras:NAME and FILE.onnx
    normalize: Literal["auto", "unit", "standard", "caffe", "torch", "signed", "own"] = "auto"
    seed: Seed = 0  # of random weights; a frozen encoder is shared by all seeds of a table
    init: Literal["own", "normal"] = "own"  # of random weights: the encoder's, or normal(0, 0.1)
    standardize: bool = False  # centre and scale features by the training split's statistics
    pca: NonNegativeInt = 0  # then keep this many principal components; 0: all
    store_dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of features in the store
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; weights stay float32
    remat: bool = False  # recompute activations in the backward pass
    args: Args = Args()  # fields of the encoder's class that no other setting fills


@dataclass(frozen=True)
class Scanner:
    """A recurrence over the frames' features."""

    kind: (
        Literal["none", "mean", "lstm", "gru", "mingru", "minlstm", "convlstm", "convgru"]
        | Literal["lru", "attention", "tcn", "transformer"]
        | UserFile
    ) = "lstm"
    units: PositiveInt = 64
    layers: PositiveInt = 1
    bidirectional: Literal["no", "concat", "sum"] = "no"  # of a recurrence
    # of tcn and transformer: a frame sees those before it alone; False: those after it too
    causal: bool = True
    dense: tuple[PositiveInt, ...] = ()  # linear layers before the recurrence
    kernel: PositiveInt = 3  # of convlstm, convgru and tcn
    bias: Literal["single", "double"] = "single"  # Keras has one bias vector a gate, PyTorch two
    reset_after: bool = True  # GRU: the reset gate acts after the recurrent product
    init: Literal["keras", "torch", "normal"] = "keras"
    forget_bias: float | None = None  # LSTM's at the start; None: 1 as Keras has it, else 0
    batch_norm: bool = False  # after every layer, the last included
    dropout: Fraction = 0.0  # share dropped after every layer, the last included
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; weights stay float32
    args: Args = Args()  # fields of the cell's or module's class that no other setting fills


@dataclass(frozen=True)
class Head:
    """From states to class scores."""

    kind: Literal["last", "mean", "per_frame", "flatten"] = "last"
    dense: tuple[PositiveInt, ...] = ()  # hidden layers before the output
    activation: Literal["softmax", "relu"] = "softmax"


@dataclass(frozen=True)
class Loss:
    """What is minimised."""

    kind: Literal["cross_entropy", "keras_cross_entropy", "double_softmax"] = "cross_entropy"
    # of frame j of L, where head.kind is per_frame: linear is (j+1)/L, uniform is 1
    frame_weights: Literal["linear", "uniform"] = "linear"
    # of a clip's loss by its class: balanced is clips / (classes * clips of the class), over the
    # training split; or NAME=WEIGHT,NAME=WEIGHT, where the others weigh 1
    class_weights: str = "none"
    label_smoothing: Fraction = 0.0  # share of the target that is spread evenly over all classes
    # of segmentation: weight of squared changes of log-probabilities between frames (MS-TCN: 0.15)
    smoothness: NonNegative = 0.0
    smoothness_limit: NonNegative = 4.0  # of a change that smoothness counts


@dataclass(frozen=True)
class Optim:
    """One optax chain: clip, L2, optimiser, schedule.

    `clip_norm` means different things for the two values of `clip_mode`:

    - gradient: it limits the L2 norm of the batch's mean gradient over all trained arrays.
    - preactivation: it limits every derivative of one clip's loss with respect to an input of a
      gate, to within plus or minus that many nats per unit. The loss is summed over the clip's
      weighted frames and not divided by the clips of the batch. A framework that clips the
      derivative of the batch's mean loss there gets the same with clip_norm / train.batch_size.
    """

    kind: Literal["sgd", "momentum", "adam", "rmsprop"] | UserFile = "adam"
    learning_rate: NonNegative = 1e-3
    momentum: Fraction = 0.9  # of kind momentum
    b1: Fraction = 0.9  # Adam's decay of the mean gradient
    b2: Fraction = 0.999  # Adam's decay of the mean square
    weight_decay: NonNegative = 0.0
    decoupled: bool = False  # decay after the optimiser instead of L2 added to the gradient
    clip_norm: NonNegative = 0.0  # L2 norm of a batch's mean gradient, or as clip_mode says; 0: off
    # preactivation: clip_norm bounds each derivative of one clip's loss (nats) at a gate's input
    clip_mode: Literal["gradient", "preactivation"] = "gradient"
    schedule: Literal["constant", "cosine", "step"] = "constant"  # of the learning rate
    warmup_epochs: NonNegativeInt = 0  # epochs of linear warm-up
    rms_decay: Fraction = 0.99  # of RMSProp's mean square
    epsilon: NonNegative = 1e-8


@dataclass(frozen=True)
class Augment:
    """Random changes of training clips, other ones in each epoch, and equal for a clip's frames.

    Changes of pixels need an encoder that trains; noise and time_mask need a frozen one.
    """

    flip: Fraction = 0.0  # share of clips that are mirrored, left to right
    # classes that a flip exchanges, for which it is refused: auto (left or right in the name),
    # none, or names
    flip_exchanges: tuple[str, ...] = ("auto",)
    crop: AreaShare = 1.0  # a part of the frame, at least this share of its area, fills all of it
    brightness: Fraction = 0.0  # pixels are multiplied by 1 - this to 1 + this
    contrast: Fraction = 0.0  # so is their distance from the clip's mean grey
    color: Fraction = 0.0  # and their distance from the pixel's own grey
    rotation: Degrees = 0.0  # at most so many degrees either way; edges are repeated
    speed: NonNegative = 0.0  # up to 1 + this times as fast or as slow
    jitter: NonNegativeInt = 0  # each frame is taken up to so many frames earlier or later
    drop: Fraction = 0.0  # share of frames that are lost: the frame before is seen once more
    noise: NonNegative = 0.0  # added to features: its deviation, in deviations of the clip's own
    time_mask: Fraction = 0.0  # a stretch, at most this share of the frames, becomes their mean
    # two clips and their labels are mixed, in shares drawn from Beta(mixup, mixup); 0: none are
    mixup: NonNegative = 0.0


@dataclass(frozen=True)
class Train:
    """How long to train, in which batches, and when to stop."""

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 32
    batches_per_epoch: NonNegativeInt = 0  # 0: a pass over the training clips
    # shuffled: each clip once a pass; balanced: each class equally often in every batch
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    # truncated back-propagation: frames from one update to the next, 0: all of the clip; and
    # frames that the gradient reaches back, at least as many, 0: as many
    tbptt_every: NonNegativeInt = 0
    tbptt_length: NonNegativeInt = 0
    # what training minimises, or a figure of the task: val_accuracy, val_balanced_accuracy; val_map
    monitor: ValFigure = "val_loss"
    patience: NonNegativeInt = 0  # epochs without improvement before it stops; 0: never
    min_delta: NonNegative = 0.0
    # stop when the headline figure of the task (accuracy of clips) reaches this on validation
    target: Fraction = 0.0
    # folder of a finished run: its weights and optimiser are continued (train --more-epochs)
    continues: str = ""
    grad_accum: PositiveInt = 1  # parts of a batch whose gradients are summed one after another
    parallel: Literal["auto", "trials", "batch"] = "auto"  # what several devices share
    memory_gb: NonNegative = 0.0  # that a group may take of a device; 0: what the device has
    save_seconds: NonNegative = 20.0  # at least this long between two saves


@dataclass(frozen=True)
class Eval:
    """How a video is decided."""

    # single: one pass over the clip; average, vote: over windows of it
    inference: Literal["single", "average", "vote"] = "single"
    window: PositiveInt = 60  # frames
    stride: PositiveInt = 30  # frames from one window to the next
    # of the frames, whose probabilities are averaged: as they are; and mirrored; five crops of 7/8
    # of height and width; these and their mirror images
    views: Literal["one", "flip", "five_crops", "ten_crops"] = "one"
    batch_size: PositiveInt = 64


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
    seed: Seed = 0


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


# What encoder.weights may be besides a path. `auto` becomes one of the others before a run has an
# id: random, or NAME@HASH, weights by their content, named after the file or package that has them;
# own, of an ONNX file.
WORDS = ("auto", "random", "imagenet", "own")
BY_CONTENT = re.compile(r"([\w.-]+)@([0-9a-f]{32})")


# With these values vidrec chooses a setting of the encoder.
OPEN = {
    "encoder.weights": "auto",
    "encoder.pooling": "auto",
    "encoder.size": 0,
    "encoder.normalize": "auto",
}


def is_open(name: str, value: Any) -> bool:
    """Return whether vidrec chooses a setting by the encoder and its weights."""
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
        cfg: Settings, or their class for the defaults.
        prefix: What the names begin with.
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
