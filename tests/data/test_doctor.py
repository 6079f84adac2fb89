"""The doctor finds what was planted, and nothing in a sound data set."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import video_files
from helpers.video_files import clip, moving

from vidrec.config import Data
from vidrec.data import datasets, doctor, video


def planted(root, kinds=("a", "b"), groups=4):
    """A sound set: each clip differs, groups are in the names."""
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for group in range(1, groups + 1):
            for number in (1, 2):
                shift = 10 * group + number + 50 * (kind == "b")
                frames = np.roll(moving(8 + number), shift, 2) // 2 + shift
                video.write(root / kind / f"v_{kind}_g{group:02d}_c{number:02d}.mp4", frames, 25)
    return Data(kind="videos", root=str(root))


def examine(how, **options):
    findings = doctor.examine(datasets.load(how), how, **options)
    assert json.loads(json.dumps(findings)) == findings
    return findings


def test_a_sound_set_is_healthy(tmp_path, capfd):
    seen = []
    findings = examine(planted(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert findings["healthy"] is True
    assert findings["clips"] == 16
    assert findings["classes"] == {"a": 8, "b": 8}
    frames = 8 * 9 + 8 * 10
    assert findings["frames"] == {
        "declared": frames,
        "decoded": frames,
        "shortest": 9,
        "median": 9,
        "longest": 10,
    }
    assert findings["split"]["counts"] == {"train": 8, "val": 4, "test": 4}
    assert findings["split"]["leaked"] is False
    assert findings["unreadable"] == findings["damaged"] == findings["duplicates"] == []
    assert seen == [(i, 16) for i in range(1, 17)]
    assert capfd.readouterr() == ("", "")
    assert doctor.lines(findings)[-1] == "healthy"
    assert findings["split"]["may_share_recordings"] is False
    assert not any("warning" in line or "to do" in line for line in doctor.lines(findings))


def test_a_set_that_cannot_be_split_ends_with_the_line_that_says_why(tmp_path):
    how = planted(tmp_path)
    for path in tmp_path.glob("b/*_g0[2-9]_*.mp4"):
        path.unlink()
    *above, last = doctor.lines(examine(how))
    assert last == 'not healthy: see "cannot be split" above'
    assert any(line.startswith("cannot be split: class 'b' of") for line in above)


@pytest.mark.parametrize(("how", "by_recording"), [("as given", False), ("by recording", True)])
def test_recordings_are_advised_only_where_they_decide_the_split(how, by_recording):
    twins = {"names": ["a", "b"], "files": ["a", "b"], "parts": ["train", "test"]}
    split = {"how": how, "shared": {}}
    findings = {"unreadable": [], "damaged": [], "duplicates": [twins], "split": split}
    [step] = doctor._steps(findings)
    assert ("groups.csv" in step) is by_recording


def test_clips_that_name_no_recording_are_said_to_and_are_no_fault(tmp_path):
    how = planted(tmp_path)
    for path in sorted(tmp_path.glob("*/*.mp4")):
        path.rename(path.with_name(path.name.replace("_g", "x")))
    findings = examine(how)
    *_, before, last = doctor.lines(findings)
    assert "name no recording" in before
    assert "groups.csv" in before
    assert last == "all files can be read; see the warning above"


def test_a_copy_does_not_hide_that_clips_name_no_recording(tmp_path):
    how = planted(tmp_path)
    for path in sorted(tmp_path.glob("*/*.mp4")):
        path.rename(path.with_name(path.name.replace("_g", "x")))
    first = sorted(tmp_path.glob("a/*.mp4"))[0]
    for number in range(9):  # some of them go to another part
        (tmp_path / "a" / f"copy{number}.mp4").write_bytes(first.read_bytes())
    findings = examine(how)
    assert findings["split"]["leaked"] is True
    assert findings["split"]["may_share_recordings"] is True
    text = "\n".join(doctor.lines(findings))
    assert "same content in two parts" in text
    assert text.count("name no recording") == 1


def test_everything_planted_is_found(tmp_path):
    how = planted(tmp_path)
    source = datasets.load(how)
    broken = tmp_path / "a" / "v_a_g01_c03.mp4"
    broken.write_bytes(b"broken")
    (tmp_path / "before").mkdir()
    cut = tmp_path / "b" / "v_b_g01_c03.mp4"
    cut.write_bytes(video_files.cut(0.8)(video_files.FAST(tmp_path / "before").read_bytes()))
    (tmp_path / "before" / "fast.mp4").unlink()
    (tmp_path / "before").rmdir()
    # The same pictures under other names: in another group, and repacked into another container.
    first = tmp_path / source.names[0]
    twins = [first.with_name(f"v_a_g{group:02d}_c09.mp4") for group in (2, 3, 4)]
    for twin in twins:
        twin.write_bytes(first.read_bytes() + b"some other bytes")
    findings = examine(how)
    assert findings["healthy"] is False
    assert findings["unreadable"] == [{"path": str(broken), "reason": "damaged, or not a video"}]
    assert [each["path"] for each in findings["damaged"]] == [str(cut)]
    assert "truncated after" in findings["damaged"][0]["reason"]
    (same,) = findings["duplicates"]
    assert set(same["names"]) == {f"a/{path.name}" for path in (first, *twins)}
    assert len(same["parts"]) > 1
    text = "\n".join(doctor.lines(findings))
    for part in (
        "to do: replace the unreadable files",
        "to do: replace the damaged files",
        "to do: of clips with the same content in two parts keep one",
        f"unreadable: {broken}",
        f"damaged: {cut}",
        "same content in two parts",
        'not healthy: see "to do" above',
        "(with the unreadable ones); it leaks",
    ):
        assert part in text


def test_copies_within_a_part_are_no_leak(tmp_path):
    how = planted(tmp_path)
    first = tmp_path / "a" / "v_a_g01_c01.mp4"
    first.with_name("v_a_g01_c09.mp4").write_bytes(first.read_bytes())
    findings = examine(how)
    assert findings["healthy"] is True
    assert len(findings["duplicates"][0]["parts"]) == 1
    assert "same content: a/v_a_g01_c01.mp4 = a/v_a_g01_c09.mp4" in doctor.lines(findings)


def test_copies_in_two_parts_alone_need_mending(tmp_path):
    how = planted(tmp_path)
    first = tmp_path / "a" / "v_a_g01_c01.mp4"
    for group in (2, 3, 4):
        first.with_name(f"v_a_g{group:02d}_c09.mp4").write_bytes(first.read_bytes())
    findings = examine(how)
    assert findings["unreadable"] == findings["damaged"] == []
    assert findings["split"]["shared"] == {}
    assert len(findings["duplicates"][0]["parts"]) > 1
    assert findings["healthy"] is False


def test_groups_in_two_parts_are_named(tmp_path):
    planted(tmp_path)
    findings = examine(Data(kind="videos", root=str(tmp_path), split="random"))
    assert findings["healthy"] is False
    assert findings["split"]["leaked"] is True
    shared = findings["split"]["shared"]
    assert shared
    assert all(len(parts) > 1 for parts in shared.values())
    assert any(line.startswith("recording in two parts: v_") for line in doctor.lines(findings))
    assert any("--data.split group" in line for line in doctor.lines(findings))


def test_a_set_that_cannot_be_split_is_still_examined(tmp_path):
    how = planted(tmp_path, groups=2)
    findings = examine(how)
    assert "needs at least 3 recordings" in findings["split"]["error"]
    assert findings["healthy"] is False
    assert findings["frames"]["decoded"] > 0
    assert doctor.lines(findings)[1].startswith("cannot be split: ")


def test_many_findings_are_counted(tmp_path):
    how = planted(tmp_path)
    for number in range(30, 55):
        (tmp_path / "a" / f"v_a_g01_c{number}.mp4").write_bytes(b"broken")
    findings = examine(how)
    assert len(findings["unreadable"]) == 25
    assert "unreadable: 15 more (--json lists all)" in doctor.lines(findings)


def test_features_are_examined_too(tmp_path):
    for kind in "ab":
        (tmp_path / kind).mkdir()
        for i in range(4):
            np.save(tmp_path / kind / f"{i}.npy", np.full((3 + i, 4), i + 10 * (kind == "b")))
    np.save(tmp_path / "a" / "bad.npy", np.full((3, 4), np.nan))
    findings = examine(Data(kind="features", root=str(tmp_path)))
    assert [each["path"] for each in findings["unreadable"]] == [str(tmp_path / "a" / "bad.npy")]
    assert findings["frames"]["decoded"] == 2 * (3 + 4 + 5 + 6)


def test_real_clips(real_data):
    how = Data(kind="videos", root=str(real_data / "skyrim_human_actions"), classes=("run", "fly"))
    findings = examine(how)
    assert findings["unreadable"] == findings["damaged"] == []
    assert findings["frames"]["declared"] == findings["frames"]["decoded"]
    assert findings["split"]["leaked"] == "unknown"


def test_frames_are_counted_as_filmed_whatever_the_settings_take(tmp_path):
    how = planted(tmp_path)
    filmed = examine(how)
    slower = replace(how, fps=7)
    findings = examine(slower)
    assert findings["frames"] == filmed["frames"]
    assert findings["rates"] == {"lowest": 25, "highest": 25, "taken": 7}
    first, second, *_ = doctor.lines(findings)
    assert first.endswith("a clip has 9 to 10 frames (median 9), filmed at 25 a second")
    assert second == "of these, 7 frames a second are used (data.fps)"
    assert not any("data.fps" in line for line in doctor.lines(filmed))


def test_a_folder_without_clips_is_a_warning_and_no_fault(tmp_path):
    how = planted(tmp_path)
    (tmp_path / "jump").mkdir()
    findings = examine(how)
    assert findings["healthy"] is True
    *_, warning, last = doctor.lines(findings)
    assert warning == "warning: folder jump has no videos and is left out"
    assert last == "all files can be read; see the warning above"


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_findings(tmp_path, workers):
    how = planted(tmp_path)
    clip("v_a_g09_c01.mp4", 5)(tmp_path / "a")
    assert examine(how, workers=workers) == examine(how)
