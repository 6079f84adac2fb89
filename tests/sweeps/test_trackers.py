"""TensorBoard, MLflow and Weights & Biases hold what was trained, also after a stop and of jobs."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from helpers.events import scalars
from helpers.small_datasets import features, settings
from helpers.trackers import Stopper

from vidrec.config import override
from vidrec.io import files
from vidrec.io.machine import how_to_install
from vidrec.sweeps import cluster, runner, tracking
from vidrec.sweeps.ablation import Ablation, product
from vidrec.training import loop

ROOT = Path(__file__).parents[2]
FAST = {"scanner__kind": "mean", "head__kind": "per_frame", "train__epochs": 3}
MOTION = {
    "data.tfds": "motion/clips=60,frames=8,size=16",
    "encoder.size": 16,
    "frames.length": 4,
    "train.epochs": 3,
}


def fill(folder, tracker, **more):
    table = Ablation(
        "table", settings(**FAST), product({"optim.learning_rate": [0.01, 0.1]}), seeds=2
    )
    return runner.ablate(table, folder, dataset=features(), track=[tracker], **more)


def stopped_and_filled(folder, tracker):
    """The table, stopped after two epochs and gone on with."""
    with pytest.raises(loop.Interrupted):
        fill(folder, tracker, screen=Stopper(2))
    return fill(folder, tracker)


def curves(trial: Path) -> dict:
    """{(name, epoch): value} of a trial's metrics.jsonl."""
    lines = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    return {
        (name, line["epoch"]): pytest.approx(line[name], rel=1e-6)
        for line in lines
        for name in line
        if "/" in name and line[name] is not None
    }


def launch(folder, *words, **environment):
    """A command in a process of its own, in a folder."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *map(str, words)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def train(folder, *words, **environment):
    given = [word for name, value in MOTION.items() for word in (f"--{name}", str(value))]
    return launch(folder, "train", "motion", "--json", *given, *words, **environment)


# ------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_has_what_the_report_command_writes(tmp_path):
    pytest.importorskip("tensorboardX")
    with pytest.raises(loop.Interrupted):
        fill(tmp_path, "tensorboard", screen=Stopper(2))
    [top] = tmp_path.iterdir()
    begun = {folder.name: scalars(folder) for folder in (top / "tensorboard").iterdir()}
    assert len(begun) == 4
    assert all({epoch for _, epoch in found} == {1, 2} for found in begun.values())
    table = fill(tmp_path, "tensorboard")
    assert {folder.name for folder in (top / "tensorboard").iterdir()} == set(begun)
    for trial in table.trials:
        name = f"learning_rate={trial['overrides']['optim.learning_rate']}, seed {trial['seed']}"
        assert scalars(top / "tensorboard" / name) == curves(top / "trials" / trial["id"])


# ------------------------------------------------------------------------------- MLflow


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An MLflow client of a store in SQLite."""
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("alembic", reason="a store in SQLite needs alembic")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)  # where artefacts go
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


def check_mlflow(client, folder: Path, trials, name="table"):
    """The experiment holds a run a trial, each epoch once, below one of the table."""
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert len(runs) == len(trials) + 1
    top = runs.pop(folder.name)
    by_id = {run.data.tags["vidrec.id"]: run for run in runs.values()}
    for trial in trials:
        run, own = by_id[trial["id"]], folder / "trials" / trial["id"]
        assert run.data.tags["mlflow.parentRunId"] == top.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == str(trial["seed"])
        for setting, value in trial["overrides"].items():
            assert run.data.params[setting] == str(value)
        expected = curves(own)
        told = {
            (key, point.step): point.value
            for key in {key for key, _ in expected}
            for point in client.get_metric_history(run.info.run_id, key)
        }
        assert told == expected
        count = client.get_metric_history(run.info.run_id, "train/loss")
        assert len(count) == trial["epochs"], "an epoch is told once"
        assert run.data.metrics["test_accuracy"] == trial["metrics"]["test"]["accuracy"]
        kept = {each.path for each in client.list_artifacts(run.info.run_id)}
        assert {"model", "result.json", "metrics.jsonl"} <= kept
    kept = {each.path for each in client.list_artifacts(top.info.run_id)}
    assert {"report.html", "figures", "table.csv", "table.md"} <= kept
    assert top.info.status == "FINISHED"
    return top


@pytest.mark.slow
def test_mlflow_holds_a_table_that_was_stopped(store, tmp_path):
    table = stopped_and_filled(tmp_path / "runs", "mlflow")
    top = check_mlflow(store, table.folder, table.trials)
    copied = store.download_artifacts(top.info.run_id, "table.csv")
    assert Path(copied).read_bytes() == (table.folder / "table.csv").read_bytes()


@pytest.mark.slow
def test_mlflow_is_asked_what_it_has_after_a_kill(store, tmp_path):
    """The notes of a killed process may lack epochs that it told."""
    with pytest.raises(loop.Interrupted):
        fill(tmp_path / "runs", "mlflow", screen=Stopper(2))
    notes = list((tmp_path / "runs").glob("*/tracking/mlflow/*.json"))
    for note in notes:
        content = files.read_json(note)
        files.write_json(note, content | {"epoch": 0})
    assert len(notes) == 5
    table = fill(tmp_path / "runs", "mlflow")
    check_mlflow(store, table.folder, table.trials)


@pytest.mark.slow
def test_mlflow_runs_that_somebody_deleted_are_begun_anew(store, tmp_path):
    with pytest.raises(loop.Interrupted):
        fill(tmp_path / "runs", "mlflow", screen=Stopper(2))
    experiment = store.get_experiment_by_name("table").experiment_id
    for run in store.search_runs([experiment]):
        store.delete_run(run.info.run_id)
    table = fill(tmp_path / "runs", "mlflow")
    check_mlflow(store, table.folder, table.trials)


@pytest.mark.slow(minutes=1)
def test_jobs_of_a_pool_are_told_to_one_store(store, tmp_path, monkeypatch):
    """Two groups, a process each; the store is the usual one of the folder they are started in."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    base = override(runner.Config(), MOTION | {"scanner.kind": "mean", "data.kind": "tfds"})
    table = Ablation("jobs", base, product({"train.batch_size": [5, 6]}), seeds=2)
    options = cluster.Options(engine="pool", devices=("0", "1"), track=("mlflow",))
    folder = cluster.launch(table, tmp_path / "runs", options)
    results = [files.read_result(each.parent) for each in folder.glob("trials/*/result.json")]
    assert len(results) == 4
    check_mlflow(store, folder, results, "jobs")


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture
def server(store, tmp_path):
    """The address of an MLflow server over the store."""
    pytest.importorskip("flask", reason="an MLflow server needs all of MLflow")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    words = ["server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"]]
    words += ["--artifacts-destination", str(tmp_path / "kept")]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                if time.monotonic() > until:
                    pytest.skip("the server does not come up within four minutes")
                time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow(minutes=2)
def test_an_mlflow_server_shows_a_tables_runs(server, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setattr(tracking, "STOPPED_SECONDS", 120.0)  # a slow server is told all the same
    table = stopped_and_filled(tmp_path / "runs", "mlflow")
    check_mlflow(MlflowClient(server), table.folder, table.trials)


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////proc/none/mlflow.db", "nonsense://x"]
)
def test_a_store_that_cannot_be_reached_costs_one_line(uri, tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    quick = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    done = train(tmp_path, "--track", "mlflow", **quick)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"
    assert done.stderr.count("--track mlflow") == 1
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------- Weights & Biases

BLOCK, HEAD = 32768, 7  # bytes of a block and of a record's head, as in LevelDB's logs


def wandb_records(file: Path):
    """Yield the records of a run that was kept offline."""
    from wandb.proto import wandb_internal_pb2

    content, place, whole = file.read_bytes(), HEAD, b""
    while place < len(content):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        whole += content[place + HEAD : place + HEAD + size]
        place += HEAD + size
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def pairs(items) -> dict:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def wandb_runs(folder: Path) -> dict[str, dict]:
    """What all offline runs below a folder say of each run, by its id."""
    found: dict[str, dict] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        own = {"history": {}, "summary": {}, "config": {}, "artifacts": [], "name": ""}
        run = found.setdefault(file.stem.removeprefix("run-"), own)
        for record in wandb_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run["name"], run["group"] = record.run.display_name, record.run.run_group
                run["project"] = record.run.project
                run["config"] |= pairs(record.run.config.update)
            elif kind == "summary":
                run["summary"] |= pairs(record.summary.update)
            elif kind == "artifact":
                run["artifacts"].append(record.artifact.type)
            elif kind == "history":
                line = pairs(record.history.item)
                for name in line:
                    if "/" in name:
                        assert (name, line["_step"]) not in run["history"], "told twice"
                        run["history"][name, line["_step"]] = line[name]
    return found


@pytest.mark.slow(minutes=1)
def test_wandb_holds_a_table_that_was_stopped(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the library of Weights & Biases is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    table = stopped_and_filled(tmp_path, "wandb")
    runs = wandb_runs(table.folder)
    assert len(runs) == 5
    assert {run["project"] for run in runs.values()} == {"table"}
    [top] = [run for run in runs.values() if run["name"] == table.folder.name]
    assert "table" in top["summary"]
    assert "report" in top["artifacts"]
    by_id = {run["config"]["vidrec"]["id"]: run for run in runs.values() if run is not top}
    for trial in table.trials:
        run = by_id[trial["id"]]
        assert run["group"] == table.folder.name
        assert run["history"] == curves(table.folder / "trials" / trial["id"])
        assert run["config"]["optim.learning_rate"] == trial["overrides"]["optim.learning_rate"]
        assert run["summary"]["test_accuracy"] == trial["metrics"]["test"]["accuracy"]
        assert {"model", "report"} <= set(run["artifacts"])


@pytest.mark.slow(minutes=1)
def test_wandb_without_a_login_costs_one_line_and_asks_nothing(tmp_path):
    pytest.importorskip("wandb", reason="the library of Weights & Biases is not installed")
    home = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "WANDB_MODE": "online"}
    done = train(tmp_path, "--track", "wandb", **home)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("--track wandb: nobody is logged in") == 1


# ------------------------------------------------------------------------------- several at once


@pytest.mark.slow(minutes=1)
def test_the_command_line_takes_several_and_says_what_to_install(tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/x.db"}
    done = train(tmp_path, "--track", "mlflow", "--track", "tensorboard", **uri)
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["dir"])
    assert list((folder / "tensorboard").glob("events*"))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri["MLFLOW_TRACKING_URI"])
    [run] = client.search_runs([client.get_experiment_by_name("motion").experiment_id])
    kept = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"model", "report.html", "figures", "table.csv", "metrics.jsonl"} <= kept
    without = train(tmp_path)
    assert json.loads(without.stdout)["id"] == json.loads(done.stdout)["id"]


@pytest.mark.parametrize(
    ("name", "missing", "hint"),
    [
        ("mlflow", "mlflow", how_to_install("mlflow")),
        ("wandb", "wandb", how_to_install("wandb")),
        ("tensorboard", "tensorboardX", how_to_install("tensorboard")),
    ],
)
def test_what_is_not_installed_is_said_before_the_work(name, missing, hint, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(tracking.UserError) as refused:
        tracking.check([name])
    assert hint in str(refused.value)
