"""Any command may be killed at any moment: what was there stays, and the same command goes on.

A process kills itself at the n-th time that it opens a file to write, renames or removes one; some
are killed by the clock besides. Then nothing half may be read as whole, the same command ends as
one that nothing disturbed, and no litter is left.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import trained_runs

from vidrec.data import video
from vidrec.evaluation.export import loader
from vidrec.io import files

pytestmark = pytest.mark.slow(minutes=15)
ROOT = Path(__file__).parent.parent
EXPERIMENT = """'''Videos, an encoder that stays, and a save after each epoch.'''
import sys
sys.path.insert(0, {tests!r})
import pathlib, tiny_runs
from vidrec.sweeps.ablation import Ablation

def config():
    settings = trained_runs.TABLE | {{"train.save_seconds": 0.0, "train.epochs": 3}}
    return trained_runs.settings_of(pathlib.Path({videos!r}), settings)
"""
QUESTION = """
def ablation():
    return Ablation("question", config(), [{"seed": 0}, {"head.kind": "mean"}], seeds=1)
"""
# Kills itself at the event whose number is given; without a number it tells how many there were.
DRIVER = """
import os, signal, sys
folder, moment, told = sys.argv[1], int(sys.argv[2]), sys.argv[3]
count = 0
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}

def watch(event, arguments):
    global count
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
    elif event not in EVENTS:
        return
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
    if path.startswith(folder) and "/xla/" not in path:
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
sync = os.fsync
def syncing(number):  # what was written is there, its name is not
    watch("os.remove", [folder])
    sync(number)
os.fsync = syncing
from vidrec.cli import main as cli
try:
    cli.main(sys.argv[4:])
finally:
    open(told, "w").write(str(count))
"""


class Case:
    """A command in a folder of its own, made anew from what was there before it."""

    def __init__(self, place: Path, words: list[str], before: Path):
        self.place, self.words, self.before = place, words, before
        self.told = place.with_name(f"{place.name}.count")

    def renew(self):
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.before, self.place, symlinks=True)
        (self.place / "tmp").mkdir(exist_ok=True)

    def start(self, moment=0):
        environment = os.environ | {
            "VIDREC_CACHE": str(self.place / "cache"),
            "TMPDIR": str(self.place / "tmp"),
            "PYTHONPATH": str(ROOT),
        }
        words = [sys.executable, "-c", DRIVER, str(self.place), str(moment), str(self.told)]
        return subprocess.Popen(
            [*words, *self.words],
            cwd=self.place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self):
        process = self.start()
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
        return out

    def killed(self, moment, seconds=None):
        """True where the process was killed before its end."""
        process = self.start(moment)
        try:
            process.communicate(timeout=seconds or 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0


def tidy(text):
    """A table without the columns of seconds, or an answer without what passes."""
    lines = [line.split(",") for line in text.splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if not name.startswith("seconds")]
    return [[line[i] for i in kept] for line in lines]


def outcome(place):
    """What a command leaves for people and for other commands, by name."""
    found = {}
    for file in sorted(place.rglob("*")):
        name = str(file.relative_to(place))
        if file.name == "table.csv":
            found[name] = tidy(file.read_text())
        elif file.name == "checksums.json" and file.parent.name == "exported":
            loader._checked(file.parent)  # raises where a file is not the one that belongs here
            found[name] = "whole"
        elif file.name == "model.stablehlo":  # names in it are counted on in a process
            found[name] = "there"
        elif file.name == "predictions.csv" or file.parent.name == "exported":
            found[name] = file.read_bytes() if file.is_file() else None
        elif file.name in ("predictions.npz", "samples.npz"):
            found[name] = {n: a.tobytes() for n, a in files.read_arrays(file).items()}
        elif file.name in ("metrics.jsonl", "model.json", "config.json"):
            found[name] = file.read_bytes()
        elif file.name == "seen.mp4":  # threads of the encoder decide on some of its bytes
            found[name] = file.read_bytes() if file.stat().st_size < 100 else frames(file)
        elif file.name in ("report.html", "result.json"):
            found[name] = "there"
    return found


def frames(film):
    return sum(len(chunk) for chunk in video.stream(film, 32))


LITTER = re.compile(r"(\.vidrec-.*|.*\.partial.*|incomplete\..*|.*\.incomplete.*|.*tfds)$")


def litter(place):
    return [str(each) for each in place.rglob("*") if LITTER.fullmatch(each.name)]


def nothing_is_half(place):
    for file in place.rglob("*"):
        if LITTER.search(str(file.relative_to(place))) or "/xla/" in str(file):
            continue
        if any(LITTER.fullmatch(part) for part in file.relative_to(place).parts):
            continue
        if file.suffix == ".json" and "data" not in file.parts and "jobs" not in file.parts:
            files.read_json(file, kind=(dict, list))
        elif file.suffix == ".npz":
            files.read_arrays(file)
        elif file.name == "report.html":
            assert file.read_text().rstrip().endswith("</html>")
        elif file.name == "metrics.jsonl":
            files.read_lines(file, whole=False)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Folders to start from: nothing done, and everything done with older outputs."""
    fresh = tmp_path_factory.mktemp("kills") / "fresh"
    fresh.mkdir()
    videos = trained_runs.write_videos(fresh.parent / "videos", each=5)
    text = EXPERIMENT.format(tests=str(Path(__file__).parent), videos=str(videos))
    (fresh / "single.py").write_text(text)
    (fresh / "question.py").write_text(text + QUESTION)
    done = fresh.parent / "done"
    for words in (["train", "single.py"], ["ablate", "question.py"]):
        case = Case(done, words, fresh)
        if words[0] == "train":
            case.renew()
        case.run()
    for name in ("single", "question"):
        [folder] = (done / "runs").glob(f"{name}-*")
        folder.rename(done / "runs" / name)
    case.words = ["export", "runs/single", "exported"]
    case.run()
    (done / "exported" / "NOTES").write_text("a user's own")
    (done / "predictions.csv").write_text("older answers\n")
    film = next(videos.glob("left/*.mp4"))
    shutil.copy(film, done / "film.mp4")
    (done / "seen.mp4").write_bytes(b"an older film")
    shutil.rmtree(done / "tmp")
    return {"fresh": fresh, "done": done}


SMALL = "motion/clips=60,frames=8,size=24"
# A command, the world that it begins in, and how many kills it gets; 25 together.
CASES = {
    "train": (["train", "single.py"], "fresh", 5),
    "ablate": (["ablate", "question.py"], "fresh", 5),
    "extract": (["extract", "single.py"], "fresh", 3),
    "export": (["export", "runs/question", "exported"], "done", 3),
    "predict": (
        ["predict", "runs/single", "film.mp4", "--csv", "predictions.csv", "--overlay", "seen.mp4"],
        "done",
        3,
    ),
    "report": (["report", "runs/question", "--tensorboard"], "done", 3),
    "prepare": (["extract", "motion", "--data.tfds", SMALL], "fresh", 3),
}


def test_there_are_twenty_five_kills():
    assert sum(kills for _, _, kills in CASES.values()) == 25


@pytest.mark.parametrize("name", CASES)
def test_after_a_kill_the_same_command_ends_as_if_nothing_had_been(worlds, tmp_path, name):
    if "--tensorboard" in CASES[name][0]:
        pytest.importorskip("tensorboardX")
    words, before, kills = CASES[name]
    rng = random.Random(int(os.environ.get("VIDREC_TEST_SEED", "7")) + len(name))
    undisturbed = Case(tmp_path / "place", words, worlds[before])
    undisturbed.renew()
    undisturbed.run()
    whole, events = outcome(undisturbed.place), int(undisturbed.told.read_text())
    assert litter(undisturbed.place) == []
    older = outcome(worlds[before])
    case = undisturbed  # in the same place: a run tells where it lies
    # Spread over the command: the last moments are those of renaming what is complete.
    moments = [
        rng.randint(1 + k * events // kills, (k + 1) * events // kills) for k in range(kills)
    ]
    hit = 0
    for moment in moments:
        case.renew()
        hit += case.killed(moment)
        nothing_is_half(case.place)
        for file, content in outcome(case.place).items():
            if file in older and not file.startswith("runs"):
                assert content in (older[file], whole.get(file)), (moment, file)
        exported = {n: c for n, c in outcome(case.place).items() if n.startswith("exported")}
        for all_of in (older, whole):
            if exported == {n: c for n, c in all_of.items() if n.startswith("exported")}:
                break
        else:
            pytest.fail(f"{moment}: an export that is neither the older nor the new one")
        case.run()
        found = outcome(case.place)
        assert found.keys() == whole.keys(), moment
        differing = [file for file in whole if found[file] != whole[file]]
        assert differing == [], moment
        assert litter(case.place) == [], moment
    assert hit == kills
