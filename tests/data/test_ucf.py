"""UCF-101 and UCF-11 by their names: official lists, classes, groups, and what is missing."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.video_files import clip, moving

from vidrec.config import Data
from vidrec.data import datasets, splits, video
from vidrec.data.datasets import UnreadableClip, ucf
from vidrec.errors import UserError

OFFICIAL = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
FOUR = ("Basketball", "Diving", "GolfSwing", "Skiing")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path_factory.getbasetemp() / "ucf-cache"))


def listed(lists: Path, pattern: str) -> list[str]:
    """Names in the official lists, read the plain way."""
    lines = [line for file in sorted(lists.glob(pattern)) for line in file.read_text().split("\n")]
    return [line.split()[0] for line in lines if line.strip()]


@pytest.fixture(scope="session")
def ucf101(tmp_path_factory, real_data) -> Path:
    """All 13,320 names, each one tiny video with an end of its own; spelled as the archives do."""
    base = tmp_path_factory.mktemp("ucf")
    lists = real_data / "ucfTrainTestlist"
    tiny = clip("tiny.avi", 4, (32, 32))(base).read_bytes()
    root = base / "UCF-101"
    for name in listed(lists, "t*list01.txt"):
        path = root / name.replace("v_HandStand", "v_Handstand")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny + name.encode())
    shutil.copytree(lists, base / "ucfTrainTestlist")
    return root


def official(root, **options) -> Data:
    return Data(kind="ucf101", root=str(root), split="given", **options)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_official_lists(ucf101, real_data, fold):
    how = official(ucf101, fold=fold)
    data = datasets.load(how)
    split = splits.make(data, how)
    lists = real_data / "ucfTrainTestlist"
    assert (len(split.train) + len(split.val), len(split.test)) == OFFICIAL[fold]
    in_test = {data.names[i] for i in split.test}
    assert in_test == set(listed(lists, f"testlist0{fold}.txt"))
    # Labels are classInd's numbers, less one.
    numbers = dict(line.split()[::-1] for line in (lists / "classInd.txt").read_text().splitlines())
    assert len(data.classes) == 101
    for i in range(0, len(data), 37):
        name = data.names[i].partition("/")[0]
        assert data.classes[data.labels[i]] == name
        assert data.labels[i] == int(numbers[name]) - 1
    # No group in two parts, told by the names alone.
    groups = {
        part: {data.names[i].rpartition("_c")[0] for i in getattr(split, part)}
        for part in ("train", "val", "test")
    }
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["val"]
    assert not groups["val"] & groups["test"]
    assert split.leaked is False
    assert data.notes == []
    assert len(set(data.groups)) == 101 * 25


def test_fold_0_is_list_1_and_there_is_no_list_4(ucf101):
    ids = {
        splits.make(datasets.load(h), h).id for h in (official(ucf101), official(ucf101, fold=1))
    }
    assert len(ids) == 1
    with pytest.raises(UserError, match="lists 1, 2 and 3"):
        datasets.load(official(ucf101, fold=4))


def test_four_classes_have_the_supports_of_the_lists(ucf101):
    how = official(ucf101, classes=FOUR, swapped=True)
    data = datasets.load(how)
    assert data.classes == FOUR
    split = splits.make(data, how)
    assert np.bincount(data.labels[split.test]).tolist() == [99, 105, 100, 95]
    assert len(split.train) + len(split.val) == 159
    straight = splits.make(data, official(ucf101, classes=FOUR))
    assert np.bincount(data.labels[straight.test]).tolist() == [35, 45, 39, 40]


def test_case_of_handstand_pushups_does_not_count(ucf101):
    with pytest.raises(UserError, match=r"no class 'archery'; did you mean 'Archery'"):
        datasets.load(official(ucf101, classes=("archery", "biking")))
    data = datasets.load(official(ucf101, classes=("HandstandPushups", "HandstandWalking")))
    name = "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    i = data.names.index(name)
    assert Path(data.path(i)).name == "v_HandstandPushups_g01_c01.avi"
    assert data.read(i, [0], 16).shape == (1, 16, 16, 3)


def test_group_splits_folds_and_leaving_out(ucf101):
    data = datasets.load(Data(kind="ucf101", root=str(ucf101)))
    split = splits.make(data, Data(kind="ucf101"))
    assert split.leaked is False
    assert abs(len(split.test) - 13320 / 5) < 60
    seventh = splits.make(data, Data(kind="ucf101", fold=7))
    assert {data.names[i].split("_")[2] for i in seventh.test} == {"g07"}
    leak = splits.make(data, Data(kind="ucf101", split="random", test=0.25, val=0))
    siblings = set(data.groups[leak.train])
    share = np.mean([group in siblings for group in data.groups[leak.test]])
    assert share > 0.99  # what a random split does in this field
    assert leak.leaked is True


def test_listed_clips_that_are_missing_stay_expected(ucf101, tmp_path):
    root = tmp_path / "UCF-101"
    for kind in FOUR:
        shutil.copytree(ucf101 / kind, root / kind, copy_function=os.link)
    shutil.copytree(ucf101.parent / "ucfTrainTestlist", root / "ucfTrainTestlist")
    lost = root / "Diving" / "v_Diving_g01_c01.avi"
    lost.unlink()
    extra = root / "Diving" / "v_Diving_g26_c01.avi"
    os.link(root / "Diving" / "v_Diving_g01_c02.avi", extra)
    how = official(root, classes=FOUR)
    data = datasets.load(how)
    split = splits.make(data, how)
    assert len(split.test) == 159
    i = data.names.index("Diving/v_Diving_g01_c01.avi")
    assert i in split.test
    with pytest.raises(UnreadableClip, match="no such file"):
        data.read(i, [0], 16)
    assert data.notes[0].startswith("1 clip of the official lists is not in")
    assert data.notes[1] == "1 clip stands in no official list: v_Diving_g26_c01.avi …"
    # Fewer classes are another task, so they have to be named.
    with pytest.raises(UserError, match=r"97 of 101 classes have no clips.*--data\.classes"):
        datasets.load(official(root))


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("trainlist01.txt", ("_g08_c01.avi 1\n", "_g08_c01.avi 7\n"), "is labelled 7; classInd"),
        ("trainlist01.txt", ("v_Archery_g08_c01", "v_Archrey_g08_c01"), "did you mean 'Archery'"),
        ("trainlist01.txt", ("v_Archery_g08_c01.avi", "archery.avi"), "is not named as in UCF-101"),
        ("testlist01.txt", ("v_Archery_g01_c01", "v_Archery_g08_c01"), "in the training list too"),
        ("classInd.txt", ("3 Archery", "4 Archery"), "line 3: should be '3 CLASS'"),
    ],
)
def test_lists_that_contradict_are_refused(ucf101, tmp_path, file, change, line):
    root = tmp_path / "UCF-101"
    root.mkdir()
    shutil.copytree(ucf101.parent / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    os.link(ucf101 / "Archery/v_Archery_g01_c01.avi", root / "v_Archery_g01_c01.avi")
    path = tmp_path / "ucfTrainTestlist" / file
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(UserError, match=line):
        datasets.load(official(root))


def test_a_leak_in_the_lists_is_named(ucf101, tmp_path):
    root = tmp_path / "UCF-101"
    for kind in FOUR:
        shutil.copytree(ucf101 / kind, root / kind, copy_function=os.link)
    shutil.copytree(ucf101.parent / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    train, test = (tmp_path / "ucfTrainTestlist" / f"{p}list01.txt" for p in ("train", "test"))
    moved = "Diving/v_Diving_g03_c02.avi"
    assert moved in test.read_text()
    test.write_text(test.read_text().replace(moved + "\n", ""))
    train.write_text(train.read_text() + f"{moved} 26\n")
    how = official(root, classes=FOUR)
    with pytest.raises(UserError, match="group 'Diving/g03' stands in both train and test"):
        splits.make(datasets.load(how), how)


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        (Data(kind="ucf101"), ("UCF101.php", "6.5 GB", "UCF-101")),
        (Data(kind="ucf11"), ("UCF_YouTube_Action.php", "1 GB", "UCF-11")),
        (Data(kind="tfds", tfds="ucf11"), ("UCF_YouTube_Action.php", "1 GB", "UCF-11")),
    ],
)
def test_missing_archives_say_where_to_get_them(how, parts, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        datasets.load(how)
    line = str(caught.value)
    assert "\n" not in line
    for part in (*parts, str(tmp_path), "--on motion", "crcv.ucf.edu"):
        assert part in line


def test_missing_lists_say_so(tmp_path):
    folder = tmp_path / "UCF-101" / "Archery"
    folder.mkdir(parents=True)
    clip("v_Archery_g01_c01.avi", 2)(folder)
    with pytest.raises(UserError, match="no split lists"):
        datasets.load(official(tmp_path / "UCF-101"))
    # Without lists the classes are those of the names, in the order of classInd whatever the case.
    clip("v_Hammering_g01_c01.avi", 2)(folder)
    clip("v_HammerThrow_g01_c01.avi", 2)(folder)
    data = datasets.load(Data(kind="ucf101", root=str(tmp_path / "UCF-101")))
    assert data.classes == ("Archery", "Hammering", "HammerThrow")


def test_clips_may_be_folders_of_frames(tmp_path):
    from PIL import Image

    def lay(folder: Path, frames: int) -> None:
        folder.mkdir(parents=True)
        for place in range(1, frames + 1):
            Image.new("RGB", (8, 8)).save(folder / f"{folder.name}_{place:03d}.jpg")

    for kind in ("Archery", "Diving"):
        for group in (1, 2, 3):
            lay(tmp_path / "101" / kind / f"v_{kind}_g{group:02d}_c01", 3 + group)
    data = datasets.load(Data(kind="ucf101", root=str(tmp_path / "101"), split="group"))
    assert data.names[0] == "Archery/v_Archery_g01_c01"
    assert data.groups.tolist() == [
        f"{k}/g{g:02d}" for k in ("Archery", "Diving") for g in (1, 2, 3)
    ]
    assert data.lengths.tolist() == [4, 5, 6] * 2
    for kind in ("biking", "diving"):
        for group in (1, 2):
            folder = tmp_path / "11" / kind / f"v_{kind}_{group:02d}"
            lay(folder / f"{folder.name}_01", 5)
    data = datasets.load(Data(kind="ucf11", root=str(tmp_path / "11")))
    assert data.names[0] == "biking/v_biking_01/v_biking_01_01"
    assert data.groups.tolist() == ["biking/g01", "biking/g02", "diving/g01", "diving/g02"]
    assert data.read(0, [4, 0], 16).shape == (2, 16, 16, 3)


@pytest.fixture(scope="session")
def ucf11(tmp_path_factory) -> Path:
    """1,600 names in 11 classes and 25 groups, and the annotations that lie among them."""
    base = tmp_path_factory.mktemp("ucf11")
    root = base / "UCF11_updated_mpg"
    tiny = clip("tiny.mpg", 4, (32, 32))(base).read_bytes()
    # 25 groups of 5 or 6 clips: 1600 = 11 * 25 * 5 + 225
    for place, kind in enumerate(ucf.CLASSES_11):
        for group in range(1, 26):
            name = f"v_{'shooting' if kind == 'basketball' else kind}_{group:02d}"
            folder = root / kind / name
            folder.mkdir(parents=True)
            for number in range(1, 6 + (place * 25 + group <= 225)):
                file = folder / f"{name}_{number:02d}.mpg"
                file.write_bytes(tiny + file.name.encode())
        (root / kind / "Annotation").mkdir()
        (root / kind / "Annotation" / f"{name}.xgtf").write_text("<xml/>")
    return root


def test_ucf11(ucf11):
    how = Data(kind="ucf11", root=str(ucf11.parent))
    data = datasets.load(how)
    assert len(data) == 1600
    assert data.classes == ucf.CLASSES_11
    assert data.notes == []
    assert data.names[0] == "basketball/v_shooting_01/v_shooting_01_01.mpg"
    assert data.groups_known
    assert len(set(data.groups)) == 275
    assert data.read(0, [3, 0], 16).shape == (2, 16, 16, 3)
    split = splits.make(data, how)
    assert split.leaked is False
    assert abs(len(split.test) - 320) < 40
    with pytest.raises(UserError, match="comes without lists"):
        splits.make(data, Data(kind="ucf11", split="given"))


def test_ucf11_leaves_each_group_out_once(ucf11):
    data = datasets.load(Data(kind="ucf11", root=str(ucf11)))
    tested = Counter()
    for fold in range(1, 26):
        split = splits.make(data, Data(kind="ucf11", fold=fold))
        assert {data.names[i].split("/")[1][-2:] for i in split.test} == {f"{fold:02d}"}
        assert set(data.labels[split.test].tolist()) == set(range(11))
        assert split.leaked is False
        tested.update(split.test.tolist())
    assert tested == Counter(range(1600))
    with pytest.raises(UserError, match="has 25 recordings"):
        splits.make(data, Data(kind="ucf11", fold=26))


def test_ucf11_not_whole_is_said(ucf11, tmp_path):
    shutil.copytree(ucf11 / "diving", tmp_path / "diving", copy_function=os.link)
    shutil.copytree(ucf11 / "biking", tmp_path / "biking", copy_function=os.link)
    data = datasets.load(Data(kind="ucf11", root=str(tmp_path)))
    assert "here are 300, 2 and 25" in data.notes[0]


def test_ucf11_as_a_tfds_set(tmp_path):
    """30 frames from the middle, short clips continued, a broken one named in the metadata."""
    import tensorflow_datasets as tfds

    root = tmp_path / "archive"
    lengths = {"biking": 50, "diving": 30, "walking": 10}
    for kind, length in lengths.items():
        for group in (20, 21):
            folder = root / kind / f"v_{kind}_{group:02d}"
            folder.mkdir(parents=True)
            clip(f"v_{kind}_{group:02d}_01.mpg", length, (48, 64))(folder)
    (root / "biking/v_biking_20/v_biking_20_02.mpg").write_bytes(b"broken")
    builder = tfds.builder("ucf11", data_dir=tmp_path / "data")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    made = builder.as_data_source()
    assert {name: len(part) for name, part in made.items()} == {"train": 3, "test": 3}
    assert builder.info.features["label"].names == list(ucf.CLASSES_11)
    assert "liu2009" in builder.info.citation
    for example in made["train"]:
        name = example["name"].decode()
        whole = np.concatenate(list(video.stream(root / name, 64)))
        n = len(whole)
        plain = [*range(n), *range(n - 2, 0, -1)] * 5  # there and back again
        start = max(0, n - 30) // 2
        np.testing.assert_array_equal(example["video"], whole[plain[start : start + 30]])
        assert ucf.CLASSES_11[example["label"]] == name.split("/")[0]
        assert example["group"].decode() == f"{name.split('/')[0]}/g20"
    lost = {"path": "biking/v_biking_20/v_biking_20_02.mpg", "reason": "damaged, or not a video"}
    again = tfds.builder("ucf11", data_dir=tmp_path / "data")
    assert again.info.metadata["unreadable"] == [lost]
    # The same through our own name for it: the archive is the root, the set goes to the cache.
    data = datasets.load(Data(kind="tfds", tfds="ucf11", root=str(root)))
    assert len(data) == 6
    assert data.classes == ucf.CLASSES_11
    assert data.notes == [
        f"1 clip could not be read when ucf11 was prepared: {lost['path']}: {lost['reason']}"
    ]
    assert not (root / "ucf11").exists()


def test_the_middle_of_a_clip():
    frames = np.arange(7)
    assert ucf.middle(frames, 3).tolist() == [2, 3, 4]
    assert ucf.middle(frames[:3], 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert ucf.middle(frames[:1], 3).tolist() == [0, 0, 0]


@pytest.mark.slow
def test_tfds_own_ucf101_holds_the_same_clips(tmp_path, monkeypatch, real_data):
    """TFDS's builder over a small stand-in, its downloads pointed at local folders."""
    pytest.importorskip("tensorflow", reason="TFDS's ucf101 needs the extra 'tensorflow'")
    if shutil.which("ffmpeg") is None:
        pytest.skip("TFDS's ucf101 needs the program ffmpeg")
    import tensorflow_datasets as tfds

    lists = tmp_path / "lists" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    root = tmp_path / "videos" / "UCF101"  # where TFDS unpacks it to, without folders of classes
    root.mkdir(parents=True)
    kept = {}
    for part in ("train", "test"):
        for fold in (1, 2, 3):
            source = real_data / "ucfTrainTestlist" / f"{part}list0{fold}.txt"
            lines = [
                line
                for line in source.read_text().splitlines()
                if line.startswith(("Archery/", "Diving/"))
            ]
            (lists / source.name).write_text("\n".join(lines[::20]) + "\n")
            kept[part, fold] = [line.split()[0] for line in lines[::20]]
    shutil.copy(real_data / "ucfTrainTestlist" / "classInd.txt", lists)
    for number, name in enumerate(sorted({name for names in kept.values() for name in names})):
        frames = np.roll(moving(5, 48, 64), 2 * number, 2) // 2 + 3 * number
        video.write(root / name.rpartition("/")[2], frames.astype(np.uint8), 25)

    def local(self, urls):
        found = {
            key: tmp_path / ("lists" if "Split" in str(u) else "videos") for key, u in urls.items()
        }
        return found

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", local)
    shutil.copytree(lists, root.parent / "ucfTrainTestlist")
    ours = datasets.load(official(root, classes=("Archery", "Diving")))
    theirs = datasets.load(Data(kind="tfds", tfds="ucf101/ucf101_1", root=str(tmp_path / "data")))
    parts = splits.make(ours, official(root, classes=("Archery", "Diving"), val=0))
    for part in ("train", "test"):
        there = {i: theirs.read(i, range(5), 32).astype(int) for i in theirs.given[part]}
        matched = []
        for i in getattr(parts, part):
            frames = ours.read(i, range(5), 32)
            nearest = min(there, key=lambda k: np.abs(there[k] - frames).mean())
            assert np.abs(there[nearest] - frames).mean() < 5
            matched.append(nearest)
            mine, other = (s.classes[s.labels[k]] for s, k in ((ours, i), (theirs, nearest)))
            assert mine == other
        assert sorted(matched) == theirs.given[part].tolist()
        assert len(matched) == len(kept[part, 1])
    assert theirs.lengths.tolist() == [5] * len(theirs)
    # It skips what it does not find, so what it made is counted.
    assert "the official lists have 9537 and 3783" in theirs.notes[0]
