"""Files by name out of a folder, a zip or a tar, read within bounds.

An archive is not trusted: names that lead out of it, links and devices are refused, and so is one that unpacks to more
than MAX_UNPACKED bytes or to MAX_RATIO times its size. zipfile and tarfile read the members in place; to unpack the
92,000 PNGs of DHCD into a temporary folder first takes six times as long.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lekhani.data.names import reason
from lekhani.errors import LekhaniError, UsageError

MAX_FILES = 500_000  # of one source, folders counted
MAX_UNPACKED = 4 << 30  # bytes of one archive, unpacked
MAX_RATIO = 200  # unpacked to packed size of an archive that unpacks to more than SMALL
SMALL = 64 << 20
_MAX_DIRECTORY = 256 << 20  # bytes of a zip's table of contents, which is read as a whole
_MAX_HEADER = 1 << 20  # bytes of one header in a tar
_IN_MEMORY = 256 << 20  # a larger tar goes through a temporary file without a name
_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


@dataclass(frozen=True)
class Source:
    """The files below `path`: `sizes` in bytes by their names with "/", sorted, and the names of `folders`, sorted.

    `packed_size` is that of the outermost archive when `path` is one, else None.
    """

    path: Path
    sizes: dict[str, int]
    folders: list[str]
    opener: Callable[[str], BinaryIO]
    packed_size: int | None = None

    def open(self, file: str) -> BinaryIO:
        """One file as it is; raises UsageError when it cannot be opened, reading raises what the file system raises."""
        try:
            return self.opener(file)
        except Exception as error:
            raise self.error(file, error) from None

    def read(self, file: str, max_bytes: int = MAX_UNPACKED) -> bytes:
        """The bytes of one file; raises UsageError when it cannot be read or has more than `max_bytes`."""
        if self.sizes[file] > max_bytes:
            size = f"{self.sizes[file] / 1e6:,.0f} MB, more than the {max_bytes >> 20} allowed"
            raise UsageError(f"{self.path / file} has {size}; shrink it or leave it out.")
        with self.open(file) as stream:
            try:
                content = stream.read(max_bytes + 1)
            except Exception as error:
                raise self.error(file, error) from None
        if len(content) != self.sizes[file]:
            raise UsageError(f"{self.path / file} changed or ended while it was read; bring the data again.")
        return content

    @contextmanager
    def stream(self, file: str) -> Iterator[BinaryIO]:
        """One file to read piece by piece, decompressed where it starts as gzip does; reading raises UsageError."""
        with self.open(file) as stream:
            limit, content = MAX_UNPACKED, stream
            if is_packed := self._is_gzip(file, stream):
                limit = max_unpacked(self.sizes[file] if self.packed_size is None else self.packed_size)
                content = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
            yield _limited(content, limit, self.path / file, lambda error: self.error(file, error, is_packed))

    def _is_gzip(self, file: str, stream: BinaryIO) -> bool:
        try:
            start = stream.read(2)
            stream.seek(0)
        except Exception as error:
            raise self.error(file, error) from None
        return start == b"\x1f\x8b"

    def error(self, file: str, error: BaseException, is_packed: bool = False) -> LekhaniError:
        """The sentence for an error in reading `file`, which may be `is_packed`; one of our own stays as it is."""
        if isinstance(error, LekhaniError):
            return error
        if self.packed_size is not None:
            # zipfile's word for a password and, as NotImplementedError, for an unknown compression
            if isinstance(error, RuntimeError):
                problem = "is encrypted or compressed in an unknown way; pack it again without a password."
            else:
                problem = f"is damaged ({reason(error)}); download or pack the archive again."
            return UsageError(f"{self.path}: the member {file} {problem}")
        if is_packed and not (isinstance(error, OSError) and error.errno):
            return UsageError(f"{self.path / file} is damaged ({reason(error)}); download or pack it again.")
        why = (error.strerror if isinstance(error, OSError) else None) or reason(error)
        return UsageError(f"{self.path / file} cannot be read ({why}); check its permissions.")


class _LimitedReader(io.RawIOBase):
    """A stream of at most `limit` bytes whose errors are sentences."""

    def __init__(self, stream: BinaryIO, limit: int, path: Path, to_error: Callable[[Exception], LekhaniError]) -> None:
        self._stream, self._limit, self._path, self._to_error = stream, limit, path, to_error
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        try:
            block = self._stream.read(len(buffer))
        except Exception as error:
            raise self._to_error(error) from None
        self._left -= len(block)
        if self._left < 0:
            size = f"{self._limit / 1e6:,.0f} MB"
            raise UsageError(f"{self._path} unpacks to more than is allowed, {size}; leave out what is not needed.")
        buffer[: len(block)] = block
        return len(block)


def _limited(stream: BinaryIO, limit: int, path: Path, to_error: Callable[[Exception], LekhaniError]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_LimitedReader(stream, limit, path, to_error), 1 << 20))


def open_folder(folder: Path) -> Source:
    """Every file below `folder` that is not hidden; links to files are followed, since DVC may link from its cache.

    Raises UsageError for what cannot be listed or is neither a file nor a folder, and for more than MAX_FILES entries.
    """
    sizes: dict[str, int] = {}
    folders: list[str] = []
    try:
        for path, entry in _entries(folder):
            if not _is_unicode(path):
                raise UsageError(f"{folder} holds a name that is not UTF-8, {os.fsencode(path)!r}; rename it.")
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_file():
                sizes[path] = entry.stat().st_size
            else:
                problem = "is neither a file nor a folder, or a link to none; remove it or replace it."
                raise UsageError(f"{folder / path} {problem}")
            if len(sizes) + len(folders) > MAX_FILES:
                raise _too_many(folder)
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        raise UsageError(f"{where} cannot be read ({why}); check its permissions.") from None
    return Source(folder, dict(sorted(sizes.items())), sorted(folders), lambda file: (folder / file).open("rb"))


def _entries(folder: Path) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    """What lies below `folder` and is not hidden, with its path from there; links to folders are not entered."""
    waiting = [""]
    while waiting:
        here = waiting.pop()
        with os.scandir(folder / here) as entries:
            for entry in entries:
                if not hidden(entry.name):
                    path = f"{here}/{entry.name}" if here else entry.name
                    yield path, entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)


def hidden(name: str) -> bool:
    """True for what users do not see: dot files, and what macOS packs beside every file."""
    return name.startswith(".") or name == "__MACOSX"


def _is_unicode(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in path)


def check_size(path: Path, unpacked_size: int, packed_size: int) -> None:
    """Raise UsageError when `unpacked_size` bytes are more than an archive of `packed_size` bytes may hold."""
    if unpacked_size > max_unpacked(packed_size):
        sizes = f"from {packed_size / 1e6:.1f} MB to {unpacked_size / 1e6:,.0f} MB"
        raise UsageError(f"{path} would unpack {sizes}, more than is allowed; leave out what is not needed.")


def max_unpacked(packed_size: int) -> int:
    """The bytes that an archive of so many bytes may unpack to."""
    return min(MAX_UNPACKED, max(SMALL, packed_size * MAX_RATIO))


def _too_many(path: Path) -> UsageError:
    return UsageError(f"{path} holds more than {MAX_FILES:,} files and folders; leave out what is not needed.")


def open_archive(stack: ExitStack, outer: Source, file: str) -> Source:
    """The archive `file` of `outer` as a source; `stack` closes it and its temporary files.

    Raises UsageError when it is damaged, larger than allowed once unpacked, or holds links or names that lead out.
    """
    path = outer.path / file
    if outer.packed_size is None:
        packed_size, content = outer.sizes[file], stack.enter_context(outer.open(file))
    else:
        packed_size = outer.packed_size
        content = _spooled(stack, stack.enter_context(outer.stream(file)), path)
    magic = content.read(6)
    content.seek(0)
    decompress = next((function for start, function in _DECOMPRESSORS.items() if magic.startswith(start)), None)
    try:
        if magic.startswith(b"PK") or (path.suffix.lower() == ".zip" and decompress is None):
            return _open_zip(stack, content, path, packed_size)
        if decompress is not None:
            limit = max_unpacked(packed_size)
            content = _spooled(stack, _limited(decompress(content), limit, path, lambda e: _damaged(path, e)), path)
        return _open_tar(content, path, packed_size)
    except LekhaniError:
        raise
    except Exception as error:  # zipfile, tarfile and the decompressors answer garbled bytes with many kinds of error
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> LekhaniError:
    return UsageError(f"{path} is no readable archive ({reason(error)}); download or pack it again.")


def _spooled(stack: ExitStack, stream: BinaryIO, path: Path) -> BinaryIO:
    """The whole of `stream`, to seek in, in memory or in a temporary file without a name."""
    spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115 - the stack closes it
    try:
        shutil.copyfileobj(stream, spool, 1 << 20)
    except OSError as error:
        where = f"{tempfile.gettempdir()} ({error.strerror})"
        raise LekhaniError(f"{path} cannot be unpacked into {where}; free space there.") from None
    spool.seek(0)
    return cast(BinaryIO, spool)


class _Listing:
    """The members of the archive `path` as they are found: what zipfile or tarfile calls each, and its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.folders: set[str] = set()
        self._count = 0

    def add(self, name: str, member: Any, size: int | None, is_plain: bool) -> None:
        """Note a member and the folders above it, unless it is hidden; a folder has no `size`."""
        self._count += 1
        path = name.replace("\\", "/")  # some Windows programs pack names with their own separator
        parts = [part for part in path.split("/") if part not in {"", "."}]
        if not is_plain or path.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", path):
            problem = "is a link, no plain file, or leads out of the archive; pack the archive again without it."
            raise UsageError(f"{self.path}: the member {name} {problem}")
        if not _is_unicode(path):
            problem = f"a name that is not UTF-8, {os.fsencode(path)!r}; rename it and pack the archive again."
            raise UsageError(f"{self.path} holds {problem}")
        if parts and not any(hidden(part) for part in parts):
            if size is not None:
                path = "/".join(parts)
                self.members[path], self.sizes[path] = member, size
                parts.pop()
            while parts and (folder := "/".join(parts)) not in self.folders:
                self.folders.add(folder)
                parts.pop()
        if max(self._count, len(self.sizes) + len(self.folders)) > MAX_FILES:
            raise _too_many(self.path)

    def source(self, opener: Callable[[Any], Any], packed_size: int) -> Source:
        """All that was found, read by `opener`, which takes what zipfile or tarfile calls a member."""
        sizes = dict(sorted(self.sizes.items()))
        return Source(self.path, sizes, sorted(self.folders), lambda file: opener(self.members[file]), packed_size)


def _open_zip(stack: ExitStack, content: BinaryIO, path: Path, packed_size: int) -> Source:
    _check_directory(content, path)
    try:
        archive = zipfile.ZipFile(content, metadata_encoding="utf-8")  # macOS packs UTF-8 without saying so
    except UnicodeDecodeError:
        content.seek(0)
        archive = zipfile.ZipFile(content)
    stack.enter_context(archive)
    check_size(path, sum(info.file_size for info in archive.infolist()), packed_size)
    listing = _Listing(path)
    for info in archive.infolist():
        size = None if info.filename.endswith(("/", "\\")) else info.file_size
        kind = stat.S_IFMT(info.external_attr >> 16)
        listing.add(info.filename, info, size, kind in {0, stat.S_IFREG, stat.S_IFDIR})
    return listing.source(archive.open, packed_size)


def _check_directory(content: BinaryIO, path: Path) -> None:
    """Count the members in a zip's table of contents before zipfile makes an object of each; its own count may lie."""
    size = content.seek(0, os.SEEK_END)
    content.seek(max(0, size - (1 << 16) - 128))
    tail = content.read()
    end = tail.rfind(b"PK\x05\x06")
    large = tail.rfind(b"PK\x06\x06", 0, max(end, 0))
    length = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if large >= 0:
        length = max(length if length < 0xFFFFFFFF else 0, int.from_bytes(tail[large + 40 : large + 48], "little"))
    length = min(length + len(tail), size)
    if length > _MAX_DIRECTORY:
        raise UsageError(f"{path} has a table of contents of more than {_MAX_DIRECTORY >> 20} MB; pack fewer files.")
    content.seek(size - length)
    if content.read(length).count(b"PK\x01\x02") > MAX_FILES:
        raise _too_many(path)
    content.seek(0)


def _open_tar(content: BinaryIO, path: Path, packed_size: int) -> Source:
    listing = _Listing(path)
    archive = tarfile.TarFile(fileobj=cast(BinaryIO, _HeaderReader(content)))
    for info in archive:
        if info.size < 0:  # tarfile would go backwards, and round in circles
            raise tarfile.ReadError(f"{info.name} has a size below zero")
        is_plain = (info.isreg() or info.isdir()) and not info.issparse()
        listing.add(info.name, info, None if info.isdir() else info.size, is_plain)
    content.seek(archive.offset)
    block = content.read(512)
    if len(block) < 512 or block.strip(b"\0"):  # which tarfile takes for an end
        raise tarfile.ReadError("its end is missing")
    archive.fileobj = content
    return listing.source(archive.extractfile, packed_size)


class _HeaderReader:
    """What tarfile reads headers from; it would fetch a name of gigabytes where a header asks for that."""

    def __init__(self, content: BinaryIO) -> None:
        self._content = content
        self.seek, self.tell = content.seek, content.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError("a header has an impossible length")
        return self._content.read(size)
