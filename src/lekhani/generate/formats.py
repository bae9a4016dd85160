"""The files of a shard. Their bytes depend on images and labels alone: they hold neither time nor machine."""

import csv
import io
import json
import re
import struct
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.inference.session import Floats
from lekhani.pictures import Picture, png_bytes

FormatName = Literal["png", "imagefolder", "parquet", "webdataset", "idx", "npz"]


@dataclass(frozen=True)
class Shard:
    """Part `number` of `shards`: its `labels` int64 [n], and `start`, the index of its first image among all."""

    number: int
    shards: int
    start: int
    labels: Labels
    classes: Sequence[GlyphClass]

    @property
    def suffix(self) -> str:
        """The shard's number for a file name, as in "-00001"; empty where there is only one shard."""
        return f"-{self.number:05d}" if self.shards > 1 else ""

    def rows(self) -> Iterator[tuple[int, int, GlyphClass]]:
        """The index of each image in the shard and among all, and its class."""
        return ((i, self.start + i, self.classes[label]) for i, label in enumerate(self.labels.tolist()))


@dataclass(frozen=True)
class Format:
    """A file format: the `names` of a shard's files, relative to the output, and the function that writes them.

    `write` takes a folder, the shard, its images uint8 [n,H,W] and the judge's confidences [n], or None. `room` tells
    how many bytes of a disk an image of so many pixels takes at least.
    """

    names: Callable[[Shard], list[str]]
    write: Callable[[Path, Shard, Bytes, Floats | None], None]
    about: str
    room: Callable[[int], int] = lambda _: 4096  # a file of its own


# --- folders of PNG ---


def _png_names(shard: Shard) -> list[str]:
    folder = f"{shard.number:05d}/" if shard.shards > 1 else ""
    safe = [re.sub(r"[^\w-]", "_", c.name)[:80] for c in shard.classes]  # a model file may name its classes as it likes
    pictures = (f"{folder}{index:06d}_{safe[known.label]}.png" for _, index, known in shard.rows())
    return [*pictures, f"{folder}labels.csv"]


def _png(folder: Path, shard: Shard, images: Bytes, confidence: Floats | None) -> None:
    _pictures_and_table(folder, _png_names(shard), "file", shard, images, confidence)


def _pictures_and_table(
    folder: Path, names: Sequence[str], column: str, shard: Shard, images: Bytes, confidence: Floats | None
) -> None:
    """Write pictures and, last of `names`, a CSV file whose `column` names them from its own folder."""
    *pictures, table = (folder / name for name in names)
    for parent in {path.parent for path in (*pictures, table)}:
        parent.mkdir(exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((column, "label", "name", "glyph", *([] if confidence is None else ["confidence"])))
        for path, (i, _, known) in zip(pictures, shard.rows(), strict=True):
            path.write_bytes(png_bytes(images[i]))
            sure = [] if confidence is None else [f"{confidence[i]:.4f}"]
            writer.writerow((path.relative_to(table.parent).as_posix(), known.label, known.name, known.glyph, *sure))


# --- a folder of PNG for each class, as torchvision, Keras and Hugging Face's datasets read them ---

_RESERVED = {"con", "prn", "aux", "nul"}  # by Windows


def class_folders(classes: Sequence[GlyphClass]) -> list[str]:
    """A folder's name for each class: its glyph, where that is a safe name on every system.

    Glyphs that differ in nothing but case are followed by their labels, as in A_10 and a_36, and what is more than
    letters, marks and numbers becomes class_ and its label.
    """
    alike = Counter(_as_files_compare(one.glyph) for one in classes)
    return [_class_folder(one, alike[_as_files_compare(one.glyph)] == 1) for one in classes]


def _as_files_compare(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _class_folder(known: GlyphClass, is_alone: bool) -> str:
    glyph = unicodedata.normalize("NFC", known.glyph)
    is_safe = (
        glyph != ""
        and all(unicodedata.category(one)[0] in "LMN" for one in glyph)
        and glyph.casefold() not in _RESERVED
    )
    if not is_safe or len(glyph) > 40:
        return f"class_{known.label}"
    return glyph if is_alone else f"{glyph}_{known.label}"


def _imagefolder_names(shard: Shard) -> list[str]:
    folders = class_folders(shard.classes)
    pictures = (f"{folders[known.label]}/{index:06d}.png" for _, index, known in shard.rows())
    return [*pictures, f"metadata{shard.suffix}.csv"]


def _imagefolder(folder: Path, shard: Shard, images: Bytes, confidence: Floats | None) -> None:
    _pictures_and_table(folder, _imagefolder_names(shard), "file_name", shard, images, confidence)


# --- Parquet, with the features of Hugging Face's datasets ---


def _parquet_names(shard: Shard) -> list[str]:
    return [f"data/train-{shard.number:05d}-of-{shard.shards:05d}.parquet"]


def write_parquet(target: "Path | BinaryIO", columns: Mapping[str, Any], features: Mapping[str, Any]) -> None:
    """Write columns that pyarrow takes, with what Hugging Face's datasets shall take them for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    table = pa.table(dict(columns)).replace_schema_metadata(metadata)
    pq.write_table(table, target, compression="zstd", row_group_size=1000)


def parquet_pictures(pictures: Iterable[tuple[str, Picture]]) -> Any:
    """A column of pictures by their names."""
    import pyarrow as pa

    # Stored without compression: zstd packs many pictures at once, smaller and faster than each by itself.
    stored = [{"bytes": png_bytes(picture, level=0), "path": name} for name, picture in pictures]
    return pa.array(stored, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def write_parquet_glyphs(
    target: "Path | BinaryIO", shard: Shard, images: Bytes, confidence: Floats | None = None
) -> None:
    """Write labelled glyphs with the columns image, label and glyph."""
    import pyarrow as pa

    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": [c.name for c in shard.classes], "_type": "ClassLabel"},
        "glyph": {"dtype": "string", "_type": "Value"},
    }
    columns: dict[str, Any] = {
        "image": parquet_pictures((f"{index:06d}.png", images[i]) for i, index, _ in shard.rows()),
        "label": pa.array(shard.labels),
        "glyph": pa.array([known.glyph for _, _, known in shard.rows()], pa.string()),
    }
    if confidence is not None:
        features["confidence"] = {"dtype": "float32", "_type": "Value"}
        columns["confidence"] = pa.array(confidence)
    write_parquet(target, columns, features)


def _parquet(folder: Path, shard: Shard, images: Bytes, confidence: Floats | None) -> None:
    path = folder / _parquet_names(shard)[0]
    path.parent.mkdir()
    write_parquet_glyphs(path, shard, images, confidence)


# --- tar files for webdataset ---


def _webdataset_names(shard: Shard) -> list[str]:
    return [f"glyphs-{shard.number:05d}.tar"]


def _webdataset(folder: Path, shard: Shard, images: Bytes, confidence: Floats | None) -> None:
    with tarfile.open(folder / _webdataset_names(shard)[0], "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, index, known in shard.rows():
            facts: dict[str, Any] = {"label": known.label, "name": known.name, "glyph": known.glyph}
            facts |= {} if confidence is None else {"confidence": round(float(confidence[i]), 4)}
            members = {
                "cls": f"{known.label}".encode(),
                "json": json.dumps(facts, ensure_ascii=False).encode(),
                "png": png_bytes(images[i]),
            }
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{index:09d}.{extension}")  # by default of the year 1970 and of user 0
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


# --- IDX, as MNIST comes ---


def _idx_names(shard: Shard) -> list[str]:
    labels = "ubyte" if len(shard.classes) <= 256 else "int"
    return [f"train{shard.suffix}-images-idx3-ubyte", f"train{shard.suffix}-labels-idx1-{labels}"]


def _idx(folder: Path, shard: Shard, images: Bytes, _: Floats | None) -> None:
    pictures, labels = (folder / name for name in _idx_names(shard))
    pictures.write_bytes(struct.pack(">BBBB3I", 0, 0, 0x08, 3, *images.shape) + images.tobytes())
    kind, dtype = (0x08, ">u1") if len(shard.classes) <= 256 else (0x0C, ">i4")
    labels.write_bytes(struct.pack(">BBBBI", 0, 0, kind, 1, len(images)) + shard.labels.astype(dtype).tobytes())


# --- NumPy ---


def _npz_names(shard: Shard) -> list[str]:
    return [f"glyphs{shard.suffix}.npz"]


def _npz(folder: Path, shard: Shard, images: Bytes, confidence: Floats | None) -> None:
    extra: dict[str, Any] = {} if confidence is None else {"confidence": confidence}
    np.savez(folder / _npz_names(shard)[0], images=images, labels=shard.labels, **extra)


FORMATS: dict[str, Format] = {
    "png": Format(
        _png_names, _png, "PNG files, with file, label, name and glyph of each in the labels.csv beside them"
    ),
    "imagefolder": Format(
        _imagefolder_names,
        _imagefolder,
        "PNG files in a folder for each class, with file_name, label, name and glyph of each in metadata.csv",
    ),
    "parquet": Format(
        _parquet_names,
        _parquet,
        "Parquet files in data/ with the columns image (PNG), label and glyph",
        lambda pixels: pixels // 8,
    ),
    "webdataset": Format(
        _webdataset_names,
        _webdataset,
        "tar files with a .png, a .cls (the label) and a .json for each image",
        lambda _: 3072,
    ),
    "idx": Format(
        _idx_names, _idx, "IDX files, as MNIST comes: images uint8 [N,H,W], and their labels", lambda pixels: pixels + 1
    ),
    "npz": Format(
        _npz_names,
        _npz,
        "NumPy files with the arrays images uint8 [N,H,W] and labels int64 [N]",
        lambda pixels: pixels + 8,
    ),
}
