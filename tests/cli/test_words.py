"""What the command line says: help as the program was started, progress, lines of predict."""

import csv
import io
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import trained_runs
from helpers.command_line import fails
from rich.console import Console

import vidrec
from vidrec import config
from vidrec.cli import main, progress
from vidrec.cli.commands import COMMANDS
from vidrec.cli.progress import ConsoleReporter
from vidrec.config import Config, override
from vidrec.errors import UserError
from vidrec.evaluation import statistics
from vidrec.report import classes, wording
from vidrec.report.results import RowResult
from vidrec.report.run import Run
from vidrec.training.results import TrialRun


def shown(capsys, monkeypatch, program: str, *words: str) -> str:
    """Help of a command, started by a name, as one line."""
    monkeypatch.setattr("sys.argv", [program, *words])
    with pytest.raises(SystemExit) as left:
        main.main(list(words))
    assert left.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("program", "typed"),
    [("/opt/bin/vidrec", "vidrec"), ("launch.py", "python launch.py")],
)
def test_examples_are_of_the_program_that_was_started(capsys, monkeypatch, program, typed):
    text = shown(capsys, monkeypatch, program, "predict", "--help")
    assert f"Example: {typed} predict runs/" in text
    assert "of a run or an ablation, or its name" in text  # what fields mean is there too


def test_help_of_an_experiment_shows_its_own_settings(capsys, monkeypatch):
    plain = shown(capsys, monkeypatch, "vidrec", "train", "--help")
    of_videos = shown(capsys, monkeypatch, "vidrec", "train", "my_videos", "--help")
    words = "resample videos to this many frames a second; 0: the original rate (default: {})"
    assert words.format(0) in plain
    assert words.format(10) in of_videos
    assert shown(capsys, monkeypatch, "vidrec", "train", "no_such", "--help") == plain


@pytest.mark.parametrize(("program", "named"), [("vidrec", "vidrec"), ("x/launch.py", "launch.py")])
def test_mistakes_name_the_program_that_was_started(capsys, monkeypatch, program, named):
    monkeypatch.setattr("sys.argv", [program])
    with pytest.raises(SystemExit):
        main.main(["train", "ablations/scanners.py"])
    assert f"use `{named} ablate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train motion --epochs 5", "'--train.epochs'?"),
        ("train motion --epoch 5", "'--train.epochs'?"),
        ("train motion --units=5", "'--scanner.units'?"),
        ("search motion --learning-rate 5", "'--optim.learning_rate'?"),
        ("ablate motion --batch_size 5", "'--train.batch_size' or '--eval.batch_size'?"),
        ("train motion --kind 5", "'--encoder.kind', '--scanner.kind', '--optim.kind' or one of 4"),
        ("train motion --more-epoch 5", "'--more-epochs'?"),
        ("train motion --train.units 5", "'scanner.units'?"),
    ],
)
def test_of_a_setting_the_last_word_is_enough_to_be_found(capsys, typed, meant):
    assert f"did you mean {meant}" in fails(capsys, *typed.split())


def test_a_command_without_settings_is_not_told_of_any(capsys):
    assert "did you mean" not in fails(capsys, "predict", "run", "film.mp4", "--epochs", "3")


def test_the_last_word_of_every_setting_finds_it():
    names = [name for name, _, _ in config.fields()]
    for name in names:
        leaf = name.rpartition(".")[2]
        same = [full for full in names if full.rpartition(".")[2] == leaf]
        assert sorted(config.by_last_word()[leaf]) == sorted(same)
        with pytest.raises(UserError) as raised:
            config.override(config.Config(), {f"nowhere.{leaf}": 1})
        assert re.search("did you mean '(.*)'", str(raised.value))[1] in same


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text_of_its_own(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    options = help_texts(capsys.readouterr().out)
    assert len(options) > 2
    for name, text in options:
        assert text, name
    for (name, text), (following, its_text) in pairwise(options):
        assert text != its_text, f"{name} and {following}: {text}"


def help_texts(printed: str) -> list[tuple[str, str]]:
    """Each option and its text, without its default."""
    options: list[list[str]] = []
    for line in printed.replace("│", " ").splitlines():
        if re.match(r"  (-?-\w|\[?[A-Z]{2,}\b)", line):
            name, *text = re.split(" {2,}", line.strip(), maxsplit=1)  # beside it, or below
            options.append([name, *(text or [""])])
        elif options and line.startswith(" " * 8):
            options[-1][1] += f" {line.strip()}"
        elif re.match(" ?[^ ]", line):
            options.append(["", "between sections"])
    end = re.compile(r"\((default|repeatable|required).*")
    return [(name, end.sub("", text).strip()) for name, text in options if name]


def test_help_shows_what_a_kind_may_be(capsys):
    with pytest.raises(SystemExit):
        main.main(["train", "motion", "--help"])
    printed = capsys.readouterr().out
    assert "|STR" not in printed
    assert "|keras:NAME|FILE.onnx|path.py:Name" in printed


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_says_that_a_command_is_optional(capsys, word):
    with pytest.raises(SystemExit) as ended:
        main.main([word])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "(required)" not in printed
    assert "(default: ablate)" in printed


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"vidrec {vidrec.__version__}\n"


def test_progress_says_how_trials_ended():
    members = [
        TrialRun(str(number), override(Config(), {"train.epochs": epochs}), None)
        for number, epochs in enumerate((3, 3, 2, 3))
    ]
    out = io.StringIO()
    screen = ConsoleReporter(Console(file=out, width=200))
    screen.advance = lambda title, done, total, note: print(note, file=out)
    group = screen.group("g", members)
    running, done, diverged = ({"status": word} for word in ("running", "done", "diverged"))
    group.epoch(1, {"0": running, "1": done, "2": running, "3": diverged})
    group.epoch(2, {"0": running, "2": done})
    group.epoch(3, {"0": done})
    first, second, third, last = out.getvalue().splitlines()
    first, left = first.split(", at most ")
    assert first == "epochs, 2 of 4 trials training (1 stopped early, 1 diverged)"
    assert left == "0 s left"
    second = second.split(", at most ")[0]
    assert second == "epochs, 1 of 4 trials training (1 stopped early, 1 diverged, 1 finished)"
    assert third.startswith("epochs, 0 of 4 trials training")
    assert "4 trials (1 stopped early, 1 diverged, 2 finished), 3 epochs in" in last


def test_progress_of_a_group_that_goes_on_counts_those_that_ended_before():
    members = [TrialRun(str(number), Config(), None) for number in range(3)]
    out = io.StringIO()
    group = ConsoleReporter(Console(file=out, width=200)).group("g", members)
    group.epoch(30, {"2": {"status": "done"}})
    assert "3 trials (1 finished, 2 ended before), 30 epochs" in out.getvalue()


def test_progress_counts_groups_and_tells_the_time_left(monkeypatch):
    members = [TrialRun("0", override(Config(), {"train.epochs": 10}), None)]
    out, clock = io.StringIO(), iter((0.0, 0.0, 0.0, 60.0))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    screen = ConsoleReporter(Console(file=out, width=200))
    screen.planned(2)
    first, second, third = (screen.group("g", members) for _ in range(3))
    assert (first.title, second.title) == ("[1 of 2] g", "[2 of 2] g")
    assert third.title == "g"  # one of them was split
    third.epoch(4, {"0": {"status": "running"}})  # it goes on after its third epoch
    assert "at most 6 min left" in out.getvalue()


def test_progress_names_the_fold_and_tells_the_end_of_extraction():
    about = {"overrides": {"scanner.kind": "gru"}, "fold": 2}
    out = io.StringIO()
    screen = ConsoleReporter(Console(file=out, width=200))
    assert screen.group("g", [TrialRun("0", Config(), None, about)]).title == "kind gru, fold 2"
    for done in range(1, 4):
        screen.extracting(done, 3)
    assert out.getvalue().splitlines() == ["clips: 1 of 3", "clips: 3 of 3"]


class Row:
    def __init__(self, name, few, note=""):
        facts = {"too_few_seeds": few, "note": note}
        self.name, self.interval = name, type("Interval", (), facts)


def test_one_seed_says_what_its_interval_leaves_out():
    [line] = wording.one_seed([Row("a", True), Row("b", True)])
    assert line.startswith("One seed: the interval covers only the choice of test clips.")
    [line] = wording.one_seed([Row("a", True), Row("b", False)])
    assert line.startswith("One seed (a):")
    assert wording.one_seed([Row("a", False)]) == []


def test_rows_whose_answers_are_all_alike_are_told():
    rows = [Row("a", True, statistics.NO_SPREAD), Row("b", True), Row("c", False, "no spread")]
    assert wording.no_spread(rows) == [f"a: {statistics.NO_SPREAD}."]
    assert wording.no_spread(rows[1:]) == []


def test_claims_about_classes_say_on_how_many_clips_they_rest():
    [said] = classes._extremes(row_of((3, 0, [[2, 0], [1, 0]])))
    text = "Of one on 1 to 2 test clips of a class, seed 3. Always right: up. Never right: down."
    assert said.text == text


def row_of(*counted):
    """A row of runs: seed, fold, and confusions of two classes."""
    runs = [
        Run(
            Path(),
            {
                **{"seed": seed, "fold": fold, "classes": ["up", "down"]},
                "metrics": {"test": {"confusion": counts_KK}},
            },
        )
        for seed, fold, counts_KK in counted
    ]
    return RowResult("one", "one", (), tuple(runs), {}, ())


def test_claims_about_classes_are_of_all_seeds_and_folds_and_count_answers_apart_from_clips():
    ups, mixed = [[2, 0], [1, 1]], [[3, 0], [2, 2]]
    seeds = [(0, 0, ups), (1, 0, [[2, 0], [0, 2]]), (2, 0, ups)]
    [said] = classes._extremes(row_of(*seeds))
    assert said.text.startswith(
        "Of one on 6 answers to 2 test clips of a class, 3 seeds. Always right: up. Never right: no"
    )
    folds = [(seed, fold, ups if fold == 1 else mixed) for seed in (0, 1) for fold in (1, 2)]
    [said] = classes._extremes(row_of(*folds))
    assert said.text.startswith(
        "Of one on 10 to 12 answers to 5 to 6 test clips of a class, 2 seeds on 2 folds. "
    )
    [said] = classes._extremes(row_of(*folds[:2]))
    assert said.text.startswith("Of one on 5 to 6 test clips of a class, seed 0 on 2 folds. ")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return trained_runs.made(tmp_path_factory)


@pytest.mark.slow
def test_a_folder_has_a_line_a_file_and_its_windows_where_they_are_asked_for(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "new"
    folder.mkdir()
    for number, file in enumerate(sorted((made["videos"] / "left").iterdir())[:3]):
        shutil.copy(file, folder / f"{number}.mp4")
    (folder / "broken.mp4").write_bytes(b"?" * 99)

    def predict(*words) -> list[str]:
        with pytest.raises(SystemExit):
            main.main(["predict", str(made["table"]), *words])
        return capsys.readouterr().out.splitlines()

    def table() -> list[dict]:
        return list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))

    lines = predict("new")
    assert sum("new/" in line for line in lines) == 4
    assert not any(" – " in line for line in lines)
    assert [row["path"] for row in table()] == [f"new/{n}.mp4" for n in ("0", "1", "2", "broken")]
    alone = [line for number in range(3) for line in predict(f"new/{number}.mp4") if " s  " in line]
    windows = [line for line in predict("new", "--windows") if " s  " in line]
    assert len(windows) > 3
    assert windows == alone  # of one file its windows are shown anyway
    rows = table()
    assert [row["error"] != "" for row in rows] == [False] * len(windows) + [True]
    assert [f"{float(row['start']):8.2f} – {float(row['end']):.2f} s" for row in rows[:-1]] == [
        line.partition(" s  ")[0] + " s" for line in windows
    ]
    assert all(f"  {row['class']} " in line for row, line in zip(rows, windows, strict=False))
