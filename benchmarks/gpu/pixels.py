"""An epoch of training from pixels, all frames on the device on both sides.

PyTorch's network has our weights, and its scores of the validation clips are compared with ours
before it is timed.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import vidrec
from benchmarks.gpu import harness, table
from benchmarks.gpu.harness import OURS, Record
from vidrec.config import Data

ROOT = Path(__file__).parents[2]


def run(record: Record) -> None:
    """Time report C's CNN+LSTM and C3D at their published sizes."""
    for kind in ("cnn3", "c3d"):
        if record.wants(kind):
            with record.part(f"pixels, {kind}"):
                one(record, kind)


def settings(kind: str, tiny: bool) -> tuple[Any, Any]:
    """Return report C's experiment on made-up clips, and the clips."""
    import published_sizes

    base = "C CNN+LSTM" if kind == "cnn3" else "C C3D"
    case = published_sizes.CASES[base]
    changes: dict[str, Any] = {**case.settings, "encoder.init": "own", "train.target": 0}
    if tiny:
        case = replace(case, shape=(4, 16, 16, 3), clips=16)
        changes |= {"frames.length": 4, "encoder.size": 16, "train.batch_size": 8}
        if kind == "c3d":
            changes |= {"encoder.kind": f"{ROOT}/benchmarks/small_pixels.py:C3D"}
            changes |= {"encoder.pooling": "dense"}  # another kind's own is average
    else:
        case = replace(case, clips=160)
    cfg = vidrec.override(vidrec.load(str(ROOT / "experiments/ucf11_pixels.py")), changes)
    cfg = replace(cfg, data=Data(kind="videos", split="given"))
    return cfg, published_sizes.noise(case)


def one(record: Record, kind: str) -> None:
    """Time an epoch of both sides."""
    cfg, source = settings(kind, record.tiny)
    clips = len(source.given["train"])
    for precision in ("tf32",) if record.tiny else ("tf32", "bfloat16"):
        low = "bfloat16" if precision == "bfloat16" else "float32"
        mine = vidrec.override(cfg, {"encoder.dtype": low, "scanner.dtype": low})
        about, trained = {"precision": precision, "clips": clips}, None
        with (
            record.part(f"pixels, {kind}", OURS, **about),
            harness.precision_of(precision),
            tempfile.TemporaryDirectory() as place,
        ):
            epoch, group = table.epochs_of(mine, source, 1, Path(place))
            spent = table.repeated(epoch, record)
            record.row(f"pixels, {kind}", OURS, seconds=spent, rate=clips / spent, **about)
            trained = trained_by(group.group, source)
            group.close()
        if trained is not None and harness.has_torch() and not record.warm:
            with record.part(f"pixels, {kind}", "torch", **about), harness.precision_of(precision):
                in_torch(record, kind, mine, source, trained, about)


class Trained(NamedTuple):
    """Our weights, and the scores of validation clips with them."""

    params: Any
    scores: np.ndarray


def trained_by(group: Any, source: Any) -> Trained:
    """Return the weights that one trial has now, and its scores of the validation clips."""
    clips = np.asarray(source.given["val"])
    scored = group.score(clips, group.state.weights, np.ones(1, bool))
    params = jax.tree.map(lambda leaf: leaf[0], group.snapshot().state.params)
    return Trained(params, scored.scores_BK[0])


def in_torch(
    record: Record, kind: str, cfg: Any, source: Any, trained: Trained, about: dict
) -> None:
    """Time the same network in PyTorch; in bfloat16 by its autocast."""
    import pixels_training
    import torch
    import turns

    device = turns.torch_device()
    net = pixels_training.network(cfg, trained.params).to(device)
    labels = torch.tensor(np.asarray(source.labels, np.int64), device=device)
    frames = torch.tensor(
        np.stack([source.read(clip, range(source.shape[0]), 0) for clip in range(len(source))]),
        device=device,
    )
    train = torch.tensor(np.asarray(source.given["train"], np.int64), device=device)
    val = torch.tensor(np.asarray(source.given["val"], np.int64), device=device)
    weights = [each for each in net.parameters() if each.requires_grad]
    adam = torch.optim.Adam(weights, cfg.optim.learning_rate, eps=cfg.optim.epsilon)
    low = about["precision"] == "bfloat16"

    def scores(chosen: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            return net(frames[chosen])

    def loss(chosen: Any) -> Any:
        return torch.nn.functional.cross_entropy(scores(chosen).float(), labels[chosen])

    with torch.no_grad():
        found = {"scores": scores(val).float().cpu().numpy()}
    named = (f"pixels, {kind}", "torch", about["precision"])
    harness.judge(record, named, found, {"scores": trained.scores})

    def epoch() -> None:
        order = train[torch.randperm(len(train), device=device)]
        for chosen in order.split(cfg.train.batch_size):
            adam.zero_grad(set_to_none=True)
            loss(chosen).backward()
            adam.step()
        with torch.no_grad():
            loss(val)
        if device.type == "cuda":
            torch.cuda.synchronize()

    spent = table.repeated(epoch, record)
    clips = len(train)
    record.row(f"pixels, {kind}", "torch", seconds=spent, rate=clips / spent, **about)
