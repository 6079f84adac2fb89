"""What the system refuses now is told apart from what is wrong with a file."""

import errno
import os

import pytest
from helpers.system_errors import TRANSIENT_CODES
from safetensors import SafetensorError

from vidrec import errors
from vidrec.errors import TransientError, UnreadableClip, UserError, is_transient
from vidrec.io import machine, runs


@pytest.mark.parametrize("code", TRANSIENT_CODES)
def test_what_the_system_refuses_is_transient_however_it_is_told(code):
    words = os.strerror(code)
    assert is_transient(OSError(code, words))
    assert is_transient(ValueError(f"FAILED_PRECONDITION: {words} [OS error {code}]"))
    assert is_transient(OSError(f"unable to open file (errno = {code}, error message = '{words}')"))
    assert is_transient(SafetensorError(f"Error while opening: {words}"))
    told = UserError("cannot write it")
    told.__cause__ = OSError(code, words)  # as `raise ... from error` leaves it
    assert is_transient(told)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory"),
        ValueError("checksum"),
        OSError("Truncated file"),
        UserError("cannot read it: Permission denied"),
        UnreadableClip("a.mp4", "no permission to read it"),
        KeyError("a"),
        None,
    ],
)
def test_what_a_file_holds_or_lacks_is_not_transient(error):
    assert not is_transient(error)


def test_a_transient_error_says_what_failed_and_what_to_do():
    line = str(TransientError.of("a.npy", OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
    assert line == (
        "cannot read a.npy now: Too many open files; raise the limit (ulimit -n), then run the "
        "same command again"
    )
    line = str(TransientError.of("a.npy", OSError(errno.EIO, os.strerror(errno.EIO))))
    assert line.endswith("Input/output error; nothing is lost, run the same command again")


def test_folders_that_libraries_cannot_write_to_are_refused_before_the_work(tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    assert errors.printable(odd) == f"{tmp_path}/caf\\xe9"
    assert errors.path_of_printable(errors.printable(odd)) == str(odd)
    errors.check_printable(tmp_path / "café", "the workdir")
    for place in (
        lambda: runs.place_of_run(odd, "mine", "a" * 16),
        lambda: runs.place_of_table(odd, "mine", "a" * 8, []),
        machine.cache_dir,
    ):
        monkeypatch.setenv("VIDREC_CACHE", str(odd))
        with pytest.raises(UserError, match=r"caf\\xe9 is no UTF-8"):
            place()
