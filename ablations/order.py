"""How much of a recurrence's accuracy comes from the order of frames?

The table has the same LSTM with frames as they are, with frames shuffled (in training and scoring),
and with one frame repeated in every place; the last row is the mean over frames, which ignores
order. On the generated data all three controls should be at chance within a pair of motions. None
of the five reports did this;
`vidrec ablate experiments/ucf101_lstm.py --axis frames.order=kept,shuffled,single` asks the same
about another model.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="order",
        question="How much of a recurrence's accuracy comes from the order of frames?",
        base="experiments/motion.py",
        rows=(
            *(Row({"frames.order": order}) for order in ("kept", "shuffled", "single")),
            Row({"scanner.kind": "mean"}, name="mean over frames"),
        ),
        seeds=3,
        read=("test_accuracy", "test_avg_f1"),
    )
