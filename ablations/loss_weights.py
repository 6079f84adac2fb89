"""Report D: should late steps weigh more in the loss?

Step j of L has the weight (j+1)/L (linear), or all steps have the same weight (uniform).
"""

from vidrec.sweeps.ablation import Ablation, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Weights: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    "uniform": (0.659, 0.886, 0.9372, 0.975, 0.446),
    "linear": (0.6566, 0.8835, 0.9335, 0.958, 0.549),
}


def ablation() -> Ablation:
    return Ablation(
        name="loss_weights",
        question="Should late steps weigh more in the loss?",
        base="experiments/ucf101_lstm.py",
        rows=published("loss.frame_weights", COLUMNS, PUBLISHED),
        control=1,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 10",
        on_motion="loss_weights",
    )
