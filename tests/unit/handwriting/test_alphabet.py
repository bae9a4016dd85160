"""A text becomes syllables of learned letters and drawn signs, and an error names what cannot be written."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lekhani.data import spec
from lekhani.errors import UsageError
from lekhani.handwriting.alphabet import MAX_GLYPHS, Alphabet

ALPHABET = Alphabet(spec.DEVANAGARI)
LEARNED = Alphabet(spec.DEVANAGARI, learned_only=True)


def spelled(text: str) -> str:
    """The parts of a text from left to right: letters of the model as they are, [what a typeface draws], half-."""
    words = []
    for syllable in ALPHABET.syllables(ALPHABET.transcript(text)):
        for part in syllable.parts if syllable else ():
            learned = "" if part.label is None else spec.DEVANAGARI[part.label].glyph + "-" * (part.kind == "half")
            words.append(learned + (f"[{' '.join(part.drawn)}]" if part.drawn else ""))
    return " ".join(words)


@given(st.lists(st.sampled_from([c.label for c in spec.DEVANAGARI]), min_size=1, max_size=50))
def test_a_text_of_known_glyphs_becomes_their_labels(labels: list[int]) -> None:
    text = " ".join(spec.DEVANAGARI[label].glyph for label in labels)
    for alphabet in (ALPHABET, LEARNED):
        found = alphabet.syllables(text)
        assert [one.parts[0].label for one in found if one] == labels
        assert found.count(None) == len(labels) - 1
        assert alphabet.drawn(text) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("क्षक्षज्ञत्रतर", "क्ष क्ष ज्ञ त्र त र"),
        ("नमस्ते", "न म स- त[े]"),
        ("है।", "ह[ै] [।]"),
        ("काठमाडौं", "क [ा] ठ म [ा] ड [ौ ं]"),
        ("विद्यालय", "[ि] व [द्य] [ा] ल य"),
        ("प्रेम", "प[्र े] म"),
        ("स्थिति", "[ि] स- थ [ि] त"),
        ("राष्ट्र", "र [ा] ष- ट[्र]"),
        ("कर्म कर्ता", "क म[र्] क त [र् ा]"),
        ("गर्\u200dयो", "ग [र्] य [ो]"),
        ("बड़ा", "ब ड[़] [ा]"),
        ("रुद्", "र[ु] द[्]"),
        ("छ्मि", "छ[्] [ि] म"),
        ("सत्\u200cय", "स त[्] य"),
        ("आँख दुःख", "[आँ] ख द[ु] [ः] ख"),
        ("₹ 1,250", "[₹] १ [,] २ ५ ०"),
    ],
)
def test_what_is_learned_and_what_is_drawn(text: str, parts: str) -> None:
    assert spelled(text) == parts
    syllables = ALPHABET.syllables(ALPHABET.transcript(text))
    assert "".join(one.text if one else " " for one in syllables) == ALPHABET.transcript(text)


def test_the_models_own_classes_come_before_what_is_drawn() -> None:
    classes = tuple(spec.GlyphClass(i, f"{i}", glyph) for i, glyph in enumerate(["क", "कि", "आ", "द्य", "।"]))
    text = "किआद्य।"
    assert Alphabet(classes).drawn(text) == []
    assert [one.parts[0].label for one in Alphabet(classes).syllables(text) if one] == [1, 2, 3, 4]


def test_texts_are_composed_spaces_are_single_and_digits_of_the_script() -> None:
    assert ALPHABET.transcript("  क \t\n ख\u00a0ग ") == "क ख ग"
    assert ALPHABET.transcript("e\u0301") == "\u00e9"
    assert ALPHABET.transcript("क 42 ४٢") == "क ४२ ४२"
    assert Alphabet(spec.MNIST).transcript("४2") == "42"
    assert Alphabet(spec.DEVANAGARI[:36]).transcript("4") == "4"


SIGNS = "vowels and vowel signs, punctuation"


@pytest.mark.parametrize(
    ("alphabet", "text", "named"),
    [
        (ALPHABET, "Q", rf"cannot write Q in 'Q'; it writes 46 glyphs such as क ख ग ८ ९, {SIGNS}, and spaces\.$"),
        (ALPHABET, "िक", r"cannot write ◌ि \(U\+093F\) without its letter in 'िक'"),
        (ALPHABET, "कb4a4", r"cannot write b, a in 'कb४a४'"),
        (ALPHABET, "क\u200dष", r"cannot write U\+200D in"),
        (ALPHABET, "काे", r"cannot write ◌े \(U\+0947\)"),
        (ALPHABET, "४ि", r"cannot write ◌ि"),
        (ALPHABET, "\U0001f600", "cannot write \U0001f600"),
        (ALPHABET, "", "the text is empty"),
        (ALPHABET, "क" * (MAX_GLYPHS + 1), r"'क{57}\.\.\.' has 201 glyphs"),
        (ALPHABET, "का" * MAX_GLYPHS, r"has 400 glyphs"),
        (LEARNED, "कि।", r"cannot write ◌ि \(U\+093F\), । in 'कि।'; it writes 46 glyphs such as क ख ग ८ ९, and spaces"),
        (LEARNED, "क्", r"cannot write ◌् \(U\+094D\)"),
        (Alphabet(spec.MNIST), "1क", "cannot write क in '1क'; it writes 0 1 2 3 4 5 6 7 8 9, punctuation, and spaces"),
        (Alphabet(spec.MNIST), "आ", "cannot write आ"),
    ],
)
def test_what_cannot_be_written_is_named(alphabet: Alphabet, text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        alphabet.syllables(alphabet.transcript(text))


@given(st.text(max_size=30) | st.text("कतरद्िाुंः़\u200d\u200c आ।4", max_size=12))
def test_any_text_is_written_or_refused(text: str) -> None:
    transcript = ALPHABET.transcript(text)
    try:
        syllables = ALPHABET.syllables(transcript)
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert unicodedata.is_normalized("NFC", transcript)
        assert "".join(one.text if one else " " for one in syllables) == transcript
