"""What does it take to label frames: memory, both directions, or long gradients?

The control sees one frame at a time. On the generated data a frame does not show what moves, so the
control can only guess. A recurrence that looks back should find the segments, somewhat late. A
recurrence in both directions should also find their edges. Windows of truncated back-propagation
are shorter than a motion (18 to 36 frames), about as long as a motion, or the whole clip.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    return Ablation(
        name="segment_scanners",
        question="What does it take to label frames?",
        base="experiments/segments.py",
        rows=(
            Row({"scanner.kind": "none"}, name="one frame at a time"),
            Row({"scanner.kind": "gru"}, name="GRU"),
            Row({"scanner.kind": "lstm"}, name="LSTM"),
            Row({"scanner.bidirectional": "concat"}, name="GRU, both directions"),
            Row({"train.tbptt_every": 10}, name="GRU, windows of 10"),
            Row({"train.tbptt_every": 30}, name="GRU, windows of 30"),
        ),
        control=0,
        seeds=3,
        read=("test_f1_50", "test_edit", "test_frame_accuracy"),
    )
