"""Errors of the system that say nothing about a file."""

import errno

# Of every kind that errors.TRANSIENT lists, those that reading a file meets.
TRANSIENT_CODES = [
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EACCES),
]
