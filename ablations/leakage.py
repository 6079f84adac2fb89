"""How much does a leaking split raise the scores?

The same model is trained on a split by group and on a random one. In the random one, clips of the
same video as a test clip are trained on: in UCF-101, for 99.4 % of the test clips. The random row
is marked as leaked wherever it is printed. None of the five reports did this; reports B and C do
not say how they split.
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
