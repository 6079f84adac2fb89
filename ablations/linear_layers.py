"""Report D: how many linear layers before the LSTM?

The report gives a conclusion without figures: no layer "loses on expressivity", two layers overfit,
one layer is best.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="linear_layers",
        question="How many linear layers before the LSTM?",
        base="experiments/ucf101_lstm.py",
        rows=[
            Row({"scanner.dense": (512,) * count}, published={}, name=f"{count} linear")
            for count in (0, 1, 2)
        ],
        control=1,
        read=("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss"),
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 1",
        on_motion="linear_layers",
    )
