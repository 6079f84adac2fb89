"""Are pretrained features worth it? The experiment `my_videos` over encoders with weights of others
and over its random CNN, on a folder of videos: k folds over all clips, several seeds.

    python benchmarks/pretrained_features.py FOLDER --kinds efficientnet_lite0 squeezenet

Every clip is tested once a seed, by a model that never saw it; differences to the random CNN are
paired over seeds and clips. Where the folder does not say which recording a clip is from, siblings
may stand on both sides, so the figures flatter.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import vidrec
from vidrec.evaluation import statistics

SPLIT_SEED = 0  # fixed before any result was seen
# What `my_videos` takes without the extra.
RANDOM = {
    "encoder.kind": "cnn",
    "encoder.weights": "random",
    "encoder.pooling": "moments",
    "encoder.size": 96,
    "encoder.standardize": True,
    "encoder.pca": 32,
}


def encoder(kind: str) -> dict[str, Any]:
    """The settings of a kind, in one word."""
    return {"encoder.kind": kind, "encoder.standardize": False, "encoder.pca": 0}


def table(folder: Path, kinds: list[str], folds: int, seeds: int) -> vidrec.Ablation:
    """Rows: the random CNN and each kind, times folds."""
    base = vidrec.override(
        vidrec.load("experiments/my_videos.py"),
        {"data.root": str(folder), "data.folds": folds, "data.split_seed": SPLIT_SEED},
    )
    rows = [
        vidrec.Row({**settings, "data.fold": fold})
        for settings in (RANDOM, *map(encoder, kinds))
        for fold in range(1, folds + 1)
    ]
    return vidrec.Ablation("pretrained_features", base, rows, seeds=seeds)


def pooled(trials: list[dict], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Which clips are right, (seeds, clips), over all folds in order of name; and their groups."""
    by_seed: dict[int, dict[str, tuple[bool, str]]] = {}
    for trial in trials:
        if trial["overrides"]["encoder.kind"] != kind:
            continue
        with np.load(Path(trial["dir"]) / "predictions.npz") as saved:
            right = saved["test_logits"].argmax(1) == saved["test_labels"]
            rows = zip(saved["test_names"], right, saved["test_groups"], strict=True)
            by_seed.setdefault(trial["seed"], {}).update({n: (r, g) for n, r, g in rows})
    names = sorted(by_seed[0])
    correct = np.array([[clips[name][0] for name in names] for clips in by_seed.values()])
    return correct, np.array([by_seed[0][name][1] for name in names])


def main() -> None:
    """Prints each accuracy and its difference to the random CNN's, with 95 % intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ablation = table(options.folder, options.kinds, options.folds, options.seeds)
    trials = vidrec.ablate(ablation, options.workdir).trials
    random, groups = pooled(trials, "cnn")
    answer = {}
    for kind in ("cnn", *options.kinds):
        correct, _ = pooled(trials, kind)
        found = statistics.accuracy_interval(correct, groups)
        entry = {"clips": correct.shape[1], "accuracy": [found.mean, found.low, found.high]}
        if kind != "cnn":
            gain = statistics.paired(correct, random, groups)
            entry |= {"difference": [gain.mean, gain.low, gain.high], "note": gain.note}
        answer[kind] = entry
    if options.json:
        print(json.dumps(answer))
        return
    for kind, entry in answer.items():
        for name in ("accuracy", "difference"):
            if name in entry:
                mean, low, high = entry[name]
                print(f"{kind:20s} {name:10s} {mean:+.3f}  95 % {low:+.3f} to {high:+.3f}")


if __name__ == "__main__":
    main()
