"""What a workdir holds, told from its files alone."""

import json
import os
import shutil

import pytest
from helpers.command_line import fails
from helpers.video_files import as_nobody

from vidrec.cli import main
from vidrec.errors import UserError
from vidrec.io import files, runs
from vidrec.report.listing import listing
from vidrec.training import loop


def result(folder, when, name="", status="done", test=0.5, val=0.6, task="clip", **more):
    """A trial's result, written at a time."""
    folder.mkdir(parents=True)
    figure = {"clip": "accuracy", "multilabel": "map"}[task]
    metrics = {} if test is None else {"test": {figure: test}, "val": {figure: val}}
    content = {"id": "a" * 16, "name": name, "status": status, "metrics": metrics, **more}
    files.write_json(folder / "result.json", content)
    files.write_json(folder / "config.json", {"task": {"kind": task}})
    os.utime(folder / "result.json", (when, when))
    return folder


def table(folder, rows, name="table", planned=()):
    """An ablation: figures (test, validation, status) of the seeds of each row."""
    trials = []
    for row, seeds in enumerate(rows):
        for seed, (test, val, status) in enumerate(seeds):
            id_ = f"{row:08d}{seed:08d}"
            result(folder / "trials" / id_, 1000, test=test, val=val, status=status)
            trials.append({"id": id_, "row": row, "seed": seed, "overrides": {}})
    trials += [{"id": id_, "row": 99, "seed": 0, "overrides": {}} for id_ in planned]
    files.write_json(folder / "ablation.json", {"name": name, "trials": trials})
    os.utime(folder / "ablation.json", (900, 900))


@pytest.fixture
def workdir(tmp_path):
    result(tmp_path / "one-00000001", 3000, "one", test=0.25)
    result(tmp_path / "renamed", 2000, "two", "diverged", test=None)
    result(tmp_path / "several-00000002", 2500, "several", test=0.75, task="multilabel")
    done = "done"
    table(
        tmp_path / "table-00000003",
        [
            [(0.9, 0.5, done), (0.7, 0.5, done)],  # the best on test clips is not chosen by
            [(0.6, 0.8, done), (0.4, 0.6, done), (None, None, "diverged")],
        ],
    )
    table(tmp_path / "half-00000004", [[(0.5, 0.5, done)]], "half", planned=["f" * 16])
    (tmp_path / "notes").mkdir()
    (tmp_path / "a file").write_text("")
    return tmp_path


def test_runs_ablations_and_what_they_reach_are_listed_the_latest_first(workdir):
    found = {entry.name: entry for entry in listing(workdir)}
    assert [entry.name for entry in listing(workdir)][:3] == ["one", "several", "two"]
    assert set(found) == {"one", "two", "several", "table", "half"}
    assert found["one"][2:6] == ("run", "done", "accuracy", 0.25)
    assert found["two"][2:6] == ("run", "diverged", "accuracy", None)
    assert found["several"][2:6] == ("run", "done", "map", 0.75)
    whole, half = found["table"], found["half"]
    assert whole.value == pytest.approx(0.5)
    assert (whole.kind, whole.status) == ("ablation", "done, 1 diverged")
    assert (whole.finished, whole.trials) == (5, 5)
    assert (half.status, half.finished, half.trials) == ("unfinished, 1 of 2 trials", 1, 2)
    assert found["one"].when == 3000
    assert found["table"].when == 1000


def test_a_run_that_trains_is_told_from_one_that_was_killed(workdir):
    trial = {"id": "b" * 16, "config": {}, "folder": ".", "about": {"name": "begun"}}
    folder = workdir / "begun-00000005"
    folder.mkdir()
    files.write_json(folder / "group.json", {"members": ["b" * 16], "trials": [trial]})
    states = {}
    with loop.claim(folder):
        states["training"] = listing(workdir)
    states["unfinished"] = listing(workdir)
    for word, entries in states.items():
        [entry] = [each for each in entries if each.name == "begun"]
        assert (entry.kind, entry.status, entry.value) == ("run", word, None)
    # A table whose group trains.
    (workdir / "half-00000004" / "groups" / "g").mkdir(parents=True)
    with loop.claim(workdir / "half-00000004" / "groups" / "g"):
        [half] = [each for each in listing(workdir) if each.name == "half"]
    assert half.status == "training, 1 of 2 trials"


def test_a_damaged_one_is_listed_as_such(workdir):
    file = workdir / "one-00000001" / "result.json"
    file.write_text(file.read_text().replace("0.25", "0.35"))
    [entry] = [each for each in listing(workdir) if each.dir.name == "one-00000001"]
    assert (entry.status, entry.value) == ("damaged", None)


def test_the_command_prints_a_table_or_json(workdir, capfd):
    with pytest.raises(SystemExit) as left:
        main.main(["runs", str(workdir), "--json"])
    assert left.value.code == 0
    told = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in told][:3] == ["one", "several", "two"]
    assert (told[0]["accuracy"], told[0]["kind"], told[0]["status"]) == (0.25, "run", "done")
    assert (told[1]["map"], told[1]["figure"]) == (0.75, "map")
    assert told[0]["dir"] == str(workdir / "one-00000001")
    assert told[0]["when"].startswith("1970-01-01")
    with pytest.raises(SystemExit):
        main.main(["runs", "--workdir", str(workdir)])
    shown = capfd.readouterr().out
    assert "done, 1 diverged" in shown
    assert "75.0" in shown
    with pytest.raises(SystemExit) as left:
        main.main(["runs", str(workdir / "notes")])
    assert left.value.code == 0
    assert "holds no run" in capfd.readouterr().out


def test_entries_of_one_name_are_told_apart_by_their_commands(workdir, capfd):
    (workdir / "one-00000001" / "environment.json").write_text('{"command": "vidrec train one"}')
    again = workdir / "one-00000009"
    shutil.copytree(workdir / "one-00000001", again)
    (again / "environment.json").write_text('{"command": "vidrec train one --seed 3"}')
    with pytest.raises(SystemExit):
        main.main(["runs", str(workdir)])
    shown = capfd.readouterr().out
    assert "one-00000001: vidrec train one\n" in shown
    assert "one-00000009: vidrec train one --seed 3\n" in shown
    assert "half-00000004: " not in shown


def test_a_folder_that_is_not_there_is_a_line(tmp_path, capsys):
    assert "there is no folder" in fails(capsys, "runs", str(tmp_path / "nothing"))
    with pytest.raises(UserError):
        listing(tmp_path / "nothing")


def test_a_folder_that_may_not_be_listed_is_not_called_empty(tmp_path):
    folder = tmp_path / "runs"
    result(folder / "one", 1.0)
    folder.chmod(0)
    with as_nobody(tmp_path):
        with pytest.raises(UserError, match="runs cannot be listed: Permission denied"):
            listing(folder)
        with pytest.raises(UserError, match="runs cannot be listed: Permission denied"):
            runs.find("one", folder)
