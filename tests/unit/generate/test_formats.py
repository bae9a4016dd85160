"""Each format is read back with the tools that it is made for; the same images give the same bytes."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lekhani.data.spec import DEVANAGARI, MNIST, Bytes, GlyphClass
from lekhani.generate.formats import FORMATS, Shard, class_folders

LABELS = np.array([2, 0, 1, 2, 45], np.int64)
IMAGES: Bytes = np.random.default_rng(0).integers(0, 256, (5, 6, 6), dtype=np.uint8)
SURE = np.array([0.5, 0.75, 0.875, 1, 0.25], np.float32)


def shard(number: int = 1, shards: int = 3, classes: tuple[GlyphClass, ...] = DEVANAGARI) -> Shard:
    return Shard(number, shards, 70, LABELS, classes)


def written(folder: Path, format: str, part: Shard | None = None, confidence: Any = SURE) -> list[Path]:
    """The files of one shard, which are those that were announced."""
    folder.mkdir(parents=True, exist_ok=True)
    part = part or shard()
    FORMATS[format].write(folder, part, IMAGES, confidence)
    names = FORMATS[format].names(part)
    assert sorted(names) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [folder / name for name in names]


def opened(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        return np.asarray(picture)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_images_give_the_same_bytes(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(tmp_path / "a", format)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    second = written(tmp_path / "b", format)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_png(tmp_path: Path) -> None:
    *pictures, table = written(tmp_path, "png")
    assert table == tmp_path / "00001" / "labels.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["file"] for row in rows] == [path.name for path in pictures]
    assert rows[0] == {
        "file": "000070_character_3_ga.png",
        "label": "2",
        "name": "character_3_ga",
        "glyph": "ग",
        "confidence": "0.5000",
    }
    for path, image in zip(pictures, IMAGES, strict=True):
        np.testing.assert_array_equal(opened(path.read_bytes()), image)


def test_no_class_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    evil = tuple(GlyphClass(i, "x/../../../evil", "क") for i in range(46))
    files = written(tmp_path / "deep" / "out", "png", shard(0, 1, evil))
    assert {path.parent for path in files} == {tmp_path / "deep" / "out"}, "a single shard lies at the top"
    assert [path for path in tmp_path.rglob("*evil*") if path.parent != tmp_path / "deep" / "out"] == []


def test_a_folder_of_pictures_for_each_class(tmp_path: Path) -> None:
    for number in (0, 1):
        *pictures, table = written(
            tmp_path / f"{number}", "imagefolder", Shard(number, 2 - number, 70, LABELS, DEVANAGARI)
        )
        assert table.name == ("metadata-00000.csv", "metadata.csv")[number]
    names = ["ग/000070.png", "क/000071.png", "ख/000072.png", "ग/000073.png", "९/000074.png"]
    assert [path.relative_to(tmp_path / "1").as_posix() for path in pictures] == names
    # As torchvision.datasets.ImageFolder reads: the sorted folders are the classes.
    classes = sorted(path.name for path in (tmp_path / "1").iterdir() if path.is_dir())
    assert classes == ["क", "ख", "ग", "९"]
    for name, label, image in zip(names, LABELS, IMAGES, strict=True):
        assert Path(name).parent.name == DEVANAGARI[label].glyph
        np.testing.assert_array_equal(opened((tmp_path / "1" / name).read_bytes()), image)


def test_hugging_face_loads_folders_with_and_without_their_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    for shards, columns in ((1, {"image", "label", "name", "glyph", "confidence"}), (2, {"image", "label"})):
        folder = tmp_path / f"{shards}"
        written(folder, "imagefolder", Shard(0, shards, 70, LABELS, DEVANAGARI))
        loaded = datasets.load_dataset(
            "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "c")
        )
        assert set(loaded.features) == columns
        assert len(loaded) == len(LABELS)
        if shards == 1:
            assert loaded["label"][:] == LABELS.tolist()
            np.testing.assert_array_equal(np.stack([np.asarray(one) for one in loaded["image"][:]]), IMAGES)
        else:
            assert loaded.features["label"].names == ["क", "ख", "ग", "९"]


def test_every_class_has_a_folder_of_its_own_that_leads_nowhere_else() -> None:
    glyphs = ["क्ष", "A", "a", "ß", "SS", "ss", "é", "../x", ".", "..", "", "a b", "CON", "/", "x" * 300, "\u202e"]
    names = class_folders([GlyphClass(i, f"c{i}", glyph) for i, glyph in enumerate(glyphs)])
    assert names[:7] == ["क्ष", "A_1", "a_2", "ß_3", "SS_4", "ss_5", "é"]
    assert names[7:] == [f"class_{i}" for i in range(7, len(glyphs))]


def test_parquet(tmp_path: Path) -> None:
    (file,) = written(tmp_path, "parquet")
    assert file == tmp_path / "data" / "train-00001-of-00003.parquet"
    table = pd.read_parquet(file)
    assert table.columns.tolist() == ["image", "label", "glyph", "confidence"]
    assert table["label"].tolist() == LABELS.tolist()
    np.testing.assert_array_equal(np.stack([opened(one["bytes"]) for one in table["image"]]), IMAGES)
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    loaded = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == [c.name for c in DEVANAGARI]
    row = loaded[0]
    np.testing.assert_array_equal(np.asarray(row["image"]), IMAGES[0])
    assert (row["label"], row["glyph"], row["confidence"]) == (2, "ग", 0.5)


def test_webdataset(tmp_path: Path) -> None:
    (file,) = written(tmp_path, "webdataset")
    with tarfile.open(file) as tar:
        members = tar.getmembers()
        assert {(one.mtime, one.uid, one.gid, one.uname) for one in members} == {(0, 0, 0, "")}
        assert [one.name for one in members[:3]] == ["000000070.cls", "000000070.json", "000000070.png"]
        facts = json.loads(tar.extractfile("000000074.json").read())  # type: ignore[union-attr]
    assert facts == {"label": 45, "name": "digit_9", "glyph": "९", "confidence": 0.25}
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    samples = list(webdataset.WebDataset(str(file), shardshuffle=False).decode("l8").to_tuple("png", "cls"))
    assert [label for _, label in samples] == LABELS.tolist()
    np.testing.assert_array_equal(np.stack([image for image, _ in samples]), IMAGES)


def test_idx(tmp_path: Path) -> None:
    images, labels = written(tmp_path, "idx")
    assert [images.name, labels.name] == ["train-00001-images-idx3-ubyte", "train-00001-labels-idx1-ubyte"]
    assert images.read_bytes()[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 6])
    np.testing.assert_array_equal(np.frombuffer(images.read_bytes(), np.uint8, offset=16).reshape(5, 6, 6), IMAGES)
    assert labels.read_bytes() == bytes([0, 0, 8, 1, 0, 0, 0, 5, *LABELS])
    many = tuple(GlyphClass(i, f"c{i}", f"c{i}") for i in range(300))
    _, labels = written(tmp_path / "many", "idx", Shard(0, 1, 0, np.array([299, 1, 2, 3, 4]), many))
    assert labels.name == "train-labels-idx1-int"
    assert labels.read_bytes()[:12] == bytes([0, 0, 0x0C, 1, 0, 0, 0, 5, 0, 0, 1, 43])


def test_npz(tmp_path: Path) -> None:
    (file,) = written(tmp_path, "npz")
    with np.load(file) as arrays:
        np.testing.assert_array_equal(arrays["images"], IMAGES)
        np.testing.assert_array_equal(arrays["labels"], LABELS)
        np.testing.assert_array_equal(arrays["confidence"], SURE)
        assert (arrays["images"].dtype, arrays["labels"].dtype) == (np.uint8, np.int64)
    assert FORMATS["npz"].names(shard(0, 1, MNIST)) == ["glyphs.npz"]
