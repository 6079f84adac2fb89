"""Find tasks: each module here defines one, `TASK` (see `vidrec.evaluation.task`).

A task is imported only when it is needed: the command line's help needs none.
"""

import functools
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vidrec.config import Config
from vidrec.config.schema import TASKS
from vidrec.errors import UserError

if TYPE_CHECKING:
    from vidrec.evaluation.task import Task

__all__ = ["columns", "named", "of", "of_settings"]


def of(cfg: Config) -> "Task":
    """Return the task of a configuration."""
    return named(cfg.task.kind).configured(vars(cfg.task))


@functools.cache
def named(kind: str) -> "Task":
    """Return the task of this name.

    Raises:
        UserError: there is no task of this name, as may happen with a run of another version.
    """
    if kind not in TASKS:
        raise UserError(f"task.kind = {kind!r} should be one of {', '.join(TASKS)}")
    return importlib.import_module(f"{__name__}.{kind}").TASK


def of_settings(settings: Mapping[str, Any]) -> "Task":
    """Return the task of a run by the content of its config.json; without a name, the clip task."""
    own = settings.get("task", {})
    return named(own.get("kind", "clip")).configured(own)


def columns() -> tuple[str, ...]:
    """Return the measured columns that table.csv may have, of all tasks, the clip task first."""
    kinds = sorted(TASKS, key=lambda kind: kind != "clip")
    return tuple(dict.fromkeys(name for kind in kinds for name in named(kind).columns))
