"""Text that people read: names that may hold anything, and Markdown."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_UNPRINTABLE = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: Any) -> str:
    """`text` without what controls a terminal, breaks a line or turns the direction of reading."""
    return _UNPRINTABLE.sub("�", str(text))


def escaped(text: Any) -> str:
    """`text` as Markdown that shows it as it is, also in a table."""
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", printable(text))


def code(text: Any) -> str:
    """`text` for Markdown between backticks, also in a table."""
    return printable(text).replace("`", "'").replace("|", "/")


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table; cells stand as they are, so that a pipe in one must be escaped."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (heads, *rows)]
    return [lines[0], "|" + " --- |" * len(heads), *lines[1:]]


def pluralize(n: int, noun: str, plural: str | None = None) -> str:
    """`n` with its noun, as in "1 image" and "1,234 images"; `plural` where it is not the noun with an s."""
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"
