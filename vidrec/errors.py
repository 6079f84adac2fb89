"""Define errors that are shown as one line, and tell refusals of the system from damaged files."""

import errno
import os
import re
from collections.abc import Iterator

STOPPED = 75  # exit status of a command that was asked to stop and saved its state: EX_TEMPFAIL

# Codes of system errors that may be temporary; they do not mean that a file is damaged.
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EAGAIN", "EBUSY", "EDQUOT", "EHOSTDOWN", "EINTR", "EIO", "EMFILE", "ENFILE"),
        *("ENOBUFS", "ENODEV", "ENOLCK", "ENOMEM", "ENOSPC", "ENOTCONN", "ENXIO", "EPERM"),
        *("EREMOTEIO", "EROFS", "ESTALE", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
)
# C++ libraries raise their own errors, whose text has the system's code or message.
_NUMBER = re.compile(r"\b(?:OS error|errno =|Errno) (\d+)")
_WORDS = [
    os.strerror(code)
    for code in (
        errno.EACCES,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ESTALE,
    )
]


class UserError(Exception):
    """A user's mistake, in one line that names the file or field and says what would be right.

    The command line prints the line and exits with status 2. `TransientError`, a refusal by the
    operating system, ends a command in the same way, so it is a subclass.
    """


def printable(path: str | os.PathLike) -> str:
    r"""Return a path as UTF-8 text; a byte that is not UTF-8 becomes an escape such as \xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def path_of_printable(text: str | os.PathLike) -> str:
    r"""Return the path that `printable` wrote as text; an escape such as \xe9 becomes a byte."""
    letters = re.compile(rb"\\x([89a-f][0-9a-f])")
    return os.fsdecode(letters.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text)))


def check_printable(path: str | os.PathLike, what: str) -> None:
    """Refuse an output folder whose path is not UTF-8, before any work is done.

    Several libraries cannot write to a path that is not UTF-8, and some fail only at the end.

    Args:
        path: The folder.
        what: The name of the folder in the error message, such as "the workdir".

    Raises:
        UserError: The path is not UTF-8.
    """
    if printable(path) != os.fspath(path):
        raise UserError(f"{what} {printable(path)} is no UTF-8: name a folder that is")


class UnreadableClip(Exception):
    """No frame of a clip can be read.

    Attributes:
        path: The clip's file, as `printable` returns it.
        reason: Why no frame can be read, in plain words.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(printable(path), reason)
        self.path, self.reason = self.args

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TransientError(UserError):
    """The system refused an operation that may succeed later; no file is known to be damaged."""

    @classmethod
    def of(cls, what: object, error: BaseException) -> "TransientError":
        """Return the error to raise if reading `what` raised `error`; it says what to do."""
        if isinstance(error, cls):
            return error
        return cls(f"cannot read {what} now: {advice(error)}")


def advice(error: BaseException) -> str:
    """Return why the system refused an operation, and what the user can do."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    again = "nothing is lost, run the same command again"
    if os.strerror(errno.EMFILE) in reason:
        again = "raise the limit (ulimit -n), then run the same command again"
    return f"{reason.splitlines()[0]}; {again}"


def refusal(error: BaseException) -> str:
    """Return one line: what the system refused and what to do; "" for any other error."""
    if not is_transient(error) and not isinstance(error, MemoryError):
        return ""
    file = getattr(error, "filename", None)
    return f"{file}: {advice(error)}" if file else advice(error)


def raise_if_transient(what: object, error: BaseException) -> None:
    """Raise a TransientError if the system refused to read `what`.

    A missing permission raises nothing here: the caller lists the clip as unreadable.

    Args:
        what: The file or folder, for the message.
        error: The error that reading it raised.
    """
    if is_transient(error) and not any(
        isinstance(cause, PermissionError) for cause in _chain(error)
    ):
        raise TransientError.of(what, error) from error


def is_transient(error: BaseException | None) -> bool:
    """Return whether the system, not the content of a file, caused the error.

    An error that was raised from a transient error is transient too.
    """
    return any(_is_refusal(cause) for cause in _chain(error))


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, TransientError):
        return True
    code = getattr(error, "errno", None)
    if isinstance(error, OSError) and isinstance(code, int):
        return code in TRANSIENT
    if isinstance(error, Exception) and not isinstance(error, UserError | UnreadableClip):
        text = str(error)
        numbers = [int(number) for number in _NUMBER.findall(text)]
        return any(n in TRANSIENT for n in numbers) or any(words in text for words in _WORDS)
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
