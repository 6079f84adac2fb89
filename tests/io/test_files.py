"""Files are whole or not there; whatever is wrong with one that is read is a line that names it."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from vidrec.errors import UserError
from vidrec.io import files
from vidrec.io.files import atomic


def left_in(folder):
    return sorted(each.name for each in folder.iterdir() if files.PARTIAL.fullmatch(each.name))


def fail_after(write, content):
    write(content)
    raise RuntimeError("half-way")


def test_until_the_block_ends_the_old_file_stands(tmp_path):
    file = tmp_path / "table.csv"
    files.write_whole(file, "old")
    with files.writing(file) as opened:
        opened.write(b"ne")
        assert file.read_text() == "old"
        opened.write(b"w")
    assert file.read_text() == "new"
    with pytest.raises(RuntimeError, match="half-way"), files.writing(file) as opened:
        fail_after(opened.write, b"half")
    assert file.read_text() == "new"
    assert left_in(tmp_path) == []


def test_errors_of_what_the_block_reads_are_not_called_errors_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError), files.writing(tmp_path / "out") as _:
        (tmp_path / "missing").read_bytes()
    with pytest.raises(ValueError, match="own"), files.writing(tmp_path / "out") as _:
        raise ValueError("own")


def test_permissions_are_as_umask_says(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            files.write_whole(tmp_path / str(mask), "x")
            files.write_arrays(tmp_path / f"{mask}.npz", {"a": np.ones(2)})
            with files.writing_folder(tmp_path / f"{mask}.d") as folder:
                (folder / "x").write_text("x")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / str(mask)).stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / f"{mask}.npz").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / f"{mask}.d").stat().st_mode) == 0o777 & ~mask


def test_a_link_stays_one_and_a_device_is_written_to_not_replaced(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    (tmp_path / "null").symlink_to("/dev/null")
    files.check_writable(tmp_path / "null")
    files.write_whole(tmp_path / "null", "gone")
    assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: nobody reads from it"):
        files.write_whole(tmp_path / "pipe", "x")
    with pytest.raises(UserError, match="pipe is no file"):
        files.read_json(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("there", "it is a folder"),
        ("file/out.csv", "(Not a directory|File exists|.*is no folder)"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null (byte|character)"),
    ],
)
def test_what_cannot_be_written_is_found_out_beforehand(tmp_path, name, reason):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write .*{reason}"):
        files.check_writable(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot write .*{reason}"):
        files.write_whole(tmp_path / name, "x")
    assert left_in(tmp_path) == []


def test_a_folder_of_the_system_is_found_out_beforehand():
    with pytest.raises(UserError, match=r"cannot write /proc/predictions\.csv"):
        files.check_writable("/proc/predictions.csv")


def test_a_check_leaves_nothing_behind(tmp_path):
    files.check_writable(tmp_path / "new" / "folder" / "out.csv")
    assert list(tmp_path.iterdir()) == []
    files.check_writable(tmp_path / ("x" * 250 + ".csv"))
    files.write_whole(tmp_path / ("x" * 250 + ".csv"), "x")


WRITER = """
import sys, time
from pathlib import Path
from vidrec.io import files
with files.writing(Path(sys.argv[1])) as opened, files.writing_folder(Path(sys.argv[2])) as folder:
    opened.write(b"half")
    opened.flush()
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path):
    words = [sys.executable, "-c", WRITER, str(tmp_path / "a.csv"), str(tmp_path / "b")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        files.sweep(tmp_path)
        assert len(left_in(tmp_path)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / ".vidrec-mine.partial").write_text("a user's own")
    assert len(left_in(tmp_path)) == 2
    files.sweep(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".vidrec-mine.partial"]


def test_without_locks_only_what_is_a_day_old_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    new, old = (tmp_path / atomic._partial_name(".npz") for _ in range(2))
    for each in (new, old):
        each.write_text("half")
    os.utime(old, (time.time() - 2 * atomic.DAY,) * 2)
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [new]


def test_threads_may_write_the_same_file(tmp_path):
    file = tmp_path / "one.json"

    def write(number):
        for _ in range(20):
            files.write_json(file, {"a": [number] * 500}, durable=False)
            files.sweep(tmp_path)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for _ in range(50):
        if file.exists():
            assert len(set(files.read_json(file)["a"])) == 1
    for each in threads:
        each.join()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    folder = tmp_path / "exported"
    for text in ("one", "two"):
        with files.writing_folder(folder) as partial:
            (partial / "a" / "b").mkdir(parents=True)
            (partial / "a" / "b" / text).write_text(text)
            assert not (folder / "a" / "b" / text).exists()
        assert [each.name for each in (folder / "a" / "b").iterdir()] == [text]
    with pytest.raises(RuntimeError, match="half-way"), files.writing_folder(folder) as partial:
        fail_after((partial / "three").write_text, "three")
    assert [each.name for each in folder.iterdir()] == ["a"]
    assert [each.name for each in tmp_path.iterdir()] == ["exported"]


def test_names_that_are_no_utf8_are_written_and_read_again(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    files.write_json(tmp_path / "a.json", {"path": name, name: 1})
    assert files.read_json(tmp_path / "a.json") == {"path": "caf\\xe9.mp4", "caf\\xe9.mp4": 1}
    files.write_whole(tmp_path / "a.csv", f"{name},1")
    assert (tmp_path / "a.csv").read_bytes() == b"caf\\udce9.mp4,1"


def test_what_is_written_is_read(tmp_path):
    content = {"b": 1.1, "a": ["ü", None, True, float("inf")], "c": {"checksum": "own"}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json", {"b": float, "a": list}) == content
    files.write_json(tmp_path / "list.json", [1, 2])
    assert files.read_json(tmp_path / "list.json", kind=list) == [1, 2]
    files.write_lines(tmp_path / "a.jsonl", [{"epoch": 1}, {"epoch": 2}])
    files.append_lines(tmp_path / "a.jsonl", [{"epoch": 3}])
    assert [each["epoch"] for each in files.read_lines(tmp_path / "a.jsonl")] == [1, 2, 3]
    arrays = {"x": np.arange(5.0), "words": np.array(["a", "ü"])}
    files.write_arrays(tmp_path / "a.npz", arrays)
    found = files.read_arrays(tmp_path / "a.npz", ["x"])
    assert found.keys() == arrays.keys()
    np.testing.assert_array_equal(found["words"], arrays["words"])


def test_files_of_an_older_version_have_no_checksums_and_are_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert files.read_json(tmp_path / "a.json", ["a"]) == {"a": 1}
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    assert list(files.read_arrays(tmp_path / "a.npz")) == ["x"]


DEEP = "[" * 100_000 + "]" * 100_000
WRONG = {
    "empty": (b"", "damaged or no JSON"),
    "cut": (b'{"id": "a", "b": [1, 2', "damaged or no JSON"),
    "bytes": (b'{"id": "\xff"}', "not UTF-8"),
    "null": (b"null", "should hold an object, not null"),
    "list": (b"[1]", "should hold an object, not a list"),
    "number": (b"7", "should hold an object, not a number"),
    "deep": (DEEP.encode(), "nested too deeply"),
    "deep inside": (b'{"id": ' + DEEP.encode() + b"}", "nested too deeply"),
    "surrogate": (b'{"id": "\\ud800"}', "lone surrogate"),
    "surrogate key": (b'{"id": "a", "\\udfff": 1}', "lone surrogate"),
    "no key": (b'{"di": "a"}', "lacks id"),
    "type": (b'{"id": 7}', "id should not be a number"),
    "number too long": (b'{"id": ' + b"9" * 5000 + b"}", "damaged or no JSON"),
    "zeros": (bytes(200), "damaged or no JSON"),
    "checksum": (b'{"id": "a", "checksum": "0"}', "changed since it was written"),
    "checksum of another type": (b'{"id": "a", "checksum": [1]}', "changed since it was written"),
}


@pytest.mark.parametrize(("content", "reason"), WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_with_a_json_file_is_one_line(tmp_path, content, reason):
    file = tmp_path / "group.json"
    file.write_bytes(content)
    with pytest.raises(files.Damaged, match=reason) as caught:
        files.read_json(file, {"id": str})
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_with_a_line_names_file_and_line(tmp_path, content, reason):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"id": "a"}\n' + content + b'\n{"id": "b"}\n')
    with pytest.raises(files.Damaged, match=f"line 2.*{reason}") as caught:
        files.read_lines(file, {"id": str})
    assert "\n" not in str(caught.value)


def test_a_last_line_cut_short_is_left_out_while_a_file_is_being_written(tmp_path):
    file = tmp_path / "metrics.jsonl"
    files.write_lines(file, [{"epoch": 1}, {"epoch": 2}])
    file.write_bytes(file.read_bytes()[:-3])
    assert files.read_lines(file, whole=False) == [{"epoch": 1}]
    with pytest.raises(files.Damaged, match="line 2: cut short"):
        files.read_lines(file)


class Exploding:
    def __reduce__(self):
        return exec, ("raise SystemError('it was run')",)


def test_whatever_is_wrong_with_arrays_is_one_line(tmp_path):
    file = tmp_path / "samples.npz"
    files.write_arrays(file, {"frames": np.arange(1000), "names": np.array(["a"])})
    whole = file.read_bytes()
    for content in (b"", b"PK", whole[:200], whole[:-60], b"x" * 500, DEEP.encode()):
        file.write_bytes(content)
        with pytest.raises(files.Damaged, match="is damaged or no npz file"):
            files.read_arrays(file)
    np.savez(file, frames=np.array([Exploding()], object))
    with pytest.raises(files.Damaged, match="is damaged or no npz file: Object arrays"):
        files.read_arrays(file)
    np.savez(file, frames=np.ones(3))
    with pytest.raises(files.Damaged, match="the array names is missing"):
        files.read_arrays(file, ["frames", "names"])


def same(found, content):
    return found.keys() == content.keys() and all(
        np.array_equal(found[name], content[name]) for name in content
    )


RECORD = {"id": "abc", "loss": [0.12345, 2.5e-7], "deep": {"a": {"b": "text"}}}
ARRAYS = {"x_logits": np.random.default_rng(3).normal(size=(20, 3)), "x_steps": np.arange(7)}


@pytest.mark.parametrize(
    ("write", "read", "content"),
    [
        (files.write_json, files.read_json, RECORD),
        (files.write_lines, files.read_lines, [RECORD, RECORD | {"id": "d"}]),
        (files.write_arrays, files.read_arrays, ARRAYS),
    ],
    ids=["json", "jsonl", "npz"],
)
def test_no_changed_byte_changes_what_is_read(tmp_path, write, read, content):
    rng = np.random.default_rng(3)
    file = tmp_path / "file"
    write(file, content)
    whole, refused = file.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes(damaged))
        try:
            found = read(file)
        except UserError as error:
            refused += str(file) in str(error)
            continue
        # The name of the checksum is all that may have changed: then nothing else has.
        for each, right in zip(*map(records, (found, content)), strict=True):
            assert all(np.array_equal(each[name], right[name]) for name in right)
            assert len(each) <= len(right) + 1
    assert refused > 0.7 * len(whole)


def records(content):
    return content if isinstance(content, list) else [content]


def test_a_passing_error_of_the_system_is_no_damage(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {})

    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(
        UserError, match=r"cannot read .*a\.json now: Too many open files"
    ) as caught:
        files.read_json(tmp_path / "a.json")
    assert not isinstance(caught.value, files.Damaged)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(files.Missing, match=r"a\.json is missing"):
        files.read_json(tmp_path / "a.json")
