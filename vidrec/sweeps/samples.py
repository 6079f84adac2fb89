"""Save film strips for the report: frames of a few test clips, the most often wrong ones first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidrec.data.datasets.base import UnreadableClip
from vidrec.evaluation.task import ScoredPart
from vidrec.io import files
from vidrec.sweeps import augmented
from vidrec.training import devices, prepare
from vidrec.training.results import TrialRun

FILE = "samples.npz"
CLIPS = 12
FRAMES = 8  # of each clip
SIZES = (64, 112)  # minimum and maximum of a frame's height and width, in pixels


def write(folder: Path, trials: Sequence[TrialRun], data: prepare.Prepared) -> None:
    """Write frames of the test clips that most trials got wrong, and of evenly spaced others."""
    if data.dataset.is_features or are_there(folder) or not devices.is_main():
        return
    clips = data.clips("test")
    hardest = np.argsort(-_wrong(trials, len(clips), data), kind="stable")[: CLIPS // 2]
    evenly = np.linspace(0, len(clips) - 1, min(CLIPS, len(clips))).astype(int)
    shown = clips[list(dict.fromkeys([*hardest, *evenly]))[:CLIPS]]
    size = min(max(trials[0].config.encoder.size, SIZES[0]), SIZES[1])
    frames, names = [], []
    for clip in shown:
        indices = np.linspace(0, data.lengths[clip] - 1, FRAMES).astype(int)
        try:
            frames.append(data.dataset.read(int(clip), indices.tolist(), size))
        except UnreadableClip:
            continue
        names.append(data.dataset.names[clip])
    # A file without frames means that none of the clips could be read.
    empty = np.zeros((0, FRAMES, size, size, 3), np.uint8)
    arrays = {"frames": np.stack(frames) if frames else empty}
    arrays |= {"names": np.array(names, str)} | augmented.shown(trials, data, size)
    files.write_arrays(folder / FILE, arrays)


def _wrong(trials: Sequence[TrialRun], clips: int, data: prepare.Prepared) -> np.ndarray:
    """Return the number of trials that got each test clip wrong, (clips,)."""
    wrong = np.zeros(clips)
    for trial in trials:
        file = trial.folder / "predictions.npz"
        if file.exists():
            names = [f"test_{part}" for part in ("logits", "probabilities", "labels")]
            saved = files.read_arrays(file, names)
            scores, probabilities, labels = (saved[name] for name in names)
            with np.errstate(divide="ignore"):
                log_probs = np.log(probabilities)
            fitted = files.read_result(trial.folder).get("fitted", {})
            part = ScoredPart(scores, log_probs, labels, data.classes, fitted)
            wrong += data.task.wrong(part)
    return wrong


def are_there(folder: Path) -> bool:
    """Return whether the film strips exist and are not damaged."""
    try:
        files.read_arrays(folder / FILE)
    except (files.Missing, files.Damaged):
        return False
    return True
