"""What a model can write, and texts as its labels."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from lekhani.data.spec import GlyphClass
from lekhani.errors import UsageError

MAX_GLYPHS = 200  # of a line
SPACE = -1  # stands for a space among labels
SHOWN = 12  # glyphs, at most, that an error lists one by one


@dataclass(frozen=True)
class Alphabet:
    """The glyphs of a model's classes."""

    classes: tuple[GlyphClass, ...]

    def __str__(self) -> str:
        if len(self.glyphs) <= SHOWN:
            return " ".join(self.glyphs)
        return f"{len(self.glyphs)} glyphs such as {' '.join((*self.glyphs[:3], *self.glyphs[-2:]))}"

    @cached_property
    def _label(self) -> dict[str, int]:
        return {unicodedata.normalize("NFC", c.glyph): c.label for c in self.classes}

    @cached_property
    def _pieces(self) -> re.Pattern[str]:
        longest_first = sorted(self._label, key=len, reverse=True)  # the class ज्ञ comes before ज
        return re.compile("|".join(map(re.escape, [*longest_first, " "])))

    @property
    def glyphs(self) -> tuple[str, ...]:
        """What can be written, in label order, without the space."""
        return tuple(self._label)

    @cached_property
    def _digits(self) -> dict[int, str]:
        return {unicodedata.digit(glyph): glyph for glyph in self.glyphs if len(glyph) == 1 and glyph.isdecimal()}

    def transcript(self, text: str) -> str:
        """`text` as it will stand in transcripts: in NFC, with single spaces between words and none at the ends.

        A digit of another script than the model's becomes the model's: 42 is written as ४२.
        """
        words = " ".join(unicodedata.normalize("NFC", text).split())
        return "".join(
            self._digits.get(unicodedata.digit(one), one) if one.isdecimal() and one not in self._label else one
            for one in words
        )

    def labels(self, text: str) -> list[int]:
        """The labels of a `transcript`, with SPACE for each space; raises UsageError naming what cannot be written."""
        found: list[int] = []
        unknown: dict[str, None] = {}
        place = 0
        while place < len(text):
            piece = self._pieces.match(text, place)
            if piece is None:
                unknown[text[place]] = None
                place += 1
            else:
                found.append(self._label.get(piece.group(), SPACE))
                place = piece.end()
        if unknown:
            named = ", ".join(map(_named, unknown))
            raise UsageError(f"The model cannot write {named} in {shortened(text)!r}; it writes {self}, and spaces.")
        if not found:
            raise UsageError("There is nothing to write: the text is empty.")
        if len(found) > MAX_GLYPHS:
            problem = f"The text {shortened(text)!r} has {len(found):,} glyphs, and a line holds at most {MAX_GLYPHS}"
            raise UsageError(f"{problem}; break it up.")
        return found


def shortened(text: str) -> str:
    """At most 60 characters of `text`, for people."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(character: str) -> str:
    if unicodedata.category(character).startswith("M"):
        return f"◌{character} (U+{ord(character):04X})"
    return character if character.isprintable() else f"U+{ord(character):04X}"
