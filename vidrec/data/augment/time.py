"""Draw the speed of a clip, and which of its frames are early, late or lost.

All are whole numbers, so that the host, which reads frames, and the device, which trains on them,
agree.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vidrec.config import Augment
from vidrec.config.augmentation import OF_TIME, acting
from vidrec.data import keys

UNIT = 256  # steps of a frame in which speeds count


class Pace(NamedTuple):
    """The speed of a clip and the shifts of its frames.

    Attributes:
        speed: frames from one that is seen to the next, in parts of `UNIT`.
        shift_L: by how many frames each is early or late.
        lost_L: True where a frame is lost and the frame before is repeated.
    """

    speed: Array | None = None
    shift_L: Array | None = None
    lost_L: Array | None = None


class Places(NamedTuple):
    """Where in a clip its frames are seen, (L,), and which of them count."""

    place_L: Array
    mask_L: Array


def drawn(settings: Augment, key: Array, L: int) -> Pace | None:
    """Return a clip's pace; None if the settings change none.

    Args:
        settings: how far it may change.
        key: of the clip, see `augment.keys_of`.
        L: frames that are seen.
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
    """Return the frames of a clip that is seen at a pace; time never turns back.

    A clip is slowed down as drawn, but never sped up so far that it would have to be continued
    past its end. By the rules "uniform" and "whole", frames come from one stretch of the clip, and
    from all of it.

    Args:
        length: frames that the clip has.
        L: frames that are seen.
        rule: of `frames.indices`.
        key: draws where the frames begin.
        pace: how the clip goes by.
    """
    step_L, last = jnp.arange(L), jnp.maximum(length, 1) - 1
    speed = jnp.asarray(UNIT if pace.speed is None else pace.speed)
    mask_L = jnp.broadcast_to(length > 0, (L,))
    if rule == "whole":
        # All of the clip has to be seen in L frames.
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
        last = jnp.maximum(last, reached)  # a shorter clip is continued
    if pace.shift_L is not None:
        place_L = lax.cummax(jnp.clip(place_L + pace.shift_L, 0, last))
    if pace.lost_L is not None:
        place_L = lax.cummax(jnp.where(pace.lost_L & (step_L > 0), 0, place_L))
    return Places(jnp.minimum(place_L, last), mask_L)
