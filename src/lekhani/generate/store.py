"""Where a dataset is written: a local folder, or any place that fsspec knows, such as s3://bucket/folder."""

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

UNFINISHED = ".unfinished"  # a folder that is removed when the dataset is complete


class Store:
    """Files by their names below `out`; each is there whole or not at all."""

    def __init__(self, out: str) -> None:
        """Raise UsageError for an unknown kind of address, and for a path that is a file."""
        self.out = out
        try:
            self.fs, self.root = fsspec.url_to_fs(out)
        except ImportError as error:
            problem = f"--out {out} needs a package that is missing"
            raise UsageError(f"{problem}; for s3:// install lekhani[s3]: {first_line(error)}") from error
        except ValueError as error:
            raise UsageError(f"--out {out} is no place to write to: {first_line(error)}") from error
        self.local = isinstance(self.fs, LocalFileSystem)
        if self.local and Path(self.root).is_file():
            raise UsageError(f"{out} is a file; choose another --out.")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of a disk or a server into LekhaniError of one sentence."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("botocore", "aiohttp")):
                raise
            why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
            remote = "check the address, the credentials and the bucket"
            advice = "free space or check permissions" if self.local else remote
            problem = f"Could not write {self.out}: {why}"
            raise LekhaniError(f"{problem}; {advice}, then run the same again: what is finished is kept.") from error

    def entries(self) -> list[str]:
        """The names of the files and folders at the top."""
        self.fs.invalidate_cache()
        if not self.fs.exists(self.root):
            return []
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(self.root, detail=False)]

    def read(self, name: str) -> Any:
        """The value of a JSON file; None where it is missing or malformed."""
        try:
            return json.loads(self.fs.cat_file(self._path(name)))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def write(self, name: str, text: str) -> None:
        """Write one file of text."""
        with self.workspace() as folder:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            self.publish(folder, [name])

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder on this machine for files that will be published."""
        hidden = Path(self.root) / UNFINISHED if self.local else None
        if hidden:
            hidden.mkdir(parents=True, exist_ok=True)  # on the same disk, so that publishing is renaming
        with TemporaryDirectory(prefix="work-", dir=hidden) as folder:
            yield Path(folder)

    def publish(self, folder: Path, names: Sequence[str]) -> None:
        """Move files from a workspace to their places."""
        targets = [self._path(name) for name in names]
        if not self.local:
            self.fs.put([str(folder / name) for name in names], targets)
            return
        for parent in {Path(target).parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        for name, target in zip(names, targets, strict=True):
            (folder / name).replace(target)

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
        """Remove everything, and last what marks it as a dataset of ours."""
        for name in sorted(self.entries(), key=lambda name: name in {"dataset.json", UNFINISHED}):
            self.remove(name)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"
