"""Any command may be killed at any moment: what was there stays, and the same command goes on.

A process kills itself at the n-th time that it opens a file to write, renames or removes one; some
are killed by the clock besides. Then nothing half may be read as whole, the same command ends as
one that nothing disturbed, and no litter is left.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import trained_runs
from helpers.outputs import check_whole, outcome, temporary_files

pytestmark = pytest.mark.slow(minutes=15)
ROOT = Path(__file__).parent.parent
EXPERIMENT = """'''Videos, an encoder that stays, and a save after each epoch.'''
import sys
sys.path.insert(0, {tests!r})
import pathlib
from helpers import trained_runs
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
    assert temporary_files(undisturbed.place) == []
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
        check_whole(case.place)
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
        assert temporary_files(case.place) == [], moment
    assert hit == kills
