"""One `Source` over a folder, a zip or a tar: its files by name, read within bounds, and nothing unpacked into the project.

Nothing here trusts an archive. Names that lead out, links and devices are refused, and so is what unpacks to more than
`MAX_UNPACKED` bytes or to `MAX_RATIO` times its size.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from lekhani.data.names import reason
from lekhani.errors import LekhaniError, UsageError

MAX_FILES = 500_000  # of one source, folders counted
MAX_UNPACKED = 4 << 30  # bytes of one archive, unpacked
MAX_RATIO = 200  # unpacked to packed size of an archive that unpacks to more than SMALL
SMALL = 64 << 20
_DIRECTORY = 256 << 20  # bytes of a zip's table of contents, which is read as a whole
_HEADER = 1 << 20  # bytes of one header in a tar; a name or a note of that length is none
_IN_MEMORY = 256 << 20  # a larger tar goes through a nameless temporary file
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$")
_IDX = re.compile(r"([-._]idx\d?([-._]?ubyte)?|[-._]ubyte)(\.gz)?$")
_TABLE = re.compile(r"\.csv(\.gz)?$")


def is_archive(name: str) -> bool:
    """True for the names of zips and tars."""
    return _ARCHIVE.search(name.lower()) is not None


def is_idx(name: str) -> bool:
    """True for the names of MNIST's own files, in any of their spellings."""
    return _IDX.search(name.lower()) is not None


def is_table(name: str) -> bool:
    """True for the names of CSV files."""
    return _TABLE.search(name.lower()) is not None


@dataclass(frozen=True)
class Source:
    """Files to read from: `sizes` has their paths with "/", sorted, and their bytes; `folders` is sorted as well."""

    where: Path
    sizes: dict[str, int]
    folders: list[str]
    opener: Callable[[str], BinaryIO]
    packed: int | None = None  # bytes of the archive that all this comes from; None: a folder

    def read(self, file: str, at_most: int = MAX_UNPACKED) -> bytes:
        """The bytes of one file; raises UsageError when it cannot be read or has more than `at_most` bytes."""
        if self.sizes[file] > at_most:
            raise UsageError(
                f"{self.where / file} has {self.sizes[file] / 1e6:,.0f} MB, more than the {at_most >> 20} allowed; shrink it or leave it out."
            )
        try:
            with self.opener(file) as stream:
                content = stream.read(at_most + 1)
        except Exception as error:
            raise self.unreadable(file, error) from None
        if len(content) != self.sizes[file]:
            raise UsageError(f"{self.where / file} changed or ends while it is read; bring the data again.")
        return content

    def stream(self, file: str) -> BinaryIO:
        """One file to be read piece by piece, unpacked when its name ends in .gz; reading raises UsageError as `read` does."""
        try:
            stream = self.opener(file)
        except Exception as error:
            raise self.unreadable(file, error) from None
        streams, allowed = [stream], MAX_UNPACKED
        if file.lower().endswith(".gz"):
            streams.insert(0, cast(BinaryIO, gzip.GzipFile(fileobj=stream)))
            allowed = _allowed(self.sizes[file] if self.packed is None else self.packed)
        return cast(BinaryIO, io.BufferedReader(_Guarded(streams, allowed, self, file), 1 << 20))

    def unreadable(self, file: str, error: BaseException) -> LekhaniError:
        """The sentence for an error in reading `file`; one of our own stays as it is."""
        if isinstance(error, LekhaniError):
            return error
        if self.packed is None:
            if file.lower().endswith(".gz") and not (isinstance(error, OSError) and error.errno):
                return UsageError(f"{self.where / file} is damaged ({reason(error)}); download or pack it again.")
            why = (error.strerror if isinstance(error, OSError) else None) or reason(error)
            return UsageError(f"{self.where / file} cannot be read ({why}); check its permissions.")
        if isinstance(
            error, RuntimeError
        ):  # a password or, as its subclass NotImplementedError, an unknown compression
            return UsageError(
                f"{self.where}: the member {file} is locked or packed in an unknown way; pack it again without a password."
            )
        return UsageError(
            f"{self.where}: the member {file} is damaged ({reason(error)}); download or pack the archive again."
        )


class _Guarded(io.RawIOBase):
    """A stream that says in a sentence what goes wrong, and stops at so many bytes."""

    def __init__(self, streams: Sequence[BinaryIO], allowed: int, source: Source, file: str) -> None:
        self._streams, self._left, self._source, self._file = streams, allowed, source, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        try:
            block = self._streams[0].read(len(buffer))
        except Exception as error:
            raise self._source.unreadable(self._file, error) from None
        self._left -= len(block)
        if self._left < 0:
            raise UsageError(
                f"{self._source.where / self._file} unpacks to more than is allowed; leave out what is not needed."
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            for stream in self._streams:
                stream.close()
        super().close()


def open_folder(folder: Path) -> Source:
    """Every file below `folder` that is not hidden; links to files are followed, since DVC may link from its cache."""
    sizes: dict[str, int] = {}
    folders: list[str] = []
    waiting = [""]
    try:
        while waiting:
            here = waiting.pop()
            with os.scandir(folder / here) as entries:
                for entry in entries:
                    if hidden(entry.name):
                        continue
                    path = f"{here}/{entry.name}" if here else entry.name
                    if not _is_unicode(path):
                        raise UsageError(f"{folder} holds a name that is no UTF-8, {os.fsencode(path)!r}; rename it.")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                        waiting.append(path)
                    elif entry.is_file():
                        sizes[path] = entry.stat().st_size
                    else:
                        raise UsageError(
                            f"{folder / path} is neither a file nor a folder, or a link to none; remove it or replace it."
                        )
                    if len(sizes) + len(folders) > MAX_FILES:
                        raise UsageError(
                            f"{folder} holds more than {MAX_FILES:,} files and folders; leave out what is not needed."
                        )
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be read ({error.strerror or error}); check its permissions."
        ) from None
    return Source(folder, dict(sorted(sizes.items())), sorted(folders), lambda file: (folder / file).open("rb"))


def open_archive(stack: ExitStack, outer: Source, file: str) -> Source:
    """The archive `file` of `outer` as a source; it and its temporary files are closed by `stack`.

    Raises UsageError when it is damaged, larger than allowed once unpacked, or holds links or names that lead out.
    """
    where, packed = outer.where / file, outer.packed if outer.packed is not None else outer.sizes[file]
    if outer.packed is None:
        try:
            content = stack.enter_context(outer.opener(file))
        except OSError as error:
            raise UsageError(f"{where} cannot be read ({error.strerror}); check its permissions.") from None
    else:
        content = _spooled(stack, stack.enter_context(outer.stream(file)), where, packed)
    start = content.read(6)
    content.seek(0)
    if start.startswith(b"PK") or (where.suffix.lower() == ".zip" and _unpacker(start) is None):
        return _open_zip(stack, content, where, packed)
    return _open_tar(stack, content, where, packed, start)


def hidden(name: str) -> bool:
    """True for what users do not see: dot files, and what macOS packs beside every file."""
    return name.startswith(".") or name == "__MACOSX"


def check_size(where: Path | str, unpacked: int, packed: int) -> None:
    """Raise UsageError when `unpacked` bytes are more than an archive of `packed` bytes may hold."""
    if unpacked > _allowed(packed):
        raise UsageError(
            f"{where} would unpack from {packed / 1e6:.1f} MB to {unpacked / 1e6:,.0f} MB, more than is allowed; leave out what is not needed."
        )


def _allowed(packed: int) -> int:
    return min(MAX_UNPACKED, max(SMALL, packed * MAX_RATIO))


def _is_unicode(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in path)


def _spooled(stack: ExitStack, stream: BinaryIO, where: Path, packed: int) -> BinaryIO:
    """The whole of `stream`, to seek in, in memory or in a temporary file that has no name."""
    spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115 - the stack closes it
    size = 0
    while block := stream.read(1 << 20):
        size += len(block)
        if size > _allowed(packed):
            raise UsageError(
                f"{where} unpacks from {packed / 1e6:.1f} MB to more than is allowed; leave out what is not needed."
            )
        try:
            spool.write(block)
        except OSError as error:
            raise LekhaniError(
                f"{where} cannot be unpacked into {tempfile.gettempdir()} ({error.strerror}); free space there."
            ) from None
    spool.seek(0)
    return cast(BinaryIO, spool)


def _add(sizes: dict[str, int], folders: set[str], where: Path, name: str, size: int | None) -> str | None:
    """Note a member and the folders above it; its path, or None for a hidden one. A folder has no `size`."""
    path = name.replace("\\", "/")  # some Windows programs pack names with their own separator
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", path):
        raise leads_out(where, name)
    if not _is_unicode(path):
        raise UsageError(
            f"{where} holds a name that is no UTF-8, {os.fsencode(path)!r}; rename it and pack the archive again."
        )
    if not parts or any(hidden(part) for part in parts):
        return None
    path = "/".join(parts)
    if size is not None:
        sizes[path] = size
    above = path if size is None else path.rpartition("/")[0]
    while above and above not in folders:
        folders.add(above)
        above = above.rpartition("/")[0]
    if len(sizes) + len(folders) > MAX_FILES:
        raise _too_many(where)
    return path


def leads_out(where: Path, member: str) -> UsageError:
    """The refusal of a member that is no plain file or folder inside the archive."""
    return UsageError(
        f"{where}: the member {member} is a link, no plain file, or leads out of the archive; pack the archive again without it."
    )


def _too_many(where: Path) -> UsageError:
    return UsageError(f"{where} holds more than {MAX_FILES:,} files and folders; leave out what is not needed.")


# --- zip ---


def _open_zip(stack: ExitStack, content: BinaryIO, where: Path, packed: int) -> Source:
    try:
        _check_directory(content, where)
        archive = stack.enter_context(_zip_file(content))
    except LekhaniError:
        raise
    except Exception as error:  # zipfile answers garbled bytes with many kinds of error
        raise UsageError(f"{where} is no readable .zip ({reason(error)}); download or pack it again.") from None
    infos: dict[str, zipfile.ZipInfo] = {}
    sizes: dict[str, int] = {}
    folders: set[str] = set()
    check_size(where, sum(info.file_size for info in archive.infolist()), packed)
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise leads_out(where, info.filename)
        folder = info.filename.endswith(("/", "\\"))
        path = _add(sizes, folders, where, info.filename, None if folder else info.file_size)
        if path is not None and not folder:
            infos[path] = info
    return Source(
        where,
        dict(sorted(sizes.items())),
        sorted(folders),
        lambda file: cast(BinaryIO, archive.open(infos[file])),
        packed,
    )


def _zip_file(content: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(
            content, metadata_encoding="utf-8"
        )  # macOS packs Devanagari names as UTF-8 without saying so
    except UnicodeDecodeError:
        content.seek(0)
        return zipfile.ZipFile(content)


def _check_directory(content: BinaryIO, where: Path) -> None:
    """Count the members in a zip's table of contents before Python makes an object of each; its own count may lie."""
    size = content.seek(0, os.SEEK_END)
    content.seek(max(0, size - (1 << 16) - 128))
    tail = content.read()
    end = tail.rfind(b"PK\x05\x06")
    large = tail.rfind(b"PK\x06\x06", 0, max(end, 0))
    length = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if large >= 0:
        length = max(length if length < 0xFFFFFFFF else 0, int.from_bytes(tail[large + 40 : large + 48], "little"))
    length = min(length + len(tail), size)
    if length > _DIRECTORY:
        raise UsageError(f"{where} has a table of contents of more than {_DIRECTORY >> 20} MB; pack fewer files.")
    content.seek(size - length)
    if content.read(length).count(b"PK\x01\x02") > MAX_FILES:
        raise _too_many(where)
    content.seek(0)


# --- tar ---


def _open_tar(stack: ExitStack, content: BinaryIO, where: Path, packed: int, start: bytes) -> Source:
    unpack = _unpacker(start)
    places: dict[str, tuple[int, int]] = {}
    sizes: dict[str, int] = {}
    folders: set[str] = set()
    try:
        if unpack is not None:
            content = _spooled(stack, stack.enter_context(unpack(content)), where, packed)
        _list_tar(content, where, sizes, folders, places)
    except LekhaniError:
        raise
    except Exception as error:  # tarfile and the decompressors answer garbled bytes with many kinds of error
        raise UsageError(f"{where} is no readable archive ({reason(error)}); download or pack it again.") from None

    def member(file: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Slice(content, *places[file])))

    return Source(where, dict(sorted(sizes.items())), sorted(folders), member, packed)


def _unpacker(start: bytes) -> Callable[[BinaryIO], BinaryIO] | None:
    if start.startswith(b"\x1f\x8b"):
        return lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return lambda file: cast(BinaryIO, bz2.BZ2File(file))
    if start.startswith(b"\xfd7zXZ\x00"):
        return lambda file: cast(BinaryIO, lzma.LZMAFile(file))
    return None


def _list_tar(
    content: BinaryIO, where: Path, sizes: dict[str, int], folders: set[str], places: dict[str, tuple[int, int]]
) -> None:
    total = content.seek(0, os.SEEK_END)
    content.seek(0)
    end = count = 0
    with tarfile.open(fileobj=cast(BinaryIO, _Headers(content)), mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # they would all be kept
            count += 1
            if info.offset < end or info.size < 0 or info.offset_data < info.offset:  # would run in circles
                raise tarfile.ReadError(f"a header of {info.name} points back")
            if count > MAX_FILES:
                raise _too_many(where)
            if info.issparse() or not (info.isreg() or info.isdir()):
                raise leads_out(where, info.name)
            size = info.size if info.isreg() else 0
            end = info.offset_data + (size + 511) // 512 * 512
            if info.offset_data + size > total:
                raise tarfile.ReadError(f"it ends within {info.name}")
            path = _add(sizes, folders, where, info.name, None if info.isdir() else size)
            if path is not None:
                places[path] = info.offset_data, size
    content.seek(end)
    if content.read(512).strip(b"\0") or (end + 512 > total):
        raise tarfile.ReadError("its end is missing")


class _Headers:
    """What tarfile reads headers from; it would fetch a name of gigabytes where a header asks for that."""

    def __init__(self, content: BinaryIO) -> None:
        self._content = content
        self.seek, self.tell = content.seek, content.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER:
            raise tarfile.ReadError("a header has an impossible length")
        return self._content.read(size)


class _Slice(io.RawIOBase):
    """The bytes of one member inside a tar."""

    def __init__(self, content: BinaryIO, start: int, size: int) -> None:
        self._content, self._place, self._end = content, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        self._content.seek(self._place)
        block = self._content.read(min(len(buffer), self._end - self._place))
        buffer[: len(block)] = block
        self._place += len(block)
        return len(block)
