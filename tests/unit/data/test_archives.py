"""An archive reads as the folder it was packed from; what is unsafe, damaged or too large is one sentence."""

import gzip
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sources import encoded, glyph, glyphs, refused, tarred, write_tree, zipped

from lekhani.data import archives
from lekhani.data.layouts import read_raw

PICTURES = {
    f"top/{split}/{name}/{i}.png": encoded(glyph(i))
    for i, (split, name) in enumerate([("Train", "a"), ("Test", "a"), ("Train", "b")], 200)
}
ONE = {"a/1.png": encoded(glyph())}
MODES = {"x.tar": "w", "x.tar.gz": "w:gz", "x.TGZ": "w:gz", "x.tar.bz2": "w:bz2", "x.tar.xz": "w:xz"}


@pytest.mark.parametrize("name", ["x.zip", *MODES, "misnamed.zip"])
def test_an_archive_reads_as_its_folder(tmp_path: Path, name: str) -> None:
    members = {**PICTURES, "__MACOSX/top/._x.png": b"x"}
    content = zipped(members) if name == "x.zip" else tarred(members, MODES.get(name, "w:gz"))
    write_tree(tmp_path / "packed", name, content=content)
    for path, picture in members.items():
        write_tree(tmp_path / "tree", path, content=picture)
    packed, folder = read_raw(tmp_path / "packed", "own"), read_raw(tmp_path / "tree", "own")
    assert packed.classes == folder.classes
    assert list(packed.members) == list(folder.members)
    assert sorted(zip(glyphs(packed), packed.splits, strict=True)) == [("a", "test"), ("a", "train"), ("b", "train")]
    np.testing.assert_array_equal(packed.images, folder.images)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [name], "nothing is left behind"


def test_zip_names_from_macos_and_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        for name in ("set\\ka\\1.png", "./set/kha/1.png"):
            archive.writestr(zipfile.ZipInfo(name), encoded(glyph()))
    assert glyphs(read_raw(tmp_path, "devanagari")) == ["क", "ख"]
    packed = (tmp_path / "own.zip").read_bytes().replace(b"kha", "ग".encode())
    (tmp_path / "own.zip").write_bytes(packed)  # UTF-8 without the flag that says so
    assert glyphs(read_raw(tmp_path, "devanagari")) == ["क", "ग"]


# --- unsafe ---


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../a/1.png", "a/../../1.png", "/a/1.png", "C:/a/1.png", "..\\a\\1.png"])
def test_members_that_lead_out_are_refused(tmp_path: Path, name: str, pack: object) -> None:
    (tmp_path / "own.zip").write_bytes(pack({**ONE, name: encoded(glyph())}))  # type: ignore[operator]
    refused(tmp_path, "own", "leads out of the archive")
    assert [path.name for path in tmp_path.iterdir()] == ["own.zip"]


@pytest.mark.parametrize("kind", ["SYM", "LNK", "FIFO", "CHR", "BLK", "CONT", "GNUTYPE_SPARSE"])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: str) -> None:
    info = tarfile.TarInfo("a/2.png")
    info.type, info.linkname = getattr(tarfile, kind if "_" in kind else f"{kind}TYPE"), "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(info)
    pattern = "member a/2.png is a link, no plain file, or leads out|is no readable archive"
    refused(tmp_path, "own", "it is empty" if kind == "CONT" else pattern)  # CONT is another word for a file


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/2.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path, "own", "member a/2.png is a link")


# --- damaged ---


def test_a_damaged_and_an_encrypted_member(tmp_path: Path) -> None:
    packed = zipped(ONE, zipfile.ZIP_STORED)
    (tmp_path / "own.zip").write_bytes(packed.replace(ONE["a/1.png"], bytes(len(ONE["a/1.png"])), 1))
    refused(tmp_path, "own", "member a/1.png is damaged")
    locked = bytearray(packed)
    locked[6] |= 1  # the flag for a password in the member's own header
    locked[locked.index(b"PK\x01\x02") + 8] |= 1  # and in the archive's directory
    (tmp_path / "own.zip").write_bytes(locked)
    refused(tmp_path, "own", "member a/1.png is encrypted")


def tar_with_a_size_below_zero() -> bytes:
    head = bytearray(tarfile.TarInfo("a/1.png").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    head[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(head))[0]
    return bytes(head) + bytes(1024)


def tar_with_a_header_of_gigabytes() -> bytes:
    info = tarfile.TarInfo("a/1.png")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)


def ended_early(mode: str) -> bytes:
    content = tarred({f"a/{i}.png": np.random.default_rng(i).bytes(5000) for i in range(4)}, mode)
    return content[: len(content) * 6 // 10]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"PK\x03\x04 and no more", ""),
        *((ended_early(mode), "") for mode in ("w", "w:gz", "w:bz2", "w:xz")),
        (tarred({**ONE, "a/2.png": encoded(glyph())}, "w")[:1024], "its end is missing"),
        (tar_with_a_header_of_gigabytes(), "a header has an impossible length"),
        (tar_with_a_size_below_zero(), "a/1.png has a size below zero"),  # tarfile would run in circles
    ],
)
def test_archives_that_end_early_or_lie(tmp_path: Path, content: bytes, pattern: str) -> None:
    (tmp_path / ("x.zip" if content.startswith(b"PK") else "x.tar")).write_bytes(content)
    refused(tmp_path, "own", f"is no readable archive .{pattern}")


# --- bounds ---


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("x.zip", zipped({"a/1.png": bytes(8 << 20)}), "would unpack from 0.0 MB to 8 MB, more than is allowed"),
        ("x.zip", zipped({"inner.zip": zipped({"a/1.png": bytes(8 << 20)})}), "more than is allowed"),
        ("x.tar.gz", tarred({"a/1.png": bytes(8 << 20)}), "unpacks to more than is allowed, 2 MB"),
        ("x.csv.gz", gzip.compress(b"0,1,2,a\n" * 5000), "x.csv.gz unpacks to more"),
    ],
)
def test_what_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, pattern: str
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(archives, "SMALL", 1 << 20 if "tar" in name else 10_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 200 if "tar" in name else 2)
    refused(tmp_path, "own", pattern)


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


@pytest.mark.parametrize("inner", ["inner.zip", "deep/inner.tar.gz"])
def test_an_archive_around_an_archive(tmp_path: Path, inner: str) -> None:
    packed = zipped(PICTURES) if inner.endswith(".zip") else tarred(PICTURES)
    (tmp_path / "own.zip").write_bytes(zipped({inner: packed, "readme.txt": b"x"}))
    assert len(read_raw(tmp_path, "own").images) == 3
    (tmp_path / "own.zip").write_bytes(zipped({"middle.zip": zipped({inner: packed})}))
    refused(tmp_path, "own", "holds one more archive, .*inner")


# --- folders ---


def test_what_a_folder_must_not_hold(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png")
    odd = tmp_path / "b"
    os.mkfifo(odd)
    refused(tmp_path, "own", "b is neither a file nor a folder")
    for target in (".", "nowhere"):
        odd.unlink()
        odd.symlink_to(target)
        refused(tmp_path, "own", "b is neither a file nor a folder")
    odd.unlink()
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    refused(tmp_path, "own", r"holds a name that is not UTF-8, b'\\xff'")


def test_links_to_files_are_followed_as_dvc_makes_them(tmp_path: Path) -> None:
    write_tree(tmp_path, "cache/1f")
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "raw/a/1.png").symlink_to("../../cache/1f")
    assert len(read_raw(tmp_path / "raw", "own").images) == 1


def test_a_file_or_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, "a/1.png", "b/1.png")

    def denied(path: Path, *_: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        refused(tmp_path, "own", r"a/1.png cannot be read \(Permission denied\); check its permissions")
    monkeypatch.setattr(os, "scandir", denied)
    refused(tmp_path, "own", r"cannot be read \(Permission denied\); check its permissions")
    refused(tmp_path / "none", "own", "none cannot be read")


def test_a_file_that_vanishes_or_shrinks(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", "a/2.png")
    source = archives.open_folder(tmp_path)
    (tmp_path / "a/1.png").unlink()
    (tmp_path / "a/2.png").write_bytes(b"x")
    with pytest.raises(archives.UsageError, match=r"a/1.png cannot be read \(No such file or directory\)"):
        source.read("a/1.png")
    with pytest.raises(archives.UsageError, match="changed or ended while it was read"):
        source.read("a/2.png")
