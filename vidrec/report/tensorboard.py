"""The curves of a run or an ablation as TensorBoard events, for those who live there."""

import re
from pathlib import Path
from typing import Any

from vidrec.errors import UserError
from vidrec.io import files
from vidrec.report.results import AblationResult, read
from vidrec.report.run import Run

LONGEST = 150  # bytes of a row in the name of a folder, which may have 255
BESIDE = ("trial", "epoch", "status")  # of a line of metrics.jsonl: what is no curve


def write(folder: str | Path) -> Path:
    """Write FOLDER/tensorboard anew from metrics.jsonl: of an ablation one run a trial.

    Returns:
        The folder that TensorBoard takes as --logdir.

    Raises:
        UserError: tensorboardX is not installed, or the folder holds no run.
    """
    results, out = read(folder), Path(folder) / "tensorboard"
    with files.writing_folder(out) as partial:
        if isinstance(results, Run):
            _events(results, partial)
            return out
        for run, name in zip(results.runs, _folder_names(results), strict=True):
            _events(run, partial / name)
    return out


def _folder_names(results: AblationResult) -> list[str]:
    """Return a name a run; those that are equal once shortened and cleaned have an id."""
    names = [
        _folder_name(row.name, run.result.get("seed")) for row in results.rows for run in row.runs
    ]
    return [
        f"{name}, trial {run.folder.name}" if names.count(name) > 1 else name
        for run, name in zip(results.runs, names, strict=True)
    ]


def _folder_name(row: str, seed: Any) -> str:
    name = re.sub(r"[^\w=,.+ -]", "_", row)
    while len(name.encode()) > LONGEST:
        name = name[:-1]
    return f"{name}, seed {seed}"


def _events(run: Run, out: Path) -> None:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        raise UserError(
            "TensorBoard events need tensorboardX: pip install 'vidrec[tensorboard]'"
        ) from None
    with SummaryWriter(str(out)) as writer:
        for line in run.epochs:
            for name in line.keys() - set(BESIDE):
                if line[name] is not None:
                    writer.add_scalar(name, line[name], line["epoch"])
