"""Report D: which learning rate for momentum SGD in 25 epochs?

The best rate is the largest that was tried, so a larger one may be better. The baseline's top-10 is
0.933 in most of the report's other tables, so 0.9435 is marked as doubtful.
"""

from vidrec.sweeps.ablation import Ablation, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Rate: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    0.0003: (0.63, 0.869, 0.934, 0.885, 1.048),
    0.0005: (0.6565, 0.8835, 0.9435, 0.956, 0.549),
    0.0007: (0.657, 0.887, 0.941, 0.99, 0.325),
    0.0009: (0.665, 0.885, 0.935, 0.99, 0.213),
    0.001: (0.6669, 0.8774, 0.9385, 0.9961, 0.162),
}


def ablation() -> Ablation:
    return Ablation(
        name="learning_rate",
        question="Which learning rate?",
        base="experiments/ucf101_lstm.py",
        rows=published("optim.learning_rate", COLUMNS, PUBLISHED, {5e-4: ["test_top10"]}),
        control=1,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 5",
        on_motion="learning_rate",
    )
