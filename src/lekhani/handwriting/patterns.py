"""Texts drawn from patterns: named ones, and a small part of Python's regular expressions.

The grammar is our own because the libraries for this (rstr, exrex, sre_yield) import Python's private re._parser, and
draw characters that the model does not write.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np

from lekhani.data.spec import MNIST
from lekhani.errors import UsageError
from lekhani.handwriting.alphabet import MAX_GLYPHS, Alphabet, shortened

MAX_REPEATS = 8  # that * and + may add

# In ASCII digits, which become those of the model.
NAMED = {
    "pin_code": r"[1-9]\d{5}",
    "amount": r"[1-9]\d{0,6}",
    "date": r"(0[1-9]|1\d|2[0-8]) (0[1-9]|1[0-2]) (19|20)\d\d",
    "phone": r"[6-9]\d{4} \d{5}",
}

Sampler = Callable[[np.random.Generator], str]
_Part = tuple[Sampler, int]  # and the most characters that it draws

_TOKEN = re.compile(
    r"(?P<group>\((?:\?:|\?P<\w+>|(?!\?)))|(?P<close>\))|(?P<bar>\|)|(?P<anchor>[\^$]|\\[AbBZ])"
    r"|(?P<repeat>(?:([*+?])|\{([0-9]+)\}|\{([0-9]*),([0-9]*)\})[?+]?)"
    r"|(?P<class>\[\^?\]?(?:\\.|[^\]\\])*\]|\\[dDwWsS]|\.)"
    r"|(?P<literal>\\[^0-9A-Za-z]|[^\\(])|(?P<other>.{1,3})",
    re.DOTALL,
)


def parse_pattern(expression: str, alphabet: Alphabet) -> Sampler:
    r"""A function that draws a text of at most 200 characters from a named pattern or a regular expression.

    The expression may hold letters, classes, `.`, `\d`, groups, alternatives and repeats, of which `*` and `+` add up
    to eight; each choice is equally likely, and a class holds what `alphabet` has of it. Raises UsageError for one that
    is malformed, holds anything else, or a class without a glyph of `alphabet`.
    """
    if expression not in NAMED:
        return _parse(expression, alphabet)
    digits = {ord(str(unicodedata.digit(glyph))): glyph for glyph in alphabet.glyphs if glyph.isdecimal()}
    if len(digits) < 10:
        problem = f"--pattern {expression} is made of digits, and the model does not write all ten"
        raise UsageError(f"{problem}; it writes {alphabet}.")
    ascii_text = _parse(NAMED[expression], Alphabet(MNIST))
    return lambda rng: ascii_text(rng).translate(digits)


def _parse(expression: str, alphabet: Alphabet) -> Sampler:
    normalised = unicodedata.normalize("NFC", expression)
    try:
        re.compile(normalised)  # from here on it is well formed
        sample, width = _alternatives(_TOKEN.finditer(normalised), alphabet)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--pattern {shortened(expression)}: {error}; names are {', '.join(NAMED)}.") from None
    except UsageError as error:
        raise UsageError(f"--pattern {shortened(expression)}: {error}") from None
    if width > MAX_GLYPHS:
        problem = f"--pattern {shortened(expression)}: it allows texts of {width:,} characters,"
        raise UsageError(f"{problem} and a line holds {MAX_GLYPHS} at most; shorten its repeats.")
    return sample


def _alternatives(tokens: Iterator[re.Match[str]], alphabet: Alphabet) -> _Part:
    """The alternatives up to the closing parenthesis or the end."""
    branches: list[list[_Part]] = [[]]
    for token in tokens:
        kind, text, parts = token.lastgroup, token.group(), branches[-1]
        if kind == "close":
            break
        if kind == "bar":
            branches.append([])
        elif kind == "group":
            parts.append(_alternatives(tokens, alphabet))
        elif kind == "class":
            parts.append(_one_of(text, alphabet))
        elif kind == "repeat":
            parts.append(_repeated(*parts.pop(), *token.groups()[5:9]))
        elif kind == "literal":
            parts.append((lambda _, text=text: text[-1], 1))  # type: ignore[misc]
        elif kind == "other":
            raise UsageError(f"{text} is not supported; use letters, classes, groups, alternatives and repeats.")

    def draw(rng: np.random.Generator) -> str:
        chosen = branches[rng.integers(len(branches)) if len(branches) > 1 else 0]
        return "".join(sample(rng) for sample, _ in chosen)

    return draw, max(sum(width for _, width in parts) for parts in branches)


def _one_of(characters: str, alphabet: Alphabet) -> _Part:
    belongs = re.compile(characters).fullmatch
    spaces = [] if characters.startswith(("[^", ".")) else [" "]
    marks = alphabet.marks if characters.startswith("[") and not characters.startswith("[^") else ""
    choices = [glyph for glyph in [*alphabet.glyphs, *spaces, *marks] if belongs(glyph)]
    if not choices:
        raise UsageError(f"{characters} holds nothing that the model writes, which is {alphabet}.")
    return lambda rng: choices[rng.integers(len(choices))], 1


def _repeated(sample: Sampler, width: int, sign: str | None, exactly: str, least: str, most: str) -> _Part:
    low = int(exactly or least or sign == "+")
    high = int(exactly or most or (1 if sign == "?" else low + MAX_REPEATS))
    return lambda rng: "".join(sample(rng) for _ in range(rng.integers(low, high, endpoint=True))), high * width
