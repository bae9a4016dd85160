"""An archive reads as the folder it was packed from; what is unsafe, damaged or too large is one sentence."""

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sources import (
    data,
    encoded,
    glyph,
    glyphs,
    gzipped,
    pixel_header,
    pixel_rows,
    refused,
    table,
    tarred,
    write_tree,
    zipped,
)

from lekhani.data import archives
from lekhani.data.layouts import read_raw


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.write_bytes(zipped(members, zipfile.ZIP_STORED))


PICTURES = {
    f"top/{split}/{name}/{i}.png": encoded(glyph(i))
    for i, (split, name) in enumerate([("Train", "a"), ("Test", "a"), ("Train", "b")], 200)
}


def test_a_zip_reads_as_its_folder(tmp_path: Path) -> None:
    names = ["top/Train/क/1.png", "top/Test/क/2.png", "top/Train/7/1.png", "__MACOSX/top/._x.png"]
    write_tree(tmp_path / "tree", *names)
    (tmp_path / "zip").mkdir()
    write_zip(
        tmp_path / "zip" / "own.zip", {"top/": b"", **{name: (tmp_path / "tree" / name).read_bytes() for name in names}}
    )
    folder, packed = read_raw(tmp_path / "tree", "devanagari"), read_raw(tmp_path / "zip", "devanagari")
    assert packed.classes == folder.classes
    assert list(packed.members) == list(folder.members)
    assert list(packed.splits) == list(folder.splits)
    np.testing.assert_array_equal(np.stack(list(packed.images)), np.stack(list(folder.images)))


def test_a_zip_of_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.stack([glyph(), glyph()]), labels=[3, 5])
    write_zip(tmp_path / "own.zip", {"own.npz": buffer.getvalue()})
    assert [c.glyph for c in read_raw(tmp_path, "mnist").classes] == ["3", "5"]


def test_zip_names_from_macos_and_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for name in ("set\\ka\\1.png", "./set/kha/1.png"):
            archive.writestr(zipfile.ZipInfo(name), encoded(glyph()))
    assert [c.glyph for c in read_raw(tmp_path, "devanagari").classes] == ["क", "ख"]
    packed = (tmp_path / "own.zip").read_bytes().replace(b"kha", "ग".encode())
    (tmp_path / "own.zip").write_bytes(packed)  # UTF-8 without the flag that says so
    assert [c.glyph for c in read_raw(tmp_path, "devanagari").classes] == ["क", "ग"]


@pytest.mark.parametrize("name", ["../a/1.png", "a/../../1.png", "/a/1.png", "C:/a/1.png", "..\\a\\1.png"])
def test_members_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    write_zip(tmp_path / "own.zip", {"a/1.png": encoded(glyph()), name: encoded(glyph())})
    refused(tmp_path, "own", "leads out of the archive")
    assert [path.name for path in tmp_path.iterdir()] == ["own.zip"]


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/2.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr("a/1.png", encoded(glyph()))
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path, "own", "member a/2.png is a link")


def test_a_zip_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(1 << 20))
    monkeypatch.setattr(archives, "SMALL", 1 << 10)
    refused(tmp_path, "own", "would unpack from 0.0 MB to 1 MB, more than is allowed")


def test_a_broken_zip(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK\x03\x04 and no more")
    refused(tmp_path, "own", "is no readable archive")


def test_a_damaged_member(tmp_path: Path) -> None:
    content = encoded(glyph())
    write_zip(tmp_path / "own.zip", {"a/1.png": content})
    packed = (tmp_path / "own.zip").read_bytes()
    (tmp_path / "own.zip").write_bytes(packed.replace(content, bytes(len(content)), 1))
    refused(tmp_path, "own", "member a/1.png is damaged")


def test_a_locked_member(tmp_path: Path) -> None:
    write_zip(tmp_path / "own.zip", {"a/1.png": encoded(glyph())})
    packed = bytearray((tmp_path / "own.zip").read_bytes())
    packed[6] |= 1  # the flag for a password in the member's own header
    packed[packed.index(b"PK\x01\x02") + 8] |= 1  # and in the archive's directory
    (tmp_path / "own.zip").write_bytes(packed)
    refused(tmp_path, "own", "member a/1.png is encrypted")


def test_an_empty_class_folder_in_a_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "own.zip", {"a/1.png": encoded(glyph()), "b/": b""})
    refused(tmp_path, "own", "class folder b in .*own.zip holds no images")


# --- tar ---


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("x.tar", "w"),
        ("x.tar.gz", "w:gz"),
        ("x.TGZ", "w:gz"),
        ("x.tar.bz2", "w:bz2"),
        ("x.tar.xz", "w:xz"),
        ("x.zip", "w:gz"),
    ],
)
def test_a_tar_reads_as_its_folder(tmp_path: Path, name: str, mode: str) -> None:
    (tmp_path / name).write_bytes(tarred(PICTURES, mode))
    raw = read_raw(tmp_path, "own")
    assert dict(zip(raw.members, [image.max() for image in raw.images], strict=True)) == {
        m: int(m[-7:-4]) for m in PICTURES
    }
    assert sorted(zip(glyphs(raw), raw.splits, strict=True)) == [("a", "test"), ("a", "train"), ("b", "train")]


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("a/2.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    if kind == tarfile.CONTTYPE:  # another word for a file
        refused(tmp_path, "own", "it is empty")
    else:
        refused(tmp_path, "own", "member a/2.png is a link, no plain file, or leads out|is no readable archive")


@pytest.mark.parametrize("name", ["../a/1.png", "/a/1.png", "a/../../1.png"])
def test_members_of_a_tar_that_lead_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.tar").write_bytes(tarred({"a/1.png": encoded(glyph()), name: b"x"}, "w"))
    refused(tmp_path, "own", "leads out of the archive")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_tar_that_ends_early(tmp_path: Path, mode: str, share: float) -> None:
    content = tarred({f"a/{i}.png": np.random.default_rng(i).bytes(5000) for i in range(4)}, mode)
    content = content[: -9 * 1024] if mode == "w" and share == 0.9 else content[: int(len(content) * share)]
    (tmp_path / "x.tar").write_bytes(content)
    refused(tmp_path, "own", "is no readable archive")


def test_a_tar_cut_between_two_members(tmp_path: Path) -> None:
    content = tarred({"a/1.png": encoded(glyph()), "a/2.png": encoded(glyph())}, "w")
    (tmp_path / "x.tar").write_bytes(content[:1024])
    refused(tmp_path, "own", "is no readable archive .its end is missing")


def test_a_tar_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar.gz").write_bytes(tarred({"a/1.png": bytes(8 << 20)}))
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    refused(tmp_path, "own", "unpacks to more than is allowed, 2 MB")


def test_a_header_of_a_tar_that_asks_for_gigabytes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/1.png")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    refused(tmp_path, "own", "is no readable archive")


def test_a_tar_that_runs_in_a_circle(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/1.png")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")  # a size below zero
    head[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(head))[0]
    (tmp_path / "x.tar").write_bytes(bytes(head) + bytes(1024))
    refused(tmp_path, "own", "is no readable archive")


# --- bounds ---


@pytest.mark.parametrize("pack", ["zip", "tar", "folder"])
def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: str) -> None:
    members = {f"a/{i}.png": b"" for i in range(30)}
    monkeypatch.setattr(archives, "MAX_FILES", 20)
    if pack == "folder":
        write_tree(tmp_path, *members)
    else:
        (tmp_path / f"x.{pack}").write_bytes(zipped(members) if pack == "zip" else tarred(members, "w"))
    refused(tmp_path, "own", "holds more than 20 files and folders")


def test_a_zip_that_hides_how_many_members_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(zipped({f"a/{i}.png": b"" for i in range(30)}))
    end = content.rfind(b"PK\x05\x06")
    content[end + 8 : end + 12] = b"\1\0\1\0"
    (tmp_path / "x.zip").write_bytes(content)
    monkeypatch.setattr(archives, "MAX_FILES", 20)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # which would make an object of each
    refused(tmp_path, "own", "holds more than 20 files and folders")


def test_a_gz_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzipped(table(pixel_rows("ab" * 500), [*pixel_header(), "label"])))
    monkeypatch.setattr(archives, "SMALL", 10_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 2)
    refused(tmp_path, "own", "x.csv.gz unpacks to more than is allowed")


# --- archives in archives ---


@pytest.mark.parametrize("inner", ["inner.zip", "deep/inner.tar.gz"])
def test_an_archive_around_an_archive(tmp_path: Path, inner: str) -> None:
    packed = zipped(PICTURES) if inner.endswith(".zip") else tarred(PICTURES)
    write_zip(tmp_path / "own.zip", {inner: packed, "readme.txt": b"x"})
    assert len(read_raw(tmp_path, "own").images) == 3
    write_zip(tmp_path / "own.zip", {"middle.zip": zipped({inner: packed})})
    refused(tmp_path, "own", "holds one more archive, .*inner")


def test_an_inner_archive_counts_against_the_outer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SMALL", 1 << 10)
    (tmp_path / "own.zip").write_bytes(zipped({"inner.zip": zipped({"a/1.png": bytes(1 << 20)})}))
    refused(tmp_path, "own", "more than is allowed")


# --- folders ---


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a/2.png")
    refused(tmp_path, "own", "a/2.png is neither a file nor a folder")


@pytest.mark.parametrize("target", [".", "nowhere"])
def test_links_to_folders_and_to_nothing(tmp_path: Path, target: str) -> None:
    write_tree(tmp_path, "a/1.png")
    (tmp_path / "b").symlink_to(target)
    refused(tmp_path, "own", "b is neither a file nor a folder")


def test_links_to_files_are_followed_as_dvc_makes_them(tmp_path: Path) -> None:
    write_tree(tmp_path, "cache/1f")
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "raw/a/1.png").symlink_to("../../cache/1f")
    assert len(read_raw(tmp_path / "raw", "own").images) == 1


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    refused(tmp_path, "own", r"holds a name that is not UTF-8, b'\\xff'")


def test_an_unreadable_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, "a/1.png", "b/1.png")
    plain_open, plain_scan = Path.open, os.scandir

    def locked(path: Path, *args: object) -> object:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return plain_open(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", locked)
    refused(tmp_path, "own", r"a/1.png cannot be read \(Permission denied\); check its permissions")

    def closed(path: Path) -> object:
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return plain_scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    refused(tmp_path, "own", r"b cannot be read \(Permission denied\); check its permissions")


def test_a_file_that_vanishes_or_shrinks(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", "a/2.png")
    source = archives.open_folder(tmp_path)
    (tmp_path / "a/1.png").unlink()
    (tmp_path / "a/2.png").write_bytes(b"x")
    with pytest.raises(archives.UsageError, match=r"a/1.png cannot be read \(No such file or directory\)"):
        source.read("a/1.png")
    with pytest.raises(archives.UsageError, match="changed or ended while it was read"):
        source.read("a/2.png")


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "own", "none cannot be read .No such file or directory")


def test_names_of_folders_like_files(tmp_path: Path) -> None:
    write_tree(tmp_path, "a.png/1.png", "b.zip/1.png", "c.csv/1.png")
    assert glyphs(read_raw(tmp_path, "own", data())) == ["a.png", "b.zip", "c.csv"]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(tarred(PICTURES))
    read_raw(tmp_path, "own")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]
