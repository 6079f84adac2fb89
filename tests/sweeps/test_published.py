"""Every published setting is a row, first and in published order, and says what was printed."""

import json
import os
from pathlib import Path

import pytest

import vidrec
from vidrec.config import get, override
from vidrec.sweeps.ablation import rows, trials
from vidrec.training.prepare import count_params

ROOT = Path(__file__).parents[2]
ABLATIONS = sorted(path.stem for path in (ROOT / "ablations").glob("*.py"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
# Published rows, then ours.
COUNTS = {
    "units_keras": (12, 0),
    "units_torch": (16, 8),
    "pixels": (3, 4),
    "c3d_rate": (8, 3),
    "linear_layers": (3, 0),
    "layers": (3, 0),
    "weight_decay": (2, 0),
    "batch_norm": (2, 0),
    "optimizer": (3, 0),
    "learning_rate": (5, 0),
    "epochs": (3, 0),
    "clipping": (4, 2),
    "sequence_length": (5, 2),
    "dropout": (5, 1),
    "loss_weights": (2, 0),
    "truncation": (4, 1),
    "inference": (2, 1),
    "batch_size": (0, 4),
    "final": (1, 1),
    "transfer": (6, 0),
    "baselines": (0, 20),
    "scanners": (0, 3),
    "order": (0, 4),
    "memory": (0, 10),
    "leakage": (0, 2),
    "several_scanners": (0, 6),
    "augmentation": (0, 6),
    "fine_tuning": (0, 4),
    "class_weights": (0, 4),
    "segment_scanners": (0, 6),
    "folds_ucf101": (0, 3),
    "folds_ucf11": (0, 25),
}
# Tables of three seeds a row.
OURS = (
    *("baselines", "scanners", "order", "memory", "leakage", "several_scanners"),
    *("augmentation", "fine_tuning", "class_weights", "segment_scanners"),
)
# Report D's words for a setting, its values where ours are other words, and its file.
SETTINGS = {
    "layers": "scanner.layers",
    "weight_decay": "optim.weight_decay",
    "batch_norm": "scanner.batch_norm",
    "optimizer": "optim.kind",
    "learning_rate": "optim.learning_rate",
    "epochs": "train.epochs",
    "clip_norm": "optim.clip_norm",
    "sequence_length": "frames.length",
    "dropout": "scanner.dropout",
    "loss_weights": "loss.frame_weights",
    "truncation": "train.tbptt_every",
    "inference": "eval.inference",
}
# What the reports call a value, and what it is called here.
WORDS = {
    "momentum_sgd": "momentum",
    "scaled": "linear",
    "sum": "uniform",
    "clips": "average",
}
FILES = {"clip_norm": "clipping"}
FIGURES = {
    "top1": "test_accuracy",
    "top5": "test_top5",
    "top10": "test_top10",
    "train_accuracy": "train_accuracy",
    "batch_loss": "train_loss",
}


def load(name):
    return vidrec.load(ROOT / "ablations" / f"{name}.py")


def published(name):
    return [row for row in rows(load(name)) if row.published is not None]


@pytest.mark.parametrize(
    "name", ["units_keras", pytest.param("units_torch", marks=pytest.mark.slow)]
)
def test_published_parameter_counts(name):
    for trial in trials(load(name)):
        if trial.published:
            assert count_params(trial.config) == trial.published["params"]


@pytest.fixture(scope="module")
def reports():
    folder = os.environ.get("VIDREC_TEST_DATA", "")
    file = Path(folder).parent / "published.json"
    if not folder or not file.is_file():
        pytest.skip("no published.json beside the folder that VIDREC_TEST_DATA names")
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_lab_note_and_a_config(name):
    path = ROOT / "experiments" / f"{name}.py"
    assert isinstance(vidrec.load(path), vidrec.Config)
    note = path.read_text().split('"""')[1]
    assert f"experiments/{name}.py" in note, "the note gives its command"


def test_every_table_is_counted():
    assert set(ABLATIONS) == set(COUNTS)


@pytest.mark.parametrize("name", ABLATIONS)
def test_published_rows_come_first(name):
    table = load(name)
    assert table.name == name
    assert 0 <= table.control < len(rows(table))
    given = [row.published is not None for row in rows(table)]
    assert given == [True] * COUNTS[name][0] + [False] * COUNTS[name][1]
    assert table.seeds == (3 if name in OURS else 1)


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("on", ["", "motion"])
def test_rows_are_different_valid_trials(name, on):
    made = [trial for trial in trials(load(name), on=on) if trial.seed == 0]
    assert len(made) == sum(COUNTS[name])
    if not on:
        assert len({str(trial.config) for trial in made}) == len(made)


# The others are compared with another network, a model blind to order, the first group, and the
# loss without weights.
@pytest.mark.parametrize(
    "name",
    sorted(
        set(COUNTS)
        - {"c3d_rate", "scanners", "several_scanners", "segment_scanners", "folds_ucf11"}
        - {"class_weights"}
    ),
)
def test_the_control_is_the_experiment_itself(name):
    table = load(name)
    base = table.base if isinstance(table.base, vidrec.Config) else vidrec.load(table.base)
    assert override(base, rows(table)[table.control].overrides) == base


def test_report_a(reports):
    report = reports["000"]
    kinds = {"LSTM": ("lstm", 1), "GRU": ("gru", 1), "Deep LSTM": ("lstm", 2)}
    columns = {
        "accuracy": "test_accuracy",
        "train_time_s": "seconds_train",
        "params": "params",
        "epochs": "epochs",
        "avg_f1": "test_avg_f1",
    } | {f"f1_{name}": f"test_f1_{name}" for name in report["classes"]}
    for row, printed in zip(published("units_keras"), report["rows"], strict=True):
        printed = dict(zip(report["columns"], printed, strict=True))
        kind, layers = kinds[printed.pop("model")]
        settings = {
            "scanner.kind": kind,
            "scanner.layers": layers,
            "scanner.units": printed.pop("units"),
        }
        assert dict(row.overrides) == settings
        assert dict(row.published) == {columns[name]: value for name, value in printed.items()}
        assert set(row.doubtful) == {c for c in row.published if c.startswith("test_")}
    base, settings = vidrec.load(ROOT / "experiments/ucf101_four_classes.py"), report["settings"]
    assert base.data.classes == tuple(report["classes"])
    assert base.optim.kind == settings["optimizer"]
    assert base.optim.learning_rate == settings["learning_rate"]
    for name in ("batch_size", "epochs", "patience", "min_delta"):
        assert getattr(base.train, name) == settings[name]


def test_report_b(reports):
    kinds = {
        "LSTM": ("lstm", 1),
        "GRU": ("gru", 1),
        "Deep LSTM": ("lstm", 2),
        "ConvLSTM": ("convlstm", 1),
    }
    for row, printed in zip(published("units_torch"), reports["001"]["rows"], strict=True):
        model, units, params, seconds, accuracy, f1 = printed
        assert (row.overrides["scanner.kind"], row.overrides["scanner.layers"]) == kinds[model]
        assert row.overrides["scanner.units"] == units
        assert dict(row.published) == {
            "params": params,
            "seconds_train": seconds,
            "test_accuracy": accuracy,
            "test_avg_f1": f1,
        }


def test_report_c(reports):
    report = reports["002"]
    assert [row.name for row in published("pixels")] == [name for name, _ in report["rows"]]
    base, settings = vidrec.load(ROOT / "experiments/ucf11_pixels.py"), report["settings"]
    assert base.optim.kind == settings["optimizer"]
    assert base.optim.learning_rate == settings["learning_rate"]
    assert base.train.target == settings["stop_at_validation_accuracy"]
    assert base.data.val == settings["validation_clips"]
    for name in ("batch_size", "batches_per_epoch", "epochs"):
        assert getattr(base.train, name) == settings[name]


def test_report_d(reports):
    report = reports["003"]
    marked = {
        (d["ablation"], FIGURES[d["column"]], v) for d in report["doubtful"] for v in d["values"]
    }
    for table in report["tables"]:
        name = table["ablation"]
        if name == "final":
            continue
        found = published(FILES.get(name, name))
        for index, (row, value) in enumerate(zip(found, table["values"], strict=True)):
            assert dict(row.overrides) == {SETTINGS[name]: WORDS.get(value, value)}
            figures = {
                ours: table[theirs][index]
                for theirs, ours in FIGURES.items()
                if theirs in table and table[theirs][index] is not None
            }
            assert dict(row.published) == figures
            assert set(row.doubtful) == {c for n, c, v in marked if (n, v) == (name, value)}


def test_report_d_final(reports):
    table = reports["003"]["tables"][-1]
    (row,) = published("final")
    settings = {SETTINGS[n]: WORDS.get(v, v) for n, v in table["overrides"].items()}
    assert dict(row.overrides) == settings
    assert dict(row.published) == {FIGURES[n]: table[n][0] for n in ("top1", "top5", "top10")}


def test_report_d_baseline(reports):
    baseline = dict(reports["003"]["baseline"])
    base = vidrec.load(ROOT / "experiments/ucf101_lstm.py")
    assert base.optim.clip_norm == baseline.pop("clip_norm")
    printed = {FIGURES[name]: baseline.pop(name) for name in FIGURES}
    for name, value in baseline.items():
        assert get(base, SETTINGS[name]) == WORDS.get(value, value)
    noted = vidrec.config.load_user(f"{ROOT / 'experiments/ucf101_lstm.py'}:PUBLISHED")
    changes = {name: list(pair) for name, pair in noted["class_changes"].items()}
    assert changes == reports["003"]["class_changes"]
    assert {name: noted[name] for name in printed} == printed


def test_report_e(reports):
    report = reports["004"]
    columns = report["columns"][1:-1]
    for row, (name, *figures, minutes) in zip(published("transfer"), report["rows"], strict=True):
        assert row.name == name
        want = dict(zip(columns, figures, strict=True)) | {"seconds_train": 60 * minutes}
        assert dict(row.published) == want
    base, settings = vidrec.load(ROOT / "experiments/transfer_vgg16.py"), report["settings"]
    assert base.optim.kind == settings["optimizer"]
    assert base.encoder.size == settings["image"][0]
    for name in ("batch_size", "epochs", "patience"):
        assert getattr(base.train, name) == settings[name]
