"""Which scanner sees two motions at once, and is it order that it sees?

On `motion/several` all frames in any order tell which two things change, and not which way: a mean
over frames, and a GRU whose frames are shuffled, should have an average precision near one half.
No report did this.
"""

from vidrec.sweeps.ablation import Ablation, Row


def ablation() -> Ablation:
    kinds = ("mean", "attention", "lstm", "gru", "mingru")
    rows = [Row({"scanner.kind": kind}) for kind in kinds]
    rows.append(Row({"scanner.kind": "gru", "frames.order": "shuffled"}))
    return Ablation(
        name="several_scanners",
        question="Which scanner sees two motions at once, and is it order that it sees?",
        base="experiments/several.py",
        rows=rows,
        seeds=3,
        read=("test_map", "test_macro_f1", "test_micro_f1", "test_exact", "params"),
    )
