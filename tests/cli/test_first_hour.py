"""What a first run says: files left out, a run trained before, pace, folders that do not exist."""

import json

import pytest
from helpers.command_line import fails, launch
from helpers.ucf_features import write_ucf101
from helpers.video_files import clip

from vidrec.cli import main, progress
from vidrec.evaluation import predict, tasks

SMALL = ("--encoder.kind", "cnn", "--encoder.weights", "random", "--encoder.size", "32")


def test_runners_up_that_round_to_nothing_are_left_out():
    def text(*shares):
        names = [
            {"class": name, "confidence": share} for name, share in zip("abc", shares, strict=True)
        ]
        return tasks.named("clip").text({"class": "a", "confidence": shares[0], "topk": names})

    assert text(0.7, 0.2, 0.1) == "a 70%  (b 20%, c 10%)"
    assert text(0.99, 0.006, 0.004) == "a 99%  (b 1%)"
    assert text(0.996, 0.003, 0.001) == text(1.0, 0.0, 0.0) == "a >99%"


def test_of_several_files_the_number_and_the_pace_are_told(capsys, monkeypatch):
    now = 0.0
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(progress.time, clock, lambda: now)
    lines = [{"path": str(i // 2), **({"start": 0.0} if i % 2 == 0 else {})} for i in range(8)]

    def slowly():
        nonlocal now
        for i, line in enumerate(lines):
            now = 90.0 + 10.0 * i  # programs compile before the first answer
            yield line

    assert list(progress.with_pace(slowly(), 4)) == lines
    assert capsys.readouterr().err.splitlines() == [
        "4 files are to be classified",
        "files: 0 of 4",
        "files: 1 of 4",  # no speed yet: programs were compiled before the first answer
        "files: 2 of 4 (0.033 files/s, 60 s left)",
        "files: 3 of 4 (0.04 files/s, 25 s left)",
    ]
    monkeypatch.undo()
    assert list(progress.with_pace(lines[:2], 1)) == lines[:2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"leaked": True, "recordings_known": True}, "the figure is too high"),
        ({"leaked": "unknown", "recordings_known": True}, "the figure may be too high"),
        ({"leaked": False, "recordings_known": False}, "the figure may be too high"),
        ({"leaked": False, "recordings_known": True}, ""),
        ({"leaked": False}, ""),  # of an earlier version
    ],
)
def test_evaluate_says_what_is_known_of_recordings(capsys, tmp_path, monkeypatch, split, says):
    (tmp_path / "result.json").write_text("{}")
    names = ("accuracy", "balanced_accuracy", "majority", "avg_f1")
    figures = {"metrics": {"test": dict.fromkeys(names, 0.5)}}
    counts = {"counts": {"test": {"scored": 3, "expected": 3}}}
    answer = {**figures, **counts, "split": split, "dir": str(tmp_path)}
    monkeypatch.setattr(predict, "score", lambda *_, **__: answer)
    with pytest.raises(SystemExit, match=r"^0$"):
        main.main(["evaluate", str(tmp_path)])
    said = capsys.readouterr().out
    assert says in said
    assert ("too high" in said) == bool(says)


def test_a_dry_run_says_that_the_folder_is_missing(capsys, tmp_path):
    with pytest.raises(SystemExit, match=r"^0$"):
        main.main(["ablate", "layers", "--data.root", str(tmp_path / "none"), "--dry-run"])
    said = capsys.readouterr().err.splitlines()
    assert f"data.root: there is no {tmp_path}/none here" in said[0]


def test_a_dry_run_tells_how_the_table_is_adapted_to_its_data(capsys, tmp_path):
    def told(*words):
        with pytest.raises(SystemExit, match=r"^0$"):
            main.main(["ablate", "learning_rate", "--dry-run", *map(str, words)])
        return capsys.readouterr().out

    folder = write_ucf101(tmp_path / "features")
    said = told("--data.root", folder)
    assert "Data: 4 of UCF-101's 101 classes (Archery, " in said
    assert "frames.length 120 → " in said
    assert "units divided by 8" in told("--on", "motion")
    assert "Data:" not in told("--data.root", tmp_path / "none")


def test_an_option_of_another_command_is_told(capsys):
    line = fails(capsys, "train", "motion", "--seeds", "3")
    assert "unknown option '--seeds': it is an option of ablate and search, not of train" in line
    assert "did you mean '--train.epochs'" in fails(capsys, "train", "motion", "--epochs", "3")
    far = fails(capsys, "ablate", "motion", "--runs", "runs")
    assert "did you mean" not in far


@pytest.mark.parametrize(
    "words", [["predict", ".", "a.mp4", "--csv"], ["predict", ".", "a.mp4", "--overlay"]]
)
def test_a_file_in_a_folder_that_is_missing_is_refused(capsys, tmp_path, words):
    target = tmp_path / "none" / "a.mp4"
    line = fails(capsys, *words, str(target))
    assert f"{words[-1]} {target}: the folder {tmp_path / 'none'} does not exist" in line
    assert not target.parent.exists()


def test_an_export_into_a_folder_that_is_missing_is_refused(capsys, tmp_path):
    (tmp_path / "result.json").write_text("{}")
    line = fails(capsys, "export", str(tmp_path), str(tmp_path / "none" / "out"))
    assert f"the folder {tmp_path / 'none'} does not exist" in line


def test_doctor_without_an_experiment_is_told_of_my_videos(capsys):
    assert "doctor my_videos --data.root FOLDER" in fails(capsys, "doctor", "--data.root", "x")
    assert "my_videos" not in fails(capsys, "doctor")


@pytest.mark.slow
def test_unreadable_files_are_named_and_a_second_run_says_so(tmp_path):
    for kind in "ab":
        (tmp_path / "v" / kind).mkdir(parents=True)
        for i in range(6):
            clip(f"{kind}{i}.mp4", 5 + i)(tmp_path / "v" / kind)
    for name in ("a/bad1.mp4", "b/bad2.mp4"):
        (tmp_path / "v" / name).write_bytes(name.encode())
    (tmp_path / "v" / "c").mkdir()
    data = ("--data.root", tmp_path / "v", *SMALL, "--data.split", "random")
    words = ("train", "my_videos", *data, "--train.epochs", "1", "--workdir", tmp_path / "runs")
    first = launch(*words)
    assert first.returncode == 0, first.stderr
    [line] = [each for each in first.stdout.splitlines() if "cannot be read and" in each]
    assert line.startswith("2 of 14 clips cannot be read and are left out: ")
    assert "bad1.mp4 (damaged, or not a video)" in line
    counts = json.loads(next(tmp_path.glob("runs/*/result.json")).read_text())["counts"]
    used = ", ".join(f"{counts[part]['scored']} {part}" for part in ("train", "val", "test"))
    assert line.endswith(f"; used are {used}")
    # The end of the command says it again, as the beginning has scrolled away.
    shown = " ".join(launch("report", *tmp_path.glob("runs/*")).stdout.split())
    assert "2 clips could not be read and are left out: a/bad1.mp4, b/bad2.mp4." in shown
    assert "Folder c has no videos and is left out." in shown
    second = launch(*words, "--json")
    assert "was trained before: nothing is trained" in second.stderr
    assert json.loads(second.stdout)["status"] == "done"
    again = launch("extract", "my_videos", *data)
    assert "2 clips without features are tried: " in again.stdout
