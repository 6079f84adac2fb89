"""How much does report B's LSTM change if each of UCF-11's 25 groups is left out in turn?

No report did this. Any other table of UCF-11 takes the same axis: `--axis data.fold=1,2,…,25`.
"""

from vidrec.sweeps.ablation import Ablation, Row

GROUPS = 25


def ablation() -> Ablation:
    return Ablation(
        name="folds_ucf11",
        question="How much does the LSTM move when a group is left out?",
        base="experiments/ucf11_recurrent.py",
        rows=[Row({"data.fold": fold}, name=f"group {fold}") for fold in range(1, GROUPS + 1)],
        read=("test_accuracy", "test_avg_f1"),
    )
