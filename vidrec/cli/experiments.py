"""Read the experiments and ablations that a command line names, and its changes to them."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec import config
from vidrec.cli.output import program, warn
from vidrec.config import Config
from vidrec.errors import UserError
from vidrec.io import escape, runs
from vidrec.sweeps import ablation, ready_features
from vidrec.sweeps.ablation import Ablation, Row, load


def read_experiment(path: str, settings: Mapping[str, Any]) -> Config:
    """Return the settings of an experiment file, changed by those of the command line.

    Raises:
        UserError: The file holds an ablation, or the settings do not fit.
    """
    experiment = load(path)
    if not isinstance(experiment, Config):
        words = escape.shell([program(), "ablate", path])
        raise UserError(f"{path} is an ablation: use `{words}`")
    _warn_of_cleared(experiment, settings)
    [trial] = ablation.trials(Ablation("one", experiment, [Row({})]), settings)
    for line in ready_features.notes([trial.moved] if trial.moved else []):
        warn(line)
    return config.pin_code(trial.config)


def read_ablation(path: str) -> Ablation:
    """Return the ablation of a file; an experiment is a table of one row."""
    loaded = load(path)
    if isinstance(loaded, Ablation):
        return loaded
    return Ablation(Path(path).stem, loaded, [Row({})])


def read_table(
    paths: Sequence[str], axes: Sequence[str] = (), exclusions: Sequence[str] = ()
) -> Ablation:
    """Return the rows of several files as one table, crossed with the axes of the command line.

    Args:
        paths: Files of ablations or experiments.
        axes: Values of the option --axis, such as optim.learning_rate=1e-3,1e-4.
        exclusions: Values of the option --exclude, such as scanner.kind=gru,scanner.units=50.
    """
    if not paths:
        raise UserError("ablate needs a file, for example ablations/scanners.py")
    tables = [read_ablation(path) for path in paths]
    table = tables[0] if len(tables) == 1 else ablation.join(tables)
    if axes:
        table = ablation.cross(table, read_axes("--axis", axes))
    if exclusions:
        table = ablation.exclude(table, [_parse_exclusion(text) for text in exclusions])
    return table


def read_axes(option: str, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return a list of values for each setting, from texts like optim.learning_rate=1e-3,1e-4."""
    return _unique(option, (_parse_axis(option, text) for text in texts))


def find_weights(settings: dict[str, Any], find_run: Callable[[Path], Path]) -> Mapping[str, Any]:
    """Return the settings; if `encoder.weights` is the name of a run, it becomes the run's path.

    Args:
        settings: The settings given on the command line.
        find_run: Finds a run by its name.
    """
    weights = settings.get("encoder.weights", "auto")
    path = Path(weights)
    if not config.is_path(weights) or path.parent != Path.cwd() or path.is_file():
        return settings
    try:
        runs.run_folder(path)
    except UserError:
        with contextlib.suppress(UserError):
            return settings | {"encoder.weights": os.path.abspath(find_run(Path(path.name)))}
    return settings


def warn_of_settings(table: Ablation, settings: Mapping[str, Any], on: str) -> None:
    """Warn of settings that no row uses, and of settings of the table that they reset.

    Args:
        table: The table that the settings are for.
        settings: The settings given on the command line.
        on: Name of the generated data that replaces the table's; "" for none.
    """
    for name in settings:
        if all(name in row.overrides for row in ablation.rows(table)):
            warn(f"warning: {name} as given has no effect: every row of the table sets its own")
    if on:
        return
    bases = [row.base or table.base for row in ablation.rows(table)]
    for base in {id(base): base for base in bases}.values():
        _warn_of_cleared(load(base) if isinstance(base, str) else base, settings)


# What the default of a setting means, where its value does not say so.
EFFECTS = {"train.patience": ", so all epochs are trained"}


def _warn_of_cleared(cfg: Config, settings: Mapping[str, Any]) -> None:
    """Warn of settings of an experiment that the given settings reset to their defaults."""
    for name, leader in config.cleared(cfg, settings).items():
        value = f"{name} = {config.get(cfg, name)!r}"
        usual = f"{name.rpartition('.')[2]} = {config.get(Config(), name)!r}"
        used = f"{usual} is used{EFFECTS.get(name, '')}"
        warn(f"{value} of the experiment does not go with {leader} as given: {used}")


def _parse_axis(option: str, text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"{option} {text}: should be like optim.learning_rate=1e-3,1e-4")
    return name, [_parse_value(name, value) for value in config.split_commas(values)]


def _parse_exclusion(text: str) -> dict[str, Any]:
    parts = [part.partition("=") for part in config.split_commas(text)]
    if not all(equals for _, equals, _ in parts):
        raise UserError(
            f"--exclude {text}: should be like scanner.kind=gru,scanner.units=50; a list stands in "
            'brackets, a value with a comma in quotes: data.classes=("a, b",c)'
        )
    settings = ((name, _parse_value(name, value)) for name, _, value in parts)
    return _unique(f"--exclude {text}", settings)


def _unique(option: str, settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Collect settings by name; refuse one named twice, since only the last would count."""
    by_name: dict[str, Any] = {}
    for name, value in settings:
        name = name.replace("-", "_")
        if name in by_name:
            raise UserError(f"{option} names {name} twice: give its values at once")
        by_name[name] = value
    return by_name


def _parse_value(name: str, text: str) -> Any:
    """Parse one of several values; a list keeps the quotes that separate its elements."""
    return config.parse(name, text if config.takes_many(name) else config.unquote(text))
