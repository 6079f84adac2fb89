"""Read ahead with threads: in order, with bounded memory.

All reading of clips goes through `stream_ahead`: threads work on the next items while the consumer
uses the current one. It suits work that releases the interpreter lock: decoding, hashing, drawing.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from vidrec.errors import UnreadableClip
from vidrec.io.machine import cores

if TYPE_CHECKING:
    from vidrec.data.datasets.base import Dataset

Item = TypeVar("Item")
Result = TypeVar("Result")
DECODERS = 4  # largest number of threads that decode; each holds several chunks of frames
RESULTS_HELD = 2  # results of one item that are ready before its thread waits for the consumer


def decoders() -> int:
    """Return how many threads decode whole clips: one for each core, up to four."""
    return min(DECODERS, cores())


def stream_ahead(
    stream: Callable[[Item], Iterable[Result]],
    items: Iterable[Item],
    *,
    threads: int | None = None,
    ahead: int | None = None,
    name: Callable[[Item], str] = str,
) -> Iterator[tuple[Item, Iterator[Result]]]:
    """Run `stream` on items in threads and yield their results in the order of the items.

    At most `RESULTS_HELD` results of an item wait, and one more is being made. The threads end when
    the consumer closes the iterator or drops it.

    Args:
        stream: yields the results of an item one after another; runs in a thread.
        items: the items, taken from the iterable when they are needed.
        threads: number of threads; by default one for each core.
        ahead: number of items started before the current one is finished; by default two a thread.
        name: returns the name of an item, for the note on an exception.

    Yields:
        An item and its results. Results that are not taken before the next item are dropped.

    Raises:
        Exception: what `stream` raises, when the item's results are read; a note names the item.
    """
    threads = threads or cores()
    ahead = 2 * threads if ahead is None else ahead
    todo: queue.SimpleQueue[_Lane | None] = queue.SimpleQueue()
    waiting: deque[_Lane] = deque()

    def work() -> None:
        while lane := todo.get():
            lane.fill(stream, name)

    # Daemons, so that an iterator that is still referenced does not keep Python from exiting.
    for _ in range(threads):
        threading.Thread(target=work, daemon=True, name="read_ahead").start()
    items = iter(items)
    try:
        while True:
            for item in islice(items, 1 + ahead - len(waiting)):
                waiting.append(_Lane(item))
                todo.put(waiting[-1])
            if not waiting:
                return
            yield waiting[0].item, waiting[0].results()
            waiting.popleft().leave()
    finally:
        for lane in waiting:
            lane.leave()
        for _ in range(threads):
            todo.put(None)


def map_ahead(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int | None = None,
    ahead: int | None = None,
    name: Callable[[Item], str] = str,
) -> Iterator[Result]:
    """Yield `read(item)` for each item, in order; see `stream_ahead`."""
    streams = stream_ahead(
        lambda item: (read(item),), items, threads=threads, ahead=ahead, name=name
    )
    with contextlib.closing(streams):  # type: ignore[type-var]
        for _, results in streams:
            yield from results


def map_clips(
    read: "Callable[[Dataset, int], Result]",
    dataset: "Dataset",
    progress: Callable[[int, int], None] | None,
    threads: int,
) -> Iterator[Result]:
    """Yield `read(dataset, clip)` for every clip, in order; tell `progress` how many are done."""
    clips = range(len(dataset))
    results = map_ahead(partial(read, dataset), clips, threads=threads, name=dataset.path)
    for done, result in enumerate(results, 1):
        if progress:
            progress(done, len(dataset))
        yield result


def stream_clips(
    dataset: "Dataset", clips: Sequence[int], size: int, threads: int | None = None
) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Yield clips with their frames, decoded ahead.

    Args:
        dataset: holds the clips.
        clips: indices, in the order in which they are yielded.
        size: height and width of frames.
        threads: the number of threads that decode; by default `decoders()`.

    Yields:
        The clip's index and its frames in chunks, uint8 (t, size, size, 3).

    Raises:
        UnreadableClip: a clip cannot be read or holds no frame; raised when its chunks are read.
    """

    def stream(clip: int) -> Iterator[np.ndarray]:
        frames = 0
        for chunk in dataset.stream(clip, size):
            frames += len(chunk)
            yield chunk
        if not frames:
            raise UnreadableClip(dataset.path(clip), "holds no frame")

    return stream_ahead(stream, clips, threads=threads or decoders(), name=dataset.path)


class _Failed(NamedTuple):
    error: BaseException


_END = object()


class _Lane(Generic[Item]):
    """The results of one item, between the thread that makes them and the consumer."""

    def __init__(self, item: Item):
        self.item = item
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(RESULTS_HELD)
        self._is_left = False

    def fill(self, stream: Callable[[Item], Iterable[Result]], name: Callable[[Item], str]) -> None:
        """Put results into the queue until the consumer leaves the item."""
        if self._is_left:
            return
        try:
            for result in stream(self.item):
                self._room.acquire()
                if self._is_left:
                    return
                self._results.put(result)
            self._results.put(_END)
        except BaseException as error:  # otherwise the consumer would wait forever
            error.add_note(f"while reading {name(self.item)}")
            self._results.put(_Failed(error))

    def results(self) -> Iterator[Any]:
        """Yield results as they come; raise what the thread raised."""
        while (result := self._results.get()) is not _END:
            if isinstance(result, _Failed):
                raise result.error
            self._room.release()
            yield result

    def leave(self) -> None:
        """Stop taking results; a thread that waits for room then ends its work on this item."""
        self._is_left = True
        self._room.release()
