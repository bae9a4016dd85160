"""Folders of handwritten lines with their transcripts, as OCR toolkits read them."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from unicodedata import category

import numpy as np
from pydantic import BaseModel, ConfigDict

from lekhani import __version__
from lekhani.errors import LekhaniError, UsageError, reason
from lekhani.files import read_checked, read_input, replacing, require_room, write_json, write_text
from lekhani.generate.datasheet import data_licence, describe_model, licence_sentence
from lekhani.handwriting.alphabet import SHOWN, Alphabet, alphabet_of
from lekhani.handwriting.compose import Hands, compose_steps, seeded_rng
from lekhani.handwriting.patterns import parse_pattern
from lekhani.handwriting.render import Line, LineStyle
from lekhani.inference.sampling import run_steps
from lekhani.inference.session import Generator, LoadedModel
from lekhani.pictures import png_bytes
from lekhani.text import escaped, pluralize

log = logging.getLogger("lekhani")
Layout = Literal["tesseract", "paddleocr", "huggingface"]
MADE_BY = "lekhani compose"
MAX_BYTES = 64 << 20  # of a file of texts
MAX_LINES = 1_000_000
MAX_HANDS = 1000
NAMED = 5  # lines of a file that cannot be written, of all that there are
_TEXT = 100  # the stream of random numbers that texts come from, beyond those of `compose`


def read_texts(path: Path, alphabet: Alphabet, skip_unwritable: bool = False) -> list[str]:
    """The non-empty lines of a UTF-8 file, as transcripts.

    What the model cannot write is left out with a warning where `skip_unwritable`; else UsageError names it.
    """
    try:
        lines = read_input(path, MAX_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--lines {path} cannot be read as UTF-8 text: {reason(error)}.") from None
    if len(lines) > MAX_LINES:
        problem = f"--lines {path} has {len(lines):,} lines, and {MAX_LINES:,} is the most"
        raise UsageError(f"{problem}; split it.")
    texts: list[str] = []
    unwritable: list[str] = []
    for number, line in enumerate(map(alphabet.transcript, lines), 1):
        if line:
            try:
                alphabet.syllables(line)
                texts.append(line)
            except UsageError as error:
                unwritable.append(f"line {number}: {error}")
    if unwritable:
        count = pluralize(len(unwritable), "line")
        more = " ..." if len(unwritable) > NAMED else ""
        problem = f"{count} of {path} cannot be written. {' '.join(unwritable[:NAMED])}{more}"
        if not skip_unwritable:
            raise UsageError(f"{problem} Correct them, or leave them out with --skip-unwritable.")
        log.warning("%s They are left out.", problem)
    if not texts:
        raise UsageError(f"--lines {path} holds no text{' that can be written' if unwritable else ''}.")
    return texts


def choose_texts(
    generator: Generator,
    texts: Sequence[str],
    pattern: str | None,
    file: Path | None,
    count: int | None,
    seed: int,
    skip_unwritable: bool = False,
    learned_only: bool = False,
) -> list[str]:
    """The texts to write, from one of three sources: `texts` themselves, the lines of `file`, or drawn from `pattern`.

    Texts are taken in turn until there are `count`. Raises UsageError unless there is exactly one source, and when a
    text cannot be written, with `learned_only` without signs that a typeface draws.
    """
    if bool(texts) + (pattern is not None) + (file is not None) != 1:
        raise UsageError("Say what to write with one of --text, --pattern and --lines.")
    alphabet = alphabet_of(generator.classes, learned_only)
    if pattern is not None:
        sample = parse_pattern(pattern, alphabet)
        chosen = [
            alphabet.transcript(sample(seeded_rng(generator, seed, number, _TEXT))) for number in range(count or 1)
        ]
    else:
        known = read_texts(file, alphabet, skip_unwritable) if file else list(map(alphabet.transcript, texts))
        chosen = [known[number % len(known)] for number in range(count or len(known))]
    for text in set(chosen):
        alphabet.syllables(text)
    return chosen


@dataclass(frozen=True)
class LineRequest:
    """What to write, `texts` as `choose_texts` returns them, and how.

    A glyph is drawn again until the judge accepts it with `min_confidence` (0: never). So many `hands`, 1 to 1,000,
    write in turn, with few forms of each letter; by default each line has one of its own. Raises UsageError for others.
    """

    texts: Sequence[str]
    seed: int = 0
    style: LineStyle = field(default_factory=LineStyle)
    min_confidence: float = 0.5
    layout: Layout = "tesseract"
    hands: int | None = None

    def __post_init__(self) -> None:
        if self.hands is not None and not 1 <= self.hands <= MAX_HANDS:
            raise UsageError(f"--hands {self.hands}: 1 to {MAX_HANDS:,} people can write, each in turn.")

    def render(self, pen: LoadedModel) -> Iterator[Line]:
        """The lines, in order."""
        hands = None if self.hands is None else Hands(self.hands)
        for number, text in enumerate(self.texts):
            steps = compose_steps(pen, text, self.seed, self.style, number, self.min_confidence, hands)
            yield run_steps(pen.generator, steps)


def write_lines(pen: LoadedModel, request: LineRequest, out: Path, overwrite: bool = False) -> str:
    """Write pictures and transcripts into the new folder `out`, or a single picture as `out` itself if it ends in .png.

    All is written or nothing. Line i depends on the model's bytes, the seed, i, its text, the style, the judge and the
    number of hands alone. Returns a sentence about it; raises UsageError for an existing `out`, and what `compose`
    raises.
    """
    single = out.suffix.lower() == ".png"
    if single and len(request.texts) != 1:
        problem = f"--out {out} is one picture, and there are {len(request.texts):,} lines to write"
        raise UsageError(f"{problem}; name a folder instead.")
    target = out.resolve()  # "." has no name of its own to rename
    if target.exists():
        if not overwrite:
            raise UsageError(f"{out} exists already; choose another --out or pass --overwrite.")
        if target.is_dir():
            _check_replaceable(target, out, single)
    require_room(target, 4096 * len(request.texts), pluralize(len(request.texts), "line"))  # a block for each picture
    drawn = _drawn(pen, request.texts)
    with replacing(target) as temporary:
        if single:
            next(request.render(pen)).image.save(temporary, format="PNG")
        else:
            _write_folder(pen, request, drawn, temporary)
    what = repr(request.texts[0]) if single else f"{pluralize(len(request.texts), 'line')} for {request.layout}"
    signs = _drawn_sentence(sorted(set().union(*drawn.values())))
    return f"Wrote {what} to {out} with {pen.origin}, seed {request.seed}.{signs and ' '}{signs}"


def _drawn(pen: LoadedModel, texts: Sequence[str]) -> dict[str, list[str]]:
    """What a typeface draws of each text."""
    alphabet = alphabet_of(pen.classes)
    return {text: alphabet.drawn(text) for text in set(texts)}


def _drawn_sentence(signs: Sequence[str]) -> str:
    """Which signs no model wrote, at most a dozen of them, for people."""
    shown = " ".join(f"◌{one}" if category(one[0]).startswith("M") else one for one in signs[:SHOWN])
    more = f" and {len(signs) - SHOWN} more" if len(signs) > SHOWN else ""
    return f"Drawn from a typeface, not learned: {shown}{more}." if signs else ""


class _Written(BaseModel):
    """What dataset.json of a folder of lines says of its files."""

    model_config = ConfigDict(strict=True)

    made_by: Literal["lekhani compose"]
    layout: Layout


_FILES = {  # of each layout, beside dataset.json and README.md
    "tesseract": r"line_\d+\.(png|gt\.txt|box)",
    "paddleocr": r"images|images/line_\d+\.png|rec_gt\.txt|dict\.txt|Label\.txt",
    "huggingface": r"line_\d+\.png|metadata\.jsonl",
}


def _check_replaceable(folder: Path, out: Path, single: bool) -> None:
    """Raise UsageError where `compose` did not write the folder, or something else lies in it."""
    try:
        layout = None if single else read_checked(folder / "dataset.json", _Written)["layout"]
    except LekhaniError:
        layout = None
    if layout is None:
        problem = f"{out} is a folder that `lekhani compose` did not write, so it stays"
        raise UsageError(f"{problem}; choose another --out.")
    written = re.compile(rf"dataset\.json|README\.md|{_FILES[layout]}")
    for path in folder.rglob("*"):
        if not written.fullmatch(path.relative_to(folder).as_posix()):
            problem = f"{path} is not by `lekhani compose`, and --overwrite replaces the whole folder"
            raise UsageError(f"{problem}; move it away, or choose another --out.")


def _write_folder(pen: LoadedModel, request: LineRequest, drawn: Mapping[str, list[str]], folder: Path) -> None:
    from rich.console import Console
    from rich.progress import track

    console, total = Console(stderr=True), len(request.texts)
    pictures = folder / "images" if request.layout == "paddleocr" else folder
    pictures.mkdir(parents=True)
    lines = track(request.render(pen), "Writing", total, console=console, disable=not console.is_terminal)
    names = [f"line_{number:06d}" for number in range(total)]
    with _Transcripts(request.layout, folder) as transcripts:
        for number, (name, text, line) in enumerate(zip(names, request.texts, lines, strict=True)):
            (pictures / f"{name}.png").write_bytes(png_bytes(np.asarray(line.image)))
            transcripts.add(name, text, line, number % (request.hands or total))
    sheet = _datasheet(pen, request, drawn)
    write_json(folder / "dataset.json", sheet)
    write_text(folder / "README.md", _readme(sheet, request.texts))


class _Transcripts:
    """The files of a layout that say what the pictures show, written line by line."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout, self.folder = layout, folder
        self.characters: set[str] = set()
        names = {"tesseract": (), "paddleocr": ("rec_gt.txt", "Label.txt"), "huggingface": ("metadata.jsonl",)}[layout]
        self.tables = [(folder / name).open("w", encoding="utf-8", newline="") for name in names]

    def __enter__(self) -> "_Transcripts":
        return self

    def __exit__(self, *_: object) -> None:
        for table in self.tables:
            table.close()
        if self.layout == "paddleocr":
            characters = sorted(self.characters - {" "})
            write_text(self.folder / "dict.txt", "".join(f"{character}\n" for character in characters))

    def add(self, name: str, text: str, line: Line, hand: int) -> None:
        """Write what line `name` says, where its glyphs are and where there is room for it, who wrote it."""
        self.characters.update(text)
        if self.layout == "tesseract":
            (self.folder / f"{name}.gt.txt").write_text(f"{text}\n", encoding="utf-8")
            (self.folder / f"{name}.box").write_text(_box_file(text, line), encoding="utf-8")
            return
        if self.layout == "paddleocr":
            glyphs: list[dict[str, Any]] = [
                {"transcription": box.text, "points": np.rint(box.corners).astype(int).tolist()} for box in line.boxes
            ]
            rows = [f"images/{name}.png\t{text}", f"images/{name}.png\t{json.dumps(glyphs, ensure_ascii=False)}"]
        else:
            glyphs = [{"text": box.text, **dict(zip("xywh", box.upright, strict=True))} for box in line.boxes]
            drawn = line.image.info["drawn"]
            record = {"file_name": f"{name}.png", "text": text, "hand": hand, "drawn": drawn, "glyphs": glyphs}
            rows = [json.dumps(record, ensure_ascii=False)]
        for table, row in zip(self.tables, rows, strict=True):
            table.write(f"{row}\n")


def _box_file(text: str, line: Line) -> str:
    """Where the glyphs are as Tesseract writes it: text, left, bottom, right and top, from the lower left corner.

    A space has the box between its neighbours, and a tab ends the line.
    """
    rows, place, end = [], 0, 0
    height = line.image.height
    for box in line.boxes:
        left, top, width, high = box.upright
        if text.startswith(" ", place):
            rows.append((" ", end, 0, max(left, end), height))
            place += 1
        rows.append((box.text, left, height - top - high, left + width, height - top))
        place, end = place + len(box.text), left + width
    rows.append(("\t", line.image.width, 0, line.image.width + 1, height))
    return "".join(f"{shown} {' '.join(map(str, places))} 0\n" for shown, *places in rows)


def _datasheet(pen: LoadedModel, request: LineRequest, drawn: Mapping[str, list[str]]) -> dict[str, Any]:
    model, style = describe_model(pen), request.style
    judged = pen.reader and request.min_confidence
    return {
        "made_by": MADE_BY,
        "layout": request.layout,
        "lines": len(request.texts),
        "different_texts": len(set(request.texts)),
        "characters": len("".join(request.texts)),
        "drawn": {  # by a typeface, not by the model
            "signs": sorted(set().union(*drawn.values())),
            "lines": sum(bool(drawn[text]) for text in request.texts),
        },
        "licence": data_licence(pen, model),
        "model": model,
        "judge": {"sha256": pen.reader.sha256, "min_confidence": judged} if pen.reader and judged else None,
        "seed": request.seed,
        "hands": request.hands,
        "look": {
            **asdict(replace(style, background=None)),
            "without": sorted(style.without),
            "background": style.background and style.background.facts(),
        },
        "lekhani": __version__,
    }


def _readme(sheet: dict[str, Any], texts: Sequence[str]) -> str:
    model, judge = sheet["model"], sheet["judge"]
    read = f"The judge with SHA-256 {judge['sha256'][:12]} read every glyph as its label." if judge else ""
    return "\n".join(
        [
            f"# Lines of generated handwriting: {escaped(model['dataset'])}",
            "",
            f"{sheet['lines']:,} lines of {sheet['different_texts']:,} different texts in the layout of "
            f"{sheet['layout']}, such as:",
            "",
            *(f"- {escaped(text)}" for text in texts[:3]),
            "",
            f"No person wrote them: their glyphs are by {escaped(model['name'])} ({escaped(model['variant'])}, "
            f"SHA-256 {model['sha256'][:12]}).",
            *([_drawn_sentence(sheet["drawn"]["signs"])] if sheet["drawn"]["signs"] else []),
            f"{read or 'No judge read the glyphs over.'} Transcripts are UTF-8 in NFC. "
            "Train with them, and test on real handwriting.",
            "",
            f"The same model, seed ({sheet['seed']}), texts and choices give the same bytes; dataset.json holds them "
            "all.",
            licence_sentence(sheet["licence"]),
            "",
        ]
    )
