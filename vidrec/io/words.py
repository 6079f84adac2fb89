"""Write numbers and lists of names as text for messages."""

from collections.abc import Iterable

NAMED = 3  # number of names of a list that a message shows


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or the plural.

    >>> counted(1, "file"), counted(2, "class")
    ('1 file', '2 classes')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def are(number: int) -> str:
    """Return "is" or "are", the verb that fits a number of things."""
    return "is" if number == 1 else "are"


def listed(names: Iterable[str]) -> str:
    """Return names in one line, separated by semicolons if a name itself contains a comma.

    >>> listed(["LSTM", "GRU"]), listed(["TCN, 40k", "TCN, 160k"])
    ('LSTM, GRU', 'TCN, 40k; TCN, 160k')
    """
    names = list(names)
    return ("; " if any(", " in name for name in names) else ", ").join(names)


def some(names: Iterable[str], most: int = NAMED) -> str:
    """Return the first names of a list; an ellipsis stands for the others.

    >>> some("abcd")
    'a, b, c, …'
    """
    names = list(names)
    return listed([*names[:most], *(["…"] if len(names) > most else [])])
