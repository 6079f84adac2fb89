"""No byte of a file that is read back can be changed in silence, and none costs a traceback.

Files are changed byte by byte, cut and emptied, and the commands that read them are run: each gives
the same answer as before, or one line that names what is damaged.
"""

import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import traceback
from pathlib import Path

import pytest
from helpers import result_folders, trained_runs

from vidrec import report
from vidrec.cli import main
from vidrec.errors import UserError
from vidrec.evaluation.predict import choose
from vidrec.report import figures

pytestmark = pytest.mark.slow(minutes=12)
DAMAGES = 500
# Of an answer: what differs between two runs of one command.
PASSING = {"seconds", "resumed_epoch", "checksum"}
# Written for people, or for other programs: no command reads them.
UNREAD = re.compile(r"(report\.html|environment\.json|table\.\w+|figures/.*|.*lock|.*about\.json)$")
EXPERIMENT = """'''Videos and an encoder that stays.'''
import sys
sys.path.insert(0, {tests!r})
import pathlib, tiny_runs
from vidrec.sweeps.ablation import Ablation

def config():
    return trained_runs.settings_of(pathlib.Path({videos!r}), trained_runs.TABLE)

def ablation():
    rows = [{{"seed": 0}}, {{"head.kind": "mean"}}]
    return Ablation("question", config(), rows, seeds=1)
"""


class World:
    """A folder with a run, an ablation and their cache, which can be brought back."""

    def __init__(self, folder: Path, kept: Path | None = None, programs: Path | None = None):
        self.folder, self.kept = folder / "world", kept or folder / "kept"
        self.folder.mkdir()
        (self.folder / "cache").mkdir()
        if programs:  # compiled ones are many megabytes
            (self.folder / "cache" / "xla").symlink_to(programs)
        videos = trained_runs.write_videos(self.folder / "videos")
        text = EXPERIMENT.format(tests=str(Path(__file__).parent), videos=str(videos))
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
        return {name: without(each) for name, each in content.items() if name not in PASSING}
    return [without(each) for each in content] if isinstance(content, list) else content


def damaged(content, rng):
    """The content with one byte changed; rarely cut, emptied, or filled with zeros."""
    kind = rng.random()
    if not content or kind < 0.04:
        return b"" if content else b"x"
    if kind < 0.12:
        return content[: rng.randrange(len(content))]
    if kind < 0.15:
        return bytes(len(content))
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :]


def page(world, name):
    """What a report shows, besides the figures' own ids and the times."""
    folder = {"report": world.single, "report table": world.table}.get(name)
    return folder and (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("damage"))


def test_no_changed_byte_goes_unnoticed(world):
    rng = random.Random(int(os.environ.get("VIDREC_TEST_SEED", "5")))
    expected = {}
    for name, words in world.commands().items():
        status, answer, _ = world.run(words)
        expected[name] = (status, answer, page(world, name))
        assert status == 0, name
        world.restore()
    found, wrong, noticed = world.files(), [], 0
    assert len(found) > 30
    names = sorted(found)
    for number in range(int(os.environ.get("VIDREC_TEST_DAMAGES", DAMAGES))):
        name = names[number % len(names)]
        file = world.folder / name
        content = damaged(file.read_bytes(), rng)
        file.write_bytes(content)
        command = rng.choice(found[name])
        try:
            status, answer, said = world.run(world.commands()[command])
        except pytest.fail.Exception as error:
            wrong.append(f"{command}, {name}: traceback {str(error)[-900:]}")
        else:
            lines = [line for line in said.splitlines() if line.startswith("error: ")]
            refused = status == 2 and len(lines) == 1 and len(lines[0]) < 600
            if refused or str(file) in said + json.dumps(answer):
                noticed += 1
            elif (status, answer, page(world, command)) != expected[command]:
                what = "page" if (status, answer) == expected[command][:2] else f"{status} {said}"
                wrong.append(f"{command}, {name}: another answer without a word: {what[-600:]}")
        world.restore()
    print(f"{noticed} of the damages were refused in a line")
    assert not wrong, "\n".join(wrong)


BAD = [None, 5, "x", [], {}, [[1]], {"a": {"b": []}}, True, -1.5, KeyError]


def paths(content, at=()):
    """Where values lie in nested content; of lists the first one."""
    if at:
        yield at
    if isinstance(content, dict):
        for name in content:
            yield from paths(content[name], (*at, name))
    elif isinstance(content, list) and content:
        yield from paths(content[0], (*at, 0))


def changed(content, at, bad):
    content = copy.deepcopy(content)
    inner = content
    for name in at[:-1]:
        inner = inner[name]
    if bad is KeyError:
        del inner[at[-1]]
    else:
        inner[at[-1]] = bad
    return content


def test_values_of_another_type_and_missing_keys_cost_no_traceback(tmp_path, monkeypatch):
    """Of files without checksums, as another program may write them."""
    monkeypatch.setattr(figures, "draw", lambda *_: '<svg width="10" height="10"></svg>')
    monkeypatch.setattr(figures, "save", lambda figure, _: figure)
    single = result_folders.run(tmp_path / "single", steps=6)
    rows = (("mean", 0.6, 330), ("lstm", 3.6, 25482))
    table = result_folders.ablation(tmp_path / "table", seeds=2, steps=6, rows=rows)
    trial = sorted(table.glob("trials/*"))[0]
    for each in table.glob("trials/*"):
        (each / "model").mkdir()
    beside = [single / f"{name}.json" for name in ("result", "config", "environment", "model")]
    refused = []
    uses = [
        report.build,
        report.table,
        lambda folder: report.compare(single, folder, tmp_path / "compared"),
        lambda folder: str(report.terminal(folder)),
        choose,
    ]
    for file in [*beside, table / "ablation.json", trial / "result.json"]:
        content = json.loads(file.read_text())
        for at in paths(content):
            for bad in BAD:
                file.write_text(json.dumps(changed(content, at, bad)))
                for use in uses:
                    try:
                        use(single if file in beside else table)
                    except UserError as error:
                        refused.append(str(error))
                    except Exception as error:
                        where = ".".join(map(str, at))
                        pytest.fail(f"{file.name}, {where} = {bad!r}: {error!r}")
        file.write_text(json.dumps(content))
    assert len(refused) > 500
    assert all(len(each.splitlines()) == 1 for each in refused)
