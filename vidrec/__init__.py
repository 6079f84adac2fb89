"""Train tables of recurrent video classifiers, and say which is better, by how much.

import vidrec
cfg = vidrec.override(vidrec.load("experiments/motion.py"), {"scanner.kind": "gru"})
result = vidrec.train(cfg, "runs")
"""

import importlib
from typing import Any

__version__ = "0.2.0"

# A module is loaded when one of its names is first used, so that `import vidrec` is fast.
_MODULES = {
    "Config": "config",
    "override": "config",
    "UserError": "errors",
    "Ablation": "sweeps.ablation",
    "Row": "sweeps.ablation",
    "load": "sweeps.ablation",
    "product": "sweeps.ablation",
    "zipped": "sweeps.ablation",
    "train": "sweeps.runner:run",
    "ablate": "sweeps.runner",
    "more_epochs": "training.continuing",
    "search": "sweeps.search",
    "read": "report",
    "parameters": "sweeps.runner",
    "Classifier": "evaluation.predict",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vidrec' has no attribute '{name}'")
    module, _, attribute = _MODULES[name].partition(":")
    return getattr(importlib.import_module(f"vidrec.{module}"), attribute or name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
