"""Report D: how many frames of a video?

Shorter videos are continued backwards, then forwards; longer ones give a random segment. The top-5
column looks shifted: 0.958 at 120 is the training accuracy, and 0.8835 at 150 is the baseline's
top-5, so both are marked as doubtful. The report prints no training figures for 180 frames. We
added two rows: segments of the training videos' mean length, and the whole video.
"""

from vidrec.sweeps.ablation import Ablation, Row

COLUMNS = ("test_accuracy", "test_top5", "test_top10", "train_accuracy", "train_loss")
# Frames: top-1, top-5, top-10, training accuracy, batch loss
PUBLISHED = {
    30: (0.55876, 0.813, 0.889, 0.703, 1.998),
    60: (0.6263, 0.8651, 0.92521, 0.866, 1.118),
    120: (0.6565, 0.958, 0.9334, 0.958, 0.549),
    150: (0.672, 0.8835, 0.9431, 0.977, 0.411),
    180: (0.644, 0.881, 0.935),
}
OURS = (
    Row({"frames.rule": "segment_mean_length"}, name="mean length"),
    Row({"frames.rule": "whole"}, name="whole video"),
)


def row(length: int, figures: tuple[float, ...]) -> Row:
    return Row(
        {"frames.length": length},
        published=dict(zip(COLUMNS, figures, strict=False)),
        doubtful=("test_top5",) if length in (120, 150) else (),
    )


def ablation() -> Ablation:
    return Ablation(
        name="sequence_length",
        question="How many frames of a video?",
        base="experiments/ucf101_lstm.py",
        rows=[*(row(*each) for each in PUBLISHED.items()), *OURS],
        control=2,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 8",
        on_motion="sequence_length",
    )
