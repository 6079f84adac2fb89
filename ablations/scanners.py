"""Does a model need to see order, and is an LSTM or a GRU better at it?

The mean over frames is the control. On pairs of a motion and its reversal it can only recognise the
pair. None of the five reports did this. It is the table that `launch.py` trains without arguments.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="scanners",
        question="Does a model need to see order, and which recurrence sees it best?",
        base="experiments/motion.py",
        rows=[Row({"scanner.kind": kind}) for kind in ("mean", "lstm", "gru")],
        seeds=3,
        read=("test_accuracy", "test_avg_f1", "test_loss", "params", "epochs", "seconds_train"),
    )
