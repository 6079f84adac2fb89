"""Put a table's trials on the embedded data (`--on motion`): the rule, in one place."""

from dataclasses import replace
from typing import Any

from vidrec.config import Config, Data, Encoder, override
from vidrec.evaluation import tasks


def on_motion(cfg: Config, memory: bool = False, base: Config | None = None) -> Config:
    """Return the same trial on the embedded data, where it takes minutes (`--on motion`).

    Data, encoder and classes are replaced (folds stay folds); units, of linear layers too, are
    divided by 4, those of maps (8x8 here) by 16, epochs capped at 10, batch at 50; every other
    published value stays, lengths too (shorter clips are continued). Where `cfg` is a row that
    differs from its table's `base` in epochs or batch, it goes on differing as many times.

    Tables of memory (`on_memory`) have 1500 clips of 120 to 180 frames that show a cue in their
    first third. Report D's rate, clipped norm and windows of 30 frames move the weights too little
    in ten epochs for an LSTM to learn that it must remember, so there batches are capped at 16 and
    forget gates begin open, at 5: what a cell holds fades over about a clip's length.

    Args:
        cfg: The trial's settings.
        memory: Whether its table is one of memory.
        base: The settings of its table's base; None: those of the trial.
    """
    whole = base or cfg
    epochs = min(whole.train.epochs, 10) / whole.train.epochs
    batch = min(whole.train.batch_size, 16 if memory else 50) / whole.train.batch_size
    keeps_maps = cfg.encoder.pooling == "map"
    # A fold of UCF-101 is one of three lists, of UCF-11 one of 25 groups: here, of as many parts.
    folds = cfg.data.folds or (25 if cfg.data.kind == "ucf11" else 3)
    moved = replace(
        cfg,
        data=Data(
            kind="tfds",
            tfds="motion/memory/clips=1500" if memory else tasks.of(cfg).embedded,
            split="random" if cfg.data.split == "random" else "group",
            fold=cfg.data.fold,
            folds=folds if cfg.data.fold else 0,
            split_seed=cfg.data.split_seed,
            val_by=cfg.data.val_by,
            root=cfg.data.root if cfg.data.kind == "tfds" else "",
        ),
        encoder=_pixels(cfg.encoder)
        if cfg.encoder.trainable != "none"
        else Encoder(weights="random", pooling="map", size=16)
        if keeps_maps
        else Encoder(weights="random", standardize=True, pca=48, size=32 if memory else 64),
    )
    scaled = {
        "scanner.units": max(1, cfg.scanner.units // (16 if keeps_maps else 4)),
        "scanner.dense": tuple(max(1, width // 4) for width in cfg.scanner.dense),
        "train.epochs": max(1, round(epochs * cfg.train.epochs)),
        "train.batch_size": max(1, round(batch * cfg.train.batch_size)),
    }
    return override(moved, scaled | ({"scanner.forget_bias": 5.0} if memory else {}))


def _pixels(encoder: Any) -> Any:
    """Return a trained encoder of the same kind, for small images and without a weights file."""
    return replace(encoder, weights="random", size=min(encoder.size or 64, 64))
