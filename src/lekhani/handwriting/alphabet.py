"""What can be written with a model, and texts as its syllables."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lekhani.data.spec import GlyphClass
from lekhani.errors import UsageError
from lekhani.handwriting.syllables import PUNCTUATION, SIGNS, Syllable, Writing

MAX_GLYPHS = 200  # of a line
SHOWN = 12  # glyphs, at most, that an error lists one by one


@dataclass(frozen=True)
class Alphabet:
    """The glyphs of a model's classes, and unless `learned_only` the signs that a typeface adds to them."""

    classes: tuple[GlyphClass, ...]
    learned_only: bool = False

    def __str__(self) -> str:
        learned = " ".join(self.glyphs)
        if len(self.glyphs) > SHOWN:
            learned = f"{len(self.glyphs)} glyphs such as {' '.join((*self.glyphs[:3], *self.glyphs[-2:]))}"
        vowels = ["vowels and vowel signs"] if self._writing.has_letters else []
        return ", ".join([learned, *vowels, *([] if self.learned_only else ["punctuation"])])

    @cached_property
    def _label(self) -> dict[str, int]:
        return {unicodedata.normalize("NFC", c.glyph): c.label for c in self.classes}

    @cached_property
    def _writing(self) -> Writing:
        return Writing(self._label, not self.learned_only)

    @property
    def glyphs(self) -> tuple[str, ...]:
        """What can be written, in label order, without the space."""
        return tuple(self._label)

    @property
    def marks(self) -> str:
        """The punctuation that can be written and that no class is."""
        return "" if self.learned_only else "".join(mark for mark in PUNCTUATION if mark not in self._label)

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

    def syllables(self, text: str) -> list[Syllable | None]:
        """A `transcript` as syllables, None for each space; raises UsageError naming what cannot be written."""
        pieces = list(self._writing.split(text))
        found = [piece for piece in pieces if not isinstance(piece, str)]
        unknown = dict.fromkeys(piece for piece in pieces if isinstance(piece, str))
        if unknown:
            alone = SIGNS if self._writing.has_letters else ""
            named = ", ".join(f"{_named(one)}{' without its letter' * (one in alone)}" for one in unknown)
            raise UsageError(f"The model cannot write {named} in {shortened(text)!r}; it writes {self}, and spaces.")
        if not found:
            raise UsageError("There is nothing to write: the text is empty.")
        if (count := sum(len(one.parts) if one else 1 for one in found)) > MAX_GLYPHS:
            problem = f"The text {shortened(text)!r} has {count:,} glyphs, and a line holds at most {MAX_GLYPHS}"
            raise UsageError(f"{problem}; break it up.")
        return found

    def drawn(self, text: str) -> list[str]:
        """What a typeface draws of a `transcript`, each once."""
        return drawn_of(self.syllables(text))


def drawn_of(syllables: Iterable[Syllable | None]) -> list[str]:
    """What a typeface draws of syllables, each once."""
    return list(dict.fromkeys(one for syllable in syllables if syllable for one in syllable.drawn))


@lru_cache(8)
def alphabet_of(classes: tuple[GlyphClass, ...], learned_only: bool = False) -> Alphabet:
    """An alphabet, whose tables are made once for all lines."""
    return Alphabet(classes, learned_only)


def shortened(text: str) -> str:
    """At most 60 characters of `text`, for people."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(character: str) -> str:
    if unicodedata.category(character).startswith("M"):
        return f"◌{character} (U+{ord(character):04X})"
    return character if character.isprintable() else f"U+{ord(character):04X}"
