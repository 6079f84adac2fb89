"""Change settings by their dotted names; check their types and whether they fit together."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vidrec.config import plugins
from vidrec.config.checking import check, unknown_setting
from vidrec.config.rules import FOLLOWERS, check_together
from vidrec.config.schema import Config, fields, get, is_onnx, is_path


def override(cfg: Config, overrides: Mapping[str, Any], *, keep: Collection[str] = ()) -> Config:
    """Return `cfg` with the settings in `overrides` replaced.

    Settings that follow a replaced one and no longer fit it are reset to their defaults (see
    `cleared`).

    Args:
        cfg: The settings to start from.
        overrides: New values by dotted name.
        keep: Settings that stay as they are in `cfg`.

    Raises:
        UserError: A name is unknown, a value has the wrong type or is out of range, or two settings
            contradict each other.
    """
    changed = _with_settings(cfg, overrides)
    changed = _replace(changed, _outdated(cfg, changed, {*overrides, *keep}))
    check_together(changed)
    return changed


def cleared(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that `override` resets to defaults, with the setting each follows."""
    outdated = _outdated(cfg, _replace(cfg, overrides), set(overrides))
    leaders = {follower.name: follower.leaders for follower in FOLLOWERS}
    return {
        name: next(leader for leader in leaders[name] if leader in {**overrides, **outdated})
        for name in outdated
    }


def _with_settings(cfg: Config, settings: Mapping[str, Any]) -> Config:
    """Return `cfg` with these settings checked and replaced, and no other changed."""
    hints = {name: hint for name, hint, _ in fields(Config)}
    checked = {}
    for name, value in settings.items():
        if name not in hints:
            raise unknown_setting(name, hints)
        checked[name] = check(name, value, hints[name])
    return _replace(cfg, checked)


def _replace(cfg: Config, values: Mapping[str, Any]) -> Config:
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


def _outdated(before: Config, after: Config, fixed: Collection[str]) -> dict[str, Any]:
    """Return the defaults of settings that follow a changed setting and no longer fit it.

    Args:
        before: The settings before the change.
        after: The settings after it.
        fixed: Names of settings that stay as they are.
    """
    defaults = {name: value for name, _, value in fields(Config)}
    outdated: dict[str, Any] = {}
    for follower in FOLLOWERS:
        name = follower.name
        moved = any(get(before, leader) != get(after, leader) for leader in follower.leaders)
        if name in fixed or not moved or get(after, name) == defaults[name]:
            continue
        if follower.is_outdated(before, after):
            outdated[name] = defaults[name]
            after = _replace(after, outdated)
    return outdated


def user_code(cfg: Config) -> dict[str, str]:
    """Return the settings that name a user's own file, by dotted name."""
    return {
        name: value
        for name, _, value in fields(cfg)
        if name.endswith(".kind") and plugins.is_code(value)
    }


def pin_code(cfg: Config) -> Config:
    """Return the settings with users' files read, so that later edits of the files do not matter.

    Raises:
        UserError: A file cannot be read.
    """
    return _with_settings(cfg, {name: plugins.pin(spec) for name, spec in user_code(cfg).items()})


def resolve_paths(cfg: Config, folder: str | Path) -> Config:
    """Return the settings with their relative paths resolved against a folder."""
    settings = {name: value for name, _, value in fields(cfg)}
    resolved = resolve_setting_paths(settings, folder)
    changed = {name: value for name, value in resolved.items() if value != settings[name]}
    return _with_settings(cfg, changed)


def resolve_setting_paths(settings: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Return dotted settings with their relative paths resolved against a folder.

    Args:
        settings: Values by dotted name.
        folder: The folder of the file, or of the command line, that names them.
    """
    resolved = dict(settings)
    for name, value in settings.items():
        if isinstance(value, plugins.UserCode):
            continue  # the file was already read; the path only records where
        if name.endswith(".kind") and plugins.is_code(value):
            path, _, attribute = value.rpartition(":")
            if not Path(path).is_absolute():
                resolved[name] = f"{_absolute(folder, path)}:{attribute}"
        elif (
            name in ("data.root", "train.continues")
            or (name == "encoder.weights" and is_path(value))
            or (name == "encoder.kind" and is_onnx(value))
        ):
            resolved[name] = _absolute(folder, value)
    return resolved


def _absolute(folder: str | Path, path: Any) -> Any:
    """Return an absolute path; "" and paths that begin with ~ are returned unchanged."""
    if not isinstance(path, str) or not path or path.startswith("~"):
        return path
    return os.path.abspath(os.path.join(folder, path))


def to_dict(cfg: Config) -> dict[str, Any]:
    """Return the settings as a nested plain dictionary, as in config.json."""
    return dataclasses.asdict(cfg)


def from_dict(nested: Mapping[str, Any]) -> Config:
    """Return the settings of a config.json.

    Code that the settings name is not run, since a folder does not show who wrote the code (see
    `plugins.trusted`).

    Raises:
        UserError: An entry is unknown or has the wrong type.
    """
    flat: dict[str, Any] = {}
    for section, value in nested.items():
        if isinstance(value, Mapping):
            flat.update({f"{section}.{leaf}": entry for leaf, entry in value.items()})
        else:
            flat[section] = value
    cfg = override(Config(), flat)
    named = {name: spec for name, spec in user_code(cfg).items() if type(spec) is str}
    return _with_settings(cfg, {name: plugins.UserCode(spec) for name, spec in named.items()})
