"""Read `loss.class_weights`."""

import math

from vidrec.errors import UserError

WORDS = ("none", "balanced")


def named(text: str) -> dict[str, float]:
    """Return the weights of the classes that a setting names; none for a word in `WORDS`.

    Args:
        text: none, balanced, or NAME=WEIGHT with commas between.

    Raises:
        UserError: It is none of these, or a weight is not a positive number.
    """
    if text in WORDS:
        return {}
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name.strip() or not 0 < weight < math.inf or name.strip() in weights:
            raise UserError(
                f"loss.class_weights = {text!r} should be none, balanced, or NAME=WEIGHT with "
                "commas between, each class once and each weight above 0"
            )
        weights[name.strip()] = weight
    return weights
