"""Whole files or none: everything is written beside its target and renamed when it is complete."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import select
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lekhani.errors import LekhaniError, UsageError, first_line

SILENCE = 3.0  # seconds for which a pipe may send nothing


class FileModel(BaseModel):
    """What a JSON file of ours holds: exact types, finite numbers, no key too many or too few."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` (file or folder) that takes its place when the block ends well.

    On any error the temporary is removed and an earlier `target` stays as it was.
    A write error such as a full disk is raised as LekhaniError naming the target.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and target.exists():
            old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
            target.rename(old)  # a folder cannot be replaced in one step
            try:
                temporary.rename(target)
            except OSError:
                old.rename(target)
                raise
            remove(old)
        else:
            temporary.replace(target)
    except OSError as error:
        problem = f"Could not write {target}: {error.strerror or error}"
        raise LekhaniError(f"{problem}; free space or check permissions, then run again.") from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a whole folder as far as that is possible; a missing one is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder atomically."""
    with replacing(target) as temporary:
        (shutil.copytree if source.is_dir() else shutil.copy)(source, temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given, non-ASCII letters as they are; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # NumPy and torch scalars
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def read_input(path: Path, most: int) -> bytes:
    """The content of a file that a user named, or what a pipe such as /dev/stdin brings, of at most `most` bytes.

    Raises OSError where there is more, where a pipe sends nothing for SILENCE seconds, and for what cannot be read.
    """
    content = bytearray()
    # A pipe that nobody writes to would otherwise not even open.
    with open(path, "rb", 0, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        is_plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        while len(content) <= most:
            if not is_plain and not select.select([file], [], [], SILENCE)[0]:
                raise TimeoutError(errno.ETIMEDOUT, f"nothing came for {SILENCE:.0f} seconds")
            block = file.read(min(1 << 20, most + 1 - len(content)))
            if not block:
                return bytes(content)
            content += block
    raise OSError(errno.EFBIG, f"it has more than {most >> 20} MB")


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise UsageError where the disk of `folder`, which may not be there yet, has no room for so many bytes."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if needed > (free := shutil.disk_usage(there).free):
        problem = f"{what} would take at least {needed / 2**30:,.1f} GB, and the disk of {folder} has"
        raise UsageError(f"{problem} {free / 2**30:,.1f} GB left; ask for fewer, or choose another --out.")


@contextmanager
def reading(path: Path, remedy: str = "remove it and run `dvc repro`") -> Iterator[None]:
    """Turn whatever is raised while a file of an earlier stage is read into a LekhaniError that names it."""
    try:
        yield
    except LekhaniError:
        raise
    except FileNotFoundError:
        raise LekhaniError(f"{path} is missing; run the stage that writes it first, or `dvc repro`.") from None
    except Exception as error:  # json, NumPy, Pillow, pyarrow and zipfile raise many classes
        raise LekhaniError(f"{path} cannot be read ({first_line(error)}); {remedy}.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier stage wrote; a LekhaniError names one that is missing or broken."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_checked(path: Path, model: type[BaseModel]) -> Any:
    """The plain value of a JSON file that `model` describes; a LekhaniError names it and what is wrong with it."""
    with reading(path):
        return model.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)


def read_csv(
    path: Path, columns: Iterable[str] = (), numbers: Iterable[str] = (), *, blank: bool = False
) -> list[dict[str, str]]:
    """Rows of a CSV file that an earlier stage wrote, by its column names.

    A LekhaniError names a file that is missing, lacks one of `columns` or a cell, or has anything but finite `numbers`
    in the columns of these names; with `blank` they may be empty.
    """
    with reading(path), path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = list(reader)
        names = set(reader.fieldnames or ())
        if missing := set(columns) - names:
            raise ValueError(f"it has no column {min(missing)}")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has too many cells, or too few")
        for name in names.intersection(numbers):
            if not all(math.isfinite(float(row[name])) for row in rows if row[name] or not blank):
                raise ValueError(f"{name} is not finite")
        return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> None:
    """Write rows as CSV atomically, columns in the order of the first row, or `names` where there are no rows."""
    write_text(path, csv_text(rows, rows[0] if rows else names))


def csv_text(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> str:
    """Rows as the text of a CSV file with the columns `names`; what a row lacks, or is None, is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def sha256(path: Path, without: Path | None = None) -> str:
    """SHA-256, as hex, of a file, or of a folder's file names and contents in sorted order but for `without`."""
    digest = hashlib.sha256()
    members = sorted(p for p in path.rglob("*") if p.is_file() and p != without) if path.is_dir() else [path]
    for member in members:
        if path.is_dir():
            digest.update(os.fsencode(member.relative_to(path).as_posix()) + b"\0")
        with member.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
