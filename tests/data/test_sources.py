"""Folders of videos, images and features, and TFDS sets: the same interface, nothing dropped."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import video_files
from helpers.video_files import FRAMES, as_nobody, clip, moving

from vidrec.config import Config, Data, override
from vidrec.data import datasets, hashing, pictures, split_text, splits, video
from vidrec.data.datasets import UnreadableClip, base
from vidrec.errors import TransientError, UserError
from vidrec.training import prepare


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Data sets are prepared once a session, away from the user's."""
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def one_clip(tmp_path_factory) -> bytes:
    return clip()(tmp_path_factory.mktemp("one")).read_bytes()


def lay(root: Path, content: bytes, names) -> Path:
    """Writes files, each with the same frames but content of its own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + os.fsencode(name))
    return root


def videos(root: Path, **options) -> Data:
    return Data(kind="videos", root=str(root), **options)


def test_a_folder_a_class(tmp_path, one_clip):
    names = [f"{kind}/{kind}_{i}.mp4" for kind in ("run", "Dance", "fly") for i in range(5)]
    data = datasets.load(videos(lay(tmp_path / "moves", one_clip, names)))
    assert data.name == "moves"
    assert data.classes == ("Dance", "fly", "run")
    assert sorted(names) == sorted(data.names)
    assert [data.classes[label] for label in data.labels] == [n.split("/")[0] for n in data.names]
    assert data.lengths.tolist() == [FRAMES] * 15
    assert data.fps.tolist() == [25] * 15
    assert not data.groups_known
    assert data.groups.tolist() == list(data.names)
    assert data.given is None
    frames = data.read(0, [3, 0], 32)
    assert frames.shape == (2, 32, 32, 3)
    whole = np.concatenate(list(data.stream(0, 32, 7)))
    np.testing.assert_array_equal(frames, whole[[3, 0]])


def test_names_and_ids_do_not_depend_on_where_it_lies(tmp_path, one_clip):
    names = [f"{kind}/sub/{i}.mp4" for kind in "ab" for i in range(4)]
    here = datasets.load(videos(lay(tmp_path / "x" / "set", one_clip, names)))
    there = datasets.load(videos(lay(tmp_path / "y" / "other name", one_clip, names[::-1])))
    again = datasets.load(videos(lay(tmp_path / "z" / "set", one_clip, names)))
    assert here.names == there.names
    assert here.fingerprint() == again.fingerprint() == there.fingerprint()
    assert [here.key(i) for i in range(8)] == [again.key(i) for i in range(8)]
    assert len({here.key(i) for i in range(8)}) == 8
    (tmp_path / "z/set/a/sub/0.mp4").write_bytes(one_clip)
    changed = datasets.load(videos(tmp_path / "z/set"))
    assert changed.fingerprint() != here.fingerprint()
    assert changed.key(0) != here.key(0)
    assert changed.key(1) == here.key(1)


def test_any_folder_of_a_users(tmp_path, one_clip):
    """Spaces, scripts, sizes, rates, containers, one corrupt file: all there, one named."""
    root = tmp_path / "My vidéos – 视频"
    (root / "Läufe am Tag").mkdir(parents=True)
    (root / "танец").mkdir()
    for folder in root.iterdir():
        clip("small 1.mp4", 10, (36, 48), 12)(folder)
        clip("größer.avi", 20, (90, 120), 30)(folder)
        clip("ñ.webm", 15, (23, 37), 25)(folder)
        clip("四.mkv", 12, (64, 64), 60)(folder)
    (root / "танец" / "broken.mp4").write_bytes(b"no video at all")
    data = datasets.load(videos(root))
    assert data.classes == ("Läufe am Tag", "танец")
    assert len(data) == 9
    broken = data.names.index("танец/broken.mp4")
    outcomes = {}
    for i, name in enumerate(data.names):
        try:
            outcomes[name] = sum(len(chunk) for chunk in data.stream(i, 32))
        except UnreadableClip as error:
            outcomes[name] = error.reason
    assert outcomes.pop("танец/broken.mp4") == "damaged, or not a video"
    assert sorted(outcomes.values()) == [10, 10, 12, 12, 15, 15, 20, 20]
    assert data.lengths[broken] == 0
    assert data.path(broken) == str(root / "танец" / "broken.mp4")
    lines = split_text.describe(data, splits.make(data, videos(root)))
    assert lines[0].endswith("2 classes, 9 clips, 0.1 minutes of video, 1 that cannot be opened")


def test_composed_and_decomposed_names_are_the_same(tmp_path, one_clip):
    import unicodedata

    names = ["é/a.mp4", "é/b.mp4", "o/a.mp4"]
    composed = lay(tmp_path / "a", one_clip, [unicodedata.normalize("NFC", n) for n in names])
    apart = lay(tmp_path / "b", one_clip, [unicodedata.normalize("NFD", n) for n in names])
    assert datasets.load(videos(composed)).names == datasets.load(videos(apart)).names


def test_what_is_no_video_is_left_out_by_name(tmp_path, one_clip):
    root = lay(tmp_path / "set", one_clip, ["a/1.mp4", "a/2", "b/3.mp4", "b/deep/er/4.MOV"])
    for name in ("a/notes.txt", "a/thumb.jpg", "a/Thumbs.db", "a/.hidden.mp4", "b/data.unknown"):
        (root / name).write_bytes(b"not a video, really\n" * 9)
    (root / "LICENSE").write_text("Apache")
    (root / "stray.mp4").write_bytes(one_clip)
    data = datasets.load(videos(root))
    # A file without an extension that opens as a video is one.
    assert data.names == ("a/1.mp4", "a/2", "b/3.mp4", "b/deep/er/4.MOV")
    assert data.notes == [
        "4 files are not taken for videos: stray.mp4, a/notes.txt, a/thumb.jpg, …"
    ]


def test_links_are_followed_once(tmp_path, one_clip):
    root = lay(tmp_path / "set", one_clip, ["a/1.mp4", "b/2.mp4"])
    lay(tmp_path / "elsewhere", one_clip, ["3.mp4"])
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "loop").symlink_to(root)
    assert datasets.load(videos(root)).classes == ("a", "b", "c")


def test_ready_parts(tmp_path, one_clip):
    names = [
        f"{part}/{kind}/{i}.mp4"
        for part, count in (("train", 6), ("Validation", 2), ("test", 3))
        for kind in "ab"
        for i in range(count)
    ]
    data = datasets.load(videos(lay(tmp_path / "set", one_clip, names)))
    assert data.classes == ("a", "b")
    assert {part: len(clips) for part, clips in data.given.items()} == {
        "train": 12,
        "val": 4,
        "test": 6,
    }
    split = splits.make(data, videos(tmp_path, split="given"))
    assert all(data.names[i].startswith("test/") for i in split.test)
    assert (len(split.train), len(split.val), len(split.test)) == (12, 4, 6)
    assert "data.split given uses them" in data.notes[0]


def parts_of(data) -> dict[str, int]:
    return {part: len(clips) for part, clips in data.given.items()}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "validate", "test"),
        ("TRAIN", "Valid", "TEST"),
        ("Training", "VALIDATION", "testing"),
        ("train_set", "val set", "Test-Set"),
        ("train", "dev", "test"),
    ],
)
@pytest.mark.parametrize("extra", ["", "extras", "unlabelled/more"])
def test_parts_in_any_spelling_and_folders_beside_them(tmp_path, one_clip, train, val, test, extra):
    counts = {train: 3, val: 1, test: 2}
    names = [f"{p}/{k}/{i}.mp4" for p, n in counts.items() for k in "ab" for i in range(n)]
    names += [f"{extra}/{i}.mp4" for i in range(4) if extra]
    data = datasets.load(videos(lay(tmp_path / "set", one_clip, names)))
    assert data.classes == ("a", "b")
    assert parts_of(data) == {"train": 6, "val": 2, "test": 4}
    told = (
        f"warning: videos of {extra.partition('/')[0]}, beside the parts of a split, are not used"
    )
    assert (told in data.notes) == bool(extra)


@pytest.mark.parametrize(
    ("tops", "line"),
    [
        (("test", "val"), "look like parts of a split, and none to train on"),
        (("train1", "test1", "train2", "test2"), "look like parts of several splits"),
    ],
)
def test_parts_that_are_no_classes_are_refused(tmp_path, one_clip, tops, line):
    root = lay(tmp_path, one_clip, [f"{top}/{k}/1.mp4" for top in tops for k in "ab"])
    with pytest.raises(UserError, match=line):
        datasets.load(videos(root))


def test_classes_that_are_called_like_parts(tmp_path, one_clip):
    for tops in (("bus", "train", "tram"), ("testifying", "training dog", "validating a ticket")):
        root = lay(tmp_path / tops[0], one_clip, [f"{top}/{i}.mp4" for top in tops for i in "12"])
        data = datasets.load(videos(root))
        assert data.classes == tops
        told = "warning: train is called like a part of a split, and taken for a class"
        assert (told in data.notes) == ("train" in tops)
    root = lay(
        tmp_path / "x", one_clip, [f"{k}/{p}/1.mp4" for k in "ab" for p in ("train", "test")]
    )
    data = datasets.load(videos(root))
    assert data.classes == ("a", "b")
    assert "within classes are not used as such" in data.notes[-1]


def frames_at(folder: Path, names, shade: int = 0) -> None:
    """A folder of frames, each brighter than the one before it."""
    from PIL import Image

    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        level = min(255, shade + 9 * place)
        Image.new("RGB", (24, 16), (level, level, level)).save(folder / name)


def test_folders_of_frames_are_clips(tmp_path, one_clip):
    root = tmp_path / "set"
    for kind in "ab":
        for group in (1, 2, 3):
            for number in (1, 2):
                folder = root / kind / f"v_{kind}_g{group:02d}_c{number:02d}"
                # Numbers without zeros before them: 10 comes after 9.
                frames_at(folder, [f"frame{i}.jpg" for i in range(1, 13)], 10 * group + number)
    lay(root, one_clip, ["a/v_a_g03_c03.mp4", "b/v_b_g01_c01/thumbs/1.mp4"])
    (root / "a" / "v_a_g01_c01" / "notes.txt").write_text("x")
    (root / "a" / "v_a_g02_c03").mkdir()
    data = datasets.load(videos(root))
    assert data.classes == ("a", "b")
    assert len(data) == 15
    assert data.groups_known
    assert sorted(set(data.groups)) == [f"v_{k}_g{g:02d}" for k in "ab" for g in (1, 2, 3)]
    at = data.names.index("a/v_a_g01_c02")
    assert data.lengths[at] == 12
    assert data.fps[at] == 25
    frames = np.concatenate(list(data.stream(at, 16, 5)))
    np.testing.assert_allclose(frames[:, 8, 8, 0], [12 + 9 * i for i in range(12)], atol=2)
    np.testing.assert_array_equal(data.read(at, [11, 0], 16), frames[[11, 0]])
    assert not data.warnings
    # A folder that lost its frames is named.
    empty = data.names.index("a/v_a_g02_c03")
    assert data.lengths[empty] == 0
    with pytest.raises(UnreadableClip, match="holds no numbered frames"):
        data.read(empty, [0], 16)


def test_missing_and_broken_frames_are_named_and_leave_their_time(tmp_path):
    folder = tmp_path / "a" / "clip"
    frames_at(folder, [f"{i:04d}.png" for i in range(0, 50, 5) if i not in (15, 30, 35)])
    (folder / "0040.png").write_bytes(b"broken")
    notes, clock = [], video.Clock()
    frames = np.concatenate(list(video.stream(folder, 16, notes=notes, clock=clock)))
    assert len(frames) == 6
    assert list(clock.starts) == pytest.approx([0, 0.04, 0.08, 0.16, 0.2, 0.36])
    assert clock.end == pytest.approx(0.4)
    assert notes[0] == "frames missing: 15, 30 to 35"
    assert notes[1].startswith("broken frames skipped: 0040.png (not a picture")
    held = np.concatenate(list(video.stream(folder, 16, fps=25)))
    np.testing.assert_array_equal(held, frames[[0, 1, 2, 2, 3, 4, 4, 4, 4, 5]])
    for file in folder.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(UnreadableClip, match=r"no frame can be read: 0000\.png .* and 2 more"):
        next(video.stream(folder, 16))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["2.jpg", "10.jpg", "1.JPG"], ["1.JPG", "2.jpg", "10.jpg"]),
        (["v_1_f2.jpg", "v_1_f10.jpg", "cover.jpg"], ["v_1_f2.jpg", "v_1_f10.jpg"]),
        (["img_1.jpg", "flow_x_1.jpg", "flow_y_1.jpg"], ["img_1.jpg"]),
        (["1_rgb.png", "2_rgb.png", "info.txt"], ["1_rgb.png", "2_rgb.png"]),
        (["rgb_1.png", "depth_1.png"], []),
        (["cover.jpg"], []),
        ([], []),
    ],
)
def test_frames_are_found_among_files(names, expected):
    assert pictures.frame_names(names) == expected


def test_pictures_beside_videos_are_no_clips(tmp_path, one_clip):
    root = lay(tmp_path, one_clip, ["a/x/1.mp4", "a/y.mp4", "b/1.mp4"])
    frames_at(root / "a" / "y", ["1.jpg", "2.jpg"])  # that video's frames
    from PIL import Image

    Image.new("RGB", (8, 8)).save(root / "a" / "x" / "1.jpg")
    assert datasets.load(videos(root)).names == ("a/x/1.mp4", "a/y.mp4", "b/1.mp4")


def test_pictures_in_class_folders_are_told_from_clips(tmp_path):
    for kind in "ab":
        frames_at(tmp_path / kind, ["1.jpg", "2.jpg"])
    with pytest.raises(UserError, match=r"read by --data\.kind images, or as CLASS/CLIP"):
        datasets.load(videos(tmp_path))


def test_single_frames_have_the_group_of_their_folder(tmp_path):
    for kind in "ab":
        for group in (1, 2, 3):
            frames_at(tmp_path / kind / f"v_{kind}_g{group:02d}_c01", ["1.jpg", "2.jpg"])
    data = datasets.load(Data(kind="images", root=str(tmp_path)))
    assert len(data) == 12
    assert data.groups_known
    assert len(set(data.groups)) == 6


def test_a_class_called_like_a_recording_is_no_recording(tmp_path, one_clip):
    for part in ("", "train/"):
        names = [f"{part}team_g{k}_home/{i}.mp4" for k in "12" for i in range(3)]
        root = lay(tmp_path / (part or "plain"), one_clip, names)
        assert not datasets.load(videos(root)).groups_known


def test_animated_pictures_are_clips(tmp_path):
    from PIL import Image

    stays = [40, 40, 200, 40, 1000, 40]
    frames = [Image.fromarray(frame) for frame in moving(6)]
    for kind, name in (("a", "1.webp"), ("a", "2.png"), ("b", "3.gif"), ("b", "4.mp4")):
        (tmp_path / kind).mkdir(exist_ok=True)
        file = tmp_path / kind / name
        format_ = {".mp4": "WEBP"}.get(file.suffix)
        frames[0].save(
            file, format_, save_all=True, append_images=frames[1:], duration=stays, lossless=True
        )
    frames[0].save(tmp_path / "a" / "still.webp")
    frames[0].save(tmp_path / "a" / "still.png")
    data = datasets.load(videos(tmp_path))
    assert data.names == ("a/1.webp", "a/2.png", "b/3.gif", "b/4.mp4")
    assert data.lengths.tolist() == [6] * 4
    for place, path in enumerate(data.paths):
        clock = video.Clock()
        seen = np.concatenate(list(video.stream(path, 36, 4, clock=clock)))
        plain = [frame.resize((36, 36), 2) for frame in frames]
        assert np.abs(seen.astype(int) - np.stack(plain)).mean() < 4, path
        assert list(clock.starts) == pytest.approx([0, 0.04, 0.08, 0.28, 0.32, 1.32])
        assert clock.end == pytest.approx(1.36)
        # FFmpeg declares a GIF's seconds without those of its last picture.
        assert data.fps[place] == pytest.approx(6 / 1.36, rel=0.04)
        assert not data.warnings
    cut = (tmp_path / "a" / "1.webp").read_bytes()[:-200]
    (tmp_path / "a" / "1.webp").write_bytes(cut)
    with pytest.raises(UnreadableClip, match="damaged"):
        next(video.stream(tmp_path / "a" / "1.webp", 16))


def test_names_that_are_no_utf8_are_spelled_out(tmp_path, one_clip):
    for kind in "ab":
        for number in range(4):
            name = os.fsdecode(b"caf\xe9%d.mp4" % number)
            lay(tmp_path, one_clip, [f"{kind}/{name}"])
    data = datasets.load(videos(tmp_path))
    assert data.names[0] == "a/caf\\xe90.mp4"
    assert data.path(0) == f"{tmp_path}/a/caf\\xe90.mp4"
    assert data.lengths.tolist() == [FRAMES] * 8
    data.paths[0].write_bytes(b"broken")
    with pytest.raises(UnreadableClip) as caught:
        data.read(0, [0], 16)
    assert caught.value.path == data.path(0)
    str(caught.value).encode()
    # A table may name them as they are shown.
    rows = [f"{name},{name[0]},{place // 2}" for place, name in enumerate(data.names)]
    (tmp_path / "labels.csv").write_text("path,label,group\n" + "\n".join(rows))
    told = datasets.load(videos(tmp_path))
    assert told.names == data.names
    assert told.paths == data.paths


def test_a_table_of_labels(tmp_path, one_clip):
    root = lay(tmp_path / "set", one_clip, [f"all/{i} x.mp4" for i in range(8)])
    rows = ["path,label,group,split"]
    rows += [
        f"all/{i} x.mp4,{'yes' if i % 2 else 'no'},g{i // 2},{'test' if i > 5 else 'train'}"
        for i in range(8)
    ]
    (root / "labels.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    data = datasets.load(videos(root))
    assert data.classes == ("no", "yes")
    assert data.labels.tolist() == [0, 1] * 4
    assert data.groups.tolist() == [f"g{i // 2}" for i in range(8)]
    assert data.groups_known
    assert data.given["test"].tolist() == [6, 7]
    # A line whose file is missing stays expected.
    (root / "all" / "3 x.mp4").unlink()
    again = datasets.load(videos(root))
    assert len(again) == 8
    assert again.lengths[3] == 0
    with pytest.raises(UnreadableClip, match="no such file"):
        again.read(3, [0], 32)
    assert again.key(3) != again.key(2)
    # The part column alone leaks nothing here; one clip moved does, and is refused by name.
    text = (root / "labels.csv").read_text(encoding="utf-8-sig")
    (root / "labels.csv").write_text(text.replace("5 x.mp4,yes,g2,train", "5 x.mp4,yes,g2,test"))
    with pytest.raises(UserError, match="group 'g2' stands in both train and test"):
        splits.make(datasets.load(videos(root)), videos(root, split="given"))


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("", "no column path"),
        ("file,label\na,b\n", "no column path"),
        ("path,class\na,b\n", "no column label"),
        ("path,label\n", "lists no clips"),
        ("path,label\na.mp4,\n", "line 2: path, label should not be empty"),
        ("path,label\na.mp4,x\na.mp4,x\n", "lists a.mp4 twice"),
        ("path,label,split\na.mp4,x,trian\n", "line 2: split 'trian' should be train, val or test"),
        ("path,label,group\na.mp4,x,g\nb.mp4,y,\n", "1 line without a group"),
        ("path,label\na.mp4,x\nb.mp4,y, z\n", "line 3 has more cells than the heading .3, 2."),
        ("path,label,group\na.mp4,x, y,g1\n", "line 2 has more cells than the heading .4, 3."),
        ("path,label,\na.mp4,x,y\n", "line 2 has more cells"),
        ("path;label\na.mp4;x;y\n", "holds a semicolon in double quotes"),
        ("path,label,group,split\na.mp4,x,train\n", "line 2 has fewer cells .* .3, 4."),
        ("path,label\na.mp4\n", "line 2 has fewer cells"),
        ('path,label\na.mp4,x\nb.mp4,"y\nc.mp4,x\n', "line 3: a double quote is not closed"),
        ('path,label\na.mp4,"x\nb.mp4,y\nc.mp4,z"\nd.mp4,x\n', "line 2: a double quote is not"),
        ('path,label\na.mp4,"x\nb.mp4,"y"\n', "line 2: a double quote is not closed"),
        ('path,label\na.mp4,"x" y\n', "line 2: a double quote"),
        ('path,label\r\na.mp4,"two\r\nlines"\r\n', "line 2: .* cannot hold a line break"),
        ('path,label\ra.mp4,x\rb.mp4,"y\r', "line 3: a double quote"),
        ("path,label\na.mp4,x\x00y\n", "line 2: label holds a control character"),
        ("path,label,label\na.mp4,x,y\n", "two columns label"),
        ("sep=;\npath;label\na.mp4;x;y\n", "line 3 has more cells"),
        ("path,label\n./a.mp4,x\na.mp4,y\n", "line 3 lists a.mp4 twice"),
    ],
)
def test_tables_that_say_too_little(tmp_path, table, line):
    (tmp_path / "labels.csv").write_bytes(table.encode())
    with pytest.raises(UserError, match=line):
        datasets.load(videos(tmp_path))


def test_a_groups_csv_that_names_another_clip_is_told_the_line(tmp_path, one_clip):
    names = [f"{kind}/{kind}_{i}.mp4" for kind in "ab" for i in range(3)]
    root = lay(tmp_path, one_clip, names)
    rows = [f"{name},g{i}" for i, name in enumerate(names)]
    file = root / "groups.csv"
    file.write_text("\n".join(["path,group", *rows[:3], "b/b_00.mp4,g9", *rows[4:]]))
    with pytest.raises(UserError) as raised:
        datasets.load(videos(root))
    assert str(raised.value) == (
        f"{file}, line 5: no clip is called 'b/b_00.mp4' (did you mean 'b/b_0.mp4'?); "
        "the file names no group for 1 clip, such as b/b_0.mp4"
    )
    file.write_text("\n".join(["path,group", *rows[:-2]]))
    with pytest.raises(UserError, match=r"groups.csv names no group for 2 clips, such as b/b_1"):
        datasets.load(videos(root))
    file.write_text("\n".join(["path,group", *rows, "zzz,g1", "yyy,g2"]))
    [note] = datasets.load(videos(root)).notes
    line = "line 8: no clip is called 'zzz', and 1 other line names none"
    assert note == f"warning: {file}, {line}"


def test_class_folders_without_a_clip_are_told(tmp_path, one_clip):
    root = lay(tmp_path / "plain", one_clip, ["a/1.mp4", "b/deep/2.mp4"])
    for folder in ("c", ".hidden", "b/empty"):
        (root / folder).mkdir()
    assert datasets.load(videos(root)).notes == ["warning: folder c has no videos and is left out"]
    (root / "d").mkdir()
    (root / "d" / "notes.txt").write_text("none yet")
    assert datasets.load(videos(root)).notes == [
        "1 file is not taken for videos: d/notes.txt",
        "warning: folders c, d have no videos and are left out",
    ]
    parts = [f"{part}/{kind}/{i}.mp4" for i, part in enumerate(("train", "test")) for kind in "ab"]
    root = lay(tmp_path / "parts", one_clip, parts)
    (root / "test" / "c").mkdir()
    assert (
        "warning: folder test/c has no videos and is left out" in datasets.load(videos(root)).notes
    )


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (r"s\d+", r"data.groups = 's\d+': the expression has no bracket (group); the first one"),
        (r"(s\d+)_", r"data.groups = '(s\d+)_' does not name the recording of a/1.mp4: its first"),
        (r"(s\d+", r"data.groups = '(s\d+' is no regular expression: missing )"),
    ],
)
def test_a_rule_for_recordings_is_refused_as_it_was_typed(tmp_path, one_clip, rule, line):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "b/2.mp4"])
    with pytest.raises(UserError) as raised:
        datasets.load(Data(kind="videos", root=str(root), groups=rule))
    assert str(raised.value).startswith(line)


def test_semicolons_and_backslashes(tmp_path, one_clip):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "a/2.mp4"])
    (root / "labels.csv").write_text("Path;Label\na\\1.mp4;x\na\\2.mp4;y\n")
    assert datasets.load(videos(root)).names == ("a/1.mp4", "a/2.mp4")


@pytest.mark.parametrize(
    "table",
    [
        "path\tlabel\na/1.mp4\tx, y\na/2.mp4\tz\n",
        "path|label\na/1.mp4|x, y\na/2.mp4|z\n",
        "sep=;\r\npath;label\r\na/1.mp4;x, y\r\na/2.mp4;z\r\n",
        'path,label,\na/1.mp4,"x, y",\n,,\n\n./a//2.mp4, "z",\n',
        '\ufeff"label","path"\r"x, y","a/1.mp4"\r"z","a/2.mp4"',
        "label;note;path\nx, y;a, b, c;a/1.mp4\nz;;a\\2.mp4\n",
    ],
)
def test_tables_of_any_program(tmp_path, one_clip, table):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "a/2.mp4"])
    (root / "Labels.CSV").write_bytes(table.encode())
    data = datasets.load(videos(root))
    assert sorted(data.names) == ["a/1.mp4", "a/2.mp4"]
    assert data.classes == ("x, y", "z")
    assert data.lengths.tolist() == [FRAMES] * 2
    assert data.notes == ["Labels.CSV: columns not used: note"] * ("note" in table)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "dangling link"])
@pytest.mark.parametrize("name", ["labels.csv", "groups.csv"])
def test_tables_that_are_no_files_are_refused_not_waited_for(tmp_path, one_clip, kind, name):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "b/2.mp4"])
    video_files.only(kind, name)(root)
    with pytest.raises(UserError, match=f"{name} is (no file|missing)"):
        datasets.load(videos(root))


def test_a_table_in_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "labels.csv").write_bytes("path,label\na.mp4,x\nb.mp4,caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 3: not UTF-8; save it as UTF-8 text"):
        datasets.load(videos(tmp_path))


def test_a_clip_has_one_group(tmp_path, one_clip):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "b/2.mp4"])
    (root / "groups.csv").write_text("path,group\na/1.mp4,x\nb/2.mp4,y\na\\1.mp4,z\n")
    with pytest.raises(UserError, match=r"line 4: a/1\.mp4 has two groups"):
        datasets.load(videos(root))


def test_groups_by_rule_table_or_name(tmp_path, one_clip):
    names = [f"{k}/v_{k}_g{g:02d}_c{c:02d}.mp4" for k in "ab" for g in (1, 2, 3) for c in (1, 2)]
    root = lay(tmp_path / "set", one_clip, names)
    by_name = datasets.load(videos(root))
    assert by_name.groups_known
    assert by_name.groups[0] == "v_a_g01"
    assert len(set(by_name.groups)) == 6
    by_rule = datasets.load(videos(root, groups=r"_(g\d+)_"))
    assert sorted(set(by_rule.groups)) == ["g01", "g02", "g03"]
    with pytest.raises(UserError, match=r"does not name the recording of a/v_a_g01_c01\.mp4"):
        datasets.load(videos(root, groups="(nothing)"))
    with pytest.raises(UserError, match="no regular expression"):
        datasets.load(videos(root, groups="("))
    rows = [f"{name},tape {i // 4}" for i, name in enumerate(names)]
    (root / "groups.csv").write_text("path,group\n" + "\n".join(rows))
    by_table = datasets.load(videos(root))
    assert sorted(set(by_table.groups)) == ["tape 0", "tape 1", "tape 2"]
    (root / "groups.csv").write_text("path,group\n" + "\n".join(rows).replace("/", "\\"))
    by_windows = datasets.load(videos(root))
    assert list(by_windows.groups) == list(by_table.groups)
    (root / "groups.csv").write_text("path,group\n" + "\n".join(rows[1:]))
    with pytest.raises(UserError, match=f"no group for 1 clip, such as {names[0]}"):
        datasets.load(videos(root))


def test_one_name_without_a_source_makes_all_unknown(tmp_path, one_clip):
    root = lay(tmp_path / "set", one_clip, ["a/v_a_g01_c01.mp4", "a/v_a_g02_c01.mp4", "b/x.mp4"])
    assert not datasets.load(videos(root)).groups_known


def test_folders_that_hold_nothing(tmp_path, one_clip):
    cases = [
        (Data(kind="videos"), "data.root should name the folder"),
        (videos(tmp_path / "none"), "does not exist"),
        (videos(lay(tmp_path / "file", one_clip, ["x"]) / "x"), "is a file"),
    ]
    (tmp_path / "empty").mkdir()
    cases.append((videos(tmp_path / "empty"), "the folder is empty"))
    cases.append(
        (videos(lay(tmp_path / "flat", one_clip, ["1.mp4", "2.mp4"])), "2 videos lie outside")
    )
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "x.txt").write_text("x")
    cases.append((videos(tmp_path / "texts"), "no videos among 1 file in"))
    for data, line in cases:
        with pytest.raises(UserError, match=line) as caught:
            datasets.load(data)
        assert "\n" not in str(caught.value)
    single = datasets.load(videos(lay(tmp_path / "single", one_clip, ["a/1.mp4", "a/2.mp4"])))
    with pytest.raises(UserError, match="one class"):
        splits.make(single, Data())


def test_a_folder_that_may_not_be_listed_is_no_empty_one(tmp_path, one_clip):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "b/1.mp4"])
    (root / "b").chmod(0)
    with as_nobody(tmp_path), pytest.raises(UserError, match="cannot be listed"):
        datasets.load(videos(root))


def test_classes_are_chosen_by_name(tmp_path, one_clip):
    names = [f"{k}/{i}.mp4" for k in ("run", "fly", "swim") for i in range(3)]
    root = lay(tmp_path, one_clip, names)
    data = datasets.load(videos(root, classes=("swim", "fly")))
    assert data.classes == ("fly", "swim")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.names[0] == "fly/0.mp4"
    assert data.read(0, [0], 16).shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="no class 'swm'; did you mean 'swim'"):
        datasets.load(videos(root, classes=("swm", "fly")))


def test_resampled_videos_say_so(tmp_path, one_clip):
    root = lay(tmp_path, one_clip, ["a/1.mp4", "b/1.mp4"])
    data = datasets.load(videos(root, fps=5))
    assert data.lengths.tolist() == [5, 5]
    assert data.fps.tolist() == [5, 5]
    assert len(np.concatenate(list(data.stream(0, 16)))) == 5


def test_damage_is_remembered(tmp_path):
    (tmp_path / "a").mkdir()
    video_files.CASES["cut mp4"][0](tmp_path / "a")
    data = datasets.load(videos(tmp_path))
    clip_mode = data.names.index("a/clip.mp4")
    list(data.stream(clip_mode, 16))
    assert "truncated after" in data.warnings["a/clip.mp4"]


def test_declared_lengths_are_kept_between_runs(tmp_path, one_clip, monkeypatch):
    monkeypatch.setattr(base, "REMEMBERED", 2)
    root = lay(tmp_path, one_clip, ["a/1.mp4", "b/1.mp4"])
    assert datasets.load(videos(root)).lengths.tolist() == [FRAMES] * 2
    with monkeypatch.context() as patch:
        patch.setattr(video, "declared", None)
        assert datasets.load(videos(root)).lengths.tolist() == [FRAMES] * 2
    clip("1.mp4", 7)(root / "b")
    assert datasets.load(videos(root)).lengths.tolist() == [FRAMES, 7]


def test_images(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for kind in "ab":
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(3):
                frame = moving(3, 40, 60)[i]
                Image.fromarray(frame).save(tmp_path / part / kind / f"{i}.png")
    folder = tmp_path / "train" / "a"
    Image.fromarray(moving(1)[0][:, :, 0]).save(folder / "grey.png")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.fromarray(moving(1)[0]).save(folder / "phone.jpg", exif=sideways)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = datasets.load(Data(kind="images", root=str(tmp_path)))
    assert data.classes == ("a", "b")
    assert set(data.given) == {"train", "test"}
    assert data.lengths.tolist() == [1] * len(data)
    at = {name.rpartition("/")[2]: i for i, name in enumerate(data.names)}
    assert data.read(0, [0, 0], 24).shape == (2, 24, 24, 3)
    assert next(data.stream(at["grey.png"], 24)).shape == (1, 24, 24, 3)
    upright = np.asarray(Image.fromarray(np.rot90(moving(1)[0], 3)).resize((24, 24), 2))
    assert np.abs(data.read(at["phone.jpg"], [0], 24)[0].astype(int) - upright).mean() < 5
    with pytest.raises(UnreadableClip, match="damaged"):
        data.read(at["broken.png"], [0], 24)


def test_ready_made_features(tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    made = {}
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for i in range(3):
            made[f"{kind}/{i}.npy"] = rng.normal(size=(5 + i, 8)).astype(np.float16)
            np.save(tmp_path / kind / f"{i}.npy", made[f"{kind}/{i}.npy"])
        made[f"{kind}/s.safetensors"] = rng.normal(size=(4, 8)).astype(np.float32)
        save_file(
            {"features": made[f"{kind}/s.safetensors"], "other": np.zeros(2)},
            tmp_path / kind / "s.safetensors",
        )
    bad = {
        "nan": np.full((3, 8), np.nan),
        "width": np.zeros((3, 9)),
        "text": np.array(["a", "b"]),
        "deep": np.zeros((1, 2, 3)),
        "none": np.zeros((0, 8)),
        "objects": np.array([None, 1], object),
    }
    for name, value in bad.items():
        np.save(tmp_path / "a" / f"{name}.npy", value, allow_pickle=True)
    (tmp_path / "a" / "cut.npy").write_bytes((tmp_path / "a" / "2.npy").read_bytes()[:-9])
    (tmp_path / "a" / "junk.safetensors").write_bytes(b"junk")
    data = datasets.load(Data(kind="features", root=str(tmp_path)))
    assert data.is_features
    assert data.shape == (8,)
    assert len(data) == 8 + len(bad) + 2
    for i, name in enumerate(data.names):
        if name in made:
            assert data.lengths[i] == len(made[name])
            np.testing.assert_array_equal(data.features(i), made[name].astype(np.float32))
            assert data.features(i).dtype == np.float32
        else:
            with pytest.raises(UnreadableClip) as caught:
                data.features(i)
            assert caught.value.path.endswith(name)
    single = np.ones(8, np.float32)
    np.save(tmp_path / "b" / "single.npy", single)
    again = datasets.load(Data(kind="features", root=str(tmp_path)))
    assert again.features(again.names.index("b/single.npy")).shape == (1, 8)


def test_a_users_own_source(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "from vidrec.data.datasets.base import Files\n"
        "def Mine(data):\n"
        "    return Files('mine', ('a', 'b'), ('x', 'y'), np.array([0, 1], np.int32),\n"
        "                 np.array(['x', 'y']), paths=('x', 'y'))\n"
        "def Wrong(data):\n    return 3\n"
    )
    assert datasets.load(Data(kind=f"{file}:Mine")).names == ("x", "y")
    with pytest.raises(UserError, match="should give a vidrec Dataset"):
        datasets.load(Data(kind=f"{file}:Wrong"))


SMALL = "motion/clips=60,frames=6,size=16"


def test_a_tfds_set_by_name():
    data = datasets.load(Data(kind="tfds", tfds=SMALL))
    assert len(data.classes) == 10
    assert len(data) == 60
    assert len(set(data.names)) == 60
    assert data.groups_known
    assert set(data.given) == {"train", "test"}
    assert data.lengths.tolist() == [6] * 60
    assert data.about["difficulty"] == 3.0
    assert [n.partition("/")[0] for n in data.names] == [data.classes[k] for k in data.labels]
    split = splits.make(data, Data(split="given", val=0))
    assert split.leaked is False
    whole = np.concatenate(list(data.stream(7, 16, 4)))
    assert whole.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(data.read(7, [5, 1], 16), whole[[5, 1]])
    assert data.read(7, [0], 24).shape == (1, 24, 24, 3)
    again = datasets.load(Data(kind="tfds", tfds=SMALL))
    assert again.fingerprint() == data.fingerprint()
    assert [again.key(i) for i in range(60)] == [data.key(i) for i in range(60)]
    assert len({data.key(i) for i in range(60)}) == 60
    other = datasets.load(Data(kind="tfds", tfds="motion/clips=60,frames=6,size=16,seed=1"))
    assert not {other.key(i) for i in range(60)} & {data.key(i) for i in range(60)}


def test_a_damaged_description_of_a_prepared_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path))
    data = Data(kind="tfds", tfds="motion/clips=30,frames=2,size=8")
    datasets.load(data)
    [file] = tmp_path.rglob("dataset_info.json")
    file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(UserError, match=r"dataset_info.json is damaged: remove its folder"):
        datasets.load(data)
    shutil.rmtree(file.parent)
    assert len(datasets.load(data)) == 30


def test_too_many_open_files_lose_no_clip_of_a_prepared_set():
    """Its reader opens a file once, and repeats the error of that for ever."""
    data = datasets.load(Data(kind="tfds", tfds=SMALL))
    whole = next(data.stream(0, 16))
    data = datasets.load(Data(kind="tfds", tfds=SMALL))
    with files_taken(), pytest.raises(TransientError, match="Too many open files"):
        next(data.stream(0, 16))
    assert np.array_equal(next(data.stream(0, 16)), whole)


def test_what_the_system_refuses_is_no_data_set_that_is_absent(tmp_path, one_clip, monkeypatch):
    root = lay(tmp_path / "set", one_clip, ["a/1.mp4", "b/1.mp4"])
    cfg = override(Config(), {"data.kind": "videos", "data.root": str(root)})
    here = prepare.data_fingerprint(cfg)

    def refuse(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(root))

    for make in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            with pytest.raises(TransientError, match=os.strerror(errno.ESTALE)):
                prepare.data_fingerprint(cfg, make)
        with monkeypatch.context() as patch:
            patch.setattr(hashing, "open", refuse, raising=False)
            patch.setattr(hashing, "_known", {})
            with pytest.raises(TransientError, match=os.strerror(errno.ESTALE)):
                prepare.data_fingerprint(cfg, make)
    assert prepare.data_fingerprint(cfg) == here


@contextlib.contextmanager
def files_taken():
    """No further file can be opened."""
    limits, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/", os.O_RDONLY))
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_frames_are_those_that_were_generated():
    from vidrec.data.datasets import motion

    data = datasets.load(Data(kind="tfds", tfds=SMALL))
    settings = motion.Settings(clips=60, frames=6, size=16)
    for i in (0, 17, 59):
        label, _, seed = data.names[i].rpartition("/")[2].rpartition("_")
        np.testing.assert_array_equal(
            np.concatenate(list(data.stream(i, 16))), motion.clip(int(seed), label, settings)
        )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nosuchset", "TFDS knows no data set of this name"),
        ("motion/nosuchconfig", "nosuchconfig"),
        ("motion/clips=-3", "clips"),
    ],
)
def test_tfds_names_that_are_wrong(name, line):
    with pytest.raises(UserError, match=line) as caught:
        datasets.load(Data(kind="tfds", tfds=name))
    assert "\n" not in str(caught.value)


def test_sets_that_need_tensorflow_say_so():
    try:
        import tensorflow  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(UserError, match=r"needs tensorflow: pip install -e '.*\[tensorflow\]'"):
            datasets.load(Data(kind="tfds", tfds="ucf101"))
    else:
        pytest.skip("TensorFlow is installed")


PLAIN_TFDS = """
import sys
import vidrec.data.datasets
import tensorflow_datasets as tfds
builder = tfds.builder("motion", clips=40, frames=4, size=8, data_dir=sys.argv[1])
builder.download_and_prepare()
info = builder.info
data = builder.as_data_source()
assert info.splits["train"].num_examples + info.splits["test"].num_examples == 40
assert len(data["train"]) == info.splits["train"].num_examples
assert data["train"][0]["video"].shape == (4, 8, 8, 3)
assert info.citation and info.features["label"].num_classes == 10
assert tfds.builder("ucf11").info.features["video"].shape == (30, 64, 64, 3)
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""


@pytest.mark.parametrize("file", ["v_a_g01_c01.npy", "a.mp4"])
def test_a_folder_of_clips_is_not_taken_for_the_place_of_a_tfds_set(file, tmp_path):
    """Else the embedded data would be made among somebody's clips."""
    (tmp_path / "jump").mkdir()
    (tmp_path / "jump" / file).touch()
    with pytest.raises(UserError, match=rf"jump/{file}, and motion .* with --data.kind ucf101"):
        datasets.load(Data(kind="tfds", tfds="motion", root=str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jump"]


def test_plain_tfds_knows_our_builders_without_tensorflow(tmp_path):
    subprocess.run([sys.executable, "-c", PLAIN_TFDS, tmp_path], check=True, capture_output=True)


FOREIGN = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

def values(i):
    return np.full((3 + i, 12, 16, 3), 100 * (i % 2) + i, np.uint8)

class Base(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        kinds = self.KINDS | {"what": tfds.features.ClassLabel(names=["dark", "bright"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))
    def _split_generators(self, _):
        return {"train": self._generate_examples(8), "test": self._generate_examples(4)}
    def _generate_examples(self, count):
        for i in range(count):
            yield i, {next(iter(self.KINDS)): self.shown(values(i)), "what": i % 2}

class Films(Base):
    KINDS = {"film": tfds.features.Tensor(shape=(None, 12, 16, 3), dtype=np.uint8)}
    shown = staticmethod(lambda frames: frames)

class Stills(Base):
    KINDS = {"image": tfds.features.Image(shape=(12, 16, 3))}
    @staticmethod
    def shown(frames):
        Image.fromarray(frames[0]).save(out := io.BytesIO(), "PNG")
        out.seek(0)
        return out

for kind in (Films, Stills):
    kind(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def test_any_prepared_tfds_set_with_a_video_or_an_image_is_read_by_name(tmp_path):
    """Its code is not known here: the name and its files are enough."""
    subprocess.run([sys.executable, "-c", FOREIGN, tmp_path], check=True, capture_output=True)
    for name in ("films", "stills"):
        data = datasets.load(Data(kind="tfds", tfds=name, root=str(tmp_path)))
        assert data.classes == ("dark", "bright")
        assert {part: len(clips) for part, clips in data.given.items()} == {"train": 8, "test": 4}
        for place, label in enumerate(data.labels):
            frames = np.concatenate(list(data.stream(place, 8)))
            value = int(frames[0, 0, 0, 0])
            length = 3 + value % 100 if name == "films" else 1
            assert frames.shape == (length, 8, 8, 3)
            assert data.lengths[place] == length
            assert (value >= 100) == label


def test_real_clips_split_with_a_warning(real_data):
    how = videos(real_data / "skyrim_human_actions")
    data = datasets.load(how)
    assert (len(data), len(data.classes)) == (100, 10)
    assert data.classes == tuple(sorted(data.classes))
    assert data.lengths.min() == 86
    assert data.lengths.max() == 150
    split = splits.make(data, how)
    assert split.leaked == "unknown"
    assert [len(getattr(split, part)) for part in ("train", "val", "test")] == [60, 20, 20]
