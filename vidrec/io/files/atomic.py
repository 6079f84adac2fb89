"""Write files and folders atomically: they appear complete or not at all.

Every file that a user or another command may read is written under a temporary name in its folder,
then renamed. A process that is killed leaves the old file and at most a temporary one. The writer
of a temporary file locks it, so a temporary file whose lock is free has no writer any more. The
next process that writes into the folder removes this file.
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vidrec.errors import UserError

SUMS = "checksums.json"  # file in a folder with the hash of each other file
DAY = 24 * 3600
PARTIAL = re.compile(r"\.vidrec-[0-9a-f]{16}\.partial(\.\w*)?")


@contextlib.contextmanager
def writing(file: str | os.PathLike, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing; it gets its name when the block ends without an error.

    Until then the old file stays. Enter the block before long work, so that a file that cannot be
    written raises an error before the work. Missing parent folders are made; permissions follow the
    umask. A device or a pipe is written to directly.

    Args:
        file: the file to write.
        durable: True to have the content on disk before the file gets its name. If False, a loss of
            power may leave an empty file.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file stays.
    """
    file = Path(file)
    partial = None
    with _os_errors_as_user_errors(file):
        if _is_special(file):
            opened = _open_special(file)
        else:
            file = file.resolve()  # the target of a link, not the link, is replaced
            file.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(file.parent)
            opened, partial = _open_partial(file)
    try:
        with _os_errors_as_user_errors(file, partial), opened:
            yield opened
            opened.flush()
            if partial and durable:
                _to_disk(opened.fileno())
            if partial:
                partial.replace(file)
    except BaseException:
        if partial:
            partial.unlink(missing_ok=True)
        raise
    if partial and durable:
        _sync_folder(file.parent)


def write_whole(file: Path, content: str | bytes, *, durable: bool = True) -> Path:
    """Write a file and missing parent folders; the old file stays until the new one is complete.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file stays.
    """
    with writing(file, durable=durable) as opened:
        # Text that is not UTF-8 is escaped: an error here would lose the result of hours.
        text = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        opened.write(text)
    return Path(file)


def append(file: Path, content: bytes) -> None:
    """Add bytes to the end of a file.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    with _os_errors_as_user_errors(file), open(file, "ab") as opened:
        opened.write(content)


@contextlib.contextmanager
def writing_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder; it gets its name when the block ends without an error.

    An existing folder of this name is replaced as a whole. If it is empty, it may be a mount point,
    so the new files are moved into it, the file of checksums last.

    Raises:
        UserError: the folder cannot be written; the old folder stays.
    """
    folder = Path(folder).resolve()
    with _os_errors_as_user_errors(folder):
        inside = folder.is_dir() and all(PARTIAL.fullmatch(name) for name in os.listdir(folder))
        above = folder if inside else folder.parent
        above.mkdir(parents=True, exist_ok=True)
        _sweep_once(above)
        partial = above / _partial_name("")
        partial.mkdir()
    try:
        with _os_errors_as_user_errors(folder, partial), _locked(partial):
            yield partial
            for entry in sorted(partial.rglob("*")):
                _sync(entry)
            if inside:
                for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == SUMS):
                    entry.rename(folder / entry.name)
            else:
                _replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # the old folder, or an incomplete new one
    _sync_folder(above)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder that only this user can read; it is removed when the block ends.

    Temporary folders of processes that were killed are removed from `parent` first.

    Raises:
        UserError: the folder cannot be made.
    """
    with _os_errors_as_user_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent)
        folder = parent / _partial_name("")
        folder.mkdir(mode=0o700)
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it during the block; the empty file is not removed.

    Raises:
        UserError: the file cannot be made.
    """
    with _os_errors_as_user_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def check_writable(file: str | os.PathLike) -> None:
    """Check before long work that its file can be written; no file is left behind.

    Raises:
        UserError: the file cannot be written.
    """
    file = Path(file)
    with _os_errors_as_user_errors(file):
        if _is_special(file):
            return
        folder = file.resolve().parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"Not a directory: {folder}")
        opened, partial = _open_partial(folder / file.name)
        opened.close()
        partial.unlink()


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in a folder."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if PARTIAL.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_if_left(Path(entry.path))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; the name of its class if it has no text."""
    words = str(error).strip()
    return words.splitlines()[0] if words else type(error).__name__


@contextlib.contextmanager
def _os_errors_as_user_errors(file: Path, partial: Path | None = None) -> Iterator[None]:
    """Raise an error of the system as a UserError of one line.

    Args:
        file: the file that is written, which the error names.
        partial: the temporary file that the block writes. Errors of other files, which the block
            reads, are not changed.
    """
    try:
        yield
    except BrokenPipeError:  # the reader closed the pipe: not a mistake
        raise
    except OSError as error:
        other = error.filename and partial and not str(error.filename).startswith(str(partial))
        if other and not error.filename2:
            raise
        raise UserError(f"cannot write {file}: {error.strerror or first_line(error)}") from error
    except ValueError as error:
        if partial:
            raise
        # A name with a zero byte.
        raise UserError(f"cannot write {str(file)!r}: {first_line(error)}") from error


def _is_special(file: Path) -> bool:
    """Return True for a device or a pipe, which is written to and never replaced."""
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    return not stat.S_ISREG(mode)


def _open_special(file: Path) -> BinaryIO:
    """Open a device or a pipe; a pipe without a reader is an error, so as not to wait for one."""
    try:
        number = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads from it") from None
        raise
    os.set_blocking(number, True)
    return os.fdopen(number, "wb")


def _partial_name(suffix: str) -> str:
    # Does not contain the file's name, which may already have the greatest possible length.
    return f".vidrec-{secrets.token_hex(8)}.partial{suffix}"


def _open_partial(file: Path) -> tuple[BinaryIO, Path]:
    """Open a new temporary file beside `file`, locked as long as it is open."""
    with contextlib.suppress(FileNotFoundError):
        file.lstat()  # raises for a name that is too long
    suffix = file.suffix if re.fullmatch(r"\.\w{1,16}", file.suffix, re.ASCII) else ""
    while True:
        partial = file.with_name(_partial_name(suffix))
        opened = open(os.fspath(partial), "x+b")  # noqa: SIM115 (PyAV wants its name as text)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(opened, fcntl.LOCK_EX)
            if os.fstat(opened.fileno()).st_nlink:  # not removed before it was locked
                return opened, partial
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        opened.close()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@functools.cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def _remove_if_left(partial: Path) -> None:
    """Remove a temporary file or folder that no process is writing."""
    number = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks: decide by age
            if time.time() - os.fstat(number).st_mtime < DAY:
                return
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()
    finally:
        os.close(number)


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        _to_disk(number)
    finally:
        os.close(number)


def _to_disk(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # not a file on a disk
            raise


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        _sync(folder)


def _replace_folder(partial: Path, folder: Path) -> None:
    """Rename the folder `partial` to `folder`; an old one is now `partial`, or removed."""
    try:
        os.rename(partial, folder)  # also replaces an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not _exchange(partial, folder):
        # Not possible in one step here. `sweep` does not remove the old folder's new name.
        old = folder.with_name(f"{folder.name}.old-{secrets.token_hex(4)}")
        os.rename(folder, old)
        os.rename(partial, folder)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; return False if the system or file system cannot."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
