"""A user's mistake: one line that names the file or field and says what would be right."""

STOPPED = 75  # exit status of what was asked to stop and has saved: EX_TEMPFAIL of sysexits.h


class UserError(Exception):
    """The command line prints it as one line and exits with status 2."""
