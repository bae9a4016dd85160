"""Outlines of typefaces: shaped by HarfBuzz, cut into short pieces so that they can be bent, and filled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt
import uharfbuzz as hb

from lekhani.errors import LekhaniError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Contour = npt.NDArray[np.complex128]  # its points as x + iy, in font units, y up


@dataclass(frozen=True)
class Family:
    """A variable font: the package that ships it, its Python module, and the file in there."""

    package: str
    module: str
    file: str


# A monoline and a contrasted design. Both are under the SIL Open Font License.
SANS = Family("fontpkg-noto-sans-devanagari", "fontpkg_noto_sans_devanagari", "files/NotoSansDevanagari[wdth,wght].ttf")
SERIF = Family("pylopdf-fonts-hi", "pylopdf_fonts_hi", "NotoSerifDevanagari-Variable.ttf")
LANGUAGE = "ne"  # DHCD was written in Nepal: this picks the Nepali forms of five, eight and jha, where a font has them
STEP = 30.0  # longest piece of an outline in font units: short enough to bend smoothly


@dataclass(frozen=True)
class Outline:
    """P points of closed contours.

    `xy` [P,2] in font units with y up, `after` [P] the next point of the same contour, `before` [P] the previous.
    """

    xy: Floats
    after: Ints
    before: Ints


class _Pen:
    """Collects contours from HarfBuzz as polylines whose pieces are no longer than STEP."""

    def __init__(self) -> None:
        self.contours: list[list[complex]] = []

    def moveTo(self, to: tuple[float, float]) -> None:  # this and the names below are the pen protocol's
        self.contours.append([complex(*to)])

    def lineTo(self, to: tuple[float, float]) -> None:
        self.qCurveTo(to)

    def qCurveTo(self, *points: tuple[float, float]) -> None:
        self.curveTo(*points)

    def curveTo(self, *points: tuple[float, float]) -> None:
        control = np.array([self.contours[-1][-1], *(complex(*p) for p in points)])
        pieces = max(1 if len(points) == 1 else 3, math.ceil(np.abs(np.diff(control)).sum() / STEP))
        t = np.arange(1, pieces + 1) / pieces
        degree = len(points)
        curve = sum(math.comb(degree, k) * t**k * (1 - t) ** (degree - k) * control[k] for k in range(degree + 1))
        self.contours[-1].extend(np.asarray(curve).tolist())

    def closePath(self) -> None:
        contour = self.contours[-1]
        if contour[0] != contour[-1]:
            self.lineTo((contour[0].real, contour[0].imag))
        contour.pop()  # the outline closes by itself


@cache
def face(family: Family) -> "hb.Face":
    """A variable font; raises LekhaniError where its package is missing."""
    try:
        data = resources.files(family.module).joinpath(family.file).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        problem = f"The font {family.file} is missing, which drawing Devanagari needs"
        raise LekhaniError(f"{problem}; run `pip install {family.package}`.") from None
    return hb.Face(data)


def open_font(family: Family, weight: int, width: int) -> "hb.Font":
    """A font in this weight and width; raises LekhaniError where its package is missing."""
    font = hb.Font(face(family))
    font.set_variations({"wght": weight, "wdth": width})
    return font


def shape(font: "hb.Font", text: str) -> list[tuple[int, complex]]:
    """The glyphs that `text` becomes, 0 for what the font lacks, and where each lies.

    By HarfBuzz itself, for Pillow shapes only where the system has libfribidi.
    """
    buffer = hb.Buffer()
    buffer.add_str(text)
    # Said outright: guessing would take the language from the machine's locale.
    buffer.direction, buffer.script, buffer.language = "ltr", "Deva", LANGUAGE
    hb.shape(font, buffer)
    found, x = [], 0
    for info, place in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
        found.append((info.codepoint, complex(x + place.x_offset, place.y_offset)))
        x += place.x_advance
    return found


def contours(font: "hb.Font", glyph: int) -> list[Contour]:
    """The closed curves of a glyph."""
    pen = _Pen()
    font.draw_glyph_with_pen(glyph, pen)
    return [np.array(contour) for contour in pen.contours]


def outline(curves: Sequence[Contour]) -> Outline:
    """At least one closed curve, as one outline."""
    starts = np.cumsum([0, *map(len, curves)])
    index = np.arange(starts[-1])
    after, before = index + 1, index - 1
    after[starts[1:] - 1], before[starts[:-1]] = starts[:-1], starts[1:] - 1
    points = np.concatenate(curves)
    return Outline(np.stack([points.real, points.imag], axis=1), after, before)


def fill(xy: Floats, after: Ints, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """1 where the outline winds around a cell's centre, else 0: float32 [rows,columns].

    `xy` [P,2] has y down and lies within the cells. By the nonzero rule, for fonts let contours overlap.
    """
    # Each edge crosses the scanlines between its ends; every crossing changes the winding of all cells to its right.
    scan = np.ceil(xy[:, 1] - 0.5).astype(np.int64)
    count = scan[after] - scan
    times = np.abs(count)
    edge = np.repeat(np.arange(len(xy)), times)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times)
    row = np.minimum(scan, scan[after])[edge] + step
    rise = xy[after] - xy
    slope = np.divide(rise[:, 0], rise[:, 1], out=np.zeros(len(xy)), where=times > 0)
    cross = xy[edge, 0] + (row + 0.5 - xy[edge, 1]) * slope[edge]
    column = np.ceil(cross - 0.5).astype(np.int64)
    change = np.bincount(row * (columns + 1) + column, np.sign(count)[edge], rows * (columns + 1))
    winding = change.reshape(rows, columns + 1).cumsum(axis=1)
    filled: npt.NDArray[np.float32] = (winding[:, :columns] != 0).astype(np.float32)
    return filled
