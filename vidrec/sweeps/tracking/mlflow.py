"""Send trials to MLflow: one run for each, nested below a run of the table.

The experiment has the name of the table. MLflow decides where the runs go: MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME and its other variables work as usual. vidrec only sets the defaults in
`USUAL`.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrec import __version__
from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.sweeps.tracking.base import CURVES, Outcome, Subject, curves

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
SQLITE = "sqlite:///"
# Values of variables that the user has not set: give up within a minute on a server that does not
# answer, send no usage statistics, and print no lines about URLs or Git.
USUAL = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
PARAMETERS, METRICS = 100, 1000  # the most that MLflow takes in one call
LONGEST = 5000  # most characters of a parameter or a tag; the limit of MLflow is slightly higher
STATES = {"done": "FINISHED"}  # MLflow's state for the status of a result; all others are FAILED


class MLflow:
    """See `base.Tracker`."""

    name, nests = "mlflow", True

    def __init__(self) -> None:
        self._client = _client()
        self._runs: dict[str, str] = {}
        self._logged: dict[str, int] = {}  # last epoch in MLflow of each run that is continued
        self._trials: set[str] = set()  # runs that are not finished

    def open(self, subject: Subject, known: str, parent: str) -> str:
        """See `base.Tracker`; a run that was deleted from the store is replaced by a new one."""
        run = known if known and self._goes_on(known) else self._create(subject, parent)
        self._runs[subject.key] = run
        if not subject.of_table:
            self._trials.add(run)
        return run

    def _goes_on(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if found.info.lifecycle_stage != "active":
            return False
        self._client.update_run(run, status="RUNNING")
        # A process that was killed may have sent more epochs than it recorded.
        told = next((name for name in found.data.metrics if "/" in name), None)
        points = self._client.get_metric_history(run, told) if told else []
        self._logged[run] = max((point.step for point in points), default=0)
        return True

    def _create(self, subject: Subject, parent: str) -> str:
        tags = {f"vidrec.{name}": str(value)[:LONGEST] for name, value in subject.facts.items()}
        tags |= {"mlflow.source.name": "vidrec", "vidrec.version": __version__}
        if parent:
            tags["mlflow.parentRunId"] = parent
        if "question" in subject.facts:
            tags["mlflow.note.content"] = subject.facts["question"]
        experiment = self._experiment(os.environ.get(EXPERIMENT) or subject.project)
        run = self._client.create_run(experiment, run_name=subject.name, tags=tags).info.run_id
        self._describe(run, subject.parameters)
        return run

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment; if several jobs train, only one creates it."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name)
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def _describe(self, run: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, _text(value)) for name, value in parameters.items()]
        for part in _parts(params, PARAMETERS):
            self._client.log_batch(run, params=part)

    def log(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        """See `base.Tracker`."""
        before = self._logged.get(self._runs[subject.key], 0)
        new = [line for line in lines if line["epoch"] > before]
        self._log(subject, [(line["epoch"], curves(line)) for line in new])

    def _log(self, subject: Subject, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for step, figures in steps
            for name, value in figures.items()
        ]
        for part in _parts(metrics, METRICS):
            self._client.log_batch(self._runs[subject.key], metrics=part)

    def finish(self, subject: Subject, outcome: Outcome) -> None:
        """See `base.Tracker`."""
        run = self._runs[subject.key]
        self._log(subject, [(int(outcome.figures.get("epochs", 0)), outcome.figures)])
        self._client.set_tag(run, "vidrec.status", outcome.status)
        if outcome.why:
            self._client.set_tag(run, "vidrec.why", outcome.why[:LONGEST])
        if outcome.model:
            self._client.log_artifacts(run, str(outcome.model), "model")
        curves_file = subject.folder / CURVES
        for path in (*outcome.files, *([curves_file] if curves_file.is_file() else [])):
            self._keep(run, path)
        self._client.set_terminated(run, STATES.get(outcome.status, "FAILED"))
        self._trials.discard(run)

    def _keep(self, run: str, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(run, str(path), path.name)
        else:
            self._client.log_artifact(run, str(path))

    def stop(self) -> None:
        """See `base.Tracker`; the table's run stays open for the job that ends last."""
        for run in self._trials:
            self._client.set_terminated(run, "KILLED")


def check() -> None:
    """Raise a UserError if MLflow is not installed, or lacks a library for the configured store."""
    with _quiet():
        try:
            import mlflow
        except ImportError:
            how = how_to_install("mlflow")
            raise UserError(f"--track mlflow needs MLflow: {how}") from None
        if mlflow.get_tracking_uri().startswith("sqlite:"):
            try:
                import alembic  # noqa: F401
                import sqlalchemy  # noqa: F401
            except ImportError:
                raise UserError(
                    f"--track mlflow: {mlflow.get_tracking_uri()} needs SQLAlchemy and alembic: "
                    f"{how_to_install('mlflow')}, or name a server by {URI}"
                ) from None


def environment() -> dict[str, str]:
    """Return the environment variables by which a job in any folder finds the store used here.

    A server address that the user has set is not returned: jobs inherit the variable. The address
    may contain a password, so it must not be in the scripts of jobs.
    """
    given = os.environ.get(URI, "")
    if given and not given.startswith(SQLITE) and "://" in given:
        return {}
    import mlflow

    where = mlflow.get_tracking_uri()
    if where.startswith(SQLITE):
        return {URI: SQLITE + os.path.abspath(where.removeprefix(SQLITE))}
    return {URI: where if "://" in where else Path(where).absolute().as_uri()}


def _client() -> Any:
    check()
    with _quiet():
        from mlflow.tracking import MlflowClient

        # Hide warnings about retries: the user gets one line about the failure.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Set the variables that the user has not set, before MLflow reads them."""
    for name, value in USUAL.items():
        os.environ.setdefault(name, value)
    yield


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:LONGEST]


def _parts(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
