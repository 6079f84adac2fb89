"""Tables: products, zipped axes, seeds, exclusions, and the rule of --on motion."""

import pytest

import vidrec
from vidrec.config import Config, override
from vidrec.errors import UserError
from vidrec.sweeps import ablation as tables
from vidrec.sweeps.ablation import Ablation, Row, product, zipped
from vidrec.training import prepare


def table(**changes):
    rows = [Row(each) for each in product({"scanner.kind": ["lstm", "gru"]})]
    return Ablation("table", Config(), rows, **changes)


def test_product_varies_the_last_axis_fastest():
    assert product({"scanner.units": [1, 2], "seed": [3, 4]}) == [
        {"scanner.units": 1, "seed": 3},
        {"scanner.units": 1, "seed": 4},
        {"scanner.units": 2, "seed": 3},
        {"scanner.units": 2, "seed": 4},
    ]


def test_zipped_takes_axes_side_by_side():
    assert zipped({"scanner.units": [1, 2], "seed": [3, 4]}) == [
        {"scanner.units": 1, "seed": 3},
        {"scanner.units": 2, "seed": 4},
    ]
    with pytest.raises(UserError, match="equally many"):
        zipped({"scanner.units": [1, 2], "seed": [3]})


def test_seeds_are_innermost():
    made = tables.trials(table(seeds=2))
    assert [(each.row, each.seed, each.config.scanner.kind) for each in made] == [
        (0, 0, "lstm"),
        (0, 1, "lstm"),
        (1, 0, "gru"),
        (1, 1, "gru"),
    ]
    assert all(each.config.seed == each.seed for each in made)


def test_a_row_wins_over_the_command_line():
    made = tables.trials(table(), {"scanner.kind": "mean", "scanner.units": 7})
    assert [each.config.scanner.kind for each in made] == ["lstm", "gru"]
    assert {each.config.scanner.units for each in made} == {7}


def test_axes_of_the_command_line_multiply_and_exclusions_remove():
    crossed = tables.cross(table(), {"scanner.units": [4, 8]})
    kept = tables.exclude(crossed, [{"scanner.kind": "gru", "scanner.units": 8}])
    assert [dict(row.overrides) for row in tables.rows(kept)] == [
        {"scanner.kind": "lstm", "scanner.units": 4},
        {"scanner.kind": "lstm", "scanner.units": 8},
        {"scanner.kind": "gru", "scanner.units": 4},
    ]
    with pytest.raises(UserError, match="no row"):
        tables.exclude(table(), [{}])


def test_joined_tables_keep_their_own_base():
    wide = Ablation("wide", override(Config(), {"scanner.units": 99}), [Row({"seed": 0})])
    made = tables.trials(tables.join([table(), wide]))
    assert [each.config.scanner.units for each in made] == [64, 64, 99]
    assert [each.row for each in made] == [0, 1, 2]


def test_on_motion_changes_what_its_rule_says_and_nothing_else():
    published = override(
        Config(),
        {
            "data.kind": "ucf101",
            "encoder.kind": "vgg16",
            "encoder.pooling": "average",
            "frames.length": 120,
            "scanner.units": 512,
            "scanner.dense": (512, 2),
            "head.kind": "per_frame",
            "train.tbptt_every": 30,
            "train.epochs": 25,
            "train.batch_size": 128,
            "optim.learning_rate": 3e-4,
        },
    )
    [trial] = tables.trials(Ablation("a", published, [Row({})]), on="motion")
    moved = trial.config
    assert (moved.data.kind, moved.data.tfds, moved.encoder.kind) == ("tfds", "motion", "cnn")
    assert (moved.scanner.units, moved.train.epochs, moved.train.batch_size) == (128, 10, 50)
    assert (moved.scanner.dense, moved.scanner.forget_bias) == ((128, 1), None)
    assert (moved.frames.length, moved.train.tbptt_every) == (120, 30)
    assert (moved.optim, moved.head, moved.loss, moved.eval) == (
        published.optim,
        published.head,
        published.loss,
        published.eval,
    )
    memory = Ablation("a", published, [Row({})], on_memory=True)
    [trial] = tables.trials(memory, on="motion")
    remembering = trial.config
    assert remembering.data.tfds == "motion/memory/clips=1500"
    assert (remembering.train.batch_size, remembering.scanner.forget_bias) == (16, 5.0)
    rest = {"train.batch_size": 50, "scanner.forget_bias": None, "encoder.size": 64}
    rest["data.tfds"] = "motion"
    assert override(remembering, rest) == moved


def test_on_motion_rows_keep_their_proportions_to_the_base():
    def moved(name, table):
        made = tables.trials(vidrec.load(table), on="motion")
        return [trial.overrides[name] for trial in made]

    assert moved("train.epochs", "epochs") == [10, 20, 40]  # 25, 50 and 100
    assert moved("train.batch_size", "batch_size") == [12, 25, 50, 100]  # 32 to 256, at 128


def test_maps_on_motion_are_as_large_as_the_published_ones_and_narrower():
    made = tables.trials(vidrec.load("units_torch"), on="motion")
    *_, trial = (each for each in made if each.config.encoder.pooling == "map")
    assert prepare.feature_shape(trial.config) == (8, 8, 32)  # the report's are 7 x 7 x 512
    assert trial.overrides["scanner.units"] == 512 // 16


def test_overrides_shown_are_those_after_the_rule():
    units = Ablation("a", Config(), [Row({"scanner.units": 200})])
    assert tables.trials(units, on="motion")[0].overrides == {"scanner.units": 50}


def test_files_are_found_by_path_and_by_bare_name(tmp_path):
    by_name = vidrec.load("scanners")
    assert by_name == vidrec.load("ablations/scanners.py")
    file = tmp_path / "mine.py"
    file.write_text("from vidrec import Config\ndef config():\n    return Config(seed=5)\n")
    assert vidrec.load(file).seed == 5
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match="should define config"):
        vidrec.load(file)
    file.write_text("def config():\n    return 3\n")
    with pytest.raises(UserError, match="should return a Config"):
        vidrec.load(file)
    with pytest.raises(UserError, match=r"did you mean 'ablations/scanners\.py'"):
        vidrec.load("ablations/scaners.py")


def test_the_control_stays_what_it_was_when_rows_come_and_go():
    rows = [Row({"scanner.units": n}, {"test_accuracy": n / 9}, name=f"{n}") for n in (1, 2, 3)]
    made = Ablation("table", Config(), rows, control=1)
    crossed = tables.cross(made, {"data.fold": [4, 5]})
    assert crossed.rows[crossed.control].overrides == {"scanner.units": 2, "data.fold": 4}
    assert [row.published for row in crossed.rows[2:4]] == [{"test_accuracy": 2 / 9}] * 2
    # A row at other units than the published ones is no published row.
    moved = tables.cross(made, {"scanner.units": [2, 7]})
    assert [row.overrides["scanner.units"] for row in moved.rows] == [2, 7]
    assert [row.published for row in moved.rows] == [{"test_accuracy": 2 / 9}, None]
    assert moved.rows[moved.control].overrides == {"scanner.units": 2}
    fewer = tables.exclude(made, [{"scanner.units": 1}])
    assert fewer.rows[fewer.control].overrides == {"scanner.units": 2}
    assert tables.exclude(made, [{"scanner.units": 2}]).control == 0


def test_what_to_read_and_what_was_published_are_columns():
    with pytest.raises(UserError, match="no column 'test_acuracy'; did you mean 'test_accuracy'"):
        Ablation("typo", Config(), [{}], read=("test_acuracy",))
    with pytest.raises(UserError, match="no column 'test_top1'"):
        Ablation("typo", Config(), [Row({}, published={"test_top1": 0.5})])
    Ablation("class", Config(), [Row({}, published={"test_f1_Diving": 0.5})], read=("params",))


def test_the_mistake_in_a_file_of_ones_own_is_told(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import vidrec\nvidrec.Foo\n")
    with pytest.raises(UserError, match=r"cannot be imported \(AttributeError: .*'Foo'"):
        tables.load(file)
    file.write_text("made = 1\n")
    with pytest.raises(UserError, match="should define config"):
        tables.load(file)


@pytest.mark.parametrize(
    "body", ["return 1 / 0", "raise SystemExit(3)", "raise ValueError('a\\nb')"]
)
def test_a_file_whose_function_fails_is_named(body, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"def config():\n    {body}\n")
    with pytest.raises(UserError, match=r"config\(\) of .*mine\.py fails \(") as error:
        vidrec.load(file)
    assert "\n" not in str(error.value)


def test_what_a_row_clears_stands_in_the_table():
    base = override(
        Config(), {"head.kind": "per_frame", "train.tbptt_every": 30, "optim.warmup_epochs": 9}
    )
    rows = [{"head.kind": "per_frame"}, {"head.kind": "last", "train.epochs": 5}]
    first, last = tables.trials(Ablation("t", base, rows))
    assert first.overrides == {"head.kind": "per_frame"}
    assert last.overrides == {**rows[1], "train.tbptt_every": 0, "optim.warmup_epochs": 0}
    # What the command line clears is of all rows alike, and a row's own setting is not cleared.
    with pytest.raises(UserError, match=r"needs head\.kind"):
        tables.trials(Ablation("t", base, [{"train.tbptt_every": 20}]), {"head.kind": "last"})


def test_rows_over_encoders_leave_the_rest_to_vidrec_and_the_command_line_decides(
    monkeypatch, tmp_path
):
    for name in ("VIDREC_CACHE", "HOME", "KERAS_HOME", "TORCH_HOME"):  # no weights at hand
        monkeypatch.setenv(name, str(tmp_path))
    base = override(Config(), {"encoder.weights": "random", "encoder.size": 48})
    rows = [Row({"encoder.kind": kind}) for kind in ("cnn", "squeezenet")]
    kinds = Ablation("kinds", base, rows)
    plain = tables.concrete(tables.trials(kinds), at_hand=False)
    assert [each.config.encoder.size for each in plain] == [48, 224]
    assert [each.config.encoder.weights for each in plain] == ["random", "auto"]
    assert [each.config.encoder.normalize for each in plain] == ["unit", "caffe"]
    assert [dict(each.overrides) for each in plain] == [dict(row.overrides) for row in rows]
    typed = {"encoder.size": 32, "encoder.weights": "random"}
    given = tables.concrete(tables.trials(kinds, typed))
    assert [each.config.encoder.size for each in given] == [32, 32]
    assert [each.config.encoder.weights for each in given] == ["random", "random"]
    sizes = Ablation("sizes", base, [Row({"encoder.size": 0}), Row({"encoder.size": 32})])
    shown = [dict(each.overrides) for each in tables.concrete(tables.trials(sizes))]
    assert shown == [{"encoder.size": 64}, {"encoder.size": 32}]
