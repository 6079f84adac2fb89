"""Settings: names, types and ranges are checked, and a mistake gets one line."""

import dataclasses
import json

import pytest

from vidrec import config
from vidrec.config import Config, checking, override, parse
from vidrec.errors import UserError
from vidrec.io import files, machine


def test_override_changes_only_what_it_names():
    changed = override(Config(), {"scanner.kind": "gru", "seed": 3, "scanner.dense": [8, 4]})
    assert (changed.scanner.kind, changed.seed, changed.scanner.dense) == ("gru", 3, (8, 4))
    back = {"scanner.kind": "lstm", "seed": 0, "scanner.dense": ()}
    assert override(changed, back) == Config()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"scaner.kind": "gru"}, "did you mean 'scanner.kind'"),
        ({"units": 3}, "did you mean 'scanner.units'"),
        ({"zzz.qqq": 3}, "unknown setting 'zzz.qqq'"),
        ({"scanner.kind": "gruu"}, "did you mean 'gru'"),
        ({"frames.rule": "segmnt"}, "did you mean 'segment'"),
        ({"scanner.units": 0}, "should be at least 1"),
        ({"scanner.units": 1.5}, "should be a whole number"),
        ({"scanner.units": True}, "should be a whole number"),
        ({"scanner.dropout": 1.5}, "should be between 0 and 1"),
        ({"optim.learning_rate": float("nan")}, "should be"),
        ({"optim.learning_rate": "fast"}, "should be a number"),
        ({"data.classes": "Diving"}, "should be a list"),
        ({"data.strict": "yes"}, "should be True or False"),
        ({"data.kind": "videos", "data.tfds": "motion"}, "needs data.kind = 'tfds'"),
        ({"train.tbptt_every": 5}, "needs head.kind = 'per_frame'"),
        ({"head.kind": "per_frame", "train.tbptt_every": 5, "train.tbptt_length": 3}, "at least"),
        ({"train.tbptt_length": 3}, "needs train.tbptt_every"),
        ({"eval.inference": "vote"}, "needs head.kind = 'per_frame'"),
        ({"data.fold": 6, "data.folds": 5}, "at most data.folds"),
    ],
)
def test_a_mistake_gets_one_line(overrides, words):
    with pytest.raises(UserError) as caught:
        override(Config(), overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), checking.RENAMED.items())
def test_an_old_name_of_a_setting_is_refused_with_the_new_one(old, new):
    known = {name for name, _, _ in config.fields()}
    assert old not in known
    assert new in known
    with pytest.raises(UserError, match=rf"^'{old}' is called '{new}' now$"):
        override(Config(), {old: 1})
    with pytest.raises(UserError, match=rf"^'{old}' is called '{new}' now$"):
        config.parse(old, "1")


@pytest.mark.parametrize(("name", "old"), checking.RENAMED_VALUES)
def test_an_old_value_is_refused_with_the_new_one(name, old):
    new = checking.RENAMED_VALUES[name, old]
    with pytest.raises(UserError, match=rf"{name} = '{old}' .*'{old}' is called '{new}' now"):
        override(Config(), {name: old})
    hints = {full: hint for full, hint, _ in config.fields()}
    assert config.check(name, new, hints[name]) == new


def test_truncation_refuses_both_directions_by_name():
    settings = {"head.kind": "per_frame", "train.tbptt_every": 5, "scanner.bidirectional": "sum"}
    with pytest.raises(UserError, match=r"scanner\.bidirectional = 'sum'"):
        override(Config(), settings)


def test_every_setting_survives_json_and_the_command_line():
    changed = override(Config(), {"data.classes": ["Diving", "Skiing"], "optim.clip_norm": 5})
    assert config.from_dict(json.loads(json.dumps(config.to_dict(changed)))) == changed
    for name, _, value in config.fields(changed):
        if value == () or value == "":
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert config.parse(name, text) == value, name


def test_fields_are_all_of_them():
    flat = [name for name, _, _ in config.fields(Config)]
    nested = sum(len(v) if isinstance(v, dict) else 1 for v in config.to_dict(Config()).values())
    assert len(flat) == len(set(flat)) == nested
    for name in (*config.TRACED, *config.NOT_IDENTITY):
        assert name in flat, f"{name} is no setting any more"


@pytest.mark.parametrize("name", config.TRACED)
def test_numbers_share_a_program(name):
    other = {"loss.frame_weights": "uniform", "train.epochs": 7, "train.patience": 3, "seed": 9}
    changed = override(Config(), {name: other.get(name, 0.25)})
    assert config.signature(changed) == config.signature(Config())
    assert config.identifying_settings(changed) != config.identifying_settings(Config())


@pytest.mark.parametrize(
    "change", [{"scanner.units": 65}, {"head.kind": "mean"}, {"train.batch_size": 7}]
)
def test_shapes_and_code_do_not_share_a_program(change):
    assert config.signature(override(Config(), change)) != config.signature(Config())


def test_places_are_no_part_of_a_trial():
    moved = override(Config(), {"data.root": "/elsewhere", "train.save_seconds": 1})
    assert config.identifying_settings(moved) == config.identifying_settings(Config())


def test_a_trial_is_the_same_after_its_settings_were_written_and_read():
    """Whole numbers where fractions may stand, too: jobs compare what they read with the plan."""
    for cfg in (Config(), Config(data=config.Data("videos", fps=25), seed=3)):
        read = config.from_dict(json.loads(json.dumps(config.to_dict(cfg))))
        one, other = (config.canonical(config.identifying_settings(each)) for each in (cfg, read))
        assert one == other
        assert config.signature(cfg) == config.signature(read)


def test_a_users_file_counts_by_its_content(tmp_path):
    file = tmp_path / "mine.py"
    spec = f"{file}:Cell"
    file.write_text("class Cell: pass\n")
    before = config.identifying_settings(override(Config(), {"scanner.kind": spec}))
    assert config.load_user(spec).__name__ == "Cell"
    file.write_text("class Cell: size = 2\n")
    assert config.identifying_settings(override(Config(), {"scanner.kind": spec})) != before
    assert config.load_user(spec).size == 2
    with pytest.raises(UserError, match="has no 'Cel'"):
        config.load_user(f"{file}:Cel")
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(UserError, match=r"mine\.py cannot be imported"):
        config.load_user(spec)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3


def test_what_is_no_python_file_is_refused(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("def config(): ...")
    with pytest.raises(UserError, match=r"mine.txt is no Python file: its name should end in .py"):
        config.load_user(f"{file}:config")


def test_folds_are_refused_where_they_would_mean_nothing():
    for changes, line in (
        ({"data.split": "random", "data.fold": 2}, "set data.fold and data.folds to 0"),
        ({"data.split": "given", "data.folds": 5, "data.kind": "ucf101"}, "needs data.split"),
        ({"data.split": "given", "data.fold": 2}, "has one"),
    ):
        with pytest.raises(UserError, match=line):
            override(Config(), changes)
    override(Config(), {"data.split": "given", "data.fold": 2, "data.kind": "ucf101"})


def test_names_with_blanks_are_chosen_by_commas():
    assert parse("data.classes", "left hand, right") == ("left hand", "right")
    assert parse("scanner.dense", "8 4") == (8, 4)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["a, b", "c"], ("a, b", "c")),
        (["a,b"], ("a", "b")),
        (["a,", "b,", "c"], ("a", "b", "c")),
        (['"a, b",c'], ("a, b", "c")),
        (["'a, b'", "c"], ("a, b", "c")),
        (['["a, b", "c"]'], ("a, b", "c")),
        (["[a,", "b]"], ("a", "b")),
        (["(a, b)"], ("a", "b")),
        (["run,walk (fast)"], ("run", "walk (fast)")),
        (["(a) b", "c (d)"], ("(a) b", "c (d)")),
        (["don't,it's"], ("don't", "it's")),
        (["'(a)'"], ("(a)",)),
        ([""], ()),
    ],
)
def test_names_with_commas_quotes_and_brackets_are_values_of_a_list(words, values):
    assert config.parse("data.classes", *words) == values


def test_numbers_of_a_list_may_stand_in_any_way():
    for words in (["8", "4"], ["8,4"], ["(8, 4)"], ["[8,4]"], ["8 4"]):
        assert config.parse("scanner.dense", *words) == (8, 4)


@pytest.mark.parametrize("name", ["seed", "encoder.seed", "data.split_seed"])
def test_seeds_have_32_bits(name):
    assert config.get(override(Config(), {name: 2**32 - 1}), name) == 2**32 - 1
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"{name} = {seed} should be between 0 and 4294967295"):
            override(Config(), {name: seed})


def test_whole_numbers_fit_a_compiled_program():
    with pytest.raises(UserError, match=r"train\.epochs = 2147483648 should be at least 1"):
        override(Config(), {"train.epochs": 2**31})


UCF = override(
    Config(),
    {
        "data.kind": "ucf101",
        "data.split": "given",
        "data.fold": 2,
        "data.classes": ("Skiing", "Diving"),
        "data.swapped": True,
        "encoder.kind": "vgg16",
        "encoder.weights": "imagenet",
        "encoder.pooling": "average",
        "encoder.size": 224,
        "encoder.normalize": "caffe",
        "head.kind": "per_frame",
        "train.tbptt_every": 30,
        "train.tbptt_length": 60,
        "eval.inference": "average",
        "optim.decoupled": True,
    },
)
FITTED = override(
    Config(),
    {
        "encoder.standardize": True,
        "encoder.pca": 8,
        "train.patience": 3,
        "train.target": 0.9,
        "train.grad_accum": 4,
        "optim.warmup_epochs": 5,
        "optim.clip_mode": "preactivation",
    },
)
TRAINED = override(Config(), {"data.kind": "videos", "data.fps": 5, "encoder.trainable": "all"})
PIXELS = override(
    Config(),
    {
        "encoder.kind": "cnn3",
        "encoder.weights": "random",
        "encoder.pooling": "dense",
        "encoder.size": 48,
        "encoder.normalize": "unit",
    },
)
MOMENTS = override(Config(), {"encoder.pooling": "moments", "encoder.size": 96})
OWN = {
    "encoder.kind": "mine.py:Net",
    "encoder.weights": "net.h5",
    "encoder.pooling": "average",
    "encoder.size": 100,
    "encoder.normalize": "torch",
}
# What vidrec decides, by the kind of the encoder and its weights.
OPEN = {
    "encoder.weights": "auto",
    "encoder.pooling": "auto",
    "encoder.size": 0,
    "encoder.normalize": "auto",
}
MOTION = override(Config(), {"data.tfds": "motion", "data.groups": "_(g.)_", "data.folds": 5})


@pytest.mark.parametrize(
    ("base", "given", "follow"),
    [
        (MOTION, {"data.kind": "mine.py:load"}, {"data.tfds": "", "data.groups": ""}),
        (MOTION, {"data.kind": "videos"}, {"data.tfds": "", "data.groups": ""}),
        (MOTION, {"data.tfds": "ucf101"}, {"data.groups": ""}),
        (MOTION, {"data.split": "random"}, {"data.folds": 0}),
        (MOTION, {"data.split": "given"}, {"data.folds": 0}),
        (UCF, {"data.kind": "videos"}, {"data.classes": (), "data.fold": 0}),
        (UCF, {"data.kind": "tfds", "data.tfds": "ucf101"}, {"data.fold": 0}),
        (UCF, {"data.split": "random"}, {"data.fold": 0, "data.swapped": False}),
        (UCF, {"encoder.kind": "cnn"}, OPEN),
        (UCF, {"encoder.kind": "squeezenet"}, OPEN),
        (UCF, {"encoder.kind": "mine.py:Net"}, OPEN),
        (
            UCF,
            {"encoder.kind": "squeezenet", "encoder.size": 96, "encoder.weights": "random"},
            {name: OPEN[name] for name in ("encoder.pooling", "encoder.normalize")},
        ),
        (UCF, {"encoder.weights": "net.safetensors"}, {"encoder.normalize": "auto"}),
        (UCF, {"encoder.weights": "random"}, {}),
        (PIXELS, {"encoder.kind": "vgg9"}, {}),
        (PIXELS, {"encoder.kind": "vgg16"}, OPEN),
        (
            override(PIXELS, {"encoder.trainable": "head"}),
            {"encoder.kind": "resnet18"},
            {name: value for name, value in OPEN.items() if name != "encoder.pooling"},
        ),
        (MOMENTS, {"encoder.kind": "cnn3"}, {"encoder.pooling": "auto"}),
        (override(UCF, OWN), {"encoder.kind": "other.py:Net"}, {}),
        (
            FITTED,
            {"encoder.trainable": "all"},
            {"encoder.standardize": False, "encoder.pca": 0},
        ),
        (FITTED, {"data.val": 0}, {"train.patience": 0, "train.target": 0.0}),
        (FITTED, {"train.epochs": 2}, {"optim.warmup_epochs": 0}),
        (FITTED, {"train.batch_size": 2}, {"train.grad_accum": 1}),
        (FITTED, {"scanner.kind": "mean"}, {"optim.clip_mode": "gradient"}),
        (TRAINED, {"encoder.kind": "none"}, {"encoder.trainable": "none"}),
        (TRAINED, {"data.kind": "features"}, {"encoder.trainable": "none", "data.fps": 0.0}),
        (
            UCF,
            {"head.kind": "last"},
            {"train.tbptt_every": 0, "train.tbptt_length": 0, "eval.inference": "single"},
        ),
        (UCF, {"train.tbptt_every": 90}, {"train.tbptt_length": 0}),
        (UCF, {"train.tbptt_every": 0}, {"train.tbptt_length": 0}),
        (UCF, {"train.tbptt_every": 20}, {}),
        (UCF, {"optim.kind": "mine.py:make"}, {"optim.decoupled": False}),
        (UCF, {"data.kind": "ucf101", "head.kind": "per_frame"}, {}),
    ],
)
def test_what_follows_a_setting_is_cleared_with_it(base, given, follow):
    changed = override(base, given)
    expected = {name: value for name, _, value in config.fields(base)} | given | follow
    assert {name: value for name, _, value in config.fields(changed)} == expected
    told = config.cleared(base, given)
    assert set(told) == set(follow)
    assert all(leader in {**given, **follow} for leader in told.values())


def test_what_was_given_too_is_refused_and_not_cleared():
    with pytest.raises(UserError, match=r"needs data\.kind = 'tfds'"):
        override(MOTION, {"data.kind": "videos", "data.tfds": "motion"})
    with pytest.raises(UserError, match=r"needs head\.kind = 'per_frame'"):
        override(UCF, {"head.kind": "last"}, keep=["train.tbptt_every"])


def test_a_saved_configuration_is_read_as_it_is():
    assert config.from_dict(config.to_dict(UCF)) == UCF


# --- Contradictions: every setting that asks for what would not happen ----------------------------

MANY = {"head.kind": "per_frame"}
KERAS = {"loss.kind": "keras_cross_entropy", "head.activation": "relu"}
CUT = MANY | {"eval.inference": "average"}
# A setting, what it contradicts, what the line names, and what would be right.
CONTRADICTIONS = [
    ({"loss.kind": "keras_cross_entropy"}, {"head.activation": "softmax"}, KERAS),
    (KERAS, MANY, KERAS),
    ({"loss.kind": "double_softmax"}, {"head.activation": "relu"}, {"loss.kind": "double_softmax"}),
    ({"encoder.standardize": True}, {"encoder.trainable": "all"}, {"encoder.standardize": True}),
    ({"encoder.pca": 3}, {"encoder.trainable": "head"}, {"encoder.pca": 3}),
    ({"encoder.trainable": "all"}, {"data.kind": "features"}, {"encoder.trainable": "all"}),
    ({"encoder.trainable": "all"}, {"encoder.kind": "none"}, {"encoder.kind": "none"}),
    (CUT, {"frames.order": "shuffled"}, CUT),
    (CUT, {"frames.order": "single"}, {"frames.order": "single"}),
    (CUT, {"eval.window": 10, "eval.stride": 11}, {"eval.window": 10, "eval.stride": 11}),
    ({"head.kind": "flatten"}, {"frames.rule": "whole"}, {"frames.rule": "whole"}),
    ({"encoder.kind": "c3d"}, {"head.kind": "per_frame"}, {"encoder.kind": "c3d"}),
    ({"encoder.kind": "c3d"}, {"head.kind": "flatten"}, {"head.kind": "flatten"}),
    (
        {"data.swapped": True},
        {"data.split": "group"},
        {"data.swapped": True, "data.split": "given"},
    ),
    ({"data.groups": "(g.)"}, {"data.kind": "ucf101"}, {"data.groups": "(g.)"}),
    ({"data.fps": 5}, {"data.kind": "images"}, {"data.fps": 5, "data.kind": "videos"}),
    ({"data.fps": 5}, {"data.kind": "features"}, {"data.fps": 5, "data.kind": "ucf11"}),
    ({"data.fps": 5}, {"data.kind": "tfds"}, {"data.kind": "tfds"}),
    ({"data.folds": 1}, {}, {"data.folds": 2}),
    ({"data.test": 2.5}, {}, {"data.test": 2}),
    ({"data.val": 1.5}, {}, {"data.val": 0.5}),
    ({"train.patience": 3}, {"data.val": 0}, {"data.val": 0}),
    ({"train.target": 0.9}, {"data.val": 0}, {"train.target": 0.9}),
    (
        {"train.grad_accum": 9},
        {"train.batch_size": 8},
        {"train.grad_accum": 8, "train.batch_size": 8},
    ),
    (
        {"optim.warmup_epochs": 8},
        {"train.epochs": 7},
        {"optim.warmup_epochs": 7, "train.epochs": 7},
    ),
    ({"optim.clip_mode": "preactivation"}, {"scanner.kind": "mean"}, {"scanner.kind": "mean"}),
    ({"optim.clip_mode": "preactivation"}, {"scanner.kind": "none"}, {"scanner.kind": "none"}),
    ({"optim.decoupled": True}, {"optim.kind": "mine.py:Make"}, {"optim.decoupled": True}),
    ({"optim.momentum": 1}, {"optim.kind": "momentum"}, {"optim.momentum": 1, "optim.kind": "sgd"}),
    ({"optim.b1": 1}, {"optim.kind": "adam"}, {"optim.b1": 1, "optim.kind": "momentum"}),
    ({"optim.b2": 1}, {"optim.kind": "adam"}, {"optim.b2": 1, "optim.kind": "rmsprop"}),
    (
        {"optim.rms_decay": 1},
        {"optim.kind": "rmsprop"},
        {"optim.rms_decay": 1, "optim.kind": "adam"},
    ),
    ({"optim.epsilon": 0}, {"optim.kind": "adam"}, {"optim.epsilon": 0, "optim.kind": "momentum"}),
]


@pytest.mark.parametrize(("one", "other", "right"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused(one, other, right):
    override(Config(), right)
    for changes in (one | other, other | one):
        with pytest.raises(UserError) as refused:
            override(Config(), changes)
        line = str(refused.value)
        assert "\n" not in line
        assert len(line) < 250
        assert any(name in line for name in one), line
        assert not other or any(name.rpartition(".")[2] in line for name in other), line


@pytest.mark.parametrize(
    "name", ["data.fps", "data.test", "optim.learning_rate", "train.memory_gb"]
)
def test_numbers_are_finite(name):
    with pytest.raises(UserError, match=rf"{name} = inf should be a number, and finite"):
        override(Config(), {name: float("inf"), "data.kind": "videos"})


def test_what_a_base_brings_gives_way_to_what_a_row_asks_for():
    """Rows of a table share a base; what no longer fits goes back, and the line is told."""
    base = override(
        Config(),
        {"encoder.standardize": True, "encoder.pca": 8, "optim.clip_mode": "preactivation"},
    )
    trained = override(base, {"encoder.trainable": "all"})
    assert (trained.encoder.standardize, trained.encoder.pca) == (False, 0)
    assert override(base, {"scanner.kind": "mean"}).optim.clip_mode == "gradient"
    videos = override(Config(), {"data.kind": "videos", "data.fps": 5, "encoder.trainable": "all"})
    moved = override(videos, {"data.kind": "features"})
    assert (moved.data.fps, moved.encoder.trainable) == (0, "none")


def test_without_a_home_the_cache_is_a_temporary_folder_of_ones_own(tmp_path, monkeypatch):
    import os
    import pwd
    import tempfile

    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "VIDREC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"vidrec-{os.getuid()}"
    for home in (None, "", "/"):
        if home is not None:
            monkeypatch.setenv("HOME", home)
        assert machine.cache_dir() == own
        assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    with pytest.raises(UserError, match="VIDREC_CACHE"):
        machine.cache_dir()
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(UserError, match="VIDREC_CACHE"):
        machine.cache_dir()
    monkeypatch.delenv("HOME")
    for value in ("~/weights.h5", "~no-such-user/x"):
        with pytest.raises(UserError, match="there is no such home folder"):
            files.expanded(value)
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "mine"))
    assert machine.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("VIDREC_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.cache_dir() == tmp_path / ".cache" / "vidrec"


def test_a_setting_follows_others_by_one_rule():
    rules = [(rule.name, frozenset(rule.leaders)) for rule in config.FOLLOWERS]
    assert len(set(rules)) == len(rules)
