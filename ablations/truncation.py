"""Report D: over how many frames should a gradient reach?

Every window makes its own update. The carry continues into the next window, the gradient does not.
The report's times went from 34 to 45 minutes. We added a row: an update every 30 frames with
gradients over 60 (k2 > k1 in the report's notation; its tables have k1 = k2).
"""

from vidrec.sweeps.ablation import Ablation, Row, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Frames: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    30: (0.656, 0.8835, 0.934, 0.958, 0.549),
    50: (0.668, 0.892, 0.941, 0.999, 0.222),
    80: (0.656, 0.881, 0.935, 0.972, 0.454),
    120: (0.575, 0.8269, 0.9054, 0.786, 1.898),
}

OURS = (Row({"train.tbptt_every": 30, "train.tbptt_length": 60}, name="30, reaching 60"),)


def ablation() -> Ablation:
    return Ablation(
        name="truncation",
        question="Over how many frames should a gradient reach?",
        base="experiments/ucf101_lstm.py",
        rows=[*published("train.tbptt_every", COLUMNS, PUBLISHED), *OURS],
        control=0,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 11",
        on_motion="truncation",
    )
