"""Why did report C's C3D never train? Its initialisation times a softmax taken once or twice.

    python benchmarks/why_c3d_stalled.py [--steps 60] [--json]

C3D at its full width on 40 clips of motion, 8 frames of 16x16, batches of two clips, Adam. For each
setting: which values the loss of a batch took in the last steps, the median norm of its gradient
there, and how many of the clips it was trained on it knows.

Where the softmax saturates, one taken twice leaves a batch of two with three losses only: those of
no, one and two right answers, log(9 + e) = 2.461, 1.961 and 1.461 of ten classes.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import vidrec

SHOWN = 20  # steps at the end
CASES = [
    *(
        {"encoder.init": "normal", "loss.kind": "double_softmax", "optim.learning_rate": rate}
        for rate in (1e-1, 1e-3, 1e-5, 1e-8)
    ),
    {"encoder.init": "normal", "loss.kind": "cross_entropy"},
    {"encoder.init": "own", "loss.kind": "double_softmax"},
    {"encoder.init": "own", "loss.kind": "cross_entropy"},
]


def settings(steps: int) -> vidrec.Config:
    """Report C's C3D, an epoch a batch, so that every batch's loss is written."""
    changes = {
        "data.kind": f"{Path(__file__).parent}/small_pixels.py:clips",
        "data.tfds": "",
        "data.split": "random",
        "data.val": 0,
        "data.test": 8,
        "encoder.kind": "c3d",
        "encoder.width": 1024,
        "encoder.size": 16,
        "frames.length": 8,
        "frames.rule": "uniform",
        "scanner.kind": "none",
        "head.kind": "last",
        "train.epochs": steps,
        "train.batch_size": 2,
        "train.batches_per_epoch": 1,
        "train.monitor": "val_loss",
        "train.target": 0,
        "train.save_seconds": 1e9,
        "eval.batch_size": 8,
    }
    return vidrec.override(vidrec.load("experiments/ucf11_pixels.py"), changes)


def measure(case: dict, steps: int, workdir: Path) -> dict:
    """Loss and gradient of the last batches of one setting."""
    result = vidrec.train(vidrec.override(settings(steps), case), workdir)
    lines = (Path(result["dir"]) / "metrics.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in lines][-SHOWN:]
    finite = [line for line in last if None not in (line["train/loss"], line["grad/norm"])]
    return {
        "case": case,
        "levels": sorted({round(line["train/loss"], 3) for line in finite}),
        "gradient": float(np.median([line["grad/norm"] for line in finite])),
        "train_accuracy": result["metrics"]["train"]["accuracy"],
        "status": result["status"],
    }


def line(row: dict) -> str:
    """A setting and what it gave; of many losses the least and the largest."""
    words = ", ".join(f"{name.partition('.')[2]} {each}" for name, each in row["case"].items())
    levels = row["levels"]
    losses = f"{levels}" if len(levels) < 8 else f"{levels[0]} to {levels[-1]}"
    return (
        f"{words}: losses {losses}, gradient {row['gradient']:.2g}, "
        f"train accuracy {row['train_accuracy']:.2f}, {row['status']}"
    )


def main() -> None:
    """Prints one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as workdir:
        for case in CASES:
            rows.append(measure(case, options.steps, Path(workdir)))
            if not options.json:
                print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
