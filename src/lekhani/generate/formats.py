"""The files that a shard becomes. Their bytes are decided by its images and labels: nothing in them tells the time or the machine."""

import csv
import io
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.inference.session import Floats

Format = Literal["png", "parquet", "webdataset", "idx", "npz"]


@dataclass(frozen=True)
class Place:
    """Which shard it is: its `number` of `shards`, the place `start` of its first image among all, its `labels` int64 [n]."""

    number: int
    shards: int
    start: int
    labels: Labels
    classes: Sequence[GlyphClass]

    def stem(self, digits: int = 5) -> str:
        """The shard's number for a file name, empty where there is only one."""
        return f"{self.number:0{digits}d}" if self.shards > 1 else ""

    def rows(self) -> Iterator[tuple[int, int, GlyphClass]]:
        """The place of each image in the shard and among all, and its class."""
        return ((i, self.start + i, self.classes[label]) for i, label in enumerate(self.labels.tolist()))


@dataclass(frozen=True)
class Layout:
    """A format: the `names` of a shard's files, relative to the output, and what writes them into a folder, `confidence` [n] or None."""

    names: Callable[[Place], list[str]]
    write: Callable[[Path, Place, Bytes, Floats | None], None]
    about: str


def png_bytes(picture: Bytes, level: int = 1) -> bytes:
    """A grey picture uint8 [H,W] as the content of a PNG file (RFC 2083), at `level` 0 without compression.

    Twice as quick as Pillow where pictures are as small as glyphs, and ten times at level 0.
    """
    height, width = picture.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with a 0, for no filter
    lines[:, 1:] = picture
    packer = zlib.compressobj(level, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packer.compress(lines.tobytes()) + packer.flush()), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# --- folders of PNG ---


def _png_names(place: Place) -> list[str]:
    folder = f"{place.stem()}/" if place.stem() else ""
    return [*(f"{folder}{name}" for name in _pictures(place)), f"{folder}labels.csv"]


def _pictures(place: Place) -> list[str]:
    safe = [re.sub(r"[^\w-]", "_", c.name)[:80] for c in place.classes]  # a model file may name its classes as it likes
    return [f"{whole:06d}_{safe[known.label]}.png" for _, whole, known in place.rows()]


def _png(folder: Path, place: Place, images: Bytes, confidence: Floats | None) -> None:
    below = folder / place.stem()
    below.mkdir(exist_ok=True)
    sure = [] if confidence is None else ["confidence"]
    with (below / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "label", "name", "glyph", *sure))
        for name, (i, _, known) in zip(_pictures(place), place.rows(), strict=True):
            (below / name).write_bytes(png_bytes(images[i]))
            writer.writerow(
                (name, known.label, known.name, known.glyph, *([] if confidence is None else [f"{confidence[i]:.4f}"]))
            )


# --- Parquet, with what Hugging Face's datasets wants to know ---


def _parquet_names(place: Place) -> list[str]:
    return [f"data/train-{place.number:05d}-of-{place.shards:05d}.parquet"]


def _parquet(folder: Path, place: Place, images: Bytes, confidence: Floats | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": [c.name for c in place.classes], "_type": "ClassLabel"},
        "glyph": {"dtype": "string", "_type": "Value"},
    }
    columns: dict[str, Any] = {
        "image": pa.array(
            [{"bytes": png_bytes(images[i], level=0), "path": f"{whole:06d}.png"} for i, whole, _ in place.rows()],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "label": pa.array(place.labels),
        "glyph": pa.array([known.glyph for _, _, known in place.rows()], pa.string()),
    }
    if confidence is not None:
        features["confidence"] = {"dtype": "float32", "_type": "Value"}
        columns["confidence"] = pa.array(confidence)
    told = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    table = pa.table(columns).replace_schema_metadata(told)
    path = folder / _parquet_names(place)[0]
    path.parent.mkdir()
    pq.write_table(
        table, path, compression="zstd", row_group_size=1000
    )  # packs many pictures at once, smaller and quicker than each alone


# --- tar files for webdataset ---


def _tar_names(place: Place) -> list[str]:
    return [f"glyphs-{place.number:05d}.tar"]


def _tar(folder: Path, place: Place, images: Bytes, confidence: Floats | None) -> None:
    with tarfile.open(folder / _tar_names(place)[0], "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, whole, known in place.rows():
            told = {"label": known.label, "name": known.name, "glyph": known.glyph}
            told |= {} if confidence is None else {"confidence": round(float(confidence[i]), 4)}
            members = {
                "cls": f"{known.label}".encode(),
                "json": json.dumps(told, ensure_ascii=False).encode(),
                "png": png_bytes(images[i]),
            }
            for end, content in members.items():
                member = tarfile.TarInfo(f"{whole:09d}.{end}")  # of the year 1970 and of user 0, unless told otherwise
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


# --- IDX, as MNIST comes ---


def _idx_names(place: Place) -> list[str]:
    number = f"-{place.stem()}" if place.stem() else ""
    return [
        f"train{number}-images-idx3-ubyte",
        f"train{number}-labels-idx1-{'ubyte' if len(place.classes) <= 256 else 'int'}",
    ]


def _idx(folder: Path, place: Place, images: Bytes, _: Floats | None) -> None:
    pictures, labels = _idx_names(place)
    (folder / pictures).write_bytes(struct.pack(">BBBB3I", 0, 0, 0x08, 3, *images.shape) + images.tobytes())
    kind, dtype = (0x08, ">u1") if len(place.classes) <= 256 else (0x0C, ">i4")
    (folder / labels).write_bytes(
        struct.pack(">BBBBI", 0, 0, kind, 1, len(images)) + place.labels.astype(dtype).tobytes()
    )


# --- NumPy ---


def _npz_names(place: Place) -> list[str]:
    return [f"glyphs{'-' if place.stem() else ''}{place.stem()}.npz"]


def _npz(folder: Path, place: Place, images: Bytes, confidence: Floats | None) -> None:
    extra: dict[str, Any] = {} if confidence is None else {"confidence": confidence}
    np.savez(folder / _npz_names(place)[0], images=images, labels=place.labels, **extra)


LAYOUTS: dict[str, Layout] = {
    "png": Layout(
        _png_names, _png, "PNG files, with file, label, name and glyph of each in the labels.csv beside them"
    ),
    "parquet": Layout(_parquet_names, _parquet, "Parquet files in data/ with the columns image (PNG), label and glyph"),
    "webdataset": Layout(_tar_names, _tar, "tar files with a .png, a .cls (the label) and a .json for each image"),
    "idx": Layout(_idx_names, _idx, "IDX files, as MNIST comes: images uint8 [N,H,W], and their labels"),
    "npz": Layout(_npz_names, _npz, "NumPy files with the arrays images uint8 [N,H,W] and labels int64 [N]"),
}
