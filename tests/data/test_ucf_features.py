"""UCF-101 and UCF-11 as folders of ready-made features: lists, classes, names, what is refused."""

import shutil

import numpy as np
import pytest
from helpers.ucf_features import CLIPS, GROUPS, NAMES, STEPS, clip_array, write_ucf11, write_ucf101
from helpers.video_files import clip

from vidrec.config import Data
from vidrec.data import datasets, doctor, splits
from vidrec.data.datasets import ucf
from vidrec.errors import UserError

UNPACKED = "ucf101_vgg16_14"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ucf101(tmp_path_factory.mktemp("features"))


def official(root, **options) -> Data:
    return Data(kind="ucf101", root=str(root), split="given", **options)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_official_lists_of_the_classes_that_are_there(folder, fold):
    how = official(folder, fold=fold, val=0)
    data = datasets.load(how)
    split = splits.make(data, how)
    assert data.is_features
    assert data.classes == NAMES  # of six that the lists name
    assert data.about == {"list": fold, "classes": "4 of UCF-101's 101 classes"}
    assert data.notes == []
    tested = {data.names[i] for i in split.test}
    assert tested == {
        f"{name}/v_{name}_g{group:02d}_c{number:02d}.avi"
        for name in NAMES
        for group in range(3 * fold - 2, 3 * fold + 1)
        for number in range(1, CLIPS + 1)
    }
    assert len(split.train) + len(split.test) == len(data) == len(NAMES) * GROUPS * CLIPS
    assert not {*data.groups[split.train]} & {*data.groups[split.test]}
    assert split.leaked is False
    for i in range(0, len(data), 7):
        stem = data.names[i].partition("/")[2].removesuffix(".avi")
        kind, group, number = stem.removeprefix("v_").split("_")
        label = NAMES.index(kind)
        assert data.labels[i] == label
        expected = clip_array(label, int(group[1:]), int(number[1:]))
        np.testing.assert_array_equal(data.features(i), expected.astype(np.float32))
    swapped = splits.make(data, official(folder, fold=fold, swapped=True, val=0))
    assert swapped.train.tolist() == split.test.tolist()


def test_subsets_folds_and_draws(folder):
    how = official(folder, classes=("Diving", "Archery"))
    data = datasets.load(how)
    assert data.classes == ("Archery", "Diving")
    assert data.about["classes"] == "2 of UCF-101's 101 classes"
    assert {name.partition("/")[0] for name in data.names} == {"Archery", "Diving"}
    left_out = Data(kind="ucf101", root=str(folder), fold=4)
    split = splits.make(datasets.load(left_out), left_out)
    names = datasets.load(left_out).names
    assert {names[i].rpartition("_g")[2][:2] for i in split.test} == {"04"}
    with pytest.raises(UserError, match=r"holds no features of Skiing; it has those of Archery"):
        datasets.load(official(folder, classes=("Archery", "Skiing")))
    with pytest.raises(UserError, match=r"no class 'archery'; did you mean 'Archery'"):
        datasets.load(official(folder, classes=("archery",)))


def test_names_are_those_of_the_videos_so_draws_are_the_same(folder, tmp_path):
    """A folder of videos with the same names splits into the same clips."""
    for path in folder.rglob("*.npy"):
        target = tmp_path / path.relative_to(folder).with_suffix(".avi")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"no video is opened here")
    shutil.copytree(folder / ucf.LISTS, tmp_path / ucf.LISTS)
    videos = datasets.load(official(tmp_path, classes=NAMES)).keep_classes(NAMES)
    features = datasets.load(official(folder))
    assert videos.names == features.names
    assert not videos.is_features
    ids = [splits.make(each, official(folder)).id for each in (videos, features)]
    assert ids[0] == ids[1]
    # Missing classes of videos stay refused.
    with pytest.raises(UserError, match=r"2 of 6 classes have no clips"):
        datasets.load(official(tmp_path))


def test_the_doctor_names_the_files_that_are_there(folder, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    first, second = (root / "Archery" / f"v_Archery_g02_c{number:02d}.npy" for number in (1, 2))
    shutil.copy(first, second)
    how = official(root)
    (same,) = doctor.examine(datasets.load(how), how)["duplicates"]
    assert same["names"] == [f"Archery/{path.stem}.avi" for path in (first, second)]
    assert same["files"] == [f"Archery/{path.name}" for path in (first, second)]
    line = f"same content: Archery/{first.name} = Archery/{second.name}"
    assert line in doctor.lines(doctor.examine(datasets.load(how), how))


def test_safetensors_and_two_files_of_a_clip(folder, tmp_path):
    from safetensors.numpy import save_file

    root = tmp_path / "copy"
    shutil.copytree(folder, root)
    path = root / "Archery" / "v_Archery_g01_c01.npy"
    save_file({"features": np.load(path)}, path.with_suffix(".safetensors"))
    with pytest.raises(UserError, match=r"are features of one clip: keep one"):
        datasets.load(official(root))
    path.unlink()
    data = datasets.load(official(root))
    assert data.names == datasets.load(official(folder)).names
    np.testing.assert_array_equal(data.features(0), clip_array(0, 1, 1).astype(np.float32))
    path.with_suffix(".safetensors").unlink()
    data = datasets.load(official(root))
    assert data.lengths[0] == 0  # a clip of the lists stays expected
    assert "1 clip of the official lists is not in" in data.notes[0]


def test_features_beside_videos_are_not_taken(tmp_path):
    folder = tmp_path / "Archery"
    folder.mkdir()
    clip("v_Archery_g01_c01.avi", 2)(folder)
    np.save(folder / "v_Archery_g01_c01.npy", np.zeros((2, 3), np.float32))
    data = datasets.load(Data(kind="ucf101", root=str(tmp_path)))
    assert not data.is_features
    assert len(data) == 1
    assert not ucf.holds_features(Data(kind="ucf101", root=str(tmp_path)))


def test_ucf11(tmp_path):
    how = Data(kind="ucf11", root=str(write_ucf11(tmp_path)), fold=2)
    assert ucf.holds_features(how)
    data = datasets.load(how)
    assert data.is_features
    assert data.about == {"classes": "2 of UCF-11's 11 classes"}
    assert data.names[0] == "biking/v_biking_01/v_biking_01_01.npy"
    split = splits.make(data, how)
    assert {data.names[i].split("/")[1][-2:] for i in split.test} == {"02"}


def test_doctor(folder):
    how = official(folder)
    found = doctor.examine(datasets.load(how), how)
    assert found["healthy"]
    assert found["frames"]["decoded"] == len(NAMES) * GROUPS * CLIPS * STEPS
    assert found["classes"] == dict.fromkeys(NAMES, GROUPS * CLIPS)


@pytest.mark.parametrize(("fold", "train", "test"), [(1, 1341, 524), (2, 0, 0), (3, 0, 0)])
def test_the_official_lists_over_real_names(real_data, tmp_path, fold, train, test):
    """Counts of lists 1 to 3 over the names of the 1,865 real clips."""
    import csv

    index = real_data / UNPACKED / "index.csv"
    if not index.is_file():
        pytest.skip(f"VIDREC_TEST_DATA has no {UNPACKED}")
    with open(index, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path = tmp_path / f"{row['clip']}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.frombuffer(row["clip"].encode().ljust(60), np.uint8).reshape(2, 30))
    shutil.copytree(real_data / ucf.LISTS, tmp_path / ucf.LISTS)
    how = official(tmp_path, fold=fold)
    data = datasets.load(how)
    split = splits.make(data, how)
    listed = {
        line.split()[0].removesuffix(".avi")
        for line in (real_data / ucf.LISTS / f"testlist{fold:02d}.txt").read_text().splitlines()
    }
    expected = sum(row["clip"] in listed for row in rows)
    assert len(split.test) == expected
    assert len(split.train) + len(split.val) == len(rows) - expected
    if test:
        assert (len(split.train) + len(split.val), len(split.test)) == (train, test)
    assert data.about["classes"] == "14 of UCF-101's 101 classes"
    assert split.leaked is False
    assert not split.shared
    if fold == 1:  # the folder's own account of list 1
        own = {row["clip"] for row in rows if row["split1"] == "test"}
        assert {data.names[i].removesuffix(".avi") for i in split.test} == own
