"""Report D: which optimiser?

The report's text speaks of improvements by Adam and RMSProp, but in its table they are 2.9 and 2.1
points worse. Their learning rates are not stated: all three optimisers use the baseline's 5e-4
here, which is large for Adam and RMSProp.
"""

from vidrec.sweeps.ablation import Ablation, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Optimiser: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    "momentum": (0.6565, 0.8835, 0.9335, 0.958, 0.549),
    "adam": (0.628, 0.8392, 0.9039, 0.9994, 0.02),
    "rmsprop": (0.636, 0.845, 0.911, 0.974, 0.329),
}


def ablation() -> Ablation:
    return Ablation(
        name="optimizer",
        question="Which optimiser?",
        base="experiments/ucf101_lstm.py",
        rows=published("optim.kind", COLUMNS, PUBLISHED),
        control=0,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 4",
        on_motion="optimizer",
    )
