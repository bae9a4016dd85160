"""What the page consists of, whether it is served or built for a static host: its files, its font and its policy."""

import struct
import zlib
from functools import cache
from pathlib import Path

import uharfbuzz as hb

from lekhani.typefaces import SANS, face

FILES = Path(__file__).with_name("page_files")
FONT = "devanagari.woff"  # below font/, beside the page's files
# Devanagari, with the spaces and joiners that signs are written with, the signs of the rupee, and the circle of signs
# without a letter. As in unicode-range of the page's style.
_CHARACTERS = (*range(0x900, 0x980), *map(ord, " \u00a0\u200c\u200d\u20a8₹\u25cc"))
# Nothing is loaded from elsewhere, no text becomes script or markup, and no other page frames this one.
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "font-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}


def policy(rules: dict[str, str]) -> str:
    """A Content Security Policy as it is sent."""
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@cache
def web_font() -> bytes:
    """The Devanagari of Noto Sans in its regular weight, with the forms of every language, as WOFF.

    Raises LekhaniError where the package of the font is missing.
    """
    whole, wanted = face(SANS), hb.SubsetInput()
    wanted.unicode_set.clear()
    wanted.unicode_set.update(_CHARACTERS)
    wanted.layout_feature_tag_set.clear()
    wanted.layout_feature_tag_set.invert()  # all of them
    wanted.pin_axis_location(whole, "wght", 400)
    wanted.pin_axis_location(whole, "wdth", 100)
    return _woff(hb.subset(whole, wanted).blob.data)


def _woff(font: bytes) -> bytes:
    """A font with each table compressed; see https://www.w3.org/TR/WOFF/."""
    (count,) = struct.unpack(">4xH", font[:6])
    offset, directory, tables = 44 + 20 * count, b"", b""
    for i in range(count):
        tag, checksum, start, length = struct.unpack(">4sIII", font[12 + 16 * i : 28 + 16 * i])
        table = font[start : start + length]
        packed = min(table, zlib.compress(table, 9), key=len)
        directory += struct.pack(">4sIIII", tag, offset + len(tables), len(packed), length, checksum)
        tables += packed + bytes(-len(packed) % 4)
    size = offset + len(tables)
    about = struct.pack(">4s4sIHHIHHIIIII", b"wOFF", font[:4], size, count, 0, len(font), 1, 0, 0, 0, 0, 0, 0)
    return about + directory + tables
