"""A folder of ready-made features whose clips have several labels, or none."""

from pathlib import Path

import numpy as np

CLASSES = ("fall", "jump", "run")
SETTINGS = {
    "task.kind": "multilabel",
    "data.kind": "features",
    "encoder.kind": "none",
    "frames.length": 6,
    "frames.rule": "uniform",
    "scanner.kind": "gru",
    "scanner.units": 6,
    "train.batch_size": 16,
    "train.epochs": 6,
    "optim.learning_rate": 0.03,
    "data.val": 0.2,
}


def labels(clips: int, seed: int = 0) -> np.ndarray:
    """Labels (n, K); the last class is rarer, and some clips have none."""
    rng = np.random.default_rng(seed)
    return (rng.random((clips, len(CLASSES))) < (0.5, 0.4, 0.25)).astype(int)


def write(root: Path, clips: int = 120, seed: int = 0, columns: bool = False) -> np.ndarray:
    """Write clips of 5 to 9 frames, four a recording, and a labels.csv; return their labels.

    Args:
        root: the folder.
        clips: how many.
        seed: of everything.
        columns: a column a class instead of one of labels with bars between them.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng, labels_nK = np.random.default_rng(seed), labels(clips, seed)
    directions = np.random.default_rng(7).normal(size=(len(CLASSES), 5))
    head = ["path", *(CLASSES if columns else ["label"]), "group"]
    lines = [",".join(head)]
    for clip, own_K in enumerate(labels_nK):
        frames = rng.normal(size=(rng.integers(5, 10), 5)) * 0.7
        for k in np.flatnonzero(own_K):
            frames[rng.integers(0, len(frames) - 2) :][:3] += 2 * directions[k]
        np.save(root / f"{clip:03d}.npy", frames.astype(np.float32))
        said = "|".join(np.array(CLASSES)[own_K > 0])
        cells = map(str, own_K) if columns else [said]
        lines.append(",".join([f"{clip:03d}.npy", *cells, f"rec{clip // 4:02d}"]))
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return labels_nK
