"""Hold the arguments of a class that a setting names: an immutable dictionary of plain values."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from vidrec.errors import UserError

EXAMPLE = """a dictionary, such as '{"peepholes": true}' on the command line"""


class Args(dict[str, Any]):
    """Arguments of the class that a setting `kind` names: numbers, texts, booleans, lists.

    The dictionary cannot be changed, so that a configuration can be a dictionary key. Lists are
    stored as tuples.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))

    def __reduce__(self) -> tuple[type["Args"], tuple[dict[str, Any]]]:
        return Args, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("arguments of a configuration cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def frozen(name: str, value: Any) -> Args:
    """Return a dictionary as `Args`, with its lists converted to tuples.

    Args:
        name: Dotted name of the setting, for messages.
        value: The value given by the user.

    Raises:
        UserError: The value is not a dictionary of plain values.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{name} = {value!r} should be {EXAMPLE}")
    return Args({key: _plain(f"{name}.{key}", entry) for key, entry in value.items()})


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(name, element) for element in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{name} = {value!r} should be a number, a text, true, false, null or a list")


def parse(name: str, text: str) -> Args:
    """Return the arguments in a JSON text.

    Args:
        name: Dotted name of the setting, for messages.
        text: A JSON object.

    Raises:
        UserError: The text is not JSON, or not a dictionary of plain values.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} = {text!r} should be {EXAMPLE} ({error})") from None
    return frozen(name, value)
