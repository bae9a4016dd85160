"""Signs that no model has learned stand where they belong, in the stroke of the letters around them."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from typeface import DEVANAGARI, TypefaceGenerator, pen, shape

from lekhani import typefaces
from lekhani.data.spec import GlyphClass
from lekhani.handwriting import signs
from lekhani.handwriting.alphabet import Alphabet
from lekhani.handwriting.layout import DETAIL, Drawn, draw_letters
from lekhani.handwriting.syllables import HALANT, LIGATURES

SIDE = 32 * DETAIL
GLYPHS = {c.glyph: c for c in DEVANAGARI}


def written(text: str, thicker: int = 0, without_signs: bool = False) -> list[Drawn]:
    """The columns of a text; with `thicker`, its letters were written with a broader pen."""
    parts = [part for one in Alphabet(DEVANAGARI).syllables(text) if one for part in one.parts]
    images = [(thick(GLYPHS[part.shape], thicker), GLYPHS[part.shape]) for part in parts if part.label is not None]
    letters = draw_letters(images, np.random.default_rng(1))
    if without_signs:
        return letters
    return [one for one in signs.complete(parts, letters, SIDE, np.random.default_rng(2)) if one]


def thick(known: GlyphClass, by: int) -> Any:
    return ndimage.grey_dilation(shape(known.glyph, 32, "devanagari"), size=1 + by)


def added(text: str) -> Any:
    """Rows and columns of what the signs of a single letter add, in heights and widths of the letter's ink.

    Rows count from its head line, 1 is its lowest ink.
    """
    (plain,), (drawn,) = written(text, without_signs=True), written(text)
    before = np.zeros(drawn.ink.shape, bool)
    before[-drawn.shift :, drawn.over_left :][: len(plain.ink), : plain.ink.shape[1]] = plain.ink > 0.5
    rows, columns = np.nonzero((drawn.ink > 0.5) & ~before)
    assert plain.head
    inked = np.flatnonzero((plain.ink > 0.5).any(1))
    return (rows + drawn.shift - plain.head.row) / (inked[-1] - plain.head.row), (
        columns - drawn.over_left
    ) / plain.ink.shape[1]


@pytest.mark.parametrize("letter", ["न", "क", "र", "घ"])
@pytest.mark.parametrize("sign", ["े", "ै", "ं", "ँ", "reph", "ु", "ू", "ृ", "्", "़"])
def test_signs_above_and_below_touch_the_letter_at_its_stem(letter: str, sign: str) -> None:
    text = f"र्{letter}" if sign == "reph" else letter + sign
    if text in ("रु", "रू", "र्र"):
        return
    rows, columns = added(text)
    is_above = sign in "ेैंँreph"
    assert (rows < 0.1).all() if is_above else (rows > 0.8).all()
    assert (rows.min() < -0.15) if is_above else (rows.max() > 1.15)
    assert -0.4 < columns.min() < columns.max() < 1.5
    if sign in "ेैreph":
        assert rows.max() > -0.12, "it stands on the head line"
    if sign in "ुू":
        assert rows.min() < 1.1, "it hangs at the letter"


@pytest.mark.parametrize("text", ["प्र", "ग्र", "क्र"])
def test_a_stroke_for_ra_lies_left_of_the_stem(text: str) -> None:
    if text[0] not in GLYPHS:
        text = f"म{text[1:]}"
    rows, columns = added(text)
    assert 0.6 < rows.mean() < 1.15
    assert columns.mean() < 0.8


def head_row(one: Drawn) -> float:
    assert one.head
    return one.head.row + one.shift


@pytest.mark.parametrize("text", ["ना", "नी", "नो", "नौ", "नः", "नां"])
def test_signs_after_a_letter_share_its_head_line_and_its_foot(text: str) -> None:
    letter, sign = written(text)
    assert head_row(sign) == pytest.approx(head_row(letter), abs=3)
    assert sign.tight
    assert sign.over_right == 0
    foot = sign.shift + np.flatnonzero((sign.ink > 0.5).any(1))[-1]
    assert foot > 0.6 * SIDE
    if text != "नः":
        assert foot == pytest.approx(np.flatnonzero((letter.ink > 0.5).any(1))[-1], abs=5)
    assert (sign.shift < head_row(sign) - 0.2 * SIDE) == (text not in ("ना", "नः"))


@pytest.mark.parametrize(("text", "letters"), [("नि", 1), ("क्षि", 1), ("न्मि", 2), ("र्घि", 1)])
def test_the_sign_before_reaches_over_to_the_stem(text: str, letters: int) -> None:
    sign, *others = written(text)
    assert len(others) == letters
    assert not sign.tight
    assert head_row(sign) == pytest.approx(head_row(others[-1]), abs=3)
    reach = sign.over_right - sum(one.width for one in others[:-1])
    assert 0.6 * others[-1].width < reach < 1.3 * others[-1].width
    bridge = sign.ink[: int(head_row(sign)) - sign.shift - 4, -sign.over_right : -6]
    assert (bridge > 0.5).any(0).mean() > 0.9, "the hook crosses all that lies between"


def test_a_half_letter_has_no_stem_and_a_head_line_to_the_next() -> None:
    whole, half = written("म", without_signs=True)[0], written("म्न")[0]
    assert half.width < 0.85 * whole.width
    assert half.head
    assert half.head.end == half.width - 1
    right = half.ink[int(head_row(half)) + 8 :, -8:] > 0.5
    assert right.any(1).mean() < 0.5, "the stem is gone"


@pytest.mark.parametrize("thicker", [0, 1, 3])
def test_the_stroke_is_that_of_the_hand(thicker: int) -> None:
    letter, sign = written("ना", thicker)
    expected, found = (signs._stroke_width(one.ink) for one in (letter, sign))
    assert found == pytest.approx(expected, rel=0.25)


def test_every_conjunct_of_the_table_is_one_glyph() -> None:
    font = typefaces.open_font(typefaces.SANS, 100, 100)
    for first, seconds in LIGATURES.items():
        for second in seconds:
            ((glyph, _),) = typefaces.shape(font, first + HALANT + second)
            assert glyph


TEXTS = ["नमन की घर में ।", "आओ ₹ १,२४०.५०", "र्न न्म ज़ रु", "ऐ", "!"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_seed_gives_the_same_picture(text: str) -> None:
    def picture(seed: int) -> bytes:
        signs.glyph.cache_clear()
        return pen().compose(text, seed=seed, augment="none").tobytes()

    assert picture(1) == picture(1)
    assert picture(1) != picture(2)


def test_marks_stand_at_the_height_of_latin_digits() -> None:
    classes = TypefaceGenerator("mnist").classes
    picture = pen("mnist").compose("1,8-0", seed=1, augment="none", height=100)
    assert picture.info == {"text": "1,8-0", "drawn": [",", "-"]}
    parts = [part for one in Alphabet(classes).syllables("8,-") if one for part in one.parts]
    letters = draw_letters([(shape("8", 28, "mnist"), classes[8])], np.random.default_rng(0))
    eight, comma, hyphen = signs.complete(parts, letters, 28 * DETAIL, np.random.default_rng(0))
    assert eight
    assert comma
    assert hyphen
    inked = np.flatnonzero((eight.ink > 0.5).any(1))
    middle = {"comma": comma.shift + len(comma.ink) / 2, "hyphen": hyphen.shift + len(hyphen.ink) / 2}
    assert middle["comma"] == pytest.approx(inked[-1], abs=10)
    assert 0.4 < (middle["hyphen"] - inked[0]) / (inked[-1] - inked[0]) < 0.75
