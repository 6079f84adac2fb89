"""Change settings by their dotted names: checked against type, range and each other."""

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from vidrec.config import arguments, plugins
from vidrec.config.rules import FOLLOWERS, check_together
from vidrec.config.schema import WORDS, Config, Pattern, fields, get
from vidrec.errors import UserError


def override(cfg: Config, overrides: Mapping[str, Any], *, keep: Collection[str] = ()) -> Config:
    """Returns `cfg` with dotted settings replaced; the only way to change one.

    Settings that follow one of them, and no longer fit, go back to their defaults (see `cleared`).

    Args:
        keep: settings that stay as they are in `cfg`.

    Raises:
        UserError: an unknown name (with the nearest right one), or a value out of type or range.
    """
    changed = _exactly(cfg, overrides)
    changed = _replaced(changed, _cleared(cfg, changed, {*overrides, *keep}))
    check_together(changed)
    return changed


def _exactly(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """`cfg` with these settings checked and replaced, and no other."""
    known = {name: hint for name, hint, _ in fields(Config)}
    checked = {}
    for name, value in overrides.items():
        if name not in known:
            raise UserError(unknown(name, known))
        checked[name] = check(name, value, known[name])
    return _replaced(cfg, checked)


def _replaced(cfg: Config, values: Mapping[str, Any]) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, leaf = name.partition(".")
        if dot:
            sections.setdefault(section, {})[leaf] = value
        else:
            top[section] = value
    for section, leaves in sections.items():
        top[section] = dataclasses.replace(getattr(cfg, section), **leaves)
    return dataclasses.replace(cfg, **top)


def cleared(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Settings of `cfg` that `override` puts back to their defaults, and what each follows."""
    before = dict(overrides)
    changed = _replaced(cfg, before)
    gone = _cleared(cfg, changed, set(before))
    leaders = {each.name: each.leaders for each in FOLLOWERS}
    return {
        name: next(leader for leader in leaders[name] if leader in before or leader in gone)
        for name in gone
    }


def _cleared(before: Config, after: Config, given: Collection[str]) -> dict[str, Any]:
    """Defaults of the settings that were not given, and follow one that has changed."""
    defaults = {name: value for name, _, value in fields(Config)}
    found: dict[str, Any] = {}
    for each in FOLLOWERS:
        moved = any(get(before, leader) != get(after, leader) for leader in each.leaders)
        if each.name in given or not moved or get(after, each.name) == defaults[each.name]:
            continue
        if each.stale(before, after):
            found[each.name] = defaults[each.name]
            after = _replaced(after, found)
    return found


# What settings and values were called before, and are called now.
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


def unknown(name: str, known: Mapping[str, Any]) -> str:
    if name in RENAMED:
        return f"'{name}' is called '{RENAMED[name]}' now"
    near = _nearest(name, known) or f"; sections are {', '.join(_sections())}"
    return f"unknown setting '{name}'{near}"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    leaves = {full.rpartition(".")[2]: full for full in known}
    near = difflib.get_close_matches(name, known, 1, 0.6)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(name, leaves, 1, 0.7)]
    return f"; did you mean '{near[0]}'?" if near else ""


def _sections() -> list[str]:
    return [entry.name for entry in dataclasses.fields(Config)]


def check(name: str, value: Any, hint: Any) -> Any:
    """The value in its declared type, or a UserError that says what would be right."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _checked_choice(name, value, hint)
    if typing.get_origin(hint) is Annotated:
        base, bound = typing.get_args(hint)
        value = check(name, value, base)
        right = (
            re.fullmatch(bound.regex, value)
            if isinstance(bound, Pattern)
            else bound.low <= value <= bound.high
        )
        if not right:
            raise UserError(f"{name} = {value!r} should be {bound}")
        return value
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            near = difflib.get_close_matches(str(value), typing.get_args(hint), 1)
            guess = f" (did you mean '{near[0]}'?)" if near else ""
            if isinstance(value, str) and (name, value) in RENAMED_VALUES:
                guess = f" ({value!r} is called '{RENAMED_VALUES[name, value]}' now)"
            raise UserError(f"{name} = {value!r} should be {words_of(hint)}{guess}")
        return value
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UserError(f"{name} = {value!r} should be a list of values")
        return tuple(check(name, each, element) for each in value)
    if hint is arguments.Args:
        return arguments.frozen(name, value)
    if hint is type(None) and value is not None:
        raise UserError(f"{name} = {value!r} should be None")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{name} = {value!r} should be {words_of(hint)}")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{name} = {value!r} should be a number, and finite")
    return value


def _checked_choice(name: str, value: Any, hint: Any) -> Any:
    for option in typing.get_args(hint):
        try:
            return check(name, value, option)
        except UserError:
            continue
    named = [o for o in typing.get_args(hint) if typing.get_origin(o) is Literal]
    choices = [choice for option in named for choice in typing.get_args(option)]
    near = difflib.get_close_matches(str(value), choices, 1)
    guess = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(f"{name} = {value!r} should be {words_of(hint)}{guess}")


def words_of(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return ", or ".join(words_of(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is Annotated:
        return str(typing.get_args(hint)[1])
    names = {
        type(None): "None",
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "text",
        arguments.Args: arguments.EXAMPLE,
    }
    return names.get(hint, str(hint))


def user_code(cfg: Config) -> dict[str, str]:
    """Settings that name a user's own file, by dotted name."""
    return {
        name: value
        for name, _, value in fields(cfg)
        if name.endswith(".kind") and plugins.is_code(value)
    }


def pin(cfg: Config) -> Config:
    """The same settings; what a user's file holds now is what they mean from here on.

    Raises:
        UserError: a file cannot be read.
    """
    return _exactly(cfg, {name: plugins.pinned(spec) for name, spec in user_code(cfg).items()})


def placed(settings: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Dotted settings with their relative paths taken from `folder`, the one of who named them."""
    found = dict(settings)
    for name, value in settings.items():
        if isinstance(value, plugins.UserCode):
            continue  # it means what it meant where it was named
        if name.endswith(".kind") and plugins.is_code(value):
            path, _, attribute = value.rpartition(":")
            if not Path(path).is_absolute():
                found[name] = f"{_joined(folder, path)}:{attribute}"
        elif name == "data.root" or (name == "encoder.weights" and value not in WORDS):
            found[name] = _joined(folder, value)
    return found


def place(cfg: Config, folder: str | Path) -> Config:
    """As `placed`, of a whole configuration."""
    settings = {name: value for name, _, value in fields(cfg)}
    moved = placed(settings, folder)
    return _exactly(cfg, {n: each for n, each in moved.items() if each != settings[n]})


def _joined(folder: str | Path, path: Any) -> Any:
    """An absolute path; "" and what begins with a home stay."""
    if not isinstance(path, str) or not path or path.startswith("~"):
        return path
    return os.path.abspath(os.path.join(folder, path))


def to_dict(cfg: Config) -> dict[str, Any]:
    """Nested plain dict, as in config.json."""
    return dataclasses.asdict(cfg)


def from_dict(nested: Mapping[str, Any]) -> Config:
    """The Config of a config.json; unknown or ill-typed entries raise UserError.

    Code that it names does not run: nothing in a folder says whose it is (see `plugins.trusted`).
    """
    flat: dict[str, Any] = {}
    for section, value in nested.items():
        if isinstance(value, Mapping):
            flat.update({f"{section}.{leaf}": each for leaf, each in value.items()})
        else:
            flat[section] = value
    cfg = override(Config(), flat)
    named = {n: spec for n, spec in user_code(cfg).items() if type(spec) is str}
    return _exactly(cfg, {name: plugins.UserCode(spec) for name, spec in named.items()})
