"""Show training clips before and after augmentation, for the report."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vidrec.config import Config
from vidrec.config.augmentation import OF_PIXELS, OF_TIME, acting
from vidrec.data import augment
from vidrec.data.datasets.base import UnreadableClip
from vidrec.training import batches, prepare
from vidrec.training.batches import Sampling
from vidrec.training.results import TrialRun

CLIPS = 6
FRAMES = 8  # of each clip
EPOCH = 0  # the epoch whose augmentation is shown


def shown(trials: Sequence[TrialRun], data: prepare.Prepared, size: int) -> dict[str, np.ndarray]:
    """Return frames of training clips, without and with the augmentation of a trial's first epoch.

    Args:
        trials: the first trial whose augmentation changes pixels or time is shown.
        data: the data that the trials train on.
        size: height and width of the frames, in pixels.

    Returns:
        Arrays "before" and "after", uint8 (n, FRAMES, size, size, 3), and "clips", the names of
        the n clips; empty if no augmentation is visible or no clip can be read.
    """
    changed = [trial.config for trial in trials if _can_be_seen(trial.config)]
    train = data.clips("train")
    if not changed or not len(train):
        return {}
    cfg, clips = (
        changed[0],
        train[np.linspace(0, len(train) - 1, min(CLIPS, len(train))).astype(int)],
    )
    places = np.linspace(0, data.length - 1, FRAMES).astype(int)
    read: dict[str, list[Any]] = {"before": [], "after": [], "clips": []}
    for clip in clips.tolist():
        try:
            before, after = (
                data.dataset.read(clip, _indices(cfg, data, clip, epoch)[places].tolist(), size)
                for epoch in (None, EPOCH)
            )
        except UnreadableClip:
            continue
        keys_B = augment.keys_of(cfg.seed, EPOCH, jnp.array([clip]))
        if acting(cfg.augment, OF_PIXELS):
            every = jnp.ones((1, FRAMES), bool)
            after = np.asarray(
                augment.changed(jnp.asarray(after[None]), every, cfg.augment, keys_B)[0]
            )
        for name, value in (
            ("before", before),
            ("after", after),
            ("clips", data.dataset.names[clip]),
        ):
            read[name].append(value)
    if not read["clips"]:
        return {}
    return {name: np.stack(values) for name, values in read.items()}


def _can_be_seen(cfg: Config) -> bool:
    return bool(acting(cfg.augment, (*OF_PIXELS, *OF_TIME)))


def _indices(cfg: Config, data: prepare.Prepared, clip: int, epoch: int | None) -> np.ndarray:
    """Return the indices (L,) of a clip's frames in an epoch, or in scoring if `epoch` is None."""
    sampling = Sampling(cfg, data.length, cfg.seed, epoch)
    lengths, clips = jnp.asarray(data.lengths[[clip]]), jnp.array([clip])
    return np.asarray(batches.frame_indices(lengths, clips, sampling).indices_BT[0])
