"""Report D: how should a video be decided from its frames?

The report cuts a video into clips of 60 frames at stride 30 and resets the carry for each clip. The
step log-probabilities of clips, weighted (j+1)/60, are averaged (average), or each clip votes
(vote). The report's listing leaves out the last step, and does not cut a video that is longer than
60 frames but shorter than the clip's end. Both are mistakes, and are not repeated here. We added a
row: one pass over the clip, as in all other tables. All three rows share one training.
"""

from vidrec.sweeps.ablation import Ablation, Row, published

COLUMNS = ("test_accuracy", "test_top5", "test_top10")
# Inference: top-1, top-5, top-10
PUBLISHED = {
    "average": (0.6367, 0.8766, 0.935),
    "vote": (0.659, 0.881, 0.94),
}


def ablation() -> Ablation:
    return Ablation(
        name="inference",
        question="How should a video be decided from its frames?",
        base="experiments/ucf101_lstm.py",
        rows=[
            *published("eval.inference", COLUMNS, PUBLISHED),
            Row({"eval.inference": "single"}, name="one pass"),
        ],
        control=2,
        read=COLUMNS,
        citation="Report D: P. Srinivasan, Action Recognition in Short Clips, section 12",
        on_motion="inference",
    )
