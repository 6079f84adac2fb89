"""Settings that belong to a user's class: a dictionary of plain values that never changes."""

import dataclasses
import difflib
import json
import typing
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from vidrec.errors import UserError

EXAMPLE = """a dictionary, such as '{"peepholes": true}' on the command line"""


class Args(dict[str, Any]):
    """Arguments of the class that a setting `kind` names: numbers, texts, truth values, lists.

    It cannot be changed, so that a configuration can be a key. Lists are kept as tuples.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))

    def __reduce__(self) -> tuple[type["Args"], tuple[dict[str, Any]]]:
        return Args, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("arguments of a configuration cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]


def frozen(name: str, value: Any) -> Args:
    """Return a dictionary as `Args`, its lists as tuples.

    Args:
        name: Dotted name of the setting, for messages.
        value: What was given.

    Raises:
        UserError: It is no dictionary of plain values.
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
    """Return the arguments that a JSON text holds.

    Raises:
        UserError: It is no JSON, or no dictionary of plain values.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} = {text!r} should be {EXAMPLE} ({error})") from None
    return frozen(name, value)


def checked(
    name: str, args: Mapping[str, Any], cls: type, *, reserved: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments in the types of the fields that a dataclass declares.

    Args:
        name: Dotted name of the setting, such as scanner.args.
        args: What was given.
        cls: A dataclass; Flax modules are dataclasses, too.
        reserved: Fields that other settings fill.

    Raises:
        UserError: The class has no such field, another setting fills it, or the type is wrong.
    """
    from vidrec.config.overrides import check

    hints = _hints(cls)
    own = [field for field in hints if field not in reserved]
    section = name.partition(".")[0]
    values = {}
    for key, value in args.items():
        if key in reserved and key in hints:
            raise UserError(f"{name}: '{key}' is a setting of its own, {section}.{key}")
        if key not in own:
            near = difflib.get_close_matches(key, own, 1, 0.6)
            known = f"it has {', '.join(own)}" if own else "it has none of its own"
            guess = f"did you mean '{near[0]}'?" if near else known
            raise UserError(f"{name}: {cls.__name__} has no field '{key}'; {guess}")
        try:
            values[key] = check(f"{name}.{key}", value, hints[key])
        except TypeError:  # a type that no value can be compared with, such as Any
            values[key] = value
    return values


def _hints(cls: type) -> dict[str, Any]:
    """Declared types of the fields that can be given, in their order."""
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # a name that only a type checker imports
        hints = {}
    return {name: hints.get(name, Any) for name in names if name not in ("name", "parent")}
