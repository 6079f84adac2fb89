"""Draw the playback speed of a clip, and which of its frames are early, late or dropped.

All values are integers, so that the host, which reads frames, and the device, which trains on
them, compute the same indices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.config import Augment
from vidrec.config.augmentation import OF_TIME, acting
from vidrec.data import keys

UNIT = 256  # a speed of 256 is the original speed: one frame a step


class Pace(NamedTuple):
    """The speed of a clip and the shifts of its frames.

    Attributes:
        speed: step from one sampled frame to the next, in frames / `UNIT`; None: one frame.
        shift_L: number of frames by which each sampled frame is late (negative: early); None: 0.
        lost_L: True where a frame is dropped and the frame before is repeated; None: nowhere.
    """

    speed: Array | None = None
    shift_L: Array | None = None
    lost_L: Array | None = None


class Places(NamedTuple):
    """Positions of the sampled frames in a clip, (L,), and a mask that is False for padding."""

    place_L: Array
    mask_L: Array


def drawn(settings: Augment, key: Array, L: int) -> Pace | None:
    """Draw a clip's speed and frame shifts; None if the settings change neither.

    Args:
        settings: the augmentation settings.
        key: PRNG key of the clip, see `augment.keys_of`.
        L: number of sampled frames.
    """
    if not acting(settings, OF_TIME):
        return None
    speed = shift_L = lost_L = None
    if settings.speed:
        slow, quick = round(UNIT / (1 + settings.speed)), round(UNIT * (1 + settings.speed))
        speed = jax.random.randint(jax.random.fold_in(key, keys.SPEED), (), slow, quick + 1)
    if settings.jitter:
        far = settings.jitter
        shift_L = jax.random.randint(jax.random.fold_in(key, keys.JITTER), (L,), -far, far + 1)
    if settings.drop:
        lost_L = jax.random.bernoulli(jax.random.fold_in(key, keys.DROP), settings.drop, (L,))
    return Pace(speed, shift_L, lost_L)


def places(length: Array, L: int, rule: str, key: Array, pace: Pace) -> Places:
    """Return the positions of the frames that are sampled from a clip; they never decrease.

    Rule "whole" slows a clip down only so far that L frames cover all of it. Rule "uniform" spreads
    the frames over a random stretch, shorter than the clip if the clip is slowed down, else all of
    it. The other rules speed a clip up only so far that it need not be continued past its end.

    Args:
        length: number of frames of the clip.
        L: number of sampled frames.
        rule: the sampling rule, see `frames.indices`.
        key: PRNG key that draws the position of the first frame.
        pace: the speed and the frame shifts.
    """
    step_L, last = jnp.arange(L), jnp.maximum(length, 1) - 1
    speed = jnp.asarray(UNIT if pace.speed is None else pace.speed)
    mask_L = jnp.broadcast_to(length > 0, (L,))
    if rule == "whole":
        # The L frames must cover all of the clip.
        speed = jnp.maximum(speed, -(-length * UNIT // L))
        place_L = step_L * speed // UNIT
        mask_L = place_L < length
    elif rule == "uniform":
        span = jnp.clip(length * jnp.minimum(speed, UNIT) // UNIT, 1, last + 1)
        start = jax.random.randint(key, (), 0, last + 1 - span + 1)
        place_L = start + (2 * step_L + 1) * span // (2 * L)
    else:
        speed = jnp.minimum(speed, jnp.maximum(last * UNIT // max(L - 1, 1), UNIT))
        reached = (L - 1) * speed // UNIT
        start = jax.random.randint(key, (), 0, jnp.maximum(last - reached, 0) + 1)
        place_L = start + step_L * speed // UNIT
        last = jnp.maximum(last, reached)  # a shorter clip is continued past its end
    if pace.shift_L is not None:
        place_L = lax.cummax(jnp.clip(place_L + pace.shift_L, 0, last))
    if pace.lost_L is not None:
        place_L = lax.cummax(jnp.where(pace.lost_L & (step_L > 0), 0, place_L))
    return Places(jnp.minimum(place_L, last), mask_L)
