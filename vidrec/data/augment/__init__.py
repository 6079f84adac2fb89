"""Augment training clips on the device, with random choices keyed by seed, epoch and clip.

`time` changes which frames are seen, `pixels` and `features` change the frames, and `mixing` mixes
two clips. Random choices do not depend on the device or on the position in a batch. So a trial sees
the same clips alone, in a group, on several devices or after it is resumed.
"""

import jax
from jax import Array

from vidrec.config import Augment
from vidrec.config.augmentation import OF_FEATURES, OF_PIXELS, OF_TIME, acting
from vidrec.data import keys
from vidrec.data.augment import features, pixels


def moves_frames(settings: Augment) -> bool:
    """Return whether the settings change which frames of a clip training sees."""
    return bool(acting(settings, OF_TIME))


def keys_of(seed: Array | int, epoch: Array | int, clips_B: Array) -> Array:
    """Return the PRNG key with which each clip of a batch is augmented."""
    return jax.vmap(lambda clip: keys.fold_key(seed, keys.AUGMENT, epoch, clip))(clips_B)


def changed(inputs: Array, mask_BT: Array, settings: Augment, keys_B: Array) -> Array:
    """Return augmented clips: frames (B, T, H, W, C) or features (B, T, D…).

    Args:
        inputs: frames or features of the clips; the result has the same type.
        mask_BT: False where a frame is padding.
        settings: the augmentation settings.
        keys_B: one PRNG key for each clip, from `keys_of`.
    """
    if acting(settings, OF_PIXELS):
        return pixels.changed(inputs, mask_BT, settings, keys_B)
    if acting(settings, OF_FEATURES):
        return features.changed(inputs, mask_BT, settings, keys_B)
    return inputs
