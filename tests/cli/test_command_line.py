"""What people type and what they see: odd ends of output, narrow terminals, old and new runs."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import result_folders
from helpers.command_line import ROOT, fails
from rich.console import Console

from vidrec import report
from vidrec.cli import command, main, output
from vidrec.cli.commands import COMMANDS, jobs, reports
from vidrec.errors import UserError
from vidrec.evaluation import predict, tasks
from vidrec.evaluation.predict import drawing
from vidrec.io import files
from vidrec.models import encoders
from vidrec.report import formats
from vidrec.report.terminal import Columns
from vidrec.training import runtime

PIPE = 128 + signal.SIGPIPE


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A table and two runs."""
    root = tmp_path_factory.mktemp("results")
    long = (("mean", 0.6, 330), ("a long name of a row, of many words", 3.6, 25482))
    result_folders.ablation(root / "table", rows=long, values=("mean", "lstm"), samples=0)
    for name, skill in (("a", 2.0), ("b", 3.0)):
        result_folders.run(root / name, skill=skill, samples=0, row=f"row {name}")
    return root


def ends(words) -> int:
    with pytest.raises(SystemExit) as left:
        main.main(list(map(str, words)))
    return left.value.code


@contextlib.contextmanager
def to(stdout):
    """What stdout is for a while, of Python and of its beginning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "__stdout__", stdout)
        yield stdout


@contextlib.contextmanager
def unread():
    """A pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as stdout:
        yield stdout


def commands_on(results):
    return {
        "help": ["--help"],
        "dry run": ["ablate", "layers", "--dry-run"],
        "dry run --json": ["ablate", "layers", "--dry-run", "--json"],
        "report": ["report", results / "table"],
        "report --json": ["report", results / "a", "--json"],
        "status": ["status", results / "table"],
        "compare": ["compare", results / "a", results / "b", "--workdir", results],
        "predict": ["predict", results / "a", results / "a.mp4"],
        "predict --json": ["predict", results / "a", results / "a.mp4", "--json"],
    }


@pytest.mark.parametrize("name", commands_on(Path()))
def test_a_reader_who_left_ends_a_command_quietly(name, results, monkeypatch, capfd):
    line = {"path": "a.mp4", "class": "é\udcff", "confidence": 0.5, "topk": []}
    monkeypatch.setattr(
        predict.Classifier,
        "load",
        lambda folder, **_: SimpleNamespace(
            chosen="", notes=[], network=SimpleNamespace(task=tasks.named("clip"))
        ),
    )
    monkeypatch.setattr(predict, "lines", lambda *_, **__: iter([line] * 3))
    with unread() as stdout, to(stdout):
        assert ends(commands_on(results)[name]) == PIPE
    assert capfd.readouterr().err == ""


def test_work_that_nobody_watches_any_more_is_saved_first():
    def work(screen):
        screen.say("a line")
        assert screen.stopping
        screen.extracting(3, 9)
        pytest.fail("it should have stopped")

    with unread() as stdout, to(stdout), pytest.raises(BrokenPipeError):
        command.run_until_stopped(reports.Report(folders=()), work)


@pytest.mark.slow
def test_predict_and_help_into_head(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for clip in range(8):
            array = rng.normal(size=(5, 4)).astype(np.float32) + (name == "a")
            np.save(tmp_path / "data" / name / f"k{clip:02}.npy", array)
    words = ["train", "my_videos", "--data.root", tmp_path / "data", "--data.kind", "features"]
    words += ["--encoder.pca", 0, "--train.epochs", 1, "--workdir", tmp_path]
    words = " ".join(map(str, words))
    launch = f"{sys.executable} {ROOT / 'launch.py'}"

    def into_head(words, lines=1):
        script = f"{launch} {words} | head -{lines} > /dev/null; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
        assert not re.search("Traceback|Exception|BrokenPipe", done.stderr), done.stderr
        return int(done.stdout)

    assert into_head(words) in (0, PIPE)
    done = subprocess.run(f"{launch} {words} --json", shell=True, capture_output=True, text=True)
    folder = json.loads(done.stdout)["dir"]
    for options in ("--json", "--every 0.01", "--stream --json"):
        assert into_head(f"predict {folder} data/a {options}") in (0, PIPE)
    assert into_head("train --help") in (0, PIPE)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_an_output_whose_disk_is_full_is_one_line(capfd):
    with open("/dev/full", "w") as stdout, to(stdout):
        assert ends(["ablate", "layers", "--dry-run"]) == 2
    err = capfd.readouterr().err
    assert "No space left" in err
    assert err.count("\n") == 1


def test_letters_that_stdout_lacks_are_escaped(results):
    for encoding in ("ascii", "utf-8"):
        with io.TextIOWrapper(io.BytesIO(), encoding=encoding) as stdout, to(stdout):
            assert ends(["report", results / "table"]) == 0
            output.print_json({"é\udcff": "動"})
            stdout.flush()
            *_, last = stdout.buffer.getvalue().decode(encoding).splitlines()
            assert json.loads(last) == {"é\udcff": "動"}


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("ruled", [False, True])
def test_a_narrow_table_keeps_name_accuracy_interval_and_difference(results, width, ruled):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=ruled, color_system=None)
    console.print(report.terminal(results / "table"))
    lines = out.getvalue().replace("\u00a0", " ").splitlines()
    assert max(map(len, lines)) <= width
    heads = " ".join(" ".join(lines[:2]).split())
    rows = report.read(results / "table").rows
    told = " ".join(lines)
    answer = f"{rows[1].name} is "
    said = next(i for i, line in enumerate(lines) if line.startswith(answer))
    for row in rows:
        percent = f"{100 * row.mean('test_accuracy'):.1f} %"
        interval = f"{100 * row.interval.low:.1f} – {100 * row.interval.high:.1f}"
        [line] = [line for line in lines[:said] if percent in line and interval in line]
        assert line.strip().startswith(row.name[:6])
        if gap := row.difference:
            assert f"{100 * gap.mean:+.1f}" in line
            whole = f"({formats.points(gap.low, gap.high)})".replace("\u00a0", " ")
            assert (whole in line) == (width >= 80)
        # Folded names lose no letter.
        assert all(word in told for word in row.name.split())
    assert ("params" in heads) == (width == 200)  # the difference's interval comes first


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_narrow_status_keeps_group_state_and_what_went_wrong(results, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    group = {"group": "0a1b2c3d", "trials": 3, "finished": 1, "epoch": 7, "epochs": 30}
    group |= {"best": 0.5, "job": "123_4", "state": "failed", "failed": 1, "alive": None}
    group |= {"log": f"/long/{'folder/' * 9}1.out", "why": "error: out of memory"}
    found = {"note": "", "data": None, "groups": [group], "finished": 1, "trials": 3}
    jobs.show_status(jobs.Status(folder=results), found | {"report": None, "dir": "runs/x"})
    out = capsys.readouterr().out
    for text in ("0a1b2c3d", "1 of 3", "0.500", "failed", group["log"], group["why"], "runs/x"):
        assert text in out
    first = out.splitlines()[0]
    assert len(first.rstrip()) <= width
    assert ("log" in first) == (width == 200)


def test_compare_says_in_the_terminal_what_the_difference_is(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert ends(["compare", results / "a", results / "b", "--workdir", results]) == 0
    out = capsys.readouterr().out.replace("\u00a0", " ")
    for name in "ab":
        [run] = (report.read(results / name),)
        percent = f"{100 * run.metric('test_accuracy'):.1f} %"
        assert re.search(rf"row {name}.*{re.escape(percent)}", out)
    assert re.search(r"[+−]\d+\.\d", out)


def test_columns_of_a_table_that_fit_are_shown_in_their_order():
    shown = Columns(["name", "x", "y", "z"], [["n", "1" * 9, "2" * 9, "3"]], "name", [["y"], ["x"]])
    assert [shown.fitting(width) for width in (10, 21, 30, 31)] == [
        *(["name", "z"], ["name", "y", "z"], ["name", "x", "y", "z"], ["name", "x", "y", "z"])
    ]


@pytest.mark.parametrize("name", ["seen", "seen.xyz", "seen.gif", "seen.mp4.", ".mp4", "seen.jpg"])
def test_an_overlay_of_another_kind_is_refused_before_any_work(name, results, capsys):
    line = fails(capsys, "predict", str(results / "a"), "new.mp4", "--overlay", name)
    assert f"--overlay {name}: the name should end in .mp4, .mkv" in line


@pytest.mark.parametrize("ending", drawing.ENDINGS)
def test_every_ending_of_an_overlay_is_written(ending, tmp_path):
    from vidrec.data import video

    drawing.check_name(f"SEEN{ending.upper()}")
    frames = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), np.uint8)
    video.write(tmp_path / f"seen{ending}", frames, 25)
    assert sum(len(part) for part in video.stream(tmp_path / f"seen{ending}", 32, 8)) == 6


def test_a_jax_without_the_device_asked_for_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), "train", "motion", "--workdir", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "nothing", "VIDREC_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: JAX_PLATFORMS = 'nothing'")
    assert "Traceback" not in done.stderr


def test_too_little_memory_of_a_device_is_one_line(monkeypatch, capsys):
    def work(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

    monkeypatch.setattr(COMMANDS["check"], "run", work)
    assert "out of memory" in fails(capsys, "check")
    assert runtime.explain_failure(RuntimeError("another")) == ""


NEWER = {"vidrec": "99.1.0"}


def test_a_run_of_a_newer_version_says_so(results, tmp_path, capsys):
    folder = result_folders.run(tmp_path / "run", samples=0)
    file = folder / "result.json"
    result = json.loads(file.read_text()) | {"versions": NEWER}
    files.write_json(file, result)
    assert ends(["report", folder]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {folder} was written by vidrec 99.1.0, which is newer than")
    files.write_json(file, result | {"metrics": [1]})
    line = fails(capsys, "report", str(folder))
    assert "was written by vidrec 99.1.0" in line
    assert "train again" not in line
    with pytest.raises(UserError, match=r"vidrec 99\.1\.0"):
        predict.Classifier.load(folder)
    for version in ("0.0.9", "0.1.0", "", "x"):
        files.write_json(file, result | {"versions": {"vidrec": version}})
        assert files.newer(folder) == ""


def test_a_table_of_a_newer_version_says_so(tmp_path):
    folder = result_folders.ablation(tmp_path / "table", seeds=1, samples=0)
    assert files.newer(folder) == ""
    about = json.loads((folder / "ablation.json").read_text())
    files.write_json(folder / "ablation.json", about | {"versions": NEWER, "trials": {}})
    with pytest.raises(UserError, match="newer"), files.reading_runs([folder]):
        report.read(folder)


def test_encoders_are_listed_with_their_weights(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    few = {kind: encoders.KINDS[kind] for kind in ("none", "cnn", "c3d", "vgg16", "squeezenet")}
    monkeypatch.setattr(encoders, "KINDS", few)
    with pytest.raises(SystemExit) as end:
        main.main(["encoders", "--json"])
    assert end.value.code == 0
    listed = {entry["kind"]: entry for entry in json.loads(capfd.readouterr().out)}
    assert list(listed) == ["cnn", "c3d", "vgg16", "squeezenet"]
    # Keras counts 14,714,688 numbers of VGG16 without its top, SqueezeNet's paper 1.2 million with.
    assert listed["vgg16"]["params"] == 14_714_688
    assert listed["squeezenet"]["params"] == 1_235_496 - (512 * 1000 + 1000)
    assert (listed["vgg16"]["features"], listed["cnn"]["features"]) == (512, 274)
    assert (listed["vgg16"]["size"], listed["vgg16"]["normalize"]) == (224, "caffe")
    assert listed["cnn"]["weights"] == listed["c3d"]["weights"] == "random"
    assert listed["vgg16"]["weights"] == ""
    assert listed["vgg16"]["get"].startswith(f"curl -L --create-dirs -o {tmp_path}/cache/weights/")
    with pytest.raises(SystemExit):
        main.main(["encoders"])
    out = capfd.readouterr().out
    assert "14,714,688" in out
    assert "\nsqueezenet: curl" in out
    assert "\nkeras:NAME: 40 networks" in out
    assert "\nFILE.onnx: any network" in out


@pytest.mark.parametrize(("columns", "width"), [(None, 200), ("70", 70), ("wide", 200)])
def test_a_file_gets_rows_of_one_line_unless_columns_says_otherwise(columns, width, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    name = " ".join(["scanner.units=16"] * 6)
    out = io.StringIO()
    console = output.Terminal(file=out)
    console.print(Columns(["name", "test"], [[name, "97.5 %"]], folded="name"))
    head, first, *more = out.getvalue().splitlines()
    assert max(map(len, (head, first, *more))) <= width
    assert (name in first) == (not more) == (width == 200)


def test_a_terminal_keeps_its_own_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert output.Terminal(file=io.StringIO(), force_terminal=True).width == 90
    assert output.Terminal(file=io.StringIO(), width=50).width == 50
