"""Grids of glyphs as arrays, PNG files of them, and the font that plots need."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lekhani.files import replacing

Picture = npt.NDArray[np.uint8]
FONT = "Noto Sans Devanagari"


def to_uint8(images: npt.NDArray[Any]) -> Picture:
    """Images float in [0,1], [N,1,H,W] or [N,H,W] -> uint8 [N,H,W]."""
    flat = images[:, 0] if images.ndim == 4 else images
    picture: Picture = np.rint(np.clip(flat, 0, 1) * 255).astype(np.uint8)
    return picture


def grid(images: Picture, columns: int, gap: int = 1) -> Picture:
    """Images uint8 [N,H,W] row by row, `gap` grey pixels between them.

    -> uint8 [rows*(H+gap)-gap, columns*(W+gap)-gap].
    """
    n, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap)), 48, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def enlarged(picture: Picture, scale: int) -> Picture:
    """Each pixel of a picture [H,W] as `scale` times `scale` equal ones."""
    return picture.repeat(scale, 0).repeat(scale, 1)


def save_png(picture: Picture, path: Path, scale: int = 1) -> None:
    """Write a grey picture [H,W] as PNG, each pixel `scale` pixels wide."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(enlarged(picture, scale)).save(temporary, format="PNG")


def png_bytes(picture: Picture, level: int = 1) -> bytes:
    """A grey picture uint8 [H,W], or one in colour [H,W,3], as the content of a PNG file, without compression at 0.

    Some two to ten times as fast as Pillow, for files that are about as small: RFC 2083 leaves the choice of filters
    open, and Pillow tries them all.
    """
    height, width, *depth = picture.shape
    lines = np.zeros((height, 1 + picture[0].size), np.uint8)  # the first byte of each says how it is filtered
    lines[:, 1:] = picture.reshape(height, -1)
    if depth:
        lines[:, 0] = 1  # a pixel less the one to its left
        lines[:, 4:] -= picture.reshape(height, -1)[:, :-3]
    packer = zlib.compressobj(level, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if depth else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packer.compress(lines.tobytes()) + packer.flush()), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def use_devanagari_font() -> None:
    """Let matplotlib draw Devanagari with the font that ships as a package."""
    from importlib import resources

    import matplotlib as mpl
    from matplotlib import font_manager

    font = resources.files("fontpkg_noto_sans_devanagari") / "files" / "NotoSansDevanagari[wdth,wght].ttf"
    with resources.as_file(font) as path:
        fonts = font_manager.fontManager
        # A font of the system with the same name would draw other pictures than those of other machines.
        fonts.ttflist = [one for one in fonts.ttflist if one.name != FONT]
        fonts.addfont(path)
    mpl.rcParams["font.family"] = ["DejaVu Sans", FONT]
