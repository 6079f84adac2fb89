"""A folder of trained runs in which commands are run, and which can be brought back as it was."""

import contextlib
import io
import json
import os
import re
import shutil
import traceback
from pathlib import Path

import pytest

from helpers import trained_runs
from vidrec.cli import main

# Of an answer: what differs between two runs of one command.
VARYING = {"seconds", "resumed_epoch", "checksum"}
# Written for people, or for other programs: no command reads them.
UNREAD = re.compile(r"(report\.html|environment\.json|table\.\w+|figures/.*|.*lock|.*about\.json)$")
EXPERIMENT = """'''Videos and an encoder that stays.'''
import sys
sys.path.insert(0, {tests!r})
import pathlib
from helpers import trained_runs
from vidrec.sweeps.ablation import Ablation

def config():
    return trained_runs.settings_of(pathlib.Path({videos!r}), trained_runs.TABLE)

def ablation():
    rows = [{{"seed": 0}}, {{"head.kind": "mean"}}]
    return Ablation("question", config(), rows, seeds=1)
"""


class TrainedFolder:
    """A folder with a run, an ablation and their cache, which can be brought back."""

    def __init__(self, folder: Path, kept: Path | None = None, programs: Path | None = None):
        self.folder, self.kept = folder / "trained", kept or folder / "kept"
        self.folder.mkdir()
        (self.folder / "cache").mkdir()
        if programs:  # compiled ones are many megabytes
            (self.folder / "cache" / "xla").symlink_to(programs)
        videos = trained_runs.write_videos(self.folder / "videos")
        text = EXPERIMENT.format(tests=str(Path(__file__).parents[1]), videos=str(videos))
        (self.folder / "single.py").write_text(text.partition("def ablation")[0])
        (self.folder / "question.py").write_text(text)
        self.film = str(next(videos.glob("left/*.mp4")))
        for words in (["train", "single.py"], ["ablate", "question.py"]):
            status, _, said = self.run(words)
            assert status == 0, said
        [self.single] = (self.folder / "runs").glob("single-*")
        [self.table] = (self.folder / "runs").glob("question-*")
        self.keep()

    def keep(self):
        shutil.copytree(self.folder, self.kept, symlinks=True)

    def restore(self):
        shutil.rmtree(self.folder)
        shutil.copytree(self.kept, self.folder, symlinks=True)

    def run(self, words):
        """(status, answer, what was said); a traceback fails the test."""
        before = Path.cwd()
        os.chdir(self.folder)
        out, said = io.StringIO(), io.StringIO()
        try:
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
                patch.setenv("VIDREC_CACHE", str(self.folder / "cache"))
                patch.setattr("sys.__stdout__", out)
                main.main([*words, "--json"])
        except SystemExit as left:
            return left.code, comparable(out.getvalue()), said.getvalue()
        except BaseException as error:
            pytest.fail("".join(traceback.format_exception(error)))
        finally:
            os.chdir(before)

    def commands(self):
        single, table = str(self.single), str(self.table)
        return {
            "train": ["train", "single.py"],
            "ablate": ["ablate", "question.py"],
            "report": ["report", single],
            "report table": ["report", table],
            "compare": ["compare", single, table],
            "predict": ["predict", single, self.film],
            "predict table": ["predict", table, self.film],
            "evaluate": ["evaluate", single, "--part", "val"],
            "export": ["export", single, "exported"],
            "csv and overlay": self.outputs()[0],
            "prepare": self.outputs()[1],
            "status": ["status", table],
            "extract": ["extract", "single.py"],
        }

    def outputs(self):
        """Commands that write what people asked for."""
        film = ["predict", str(self.single), self.film]
        return [
            [*film, "--csv", "predictions.csv", "--overlay", "seen.mp4"],
            ["extract", "motion", "--data.tfds", "motion/clips=60,frames=8,size=24"],
        ]

    def files(self):
        """What a command may read back, and the commands that do."""
        found = {}
        for file in sorted(self.folder.rglob("*")):
            name = str(file.relative_to(self.folder))
            if not file.is_file() or UNREAD.search(name) or name.startswith("videos"):
                continue
            if name.startswith("runs/single"):
                found[name] = ["train", "report", "compare", "predict", "evaluate", "export"]
            elif name.startswith("runs/"):
                found[name] = ["ablate", "report table", "compare", "predict table", "status"]
            elif name.startswith("cache/") and not name.startswith("cache/xla"):
                found[name] = ["train", "evaluate", "extract", "ablate"]
        return found


def comparable(text):
    return [without(json.loads(line)) for line in text.splitlines()]


def without(content):
    if isinstance(content, dict):
        return {name: without(each) for name, each in content.items() if name not in VARYING}
    return [without(each) for each in content] if isinstance(content, list) else content
