"""Raw files arrive as a whole or not at all, and say where they came from."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import write_tree

from lekhani import params
from lekhani.data.raw import RawImages
from lekhani.data.sources import fetch as fetch_stage
from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError, UsageError


def fetch(path: Path | str, out: Path, name: str = "own", **data: Any) -> dict[str, Any]:
    """Fetch from a local path, or as `data` says; what source.json then holds."""
    data = data if "source" in data else {"source": "local", "path": str(path), **data}
    fetch_stage.fetch(name, params.Data(**data), params.Embedded(per_class_train=3), 7, out)
    return dict(json.loads((out / "source.json").read_text()))


def found(out: Path) -> set[str]:
    return {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()} - {"source.json"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw" / "own"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("mine/ka/1.png", "mine/kha/2.png", "mine/.git/config", "mine/ka/.DS_Store"):
        write_tree(tmp_path, name, content=name.encode())
    return tmp_path / "mine"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fakes of the embedded sources, which take a while to draw; the list holds what they were asked for."""
    calls: list[Any] = []
    images = [np.full((8, 8), i, np.uint8) for i in range(10)]
    raw = RawImages(images, np.arange(10), MNIST, [f"d/{i}" for i in range(10)], [""] * 10)

    def devanagari(*given: int) -> RawImages:
        calls.append(given)
        return raw

    monkeypatch.setattr("lekhani.data.sources.embedded.devanagari", devanagari)
    monkeypatch.setattr("lekhani.data.sources.embedded.mnist", lambda: raw)
    return calls


def test_a_folder_is_copied_without_hidden_files(tree: Path, out: Path) -> None:
    source = fetch(tree, out)
    assert found(out) == {"mine/ka/1.png", "mine/kha/2.png"}
    assert (source["name"], source["path"], len(source["sha256"])) == ("local", str(tree), 64)
    assert source["sha256"].startswith(source["version"])
    assert fetch(tree, out) == source
    (tree / "ka" / "1.png").write_text("another")
    assert fetch(tree, out)["sha256"] != source["sha256"]


def test_paths_and_patterns(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, "own_train.npz", "own_test.npz", "other.npz", "own[1].zip", "work/x", "8f3a", content=b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "link.npz").symlink_to(tmp_path / "8f3a")
    cases = {
        "~/own_*.npz": {"own_train.npz", "own_test.npz"},
        "../own_train*.npz": {"own_train.npz"},
        "../own[1].zip": {"own[1].zip"},
        "../link.npz": {"link.npz"},
    }
    for path, files in cases.items():
        fetch(path, out)
        assert found(out) == files
    assert not (out / "link.npz").is_symlink()
    write_tree(tmp_path, "a/x.npz", "b/x.npz", content=b"x")
    with pytest.raises(UsageError, match=r"finds both .*a/x\.npz and .*b/x\.npz"):
        fetch("../?/x.npz", out)


@pytest.mark.parametrize("path", ["../own_*.npz", "../own_train.npz"])
def test_a_relative_path_starts_in_the_project_also_in_a_copy_for_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    write_tree(tmp_path, "own_train.npz", "names.csv", "project/.dvc/tmp/exps/tmp1/params.yaml", content=b"x")
    monkeypatch.chdir(tmp_path / "project/.dvc/tmp/exps/tmp1")
    fetch(path, Path("data/raw/own"), classes_csv="../names.csv")
    assert found(Path("data/raw/own")) == {"own_train.npz", "classes.csv"}


@pytest.mark.parametrize(
    ("path", "problem"),
    [("*.npz", "does not exist"), ("empty", "holds no files"), (".", "lie one inside the other")],
)
def test_nothing_found_names_the_key(tmp_path: Path, out: Path, path: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=rf"^data\.own\.path: .*{problem}"):
        fetch(tmp_path / path, out)
    assert not out.parent.exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    os.mkfifo(tmp_path / "a.zip")  # to open it would be to wait
    (tmp_path / "a.pkl").write_text("x")
    with pytest.raises(UsageError, match=r"a\.pkl is a pickle, which can run code when it is opened"):
        fetch(tmp_path / "a.pkl", out)
    for name in ("a.pdf", "a.zip"):
        with pytest.raises(UsageError, match=rf"{name} is not a folder, an archive .*; give one of these\.$"):
            fetch(tmp_path / name, out)
    write_tree(tmp_path, "optdigits.tra", content=b"0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n")
    write_tree(tmp_path, "images", content=b"\0\0\x08\x03")
    for name in ("optdigits.tra", "images"):
        fetch(tmp_path / name, out)
        assert found(out) == {name}
    names = ["b.parquet", "b.mat", "b.npy", "b.tsv", "b (1).zip", "b.zip", "b.NPZ", "b.csv", "b.tar.gz", "b.tgz"]
    names += ["train-images.idx3-ubyte", "train-images-idx3-ubyte.gz"]
    write_tree(tmp_path, *names, content=b"x")
    for name in names:
        fetch(tmp_path / name, out)
        assert found(out) == {name}


def test_a_folder_with_too_many_files_is_refused_before_a_byte_is_copied(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_stage, "MAX_FILES", 1)
    with pytest.raises(UsageError, match=r"mine holds more than 1 files; give the folder of the images alone"):
        fetch(tree, out)
    assert not out.parent.exists()


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "\udcff", "rtl\u202e"])
def test_strange_names_stay_within_one_line(tmp_path: Path, out: Path, name: str) -> None:
    folder = tmp_path / "mine" / name
    write_tree(tmp_path, f"{name}.pdf", f"mine/{name}/{name}.png", content=b"x")
    (folder / "nowhere").symlink_to("nowhere")
    for path in (tmp_path / "*.pdf", tmp_path / "mine", f"{tmp_path}\0", f"{tmp_path}/{name}nothing"):
        with pytest.raises(UsageError) as caught:
            fetch(path, out)
        assert len(str(caught.value).splitlines()) == 1
        str(caught.value).encode()
    (folder / "nowhere").unlink()
    fetch(tmp_path / "mine", out)
    assert (out / "mine" / name / f"{name}.png").exists()


def test_links_must_stay_inside(tree: Path, out: Path) -> None:
    (tree.parent / "secret").write_text("x")
    link = tree / "link"
    for target in ("../secret", "kha", "nowhere"):
        link.symlink_to(tree / target)
        with pytest.raises(UsageError, match=r"the link .*mine/link leads out"):
            fetch(tree, out)
        link.unlink()
    link.symlink_to(tree / "ka" / "1.png")
    fetch(tree, out)
    assert (out / "mine/link").read_text() == "mine/ka/1.png"
    assert not (out / "mine/link").is_symlink()


@pytest.mark.parametrize("data", [{}, {"source": "embedded"}], ids=["local", "embedded"])
def test_raw_files_that_come_out_the_same_stay(
    tree: Path, out: Path, embedded: list[Any], data: dict[str, str]
) -> None:
    fetch(tree, out, "mnist", **data)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out, *out.rglob("*"))}
    fetch(tree, out, "mnist", **data)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out, *out.rglob("*"))} == before


def test_what_is_known_of_the_images_is_noted(tree: Path, out: Path, embedded: list[Any]) -> None:
    def noted(name: str, **data: Any) -> list[str | None]:
        source = fetch(tree, out, name, **data)
        assert list(source) == ["name", "version", "sha256", "path", "origin", "licence", "citation"]
        return [source[key] for key in ("origin", "licence", "citation")]

    assert noted("own") == [None, None, None]
    inode = out.stat().st_ino
    assert noted("own", origin="me", licence="CC0", citation="none") == ["me", "CC0", "none"]
    assert out.stat().st_ino == inode
    assert "Noto" in (noted("devanagari", source="embedded")[0] or "")
    origin, licence, citation = noted("mnist", source="embedded", licence="checked by us")
    assert "UCI" in (origin or "")
    assert licence == "checked by us"
    assert "Kaynak" in (citation or "")


def test_names_for_classes_come_along(tree: Path, out: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("name,glyph\nka,क\n")
    first = fetch(tree, out, classes_csv=str(names))["sha256"]
    assert (out / "classes.csv").read_bytes() == names.read_bytes()
    names.write_text("name,glyph\nka,ख\n")
    assert fetch(tree, out, classes_csv=str(names))["sha256"] != first
    (tree / "classes.csv").write_text("name,glyph\n")
    for path, problem in (("nowhere.csv", "does not exist"), (tmp_path, "is no file")):
        with pytest.raises(UsageError, match=rf"^data\.own\.classes_csv: .*{problem}"):
            fetch(tree, out, classes_csv=str(path))
    problem = r"the source has a classes\.csv of its own, .*mine/classes\.csv; leave"
    with pytest.raises(UsageError, match=rf"^data\.own\.classes_csv: {problem}"):
        fetch(tree, out, classes_csv=str(names))


@pytest.mark.parametrize(
    ("refused", "code", "sentence"),
    [
        ("shutil.copyfileobj", errno.ENOSPC, r"^Could not write .*No space left"),
        ("pathlib.Path.open", errno.EACCES, r"^data\.own\.path: .* cannot be read \(Permission denied\); check its"),
    ],
)
def test_a_disk_that_refuses_leaves_the_earlier_files(
    tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch, refused: str, code: int, sentence: str
) -> None:
    before = fetch(tree, out)
    (tree / "ka" / "1.png").write_text("another")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(refused, refuse)
        with pytest.raises(LekhaniError, match=sentence):
            fetch(tree, out)
    assert json.loads((out / "source.json").read_text()) == before
    assert [path.name for path in out.parent.iterdir()] == ["own"]


def test_embedded_images_are_saved_with_their_names(embedded: list[Any], out: Path) -> None:
    source = fetch("", out, "mnist", source="embedded", image_size=28)
    with np.load(out / "embedded.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"images", "labels", "class_names", "glyphs", "filenames", "splits"}
        assert arrays["images"].shape == (10, 8, 8)
    assert (source["name"], source["path"]) == ("embedded", None)
    assert source["version"].startswith("lekhani ")
    fetch("", out, "devanagari", source="embedded")
    assert embedded == [(7, 3, 60, 32)]
    with pytest.raises(UsageError, match=r"^data\.own\.source: `embedded` makes devanagari and mnist only"):
        fetch("", out, source="embedded")
