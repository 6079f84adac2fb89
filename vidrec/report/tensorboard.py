"""Write the curves of a run or an ablation as TensorBoard events."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vidrec.errors import UserError
from vidrec.io import files
from vidrec.io.machine import how_to_install
from vidrec.report.results import AblationResult, read
from vidrec.report.run import Run

LONGEST = 150  # bytes of a row's name in a folder's name, which may have 255
BESIDE = ("trial", "epoch", "status")  # keys of a line of metrics.jsonl that are not curves
FOLDER = "tensorboard"  # name of the folder of events in a run's or a table's folder


class Curve(NamedTuple):
    """A trial with a folder of events: the name of its row, its seed and its id."""

    row: str
    seed: Any
    id: str


def write(folder: str | Path) -> Path:
    """Write FOLDER/tensorboard from metrics.jsonl, replacing an old one.

    Each trial of an ablation is a run of TensorBoard.

    Returns:
        The folder that TensorBoard takes as --logdir.

    Raises:
        UserError: tensorboardX is not installed, or the folder holds no run.
    """
    results, out = read(folder), Path(folder) / FOLDER
    with files.writing_folder(out) as partial:
        if isinstance(results, Run):
            _events(results, partial)
            return out
        for run, name in zip(results.runs, folder_names(_curves(results)), strict=True):
            _events(run, partial / name)
    return out


def _curves(results: AblationResult) -> list[Curve]:
    return [
        Curve(row.name, run.result.get("seed"), run.folder.name)
        for row in results.rows
        for run in row.runs
    ]


def folder_names(curves: Sequence[Curve]) -> list[str]:
    """Return a folder name for each trial; names that would be equal get the trial's id."""
    names = [_folder_name(curve.row, curve.seed) for curve in curves]
    return [
        f"{name}, trial {curve.id}" if names.count(name) > 1 else name
        for curve, name in zip(curves, names, strict=True)
    ]


def _folder_name(row: str, seed: Any) -> str:
    name = re.sub(r"[^\w=,.+ -]", "_", row)
    while len(name.encode()) > LONGEST:
        name = name[:-1]
    return f"{name}, seed {seed}"


def writer_class() -> Any:
    """Return the class that writes a folder of events.

    Raises:
        UserError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        raise UserError(
            f"TensorBoard events need tensorboardX: {how_to_install('tensorboard')}"
        ) from None
    return SummaryWriter


def _events(run: Run, out: Path) -> None:
    with writer_class()(str(out)) as writer:
        for line in run.epochs:
            for name in line.keys() - set(BESIDE):
                if line[name] is not None:
                    writer.add_scalar(name, line[name], line["epoch"])
