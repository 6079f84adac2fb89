"""Find the classes whose clips belong to another class if they are mirrored."""

import re
from collections.abc import Sequence

from vidrec.config import Augment, Config
from vidrec.data.datasets.base import nearest
from vidrec.errors import UserError

SIDES = ("left", "right", "clockwise", "anticlockwise", "counterclockwise")
MIRRORED_VIEWS = ("flip", "ten_crops")
AUTO, NONE = "auto", "none"


def exchanged(settings: Augment, classes: Sequence[str]) -> list[str]:
    """Return the classes that a flip exchanges, according to `augment.flip_exchanges`."""
    said = settings.flip_exchanges
    return [name for name in classes if name in said or (AUTO in said and _names_a_side(name))]


def check(cfg: Config, classes: Sequence[str]) -> None:
    """Refuse to mirror clips of classes that a flip exchanges, in training or in scoring.

    Args:
        cfg: the settings.
        classes: the classes of the data.

    Raises:
        UserError: clips of such a class would be mirrored, or `augment.flip_exchanges` names an
            unknown class.
    """
    asked = [f"augment.flip = {cfg.augment.flip:g}"] if cfg.augment.flip else []
    asked += [f"eval.views = {cfg.eval.views!r}"] if cfg.eval.views in MIRRORED_VIEWS else []
    if not asked:
        return
    named = [name for name in cfg.augment.flip_exchanges if name not in (AUTO, NONE)]
    unknown = [name for name in named if name not in classes]
    if unknown and not cfg.data.classes:  # it may name classes that are left out
        raise UserError(
            f"augment.flip_exchanges: no class is {unknown[0]!r}{nearest(unknown[0], classes)}"
        )
    if found := exchanged(cfg.augment, classes):
        raise UserError(
            f"{asked[0]} mirrors clips, and mirrored clips of {', '.join(found)} would be of "
            "another class: leave it out, or leave these classes out (data.classes); where they "
            "look the same mirrored, set augment.flip_exchanges to none"
        )


def _names_a_side(name: str) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return any(word.lower().removesuffix("s").removesuffix("ward") in SIDES for word in words)
