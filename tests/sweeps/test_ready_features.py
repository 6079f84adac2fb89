"""Tables on folders of ready-made features: encoder, classes, lengths, splits, merged rows."""

import json

import numpy as np
import pytest
from helpers.ucf_features import NAMES, STEPS, WIDTH, write_ucf11, write_ucf101

import vidrec
from vidrec.errors import UserError
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import plan, ready_features, runner
from vidrec.sweeps.ablation import Ablation, Row
from vidrec.training import prepare, ready_made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ucf101(tmp_path_factory.mktemp("features"))


def on(folder, name, **typed):
    typed = {key.replace("__", "."): value for key, value in typed.items()}
    return tables.trials(vidrec.load(name), {"data.root": str(folder), **typed})


@pytest.mark.parametrize("name", ["learning_rate", "units_keras", "inference", "layers", "dropout"])
def test_encoder_and_classes_follow_from_the_folder(folder, name):
    for trial in on(folder, name):
        cfg = trial.config
        assert (cfg.encoder.kind, cfg.encoder.trainable) == ("none", "none")
        assert (cfg.encoder.standardize, cfg.encoder.pca) == (True, 0)  # five numbers need no PCA
        assert cfg.data.classes == NAMES
        assert cfg.data.split == "given"
        assert trial.moved.task == "4 of UCF-101's 101 classes, features made elsewhere"


def test_wide_features_are_reduced_and_what_was_typed_stays(tmp_path):
    root = write_ucf101(tmp_path)
    for path in root.rglob("*.npy"):
        np.save(path, np.tile(np.load(path), 60))  # 300 numbers a frame
    [first, *_] = on(root, "learning_rate")
    assert first.config.encoder.pca == 256
    typed = on(root, "learning_rate", encoder__pca=7, encoder__standardize=False)
    assert typed[0].config.encoder.pca == 7
    assert "encoder.pca 7" in ready_features.notes([t.moved for t in typed])[1]


def test_named_classes_are_kept_where_all_are_there(folder):
    chosen = on(folder, "learning_rate", data__classes=("Biking", "Archery"))
    assert chosen[0].config.data.classes == ("Biking", "Archery")
    assert "2 of UCF-101's 101" in chosen[0].moved.task
    base = vidrec.override(
        vidrec.load("ucf101_four_classes"), {"data.classes": ("Archery", "Diving")}
    )
    [trial] = tables.trials(Ablation("own", base, [{}]), {"data.root": str(folder)})
    assert trial.config.data.classes == ("Archery", "Diving")


def test_lengths_are_scaled_and_equal_rows_merged(folder):
    """By the plain rule: x times 10 / 120, rounded, at most 10, at least 1."""
    made = on(folder, "sequence_length")
    assert [trial.config.frames.length for trial in made] == [2, 5, 10]  # 30, 60 and 120
    assert [trial.row for trial in made] == [0, 1, 2]  # of the equal rows, the control
    assert {trial.config.train.tbptt_every for trial in made} == {2}
    notes = " ".join(ready_features.notes([trial.moved for trial in made]))
    assert "scaled by 10/120" in notes
    assert "frames.length 30 → 2, 60 → 5, 120 → 10" in notes
    merged = "length=150, length=180, mean length, whole video with length=120"
    assert f"Rows that fall together are one: {merged}." in notes
    windows = on(folder, "truncation")
    assert [trial.config.train.tbptt_every for trial in windows] == [2, 4, 7, 10, 2]
    assert windows[-1].config.train.tbptt_length == 5
    assert windows[0].overrides == {"train.tbptt_every": 2}
    cut = on(folder, "inference")[0].config.eval
    assert (cut.window, cut.stride) == (5, 2)


def test_lengths_stay_where_clips_are_long_enough(tmp_path):
    root = write_ucf101(tmp_path, steps=130)
    assert [t.config.frames.length for t in on(root, "sequence_length")][:5] == [
        30,
        60,
        120,
        150,
        180,
    ]


def test_typed_lengths_stay_and_absurd_ones_are_refused(folder):
    typed = on(folder, "learning_rate", frames__length=2 * STEPS)
    assert typed[0].config.frames.length == 2 * STEPS
    assert typed[0].config.train.tbptt_every == 2
    with pytest.raises(UserError, match=r"frames\.length = 21 is more than twice the 10 frames"):
        on(folder, "learning_rate", frames__length=21)
    crossed = tables.cross(vidrec.load("learning_rate"), {"frames.length": [4, 9]})
    made = tables.trials(crossed, {"data.root": str(folder)})
    assert {trial.config.frames.length for trial in made} == {4, 9}
    crossed = tables.cross(vidrec.load("learning_rate"), {"frames.length": [4, 90]})
    with pytest.raises(UserError, match="more than twice"):
        tables.trials(crossed, {"data.root": str(folder)})


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ({"encoder__weights": "vgg16.h5"}, r"encoder\.weights = 'vgg16\.h5': data\.root holds"),
        ({"encoder__kind": "vgg16"}, r"encoder\.kind = 'vgg16'"),
        ({"data__fps": 5.0}, r"data\.fps = 5 resamples videos"),
        ({"data__classes": ("Archery", "Skiing")}, r"holds no features of Skiing"),
    ],
)
def test_what_does_not_fit_is_refused(folder, typed, line):
    with pytest.raises(UserError, match=line):
        prepare.prepare(on(folder, "learning_rate", **typed)[0].config)


def test_leakage_is_the_official_list_and_a_draw_of_the_same_size(folder):
    made = on(folder, "leakage")
    assert [t.config.data.kind for t in made] == ["ucf101"] * 6  # the names say so
    given, drawn = made[0].config.data, made[3].config.data
    assert (given.split, drawn.split) == ("given", "random")
    sizes = [
        {part: len(getattr(prepare.prepare(t.config).split, part)) for part in prepare.PARTS}
        for t in (made[0], made[3])
    ]
    assert sizes[0] == sizes[1]
    assert sizes[0]["test"] == 4 * 3 * 2
    notes = " ".join(ready_features.notes([trial.moved for trial in made]))
    assert "a random draw of as many clips (24 to test)" in notes


def test_tables_of_motion_take_the_folder_when_told(folder):
    typed = {"data__kind": "ucf101", "data__split": "given"}
    assert [t.config.scanner.kind for t in on(folder, "scanners", **typed)][::3] == [
        "mean",
        "lstm",
        "gru",
    ]
    assert {t.config.frames.length for t in on(folder, "order", **typed)} == {STEPS}
    assert {t.config.encoder.kind for t in on(folder, "order", **typed)} == {"none"}


def test_rows_over_maps_are_left_out_and_said(folder):
    made = on(folder, "units_torch")
    assert "convlstm" not in {trial.config.scanner.kind for trial in made}
    assert len(made) == 20
    assert "Left out" in ready_features.notes([trial.moved for trial in made])[-1]
    rows = [
        Row({"scanner.kind": kind}, name=kind.upper(), budget=400)
        for kind in ("gru", "convgru", "convlstm")
    ]
    base = vidrec.load("experiments/motion.py")
    typed = {"data.kind": "ucf101", "data.root": str(folder), "data.split": "given"}
    made = tables.trials(Ablation("budgets", base, rows), typed)
    assert [trial.config.scanner.kind for trial in made] == ["gru"]
    [*_, said] = ready_features.notes([trial.moved for trial in made])
    assert "CONVGRU" in said
    assert "CONVLSTM" in said


def test_ucf11_stays_ucf11(tmp_path):
    made = on(write_ucf11(tmp_path), "folds_ucf11")
    assert {trial.config.data.kind for trial in made} == {"ucf11"}
    assert made[0].config.data.classes == ("biking", "diving")


def test_a_moved_trial_is_not_moved_again(folder):
    [trial, *_] = on(folder, "learning_rate", frames__length=7)
    [again] = tables.trials(Ablation("run", trial.config, [Row({})]))
    assert again.config == trial.config
    assert again.moved is None


def test_parameters_are_counted_by_the_folder(folder):
    by_hand = 4 * 8 + 8 + 8 * 4 + 4  # of a mean over 5 numbers: none; then a layer of 8
    base = vidrec.override(
        vidrec.load("ucf101_four_classes"), {"scanner.kind": "mean", "head.dense": (8,)}
    )
    [trial] = tables.trials(Ablation("one", base, [{}]), {"data.root": str(folder)})
    assert prepare.count_params(trial.config) == by_hand + 8  # five numbers, not four


@pytest.fixture(scope="module")
def filled(folder, tmp_path_factory):
    """A table of lengths, trained for an epoch; counts what was read and projected."""
    read, projected = [], []
    with pytest.MonkeyPatch.context() as patch:
        once, fit = ready_made._read, ready_made.fit_projection
        patch.setattr(ready_made, "_read", lambda dataset: read.append(1) or once(dataset))
        patch.setattr(
            ready_made, "fit_projection", lambda *given: projected.append(1) or fit(*given)
        )
        table = runner.ablate(
            vidrec.load("sequence_length"),
            tmp_path_factory.mktemp("runs"),
            overrides={
                "data.root": str(folder),
                "train.epochs": 1,
                "scanner.units": 3,
                "scanner.dense": (),
            },
        )
    return table, len(read), len(projected)


def test_rows_share_what_was_read_and_projected(filled):
    table, read, projected = filled
    assert len(table.trials) == 3
    assert (read, projected) == (1, 1)


def test_every_result_says_what_it_is_of(filled):
    table, _, _ = filled
    for trial in table.trials:
        assert trial["data"]["classes"] == "4 of UCF-101's 101 classes"
        assert trial["classes"] == list(NAMES)
        assert trial["another_task"].startswith("4 of UCF-101's 101 classes")
    described = json.loads((table.folder / "ablation.json").read_text())
    assert any("scaled by 10/120" in line for line in described["notes"])
    page = (table.folder / "report.html").read_text()
    markdown = (table.folder / "table.md").read_text()
    for text in (page, markdown):
        assert "4 of UCF-101's 101 classes" in text.replace("&#39;", "'").replace("\\", "")
        assert "another task" in text
        assert "scaled by 10/120" in text
        assert "Archery, Basketball, Biking, Diving" in text


def test_projections_are_of_their_own_training_clips(folder):
    """Kept ones are handed out for the same clips only, and equal those fitted anew."""
    kept = ready_made.Kept()
    for name in ("leakage", "learning_rate"):
        for trial in on(folder, name)[::3]:
            mine = prepare.prepare(trial.config, kept=kept)
            alone = prepare.prepare(trial.config)
            np.testing.assert_array_equal(mine.values, alone.values)
            train = np.concatenate(
                [mine.dataset.features(i) for i in mine.split.train], dtype=np.float64
            )
            at = mine.split.test[0]
            plain = (mine.dataset.features(at) - train.mean(0)) / train.std(0)
            np.testing.assert_allclose(
                mine.values[mine.offsets[at] : mine.offsets[at] + STEPS], plain, atol=1e-4
            )


def test_components_of_wide_features_are_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ready_made, "WIDE", 4)
    fitted = []
    fit = ready_made.fit_projection
    monkeypatch.setattr(
        ready_made, "fit_projection", lambda *given: fitted.append(1) or fit(*given)
    )
    root = write_ucf101(tmp_path / "features")
    cfg = on(root, "learning_rate", encoder__pca=3)[0].config
    said = []
    first, again = prepare.prepare(cfg, tell=said.append), prepare.prepare(cfg, tell=said.append)
    assert len(fitted) == 1
    frames = STEPS * len(first.split.train)
    waits = [line for line in said if line.startswith("fitting 3 principal components to ")]
    assert waits == [
        f"fitting 3 principal components to {frames:,} training frames of {WIDTH} numbers, "
        "once for all commands"
    ]
    np.testing.assert_array_equal(first.values, again.values)
    [kept] = (tmp_path / "cache" / "projections").iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[:-9] + b"x" + content[-8:])
    np.testing.assert_array_equal(prepare.prepare(cfg).values, first.values)
    assert len(fitted) == 2  # a damaged one is fitted anew
    train = first.dataset.names[first.split.train[0]]
    path = root / train.replace(".avi", ".npy")
    np.save(path, np.load(path) + 1)
    assert len(fitted) == 2
    assert not np.array_equal(prepare.prepare(cfg).values, first.values)
    assert len(fitted) == 3
    prepare.prepare(on(root, "learning_rate", encoder__pca=3, data__fold=2)[0].config)
    assert len(fitted) == 4


def test_groups_stay_apart(folder):
    configs = [trial.config for trial in on(folder, "sequence_length")]
    assert len({plan.group_name(cfg) for cfg in configs}) == len(configs)
