"""What each file of a source is: by its name, and by its first bytes where the name does not tell."""

import gzip
import re
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from lekhani.data.archives import Source
from lekhani.errors import LekhaniError

DATA = ("npz", "npy", "idx", "mat", "parquet", "csv", "images")  # what may hold images
_HEAD = 512  # bytes that are looked at
_LEAST_CELLS = 16  # of a line of pixels
_NAMES = {
    "images": re.compile(
        r"\.(a?png|jpe?g|jpe|jfif|bmp|dib|gif|tiff?|webp|avif|jp2|j2k|jpx|p[bgpn]m|ico|icns|tga|pcx|qoi|sgi|psd|dds|xbm"
        r"|xpm)$"
    ),
    "archive": re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$"),
    "npz": re.compile(r"\.npz$"),
    "npy": re.compile(r"\.npy$"),
    "mat": re.compile(r"\.mat$"),
    "parquet": re.compile(r"\.parquet$"),
    # MNIST's own files, in any of their spellings.
    "idx": re.compile(r"([-._]idx\d?([-._]?ubyte)?|[-._]ubyte)(\.gz)?$"),
    "csv": re.compile(r"\.(csv|tsv|tab)(\.gz)?$"),
    "pickle": re.compile(r"\.(pkl|pickle|joblib|pt|pth)(\.gz)?$"),
}
_COPY = re.compile(r" ?\(\d+\)(?=\.\w+$|$)")  # what browsers put into the name of a second copy
_FIRST_BYTES = {
    "images": re.compile(
        rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftypavi[fs]|\0\0\0\x0cjP  "
        rb"|\xff\x4f\xff\x51|qoif|8BPS|P[1-6]\s+[#\d]",
        re.DOTALL,
    ),
    "npy": re.compile(rb"\x93NUMPY"),
    "mat": re.compile(rb"MATLAB [57]\.\d MAT-file"),
    "parquet": re.compile(rb"PAR1"),
    "idx": re.compile(rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x04]", re.DOTALL),
    "pickle": re.compile(rb"\x80[\x02-\x05]", re.DOTALL),
    "archive": re.compile(rb".{257}ustar|BZh\d1AY&SY|\xfd7zXZ\0", re.DOTALL),
}
_GZIP = b"\x1f\x8b"
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def by_name(file: str) -> str:
    """What a file is by its name: a kind, or "" where it says nothing."""
    name = _COPY.sub("", file.lower())
    return next((kind for kind, ending in _NAMES.items() if ending.search(name)), "")


def of_files(source: Source) -> dict[str, list[str]]:
    """The files of a source by kind: those of DATA, "archive", "pickle", "text" (maybe a table), and "" for others."""
    kinds: dict[str, list[str]] = {kind: [] for kind in (*DATA, "archive", "pickle", "text", "")}
    for file in source.sizes:
        kinds[by_name(file) or _by_content(source, file)].append(file)
    return kinds


def of_path(path: Path) -> str:
    """The kind of one file on disk, "text" only for what may be a table of pixels.

    Raises OSError where its name does not tell the kind and it cannot be read.
    """
    if kind := by_name(path.name):
        return kind
    with path.open("rb") as stream:
        kind = _of_stream(stream, path.name)
        stream.seek(0)
        cells = re.split(rb"[,;|\s]+", stream.readline(_HEAD))
    return "" if kind == "text" and len(cells) < _LEAST_CELLS else kind


def _by_content(source: Source, file: str) -> str:
    with suppress(LekhaniError, OSError), source.open(file) as stream:
        return _of_stream(stream, file)
    return ""


def _of_stream(stream: BinaryIO, file: str) -> str:
    head = stream.read(_HEAD)
    if packed := head.startswith(_GZIP):
        stream.seek(0)
        with suppress(OSError, EOFError, zlib.error):
            head = gzip.GzipFile(fileobj=stream).read(_HEAD)
    if head.startswith(b"PK\3\4") and "." not in file.rpartition("/")[2]:
        return "archive"
    kind = next((kind for kind, start in _FIRST_BYTES.items() if start.match(head)), _text(head))
    return "" if packed and kind in {"images", "parquet", "mat"} else kind  # no program packs these


def _text(head: bytes) -> str:
    return "text" if head.strip() and not _CONTROLS.search(head) else ""


def shown(files: Iterable[str]) -> str:
    """The first three of `files` in words."""
    files = list(files)
    more = f" and {len(files) - 3:,} more" if len(files) > 3 else ""
    return ", ".join(files[:3]) + more
