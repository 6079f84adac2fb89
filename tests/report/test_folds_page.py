"""The page of a table over folds: words, confusions and figures are of the same answers."""

import json
import re

import numpy as np
import pytest
from helpers import result_folders
from helpers.pages import Page

from vidrec import report
from vidrec.evaluation.predict.choosing import choose
from vidrec.report.classes import by_class
from vidrec.report.listing import listing, unknown_recordings
from vidrec.report.results import read

CLASSES = ("up", "down", "left")
SIZES = {1: 2, 2: 5, 3: 9}  # test clips a class of each fold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds on three unequal folds of clips that name no recording."""
    top = tmp_path_factory.mktemp("runs") / "folds-00000001"
    trials = []
    for seed in (0, 1):
        for fold, size in SIZES.items():
            trial = f"{seed}{fold:07d}"
            place = top / "trials" / trial
            made = {"classes": CLASSES, "samples": 0, "per_class": size, "trial": trial}
            result_folders.run(place, seed=seed, skill=1.2 + fold / 4, row="base", **made)
            result = json.loads((place / "result.json").read_text())
            split = {"id": f"split{fold}", "leaked": "unknown", "recordings_known": False}
            (place / "result.json").write_text(json.dumps(result | {"fold": fold, "split": split}))
            arrays = dict(np.load(place / "predictions.npz"))
            for name in ("names", "groups"):
                own = arrays["test_names"].astype(object)
                arrays[f"test_{name}"] = np.array([f"{each} of {fold}" for each in own])
            np.savez(place / "predictions.npz", **arrays)
            (place / "model").mkdir()
            entry = {"id": trial, "row": 0, "row_name": "base", "seed": seed, "fold": fold}
            trials.append(entry | {"overrides": {}})
    about = {"name": "folds", "folds": "3 parts of the recordings", "trials": trials}
    (top / "ablation.json").write_text(json.dumps(about))
    return top


def counts_of(folder, seed):
    """Confusions of a seed on all folds, by a loop over saved answers."""
    counts_KK = np.zeros((3, 3), int)
    for fold in SIZES:
        arrays = np.load(folder / "trials" / f"{seed}{fold:07d}" / "predictions.npz")
        for label, logits in zip(arrays["test_labels"], arrays["test_logits"], strict=True):
            counts_KK[label, logits.argmax()] += 1
    return counts_KK


def test_f1_words_and_confusions_are_of_all_answers(folder):
    seeds = [counts_of(folder, seed) for seed in (0, 1)]
    [row] = read(folder).rows
    for k, (name, score) in enumerate(by_class(row).items()):
        f1 = [2 * c[k, k] / (c[k].sum() + c[:, k].sum()) for c in seeds]
        assert (name, score) == (CLASSES[k], pytest.approx(np.mean(f1)))
    page = Page(report.build(folder))
    text, counts_KK = page.text, sum(seeds)
    assert "Of base on 32 answers to 16 test clips of a class, 2 seeds on 3 folds." in text
    assert "Confusions of base, 2 seeds on 3 folds: number of answers" in text
    for k, name in enumerate(CLASSES):
        recall = counts_KK[k, k] / 32
        precision = counts_KK[k, k] / counts_KK[:, k].sum()
        assert f"{name} 32 16 {precision:.3f} {recall:.3f}" in text
        cells = " ".join(str(count) for count in counts_KK[k] if count)
        assert f"{name} {cells}" in text
    largest = (counts_KK - np.diag(counts_KK.diagonal())).max()
    assert re.search(rf"Largest confusions.*? {largest} \d+ % ", text)


def test_figures_of_classes_are_of_all_answers_of_a_seed(folder):
    """A mean over folds would be wrong where a fold lacks a class."""
    [row] = read(folder).rows
    f1, recall = [], []
    for seed in (0, 1):
        c = counts_of(folder, seed)
        f1.append(np.mean([2 * c[k, k] / (c[k].sum() + c[:, k].sum()) for k in range(3)]))
        recall.append(np.mean(c.diagonal() / c.sum(1)))
    assert row.mean("test_avg_f1") == pytest.approx(np.mean(f1))
    assert row.mean("test_balanced_accuracy") == pytest.approx(np.mean(recall))
    of_folds = [run.metric("test_avg_f1") for run in row.done]
    assert row.mean("test_avg_f1") != pytest.approx(np.mean(of_folds))
    assert row.mean("val_accuracy") == np.mean([run.metric("val_accuracy") for run in row.done])


def test_files_are_not_called_recordings(folder):
    report.build(folder)
    for text in (Page(folder / "report.html").text, (folder / "table.md").read_text()):
        assert "(3 parts of the files)" in text
        assert (
            "each seed gave 48 answers to clips of 48 files. Figures of training "
            "and validation are means of the folds." in text
        )
        assert "saw no clip of that recording" not in text
        assert "Recordings unknown: this figure" in text
    assert "recordings_known" in (folder / "folds.csv").read_text()


def test_the_list_of_runs_has_the_tables_figure_and_its_caveat(folder):
    [entry] = listing(folder.parent)
    right = np.mean([counts_of(folder, seed).trace() / 48 for seed in (0, 1)])
    results = [json.loads(f.read_text()) for f in folder.glob("trials/*/result.json")]
    of_folds = np.mean([result["metrics"]["test"]["accuracy"] for result in results])
    assert entry.value == pytest.approx(right) == read(folder).rows[0].headline
    assert right != pytest.approx(of_folds)
    assert entry.plain()["recordings_known"] is False
    assert unknown_recordings([entry])[0].startswith("Recordings unknown (folds):")
    assert unknown_recordings([entry._replace(recordings_known=None)]) == []


def test_a_prediction_names_the_fold_of_its_model(folder):
    chosen = choose(folder)
    found = {}
    for trial in json.loads((folder / "ablation.json").read_text())["trials"]:
        result = json.loads((folder / "trials" / trial["id"] / "result.json").read_text())
        found[trial["id"]] = result["metrics"]["val"]["accuracy"], -trial["seed"], trial["fold"]
    accuracy, seed, fold = found[chosen.folder.name]
    assert accuracy == max(each[0] for each in found.values())
    assert (
        f"over 2 seeds on 3 folds); of it seed {-seed}, fold {fold} ({100 * accuracy:.1f} %)"
        in (chosen.reason)
    )
