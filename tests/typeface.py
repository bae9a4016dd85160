"""A generator and a judge that need no training: both know the glyphs of a typeface."""

import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from lekhani.data.spec import MNIST, Bytes, GlyphClass
from lekhani.inference.session import Generator, Reader
from lekhani.pen import Pen

Floats = np.ndarray[Any, np.dtype[np.float32]]
LETTERS = ["क", "ख", "ग", "घ", "ज", "ध", "न", "भ", "म", "र", "ल", "व", "क्ष"]
DEVANAGARI = tuple(GlyphClass(i, f"class_{i}", glyph) for i, glyph in enumerate([*LETTERS, *"०१२३४५६७८९"]))
_FONT = "NotoSansDevanagari[wdth,wght].ttf"


@cache
def shape(glyph: str, size: int, dataset: str) -> Floats:
    """A glyph, float32 [size,size] in [0,1], light on dark, placed as in the dataset.

    क्ष would need shaping, so ष stands for it.
    """
    with resources.as_file(resources.files("fontpkg_noto_sans_devanagari") / "files" / _FONT) as path:
        font = ImageFont.load_default(80) if glyph.isascii() else ImageFont.truetype(str(path), 80)
    picture = Image.new("L", (240, 240))
    ImageDraw.Draw(picture).text((60, 60), "ष" if glyph == "क्ष" else glyph, 255, font)
    ink = np.asarray(picture.crop(picture.getbbox()), np.float32) / 255
    scale = (20 / 28 if dataset == "mnist" else 28 / 32) * size / max(ink.shape)
    small = np.asarray(
        Image.fromarray(ink).resize([max(round(side * scale), 1) for side in ink.shape[::-1]], Image.Resampling.LANCZOS)
    )
    frame = np.zeros((size, size), np.float32)
    top, left = ((size - side) // 2 for side in small.shape)
    frame[top : top + small.shape[0], left : left + small.shape[1]] = np.clip(small, 0, 1)
    if dataset == "mnist":
        down, across = ndimage.center_of_mass(frame)
        return cast(Floats, np.roll(frame, (round((size - 1) / 2 - down), round((size - 1) / 2 - across)), (0, 1)))
    return frame.astype(np.float32)


class TypefaceGenerator:
    """A conditional generator of the typeface's glyphs; the first noise value decides their brightness.

    The labels in `often_blank` come out blank whenever the second noise value is negative.
    """

    conditional, variant, path = True, "flow_matching", Path("typeface.onnx")
    lineage: ClassVar[dict[str, str]] = {}

    def __init__(self, dataset: str = "devanagari", often_blank: tuple[int, ...] = (), salt: str = "") -> None:
        self.dataset, self.often_blank = dataset, often_blank
        self.classes = MNIST if dataset == "mnist" else DEVANAGARI
        self.image_size = 28 if dataset == "mnist" else 32
        self.noise_dim, self.rows = 16, 0
        self.sha256 = hashlib.sha256(f"{dataset}{salt}".encode()).hexdigest()

    def run(self, noise: Floats, labels: Any) -> Floats:
        self.rows += len(labels)
        glyphs = np.stack([shape(self.classes[label].glyph, self.image_size, self.dataset) for label in labels])
        light = 0.9 + 0.1 * np.tanh(noise[:, :1, None])
        grain = 0.02 * np.resize(noise, (len(labels), self.image_size, self.image_size))
        images = np.clip(glyphs * light + np.abs(grain) * (glyphs > 0.1), 0, 1)
        images[np.isin(labels, self.often_blank) & (noise[:, 1] < 0)] = 0
        return cast(Floats, images[:, None].astype(np.float32))


class TypefaceJudge:
    """A judge: the class whose glyph an image resembles most, allowing for a pixel of shift."""

    def __init__(self, dataset: str = "devanagari") -> None:
        same = TypefaceGenerator(dataset)
        self.dataset, self.classes, self.image_size = dataset, same.classes, same.image_size
        self.sha256 = same.sha256[::-1]
        known = np.stack([shape(c.glyph, self.image_size, dataset) for c in self.classes])
        moved = [np.roll(known, (down, across), (1, 2)) for down in (-1, 0, 1) for across in (-1, 0, 1)]
        self.known = _unit(np.stack(moved))

    def read(self, images: Bytes) -> tuple[Any, Any]:
        likeness = np.einsum("mkp,np->nkm", self.known, _unit(images.astype(np.float32)))
        return np.zeros((len(images), 128), np.float32), 100 * np.maximum(likeness.max(-1) - 0.4, 0).astype(np.float32)


def _unit(images: Floats) -> Floats:
    flat = images.reshape(*images.shape[:-2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    return cast(Floats, flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-6))


def pen(dataset: str = "devanagari", judge: bool = True, **choices: Any) -> Pen:
    return Pen(
        cast(Generator, TypefaceGenerator(dataset, **choices)), reader(dataset) if judge else None, "the typeface"
    )


def reader(dataset: str = "devanagari") -> Reader:
    return cast(Reader, TypefaceJudge(dataset))


def unconditional() -> Pen:
    generator = SimpleNamespace(conditional=False, variant="dcgan", path="g.onnx", classes=DEVANAGARI, sha256="0" * 64)
    return Pen(cast(Generator, generator), None, "the dcgan")
