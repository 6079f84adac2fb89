"""The curves of a run or an ablation as TensorBoard events, for those who live there."""

import re
from pathlib import Path

from vidrec import files
from vidrec.errors import UserError
from vidrec.report.results import Run, read

BESIDE = ("trial", "epoch", "status")  # of a line of metrics.jsonl: what is no curve


def write(folder: str | Path) -> Path:
    """Writes FOLDER/tensorboard anew from metrics.jsonl: of an ablation one run a trial.

    Returns:
        The folder that TensorBoard takes as --logdir.

    Raises:
        UserError: tensorboardX is not installed, or the folder holds no run.
    """
    found, out = read(folder), Path(folder) / "tensorboard"
    with files.writing_folder(out) as partial:
        if isinstance(found, Run):
            _events(found, partial)
            return out
        for row in found.rows:
            for run in row.runs:
                _events(run, partial / _folder_name(f"{row.name}, seed {run.result.get('seed')}"))
    return out


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w=,.+ -]", "_", text)


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
