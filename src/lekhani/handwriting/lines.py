"""Lines of text by the thousand: which texts, and folders of pictures and transcripts as OCR toolkits read them."""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from re import _compiler, _parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lekhani import __version__
from lekhani.data.spec import MNIST
from lekhani.errors import UsageError
from lekhani.files import replacing, write_json, write_text
from lekhani.generate.datasheet import data_licence, describe_model, licence_sentence
from lekhani.handwriting.compose import MAX_GLYPHS, LineStyle, Script, compose, plain, rng_of, shortened
from lekhani.inference.model import LoadedModel
from lekhani.inference.session import Generator
from lekhani.text import escaped

if TYPE_CHECKING:
    from PIL.Image import Image


Layout = Literal["tesseract", "paddleocr", "huggingface"]
MADE_BY = "lekhani compose"
MORE = 8  # repeats that * and + may add

# Patterns by name, in ASCII digits, which become those of the model.
NAMED = {
    "pin_code": r"[1-9]\d{5}",
    "amount": r"[1-9]\d{0,6}",
    "date": r"(0[1-9]|1\d|2[0-8]) (0[1-9]|1[0-2]) (19|20)\d\d",
    "phone": r"[6-9]\d{4} \d{5}",
}

_TEXT = 100  # the stream of chance that texts come from, beyond those of `compose`

_Drawn = Callable[[np.random.Generator], str]


@dataclass(frozen=True)
class Pattern:
    r"""A regular expression to draw texts from, each of its choices equally likely; `draw` makes one text of at most 200 glyphs.

    It may hold letters, classes, `.`, `\d`, groups, alternatives and repeats; `*` and `+` add up to eight.
    """

    expression: str
    draw: _Drawn


def pattern(expression: str, script: Script) -> Pattern:
    """The pattern of that name, or the regular expression itself; raises UsageError for one that holds what `script` lacks."""
    named = NAMED.get(expression)
    if named is None:
        return _pattern(expression, script)
    digits = {ord(str(unicodedata.digit(glyph))): glyph for glyph in script.glyphs if glyph.isdecimal()}
    if len(digits) < 10:
        raise UsageError(
            f"--pattern {expression} is made of digits, and the model does not write all ten; it writes {script.alphabet}."
        )
    ascii_text = _pattern(named, Script(MNIST))
    return Pattern(expression, lambda rng: ascii_text.draw(rng).translate(digits))


def _pattern(expression: str, script: Script) -> Pattern:
    named = shortened(expression)
    try:
        parsed = _parser.parse(unicodedata.normalize("NFC", expression))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--pattern {named}: {error}; names are {', '.join(NAMED)}.") from None
    try:
        draw, width = _sequence(parsed, script)
    except UsageError as error:
        raise UsageError(f"--pattern {named}: {error}") from None
    if width > MAX_GLYPHS:
        raise UsageError(
            f"--pattern {expression}: it allows texts of {width:,} characters, and a line holds {MAX_GLYPHS} at most; shorten its repeats."
        )
    return Pattern(expression, draw)


def _sequence(parsed: Any, script: Script) -> tuple[_Drawn, int]:
    """How to draw from a parsed expression, and how many characters that gives at most."""
    parts = [_part(parsed.state, operation, value, script) for operation, value in parsed]
    return lambda rng: "".join(draw(rng) for draw, _ in parts), sum(width for _, width in parts)


def _part(state: Any, operation: Any, value: Any, script: Script) -> tuple[_Drawn, int]:
    match str(operation):
        case "LITERAL":
            return lambda _: chr(value), 1
        case "ANY" | "IN" | "NOT_LITERAL":
            # Python's own engine says which glyphs a class holds.
            belongs = _compiler.compile(_parser.SubPattern(state, [(operation, value)])).fullmatch
            spaces = [" "] if str(operation) == "IN" and str(value[0][0]) != "NEGATE" else []
            choices = [glyph for glyph in [*script.glyphs, *spaces] if belongs(glyph)]
            if not choices:
                raise UsageError(f"one of its classes holds nothing that the model writes, which is {script.alphabet}.")
            return lambda rng: choices[rng.integers(len(choices))], 1
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = value
            most = least + MORE if most == _parser.MAXREPEAT else most
            draw, width = _sequence(inner, script)
            return lambda rng: "".join(draw(rng) for _ in range(rng.integers(least, most, endpoint=True))), int(
                most
            ) * width
        case "BRANCH":
            branches = [_sequence(branch, script) for branch in value[1]]
            return lambda rng: branches[rng.integers(len(branches))][0](rng), max(width for _, width in branches)
        case "SUBPATTERN":
            return _sequence(value[-1], script)
        case "AT":
            return lambda _: "", 0
    raise UsageError(
        f"{str(operation).lower().replace('_', ' ')} is not supported; use letters, classes, groups, alternatives and repeats."
    )


def read_texts(path: Path, script: Script) -> list[str]:
    """The lines of a UTF-8 file but for the empty ones, `plain`; raises UsageError naming the first that cannot be written."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--lines {path} cannot be read as UTF-8 text: {error}.") from None
    texts = []
    for number, line in enumerate(map(plain, lines), 1):
        if line:
            try:
                script.labels(line)
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from None
            texts.append(line)
    if not texts:
        raise UsageError(f"--lines {path} holds no text.")
    return texts


def texts_of(
    generator: Generator,
    texts: Sequence[str],
    expression: str | None,
    file: Path | None,
    count: int | None,
    seed: int,
) -> list[str]:
    """What to write, line by line: the texts in turn until there are `count`, or that many drawn from the pattern.

    Raises UsageError unless there is exactly one source of texts, and when one of them cannot be written.
    """
    if bool(texts) + (expression is not None) + (file is not None) != 1:
        raise UsageError("Say what to write with one of --text, --pattern and --lines.")
    script = Script(generator.classes)
    if expression is not None:
        chosen = pattern(expression, script)
        drawn = [plain(chosen.draw(rng_of(generator, seed, number, _TEXT))) for number in range(count or 1)]
        for text in drawn:
            script.labels(text)
        return drawn
    known = read_texts(file, script) if file else [plain(text) for text in texts]
    for text in known:
        script.labels(text)
    return [known[number % len(known)] for number in range(count or len(known))]


@dataclass(frozen=True)
class Order:
    """What to write, `texts` as `texts_of` gives them, and how; a glyph is drawn again until the judge is so sure of it (0: never)."""

    texts: Sequence[str]
    seed: int = 0
    style: LineStyle = field(default_factory=LineStyle)
    min_confidence: float = 0.5
    layout: Layout = "tesseract"


def write_lines(pen: LoadedModel, order: Order, out: Path, overwrite: bool = False) -> str:
    """Write pictures and transcripts into the new folder `out`, or a single picture as `out` itself if that ends in .png.

    All is written or nothing. Line i depends on the model's bytes, the seed, i, its text, the look and the judge alone. Returns a sentence
    about it; raises UsageError where something else is in the way, and what `compose` raises.
    """
    single = out.suffix.lower() == ".png"
    if single and len(order.texts) != 1:
        raise UsageError(
            f"--out {out} is one picture, and there are {len(order.texts):,} lines to write; name a folder instead."
        )
    target = out.resolve()  # "." has no name of its own to rename
    if target.exists():
        if not overwrite:
            raise UsageError(f"{out} exists already; choose another --out or pass --overwrite.")
        if target.is_dir() and (single or not _ours(target)):
            raise UsageError(
                f"{out} is a folder that `lekhani compose` did not write, so it stays; choose another --out."
            )
    with replacing(target) as temporary:
        if single:
            _line(pen, order, 0).save(temporary, format="PNG")
        else:
            _write_folder(pen, order, temporary)
    what = repr(order.texts[0]) if single else f"{len(order.texts):,} lines for {order.layout}"
    return f"Wrote {what} to {out} with {pen.origin}, seed {order.seed}."


def _ours(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["made_by"] == MADE_BY)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _line(pen: LoadedModel, order: Order, number: int) -> "Image":
    return compose(
        pen, order.texts[number], order.seed, order.style, number=number, min_confidence=order.min_confidence
    )


def _write_folder(pen: LoadedModel, order: Order, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    pictures = folder / "images" if order.layout == "paddleocr" else folder
    pictures.mkdir(parents=True)
    pairs = [(f"line_{number:06d}", text) for number, text in enumerate(order.texts)]
    for number, (name, text) in enumerate(track(pairs, "Writing", console=console, disable=not console.is_terminal)):
        _line(pen, order, number).save(pictures / f"{name}.png")
        if order.layout == "tesseract":
            (folder / f"{name}.gt.txt").write_text(f"{text}\n", encoding="utf-8")
    if order.layout == "paddleocr":
        write_text(folder / "rec_gt.txt", "".join(f"images/{name}.png\t{text}\n" for name, text in pairs))
        write_text(
            folder / "dict.txt", "".join(f"{character}\n" for character in sorted(set("".join(order.texts)) - {" "}))
        )
    if order.layout == "huggingface":
        rows = ({"file_name": f"{name}.png", "text": text} for name, text in pairs)
        write_text(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    sheet = _datasheet(pen, order)
    write_json(folder / "dataset.json", sheet)
    write_text(folder / "README.md", _readme(sheet, order.texts))


def _datasheet(pen: LoadedModel, order: Order) -> dict[str, Any]:
    model = describe_model(pen)
    return {
        "made_by": MADE_BY,
        "layout": order.layout,
        "lines": len(order.texts),
        "different_texts": len(set(order.texts)),
        "characters": len("".join(order.texts)),
        "licence": data_licence(pen, model),
        "model": model,
        "judge": {"sha256": pen.reader.sha256, "min_confidence": order.min_confidence}
        if pen.reader and order.min_confidence
        else None,
        "seed": order.seed,
        "look": {**asdict(order.style), "without": sorted(order.style.without)},
        "lekhani": __version__,
    }


def _readme(sheet: dict[str, Any], texts: Sequence[str]) -> str:
    model, judge = sheet["model"], sheet["judge"]
    read = (
        f"The judge with SHA-256 {judge['sha256'][:12]} read every glyph as its label."
        if judge
        else "No judge read the glyphs over."
    )
    return "\n".join(
        [
            f"# Lines of generated handwriting: {escaped(model['dataset'])}",
            "",
            f"{sheet['lines']:,} lines of {sheet['different_texts']:,} different texts in the layout of {sheet['layout']}, such as:",
            "",
            *(f"- {escaped(text)}" for text in texts[:3]),
            "",
            f"No person wrote them: their glyphs are by {escaped(model['name'])} ({escaped(model['variant'])}, SHA-256 {model['sha256'][:12]}).",
            f"{read} Transcripts are UTF-8 in NFC. Train with them, and test on real handwriting.",
            "",
            f"The same model, seed ({sheet['seed']}), texts and choices give the same bytes; dataset.json holds them all.",
            licence_sentence(sheet["licence"]),
            "",
        ]
    )
