"""Every setting of a run: frozen dataclasses, one flat section a stage of the flow.

Dimension letters of the whole code: B clips, T frames, H W C pixels, D features, U units, K classes,
N trials. A *row* is one setting of an ablation, a *trial* a row with one seed.
"""

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from vidrec.errors import UserError


@dataclass(frozen=True)
class Range:
    """Closed interval that a number must lie in."""

    low: float = float("-inf")
    high: float = float("inf")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Pattern:
    """Text that must match a regular expression, said in words."""

    regex: str
    words: str

    def __str__(self) -> str:
        return self.words


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
# A class of the user's own: the file is hashed by content, so editing it makes a new trial.
UserFile = Annotated[str, Pattern(r".+\.py:[A-Za-z_]\w*", "path.py:Name")]


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
    split_seed: int = 0
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

    kind: (
        Literal["none", "cnn", "cnn3", "vgg9", "vgg16", "squeezenet", "c3d"] | UserFile
    ) = "cnn"
    weights: str = "random"  # random, imagenet, a .h5 or .safetensors file, or a run's folder
    trainable: Literal["none", "head", "last_block", "last_two_blocks", "all"] = "none"
    readout: Literal["average", "map", "dense", "flatten", "moments"] = "moments"
    width: Count = 1024  # of the dense readout
    size: Count = 64  # height and width that frames are resized to
    normalise: Literal["unit", "standard", "caffe", "torch"] = "unit"
    seed: int = 0  # of random weights; a frozen encoder is shared by all seeds of a table
    standardise: bool = False  # centre and scale features by the training split's statistics
    components: Whole = 0  # then keep this many principal components; 0: all
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of features in the store
    compute: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False  # recompute activations in the backward pass


@dataclass(frozen=True)
class Scanner:
    """A recurrence over the frames' features."""

    kind: Literal["none", "mean", "lstm", "gru", "convlstm"] | UserFile = "lstm"
    units: Count = 64
    layers: Count = 1
    bidirectional: Literal["no", "concat", "sum"] = "no"
    dense: tuple[Count, ...] = ()  # linear layers before the recurrence
    kernel: Count = 3  # of convlstm
    bias: Literal["single", "double"] = "single"  # Keras has one bias vector a gate, PyTorch two
    reset_after: bool = True  # GRU: the reset gate acts after the recurrent product
    init: Literal["keras", "torch", "normal"] = "keras"
    forget_bias: float = 1.0  # added to the LSTM's forget gate at the start
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
    """One optax chain: clip, L2, optimiser, schedule."""

    kind: Literal["sgd", "momentum", "adam", "rmsprop"] | UserFile = "adam"
    learning_rate: Positive = 1e-3
    momentum: Share = 0.9
    weight_decay: Positive = 0.0
    decoupled: bool = False  # decay after the optimiser instead of L2 added to the gradient
    clip_norm: Positive = 0.0  # global L2 norm; 0: off
    clip_at: Literal["gradient", "preactivation"] = "gradient"
    schedule: Literal["constant", "cosine", "step"] = "constant"
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
    monitor: Literal["val_loss", "val_accuracy"] = "val_loss"
    patience: Whole = 0  # epochs without improvement before it stops; 0: never
    min_delta: Positive = 0.0
    target: Share = 0.0  # stop when validation accuracy reaches this; 0: never
    accumulate: Count = 1  # gradient accumulation: parts of a batch
    spread: Literal["auto", "trials", "batch"] = "auto"  # what several devices share
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
    seed: int = 0


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
# Where things lie and how often they are saved: never part of a trial's identity.
PLACES = ("data.root", "data.strict", "train.save_seconds", "train.spread", "eval.batch_size")
