"""Is recurrence worth it? Recurrent and other scanners with equally many parameters.

No report did this. Each scanner has two widths, so that the model trains about 40,000 and about
160,000 parameters (within 5 %; the mean over frames gets a linear layer before it to reach them).
Three learning rates are tried for each by one seed and chosen on validation clips; then three seeds
train at the best one.

    vidrec ablate baselines                                      motion: order is all
    vidrec ablate baselines --data.tfds motion/memory/clips=1000,frames=90 --encoder.size 32 \\
        --frames.length 90 --head.kind per_frame --train.epochs 20 \\
        --exclude scanner.kind=convgru                                     a cue of long ago
    vidrec ablate baselines --data.kind ucf101 --data.root FEATURES --data.split given

On a folder of videos, or features of them, the same comparison with `--data.root`.
"""

from typing import Any

from vidrec.sweeps.ablation import Ablation, Row

BUDGETS = (40_000, 160_000)
SCANNERS: dict[str, dict[str, Any]] = {
    "mean": {"scanner.kind": "mean"},
    "attention": {"scanner.kind": "attention"},
    "LSTM": {"scanner.kind": "lstm"},
    "GRU": {"scanner.kind": "gru"},
    "minGRU": {"scanner.kind": "mingru"},
    "minLSTM": {"scanner.kind": "minlstm"},
    "LRU": {"scanner.kind": "lru"},
    "TCN": {"scanner.kind": "tcn", "scanner.layers": 4},
    "transformer": {
        "scanner.kind": "transformer",
        "scanner.layers": 2,
        "scanner.args": {"heads": 1},
    },
    # Over maps of 4x4, of 8x8 pixels: with maps of 8x8 the table takes over an hour on two cores.
    "ConvGRU": {
        "scanner.kind": "convgru",
        "encoder.size": 8,
        "encoder.pooling": "map",
        "encoder.standardize": False,
        "encoder.pca": 0,
    },
}


def ablation() -> Ablation:
    return Ablation(
        name="baselines",
        question="Is recurrence worth it, at equally many parameters?",
        base="experiments/motion.py",
        rows=[
            Row(settings, name=f"{name}, {budget // 1000}k", budget=budget)
            for budget in BUDGETS
            for name, settings in SCANNERS.items()
        ],
        control=2,
        seeds=3,
        tune={"optim.learning_rate": (1e-3, 3e-3, 1e-2)},
        read=("test_accuracy", "val_accuracy", "params", "epochs", "seconds_train"),
    )
