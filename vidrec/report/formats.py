"""Format figures as text for people; a dash stands for a missing figure."""

import math
from collections.abc import Callable

DASH = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage."""
    if share is None or math.isnan(share):
        return DASH
    return f"{100 * share:.{digits}f}\u00a0%"


def published_percent(share: float) -> str:
    """Return a published share with as many digits as were published: 0.6565 is 65.65 %."""
    whole_tenths = math.isclose(1000 * share, round(1000 * share), abs_tol=1e-6)
    return percent(share, 1 if whole_tenths else 2)


def points(low: float, high: float | None = None) -> str:
    """Return a signed difference of shares, or an interval of differences, in percentage points.

    An end of an interval that would be rounded to 0 has more digits, so that one can see on which
    side of 0 it is.
    """
    if high is None:
        return _signed(low, 1)
    return " to ".join(_signed(end, _digits(100 * end)) for end in (low, high))


def _signed(share: float, digits: int) -> str:
    return f"{100 * share:+.{digits}f}".replace("-", "−")


def _digits(value: float) -> int:
    """Return how many digits show that a value is not 0, from 1 to 3."""
    return next((digits for digits in (1, 2) if round(value, digits)), 3) if value else 1


def span(low: float, high: float) -> str:
    """Return an interval of shares in percent, without the sign."""
    if math.isnan(low):
        return DASH
    # A space that breaks, since browsers break after a dash in any case.
    return f"{100 * low:.1f}\u00a0– {100 * high:.1f}"


def count(value: float) -> str:
    """Return a whole number with thousands separated by a narrow space."""
    return DASH if math.isnan(value) else f"{value:,.0f}".replace(",", "\u202f")


def seconds(value: float) -> str:
    """Return a duration, with one decimal below 100 seconds."""
    if math.isnan(value):
        return DASH
    return f"{value:.1f}" if value < 100 else count(value)


def decimals(value: float | None) -> str:
    """Return a loss or a score with three decimals."""
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def of_column(column: str) -> Callable[[float], str]:
    """Return the function that formats the figures of a column of table.csv."""
    if column.startswith("seconds"):
        return seconds
    if column.endswith(("loss", "objective")):
        return decimals
    return count if column in ("params", "epochs", "best_epoch") else percent
