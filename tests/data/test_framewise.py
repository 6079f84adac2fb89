"""Labels of frames: segments.csv, label files as published sets have them, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.label_folders import gtea_like
from vidrec import UserError
from vidrec.config import Data
from vidrec.data import splits
from vidrec.data.datasets import framewise
from vidrec.data.datasets.frame_labels import FrameLabels, LabelRules
from vidrec.data.video import writing


def features(folder: Path, **lengths: int) -> Data:
    folder.mkdir(exist_ok=True)
    for name, length in lengths.items():
        np.save(folder / f"{name}.npy", np.random.default_rng(length).random((length, 5), "f4"))
    return Data(kind="features", root=str(folder))


def by_frame(dataset):
    """The name of every frame's label, by clip."""
    rates = dataset.fps if dataset.fps is not None else np.zeros(len(dataset))
    names = [*dataset.classes, "-"]
    return {
        name: [names[label] for label in labels.frames(length, fps)]
        for name, labels, length, fps in zip(
            dataset.names, dataset.frame_labels, dataset.lengths.tolist(), rates, strict=True
        )
    }


def test_segments_of_features_count_frames(tmp_path):
    data = features(tmp_path, a=10, b=6)
    (tmp_path / "segments.csv").write_text(
        "path,start,end,label\nb.npy,0,6,walk\na.npy,7,9,run\na.npy,2,5,walk\n"
    )
    dataset = framewise.load(data, LabelRules())
    assert dataset.classes == ("run", "walk")
    labels = by_frame(dataset)
    assert labels["a.npy"] == [*"--", *["walk"] * 3, *"--", *["run"] * 2, "-"]
    assert labels["b.npy"] == ["walk"] * 6
    assert dataset.labels.tolist() == [1, 1]
    filled = framewise.load(data, LabelRules(unlabelled="background"))
    assert filled.classes == ("background", "run", "walk")
    assert by_frame(filled)["a.npy"][:3] == ["background", "background", "walk"]
    ignored = framewise.load(data, LabelRules(unlabelled="background", ignore=("run",)))
    assert by_frame(ignored)["a.npy"][7:] == ["-", "-", "background"]
    assert len({each.fingerprint() for each in (dataset, filled, ignored)}) == 3


def video(path: Path, frames: int, fps: int) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3), np.uint8)
    writing.write(path, clip, fps)


@pytest.mark.parametrize("unit", ["seconds", "frames"])
@pytest.mark.parametrize("rate", [0, 5])
def test_segments_of_videos_are_found_by_time(tmp_path, unit, rate):
    video(tmp_path / "a.mp4", 40, fps=20)
    scale = 1 if unit == "seconds" else 20
    rows = [(0.2, 1.0, "run"), (1.0, 1.75, "walk")]
    lines = [f"a.mp4,{s * scale:g},{e * scale:g},{name},{unit}" for s, e, name in rows]
    (tmp_path / "segments.csv").write_text("\n".join(["path,start,end,label,unit", *lines]))
    dataset = framewise.load(Data(kind="videos", root=str(tmp_path), fps=rate), LabelRules())
    [labels] = by_frame(dataset).values()
    fps = rate or 20
    for frame, label in enumerate(labels):
        middle = (frame + 0.5) / fps
        expected = [name for start, end, name in rows if start <= middle < end]
        assert label == (expected[0] if expected else "-")
    assert len(labels) == 2 * fps


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.npy,3,3,x", "line 2: end 3 should be behind start 3"),
        ("a.npy,one,3,x", "line 2: start 'one' should be a whole number of frames"),
        ("a.npy,0.5,3,x", "line 2: start '0.5' should be a whole number of frames"),
        ("a.npy,-1,3,x", "line 2: start '-1'"),
        ("a.npy,0,nan,x", "line 2: end 'nan'"),
        ("a.npy,0,1e400,x", "line 2: end '1e400'"),
        ("a.npy,0,30,x\na.npy,0,4,y", "line 3: y of a.npy begins at 0, before x of line 2"),
        ("a.npy,0,4,x\na.npy,4,300,y", "labels 300 frames, and .*a.npy has 20"),
        ("a.npy,0,4,x\nb.npy,0,4,x", "labels frames of 1 class"),
        ("a.npy,0,4,", "line 2: .* should not be empty"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, message):
    data = features(tmp_path, a=20, b=20)
    (tmp_path / "segments.csv").write_text(f"path,start,end,label\n{line}\n")
    with pytest.raises(UserError, match=message) as caught:
        framewise.load(data, LabelRules())
    assert "\n" not in str(caught.value)


def test_seconds_of_features_are_refused(tmp_path):
    data = features(tmp_path, a=20)
    text = "path,start,end,label,unit\na.npy,0,1,x,seconds\na.npy,1,2,y,seconds\n"
    (tmp_path / "segments.csv").write_text(text)
    with pytest.raises(UserError, match=r"line 2: features have no rate.*count frames"):
        framewise.load(data, LabelRules())


def test_a_published_layout_is_read_as_it_comes(tmp_path):
    truth = gtea_like(tmp_path)
    dataset = framewise.load(Data(kind="features", root=str(tmp_path)), LabelRules())
    assert dataset.classes == ("background", "take", "open", "pour")  # by mapping.txt
    assert by_frame(dataset) == truth
    for clip, name in enumerate(dataset.names):
        stored = np.load(tmp_path / "features" / f"{name}.npy")
        np.testing.assert_array_equal(dataset.features(clip), stored.T)
        np.testing.assert_array_equal(dataset.read_features(clip, [3, 1]), stored.T[[3, 1]])
    assert set(dataset.groups) == {"S1", "S2", "S3", "S4"}
    for fold in (1, 2):
        data = Data(kind="features", root=str(tmp_path), split="given", fold=fold, val=0)
        dataset = framewise.load(data, LabelRules())
        split = splits.make(dataset, data)
        assert {dataset.groups[clip] for clip in split.test} == {f"S{fold}"}
        assert {dataset.groups[clip] for clip in split.train} == {"S1", "S2", "S3", "S4"} - {
            f"S{fold}"
        }
    with pytest.raises(UserError, match=r"data.fold = 7: .*splits has the lists 1, 2, 3, 4"):
        framewise.load(
            Data(kind="features", root=str(tmp_path), split="given", fold=7), LabelRules()
        )


def test_features_of_frames_first_are_told_by_their_labels(tmp_path):
    truth = gtea_like(tmp_path)
    for file in (tmp_path / "features").iterdir():
        np.save(file, np.load(file).T)
    dataset = framewise.load(Data(kind="features", root=str(tmp_path)), LabelRules())
    assert by_frame(dataset) == truth
    assert dataset.shape == (6,)


def test_a_label_that_is_ignored_is_no_class(tmp_path):
    gtea_like(tmp_path)
    rules = LabelRules(ignore=("take",))
    dataset = framewise.load(Data(kind="features", root=str(tmp_path)), rules)
    assert dataset.classes == ("background", "open", "pour")
    assert "-" in {label for labels in by_frame(dataset).values() for label in labels}


def damage(root: Path, what: str) -> str:
    """Break one thing of a published layout; return what the message should say."""
    truth = root / "groundTruth"
    first = min(truth.iterdir())
    if what == "label":
        first.write_text(first.read_text().replace("pour", "puor"))
        return rf"{re.escape(str(first))}, line \d+: 'puor' is no class .*did you mean 'pour'"
    if what == "short":
        lines = first.read_text().splitlines()
        first.write_text("\n".join(lines[: len(lines) // 2]))
        return rf"{re.escape(str(first))} labels \d+ frames, and .* has \d+"
    if what == "empty line":
        first.write_text("take\n\ntake\n")
        return "line 2: no label"
    if what == "empty":
        first.write_text("")
        return "is empty"
    if what == "mapping":
        (root / "mapping.txt").write_text("0 background\n2 take\n")
        return "mapping.txt: numbers should be 0 to 1"
    if what == "mapping line":
        (root / "mapping.txt").write_text("background\n")
        return "mapping.txt, line 1: 'background' should be a number and a name"
    if what == "no features":
        for file in (root / "features").iterdir():
            file.rename(file.with_stem(f"other_{file.stem}"))
        return "holds no feature files .* named as the 8 label files of groundTruth"
    for file in truth.iterdir():
        file.unlink()
    return "holds no label files"


@pytest.mark.parametrize(
    "what",
    ["label", "short", "empty line", "empty", "mapping", "mapping line", "no features", "nothing"],
)
def test_a_layout_that_is_broken_is_named(tmp_path, what):
    gtea_like(tmp_path)
    message = damage(tmp_path, what)
    with pytest.raises(UserError, match=message) as caught:
        framewise.load(Data(kind="features", root=str(tmp_path)), LabelRules())
    assert "\n" not in str(caught.value)


def test_a_folder_without_labels_of_frames_says_what_is_needed(tmp_path):
    data = features(tmp_path / "walk", a=20)
    with pytest.raises(UserError, match=r"segments.csv with columns.*groundTruth"):
        framewise.load(data, LabelRules())


def test_frames_become_segments_and_frames_again():
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = np.repeat(rng.integers(-1, 3, 6), rng.integers(0, 5, 6))
        segments = FrameLabels.of(labels)
        np.testing.assert_array_equal(segments.frames(len(labels)), labels)
        np.testing.assert_array_equal(segments.in_seconds(30).frames(len(labels), 30), labels)
        padded = segments.frames(len(labels) + 4)
        assert (padded[len(labels) :] == -1).all()
