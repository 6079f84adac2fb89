"""Several processes train together as one would, and outlive the loss of one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidrec.errors import UserError
from vidrec.io import files

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DATASET = str(ROOT / "tests" / "helpers" / "small_datasets.py") + ":given"
EXPERIMENT = f"""'''Ready-made features in memory.'''
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from helpers.small_datasets import settings
from vidrec.config import Config, override

def config() -> Config:
    return override(
        settings(scanner__dropout=0.3, scanner__batch_norm=True, optim__clip_norm=0.2),
        {{"data.kind": {DATASET!r}, "train.epochs": 4}},
    )
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(folder, words, devices, processes=1):
    """Processes that work on one command, their output in files."""
    (folder / "given.py").write_text(EXPERIMENT)
    command = [sys.executable, str(ROOT / "launch.py"), *words, "--json"]
    command += ["--workdir", str(folder / "runs")]
    port, started = free_port(), []
    for process in range(processes):
        joined = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
        joined += ["--process", str(process)]
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_ENABLE_X64": "1",
            "VIDREC_CACHE": str(folder / "cache"),
        }
        with (
            (folder / f"{process}.out").open("w") as out,
            (folder / f"{process}.err").open("w") as err,
        ):
            started.append(
                subprocess.Popen(
                    command + (joined if processes > 1 else []),
                    env=environment,
                    stdout=out,
                    stderr=err,
                )
            )
    return started


def done(folder, *arguments):
    """The answer of the first process; all leave in order, and the others say nothing."""
    started = start(folder, *arguments)
    codes = [each.wait(timeout=400) for each in started]
    assert codes == [0] * len(codes), (folder / "0.err").read_text()
    assert all((folder / f"{i}.out").read_text() == "" for i in range(1, len(codes)))
    return json.loads((folder / "0.out").read_text())


def epochs(folder):
    [file] = (folder / "runs").glob("*/metrics.jsonl")
    return files.read_lines(file)


def alike(folder, other):
    """Equal to 1e-9; with several devices sums are added up in another order."""
    lines = list(zip(epochs(folder), epochs(other), strict=True))
    assert len(lines) == 4
    for one, two in lines:
        for name in one:
            if isinstance(one[name], float):
                assert one[name] == pytest.approx(two[name], rel=1e-9), name
            else:
                assert one[name] == two[name], name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One process with one device."""
    folder = tmp_path_factory.mktemp("one")
    return folder, done(folder, ["train", str(folder / "given.py")], 1)


def test_two_processes_train_what_one_trains(undisturbed, tmp_path):
    folder, result = undisturbed
    found = done(tmp_path, ["train", str(tmp_path / "given.py")], 2, 2)
    alike(tmp_path, folder)
    assert found["metrics"]["test"]["confusion"] == result["metrics"]["test"]["confusion"]
    assert found["metrics"]["test"]["loss"] == pytest.approx(
        result["metrics"]["test"]["loss"], rel=1e-9
    )


def test_two_processes_fill_a_table(tmp_path):
    words = ["ablate", str(tmp_path / "given.py"), "--seeds", "3"]
    words += ["--axis", "optim.learning_rate=0.05,0.1"]
    found = done(tmp_path, words, 2, 2)
    assert [trial["status"] for trial in found["trials"]] == ["done"] * 6
    assert Path(found["dir"], "report.html").exists()
    again = done(tmp_path, words, 1)
    assert again["trials"] == found["trials"]


def test_one_dies_the_other_leaves_and_both_go_on(undisturbed, tmp_path):
    words = ["train", str(tmp_path / "given.py"), "--train.save_seconds", "0"]
    first, second = start(tmp_path, words, 1, 2)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and first.poll() is None:
        saves = list((tmp_path / "runs").glob("*/checkpoints/[0-9]*"))
        if saves:
            break
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    code = first.wait(timeout=90)
    assert time.monotonic() - killed < 60
    assert code != 0
    assert "process" in (tmp_path / "0.err").read_text()
    found = done(tmp_path, words, 1, 2)
    assert found["resumed_epoch"] > 0
    alike(tmp_path, undisturbed[0])


def test_a_process_needs_to_know_its_place():
    from vidrec.training import runtime

    with pytest.raises(UserError, match="--coordinator HOST:PORT"):
        runtime.join(processes=2, process=0)
    with pytest.raises(UserError, match="counted from 0"):
        runtime.join("127.0.0.1:1", processes=2, process=2)
