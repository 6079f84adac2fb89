"""The page to try a model: who may ask, what is kept, and what a browser shows."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import trained_runs
from helpers.command_line import fails
from PIL import Image

from vidrec.data import video
from vidrec.errors import UserError
from vidrec.evaluation import demo, predict
from vidrec.evaluation.demo.guard import HEADERS, refusal
from vidrec.evaluation.demo.live import STREAMS, Live
from vidrec.evaluation.demo.uploads import OVERLAYS
from vidrec.io import files
from vidrec.io.machine import how_to_install
from vidrec.sweeps import runner

ROOT = Path(__file__).parents[2]
OWN = "127.0.0.1:8008"
STREAMED = {"frames.rule": "segment", "scanner.kind": "gru", "head.kind": "per_frame"}


class Page:
    """Asks an application as the page does, without a network."""

    def __init__(self, app):
        self.app = app

    def ask(self, method, path, body=b"", chunks=None, **headers):
        """(status, headers, body) of an answer."""
        given = {"host": OWN} | ({"origin": f"http://{OWN}"} if method != "GET" else {})
        given |= {"content-length": str(len(body))} if chunks is None else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(n.encode(), v.encode()) for n, v in given.items() if v is not None],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8008),
        }
        parts = [body] if chunks is None else list(chunks)
        sent = [
            {"type": "http.request", "body": part, "more_body": place + 1 < len(parts)}
            for place, part in enumerate(parts)
        ]
        answered = []

        async def receive():
            if not sent:
                await asyncio.Event().wait()  # the page stays until it is answered
            return sent.pop(0)

        async def send(message):
            answered.append(message)

        asyncio.run(self.app(scope, receive, send))
        start = answered[0]
        content = b"".join(message.get("body", b"") for message in answered[1:])
        return start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, content

    def json(self, method, path, body=b"", **headers):
        status, _, content = self.ask(method, path, body, **headers)
        return status, json.loads(content)


def clip_bytes(folder, frames=12, to_right=True, name="clip.mp4"):
    file = folder / name
    video.write(file, trained_runs.moving(frames, to_right, 3), fps=10)
    return file, file.read_bytes()


def jpeg(frame):
    made = io.BytesIO()
    Image.fromarray(frame).save(made, "JPEG", quality=95)
    return made.getvalue()


def as_predicted(model, file):
    """What `predict` says of a file, as the page gets it."""
    lines = list(predict.lines(model, [file]))
    for line in lines:
        del line["path"]
    *along, whole = json.loads(json.dumps(lines))
    return [along, whole]


@pytest.fixture
def kept(tmp_path):
    """The folder of uploads."""
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


@pytest.fixture
def page(kept):
    pytest.importorskip("starlette", reason="Starlette is not installed")
    from vidrec.evaluation.demo.app import build

    return Page(build(trained_runs.random_model(STREAMED), "a model", kept, 300_000))


# ----------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("GET", {"host": OWN}, True),
        ("GET", {"host": "localhost:1"}, True),
        ("GET", {"host": "LOCALHOST"}, True),
        ("GET", {"host": "[::1]:8008"}, True),
        ("POST", {"host": OWN, "origin": f"http://{OWN}"}, True),
        ("POST", {"host": OWN, "origin": f"http://{OWN}", "sec-fetch-site": "same-origin"}, True),
        # A name of somebody else's that stands for this machine.
        ("GET", {"host": "evil.example:8008"}, False),
        ("GET", {"host": "127.0.0.1.evil.example"}, False),
        ("GET", {"host": "localhost.evil.example:8008"}, False),
        ("GET", {"host": "evil.example:8008@127.0.0.1"}, False),
        ("GET", {"host": "127.0.0.1:8008:80"}, False),
        ("GET", {"host": ""}, False),
        ("GET", {}, False),
        # Pages of other origins, which a browser tells.
        ("POST", {"host": OWN, "origin": "http://evil.example"}, False),
        ("POST", {"host": OWN, "origin": "http://localhost:8008"}, False),
        ("POST", {"host": OWN, "origin": f"https://{OWN}"}, False),
        ("POST", {"host": OWN, "origin": "http://127.0.0.1:3000"}, False),
        ("POST", {"host": OWN, "origin": "null"}, False),
        ("POST", {"host": OWN}, False),
        ("DELETE", {"host": OWN}, False),
        ("OPTIONS", {"host": OWN, "origin": "http://evil.example"}, False),
        ("GET", {"host": OWN, "origin": "http://evil.example"}, False),
        ("GET", {"host": OWN, "sec-fetch-site": "cross-site"}, False),
        ("GET", {"host": OWN, "sec-fetch-site": "same-site"}, False),
    ],
)
def test_only_the_page_itself_may_ask(method, headers, allowed):
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert (refusal(method, "/model", given) == "") is allowed


def test_a_link_elsewhere_leads_to_the_page_only():
    given = [(b"host", OWN.encode()), (b"sec-fetch-site", b"cross-site")]
    assert refusal("GET", "/", given) == ""
    assert refusal("GET", "/overlay/x.mp4", given)


def test_two_names_of_a_host_are_refused():
    assert refusal("GET", "/", [(b"host", OWN.encode()), (b"Host", b"evil.example")])


def test_refusals_and_answers_carry_the_headers(page, kept):
    for headers in ({}, {"host": "evil.example"}):
        status, found, _ = page.ask("GET", "/", **headers)
        assert status == (403 if headers else 200)
        assert HEADERS.items() <= found.items()
    status, _, _ = page.ask("POST", "/clip?name=x.mp4", b"x" * 100, origin="http://evil.example")
    assert status == 403
    assert not list(kept.iterdir())


def test_the_page_asks_nobody_else():
    for file in (ROOT / "vidrec" / "evaluation" / "demo").glob("page.*"):
        text = file.read_text(encoding="utf-8").replace("http://127.0.0.1", "")
        assert "://" not in text, file.name
        assert "innerHTML" not in text
        assert " style=" not in text, "the policy of the page forbids it"


# ----------------------------------------------------------------------------- a video


def test_a_video_is_answered_as_predict_does_and_removed(page, kept, tmp_path):
    file, content = clip_bytes(tmp_path, 40)
    status, said = page.json("POST", "/clip?name=my%20clip.mp4", content)
    assert status == 200
    model = trained_runs.random_model(STREAMED)
    assert [said["along"], said["whole"]] == as_predicted(model, file)
    assert [each.name for each in kept.iterdir()] == [f"{said['overlay']}.mp4"]
    status, headers, film = page.ask("GET", f"/overlay/{said['overlay']}.mp4")
    assert (status, headers["content-type"]) == (200, "video/mp4")
    (tmp_path / "seen.mp4").write_bytes(film)
    expected = tmp_path / "expected.mp4"
    predict.overlay(model, file, expected)
    for one, other in zip(
        video.stream(tmp_path / "seen.mp4", 64), video.stream(expected, 64), strict=True
    ):
        # An encoder of several threads need not write the same bits twice.
        assert np.abs(one.astype(int) - other).mean() < 2
    status, _, part = page.ask("GET", f"/overlay/{said['overlay']}.mp4", range="bytes=0-9")
    assert (status, part) == (206, film[:10])


def test_overlays_give_way_to_later_ones(page, kept, tmp_path):
    _, content = clip_bytes(tmp_path)
    tokens = [page.json("POST", "/clip?name=a.mp4", content)[1]["overlay"] for _ in range(6)]
    assert {each.stem for each in kept.iterdir()} == set(tokens[-OVERLAYS:])
    assert page.ask("GET", f"/overlay/{tokens[0]}.mp4")[0] == 404
    assert page.ask("GET", "/overlay/..%2Fsecret.mp4")[0] == 404
    assert page.ask("GET", "/overlay/nothing.mp4")[0] == 404


@pytest.mark.parametrize("announced", [True, False])
def test_what_is_too_large_is_refused_and_not_kept(announced, page, kept):
    chunks = None if announced else [b"x" * 100_000] * 4
    body = b"x" * 300_001 if announced else b""
    status, _, content = page.ask("POST", "/clip?name=a.mp4", body, chunks)
    assert status == 413
    assert "more than 0.3 MB: --limit allows more" in json.loads(content)["error"]
    assert not list(kept.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mp4", b"no video at all", "cannot be read"),
        ("a.txt", b"words", "cannot be read"),
        ("../../a.mp4", b"no video", "cannot be read"),
        ("a.mp4", b"", "the file is empty"),
        ("a.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", "cannot be read"),
    ],
)
def test_what_is_no_video_is_one_line_and_removed(name, content, reason, page, kept):
    status, said = page.json("POST", f"/clip?name={name}", content)
    assert status == 422
    assert reason in said["error"]
    assert str(kept) not in said["error"]
    assert not list(kept.iterdir())


def test_an_upload_that_breaks_off_is_not_kept(page, kept):
    async def broken():
        yield b"x" * 1000
        raise RuntimeError("the page is gone")

    from vidrec.evaluation.demo.uploads import Uploads

    uploads = Uploads(trained_runs.random_model(STREAMED), kept, 10**6)
    with pytest.raises(RuntimeError):
        asyncio.run(uploads.receive("a.mp4", "", broken()))
    assert not list(kept.iterdir())


def test_a_picture_has_an_answer_and_no_overlay(page, kept):
    frame = trained_runs.moving(3, True, 1)[1]
    status, said = page.json("POST", "/clip?name=a.jpg", jpeg(frame))
    assert (status, said["overlay"]) == (200, None)
    assert said["whole"]["class"].startswith("class ")


# ----------------------------------------------------------------------------- the camera


def test_frames_are_answered_as_a_stream_is(page):
    """With their times: one that is left out counts as long as the one before stood."""
    model = trained_runs.random_model(STREAMED)
    status, opened = page.json("POST", "/live")
    assert (status, opened["fps"]) == (200, 25.0)
    frames = trained_runs.moving(7, True, 2)
    truth = model.stream()
    for end, steps in ((0.04, 1), (0.08, 1), (0.2, 3), (0.24, 1)):
        picture = jpeg(frames[steps])
        seen = np.asarray(Image.open(io.BytesIO(picture)))
        for _ in range(steps):
            expected = truth.push(seen)
        status, said = page.json("POST", f"/live/{opened['stream']}?end={end}", picture)
        assert status == 200
        found = {best["class"]: best["confidence"] for best in said["topk"]}
        for name, share in zip(model.classes, expected, strict=True):
            assert found[name] == pytest.approx(share, abs=1e-6)
        assert said["seen"] == truth.seen
    assert page.json("POST", f"/live/{opened['stream']}/anew") == (200, {})
    _, said = page.json("POST", f"/live/{opened['stream']}?end=0.04", jpeg(frames[0]))
    assert said["seen"] == 1
    assert page.json("DELETE", f"/live/{opened['stream']}") == (200, {})
    status, said = page.json("POST", f"/live/{opened['stream']}?end=0.08", jpeg(frames[0]))
    assert (status, said["error"]) == (410, "this stream was closed; start the camera again")


def test_frames_that_are_none_are_one_line(page):
    _, opened = page.json("POST", "/live")
    path = f"/live/{opened['stream']}"
    good = jpeg(trained_runs.moving(1, True, 2)[0])
    large = jpeg(np.zeros((8, 2000, 3), np.uint8))
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    for end, picture, status, reason in [
        ("0.1", b"words", 422, "should be a JPEG picture"),
        ("0.1", good[:50], 422, "should be a JPEG picture"),
        ("0.1", png.getvalue(), 422, "should be a JPEG picture"),
        ("0.1", large, 422, "sides of 1920 pixels at most"),
        ("nan", good, 422, "end should be the seconds"),
        ("-1", good, 422, "end should be the seconds"),
        ("x", good, 422, "end should be the seconds"),
        ("0.1", b"x" * 2_000_001, 413, "2 MB at most"),
    ]:
        found, said = page.json("POST", f"{path}?end={end}", picture)
        assert (found, reason in said["error"]) == (status, True), said
    assert page.json("POST", f"{path}?end=0.1", good)[0] == 200


def test_the_oldest_stream_gives_way():
    live = Live(trained_runs.random_model(STREAMED))
    names = [live.begin()["stream"] for _ in range(STREAMS + 1)]
    picture = jpeg(trained_runs.moving(1, True, 2)[0])
    with pytest.raises(UserError, match="closed"):
        live.push(names[0], picture, 0.1)
    assert live.push(names[-1], picture, 0.1)["seen"] >= 1


def test_a_model_of_whole_clips_says_why_it_has_no_live_labels(kept):
    pytest.importorskip("starlette", reason="Starlette is not installed")
    from vidrec.evaluation.demo.app import build

    model = trained_runs.random_model({"scanner.kind": "gru", "scanner.bidirectional": "concat"})
    page = Page(build(model, "whole", kept, 10**6))
    assert "begins at a clip's last frame" in page.json("GET", "/model")[1]["why_no_stream"]
    status, said = page.json("POST", "/live")
    assert status == 422
    assert "begins at a clip's last frame" in said["error"]


# ----------------------------------------------------------------------------- other models

SEGMENTED = STREAMED | {
    **{"task.kind": "segmentation", "frames.rule": "whole", "loss.frame_weights": "uniform"},
    **{"encoder.pooling": "moments", "encoder.pca": 6},
}


def test_a_model_of_labelled_frames_answers_by_segments_and_live(kept, tmp_path):
    pytest.importorskip("starlette", reason="Starlette is not installed")
    from vidrec.evaluation.demo.app import build

    model = trained_runs.random_model(SEGMENTED)
    page = Page(build(model, "segments", kept, 300_000))
    file, content = clip_bytes(tmp_path, 40)
    status, said = page.json("POST", "/clip?name=clip.mp4", content)
    assert status == 200
    assert [said["along"], said["whole"]] == as_predicted(model, file)
    ends = [segment["end"] for segment in said["along"]]
    assert [0.0, *ends[:-1]] == [segment["start"] for segment in said["along"]]
    assert ends[-1] == pytest.approx(4.0)
    assert page.ask("GET", f"/overlay/{said['overlay']}.mp4")[0] == 200
    _, opened = page.json("POST", "/live")
    truth = model.stream()
    for count, frame in enumerate(trained_runs.moving(3, True, 2), 1):
        picture = jpeg(frame)
        status, live = page.json("POST", f"/live/{opened['stream']}?end={count / 25}", picture)
        assert status == 200
        expected = truth.push(np.asarray(Image.open(io.BytesIO(picture))))
        assert live["topk"][0]["class"] == model.classes[int(np.argmax(expected))]
        assert live["topk"][0]["confidence"] == pytest.approx(max(expected), abs=1e-6)


@pytest.mark.slow(minutes=1)
def test_a_model_of_real_clips_answers(real_data, kept, tmp_path):
    """Two classes of real clips and a small random encoder; the page says what predict says."""
    pytest.importorskip("starlette", reason="Starlette is not installed")
    from vidrec.evaluation.demo.app import build

    clips = real_data / "skyrim_human_actions"
    if not clips.is_dir():
        pytest.skip(f"VIDREC_TEST_DATA has no {clips.name}")
    classes = ("archery", "fly")
    for name in classes:
        (tmp_path / "videos" / name).mkdir(parents=True)
        for file in sorted((clips / name).glob("*.mp4"))[:6]:
            shutil.copy(file, tmp_path / "videos" / name)
    more = {"encoder.pooling": "moments", "encoder.size": 48, "scanner.kind": "gru"}
    cfg = trained_runs.settings_of(tmp_path / "videos", more | {"head.kind": "per_frame"})
    result = runner.run(cfg, tmp_path / "runs", name="real")
    model = predict.Classifier.load(result["dir"])
    page = Page(build(model, "real", kept, 50_000_000))
    file = sorted((clips / classes[0]).glob("*.mp4"))[-1]
    status, said = page.json("POST", "/clip?name=seen.mp4", file.read_bytes())
    assert status == 200
    assert [said["along"], said["whole"]] == as_predicted(model, file)
    assert said["whole"]["class"] in classes
    assert page.ask("GET", f"/overlay/{said['overlay']}.mp4")[0] == 200


# ----------------------------------------------------------------------------- the command


def test_a_model_of_features_and_a_taken_port_are_one_line():
    model = trained_runs.random_model({"data.kind": "features"})
    with pytest.raises(UserError, match="trained on features made elsewhere"):
        demo.check(model)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; --port 0"):
            demo.serve(trained_runs.random_model(STREAMED), "x", port=port)


def test_what_is_not_installed_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    (tmp_path / "result.json").write_text("{}")
    assert how_to_install("demo") in fails(capsys, "demo", str(tmp_path))


def test_a_folder_that_a_killed_process_left_is_removed(tmp_path):
    with files.temporary_folder(tmp_path) as alive:
        left = tmp_path / ".vidrec-0123456789abcdef.partial"
        left.mkdir()
        (left / "clip.mp4").write_bytes(b"x")
        with files.temporary_folder(tmp_path) as other:
            assert {alive, other} == set(tmp_path.iterdir())
            assert other.stat().st_mode & 0o777 == 0o700
        assert {alive} == set(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def running(run: Path, cache: Path, *words):
    """The address of a demo in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), "demo", str(run), "--port", "0", *words],
        env=os.environ | {"VIDREC_CACHE": str(cache), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().split(" ")[0].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not list((cache / "demo").iterdir()), "nothing stays behind"


@pytest.mark.slow
def test_the_command_listens_on_loopback_only_and_leaves_nothing(tmp_path_factory, tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    run = trained_runs.made(tmp_path_factory)["single"]
    _, content = clip_bytes(tmp_path)
    with running(run, tmp_path / "cache") as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):  # the same port of another address
            socket.create_connection(("127.0.0.2", port), timeout=10)
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        asked.request("POST", "/clip?name=a.mp4", content, {"Origin": address})
        answer = asked.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["whole"]["class"] in ("left", "right")
        asked.request("GET", "/", headers={"Host": "evil.example"})
        assert asked.getresponse().status == 403


# ----------------------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def browser_at():
    """Opens a Chromium whose camera shows a file; gives a page of so many pixels across."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("neither chromium nor google-chrome is installed")

    @contextlib.contextmanager
    def opened(address, film, width=1280):
        flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        flags += [f"--use-file-for-fake-video-capture={film}", "--no-sandbox", "--disable-gpu"]
        with playwright.sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=program, args=flags)
            made = browser.new_page(viewport={"width": width, "height": 900})
            said = []
            made.on("console", lambda message: said.append(message.text))
            made.on("pageerror", lambda error: said.append(str(error)))
            asked = []
            made.on("request", lambda request: asked.append(request.url))
            made.goto(address)
            wait_until(made, "document.title !== 'vidrec demo'")
            yield made
            assert [line for line in said if "status of 422" not in line] == []
            elsewhere = [url for url in asked if not url.startswith((address, "blob:"))]
            assert elsewhere == []
            browser.close()

    return opened


def camera(frames, file, fps):
    """A file that Chromium plays as a camera, over and over, at this rate."""
    height, width = frames.shape[1:3]
    planes = [
        av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p").to_ndarray()
        for frame in np.ascontiguousarray(frames)
    ]
    head = f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420\n".encode()
    file.write_bytes(head + b"".join(b"FRAME\n" + each.tobytes() for each in planes))
    return file


def turning(frames, clockwise, seed, period=24, height=48, width=64):
    """A bright square that goes round in a noisy picture: no frame tells in which direction.

    Film of whole periods can be repeated without a jump, as a camera's is here.
    """
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 90, (frames, height, width, 3), np.uint8)
    start, turn = rng.uniform(0, 2 * np.pi), (1 if clockwise else -1) * 2 * np.pi / period
    for place, frame in enumerate(clip):
        angle = start + place * turn
        left = int(width / 2 - 6 + 18 * np.cos(angle))
        top = int(height / 2 - 6 + 16 * np.sin(angle))
        frame[top : top + 12, left : left + 12] = (250, 200, 90)
    return clip


TURNS = ("clockwise", "anticlockwise")


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """A run that tells directions, and of each a clip and a camera's film that it has not seen."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("starlette", reason="Starlette is not installed")

    folder = tmp_path_factory.mktemp("tried")
    more = {
        **{"encoder.pooling": "moments", "encoder.size": 48, "encoder.pca": 12},
        **{"encoder.standardize": True, "frames.length": 12, "scanner.kind": "gru"},
        **{"scanner.units": 16, "head.kind": "per_frame", "train.epochs": 40},
        **{"optim.kind": "adam", "optim.learning_rate": 0.01, "optim.clip_norm": 1.0},
    }
    for label in TURNS:
        (folder / "videos" / label).mkdir(parents=True)
        for seed in range(20):
            clip = turning(18 + seed % 7, label == "clockwise", seed, 16 + seed % 12)
            video.write(folder / "videos" / label / f"{label} {seed}.mp4", clip, fps=10)
        clip = turning(24, label == "clockwise", 91).repeat(5, 1).repeat(5, 2)
        video.write(folder / f"{label}.mp4", clip, fps=10)
        camera(clip, folder / f"{label}.y4m", fps=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDREC_CACHE", str(folder / "cache"))
        patch.setattr(runner, "_write_report", lambda *_: None)
        cfg = trained_runs.settings_of(folder / "videos", more)
        run = Path(runner.run(cfg, folder / "runs", name="tried")["dir"])
    return folder, run


BARS = """[...document.querySelectorAll("#top .bar")].map((cell) =>
    cell.firstElementChild.getBoundingClientRect().width /
    (cell.clientWidth - 2 * parseFloat(getComputedStyle(cell).paddingLeft)))"""  # shares drawn


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("label", TURNS)
def test_a_browser_uploads_a_clip_and_shows_its_name(label, width, tried, browser_at, tmp_path):
    folder, run = tried
    with (
        running(run, tmp_path / "cache") as address,
        browser_at(address, folder / f"{label}.y4m", width) as page,
    ):
        page.set_input_files("#file", folder / f"{label}.mp4")
        page.wait_for_selector("#answer:not([hidden])", timeout=120_000)
        assert page.text_content("#label").startswith(f"{label}, ")
        wait_until(page, "document.getElementById('screen').readyState >= 2")
        assert page.evaluate("document.getElementById('screen').videoWidth") > 0
        shares = page.evaluate(BARS)
        assert sum(shares) == pytest.approx(1, abs=0.03)
        assert abs(int(page.text_content("#label").split(" ")[-2]) - 100 * max(shares)) < 2
        assert label in page.text_content("#spans tbody")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=pictures(tmp_path) / f"upload-{label}-{width}.png", full_page=True)
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"no video")
        page.set_input_files("#file", bad)
        page.wait_for_selector("#state.bad")
        assert "cannot be read" in page.text_content("#state")


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize(("label", "width"), [(TURNS[0], 1280), (TURNS[1], 400)])
def test_a_browsers_camera_is_labelled_live(label, width, tried, browser_at, tmp_path):
    folder, run = tried
    with (
        running(run, tmp_path / "cache") as address,
        browser_at(address, folder / f"{label}.y4m", width) as page,
    ):
        page.click("#start")
        page.wait_for_selector("#caption:not([hidden])", timeout=120_000)
        said = []
        until = time.monotonic() + 20
        while time.monotonic() < until and len(said) < 60:
            page.wait_for_timeout(150)
            said.append(page.text_content("#label").split(",")[0])
        page.screenshot(path=pictures(tmp_path) / f"camera-{label}-{width}.png", full_page=True)
        named = [each for each in said if each in TURNS]
        assert len(named) > 20
        assert named.count(label) > 0.9 * len(named), said
        page.click("#anew")
        page.click("#start")
        wait_until(page, "document.getElementById('state').textContent === 'the camera is off'")


def wait_until(page, condition: str, seconds: float = 60) -> None:
    """Wait until JavaScript is true; the page forbids what Playwright's own wait does."""
    until = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        page.wait_for_timeout(100)


def pictures(folder: Path) -> Path:
    """Where screenshots go: a folder to look at, where one is named."""
    named = os.environ.get("VIDREC_SCREENSHOTS")
    made = Path(named) if named else folder
    made.mkdir(parents=True, exist_ok=True)
    return made
