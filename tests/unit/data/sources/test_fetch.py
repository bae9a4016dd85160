"""Raw files arrive as a whole or not at all, and say where they came from."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lekhani import params
from lekhani.data.raw import RawImages
from lekhani.data.sources import fetch as room
from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError, UsageError


def local(path: Path | str) -> params.Data:
    return params.Data(source="local", path=str(path))


def fetch(path: Path | str, out: Path) -> None:
    room.fetch("own", local(path), params.Embedded(), 7, out)


def found(out: Path) -> set[str]:
    return {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw" / "own"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("mine/ka/1.png", "mine/kha/2.png", "mine/.git/config", "mine/ka/.DS_Store"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "mine"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-ins for the embedded sources, which take a while to draw; the list holds what they were asked for."""
    asked: list[Any] = []
    raw = RawImages(
        [np.full((8, 8), i, np.uint8) for i in range(10)],
        np.arange(10),
        MNIST,
        [f"d/{i}" for i in range(10)],
        [""] * 10,
    )

    def devanagari(*given: int) -> RawImages:
        asked.append(given)
        return raw

    monkeypatch.setattr("lekhani.data.sources.embedded.devanagari", devanagari)
    monkeypatch.setattr("lekhani.data.sources.embedded.mnist", lambda: raw)
    return asked


def test_a_folder_is_copied_without_hidden_files(tree: Path, out: Path) -> None:
    fetch(tree, out)
    assert found(out) == {"mine/ka/1.png", "mine/kha/2.png", "source.json"}
    source = json.loads((out / "source.json").read_text())
    assert source["name"] == "local"
    assert source["path"] == str(tree)
    assert len(source["sha256"]) == 64
    assert source["sha256"].startswith(source["version"])


def test_the_digest_is_of_the_contents(tree: Path, out: Path) -> None:
    def digest() -> str:
        fetch(tree, out)
        return str(json.loads((out / "source.json").read_text())["sha256"])

    first = digest()
    assert digest() == first
    (tree / "ka" / "1.png").write_text("another")
    assert digest() != first


def test_a_pattern_and_a_home_folder(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("own_train.npz", "own_test.npz", "other.npz"):
        (tmp_path / name).write_bytes(b"x")
    fetch("~/own_*.npz", out)
    assert found(out) == {"own_train.npz", "own_test.npz", "source.json"}


def test_a_relative_pattern_may_climb(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "own_train.npz").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "work")
    fetch("../own_*.npz", out)
    assert found(out) == {"own_train.npz", "source.json"}


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path, out: Path) -> None:
    (tmp_path / "own[1].zip").write_bytes(b"x")
    fetch(tmp_path / "own[1].zip", out)
    assert found(out) == {"own[1].zip", "source.json"}


def test_a_linked_file_keeps_the_name_of_the_link(tmp_path: Path, out: Path) -> None:
    (tmp_path / "8f3a").write_bytes(b"x")
    (tmp_path / "own.npz").symlink_to(tmp_path / "8f3a")
    fetch(tmp_path / "own.npz", out)
    assert found(out) == {"own.npz", "source.json"}
    assert not (out / "own.npz").is_symlink()


@pytest.mark.parametrize(
    ("path", "problem"), [("nowhere", "does not exist"), ("*.npz", "does not exist"), ("empty", "holds no files")]
)
def test_nothing_found_names_the_key(tmp_path: Path, out: Path, path: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=rf"^data\.own\.path: .*{problem}"):
        fetch(tmp_path / path, out)
    assert not out.parent.exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    os.mkfifo(tmp_path / "a.zip")  # to open it would be to wait
    for name in ("a.pdf", "a.zip"):
        with pytest.raises(
            UsageError, match=rf"^data\.own\.path: .*{name} is not a folder, an archive .*; give one of these\.$"
        ):
            fetch(tmp_path / name, out)


@pytest.mark.parametrize(
    "name", ["a.zip", "a.NPZ", "a.csv", "a.tar.gz", "a.tgz", "train-images.idx3-ubyte", "train-images-idx3-ubyte.gz"]
)
def test_every_kind_of_file_that_can_be_read_is_taken(tmp_path: Path, out: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    fetch(tmp_path / name, out)
    assert found(out) == {name, "source.json"}


def test_a_folder_with_too_many_files_is_refused_before_a_byte_is_copied(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_FILES", 1)
    with pytest.raises(
        UsageError, match=r"^data\.own\.path: .*mine holds more than 1 files; give the folder of the images alone"
    ):
        fetch(tree, out)
    assert not out.parent.exists()


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "\udcff", "rtl\u202e"])
def test_strange_names_stay_within_one_line(tmp_path: Path, out: Path, name: str) -> None:
    folder = tmp_path / "mine" / name
    folder.mkdir(parents=True)
    (tmp_path / f"{name}.pdf").write_text("x")
    (folder / "nowhere").symlink_to("nowhere")
    for given in (tmp_path / "*.pdf", tmp_path / "mine", f"{tmp_path}\0", f"{tmp_path}/{name}nothing"):
        with pytest.raises(UsageError) as caught:
            fetch(given, out)
        assert len(str(caught.value).splitlines()) == 1
        str(caught.value).encode()
    (folder / "nowhere").unlink()
    (folder / f"{name}.png").write_bytes(b"x")
    fetch(tmp_path / "mine", out)
    assert (out / "mine" / name / f"{name}.png").exists()


def test_two_files_of_one_name_are_refused(tmp_path: Path, out: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.npz").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"finds both .*a/x\.npz and .*b/x\.npz"):
        fetch(tmp_path / "*" / "x.npz", out)


@pytest.mark.parametrize("target", ["../secret", "kha", "nowhere"])
def test_links_out_to_folders_or_nowhere_are_refused(tree: Path, out: Path, target: str) -> None:
    (tree.parent / "secret").write_text("x")
    (tree / "link").symlink_to(tree / target)
    with pytest.raises(UsageError, match=r"the link .*mine/link leads out"):
        fetch(tree, out)


def test_a_link_to_a_file_inside_is_copied_as_a_file(tree: Path, out: Path) -> None:
    (tree / "ka" / "3.png").symlink_to(tree / "ka" / "1.png")
    fetch(tree, out)
    assert (out / "mine" / "ka" / "3.png").read_text() == "mine/ka/1.png"
    assert not (out / "mine" / "ka" / "3.png").is_symlink()


def test_a_folder_around_the_raw_files_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match="lie one inside the other"):
        fetch(tree, tree / "raw" / "own")


def test_raw_files_that_come_out_the_same_stay(tree: Path, out: Path, embedded: list[Any], tmp_path: Path) -> None:
    for name, data, folder in (
        ("own", local(tree), out),
        ("mnist", params.Data(source="embedded"), tmp_path / "mnist"),
    ):
        room.fetch(name, data, params.Embedded(), 7, folder)
        before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *folder.rglob("*"))}
        room.fetch(name, data, params.Embedded(), 7, folder)
        assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *folder.rglob("*"))} == before


def test_what_is_known_of_the_images_is_noted(tree: Path, out: Path, embedded: list[Any]) -> None:
    def noted(name: str, **data: Any) -> list[str | None]:
        room.fetch(name, params.Data(**data), params.Embedded(), 7, out)
        source = json.loads((out / "source.json").read_text())
        assert list(source) == ["name", "version", "sha256", "path", "origin", "licence", "citation"]
        return [source[key] for key in ("origin", "licence", "citation")]

    assert noted("own", source="local", path=str(tree)) == [None, None, None]
    inode = out.stat().st_ino
    assert noted("own", source="local", path=str(tree), origin="me", licence="CC0", citation="none") == [
        "me",
        "CC0",
        "none",
    ]
    assert out.stat().st_ino == inode
    assert "Noto" in (noted("devanagari", source="embedded")[0] or "")
    origin, licence, citation = noted("mnist", source="embedded", licence="checked by us")
    assert "UCI" in (origin or "")
    assert licence == "checked by us"
    assert "Kaynak" in (citation or "")


def test_names_for_classes_come_along(tree: Path, out: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("name,glyph\nka,क\n")
    data = params.Data(source="local", path=str(tree), classes_csv=str(names))
    room.fetch("own", data, params.Embedded(), 7, out)
    assert (out / "classes.csv").read_bytes() == names.read_bytes()
    first = json.loads((out / "source.json").read_text())["sha256"]
    names.write_text("name,glyph\nka,ख\n")
    room.fetch("own", data, params.Embedded(), 7, out)
    assert json.loads((out / "source.json").read_text())["sha256"] != first
    (tree / "classes.csv").write_text("name,glyph\n")
    with pytest.raises(
        UsageError,
        match=r"^data\.own\.classes_csv: the source has a classes\.csv of its own, .*mine/classes\.csv; leave",
    ):
        room.fetch("own", data, params.Embedded(), 7, out)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("nowhere.csv", "does not exist"),
        (".", "is no file"),
        ("~nobody-at-all/a.csv", "names a home folder"),
        ("a.csv/b.csv", "does not exist"),
    ],
)
def test_names_that_cannot_be_read_are_a_sentence(
    tree: Path, out: Path, given: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    (tree / "a.csv").write_text("x")
    with pytest.raises(
        UsageError,
        match=rf"^data\.own\.classes_csv: {given} {problem}.*; give a CSV file with the columns `name` and `glyph`\.$",
    ):
        room.fetch("own", params.Data(source="local", path=str(tree), classes_csv=given), params.Embedded(), 7, out)
    assert not out.parent.exists()


def test_an_unreadable_file_is_one_sentence(tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        UsageError, match=r"^data\.own\.path: .*1\.png cannot be read \(Permission denied\); check its permissions\.$"
    ):
        fetch(tree, out)


def test_a_full_disk_leaves_the_earlier_files(tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(tree, out)
    before = (out / "source.json").read_text()
    (tree / "ka" / "1.png").write_text("another")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(LekhaniError, match="No space left"):
        fetch(tree, out)
    assert (out / "source.json").read_text() == before
    assert [path.name for path in out.parent.iterdir()] == ["own"]


def test_embedded_images_are_saved_with_their_names(embedded: list[Any], tmp_path: Path) -> None:
    room.fetch("mnist", params.Data(source="embedded", image_size=28), params.Embedded(), 7, tmp_path / "mnist")
    with np.load(tmp_path / "mnist" / "embedded.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"images", "labels", "class_names", "glyphs", "filenames", "splits"}
        assert arrays["images"].shape == (10, 8, 8)
    source = json.loads((tmp_path / "mnist" / "source.json").read_text())
    assert source["name"] == "embedded"
    assert source["path"] is None
    assert source["version"].startswith("lekhani ")


def test_embedded_devanagari_is_drawn_as_asked(embedded: list[Any], tmp_path: Path) -> None:
    room.fetch(
        "devanagari", params.Data(source="embedded"), params.Embedded(per_class_train=3), 7, tmp_path / "devanagari"
    )
    assert embedded == [(7, 3, 60, 32)]


def test_embedded_knows_two_datasets(out: Path) -> None:
    with pytest.raises(UsageError, match=r"^data\.own\.source: `embedded` makes devanagari and mnist only"):
        room.fetch("own", params.Data(source="embedded"), params.Embedded(), 7, out)
