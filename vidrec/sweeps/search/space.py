"""Define which settings a search tries: an interval of numbers or a list of choices for each."""

import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vidrec import config
from vidrec.config import NOT_IDENTITY, Config
from vidrec.config.checking import unknown_setting
from vidrec.errors import UserError

EXAMPLE = "optim.learning_rate=log:1e-4:1e-2, scanner.dropout=0:0.6 or scanner.units=32,64,128"
_ENDS = re.compile(r"(log:)?([^:,]*):([^:,]*)")
# Sections that say which clips are seen and how they are scored: the same for all trials.
_FIXED = ("data", "eval", "task")


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low, high: the ends.
        log: whether numbers are drawn on a logarithmic scale.
        whole: whether only whole numbers are drawn.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a value is in the interval."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    @property
    def ends(self) -> tuple[float, float]:
        """Return the values that are checked before a search begins."""
        return self.low, self.high


@dataclass(frozen=True)
class Choices:
    """A list of values to choose from."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of the choices."""
        return config.canonical(value) in map(config.canonical, self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return the values that are checked before a search begins."""
        return self.values


Axis = Interval | Choices
Space = dict[str, Axis]


def parse(texts: Iterable[str]) -> Space:
    """Return the space that words such as `scanner.dropout=0:0.6` describe.

    Raises:
        UserError: a text is not understood, or a setting is named twice.
    """
    space: Space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not equals or not values:
            raise UserError(f"--space {text}: should be like {EXAMPLE}")
        if name in space:
            raise UserError(f"--space names {name} twice: give its values at once")
        space[name] = _of_text(name, values)
    return space


def of(given: Mapping[str, Any]) -> Space:
    """Return the space that Python gives: for each setting a list of values, or a text.

    The text is the part after the `=` of a text for `parse`.
    """
    return {name: _of_python(name, values) for name, values in given.items()}


def _of_python(name: str, values: Any) -> Axis:
    if isinstance(values, Interval | Choices):
        return values
    if isinstance(values, str):
        return _of_text(name, values)
    try:
        return Choices(tuple(values))
    except TypeError:
        raise UserError(f"{name} = {values!r}: should be a list, or a text like 0:0.6") from None


def _of_text(name: str, text: str) -> Axis:
    hints = _hints()
    if name not in hints:
        raise unknown_setting(name, hints)
    kind = _number(hints[name])
    ends = _ENDS.fullmatch(text)
    if ends and kind:
        return _interval(name, text, ends, kind)
    if text.startswith("log:"):
        raise UserError(f"--space {name}={text}: log:LOW:HIGH is for a setting that is a number")
    parts = config.split_commas(text)
    many = config.takes_many(name)
    return Choices(
        tuple(config.parse(name, part if many else config.unquote(part)) for part in parts)
    )


def _hints() -> dict[str, Any]:
    return {setting.name: setting.hint for setting in config.fields()}


def _number(hint: Any) -> type | None:
    """Return int or float if a setting of this type is such a number, else None."""
    if hint in (int, float):
        return hint
    if typing.get_origin(hint) in (tuple, typing.Literal):
        return None
    return next(filter(None, map(_number, typing.get_args(hint))), None)


def _interval(name: str, text: str, ends: re.Match[str], kind: type) -> Interval:
    log, *numbers = ends.groups()
    try:
        low, high = map(kind, numbers)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(
            f"--space {name}={text}: should be LOW:HIGH or log:LOW:HIGH, two {what}"
        ) from None
    return Interval(low, high, bool(log), kind is int)


def check(cfg: Config, space: Space, halving: bool) -> None:
    """Refuse a space that cannot be searched.

    Args:
        cfg: the settings that the space changes.
        space: what is searched.
        halving: whether trials are stopped before their last epoch.

    Raises:
        UserError: the space cannot be searched; the message says why.
    """
    if not space:
        raise UserError(f"a search needs a space: --space {EXAMPLE.replace(' or ', ', ')}")
    hints = _hints()
    for name, axis in space.items():
        if name not in hints:
            raise unknown_setting(name, hints)
        if why := _refusal(name, halving):
            raise UserError(f"--space {name}: {why}")
        _check_axis(name, axis)
        for value in axis.ends:
            config.check(name, value, hints[name])


def _refusal(name: str, halving: bool) -> str:
    """Return why a setting cannot be searched; "" if it can."""
    if name.partition(".")[0] in _FIXED:
        return "all trials of a search are trained and scored on the same clips in the same way"
    if name == "seed":
        return "all trials have the experiment's seed; --seeds is for the chosen setting"
    if name in NOT_IDENTITY:
        return "changes no result, so there is nothing to search"
    if name == "train.epochs" and halving:
        return "--halving decides how many epochs a trial gets"
    return ""


def _check_axis(name: str, axis: Axis) -> None:
    if isinstance(axis, Choices):
        known = list(map(config.canonical, axis.values))
        if not known:
            raise UserError(f"--space {name}: has no values")
        if len(set(known)) < len(known):
            raise UserError(f"--space {name}: names a value twice")
        return
    text = f"--space {name}={'log:' * axis.log}{axis.low:g}:{axis.high:g}"
    if not all(map(math.isfinite, axis.ends)) or axis.low >= axis.high:
        raise UserError(f"{text}: the first number should be the smaller one, both finite")
    if axis.log and axis.low <= 0:
        raise UserError(f"{text}: on a logarithmic scale the first number should be above 0")


def own_values(cfg: Config, space: Space) -> dict[str, Any] | None:
    """Return the experiment's values of the searched settings; None if any is not in the space."""
    values = {name: config.get(cfg, name) for name in space}
    return values if all(space[name].holds(value) for name, value in values.items()) else None


def described(space: Space) -> dict[str, dict[str, Any]]:
    """Return the space as plain data for search.json."""
    return {
        name: {"choices": list(axis.values)}
        if isinstance(axis, Choices)
        else {"low": axis.low, "high": axis.high, "log": axis.log, "whole": axis.whole}
        for name, axis in space.items()
    }
