"""Glyphs and lines in the media type that a client accepts: PNG, ZIP, NPZ, Parquet or JSON."""

import base64
import csv
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.generate import formats
from lekhani.pictures import Picture, grid

JSON, PNG, ZIP, NPZ = "application/json", "image/png", "application/zip", "application/x-npz"
PARQUET = "application/vnd.apache.parquet"
KINDS = (JSON, PNG, ZIP, NPZ, PARQUET)
GAP = 8  # pixels between lines
_LINE_FEATURES = {
    "image": {"_type": "Image"},
    "text": {"dtype": "string", "_type": "Value"},
    "seed": {"dtype": "uint64", "_type": "Value"},
}


def negotiate(accept: str | None) -> str | None:
    """The media type that an Accept header prefers, JSON without a header; None for none of those that can be written.

    These are KINDS, without Parquet where pyarrow is not installed.
    """
    if not accept:
        return JSON
    kinds = [kind for kind in KINDS if kind != PARQUET or find_spec("pyarrow")]
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
    """Labelled glyphs, uint8 [N,H,W] and int64 [N].

    A grid as PNG, a ZIP of PNGs with labels.csv, an NPZ of both arrays, Parquet, or a value for JSON.
    """
    if kind == PNG:
        return png(grid(images, math.ceil(math.sqrt(len(images)))))
    if kind == NPZ:
        return _npz(images=images, labels=labels)
    if kind == PARQUET:
        file = io.BytesIO()
        formats.write_parquet_glyphs(file, formats.Shard(0, 1, 0, labels, classes), images)
        return file.getvalue()
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
    pictures = {f"{i:06d}.png": png(image) for i, image in enumerate(images)}
    return _zipped({"labels.csv": table.getvalue().encode(), **pictures})


def lines(
    kind: str, pictures: Mapping[int, Image.Image], text: str, about: Mapping[str, Any]
) -> bytes | dict[str, Any]:
    """Lines of the same text by their seeds.

    One above the other as PNG, a ZIP of PNGs with their transcripts, an NPZ of arrays and `text`, Parquet, or a value
    for JSON.
    """
    if kind == PNG:
        return png(_stacked(list(pictures.values())))
    if kind == JSON:
        values = [{"seed": seed, "png": base64_png(picture)} for seed, picture in pictures.items()]
        return {**about, "text": text, "lines": values}
    named = {f"line_{i:06d}": picture for i, picture in enumerate(pictures.values())}
    if kind == NPZ:
        return _npz(**{name: np.asarray(picture) for name, picture in named.items()}, text=np.array(text))
    if kind == PARQUET:
        file = io.BytesIO()
        stored = formats.parquet_pictures((f"{name}.png", np.asarray(picture)) for name, picture in named.items())
        columns = {"image": stored, "text": [text] * len(named), "seed": np.array(list(pictures), np.uint64)}
        formats.write_parquet(file, columns, _LINE_FEATURES)
        return file.getvalue()
    transcripts = {f"{name}.gt.txt": f"{text}\n".encode() for name in named}
    return _zipped({f"{name}.png": png(picture) for name, picture in named.items()} | transcripts)


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one above the other on white."""
    step = pictures[0].height + GAP  # lines are equally high
    sheet = Image.new(pictures[0].mode, (max(one.width for one in pictures), step * len(pictures) - GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (0, i * step))
    return sheet


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A ZIP of files by name."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:  # PNGs are compressed already
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time, or else the bytes would differ
    return made.getvalue()


def _npz(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)
    return made.getvalue()
