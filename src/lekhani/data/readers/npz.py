"""NumPy's .npz archives: `images` and `labels` as Lekhani's own, or Keras' `x_train`, `y_train` and their like."""

import io
import math
import zipfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import natural, reason, split_in
from lekhani.data.readers import Found
from lekhani.errors import LekhaniError, UsageError

_TEXTS = ("class_names", "glyphs", "filenames", "splits")
_PAIRS = [("images", "labels", ""), ("x", "y", ""), ("X", "y", ""), ("data", "labels", "")] + [
    (a.format(part), b.format(part), split)
    for part, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test"))
    for a, b in (
        ("x_{}", "y_{}"),
        ("X_{}", "y_{}"),
        ("{}_images", "{}_labels"),
        ("{}_x", "{}_y"),
        ("images_{}", "labels_{}"),
    )
]


def read(source: Source, files: Sequence[str], name: str) -> Found:
    """Read and join `files`.

    Raises UsageError for a file that cannot be read without pickle or lacks an array, and for files that do not agree.
    """
    parts = [part for file in files for part in _parts(source, file)]
    first_file, first = parts[0][0], parts[0][2]
    for file, _, part in parts:
        for key in ("class_names", "glyphs"):
            if not np.array_equal(part.get(key, np.array([])), first.get(key, np.array([]))):
                raise UsageError(
                    f"data.{name}: {first_file} and {file} do not agree on `{key}`; give both the same, in the same order."
                )
    sizes = {part["images"].shape[1:] for _, _, part in parts}
    arrays = [part["images"] for _, _, part in parts]
    images = np.concatenate(arrays) if len(sizes) == 1 else [image for array in arrays for image in array]
    if not len(images):
        raise UsageError(f"data.{name}: {first_file} holds no images; give an .npz with at least one.")
    labels = np.concatenate([part["labels"] for _, _, part in parts])
    members = [member for file, key, part in parts for member in _members(file, key, part)]
    splits = [split for file, key, part in parts for split in _splits(source, file, key, part)]
    notes = tuple(
        f"Read {sum(len(part['images']) for f, _, part in parts if f == file):,} images of {file}." for file in files
    )
    if "class_names" in first:
        words = first["class_names"].tolist()
        glyphs = first["glyphs"].tolist() if "glyphs" in first else words
        if len(glyphs) != len(words) or len(set(words)) != len(words):
            raise UsageError(
                f"data.{name}: `class_names` in {source.path} repeat one another or are not as many as `glyphs`; save one of each per class."
            )
        wrong = labels[(labels < 0) | (labels >= len(words))] if labels.dtype.kind in "iu" else labels
        if len(wrong):
            raise UsageError(
                f"data.{name}: {len(wrong)} labels in {source.path}, such as {wrong[0]}, are outside 0..{len(words) - 1}; correct them."
            )
        return Found(images, words, labels.astype(np.int64), members, splits, notes, glyphs=glyphs)
    values = sorted(set(map(str, labels.tolist())), key=natural)
    number = {word: i for i, word in enumerate(values)}
    which = np.array([number[str(label)] for label in labels.tolist()], np.int64)
    return Found(images, values, which, members, splits, notes, numbered=labels.dtype.kind in "iu")


def _parts(source: Source, file: str) -> list[tuple[str, tuple[str, str], dict[str, Any]]]:
    """File, name of the images and split, and arrays of every set of images in one .npz."""
    where, content = source.path / file, source.read(file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archives.check_size(where, sum(info.file_size for info in archive.infolist()), len(content))
            inside = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            pairs = [pair for pair in _PAIRS if pair[0] in inside and pair[1] in inside]
            pairs = pairs[:1] if pairs and not pairs[0][2] else pairs
            arrays = {key: _load(archive, key) for a, b, _ in pairs for key in (a, b)}
            texts = {key: _load(archive, key) for key in _TEXTS if key in inside}
    except LekhaniError:
        raise
    except Exception as error:
        raise UsageError(
            f"{where} cannot be read ({reason(error)}); save it again with numpy.savez, without objects."
        ) from None
    if not pairs:
        missing = "labels" if "images" in inside else "images"
        others = sorted(inside - {"images", "labels", *_TEXTS})
        found = f" (found: {', '.join(others)[:200]})" if others else ""
        raise UsageError(
            f"{where} holds no `{missing}`{found}; save `images` uint8 [N,H,W] and `labels` [N] under these names."
        )
    if pairs[0][2]:  # x_train and x_test stand together; texts per image would not tell whose they are
        texts = {key: value for key, value in texts.items() if key in {"class_names", "glyphs"}}
    return [
        (file, (a, split), _checked(where, (a, b), {**texts, "images": arrays[a], "labels": arrays[b]}))
        for a, b, split in pairs
    ]


def _load(archive: zipfile.ZipFile, key: str) -> Any:
    """One array; its header must not claim more than the member holds."""
    member = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
    if math.prod(shape) * dtype.itemsize > archive.getinfo(member).file_size:
        raise ValueError(f"`{key}` claims an impossible size")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    return shape, dtype


def _checked(where: Any, names: tuple[str, str], arrays: dict[str, Any]) -> dict[str, Any]:
    images, labels = arrays["images"], arrays["labels"]
    shape = list(images.shape)
    if images.ndim == 4 and 1 in {shape[1], shape[3]}:
        images = images[:, 0] if shape[1] == 1 else images[..., 0]
    elif images.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        images = images.reshape(-1, *[math.isqrt(shape[1])] * 2)
    if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise UsageError(f"{where}: `{names[0]}` is {images.dtype} {shape}; save grey images as uint8 [N,H,W].")
    if labels.dtype.kind not in "iuU":
        raise UsageError(f"{where}: `{names[1]}` is {labels.dtype}; save whole numbers.")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    for key, array in ((names[1], labels), *((key, arrays[key]) for key in ("filenames", "splits") if key in arrays)):
        if array.shape != (len(images),):
            raise UsageError(
                f"{where}: `{key}` has the shape {list(array.shape)} beside {len(images)} images; save one entry per image."
            )
    for key in _TEXTS:
        if key in arrays and (arrays[key].dtype.kind != "U" or arrays[key].ndim != 1):
            raise UsageError(f"{where}: `{key}` is {arrays[key].dtype} {list(arrays[key].shape)}; save a list of text.")
    return {**arrays, "images": images, "labels": labels if labels.dtype.kind == "U" else labels.astype(np.int64)}


def _members(file: str, key: tuple[str, str], arrays: dict[str, Any]) -> list[str]:
    if "filenames" in arrays:
        return list(arrays["filenames"].tolist())
    return [f"{file}[{i}]" if not key[1] else f"{file}/{key[0]}[{i}]" for i in range(len(arrays["images"]))]


def _splits(source: Source, file: str, key: tuple[str, str], arrays: dict[str, Any]) -> list[str]:
    if key[1]:
        return [key[1]] * len(arrays["images"])
    if "splits" not in arrays:
        return [split_in(file)] * len(arrays["images"])
    splits = list(arrays["splits"].tolist())
    wrong = set(splits) - {"train", "test", ""}
    if wrong:
        raise UsageError(f"{source.path / file}: `splits` holds {min(wrong)!r}; use train and test only.")
    return splits
