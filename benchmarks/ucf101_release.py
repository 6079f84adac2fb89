"""Write the public features of 14 classes of UCF-101 as vidrec reads them.

    git clone https://github.com/tyagi-iiitv/UCF101_release        # commit 08e3b1d, 1 GB
    python benchmarks/ucf101_release.py UCF101_release ucfTrainTestlist FEATURES

`ucfTrainTestlist` is the folder of the official lists of UCF-101. FEATURES then holds one float16
array (25, 4096) a clip, CLASS/v_CLASS_gXX_cYY.npy, and the lists: 380 MB.

The repository has ids in place of names (v_000152), with the class and the side of list 1 of each.
The n-th id of a class and side gets the n-th name of that class and side in sorted order; so a name
is sure to be on the right side, and within a side it is a guess. The first class is left out, since
its features were extracted in another way.
"""

import argparse
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.io import loadmat

LEFT_OUT = 1
SIDES = {"train": 1, "test": 2}  # as the repository numbers them


def main() -> None:
    """Pair ids with names, and write the features under the names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("release", "lists", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    names = named(ids(given.release), official(given.lists))
    for number, (id_, name) in enumerate(sorted(names.items()), 1):
        path = given.out / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = loadmat(given.release / "vgg16_relu6" / f"{id_}.mat")["Feature"]
        np.save(path, values.astype(np.float16))
        if number % 200 == 0 or number == len(names):
            print(f"{number} of {len(names)} clips", flush=True)
    shutil.copytree(given.lists, given.out / "ucfTrainTestlist", dirs_exist_ok=True)


def ids(release: Path) -> dict[tuple[int, int], list[str]]:
    """Return the ids of each class and side, in order."""
    found = defaultdict(list)
    for line in (release / "annos" / "videos_labels_subsets.txt").read_text().splitlines():
        id_, label, side = line.split()
        found[int(label), int(side)].append(id_)
    return {key: sorted(clips) for key, clips in found.items() if key[0] != LEFT_OUT}


def official(lists: Path) -> dict[tuple[int, int], list[str]]:
    """Return the names CLASS/v_CLASS_gXX_cYY of each class and side of list 1, in order."""
    lines = (lists / "classInd.txt").read_text().splitlines()
    numbers = {name: int(number) for number, name in map(str.split, filter(str.strip, lines))}
    found = defaultdict(list)
    for part, side in SIDES.items():
        for line in (lists / f"{part}list01.txt").read_text().split():
            if line.endswith(".avi"):
                found[numbers[line.partition("/")[0]], side].append(line.removesuffix(".avi"))
    return {key: sorted(names) for key, names in found.items()}


def named(
    ids: dict[tuple[int, int], list[str]], official: dict[tuple[int, int], list[str]]
) -> dict[str, str]:
    """Return the name of each id.

    Raises:
        SystemExit: A class has another number of clips here than in the lists.
    """
    names: dict[str, str] = {}
    for key, clips in ids.items():
        if len(clips) != len(official.get(key, [])):
            raise SystemExit(
                f"class {key[0]}: {len(clips)} ids, {len(official.get(key, []))} names"
            )
        names |= dict(zip(clips, official[key], strict=True))
    return names


if __name__ == "__main__":
    main()
