"""Run a table's trials on the generated data (`--on motion`)."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vidrec.config import Config, Data, Encoder, override
from vidrec.errors import UserError
from vidrec.evaluation import tasks


@dataclass(frozen=True)
class Rule:
    """How a table runs on the generated data.

    Attributes:
        clips: Which clips are generated, as `data.tfds` names them; "": the clips of the task.
        size: Height and width of a frame, in pixels.
        divide: Divisor of the units of recurrences and linear layers.
        epochs: Maximum number of epochs of the table's base; rows keep their ratio to the base.
        batch: Maximum batch size of the table's base, in clips; rows keep their ratio to the base.
        settings: Other settings that replace the published ones in every row.
        says: What the table shows on these clips, or why it shows nothing; printed with the table.
    """

    clips: str = ""
    size: int = 64
    divide: int = 4
    epochs: int = 10
    batch: int = 50
    settings: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""


PLAIN = Rule()
# Report D's learning rate, gradient clipping and windows of 30 frames change the weights too little
# in ten epochs for an LSTM to learn to remember. With a forget bias of 5 the content of a cell
# decays over about a clip's length.
MEMORY = Rule("motion/memory/clips=1500", size=32, batch=16, settings={"scanner.forget_bias": 5.0})
# Report D's 120 frames, all of which show the motion. An initial forget bias of 3 keeps a state for
# about 20 frames, so report D's optimiser makes progress within a few epochs.
LONG = Rule(
    "motion/frames=120,size=32,difficulty=1",
    size=32,
    divide=8,
    settings={"scanner.forget_bias": 3.0},
)

# The rules of report D's tables, by the value of `on_motion`.
RULES: Mapping[str, Rule] = {
    "learning_rate": replace(
        LONG,
        epochs=5,
        says="Nearly every gradient is longer than 5 and is clipped, so the rate alone "
        "decides how far the weights move in five epochs: 3e-4 is too small.",
    ),
    "optimizer": replace(
        LONG,
        epochs=2,
        says="Momentum's steps are as short as the clipped gradient; Adam and RMSProp divide by "
        "its size, so that clipping does not slow them, and two epochs are enough for them.",
    ),
    "clipping": replace(
        LONG,
        epochs=3,
        says="Gradients are 20 to 60 long, so a lower bound means shorter steps, and three "
        "epochs are few for those. No derivative at a pre-activation reaches 5: that row "
        "clips nothing.",
    ),
    "batch_norm": replace(
        LONG,
        epochs=3,
        says="Features are standardised already, and batch normalization makes gradients longer,"
        " of which clipping at 5 leaves less: here it slows the first epochs.",
    ),
    "layers": replace(
        LONG,
        epochs=3,
        batch=16,
        says="Three layers are ahead of one after three epochs, two hardly: the motion is read "
        "by one layer as well, and deeper ones get there in fewer updates.",
    ),
    "linear_layers": replace(
        LONG,
        epochs=3,
        batch=16,
        says="None is best: the features are principal components already, and a linear layer "
        "brings batch normalization and dropout, which cost while the model is learning.",
    ),
    "loss_weights": replace(
        LONG,
        epochs=8,
        batch=16,
        says="Little: an answer weighs late frames more in both rows, and clipping "
        "makes the gradients of both equally long.",
    ),
    "inference": replace(
        LONG,
        epochs=8,
        batch=16,
        says="One pass shows the whole motion; a window of 60 frames begins without memory and "
        "shows half of it.",
    ),
    "dropout": replace(
        LONG,
        epochs=24,
        settings={"scanner.forget_bias": 3.0, "data.per_class": "20"},
        says="200 clips are learned nearly by heart without dropout. More of it fits them less, "
        "as in report D. On test clips rates up to 0.5 are as good as none; 0.6 is last.",
    ),
    "weight_decay": replace(
        LONG,
        epochs=8,
        batch=16,
        says="None: at a rate of 5e-4 and a momentum of 0.9 a decay of 5e-4 takes 2.5e-6 off a "
        "weight in an update, 0.3 % in these 1,280; report D's 7,500 updates would take 2 %.",
    ),
    "truncation": replace(
        LONG,
        epochs=3,
        batch=16,
        says="Each window makes one update, all about equally long: windows of 120 frames make a"
        " quarter of what those of 30 do. Longer windows reach further back; 50 and 80 have"
        " some of both.",
    ),
    "epochs": replace(
        LONG,
        clips="motion/clips=600,frames=120,size=32,difficulty=1",
        batch=128,
        says="Ten epochs of 3 batches and 4 windows are 120 short updates, and not enough.",
    ),
    "sequence_length": replace(
        LONG,
        clips="motion/clips=600,frames=180,size=32,difficulty=1",
        epochs=5,
        batch=16,
        settings={"scanner.forget_bias": 4.0},
        says="A segment of 30 frames shows a sixth of the motion and gives one update, all 180 "
        "frames show all of it and give six.",
    ),
    "final": replace(
        LONG,
        clips="motion/clips=600,frames=180,size=32,difficulty=1",
        epochs=13,
        batch=16,
        settings={"scanner.forget_bias": 4.0},
        says="150 frames and twice the epochs are more motion and more updates than the baseline"
        " has, and outweigh that windows of 60 frames decide.",
    ),
    "batch_size": replace(
        LONG,
        epochs=5,
        says="Clipping makes all updates about equally long, so small batches, of which an epoch"
        " has more, get further in five epochs.",
    ),
}


def rule_of(name: str, memory: bool = False) -> Rule:
    """Return a table's rule.

    Args:
        name: The table's `on_motion`; "": the general rule.
        memory: Whether the table is about memory (`on_memory`).

    Raises:
        UserError: There is no such rule.
    """
    if not name:
        return MEMORY if memory else PLAIN
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, 1)
        guess = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(RULES)}"
        raise UserError(f"on_motion = {name!r}: no such rule of the embedded data; {guess}")
    return RULES[name]


def on_motion(
    cfg: Config, memory: bool = False, base: Config | None = None, rule: str = ""
) -> Config:
    """Return the same trial on the generated data, where it takes minutes (`--on motion`).

    Data, encoder and classes are replaced; folds are kept. The units of recurrences and linear
    layers are divided by 4, those of recurrences over feature maps (8x8 here) by 16. There are at
    most 10 epochs and 50 clips in a batch. All other published values are kept, including lengths:
    shorter clips are extended. If a row differs from `base` in epochs or batch size, the ratio is
    kept.

    Tables about memory (`on_memory`) have 1500 clips of 120 to 180 frames that show a cue in their
    first third, batches of at most 16, and forget biases that start at 5. Each table of report D
    has its own rule in `RULES`.

    Args:
        cfg: The trial's settings.
        memory: Whether the trial's table is about memory (`on_memory`).
        base: The settings of the table's base; None: the trial's settings.
        rule: Name of the table's rule; "": the general rule.
    """
    whole, of_table = base or cfg, rule_of(rule, memory)
    clips = of_table.clips or tasks.of(cfg).embedded
    moved = replace(cfg, data=_data(cfg.data, clips), encoder=_encoder(cfg.encoder, of_table.size))
    epochs = min(whole.train.epochs, of_table.epochs) / whole.train.epochs
    batch = min(whole.train.batch_size, of_table.batch) / whole.train.batch_size
    divide = 16 if cfg.encoder.pooling == "map" else of_table.divide
    scaled = {
        "scanner.units": max(1, cfg.scanner.units // divide),
        "scanner.dense": tuple(max(1, width // of_table.divide) for width in cfg.scanner.dense),
        "train.epochs": max(1, round(epochs * cfg.train.epochs)),
        "train.batch_size": max(1, round(batch * cfg.train.batch_size)),
    }
    return override(moved, scaled | dict(of_table.settings))


def notes(names: Iterable[str], typed: bool = False) -> list[str]:
    """Return the lines that a table must print about the rules of its rows.

    Args:
        names: The name of each row's rule; "" for the general rule.
        typed: Whether the command line gives settings, which override those of a rule.
    """
    named = [name for name in dict.fromkeys(names) if name]
    lines = []
    for name in named:
        of_table = rule_of(name)
        line = f"On {_in_words(of_table)}."
        if typed:
            line += " Settings that were typed come before these."
        elif of_table.says:
            line += f" {of_table.says}"
        lines.append(f"{name}: {line}" if len(named) > 1 else line)
    return lines


def _in_words(of_table: Rule) -> str:
    """Return a description of the settings that a rule replaces."""
    settings = "".join(f", {name} {value}" for name, value in of_table.settings.items())
    return (
        f"{of_table.clips}: units divided by {of_table.divide}, at most {of_table.epochs} epochs "
        f"and {of_table.batch} clips a batch for the table's base{settings}"
    )


def _data(data: Data, clips: str) -> Data:
    """Return the generated data, split like the published data."""
    # UCF-101 has three folds (lists) and UCF-11 has 25 (groups): divide the clips into as many.
    folds = data.folds or (25 if data.kind == "ucf11" else 3)
    # Split sizes and named classes are kept only if the table's own data are generated too.
    own = data.kind == "tfds" and data.tfds.partition("/")[0] == clips.partition("/")[0]
    if data.per_class and not own and not data.per_class.isdecimal():
        raise UserError(
            f"data.per_class = {data.per_class!r} names classes, and --on motion takes others: "
            "give one number for all classes, or type --data.per_class with names of the embedded "
            "ones"
        )
    return Data(
        kind="tfds",
        tfds=clips,
        split="random" if data.split == "random" else "group",
        fold=data.fold,
        folds=folds if data.fold else 0,
        split_seed=data.split_seed,
        val_by=data.val_by,
        val=data.val if own else Data.val,
        test=data.test if own else Data.test,
        per_class=data.per_class,
        root=data.root if data.kind == "tfds" else "",
    )


def _encoder(encoder: Encoder, size: int) -> Encoder:
    """Return an encoder of small images that needs no weights file."""
    if encoder.trainable != "none":
        return replace(encoder, weights="random", size=min(encoder.size or 64, 64))
    if encoder.pooling == "map":
        return Encoder(weights="random", pooling="map", size=16)
    return Encoder(weights="random", standardize=True, pca=48, size=size)
