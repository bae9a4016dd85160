"""Whatever layout users have, the same images come out; whatever is wrong with it is one sentence."""

import io
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lekhani.data import layouts
from lekhani.data.layouts import read_raw
from lekhani.data.spec import DEVANAGARI, MNIST
from lekhani.errors import UsageError


def glyph(shade: int = 200, size: int = 12) -> np.ndarray[Any, Any]:
    image = np.zeros((size, size), np.uint8)
    image[4:8, 4:8] = shade
    return image


def encoded(image: np.ndarray[Any, Any] | Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind)
    return buffer.getvalue()


def write_tree(folder: Path, *names: str, content: bytes | None = None) -> None:
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(glyph(200 + i)) if content is None else content)


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def refused(folder: Path, name: str, pattern: str) -> None:
    with pytest.raises(UsageError, match=pattern) as caught:
        read_raw(folder, name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


# --- class folders ---


def test_class_folders(tmp_path: Path) -> None:
    write_tree(tmp_path, "b10/1.png", "b2/1.png", "b2/2.png")
    raw = read_raw(tmp_path, "own")
    assert [(c.label, c.name, c.glyph) for c in raw.classes] == [(0, "b2", "b2"), (1, "b10", "b10")]
    assert raw.labels.tolist() == [0, 0, 1]
    assert raw.labels.dtype == np.int64
    assert list(raw.members) == ["b2/1.png", "b2/2.png", "b10/1.png"]
    assert list(raw.splits) == ["", "", ""]
    np.testing.assert_array_equal(raw.images[0], glyph(201))


@pytest.mark.parametrize("wrapper", ["", "wrapped/", "twice/wrapped/", "train/"])
@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "test"), ("training", "testing")])
def test_splits_in_any_case_and_below_a_wrapper(tmp_path: Path, wrapper: str, train: str, test: str) -> None:
    write_tree(tmp_path, f"{wrapper}{train}/a/1.png", f"{wrapper}{test}/a/2.png", f"{wrapper}{train}/b/3.png")
    raw = read_raw(tmp_path, "own")
    assert sorted(zip(raw.labels.tolist(), raw.splits, strict=True)) == [(0, "test"), (0, "train"), (1, "train")]


def test_train_alone_is_no_split(tmp_path: Path) -> None:
    write_tree(tmp_path, "Train/a/1.png", "Train/b/1.png")
    raw = read_raw(tmp_path, "own")
    assert [c.name for c in raw.classes] == ["a", "b"]
    assert set(raw.splits) == {""}


def test_folders_below_class_folders_belong_to_them(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/writer1/1.png", "a/writer2/1.png", "b/writer1/1.png")
    assert read_raw(tmp_path, "own").labels.tolist() == [0, 0, 1]


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", "b/1.png", "__MACOSX/a/1.png", ".cache/x/1.png")
    (tmp_path / "source.json").write_text("{}")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    assert len(read_raw(tmp_path, "own").images) == 2


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("character_1_ka", 0),
        ("character_01_ka", 0),
        ("character_1", 0),
        ("ka", 0),
        ("क", 0),
        ("character_36_gya", 35),
        ("ज्ञ", 35),
        ("digit_0", 36),
        ("0", 36),
        ("०", 36),
        ("digit_9", 45),
        ("9", 45),
    ],
)
def test_spellings_of_devanagari(tmp_path: Path, folder: str, label: int) -> None:
    write_tree(tmp_path, f"{folder}/1.png")
    (found,) = read_raw(tmp_path, "devanagari").classes
    assert (found.label, found.name, found.glyph) == (0, DEVANAGARI[label].name, DEVANAGARI[label].glyph)


def test_known_classes_come_in_their_own_order(tmp_path: Path) -> None:
    write_tree(tmp_path, "digit_3/1.png", "character_10_yna/1.png", "character_2_kha/1.png", "क/1.png")
    raw = read_raw(tmp_path, "devanagari")
    assert [c.glyph for c in raw.classes] == ["क", "ख", "ञ", "३"]
    assert [raw.members[list(raw.labels).index(k)].split("/")[0] for k in range(4)] == ["क", "character_2_kha", "character_10_yna", "digit_3"]


def test_every_class_of_the_known_datasets_has_its_own_words() -> None:
    for classes in (DEVANAGARI, MNIST):
        words = layouts.spellings(classes)
        for c in classes:
            assert words[layouts.plain(c.name)] == words[c.glyph] == c


def test_an_unknown_class_of_a_known_dataset(tmp_path: Path) -> None:
    write_tree(tmp_path, "character_1_kaa/1.png")
    refused(tmp_path, "devanagari", "`character_1_kaa` is no class .*did you mean `character_1_ka`")


def test_an_empty_class_folder(tmp_path: Path) -> None:
    write_tree(tmp_path, "Train/a/1.png", "Test/a/1.png")
    (tmp_path / "Test" / "b").mkdir()
    refused(tmp_path, "own", "class folder Test/b in .* holds no images")


def test_an_image_outside_the_class_folders(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", "b/1.png", "stray.png")
    refused(tmp_path, "own", "stray.png in .* lies in no class folder")


def test_an_image_beside_train_and_test(tmp_path: Path) -> None:
    write_tree(tmp_path, "Train/a/1.png", "Test/a/1.png", "Val/a/1.png")
    refused(tmp_path, "own", "Val/a/1.png in .* lies in no class folder; put it into one below the train or the test folder")


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    refused(tmp_path, "own", "holds no images; give a folder or .zip")


def test_two_kinds_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png")
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 4, 4), np.uint8), labels=[0])
    refused(tmp_path, "own", "holds both x.npz and images such as a/1.png")


# --- images ---


def test_black_on_white_is_inverted_as_a_whole(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", "a/2.png", content=encoded(255 - glyph(180)))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[1], glyph(180))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_the_same_grey(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(glyph(255))
    if mode == "I;16":
        image = Image.fromarray(glyph(255).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(glyph(255).astype(np.float32) / 255)
    else:
        image = image.convert("L").convert(mode)
    name = "1.tif" if mode in {"CMYK", "F", "I"} else "1.png"
    write_tree(tmp_path, f"a/{name}", content=encoded(image, "TIFF" if name == "1.tif" else "PNG"))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[0], glyph(255))


@pytest.mark.parametrize("ink", ["black", "white"])
def test_ink_on_transparent_paper(tmp_path: Path, ink: str) -> None:
    image = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
    image.paste(ink, (4, 4, 8, 8))
    write_tree(tmp_path, "a/1.png", content=encoded(image))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[0], glyph(255))


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("JPEG", "JPEG"), ("bmp", "BMP"), ("gif", "GIF"), ("tiff", "TIFF")])
def test_formats(tmp_path: Path, suffix: str, kind: str) -> None:
    write_tree(tmp_path, f"a/1.{suffix}", content=encoded(glyph(255), kind))
    assert np.abs(read_raw(tmp_path, "own").images[0].astype(int) - glyph(255)).max() < 30


def test_a_photo_is_shrunk_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, "a/1.png", content=encoded(np.zeros((300, 600), np.uint8)))
    assert read_raw(tmp_path, "own").images[0].shape == (128, 256)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(glyph())[:60], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    write_tree(tmp_path, "a/1.png")
    write_tree(tmp_path, "a/broken.png", content=content)
    refused(tmp_path, "own", r"The image a/broken.png in .* cannot be read \(.+\); remove it or replace it")


def test_an_image_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, "a/1.png")
    monkeypatch.setattr(layouts, "MAX_PIXELS", 100)
    refused(tmp_path, "own", "a/1.png in .* has 12 x 12 pixels, more than 100")


# --- .zip ---


def test_a_zip_reads_as_its_folder(tmp_path: Path) -> None:
    names = ["top/Train/क/1.png", "top/Test/क/2.png", "top/Train/7/1.png", "__MACOSX/top/._x.png"]
    write_tree(tmp_path / "tree", *names)
    (tmp_path / "zip").mkdir()
    write_zip(tmp_path / "zip" / "own.zip", {"top/": b"", **{name: (tmp_path / "tree" / name).read_bytes() for name in names}})
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
    refused(tmp_path, "own", "is a link or leads out of the archive")
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
    monkeypatch.setattr(layouts, "_SMALL", 1 << 10)
    refused(tmp_path, "own", "would unpack from 0.0 MB to 1 MB, more than is allowed")


def test_a_broken_zip(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"PK\x03\x04 and no more")
    refused(tmp_path, "own", "is no readable .zip")


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
    refused(tmp_path, "own", "member a/1.png is locked")


@pytest.mark.parametrize("beside", ["b.zip", "a/1.png"])
def test_a_zip_stands_alone(tmp_path: Path, beside: str) -> None:
    write_zip(tmp_path / "a.zip", {"a/1.png": encoded(glyph())})
    write_tree(tmp_path, beside)
    refused(tmp_path, "own", "holds a.zip and other data beside it")


def test_an_empty_class_folder_in_a_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / "own.zip", {"a/1.png": encoded(glyph()), "b/": b""})
    refused(tmp_path, "own", "class folder b in .*own.zip holds no images")


# --- .npz ---


def save(path: Path, labels: list[int], /, **arrays: Any) -> None:
    np.savez(path, **{"images": np.stack([glyph(200 + i) for i in range(len(labels))]), "labels": np.array(labels), **arrays})


def test_npz_with_everything(tmp_path: Path) -> None:
    names = {"class_names": ["x", "y"], "glyphs": ["X", "Y"], "filenames": ["p/1", "p/2", "p/3"], "splits": ["train", "test", "train"]}
    save(tmp_path / "own.npz", [1, 0, 1], **names)
    raw = read_raw(tmp_path, "own")
    assert [(c.name, c.glyph) for c in raw.classes] == [("x", "X"), ("y", "Y")]
    assert raw.labels.tolist() == [1, 0, 1]
    assert list(raw.members) == names["filenames"]
    assert list(raw.splits) == names["splits"]


def test_npz_with_the_least(tmp_path: Path) -> None:
    save(tmp_path / "own.npz", [7, 3])
    raw = read_raw(tmp_path, "own")
    assert [c.glyph for c in raw.classes] == ["3", "7"]
    assert raw.labels.tolist() == [1, 0]
    assert list(raw.members) == ["own.npz[0]", "own.npz[1]"]


def test_several_npz_are_split_by_their_names(tmp_path: Path) -> None:
    save(tmp_path / "own_train.npz", [0, 1])
    save(tmp_path / "own_Test.npz", [1])
    raw = read_raw(tmp_path, "mnist")
    assert sorted(zip(raw.labels.tolist(), raw.splits, strict=True)) == [(0, "train"), (1, "test"), (1, "train")]


def test_npz_of_no_clear_split(tmp_path: Path) -> None:
    save(tmp_path / "own_train.npz", [0, 1])
    save(tmp_path / "own_more.npz", [1])
    refused(tmp_path, "mnist", r"own_more.npz\[0\] belongs to neither train nor test")


def test_npz_of_a_known_dataset_in_another_order(tmp_path: Path) -> None:
    save(tmp_path / "own.npz", [0, 1], class_names=["digit_0", "character_01_ka"])
    raw = read_raw(tmp_path, "devanagari")
    assert [c.glyph for c in raw.classes] == ["क", "०"]
    assert raw.labels.tolist() == [1, 0]


def test_npz_of_white_paper_is_inverted(tmp_path: Path) -> None:
    save(tmp_path / "own.npz", [0], images=255 - glyph(180)[None])
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[0], glyph(180))


@pytest.mark.parametrize(
    ("arrays", "pattern"),
    [
        ({"labels": np.array([None, {}], object)}, "cannot be read .*without objects"),
        ({"class_names": np.array(["a", "b"], object)}, "cannot be read .*without objects"),
        ({"images": np.zeros((2, 4, 4))}, r"`images` is float64 \[2, 4, 4\]"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, r"`images` is uint8 \[2, 4, 4, 3\]"),
        ({"images": np.zeros((2, 0, 4), np.uint8)}, r"`images` is uint8 \[2, 0, 4\]"),
        ({"images": np.zeros((0, 4, 4), np.uint8), "labels": np.zeros(0, int)}, "holds no images"),
        ({"labels": np.zeros(2)}, "`labels` is float64"),
        ({"labels": np.zeros(3, int)}, r"`labels` has the shape \[3\] beside 2 images"),
        ({"class_names": ["a"]}, r"1 labels in .*, such as 1, are outside 0\.\.0"),
        ({"class_names": ["a", "a"]}, "`class_names` in .* repeat one another"),
        ({"class_names": [["a", "b"]]}, "`class_names` is .*save a list of text"),
        ({"class_names": [1, 2]}, "`class_names` is int64"),
        ({"splits": ["train", "val"]}, "`splits` holds 'val'"),
    ],
)
def test_npz_with_a_fault(tmp_path: Path, arrays: dict[str, Any], pattern: str) -> None:
    save(tmp_path / "own.npz", [0, 1], **arrays)
    refused(tmp_path, "own", pattern)


def test_npz_without_labels_names_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_train=np.zeros((1, 4, 4), np.uint8), images=np.zeros((1, 4, 4), np.uint8))
    refused(tmp_path, "own", r"holds no `labels` \(found: x_train\)")


def test_npz_that_disagree(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", [0, 1], class_names=["a", "b"])
    save(tmp_path / "b.npz", [0, 1], class_names=["b", "a"])
    refused(tmp_path, "own", "a.npz and b.npz do not agree on `class_names`")


def test_a_label_outside_a_known_dataset(tmp_path: Path) -> None:
    save(tmp_path / "own.npz", [0, 10])
    refused(tmp_path, "mnist", r"such as 10, are outside 0\.\.9")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x93NUMPY\x01\x00"])
def test_a_broken_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    refused(tmp_path, "own", r"own.npz cannot be read \(.+\); save it again")
