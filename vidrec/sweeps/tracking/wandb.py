"""Send trials to Weights & Biases: one run for each, grouped by table, and one for the table.

Weights & Biases decides where the runs go: WANDB_PROJECT, WANDB_MODE, WANDB_DIR and its other
variables work as usual. If WANDB_PROJECT is not set, the project has the name of the run or table.
"""

import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.sweeps.tracking.base import Outcome, Subject, curves

SERVICE = "https://api.wandb.ai"
OFFLINE = ("offline", "dryrun", "disabled")
# Values of variables that the user has not set: send no error reports, print nothing, and give up
# within a minute on a service that does not answer.
USUAL = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_INIT_TIMEOUT": "45"}
FINISH_SECONDS = 240  # longest time to send the results of a run
FAILED = 1  # exit code by which a run is shown as failed, or as one that may continue


class WandB:
    """See `base.Tracker`."""

    name, nests = "wandb", False

    def __init__(self) -> None:
        self._wandb = check()
        self._runs: dict[str, Any] = {}

    def open(self, subject: Subject, known: str, parent: str) -> str:
        """See `base.Tracker`."""
        _check_login()
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
    """Import and return the library of Weights & Biases.

    Raises:
        UserError: the library is not installed.
    """
    for name, value in USUAL.items():
        os.environ.setdefault(name, value)
    try:
        import wandb
    except ImportError:
        how = how_to_install("wandb")
        raise UserError(f"--track wandb needs its library: {how}") from None
    return wandb


def _check_login() -> None:
    """Refuse to begin without a login: the library would ask for one on the terminal."""
    if os.environ.get("WANDB_MODE", "online") in OFFLINE:
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVICE).hostname or ""
    named = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    if not named and not _is_in_netrc(host):
        raise UserError("nobody is logged in (wandb login), and WANDB_MODE is not offline")


def _is_in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC") or None).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _project(name: str) -> str:
    """Return a name as a valid project name, with dashes for characters that are not allowed."""
    return "".join("-" if letter in "/\\#?%:" else letter for letter in name)[:128]


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)
