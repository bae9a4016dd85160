"""Errors for people: one sentence that says what is wrong, where, and what to do."""


class LekhaniError(Exception):
    """The work failed; its message is shown as it is and the command exits with `exit_code`."""

    exit_code = 1


class UsageError(LekhaniError):
    """Wrong use or bad input: a key, a label, a file or a path that the user gave."""

    exit_code = 2
