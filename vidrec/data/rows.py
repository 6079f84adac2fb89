"""Read chosen rows of an array in a file, without reading all of the file.

Rows are read, not memory-mapped: if a file is cut short meanwhile, reading raises an error, whereas
access to a mapped page would end the process.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidrec.errors import TransientError, UserError

SPARSE = 4  # rows are read one by one if fewer than one in this many is wanted


class Place(NamedTuple):
    """The position of an array in a file: native byte order, in C order.

    Attributes:
        file: the file that contains it.
        start: position of the array's first byte in the file.
        shape: shape (T, D…) of the array.
        dtype: type of the array's numbers.
    """

    file: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


def read_rows(place: Place, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the rows of these indices (in any order), in the number type of the file.

    Raises:
        UserError: the file is gone, or shorter than the array.
        TransientError: the system refuses to read the file now.
    """
    indices = np.asarray(indices)
    rows = np.empty((len(indices), *place.shape[1:]), place.dtype)
    if not len(indices):
        return rows
    if indices.min() < 0 or indices.max() >= place.shape[0]:
        raise IndexError(f"rows {indices.min()} to {indices.max()} of {place.shape[0]}")
    try:
        with open(place.file, "rb", buffering=0) as file:
            _read(file.fileno(), place, indices, rows)
    except FileNotFoundError:
        raise UserError(f"{place.file} was removed while it was used") from None
    except (OSError, MemoryError) as error:
        raise TransientError.of(place.file, error) from error
    return rows


def _read(file: int, place: Place, indices: np.ndarray, rows: np.ndarray) -> None:
    first, last = int(indices.min()), int(indices.max())
    if np.array_equal(indices, np.arange(first, first + len(indices))):
        _read_span(file, place, first, rows)
    elif last + 1 - first <= SPARSE * len(indices):
        span = np.empty((last + 1 - first, *rows.shape[1:]), rows.dtype)
        _read_span(file, place, first, span)
        np.take(span, indices - first, axis=0, out=rows)
    else:
        for index, row in zip(indices.tolist(), rows, strict=True):
            _read_span(file, place, index, row)


def _read_span(file: int, place: Place, first: int, out: np.ndarray) -> None:
    """Fill `out` with consecutive rows from row `first` on."""
    at = place.start + first * math.prod(place.shape[1:]) * place.dtype.itemsize
    left = out.reshape(-1).view(np.uint8).data
    while left:
        count = os.preadv(file, [left], at)
        if not count:
            raise UserError(f"{place.file} is shorter than it was: it was cut while it was used")
        left, at = left[count:], at + count
