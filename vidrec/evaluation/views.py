"""Several views of the same frames, whose probabilities are averaged: `eval.views`.

Dimension letters: V views, B clips, T frames, H W C pixels.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vidrec.data.augment import pixels
from vidrec.data.augment.flips import MIRRORED_VIEWS
from vidrec.data.augment.pixels import View

if TYPE_CHECKING:
    from vidrec.evaluation.task import Task

ONE = "one"
SIDE = 7 / 8  # side of a crop, as a share of the frame's side
WHOLE = (0.5, 0.5, 1.0, 1.0)
MIDDLES = (SIDE / 2, 1 - SIDE / 2)
CROPS = ((0.5, 0.5, SIDE, SIDE), *((x, y, SIDE, SIDE) for y in MIDDLES for x in MIDDLES))
PARTS = {ONE: (WHOLE,), "flip": (WHOLE,), "five_crops": CROPS, "ten_crops": CROPS}


def of(name: str) -> View:
    """Return the views of a value of `eval.views`, as arrays (V,); the mirrored views are last."""
    parts = [*PARTS[name]]
    if name in MIRRORED_VIEWS:
        parts += [(x, y, -width, height) for x, y, width, height in parts]
    x, y, width, height = np.array(parts, np.float32).T
    return View(*map(jnp.asarray, (x, y, width, height, np.zeros_like(x))))


def shown(frames: Array, name: str) -> Array:
    """Return all views of frames (…, H, W, C), (V, …, H, W, C), in the same number type."""
    return jax.vmap(lambda view: pixels.seen(frames, view))(of(name))


def outputs(
    apply: Callable[[Array], Array], frames: Array, name: str, task: "Task", loss_kind: str
) -> Array:
    """Return a head's outputs whose probabilities are the mean over the views.

    Args:
        apply: function from frames to outputs.
        frames: (B, T, H, W, C); with one view, any input that the model takes.
        name: the value of `eval.views`.
        task: the task, which turns outputs into probabilities.
        loss_kind: `loss.kind`.
    """
    if name == ONE:
        return apply(frames)
    # Views are computed one after another, so memory holds the activations of one view only.
    seen = lax.map(lambda view: apply(pixels.seen(frames, view)), of(name))
    return task.averaged(seen, loss_kind)
