"""Several labels a clip: data, loss, figures, answers and pages, beside plain counting."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from helpers import several_labels
from helpers.small_datasets import features, settings

import vidrec
from vidrec import report
from vidrec.config import Config, override
from vidrec.data import datasets, splits
from vidrec.errors import UserError
from vidrec.evaluation import predict, tasks
from vidrec.evaluation.export import export
from vidrec.evaluation.task import LossOptions, ScoredPart
from vidrec.io import files
from vidrec.training import prepare

TASK = tasks.named("multilabel")
CLASSES = several_labels.CLASSES


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    several_labels.write(root)
    return root


def config(root, **more):
    named = {name.replace("__", "."): value for name, value in more.items()}
    return override(Config(), several_labels.SETTINGS | {"data.root": str(root)} | named)


@pytest.fixture(scope="module")
def table(root, tmp_path_factory):
    """A table of two rows and two seeds: a head with one answer a clip, and one a frame."""
    rows = [{"head.kind": "last"}, {"head.kind": "per_frame", "loss.class_weights": "balanced"}]
    ablation = vidrec.Ablation("several", config(root), rows, seeds=2)
    workdir = tmp_path_factory.mktemp("runs")
    vidrec.ablate(ablation, workdir)
    [folder] = workdir.iterdir()
    return folder


def trials(table):
    listed = files.read_json(table / "ablation.json", files.TABLE_HOLDS)["trials"]
    return [table / "trials" / trial["id"] for trial in listed]


# --- Labels ---


def test_a_column_a_class_is_the_same_data_as_labels_with_bars(root, tmp_path):
    labels = several_labels.write(tmp_path / root.name, columns=True)
    a, b = (TASK.load(config(folder)) for folder in (root, tmp_path / root.name))
    assert a.classes == b.classes == CLASSES
    np.testing.assert_array_equal(a.labels, labels)
    assert (a.labels.sum(1) == 0).any(), "some clips have no label"
    assert a.fingerprint() == b.fingerprint()
    assert not b.notes


def test_labels_enter_the_identity(root, tmp_path):
    def id_of(folder):
        cfg = config(folder)
        return prepare.trial_id(cfg, prepare.data_fingerprint(cfg))

    several_labels.write(tmp_path / root.name)
    assert id_of(tmp_path / root.name) == id_of(root)
    file = tmp_path / root.name / "labels.csv"
    text = file.read_text()
    assert text.count("|fall") == 0, "labels are in the order of their columns"
    file.write_text(text.replace("jump|run", "run|jump"))
    assert id_of(tmp_path / root.name) == id_of(root), "their order says nothing"
    line = next(line for line in text.splitlines() if ",jump|run," in line)
    file.write_text(text.replace(line, line.replace("jump|run", "jump")))
    assert id_of(tmp_path / root.name) != id_of(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,group\na.npy,r\n", "no column label, and no column for each class"),
        ("path,Run,jump\na.npy,1,yes\n", r"line 2: jump is 'yes'; .* holds 0 or 1"),
        ("path,Run,jump\na.npy,,1\n", r"line 2: Run is ''"),
        ("path,a|b\na.npy,1\n", r"class cannot be called 'a\|b'"),
    ],
)
def test_what_is_no_label_is_named(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        TASK.load(config(tmp_path))


def test_the_clip_task_reads_as_before_and_refuses_what_is_of_several(root, tmp_path):
    (tmp_path / "labels.csv").write_text("path,run,jump\na.npy,1,0\n")
    cfg = override(config(tmp_path), {"task.kind": "clip"})
    with pytest.raises(UserError, match="has no column label"):
        tasks.of(cfg).load(cfg)
    with pytest.raises(UserError, match="path, label should not be empty"):
        datasets.load(override(config(root), {"task.kind": "clip"}).data)
    with pytest.raises(UserError, match=r"several labels a clip: task\.kind should be multilabel"):
        tasks.named("clip").labelled(TASK.labelled(features()))


def test_one_label_a_clip_is_a_case_of_several_and_classes_can_be_kept(root):
    one = features()
    several = TASK.labelled(one)
    np.testing.assert_array_equal(several.labels, np.eye(3, dtype=int)[one.labels])
    assert several.fingerprint() != one.fingerprint()
    kept = TASK.load(config(root, data__classes=("run", "fall")))
    assert kept.classes == ("fall", "run")
    whole = TASK.load(config(root))
    np.testing.assert_array_equal(kept.labels, whole.labels[:, [0, 2]])


@pytest.mark.parametrize("how", [{}, {"data__split": "random"}, {"data__folds": 4}])
def test_splits_spread_every_class_and_clips_without_any(root, how):
    cfg = config(root, **how)
    dataset = TASK.load(cfg)
    split = splits.make(dataset, cfg.data)
    parts = [split.train, split.val, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(dataset)))
    columns = np.column_stack([dataset.labels, dataset.labels.sum(1) == 0])
    for part in parts:
        share = columns[part].sum(0) / columns.sum(0)
        assert (np.abs(share - len(part) / len(dataset)) < 0.15).all()


# --- Loss ---


@pytest.mark.parametrize("smoothing", [None, 0.2])
@pytest.mark.parametrize("weights", [(), (0.5, 3.0, 1.0)])
@pytest.mark.parametrize("frames", [0, 5])
def test_loss_is_binary_cross_entropy_read_to_oneself(smoothing, weights, frames):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(4, *[frames] * bool(frames), 3)) * 3
    labels = rng.integers(0, 2, (4, 3))
    mask = np.arange(max(frames, 1)) < rng.integers(1, max(frames, 1) + 1, 4)[:, None]
    how = LossOptions("cross_entropy", 1.0, 2, 9, smoothing, weights)
    got = TASK.loss(outputs, labels, mask if frames else None, how)
    s, w = smoothing or 0.0, weights or (1, 1, 1)

    def one(z_K, y_K):
        total = 0.0
        for z, y, weight in zip(z_K, y_K, w, strict=True):
            p, target = 1 / (1 + np.exp(-z)), y * (1 - s) + s / 2
            total -= weight * target * np.log(p) + (1 - target) * np.log(1 - p)
        return total / 3

    for clip in range(4):
        if not frames:
            want = one(outputs[clip], labels[clip])
        else:
            want = sum(
                (2 + t + 1) / 9 * one(outputs[clip, t], labels[clip])
                for t in range(frames)
                if mask[clip, t]
            )
        np.testing.assert_allclose(got[clip], want, rtol=1e-5)


def test_loss_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    outputs, labels = rng.normal(size=(6, 4)), rng.integers(0, 2, (6, 4))
    weights = (0.3, 2.0, 1.0, 7.0)
    got = TASK.loss(outputs, labels, None, LossOptions("cross_entropy", class_weights=weights))
    want = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(outputs), torch.tensor(labels, dtype=float), pos_weight=torch.tensor(weights)
    )
    np.testing.assert_allclose(np.mean(got), want.item(), rtol=1e-6)


def test_balanced_weights_make_both_answers_weigh_alike():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(TASK.balanced_weights(labels, 3), [1 / 3, 3, 1])


# --- Figures ---


def part_of(folder, part):
    arrays = files.read_arrays(folder / "predictions.npz")
    return [arrays[f"{part}_{name}"] for name in ("log_probabilities", "labels")]


@pytest.mark.parametrize("trial", [0, 2])
def test_figures_are_scikit_learns(table, trial):
    from sklearn.metrics import average_precision_score, f1_score, log_loss

    folder = trials(table)[trial]
    result = files.read_result(folder)
    thresholds = np.array(result["fitted"]["thresholds"])
    logs, labels = part_of(folder, "val")
    np.testing.assert_allclose(thresholds, TASK.fit(ScoredPart(logs, logs, labels, CLASSES, {}))
                               ["thresholds"])  # fmt: skip
    for part in ("train", "val", "test"):
        logs, labels = part_of(folder, part)
        figures, given = result["metrics"][part], np.exp(logs) >= thresholds
        want = average_precision_score(labels, logs, average="macro")
        assert figures["map"] == pytest.approx(want, abs=1e-12)
        for k, name in enumerate(CLASSES):
            own = average_precision_score(labels[:, k], logs[:, k])
            assert figures["ap"][name] == pytest.approx(own, abs=1e-12)
            assert figures["f1"][name] == pytest.approx(f1_score(labels[:, k], given[:, k]))
        for average in ("micro", "macro"):
            want = f1_score(labels, given, average=average)
            assert figures[f"{average}_f1"] == pytest.approx(want)
        want = np.mean([log_loss(labels[:, k], np.exp(logs[:, k])) for k in range(3)])
        assert figures["loss"] == pytest.approx(want, rel=1e-6)
        assert figures["exact"] == pytest.approx((given == labels).all(1).mean())
        seen = [[int((labels[:, i] & given[:, j]).sum()) for j in range(3)] for i in range(3)]
        assert figures["co_occurrence"] == seen
        assert figures["chance"] == pytest.approx(labels.mean())


def test_a_class_that_no_clip_has_counts_nowhere():
    logs = np.log([[0.9, 0.2], [0.4, 0.7]])
    part = ScoredPart(logs, logs, np.array([[1, 0], [0, 0]]), ("a", "b"), {})
    figures = TASK.summary(part)
    assert figures["map"] == 1.0
    assert figures["ap"]["b"] is None
    assert figures["absent"] == ["b"]
    assert figures["macro_f1"] == 1.0
    assert figures["micro_f1"] == pytest.approx(2 / 3)
    nothing = TASK.summary(part._replace(labels=np.zeros((2, 2), int)))
    assert nothing["map"] is None
    assert json.dumps(nothing)


# --- Tables and pages ---


def test_the_table_has_the_task_s_columns_and_no_accuracy(table):
    with (table / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "test_accuracy" not in rows[0]
    for row, folder in zip(rows, trials(table), strict=True):
        figures = files.read_result(folder)["metrics"]
        assert float(row["test_map"]) == pytest.approx(figures["test"]["map"], rel=1e-8)
    assert "mean average precision" in (table / "table.md").read_text()


def test_the_interval_is_of_the_figure_and_the_page_shows_co_occurrence(table):
    results = report.read(table)
    for row in results.rows:
        maps = [run.result["metrics"]["test"]["map"] for run in row.runs]
        assert row.interval.mean == pytest.approx(np.mean(maps), abs=1e-12)
        assert row.interval.low < row.interval.mean < row.interval.high
    a, b = results.rows
    assert b.difference.mean == pytest.approx(b.interval.mean - a.interval.mean, abs=1e-12)
    page = (table / "report.html").read_text()
    assert "Co-occurrence" in page
    assert 'id="confusions"' not in page
    assert "average precision of each class" in page
    assert "random order" in page
    curve = [json.loads(line) for line in (trials(table)[0] / "metrics.jsonl").open()]
    assert all(0 <= line["val/map"] <= 1 and "val/accuracy" not in line for line in curve)


def test_two_runs_are_compared_by_their_figures(table, tmp_path):
    a, _, b, _ = trials(table)
    page = report.compare(a, b, tmp_path / "out").read_text()
    assert "test mean average precision" in page
    assert "macro F1" in page
    assert "average precision of each class" in page


# --- Predictions ---


@pytest.mark.parametrize("trial", [0, 2])
def test_predictions_are_the_labels_above_their_thresholds(root, table, trial):
    folder = trials(table)[trial]
    model = vidrec.Classifier.load(folder)
    arrays, result = files.read_arrays(folder / "predictions.npz"), files.read_result(folder)
    thresholds = result["fitted"]["thresholds"]
    lines = list(predict.lines(model, [str(root)]))
    by_name = {line["path"].rpartition("/")[2]: line for line in lines if "start" not in line}
    names = arrays["test_names"].tolist()
    for name, shares in zip(names, arrays["test_probabilities"], strict=True):
        line = by_name[name]
        np.testing.assert_allclose(list(line["probabilities"].values()), shares, atol=2e-5)
        above = {c for c, p, t in zip(CLASSES, shares, thresholds, strict=True) if p >= t}
        assert {each["class"] for each in line["labels"]} == above
        assert set(filter(None, line["class"].split("|"))) == above
        assert predict.as_text(line, TASK).startswith(line["path"])
    out = io.StringIO()
    predict.write_csv(lines, out, TASK)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert list(rows[0]) == ["path", "label", *CLASSES, "error"]
    assert len(rows) == 120


def test_evaluate_gives_the_run_s_figures(table):
    for trial in (0, 2):
        folder = trials(table)[trial]
        wanted = files.read_result(folder)["metrics"]["test"]
        figures = predict.score(folder)["metrics"]["test"]
        assert figures["map"] == pytest.approx(wanted["map"], abs=1e-9)
        assert figures["co_occurrence"] == wanted["co_occurrence"]
        assert figures["objective"] == pytest.approx(wanted["objective"], rel=1e-4)
        assert TASK.line(figures, {"scored": 1, "expected": 1}).startswith("mean average")


@pytest.mark.parametrize("inference", ["single", "average"])
def test_an_export_answers_as_prediction_does(root, table, tmp_path, inference, monkeypatch):
    model = vidrec.Classifier.load(trials(table)[2])
    changes = {"eval.inference": inference, "eval.window": 4, "eval.stride": 2}
    model = model.with_eval(override(model.cfg, changes).eval)
    export(model, tmp_path / "out", platforms=["cpu"])
    monkeypatch.syspath_prepend(str(tmp_path / "out"))
    sys.modules.pop("loader", None)
    import loader

    loaded = loader.load(str(tmp_path / "out"))
    for clip in range(10):
        frames = np.load(root / f"{clip:03d}.npy")
        labels, shares = loaded.predict(frames)
        said = model.predict(frames).as_dict()
        np.testing.assert_allclose(shares, list(said["probabilities"].values()), atol=1e-5)
        assert labels == [each["class"] for each in said["labels"]]
    sys.modules.pop("loader", None)


@pytest.mark.parametrize("trial", [0, 2])
def test_a_stream_ends_with_what_the_clip_says(root, table, trial):
    model = vidrec.Classifier.load(trials(table)[trial])
    cfg = override(model.cfg, {"frames.length": 6, "frames.rule": "segment"})
    network = model.network
    frames = np.random.default_rng(0).normal(size=(1, 6, 5)).astype(np.float32)
    whole = network.score(network.variables, frames)
    want = TASK.log_probabilities(np.asarray(whole.scores_BK), np.asarray(whole.weight_B))[0]
    carry = network.begin(frames[:, 0])
    for frame in frames[0]:
        carry, shares = network.step(network.variables, carry, frame[None])
    np.testing.assert_allclose(np.log(shares), want, atol=1e-5)
    assert cfg.task.kind == "multilabel"


def test_evidence_is_what_means_the_probabilities():
    shares = np.array([0.1, 0.5, 0.999])
    np.testing.assert_allclose(np.exp(TASK.log_probabilities(TASK.evidence(shares)[None])[0]),
                               shares)  # fmt: skip


# --- Settings that do not fit ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.kind": "double_softmax"}, "loss.kind = 'double_softmax' is of one label a clip"),
        ({"head.activation": "relu"}, "head.activation = 'relu'"),
        ({"train.sampling": "balanced"}, "take loss.class_weights = 'balanced'"),
        (
            {"head.kind": "per_frame", "eval.inference": "vote", "eval.window": 4,
             "eval.stride": 2}, "eval.inference = 'vote'"),
        ({"train.monitor": "val_accuracy"}, "should be one of val_loss, val_map"),
    ],
)  # fmt: skip
def test_settings_of_one_label_are_refused_in_a_line(root, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        vidrec.train(override(config(root), changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_of_several_tasks_are_no_table(root, tmp_path):
    rows = [{"task.kind": "clip"}, {"task.kind": "multilabel"}]
    with pytest.raises(UserError, match=r"task\.kind clip and multilabel have no figure in common"):
        vidrec.ablate(vidrec.Ablation("both", config(root), rows), tmp_path)


def test_a_figure_of_another_task_cannot_be_watched():
    with pytest.raises(UserError, match=r"'val_map' should be one of val_loss, val_accuracy"):
        tasks.named("clip").check(settings(train__monitor="val_map"))
