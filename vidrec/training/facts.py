"""Describe each clip of a run's data, so that later changes of the data can be reported."""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from vidrec.config import Config
from vidrec.data import splits
from vidrec.data.datasets.base import PARTS, Dataset
from vidrec.errors import UserError

FACTS = ("class", "recording", "part", "content")  # entries of a clip's description in `of`


def of(dataset: Dataset, cfg: Config) -> dict[str, list[str]]:
    """Return the description of each clip, the values of `FACTS`, by the clip's name."""
    parts = np.full(len(dataset), "none", object)
    with contextlib.suppress(UserError):
        split = splits.make(dataset, cfg.data)
        for part in PARTS:
            parts[getattr(split, part)] = part
    labels, groups = dataset.label_texts, dataset.groups.tolist()
    rows = zip(labels, groups, parts.tolist(), dataset.keys, strict=True)
    return dict(zip(dataset.names, map(list, rows), strict=True))


def difference(before: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> str:
    """Return in words how two descriptions (see `of`) of one data set differ."""
    lines = []
    for words, names in (
        ("gone", [name for name in before if name not in now]),
        ("new", [name for name in now if name not in before]),
    ):
        if names:
            lines.append(f"{_some(names)} {'is' if len(names) == 1 else 'are'} {words}")
    both = [name for name in before if name in now]
    for index, fact in enumerate(FACTS):
        names = [name for name in both if before[name][index] != now[name][index]]
        if names:
            was, became = before[names[0]][index], now[names[0]][index]
            how = "changed" if fact == "content" else f"was {was} and is {became}"
            lines.append(f"the {fact} of {_some(names, how)}")
    return "; ".join(lines)


def _some(names: Sequence[str], of_first: str = "") -> str:
    """Return the first name, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]} {of_first}".strip() + more
