"""The command line as a user meets it: answers, mistakes, exit statuses."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from helpers.command_line import ROOT, fails, launch
from helpers.ucf_features import write_ucf101
from rich.console import Console

from vidrec.cli import experiments, main, progress
from vidrec.cli.commands import COMMANDS
from vidrec.cli.progress import ConsoleReporter
from vidrec.errors import STOPPED
from vidrec.features.pace import Pace
from vidrec.training import runtime
from vidrec.training.loop import Interrupted


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "experiments/motion.py", "--scaner.kind", "gru"], "'scanner.kind'"),
        (["train", "experiments/motion.py", "--scanner.units", "many"], "a whole number"),
        (["train", "experiments/motion.py", "--scanner.kind", "gruu"], "did you mean 'gru'"),
        (["train", "experiments/motion.py", "--scanner.units"], "needs a value"),
        (["train", "experiments/motoin.py"], "did you mean 'experiments/motion.py'"),
        (["train", "ablations/scanners.py"], "use `launch.py ablate"),
        (["trian", "experiments/motion.py"], "did you mean 'train'"),
        (["ablate", "ablations/scanners.py", "--dry-rn"], "did you mean '--dry-run'"),
        (["ablate", "ablations/scanners.py", "--axis", "optim"], "should be like"),
        (["ablate", "scanners", "--axis", "optm.momentum=1"], "'optim.momentum'"),
        (
            ["ablate", "motion", "--axis", "scanner.units=4,8", "--axis", "scanner.units=5"],
            "--axis names scanner.units twice",
        ),
        (
            ["ablate", "scanners", "--exclude", "scanner.kind=gru,scanner.kind=lstm"],
            "--exclude scanner.kind=gru,scanner.kind=lstm names scanner.kind twice",
        ),
        (["predict", ".", ""], "the name of a video should not be empty"),
        (["report", "--scanner.units", "3"], "takes no settings"),
        (["report"], "needs the folder"),
        (["ablate", "scanners", "--seeds", "-1"], "--seeds = -1 should be between 0 and 10000"),
        (["ablate", "scanners", "--seeds", "many"], "Error parsing --seeds: invalid literal"),
        (["ablate", "scanners", "--minutes", "5x"], "Error parsing --minutes"),
        (["ablate", "scanners", "--launcher", "slrum"], "invalid choice 'slrum'"),
        (["ablate", "scanners", "--seeds"], "Missing value for argument '--seeds'"),
        (["predict"], "Missing from launch.py predict: FOLDER"),
        (["predict", "x", "y", "--every", "-1"], "--every = -1.0 should be at least 0"),
        (["train", "motion", "--seed", "4294967296"], "should be between 0 and 4294967295"),
        (["train", "my_videos", "--data.root", "/nowhere", "--json"], "/nowhere"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(capsys, words, line):
    assert line in fails(capsys, *words)


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files", "a.npy"), MemoryError("Unable to allocate 9 TiB")]
)
def test_what_the_system_refuses_is_one_line(capsys, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(COMMANDS["doctor"], "run", refuse)
    line = fails(capsys, "doctor", "motion")
    assert str(error.args[-1]) in line
    assert "run the same command again" in line


def test_settings_are_read_by_their_type():
    words = "train motion --scanner.dense 8 4 --data.classes=a,b --seed 3 --optim.learning-rate 1"
    _, settings = main.parse(words.split())
    assert settings == {
        "scanner.dense": (8, 4),
        "data.classes": ("a", "b"),
        "seed": 3,
        "optim.learning_rate": 1.0,
    }


def test_without_a_command_it_is_the_table_of_scanners():
    command, settings = main.parse([])
    assert (command.files, settings) == (("ablations/scanners.py",), {})
    command, _ = main.parse(["--workdir", "elsewhere", "--seeds", "1"])
    assert (str(command.workdir), command.seeds) == ("elsewhere", 1)


def test_dry_run_lists_trials_without_data(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as left:
        main.main(["ablate", "ablations/layers.py", "--dry-run", "--json", "--seeds", "2"])
    assert left.value.code == 0


def test_dry_run_marks_the_control(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit, match=r"^0$"):
        main.main(["ablate", "ablations/learning_rate.py", "--dry-run"])
    shown = capsys.readouterr().out
    assert shown.count("(control)") == 1
    assert "learning_rate=0.0005 (control)" in shown


def test_a_dry_run_of_data_that_cannot_be_split_shows_only_the_error(capsys, tmp_path):
    root = write_ucf101(tmp_path / "features")
    for path in root.glob("Archery/*_g0[3-9]_*.npy"):
        path.unlink()
    words = ["--data.kind", "features", "--data.root", str(root), "--data.split", "group"]
    with pytest.raises(SystemExit, match=r"^2$"):
        main.main(["ablate", "ucf101_lstm", "--dry-run", *words])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "class 'Archery' of features has" in shown.err


def test_an_experiment_is_a_table_of_its_own_name():
    table = experiments.read_ablation("experiments/motion.py")
    assert (table.name, len(table.rows)) == ("motion", 1)


def test_json_stands_alone_on_stdout(tmp_path):
    done = launch(
        "ablate", "ablations/layers.py", "--dry-run", "--json", "--seeds", 2, "--workdir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [(each["row"], each["seed"]) for each in plan[:3]] == [(0, 0), (0, 1), (1, 0)]
    assert all(
        set(each) == {"id", "row", "seed", "overrides", "params", "group", "published"}
        for each in plan
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_extract_fills_the_store_and_trains_nothing(tmp_path):
    words = ("extract", "motion", "--data.tfds", "motion/clips=60", "--workdir", tmp_path, "--json")
    done = launch(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [found["counts"][part]["scored"] for part in ("train", "val", "test")] == [20, 20, 20]
    assert (found["frames"], found["unreadable"], list(tmp_path.iterdir())) == (1800, [], [])


def test_help_teaches():
    done = launch("--help")
    assert done.returncode == 0
    for command in ("train", "ablate", "predict", "check"):
        assert command in done.stdout
    done = launch("train", "--help")
    assert "Example" in done.stdout
    assert "--scanner.kind" in done.stdout


def test_every_command_has_an_example():
    for name, kind in COMMANDS.items():
        assert f"Example: vidrec {name} " in kind.__doc__, name


def test_shells_complete_the_commands():
    done = launch("--tyro-print-completion", "bash")
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout


def test_ctrl_c_ends_an_extraction_after_its_clip_and_the_second_one_at_once():
    out = io.StringIO()
    screen = ConsoleReporter(Console(file=out))
    screen.extracting(2, 9)
    screen.stop()
    assert "once more to stop at once" in out.getvalue()
    with pytest.raises(Interrupted, match="stopped after 3 of 9 clips; run the same command again"):
        screen.extracting(3, 9)
    with pytest.raises(KeyboardInterrupt):
        screen.stop()


def test_a_second_ctrl_c_ends_the_process_without_pythons_own_end():
    program = (
        "import atexit, vidrec.cli.main as m; atexit.register(print, 'late'); "
        "m._run = lambda words: m.INTERRUPTED; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")


def test_before_the_first_frame_is_encoded_no_time_is_promised(monkeypatch):
    monkeypatch.setattr(progress.Throttle, "SECONDS", 0)
    out = io.StringIO()
    screen = ConsoleReporter(Console(file=out, width=120))
    screen.pace(Pace(0.0, 0, 0.0))
    screen.extracting(1, 9)
    screen.pace(Pace(20.0, 4_000_000, 60.0))
    screen.extracting(2, 9)
    assert out.getvalue().splitlines() == [
        "clips: 1 of 9",
        "clips: 2 of 9 (20 frames/s, 4.0 MB of features, 60 s left)",
    ]


@pytest.mark.slow
def test_ctrl_c_saves_says_so_and_the_same_command_goes_on(tmp_path):
    words = ["train", "experiments/motion.py", "--data.tfds", "motion/clips=60,frames=6,size=16"]
    words += ["--train.epochs", "400", "--train.patience", "0", "--json", "--workdir", tmp_path]
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, words)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any(file.stat().st_size for file in tmp_path.rglob("metrics.jsonl")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate()
    assert (first.returncode, out) == (STOPPED, "")
    assert "the same command goes on" in err
    again = launch(*words)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert 0 < result["resumed_epoch"] < result["epochs"] == 400


@pytest.mark.slow
def test_check_passes_on_everything_that_ships():
    files = sorted((ROOT / "experiments").glob("*.py")) + sorted((ROOT / "ablations").glob("*.py"))
    done = launch("check", *files)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_my_videos_with_odd_names_and_a_corrupt_file(tmp_path):
    import numpy as np

    from vidrec.data import video

    rng = np.random.default_rng(0)
    root = tmp_path / "mes vidéos 動画"
    for label, (size, rate) in enumerate([((64, 48), 25), ((96, 64), 30)]):
        folder = root / f"class {label} é"
        folder.mkdir(parents=True)
        for clip in range(8):
            frames = rng.integers(0, 255, (20, size[1], size[0], 3), np.uint8)
            frames[..., label] = 255
            video.write(folder / f"clip {clip} ü.mp4", frames, rate)
    (root / "class 0 é" / "broken.mp4").write_bytes(b"this is no video" * 100)
    words = ["train", "experiments/my_videos.py", "--data.root", root, "--json"]
    words += ["--workdir", tmp_path / "runs", "--train.epochs", 2]
    done = launch(*words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [Path(each["path"]).name for each in result["unreadable"]] == ["broken.mp4"]
    counts = result["counts"].values()
    assert sum(each["expected"] for each in counts) == 17
    assert sum(each["unreadable"] for each in counts) == 1
    strict = launch(*words, "--data.strict", "True")
    assert strict.returncode == 2
    assert "broken.mp4" in strict.stderr


MINE = """
import sys
sys.path.insert(0, {tests!r})
from helpers.small_datasets import settings
from vidrec.config import override

def config():
    mine = {{"data.kind": {tests!r} + "/helpers/small_datasets.py:given", "scanner.kind": "mean"}}
    return override(settings(train__epochs=1), mine)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 4])
def test_both_ways_over_devices_go_through_pmap(number, tmp_path, monkeypatch):
    """One run: its batches over devices. A table: its trials over devices."""
    some, pmap, seen = jax.devices()[:number], jax.pmap, []

    def counted(fn, **how):
        # Of a batch over devices the results are the same on each; of trials each has its own.
        seen.append(("trials" if how.get("out_axes", 0) == 0 else "batch", len(how["devices"])))
        return pmap(fn, **how)

    monkeypatch.setattr(runtime, "configure", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(jax, "devices", lambda: some)
    monkeypatch.setattr(jax, "pmap", counted)
    (tmp_path / "mine.py").write_text(MINE.format(tests=str(ROOT / "tests")))
    for words in (["train"], ["ablate", "--seeds", "4"]):
        # A workdir each: the table would not train again what the run has finished.
        place = ["--workdir", str(tmp_path / words[0])]
        with pytest.raises(SystemExit) as left:
            main.main([words[0], str(tmp_path / "mine.py"), *words[1:], *place])
        assert left.value.code == 0
    assert {what for what, _ in seen} == {"batch", "trials"}
    assert {count for _, count in seen} == {number}
    assert [what for what, _ in seen].count("trials") >= 3  # initialised, trained, scored


@pytest.mark.slow
def test_a_table_takes_every_core_and_a_run_one_unless_told(tmp_path):
    """Nothing on the command line's way may start JAX before the cores are devices."""
    environment = {name: each for name, each in os.environ.items() if name != "XLA_FLAGS"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    (tmp_path / "mine.py").write_text(MINE.format(tests=str(ROOT / "tests")))
    for words in (["ablate", "--seeds", "2"], ["train"], ["train", "--train.parallel", "batch"]):
        done = launch(
            words[0],
            tmp_path / "mine.py",
            *words[1:],
            *("--workdir", tmp_path / "-".join(words), "--json"),
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        found = (answer["trials"][0] if words[0] == "ablate" else answer)["versions"]["device"]
        cores = 1 if words == ["train"] else runtime._devices_of_cores()
        assert found.startswith(f"{cores} x "), found


@pytest.mark.slow
def test_a_pool_lists_its_trials_as_a_table_does():
    done = launch("ablate", "layers", "--launcher", "pool", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3


def test_help_with_settings_is_help(capsys):
    with pytest.raises(SystemExit) as left:
        main.main(["--help", "--seed", "1"])
    assert left.value.code == 0
    assert "ablate" in capsys.readouterr().out


def test_a_setting_that_every_row_of_a_table_has_its_own_of_is_told(capsys):
    words = ["--dry-run", "--json", "--scanner.kind", "gru", "--scanner.units", "4"]
    with pytest.raises(SystemExit) as left:
        main.main(["ablate", "scanners", "--on", "motion", *words])
    assert left.value.code == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert len(told) == 1
    assert "scanner.kind as given has no effect" in told[0]
