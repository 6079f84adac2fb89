"""Tasks are modules of one folder: what each must say, and that a new one is one file."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.small_datasets import settings
from helpers.ucf_features import write_ucf101

import vidrec
from vidrec.config.schema import TASKS
from vidrec.data import datasets
from vidrec.errors import UserError
from vidrec.evaluation import tasks
from vidrec.evaluation.task import Task

PACKAGE = Path(vidrec.__file__).parent
PAGE = PACKAGE.parent / "docs" / "how-to" / "extending.md"
SCRIPT = """
import vidrec
from vidrec import report
from vidrec.config import Config

settings = {
    "data.kind": "features", "data.root": "clips", "encoder.kind": "none", "frames.length": 4,
    "scanner.units": 3, "train.epochs": 3, "task.kind": "toptwo", "train.monitor": "val_top2",
}
base = vidrec.override(Config(), settings)
rows = [{"scanner.kind": "mean"}, {"scanner.kind": "gru"}]
vidrec.ablate(vidrec.Ablation("new", base, rows, seeds=2, read=("test_top2",)), "runs")
"""


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_names_its_figures_among_its_columns(kind):
    task = tasks.named(kind)
    assert isinstance(task, Task)
    assert task.kind == kind
    assert {task.headline.test, task.headline.val, task.headline.train} <= set(task.columns)
    shown = {each.column for each in (*task.shown, *task.compared, task.brief)}
    assert shown <= set(task.columns)
    assert len(set(task.columns)) == len(task.columns)
    assert task.headline.figure in task.epoch_figures
    assert set(task.sections) <= {
        "classes",
        "confusions",
        "matrices",
        "timelines",
        "clips",
        "steps",
    }
    assert set(task.columns) <= set(tasks.columns())


def test_an_unknown_task_is_refused_where_it_is_set_and_where_it_is_read():
    with pytest.raises(UserError, match=r"task\.kind = 'clipp' .*did you mean 'clip'"):
        settings(task__kind="clipp")
    with pytest.raises(UserError, match=r"task\.kind = 'newer' should be one of clip"):
        tasks.of_settings({"task": {"kind": "newer"}})
    assert tasks.of_settings({}).kind == "clip", "runs of earlier versions"


@pytest.mark.slow  # a minute
def test_a_new_task_is_one_file(tmp_path):
    """The file that docs/how-to/extending.md prints, put into a copy of the package."""
    [(name, text)] = re.findall(
        r"```python\n# (\w+\.py), in vidrec/evaluation/tasks/\n(.*?)```",
        PAGE.read_text(),
        re.DOTALL,
    )
    shutil.copytree(PACKAGE, tmp_path / "vidrec", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vidrec" / "evaluation" / "tasks" / name).write_text(text)
    rng = np.random.default_rng(0)
    for number in range(48):
        folder = tmp_path / "clips" / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        clip = rng.normal(size=(5, 3)).astype(np.float32) + number % 4
        np.save(folder / f"v_x_g{number // 8:02d}_c{number % 8:02d}.npy", clip)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "VIDREC_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [folder] = (tmp_path / "runs").iterdir()
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["test_top2"]) <= 1 for row in rows)
    page = (folder / "report.html").read_text()
    assert "test top-2 accuracy" in page
    assert "best validation top-2" not in page


def test_classes_that_are_not_chosen_need_not_be_there(tmp_path, monkeypatch):
    folder = write_ucf101(tmp_path)
    classes = tuple(sorted(each.name for each in folder.iterdir() if each.name[0].isupper())[:2])
    cfg = vidrec.override(
        vidrec.load("ucf101_lstm"),
        {"data.root": str(folder), "data.classes": classes, "encoder.kind": "none"},
    )
    loaded = tasks.of(cfg).load(cfg)
    assert loaded.classes == classes
    # The reader is told which they are: it refuses a folder that lacks others of the set.
    seen, read = [], datasets.load
    monkeypatch.setattr(
        datasets, "load", lambda data, *form: seen.append(data.classes) or read(data)
    )
    tasks.of(cfg).load(cfg)
    assert seen == [classes]
