"""Where a dataset is written: a local folder, or any place that fsspec knows, such as s3://bucket/folder."""

import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import fsspec
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol
from pydantic import BaseModel, ValidationError

from lekhani.errors import LekhaniError, UsageError, first_line, first_problem, reason
from lekhani.files import FileModel
from lekhani.paths import local_path

KINDS = {"file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}  # memory: for tests
UNFINISHED = ".unfinished"  # a folder that is removed when the dataset is complete
_LOCK = f"{UNFINISHED}/lock"
_WRITER = f"{UNFINISHED}/writer.json"
_Model = TypeVar("_Model", bound=BaseModel)


class Writer(FileModel):
    """Who holds the lock of a folder, and since when."""

    pid: int
    host: str
    since: str


class Store:
    """Files by their names below `out`; each is there whole or not at all."""

    def __init__(self, out: str) -> None:
        """Raise UsageError for an unknown kind of address, and for a path that is a file."""
        self.out = out
        kind = get_protocol(out)
        if kind in {"file", "local"}:
            out = str(local_path(out))
        if kind not in KINDS:
            raise UsageError(
                f"--out {out}: {kind}:// is no place to write to; take a folder, or s3://, gs:// or az://."
            )
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

    def below(self, name: str) -> "Store":
        """A folder in this one."""
        return Store(f"{self.root if self.local else self.out.rstrip('/')}/{name}")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of a disk or a server into LekhaniError of one sentence."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("botocore", "aiohttp")):
                raise
            remote = "check the address, the credentials and the bucket"
            advice = "free space or check permissions" if self.local else remote
            problem = f"Could not write {self.out}: {reason(error)}"
            raise LekhaniError(f"{problem}; {advice}, then run the same again: what is finished is kept.") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here; the system frees the lock of one that dies.

        Object stores have no locks, so there this does nothing. Raises LekhaniError naming the process that holds it.
        """
        if not self.local:
            yield
            return
        path, is_new = Path(self._path(_LOCK)), not Path(self.root).exists()
        with self._acquired(path):
            try:
                since = datetime.now(UTC).isoformat(timespec="seconds")
                self.write(_WRITER, Writer(pid=os.getpid(), host=socket.gethostname(), since=since).model_dump_json())
                yield
            finally:  # the files go while the lock is held: filelock notices when the file that it locked is gone
                with suppress(OSError):
                    Path(self._path(_WRITER)).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
                    path.parent.rmdir()  # where an unfinished dataset is in it, it stays
                    if is_new:
                        Path(self.root).rmdir()  # nothing was written

    def _acquired(self, path: Path) -> AbstractContextManager[object]:
        for attempt in range(10):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return FileLock(path).acquire(timeout=0.5, poll_interval=0.1)
            except FileNotFoundError:  # the last holder has just removed the folder
                if attempt == 9:
                    raise
            except Timeout:
                break
        raise LekhaniError(self._taken())

    def _taken(self) -> str:
        with suppress(LekhaniError):
            if writer := self.read(_WRITER, Writer):
                who = f"process {writer.pid} on {writer.host}, since {writer.since}"
                return f"{self.out} is being written by {who}; wait for its end, or choose another --out."
        return f"{self.out} is being written by another process; wait for its end, or choose another --out."

    def entries(self, folder: str = "") -> list[str]:
        """The names of the files and folders in a folder, by default at the top; none where it is missing."""
        path = self._path(folder).rstrip("/")
        if not self.fs.isdir(path):
            return []
        return [one.rstrip("/").rsplit("/", 1)[-1] for one in self.fs.ls(path, detail=False)]

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self._path(name)))

    def present(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are files or folders here."""
        if self.local:
            return [name for name in names if os.path.lexists(self._path(name))]
        if len(names) <= 2:  # a shard of any format but png; there may be many other files beside it
            return [name for name in names if self.exists(name)]
        folders = {name.rpartition("/")[0] for name in names}
        here = {folder: set(self.entries(folder)) for folder in folders}
        return [name for name in names if name.rpartition("/")[2] in here[name.rpartition("/")[0]]]

    def is_file(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.fs.isfile(self._path(name)))

    def read(self, name: str, model: type[_Model]) -> _Model | None:
        """The contents of a JSON file; None where it is missing. Raises UsageError where it is damaged."""
        try:
            return model.model_validate_json(self.fs.cat_file(self._path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            problem = f"{self.out} exists already, and {name} in it is damaged or not ours ({first_problem(error)})"
            raise UsageError(f"{problem}; choose another --out.") from error

    def text(self, name: str) -> str:
        """A file of text."""
        content: bytes = self.fs.cat_file(self._path(name))
        return content.decode()

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
        """Move files from a folder on this machine to their places."""
        targets = [self._path(name) for name in names]
        if not self.local:
            self.fs.put([str(folder / name) for name in names], targets)
            return
        for parent in {Path(target).parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        for name, target in zip(names, targets, strict=True):
            (folder / name).replace(target)

    def take(self, other: "Store", names: Sequence[str]) -> None:
        """Move files here from another folder of the same place, those that are still there."""
        names = other.present(names)
        if self.local:
            self.publish(Path(other.root), names)
        elif names:
            self.fs.mv([other._path(name) for name in names], [self._path(name) for name in names])

    def rename(self, name: str, new: str) -> None:
        """Move one file within this place."""
        if self.local:
            Path(self._path(name)).replace(self._path(new))
        else:
            self.fs.mv(self._path(name), self._path(new))

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
        if self.exists(name):
            self.fs.rm(self._path(name), recursive=True)

    def clear_unfinished(self) -> None:
        """Remove what an unfinished dataset consists of, but for the lock."""
        for name in self.entries(UNFINISHED):
            if f"{UNFINISHED}/{name}" not in {_LOCK, _WRITER}:
                self.remove(f"{UNFINISHED}/{name}")

    def remove_files(self, names: Sequence[str]) -> None:
        """Remove files that are there, and the folders that are empty without them."""
        if found := self.present(names):
            self.fs.rm([self._path(name) for name in found])
        for folder in {name.rpartition("/")[0] for name in names} - {""} if self.local else ():
            with suppress(OSError):
                Path(self._path(folder)).rmdir()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"
