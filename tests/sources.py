"""Small sources of every layout, for tests of reading and of what must be refused."""

import csv
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lekhani import params
from lekhani.data.layouts import read_raw
from lekhani.data.raw import RawImages
from lekhani.errors import LekhaniError, UsageError

Array = np.ndarray[Any, Any]


def glyph(shade: int = 200, size: int = 12) -> Array:
    """A square of ink in the middle."""
    image = np.zeros((size, size), np.uint8)
    image[size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = shade
    return image


def encoded(image: Array | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def write_tree(folder: Path, *names: str, content: bytes | None = None) -> None:
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(glyph(200 + i % 50)) if content is None else content)


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def idx(array: Array) -> bytes:
    """Images or labels as MNIST's files hold them."""
    return (
        struct.pack(">HBB", 0, 8, array.ndim)
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] | None = None, delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    if header is not None:
        writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def pixel_rows(labels: Sequence[Any], size: int = 6) -> list[list[Any]]:
    """One row per label: a glyph's pixels, then the label."""
    return [[*glyph(130 + i % 100, size).ravel().tolist(), label] for i, label in enumerate(labels)]


def pixel_header(size: int = 6, name: str = "pixel{}") -> list[str]:
    return [name.format(i) for i in range(size * size)]


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def parquet(labels: Sequence[Any], names: Sequence[str] | None = None, images: Sequence[bytes] | None = None) -> bytes:
    """A shard as Hugging Face's `datasets` writes it: images as bytes and path, and labels that the schema names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = images or [encoded(glyph(200 + i % 50)) for i in range(len(labels))]
    column = pa.array([{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)])
    content = pa.table({"image": column, "label": pa.array(labels)})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        content = content.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(content, buffer)
    return buffer.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def data(**keys: Any) -> params.Data:
    return params.Data(source="local", path="anything", **keys)


def refused(folder: Path, name: str, pattern: str, **keys: Any) -> None:
    """Reading ends in one sentence that says this."""
    with pytest.raises(LekhaniError, match=pattern) as caught:
        read_raw(folder, name, data(**keys))
    assert isinstance(caught.value, UsageError)
    one_sentence(caught.value)


def one_sentence(error: LekhaniError) -> None:
    text = str(error)
    assert text.splitlines() == [text]
    assert text.endswith(".")
    assert len(text) < 1200


def glyphs(raw: RawImages) -> list[str]:
    """The glyph of every image."""
    return [raw.classes[label].glyph for label in raw.labels]
