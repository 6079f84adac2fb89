"""Augment the pixels of clips: flip, crop, rotate, change colours; all frames of a clip alike.

Flip, crop and rotation are one affine map of pixel positions, with bilinear interpolation.
Dimension letters: B clips, T frames, H W C pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vidrec.config import Augment
from vidrec.config.augmentation import MOVING, TONES, acting
from vidrec.data import keys

RATIO = 4 / 3  # largest width / height of a crop, relative to the frame's; least: 1 / RATIO
GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in the perceived brightness
DRAWS = 9


class View(NamedTuple):
    """The crop, flip and rotation of a clip's frames; arrays () or (B,).

    Attributes:
        x: centre of the crop, as a share of the frame's width.
        y: centre of the crop, as a share of the frame's height.
        width: width of the crop, as a share of the frame's width; negative: mirrored.
        height: height of the crop, as a share of the frame's height.
        angle: angle of the rotation, in radians.
    """

    x: Array | float
    y: Array | float
    width: Array | float
    height: Array | float
    angle: Array | float = 0.0


class Tones(NamedTuple):
    """Factors of a clip's brightness, contrast and colour; arrays () or (B,)."""

    brightness: Array
    contrast: Array
    color: Array


def changed(frames_BTHWC: Array, mask_BT: Array, settings: Augment, keys_B: Array) -> Array:
    """Return augmented frames of the same type.

    Args:
        frames_BTHWC: pixels from 0 to 255, bytes or floats.
        mask_BT: False where a frame is padding.
        settings: the augmentation settings.
        keys_B: one PRNG key for each clip.
    """
    draws_BN = jax.vmap(drawn)(keys_B)
    if acting(settings, MOVING):
        views = jax.vmap(lambda draws: drawn_view(settings, draws))(draws_BN)
        frames_BTHWC = jax.vmap(seen)(frames_BTHWC, views)
    if acting(settings, TONES):
        tones = jax.vmap(lambda draws: drawn_tones(settings, draws))(draws_BN)
        frames_BTHWC = jax.vmap(toned)(frames_BTHWC, mask_BT, tones)
    return frames_BTHWC


def drawn(key: Array) -> Array:
    """Draw the numbers from 0 to 1 that determine the changes of a clip, (DRAWS,)."""
    return jax.random.uniform(jax.random.fold_in(key, keys.PIXELS), (DRAWS,))


def drawn_view(settings: Augment, draws_N: Array) -> View:
    """Return the crop, flip and rotation of a clip that the numbers of `drawn` determine."""
    flip, area, ratio, x, y, angle = draws_N[:6]
    area = 1 - (1 - settings.crop) * area
    # No crop can be wider or higher than the frame, so a large one has little choice of ratio.
    most = jnp.minimum(math.log(RATIO), -jnp.log(area))
    stretch = jnp.exp(most * (2 * ratio - 1) / 2)
    width, height = jnp.sqrt(area) * stretch, jnp.sqrt(area) / stretch
    return View(
        0.5 + (x - 0.5) * (1 - width),
        0.5 + (y - 0.5) * (1 - height),
        jnp.where(flip < settings.flip, -width, width),
        height,
        math.radians(settings.rotation) * (2 * angle - 1),
    )


def drawn_tones(settings: Augment, draws_N: Array) -> Tones:
    """Return factors from 1 - setting to 1 + setting that the numbers of `drawn` determine."""
    widths = (settings.brightness, settings.contrast, settings.color)
    return Tones(
        *(1 + width * (2 * draw - 1) for width, draw in zip(widths, draws_N[6:], strict=True))
    )


def seen(frames_THWC: Array, view: View) -> Array:
    """Crop, flip and rotate frames, resized to their old size; pixels of the edge are repeated."""
    height, width, channels = frames_THWC.shape[-3:]
    x_1W = (jnp.arange(width)[None] + 0.5 - width / 2) * view.width
    y_H1 = (jnp.arange(height)[:, None] + 0.5 - height / 2) * view.height
    cos, sin = jnp.cos(view.angle), jnp.sin(view.angle)
    column = jnp.clip(cos * x_1W - sin * y_H1 + view.x * width - 0.5, 0, width - 1)
    row = jnp.clip(sin * x_1W + cos * y_H1 + view.y * height - 0.5, 0, height - 1)
    left, top = (jnp.floor(place).astype(jnp.int32) for place in (column, row))
    right, below = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    flat = frames_THWC.reshape(-1, height * width, channels)

    def pixels(row: Array, column: Array) -> Array:
        taken = flat[:, (row * width + column).reshape(-1)]
        return taken.reshape(-1, height, width, channels).astype(jnp.float32)

    to_right, down = (column - left)[None, ..., None], (row - top)[None, ..., None]
    upper = pixels(top, left) * (1 - to_right) + pixels(top, right) * to_right
    lower = pixels(below, left) * (1 - to_right) + pixels(below, right) * to_right
    out = upper * (1 - down) + lower * down
    return _as_before(out, frames_THWC).reshape(frames_THWC.shape)


def toned(frames_THWC: Array, mask_T: Array, tones: Tones) -> Array:
    """Change the brightness of frames, then their contrast, then their colour.

    Contrast is a pixel's distance from the mean grey of all frames that are not padding. Colour is
    a pixel's distance from its own grey.
    """
    x = frames_THWC.astype(jnp.float32)
    # Separate channels: a CPU computes them several times as fast as a last axis of size 3.
    planes = [x[..., channel] for channel in range(3)]
    grey_THW = _grey(planes)
    count = jnp.maximum(mask_T.sum(), 1)
    mean = jnp.where(mask_T, grey_THW.mean((1, 2)), 0.0).sum() / count
    gain = tones.contrast * tones.brightness
    added = (1 - tones.contrast) * tones.brightness * mean
    own, common = gain * tones.color, gain * (1 - tones.color)
    out = jnp.stack([own * plane + (common * grey_THW + added) for plane in planes], -1)
    return _as_before(out, frames_THWC)


def _grey(planes: Sequence[Array]) -> Array:
    red, green, blue = (share * plane for share, plane in zip(GREY, planes, strict=True))
    return red + green + blue


def _as_before(pixels: Array, like: Array) -> Array:
    """Clip pixels to the range 0 to 255, and convert them to the type of `like`."""
    pixels = jnp.clip(pixels, 0, 255)
    whole = jnp.issubdtype(like.dtype, jnp.integer)
    return (jnp.round(pixels) if whole else pixels).astype(like.dtype)
