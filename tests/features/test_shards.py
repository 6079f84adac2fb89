"""Shards hold arrays whole or not at all, whoever is killed, and whatever is flipped or refused."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers.system_errors import TRANSIENT_CODES

from vidrec.errors import TransientError, UserError
from vidrec.features import shards
from vidrec.features.shards import Shards


def array_of(number):
    """An array that its number alone decides."""
    rng = np.random.default_rng(number)
    return rng.normal(size=(1 + number % 4, 3)).astype(np.float32)


def filled(folder, numbers=range(6)):
    made = Shards(folder)
    for number in numbers:
        made.put(f"key{number}", array_of(number), f"note {number}" if number % 2 else "")
    made.close()
    return Shards(folder)


def right(found, number):
    there = found.get(f"key{number}")
    return there is not None and np.array_equal(there, array_of(number))


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def test_arrays_come_back_with_their_notes(tmp_path):
    found = filled(tmp_path)
    assert found.keys() == {f"key{number}" for number in range(6)}
    assert all(right(found, number) for number in range(6))
    assert [found.entry(f"key{number}").note for number in (2, 3)] == ["", "note 3"]
    assert found.get("key6") is None
    assert found.entry("key6") is None


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.uint8])
def test_an_array_is_what_its_line_says_as_a_memory_map(tmp_path, dtype):
    made = Shards(tmp_path)
    there = {f"key{n}": np.arange(n, n + 30).reshape(5, 2, 3).astype(dtype) for n in range(3)}
    for key, array in there.items():
        made.put(key, array[::-1])  # not contiguous
    [index] = tmp_path.glob("*.index")
    for line in index.read_text().splitlines():
        told = json.loads(line.partition(" ")[2])
        kind = np.dtype(getattr(ml_dtypes, told["dtype"], told["dtype"]))
        file = index.with_suffix(".arrays")
        mapped = np.memmap(file, kind, "r", told["start"], tuple(told["shape"]))
        assert np.array_equal(mapped, there[told["key"]][::-1])
        assert told["start"] % shards.ALIGNMENT == 0
        back = made.get(told["key"])
        assert back.dtype == dtype
        assert np.array_equal(back, mapped)


def test_two_shards_serve_two_writers_and_a_later_one_goes_on_with_the_first(tmp_path):
    one, two = Shards(tmp_path), Shards(tmp_path)
    one.put("key0", array_of(0))
    two.put("key1", array_of(1))
    two.put("key0", array_of(0))  # is there
    one.put("key2", array_of(2))
    assert len(list(tmp_path.glob("*.arrays"))) == 2
    one.close()
    three = Shards(tmp_path)
    three.put("key3", array_of(3))
    assert len(list(tmp_path.glob("*.arrays"))) == 2
    assert all(right(two, number) for number in range(4))
    lines = b"".join(file.read_bytes() for file in tmp_path.glob("*.index")).splitlines()
    assert len(lines) == 4


def test_a_large_shard_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 64)
    for number in range(4):
        filled(tmp_path, [number])
    assert len(list(tmp_path.glob("*.arrays"))) > 1
    assert all(right(Shards(tmp_path), number) for number in range(4))


def test_without_locks_each_writer_has_a_shard_of_its_own(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(shards.fcntl, "flock", refuse)
    one, two = Shards(tmp_path), Shards(tmp_path)
    for number in range(4):
        (one, two)[number % 2].put(f"key{number}", array_of(number))
    assert len([file for file in tmp_path.glob("*.arrays") if file.stat().st_size]) == 2
    assert all(right(Shards(tmp_path), number) for number in range(4))


def test_a_flipped_bit_anywhere_never_gives_another_array(tmp_path):
    filled(tmp_path, range(3))
    whole = files(tmp_path)
    for name, content in whole.items():
        for place in range(len(content)):
            harmed = bytearray(content)
            harmed[place] ^= 1 << place % 8
            (tmp_path / name).write_bytes(harmed)
            found = Shards(tmp_path)
            missing = [n for n in range(3) if found.get(f"key{n}") is None]
            assert len(missing) <= 2  # a line break that is none harms two lines
            assert all(right(found, n) for n in range(3) if n not in missing)
            assert found.keys() <= {f"key{n}" for n in range(3)}
        (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize("ending", ["arrays", "index"])
def test_a_kill_at_any_byte_costs_the_array_that_was_being_written(tmp_path, ending):
    filled(tmp_path, range(3))
    [file] = tmp_path.glob(f"*.{ending}")
    whole = files(tmp_path)
    last = len(whole[file.name])
    for cut in range(0, last, 7):
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)
        os.truncate(file, cut)
        found = Shards(tmp_path)
        assert all(found.get(f"key{n}") is None or right(found, n) for n in range(3))
        for number in range(4):
            found.put(f"key{number}", array_of(number), "again")
        found.close()
        again = Shards(tmp_path)
        assert all(right(again, number) for number in range(4)), cut
        if ending == "index":  # nothing that was there is written over
            arrays = file.with_suffix(".arrays").name
            assert files(tmp_path)[arrays].startswith(whole[arrays])


def test_an_array_of_which_the_line_is_half_written_is_not_there_yet(tmp_path):
    filled(tmp_path, range(2))
    [index] = tmp_path.glob("*.index")
    content = index.read_bytes()
    index.write_bytes(content[:-1])
    found = Shards(tmp_path)
    assert found.keys() == {"key0"}
    index.write_bytes(content)
    assert found.keys() == {"key0", "key1"}
    assert right(found, 1)


@pytest.mark.parametrize("code", TRANSIENT_CODES)
@pytest.mark.parametrize("name", ["open", "listdir"])
def test_what_the_system_refuses_is_raised_and_costs_nothing(tmp_path, monkeypatch, code, name):
    filled(tmp_path)
    before = files(tmp_path)
    place = shards.os if name == "listdir" else shards

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    found = Shards(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, refuse, raising=False)
        with pytest.raises(TransientError, match=os.strerror(code)):
            found.get("key1")
    assert right(found, 1)
    assert files(tmp_path) == before


def test_an_error_while_reading_is_raised_and_the_array_stays(tmp_path, monkeypatch):
    found = filled(tmp_path)
    assert found.keys()

    class Failing:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def seek(self, *_): ...
        def readinto(self, _):
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "open", Failing, raising=False)
        with pytest.raises(TransientError, match="Input/output error; nothing is lost"):
            found.get("key1")
    assert right(found, 1)


def test_no_descriptor_is_kept_by_arrays(tmp_path):
    found = filled(tmp_path, range(300))
    before = len(os.listdir("/proc/self/fd"))
    held = [found.get(f"key{number}") for number in range(300)]
    assert all(each is not None for each in held)
    assert len(os.listdir("/proc/self/fd")) == before


def test_too_many_open_files_harm_nothing(tmp_path):
    found = filled(tmp_path)
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(tmp_path, os.O_RDONLY))
        with pytest.raises(TransientError, match=r"Too many open files; raise the limit"):
            found.get("key1")
        with pytest.raises(UserError, match="Too many open files"):
            found.put("key9", array_of(9))
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert all(right(found, number) for number in range(6))
    assert files(tmp_path) == before


def test_what_a_full_disk_cut_short_is_taken_back(tmp_path, monkeypatch):
    made = filled(tmp_path)
    before, write = files(tmp_path), shards._write

    def short(file, *parts):
        write(file, parts[-1][:5])
        raise OSError(28, "No space left on device")

    for ending in ("arrays", "index"):
        with monkeypatch.context() as patch:
            patch.setattr(
                shards,
                "_write",
                lambda f, *p, e=ending: (short if f.name.endswith(e) else write)(f, *p),
            )
            with pytest.raises(UserError, match="No space left on device"):
                made.put("key9", array_of(9))
        assert files(tmp_path) == before
    made.put("key9", array_of(9))
    assert right(Shards(tmp_path), 9)


WRITES = """
    import sys
    sys.path[:0] = {path!r}
    from test_shards import array_of
    from vidrec.features.shards import Shards
    made = Shards(sys.argv[1])
    print("begun", flush=True)
    for number in range(int(sys.argv[2])):
        made.put(f"key{{number}}", array_of(number))
"""


def writes(folder, count):
    here = Path(__file__).parent
    code = textwrap.dedent(WRITES).format(path=[str(here), str(here.parent)])
    command = [sys.executable, "-c", code, str(folder), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_readers_see_whole_arrays_while_writers_are_killed(tmp_path):
    found = Shards(tmp_path)
    for round_ in range(6):
        two = [writes(tmp_path, 100_000) for _ in range(2)]
        for each in two:
            assert each.stdout.readline() == "begun\n"
        goal = len(found.keys()) + 50
        # Until both hold a shard, too: one that is late would be killed before it has any.
        while len(keys := found.keys()) < goal or len(list(tmp_path.glob("*.arrays"))) < 2:
            assert all(each.poll() is None for each in two)
        for key in sorted(keys)[:: 1 + round_]:
            assert right(found, int(key.removeprefix("key"))), key
        for each in two:
            each.send_signal(signal.SIGKILL)
            each.communicate()
    again = Shards(tmp_path)
    there = again.keys()
    assert there >= keys
    assert all(right(again, int(key.removeprefix("key"))) for key in there)
    assert len(list(tmp_path.glob("*.arrays"))) == 2  # each writer went on with one of the two
