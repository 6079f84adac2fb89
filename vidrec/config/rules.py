"""Rules between settings: which contradict each other, and which follow others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vidrec.config import augmentation, class_weights, plugins
from vidrec.config.rule import Rule
from vidrec.config.schema import Config, Data, is_onnx
from vidrec.errors import UserError

# Kinds of data without a frame rate.
NO_RATE = ("tfds", "images", "features")
# Encoders that have no published weights.
FROM_PIXELS = ("none", "cnn", "cnn3", "vgg9", "c3d")
# Encoders without batch normalization; a user's encoder is checked when it is built.
NO_BATCH_NORM = (*FROM_PIXELS, "vgg16", "squeezenet")
# Kinds of data with only one given split.
ONE_LIST = ("tfds", "videos", "images", "features")
# Of these, kinds that may have several given splits if frames have labels (segmentation).
LISTS_OF_VIDEOS = ("videos", "features")
# Scanners in which no derivative is clipped; that read all frames in parallel; that may see later
# frames.
GATELESS = ("none", "mean", "attention", "tcn", "transformer", "lru")
SIDE_BY_SIDE = ("attention", "tcn", "transformer")
SEES_LATER = ("tcn", "transformer")
# Decay rates and the optimiser that uses each; at 1 the average would ignore new gradients.
DECAYS = {"momentum": "momentum", "b1": "adam", "b2": "adam", "rms_decay": "rmsprop"}


@dataclass(frozen=True)
class Follower:
    """A setting that follows others: if it no longer fits them, it is reset to its default.

    Attributes:
        name: Dotted name of the setting.
        leaders: Dotted names of the settings that it follows.
        is_outdated: Takes the settings before and after a change of a leader. Returns whether this
            setting no longer fits.
    """

    name: str
    leaders: tuple[str, ...]
    is_outdated: Callable[[Config, Config], bool]


def _data_set(data: Data) -> str:
    """Return a name of the data set; all kinds of data that read a folder have the same name."""
    if data.kind in ("videos", "images", "features"):
        return "a folder"
    return data.tfds.partition("/")[0] if data.kind == "tfds" else data.kind


def _has_one_list(cfg: Config) -> bool:
    """Return whether the data has only one given split."""
    if cfg.task.kind == "segmentation" and cfg.data.kind in LISTS_OF_VIDEOS:
        return False
    return cfg.data.kind in ONE_LIST


def _is_other_data(before: Config, after: Config) -> bool:
    return _data_set(before.data) != _data_set(after.data)


def _family(cfg: Config) -> str:
    """Return a name that is equal for encoders with the same requirements on frames.

    Pretrained networks have one name each, since each requires its frame size, pooling and
    normalization.
    """
    kind = cfg.encoder.kind
    if kind in FROM_PIXELS:
        return "from pixels"
    return "code" if plugins.is_code(kind) else kind


def _is_other_encoder(before: Config, after: Config) -> bool:
    return _family(before) != _family(after)


def _weights_are_outdated(before: Config, after: Config) -> bool:
    trains_from_pixels = after.encoder.kind in FROM_PIXELS and after.encoder.weights != "random"
    return trains_from_pixels or _is_other_encoder(before, after)


def _pooling_is_outdated(before: Config, after: Config) -> bool:
    """Return whether the new kind of encoder does not have this pooling.

    A trained dense pooling is a layer of the experiment, so it fits every built-in encoder.
    """
    kind, pooling = after.encoder.kind, after.encoder.pooling
    if pooling == "dense" and _trains_encoder(after) and kind != "none" and kind.isidentifier():
        return False
    lacks = pooling == "moments" and kind != "cnn"
    return lacks or _is_other_encoder(before, after)


def _normalize_is_outdated(before: Config, after: Config) -> bool:
    """Return whether the new encoder or weights require another normalization."""
    if before.encoder.kind != after.encoder.kind:
        return _is_other_encoder(before, after)
    return after.encoder.weights != "random"


def _no_encoder(cfg: Config) -> bool:
    return cfg.data.kind == "features" or cfg.encoder.kind == "none"


def _may_see_later(cfg: Config) -> bool:
    return cfg.scanner.kind in SEES_LATER or plugins.is_code(cfg.scanner.kind)


def _trains_encoder(cfg: Config) -> bool:
    return cfg.encoder.trainable != "none"


# A setting comes after its leaders, since a setting that is reset may lead others.
FOLLOWERS = (
    Follower("data.tfds", ("data.kind",), lambda _, cfg: cfg.data.kind != "tfds"),
    Follower("data.classes", ("data.kind", "data.tfds"), _is_other_data),
    Follower("data.groups", ("data.kind", "data.tfds"), _is_other_data),
    Follower("data.swapped", ("data.kind", "data.split"), lambda _, cfg: cfg.data.split != "given"),
    Follower(
        "data.fold",
        ("data.kind", "data.split"),
        lambda _, cfg: (
            cfg.data.split == "random" or (cfg.data.split == "given" and _has_one_list(cfg))
        ),
    ),
    Follower("data.folds", ("data.split",), lambda _, cfg: cfg.data.split != "group"),
    Follower("data.fps", ("data.kind",), lambda _, cfg: cfg.data.kind in NO_RATE),
    Follower("encoder.args", ("encoder.kind",), lambda *_: True),
    Follower("encoder.weights", ("encoder.kind",), _weights_are_outdated),
    Follower("encoder.pooling", ("encoder.kind",), _pooling_is_outdated),
    Follower("encoder.size", ("encoder.kind",), _is_other_encoder),
    Follower("encoder.normalize", ("encoder.kind", "encoder.weights"), _normalize_is_outdated),
    Follower("encoder.trainable", ("data.kind", "encoder.kind"), lambda _, cfg: _no_encoder(cfg)),
    Follower(
        "encoder.batch_norm", ("encoder.kind",), lambda _, cfg: cfg.encoder.kind in NO_BATCH_NORM
    ),
    Follower("encoder.standardize", ("encoder.trainable",), lambda _, cfg: _trains_encoder(cfg)),
    Follower("encoder.pca", ("encoder.trainable",), lambda _, cfg: _trains_encoder(cfg)),
    Follower("scanner.args", ("scanner.kind",), lambda *_: True),
    Follower(
        "scanner.bidirectional",
        ("scanner.kind",),
        lambda _, cfg: cfg.scanner.kind in SIDE_BY_SIDE,
    ),
    Follower("scanner.causal", ("scanner.kind",), lambda _, cfg: not _may_see_later(cfg)),
    Follower("scanner.layers", ("scanner.kind",), lambda _, cfg: cfg.scanner.kind == "attention"),
    Follower(
        "scanner.batch_norm", ("scanner.kind",), lambda _, cfg: cfg.scanner.kind == "transformer"
    ),
    Follower("eval.inference", ("head.kind",), lambda _, cfg: cfg.head.kind != "per_frame"),
    Follower(
        "train.tbptt_every",
        ("head.kind", "scanner.kind"),
        lambda _, cfg: cfg.head.kind != "per_frame" or cfg.scanner.kind in SIDE_BY_SIDE,
    ),
    Follower(
        "train.tbptt_length",
        ("head.kind", "train.tbptt_every"),
        lambda _, cfg: not 0 < cfg.train.tbptt_every <= cfg.train.tbptt_length,
    ),
    Follower(
        "train.grad_accum",
        ("train.batch_size",),
        lambda _, cfg: cfg.train.grad_accum > cfg.train.batch_size,
    ),
    Follower("loss.class_weights", ("data.kind", "data.tfds"), _is_other_data),
    Follower("train.patience", ("data.val",), lambda _, cfg: cfg.data.val == 0),
    Follower("train.target", ("data.val",), lambda _, cfg: cfg.data.val == 0),
    Follower(
        "optim.warmup_epochs",
        ("train.epochs",),
        lambda _, cfg: cfg.optim.warmup_epochs > cfg.train.epochs,
    ),
    Follower("optim.clip_mode", ("scanner.kind",), lambda _, cfg: cfg.scanner.kind in GATELESS),
    Follower("optim.decoupled", ("optim.kind",), lambda _, cfg: ".py:" in cfg.optim.kind),
    *(
        Follower(name, ("encoder.trainable",), augmentation.outdated(name))
        for name in augmentation.OF_PIXELS_OR_FEATURES
    ),
    Follower("eval.views", ("encoder.trainable",), lambda _, cfg: cfg.encoder.trainable == "none"),
    Follower("augment.flip_exchanges", ("data.kind", "data.tfds"), _is_other_data),
)


def check_together(cfg: Config) -> None:
    """Refuse settings that contradict each other, before anything is built.

    A setting that a model does not use (such as units, if the scanner is a mean) is ignored, so
    that the rows of a table can share a base. Combinations that cannot do what the settings say
    are refused.

    Raises:
        UserError: A rule is broken.
    """
    class_weights.named(cfg.loss.class_weights)
    of_parts = (_of_data, _of_frames, _of_model, _of_scanner, _of_training, _of_optimiser)
    for rules_of in (*of_parts, augmentation.rules, _of_one_report):
        for rule in rules_of(cfg):
            if rule.broken:
                raise UserError(rule.message)


def _of_data(cfg: Config) -> Iterator[Rule]:
    data = cfg.data
    yield Rule(
        bool(data.tfds) and data.kind != "tfds",
        f"data.tfds = {data.tfds!r} needs data.kind = 'tfds', not {data.kind!r}",
    )
    yield Rule(
        data.split == "random" and max(data.fold, data.folds) > 0,
        "data.split = 'random' draws clips and has no folds: set data.fold and data.folds to 0 "
        "(another draw is another data.split_seed)",
    )
    yield Rule(
        data.split == "given" and data.folds > 0,
        f"data.folds = {data.folds} needs data.split = 'group', not 'given'",
    )
    yield Rule(
        data.split == "given" and data.fold > 0 and _has_one_list(cfg),
        f"data.fold = {data.fold} with data.split = 'given' names one of several lists, and "
        f"data.kind = {data.kind!r} has one",
    )
    yield Rule(
        data.fold > 0 and data.folds > 0 and data.fold > data.folds,
        f"data.fold = {data.fold} should be at most data.folds = {data.folds}",
    )
    yield Rule(data.folds == 1, "data.folds = 1 should be at least 2, or 0 for none")
    yield Rule(
        bool(data.groups) and data.kind in ("ucf101", "ucf11"),
        f"data.groups = {data.groups!r}: the clips of data.kind = {data.kind!r} name their "
        "recordings themselves",
    )
    yield Rule(
        data.fps > 0 and data.kind in NO_RATE,
        f"data.fps = {data.fps:g} resamples videos, and data.kind = {data.kind!r} has none",
    )
    for name in ("test", "val"):
        share = getattr(data, name)
        yield Rule(
            share > 1 and share != int(share),
            f"data.{name} = {share:g} should be a share below 1 or a whole number of clips",
        )


def _of_frames(cfg: Config) -> Iterator[Rule]:
    frames, head, settings = cfg.frames, cfg.head, cfg.eval
    yield Rule(
        head.kind == "flatten" and frames.rule == "whole",
        "head.kind = 'flatten' reads clips of one length, and frames.rule = 'whole' shows each "
        "clip's own: take segment, segment_mean_length or uniform",
    )
    yield Rule(
        settings.inference != "single" and head.kind != "per_frame",
        f"eval.inference = {settings.inference!r} needs head.kind = 'per_frame', not {head.kind!r}",
    )
    yield Rule(
        settings.inference != "single" and settings.stride > settings.window,
        f"eval.inference = {settings.inference!r}: eval.stride = {settings.stride} leaves frames "
        f"out between clips of eval.window = {settings.window}; it should be at most that",
    )
    yield Rule(
        settings.inference != "single" and frames.order != "kept",
        f"frames.order = {frames.order!r} orders the frames of one pass: eval.inference = "
        f"{settings.inference!r} cuts clips whose frames stay in order",
    )
    yield Rule(
        cfg.encoder.kind == "c3d" and head.kind in ("per_frame", "flatten"),
        f"encoder.kind = 'c3d' gives a clip one feature: head.kind should be last or mean, not "
        f"{head.kind!r}",
    )


def _of_model(cfg: Config) -> Iterator[Rule]:
    encoder, loss, head = cfg.encoder, cfg.loss, cfg.head
    yield Rule(
        plugins.is_code(encoder.weights),
        f"encoder.weights = {encoder.weights!r} should be random, imagenet, a file of weights "
        "or a finished run: code goes in as encoder.kind",
    )
    yield Rule(
        encoder.trainable != "none" and cfg.data.kind == "features",
        f"encoder.trainable = {encoder.trainable!r}: data.kind = 'features' has features made "
        "elsewhere, so no encoder trains",
    )
    in_file = is_onnx(encoder.kind)
    yield Rule(
        in_file and encoder.weights not in ("auto", "own"),
        f"encoder.weights = {encoder.weights!r}: {encoder.kind} holds its own weights and takes no "
        "others; leave encoder.weights out",
    )
    yield Rule(
        not in_file and encoder.weights == "own",
        f"encoder.weights = 'own' is of a FILE.onnx, not of encoder.kind = {encoder.kind!r}",
    )
    yield Rule(
        in_file and encoder.trainable != "none",
        f"encoder.trainable = {encoder.trainable!r}: a network in an ONNX file is run, "
        "not trained; it should be none",
    )
    yield Rule(
        encoder.trainable != "none" and encoder.kind == "none",
        f"encoder.trainable = {encoder.trainable!r}: encoder.kind = 'none' has nothing to train",
    )
    yield Rule(
        cfg.train.sampling == "balanced" and loss.class_weights == "balanced",
        "train.sampling = 'balanced' with loss.class_weights = 'balanced' would make up for "
        "unequal classes twice: take one of them",
    )
    yield Rule(
        encoder.batch_norm == "frozen" and encoder.kind in NO_BATCH_NORM,
        f"encoder.batch_norm = 'frozen': encoder.kind = {encoder.kind!r} has no batch "
        "normalization",
    )
    for name in ("standardize", "pca"):
        value = getattr(encoder, name)
        yield Rule(
            bool(value) and encoder.trainable != "none",
            f"encoder.{name} = {value} is fitted to features that stay: it needs encoder.trainable "
            f"= 'none', not {encoder.trainable!r}",
        )
    yield Rule(
        loss.kind == "keras_cross_entropy" and head.kind == "per_frame",
        "loss.kind = 'keras_cross_entropy' scores one output a clip: head.kind 'per_frame' has "
        "many",
    )
    yield Rule(
        loss.kind == "keras_cross_entropy" and head.activation != "relu",
        "loss.kind = 'keras_cross_entropy' takes outputs for shares, which raw logits are not: it "
        f"needs head.activation = 'relu', not {head.activation!r} (cross_entropy is Keras' loss of "
        "a softmax)",
    )


def _of_scanner(cfg: Config) -> Iterator[Rule]:
    scanner, kind = cfg.scanner, cfg.scanner.kind
    yield Rule(
        cfg.optim.clip_mode == "preactivation" and kind in GATELESS,
        f"optim.clip_mode = 'preactivation': scanner.kind = {kind!r} has no gates, so nothing "
        "would be clipped",
    )
    yield Rule(
        cfg.train.tbptt_every > 0 and kind in SIDE_BY_SIDE,
        f"train.tbptt_every = {cfg.train.tbptt_every} cuts the gradient of a recurrence, and "
        f"scanner.kind = {kind!r} has none",
    )
    both = f"scanner.bidirectional = {scanner.bidirectional!r} joins both directions of a "
    later = ": take scanner.causal = False" if kind in SEES_LATER else ""
    yield Rule(
        scanner.bidirectional != "no" and kind in SIDE_BY_SIDE,
        f"{both}recurrence, and scanner.kind = {kind!r} has none{later}",
    )
    yield Rule(
        not scanner.causal and not _may_see_later(cfg),
        f"scanner.causal = False needs scanner.kind = {' or '.join(SEES_LATER)}, not {kind!r} "
        "(a recurrence goes both ways with scanner.bidirectional)",
    )
    yield Rule(
        scanner.layers > 1 and kind == "attention",
        f"scanner.layers = {scanner.layers}: scanner.kind = 'attention' is one layer; hidden ones "
        "are scanner.dense and head.dense",
    )
    yield Rule(
        scanner.batch_norm and kind == "transformer",
        "scanner.batch_norm = True: scanner.kind = 'transformer' normalizes every frame by itself "
        "(layer norm)",
    )


def _of_training(cfg: Config) -> Iterator[Rule]:
    train = cfg.train
    yield Rule(
        0 < train.tbptt_length < train.tbptt_every,
        f"train.tbptt_length = {train.tbptt_length} should be at least train.tbptt_every = "
        f"{train.tbptt_every}: the gradient of a window reaches back over all of it",
    )
    yield Rule(
        train.tbptt_length > 0 and train.tbptt_every == 0,
        f"train.tbptt_length = {train.tbptt_length} needs train.tbptt_every: how often to update",
    )
    yield Rule(
        train.tbptt_every > 0 and cfg.head.kind != "per_frame",
        f"train.tbptt_every = {train.tbptt_every} needs head.kind = 'per_frame' (a loss in every "
        f"window), not {cfg.head.kind!r}",
    )
    yield Rule(
        train.tbptt_every > 0 and cfg.scanner.bidirectional != "no",
        "train.tbptt_every cannot be used with scanner.bidirectional = "
        f"{cfg.scanner.bidirectional!r}: the backward direction needs the whole clip",
    )
    yield Rule(
        train.grad_accum > train.batch_size,
        f"train.grad_accum = {train.grad_accum} parts are more than the clips of a batch "
        f"(train.batch_size = {train.batch_size})",
    )
    for name in ("patience", "target"):
        value = getattr(train, name)
        yield Rule(
            value > 0 and cfg.data.val == 0 and cfg.data.split != "given",
            f"train.{name} = {value:g} watches validation clips, and data.val = 0 leaves none",
        )


def _of_optimiser(cfg: Config) -> Iterator[Rule]:
    train, optim = cfg.train, cfg.optim
    yield Rule(
        optim.warmup_epochs > train.epochs,
        f"optim.warmup_epochs = {optim.warmup_epochs} should be at most train.epochs = "
        f"{train.epochs}",
    )
    yield Rule(
        optim.decoupled and plugins.is_code(optim.kind),
        f"optim.decoupled = True: optim.kind = {optim.kind!r} has to include its own decay",
    )
    for name, kind in DECAYS.items():
        yield Rule(
            getattr(optim, name) == 1 and optim.kind == kind,
            f"optim.{name} = 1 never takes in a new gradient (optim.kind = {kind!r}): it should be "
            "below 1",
        )
    yield Rule(
        optim.epsilon == 0 and optim.kind in ("adam", "rmsprop"),
        f"optim.epsilon = 0 divides a gradient of 0 by 0 (optim.kind = {optim.kind!r}): it should "
        "be above 0",
    )


def _of_one_report(cfg: Config) -> Iterator[Rule]:
    """Yield the rules of settings that exist only to reproduce one of the five reports.

    A third setting of this kind, `encoder.init = normal`, has no rule here: every encoder whose
    class has the field can use it.
    """
    data, head = cfg.data, cfg.head
    yield Rule(
        data.swapped and data.split != "given",
        "data.swapped = True exchanges given lists: it needs data.split = 'given', not "
        f"{data.split!r}",
    )
    yield Rule(
        cfg.loss.kind == "double_softmax" and head.activation != "softmax",
        "loss.kind = 'double_softmax' takes the network's softmax for logits: it needs "
        f"head.activation = 'softmax', not {head.activation!r}",
    )
