"""Glyphs and lines in the form that a client asks for by Accept: PNG, ZIP, NPZ or JSON."""

import base64
import csv
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.pictures import Picture, grid

JSON, PNG, ZIP, NPZ = "application/json", "image/png", "application/zip", "application/x-npz"
KINDS = (JSON, PNG, ZIP, NPZ)


def chosen(accept: str | None, kinds: Sequence[str] = KINDS) -> str | None:
    """Which of `kinds` a client's Accept header wants most, the first one for a client that does not care; None for none of them."""
    if not accept:
        return kinds[0]
    found: str | None = parse_accept_header(accept, MIMEAccept).best_match(kinds)
    return found


def png(picture: "Picture | Image.Image") -> bytes:
    """A grey picture uint8 [H,W], or one of Pillow's, as PNG."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def base64_png(picture: "Picture | Image.Image") -> str:
    """The same as text."""
    return base64.b64encode(png(picture)).decode()


def glyphs(
    kind: str, images: Bytes, labels: Labels, classes: Sequence[GlyphClass], about: Mapping[str, Any]
) -> bytes | dict[str, Any]:
    """Labelled glyphs, uint8 [N,H,W] and int64 [N]: a grid, a ZIP of PNGs with labels.csv, an NPZ of both arrays, or a value for JSON."""
    if kind == PNG:
        return png(grid(images, math.ceil(math.sqrt(len(images)))))
    if kind == NPZ:
        return _npz(images=images, labels=labels)
    known = [classes[label] for label in labels.tolist()]
    if kind == JSON:
        return {
            **about,
            "images": [
                {"label": c.label, "name": c.name, "glyph": c.glyph, "png": base64_png(image)}
                for c, image in zip(known, images, strict=True)
            ],
        }
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("file", "label", "name", "glyph"))
    rows.writerows((f"{i:06d}.png", c.label, c.name, c.glyph) for i, c in enumerate(known))
    return packed(
        {"labels.csv": table.getvalue().encode()} | {f"{i:06d}.png": png(image) for i, image in enumerate(images)}
    )


def line(kind: str, picture: Image.Image, text: str, about: Mapping[str, Any]) -> bytes | dict[str, Any]:
    """A line of handwriting: a picture, a ZIP of it with its transcript, an NPZ of the array uint8 and the text, or a value for JSON."""
    if kind == PNG:
        return png(picture)
    if kind == NPZ:
        return _npz(image=np.asarray(picture), text=np.array(text))
    if kind == ZIP:
        return packed({"line.png": png(picture), "line.gt.txt": f"{text}\n".encode()})
    return {**about, "text": text, "png": base64_png(picture)}


def packed(files: Mapping[str, bytes]) -> bytes:
    """A ZIP of files by name."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:  # PNGs are compressed already
        for name, content in files.items():
            archive.writestr(
                zipfile.ZipInfo(name), content
            )  # without the time of day: the same request, the same bytes
    return made.getvalue()


def _npz(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)
    return made.getvalue()
