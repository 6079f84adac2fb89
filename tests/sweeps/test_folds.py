"""Tables over folds: which trials they are, and figures out of fold by a loop over saved scores."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.ucf_features import CLIPS, GROUPS, NAMES, write_ucf101

import vidrec
from vidrec import report
from vidrec.config import Config, override
from vidrec.data import split_text
from vidrec.errors import UserError
from vidrec.evaluation import statistics
from vidrec.report.answers import answers
from vidrec.report.results import RowResult, read, with_interval
from vidrec.report.run import Predictions, Run
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import runner
from vidrec.sweeps.ablation import Ablation
from vidrec.training import prepare

SMALL = {
    "scanner.units": 3,
    "scanner.dense": (),
    "train.epochs": 2,
    "optim.learning_rate": 0.05,
    "data.val": 0.2,
}
ROWS = [{"scanner.kind": "gru"}, {"scanner.kind": "mean"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ucf101(tmp_path_factory.mktemp("features"))


def table(folds, rows=ROWS, seeds=1):
    return Ablation("folds", vidrec.load("ucf101_lstm"), rows, seeds=seeds, folds=folds)


def on(folder, folds, **more):
    return tables.trials(table(folds, **more), {"data.root": str(folder)})


def clips_of(trial):
    split = prepare.prepare(trial.config).split
    return split.test.tolist()


def test_official_folds_are_the_three_lists(folder):
    made = on(folder, "official", seeds=2)
    assert [(t.row, t.seed, t.fold) for t in made] == [
        (row, seed, fold) for row in (0, 1) for seed in (0, 1) for fold in (1, 2, 3)
    ]
    assert {(t.config.data.split, t.config.data.fold) for t in made} == {
        ("given", fold) for fold in (1, 2, 3)
    }
    clips = [clip for trial in made[:3] for clip in clips_of(trial)]
    assert sorted(clips) == list(range(len(NAMES) * GROUPS * CLIPS))


def test_every_recording_is_left_out_once(folder):
    made = on(folder, "recordings", rows=ROWS[:1])
    assert [trial.fold for trial in made] == list(range(1, GROUPS + 1))
    clips = [clip for trial in made for clip in clips_of(trial)]
    assert sorted(clips) == list(range(len(NAMES) * GROUPS * CLIPS))


def test_parts_of_the_recordings(folder):
    made = on(folder, "4", rows=ROWS[:1])
    assert [(t.config.data.folds, t.config.data.fold) for t in made] == [
        (4, f) for f in range(1, 5)
    ]
    clips = [clip for trial in made for clip in clips_of(trial)]
    assert sorted(clips) == list(range(len(NAMES) * GROUPS * CLIPS))


@pytest.mark.parametrize(
    ("folds", "rows", "typed", "line"),
    [
        ("all", ROWS, {}, "should be official"),
        ("1", ROWS, {}, "at least 2"),
        ("official", [{"data.fold": 2}], {}, "rows of the table set data.fold"),
        ("recordings", ROWS, {"data.fold": 2}, "leave out --data.fold"),
        ("3", ROWS, {"data.split": "random"}, "leave out --data.split"),
    ],
)
def test_what_contradicts_folds_is_refused(folder, folds, rows, typed, line):
    with pytest.raises(UserError, match=line):
        tables.trials(table(folds, rows), {"data.root": str(folder), **typed})


@pytest.mark.parametrize(
    ("folds", "groups", "line"),
    [
        ("9", 2, "--folds 9: data.folds = 9, but .* has only 8 recordings: take no more folds"),
        ("2", 2, "--folds 2: class 'Archery' .* has 1 recording left .* too few to split off val"),
    ],
)
def test_folds_that_cannot_be_had_are_one_line_before_anything_trains(
    tmp_path, folds, groups, line
):
    root = write_ucf101(tmp_path / "features")
    for path in root.glob("*/*.npy"):
        if int(path.stem.split("_g")[1][:2]) > groups:
            path.unlink()
    said = []
    screen = runner.Reporter()
    screen.say = said.append
    more = {"data.kind": "features", "data.root": str(root)}
    with pytest.raises(UserError, match=line):
        runner.ablate(table(folds), tmp_path / "runs", overrides=more, screen=screen)
    assert not said
    assert not (tmp_path / "runs").exists()


def test_a_table_whose_rows_can_all_not_be_split_is_one_line_too(tmp_path):
    root = write_ucf101(tmp_path / "features")
    for path in root.glob("Archery/*_g0[3-9]_*.npy"):
        path.unlink()
    rows = [{"data.split_seed": seed} for seed in (0, 1)]
    more = {**SMALL, "data.kind": "features", "data.root": str(root), "data.split": "group"}
    few = Ablation("few", vidrec.load("ucf101_lstm"), rows, seeds=1)
    with pytest.raises(
        UserError, match=r"^class 'Archery' of features has 1 recording left .*, too few"
    ):
        runner.ablate(few, tmp_path / "runs", overrides=more)
    assert not (tmp_path / "runs").exists()


def test_a_row_that_cannot_be_split_leaves_the_others_to_train(tmp_path):
    root = write_ucf101(tmp_path / "features")
    more = {**SMALL, "data.kind": "features", "data.root": str(root), "data.split": "group"}
    base = override(vidrec.load("ucf101_lstm"), more)
    rows = [{"data.folds": folds, "data.fold": 1} for folds in (4, 400)]
    made = runner.ablate(Ablation("some", base, rows, seeds=1), tmp_path / "runs")
    assert [trial["status"] for trial in made.trials] == ["done", "failed"]


def test_other_data_have_no_official_lists():
    with pytest.raises(UserError, match="UCF-101 has three lists"):
        tables.trials(Ablation("t", Config(), ROWS, folds="official"))


@pytest.fixture(scope="module")
def filled(folder, tmp_path_factory):
    base = override(vidrec.load("ucf101_lstm"), SMALL)
    return runner.ablate(
        Ablation("folds", base, ROWS, seeds=2, folds="official"),
        tmp_path_factory.mktemp("runs"),
        overrides={"data.root": str(folder)},
    )


def saved(filled, row):
    """(seed, fold) to (names, groups, right) of a row, from the trials' own files."""
    found = {}
    for trial in filled.trials:
        if trial["row"] == row:
            arrays = np.load(filled.folder / "trials" / trial["id"] / "predictions.npz")
            right = arrays["test_logits"].argmax(1) == arrays["test_labels"]
            found[trial["seed"], trial["fold"]] = arrays["test_names"], arrays["test_groups"], right
    return found


def by_hand(filled, row):
    """Answers (S, n) of a row in the order of names, and the recordings."""
    lines, recordings = [], []
    for seed in (0, 1):
        of_name = {}
        for (other, _), (names, groups, right) in saved(filled, row).items():
            if other == seed:
                of_name |= {
                    name: (group, ok) for name, group, ok in zip(names, groups, right, strict=True)
                }
        lines.append([of_name[name][1] for name in sorted(of_name)])
        recordings = [of_name[name][0] for name in sorted(of_name)]
    return np.array(lines), np.array(recordings)


def test_figures_out_of_fold_by_a_loop(filled):
    results = read(filled.folder)
    right, recordings = by_hand(filled, 0)
    other, _ = by_hand(filled, 1)
    assert right.shape == (2, len(NAMES) * GROUPS * CLIPS)
    gru, mean = results.rows
    expected = statistics.accuracy_interval(right, recordings)
    assert gru.interval == expected
    assert gru.mean("test_accuracy") == pytest.approx(right.mean())
    gap = statistics.paired(other, right, recordings)
    assert mean.difference.mean == pytest.approx(gap.mean)
    assert (mean.difference.low, mean.difference.high) == pytest.approx((gap.low, gap.high))
    scored = gru.out_of_fold
    assert (scored.folds, scored.answers, scored.untested) == (3, right.shape[1], 0)
    assert scored.recordings == len(NAMES) * GROUPS
    accuracies = {
        fold: np.mean(
            [answer.mean() for (_, f), (*_, answer) in saved(filled, 0).items() if f == fold]
        )
        for fold in (1, 2, 3)
    }
    assert scored.means == pytest.approx(accuracies)
    assert scored.mean == pytest.approx(np.mean(list(accuracies.values())))
    assert gru.seeds == 2


def test_csv_json_page_and_terminal_show_it(filled, tmp_path):
    lines = report.folds(filled.folder)
    with open(filled.folder / "folds.csv", newline="") as file:
        written = list(csv.DictReader(file))
    right, _ = by_hand(filled, 0)
    assert float(written[0]["accuracy"]) == pytest.approx(right.mean())
    assert [float(line["mean_of_folds"]) for line in written] == pytest.approx(
        [line["mean_of_folds"] for line in lines]
    )
    assert lines == filled.folds
    with open(filled.folder / "table.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert [trial["data.fold"] for trial in trials] == ["1", "2", "3"] * 4
    page = (filled.folder / "report.html").read_text()
    markdown = (filled.folder / "table.md").read_text()
    shown = f"{100 * right.mean():.1f}\u00a0%"
    for text in (page, markdown):
        assert "accuracy out of fold" in text
        assert "mean of folds" in text
        assert shown in text
        assert "the 3 official lists" in text
    assert "fold 3" in page
    assert "different splits" not in page  # they are one figure
    assert json.loads((filled.folder / "ablation.json").read_text())["folds"]


def made_up(fold: int, seed: int, names: list[str], right: list[bool]) -> Run:
    """A run whose test clips are of class 0, answered right or wrong."""
    logits = np.array([[1.0, 0.0] if ok else [0.0, 1.0] for ok in right])
    groups = np.array([name.partition("_")[0] for name in names])
    scores = Predictions(logits, np.zeros(len(names), int), np.array(names), groups, None)
    result = {"seed": seed, "fold": fold, "metrics": {"test": {}}}
    return Run(None, result, _read={"test": scores})


def test_the_most_frequent_class_is_that_of_all_folds():
    """In each fold another class has two of three clips; together both have half."""
    runs = []
    for fold, labels in ((1, [0, 0, 1]), (2, [1, 1, 0])):
        names = np.array([f"g{fold}_{i}" for i in range(3)])
        groups = np.full(3, f"g{fold}")
        scores = Predictions(np.eye(2)[[0, 1, 0]], np.array(labels), names, groups, None)
        figures = {"accuracy": 0.5, "majority": 2 / 3}
        result = {"seed": 0, "fold": fold, "status": "done", "metrics": {"test": figures}}
        runs.append(Run(None, result, _read={"test": scores}))
    planned = tuple({"overrides": {}} for _ in runs)
    row = RowResult(0, "a row", planned, tuple(runs), {}, ())
    assert with_interval(row).baseline == 0.5
    without = replace(row, runs=(replace(runs[0], result={**runs[0].result, "fold": 0}),))
    assert with_interval(without).baseline == pytest.approx(2 / 3)


def test_a_clip_of_two_folds_is_answered_by_each():
    runs = [
        made_up(1, 0, ["g1_a", "g2_a"], [True, False]),
        made_up(2, 0, ["g2_a", "g3_a"], [True, True]),
        made_up(1, 1, ["g1_a", "g2_a"], [False, False]),
        made_up(2, 1, ["g2_a", "g3_a"], [True, False]),
    ]
    said = answers(runs)
    assert said.names.tolist() == ["g1_a", "g2_a (fold 1)", "g2_a (fold 2)", "g3_a"]
    assert said.groups.tolist() == ["g1", "g2", "g2", "g3"]
    assert said.correct_Sn.tolist() == [[True, False, True, True], [False, False, True, False]]


def test_a_warning_that_all_folds_share_is_printed_once(tmp_path):
    said = []
    screen = runner.Reporter()
    screen.say = said.append
    work = runner.Work(tmp_path, screen)
    for fold in (1, 2, 3):
        work._tell(f"split fold {fold} of 3 by files")
        work._tell(split_text.unnamed("clips"))
        work._tell("fits principal components")  # announces work: each time
    assert said.count(split_text.unnamed("clips")) == 1
    assert len(said) == 3 + 1 + 3
