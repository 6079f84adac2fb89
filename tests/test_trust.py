"""Whose code runs: a run's own source, only where a person or the launcher says so."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vidrec
from vidrec.cli import main
from vidrec.config import plugins, sources
from vidrec.errors import UserError
from vidrec.evaluation import export
from vidrec.evaluation.predict import Classifier, score
from vidrec.io import checkpoint, files
from vidrec.sweeps import cluster, plan, runner
from vidrec.sweeps.ablation import Ablation
from vidrec.sweeps.cluster import job

# Writes a line wherever it runs.
MINE = f"""
import os, sys
from dataclasses import dataclass

import jax, jax.numpy as jnp, optax
import helper
from vidrec.models.cells import Cell

with open(os.environ.get("RAN", os.devnull), "a") as file:
    file.write(__file__ + chr(10))
sys.path.insert(0, {str(Path(__file__).parent)!r})


@dataclass(frozen=True)
class Leaky(Cell):
    gates = 2

    def step(self, weights, carry, inputs_BG, ops):
        from helper import squash
        z = ops.clip_gradient(inputs_BG + ops.recurrent_matmul(carry))
        leak, new = jnp.split(z, 2, axis=-1)
        leak = jax.nn.sigmoid(leak)
        return (1 - leak) * carry + leak * squash(new)


def load(data):
    from helpers.small_datasets import features
    return features()


def make(cfg, hyper):
    return optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(hyper["optim.learning_rate"]))
"""
HELPER = "import jax.numpy as jnp\n\n\ndef squash(x):\n    return jnp.tanh(x)\n"
EXPERIMENT = """
from vidrec import Config, override


def config():
    return override(
        Config(),
        {
            "data.kind": "mine.py:load",
            "scanner.kind": "mine.py:Leaky",
            "scanner.units": 4,
            "optim.kind": "mine.py:make",
            "frames.length": 6,
            "train.epochs": 2,
            "train.batch_size": 8,
        },
    )
"""
CLIP = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)


def write_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(MINE)
    (folder / "helper.py").write_text(HELPER)
    (folder / "experiment.py").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose run is trained: (its folder, the run's)."""
    home = write_project(tmp_path_factory.mktemp("project") / "home")
    cfg = vidrec.load(home / "experiment.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_write_report", lambda *_: None)
        result = vidrec.train(cfg, home / "runs", name="mine")
    return home, Path(result["dir"])


@pytest.fixture
def run(project, tmp_path):
    """A copy of the project elsewhere, as a stranger gets it; the original stays as it was."""
    trained = project[1]
    return Path(shutil.copytree(trained, tmp_path / "got" / trained.name))


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Which files ran; modules that ran before are forgotten."""
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    sources.run_once.cache_clear()
    return lambda: (tmp_path / "ran").read_text().split() if (tmp_path / "ran").exists() else []


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def forge(run: Path, change) -> None:
    """Changes a model's description as a stranger could, checksums included."""
    file = run / "model" / "meta.json"
    meta = files.read_json(file)
    change(meta)
    files.write_json(file, meta)
    files.write_json(run / "model" / checkpoint.SUMS, checkpoint._checksums(run / "model"))


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as left:
        main.main([str(word) for word in words])
    assert left.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()
    assert len(line) == 1, line
    return line[0]


def test_a_run_keeps_source_and_hash_of_its_code(project):
    home, trained = project
    for told in (trained / "result.json", trained / "group.json", trained / "model" / "meta.json"):
        said = json.loads(told.read_text())["code"]
        assert set(said) == {f"{home}/mine.py:{name}" for name in ("load", "Leaky", "make")}
        record = said[f"{home}/mine.py:Leaky"]
        assert record["files"] == {n: sha(home / n) for n in ("mine.py", "helper.py")}
    for place in (trained / "code", trained / "model" / "code"):
        kept = place / record["sha256"][:16]
        assert (kept / "mine.py").read_text() == MINE
        assert (kept / "helper.py").read_text() == HELPER


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_no_command_runs_it_unasked(command, project, run, ran, capsys, tmp_path):
    """One's own run too: nothing inside a folder proves whose it is."""
    home, trained = project
    np.save(tmp_path / "clip.npy", CLIP)
    more = {"predict": [tmp_path / "clip.npy"], "evaluate": [], "export": [tmp_path / "out"]}
    for folder in (trained, run):
        line = refused(capsys, command, folder, *more[command])
        for part in (f"{home}/mine.py", sha(home / "mine.py"), sha(home / "helper.py")):
            assert part in line
        assert "--trust-code" in line
        assert "trust_code=True" in line
    assert ran() == []
    assert not (tmp_path / "out").exists()


def test_python_does_not_run_it_unasked(project, ran):
    trained = project[1]
    for load in (Classifier.load, score, lambda folder: export.export(folder, folder / "out")):
        with pytest.raises(UserError, match=r"trust_code=True"):
            load(trained)
    tree, meta = checkpoint.read(trained / "model")
    with pytest.raises(UserError, match=r"trust_code=True"):
        Classifier(tree, meta)
    assert ran() == []


@pytest.mark.parametrize("name", ["data", "encoder", "scanner", "optim", ""])
def test_one_setting_that_names_code_is_enough(name, project, run, ran):
    """Whether this use of the run would need it or not."""
    home = project[0]

    def change(meta):
        plain = {"data": "features", "scanner": "lstm", "optim": "adam"}
        for section, kind in plain.items():
            meta["config"][section]["kind"] = kind
        if name:
            meta["config"][name]["kind"] = f"{home}/mine.py:Leaky"

    forge(run, change)
    if name:
        with pytest.raises(UserError, match=r"mine\.py.*--trust-code"):
            Classifier.load(run)
    else:
        Classifier.load(run)
    assert ran() == []


def test_trusted_it_runs_the_kept_source(project, run, ran, capsys, tmp_path, monkeypatch):
    """From elsewhere, without the original files; each command."""
    home = project[0]
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "helper.py"):  # what lies here is not meant
        (tmp_path / name).write_text("raise SystemExit('the wrong one')\n")
    before = Classifier.load(project[1], trust_code=True).predict(CLIP)
    moved = home.with_name("gone")
    home.rename(moved)
    try:
        model = Classifier.load(run, trust_code=True)
        assert (model.predict(CLIP).scores_K == before.scores_K).all()
        assert model.notes == []
        result = score(run, trust_code=True)
        saved = json.loads((run / "result.json").read_text())
        assert result["metrics"]["test"]["accuracy"] == saved["metrics"]["test"]["accuracy"]
        cli_status(0, "export", run, "out", "--trust-code")
        np.save(tmp_path / "clip.npy", CLIP)
        cli_status(0, "predict", run, "clip.npy", "--trust-code")
        assert f"{before.label} {before.confidence:.0%}" in capsys.readouterr().out
    finally:
        moved.rename(home)
    assert set(ran()) == {f"{home}/mine.py"}
    assert not list((tmp_path / "out").rglob("mine.py"))


def cli_status(status: int, *words) -> None:
    with pytest.raises(SystemExit) as left:
        main.main([str(word) for word in words])
    assert left.value.code == status


def test_an_edited_original_changes_nothing_and_both_hashes_are_shown(project, tmp_path, capsys):
    home = write_project(tmp_path / "home")
    run = tmp_path / "run"
    shutil.copytree(project[1], run)

    def change(meta):
        text = json.dumps(meta).replace(str(project[0]), str(home))
        meta.update(json.loads(text))

    forge(run, change)
    before = Classifier.load(run, trust_code=True).predict(CLIP)
    kept = sha(home / "helper.py")
    (home / "helper.py").write_text(HELPER.replace("jnp.tanh(x)", "0 * x"))
    model = Classifier.load(run, trust_code=True)
    assert (model.predict(CLIP).scores_K == before.scores_K).all()
    [note] = model.notes
    line = refused(capsys, "predict", run, "clip.npy")
    for text in (line, note):
        assert kept in text
        assert sha(home / "helper.py") in text


@pytest.mark.parametrize("told", [False, True])
def test_kept_source_that_was_changed_does_not_run(told, run, ran):
    """Also where the stranger recomputes the checksums; the record says what was trained."""
    [kept] = (run / "model" / "code").glob("*/helper.py")
    kept.write_text("open('/dev/null')\n" + HELPER)
    if told:
        forge(run, lambda meta: None)
    line = r"not the source that was recorded.*SHA-256" if told else "changed since it was written"
    with pytest.raises(UserError, match=line):
        Classifier.load(run, trust_code=True)
    assert ran() == []


def outside(record):
    record["files"] = {"mine.py": record["files"]["mine.py"], "../../../x.py": "0" * 64}
    record["sha256"] = sources.combined_hash(record["files"])


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.clear(),
        lambda record: record.update(files=[]),
        lambda record: record.update(files={}),
        lambda record: record.update(files={"mine.py": 3}),
        lambda record: record.update(sha256=None),
        lambda record: record.update(sha256="../.." + "0" * 59),
        lambda record: record.update(file="/other.py"),
        outside,
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_a_record_that_is_none_is_one_line(change, trust, run, ran):
    forge(run, lambda meta: [change(record) for record in meta["code"].values()])
    with pytest.raises(UserError, match=r"mine\.py.* does not run"):
        Classifier.load(run, trust_code=trust)
    assert ran() == []


@pytest.mark.parametrize("said", [None, {}, [], "x", {"/mine.py:Leaky": None}])
def test_a_run_that_kept_no_source_runs_none(said, run, ran):
    forge(run, lambda meta: meta.update(code=said))
    for trust in (False, True):
        with pytest.raises(UserError, match=r"keeps no source of it.*--trust-code"):
            Classifier.load(run, trust_code=trust)
    assert ran() == []


def test_a_stranger_cannot_have_a_pipe_read_or_a_path_of_here(run, ran, tmp_path, monkeypatch):
    """The original's place is the stranger's choice: it is looked at, never waited for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "here").mkdir()
    os.mkfifo(tmp_path / "here" / "mine.py")
    for file in (str(tmp_path / "here" / "mine.py"), "/dev/zero/mine.py", "mine.py"):

        def change(meta, file=file):
            named = next(iter(meta["code"])).rpartition(":")[0]
            meta.update(json.loads(json.dumps(meta).replace(named, file)))

        forge(run, change)
        with pytest.raises(UserError, match="--trust-code") as error:
            Classifier.load(run)
        assert "by now another file" not in str(error.value)
        assert Classifier.load(run, trust_code=True).notes == []
    assert len(ran()) == 3


@pytest.mark.slow
def test_reports_status_and_comparisons_need_none(project, tmp_path, ran, monkeypatch, capsys):
    home = write_project(tmp_path / "home")
    cfg = vidrec.load(home / "experiment.py")
    table = runner.ablate(Ablation("mine", cfg, [{}], seeds=2), tmp_path / "runs")
    run = vidrec.train(cfg, tmp_path / "runs", name="mine")["dir"]
    count = len(ran())
    assert count
    shutil.rmtree(home)
    shutil.rmtree(Path(run) / "model" / "code")
    sources.run_once.cache_clear()
    monkeypatch.chdir(tmp_path)
    for words in (
        *(["report", table.folder], ["report", run], ["status", table.folder]),
        *(["compare", run, table.folder], ["cancel", table.folder]),
    ):
        cli_status(0, *words)
    vidrec.read(run)
    assert len(ran()) == count
    # A trial's folder is enough for itself.
    trial = tmp_path / "trial"
    shutil.copytree(table.folder / "trials" / table.trials[1]["id"], trial)
    shutil.rmtree(tmp_path / "runs")
    assert Classifier.load(trial, trust_code=True).predict(CLIP).frames == 7


@pytest.mark.slow
def test_an_edited_file_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    home = write_project(tmp_path / "home")
    first = vidrec.train(vidrec.load(home / "experiment.py"), tmp_path / "runs", name="mine")
    again = vidrec.train(vidrec.load(home / "experiment.py"), tmp_path / "runs", name="mine")
    assert again == first
    (home / "helper.py").write_text(HELPER.replace("tanh", "sin"))
    other = vidrec.train(vidrec.load(home / "experiment.py"), tmp_path / "runs", name="mine")
    assert other["id"] != first["id"]
    answers = [
        Classifier.load(each["dir"], trust_code=True).predict(CLIP).scores_K
        for each in (first, other)
    ]
    assert (answers[0] != answers[1]).any()
    at_once = Classifier.load(first["dir"], trust_code=True).predict(CLIP).scores_K
    assert (at_once == answers[0]).all()


def held_table(home: Path, workdir: Path) -> tuple[Path, str]:
    """A table whose groups are written for jobs: its folder, and the one group."""
    table = Ablation("mine", vidrec.load(home / "experiment.py"), [{}], seeds=2)
    planned = plan.plan_table(table, workdir)
    [(group, _, _)], folder = plan.hold_groups(planned), planned.folder
    return folder, group


def start_job(folder: Path, group: str, cwd: Path, **environment: str):
    """A job's process, as a pool starts it."""
    plain = {name: each for name, each in os.environ.items() if name != plugins.CONSENT}
    return subprocess.run(
        [sys.executable, "-m", "vidrec.sweeps.cluster", str(folder), group],
        env=plain | {"PYTHONPATH": str(Path(vidrec.__file__).parent.parent)} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_job_runs_what_its_launcher_named_as_it_was_then(tmp_path, ran):
    """Consent comes by hash in the environment; the source is the kept one; nothing else runs."""
    home = write_project(tmp_path / "home")
    (home / "mine.py").write_text(MINE.replace("0.9", "0.5"))  # this process never ran it
    folder, group = held_table(home, tmp_path / "runs")
    consent, count = plugins.consent(), len(ran())
    (home / "helper.py").write_text("raise SystemExit('edited since')\n")
    for environment in ({}, {plugins.CONSENT: "0" * 64}):
        done = start_job(folder, group, tmp_path, **environment)
        assert done.returncode == 1
        assert "mine.py" in done.stderr
        assert "launcher did not name" in done.stderr
        assert "Traceback" not in done.stderr
    assert len(ran()) == count
    done = start_job(folder, group, tmp_path, **consent)
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in folder.glob("trials/*/result.json")]
    assert [each["status"] for each in results] == ["done", "done"]
    for trial in folder.glob("trials/*"):
        config = json.loads((trial / "config.json").read_text())
        assert config["scanner"]["kind"] == f"{home}/mine.py:Leaky"
        assert Classifier.load(trial, trust_code=True).predict(CLIP).frames == 7


def test_engines_hand_their_jobs_the_consent(tmp_path, monkeypatch):
    from vidrec.sweeps.cluster import pool, slurm

    home = write_project(tmp_path / "home")
    spec = plugins.pin(f"{home}/mine.py:Leaky")
    started = []

    class Process:
        pid = os.getpid()

        def __init__(self, command, **how):
            started.append(how["env"])

    monkeypatch.setattr(pool.subprocess, "Popen", Process)
    pool.Pool()._start(tmp_path, "group", {}, tmp_path)
    assert plugins.code_hash(spec) in started[0][plugins.CONSENT].split(",")
    setup = slurm.Slurm()._parameters("name", cluster.Options())["setup"]
    [line] = [each for each in setup if plugins.CONSENT in each]
    assert plugins.code_hash(spec) in line


def test_a_strangers_table_is_trained_by_nobody(tmp_path, ran, monkeypatch):
    """Its groups name code that no command line here named."""
    home = write_project(tmp_path / "home")
    (home / "mine.py").write_text(MINE.replace("0.9", "0.7"))
    folder, group = held_table(home, tmp_path / "runs")
    count = len(ran())
    monkeypatch.setattr(plugins, "_named_here", set())
    for work in (
        lambda: runner.train_group(folder, group),
        lambda: job.make_data(folder, runner.Reporter()),
        lambda: cluster.submit(folder, [group], cluster.Options(engine="debug")),
    ):
        with pytest.raises(UserError, match="launcher did not name"):
            work()
    assert len(ran()) == count


def test_weights_of_a_run_bring_no_code(project, ran):
    """They are arrays; an encoder that is code has to be the one that was trained."""
    from vidrec.models.encoders.weights import runs

    about = {"config": {"encoder": {"kind": "/gone/net.py:Net"}}, "code": {}}
    about["code"] = {"/gone/net.py:Net": {"sha256": "f" * 64}}
    cfg = vidrec.override(vidrec.Config(), {"encoder.kind": f"{project[0]}/mine.py:Leaky"}).encoder
    with pytest.raises(UserError, match="f" * 64) as error:
        runs.check_code(cfg, about, Path("runs/first"))
    assert plugins.code_hash(cfg.kind) in str(error.value)
    about["code"]["/gone/net.py:Net"]["sha256"] = plugins.code_hash(cfg.kind)
    runs.check_code(cfg, about, Path("runs/first"))
    assert ran() == []


def test_commands_that_are_given_code_run_it(project, ran):
    home = project[0]
    for words in (["check"], ["ablate", "--dry-run"], ["extract"]):
        before = len(ran())
        sources.run_once.cache_clear()
        cli_status(0, words[0], home / "experiment.py", *words[1:])
        assert len(ran()) > before


def test_a_relative_folder_of_data_in_a_run_is_not_looked_for_here(run, tmp_path, monkeypatch):
    """Earlier versions recorded what was typed, and of which folder it was seen is not known."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips" / "a").mkdir(parents=True)

    def change(meta):
        meta["config"]["data"] |= {"kind": "videos", "root": "clips"}

    forge(run, change)
    with pytest.raises(UserError, match=r"data\.root = 'clips'.*give --data\.root"):
        score(run, trust_code=True)
