"""Clips for every side of a benchmark, and what ours makes of them: weights, losses, seconds."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from published_sizes import Noise

import vidrec
from vidrec.data.datasets import Dataset
from vidrec.sweeps import runner
from vidrec.training import loop, prepare, results

PARTS = ("train", "val", "test")


@dataclass(eq=False)
class Signals(Noise):
    """Noise, of a clip and of its frames, about a direction of each class's own.

    One clip in ten shows the next class: who grows too sure of the others loses by it, so that
    early stopping has something to stop.
    """

    strength: float = 0.5

    def features(self, clip: int) -> np.ndarray:
        place = self.places[clip]
        shown = (self.labels[clip] + (place % 10 == 7)) % len(self.classes)
        own = np.random.default_rng((1, place)).standard_normal(self.shape[1:])
        told = np.random.default_rng((2, int(shown))).standard_normal(self.shape[1:])
        return super().features(clip) + (own + self.strength * told).astype(np.float32)


def signals(
    counts: Sequence[int], shape: tuple[int, ...], classes: Sequence[str], strength: float = 0.5
) -> Signals:
    """So many clips (T, D) to train, to validate and to test, the classes in turn."""
    places = np.arange(sum(counts))
    parts = np.split(places, np.cumsum(counts)[:-1])
    return Signals(
        name="signals",
        classes=tuple(classes),
        names=tuple(f"clip {i}" for i in places),
        labels=(places % len(classes)).astype(np.int32),
        groups=np.array([f"clip {i}" for i in places]),
        given=dict(zip(PARTS, parts, strict=True)),
        shape=shape,
        places=tuple(places.tolist()),
        strength=strength,
    )


def arrays(source: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features and labels of each part, as the other sides take them."""
    return {
        part: (np.stack([source.features(clip) for clip in clips]), source.labels[clips])
        for part, clips in source.given.items()
        if len(clips)
    }


def begun(cfg: vidrec.Config, source: Dataset | None = None) -> tuple[Any, dict[str, list[float]]]:
    """Our untrained weights, and the losses of each epoch that starts from them.

    A rate of zero leaves weights as they were, and trains in one program with the other trial.
    """
    still = vidrec.override(cfg, {"optim.learning_rate": 0.0})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        both = [
            results.TrialRun(name, each, folder / name)
            for name, each in (("still", still), ("trained", cfg))
        ]
        loop.fit(both, prepare.prepare(cfg, dataset=source), folder)
        still, trained = (each.folder for each in both)
        lines = (trained / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses = {
            part: [record[f"{part}/loss"] for record in records if record[f"{part}/loss"]]
            for part in ("train", "val")
        }
        return vidrec.parameters(still)["trained"], losses


class Epochs(loop.Silent, runner.Quiet):
    """Keeps an epoch's seconds, and stops after so many: nothing is scored."""

    def __init__(self, epochs: int):
        self.epochs = epochs
        self.spent: list[float] = []
        self.began = 0.0

    def group(self, name: str, members: Sequence[results.TrialRun]) -> loop.Callback:
        """Itself watches the group."""
        return self

    def compiled(self, seconds: float) -> None:
        """The first epoch begins."""
        self.began = time.perf_counter()

    def epoch(self, number: int, records: Any) -> None:
        """One has ended."""
        now = time.perf_counter()
        self.spent.append(now - self.began)
        self.began = now

    def should_stop(self) -> bool:
        """True after the last one."""
        return len(self.spent) >= self.epochs
