"""Read raw files as users have them: look at what lies there, choose the reader, and bring all to one form."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from fsspec.utils import glob_translate

from lekhani import params
from lekhani.data import archives, images, names
from lekhani.data.archives import Source
from lekhani.data.raw import RawImages
from lekhani.data.readers import ReadResult, idx, npz, tree
from lekhani.data.spec import GlyphClass
from lekhani.errors import LekhaniError, UsageError

if TYPE_CHECKING:
    from lekhani.data.readers.table import Table

_MAX_NESTING = 2  # archives in one another: what a site packs around what an author packed
_ACCEPTED = (
    "a folder, .zip or .tar of class folders with png, jpg, bmp, gif or tif images, a CSV with one image per row, "
    "MNIST's IDX files, or .npz files with `images` and `labels`"
)


def looks_readable(file_name: str) -> bool:
    """True when a single file of this name is something `read_raw` reads: an archive, a CSV, an .npz or an IDX file."""
    return archives.kind_of(file_name) not in {"", "images"}


def read_raw(folder: Path, name: str, data: params.Data | None = None) -> RawImages:
    """Read dataset `name` from `folder` (data/raw/D), whichever of the accepted layouts lies there.

    The images are uint8, white on black, at most 256 pixels high and wide. Raises UsageError, naming the file, line or
    folder at fault, for an unreadable or unsafe file, an empty class folder, an unknown class, or no images at all; and
    where the files leave a choice open, naming the key under data.D that makes it.
    """
    data = data or params.Data(source="local", path=str(folder))
    try:
        with ExitStack() as stack:
            source, vocabulary = _open(stack, folder, name, data.files)
            found = _find(source, name, data, vocabulary)
            classes, label_of = vocabulary.classes_of(found.words, found.glyphs, found.numbered)
            splits, split_notes = _splits(name, found)
            pixels = images.shrunk(found.images) if len(found.images) else images.decode(source, found.members)
            pixels, polarity_notes = images.white_on_black(pixels, data.polarity, name)
    except LekhaniError as error:  # names in a source may hold line ends
        raise type(error)(names.one_line(str(error))) from None
    notes = (*found.notes, *split_notes, *polarity_notes)
    return RawImages(pixels, label_of[found.labels], classes, found.members, splits, notes)


def _open(stack: ExitStack, folder: Path, name: str, pattern: str | None) -> tuple[Source, names.Vocabulary]:
    """The folder, or the archive in it that holds the data, with the files that match `pattern`; and its vocabulary."""
    source, class_list = archives.open_folder(folder), None
    for depth in range(_MAX_NESTING + 1):
        class_list = class_list or _class_list(source, name)
        packed = [file for file in source.sizes if archives.kind_of(file) == "archive"]
        has_data = any(_by_kind(source).values())
        chosen = _matching(packed, source, pattern) if pattern else []
        if not packed or (pattern and not chosen and has_data):
            break
        if (len(packed) > 1 or has_data) and len(chosen) != 1:
            problem = f"data.{name}: {source.path} holds {packed[0]} and other data beside it"
            raise UsageError(f"{problem}; keep the one archive, unpack it, or name what to read in data.{name}.files.")
        if depth == _MAX_NESTING:
            raise UsageError(f"data.{name}: {source.path} holds one more archive, {packed[0]}; unpack it.")
        pattern = None if chosen else pattern
        source = archives.open_archive(stack, source, (chosen or packed)[0])
    vocabulary = names.Vocabulary(name, *class_list) if class_list else names.Vocabulary(name)
    if not pattern:
        return source, vocabulary
    kept = _matching(list(source.sizes), source, pattern)
    if not kept:
        shown = ", ".join([*list(source.sizes)[:3], *(["..."] if len(source.sizes) > 3 else [])])
        raise UsageError(f"data.{name}.files: no file in {source.path} matches {pattern}; there are: {shown}.")
    folders = {file[:i] for file in kept for i, letter in enumerate(file) if letter == "/"}
    sizes = {file: source.sizes[file] for file in kept}
    return replace(source, sizes=sizes, folders=sorted(folders)), vocabulary


def _class_list(source: Source, name: str) -> tuple[tuple[GlyphClass, ...], str] | None:
    """The rows of the classes.csv in a source, and where it is; None where there is none."""
    files = [file for file in source.sizes if _is_class_list(file)]
    files = [file for file in files if "/" not in file] or files
    if len(files) > 1:
        both = f"{files[0]} and {files[1]}"
        raise UsageError(f"data.{name}: {source.path} holds {both}; keep one, or set data.{name}.classes_csv.")
    if not files:
        return None
    path = source.path / files[0]
    return names.read_classes(source.read(files[0], 64 << 20), path), str(path)


def _is_class_list(file: str) -> bool:
    return file.rpartition("/")[2].lower() == "classes.csv"


def _by_kind(source: Source) -> dict[str, list[str]]:
    """The files of a source by what reads them: npz, idx, csv or images."""
    kinds: dict[str, list[str]] = {"npz": [], "idx": [], "csv": [], "images": []}
    for file in source.sizes:
        if (kind := archives.kind_of(file)) in kinds and not _is_class_list(file):
            kinds[kind].append(file)
    return kinds


def _matching(files: Sequence[str], source: Source, pattern: str) -> list[str]:
    """Those of `files` that `pattern` matches or that lie in a folder that it matches.

    A pattern counts from the top, or from below the folders that wrap all the rest.
    """
    pattern = pattern.strip("/")
    try:
        wanted = re.compile(f"{glob_translate(pattern)}|{glob_translate(f'{pattern}/**')}")
    except ValueError:
        raise UsageError(f"The pattern {pattern} for files is wrong: put a / before and after each **.") from None
    parts = [file.split("/")[:-1] for of_kind in _by_kind(source).values() for file in of_kind]
    levels = enumerate(zip(*parts, strict=False))
    shared = next((i for i, level in levels if len(set(level)) > 1), min(map(len, parts), default=0))
    return [file for file in files if any(wanted.match(file.split("/", depth)[-1]) for depth in range(shared + 1))]


def _find(source: Source, name: str, data: params.Data, vocabulary: names.Vocabulary) -> ReadResult:
    """Read the one kind of table there is, or find the image files; where both hold the same, the table is quicker."""
    kinds = _by_kind(source)
    tables: list[Table] = []
    notes: list[str] = []
    pictures = kinds.pop("images")
    if kinds["csv"]:
        from lekhani.data.readers import table  # pyarrow is slow to import, and only tables need it

        tables, notes = table.look(source, kinds["csv"], name, data.label_column)
        kinds["csv"] = [one.file for one in tables]
    several = [files[0] for files in kinds.values() if files]
    if len(several) > 1:
        both = f"{several[0]} and {several[1]}"
        raise UsageError(f"data.{name}: {source.path} holds both {both}; name the files to read in data.{name}.files.")
    if not several and not pictures:
        other = f" ({notes[0].removesuffix('.')})" if notes else ""
        raise UsageError(f"data.{name}: {source.path} holds no images{other}; give {_ACCEPTED}.")
    if not several:
        found = tree.find(source, pictures, name, data.class_folder, vocabulary)
    else:
        if tables:
            found = table.read(source, tables, name)
        else:
            found = idx.read(source, kinds["idx"], name) if kinds["idx"] else npz.read(source, kinds["npz"], name)
        if pictures:
            found, note = _table_or_images(source, found, several[0], pictures, name, data, vocabulary)
            notes.append(note)
    return replace(found, notes=(*found.notes, *notes))


def _table_or_images(
    source: Source,
    found: ReadResult,
    table: str,
    files: Sequence[str],
    name: str,
    data: params.Data,
    vocabulary: names.Vocabulary,
) -> tuple[ReadResult, str]:
    """What was `found` in `table`, or the image `files` beside it if these alone have a split; and a note about it.

    Raises UsageError unless both hold as many images of each class.
    """
    try:
        beside = tree.find(source, files, name, data.class_folder, vocabulary)
        same = _per_class(beside, vocabulary) == _per_class(found, vocabulary)
    except UsageError:
        same = False
    if not same:
        both = f"{table} and images such as {files[0]}, and they differ"
        raise UsageError(f"data.{name}: {source.path} holds both {both}; name the files to read in data.{name}.files.")
    if any(beside.splits) and not any(found.splits):
        return beside, f"{table} holds as many images per class without a split, and was left out."
    return found, f"{len(beside.members):,} image files hold the same number per class and were left out."


def _per_class(found: ReadResult, vocabulary: names.Vocabulary) -> dict[str, int]:
    classes, label_of = vocabulary.classes_of(found.words, found.glyphs, found.numbered)
    counts = np.bincount(label_of[found.labels], minlength=len(classes)).tolist()
    return {names.normalised(c.name): count for c, count in zip(classes, counts, strict=True) if count}


def _splits(name: str, found: ReadResult) -> tuple[Sequence[Literal["train", "test", ""]], tuple[str, ...]]:
    """The source's own split, if it has train and test images; one with images of one of them only has no split.

    Validation images are test images where there are no others, and train images where there are.
    """
    kinds = set(found.splits)
    if len(kinds) > 1 and "" in kinds:
        member = found.members[list(found.splits).index("")]
        problem = "belongs to neither train nor test, while others do; move it to one of them."
        raise UsageError(f"data.{name}: {member} {problem}")
    if len(kinds) < 2:
        return [""] * len(found.splits), ()
    validation: Literal["train", "test"] = "train" if "test" in kinds else "test"
    note = (f"Validation images count as {validation} images.",) if "val" in kinds else ()
    split_of: dict[str, Literal["train", "test", ""]] = {"train": "train", "test": "test", "val": validation}
    return [split_of[split] for split in found.splits], note
