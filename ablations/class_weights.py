"""Do class weights help if classes are unequal, at 1:20?

    vidrec ablate ablations/class_weights.py

In each pair of motions one class has 80 training clips and its time reversal 4. All classes have
the same number of validation and of test clips, so accuracy is the mean over classes. The plain
loss is compared with balanced weights, with balanced batches, and with the same model on all clips.
None of the five reports did this.
"""

from vidrec.sweeps.ablation import Ablation, Row

FREQUENT = ("anticlockwise", "appear", "down", "grow", "left")
RARE = ("clockwise", "right", "shrink", "up", "vanish")
UNEQUAL = ",".join([f"{name}=80" for name in FREQUENT] + [f"{name}=4" for name in RARE])


def ablation() -> Ablation:
    unequal = {"data.per_class": UNEQUAL, "data.val": 100.0}
    return Ablation(
        name="class_weights",
        question="Do class weights help if classes are unequal, at 1:20?",
        base="experiments/motion.py",
        rows=[
            Row(unequal, name="plain"),
            Row(unequal | {"loss.class_weights": "balanced"}, name="balanced weights"),
            Row(unequal | {"train.sampling": "balanced"}, name="balanced batches"),
            Row({"data.val": 100.0}, name="all clips"),
        ],
        seeds=3,
        read=("test_accuracy", "test_balanced_accuracy", "test_avg_f1"),
    )
