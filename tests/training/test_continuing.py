"""A finished run that is trained for more epochs is the run of all of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command_line import fails
from helpers.small_datasets import features, settings

import vidrec
from vidrec.config import identifying_settings, override
from vidrec.errors import UserError
from vidrec.io import checkpoint, files
from vidrec.training import continuing

ROOT = Path(__file__).parents[2]
# Dropout, momentum and decay: what goes on has to be the optimiser and the keys, too.
HOW = {"scanner__dropout": 0.3, "optim__weight_decay": 0.01, "train__parallel": "trials"}


def train(cfg, folder, **how):
    return vidrec.train(cfg, folder, dataset=features(), **how)


def more(result, epochs, folder, **changes):
    cfg = vidrec.more_epochs(result["dir"], epochs)
    return train(override(cfg, {n.replace("__", "."): v for n, v in changes.items()}), folder)


def same_arrays(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder, a run of 7 epochs, one of 3, and its continuation by 2 and by 2 again."""
    folder = tmp_path_factory.mktemp("continued")
    whole = train(settings(**HOW, train__epochs=7), folder)
    first = train(settings(**HOW, train__epochs=3), folder)
    second = more(first, 2, folder)
    return folder, whole, first, second, more(second, 2, folder)


@pytest.mark.slow
def test_three_epochs_and_twice_two_more_are_seven(runs):
    _, whole, *_, last = runs
    assert last["id"] != whole["id"]
    assert (last["epochs"], last["best_epoch"]) == (7, whole["best_epoch"])
    for name in ("model", "last"):
        ours, theirs = (checkpoint.read(Path(r["dir"]) / name)[0] for r in (last, whole))
        assert same_arrays(ours, theirs), name
    assert last["metrics"] == whole["metrics"]
    lines = files.read_lines(Path(last["dir"]) / "metrics.jsonl")
    theirs = files.read_lines(Path(whole["dir"]) / "metrics.jsonl")[5:]
    assert [line["epoch"] for line in lines] == [6, 7]
    for ours, their in zip(lines, theirs, strict=True):
        assert {**ours, "trial": ""} == {**their, "trial": ""}


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
moment, count = int(sys.argv[1]), 0

def watch(event, arguments):
    global count
    if event == "os.rename" and os.fsdecode(arguments[1]).startswith({folder!r}):
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

from helpers.small_datasets import features
import vidrec
sys.addaudithook(watch)
cfg = vidrec.more_epochs({parent!r}, 4)
vidrec.train(cfg, {folder!r}, dataset=features())
"""


@pytest.mark.slow(minutes=1)
def test_a_continuation_that_is_killed_goes_on(runs, tmp_path):
    """Killed at a rename of one of its files, twice, it ends as the run of all epochs does."""
    _, whole, first, *_ = runs
    folder = tmp_path / "runs"
    script = KILLED.format(tests=str(ROOT / "tests"), folder=str(folder), parent=first["dir"])

    def started(moment):
        words = [sys.executable, "-c", script, str(moment)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    # A run renames some fifteen times; the second kill is where less is left to do.
    for moment in (6, 4):
        assert started(moment).returncode == -signal.SIGKILL
        assert not list(folder.glob("*/result.json"))
    done = started(0)
    assert done.returncode == 0, done.stderr[-2000:]
    [file] = folder.glob("*/result.json")
    assert files.read_result(file.parent)["metrics"] == whole["metrics"]
    for name in ("model", "last"):
        ours, theirs = (checkpoint.read(Path(d) / name)[0] for d in (file.parent, whole["dir"]))
        assert same_arrays(ours, theirs), name
    epochs = [line["epoch"] for line in files.read_lines(file.parent / "metrics.jsonl")]
    assert epochs == [4, 5, 6, 7]


@pytest.mark.slow
def test_a_continued_run_names_its_parent_and_is_a_run_of_its_own(runs):
    folder, whole, first, second, last = runs
    assert len({r["dir"] for r in (whole, first, second, last)}) == 4
    assert second["parent"]["id"] == first["id"]
    assert (last["parent"]["dir"], last["parent"]["epochs"]) == (second["dir"], 5)
    assert "after epoch 5" in (Path(last["dir"]) / "report.html").read_text()
    assert "parent" not in first
    again = more(first, 2, folder)
    assert again == second
    assert json.loads((Path(second["dir"]) / "config.json").read_text())["train"]["epochs"] == 5


def test_a_run_without_a_parent_has_the_id_that_it_had():
    assert "train.continues" not in identifying_settings(settings())


@pytest.mark.slow
def test_where_the_parent_lies_is_no_part_of_the_id(runs, tmp_path):
    _, _, first, *_ = runs
    moved = shutil.copytree(first["dir"], tmp_path / "elsewhere")
    cfgs = [vidrec.more_epochs(place, 2) for place in (first["dir"], moved)]
    assert identifying_settings(cfgs[0]) == identifying_settings(cfgs[1])


@pytest.mark.slow
def test_patience_is_counted_anew_where_it_had_run_out(tmp_path):
    cfg = settings(train__epochs=9, train__patience=1, train__min_delta=50.0)
    first = train(cfg, tmp_path)
    assert "train.patience" in first["why"]
    later = more(first, 6, tmp_path, train__patience=3)
    assert later["epochs"] == first["epochs"] + 3


@pytest.mark.slow
def test_what_cannot_be_continued_is_refused_in_a_line(runs, tmp_path, capsys):
    _, whole, first, *_ = runs
    other = vidrec.more_epochs(first["dir"], 2)
    for changes, told in (
        ({"scanner.units": 5}, "train.continues|last"),
        ({"optim.kind": "adam"}, "last"),
        ({"data.split_seed": 3}, "other clips"),
    ):
        with pytest.raises(UserError, match=told) as refused:
            train(override(other, changes), tmp_path)
        assert "\n" not in str(refused.value)
    copy = shutil.copytree(first["dir"], tmp_path / "without")
    shutil.rmtree(copy / "last")
    with pytest.raises(UserError, match="last/ is missing"):
        vidrec.more_epochs(copy, 2)
    with pytest.raises(UserError, match="no file and no run"):
        vidrec.more_epochs(tmp_path / "nothing", 2)
    assert "there is no run" in fails(capsys, "train", "nothing", "--more-epochs", "2")
    assert "folder of a finished run" in fails(capsys, "train", "--more-epochs", "2")
    line = fails(capsys, "train", whole["dir"], "--more-epochs", "2", "--train.epochs", "9")
    assert "leave --train.epochs out" in line


@pytest.mark.slow
def test_a_run_that_names_code_is_continued_only_where_it_is_trusted(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import optax\ndef make(cfg, hyper):\n    return optax.sgd(hyper['optim.learning_rate'])\n"
    )
    first = train(settings(train__epochs=2, optim__kind=f"{own}:make"), tmp_path / "runs")
    own.write_text("raise RuntimeError('this is not what was trained with')")
    with pytest.raises(UserError, match="--trust-code"):
        vidrec.more_epochs(first["dir"], 2)
    cfg = vidrec.more_epochs(first["dir"], 2, trust_code=True)
    assert train(cfg, tmp_path / "runs")["epochs"] == 4
    assert continuing.parent(cfg)["parent"]["id"] == first["id"]
