"""A user's mistake: one line that names the file or field and says what would be right."""

import errno
import os
import re
from collections.abc import Iterator

STOPPED = 75  # exit status of what was asked to stop and has saved: EX_TEMPFAIL of sysexits.h

# What the system refuses now and may grant later; it says nothing about what a file holds.
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EAGAIN", "EBUSY", "EDQUOT", "EHOSTDOWN", "EINTR", "EIO", "EMFILE", "ENFILE"),
        *("ENOBUFS", "ENODEV", "ENOLCK", "ENOMEM", "ENOSPC", "ENOTCONN", "ENXIO", "EPERM"),
        *("EREMOTEIO", "EROFS", "ESTALE", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
)
# Libraries in C++ give the number, or its words, in the text of an error of their own.
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
    """The command line prints it as one line and exits with status 2."""


def spelled(path: str | os.PathLike) -> str:
    r"""Spell a path as text in UTF-8: bytes that are none are written as \xe9 and the like."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unspelled(text: str | os.PathLike) -> str:
    r"""Turn a path as `spelled` into the name that the system knows: \xe9 into that byte."""
    letters = re.compile(rb"\\x([89a-f][0-9a-f])")
    return os.fsdecode(letters.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(text)))


def check_spelling(path: str | os.PathLike, what: str) -> None:
    """Refuse a folder to write to whose path is no UTF-8: libraries cannot, some after the work.

    Raises:
        UserError: it is one.
    """
    if spelled(path) != os.fspath(path):
        raise UserError(f"{what} {spelled(path)} is no UTF-8: name a folder that is")


class UnreadableClip(Exception):
    """A clip of which no frame can be had.

    Attributes:
        path, reason: which file, as `spelled`, and why in plain words.
    """

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(spelled(path), reason)
        self.path, self.reason = self.args

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TransientError(UserError):
    """The system could not do now what may succeed later; nothing is known to be damaged."""

    @classmethod
    def of(cls, what: object, error: BaseException) -> "TransientError":
        """Of the error that reading `what` raised: says why, and what to do."""
        if isinstance(error, cls):
            return error
        return cls(f"cannot read {what} now: {advice(error)}")


def advice(error: BaseException) -> str:
    """Why the system refused, and what to do, in words for people."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    again = "nothing is lost, run the same command again"
    if os.strerror(errno.EMFILE) in reason:
        again = "raise the limit (ulimit -n), then run the same command again"
    return f"{reason.splitlines()[0]}; {again}"


def refusal(error: BaseException) -> str:
    """What the system refused, and what to do, in a line; "" for any other error."""
    if not is_transient(error) and not isinstance(error, MemoryError):
        return ""
    place = getattr(error, "filename", None)
    return f"{place}: {advice(error)}" if place else advice(error)


def raise_if_transient(what: object, error: BaseException) -> None:
    """Raises a TransientError where the system refused to read `what`.

    A missing permission stays with the caller: a clip of which it is known is listed as that.
    """
    if is_transient(error) and not any(isinstance(e, PermissionError) for e in _chain(error)):
        raise TransientError.of(what, error) from error


def is_transient(error: BaseException | None) -> bool:
    """True where the system refused something, and not for what a file holds.

    An error that was raised from such a one is transient too.
    """
    return any(_refused(each) for each in _chain(error))


def _refused(error: BaseException) -> bool:
    if isinstance(error, TransientError):
        return True
    code = getattr(error, "errno", None)
    if isinstance(error, OSError) and isinstance(code, int):
        return code in TRANSIENT
    if isinstance(error, Exception) and not isinstance(error, UserError | UnreadableClip):
        text = str(error)
        numbers = [int(each) for each in _NUMBER.findall(text)]
        return any(n in TRANSIENT for n in numbers) or any(words in text for words in _WORDS)
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
