"""EMNIST's mapping: which character each label number stands for, in a file of its own or within a .mat."""

import re
from collections.abc import Sequence

from lekhani.data.archives import Source
from lekhani.errors import LekhaniError

_MAX_BYTES = 1 << 16
_LINE = re.compile(r"\s*(\d{1,4})((?:\s+\d{2,6})+)\s*")  # a label, and the codes of its characters


def glyphs(words: Sequence[str], codes: dict[str, int]) -> list[str] | None:
    """The character of each of `words`, by the codes of labels; None unless every one has a character of its own."""
    found = [chr(codes[word]) for word in words if 32 < codes.get(word, 0) < 0xD800]
    return found if len(set(found)) == len(words) else None


def read(source: Source, texts: Sequence[str]) -> tuple[dict[str, int], str]:
    """The codes of labels in the one of `texts` that is called a mapping, and its name; nothing where there is none."""
    files = [file for file in texts if "mapping" in file.rpartition("/")[2].lower() and source.sizes[file] < _MAX_BYTES]
    try:
        lines = source.read(files[0]).decode().splitlines() if len(files) == 1 else []
    except (LekhaniError, UnicodeDecodeError):
        return {}, ""
    matches = [_LINE.fullmatch(line) for line in lines if line.strip()]
    if not matches or None in matches:
        return {}, ""
    return {str(int(match[1])): int(match[2].split()[0]) for match in matches if match}, files[0]
