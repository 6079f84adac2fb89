"""Augment training clips: on the device, keyed by seed, epoch and clip, all frames of a clip alike.

Which frames are seen (`time`), their pixels (`pixels`) or features (`features`), and mixtures of
two clips (`mixing`). Random choices do not depend on the device or on the place in a batch. So a
trial in a group, on several devices or resumed sees the same as alone.
"""

import jax
from jax import Array

from vidrec.config import Augment
from vidrec.config.augmentation import OF_FEATURES, OF_PIXELS, OF_TIME, acting
from vidrec.data import keys
from vidrec.data.augment import features, pixels


def moves_frames(settings: Augment) -> bool:
    """Return whether training sees other frames than scoring would."""
    return bool(acting(settings, OF_TIME))


def keys_of(seed: Array | int, epoch: Array | int, clips_B: Array) -> Array:
    """Return the key of each clip of a batch."""
    return jax.vmap(lambda clip: keys.fold_key(seed, keys.AUGMENT, epoch, clip))(clips_B)


def changed(inputs: Array, mask_BT: Array, settings: Augment, keys_B: Array) -> Array:
    """Return what training shows of clips: frames (B, T, H, W, C) or features (B, T, D…).

    Args:
        inputs: of the clips, in the type in which they are returned.
        mask_BT: False where a frame is padding.
        settings: how far they may be changed.
        keys_B: of `keys_of`.
    """
    if acting(settings, OF_PIXELS):
        return pixels.changed(inputs, mask_BT, settings, keys_B)
    if acting(settings, OF_FEATURES):
        return features.changed(inputs, mask_BT, settings, keys_B)
    return inputs
