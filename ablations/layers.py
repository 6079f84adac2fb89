"""Report D: how many stacked LSTMs?

The report finds no gain from depth: training accuracy rises, test accuracy falls.
"""

from vidrec.sweeps.ablation import Ablation, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Layers: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    1: (0.6565, 0.8835, 0.9335, 0.958, 0.549),
    2: (0.64, 0.883, 0.935, 0.974, 0.432),
    3: (0.636, 0.868, 0.93, 0.987, 0.375),
}


def ablation() -> Ablation:
    return Ablation(
        name="layers",
        question="How many stacked LSTMs?",
        base="experiments/ucf101_lstm.py",
        rows=published("scanner.layers", COLUMNS, PUBLISHED),
        control=0,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 1",
        on_motion="layers",
    )
