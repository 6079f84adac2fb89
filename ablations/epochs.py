"""Report D: do more epochs help?

The report says that training stops after 25 epochs without improvement, and that it chooses 25
epochs to save time.
"""

from vidrec.sweeps.ablation import Ablation, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Epochs: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    25: (0.6566, 0.8835, 0.9334, 0.956, 0.549),
    50: (0.6656, 0.899, 0.941, 0.978, 0.45),
    100: (0.664, 0.888, 0.939, 0.999, 0.04),
}


def ablation() -> Ablation:
    return Ablation(
        name="epochs",
        question="Do more epochs help?",
        base="experiments/ucf101_lstm.py",
        rows=published("train.epochs", COLUMNS, PUBLISHED),
        control=0,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 6",
        on_motion="epochs",
    )
