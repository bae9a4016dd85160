"""Where a dataset is written: a folder here, or any place that fsspec knows, such as s3://bucket/folder."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lekhani.errors import LekhaniError, UsageError, first_line


class Store:
    """Files by their names below `out`; each is there whole or not at all."""

    def __init__(self, out: str) -> None:
        """Raises UsageError for a place that no file system here knows, or that is a file."""
        self.out = out
        try:
            self.fs, self.root = fsspec.url_to_fs(out)
        except ImportError as error:
            raise UsageError(
                f"--out {out} needs a package that is missing; for s3:// install lekhani[s3]: {first_line(error)}"
            ) from error
        except ValueError as error:
            raise UsageError(f"--out {out} is no place to write to: {first_line(error)}") from error
        self.local = isinstance(self.fs, LocalFileSystem)
        if self.local and Path(self.root).is_file():
            raise UsageError(f"{out} is a file; choose another --out.")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what a disk or a server says into one sentence."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("botocore", "aiohttp")):
                raise
            why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
            advice = (
                "free space or check permissions" if self.local else "check the address, the credentials and the bucket"
            )
            raise LekhaniError(
                f"Could not write {self.out}: {why}; {advice}, then run the same again: what is finished is kept."
            ) from error

    def entries(self) -> list[str]:
        """The names of what is there, without what lies deeper."""
        self.fs.invalidate_cache()
        return (
            [path.rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(self.root, detail=False)]
            if self.fs.exists(self.root)
            else []
        )

    def read(self, name: str) -> Any:
        """A JSON file; None where there is none or it is none."""
        try:
            return json.loads(self.fs.cat_file(self._path(name)))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def write(self, name: str, text: str) -> None:
        """Write one file of text."""
        with self.workplace() as folder:
            (folder / "text").write_text(text, encoding="utf-8")
            self._place([folder / "text"], [name])

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty folder on this machine, for what will be `place`d."""
        hidden = Path(self.root) / UNFINISHED if self.local else None
        if hidden:
            hidden.mkdir(parents=True, exist_ok=True)  # on the same disk, so that placing is renaming
        with TemporaryDirectory(prefix="work-", dir=hidden) as folder:
            yield Path(folder)

    def place(self, folder: Path, names: Sequence[str]) -> None:
        """Bring files from a `workplace` to where they belong."""
        self._place([folder / name for name in names], names)

    def digest(self, names: Sequence[str]) -> str | None:
        """SHA-256 over names and contents, as hex; None where a file is missing."""
        total = hashlib.sha256()
        for name in names:
            total.update(name.encode() + b"\0")
            try:
                with self.fs.open(self._path(name), "rb") as file:
                    while block := file.read(1 << 20):
                        total.update(block)
            except FileNotFoundError:
                return None
        return total.hexdigest()

    def remove(self, name: str) -> None:
        """Remove a file or folder if it is there."""
        if self.fs.exists(self._path(name)):
            self.fs.rm(self._path(name), recursive=True)

    def clear(self) -> None:
        """Remove all that is there, and last what says whose it is."""
        for name in sorted(self.entries(), key=lambda name: name in {"dataset.json", UNFINISHED}):
            self.remove(name)

    def _place(self, files: Sequence[Path], names: Sequence[str]) -> None:
        targets = [self._path(name) for name in names]
        if not self.local:
            self.fs.put([str(file) for file in files], targets)
            return
        for parent in {Path(target).parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        for file, target in zip(files, targets, strict=True):
            file.replace(target)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


UNFINISHED = ".unfinished"  # the folder that is gone when a dataset is whole
