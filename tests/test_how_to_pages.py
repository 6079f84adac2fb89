"""The Python of how-to pages runs as it is printed, on runs of small videos."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import vidrec
from tests.helpers import trained_runs
from vidrec.evaluation import export

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "how-to"


def blocks(page: str) -> list[str]:
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return trained_runs.made(tmp_path_factory)


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """runs/my_videos-ID, as pages name it, in the current folder."""
    (tmp_path / "runs").mkdir()
    trained_runs.copy_run(made["trained"], tmp_path / "runs" / "my_videos-ID")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "my_videos-ID"


def exec_block(block: str) -> dict:
    names: dict = {}
    exec(compile(block, "page", "exec"), names)
    return names


@pytest.mark.slow
def test_weights_come_from_pytorch_as_the_page_says():
    pytest.importorskip("torch")
    names = exec_block(blocks("from-pytorch.md")[0])
    error = np.abs(names["states_BTU"] - names["expected_BTU"].numpy()).max()
    assert error < 1e-5


@pytest.mark.slow
def test_weights_come_from_keras_as_the_page_says():
    pytest.importorskip("keras")
    names = exec_block(blocks("from-keras.md")[0])
    assert np.abs(names["states_BTU"] - names["expected_BTU"]).max() < 1e-5


@pytest.mark.slow
def test_a_stream_from_python(run):
    [block] = blocks("predict.md")
    assert exec_block(block)["probabilities_K"].shape == (2,)


@pytest.mark.slow
def test_a_run_goes_on_from_python(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = vidrec.train(trained_runs.settings_of(made["videos"], {}), "runs", name="motion")
    Path(trained["dir"]).rename("runs/motion-ID")
    [block] = blocks("runs.md")
    exec_block(block)
    [longer] = (path for path in Path("runs").iterdir() if path.name != "motion-ID")
    more = vidrec.read(longer)
    assert more.result["parent"]["id"] == trained["id"]
    assert len(more.curve("train/loss")) == 10


@pytest.mark.slow
def test_an_export_is_loaded_as_the_page_says(run, tmp_path):
    export.export(run, tmp_path / "OUT", platforms=("cpu",))
    [block, _] = blocks("export.md")
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path / "OUT", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("left", "right")


@pytest.mark.slow
def test_the_server_answers(run, made, tmp_path):
    (tmp_path / "serve.py").write_text(blocks("export.md")[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "serve.py", "runs/my_videos-ID", str(port)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    video = next((made["videos"] / "left").glob("*.mp4")).read_bytes()
    try:
        assert ask(port, video)["label"] in ("left", "right")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(port, b"no video")
    finally:
        server.kill()
        server.wait()


def ask(port: int, content: bytes) -> dict:
    """The server's answer; it is waited for until it listens."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", content) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("the server does not listen")
