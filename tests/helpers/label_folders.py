"""Folders of labelled frames, laid out as published sets are."""

from pathlib import Path

import numpy as np

CLASSES = ("background", "take", "open", "pour")


def gtea_like(
    root: Path, people: int = 4, videos: int = 2, frames: tuple[int, int] = (40, 60), depth: int = 6
) -> dict[str, list[str]]:
    """Write groundTruth, mapping.txt, features (D, T) and splits as GTEA's folder has them.

    The features of a frame tell its label, but for noise.

    Returns:
        The labels of each video's frames.
    """
    rng = np.random.default_rng(5)
    for folder in ("groundTruth", "features", "splits"):
        (root / folder).mkdir(parents=True)
    mapping = "".join(f"{number} {name}\n" for number, name in enumerate(CLASSES))
    (root / "mapping.txt").write_text(mapping)
    directions = rng.standard_normal((len(CLASSES), depth))
    labels: dict[str, list[str]] = {}
    for person in range(1, people + 1):
        for video in range(videos):
            name = f"S{person}_Cheese_C{video + 1}"
            length = int(rng.integers(*frames))
            numbers = np.repeat(rng.integers(0, len(CLASSES), 99), rng.integers(4, 12, 99))[:length]
            labels[name] = [CLASSES[number] for number in numbers]
            text = "\n".join(labels[name]) + "\n"
            (root / "groundTruth" / f"{name}.txt").write_text(text)
            features = directions[numbers] + 0.3 * rng.standard_normal((length, depth))
            np.save(root / "features" / f"{name}.npy", features.T.astype(np.float32))
    for person in range(1, people + 1):
        parts: dict[str, list[str]] = {"train": [], "test": []}
        for name in labels:
            part = "test" if name.startswith(f"S{person}_") else "train"
            parts[part].append(f"{name}.txt\n")
        for part, names in parts.items():
            (root / "splits" / f"{part}.split{person}.bundle").write_text("".join(names))
    return labels
