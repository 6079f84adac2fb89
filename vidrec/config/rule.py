"""What a rule between settings is."""

from typing import NamedTuple


class Rule(NamedTuple):
    """A rule between settings.

    Attributes:
        broken: Whether the settings available break it.
        message: Names the settings and says what would be right.
    """

    broken: bool
    message: str
