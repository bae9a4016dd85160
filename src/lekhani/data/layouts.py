"""Read raw files as users have them: look at what lies there, choose the reader, and bring all to one form."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np

from lekhani import params
from lekhani.data import archives, images, names
from lekhani.data.archives import Source
from lekhani.data.raw import RawImages
from lekhani.data.readers import Found, idx, npz, tree
from lekhani.data.spec import GlyphClass
from lekhani.errors import LekhaniError, UsageError

_NESTED = 2  # archives in one another: what a site packs around what an author packed
_ACCEPTED = (
    "a folder, .zip or .tar of class folders with png, jpg, bmp, gif or tif images, a CSV with one image per row, "
    "MNIST's IDX files, or .npz files with `images` and `labels`"
)


def looks_readable(file_name: str) -> bool:
    """True when a single file of this name is something `read_raw` reads: an archive, a CSV, an .npz or an IDX file."""
    name = file_name.lower()
    return archives.is_archive(name) or archives.is_table(name) or archives.is_idx(name) or name.endswith(".npz")


def read_raw(folder: Path, name: str, data: params.Data | None = None) -> RawImages:
    """Read dataset `name` from `folder` (data/raw/D), whichever of the accepted layouts lies there.

    The images come white on black, uint8, at most 256 pixels high and wide. Raises UsageError, naming the file, line or
    folder at fault, for an unreadable or unsafe file, an empty class folder, an unknown class, or no images at all; and
    where looking cannot decide, for the key under data.D that would.
    """
    try:
        with ExitStack() as stack:
            return _read(stack, folder, name, data or params.Data(source="local", path=str(folder)))
    except LekhaniError as error:  # names in a source may hold line ends
        raise type(error)(names.one_line(str(error))) from None


def _read(stack: ExitStack, folder: Path, name: str, data: params.Data) -> RawImages:
    source, vocabulary = _enter(stack, folder, name, data.files)
    found = _find(source, name, data, vocabulary)
    if not found.members:
        raise UsageError(f"data.{name}: {source.path} holds no images; give {_ACCEPTED}.")
    classes, label_of = vocabulary.classes_of(found.words, found.glyphs, found.numbered)
    splits, split_notes = _splits(name, found)
    pixels = images.shrunk(found.images) if len(found.images) else images.decode(source, found.members)
    pixels, polarity_notes = images.white_on_black(pixels, data.polarity, name)
    return RawImages(
        pixels, label_of[found.labels], classes, found.members, splits, (*found.notes, *split_notes, *polarity_notes)
    )


def _enter(stack: ExitStack, folder: Path, name: str, pattern: str | None) -> tuple[Source, names.Vocabulary]:
    """The folder, or the archive in it that holds the data, with only the files that `pattern` leaves; and what words mean there."""
    source, listed = archives.open_folder(folder), None
    for depth in range(_NESTED + 1):
        listed = listed or _listed(source, name)
        packed, kinds = [file for file in source.sizes if archives.is_archive(file)], _Kinds.of(source)
        chosen = _matching(packed, source, pattern) if pattern else []
        if not packed or (pattern and not chosen and any(kinds)):
            break
        if (len(packed) > 1 or any(kinds)) and len(chosen) != 1:
            raise UsageError(
                f"data.{name}: {source.path} holds {packed[0]} and other data beside it; "
                f"keep the one archive, unpack it, or name what to read in data.{name}.files."
            )
        if depth == _NESTED:
            raise UsageError(f"data.{name}: {source.path} holds one more archive, {packed[0]}; unpack it.")
        pattern = None if chosen else pattern
        source = archives.open_archive(stack, source, (chosen or packed)[0])
    vocabulary = names.Vocabulary(name, *listed) if listed else names.Vocabulary(name)
    return (_restricted(source, pattern, name) if pattern else source), vocabulary


def _listed(source: Source, name: str) -> tuple[tuple[GlyphClass, ...], str] | None:
    """The rows of the classes.csv in a source, and where it is."""
    files = [file for file in source.sizes if _is_class_list(file)]
    files = [file for file in files if "/" not in file] or files
    if len(files) > 1:
        raise UsageError(
            f"data.{name}: {source.path} holds {files[0]} and {files[1]}; keep one, or set data.{name}.classes_csv."
        )
    return (
        (names.read_classes(source.read(files[0], 64 << 20), source.path / files[0]), str(source.path / files[0]))
        if files
        else None
    )


def _is_class_list(file: str) -> bool:
    return file.rpartition("/")[2].lower() == "classes.csv"


class _Kinds(NamedTuple):
    """The files of a source by what reads them."""

    npz: list[str]
    idx: list[str]
    csv: list[str]
    images: list[str]

    @classmethod
    def of(cls, source: Source) -> "_Kinds":
        kinds = cls([], [], [], [])
        for file in source.sizes:
            lower = file.lower()
            if lower.endswith(images.SUFFIXES):
                kinds.images.append(file)
            elif lower.endswith(".npz"):
                kinds.npz.append(file)
            elif archives.is_idx(lower):
                kinds.idx.append(file)
            elif archives.is_table(lower) and not _is_class_list(file):
                kinds.csv.append(file)
        return kinds


def _matching(files: Sequence[str], source: Source, pattern: str) -> list[str]:
    """Those of `files` that `pattern` means, from the top or from below folders that wrap all the rest; a folder means all in it."""
    wanted = re.compile(_regex(pattern.strip("/")) + r"(/.*)?")
    parts = [file.split("/")[:-1] for kind in _Kinds.of(source) for file in kind]
    shared = next(
        (i for i, level in enumerate(zip(*parts, strict=False)) if len(set(level)) > 1), min(map(len, parts), default=0)
    )
    return [file for file in files if any(wanted.fullmatch(file.split("/", depth)[-1]) for depth in range(shared + 1))]


def _regex(pattern: str) -> str:
    """A glob as a regular expression: ** crosses folders, * and ? do not."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        pieces.get(piece) or (piece if re.fullmatch(r"\[[^\[\]]+\]", piece) else re.escape(piece))
        for piece in _pieces(pattern)
    )


def _pieces(pattern: str) -> list[str]:
    return re.findall(r"\*\*/|\*\*|\*|\?|\[[^\[\]/\\]+\]|.", pattern, re.DOTALL)


def _restricted(source: Source, pattern: str, name: str) -> Source:
    kept = _matching(list(source.sizes), source, pattern)
    if not kept:
        shown = ", ".join(list(source.sizes)[:3])
        raise UsageError(
            f"data.{name}.files: no file in {source.path} matches {pattern}; there are: {shown}{', ...' if len(source.sizes) > 3 else ''}."
        )
    folders = {file[:i] for file in kept for i, letter in enumerate(file) if letter == "/"}
    return replace(source, sizes={file: source.sizes[file] for file in kept}, folders=sorted(folders))


def _find(source: Source, name: str, data: params.Data, vocabulary: names.Vocabulary) -> Found:
    """Read the one kind of table there is, or find the images; where both hold the same, the table is quicker."""
    kinds = _Kinds.of(source)
    found: Found | None = None
    left_out: tuple[str, ...] = ()
    if kinds.csv:
        from lekhani.data.readers import table  # pyarrow is slow to import, and only tables need it

        looked = {file: table.look(source, file, name, data.label_column) for file in kinds.csv}
        tables = [one for one in looked.values() if one is not None]
        left_out = tuple(f"{file} holds no pixels and was left out." for file, one in looked.items() if one is None)
        kinds = kinds._replace(csv=[one.file for one in tables])
    several = [files[0] for files in kinds[:3] if files]
    if len(several) > 1:
        raise UsageError(
            f"data.{name}: {source.path} holds both {several[0]} and {several[1]}; name the files to read in data.{name}.files."
        )
    if not several and not kinds.images:
        other = f" ({left_out[0].removesuffix('.')})" if left_out else ""
        raise UsageError(f"data.{name}: {source.path} holds no images{other}; give {_ACCEPTED}.")
    if kinds.csv:
        found = table.read(source, tables, name)
    elif kinds.idx:
        found = idx.read(source, kinds.idx, name)
    elif kinds.npz:
        found = npz.read(source, kinds.npz, name)
    if not kinds.images:
        return _noted(cast(Found, found), left_out)
    if found is None:
        return _noted(tree.find(source, kinds.images, name, data.class_folder, vocabulary), left_out)
    beside = _same_beside(source, kinds.images, found, name, data, vocabulary)
    if beside is None:
        raise UsageError(
            f"data.{name}: {source.path} holds both {several[0]} and images such as {kinds.images[0]}, and they differ; "
            f"name the files to read in data.{name}.files."
        )
    if any(beside.splits) and not any(found.splits):
        return _noted(
            beside, (*left_out, f"{several[0]} holds as many images per class without a split, and was left out.")
        )
    return _noted(
        found, (*left_out, f"{len(beside.members):,} image files hold the same number per class and were left out.")
    )


def _noted(found: Found, notes: Sequence[str]) -> Found:
    return replace(found, notes=(*found.notes, *notes))


def _same_beside(
    source: Source, files: Sequence[str], found: Found, name: str, data: params.Data, vocabulary: names.Vocabulary
) -> Found | None:
    """The image files beside a table when both hold as many images of each class."""
    try:
        beside = tree.find(source, files, name, data.class_folder, vocabulary)
        counts = [_per_class(one, vocabulary) for one in (beside, found)]
    except UsageError:
        return None
    return beside if counts[0] == counts[1] else None


def _per_class(found: Found, vocabulary: names.Vocabulary) -> Counter[str]:
    classes, label_of = vocabulary.classes_of(found.words, found.glyphs, found.numbered)
    return Counter(
        {
            names.plain(c.name): int(n)
            for c, n in zip(classes, np.bincount(label_of[found.labels], minlength=len(classes)), strict=True)
        }
    )


def _splits(name: str, found: Found) -> tuple[Sequence[Literal["train", "test", ""]], tuple[str, ...]]:
    """The source's own split if it has train and test images; images of one of the two only are a source without a split.

    Validation images are test images where there are no others, and train images where there are.
    """
    kinds = set(found.splits)
    if len(kinds) > 1 and "" in kinds:
        member = found.members[list(found.splits).index("")]
        raise UsageError(
            f"data.{name}: {member} belongs to neither train nor test, while others do; move it to one of them."
        )
    if len(kinds) < 2:
        return [""] * len(found.splits), ()
    takes: Literal["train", "test"] = "train" if "test" in kinds else "test"
    note = (f"Validation images count as {takes} images.",) if "val" in kinds else ()
    means: dict[str, Literal["train", "test", ""]] = {"train": "train", "test": "test", "val": takes}
    return [means[split] for split in found.splits], note
