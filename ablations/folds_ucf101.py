"""How much does report D's baseline change between UCF-101's three official splits?

None of the five reports did this. With `--axis data.fold=1,2,3` any other table of UCF-101 is also
trained on all three splits.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="folds_ucf101",
        question="How much does the baseline move between the official splits?",
        base="experiments/ucf101_lstm.py",
        rows=[Row({"data.fold": fold}, name=f"split {fold}") for fold in (1, 2, 3)],
        read=("test_accuracy", "test_top5", "test_top10"),
    )
