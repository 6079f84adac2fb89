"""Which classes a mirrored clip would belong to another of."""

import re
from collections.abc import Sequence

from vidrec.config import Augment, Config
from vidrec.data.datasets.base import nearest
from vidrec.errors import UserError

SIDES = ("left", "right", "clockwise", "anticlockwise", "counterclockwise")
AUTO, NONE = "auto", "none"


def exchanged(settings: Augment, classes: Sequence[str]) -> list[str]:
    """Return the classes that a flip exchanges, as `augment.flip_exchanges` says."""
    said = settings.flip_exchanges
    return [name for name in classes if name in said or (AUTO in said and _names_a_side(name))]


def check(cfg: Config, classes: Sequence[str]) -> None:
    """Refuse to mirror clips of classes that a flip exchanges.

    Args:
        cfg: the settings.
        classes: that the data have.

    Raises:
        UserError: there is such a class, or a name that is no class.
    """
    if not cfg.augment.flip:
        return
    named = [name for name in cfg.augment.flip_exchanges if name not in (AUTO, NONE)]
    unknown = [name for name in named if name not in classes]
    if unknown and not cfg.data.classes:  # where some are kept, the others may be named
        raise UserError(
            f"augment.flip_exchanges: no class is {unknown[0]!r}{nearest(unknown[0], classes)}"
        )
    if found := exchanged(cfg.augment, classes):
        raise UserError(
            f"augment.flip = {cfg.augment.flip:g} mirrors clips, and mirrored clips of "
            f"{', '.join(found)} would be of another class: set it to 0, or leave these classes "
            "out (data.classes); where they look the same mirrored, set augment.flip_exchanges to "
            "none"
        )


def _names_a_side(name: str) -> bool:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return any(word.lower().removesuffix("s").removesuffix("ward") in SIDES for word in words)
