"""How much does report B's LSTM change if each of UCF-11's 25 groups is left out in turn?

None of the five reports did this. With `--axis data.fold=1,2,…,25` any other table of UCF-11 also
leaves out each group in turn.
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
