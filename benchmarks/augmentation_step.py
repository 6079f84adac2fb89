"""Measure the CPU time of augmentation beside a training step from pixels.

    python benchmarks/augmentation_step.py                     64x64, 16 clips of 30 frames
    python benchmarks/augmentation_step.py --size 16 --frames 4 --batch 2 --rounds 1

The step is report C's CNN+LSTM, forward, backward and update. Both are compiled programs on bytes
that lie in memory; they take turns, and the median of their ratios is printed. Processor time of
all threads, so that other work on the machine counts for little. Speed, jitter and dropped frames
only change which frames are read: measured is the choice of a batch's frames.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vidrec
from vidrec.config import Augment
from vidrec.data import augment, frames
from vidrec.models import encoders, model
from vidrec.training import batches, step

EVERY = {
    "flip": Augment(flip=0.5),
    "crop": Augment(crop=0.5),
    "colour": Augment(brightness=0.3, contrast=0.3, color=0.3),
    "flip, crop and colour": Augment(flip=0.5, crop=0.5, brightness=0.3, contrast=0.3, color=0.3),
    "rotation": Augment(rotation=10.0),
    "all of these": Augment(
        flip=0.5, crop=0.5, brightness=0.3, contrast=0.3, color=0.3, rotation=10.0
    ),
}

OF_FRAMES = {
    "frames, none changed": Augment(),
    "speed": Augment(speed=0.3),
    "speed, jitter and drop": Augment(speed=0.3, jitter=1, drop=0.1),
}


def seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - began


def training_step(given: argparse.Namespace) -> Callable[[], Any]:
    """Return a call of report C's step on random frames."""
    cfg = vidrec.override(
        vidrec.load("experiments/ucf11_pixels.py"),
        {
            "encoder.size": given.size,
            "encoder.init": "own",
            "frames.length": given.frames,
            "train.batch_size": given.batch,
        },
    )
    encoder = encoders.outside_loops(encoders.build(cfg.encoder))
    built = model.build(cfg, 11, encoder=encoder)
    spec = step.TrialSpec(cfg, built, given.frames, given.batch, uses_dropout=False)
    pixels = clips(given)
    mask = jnp.ones(pixels.shape[:2], bool)
    variables = jax.jit(built.init)(jax.random.key(0), pixels[:1], mask[:1])
    hyper = jax.tree.map(jnp.asarray, step.hyperparameters(cfg))
    opt_state = step.optimizer(spec, hyper).init(variables["params"])
    state = step.TrainState(jnp.zeros((), jnp.int32), variables["params"], {}, opt_state)
    keys = jax.random.split(jax.random.key(1), given.batch)
    labels = jnp.arange(given.batch) % 11
    batch = batches.Batch(pixels, mask, labels, keys, jnp.ones(given.batch, bool))
    program = jax.jit(partial(step.train_step, spec))
    return lambda: program(state, hyper, step.Frozen({}, {}, {}, {}), batch)


def clips(given: argparse.Namespace) -> jax.Array:
    """Return random frames as bytes."""
    shape = (given.batch, given.frames, given.size, given.size, 3)
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def augmentation(settings: Augment, given: argparse.Namespace) -> Callable[[], Any]:
    """Return a call that augments random frames."""
    pixels, keys = clips(given), augment.keys_of(0, 0, jnp.arange(given.batch))
    mask = jnp.ones(pixels.shape[:2], bool)
    program = jax.jit(lambda pixels, keys: augment.changed(pixels, mask, settings, keys))
    return lambda: program(pixels, keys)


def choice_of_frames(settings: Augment, given: argparse.Namespace) -> Callable[[], Any]:
    """Return a call that chooses the frames of a batch of clips twice as long."""

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        pace = augment.time.drawn(settings, key, given.frames)
        return frames.indices(2 * given.frames, given.frames, key=key, pace=pace)

    keys = augment.keys_of(0, 0, jnp.arange(given.batch))
    program = jax.jit(jax.vmap(one))
    return lambda: program(keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("size", 64), ("frames", 30), ("batch", 16), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    whole = training_step(given)
    calls = {name: augmentation(settings, given) for name, settings in EVERY.items()}
    calls |= {name: choice_of_frames(settings, given) for name, settings in OF_FRAMES.items()}
    seconds(whole)
    for call in calls.values():
        seconds(call)
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(given.rounds):
        beside = seconds(whole)
        for name, call in calls.items():
            ratios[name].append(seconds(call) / beside)
    for name, found in ratios.items():
        print(f"{name:24} {100 * median(found):6.2f} % of a step")


if __name__ == "__main__":
    main()
