"""Report C: is there a learning rate at which its C3D trains?

The report tried 0.1 to 1e-8 and saw the loss jump on {2.453, 1.453, 1.953} within five epochs at
each rate, without a table. The rows after its rates test a hypothesis of ours: the softmax was
applied twice, by the network and by the loss, which then saturates at levels 0.5 apart
(benchmarks/why_c3d_stalled.py).
"""

from vidrec.config import override
from vidrec.sweeps.ablation import Ablation, Row, load

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


def ablation() -> Ablation:
    c3d = {
        "encoder.kind": "c3d",
        "encoder.width": 1024,
        "scanner.kind": "none",
        "head.kind": "last",
    }
    guess = {"loss.kind": "double_softmax"}
    return Ablation(
        name="c3d_rate",
        question="Is there a learning rate at which C3D trains?",
        base=override(load("experiments/ucf11_pixels.py"), c3d),
        rows=(
            *(Row({"optim.learning_rate": rate}, published={}) for rate in RATES),
            *(Row({"optim.learning_rate": rate, **guess}) for rate in (1e-1, 1e-3, 1e-5)),
        ),
        control=2,
        read=("train_objective", "val_accuracy", "test_accuracy"),
        citation="Report C: J. Xu, Introduction to Deep Learning, final project, section 3.1",
    )
