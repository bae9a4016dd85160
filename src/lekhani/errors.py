"""Errors for people: one sentence that says what is wrong, where, and what to do."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pydantic import ValidationError


class LekhaniError(Exception):
    """The work failed; its message is shown as it is and the command exits with `exit_code`."""

    exit_code = 1


class UsageError(LekhaniError):
    """Wrong use or bad input: a key, a label, a file or a path that the user gave."""

    exit_code = 2


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line of at most 300 characters; its class where it says nothing."""
    if type(error).__module__.startswith("pydantic_core"):
        return first_problem(cast("ValidationError", error))
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def first_problem(error: "ValidationError") -> str:
    """The first thing that pydantic found wrong, as in "`classes.3.label` is -1: input should be ..."."""
    first = error.errors(include_url=False)[0]
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    key = ".".join(" ".join(str(part).split()) for part in first["loc"])[:100]
    if not key or first["type"] == "missing":
        return f"`{key}` is missing" if key else message[:300]
    found = " ".join(repr(first["input"]).split())[:60]
    return f"`{key}` is {found}: {message[:1].lower()}{message[1:]}"[:300]
