"""Errors for people: one sentence that says what is wrong, where, and what to do."""

import logging
import re

_USERINFO = re.compile(r"""(?<=://)(?:[^\s'"/?#@:]*:[^\s'"]*|[^\s'"/?#@]*)@""")
_NAMES = r"token|passw(?:or)?d|pwd|secret|signature|credential|api_?key|access_?key(?:_?id)?|[?&;](?:key|sig|auth)"
_SECRET = re.compile(rf"""((?:{_NAMES})=)[^\s'"&;]+""", re.IGNORECASE)


class LekhaniError(Exception):
    """The work failed; its message, without secrets, is what people read, and the command exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class UsageError(LekhaniError):
    """Wrong use or bad input: a key, a label, a file or a path that the user gave."""

    exit_code = 2


class RedactingFormatter(logging.Formatter):
    """Keeps secrets out of what is logged, tracebacks and messages of other libraries included."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        return redacted(super().format(record))


def redacted(text: str) -> str:
    """The text without user and password in URIs, and with *** for the values of passwords, tokens and the like."""
    return _SECRET.sub(r"\1***", _USERINFO.sub("", text))


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line of at most 300 characters; its class where it says nothing."""
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
