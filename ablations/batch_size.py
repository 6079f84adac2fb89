"""Report D names batch size among its twelve subjects but prints no table: all rows are ours."""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="batch_size",
        question="How many clips to a batch?",
        base="experiments/ucf101_lstm.py",
        rows=[Row({"train.batch_size": size}) for size in (32, 64, 128, 256)],
        control=2,
        read=("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss"),
        on_motion="batch_size",
    )
