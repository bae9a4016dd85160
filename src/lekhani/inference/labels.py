"""Labels as people name them: a glyph, a class name or a number."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from lekhani.data.spec import GlyphClass
from lekhani.errors import UsageError

MAX_COUNT = 1_000_000_000


def parse_runs(wanted: Sequence[str], classes: Sequence[GlyphClass]) -> list[tuple[int, int]]:
    """`["क=8", "digit_0=2", "36"]` -> pairs (label, count) in the same order.

    Raises UsageError naming the valid labels.
    """
    runs = []
    for entry in wanted:
        what, count = entry.rsplit("=", 1) if "=" in entry else (entry, "1")
        if not re.fullmatch(r"[0-9]{1,10}", count) or not 1 <= int(count) <= MAX_COUNT:
            raise UsageError(f"--label {entry}: the count after = must be a whole number from 1 to {MAX_COUNT:,}.")
        runs.append((label_of(what, classes, f"--label {entry}"), int(count)))
    return runs


def _decimal(text: str) -> str:
    """A single digit of any script as 0 to 9; "" for all else."""
    return str(unicodedata.decimal(text, "")) if len(text) == 1 else ""


def label_of(what: str, classes: Sequence[GlyphClass], where: str) -> int:
    """The label that a glyph, a class name, a digit of any script or a class number means, in this order of precedence.

    Raises UsageError that begins with `where` and names the valid ones.
    """
    by_name: dict[str, int] = {str(c.label): c.label for c in classes}
    by_name |= {value: c.label for c in classes if (value := _decimal(c.glyph))}
    by_name |= {c.name: c.label for c in classes}
    by_name |= {c.glyph: c.label for c in classes}  # last: the glyph 3 is what a person means by "3"
    for meant in (what, _decimal(what)):
        if meant in by_name:
            return by_name[meant]
    close = difflib.get_close_matches(what, by_name, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    glyphs = " ".join(c.glyph for c in classes)
    problem = f"{where}: no such class; {hint}valid are {glyphs}, names such as {classes[0].name},"
    raise UsageError(f"{problem} and 0 to {len(classes) - 1}.")
