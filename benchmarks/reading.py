"""What `recognise` and `translate` read right, wrongly or not at all, on real glyphs on paper and on what is no glyph.

    LEKHANI_REAL_DATA=... python benchmarks/reading.py [--each 300] [--half test] [--out results/reading.json]

The glyphs are of the test splits of DHCD and MNIST; `--half tune` takes the half on which thresholds were chosen,
`test` the other one. Paper is synthetic: plain, shaded and grainy, ruled or squared in several spacings, colours and
strengths, and turned. Each row says how many pictures were read right, wrongly, and refused.
"""

import argparse
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from origin import origin
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from lekhani.data.images import decode_one
from lekhani.errors import UsageError
from lekhani.handwriting.recognise import SIDE, recognise
from lekhani.handwriting.translate import read_digits
from lekhani.inference.session import Reader
from lekhani.pen import load_judge

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator
INKS = ((25, 25, 30), (22, 35, 90), (30, 50, 140), (70, 70, 75))
DARK_RULES = ((40, 50, 90), (60, 60, 60), (110, 40, 60))
RULES = ((120, 160, 210), (170, 180, 190), (210, 130, 140), (90, 110, 170), (140, 140, 140))
# Latin letters and vowels of Devanagari that look like none of the classes.
NOT_DEVANAGARI = "ABDEFGHKMNPRWXYZaefhkmtwxyz&@#?अआइईउऊएऐओऔॐ"
NOT_MNIST = "ACDEFGHKMNPRUVWXYadefhkmnrtuwxy&@#?कखघचजझणनभमलषसहक"


# --- paper ---


def page(ink: Floats, rng: Rng, kind: str = "plain", angle: float = 0.0) -> bytes:
    """Ink [H,W] on paper of a kind (plain, shaded, ruled, darkly ruled, squared), all turned by `angle`, as JPEG."""
    high, wide = ink.shape
    room = round(0.45 * max(high, wide)) if angle else 0  # outside the picture, unless it turns
    edge = round(0.25 * max(high, wide) * abs(np.sin(np.radians(angle))) * 2)  # what turns stays in the picture
    height, width = (round(side + high * rng.uniform(0.3, 1.0)) + 2 * (room + edge) for side in (high, wide))
    down, across = (
        edge + int(rng.integers(0, most - side + 1 - 2 * (room + edge)))
        for most, side in ((height, high), (width, wide))
    )
    placed = np.zeros((height, width), np.float32)
    placed[down + room : down + room + high, across + room : across + room + wide] = ink
    sheet = np.full((height, width, 3), rng.uniform(215, 250), np.float32)
    if kind in {"ruled", "darkly ruled", "squared"}:
        sheet = _with_rules(sheet, high, rng, kind)
    colour = np.array(INKS[rng.integers(len(INKS))], np.float32)
    alpha = (placed * rng.uniform(0.85, 1))[..., None]
    picture = sheet * (1 - alpha) + np.minimum(sheet, colour) * alpha
    if angle:
        shade = tuple(int(value) for value in np.median(picture.reshape(-1, 3), 0))
        turned = Image.fromarray(np.rint(picture).astype(np.uint8)).rotate(
            angle, Image.Resampling.BICUBIC, fillcolor=shade
        )
        picture = np.asarray(turned, np.float32)[room : height - room, room : width - room]
    picture = _lit(picture, rng, 1.0 if kind == "shaded" else 0.15)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=int(rng.integers(60, 95)))
    return buffer.getvalue()


def _with_rules(sheet: Floats, high: int, rng: Rng, kind: str) -> Floats:
    """Rules at a spacing of about a letter, or squares of a part of one, of any phase."""
    spacing = high * (rng.uniform(0.2, 0.6) if kind == "squared" else rng.uniform(0.45, 1.6))
    thickness, strength = max(high * rng.uniform(0.008, 0.03), 1.0), rng.uniform(0.5, 1.0)
    colours = DARK_RULES if kind == "darkly ruled" else RULES
    colour = np.array(colours[rng.integers(len(colours))], np.float32)
    cover = np.zeros(sheet.shape[:2], np.float32)
    for axis in (0, 1) if kind == "squared" else (0,):
        distance = (np.arange(sheet.shape[axis]) - rng.uniform(0, spacing)) % spacing
        line = np.clip(thickness - np.minimum(distance, spacing - distance) * 2 + 1, 0, 1)
        cover = np.maximum(cover, line[:, None] if axis == 0 else line[None])
    return sheet + (np.minimum(colour, sheet) - sheet) * (strength * cover)[..., None]


def _lit(picture: Floats, rng: Rng, strength: float) -> npt.NDArray[np.uint8]:
    """Light from one side, clouds and grain."""
    height, width = picture.shape[:2]
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    light = rng.uniform(-0.2, 0.2) * down + rng.uniform(-0.2, 0.2) * across
    clouds = ndimage.gaussian_filter(rng.standard_normal((height, width)), min(height, width) / 6)
    light = 0.92 + strength * (light + 0.05 * clouds / max(float(clouds.std()), 1e-6))
    grain = rng.normal(0, 1 + 5 * strength, picture.shape)
    return np.clip(picture * light[..., None] + grain, 0, 255).astype(np.uint8)


# --- what is on it ---


def enlarged(image: npt.NDArray[np.uint8], side: int) -> Floats:
    """An image of a dataset as ink [side,side], cut to its strokes."""
    large = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    rows, columns = (np.flatnonzero(large.max(axis) > 0.3) for axis in (1, 0))
    return np.clip(large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 0, 1)


def side_by_side(glyphs: list[Floats], rng: Rng, joined: bool = False) -> Floats:
    """Glyphs in a row, with gaps or with a head line over all of them."""
    high = max(len(glyph) for glyph in glyphs)
    parts = []
    for glyph in glyphs:
        gap = round(high * (rng.uniform(0, 0.03) if joined else rng.uniform(0.1, 0.4)))
        rest = high - len(glyph)
        above = 0 if joined else int(rng.integers(0, rest + 1))
        parts.append(np.pad(glyph, ((above, rest - above), (0, gap))))
    row = np.hstack(parts)
    if joined:
        thick = max(high // 14, 2)
        row[thick : 2 * thick] = 1
    return row


def typed(text: str, side: int, rng: Rng) -> Floats:
    """A letter of a typeface as ink, `side` pixels high."""
    from importlib import resources

    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    if text > "\u0900":
        path = resources.files("fontpkg_noto_sans_devanagari") / "files" / "NotoSansDevanagari[wdth,wght].ttf"
    else:
        path = fonts / str(
            rng.choice(["DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSans-BoldOblique.ttf", "STIXGeneral.ttf"])
        )
    picture = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(picture).text((side, side), text, 255, ImageFont.truetype(str(path), side))
    return np.asarray(picture.crop(picture.getbbox()), np.float32) / 255


def shape(rng: Rng, side: int) -> Floats:
    """A drawing that is no letter: a star, a face, a scribble or an arrow."""
    picture = Image.new("L", (side, side))
    draw, pen = ImageDraw.Draw(picture), max(side // 16, 3)
    kind = rng.integers(4)
    if kind == 0:
        turn = rng.uniform(0, 6)
        ends = [
            (
                side * (0.5 + 0.45 * np.sin(turn + 4 * np.pi * i / 5)),
                side * (0.5 - 0.45 * np.cos(turn + 4 * np.pi * i / 5)),
            )
            for i in range(6)
        ]
        draw.line(ends, 255, pen)
    elif kind == 1:
        draw.ellipse((pen, pen, side - pen, side - pen), outline=255, width=pen)
        for x in (0.33, 0.67):
            draw.ellipse((side * x - pen, side * 0.35 - pen, side * x + pen, side * 0.35 + pen), fill=255)
        draw.arc((side * 0.25, side * 0.35, side * 0.75, side * 0.8), 20, 160, 255, pen)
    elif kind == 2:
        draw.line([(float(x), float(y)) for x, y in rng.uniform(pen, side - pen, (14, 2))], 255, pen)
    else:
        draw.line((side * 0.1, side * 0.5, side * 0.9, side * 0.5), 255, pen)
        for y in (0.2, 0.8):
            draw.line((side * 0.6, side * y, side * 0.9, side * 0.5), 255, pen)
            draw.line((side * 0.1, side * y, side * 0.4, side * y), 255, pen)
    return np.asarray(picture, np.float32) / 255


def nothing(rng: Rng) -> bytes:
    """A picture of no writing at all: noise, spots, gradients with edges, or blank paper."""
    height, width = (int(side) for side in rng.integers(80, 320, 2))
    kind = rng.integers(4)
    if kind == 0:
        values = rng.uniform(0, 255, (height, width))
    elif kind == 1:
        values = ndimage.gaussian_filter(rng.standard_normal((height, width)), rng.uniform(2, 25))
    elif kind == 2:  # a landscape of soft planes, as in a photo
        down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        values = np.zeros((height, width))
        for _ in range(6):
            a, b, c = rng.normal(0, 1, 3)
            values += rng.uniform(-1, 1) * np.tanh((a * down + b * across + c * 0.5) * rng.uniform(1, 20))
    else:
        return page(np.zeros((height // 2, width // 2), np.float32), rng, str(rng.choice(["plain", "shaded"])))
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-9) * 255
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# --- what is asked ---


class Glyphs:
    """Real glyphs of one half of a test split, in turn through the classes."""

    def __init__(self, dataset: str, half: str) -> None:
        name = {"devanagari": "dhcd"}.get(dataset, dataset)
        with np.load(Path(os.environ["LEKHANI_REAL_DATA"]) / f"{name}_test.npz") as data:
            images, labels = data["images"], data["labels"]
        part = np.random.default_rng(3).permutation(len(labels)) % 2 == (half == "test")
        self.images, self.labels = images[part], labels[part]
        self.n_classes = int(labels.max()) + 1

    def draw(self, rng: Rng, label: int) -> npt.NDArray[np.uint8]:
        """An image of a class."""
        return np.asarray(self.images[rng.choice(np.flatnonzero(self.labels == label))])


Case = tuple[bytes, Any]  # a picture, and the label or digits that it shows, None for what is to be refused


def cases(dataset: str, half: str, each: int) -> Iterator[tuple[str, Iterator[Case]]]:
    """Each row of the table with its pictures."""
    known, digits = Glyphs(dataset, half), range(36, 46) if dataset == "devanagari" else range(10)

    def single(kind: str, angle: float, only: range | None = None) -> Iterator[Case]:
        rng = np.random.default_rng([7, len(kind), round(angle)])
        for number in range(each):
            label = int(only[number % len(only)]) if only else number % known.n_classes
            turn = angle * rng.choice([-1, 1]) * rng.uniform(0.9, 1) if angle else 0.0
            yield page(enlarged(known.draw(rng, label), int(rng.integers(90, 220))), rng, kind, turn), label

    def several(joined: bool, only: range) -> Iterator[Case]:
        rng = np.random.default_rng([8, joined, len(only)])
        for _ in range(each // 2):
            side, count = int(rng.integers(80, 160)), int(rng.integers(2, 5))
            glyphs = [enlarged(known.draw(rng, int(rng.choice(only))), side) for _ in range(count)]
            yield page(side_by_side(glyphs, rng, joined), rng, str(rng.choice(["plain", "shaded", "ruled"]))), None

    def not_letters(what: str) -> Iterator[Case]:
        rng = np.random.default_rng([9, len(what)])
        texts = NOT_DEVANAGARI if dataset == "devanagari" else NOT_MNIST
        other = Glyphs("mnist" if dataset == "devanagari" else "devanagari", half)
        for number in range(each // 2):
            side = int(rng.integers(90, 200))
            if what == "nothing":
                yield nothing(rng), None
                continue
            if what == "typed":
                ink = typed(texts[number % len(texts)], side, rng)
            elif what == "drawn":
                ink = shape(rng, side)
            else:  # of the other script, where no class looks alike
                labels = [4, 5, 7, 8] if dataset == "devanagari" else [0, 1, 3, 5, 7, 10, 15, 20, 24, 27, 30, 32]
                ink = enlarged(other.draw(rng, int(rng.choice(labels))), side)
            yield page(ink, rng, str(rng.choice(["plain", "shaded"]))), None

    for kind in ("plain", "shaded", "ruled", "darkly ruled", "squared"):
        yield kind, single(kind, 0)
    for angle in (5, 10, 20, 30):
        yield f"turned by {angle}", single("plain", angle)
    yield "ruled, turned by 10", single("ruled", 10)
    yield "digits, turned by 20", single("plain", 20, digits)
    yield "several side by side", several(False, range(known.n_classes))
    yield "several digits", several(False, digits)
    if dataset == "devanagari":
        yield "words with a head line", several(True, range(36))
    for what in ("typed", "drawn", "other script", "nothing"):
        yield what, not_letters(what)


def numbers(dataset: str, half: str, each: int) -> Iterator[tuple[str, Iterator[Case]]]:
    """The same for rows of one to five digits; letters are among them in the last row, which is to be refused."""
    known, digits = Glyphs(dataset, half), np.arange(36, 46) if dataset == "devanagari" else np.arange(10)

    def row(kind: str, angle: float, letters: bool = False) -> Iterator[Case]:
        rng = np.random.default_rng([10, len(kind), round(angle), letters])
        for _ in range(each // 3):
            labels, side = rng.choice(digits, int(rng.integers(1, 6))), int(rng.integers(80, 160))
            if letters:
                labels[rng.integers(len(labels))] = rng.choice([0, 1, 3, 5, 7, 20, 24, 25, 28, 32])
            glyphs = [enlarged(known.draw(rng, int(label)), side) for label in labels]
            picture = page(side_by_side(glyphs, rng), rng, kind, angle * float(rng.choice([-1, 1])))
            yield picture, None if letters else tuple(labels.tolist())

    for kind, angle in (
        ("plain", 0),
        ("shaded", 0),
        ("ruled", 0),
        ("darkly ruled", 0),
        ("squared", 0),
        ("plain", 5),
        ("plain", 10),
    ):
        yield f"{kind}{f', turned by {angle}' if angle else ''}", row(kind, angle)
    if dataset == "devanagari":
        yield "with a letter among them", row("plain", 0, letters=True)


def outcome(ask: Callable[[Any], Any], case: Case) -> str:
    """Whether the answer was right, wrong, or refused."""
    picture, truth = case
    try:
        found = ask(decode_one("", "a.jpg", picture, SIDE))
    except UsageError:
        return "refused"
    return "right" if found == truth else "wrong"


def measure(dataset: str, reader: Reader, half: str, each: int) -> dict[str, Any]:
    """The shares of each row, and milliseconds per picture."""
    asked: tuple[tuple[str, Any, Any], ...] = (
        ("recognise", cases, lambda picture: recognise(reader, [picture])[0].best.label),
        ("translate", numbers, lambda picture: tuple(one.best.label for one in read_digits(reader, picture))),
    )
    results: dict[str, Any] = {}
    for command, rows, ask in asked:
        for name, pictures in rows(dataset, half, each):
            made = list(pictures)
            start = time.process_time()
            counts = Counter(outcome(ask, case) for case in made)
            took = (time.process_time() - start) / len(made)
            shares = {key: round(counts[key] / len(made), 4) for key in ("right", "wrong", "refused")}
            results.setdefault(command, {})[name] = {**shares, "pictures": len(made), "ms": round(1000 * took, 1)}
            print(
                f"{dataset:10} {command:9} {name:26}",
                *(f"{key} {value:6.1%}" for key, value in shares.items()),
                f"{1000 * took:6.1f} ms",
                flush=True,
            )
    return results


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=300)
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dataset", action="append")
    options = parser.parse_args()
    results = {}
    for dataset in options.dataset or ("devanagari", "mnist"):
        reader = load_judge(dataset).reader
        rows = measure(dataset, reader, options.half, options.each)
        results[dataset] = {"judge": reader.sha256, **rows}
    if options.out:
        report = {**origin("numpy", "scipy", "pillow", "onnxruntime"), "half": options.half, "results": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
