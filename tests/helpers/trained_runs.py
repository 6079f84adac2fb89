"""Small real videos and models trained on them in seconds, made once a session."""

import fcntl
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from vidrec import config
from vidrec.config import Config
from vidrec.data import video
from vidrec.evaluation.predict import Classifier
from vidrec.models import encoders, model
from vidrec.sweeps import runner
from vidrec.sweeps.ablation import Ablation

LENGTH = 8
BASE = {
    "data.kind": "videos",
    "encoder.size": 32,
    "frames.length": LENGTH,
    "scanner.units": 6,
    "train.epochs": 2,
    "train.batch_size": 4,
    "eval.batch_size": 5,
    "eval.window": 8,
    "eval.stride": 5,
}
# A frozen encoder with a projection, a score for each step; decided in three ways.
TABLE = {"encoder.standardize": True, "encoder.pca": 5, "head.kind": "per_frame"}
# An encoder trained with the scanner, pixel statistics, batch norm, one score a clip, a loss that
# weighs classes and smooths labels.
TRAINED = {
    "encoder.normalize": "standard",
    "encoder.trainable": "all",
    "frames.rule": "uniform",
    "scanner.kind": "gru",
    "scanner.batch_norm": True,
    "head.kind": "mean",
    "loss.class_weights": "right=2.5",
    "loss.label_smoothing": 0.1,
}
INFERENCES = ("single", "average", "vote")


def moving(frames: int, to_right: bool, seed: int, height: int = 48, width: int = 64):
    """A bright square crossing a noisy picture, uint8 (frames, height, width, 3)."""
    rng = np.random.default_rng(seed)
    clip = rng.integers(0, 90, (frames, height, width, 3), np.uint8)
    for place, frame in enumerate(clip):
        step = place if to_right else frames - 1 - place
        left = int(step * (width - 14) / max(1, frames - 1))
        top = int(seed * 7 % (height - 14))
        frame[top : top + 14, left : left + 14] = (250, 200, 40 + seed)
    return clip


def write_videos(folder: Path, each: int = 7, first_seed: int = 0) -> Path:
    """Two classes of videos of 5 to 33 frames."""
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        for place in range(each):
            seed = first_seed + place
            frames = 5 + (11 * seed + 3 * (label == "left")) % 29
            clip = moving(frames, label == "right", seed)
            video.write(folder / label / f"{label} {place}.mp4", clip, fps=10)
    return folder


def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders: "videos", the run "trained", the ablation "table", and its trials by inference.

    The processes of a session share them: one makes them, the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, told = shared / "tiny_runs", shared / "runs.json"
    with (shared / "runs.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that failed
            root.mkdir()
            patch.setenv("VIDREC_CACHE", str(root / "cache"))
            patch.setattr(runner, "_write_report", lambda *_: None)  # nobody looks at them
            told.write_text(json.dumps(_made(root), default=str))
        return {name: Path(folder) for name, folder in json.loads(told.read_text()).items()}


def _made(root: Path) -> dict[str, Path]:
    videos = write_videos(root / "videos")
    rows = [{"eval.inference": name} for name in INFERENCES]
    table = runner.ablate(Ablation("tiny", settings_of(videos, TABLE), rows), root / "runs")
    trained = runner.run(settings_of(videos, TRAINED), root / "runs", name="trained")
    found = {"videos": videos, "table": table.folder, "trained": Path(trained["dir"])}
    return found | {n: Path(t["dir"]) for n, t in zip(INFERENCES, table.trials, strict=True)}


def settings_of(videos: Path, settings: dict) -> Config:
    """A tiny Config over a folder of videos."""
    return config.override(Config(), BASE | {"data.root": str(videos)} | settings)


def copy_run(run: Path, to: Path) -> Path:
    """A run's folder elsewhere."""
    return Path(shutil.copytree(run, to))


def random_model(settings: dict, classes: int = 3, **meta: Any) -> Classifier:
    """A Classifier with a random encoder, projection, scanner and running statistics.

    The same object for the same settings, so that its programs are compiled once.
    """
    return _random(tuple(sorted(settings.items())), classes, tuple(sorted(meta.items())))


@functools.cache
def _random(settings: tuple, classes: int, meta: tuple) -> Classifier:
    cfg = config.override(Config(), BASE | dict(settings))
    rng = np.random.default_rng(5)
    tree: dict[str, Any] = {}
    frame = (7,)
    if cfg.data.kind != "features":
        shape = (cfg.encoder.size, cfg.encoder.size, 3)
        frame, like = encoders.shapes(encoders.build(cfg.encoder), shape)
        tree["encoder"] = _drawn(like, rng)
    if cfg.encoder.pca:
        matrix = rng.normal(size=(frame[-1], cfg.encoder.pca)) / frame[-1] ** 0.5
        mean = rng.normal(size=frame[-1])
        tree["projection"] = {"mean": np.float32(mean), "matrix": np.float32(matrix)}
        frame = (*frame[:-1], cfg.encoder.pca)
    clip = jax.ShapeDtypeStruct((1, cfg.frames.length, *frame), np.float32)
    like = jax.eval_shape(model.build(cfg, classes).init, jax.random.key(1), clip)
    drawn = _drawn(like, rng)
    tree |= {"trained": drawn["params"], "stats": drawn.get("batch_stats", {})}
    about = {
        "id": "random",
        "config": config.to_dict(cfg),
        "classes": [f"class {k}" for k in range(classes)],
        "length": cfg.frames.length,
        "frame": list(frame),
        "train_clips": [],
        "split": {"id": "none", "leaked": False},
    }
    return Classifier(tree, about | dict(meta))


def _drawn(like: Any, rng: np.random.Generator) -> Any:
    """Random arrays, biases and statistics too: zeros and ones would hide what is left out."""
    return jax.tree.map(
        lambda leaf: (
            np.float32(rng.uniform(-0.3, 0.5, leaf.shape)) ** 2
            if leaf.ndim == 1
            else np.float32(rng.normal(0, 0.4, leaf.shape))
        ),
        like,
    )
