"""Read `loss.class_weights`."""

import math

from vidrec.errors import UserError

WORDS = ("none", "balanced")


def named(text: str) -> dict[str, float]:
    """Return the weight of each class that the setting names; empty for a word in `WORDS`.

    Args:
        text: The setting: none, balanced, or NAME=WEIGHT pairs separated by commas.

    Raises:
        UserError: The text has another form, names a class twice, or has a weight of 0 or below.
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
