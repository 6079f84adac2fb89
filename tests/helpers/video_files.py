"""Files that a data set should not have and does: makers of each, and what is to be expected.

`CASES` maps a name to (maker, outcome). A maker gets a folder and returns the file's path. An
outcome is the number of frames to be had (a range where that is the encoder's affair), or a piece
of the reason why there is none; then, where a note goes with the frames, a piece of it.
"""

import gzip
import os
import socket
import struct
import tempfile
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vidrec.data import video

Maker = Callable[[Path], Path]
FRAMES = 24


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without root's right to read everything, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    # Folders that pytest made for its user alone are opened meanwhile, never those above them.
    above = Path(tempfile.gettempdir())
    opened = [each for each in (folder, *folder.parents) if above in each.parents]
    modes = [each.stat().st_mode for each in opened]
    for each, mode in zip(opened, modes, strict=True):
        each.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for each, mode in zip(opened, modes, strict=True):
            each.chmod(mode)


def moving(count: int = FRAMES, height: int = 36, width: int = 48) -> np.ndarray:
    """A bright bar that walks over a dark ramp: every frame differs, upper left is darkest."""
    ramp = np.linspace(20, 90, height)[:, None] + np.linspace(0, 60, width)[None]
    frames = np.repeat(ramp[None, :, :, None], count, 0).repeat(3, -1).astype(np.uint8)
    for t in range(count):
        left = t * max(1, width - 4) // max(1, count)
        frames[t, :, left : left + max(1, width // 12), 0] = 250
    return frames


def clip(name: str = "clip.mp4", count: int = FRAMES, size=(36, 48), fps: float = 25, **options):
    """Maker of a sound video."""

    def make(folder: Path) -> Path:
        path = folder / name
        video.write(path, moving(count, *size), fps, **options)
        return path

    return make


def encoded(
    name: str,
    codec: str,
    pixels: str = "yuv420p",
    stamps: list[int] | None = None,
    options: dict[str, str] | None = None,
    streams: int = 1,
    sound: bool = False,
    muxing: dict[str, str] | None = None,
    base: int = 1000,
    frames: np.ndarray | None = None,
) -> Maker:
    """Maker of a video with chosen codec, pixels and timestamps (in 1/base seconds)."""

    def make(folder: Path) -> Path:
        path = folder / name
        with av.open(str(path), "w", options=muxing or {}) as container:
            shown_frames = moving() if frames is None else frames
            shape = shown_frames.shape[1:3]
            made = [
                _video_stream(container, codec, pixels, options, base, shape)
                for _ in range(streams)
            ]
            tone = container.add_stream("aac", rate=16000) if sound else None
            for place, frame in enumerate(shown_frames):
                for number, stream in enumerate(made):
                    shown = frame if number == 0 else 255 - frame
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), "rgb24")
                    picture = picture.reformat(format=pixels)
                    picture.pts = stamps[place] if stamps else place * base // 25
                    picture.time_base = Fraction(1, base)
                    container.mux(stream.encode(picture))
            if tone is not None:
                _sing(container, tone)
            for stream in made:
                container.mux(stream.encode())
        return path

    return make


def _video_stream(container, codec: str, pixels: str, options, base: int, shape):
    stream = container.add_stream(codec, rate=25, options=options or {})
    stream.height, stream.width, stream.pix_fmt = *shape, pixels
    stream.codec_context.time_base = Fraction(1, base)
    return stream


def _sing(container, tone) -> None:
    samples = np.zeros((1, 1024), np.float32)
    for place in range(16):
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, place * 1024
        container.mux(tone.encode(frame))
    container.mux(tone.encode())


def holding(name: str, content: bytes) -> Maker:
    """Maker of a file with these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def changed(base: Maker, name: str, change: Callable[[bytes], bytes]) -> Maker:
    """Maker of a video whose bytes were operated on."""

    def make(folder: Path) -> Path:
        inner = folder / "before"
        inner.mkdir()
        path = folder / name
        path.write_bytes(change(base(inner).read_bytes()))
        return path

    return make


def cut(share: float) -> Callable[[bytes], bytes]:
    """Keeps the first part of a file."""
    return lambda content: content[: int(len(content) * share)]


def blanked(start: float, end: float) -> Callable[[bytes], bytes]:
    """Overwrites a part with zeros."""

    def change(content: bytes) -> bytes:
        a, b = int(len(content) * start), int(len(content) * end)
        return content[:a] + bytes(b - a) + content[b:]

    return change


def noisy(start: float, end: float) -> Callable[[bytes], bytes]:
    """Overwrites a part with random bytes."""

    def change(content: bytes) -> bytes:
        a, b = int(len(content) * start), int(len(content) * end)
        return content[:a] + np.random.default_rng(0).bytes(b - a) + content[b:]

    return change


def turned(degrees: int) -> Callable[[bytes], bytes]:
    """Writes a rotation into an MP4's track header, as phones do (degrees clockwise)."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    return posed(cosine, sine, -sine, cosine)


def posed(a: int, b: int, c: int, d: int) -> Callable[[bytes], bytes]:
    """Writes a display matrix into an MP4's track header: (x, y) -> (a x + c y, b x + d y)."""
    matrix = struct.pack(">9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)

    def change(content: bytes) -> bytes:
        # version and flags 4, times and ids 20, reserved 8, layer to volume 8
        start = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
        return content[:start] + matrix + content[start + 36 :]

    return change


def avi_frames(count: int) -> Callable[[bytes], bytes]:
    """Lets an AVI declare another number of frames, in both of its headers."""

    def change(content: bytes) -> bytes:
        main, track = content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32
        for place in (main, track):
            content = content[:place] + struct.pack("<I", count) + content[place + 4 :]
        return content

    return change


def repeating(content: bytes) -> bytes:
    """Lets every fourth frame of an AVI be empty, which shows the one before it once more."""
    start = content.index(b"movi") + 4
    chunks, index, place, number = b"", b"", start, 0
    while content[place : place + 4] == b"00dc":
        (size,) = struct.unpack_from("<I", content, place + 4)
        body = content[place + 8 : place + 8 + size + size % 2]
        place += 8 + len(body)
        if number % 4 == 3:
            size, body = 0, b""
        index += b"00dc" + struct.pack("<III", 16, len(chunks) + 4, size)
        chunks += b"00dc" + struct.pack("<I", size) + body
        number += 1
    head = content[12 : content.rindex(b"LIST", 0, start)]
    movi = b"LIST" + struct.pack("<I", len(chunks) + 4) + b"movi" + chunks
    whole = b"AVI " + head + movi + b"idx1" + struct.pack("<I", len(index)) + index
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def avi_size(width: int, height: int) -> Callable[[bytes], bytes]:
    """Lets an AVI declare another size of frame."""

    def change(content: bytes) -> bytes:
        main, track = content.index(b"avih") + 8 + 32, content.index(b"strf") + 8 + 4
        for place in (main, track):
            size = struct.pack("<II", width, height)
            content = content[:place] + size + content[place + 8 :]
        return content

    return change


def jpeg_size(width: int, height: int) -> Callable[[bytes], bytes]:
    """Lets every JPEG frame declare another size."""
    before, after = struct.pack(">HH", 36, 48), struct.pack(">HH", height, width)
    return lambda content: content.replace(
        b"\xff\xc0\x00\x11\x08" + before, b"\xff\xc0\x00\x11\x08" + after
    )


def mp4_box(kind: bytes, at: int, value: bytes) -> Callable[[bytes], bytes]:
    """Overwrites bytes of an MP4's box, counted from the end of its name."""

    def change(content: bytes) -> bytes:
        place = content.index(kind) + 4 + at
        return content[:place] + value + content[place + len(value) :]

    return change


def only(kind: str, name: str = "thing.mp4") -> Maker:
    """Maker of things that are no regular file."""

    def make(folder: Path) -> Path:
        path = folder / name
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            server = socket.socket(socket.AF_UNIX)
            home = os.getcwd()
            os.chdir(folder)  # a socket's path may have a hundred letters
            try:
                server.bind(path.name)
            finally:
                os.chdir(home)
                server.close()
        elif kind == "dangling link":
            path.symlink_to(folder / "nowhere")
        elif kind == "link to itself":
            path.symlink_to(path)
        elif kind == "link":
            path.symlink_to(clip("real.mp4")(folder))
        return path  # "missing": nothing is there

    return make


def sound(folder: Path) -> Path:
    """A WAV file."""
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    return folder / "sound.wav"


def song(folder: Path) -> Path:
    """An MP4 with sound only."""
    path = folder / "song.mp4"
    with av.open(str(path), "w") as container:
        _sing(container, container.add_stream("aac", rate=16000))
    return path


def picture(name: str) -> Maker:
    """Maker of a still picture under a video's name."""

    def make(folder: Path) -> Path:
        from PIL import Image

        kind = "PNG" if "png" in name else "JPEG"
        Image.fromarray(moving(1)[0]).save(folder / name, kind)
        return folder / name

    return make


def playlist(name: str, text: str) -> Maker:
    """Maker of a file that points to a video beside it."""

    def make(folder: Path) -> Path:
        clip("real.ts", codec="mpeg2video")(folder)
        (folder / name).write_text(text)
        return folder / name

    return make


def joined(folder: Path) -> Path:
    """A transport stream whose frames change size in the middle."""
    parts = [
        clip(f"{n}.ts", 12, size, codec="mpeg2video")(folder)
        for n, size in (("a", (36, 48)), ("b", (64, 96)))
    ]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


MP4, AVI, TS = clip(), clip("clip.avi"), clip("clip.ts", codec="mpeg2video")
MKV, MPG = clip("clip.mkv"), clip("clip.mpg")
FAST = encoded("fast.mp4", "libx264", muxing={"movflags": "faststart"})
INTRA = encoded("intra.avi", "mjpeg", "yuvj420p", base=25)
RAW = encoded("raw.avi", "rawvideo", base=25)
GIF = encoded("clip.gif", "gif", "rgb8", base=100)
FRAGMENTS = encoded(
    "f.mp4", "libx264", options={"g": "6"}, muxing={"movflags": "frag_keyframe+empty_moov"}
)
SOME = range(1, FRAMES)
VARIABLE = [sum(20 + 60 * (k % 3 == 0) for k in range(t)) for t in range(FRAMES)]
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n" * 20
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
RANDOM = np.random.default_rng(0).bytes(20_000)

CASES: dict[str, tuple] = {
    # Not there, or not a file
    "missing": (only("missing"), "no such file"),
    "folder": (only("folder"), "a folder"),
    "pipe": (only("pipe"), "not a regular file"),
    "socket": (only("socket"), "not a regular file"),
    "dangling link": (only("dangling link"), "no such file"),
    "link to itself": (only("link to itself"), "symbolic links"),
    # Not a video
    "empty": (holding("clip.mp4", b""), "empty file"),
    "one byte": (holding("clip.mp4", b"x"), "not a video"),
    "zeros": (holding("clip.mp4", bytes(10_000)), "not a video"),
    "random": (holding("clip.avi", RANDOM), "not a video"),
    "text": (holding("clip.txt", b"no video\n" * 99), "not a video"),
    "text as mp4": (holding("clip.mp4", b"no video\n" * 99), "not a video"),
    "web page": (holding("clip.mp4", HTML), "not a video"),
    "large-file pointer": (holding("clip.mp4", LFS), "not a video"),
    "json": (holding("clip.json", b'{"a": [1, 2]}'), "not a video"),
    "pdf": (holding("clip.avi", b"%PDF-1.7\n" + RANDOM), "not a video"),
    "zip": (holding("clip.avi", b"PK\x03\x04" + RANDOM), "not a video"),
    "compressed": (changed(MP4, "clip.mp4", gzip.compress), "not a video"),
    "png as mp4": (picture("png.mp4"), "not a video"),
    "jpeg as avi": (picture("jpeg.avi"), "not a video"),
    "head only": (changed(MP4, "clip.mp4", lambda c: c[:32]), "not a video"),
    "riff only": (holding("clip.avi", b"RIFF\x24\x00\x00\x00AVI "), "not a video"),
    "wav": (sound, "no video in it, only audio"),
    "song": (song, "no video in it, only audio"),
    "list of segments": (
        playlist(
            "list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.ts\n#EXT-X-ENDLIST\n"
        ),
        "not a video",
    ),
    "list of files": (playlist("list.txt", "ffconcat version 1.0\nfile real.ts\n"), "not a video"),
    # Containers and codecs
    "mp4": (MP4, FRAMES),
    "avi": (AVI, FRAMES),
    "mkv": (MKV, FRAMES),
    "mov": (clip("clip.mov"), FRAMES),
    "mpg": (MPG, FRAMES),
    "ts": (TS, FRAMES),
    "flv": (clip("clip.flv", codec="flv1"), FRAMES),
    "webm": (clip("clip.webm"), FRAMES),
    "gif": (GIF, FRAMES),
    "gif and more": (changed(GIF, "clip.gif", lambda c: c + b"\0\0\n"), FRAMES),
    "mjpeg": (INTRA, FRAMES),
    "lossless": (encoded("clip.mkv", "ffv1", "bgr0"), FRAMES),
    "grey": (encoded("clip.mkv", "ffv1", "gray"), FRAMES),
    "ten bits": (encoded("clip.mkv", "ffv1", "yuv420p10le"), FRAMES),
    "full colour": (encoded("clip.mp4", "libx264", "yuv444p"), FRAMES),
    "transparent": (encoded("clip.mov", "qtrle", "argb"), FRAMES),
    "faststart": (FAST, FRAMES),
    "fragments": (FRAGMENTS, FRAMES),
    "b-frames": (encoded("b.mp4", "libx264", options={"bf": "3"}), FRAMES),
    "with sound": (encoded("s.mp4", "libx264", sound=True), FRAMES),
    "two videos": (encoded("two.mkv", "ffv1", streams=2), FRAMES),
    "size changes": (joined, range(FRAMES - 1, FRAMES + 1)),
    # Names
    "no extension": (changed(MP4, "clip", bytes), FRAMES),
    "wrong extension": (changed(MP4, "clip.avi", bytes), FRAMES),
    "capitals": (changed(MP4, "CLIP.MP4", bytes), FRAMES),
    "spaces": (clip("a clip of mine .mp4"), FRAMES),
    "chinese": (clip("视频.mp4"), FRAMES),
    "arabic": (clip("فيديو.mp4"), FRAMES),
    "accents": (clip("été ñandú ß.mp4"), FRAMES),
    "emoji": (clip("🎬.mp4"), FRAMES),
    "pattern": (clip("clip%03d.mp4"), FRAMES),
    "protocol": (changed(MP4, "http:clip.mp4", bytes), FRAMES),
    "dash": (clip("-i.mp4"), FRAMES),
    "newline": (changed(MP4, "a\nb.mp4", bytes), FRAMES),
    "quotes": (clip('it\'s "so".mp4'), FRAMES),
    "no utf-8": (changed(MP4, os.fsdecode(b"\xff\xfe.mp4"), bytes), FRAMES),
    "link": (only("link"), FRAMES),
    # Shapes and times
    "one frame": (clip(count=1), 1),
    "two frames": (clip(count=2), 2),
    "odd size": (clip(size=(23, 37)), FRAMES),
    "tiny": (clip(size=(1, 1)), FRAMES),
    "wide": (clip(size=(2, 1000)), FRAMES),
    "tall": (clip(size=(1000, 2)), FRAMES),
    "slow": (clip(fps=1), FRAMES),
    "fast": (clip(fps=240), FRAMES),
    "ntsc": (clip(fps=29.97), FRAMES),
    "variable rate": (encoded("v.mp4", "libx264", stamps=VARIABLE), FRAMES),
    "late start": (
        encoded("l.mkv", "libx264", stamps=[10**6 + 40 * t for t in range(FRAMES)]),
        FRAMES,
    ),
    "jump in time": (
        encoded("j.mkv", "libx264", stamps=[40 * t + 10**8 * (t > 9) for t in range(FRAMES)]),
        FRAMES,
    ),
    "turned 90": (changed(MP4, "clip.mp4", turned(90)), FRAMES),
    "turned 180": (changed(MP4, "clip.mp4", turned(180)), FRAMES),
    "turned 270": (changed(MP4, "clip.mp4", turned(270)), FRAMES),
    # Damage
    "no index": (changed(MP4, "clip.mp4", cut(0.6)), "damaged"),
    "index only": (changed(FAST, "clip.mp4", lambda c: c[: c.index(b"mdat") + 4]), "no frame"),
    "cut mp4": (changed(FAST, "clip.mp4", cut(0.8)), SOME, "truncated after"),
    "cut avi": (changed(INTRA, "clip.avi", cut(0.5)), SOME, "truncated after"),
    "cut mkv": (changed(MKV, "clip.mkv", cut(0.7)), SOME, "truncated after 0.2 of 1.0 seconds"),
    "cut mkv at its end": (changed(MKV, "clip.mkv", cut(0.8)), SOME, "truncated after"),
    "cut gif": (changed(GIF, "clip.gif", cut(0.9)), SOME, "truncated after"),
    "cut fragments": (changed(FRAGMENTS, "f.mp4", cut(0.6)), SOME, "truncated after"),
    "cut mpg": (changed(MPG, "clip.mpg", cut(0.5)), SOME),  # declares neither frames nor time
    "cut ts": (changed(TS, "clip.ts", cut(0.5)), SOME),
    "blank middle": (changed(INTRA, "clip.avi", blanked(0.4, 0.6)), SOME, "damaged packets"),
    "noise middle": (changed(INTRA, "clip.avi", noisy(0.4, 0.6)), SOME, "damaged packets"),
    "noise in h264": (changed(FAST, "clip.mp4", noisy(0.7, 0.8)), SOME, "damaged packets"),
    "noise in all frames": (changed(FAST, "clip.mp4", noisy(0.35, 1)), "no frame"),
    "garbage behind": (changed(MP4, "clip.mp4", lambda c: c + RANDOM), FRAMES),
    "garbage before": (changed(TS, "clip.ts", lambda c: RANDOM[:999] + c), FRAMES),
    "repeated pictures": (changed(INTRA, "clip.avi", repeating), FRAMES * 3 // 4),
    "repeated and cut": (
        changed(INTRA, "clip.avi", lambda c: cut(0.6)(repeating(c))),
        SOME,
        "truncated after",
    ),
    "declares more": (changed(INTRA, "clip.avi", avi_frames(500)), FRAMES, "after 24 of 500"),
    "declares fewer": (changed(INTRA, "clip.avi", avi_frames(5)), FRAMES, "declares 5"),
    "declares one more": (changed(INTRA, "clip.avi", avi_frames(FRAMES + 1)), FRAMES),
    "declares none": (changed(INTRA, "clip.avi", avi_frames(0)), FRAMES),
    "giant frames": (changed(INTRA, "clip.avi", jpeg_size(60_000, 60_000)), "no frame"),
    "giant in the head": (changed(RAW, "clip.avi", avi_size(9_000, 9_000)), "no frame"),
    "wrong size": (changed(AVI, "clip.avi", avi_size(60_000, 60_000)), FRAMES),
    "no size": (changed(AVI, "clip.avi", avi_size(0, 0)), FRAMES),
    "no duration": (changed(MP4, "clip.mp4", mp4_box(b"mvhd", 16, bytes(4))), FRAMES),
    "no time scale": (changed(MP4, "clip.mp4", mp4_box(b"mdhd", 12, bytes(4))), SOME, "timestamps"),
    "frozen clock": (changed(MP4, "clip.mp4", mp4_box(b"stts", 12, bytes(4))), SOME, "timestamps"),
    "endless samples": (
        changed(MP4, "clip.mp4", mp4_box(b"stsz", 8, b"\x7f\xff\xff\xff")),
        "damaged",
    ),
    "unknown codec": (changed(MP4, "clip.mp4", lambda c: c.replace(b"avc1", b"zzzz")), "codec"),
}
