"""A text becomes the labels of its glyphs, and an error names what the model cannot write."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lekhani.data import spec
from lekhani.errors import UsageError
from lekhani.handwriting.alphabet import MAX_GLYPHS, SPACE, Alphabet

ALPHABET = Alphabet(spec.DEVANAGARI)


@given(st.lists(st.sampled_from([c.label for c in spec.DEVANAGARI]), min_size=1, max_size=50))
def test_a_text_of_known_glyphs_becomes_their_labels(labels: list[int]) -> None:
    text = " ".join(spec.DEVANAGARI[label].glyph for label in labels)
    assert [label for label in ALPHABET.labels(text) if label != SPACE] == labels
    assert ALPHABET.labels(text).count(SPACE) == len(labels) - 1


def test_a_conjunct_is_one_glyph() -> None:
    names = [spec.DEVANAGARI[label].glyph for label in ALPHABET.labels("क्षक्षज्ञत्रतर")]
    assert names == ["क्ष", "क्ष", "ज्ञ", "त्र", "त", "र"]


def test_texts_are_composed_spaces_are_single_and_digits_of_the_script() -> None:
    assert ALPHABET.transcript("  क \t\n ख\u00a0ग ") == "क ख ग"
    assert ALPHABET.transcript("e\u0301") == "\u00e9"
    assert ALPHABET.transcript("क 42 ४٢") == "क ४२ ४२"
    assert Alphabet(spec.MNIST).transcript("४2") == "42"
    assert Alphabet(spec.DEVANAGARI[:36]).transcript("4") == "4"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Q", r"cannot write Q in 'Q'; it writes 46 glyphs such as क ख ग ८ ९, and spaces\.$"),
        ("कि", r"cannot write ◌ि \(U\+093F\) in 'कि'"),
        ("कb4a4", r"cannot write b, a in 'कb४a४'"),
        ("क\u200dष", r"cannot write U\+200D in"),
        ("\u0958", r"cannot write ◌़ \(U\+093C\) in"),
        ("क्", r"cannot write ◌् \(U\+094D\)"),
        ("", "the text is empty"),
        ("क" * (MAX_GLYPHS + 1), r"'क{57}\.\.\.' has 201 glyphs"),
    ],
)
def test_what_cannot_be_written_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ALPHABET.labels(ALPHABET.transcript(text))


@given(st.text(max_size=30))
def test_any_text_is_written_or_refused(text: str) -> None:
    try:
        labels = ALPHABET.labels(ALPHABET.transcript(text))
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert unicodedata.is_normalized("NFC", ALPHABET.transcript(text))
        assert labels
