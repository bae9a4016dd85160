"""Hugging Face's shards: images as bytes, labels that the schema names, and nothing taken on trust."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import data, encoded, glyph, glyphs, parquet, refused, write_tree, zipped

from lekhani.data.layouts import read_raw
from lekhani.data.readers import parquet as reader


def shard(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


IMAGES = [encoded(glyph(200 + i)) for i in range(4)]
STRUCTS = pa.array([{"bytes": image, "path": None} for image in IMAGES])


@pytest.mark.parametrize("folder", ["", "data/", "glyphs/data/"])
@pytest.mark.parametrize("packed", [False, True])
def test_shards_with_names(tmp_path: Path, folder: str, packed: bool) -> None:
    names = ["ka", "kha"]
    files = {
        f"{folder}train-00000-of-00002.parquet": parquet([0, 1], names),
        f"{folder}train-00001-of-00002.parquet": parquet([1, 1], names),
        f"{folder}test-00000-of-00001.parquet": parquet([0], names),
        f"{folder}validation-00000-of-00001.parquet": parquet([0], names),
    }
    for name, content in ({"x.zip": zipped(files)} if packed else files).items():
        write_tree(tmp_path, name, content=content)
    raw = read_raw(tmp_path, "devanagari")
    assert sorted(zip(raw.splits, glyphs(raw), strict=True)) == sorted(
        [("train", "क"), ("train", "ख"), ("train", "ख"), ("train", "ख"), ("test", "क"), ("train", "क")]
    )
    assert raw.members[0] == f"{folder}test-00000-of-00001.parquet[0]"
    np.testing.assert_array_equal(raw.images[0], glyph(200))


@pytest.mark.parametrize(
    "columns",
    [
        {"image": STRUCTS, "label": [3, 5, 3, 5]},
        {"image": pa.array(IMAGES), "digit": ["3", "5", "3", "5"]},
        {"id": ["a", "b", "c", "d"], "img": STRUCTS, "label": [3, 5, 3, 5], "writer": [1, 1, 2, 2]},
        {"image": STRUCTS, "Zeichen": pa.array([3, 5, 3, 5], pa.int8()).dictionary_encode().cast(pa.int8())},
    ],
)
def test_columns_of_other_kinds_and_names(tmp_path: Path, columns: Any) -> None:
    write_tree(tmp_path, "own.parquet", content=shard(**columns))
    assert glyphs(read_raw(tmp_path, "mnist")) == ["3", "5", "3", "5"]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"PAR1 and nothing", "own.parquet cannot be read .*; download or save it again"),
        (parquet([0, 1], ["a", "b"])[:-40], "own.parquet cannot be read"),
        (shard(label=[1, 2]), "has no column of images as bytes .there are: `label` .int64.."),
        (shard(a=pa.array(IMAGES), b=pa.array(IMAGES), label=[1, 2, 1, 2]), "more than one column of images"),
        (shard(image=STRUCTS), r"nothing tells which column of .* holds the labels .none of numbers or text."),
        (shard(image=STRUCTS, one=[1, 2, 1, 2], two=[1, 2, 1, 2]), r"\(`one`, `two`\); set data\.own\.label_column"),
        (shard(image=STRUCTS, label=[1, None, 1, 2]), "row 1 of .* has no label"),
        (shard(image=pa.array([None, IMAGES[0]], pa.binary()), label=[1, 2]), "row 0 of .* has no image"),
        (parquet([0, -1], ["a", "b"]), r"has the label -1 in row 1, outside 0\.\.1"),
        (shard(image=pa.array([b"no image"] * 2), label=[1, 2]), r"The image own.parquet\[0\] in .* cannot be read"),
        (shard(image=pa.array([], pa.binary()), label=pa.array([], pa.int64())), "holds no rows"),
    ],
)
def test_faults(tmp_path: Path, content: bytes, pattern: str) -> None:
    write_tree(tmp_path, "own.parquet", content=content)
    refused(tmp_path, "own", pattern)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.parquet"
    rows = pa.table({"image": pa.array([bytes(4 << 20)] * 20), "label": [1] * 20})
    pq.write_table(rows, path, compression="zstd", use_dictionary=False)
    refused(tmp_path, "own", "own.parquet would unpack from .* more than is allowed")
    monkeypatch.setattr(reader, "_MAX_ROWS", 3)
    path.write_bytes(shard(image=STRUCTS, label=[1, 2, 1, 2]))
    refused(tmp_path, "own", "brings the rows to more than 3; leave out some files")


def test_several_datasets_and_names_that_differ(tmp_path: Path) -> None:
    write_tree(tmp_path, "digits/train-0.parquet", content=parquet([0, 1], ["0", "1"]))
    write_tree(tmp_path, "letters/train-0.parquet", content=parquet([0, 1], ["a", "b"]))
    names = r"name those to read in data\.own\.files, such as digits/train-0.parquet"
    refused(
        tmp_path, "own", f"holds files of 2 datasets, such as digits/train-0.parquet, letters/train-0.parquet; {names}"
    )
    assert glyphs(read_raw(tmp_path, "own", data(files="letters/**"))) == ["a", "b"]
    refused(tmp_path, "own", "do not agree on the names of classes", files="**")
