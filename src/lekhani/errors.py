"""Errors for people: one sentence that says what is wrong, where, and what to do."""


class LekhaniError(Exception):
    """The work failed; its message is shown as it is and the command exits with `exit_code`."""

    exit_code = 1


class UsageError(LekhaniError):
    """Wrong use or bad input: a key, a label, a file or a path that the user gave."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """What another library's error says, cut to one line of at most 300 characters; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


LIBRARIES = {"aiohttp", "botocore", "dvc", "httpx", "httpx2", "huggingface_hub", "kaggle", "mlflow", "prefect"}
LIBRARIES |= {"requests", "sqlalchemy", "urllib3"}


def outside_failure(error: BaseException) -> str | None:
    """A sentence for what the machine or a server did not do, whichever library noticed it; None for a bug."""
    library = type(error).__module__.split(".")[0]
    if library in LIBRARIES:
        return f"{library} could not do its part: {first_line(error).rstrip('.')}; see to that and run again."
    if isinstance(error, MemoryError):
        return "There is not enough memory; ask for less at once, or close other programs, and run again."
    if isinstance(error, OSError):
        what = f"{error.strerror or first_line(error)}{f': {error.filename}' if error.filename else ''}"
        return f"{what[:300]}; check the path, the disk and your permissions, and run again."
    return None
