"""Are pretrained features worth it? A GRU over SqueezeNet with weights from a file, and over the
same network with random ones, on a folder of videos: k folds over all clips, several seeds.

    python benchmarks/pretrained_features.py FOLDER WEIGHTS.h5 [--folds 5] [--seeds 3] [--json]

Every clip is tested once a seed, by a model that never saw it; the difference is paired over seeds
and clips. Where the folder does not say which recording a clip is from, siblings may stand on both
sides, so the figures flatter.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import vidrec
from vidrec.evaluation import statistics

SPLIT_SEED = 0  # fixed before any result was seen


def table(folder: Path, weights: Path, folds: int, seeds: int) -> vidrec.Ablation:
    """Rows: file or random weights, times folds."""
    base = vidrec.override(
        vidrec.load("experiments/my_videos.py"),
        {
            "data.root": str(folder),
            "data.folds": folds,
            "data.split_seed": SPLIT_SEED,
            "encoder.kind": "squeezenet",
            "encoder.pooling": "average",
            "encoder.size": 224,
            "encoder.normalize": "caffe",
            "encoder.pca": 0,
        },
    )
    each = {"encoder.weights": [str(weights), "random"], "data.fold": range(1, folds + 1)}
    return vidrec.Ablation("pretrained_features", base, vidrec.product(each), seeds=seeds)


def pooled(trials: list[dict], weights: str) -> tuple[np.ndarray, np.ndarray]:
    """Which clips are right, (seeds, clips), over all folds in order of name; and their groups."""
    by_seed: dict[int, dict[str, tuple[bool, str]]] = {}
    for trial in trials:
        if trial["overrides"]["encoder.weights"] != weights:
            continue
        with np.load(Path(trial["dir"]) / "predictions.npz") as saved:
            right = saved["test_logits"].argmax(1) == saved["test_labels"]
            rows = zip(saved["test_names"], right, saved["test_groups"], strict=True)
            by_seed.setdefault(trial["seed"], {}).update({n: (r, g) for n, r, g in rows})
    names = sorted(by_seed[0])
    correct = np.array([[clips[name][0] for name in names] for clips in by_seed.values()])
    return correct, np.array([by_seed[0][name][1] for name in names])


def main() -> None:
    """Prints both accuracies and their difference with 95 % intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ablation = table(options.folder, options.weights, options.folds, options.seeds)
    trials = vidrec.ablate(ablation, options.workdir).trials
    correct, groups = pooled(trials, str(options.weights))
    random, _ = pooled(trials, "random")
    found = statistics.accuracy_interval(correct, groups)
    base = statistics.accuracy_interval(random, groups)
    gain = statistics.paired(correct, random, groups)
    answer = {
        "clips": int(correct.shape[1]),
        "pretrained": [found.mean, found.low, found.high],
        "random": [base.mean, base.low, base.high],
        "difference": [gain.mean, gain.low, gain.high],
        "note": gain.note,
    }
    if options.json:
        print(json.dumps(answer))
        return
    for name in ("pretrained", "random", "difference"):
        mean, low, high = answer[name]
        print(f"{name:12s} {mean:+.3f}  95 % interval {low:+.3f} to {high:+.3f}")
    print(answer["note"])


if __name__ == "__main__":
    main()
