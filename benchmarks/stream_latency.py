"""How long a frame takes in a stream, encoder and recurrence apart, and whether memory stays flat.

    python benchmarks/stream_latency.py                   SqueezeNet at 224x224, LSTM of 64 units
    python benchmarks/stream_latency.py --frames 108000   an hour at 30 frames a second
    python benchmarks/stream_latency.py --encoder cnn --size 64 --json

Weights are random: they cost what trained ones do. Frames are generated, so no camera or decoder is
in the figures. The first frames, which compile, are left out.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from vidrec import config
from vidrec.config import Config
from vidrec.evaluation.predict import Classifier
from vidrec.models import encoders, model

WARM_UP = 20
PAGES_TO_MB = resource.getpagesize() / 2**20


def classifier(settings: argparse.Namespace, classes: int = 101) -> Classifier:
    """An untrained model with what a trained one has."""
    cfg = config.override(
        Config(),
        {
            "encoder.kind": settings.encoder,
            "encoder.pooling": "moments" if settings.encoder == "cnn" else "average",
            "encoder.size": settings.size,
            "scanner.kind": settings.scanner,
            "scanner.units": settings.units,
        },
    )
    encoder = encoders.build(cfg.encoder)
    shape = encoders.feature_shape(cfg.encoder)
    clip = np.zeros((1, cfg.frames.length, *shape), np.float32)
    scanner = model.build(cfg, classes).init(jax.random.key(0), clip)
    tree = {"encoder": encoders.init(encoder, cfg.encoder), "trained": scanner["params"]}
    about = {
        "config": config.to_dict(cfg),
        "classes": [f"class {k}" for k in range(classes)],
        "length": cfg.frames.length,
    }
    return Classifier(tree, about)


def generated(size: int) -> Iterator[np.ndarray]:
    """Noise that drifts: a stream without end, uint8 (size, size, 3)."""
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    while True:
        noise = np.roll(noise, 1, axis=1)
        yield noise


def resident_mb() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGES_TO_MB


def measure(settings: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a frame, and memory along the way."""
    stream, memory = classifier(settings).stream(), []
    # Allotted and touched beforehand, so that what is measured does not grow by being measured.
    parts = np.full((settings.frames, 2), np.nan)
    for place, frame in enumerate(generated(settings.size)):
        if place == settings.frames + WARM_UP:
            break
        began = time.perf_counter()
        inputs = jax.block_until_ready(stream.encode(frame))
        encoded = time.perf_counter()
        np.asarray(stream.step(inputs))
        ended = time.perf_counter()
        if place >= WARM_UP:
            parts[place - WARM_UP] = 1e3 * (encoded - began), 1e3 * (ended - encoded)
        if place >= WARM_UP and (place - WARM_UP) % max(1, settings.frames // 20) == 0:
            memory.append(resident_mb())
    figures = {"frames": settings.frames}
    for name, times in (
        ("encoder", parts[:, 0]),
        ("recurrence", parts[:, 1]),
        ("frame", parts.sum(1)),
    ):
        figures |= {f"{name}_p{q}_ms": float(np.percentile(times, q)) for q in (50, 99)}
    half = memory[len(memory) // 2]
    return figures | {
        "memory_first_mb": memory[0],
        "memory_half_mb": half,
        "memory_last_mb": memory[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="squeezenet")
    parser.add_argument("--scanner", default="lstm")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    figures = measure(settings)
    if settings.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:20} {value:10.2f}")


if __name__ == "__main__":
    main()
