"""Whatever bytes lie in the folder, reading ends soon: in images that keep their promises, or in one sentence."""

import io
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from sources import (
    encoded,
    glyph,
    gzipped,
    idx,
    npy,
    npz,
    one_sentence,
    parquet,
    pixel_header,
    pixel_rows,
    table,
    tarred,
    zipped,
)

from lekhani.data.layouts import read_raw
from lekhani.data.raw import RawImages
from lekhani.errors import LekhaniError

MOST_SECONDS = 20.0  # for one small source on a busy machine; most take milliseconds

few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def keeps_promises(raw: RawImages) -> None:
    count = len(raw.images)
    assert count == len(raw.labels) == len(raw.members) == len(raw.splits) > 0
    for image in raw.images:
        assert image.dtype == np.uint8
        assert image.ndim == 2
        assert 0 < min(image.shape) <= max(image.shape) <= 256
    assert raw.labels.dtype == np.int64
    assert 0 <= raw.labels.min() <= raw.labels.max() < len(raw.classes)
    assert [c.label for c in raw.classes] == list(range(len(raw.classes)))
    assert len({c.name for c in raw.classes}) == len(raw.classes)
    assert all(c.name and c.glyph for c in raw.classes)
    assert set(raw.splits) <= {""} or set(raw.splits) == {"train", "test"}
    assert all(note.endswith(".") and note.splitlines() == [note] for note in raw.notes)


def endures(files: dict[str, bytes], name: str = "own") -> bool:
    """Reading these files ends in images (True) or in one sentence (False), soon, and leaves the folder as it was."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        before = sorted(folder.rglob("*"))
        start = time.monotonic()
        try:
            raw = read_raw(folder, name)
        except LekhaniError as error:
            one_sentence(error)
            read = False
        else:
            keeps_promises(raw)
            read = True
        assert time.monotonic() - start < MOST_SECONDS
        assert sorted(folder.rglob("*")) == before
        return read


# --- any bytes at all ---

HOSTILE_NAMES = ["a/1.png", "../x.png", "/etc/x.png", "a\\1.png", "C:x.png", "a/./1.png", "a\n/1.png", "a//1.png"]
HOSTILE_NAMES += ["\x00", "a/1.png/2.png", "x.zip", "data.csv", "."]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(HOSTILE_NAMES)
contents = st.binary(max_size=40) | st.just(encoded(glyph())) | st.just(encoded(255 - glyph()))
magic = st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"GIF89a", b"II*\0", b"MM\0*", b""])


@few
@given(magic, st.binary(max_size=300))
def test_any_image(start: bytes, rest: bytes) -> None:
    endures({"a/1.png": start + rest, "a/2.png": encoded(glyph())})


@few
@given(st.integers(0, 255), st.lists(st.integers(0, 2**32 - 1), max_size=4), st.binary(max_size=64), st.booleans())
@example(8, [4, 4, 4], bytes(64), False)
def test_any_idx(kind: int, sizes: list[int], body: bytes, packed: bool) -> None:
    content = bytes([0, 0, kind, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes) + body
    labels = idx(np.zeros(4))
    endures(
        {
            "x-images-idx3-ubyte" + ".gz" * packed: gzipped(content) if packed else content,
            "x-labels-idx1-ubyte": labels,
        },
        "mnist",
    )


cells = st.sampled_from(["0", "255", "12.0", "0.5", "", "nan", "-1", "x", '"', "1e300", "क", "\x00", "0" * 50, "\r"])


@few
@given(
    st.lists(st.lists(cells, max_size=20), max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
    st.binary(max_size=20),
)
def test_any_table(rows: list[list[str]], delimiter: str, header: bool, tail: bytes) -> None:
    lines = [delimiter.join(row) for row in rows]
    if header:
        lines.insert(0, delimiter.join([*pixel_header(4), "label"]))
    endures({"data.csv": "\n".join(lines).encode() + tail})


@few
@given(st.text(max_size=80), st.text(max_size=200), st.binary(max_size=10))
@example("name,glyph", "a,क\nb,ख", b"")
def test_any_class_list(header: str, rows: str, tail: bytes) -> None:
    content = f"{header}\n{rows}".encode("utf-8", errors="replace") + tail
    endures({"classes.csv": content, "a/1.png": encoded(glyph()), "b/1.png": encoded(glyph())})


@few
@given(
    st.sampled_from(["|u1", "<i8", "<U4", "|O", "<f4", "|b1", "|S3", "|V9999", "M8[s]", "nonsense"]),
    st.lists(st.integers(-1, 2**40), max_size=4),
    st.binary(max_size=64),
    st.sampled_from(["images", "labels", "class_names", "splits", "filenames"]),
)
def test_any_npz(kind: str, shape: list[int], body: bytes, key: str) -> None:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {tuple(shape)}}}".encode().ljust(118) + b"\n"
    valid = npz(images=np.stack([glyph()] * 2), labels=np.arange(2))
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"{key}.npy"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body
    endures({"own.npz": zipped(members)})


@few
@given(st.dictionaries(names, contents, max_size=4))
@example({"a/1.png": encoded(glyph())})
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_zip(members: dict[str, bytes]) -> None:
    endures(
        {"own.zip": zipped({name: content for name, content in members.items() if name[0] != "\x00"})}
    )  # zipfile writes no empty name


TAR_TYPES = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE]


@few
@given(
    st.dictionaries(names, contents, max_size=4),
    st.sampled_from([*TAR_TYPES, tarfile.XHDTYPE, b"?"]),
    st.integers(0, 8**11 - 1),
)
def test_any_tar(members: dict[str, bytes], kind: bytes, size: int) -> None:
    content = tarred({name: content for name, content in members.items() if "\x00" not in name}, "w")
    odd = tarfile.TarInfo("a/9.png")
    odd.type, odd.size = kind, size
    endures({"own.tar": odd.tobuf() + content})
    endures({"own.tar": content})


FILES = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.npz", "x.csv", "x.csv.gz", "x-images.idx3-ubyte", "a/x.png"]


@few
@given(st.sampled_from(FILES), st.binary(max_size=200))
def test_any_file(name: str, content: bytes) -> None:
    endures({name: content})


# --- valid sources with something wrong ---

_PICTURES = {
    f"set/{split}/{name}/{i}.png": encoded(glyph(150 + i))
    for split in ("Train", "Test")
    for name in ("ka", "kha")
    for i in range(3)
}
_TABLE = table(pixel_rows(["ka", "kha"] * 6), [*pixel_header(), "label"])
_ARRAY = np.stack([glyph(200 + i) for i in range(12)])
_PIXELS = idx(_ARRAY)
_LABELS = {"train-labels-idx1-ubyte": idx(np.arange(12) % 3)}
_MAT = io.BytesIO()
savemat(_MAT, {"images": _ARRAY, "labels": np.arange(12) % 3, "other": {"cells": [1, 2]}}, do_compression=True)
_NAMED = {f"all/{i}.png": encoded(glyph(200 + i)) for i in range(6)}
_FOLDER = {"ka/2.png": encoded(glyph()), "kha/1.png": encoded(glyph())}

# The file that is damaged, what it holds, and what lies beside it.
SOURCES: dict[str, tuple[str, bytes, dict[str, bytes]]] = {
    "zip": ("own.zip", zipped(_PICTURES), {}),
    "zip, stored": ("own.zip", zipped(_PICTURES, zipfile.ZIP_STORED), {}),
    "zip of a zip": ("own.zip", zipped({"in.zip": zipped(_PICTURES)}, zipfile.ZIP_STORED), {}),
    "tar": ("own.tar", tarred(_PICTURES, "w"), {}),
    "tar.gz": ("own.tar.gz", tarred(_PICTURES, "w:gz"), {}),
    "tar.bz2": ("own.tar.bz2", tarred(_PICTURES, "w:bz2"), {}),
    "tar.xz": ("own.tar.xz", tarred(_PICTURES, "w:xz"), {}),
    "csv": ("data.csv", _TABLE, {}),
    "csv.gz": ("data.csv.gz", gzipped(_TABLE), {}),
    "zipped csv": ("own.zip", zipped({"data.csv": _TABLE}), {}),
    "idx": ("train-images-idx3-ubyte", _PIXELS, _LABELS),
    "idx.gz": ("train-images-idx3-ubyte.gz", gzipped(_PIXELS), _LABELS),
    "npz": (
        "own.npz",
        npz(images=np.stack([glyph()] * 6), labels=np.arange(6) % 2, class_names=np.array(["ka", "kha"])),
        {},
    ),
    "npy": ("X.npy", npy(_ARRAY), {"Y.npy": npy(np.arange(12) % 3)}),
    "mat": ("own.mat", _MAT.getvalue(), {}),
    "parquet": ("own.parquet", parquet([0, 1, 0, 1], ["ka", "kha"]), {}),
    "tsv": ("data.tsv", table(pixel_rows(["ka", "kha"] * 6), [*pixel_header(), "label"], "\t"), {}),
    "spaces": ("own.train", table(pixel_rows([0, 1] * 6), None, " "), {}),
    "labels": ("labels.csv", table([[f"{i}.png", ["ka", "kha"][i % 2]] for i in range(6)], ["id", "label"]), _NAMED),
    "classes.csv": ("classes.csv", "name,glyph\nkha,ख\nka,क\n".encode(), _FOLDER),
    **{
        kind: (f"ka/1.{kind}", encoded(glyph(), kind.upper()), _FOLDER)
        for kind in ("png", "jpeg", "gif", "tiff", "bmp", "webp")
    },
}
_Random = np.random.Generator


def _truncate(content: bytes, random: _Random) -> bytes:
    return content[: random.integers(len(content))]


def _flip(content: bytes, random: _Random) -> bytes:
    changed = bytearray(content)
    for at in random.integers(len(content), size=random.integers(1, 20)):
        changed[at] ^= random.integers(1, 256)
    return bytes(changed)


def _splice(content: bytes, random: _Random) -> bytes:
    other = list(SOURCES.values())[random.integers(len(SOURCES))][1]
    start, at = random.integers(len(other)), random.integers(len(content))
    return content[:at] + other[start : start + random.integers(1, 400)] + content[at + random.integers(0, 200) :]


def _resize(content: bytes, random: _Random) -> bytes:
    """Numbers near the start or the end, where headers and tables of contents say how large things are."""
    changed = bytearray(content)
    values = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"9999", b"\1\0\0\0"]
    for _ in range(random.integers(1, 4)):
        from_start = random.random() < 0.5
        place = int(random.integers(min(len(content), 160))) if from_start else -int(random.integers(1, 600))
        at = place % len(content)
        changed[at : at + 4] = values[random.integers(6)][: len(changed) - at]
    return bytes(changed)


MUTATIONS: list[Callable[[bytes, _Random], bytes]] = [_truncate, _flip, _splice, _resize]


@pytest.mark.parametrize("kind", SOURCES)
def test_damaged_sources(kind: str) -> None:
    file, content, beside = SOURCES[kind]
    name = "mnist" if kind.startswith("idx") or kind in {"npy", "mat", "spaces"} else "devanagari"
    assert endures({file: content, **beside}, name), "whole it is sound"
    for number in range(32):
        damaged = MUTATIONS[number % len(MUTATIONS)](content, np.random.default_rng(number))
        endures({file: damaged, **beside}, name)
