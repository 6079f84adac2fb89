"""The generated clips: reversals to the bit, groups, sizes, and the TFDS builder over them."""

import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vidrec.config import Data
from vidrec.data import read_ahead
from vidrec.data.datasets import motion, motion_tfds, tfds_dataset
from vidrec.errors import UserError
from vidrec.io.files import atomic

SMALL = motion.Settings(clips=60, frames=7, size=20, seed=3)
SMALL_MEMORY = motion.Settings(clips=60, frames=45, size=16, difficulty=1.0, memory=True)
BOTH = pytest.mark.parametrize("settings", [SMALL, SMALL_MEMORY], ids=["plain", "memory"])


def cue(settings: motion.Settings, seed: int, label: str) -> slice:
    """The frames in which a clip and its partner's differ."""
    clips = (motion.clip(seed, name, settings) for name in (label, motion.PARTNER[label]))
    differ = np.flatnonzero([not np.array_equal(a, b) for a, b in zip(*clips, strict=True)])
    return slice(differ[0], differ[-1] + 1)


def test_classes_are_pairs():
    assert len(motion.CLASSES) == 10
    assert list(motion.CLASSES) == sorted(motion.PARTNER)
    assert all(motion.PARTNER[motion.PARTNER[c]] == c != motion.PARTNER[c] for c in motion.CLASSES)


@pytest.mark.parametrize("label", motion.CLASSES)
def test_partner_is_the_reversal(label):
    for seed in (0, 5):
        clip = motion.clip(seed, label, SMALL)
        assert clip.shape == (7, 20, 20, 3)
        assert clip.dtype == np.uint8
        partner = motion.clip(seed, motion.PARTNER[label], SMALL)
        np.testing.assert_array_equal(partner, clip[::-1])
        assert not np.array_equal(partner, clip)


@pytest.mark.parametrize("label", motion.CLASSES)
def test_memory_reverses_the_cue_alone(label):
    clip = motion.clip(4, label, SMALL_MEMORY)
    partner = motion.clip(4, motion.PARTNER[label], SMALL_MEMORY)
    shown = cue(SMALL_MEMORY, 4, label)
    np.testing.assert_array_equal(partner[shown], clip[shown][::-1])
    np.testing.assert_array_equal(partner[: shown.start], clip[: shown.start])
    np.testing.assert_array_equal(partner[shown.stop :], clip[shown.stop :])


def test_memory_asks_long_after_the_cue():
    lengths, starts = set(), set()
    for seed in range(12):
        length = len(motion.clip(seed, "left", SMALL_MEMORY))
        shown = cue(SMALL_MEMORY, seed, "left")
        assert shown.stop <= length / 3
        assert 30 <= length <= 45
        lengths.add(length)
        starts.add(shown.start)
    assert len(lengths) > 3
    assert len(starts) > 3


@BOTH
def test_a_bag_of_frames_names_no_class_of_a_pair(settings):
    for a, b in motion.PAIRS:
        bags = [sorted(f.tobytes() for f in motion.clip(2, name, settings)) for name in (a, b)]
        assert bags[0] == bags[1]


@BOTH
def test_clips_are_a_function_of_seed_class_and_settings(settings):
    first = motion.clip(7, "grow", settings)
    motion.clip(8, "grow", settings)
    motion._scene.cache_clear()
    np.testing.assert_array_equal(motion.clip(7, motion.CLASSES.index("grow"), settings), first)
    others = [
        motion.clip(6, "grow", settings),  # same source
        motion.clip(7, "up", settings),
        motion.clip(7, "grow", dataclasses.replace(settings, seed=9)),
        motion.clip(7, "grow", dataclasses.replace(settings, difficulty=2.0)),
    ]
    assert all(other.shape != first.shape or (other != first).any() for other in others)
    more = dataclasses.replace(settings, clips=500)
    np.testing.assert_array_equal(motion.clip(7, "grow", more), first)


def test_generated_clips_are_balanced_and_in_order():
    rows = [*motion.generate(SMALL, test=False), *motion.generate(SMALL, test=True)]
    assert sorted(index for index, *_ in rows) == list(range(60))
    assert all([label for _, label, *_ in rows].count(c) == 6 for c in motion.CLASSES)
    for _, label, seed, frames in rows[::7]:
        np.testing.assert_array_equal(frames, motion.clip(seed, label, SMALL))


def test_splits_share_no_source():
    train, test = (
        {motion.group(seed) for _, _, seed, _ in motion.generate(SMALL, test)}
        for test in (False, True)
    )
    assert len(train) == 2
    assert len(test) == 1
    assert not train & test


def test_a_source_is_one_background_and_one_shape():
    """Without noise or texture a background has one colour, and a shape its light and dark one."""
    settings = motion.Settings(difficulty=0.0, size=40, frames=3)

    def colours(seed: int, label: str) -> np.ndarray:
        pixels = motion.clip(seed, label, settings)[1].reshape(-1, 3)
        grey = pixels.mean(axis=-1)
        background = np.median(pixels, axis=0)
        return np.concatenate([background, *(pixels[grey.argsort()[i]] for i in (3, -4))])

    np.testing.assert_allclose(colours(0, "left"), colours(1, "up"), atol=40)
    assert np.array_equal(colours(0, "left")[:3], colours(1, "up")[:3])
    backgrounds = {tuple(colours(seed, "left")[:3]) for seed in range(10)}
    assert len(backgrounds) == 5


def test_number_of_workers_changes_nothing(monkeypatch):
    def all_frames() -> list[bytes]:
        return [frames.tobytes() for *_, frames in motion.generate(SMALL, test=False)]

    expected = all_frames()
    for workers in (1, 5):
        monkeypatch.setattr(read_ahead, "cores", lambda workers=workers: workers)
        assert all_frames() == expected


def test_default_is_no_easier_than_promised():
    least = {"texture": 0.05, "noise": 0.03, "shake": 0.5}
    for name, value in least.items():
        assert motion.Settings().nuisances[name] >= value
        assert motion.Settings(difficulty=1.0).nuisances[name] == pytest.approx(value)


def test_nuisances_are_as_large_as_they_say():
    settings = motion.Settings(difficulty=2.0)
    rng = np.random.default_rng(0)
    texture = np.stack([motion._texture(rng, 96) for _ in range(8)])
    assert texture.std() == pytest.approx(1, rel=0.1)
    assert motion._noise_table(settings).std() == pytest.approx(255 * 0.06, rel=0.02)
    shakes = [motion._pose(rng, 0, settings)[0].shake for _ in range(40)]
    assert np.std(shakes) == pytest.approx(1.0, rel=0.1)


def test_the_camera_shakes_the_background():
    """Without noise a background is the same picture moved by the shake."""
    settings = motion.Settings(difficulty=0.0, size=32)
    scene = motion._scene(0, motion.Settings(size=32))
    still = dataclasses.replace(motion._pose(np.random.default_rng(0), 0, settings)[0])
    still.shake = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, -3.0]])
    plain, right, up = motion._background(np.random.default_rng(1), scene, still, settings)
    np.testing.assert_array_equal(right[:, 2:], plain[:, :-2])
    np.testing.assert_array_equal(up[:-3], plain[3:])


def test_shape_moves_as_its_class_says():
    """The brightest and darkest pixels on a plain background are the shape's two halves."""
    settings = motion.Settings(difficulty=0.0, size=48, frames=9)
    for seed in range(4):
        x, y = np.transpose([_centre(f) for f in motion.clip(seed, "right", settings)])
        assert np.ptp(x) > 15 > 5 > np.ptp(y)
        assert (np.diff(x) > 0).all()
        x, y = np.transpose([_centre(f) for f in motion.clip(seed, "down", settings)])
        assert np.ptp(y) > 15 > 5 > np.ptp(x)
        assert (np.diff(y) > 0).all()
        size = [_strength(f).sum() for f in motion.clip(seed, "grow", settings)]
        assert size[-1] > 4 * size[0]
        shown = [_strength(f).sum() for f in motion.clip(seed, "appear", settings)]
        assert shown[0] == 0 < shown[4] < shown[8]
        angle = np.unwrap([_angle(f) for f in motion.clip(seed, "clockwise", settings)])
        assert (np.diff(angle) > 0).all()
        assert angle[-1] - angle[0] > np.pi


def _strength(frame: np.ndarray) -> np.ndarray:
    grey = frame.mean(axis=-1)
    return np.abs(grey - np.median(grey)).round()


def _centre(frame: np.ndarray) -> np.ndarray:
    place = np.argwhere(_strength(frame) > 20)
    return place.mean(axis=0)[::-1]


def _angle(frame: np.ndarray) -> float:
    """From the dark half to the light one, y down: growing means clockwise."""
    grey = frame.mean(axis=-1)
    light, dark = (np.argwhere(m).mean(axis=0) for m in (grey > 190, grey < 64))
    return float(np.arctan2(*(light - dark)))


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    made = tfds.builder(
        "motion", clips=60, frames=7, size=20, seed=3, data_dir=_new(tmp_path_factory)
    )
    made.download_and_prepare()
    return made


def _new(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("tfds"))


def test_tfds_round_trip(builder):
    seen = set()
    for split in ("train", "test"):
        for row in builder.as_data_source(split):
            label = motion.CLASSES[row["label"]]
            folder, _, rest = row["name"].decode().partition("/")
            seed = int(rest.rpartition("_")[2])
            assert folder == label
            assert row["group"].decode() == motion.group(seed)
            assert row["length"] == 7
            np.testing.assert_array_equal(row["video"], motion.clip(seed, label, SMALL))
            seen.add(row["name"])
    assert len(seen) == 60


def test_tfds_info_says_what_it_is(builder):
    info = builder.info
    assert info.metadata["nuisances"] == pytest.approx(SMALL.nuisances)
    assert {k: info.metadata[k] for k in ("clips", "frames", "size", "difficulty", "seed")} == {
        "clips": 60,
        "frames": 7,
        "size": 20,
        "difficulty": 3.0,
        "seed": 3,
    }
    assert info.splits["train"].num_examples == 40
    assert info.splits["test"].num_examples == 20
    assert info.features["label"].names == list(motion.CLASSES)
    assert info.features["video"].shape == (None, 20, 20, 3)
    assert "reversals" in info.description
    assert "vidrec" in info.citation
    assert info.file_format.value == "array_record"


def test_tfds_parameters_have_their_own_folder(builder, tmp_path):
    folder = str(tmp_path)
    assert builder.builder_config.name == "plain-clips60-frames7-size20-seed3"
    by_name = tfds.builder("motion/memory/clips=40,frames=36", data_dir=folder)
    assert by_name.settings == dataclasses.replace(motion_tfds.MEMORY.settings, clips=40, frames=36)
    folders = {
        tfds.builder(name, data_dir=folder).data_dir
        for name in ("motion", "motion/memory", "motion/memory/clips=40,frames=36")
    }
    assert len(folders) == 3
    seeds = [tfds.builder("motion", seed=n, data_dir=folder) for n in (20240501, 20240502)]
    assert seeds[0].data_dir != seeds[1].data_dir
    # What is already the default makes no other data set.
    default = motion_tfds.PLAIN.settings.clips
    assert (
        tfds.builder("motion", clips=default, data_dir=folder).builder_config is motion_tfds.PLAIN
    )


def test_tfds_builder_of_memory(tmp_path):
    made = tfds.builder("motion/memory", clips=30, frames=27, size=16, data_dir=str(tmp_path))
    made.download_and_prepare()
    rows = list(made.as_data_source("test"))
    assert len(rows) == 10
    assert all(len(row["video"]) == row["length"] for row in rows)
    assert len({int(row["length"]) for row in rows}) > 1


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"no class 'sideways'.*anticlockwise"):
        motion.clip(0, "sideways", SMALL)
    with pytest.raises(UserError, match=r"clips must be from 30 to .*, got 12"):
        motion.Settings(clips=12)
    with pytest.raises(UserError, match="size must be from 8 to 512"):
        motion.Settings(size=4)
    with pytest.raises(UserError, match=r"frames must be .* got 7.5"):
        motion.Settings(frames=7.5)
    with pytest.raises(UserError, match=r"no configuration 'memroy'.*plain, memory"):
        motion_tfds.Motion(config="memroy", clips=40)


def test_works_without_tensorflow(tmp_path):
    code = (
        "import sys, tensorflow_datasets as tfds, vidrec.data.datasets.motion\n"
        f"b = tfds.builder('motion', clips=30, frames=2, size=8, data_dir={str(tmp_path)!r})\n"
        "b.download_and_prepare(); print(len(b.as_data_source('train')[0]['video']))\n"
        "heavy = {'tensorflow', 'torch', 'keras', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1:] == ["2"]


def test_preparing_leaves_no_litter_and_damage_to_what_describes_a_set_is_found(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    data = Data(tfds="motion/clips=30")
    assert not tfds_dataset.is_prepared(data)
    place = Path(tfds_dataset._builder(data.tfds, "").data_path)
    half = place.with_name(f"incomplete.ABC123_{place.name}")
    half.mkdir(parents=True)  # of a process that was killed
    assert len(tfds_dataset.load(data)) == 30
    assert not half.exists()
    # Killed while the checksums were written: the next one writes them and tidies up.
    (place / atomic.SUMS).rename(place / ".vidrec-0123456789abcdef.partial.json")
    atomic._sweep_once.cache_clear()  # as in a new process
    assert len(tfds_dataset.load(data)) == 30
    assert (place / atomic.SUMS).exists()
    assert not list(place.glob(".vidrec-*"))
    assert list((tmp_path / "tmp").iterdir()) == []
    described = [file for file in place.iterdir() if "record" not in file.name]
    assert len(described) >= 4
    for file in described:
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], whole[:-2] + b"\xff\xfe", b"[" * 100_000):
            file.write_bytes(content)
            with pytest.raises(UserError, match=re.escape(str(tmp_path / "cache"))) as caught:
                tfds_dataset.load(data)
            assert "\n" not in str(caught.value)
        file.write_bytes(whole)
    assert len(tfds_dataset.load(data)) == 30
