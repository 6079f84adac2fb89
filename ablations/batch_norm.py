"""Report D: does batch normalisation between layers help?

Running statistics are used at test time.
"""

from vidrec.sweeps.ablation import Ablation, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10")
# On: top-1, top-5, top-10
PUBLISHED = {
    True: (0.6565, 0.8835, 0.9335),
    False: (0.643, 0.876, 0.94),
}


def ablation() -> Ablation:
    return Ablation(
        name="batch_norm",
        question="Does batch normalisation between layers help?",
        base="experiments/ucf101_lstm.py",
        rows=published("scanner.batch_norm", COLUMNS, PUBLISHED),
        control=0,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 3",
        on_motion="batch_norm",
    )
