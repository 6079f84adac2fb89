"""Report E's six variants on images: frames of a folder of videos, three classes of them.

    python benchmarks/transfer_images.py FOLDER WEIGHTS [--encoder squeezenet] [--size 96] [--json]

WEIGHTS is a file of pretrained weights of the encoder, in place of the report's downloaded ones. A
video's frames stay on one side of the split. Prints the table of ablations/transfer.py; the report
with the curves is written where its last line says.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import vidrec
from vidrec.data import video

COLUMNS = [f"{part}_{name}" for part in ("train", "val", "test") for name in ("accuracy", "loss")]


def write_images(
    folder: Path, videos: Path, classes: Sequence[str], frames: int, size: int
) -> None:
    """`frames` frames, evenly spread, of every video of these classes; the name keeps the video."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for clip, file in enumerate(sorted((videos / name).iterdir())):
            count, _ = video.declared(file)
            places = np.linspace(0, count - 1, frames + 2)[1:-1].astype(int).tolist()
            for place, picture in zip(places, video.read(file, places, size), strict=True):
                to = folder / name / f"{name}_g{clip:02d}_{place:04d}.png"
                Image.fromarray(picture).save(to)


def table(images: Path, encoder: str, weights: Path, size: int, epochs: int) -> vidrec.Ablation:
    """ablations/transfer.py with another encoder, and a file for "imagenet"."""
    report = vidrec.load("ablations/transfer.py")
    base = vidrec.override(
        vidrec.load(report.base),
        {
            "data.root": str(images),
            "data.test": 0.2,
            "data.val": 0.2,
            "encoder.kind": encoder,
            "encoder.size": size,
            "train.epochs": epochs,
        },
    )
    rows = []
    for row in report.rows:
        named = row.overrides["encoder.weights"]
        file = str(weights) if named == "imagenet" else named
        rows.append(replace(row, overrides={**row.overrides, "encoder.weights": file}))
    return replace(report, base=base, rows=rows)


def main() -> None:
    """Makes the images where they are not there yet, and fills the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--encoder", default="squeezenet")
    parser.add_argument("--classes", nargs=3, default=("archery", "breaststroke", "crossbow"))
    parser.add_argument("--frames", type=int, default=6, help="of a video")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    images = options.workdir / f"images-{options.size}"
    if not images.exists():
        write_images(images, options.videos, options.classes, options.frames, options.size)
    made = table(images, options.encoder, options.weights, options.size, options.epochs)
    done = vidrec.ablate(made, options.workdir)
    rows = [
        {"row": row.name} | {name: found[name] for name in ("status", *COLUMNS, "seconds_train")}
        for row, found in zip(made.rows, done.rows, strict=True)
    ]
    if options.json:
        print(json.dumps({"rows": rows, "report": str(done.folder / "report.html")}))
        return
    for row in rows:
        print(", ".join(f"{name} {each}" for name, each in row.items()))
    print(done.folder / "report.html")


if __name__ == "__main__":
    main()
