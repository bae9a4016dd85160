"""Errors for people: one sentence that says what is wrong, where, and what to do."""

import logging
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pydantic import ValidationError

_USERINFO = re.compile(r"""(?<=://)(?:[^\s'"/?#@:]*:[^\s'"]*|[^\s'"/?#@]*)@""")
_NAMES = r"token|passw(?:or)?d|pwd|secret|signature|credential|api_?key|access_?key(?:_?id)?|[?&;](?:key|sig|auth)"
_SECRET = re.compile(rf"""((?:{_NAMES})=)[^\s'"&;]+""", re.IGNORECASE)
# What urllib3 found wrong, at the end of a sentence with the whole address of a request.
_CAUSE = re.compile(r"""\(Caused by \w+\(.*\bport=\d+\): (.+?)\.?["']\)\)$""")
_LONGEST = 300


# Not in what stands between backticks, which is a command.
_OPTION = re.compile(r"(`[^`]*`)|(?<![\w-])--([a-z][a-z-]*)")


class LekhaniError(Exception):
    """The work failed; its message, without secrets, is what people read, and the command exits with `exit_code`.

    A message names choices as the command line does, `--min-confidence`. Everywhere else, where it is turned to text,
    they have the names of Python's arguments, `min_confidence`.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))

    def __str__(self) -> str:
        return _OPTION.sub(lambda found: found[1] or f"`{found[2].replace('-', '_')}`", self.for_command_line)

    @property
    def for_command_line(self) -> str:
        """The message for people who typed a command."""
        return str(self.args[0])


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


def first_line(error: BaseException) -> str:
    """What another library's error says, cut to one line of at most 300 characters; its class where it says nothing.

    Of a connection that failed it is the reason alone.
    """
    if type(error).__module__.startswith("pydantic_core"):
        return first_problem(cast("ValidationError", error))
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    cause = _CAUSE.search(line)
    return _shortened(redacted(cause[1] if cause else line))


def reason(error: BaseException) -> str:
    """As `first_line`; of the system's own errors the reason alone, without number and path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def _shortened(text: str) -> str:
    """At most 300 characters of it, cut between two words."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2].rpartition(' ')[0] or text[: _LONGEST - 2]} …"


def first_problem(error: "ValidationError") -> str:
    """The first thing that pydantic found wrong, as in "`classes.3.label` is -1: input should be ..."."""
    first = error.errors(include_url=False)[0]
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    key = ".".join(" ".join(str(part).split()) for part in first["loc"])[:100]
    if not key or first["type"] == "missing":
        return f"`{key}` is missing" if key else _shortened(message)
    found = " ".join(repr(first["input"]).split())
    return _shortened(redacted(f"`{key}` is {found[:60]}: {message[:1].lower()}{message[1:]}"))


LIBRARIES = {"aiohttp", "botocore", "dvc", "httpx", "httpx2", "huggingface_hub", "kaggle", "mlflow", "prefect"}
LIBRARIES |= {"pygit2", "requests", "sqlalchemy", "urllib3"}


def outside_failure(error: BaseException) -> str | None:
    """A sentence for what the machine or a server did not do, whichever library noticed it; None for a bug."""
    library = type(error).__module__.split(".")[0].removeprefix("_")
    if library == "pygit2" and "not owned" in str(error):
        folder = shlex.quote(str(Path.cwd()))
        trust = f"if you trust it, run `git config --global --add safe.directory {folder}`"
        return f"Git refuses to read this folder, which belongs to another user; {trust}."
    if library in LIBRARIES:
        return f"{library} could not do its part: {first_line(error).rstrip('.')}; see to that and run again."
    if isinstance(error, MemoryError):
        return "There is not enough memory; ask for less at once, or close other programs, and run again."
    if isinstance(error, OSError):
        what = f"{error.strerror or first_line(error)}{f': {error.filename}' if error.filename else ''}"
        return f"{_shortened(redacted(what))}; check the path, the disk and your permissions, and run again."
    return None
