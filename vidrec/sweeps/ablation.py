"""Define tables of settings that answer a question: rows, seeds, and published figures."""

import contextlib
import difflib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.config import (
    Config,
    Encoder,
    canonical,
    cleared,
    get,
    is_open,
    load_module,
    override,
    pin_code,
    resolve_paths,
    resolve_setting_paths,
    user_code,
)
from vidrec.config.columns import F1
from vidrec.config.shipped import find, is_shipped, reading
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.sweeps import budget, folds, ready_features
from vidrec.sweeps.embedded import on_motion
from vidrec.sweeps.ready_features import Folders, Moved


@dataclass(frozen=True)
class Row:
    """One row of a table: the settings that it changes, and figures published for them.

    Attributes:
        overrides: Dotted settings that differ from the base.
        published: Published figures by column of table.csv (`test_accuracy`, …); None: no figures.
        doubtful: Columns whose published figure is marked as doubtful and gets no difference.
        name: The row's name in the table; empty: the table shows the overrides.
        base: The row's base if several tables are joined; None: the table's base.
        on_memory: Value of `Ablation.on_memory` for this row; None: the table's value.
        on_motion: Value of `Ablation.on_motion` for this row; None: the table's value.
        typed: Names of settings from the command line, which are not scaled to the data.
        budget: Number of parameters of the model, reached by choosing its width; 0: the settings
            fix the width.
    """

    overrides: Mapping[str, Any]
    published: Mapping[str, float] | None = None
    doubtful: tuple[str, ...] = ()
    name: str = ""
    base: Config | str | None = None
    on_memory: bool | None = None
    on_motion: str | None = None
    typed: frozenset[str] = frozenset()
    budget: int = 0


@dataclass(frozen=True)
class Ablation:
    """A question, the settings that answer it, and the figures to look at.

    Attributes:
        name: The name of the table's folder and report.
        base: A Config, or the experiment file that defines it.
        rows: The settings to compare; plain overrides are rows without published figures.
        question: The question that the table answers.
        control: Index of the row that the others are compared with.
        seeds: Number of seeds for every row; the first one is the `seed` of the row's settings.
        read: Columns of table.csv that answer the question; the report shows all of them.
        citation: Where published figures come from.
        on_memory: With `--on motion`, run on motion/memory with the published lengths.
        on_motion: Name of the rule of `vidrec.sweeps.embedded` that `--on motion` applies; "": the
            general rule.
        folds: Folds on which each row is trained: `official`, `recordings`, or a number of parts;
            "": no folds, only the split of the row's settings.
        tune: Values by dotted setting. Each row is first trained with one seed at every value. The
            table then uses the value that is best on validation clips.
    """

    name: str
    base: Config | str
    rows: Sequence[Row | Mapping[str, Any]]
    question: str = ""
    control: int = 0
    seeds: int = 1
    read: tuple[str, ...] = ("test_accuracy",)
    citation: str = ""
    on_memory: bool = False
    on_motion: str = ""
    folds: str = ""
    tune: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        figures, measured = [row.published or {} for row in rows(self)], tasks.columns()
        for name in itertools.chain(self.read, *figures):
            if name not in measured and not name.startswith(F1):
                near = difflib.get_close_matches(name, measured, 1)
                guess = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(measured)}"
                raise UserError(f"ablation {self.name}: table.csv has no column '{name}'; {guess}")


@dataclass(frozen=True)
class Trial:
    """A row with one seed, ready to train.

    Attributes:
        row: Index of the row.
        seed: The seed.
        config: All settings.
        overrides: What differs between rows, as the table shows it.
        published: Figures of the row, see `Row`.
        doubtful: Columns whose published figure is marked as doubtful.
        name: The row's name.
        moved: What changed because the data are ready-made features; None: the data are others.
        on_motion: Name of the rule for the generated data; "": the general rule, or other data.
        fold: The fold that the trial is tested on, counted from 1; 0: the table has no folds.
    """

    row: int
    seed: int
    config: Config
    overrides: Mapping[str, Any]
    published: Mapping[str, float] | None
    doubtful: tuple[str, ...] = ()
    name: str = ""
    moved: Moved | None = None
    on_motion: str = ""
    fold: int = 0


def published(
    setting: str,
    columns: Sequence[str],
    figures: Mapping[Any, Sequence[float]],
    doubtful: Mapping[Any, Sequence[str]] | None = None,
) -> list[Row]:
    """Return a row for each value of a setting, with the figures that were published for it.

    Args:
        setting: Dotted name of the setting.
        columns: Columns of table.csv that the figures belong to.
        figures: A figure for each column, by the setting's value.
        doubtful: Columns whose figures are marked as doubtful, by the setting's value.
    """
    return [
        Row(
            {setting: value},
            published=dict(zip(columns, row_figures, strict=True)),
            doubtful=tuple((doubtful or {}).get(value, ())),
        )
        for value, row_figures in figures.items()
    ]


def product(axes: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Return overrides for every combination of values; the first axis varies slowest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def zipped(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return overrides for each index, with the values of all axes at that index.

    Raises:
        UserError: The axes have different numbers of values.
    """
    lengths = {name: len(values) for name, values in axes.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"zipped axes need equally many values, not {lengths}")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def rows(ablation: Ablation) -> list[Row]:
    """Return the rows as Row objects; plain overrides are rows without published figures."""
    return [row if isinstance(row, Row) else Row(dict(row)) for row in ablation.rows]


def axes(ablation: Ablation) -> list[str]:
    """Return the dotted names that any row changes, in order of appearance."""
    return list(dict.fromkeys(name for row in rows(ablation) for name in row.overrides))


def cross(ablation: Ablation, more: Mapping[str, Sequence[Any]]) -> Ablation:
    """Return the table with every row at each value of further axes.

    Args:
        ablation: The table. Its control at the first value of each axis is the new control.
        more: Values by dotted setting.
    """
    points = product(more)
    table = rows(ablation)
    crossed = _distinct([_at(row, point) for row in table for point in points])
    overrides = _at(table[ablation.control], points[0]).overrides
    control = next(index for index, row in enumerate(crossed) if row.overrides == overrides)
    return replace(ablation, rows=crossed, control=control)


def _at(row: Row, point: Mapping[str, Any]) -> Row:
    """Return the row at a point of other axes, without published figures if its settings change."""
    overrides = {**row.overrides, **point}
    row = replace(row, typed=row.typed | {*point})
    if all(overrides[name] == value for name, value in row.overrides.items()):
        return replace(row, overrides=overrides, name="")
    return replace(row, overrides=overrides, name="", published=None, doubtful=())


def exclude(ablation: Ablation, points: Sequence[Mapping[str, Any]]) -> Ablation:
    """Return the table without the rows that match all values of any of the points.

    The control stays the same; if it is excluded, the first remaining row becomes the control.

    Raises:
        UserError: No row remains.
    """
    table = rows(ablation)
    remaining = [
        row
        for row in table
        if not any(
            all(_plain(row.overrides.get(name)) == value for name, value in point.items())
            for point in points
        )
    ]
    if not remaining:
        raise UserError("the exclusions leave no row")
    before = table[ablation.control]
    control = next((index for index, row in enumerate(remaining) if row is before), 0)
    return replace(ablation, rows=remaining, control=control)


def _plain(value: Any) -> Any:
    """Return a list as a tuple, as `config.parse` does, and any other value unchanged."""
    return tuple(value) if isinstance(value, list) else value


def _distinct(table: list[Row]) -> list[Row]:
    """Remove duplicate rows, keeping the one with published figures."""
    seen: dict[str, Row] = {}
    for row in table:
        code = canonical([dict(row.overrides), row.budget])
        if code not in seen or (row.published and not seen[code].published):
            seen[code] = row
    return list(seen.values())


def join(tables: Sequence[Ablation]) -> Ablation:
    """Return several tables as one, which shares data, features and the report.

    Its control is the first table's.
    """
    joined = [
        replace(
            row,
            base=row.base or table.base,
            on_memory=table.on_memory if row.on_memory is None else row.on_memory,
            on_motion=table.on_motion if row.on_motion is None else row.on_motion,
            name=f"{table.name}: {row.name}" if row.name else "",
        )
        for table in tables
        for row in rows(table)
    ]
    return replace(
        tables[0],
        name="+".join(table.name for table in tables),
        question=" ".join(table.question for table in tables),
        citation="; ".join(dict.fromkeys(table.citation for table in tables if table.citation)),
        rows=joined,
        seeds=max(table.seeds for table in tables),
    )


def trials(
    ablation: Ablation, overrides: Mapping[str, Any] | None = None, on: str = ""
) -> list[Trial]:
    """Return the trials in the order of the table's rows, then seeds, then folds.

    Args:
        ablation: The table.
        overrides: Settings for every trial, from the command line; a row's settings override them.
        on: "motion" runs the table on the embedded data (see `on_motion`).
    """
    if ablation.folds:
        folds.check(ablation.folds, axes(ablation), overrides or ())
    folders, read, table = Folders(), functools.cache(load), []
    for index, row in enumerate(rows(ablation)):
        base = row.base or ablation.base
        base = read(base) if isinstance(base, str) else base
        memory = ablation.on_memory if row.on_memory is None else row.on_memory
        rule = (ablation.on_motion if row.on_motion is None else row.on_motion) if on else ""
        onto_motion = functools.partial(on_motion, memory=memory, base=base, rule=rule)
        config, shown, moved = _settings_of_row(
            row, base, overrides or {}, onto_motion=onto_motion if on else None, folders=folders
        )
        of_row = (row.published, row.doubtful, row.name)
        table += [
            Trial(index, seed, override(config, {"seed": seed}), shown, *of_row, moved, rule)
            for seed in range(config.seed, config.seed + ablation.seeds)
        ]
    table = _distinct_moves(ablation, table)
    return _on_folds(table, ablation.folds) if ablation.folds else table


def _on_folds(table: Sequence[Trial], how: str) -> list[Trial]:
    """Return a copy of each trial for each fold of its data."""
    known: dict[str, list[dict[str, Any]]] = {}
    made = []
    for trial in table:
        data = repr(trial.config.data)
        if data not in known:
            known[data] = folds.settings(how, trial.config)
        for fold, split in enumerate(known[data], 1):
            made.append(replace(trial, config=override(trial.config, split), fold=fold))
    return made


class _Settings(NamedTuple):
    """A row's settings, what the table shows of them, and the changes for ready-made features."""

    config: Config
    shown: dict[str, Any]
    moved: Moved | None


def _settings_of_row(
    row: Row,
    base: Config,
    overrides: Mapping[str, Any],
    *,
    onto_motion: Callable[[Config], Config] | None,
    folders: Folders,
) -> _Settings:
    """Return a row's settings for the data of its table.

    Args:
        row: The row.
        base: The settings of the row's base.
        overrides: Settings for every trial; the row's settings override them.
        onto_motion: Changes a configuration to the embedded data; None: the data stay the same.
        folders: Opens the folders of ready-made features.
    """
    settings = dict(row.overrides)
    config = override(base, settings)
    # A row's settings can reset others to their defaults. These differ between rows too, so the
    # table shows them. It omits those whose default lets vidrec choose by the encoder.
    put_back = {name: get(config, name) for name in cleared(base, settings)}
    settings |= {name: value for name, value in put_back.items() if not is_open(name, value)}
    rest = {name: value for name, value in overrides.items() if name not in settings}
    moved = None
    if onto_motion:
        config = onto_motion(config)
    else:
        of_row = {name: row.overrides[name] for name in row.typed}
        moved = folders.moved(config, base, row.overrides, rest | of_row)
        config = moved.config if moved else config
    config = resolve_paths(override(config, rest, keep=settings), Path.cwd())
    if row.budget and not (moved and ready_features.lacks_maps(moved)):
        width = budget.widths(config, row.budget, _label(row))
        config, settings = override(config, width), settings | width
    if onto_motion or moved:
        # The rule may have changed them: the table shows what really runs.
        settings = {name: get(config, name) for name in settings}
    moved = replace(moved, config=config) if moved else None
    return _Settings(config, {name: _shown(value) for name, value in settings.items()}, moved)


def _label(row: Row) -> str:
    """Return a row's name, or else its settings."""
    settings = (f"{name.rpartition('.')[2]}={value}" for name, value in row.overrides.items())
    return row.name or ", ".join(settings) or "base"


def _distinct_moves(ablation: Ablation, table: Sequence[Trial]) -> list[Trial]:
    """Return the trials; on ready-made features, without duplicates and those that cannot run."""
    if not any(trial.moved for trial in table):
        return list(table)
    names = [_label(row) for row in rows(ablation)]
    moves = [ready_features.OfRow(trial.row, trial.seed, trial.moved) for trial in table]
    stay = ready_features.distinct(moves, names, ablation.control)
    return [replace(table[index], moved=moved) for index, moved in stay.items()]


def with_code(table: Sequence[Trial]) -> list[Trial]:
    """Return the trials with the source of the users' files that they name; read each file once.

    See `config.pin_code`.
    """
    known: dict[str, str] = {}
    pinned = []
    for trial in table:
        codes = user_code(trial.config)
        read_before = {name: known[spec] for name, spec in codes.items() if spec in known}
        config = pin_code(override(trial.config, read_before))
        known.update({spec: spec for spec in user_code(config).values()})
        pinned.append(replace(trial, config=config))
    return pinned


def concrete(table: Sequence[Trial], *, at_hand: bool = True) -> list[Trial]:
    """Return the trials with users' files read and encoder weights resolved, as ids require.

    Args:
        table: The trials.
        at_hand: Whether the weights must be available; False if nothing is computed.

    Raises:
        UserError: A file cannot be read, or weights are not available.
    """
    from vidrec.models import encoders

    found: dict[tuple[str, Encoder], Encoder] = {}
    made = []
    for trial in with_code(table):
        key = (trial.config.data.kind, trial.config.encoder)
        if key not in found:
            found[key] = encoders.concrete(trial.config, at_hand=at_hand).encoder
        config = replace(trial.config, encoder=found[key])
        # Where a row lets vidrec choose a setting, the table shows the chosen value.
        shown = {
            name: _shown(get(config, name))
            for name, value in trial.overrides.items()
            if is_open(name, value)
        }
        made.append(replace(trial, config=config, overrides={**trial.overrides, **shown}))
    return made


def _shown(value: Any) -> Any:
    """Return a value; an absolute path below the current folder becomes relative to it."""
    if isinstance(value, str) and os.path.isabs(value):
        with contextlib.suppress(ValueError):
            return str(Path(value).relative_to(Path.cwd()))
    return value


def _call(module: Any, function: str, file: Path) -> Any:
    """Return the result of a file's function; report an error in the function as one line."""
    try:
        return getattr(module, function)()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{function}() of {file} fails ({reason})") from error


def load(path: str | Path) -> Any:
    """Return the Config or Ablation that a file defines.

    Relative paths in the file are relative to its folder. In files that vidrec ships, they are
    relative to the current folder.

    Args:
        path: The path of the file, or the bare name of a file that vidrec ships.

    Raises:
        UserError: There is no such file, or it has neither `config()` nor `ablation()`.
    """
    file = find(path)
    with reading(file):
        module = load_module(str(file))
        for function in ("config", "ablation"):
            if not hasattr(module, function):
                continue
            content = _call(module, function, file)
            if not isinstance(content, Config | Ablation):
                raise UserError(f"{function}() of {file} should return a Config or an Ablation")
            return _resolve_content(content, file)
    raise UserError(f"{file} should define config() -> Config or ablation() -> Ablation")


def _resolve_content(content: Config | Ablation, file: Path) -> Config | Ablation:
    """Return what a file defines, with relative paths resolved against the file's folder."""
    folder = Path(os.path.abspath(file)).parent
    shipped = is_shipped(folder)
    if isinstance(content, Config):
        return content if shipped else resolve_paths(content, folder)

    def resolve_base(base: Any) -> Any:
        if isinstance(base, str):
            return os.path.abspath(find(base))
        return resolve_paths(base, folder) if isinstance(base, Config) and not shipped else base

    table = [replace(row, base=resolve_base(row.base)) for row in rows(content)]
    if not shipped:
        table = [
            replace(row, overrides=resolve_setting_paths(row.overrides, folder)) for row in table
        ]
    return replace(content, base=resolve_base(content.base), rows=table)
