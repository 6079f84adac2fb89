"""Report D: how much dropout between layers?

The report calls p a retention probability, but training accuracy falls as p grows. So p is taken as
a drop rate here. Its text calls 0.3 ideal, but the best rate of its table is 0.2. We added a row
without dropout.
"""

from vidrec.sweeps.ablation import Ablation, Row, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Drop rate: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    0.2: (0.665, 0.879, 0.934, 1.0, 0.078),
    0.3: (0.6533, 0.8811, 0.9356, 0.956, 0.73),
    0.4: (0.657, 0.8776, 0.9361, 0.945, 0.668),
    0.5: (0.6565, 0.88354, 0.9334, 0.956, 0.549),
    0.6: (0.622, 0.868, 0.928, 0.896, 1.041),
}

OURS = (Row({"scanner.dropout": 0.0}, name="off"),)


def ablation() -> Ablation:
    return Ablation(
        name="dropout",
        question="How much dropout between layers?",
        base="experiments/ucf101_lstm.py",
        rows=[*published("scanner.dropout", COLUMNS, PUBLISHED), *OURS],
        control=3,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 9",
        on_motion="dropout",
    )
