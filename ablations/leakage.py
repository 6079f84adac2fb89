"""What is a leaking split worth?

The same model on a split by group and on a random one, in which siblings of a test clip (cut from
the same video) are trained on: in UCF-101, of 99.4 % of test clips. The random row is marked as
leaked wherever it is printed. No report did this; reports B and C do not say how they split.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="leakage",
        question="What is a leaking split worth?",
        base="experiments/ucf11_recurrent.py",
        rows=[Row({"data.split": split}) for split in ("group", "random")],
        seeds=3,
        read=("test_accuracy", "test_avg_f1", "val_accuracy"),
    )
