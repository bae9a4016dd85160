"""Errors for people: one sentence that says what is wrong, where, and what to do."""


class LekhaniError(Exception):
    """The work failed; its message is shown as it is and the command exits with `exit_code`."""

    exit_code = 1


class UsageError(LekhaniError):
    """Wrong use or bad input: a key, a label, a file or a path that the user gave."""

    exit_code = 2


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line of at most 300 characters; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
