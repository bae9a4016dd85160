"""A text as the parts that a line is put together from: what a model has learned, and what a typeface adds to it.

Devanagari is written in syllables: consonants, of which all but the last lose their stem or show a halant, and signs
around them. What is a class of the model is always written by the model, conjuncts included.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

RIGHT = frozenset("खगघचजझञणतथधनपबभमयलवशषस")  # their stem is at the right; without it they are half letters
MIDDLE = frozenset("कफ")  # theirs is in the middle; a half letter lacks the end of what is right of it
# The others are round and have no stem. Their conjuncts have shapes of their own, or else show the halant.
LIGATURES = {
    **{"ङ": "कखगघमय", "छ": "यव", "ट": "टठय", "ठ": "ठय", "ड": "डढय", "ढ": "ढय"},
    **{"द": "गघदधबभमयरव", "ह": "णनमयरलव", "श": "र"},
}
BEFORE, AFTER, ABOVE, BELOW = "ि", "ाीोौॉ", "ेैॅ", "ुूृॄ"
NASAL, VISARGA, NUKTA, HALANT, RA, JOINER, PARTER = "ँं", "ः", "़", "्", "र", "\u200d", "\u200c"
SIGNS = BEFORE + AFTER + ABOVE + BELOW + NASAL + VISARGA + NUKTA + HALANT
VOWELS = "अआइईउऊऋऍएऐऑओऔ"
DRAWN_LETTERS = "ळॐऽ"  # that no dataset has
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~।॥॰₹‘’“”–—…×÷"
PROXY = "त"  # bears the signs in the typeface

_STARTS_WITH_LETTER = re.compile(f"[क-ह{VOWELS}{DRAWN_LETTERS}]")


class Sign(NamedTuple):
    """What is drawn around a letter: the text that the typeface shapes for it, and its place."""

    shape: str
    place: Literal["above", "below", "nukta", "rakar", "side"]


@dataclass(frozen=True)
class Part:
    """One column of a line.

    Either a letter of the model, whole or as a half letter, with `signs` around it; or with the label None what the
    typeface draws of `shape`: a letter, a sign before or after one, or a mark of punctuation. `drawn` names all that
    the typeface draws.
    """

    kind: Literal["letter", "half", "before", "after", "mark"]
    shape: str
    label: int | None = None
    signs: tuple[Sign, ...] = ()
    drawn: tuple[str, ...] = ()
    tight: bool = False


@dataclass(frozen=True)
class Syllable:
    """What a reader takes for one character, and its parts from left to right."""

    text: str
    parts: tuple[Part, ...]

    @property
    def drawn(self) -> tuple[str, ...]:
        """What of it a typeface draws."""
        return tuple(one for part in self.parts for one in part.drawn)


@dataclass
class _Consonant:
    glyph: str
    label: int | None
    nukta: bool
    joiner: str  # what follows its halant
    rakar: bool = False


def stem(glyph: str) -> Literal["right", "middle", "none"]:
    """Where a letter has its vertical stem; that of a conjunct is its last letter's, and र below a letter has none."""
    last = glyph.removesuffix(NUKTA).removesuffix(HALANT + RA)[-1:]
    return "right" if last in RIGHT else "middle" if last in MIDDLE else "none"


@dataclass(frozen=True)
class Writing:
    """How texts are split, with `labels` by glyph; with `signs`, what a typeface adds is allowed."""

    labels: Mapping[str, int]
    signs: bool

    @cached_property
    def has_letters(self) -> bool:
        """Whether the model writes letters of Devanagari, which signs go with."""
        return self.signs and any(map(_STARTS_WITH_LETTER.match, self.labels))

    @cached_property
    def _consonant(self) -> str:
        known = [*filter(_STARTS_WITH_LETTER.match, self.labels), "ळ"]
        return f"(?:{'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        known = sorted(self.labels, key=len, reverse=True)
        kinds = {"known": "|".join(map(re.escape, known)), "space": " "}
        if self.signs:
            kinds["mark"] = f"[{re.escape(PUNCTUATION)}]"
        if self.has_letters:
            one, nasal = f"{self._consonant}{NUKTA}?", f"[{NASAL}{VISARGA}]{{0,2}}"
            matra = f"[{BEFORE}{AFTER}{ABOVE}{BELOW}]?"
            stack = f"(?P<stack>{one}(?:{HALANT}[{JOINER}{PARTER}]?{one})*)"
            end = f"(?:(?P<halant>{HALANT}{PARTER}?)|(?P<matra>{matra})(?P<nasal>{nasal}))"
            kinds = {"syllable": stack + end, "vowel": f"[{VOWELS}{DRAWN_LETTERS}]{nasal}", **kinds}
        return re.compile("|".join(f"(?P<{name}>{kind})" for name, kind in kinds.items()))

    def split(self, text: str) -> Iterator[Syllable | str | None]:
        """Syllables, None for a space, and a character that cannot be written as it is."""
        place = 0
        while place < len(text):
            found = self._pattern.match(text, place)
            if found is None:
                yield text[place]
                place += 1
            else:
                place = found.end()
                yield self._read(found)

    def _read(self, found: re.Match[str]) -> Syllable | None:
        text, kind = found.group(), found.lastgroup
        if kind == "space":
            return None
        if kind == "known":
            return Syllable(text, (Part("letter", text, self.labels[text]),))
        if kind == "mark":
            return Syllable(text, (Part("mark", text, drawn=(text,)),))
        if kind == "vowel":
            return Syllable(text, (Part("letter", text, drawn=(text,)),))
        if text in self.labels:
            return Syllable(text, (Part("letter", text, self.labels[text]),))
        first, *others = self._syllable(found)
        return Syllable(text, (first, *(replace(one, tight=True) for one in others)))

    def _syllable(self, found: re.Match[str]) -> list[Part]:
        stack = self._stack(found["stack"])
        reph = len(stack) > 1 and (stack[0].glyph, stack[0].nukta, stack[0].joiner) == (RA, False, "")
        *halves, base = _conjuncts(stack[reph:])
        parts = [*map(_half, halves)]
        over = RA + HALANT if reph else ""
        matra, nasal = found["matra"] or "", found["nasal"] or ""
        visarga, dot = VISARGA * (VISARGA in nasal), nasal.replace(VISARGA, "")
        beside = over + PROXY + matra + dot
        names = tuple(filter(None, (over, matra, *dot)))
        if matra == BEFORE:  # before all but what shows its halant
            place = max((i + 1 for i, one in enumerate(parts) if one.kind == "letter"), default=0)
            parts.insert(place, Part("before", beside, drawn=names))
        if matra and matra in AFTER:
            return [*parts, _base(base, "", "", "", False), Part("after", beside + visarga, drawn=(*names, *visarga))]
        above = (over, matra, dot) if matra != BEFORE else ("", "", "")
        parts.append(_base(base, *above, bool(found["halant"])))
        return [*parts, Part("after", PROXY + visarga, drawn=(visarga,))] if visarga else parts

    def _stack(self, text: str) -> list[_Consonant]:
        each = re.finditer(
            f"(?P<glyph>{self._consonant})(?P<nukta>{NUKTA}?)(?:{HALANT}(?P<joiner>[{JOINER}{PARTER}]?))?", text
        )
        return [
            _Consonant(one["glyph"], self.labels.get(one["glyph"]), bool(one["nukta"]), one["joiner"] or "")
            for one in each
        ]


def _conjuncts(stack: list[_Consonant]) -> list[_Consonant]:
    """With pairs that have a shape of their own as one, and र after a consonant as a stroke of that one."""
    done: list[_Consonant] = []
    for one in stack:
        last = done[-1] if done else None
        plain = last and not (last.joiner or last.nukta or last.rakar)
        if last and plain and one.glyph in tuple(LIGATURES.get(last.glyph, "")):
            done[-1] = _Consonant(f"{last.glyph}{HALANT}{one.glyph}", None, one.nukta, one.joiner)
        elif last and one.glyph == RA and last.glyph != RA and not (last.joiner or last.rakar or one.nukta):
            last.rakar, last.joiner = True, one.joiner
        else:
            done.append(one)
    return done


def _half(one: _Consonant) -> Part:
    text = one.glyph + NUKTA * one.nukta + (HALANT + RA) * one.rakar + HALANT
    if one.glyph == RA and one.joiner != PARTER:
        return Part("half", text + JOINER, drawn=(text,))
    if one.label is None:
        return Part("half", text, drawn=(text,))
    signs = _own_signs(one)
    if one.joiner == PARTER or stem(one.glyph) == "none":
        return _with_signs(one, [*signs, (Sign(PROXY + HALANT, "below"), HALANT)])
    return _with_signs(one, signs, "half")


def _base(one: _Consonant, over: str, matra: str, nasal: str, halant: bool) -> Part:
    """The last consonant of a syllable, with all that is above and below it."""
    if one.label is None:
        text = one.glyph + NUKTA * one.nukta + (HALANT + RA) * one.rakar + HALANT * halant + matra + nasal
        return Part("letter", over + text, drawn=(over + text,))
    signs = _own_signs(one)
    if halant:
        signs.append((Sign(PROXY + HALANT, "below"), HALANT))
    if matra and matra in BELOW:
        beside = one.glyph == RA and matra in "ुू"
        signs.append((Sign(RA + matra, "side") if beside else Sign(PROXY + matra, "below"), matra))
        matra = ""
    signs += [(Sign(over + PROXY + matra + nasal, "above"), over + matra + nasal)] if over + matra + nasal else []
    return _with_signs(one, signs)


def _own_signs(one: _Consonant) -> list[tuple[Sign, str]]:
    nukta = [(Sign(PROXY + NUKTA, "nukta"), NUKTA)] if one.nukta else []
    return nukta + ([(Sign(HALANT + RA, "rakar"), HALANT + RA)] if one.rakar else [])


def _with_signs(one: _Consonant, signs: list[tuple[Sign, str]], kind: Literal["letter", "half"] = "letter") -> Part:
    return Part(kind, one.glyph, one.label, tuple(sign for sign, _ in signs), tuple(text for _, text in signs))
