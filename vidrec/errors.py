"""A user's mistake: one line that names the file or field and says what would be right."""


class UserError(Exception):
    """The command line prints it as one line and exits with status 2."""
