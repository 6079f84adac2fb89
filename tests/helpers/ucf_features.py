"""Folders of ready-made features that are named as UCF-101's and UCF-11's clips."""

from pathlib import Path

import numpy as np

NAMES = ("Archery", "Basketball", "Biking", "Diving")
STEPS, WIDTH = 10, 5
GROUPS, CLIPS = 9, 2


def clip_array(label: int, group: int, clip: int, steps: int = STEPS) -> np.ndarray:
    """Features of a clip: its class shows in one of them, all else is noise of its own."""
    drawn = np.random.default_rng([label, group, clip]).normal(size=(steps, WIDTH))
    drawn[:, label] += 2
    return drawn.astype(np.float16)


def write_lists(root: Path, names: tuple[str, ...] = NAMES, more: tuple[str, ...] = ()) -> None:
    """Official lists of so many classes: list n tests groups 3n-2 … 3n."""
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True)
    every = sorted({*names, *more}, key=str.lower)
    (folder / "classInd.txt").write_text(
        "".join(f"{number} {name}\n" for number, name in enumerate(every, 1))
    )
    for fold in (1, 2, 3):
        parts: dict[str, list[str]] = {"train": [], "test": []}
        for number, name in enumerate(every, 1):
            for group in range(1, GROUPS + 1):
                part = "test" if 3 * fold - 2 <= group <= 3 * fold else "train"
                label = f" {number}" * (part == "train")
                parts[part] += [
                    f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi{label}\n"
                    for clip in range(1, CLIPS + 1)
                ]
        for part, lines in parts.items():
            (folder / f"{part}list{fold:02d}.txt").write_text("".join(lines))


def write_ucf101(root: Path, names: tuple[str, ...] = NAMES, steps: int = STEPS) -> Path:
    """A folder CLASS/v_CLASS_gNN_cNN.npy, and lists of those classes and of others beside."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for group in range(1, GROUPS + 1):
            for clip in range(1, CLIPS + 1):
                path = root / name / f"v_{name}_g{group:02d}_c{clip:02d}.npy"
                np.save(path, clip_array(label, group, clip, steps))
    write_lists(root, names, ("GolfSwing", "Skiing"))
    return root


def write_ucf11(root: Path, groups: int = 4) -> Path:
    """A folder CLASS/v_GROUP/v_GROUP_CLIP.npy of two classes."""
    for label, name in enumerate(("biking", "diving")):
        for group in range(1, groups + 1):
            folder = root / name / f"v_{name}_{group:02d}"
            folder.mkdir(parents=True)
            for clip in (1, 2):
                np.save(folder / f"{folder.name}_{clip:02d}.npy", clip_array(label, group, clip))
    return root
