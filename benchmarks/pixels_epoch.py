"""What does an epoch from pixels cost beside a plain loop of jitted steps?

    python benchmarks/pixels_epoch.py [--kind cnn3] [--rounds 5] [--json]

Report C's CNN+LSTM (or its C3D or VGG9, narrow) on 32 clips of motion, 8 frames of 24x24, eight
clips a batch. Ours is a trial's compiled epoch; the other side jits one step of the same model and
calls it batch by batch, with convolutions as `lax.conv` and as patches: the quicker one counts.
Both take turns; a side's time is its least over the rounds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax

import vidrec
from vidrec.models import model
from vidrec.training import loop, prepare, results

HERE = Path(__file__).parent
MODELS = {
    "cnn3": {},
    "c3d": {"encoder.kind": f"{HERE}/small_pixels.py:C3D", "encoder.width": 1024},
    "vgg9": {"encoder.kind": f"{HERE}/small_pixels.py:VGG9", "encoder.width": 500},
}


def settings(kind: str) -> vidrec.Config:
    """Report C's experiment on a few clips."""
    changes = {
        "data.kind": f"{HERE}/small_pixels.py:clips",
        "data.tfds": "",
        "data.split": "random",
        "data.val": 0,
        "data.test": 8,
        "encoder.size": 24,
        "frames.length": 8,
        "frames.rule": "uniform",
        "train.batch_size": 8,
        "train.batches_per_epoch": 0,
        "train.epochs": 1000,
        "train.target": 0,
    }
    clip = {} if kind == "cnn3" else {"scanner.kind": "none"}
    head = {"c3d": "last"}.get(kind, "flatten")
    base = vidrec.load("experiments/ucf11_pixels.py")
    return vidrec.override(base, changes | MODELS[kind] | clip | {"head.kind": head})


def ours(cfg: vidrec.Config, data: prepare.Prepared, folder: Path) -> Callable[[], None]:
    """Trains one epoch each time it is called."""
    group = loop.GroupRun([results.TrialRun("trial", cfg, folder)], data, folder)
    group.ready()

    def epoch() -> None:
        group.group.train_epoch()
        jax.block_until_ready(group.group.state)

    return epoch


def plain(cfg: vidrec.Config, data: prepare.Prepared, form: str) -> Callable[[], None]:
    """As people write it: a jitted step, a loop over shuffled batches."""
    net = model.build(cfg, len(data.classes), encoder=data.encoder.clone(form=form))
    optimiser = optax.adam(cfg.optim.learning_rate)
    spread = np.linspace(0, data.lengths[0] - 1, cfg.frames.length).round().astype(int)
    clips = data.values.reshape(len(data.lengths), -1, *data.values.shape[1:])[:, spread]
    rng, size = np.random.default_rng(0), cfg.train.batch_size
    params = jax.jit(net.init)(jax.random.key(0), clips[:1])["params"]
    state = [params, optimiser.init(params)]

    @jax.jit
    def step(params, moments, frames, labels):
        def loss(params):
            logits = net.apply({"params": params}, frames, train=True)[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    def epoch() -> None:
        for chosen in rng.permutation(data.clips("train")).reshape(-1, size):
            *state[:], _ = step(*state, clips[chosen], data.dataset.labels[chosen])
        jax.block_until_ready(state)

    return epoch


def main() -> None:
    """Prints seconds an epoch of each side, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=MODELS, default="cnn3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cfg = settings(options.kind)
    data = prepare.prepare(cfg)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "ours": ours(cfg, data, Path(folder)),
            "plain lax": plain(cfg, data, "lax"),
            "plain patches": plain(cfg, data, "patches"),
        }
        seconds = {name: [] for name in sides}
        for turn in range(options.rounds + 1):
            for name, epoch in sides.items():
                began = time.perf_counter()
                epoch()
                if turn:  # the first one compiles
                    seconds[name].append(time.perf_counter() - began)
    least = {name: min(times) for name, times in seconds.items()}
    ratio = least["ours"] / min(least["plain lax"], least["plain patches"])
    answer = {"kind": options.kind, "seconds": least, "ratio": ratio, "most": 1.2}
    if options.json:
        print(json.dumps(answer))
        return
    for name, each in least.items():
        print(f"{name:14s} {each:.3f} s an epoch")
    print(f"ratio {ratio:.2f} (at most 1.2)")


if __name__ == "__main__":
    main()
