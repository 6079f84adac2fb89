"""Report which clips of a prepared data set are left out, and whether features stay on disk."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from vidrec.io.words import are, some

if TYPE_CHECKING:
    from vidrec.training.prepare import Prepared


def announced(data: "Prepared", room: float, tell: Callable[[str], None]) -> "Prepared":
    """Report clips that are left out and features that stay on disk; return the data unchanged.

    Args:
        data: The prepared data.
        room: Bytes of memory that features may take.
        tell: Called with each line.
    """
    if data.unreadable:
        tell(_left_out(data))
    if data.on_disk:
        tell(
            f"features take {data.on_disk.nbytes / 1e9:.3g} GB and memory has {room / 1e9:.3g} for "
            "them: they are read from disk while training"
        )
    return data


def _left_out(data: "Prepared") -> str:
    """Name the clips that cannot be read, and count the clips of each part that can."""
    number = len(data.unreadable)
    names = some(f"{clip.path} ({clip.reason})" for clip in data.unreadable)
    used = ", ".join(f"{count['scored']} {part}" for part, count in data.counts().items())
    clips = f"{number} of {len(data.dataset)} clips cannot be read and {are(number)} left out"
    return f"{clips}: {names}; used are {used}"
