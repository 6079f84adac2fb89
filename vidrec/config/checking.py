"""Check the names and values of settings; each error says in one line what would be right."""

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from vidrec.config import arguments
from vidrec.config.schema import Config, Pattern, fields
from vidrec.errors import UserError

# Earlier names of settings and of their values: refused with an error that gives the new name.
RENAMED = {
    "encoder.readout": "encoder.pooling",
    "encoder.components": "encoder.pca",
    "encoder.standardise": "encoder.standardize",
    "encoder.normalise": "encoder.normalize",
    "encoder.precision": "encoder.store_dtype",
    "encoder.compute": "encoder.dtype",
    "scanner.compute": "scanner.dtype",
    "train.truncation": "train.tbptt_every",
    "train.reach": "train.tbptt_length",
    "train.accumulate": "train.grad_accum",
    "train.spread": "train.parallel",
    "loss.step_weights": "loss.frame_weights",
    "eval.clip": "eval.window",
    "optim.decay": "optim.rms_decay",
    "optim.clip_at": "optim.clip_mode",
    "optim.warmup": "optim.warmup_epochs",
}
RENAMED_VALUES = {
    ("frames.rule", "mean"): "segment_mean_length",
    ("head.kind", "every"): "per_frame",
    ("loss.frame_weights", "scaled"): "linear",
    ("loss.frame_weights", "sum"): "uniform",
    ("eval.inference", "once"): "single",
    ("eval.inference", "clips"): "average",
}
# Sections whose settings are given most often.
OFTEN = ("encoder", "scanner", "optim", "train")
_DESCRIPTIONS: dict[Any, str] = {
    type(None): "None",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    arguments.Args: arguments.EXAMPLE,
}


def unknown_setting(name: str, known: Collection[str]) -> UserError:
    """Return the error for an unknown setting; it suggests the most similar names."""
    if name in RENAMED:
        return UserError(f"'{name}' is called '{RENAMED[name]}' now")
    near = _nearest(name, known)
    sections = ", ".join(entry.name for entry in dataclasses.fields(Config))
    guess = did_you_mean(near) if near else f"sections are {sections}"
    return UserError(f"unknown setting '{name}'; {guess}")


def _nearest(name: str, known: Collection[str]) -> list[str]:
    """Return the settings with the same last word as `name`, or else the most similar ones."""
    section, _, leaf = name.rpartition(".")
    leaves = by_last_word(known)
    if same := leaves.get(leaf, []):
        return difflib.get_close_matches(name, same, 1, 0.0) if section else same
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return near or [
        full for word in difflib.get_close_matches(leaf, leaves, 1, 0.7) for full in leaves[word]
    ]


def by_last_word(known: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the names of settings by their last word; model and training settings come first.

    Args:
        known: Dotted names of the settings; empty: all settings.
    """
    leaves: dict[str, list[str]] = {}
    names = known or [name for name, _, _ in fields(Config)]
    for full in sorted(names, key=lambda full: full.partition(".")[0] not in OFTEN):
        leaves.setdefault(full.rpartition(".")[2], []).append(full)
    return leaves


def did_you_mean(names: Sequence[str]) -> str:
    """Return a question that suggests these names; if there are many, only the first three."""
    first = [f"'{name}'" for name in names[:3]]
    if len(names) > 3:
        return f"did you mean {', '.join(first)} or one of {len(names) - 3} more?"
    *most, last = first
    return f"did you mean {', '.join(most)} or {last}?" if most else f"did you mean {last}?"


def check(name: str, value: Any, hint: Any) -> Any:
    """Return a value converted to its declared type.

    Args:
        name: Dotted name of the setting, for messages.
        value: The value given by the user.
        hint: The declared type, with its bounds: `Annotated[int, Range(1, 9)]`.

    Raises:
        UserError: The value has the wrong type or is out of range.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _check_union(name, value, hint)
    if origin is Annotated:
        return _check_bound(name, value, hint)
    if origin is Literal:
        return _check_choice(name, value, hint)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UserError(f"{name} = {value!r} should be a list of values")
        element = typing.get_args(hint)[0]
        return tuple(check(name, entry, element) for entry in value)
    if hint is arguments.Args:
        return arguments.frozen(name, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{name} = {value!r} should be {describe(hint)}")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{name} = {value!r} should be a number, and finite")
    return value


def _check_bound(name: str, value: Any, hint: Any) -> Any:
    base, bound = typing.get_args(hint)
    value = check(name, value, base)
    if isinstance(bound, Pattern):
        inside = re.fullmatch(bound.regex, value) is not None
    else:
        inside = bound.low <= value <= bound.high
    if not inside:
        raise UserError(f"{name} = {value!r} should be {bound}")
    return value


def _check_choice(name: str, value: Any, hint: Any) -> Any:
    choices = typing.get_args(hint)
    if value in choices:
        return value
    guess = _guess_choice(value, choices)
    if isinstance(value, str) and (name, value) in RENAMED_VALUES:
        guess = f" ({value!r} is called '{RENAMED_VALUES[name, value]}' now)"
    raise UserError(f"{name} = {value!r} should be {describe(hint)}{guess}")


def _check_union(name: str, value: Any, hint: Any) -> Any:
    options = typing.get_args(hint)
    for option in options:
        try:
            return check(name, value, option)
        except UserError:
            continue
    literals = [option for option in options if typing.get_origin(option) is Literal]
    choices = [choice for option in literals for choice in typing.get_args(option)]
    guess = _guess_choice(value, choices)
    raise UserError(f"{name} = {value!r} should be {describe(hint)}{guess}")


def _guess_choice(value: Any, choices: Collection[Any]) -> str:
    near = difflib.get_close_matches(str(value), choices, 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _joined(options: tuple[Any, ...]) -> list[Any]:
    """Return the options of a union, with its `Literal` types merged into one."""
    literals = [option for option in options if typing.get_origin(option) is Literal]
    if not literals:
        return list(options)
    choices = tuple(choice for option in literals for choice in typing.get_args(option))
    return [Literal[choices], *(option for option in options if option not in literals)]


def describe(hint: Any) -> str:
    """Return a declared type in words for people: `a whole number`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ", or ".join(describe(option) for option in _joined(typing.get_args(hint)))
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        return str(typing.get_args(hint)[1])
    return _DESCRIPTIONS.get(hint, str(hint))


def check_args(
    name: str, args: Mapping[str, Any], cls: type, *, reserved: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments of a user's class, converted to the types of its fields.

    Args:
        name: Dotted name of the setting, such as scanner.args.
        args: The arguments given by the user, by field name.
        cls: A dataclass; Flax modules are dataclasses, too.
        reserved: Fields that other settings fill.

    Raises:
        UserError: The class has no such field, another setting fills it, or the type is wrong.
    """
    hints = _field_hints(cls)
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
            if key in inspect.get_annotations(cls):
                guess = "write @dataclass(frozen=True) above the class"
            raise UserError(f"{name}: {cls.__name__} has no field '{key}'; {guess}")
        try:
            values[key] = check(f"{name}.{key}", value, hints[key])
        except TypeError:  # a type that isinstance does not accept, such as Any
            values[key] = value
    return values


def _field_hints(cls: type) -> dict[str, Any]:
    """Return the declared types of the fields that a user can set, in their order."""
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # a type is imported only for type checkers
        hints = {}
    return {name: hints.get(name, Any) for name in names if name not in ("name", "parent")}
