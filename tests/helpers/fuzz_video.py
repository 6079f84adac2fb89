"""Decodes damaged copies of real clips: `python tests/helpers/fuzz_video.py SECONDS SEED FILE …`.

Prints one JSON object. It runs as a program of its own, so that a crash or a hang of the decoder is
seen from outside; the number of the copy under test goes to stderr before it is opened.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from vidrec.data import video


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with its end cut off, bits flipped, a part blanked or doubled, or all of it."""
    data = np.frombuffer(content, np.uint8).copy()
    kind = rng.integers(6)
    if kind in (1, 4):
        # Most flips in the head, where the structure is, or anywhere.
        reach = len(data) if rng.integers(2) else min(len(data), 4096)
        places = rng.integers(0, reach, rng.integers(1, 64))
        data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
    if kind in (2, 4):
        a, b = np.sort(rng.integers(0, len(data), 2))
        data[a : min(b, a + 5000)] = rng.integers(0, 256)
    if kind == 3:
        a, b = np.sort(rng.integers(0, len(data), 2))
        data = np.concatenate([data[:b], data[a:]])
    if kind == 5:
        a, b = np.sort(rng.integers(0, len(data), 2))
        data = np.concatenate([data[:a], data[min(b, a + 999) :]])
    if kind in (0, 4):
        data = data[: rng.integers(1, len(data))]
    return data.tobytes()


def outcome(path: Path, fps: float, rng: np.random.Generator) -> str:
    """What became of one file: sound, noted or unreadable; anything else raises."""
    notes: list[str] = []
    try:
        frames = sum(len(chunk) for chunk in video.stream(path, 16, fps=fps, notes=notes))
    except video.UnreadableClip as error:
        return "unreadable" if error.reason else "without a reason"
    assert frames > 0
    wanted = rng.integers(0, frames + 400, 3)
    assert video.read(path, wanted, 16, fps).shape == (3, 16, 16, 3)
    return "noted" if notes else "sound"


def main(seconds: float, seed: int, files: list[str]) -> None:
    av.logging.set_level(av.logging.PANIC)
    originals = [(Path(file).suffix, Path(file).read_bytes()) for file in files]
    counts = {"sound": 0, "noted": 0, "unreadable": 0}
    began, slowest, number = time.monotonic(), 0.0, seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - began < seconds:
            print(number, file=sys.stderr, flush=True)
            rng = np.random.default_rng(number)
            suffix, content = originals[rng.integers(len(originals))]
            path = Path(folder) / f"{number}{suffix}"
            path.write_bytes(damaged(content, rng))
            start = time.monotonic()
            counts[outcome(path, 10.0 * rng.integers(2), rng)] += 1
            slowest = max(slowest, time.monotonic() - start)
            path.unlink()
            number += 1
    print(json.dumps({**counts, "slowest": slowest}))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
