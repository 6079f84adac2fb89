"""The rules of --on motion: each table of report D has one, and shows what it is about."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow_datasets as tfds

import vidrec
from vidrec.config import get
from vidrec.data.datasets import motion
from vidrec.errors import UserError
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import embedded, runner
from vidrec.sweeps.ablation import Ablation, Row

# The tables of report D.
TABLES = (
    *("learning_rate", "optimizer", "clipping", "dropout", "weight_decay", "batch_norm"),
    *("layers", "linear_layers", "loss_weights", "epochs", "batch_size", "sequence_length"),
    *("truncation", "inference", "final"),
)
# What a rule may replace of published values; where one does more, its `settings` say so.
RULED = ("scanner.units", "scanner.dense", "train.epochs", "train.batch_size")


def on_motion(name):
    return tables.trials(vidrec.load(name), on="motion")


def builder(name, folder):
    return tfds.builder(embedded.RULES[name].clips, data_dir=str(folder))


def test_every_table_of_report_d_has_its_rule():
    assert {vidrec.load(name).on_motion for name in TABLES} == set(embedded.RULES)
    assert all(vidrec.load(name).on_motion == name for name in TABLES)
    others = [vidrec.load(name) for name in ("scanners", "order", "memory", "units_torch")]
    assert all(table.on_motion == "" for table in others)


@pytest.mark.parametrize("name", TABLES)
def test_a_rule_leaves_what_its_table_asks(name):
    rule, published = embedded.RULES[name], tables.trials(vidrec.load(name))
    asked = set(tables.axes(vidrec.load(name)))
    assert not asked & set(rule.settings)
    for before, after in zip(published, on_motion(name), strict=True):
        assert (after.config.data.kind, after.config.data.tfds) == ("tfds", rule.clips)
        assert after.config.encoder.size == rule.size
        for setting in asked - set(RULED):
            assert get(after.config, setting) == get(before.config, setting)
        for setting, value in rule.settings.items():
            assert get(after.config, setting) == value
        kept = (
            *("optim.kind", "optim.learning_rate", "optim.momentum", "optim.clip_norm"),
            *("frames.length", "train.tbptt_every", "head.kind", "scanner.batch_norm"),
        )
        for setting in set(kept) - set(rule.settings):
            assert get(after.config, setting) == get(before.config, setting)


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_rule_are_as_different_as_published(name):
    published, moved = tables.trials(vidrec.load(name)), on_motion(name)
    assert len({str(trial.config) for trial in moved}) == len(moved)
    base = published[vidrec.load(name).control].config
    ours = moved[vidrec.load(name).control].config
    assert ours.train.epochs == min(base.train.epochs, embedded.RULES[name].epochs)
    assert ours.train.batch_size == min(base.train.batch_size, embedded.RULES[name].batch)
    for before, after in zip(published, moved, strict=True):
        for setting in ("train.epochs", "train.batch_size"):
            times = get(before.config, setting) / get(base, setting)
            assert abs(get(after.config, setting) - times * get(ours, setting)) <= 0.5


@pytest.mark.parametrize("name", TABLES)
def test_a_rules_clips_are_made_and_are_small(name, tmp_path):
    settings = builder(name, tmp_path).settings
    assert settings.clips * settings.frames * settings.size**2 <= 1200 * 180 * 32**2
    few = replace(settings, clips=30)
    clips = [motion.clip(0, label, few) for label in motion.PAIRS[0]]
    assert {clip.shape[1:] for clip in clips} == {(settings.size, settings.size, 3)}
    assert not np.array_equal(*clips)
    lengths = [trial.config.frames.length for trial in on_motion(name)]
    # The motion lasts throughout: no row plays a clip forwards and then backwards.
    assert settings.memory or max(lengths) <= len(clips[0]) == settings.frames


@pytest.mark.parametrize("name", TABLES)
def test_a_table_takes_minutes(name, tmp_path):
    """Count what three seeds compute: steps of a recurrence, by clip, and updates."""
    clips, products = builder(name, tmp_path).settings.clips, 0.0
    trained = {}
    for trial in on_motion(name):
        cfg = trial.config
        trained[str(replace(cfg, eval=vidrec.Config().eval))] = cfg
    for cfg in trained.values():
        units = 2 * cfg.scanner.layers * cfg.scanner.units
        products += clips * cfg.frames.length * cfg.train.epochs * units**2
    # 1200 clips of 120 frames for 5 epochs with 5 rows, which took a minute of one core.
    assert products <= 8 * (1200 * 120 * 5 * 5 * 128**2)


def test_a_table_says_its_rule_in_a_line():
    [line] = embedded.notes(["optimizer", "optimizer", ""])
    rule = embedded.RULES["optimizer"]
    assert line.startswith(f"On {rule.clips}: units divided by {rule.divide}, ")
    assert f"at most {rule.epochs} epochs and {rule.batch} clips a batch" in line
    assert line.endswith(rule.says)
    assert embedded.notes([""]) == []
    [typed] = embedded.notes(["optimizer"], typed=True)
    assert rule.says not in typed
    assert typed.endswith("Settings that were typed come before these.")
    both = embedded.notes(["optimizer", "clipping"])
    assert [line.partition(": ")[0] for line in both] == ["optimizer", "clipping"]
    assert all(rule.says for rule in embedded.RULES.values())


def test_joined_tables_keep_their_rules():
    made = tables.trials(
        tables.join([vidrec.load("learning_rate"), vidrec.load("scanners")]), on="motion"
    )
    assert {trial.on_motion for trial in made} == {"learning_rate", ""}
    assert made[0].config.data.tfds == embedded.RULES["learning_rate"].clips
    assert made[-1].config.data.tfds == "motion"


def test_typed_settings_come_before_a_rules():
    typed = {"train.epochs": 2, "data.tfds": "motion/clips=60", "scanner.forget_bias": 1.0}
    made = tables.trials(vidrec.load("learning_rate"), typed, on="motion")
    assert all(get(trial.config, name) == typed[name] for trial in made for name in typed)


def test_fewer_clips_of_a_class_stay_on_the_embedded_data():
    """By number always, by name and with the sizes of parts where the table's own data are they."""
    table = vidrec.load("class_weights")
    for before, after in zip(tables.trials(table), tables.trials(table, on="motion"), strict=True):
        for name in ("data.per_class", "data.val", "data.test"):
            assert get(after.config, name) == get(before.config, name)
    cfg = vidrec.load("experiments/ucf101_lstm.py")
    few = vidrec.override(cfg, {"data.per_class": "7"})
    assert embedded.on_motion(few).data.per_class == "7"
    assert embedded.on_motion(few).data.val == vidrec.Config().data.val
    named = vidrec.override(cfg, {"data.per_class": "Archery=5"})
    with pytest.raises(UserError, match=r"'Archery=5' names classes, and --on motion takes others"):
        embedded.on_motion(named)


def test_a_rule_that_is_not_there_is_refused():
    cfg = vidrec.Config()
    with pytest.raises(UserError, match=r"'optimiser': no such rule.*did you mean 'optimizer'"):
        tables.trials(Ablation("a", cfg, [Row({})], on_motion="optimiser"), on="motion")
    with pytest.raises(UserError, match=r"'zzz'.*there are learning_rate, "):
        tables.trials(Ablation("a", cfg, [Row({}, on_motion="zzz")]), on="motion")
    assert len(tables.trials(Ablation("a", cfg, [Row({})], on_motion="optimiser"))) == 1


# Two rows of a table, and how much better the second is at least.
EFFECTS = {
    "learning_rate": (3e-4, 1e-3, 0.2),
    "optimizer": ("momentum", "rmsprop", 0.2),
    "batch_size": (256, 32, 0.1),
}


@pytest.mark.slow(minutes=2)
@pytest.mark.parametrize("name", EFFECTS)
def test_a_table_shows_its_effect(name, tmp_path):
    *compared, points = EFFECTS[name]
    table = vidrec.load(name)
    rows = {value: row for row in table.rows for value in row.overrides.values()}
    two = replace(table, rows=[rows[value] for value in compared], control=0)
    filled = runner.ablate(two, tmp_path, on="motion")
    worse, better = (trial["metrics"]["test"]["accuracy"] for trial in filled.trials)
    assert better >= 0.85
    assert better - worse >= points
