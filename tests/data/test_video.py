"""Decoding: exact frames, upright, at the right time; and a plain outcome for every broken file."""

import errno
import io
import json
import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from helpers import fuzz_video, video_files
from helpers.system_errors import TRANSIENT_CODES
from helpers.video_files import FRAMES, as_nobody, clip, encoded, moving

from vidrec.data import pictures, video
from vidrec.data.video import UnreadableClip, container, promises, reading, seeking, timing
from vidrec.errors import TransientError

HERE = Path(__file__).parent


def decoded(path, size=32, **options) -> np.ndarray:
    return np.concatenate(list(video.stream(path, size, **options)))


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> Path:
    """900 frames in groups of 50, with pictures that lie out of order."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    make = encoded(path.name, "libx264", options={"g": "50", "bf": "2"}, frames=moving(900))
    return make(path.parent)


@pytest.mark.parametrize("name", video_files.CASES)
def test_every_file_is_handled_or_named(name, tmp_path):
    make, outcome, *note = video_files.CASES[name]
    path, notes = make(tmp_path), []
    if isinstance(outcome, str):
        with pytest.raises(UnreadableClip, match=outcome) as caught:
            decoded(path)
        assert caught.value.path == str(path)
        for index in (0, 10 * seeking.SEEK_GAP):
            with pytest.raises(UnreadableClip, match=outcome):
                video.read(path, [index], 32)
        return
    frames = decoded(path, notes=notes)
    assert len(frames) in outcome if isinstance(outcome, range) else len(frames) == outcome
    assert (note[0] in "; ".join(notes)) if note else not notes
    np.testing.assert_array_equal(video.read(path, [len(frames) - 1, 0], 32), frames[[-1, 0]])
    # Resampling by time holds at least one frame, and no more than the timestamps allow.
    assert 1 <= len(decoded(path, fps=5)) <= 5 * timing.MAX_GAP + FRAMES


def test_there_are_enough_cases():
    assert len(video_files.CASES) >= 60


def test_no_permission(tmp_path):
    path = clip()(tmp_path)
    path.chmod(0)
    with as_nobody(tmp_path), pytest.raises(UnreadableClip, match="permission"):
        decoded(path)


def test_no_permission_to_look_into_the_folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = clip()(inner)
    inner.chmod(0o744)  # its names may be listed, its files may not be reached
    with as_nobody(tmp_path), pytest.raises(UnreadableClip, match="permission"):
        decoded(path)


def test_read_is_stream_indexed(tmp_path):
    path = clip(count=50)(tmp_path)
    frames = decoded(path)
    for wanted in ([0], [49, 0, 7, 7], [3, 4, 5], list(range(49, -1, -1))):
        np.testing.assert_array_equal(video.read(path, wanted, 32), frames[wanted])
    assert video.read(path, [], 32).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="from 0 on"):
        video.read(path, [-1], 32)


def test_frames_past_the_end_show_the_last_and_are_noted(tmp_path):
    path, notes = clip()(tmp_path), []
    read = video.read(path, [5, FRAMES + 9, FRAMES], 32, notes=notes)
    np.testing.assert_array_equal(read, decoded(path)[[5, -1, -1]])
    assert notes == [f"frame {FRAMES + 9} was asked for, but it ends after {FRAMES}"]


@pytest.mark.parametrize("chunk", [1, 7, FRAMES, 99])
def test_chunks_hold_every_frame_once(tmp_path, chunk):
    chunks = list(video.stream(clip()(tmp_path), 16, chunk))
    assert [len(each) for each in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    np.testing.assert_array_equal(np.concatenate(chunks), decoded(tmp_path / "clip.mp4", 16))


def test_seeking_gives_the_frames_of_reading_through(long_clip, monkeypatch):
    frames = decoded(long_clip)
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = rng.integers(0, 900, 4)
        np.testing.assert_array_equal(video.read(long_clip, wanted, 32), frames[wanted])
    # That was by seeking: reading through would now fail.
    monkeypatch.setattr(reading, "_read_in_order", None)
    np.testing.assert_array_equal(video.read(long_clip, [870, 600], 32), frames[[870, 600]])


def test_seeking_decodes_less(long_clip, monkeypatch):
    shown = []
    plain = container.decode
    monkeypatch.setattr(container, "decode", lambda *a: shown.extend(f := plain(*a)) or f)
    video.read(long_clip, [870], 32)
    assert len(shown) < 100


def test_a_seek_that_lies_is_found_out(long_clip, monkeypatch):
    frames = decoded(long_clip)
    table = seeking.timestamps(long_clip)
    # One frame is missing from it, so that frame 870 is the file's 871st.
    fewer = [t for k, t in enumerate(table.all) if k != 860]
    lying = seeking.Timestamps(fewer, table.keys, {t: k for k, t in enumerate(fewer)})
    monkeypatch.setattr(seeking, "timestamps", lambda path: lying)
    assert seeking.read_by_seeking(long_clip, [870], 32) is None
    np.testing.assert_array_equal(video.read(long_clip, [870], 32), frames[[870]])


def test_frames_are_resized_as_pillow_does(tmp_path):
    from PIL import Image

    frames = np.random.default_rng(1).integers(0, 256, (3, 9, 12, 3), np.uint8)
    frames = frames.repeat(20, 1).repeat(20, 2)
    path = encoded("exact.mkv", "ffv1", "bgr0", frames=frames)(tmp_path)
    for size in (32, 200):
        plain = [Image.fromarray(f).resize((size, size), Image.Resampling.BILINEAR) for f in frames]
        np.testing.assert_allclose(decoded(path, size).astype(int), np.stack(plain), atol=4)


def test_pixels_that_are_no_squares_are_shown_in_proportion(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as opened:
        stream = opened.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for frame in moving(3, 48, 64):
            opened.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        opened.mux(stream.encode())
    (first, *_), *_ = video.shown(path, lambda width, height: (width, height))
    assert first.shape == (48, 96, 3)
    path.write_bytes(video_files.turned(90)(path.read_bytes()))
    (first, *_), *_ = video.shown(path, lambda width, height: (width, height))
    assert first.shape == (96, 48, 3)


# Display matrices (a, b, c, d) of all eight orientations, and where the upper left corner goes.
ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), "upper left"),
    "mirrored": ((-1, 0, 0, 1), "upper right"),
    "upside down": ((1, 0, 0, -1), "lower left"),
    "turned by 180": ((-1, 0, 0, -1), "lower right"),
    "turned clockwise": ((0, 1, -1, 0), "upper right"),
    "turned anticlockwise": ((0, -1, 1, 0), "lower left"),
    "exchanged": ((0, 1, 1, 0), "upper left"),
    "exchanged crosswise": ((0, -1, -1, 0), "lower right"),
}


def corner(picture_HWC: np.ndarray) -> str:
    """Where the red square is."""
    reds = (picture_HWC[..., 0] > 150) & (picture_HWC[..., 2] < 120)
    row, column = (places.mean() for places in np.nonzero(reds))
    height, width = reds.shape
    return ("upper" if row < height / 2 else "lower") + (
        " left" if column < width / 2 else " right"
    )


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_frames_are_seen_as_players_show_them(tmp_path, name):
    matrix, where = ORIENTATIONS[name]
    frames = np.full((4, 48, 96, 3), 200, np.uint8)
    frames[:, :20, :30] = (230, 20, 20)
    path = tmp_path / "clip.mp4"
    video.write(path, frames, 10)
    path.write_bytes(video_files.posed(*matrix)(path.read_bytes()))
    assert corner(decoded(path, 64)[0]) == where
    assert corner(video.read(path, [2], 64)[0]) == where
    (first, *_), *_ = video.shown(path, lambda width, height: (width, height))
    assert corner(first) == where
    assert first.shape == ((48, 96, 3) if matrix[0] else (96, 48, 3))


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_phones_turn_their_videos(tmp_path, degrees, turns):
    path = clip()(tmp_path)
    plain, turned = decoded(path), tmp_path / "turned.mp4"
    turned.write_bytes(video_files.turned(degrees)(path.read_bytes()))
    with av.open(str(turned)) as opened:
        assert next(opened.decode(video=0)).rotation % 360 == (-degrees) % 360
    # np.rot90 turns anticlockwise, phones say clockwise.
    np.testing.assert_array_equal(decoded(turned), np.rot90(plain, turns, (1, 2)))


def shown_at(seconds: np.ndarray, fps: float, last: float) -> list[int]:
    """Plain truth: the frame on screen at 0, 1/fps, 2/fps, … until the last one has been shown."""
    ticks = [k / fps for k in range(10_000) if k / fps < seconds[-1] + last - 1e-6]
    return [max(i for i, t in enumerate(seconds) if t <= tick + 1e-6) for tick in ticks]


@pytest.mark.parametrize("fps", [1, 5, 12.5, 25, 30, 60])
@pytest.mark.parametrize("stamps", [[40 * t for t in range(FRAMES)], video_files.VARIABLE])
def test_resampling_follows_the_clock(tmp_path, fps, stamps):
    path = encoded("v.mkv", "ffv1", "bgr0", stamps=stamps)(tmp_path)
    frames = decoded(path)
    usual = 1 / video.declared(path)[1]
    expected = shown_at(np.array(stamps) / 1000, fps, usual)
    np.testing.assert_array_equal(decoded(path, fps=fps), frames[expected])
    wanted = [len(expected) - 1, 0]
    np.testing.assert_array_equal(video.read(path, wanted, 32, fps), frames[expected][wanted])


def test_the_last_pictures_keep_their_time_though_they_lie_out_of_order(tmp_path):
    stamps = [40 * t for t in range(FRAMES - 1)] + [40 * FRAMES + 600]
    options = {"bf": "2"}
    path = encoded("late.mkv", "libx264", stamps=stamps, options=options)(tmp_path)
    frames = decoded(path)
    expected = shown_at(np.array(stamps) / 1000, 10, 0.04)
    np.testing.assert_array_equal(decoded(path, fps=10), frames[expected])


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
def test_seconds_are_those_of_the_timestamps(tmp_path, name):
    """A recording that runs at 25 frames a second, then stands, then at 5."""
    steps = [40] * 12 + [2000] + [200] * (FRAMES - 14)
    stamps = [sum(steps[:k]) for k in range(FRAMES)]
    path = encoded(name, "libx264", stamps=stamps)(tmp_path)
    clock = video.Clock()
    chunks = video.stream(path, 16, 7, clock=clock)
    next(chunks)
    # What follows is not decoded yet, and the end of the last frame is known.
    assert [clock.at(k) for k in range(8)] == pytest.approx([stamps[k] / 1000 for k in range(8)])
    list(chunks)
    assert list(clock.starts) == pytest.approx([stamp / 1000 for stamp in stamps])
    assert clock.at(FRAMES) == clock.end == pytest.approx(stamps[-1] / 1000 + 0.2, abs=0.17)
    # This encoder says no duration, so that MP4 declares less than the last frame needs.
    assert FRAMES / video.declared(path)[1] == pytest.approx(clock.end, rel=0.11)
    shown = list(video.shown(path, lambda width, height: (width, height)))
    assert [start for _, start, _ in shown] == list(clock.starts)
    list(video.stream(path, 16, fps=10, clock=clock))
    assert [clock.at(k) for k in range(5)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_frames_come_back_at_their_seconds(tmp_path):
    starts = [0, 0.04, 0.08, 1.0, 1.2, 3.0]
    shown = list(zip(moving(6), starts, [*starts[1:], 3.5], strict=True))
    for name in ("a.mp4", "a.mkv", "a.webm", "a.avi"):
        video.write_timed(tmp_path / name, shown, 6 / 3.5)
        clock = video.Clock()
        frames = sum(len(c) for c in video.stream(tmp_path / name, 16, clock=clock))
        if name == "a.avi":  # all frames last equally long
            assert clock.end == pytest.approx(3.5, abs=0.6)
        else:
            assert frames == 6
            assert list(clock.starts) == pytest.approx(starts, abs=0.002)


def cut_without_encoding(source: Path, target: Path, seconds: float) -> None:
    """As `ffmpeg -ss SECONDS -i SOURCE -c copy TARGET`: an edit list hides what lies before."""
    with (
        av.open(str(source)) as taken,
        av.open(str(target), "w", options={"movflags": "faststart"}) as made,
    ):
        stream = taken.streams.video[0]
        copy = made.add_stream_from_template(stream)
        taken.seek(int(seconds / stream.time_base), stream=stream)
        for packet in taken.demux(stream):
            if packet.size:
                packet.pts -= int(seconds / stream.time_base)
                packet.dts -= int(seconds / stream.time_base)
                packet.stream = copy
                made.mux(packet)


def test_a_clip_cut_without_encoding_is_whole(tmp_path):
    make = encoded("long.mp4", "libx264", options={"g": "12", "bf": "2"}, frames=moving(48))
    long, short = make(tmp_path), tmp_path / "short.mp4"
    cut_without_encoding(long, short, 0.8)
    with av.open(str(short)) as container:
        assert container.streams.video[0].frames > 28  # with the hidden ones before the cut
    notes = []
    np.testing.assert_array_equal(decoded(short, notes=notes), decoded(long)[20:])
    assert not notes
    assert video.declared(short) == (28, 25)
    np.testing.assert_array_equal(video.read(short, [27, 0], 32), decoded(long)[[47, 20]])
    assert len(list(video.shown(short, lambda width, height: (width, height)))) == 28
    short.write_bytes(video_files.cut(0.8)(short.read_bytes()))
    assert len(decoded(short, notes=notes)) < 28
    assert notes[-1].startswith("truncated after")
    assert notes[-1].endswith("of 28 frames")


def test_hidden_pictures_are_not_counted():
    """VP8 keeps pictures that only others refer to; a bit of their first byte says so."""

    class Packet(bytes):
        is_discard = False

    stream = SimpleNamespace(codec_context=SimpleNamespace(name="vp8"))
    assert promises.is_shown(Packet(b"\x10"), stream)
    assert not promises.is_shown(Packet(b"\x0f"), stream)
    stream.codec_context.name = "h264"
    assert promises.is_shown(Packet(b"\x0f"), stream)
    Packet.is_discard = True
    assert not promises.is_shown(Packet(b"\x0f"), stream)


@pytest.mark.parametrize(
    ("rows", "matrix", "tag"), [(720, 1, 2), (718, 5, 2), (720, 5, 5), (480, 1, 1)]
)
def test_colours_without_a_tag_are_those_of_the_size(tmp_path, rows, matrix, tag):
    """From 720 rows on BT.709 (1), else BT.601 (5); a tag is believed."""
    colour = np.array([200, 60, 30], np.uint8)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as opened:
        stream = opened.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = rows, 320, "yuv420p"
        stream.codec_context.colorspace = tag
        plain = np.broadcast_to(colour, (rows, 320, 3))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(plain), "rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
        opened.mux(stream.encode(frame))
        opened.mux(stream.encode())
    with av.open(str(path)) as opened:
        assert next(opened.decode(video=0)).colorspace == tag
    np.testing.assert_allclose(decoded(path, 16)[0, 8, 8], colour, atol=3)
    ((picture, *_),) = video.shown(path, lambda width, height: (width, height))
    np.testing.assert_allclose(picture[9, 9], colour, atol=3)


def test_written_videos_keep_their_colours_at_any_size(tmp_path):
    for rows in (360, 720):
        plain = np.broadcast_to(np.array([200, 60, 30], np.uint8), (2, rows, 64, 3))
        video.write(tmp_path / "a.mp4", plain, 10)
        np.testing.assert_allclose(decoded(tmp_path / "a.mp4", 16)[0, 8, 8], plain[0, 0, 0], atol=4)


def test_declared(tmp_path):
    path = clip("clip.mpg", 50, (36, 48), 25)(tmp_path)
    assert video.declared(path) == (50, 25)


def test_written_videos_come_back(tmp_path):
    frames = moving(10, 64, 64)
    for name in ("a.mp4", "a.avi", "a.mkv", "a.webm"):
        video.write(tmp_path / name, frames, 12.5)
        back = decoded(tmp_path / name, 64)
        assert np.abs(back.astype(int) - frames).mean() < 8, name
        assert video.declared(tmp_path / name)[1] == 12.5
    with pytest.raises(ValueError, match="at least one frame"):
        video.write(tmp_path / "none.mp4", [])


def test_a_decoder_that_never_yields_is_given_up(monkeypatch):
    packets = iter(lambda: SimpleNamespace(size=1), None)
    opened = SimpleNamespace(demux=lambda stream: packets)
    stream = SimpleNamespace(
        time_base=None, codec_context=SimpleNamespace(decode=lambda packet: [])
    )
    record = container.DecodeRecord()
    monkeypatch.setattr(container, "MAX_SECONDS", 1e9)
    assert list(container.frames(opened, stream, record)) == []
    assert record.reason == "the decoder yields no more frames"
    monkeypatch.setattr(container, "MAX_SILENCE", 10**9)
    monkeypatch.setattr(container, "MAX_SECONDS", 0.05)
    assert list(container.frames(opened, stream, container.DecodeRecord())) == []
    empty = iter(lambda: SimpleNamespace(size=0), None)
    monkeypatch.setattr(container, "MAX_SILENCE", 100)
    assert list(container.packets(SimpleNamespace(demux=lambda stream: empty), stream)) == []


def test_frames_too_large_for_the_memory_are_refused(tmp_path, monkeypatch):
    path = clip()(tmp_path)
    monkeypatch.setattr(container, "MAX_PIXELS", 48 * 36 - 1)
    with pytest.raises(UnreadableClip, match="48x36 are too large"):
        decoded(path)
    # A head that says less does not help: the decoder knows the limit too.
    small = tmp_path / "small.avi"
    small.write_bytes(video_files.avi_size(16, 16)(video_files.AVI(tmp_path).read_bytes()))
    with pytest.raises(UnreadableClip, match=r"too large|no frame"):
        decoded(small)


def test_the_error_survives_a_process_border():
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableClip("a.mp4", "empty file")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "empty file", "a.mp4: empty file")


def test_damaged_bytes_never_crash(tmp_path):
    """A short fuzz in this process; the long one is below."""
    rng = np.random.default_rng(0)
    contents = {}
    for name in ("mp4", "avi", "mkv", "mpg"):
        folder = tmp_path / name
        folder.mkdir()
        contents[f"x.{name}"] = video_files.CASES[name][0](folder).read_bytes()
    seen = set()
    for number in range(150):
        name = list(contents)[number % len(contents)]
        (tmp_path / name).write_bytes(fuzz_video.damaged(contents[name], rng))
        seen.add(fuzz_video.outcome(tmp_path / name, 10.0 * (number % 2), rng))
    assert seen == {"sound", "noted", "unreadable"}


@pytest.mark.slow
def test_minutes_of_damaged_clips(tmp_path, real_data):
    """Real clips and every container, damaged at random, decoded in a process of its own."""
    files = sorted(real_data.glob("skyrim_human_actions/*/*_1.mp4"))
    for number, (name, (make, outcome, *_)) in enumerate(video_files.CASES.items()):
        if outcome == FRAMES:
            folder = tmp_path / str(number)
            folder.mkdir()
            file = make(folder)
            if file.suffix and not file.is_symlink() and name != "no utf-8":
                files.append(file)
    seconds = 240
    result = subprocess.run(
        [sys.executable, HERE.parent / "helpers" / "fuzz_video.py", str(seconds), "0", *files],
        capture_output=True,
        text=True,
        timeout=seconds + 90,
    )
    assert result.returncode == 0, f"copy {result.stderr.split()[-1]}: {result.stderr[-2000:]}"
    counts = json.loads(result.stdout)
    assert min(counts["sound"], counts["noted"], counts["unreadable"]) > 10
    assert counts["slowest"] < 60


MEMORY = """
import resource, sys
from vidrec.data import video
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunks = video.stream(sys.argv[1], 224)
next(chunks); next(chunks); start = peak()
frames = 128 + sum(len(c) for c in chunks)
print(frames, (peak() - start) // 1024)
"""


@pytest.mark.slow
def test_ten_minutes_take_no_more_memory_than_ten_seconds(tmp_path):
    path, loop = tmp_path / "long.avi", moving(300, 72, 96)
    video.write(path, (loop[t % 300] for t in range(18_000)), 30)
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    frames, grown = map(int, out.stdout.split())
    assert frames == 18_000
    assert grown < 40, f"{grown} MB more"


def test_real_clips_hold_what_they_declare(real_data):
    files = sorted(real_data.glob("skyrim_human_actions/*/*_1.mp4"))
    for file in files:
        notes = []
        assert len(decoded(file, 16, notes=notes)) == video.declared(file)[0]
        assert not notes


@pytest.mark.parametrize(
    ("lost", "line"), [(0, []), (1, []), (2, ["truncated after 28 of 30 frames"])]
)
def test_one_frame_less_than_declared_is_what_encoders_miscount(lost, line):
    record = container.DecodeRecord(frames=30 - lost, packets=30 - lost)
    assert promises.lacking(promises.Promised(30, 30, 0.0), record) == line


def refusing(code, *_, **__):
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("code", sorted(set(TRANSIENT_CODES) - {errno.EACCES}))
def test_what_the_system_refuses_is_no_damage_of_a_clip(tmp_path, monkeypatch, code):
    file = clip()(tmp_path)
    reads = {
        "stream": lambda: list(video.stream(file, 16)),
        "read": lambda: video.read(file, [1, 90], 16),
        "declared": lambda: video.declared(file),
        "picture": lambda: pictures.picture(file),
        "animated": lambda: pictures.is_animated(file),
    }
    for read in reads.values():
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "open", partial(refusing, code), raising=False)
            with pytest.raises(TransientError, match=os.strerror(code)):
                read()
    for name in ("stream", "read", "declared"):
        with monkeypatch.context() as patch:
            patch.setattr(av, "open", partial(refusing, code))
            with pytest.raises(TransientError, match=os.strerror(code)):
                reads[name]()


def test_an_error_of_the_disk_is_told_from_a_clip_that_ends_early(tmp_path, monkeypatch):
    """FFmpeg gives what it has read until then, and no word of the error."""
    file = video_files.CASES["cut mp4"][0](tmp_path)
    notes = []
    list(video.stream(file, 16, notes=notes))
    assert "truncated" in " ".join(notes)

    class Failing(io.FileIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.name)

    monkeypatch.setattr(container, "open", lambda name, *_, **__: Failing(name), raising=False)
    with pytest.raises(TransientError, match="Input/output error"):
        list(video.stream(file, 16, notes=[]))
    with pytest.raises(TransientError, match="Input/output error"):
        video.read(file, [59], 16)


@pytest.mark.parametrize("memory", [True, False])
def test_a_decoder_without_memory_is_told_from_a_file_that_asks_for_too_much(
    tmp_path, monkeypatch, memory
):
    file = clip()(tmp_path)

    def lacking(*_, **__):
        raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(container, "_has_memory", lambda: memory)
    monkeypatch.setattr(av, "open", lacking)
    expected = UnreadableClip if memory else TransientError
    with pytest.raises(expected, match="annot allocate memory"):
        list(video.stream(file, 16))


def test_memory_that_a_process_may_not_take_is_noticed():
    assert container._has_memory()
    code = "import resource; from vidrec.data.video import container; "
    code += (
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); print(container._has_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
