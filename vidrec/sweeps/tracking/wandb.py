"""Runs in Weights & Biases: one a trial, in the group of its table, and one of the table's report.

Where they go is its own affair: WANDB_PROJECT, WANDB_MODE, WANDB_DIR and the others of its
variables hold as everywhere. Without a project it is the name of the run or table.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from vidrec.errors import UserError
from vidrec.sweeps.tracking.base import Outcome, Subject, curves

OFFLINE = ("offline", "dryrun", "disabled")
FINISH_SECONDS = 240  # to send what a run leaves
FAILED = 1  # exit code by which a run is shown as failed, or as one that may go on


class WandB:
    """See `base.Tracker`."""

    name, nests = "wandb", False

    def __init__(self) -> None:
        self._wandb = check()
        self._runs: dict[str, Any] = {}

    def open(self, subject: Subject, known: str, parent: str) -> str:
        """See `base.Tracker`."""
        if not _is_offline():
            self._check_key()
        run = known or secrets.token_hex(6)
        os.makedirs(os.environ.get("WANDB_DIR") or subject.top, exist_ok=True)
        self._runs[subject.key] = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _project(subject.project),
            group=None if subject.alone else subject.top.name,
            job_type="table" if subject.of_table else "trial",
            name=subject.name,
            id=run,
            resume="allow",
            config=dict(subject.parameters) | {"vidrec": dict(subject.facts)},
            dir=os.environ.get("WANDB_DIR") or str(subject.top),
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        return run

    def _check_key(self) -> None:
        """Refuse to begin without a login: the library would ask for one on the terminal."""
        if not (os.environ.get("WANDB_API_KEY") or self._wandb.Api().api_key):
            raise UserError("nobody is logged in: wandb login, or WANDB_MODE=offline")

    def log(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        """See `base.Tracker`."""
        for line in lines:
            self._runs[subject.key].log(curves(line), step=line["epoch"])

    def finish(self, subject: Subject, outcome: Outcome) -> None:
        """See `base.Tracker`."""
        run = self._runs[subject.key]
        run.summary.update(dict(outcome.figures) | {"status": outcome.status, "why": outcome.why})
        if outcome.rows:
            run.log({"table": self._table(outcome.rows)})
        if outcome.model:
            artifact = self._wandb.Artifact(f"model-{run.id}", "model")
            artifact.add_dir(str(outcome.model))
            run.log_artifact(artifact)
        report = self._wandb.Artifact(f"report-{run.id}", "report")
        for path in outcome.files:
            if path.is_dir():
                report.add_dir(str(path), path.name)
            else:
                report.add_file(str(path))
        run.log_artifact(report)
        run.finish(exit_code=0 if outcome.status == "done" else FAILED)
        del self._runs[subject.key]

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        heads = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_cell(row.get(name)) for name in heads] for row in rows]
        return self._wandb.Table(columns=heads, data=cells, allow_mixed_types=True)

    def stop(self) -> None:
        """See `base.Tracker`."""
        for run in self._runs.values():
            run.finish(exit_code=FAILED)


def check() -> Any:
    """Return the library.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError:
        raise UserError("--track wandb needs its library: pip install 'vidrec[wandb]'") from None
    return wandb


def _is_offline() -> bool:
    return os.environ.get("WANDB_MODE", "online") in OFFLINE


def _project(name: str) -> str:
    """Return a name as a project may have it."""
    return "".join("-" if letter in "/\\#?%:" else letter for letter in name)[:128]


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)
