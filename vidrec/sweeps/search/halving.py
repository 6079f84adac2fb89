"""Successive halving: after a few epochs only the better part of a round continues."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vidrec.errors import UserError

LEGS = 2  # number of rungs if none are given


class Standing(NamedTuple):
    """A trial's figures on the validation clips, with its best weights so far.

    Attributes:
        accuracy: the figure that the search maximises.
        loss: the loss, which decides between equal accuracies.
    """

    accuracy: float
    loss: float

    @property
    def order(self) -> tuple[float, float]:
        """Return a sort key for trials, best first; NaN comes last."""
        accuracy = -math.inf if math.isnan(self.accuracy) else self.accuracy
        return -accuracy, math.inf if math.isnan(self.loss) else self.loss


def rungs(epochs: int, factor: int, given: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the epochs after which trials are compared and the worse ones stop.

    Args:
        epochs: the number of epochs of a trial that is never stopped.
        factor: one in `factor` of the trials continues at each rung; 0: all trials continue.
        given: the rungs; empty: `epochs` divided by `factor` once, and twice.

    Raises:
        UserError: `given` is not valid, or no rung comes before the last epoch.
    """
    if not factor:
        if given:
            raise UserError(
                "--rungs needs --halving, which says which part of the trials continues"
            )
        return ()
    if given:
        if list(given) != sorted(set(given)) or given[0] < 1 or given[-1] >= epochs:
            raise UserError(
                f"--rungs {' '.join(map(str, given))}: should be epochs that rise, from 1 to less "
                f"than train.epochs = {epochs}"
            )
        return tuple(given)
    found = {max(1, round(epochs / factor**leg)) for leg in range(1, LEGS + 1)}
    found = {rung for rung in found if rung < epochs}
    if not found:
        raise UserError(f"--halving {factor}: train.epochs = {epochs} leaves nothing to stop")
    return tuple(sorted(found))


def kept(trials: int, factor: int, rung: int) -> int:
    """Return how many trials of a round continue after a rung (counted from 0); at least one."""
    return max(1, math.floor(trials / factor ** (rung + 1) + 0.5))


def better_part(standings: dict[int, Standing], count: int) -> set[int]:
    """Return the numbers of the `count` best trials; of equal trials, the earlier ones."""
    ordered = sorted(standings, key=lambda number: (*standings[number].order, number))
    return set(ordered[:count])
