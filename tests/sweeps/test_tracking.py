"""What trackers are told: each epoch once, whatever stops; what they do never ends a training."""

import json
import logging
import threading
import time

import pytest
from helpers.small_datasets import features, settings
from helpers.trackers import Recorder, Stopper

from vidrec.errors import UserError
from vidrec.sweeps import runner, tracking
from vidrec.sweeps.ablation import Ablation, product
from vidrec.sweeps.tracking import base, follower
from vidrec.training import loop

FAST = {"scanner__kind": "mean", "head__kind": "per_frame", "train__epochs": 3}
RATES = [0.01, 0.1]


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch):
    """Figures are not drawn: trackers are told of files, whatever these hold."""

    def write(folder, trained):
        for name in ("report.html", "table.csv"):
            (folder / name).write_text(repr(sorted(folder.glob("trials/*/result.json"))))
        (folder / "figures").mkdir(exist_ok=True)

    monkeypatch.setattr(runner, "_write_report", write)


def fill(folder, *trackers, rows=None, seeds=2, **more):
    rows = product({"optim.learning_rate": RATES}) if rows is None else rows
    table = Ablation("table", settings(**FAST), rows, seeds=seeds)
    return runner.ablate(table, folder, dataset=features(), track=trackers, **more)


def figures(line):
    return {name: value for name, value in line.items() if "/" in name}


def lines_of(trial_folder):
    text = (trial_folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def check_whole(table, recorder):
    """Every trial has one run that was told each epoch once, and the table one above them."""
    [top] = recorder.of(base.TABLE)
    for trial in table.trials:
        [run] = recorder.of(trial["id"])
        told, written = run["lines"], lines_of(table.folder / "trials" / trial["id"])
        assert [line["epoch"] for line in told] == [line["epoch"] for line in written] == [1, 2, 3]
        assert [figures(line) for line in told] == [figures(line) for line in written]
        outcome = run["outcome"]
        assert (run["state"], outcome.status) == ("finished", trial["status"])
        assert outcome.figures["test_accuracy"] == trial["metrics"]["test"]["accuracy"]
        assert outcome.model.is_dir()
        assert recorder.runs[run["parent"]] is top
    assert top["state"] == "finished"
    assert [row["id"] for row in top["outcome"].rows] == [trial["id"] for trial in table.trials]
    assert {"report.html", "figures", "table.csv"} <= {path.name for path in top["outcome"].files}


def test_a_table_is_told_and_its_ids_do_not_change(tmp_path):
    recorder = Recorder()
    told = fill(tmp_path / "told", recorder)
    check_whole(told, recorder)
    assert recorder.calls.count("finish") == 5
    untold = fill(tmp_path / "untold")
    assert [trial["id"] for trial in told.trials] == [trial["id"] for trial in untold.trials]
    assert told.folder.name == untold.folder.name
    subject = recorder.of(told.trials[3]["id"])[0]["subject"]
    assert subject.name == "learning_rate=0.1, seed 1"
    assert subject.parameters["optim.learning_rate"] == 0.1
    assert subject.parameters["scanner.kind"] == "mean"


def test_a_finished_table_is_told_once(tmp_path):
    fill(tmp_path)
    recorder = Recorder()
    table = fill(tmp_path, recorder)
    check_whole(table, recorder)
    count = len(recorder.calls)
    fill(tmp_path, recorder)
    assert recorder.calls[count:] == []


def test_a_stopped_table_goes_on_in_the_same_runs(tmp_path):
    """Once within what was told, once by a tracker that saw nothing of the first part."""
    first = Recorder()
    with pytest.raises(loop.Interrupted):
        fill(tmp_path, first, screen=Stopper(2))
    assert {run["state"] for run in first.runs.values()} == {"stopped"}
    second = Recorder()
    second.runs = first.runs
    second.name = first.name
    table = fill(tmp_path, second)
    check_whole(table, second)


@pytest.mark.slow
def test_what_was_trained_before_it_was_asked_for_is_told_too(tmp_path):
    with pytest.raises(loop.Interrupted):
        fill(tmp_path, screen=Stopper(2))
    recorder = Recorder()
    check_whole(fill(tmp_path, recorder), recorder)


def test_a_run_on_its_own_is_one_run_with_its_report(tmp_path):
    recorder = Recorder()
    cfg = settings(**FAST)
    result = runner.run(cfg, tmp_path, name="alone", dataset=features(), track=[recorder])
    [run] = recorder.runs.values()
    assert (run["parent"], run["state"]) == ("", "finished")
    assert [line["epoch"] for line in run["lines"]] == [1, 2, 3]
    outcome = run["outcome"]
    assert "report.html" in {path.name for path in outcome.files}
    assert [row["id"] for row in outcome.rows] == [result["id"]]
    runner.run(cfg, tmp_path, name="alone", dataset=features(), track=[recorder])
    assert len(recorder.runs) == 1
    assert recorder.calls.count("finish") == 1


@pytest.mark.slow
def test_trials_that_differ_in_scoring_only_are_told_each(tmp_path):
    recorder = Recorder()
    rows = product({"eval.inference": ["single", "vote"]})
    table = fill(tmp_path, recorder, rows=rows, seeds=1)
    assert table.trials[0]["trials_in_group"] == 1
    check_whole(table, recorder)


@pytest.mark.parametrize("call", ["open", "log", "finish", "stop"])
def test_a_tracker_that_raises_costs_one_line(call, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.0)

    def broken(name):
        if name == call:
            raise RuntimeError("no route to http://me:secret@host/x\x1b[31m\nand more")

    recorder = Recorder(broken=broken)
    with caplog.at_level(logging.WARNING, "vidrec"):
        table = fill(tmp_path, recorder)
    assert [trial["status"] for trial in table.trials] == ["done"] * 4
    said = [each.getMessage() for each in caplog.records if "--track" in each.getMessage()]
    assert len(said) == (call != "stop")
    for line in said:
        assert line.startswith("--track recorder: no route to http://…@host/x")
        assert not {"\n", "\x1b"} & set(line)


def test_what_a_tracker_missed_is_added_when_it_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.0)
    calls = []

    def broken(name):
        calls.append(name)
        if len(calls) in (1, 2, 5, 6, 9):
            raise ConnectionError("down")

    recorder = Recorder(broken=broken)
    table = fill(tmp_path, recorder)
    check_whole(fill(tmp_path, recorder), recorder)
    assert len(recorder.runs) == len(table.trials) + 1


def test_a_failed_tracker_is_left_alone_for_a_while_and_caught_up_later(tmp_path):
    recorder = Recorder(broken=lambda call: (_ for _ in ()).throw(OSError("No space left")))
    fill(tmp_path, recorder)
    assert [call for call in recorder.calls if call != "stop"] == ["open"]
    healthy = Recorder()
    check_whole(fill(tmp_path, healthy), healthy)


def test_a_tracker_that_hangs_does_not_hold_up_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "FINISHED_SECONDS", 0.2)
    release, seen = threading.Event(), []

    def broken(name):
        seen.append(time.monotonic())
        release.wait(60)

    table = fill(tmp_path, Recorder(broken=broken))
    release.set()
    assert [trial["status"] for trial in table.trials] == ["done"] * 4
    assert len(seen) == 1, "nothing is told while a call hangs"
    assert "left behind" in caplog.text


def test_a_trial_that_is_trained_anew_is_a_new_run(tmp_path):
    recorder = Recorder()
    table = fill(tmp_path, recorder)
    trial = table.trials[0]
    file = table.folder / "trials" / trial["id"] / "result.json"
    result = json.loads(file.read_text())
    del result["checksum"]
    file.write_text(json.dumps(result | {"status": "diverged", "why": "made up"}))
    again = fill(tmp_path, recorder, retry="failed")
    first, second = recorder.of(trial["id"])
    assert first["outcome"].status == second["outcome"].status == "done"
    assert [line["epoch"] for line in second["lines"]] == [1, 2, 3]
    assert len(recorder.of(base.TABLE)) == 1
    assert [each["status"] for each in again.trials] == ["done"] * 4


@pytest.mark.slow
def test_a_damaged_note_begins_anew(tmp_path):
    recorder = Recorder()
    table = fill(tmp_path, recorder)
    for file in (table.folder / "tracking").rglob("*.json"):
        file.write_bytes(file.read_bytes()[:-9])
    again = Recorder()
    check_whole(fill(tmp_path, again), again)


@pytest.mark.slow
def test_failed_trials_are_told(tmp_path):
    recorder = Recorder()
    table = fill(tmp_path, recorder, rows=[{}, {"encoder.pca": 1000}], seeds=1)
    assert [trial["status"] for trial in table.trials] == ["done", "failed"]
    [run] = recorder.of(table.trials[1]["id"])
    assert run["outcome"].status == "failed"
    assert run["outcome"].why == table.trials[1]["why"]
    assert run["outcome"].model is None


@pytest.mark.slow
def test_another_table_that_takes_trials_over_has_runs_of_its_own(tmp_path):
    one, two = Recorder(), Recorder()
    fill(tmp_path, one)
    table = Ablation("other", settings(**FAST), product({"optim.learning_rate": RATES}), seeds=2)
    check_whole(runner.ablate(table, tmp_path, dataset=features(), track=[two]), two)
    assert len(one.runs) == 5


def test_an_unknown_tracker_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--track mlflaw: there are tensorboard, mlflow, wandb"):
        fill(tmp_path, "mlflaw")
    assert not list(tmp_path.iterdir())


def test_jobs_track_what_their_launcher_asked_for(monkeypatch):
    assert tracking.environment(()) == {}
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    assert tracking.of_launcher() == ()
    monkeypatch.setenv(tracking.VARIABLE, "tensorboard,wandb")
    assert tracking.of_launcher() == ("tensorboard", "wandb")
    assert tracking.environment(["tensorboard"]) == {"VIDREC_TRACK": "tensorboard"}
