"""Images of every kind become the same grey pixels, white on black."""

import os
import struct
import zlib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources import data, encoded, glyph, npz, refused, write_tree

from lekhani.data import images
from lekhani.data.archives import open_folder
from lekhani.data.layouts import read_raw
from lekhani.errors import LekhaniError, UsageError


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_the_same_grey(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(glyph(255))
    if mode == "I;16":
        image = Image.fromarray(glyph(255).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(glyph(255).astype(np.float32) / 255)
    else:
        image = image.convert("L").convert(mode)
    name = "1.tif" if mode in {"CMYK", "F", "I"} else "1.png"
    write_tree(tmp_path, f"a/{name}", content=encoded(image, "TIFF" if name == "1.tif" else "PNG"))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[0], glyph(255))


FORMATS = {
    "jpg": "JPEG",
    "jfif": "JPEG",
    "webp": "WEBP",
    "avif": "AVIF",
    "jp2": "JPEG2000",
    "pgm": "PPM",
    "ico": "ICO",
    "tga": "TGA",
    "dib": "DIB",
    "pcx": "PCX",
    "sgi": "SGI",
    "qoi": "QOI",
    "bmp": "BMP",
    "tif": "TIFF",
    "gif": "GIF",
}


BY_NAME = {"ico", "tga", "dib", "pcx", "sgi"}  # no first bytes tell what they are


@pytest.mark.parametrize(
    ("named", "ending"),
    [("1.{}", ending) for ending in FORMATS]
    + [(named, ending) for named in ("1.{}.png", "1") for ending in FORMATS if ending not in BY_NAME],
)
def test_what_pillow_reads_is_read_by_its_content(tmp_path: Path, named: str, ending: str) -> None:
    kind, picture = FORMATS[ending], Image.fromarray(glyph(255, 32))
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = picture.convert("RGB") if kind in {"QOI", "AVIF", "WEBP"} else picture
    write_tree(tmp_path, f"a/{named.format(ending)}", content=encoded(picture, kind, **options))
    write_tree(tmp_path, "b/1.png", content=encoded(glyph(255, 32)))
    raw = read_raw(tmp_path, "own")
    assert len(raw.images) == 2
    assert np.abs(raw.images[0].astype(int) - glyph(255, 32)).mean() < 4


def test_programs_of_others_never_run(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript; it and all that is no picture are named."""
    write_tree(tmp_path, "a/1.png", "b/1.png")
    for name, content in {"1.eps": b"%!PS-Adobe-3.0\n", "x.svg": b"<svg/>", "y.heic": b"\0\0\0\x18ftypheic"}.items():
        write_tree(tmp_path, f"a/{name}", content=content)
    notes = " ".join(read_raw(tmp_path, "own").notes)
    assert all(name in notes for name in ("a/1.eps", "a/x.svg", "a/y.heic"))


@pytest.mark.parametrize("ink", ["black", "white"])
def test_ink_on_transparent_paper(tmp_path: Path, ink: str) -> None:
    image = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    image.paste(ink, (4, 4, 8, 8))
    write_tree(tmp_path, "a/1.png", content=encoded(image))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[0], glyph(255))


def test_large_images_are_shrunk_at_once(tmp_path: Path) -> None:
    large = glyph(255, 3000)
    write_tree(tmp_path, "a/1.jpg", content=encoded(large, "JPEG"))
    image = read_raw(tmp_path, "own").images[0]
    assert np.abs(image.astype(int) - np.asarray(Image.fromarray(large).resize((256, 256)))).mean() < 2
    (tmp_path / "npz").mkdir()
    save(tmp_path / "npz", np.zeros((2, 300, 600), np.uint8))
    assert [image.shape for image in read_raw(tmp_path / "npz", "own").images] == [(128, 256)] * 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_turned_photo_is_set_upright(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 24:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    write_tree(tmp_path, f"a/1.{kind.lower()}", content=encoded(pixels, kind, exif=exif))
    image = read_raw(tmp_path, "own").images[0]
    assert image.shape == (32, 16)
    assert image[24:].mean() > 200 > 50 > image[:20].mean()


def png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that may lie."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(chunk(*c) for c in chunks)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", r"cannot be read \(.+\); remove it or replace it"),
        (b"no image", "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read"),
        (encoded(glyph())[:60], "cannot be read"),
        (png(60_000, 60_000, b"x"), "cannot be read|has 60000 x 60000 pixels"),
        (png(8000, 8000, b"x"), "has 8000 x 8000 pixels, more than 50,000,000"),
        (png(2**31 - 1, 1, b"x"), "cannot be read|more than"),
        (png(0, 5, b"x"), "cannot be read"),
        (png(64, 64, b"x" * 10), "cannot be read"),
        (png(4, 4, b"x" * 20, (b"zTXt", b"k\0\0" + zlib.compress(bytes(90 << 20)))), "cannot be read"),
        (encoded(glyph(), "GIF")[:30], "cannot be read"),
        (encoded(glyph(), "TIFF")[:40], "cannot be read"),
        (encoded(glyph(), "JPEG")[:200], "cannot be read"),
        (encoded(glyph(), "BMP")[:60], "cannot be read"),
    ],
)
def test_images_that_lie_or_end_early(tmp_path: Path, content: bytes, pattern: str) -> None:
    write_tree(tmp_path, "a/1.png")
    write_tree(tmp_path, "a/broken.png", content=content)
    refused(tmp_path, "own", f"The image a/broken.png in .* ({pattern})")


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", content=png(4, 4, bytes(50 << 20)))  # more pixel data than pixels
    assert read_raw(tmp_path, "own").images[0].shape == (4, 4)
    os.truncate(tmp_path / "a/1.png", 300 << 20)
    refused(tmp_path, "own", "has 315 MB, more than the 256 allowed")


# --- many at once ---


def test_processes_decode_the_same_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a/{i:04d}.png" for i in range(1200)]
    for i, name in enumerate(names):
        write_tree(tmp_path, name, content=encoded(glyph(i % 255, 6 + i % 2)))
    source = open_folder(tmp_path)
    alone = images.decode(source, names)
    monkeypatch.setattr(images, "PARALLEL_FROM", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    together = images.decode(source, names)
    assert np.asarray(images.decode(source, names[::2])).shape == (600, 6, 6), "images of one size are one array"
    assert len(alone) == len(together) == 1200
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    (tmp_path / names[700]).write_bytes(b"\x89PNG broken\n")
    with pytest.raises(
        UsageError, match=r"The image a/0700.png in .* cannot be read \(.+\); remove it or replace it\.$"
    ):
        images.decode(open_folder(tmp_path), names)


def test_a_helper_process_that_dies_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise BrokenProcessPool("killed")

    write_tree(tmp_path, "a/1.png")
    monkeypatch.setattr(images.ProcessPoolExecutor, "submit", die)
    monkeypatch.setattr(images, "PARALLEL_FROM", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(LekhaniError, match="could not be decoded: a worker process died"):
        read_raw(tmp_path, "own")


# --- black on white ---


def save(folder: Path, pixels: np.ndarray[Any, Any]) -> None:
    (folder / "own.npz").write_bytes(npz(images=pixels, labels=np.zeros(len(pixels), int)))


def test_images_that_disagree_ask_for_the_polarity(tmp_path: Path) -> None:
    save(tmp_path, np.stack([glyph()] * 7 + [255 - glyph()] * 3))
    remedy = r"set data\.own\.polarity to white_on_black, black_on_white, or mixed"
    refused(tmp_path, "own", f"3 of the images look black on white and 7 white on black; {remedy}")
    raw = read_raw(tmp_path, "own", data(polarity="mixed"))
    np.testing.assert_array_equal(np.stack(list(raw.images)), np.stack([glyph()] * 10))
    assert "3 of 10 images are black on white and were inverted." in raw.notes
    np.testing.assert_array_equal(read_raw(tmp_path, "own", data(polarity="white_on_black")).images[9], 255 - glyph())
    inverted = read_raw(tmp_path, "own", data(polarity="black_on_white"))
    np.testing.assert_array_equal(inverted.images[9], glyph())
    assert "The source is black on white; all images were inverted." in inverted.notes
