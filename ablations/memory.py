"""How long must clips and windows be for a model to remember what it saw long ago?

Clips of 120 to 180 frames show a motion of 20 frames somewhere in their first third, and nothing
that reveals it afterwards. A model that sees the clip's middle 30 frames is at chance. A model
whose frames include the motion can answer if its state lasts long enough. Windows of truncated
back-propagation that are shorter than the motion should make this harder, although they update more
often.

All rows have the same GRU and optimiser. Report D asks both questions about its LSTM on UCF-101
(ablations/sequence_length.py, ablations/truncation.py). On this data, the report's tables use its
own slow optimiser; the rows here use one that needs only ten epochs.
"""

from vidrec.config import override
from vidrec.sweeps.ablation import Ablation, Row, load

LENGTHS = (30, 60, 90, 120, 150, 180)
WINDOWS = (2, 5, 15, 30)


def ablation() -> Ablation:
    settings = {
        "data.tfds": "motion/memory/clips=1500",
        "encoder.size": 32,
        "scanner.kind": "gru",
        "head.kind": "per_frame",
        "train.epochs": 10,
        "frames.length": 150,
    }
    return Ablation(
        name="memory",
        question="How long must a sequence, and its gradient, be to remember?",
        base=override(load("experiments/motion.py"), settings),
        rows=[
            *(Row({"frames.length": length}, name=f"{length} frames") for length in LENGTHS),
            *(
                Row({"train.tbptt_every": window}, name=f"150 frames, windows of {window}")
                for window in WINDOWS
            ),
        ],
        control=4,
        seeds=3,
        read=("test_accuracy", "val_accuracy", "train_loss"),
        on_memory=True,
    )
