"""Which scanner recognises two motions at once, and does frame order matter?

On `motion/several` the frames without their order show which two properties change, but not in
which direction. So a mean over frames, and a GRU whose frames are shuffled, should have an average
precision near one half. None of the five reports did this.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    kinds = ("mean", "attention", "lstm", "gru", "mingru")
    rows = [Row({"scanner.kind": kind}) for kind in kinds]
    rows.append(Row({"scanner.kind": "gru", "frames.order": "shuffled"}))
    return Ablation(
        name="several_scanners",
        question="Which scanner recognises two motions at once, and does frame order matter?",
        base="experiments/several.py",
        rows=rows,
        seeds=3,
        read=("test_map", "test_macro_f1", "test_micro_f1", "test_exact", "params"),
    )
