"""Texts drawn from patterns match them, and hold only what the model writes."""

import re
import unicodedata
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lekhani.data.spec import DEVANAGARI, MNIST
from lekhani.errors import UsageError
from lekhani.handwriting.alphabet import Alphabet
from lekhani.handwriting.patterns import MAX_REPEATS, NAMED, parse_pattern

ALPHABET = Alphabet(DEVANAGARI)
TEXTS = ["966857", "80", "03 12 1948", "67148 33272"]  # of NAMED, in order, with seed 7


def drawn(pattern: str, alphabet: Alphabet = ALPHABET, times: int = 200) -> set[str]:
    rng = np.random.default_rng(0)
    sample = parse_pattern(pattern, alphabet)
    return {sample(rng) for _ in range(times)}


@pytest.mark.parametrize(
    "expression",
    [
        r"[०-९]{6}",
        r"\d{3} ?\d{3}",
        r"(कमल|जल)+",
        r"क्ष[०-२]?",
        r"^क.\d$",
        r"(?P<digits>\d{2,})[^०]",
    ],
)
def test_texts_match_the_expression_and_can_be_written(expression: str) -> None:
    texts = drawn(expression)
    for text in texts:
        assert re.fullmatch(expression, text), text
        if text.strip():
            ALPHABET.syllables(ALPHABET.transcript(text))
    assert len(texts) > 1


def test_classes_hold_only_what_the_model_writes_and_all_of_it() -> None:
    assert drawn(r"\d", times=500) == set("०१२३४५६७८९")
    assert drawn(r"[क-ङi]", times=300) == set("कखगघङ")
    assert drawn(r"[क ]") == {"क", " "}
    assert drawn(r"[/।Q]", times=50) == {"/", "।"}
    assert drawn(r"₹ [१-९],\d{3}\.[०५]०")
    assert drawn("[^क]").isdisjoint({"क", " "})


def test_plus_and_star_are_bounded() -> None:
    assert {len(text) for text in drawn("क*")} == set(range(MAX_REPEATS + 1))
    assert {len(text) for text in drawn("क+")} == set(range(1, MAX_REPEATS + 2))
    assert {len(text) for text in drawn("क{2,4}")} == {2, 3, 4}


@pytest.mark.parametrize("alphabet", [ALPHABET, Alphabet(MNIST)], ids=["devanagari", "mnist"])
@pytest.mark.parametrize("name", NAMED)
def test_named_patterns_in_both_scripts(name: str, alphabet: Alphabet) -> None:
    for text in drawn(name, alphabet):
        assert re.fullmatch(NAMED[name], "".join(c if c == " " else str(unicodedata.digit(c)) for c in text)), text
        alphabet.syllables(text)
        if name == "date":
            day, month, year = map(int, text.split())
            date(year, month, day)


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("[0-9]{6}", "holds nothing that the model writes, which is 46 glyphs such as क ख"),
        ("(", "missing \\)"),
        ("क{300}", "texts of 300 characters, and a line holds 200 at most"),
        (r"((\d{0,65535}){0,65535}){0,65535}", "shorten its repeats"),
        ("(?=क)", r"\(\?= is not supported"),
        ("क{5000000000000}", "repetition number is too large"),
        ("(" * 5000, "`pattern`"),
    ],
)
def test_an_expression_that_is_refused(expression: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_pattern(expression, ALPHABET)
    assert len(str(caught.value)) < 600


def test_named_patterns_need_all_ten_digits() -> None:
    with pytest.raises(
        UsageError, match="pin_code is made of digits, and the model does not write all ten; it writes 0 1 2"
    ):
        parse_pattern("pin_code", Alphabet(MNIST[:3]))


@given(st.text(max_size=20))
def test_any_expression_is_understood_or_refused(expression: str) -> None:
    try:
        sample = parse_pattern(expression, ALPHABET)
    except UsageError:
        return
    assert len(sample(np.random.default_rng(0))) <= 200 * 3


def test_named_patterns_draw_the_same_texts_for_a_seed() -> None:
    rng = np.random.default_rng(7)
    assert [parse_pattern(name, Alphabet(MNIST))(rng) for name in NAMED] == TEXTS
