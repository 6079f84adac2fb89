"""Choose each row's best value of a setting on validation clips, before the table is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vidrec.errors import UserError
from vidrec.sweeps.ablation import Ablation, Row, product, rows, trials


def candidates(ablation: Ablation) -> Ablation:
    """Return the table that trains every row at every value of `tune`, with one seed.

    Raises:
        UserError: A row sets a setting of `tune`, which is to be chosen.
    """
    for row in rows(ablation):
        if both := [name for name in ablation.tune if name in row.overrides]:
            raise UserError(
                f"ablation {ablation.name}: {both[0]} is chosen by validation, and row "
                f"{row.name or dict(row.overrides)} sets it: leave it out of one of them"
            )
    table = [_at(row, point) for row in rows(ablation) for point in _points(ablation)]
    table = [row if not row.name else _named(row, ablation.tune) for row in table]
    return replace(
        ablation,
        name=f"{ablation.name}_tuning",
        question=f"Which {' and '.join(ablation.tune)} is best on validation clips?",
        rows=table,
        control=ablation.control * len(_points(ablation)),
        seeds=1,
        tune={},
        folds="",
    )


def chosen(
    ablation: Ablation, tried: Sequence[Mapping[str, Any]], watched: Sequence[str]
) -> Ablation:
    """Return the table with each row at its best value.

    The best value is the one with the best figure of `train.monitor` on validation clips; of equal
    values, it is the first. Test clips are not used.

    Args:
        ablation: The table.
        tried: The result.json of every trial of `candidates`.
        watched: The `train.monitor` of each of these trials.
    """
    points = _points(ablation)
    best: dict[int, tuple[float, int]] = {}
    for trial, monitor in zip(tried, watched, strict=True):
        row, point = divmod(trial["row"], len(points))
        value = _goodness(trial, monitor)
        if row not in best or value > best[row][0]:
            best[row] = (value, point)
    # A row without trials has become equal to another row.
    indices = [best.get(row, (0.0, 0))[1] for row in range(len(rows(ablation)))]
    table = [_at(row, points[index]) for row, index in zip(rows(ablation), indices, strict=True)]
    return replace(ablation, rows=table, tune={})


def monitors(ablation: Ablation, overrides: Mapping[str, Any] | None, on: str) -> list[str]:
    """Return the `train.monitor` of every trial of `candidates`; see `ablation.trials`."""
    table = trials(candidates(ablation), overrides, on)
    return [trial.config.train.monitor for trial in table]


def _points(ablation: Ablation) -> list[dict[str, Any]]:
    return product(ablation.tune)


def _at(row: Row, point: Mapping[str, Any]) -> Row:
    return replace(row, overrides={**row.overrides, **point})


def _named(row: Row, tune: Mapping[str, Any]) -> Row:
    """Return a row whose name says which values are tried."""
    values = (f"{name.rpartition('.')[2]}={row.overrides[name]}" for name in tune)
    return replace(row, name=", ".join([row.name, *values]))


def _goodness(trial: Mapping[str, Any], monitor: str) -> float:
    """Return a number that is larger for a better trial; failed and diverged trials are worst."""
    split, _, figure = monitor.partition("_")
    value = trial.get("metrics", {}).get(split, {}).get(figure)
    if trial["status"] != "done" or value is None or not math.isfinite(value):
        return -math.inf
    return -value if figure.endswith(("loss", "objective")) else value
