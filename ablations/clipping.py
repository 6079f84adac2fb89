"""Report D: at which norm should the gradient be clipped?

The report's code clips the global L2 norm before the optimiser (the published rows). Its text
speaks of the derivative with respect to the LSTM's inputs, and calls clipping it vital for
stability. We added two rows: no clipping, and the derivative clipped element by element at the
recurrent layer's pre-activations.
"""

from vidrec.sweeps.ablation import Ablation, Row, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Norm: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    5.0: (0.6566, 0.8835, 0.9334, 0.956, 0.549),
    7.0: (0.652, 0.882, 0.94, 0.984, 0.36),
    9.0: (0.651, 0.888, 0.941, 0.982, 0.284),
    11.0: (0.661, 0.884, 0.94, 0.99, 0.223),
}

OURS = (
    Row({"optim.clip_norm": 0.0}, name="off"),
    Row({"optim.clip_mode": "preactivation", "optim.clip_norm": 5.0}, name="pre-activations"),
)


def ablation() -> Ablation:
    return Ablation(
        name="clipping",
        question="At which norm should the gradient be clipped?",
        base="experiments/ucf101_lstm.py",
        rows=[*published("optim.clip_norm", COLUMNS, PUBLISHED), *OURS],
        control=0,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 7",
        on_motion="clipping",
    )
