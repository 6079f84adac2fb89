"""Define the type of a rule between settings."""

from typing import NamedTuple


class Rule(NamedTuple):
    """A rule between settings.

    Attributes:
        broken: Whether the settings break the rule.
        message: The error message, which names the settings and says what would be right.
    """

    broken: bool
    message: str
