"""Report A: how many units, and which recurrence, over frozen VGG16 features of four classes?

The rows are the report's twelve, in its order; parameter counts are exact. The published scores are
of 399 clips, the official training list. So they are marked as doubtful, and no difference to ours
is shown (see experiments/ucf101_four_classes.py; `--data.swapped True` swaps the lists).
`--axis data.fold=1,2,3` repeats the table on all official splits.
"""

from vidrec.sweeps.ablation import Ablation, Row

CLASSES = ("Basketball", "Diving", "GolfSwing", "Skiing")
SCORES = ("test_accuracy", "test_avg_f1", *(f"test_f1_{name}" for name in CLASSES))
COLUMNS = (*SCORES[:2], "seconds_train", "params", "epochs", *SCORES[2:])
# kind, layers, units; accuracy, average F1, seconds, parameters, epochs, F1 of each class
PUBLISHED = (
    ("lstm", 1, 50, 0.9197, 0.9182, 6.08, 112804, 30, 0.8432, 0.9406, 0.9371, 0.9518),
    ("lstm", 1, 100, 0.9047, 0.9029, 5.5, 245604, 18, 0.8351, 0.9259, 0.9186, 0.9319),
    ("lstm", 1, 200, 0.9498, 0.95, 7.21, 571204, 18, 0.9005, 0.94, 0.97, 0.9894),
    ("lstm", 1, 500, 0.9398, 0.9388, 9.18, 2028004, 17, 0.8804, 0.9406, 0.96, 0.9743),
    ("gru", 1, 50, 0.9172, 0.9156, 3.67, 84804, 22, 0.8461, 0.9107, 0.9556, 0.95),
    ("gru", 1, 100, 0.9373, 0.9367, 4.65, 184604, 18, 0.8804, 0.9266, 0.9603, 0.9793),
    ("gru", 1, 200, 0.9147, 0.9136, 3.5, 429204, 17, 0.8172, 0.9181, 0.9509, 0.968),
    ("gru", 1, 500, 0.9172, 0.9159, 5.83, 1523004, 17, 0.8478, 0.9201, 0.9417, 0.9538),
    ("lstm", 2, 50, 0.9223, 0.9205, 5.9, 133004, 26, 0.8449, 0.9541, 0.9191, 0.9641),
    ("lstm", 2, 100, 0.8796, 0.8736, 6.73, 326004, 24, 0.75, 0.9433, 0.8651, 0.9359),
    ("lstm", 2, 200, 0.9298, 0.9287, 6.74, 892004, 19, 0.8677, 0.9483, 0.9489, 0.95),
    # The accuracy repeats the F1: 374 of 399 clips would be 0.9373.
    ("lstm", 2, 500, 0.9365, 0.9365, 5.87, 4030004, 16, 0.8829, 0.9449, 0.9603, 0.9578),
)
NAMES = {("lstm", 1): "LSTM", ("gru", 1): "GRU", ("lstm", 2): "Deep LSTM"}


def row(kind: str, layers: int, units: int, *figures: float) -> Row:
    return Row(
        {"scanner.kind": kind, "scanner.layers": layers, "scanner.units": units},
        published=dict(zip(COLUMNS, figures, strict=True)),
        doubtful=SCORES,
        name=f"{NAMES[kind, layers]} ({units})",
    )


def ablation() -> Ablation:
    return Ablation(
        name="units_keras",
        question="How many units, and which recurrence, over frozen VGG16 features?",
        base="experiments/ucf101_four_classes.py",
        rows=[row(*values) for values in PUBLISHED],
        control=2,
        read=COLUMNS,
        citation="Report A: A. C. Erthal and F. Lamarca, Action Recognition, tables 2 and 3",
    )
