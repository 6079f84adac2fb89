"""Write curves for TensorBoard while training: a folder for each trial in TOP/tensorboard.

When a run or a table has ended, all curves are written again, as `report --tensorboard` does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vidrec.io import files
from vidrec.report import tensorboard
from vidrec.report.run import label_of
from vidrec.sweeps.tracking.base import Outcome, Subject, curves


class TensorBoard:
    """See `base.Tracker`."""

    name, nests = "tensorboard", False

    def __init__(self) -> None:
        self._writer = check()
        self._writers: dict[str, Any] = {}

    def open(self, subject: Subject, known: str, parent: str) -> str:
        """See `base.Tracker`."""
        folder = subject.top / tensorboard.FOLDER / _place(subject)
        if not subject.of_table:
            self._writers[subject.key] = self._writer(str(folder))
        return str(folder.relative_to(subject.top))

    def log(self, subject: Subject, lines: Sequence[Mapping[str, Any]]) -> None:
        """See `base.Tracker`."""
        writer = self._writers[subject.key]
        for line in lines:
            for name, value in curves(line).items():
                writer.add_scalar(name, value, line["epoch"])
        writer.flush()

    def finish(self, subject: Subject, outcome: Outcome) -> None:
        """See `base.Tracker`."""
        if writer := self._writers.pop(subject.key, None):
            writer.close()
        if subject.alone or subject.of_table:
            tensorboard.write(subject.top)

    def stop(self) -> None:
        """See `base.Tracker`."""
        for writer in self._writers.values():
            writer.close()


def check() -> Any:
    """Return the class that writes events.

    Raises:
        UserError: tensorboardX is not installed.
    """
    return tensorboard.writer_class()


def _place(subject: Subject) -> str:
    """Return the folder of a trial's events, as `report --tensorboard` names it; "" for the top."""
    if subject.alone or subject.of_table:
        return ""
    table = files.read_json(subject.top / "ablation.json", files.TABLE_HOLDS)["trials"]
    curves_of = [tensorboard.Curve(label_of(each), each["seed"], each["id"]) for each in table]
    names = tensorboard.folder_names(curves_of)
    return next(name for name, each in zip(names, curves_of, strict=True) if each.id == subject.key)
