"""Train each row of a table on every fold: no clip is scored by a model that trained on it.

Folds are the official lists of UCF-101, each recording left out in turn, or k parts of the
recordings.
"""

from collections.abc import Iterable
from typing import Any

from vidrec.config import Config
from vidrec.errors import UserError

OFFICIAL, RECORDINGS = "official", "recordings"
LISTS = 3  # official split lists of UCF-101
# Settings of the split that folds determine.
DECIDED = ("data.split", "data.fold", "data.folds", "data.swapped")


def check(how: str, of_rows: Iterable[str], typed: Iterable[str]) -> None:
    """Refuse folds that are unknown, or that contradict other settings of the split.

    Args:
        how: `official`, `recordings`, or a number of parts.
        of_rows: names of the settings that rows of the table set.
        typed: names of the settings that the command line gives.

    Raises:
        UserError: `how` has another value, or a row or the command line sets the split too.
    """
    if how not in (OFFICIAL, RECORDINGS) and not (how.isdecimal() and int(how) >= 2):
        raise UserError(
            f"--folds {how}: should be official (UCF-101's three lists), recordings (each left "
            "out in turn), or a number of parts, at least 2"
        )
    if own := [name for name in of_rows if name in DECIDED]:
        raise UserError(f"--folds decides the split, and rows of the table set {own[0]}: leave one")
    # The command line often selects the official list by data.split, which agrees with the folds.
    allowed = ("data.split",) if how == OFFICIAL else ()
    if own := [name for name in typed if name in DECIDED and name not in allowed]:
        raise UserError(f"--folds decides the split: leave out --{own[0]}")


def settings(how: str, cfg: Config) -> list[dict[str, Any]]:
    """Return the settings of each fold of a trial's data.

    Args:
        how: `official`, `recordings`, or a number of parts.
        cfg: the trial's settings.

    Raises:
        UserError: the trial's data have no such folds.
    """
    if how == OFFICIAL:
        if cfg.data.kind != "ucf101":
            raise UserError(
                f"--folds official: UCF-101 has three lists, data.kind = {cfg.data.kind!r} has "
                "none or one; take recordings, or a number of parts"
            )
        return [_split("given", fold) for fold in range(1, LISTS + 1)]
    if how == RECORDINGS:
        return [_split("group", fold) for fold in range(1, _recordings(cfg) + 1)]
    return [_split("group", fold, int(how)) for fold in range(1, int(how) + 1)]


def _split(split: str, fold: int, folds: int = 0) -> dict[str, Any]:
    return dict(zip(DECIDED, (split, fold, folds, False), strict=True))


def _recordings(cfg: Config) -> int:
    from vidrec.data import splits
    from vidrec.evaluation import tasks

    return len(splits.blocks(tasks.of(cfg).load(cfg)))


def words(how: str, count: int, *, recordings_known: bool = True) -> str:
    """Return a description of a table's folds.

    Args:
        how: `official`, `recordings`, or a number of parts.
        count: number of folds.
        recordings_known: whether the clips name their recordings.
    """
    if how == OFFICIAL:
        return f"the {count} official lists"
    if how == RECORDINGS:
        return f"each of {count} recordings left out in turn"
    return f"{count} parts of the {'recordings' if recordings_known else 'files'}"
