"""Read raw files as users have them: .npz archives, folders of class folders, or a .zip of either."""

import difflib
import io
import os
import re
import stat
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lekhani.data.raw import RawImages
from lekhani.data.spec import KNOWN, Bytes, GlyphClass, Labels
from lekhani.errors import UsageError

_Split = Literal["train", "test", ""]

MAX_PIXELS = 50_000_000  # of one image; a phone's photo has about 12 million
MAX_UNPACKED = 4 << 30  # bytes of one archive, unpacked
MAX_RATIO = 200  # unpacked to packed size of an archive that unpacks to more than _SMALL
_SMALL = 64 << 20
_KEPT_SIDE = 256  # larger images are shrunk to this at once, so that a folder of photos fits in memory; prepared images have at most 128
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")  # the decoders that may run, whatever a file calls itself
_SPLITS: dict[str, _Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_ARRAYS = ("images", "labels", "class_names", "glyphs", "filenames", "splits")
_ACCEPTED = "a folder or .zip of class folders with png, jpg, bmp, gif or tif images, or .npz files with `images` and `labels`"


@dataclass(frozen=True)
class _Source:
    """A folder or a zip to read from: `files` and `folders` are sorted paths with "/", `read` gives one file's bytes."""

    where: Path
    files: list[str]
    folders: list[str]
    read: Callable[[str], bytes]

    def ending(self, *suffixes: str) -> list[str]:
        return [file for file in self.files if PurePosixPath(file).suffix.lower() in suffixes]


def read_raw(folder: Path, name: str) -> RawImages:
    """Read dataset `name` from `folder` (data/raw/D), whichever of the accepted layouts lies there.

    The images come white on black, at most 256 pixels high and wide. Raises UsageError, naming the file or folder
    at fault, for an unreadable or unsafe file, an empty class folder, an unknown class or no images at all.
    """
    source = _open_folder(folder)
    zips = source.ending(".zip")
    if not zips:
        return _read(source, name)
    if len(zips) > 1 or source.ending(".npz", *_SUFFIXES):
        raise UsageError(f"data.{name}: {folder} holds {zips[0]} and other data beside it; keep the one .zip, or unpack it.")
    with _open_zip(folder / zips[0]) as archive:
        return _read(archive, name)


def spellings(classes: Sequence[GlyphClass]) -> dict[str, GlyphClass]:
    """Every word that means one of `classes`: glyph and name first, then DHCD's `ka` and `character_1`, `0` and `digit_0` for a digit."""
    words = {plain(word): c for c in classes for word in (c.glyph, c.name)}
    for c in classes:
        match = re.fullmatch(r"(character_\d+)_(\w+)", c.name)
        for word in (match.groups() if match else ()) + ((str(int(c.glyph)), f"digit_{int(c.glyph)}") if c.is_digit else ()):
            words.setdefault(word, c)
    return words


def plain(word: str) -> str:
    """`word` as `spellings` keys it: composed as Unicode wants it, and `character_01_ka` without the zero."""
    return re.sub(r"_0+(?=\d)", "_", unicodedata.normalize("NFC", word.strip()))


def nearest(word: str, classes: Sequence[GlyphClass]) -> str:
    """A hint about the unknown class `word`: the nearest valid one, or the first few."""
    words = spellings(classes)
    close = difflib.get_close_matches(plain(word), list(words), n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"valid are {', '.join(c.name for c in classes[:4])}{' and so on' if len(classes) > 4 else ''}"


def _open_folder(folder: Path) -> _Source:
    files, folders = [], []
    for top, names, members in os.walk(folder):
        names[:] = sorted(n for n in names if not _hidden(n))
        here = Path(top).relative_to(folder)
        folders += [(here / n).as_posix() for n in names]
        files += [(here / n).as_posix() for n in members if not _hidden(n)]
    for path in files + folders:
        if not _is_unicode(path):
            raise UsageError(f"{folder} holds a name that is no UTF-8, {os.fsencode(path)!r}; rename it.")

    def read(file: str) -> bytes:
        try:
            return (folder / file).read_bytes()
        except OSError as error:
            raise UsageError(f"{folder / file} cannot be read ({error.strerror}); check its permissions.") from None

    return _Source(folder, sorted(files), sorted(folders), read)


@contextmanager
def _open_zip(path: Path) -> Iterator[_Source]:
    try:
        archive = _zip_file(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UsageError(f"{path} is no readable .zip ({error}); download or pack it again.") from None
    with archive:
        for info in archive.infolist():
            _check_member(path, info)
        _check_size(path, archive, path.stat().st_size)
        infos = {_member_path(info): info for info in archive.infolist()}
        shown = [member for member in infos if not any(_hidden(part) for part in member.parts)]
        folders = {parent for member in shown for parent in (*member.parents, *([member] if infos[member].is_dir() else []))}

        def read(member: str) -> bytes:
            try:
                return archive.read(infos[PurePosixPath(member)])
            except RuntimeError:  # a password or, as its subclass NotImplementedError, an unknown compression
                raise UsageError(f"{path}: the member {member} is locked or packed in an unknown way; pack it again without a password.") from None
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:  # ValueError: a garbled name
                raise UsageError(f"{path}: the member {member} is damaged ({error}); download or pack the .zip again.") from None

        yield _Source(path, sorted(str(m) for m in shown if not infos[m].is_dir()), sorted(str(f) for f in folders if f != PurePosixPath(".")), read)


def _zip_file(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path, metadata_encoding="utf-8")  # macOS packs Devanagari names as UTF-8 without saying so
    except UnicodeDecodeError:
        return zipfile.ZipFile(path)


def _member_path(info: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(info.filename.replace("\\", "/"))  # some Windows programs pack names with their own separator


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    member = _member_path(info)
    if member.is_absolute() or ".." in member.parts or re.match(r"[A-Za-z]:", str(member)) or stat.S_ISLNK(info.external_attr >> 16):
        raise UsageError(f"{path}: the member {member} is a link or leads out of the archive; pack the .zip again without it.")


def _check_size(where: Path | str, archive: zipfile.ZipFile, packed: int) -> None:
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > MAX_UNPACKED or unpacked > max(_SMALL, packed * MAX_RATIO):
        raise UsageError(
            f"{where} would unpack from {packed / 1e6:.1f} MB to {unpacked / 1e6:,.0f} MB, more than is allowed; leave out what is not needed."
        )


def _is_unicode(path: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _read(source: _Source, name: str) -> RawImages:
    archives, images = source.ending(".npz"), source.ending(*_SUFFIXES)
    if archives and images:
        raise UsageError(f"data.{name}: {source.where} holds both {archives[0]} and images such as {images[0]}; keep one of the two kinds.")
    if not archives and not images:
        raise UsageError(f"data.{name}: {source.where} holds no images; give {_ACCEPTED}.")
    raw = _read_npz(source, archives, name) if archives else _read_tree(source, images, name)
    return RawImages(_white_on_black(raw.images), raw.labels, raw.classes, raw.members, _both_or_none(name, raw))


def _white_on_black(images: Sequence[Bytes]) -> list[Bytes]:
    """Invert the whole dataset when the pixels along the edges, which are paper, are mostly bright."""
    some = images[:: max(1, len(images) // 1000)]
    edges = np.concatenate([np.concatenate((i[0], i[-1], i[:, 0], i[:, -1])) for i in some])
    return [255 - image for image in images] if np.median(edges) > 127 else list(images)


def _both_or_none(name: str, raw: RawImages) -> Sequence[_Split]:
    """The source's own split if it has train and test images; images of one of the two only are a source without a split."""
    kinds = set(raw.splits)
    if len(kinds) > 1 and "" in kinds:
        member = raw.members[list(raw.splits).index("")]
        raise UsageError(f"data.{name}: {member} belongs to neither train nor test, while others do; move it to one of them.")
    return raw.splits if len(kinds) > 1 else [""] * len(raw.splits)


def _classes(name: str, words: Sequence[str], glyphs: Sequence[str]) -> tuple[tuple[GlyphClass, ...], Labels]:
    """The classes that `words` (folder or class names) stand for, and for each word the label it gets."""
    if name not in KNOWN:
        return tuple(GlyphClass(i, *pair) for i, pair in enumerate(zip(words, glyphs, strict=True))), np.arange(len(words))
    known = spellings(KNOWN[name])
    for word in words:
        if plain(word) not in known:
            raise UsageError(f"data.{name}: `{word}` is no class of this dataset; rename it ({nearest(word, KNOWN[name])}) or the dataset.")
    labels = np.array([known[plain(word)].label for word in words])
    present, renumbered = np.unique(labels, return_inverse=True)
    classes = (KNOWN[name][label] for label in present)
    return tuple(GlyphClass(i, c.name, c.glyph) for i, c in enumerate(classes)), renumbered


def _read_tree(source: _Source, images: list[str], name: str) -> RawImages:
    rows = sorted(_rows(source, images, name), key=lambda row: _natural(row[0]))
    words = list(dict.fromkeys(word for word, _, _ in rows))
    classes, label_of = _classes(name, words, words)
    numbers = dict(zip(words, label_of.tolist(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about broken metadata and large images: our own bound speaks in a sentence
        pixels = [_decode(source, image) for _, _, image in rows]
    labels = np.array([numbers[word] for word, _, _ in rows], np.int64)
    return RawImages(pixels, labels, classes, [image for _, _, image in rows], [split for _, split, _ in rows])


def _rows(source: _Source, images: list[str], name: str) -> list[tuple[str, _Split, str]]:
    """Class folder, split and path of every image; each class folder holds at least one."""
    folders = {tuple(folder.split("/")) for folder in source.folders}
    root = _below_wrappers(folders, {tuple(image.split("/")[:-1]) for image in images})
    has_splits = any(f[:-1] == root and f[-1].lower() in _SPLITS for f in folders)
    depth = len(root) + (2 if has_splits else 1)  # of a class folder
    rows, filled = [], set()
    for image in images:
        parts = tuple(image.split("/")[:-1])
        split: _Split = _SPLITS.get(parts[len(root)].lower(), "") if has_splits and len(parts) > len(root) else ""
        if len(parts) < depth or bool(split) != has_splits:
            raise UsageError(f"data.{name}: {image} in {source.where} lies in no class folder; put it into one{_beside(has_splits)} or remove it.")
        filled.add(parts[:depth])
        rows.append((unicodedata.normalize("NFC", parts[depth - 1]), split, image))
    for folder in sorted(folders - filled):
        if len(folder) == depth and folder[: len(root)] == root and (not has_splits or folder[-2].lower() in _SPLITS):
            raise UsageError(f"data.{name}: the class folder {'/'.join(folder)} in {source.where} holds no images; add some or remove it.")
    return rows


def _beside(has_splits: bool) -> str:
    return " below the train or the test folder" if has_splits else ""


def _below_wrappers(folders: set[tuple[str, ...]], holding: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The folder that holds the class folders or the two splits: below every folder that only wraps a single other one."""
    below: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for folder in folders:
        below.setdefault(folder[:-1], []).append(folder)
    root: tuple[str, ...] = ()
    while root not in holding and len(below.get(root, [])) == 1 and below.get(below[root][0]):
        root = below[root][0]
    return root


def _natural(word: str) -> list[tuple[bool, int, str]]:
    """Sorts 2 before 10, and numbers before letters."""
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in re.split(r"(\d+)", word) if part]


def _decode(source: _Source, member: str) -> Bytes:
    content = source.read(member)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            size = image.size
            if size[0] * size[1] <= MAX_PIXELS:
                return _grey(ImageOps.exif_transpose(image))
    except Exception as error:
        raise UsageError(f"The image {member} in {source.where} cannot be read ({_reason(error)}); remove it or replace it.") from None
    raise UsageError(f"The image {member} in {source.where} has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS:,}; remove it or shrink it.")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is in none of the accepted formats"
    return " ".join(str(error).split()) or type(error).__name__


def _grey(image: Image.Image) -> Bytes:
    """Grey uint8 [H,W] of an image in any of Pillow's modes."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    else:
        image = image.convert("L")
    image.thumbnail((_KEPT_SIDE, _KEPT_SIDE), Image.Resampling.LANCZOS)
    return np.array(_on_paper(image).convert("L") if image.mode == "RGBA" else image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greys to 0..255, where Pillow would clip them."""
    values = np.nan_to_num(np.asarray(image, np.float64))
    top = 1 if image.mode == "F" and values.max() <= 1 else 255 if image.mode in {"I", "F"} and values.max() <= 255 else 65535
    return Image.fromarray(np.clip(values * (255 / top), 0, 255).astype(np.uint8))


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay a transparent drawing on paper of the other shade than its ink."""
    values = np.asarray(image, np.float64)
    alpha = values[:, :, 3]
    ink = (values[:, :, :3].mean(axis=2) * alpha).sum() / max(alpha.sum(), 1.0)
    return Image.alpha_composite(Image.new("RGBA", image.size, "black" if ink > 127 else "white"), image)


def _read_npz(source: _Source, archives: list[str], name: str) -> RawImages:
    parts = [_arrays(source, archive) for archive in archives]
    first = parts[0]
    for archive, part in zip(archives, parts, strict=True):
        for key in ("class_names", "glyphs"):
            if not np.array_equal(part.get(key, np.array([])), first.get(key, np.array([]))):
                raise UsageError(f"data.{name}: {archives[0]} and {archive} do not agree on `{key}`; give both the same, in the same order.")
    classes, labels = _npz_classes(source, name, first, np.concatenate([part["labels"] for part in parts]))
    images = [image for part in parts for image in part["images"]]
    if not images:
        raise UsageError(f"data.{name}: {archives[0]} holds no images; give an .npz with at least one.")
    members = [member for archive, part in zip(archives, parts, strict=True) for member in _members(archive, part)]
    splits = [split for archive, part in zip(archives, parts, strict=True) for split in _splits(source, archive, part)]
    return RawImages(images, labels, classes, members, splits)


def _arrays(source: _Source, member: str) -> dict[str, Any]:
    """The arrays of one .npz, each of the kind that its key wants; pickled objects are never loaded."""
    where, content = f"{source.where / member}", source.read(member)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_size(where, archive, len(content))
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in _ARRAYS if key in file.files}
            others = sorted(set(file.files) - set(_ARRAYS))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{where} cannot be read ({_reason(error)}); save it again with numpy.savez, without objects.") from None
    for key in ("images", "labels"):
        if key not in arrays:
            found = f" (found: {', '.join(others)})" if others else ""
            raise UsageError(f"{where} holds no `{key}`{found}; save `images` uint8 [N,H,W] and `labels` [N] under these names.")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise UsageError(f"{where}: `images` is {images.dtype} {list(images.shape)}; save grey images as uint8 [N,H,W].")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{where}: `labels` is {labels.dtype}; save whole numbers.")
    for key, array in arrays.items():
        if key not in {"images", "class_names", "glyphs"} and array.shape != (len(images),):
            raise UsageError(f"{where}: `{key}` has the shape {list(array.shape)} beside {len(images)} images; save one entry per image.")
        if key not in {"images", "labels"} and (array.dtype.kind != "U" or array.ndim != 1):
            raise UsageError(f"{where}: `{key}` is {array.dtype} {list(array.shape)}; save a list of text.")
    return {**arrays, "labels": labels.astype(np.int64)}


def _npz_classes(source: _Source, name: str, arrays: dict[str, Any], labels: Labels) -> tuple[tuple[GlyphClass, ...], Labels]:
    """The classes of an .npz and the labels counted in their order."""
    if "class_names" in arrays:
        words = arrays["class_names"].tolist()
        glyphs = arrays["glyphs"].tolist() if "glyphs" in arrays else words
        if len(glyphs) != len(words) or len(set(words)) != len(words):
            raise UsageError(
                f"data.{name}: `class_names` in {source.where} repeat one another or are not as many as `glyphs`; save one of each per class."
            )
        _check_range(source, name, labels, len(words))
        classes, label_of = _classes(name, words, glyphs)
        return classes, label_of[labels]
    if name in KNOWN:
        _check_range(source, name, labels, len(KNOWN[name]))
    values, renumbered = np.unique(labels, return_inverse=True)
    words = [KNOWN[name][value].name if name in KNOWN else str(value) for value in values.tolist()]
    return _classes(name, words, words)[0], renumbered.astype(np.int64)


def _check_range(source: _Source, name: str, labels: Labels, count: int) -> None:
    wrong = labels[(labels < 0) | (labels >= count)]
    if len(wrong):
        raise UsageError(f"data.{name}: {len(wrong)} labels in {source.where}, such as {wrong[0]}, are outside 0..{count - 1}; correct them.")


def _members(archive: str, arrays: dict[str, Any]) -> list[str]:
    if "filenames" in arrays:
        return list(arrays["filenames"].tolist())
    return [f"{archive}[{i}]" for i in range(len(arrays["images"]))]


def _splits(source: _Source, archive: str, arrays: dict[str, Any]) -> list[_Split]:
    if "splits" not in arrays:
        return [_SPLITS.get(re.split(r"[_\-.]", PurePosixPath(archive).stem.lower())[-1], "")] * len(arrays["images"])
    splits = list(arrays["splits"].tolist())
    wrong = set(splits) - {"train", "test", ""}
    if wrong:
        raise UsageError(f"{source.where / archive}: `splits` holds {min(wrong)!r}; use train and test only.")
    return splits
