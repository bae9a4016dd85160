"""Whole files or none, whatever goes wrong while they are written."""

import errno
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lekhani import files
from lekhani.errors import LekhaniError


def fill_folder(folder: Path, **contents: str) -> None:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_text(content)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("existing", [None, "old"])
def test_a_file_or_a_folder_appears_whole(tmp_path: Path, existing: str | None) -> None:
    target = tmp_path / "deep" / "file.txt"
    if existing:
        target.parent.mkdir()
        target.write_text(existing)
    with files.replacing(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent, "a rename across file systems is no rename"
        assert target.exists() == bool(existing)
    assert target.read_text() == "new"
    assert everything(tmp_path) == ["deep", "deep/file.txt"]
    for content in ({"old": "1"}, {"new": "2"}):
        with files.replacing(target.parent) as temporary:
            fill_folder(temporary, **content)
    assert everything(tmp_path) == ["deep", "deep/new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EDQUOT, "Quota")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("as_folder", [False, True])
def test_an_error_leaves_the_old_and_nothing_else(tmp_path: Path, error: BaseException, as_folder: bool) -> None:
    target = tmp_path / "x"
    if as_folder:
        fill_folder(target, old="1")
    else:
        target.write_text("1")
    before = files.sha256(target)

    def write_half_and_fail() -> None:
        with files.replacing(target) as temporary:
            if as_folder:
                fill_folder(temporary, new="2")
            else:
                temporary.write_text("half")
            raise error

    with pytest.raises(LekhaniError if isinstance(error, OSError) else type(error)):
        write_half_and_fail()
    assert files.sha256(target) == before
    assert everything(tmp_path) == (["x", "x/old"] if as_folder else ["x"])


def test_a_failing_swap_of_folders_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x"
    fill_folder(target, old="1")
    rename = Path.rename

    def stumble(self: Path, to: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", stumble)
    with pytest.raises(LekhaniError), files.replacing(target) as temporary:
        fill_folder(temporary, new="2")
    assert everything(tmp_path) == ["x", "x/old"]


def test_a_full_disk_for_real(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    files.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(LekhaniError, match=r"^Could not write .*x\.json: File too large"), full_disk():
        files.write_json(tmp_path / "x.json", {"a": 2})
    assert files.read_json(tmp_path / "x.json") == {"a": 1}
    assert everything(tmp_path) == ["x.json"]


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), {"deep": [1.0, np.float64("-inf")]}, {1}])
def test_json_refuses_what_is_no_number_and_what_it_would_have_to_guess(tmp_path: Path, value: Any) -> None:
    files.write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises((ValueError, TypeError), match=r"not JSON compliant|set"):
        files.write_json(tmp_path / "x.json", {"value": value})
    assert files.read_json(tmp_path / "x.json") == {"old": 1}


def test_json_takes_numpy_scalars_paths_and_devanagari(tmp_path: Path) -> None:
    files.write_json(
        tmp_path / "x.json", {"ख": np.int64(3), "a": np.float32(0.5), "b": np.bool_(True), "c": Path("a/b")}
    )
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "ख" in text
    assert list(json.loads(text).items()) == [("ख", 3), ("a", 0.5), ("b", True), ("c", "a/b")]


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is missing"), (b"{", "cannot be read"), (b"\xff", "cannot be read")]
)
def test_reading_what_is_missing_or_broken(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(LekhaniError, match=rf"x\.json {words}.*dvc repro"):
        files.read_json(tmp_path / "x.json")


def test_tables_come_back_as_text(tmp_path: Path) -> None:
    rows = [{"name": "क", "n": 1.0}, {"name": "a,b", "n": None}]
    files.write_csv(tmp_path / "new" / "t.csv", rows)
    assert files.read_csv(tmp_path / "new" / "t.csv") == [{"name": "क", "n": "1.0"}, {"name": "a,b", "n": ""}]
    files.write_csv(tmp_path / "t.csv", [], ("name", "n"))
    assert (tmp_path / "t.csv").read_text() == "name,n\n"


def test_sha256_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    def digest(name: str, **contents: str) -> str:
        fill_folder(tmp_path / name, **contents)
        return files.sha256(tmp_path / name)

    first = digest("one", a="1", b="2")
    assert digest("two", b="2", a="1") == first, "neither the order of writing nor the folder's own name matters"
    assert digest("three", a="1", c="2") != first
    assert digest("four", a="1", b="3") != first
    (tmp_path / "one" / "sub").mkdir()
    (tmp_path / "one" / "a").rename(tmp_path / "one" / "sub" / "a")
    assert files.sha256(tmp_path / "one") != first


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("folder", "Is a directory"),
        ("pipe", "nothing came"),
        ("huge", "more than 1 MB"),
        ("/dev/zero", "more than 1 MB"),
        ("none", "No such file"),
    ],
)
def test_what_a_user_names_is_read_to_its_end_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.setattr(files, "SILENCE", 0.1)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(OSError, match=why):
        files.read_input(tmp_path / name, 1 << 20)


def test_a_pipe_brings_all_that_is_written_to_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = bytes(1 << 20)
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe").write_bytes, content)
        assert files.read_input(tmp_path / "pipe", len(content)) == content
