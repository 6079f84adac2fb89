"""Reading ahead: in order, bounded, with errors at their place, and threads that end."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.small_datasets import pixels

from vidrec.data.read_ahead import RESULTS_HELD, map_ahead, stream_ahead, stream_clips
from vidrec.errors import UnreadableClip


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read_ahead"]


def until(condition, seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_order(threads):
    def slow_first(item):
        time.sleep(0.02 * (item % 3 == 0))
        return item * item

    assert list(map_ahead(slow_first, range(20), threads=threads)) == [n * n for n in range(20)]
    assert list(map_ahead(slow_first, [], threads=threads)) == []
    assert until(lambda: not readers())


def test_streams_come_in_order_and_may_be_endless():
    def count(item):
        yield from range(item)

    streams = stream_ahead(count, iter(range(6)), threads=3)
    assert [(item, list(results)) for item, results in streams] == [
        (n, list(range(n))) for n in range(6)
    ]
    endless = iter(lambda: 3, None)
    streams = stream_ahead(count, endless, threads=2)
    assert next(streams)[0] == 3
    streams.close()
    assert until(lambda: not readers())


def test_memory_is_bounded():
    made, lock = [], threading.Lock()

    def stream(item):
        for part in range(50):
            with lock:
                made.append((item, part))
            yield part

    drawn = []
    items = (drawn.append(n) or n for n in range(1000))
    streams = stream_ahead(stream, items, threads=3, ahead=4)
    next(streams)
    # Nobody takes results: each thread holds one more than may wait, and asks for no further item.
    assert until(lambda: len(made) == 3 * (RESULTS_HELD + 1))
    time.sleep(0.05)
    assert len(made) == 3 * (RESULTS_HELD + 1)
    assert len(drawn) == 1 + 4
    streams.close()
    assert until(lambda: not readers())
    assert len(made) <= 3 * (RESULTS_HELD + 2)


def test_one_result_does_not_wait_for_another_item():
    """Two items are read at the same time, or neither would end."""
    both = threading.Barrier(2, timeout=10)
    assert len(list(map_ahead(lambda item: both.wait(), range(8), threads=2))) == 8


def test_an_error_comes_at_its_place_and_names_its_item():
    def read(item):
        if item == 2:
            raise KeyError("no such frame")
        return item

    results = map_ahead(read, range(9), threads=3, name=lambda item: f"clip_{item}.avi")
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="no such frame") as caught:
        next(results)
    assert caught.value.__notes__ == ["while reading clip_2.avi"]
    assert until(lambda: not readers())


def test_a_stream_that_fails_gives_what_came_before():
    def stream(item):
        yield "whole"
        if item == 1:
            raise OSError("damaged")

    seen = []
    for item, results in stream_ahead(stream, range(3), threads=2):
        try:
            seen += [(item, result) for result in results]
        except OSError as error:
            seen.append((item, str(error)))
    assert seen == [(0, "whole"), (1, "damaged"), (2, "whole")]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_whatever_ends_a_thread_reaches_the_consumer(end):
    def read(item):
        raise end

    with pytest.raises(end):
        next(map_ahead(read, [0], threads=1))


def test_results_that_are_left_stop_nobody():
    ended = []

    def stream(item):
        try:
            yield from range(100)
        finally:
            ended.append(item)

    firsts = [next(results) for _, results in stream_ahead(stream, range(20), threads=2)]
    assert firsts == [0] * 20
    assert until(lambda: len(ended) == 20 and not readers())


def test_threads_end_when_the_consumer_drops_the_iterator():
    started = []

    def stream(item):
        started.append(item)
        while True:
            yield item

    streams = stream_ahead(stream, range(100), threads=3)
    _, results = next(streams)
    assert next(results) == 0
    assert len(readers()) == 3
    del streams, results
    assert until(lambda: not readers())
    assert len(started) <= 4


def test_an_iterator_that_is_still_held_does_not_keep_python_from_ending():
    script = (
        "from vidrec.data.read_ahead import stream_ahead\n"
        "streams = stream_ahead(lambda item: iter(int, 1), range(9), threads=2)\n"
        "next(streams); print('left')"
    )
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"left\n")


def test_clips_come_whole_and_those_without_frames_are_named(monkeypatch):
    dataset = pixels(clips=7, broken=(3,))
    whole = dataset.stream
    monkeypatch.setattr(
        dataset, "stream", lambda clip, size: iter(()) if clip == 5 else whole(clip, size)
    )
    found, reasons = {}, {}
    for clip, chunks in stream_clips(dataset, range(7), 8, threads=2):
        try:
            found[clip] = np.concatenate(list(chunks))
        except UnreadableClip as error:
            reasons[clip] = (error.path, error.reason)
    assert reasons == {3: ("clip_003", "is empty"), 5: ("clip_005", "holds no frame")}
    assert list(found) == [0, 1, 2, 4, 6]
    for clip, frames in found.items():
        np.testing.assert_array_equal(frames, dataset.arrays[clip])
