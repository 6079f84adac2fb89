"""Watch a training run, and compare what two of them left."""

import json

import jax
import numpy as np

from vidrec.io import checkpoint
from vidrec.training import loop
from vidrec.training.loop import METRICS


class EpochRecorder(loop.Silent):
    """Remembers epochs; stops after the given one."""

    def __init__(self, stop=0):
        self.stop, self.epochs, self.compilations = stop, [], 0

    def compiled(self, seconds):
        self.compilations += 1

    def epoch(self, number, records):
        self.epochs.append(number)

    def should_stop(self):
        return bool(self.epochs) and self.epochs[-1] == self.stop


class Soon(EpochRecorder):
    """Asks to stop when it is asked for the n-th time, inside an epoch too."""

    def __init__(self, asked):
        super().__init__()
        self.left = asked

    def should_stop(self):
        self.left -= 1
        return self.left == 0


def contents(folder):
    """Everything a run leaves that may not depend on how it came about."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.name in (METRICS, "config.json", "model.json"):
            found[name] = file.read_text()
        elif file.name == "predictions.npz":
            with np.load(file) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
        elif file.name == "model":
            tree, meta = checkpoint.read(file)
            found[name] = meta
            found[f"{name} arrays"] = [
                (jax.tree_util.keystr(path), leaf.dtype, leaf.tobytes())
                for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
            ]
        elif file.name == "result.json":
            result = json.loads(file.read_text())
            for name_ in ("seconds", "resumed_epoch", "dir", "checksum"):
                result.pop(name_)
            found[name] = result
    return found
