"""A task of one label a clip opens the chosen classes only; the others need not be there."""

from helpers.ucf_features import write_ucf101

import vidrec
from vidrec.data import datasets
from vidrec.evaluation import tasks


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
