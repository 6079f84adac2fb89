"""Report B: which family of recurrences, and how wide, over frozen features of UCF-11?

The first sixteen rows are the report's, in its order; parameter counts are exact. BiLSTM, which the
report describes without a figure, follows with both ways of joining its directions.
`--axis data.fold=1,2,3` leaves out one group at a time, for the first three of 25 groups
(ablations/folds_ucf11.py leaves out each of them).
"""

from typing import Any

from vidrec.sweeps.ablation import Ablation, Row

COLUMNS = ("params", "seconds_train", "test_accuracy", "test_avg_f1")
UNITS = (64, 128, 256, 512)
FAMILIES: dict[str, dict[str, Any]] = {
    "LSTM": {"scanner.kind": "lstm", "scanner.layers": 1},
    "GRU": {"scanner.kind": "gru", "scanner.layers": 1},
    "Deep LSTM": {"scanner.kind": "lstm", "scanner.layers": 2},
    # Over feature maps, with one bias vector a gate: the published parameter counts imply this.
    "ConvLSTM": {
        "scanner.kind": "convlstm",
        "scanner.layers": 1,
        "scanner.bias": "single",
        "encoder.pooling": "map",
    },
}
# For each family, of 64 to 512 units: parameters, seconds, accuracy, average F1
PUBLISHED = {
    "LSTM": (
        (148683, 113.1, 0.64, 0.56),
        (330123, 111.45, 0.76, 0.75),
        (791307, 139.71, 0.74, 0.73),
        (2106891, 158.76, 0.76, 0.75),
    ),
    "GRU": (
        (111691, 103.17, 0.77, 0.76),
        (247947, 88.28, 0.77, 0.77),
        (594187, 50.26, 0.78, 0.77),
        (1581579, 29.94, 0.76, 0.75),
    ),
    "Deep LSTM": (
        (181963, 112.87, 0.65, 0.63),
        (462219, 117.41, 0.71, 0.7),
        (1317643, 114.97, 0.77, 0.76),
        (4208139, 100.33, 0.77, 0.76),
    ),
    "ConvLSTM": (
        (1328075, 1778.58, 0.76, 0.74),
        (2951051, 1292.99, 0.8, 0.78),
        (7081739, 4197.88, 0.8, 0.79),
        (18882059, 1346.28, 0.79, 0.78),
    ),
}


def published() -> list[Row]:
    return [
        Row(
            {**FAMILIES[family], "scanner.units": units},
            published=dict(zip(COLUMNS, figures, strict=True)),
            name=f"{family} ({units})",
        )
        for family, table in PUBLISHED.items()
        for units, figures in zip(UNITS, table, strict=True)
    ]


def ours() -> list[Row]:
    return [
        Row(
            {**FAMILIES["LSTM"], "scanner.bidirectional": joined, "scanner.units": units},
            name=f"BiLSTM, {joined} ({units})",
        )
        for joined in ("concat", "sum")
        for units in UNITS
    ]


def ablation() -> Ablation:
    return Ablation(
        name="units_torch",
        question="Which family of recurrences, and how wide, over frozen features?",
        base="experiments/ucf11_recurrent.py",
        rows=published() + ours(),
        control=1,
        read=COLUMNS,
        citation="Report B: Video classification using recurrent neural networks, table of results",
    )
