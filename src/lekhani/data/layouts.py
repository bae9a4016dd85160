"""Read raw files as users have them: look at what lies there, choose the reader, and bring all to one form."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from fsspec.utils import glob_translate

from lekhani import params
from lekhani.data import archives, images, kinds, names, orientation, ranges
from lekhani.data.archives import Source
from lekhani.data.kinds import shown
from lekhani.data.raw import RawImages
from lekhani.data.readers import ReadResult, idx, labelled, mapping, npz, tree
from lekhani.data.spec import GlyphClass
from lekhani.errors import LekhaniError, UsageError

if TYPE_CHECKING:
    from lekhani.data.readers.table import Table

_SOURCE = "source.json"
_MAX_NESTING = 2  # archives in one another: what a site packs around what an author packed
_ACCEPTED = (
    "a folder, .zip or .tar of class folders with images (png, jpg, webp and others), images with a table of file "
    "names and labels, a table with one image per row (.csv, .tsv), MNIST's IDX files, .npz, .npy, .mat or .parquet"
)
_ORIGINAL = ("idx", "csv", "mat")  # the formats of EMNIST's authors


@dataclass(frozen=True)
class _Files:
    """The files to read, by kind, and all image files of the `whole`, which a table among the former may name."""

    source: Source
    whole: Source
    by_kind: dict[str, list[str]]
    all_images: list[str]
    chosen: bool  # by data.D.files


def looks_readable(path: Path) -> bool:
    """True when the file at `path` alone is something `read_raw` reads; raises UsageError for a pickle."""
    kind = kinds.of_path(path)
    if kind == "pickle":
        raise UsageError(f"{names.one_line(str(path))} {_PICKLE}.")
    return kind in {*kinds.DATA, "archive", "text"} - {"images"}


_PICKLE = (
    "is a pickle, which can run code when it is opened, and so is never read; save its arrays with numpy.savez as "
    "`images` and `labels`"
)


def read_raw(folder: Path, name: str, data: params.Data | None = None) -> RawImages:
    """Read dataset `name` from `folder` (data/raw/D), whichever of the accepted layouts lies there.

    The images are uint8, white on black, at most 256 pixels high and wide. Raises UsageError, naming the file, line or
    folder at fault, for an unreadable or unsafe file, an empty class folder, an unknown class, or no images at all; and
    where the files leave a choice open, naming the key under data.D that makes it.
    """
    data = data or params.Data(source="local", path=str(folder))
    try:
        with ExitStack() as stack:
            files, vocabulary = _open(stack, folder, name, data.files)
            kind, found = _find(files, name, data, vocabulary)
            classes, label_of = vocabulary.classes_of(found.words, found.glyphs, found.numbered)
            splits, split_notes = _splits(name, found)
            values = found.images if len(found.images) else images.decode(files.whole, found.members)
            pixels, range_notes = ranges.to_bytes(values, data.value_range, name, found.members)
            pixels, polarity_notes = images.white_on_black(images.shrunk(pixels), data.polarity, name)
            read = [] if kind == "images" and data.transposed is None else files.by_kind[kind]
            pixels, turned_notes = orientation.upright(pixels, read, kind in _ORIGINAL, data.transposed, name)
    except LekhaniError as error:  # names in a source may hold line ends
        raise type(error)(names.one_line(str(error))) from None
    notes = (*found.notes, *split_notes, *range_notes, *polarity_notes, *turned_notes)
    return RawImages(
        pixels, label_of[found.labels], classes, found.members, splits, tuple(names.one_line(note) for note in notes)
    )


def _open(stack: ExitStack, folder: Path, name: str, pattern: str | None) -> tuple[_Files, names.Vocabulary]:
    """The files that match `pattern` in the folder, or in the archive in it that holds the data; and its vocabulary."""
    source, class_list = archives.open_folder(folder), None
    for depth in range(_MAX_NESTING + 1):
        class_list = class_list or _class_list(source, name)
        by_kind = _by_kind(source)
        packed = by_kind["archive"]
        has_data = any(by_kind[kind] for kind in kinds.DATA)
        chosen = _matching(packed, by_kind, pattern) if pattern else []
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
        return _Files(source, source, by_kind, by_kind["images"], chosen=False), vocabulary
    kept = set(_matching(list(source.sizes), by_kind, pattern))
    if not kept:
        raise UsageError(
            f"data.{name}.files: no file in {source.path} matches {pattern}; there are: {shown(source.sizes)}."
        )
    folders = {file[:i] for file in kept for i, letter in enumerate(file) if letter == "/"}
    sizes = {file: size for file, size in source.sizes.items() if file in kept}
    narrowed = replace(source, sizes=sizes, folders=sorted(folders))
    of_kept = {kind: [file for file in files if file in kept] for kind, files in by_kind.items()}
    return _Files(narrowed, source, of_kept, by_kind["images"], chosen=True), vocabulary


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
    """The files of a source by kind, without what describes it."""
    found = kinds.of_files(source)
    return {kind: [f for f in files if not _is_class_list(f) and f != _SOURCE] for kind, files in found.items()}


def _matching(files: Sequence[str], by_kind: dict[str, list[str]], pattern: str) -> list[str]:
    """Those of `files` that `pattern` matches or that lie in a folder that it matches.

    A pattern counts from the top, or from below the folders that wrap all the rest.
    """
    pattern = pattern.strip("/")
    try:
        wanted = re.compile(f"{glob_translate(pattern)}|{glob_translate(f'{pattern}/**')}")
    except ValueError:
        raise UsageError(f"The pattern {pattern} for files is wrong: put a / before and after each **.") from None
    parts = [file.split("/")[:-1] for kind in kinds.DATA for file in by_kind[kind]]
    levels = enumerate(zip(*parts, strict=False))
    shared = next((i for i, level in levels if len(set(level)) > 1), min(map(len, parts), default=0))
    return [file for file in files if any(wanted.match(file.split("/", depth)[-1]) for depth in range(shared + 1))]


def _find(files: _Files, name: str, data: params.Data, vocabulary: names.Vocabulary) -> tuple[str, ReadResult]:
    """Read the one kind of table there is, or find the image files; where both hold the same, the table is quicker."""
    source, pictures = files.source, files.by_kind["images"]
    tables, others = _tables(files, name, data)
    found_by_kind = {kind: files.by_kind[kind] for kind in ("npz", "idx", "mat", "parquet")}
    found_by_kind["npz"] = [*found_by_kind["npz"], *files.by_kind["npy"]]
    found_by_kind["csv"] = [table.file for table in tables]
    several = [(kind, of_kind) for kind, of_kind in found_by_kind.items() if of_kind]
    if len(several) > 1:
        both = f"{several[0][1][0]} and {several[1][1][0]}"
        raise UsageError(f"data.{name}: {source.path} holds both {both}; name the files to read in data.{name}.files.")
    if not several:
        found, used = _pictures(files, others, name, data, vocabulary)
        notes = _left_out(files, [table for table in others if table not in used])
        return "images", replace(found, notes=(*found.notes, *notes))
    ((kind, chosen),) = several
    chosen, notes = _without_copies(source, chosen) if kind in {"csv", "mat", "parquet"} else (chosen, [])
    tables = [table for table in tables if table.file in chosen]
    notes += _one_dataset(files, chosen, name)
    found = _read(source, kind, chosen, tables, name, data)
    codes, mapped = mapping.read(source, others)
    if found.glyphs is None and (glyphs := mapping.glyphs(found.words, codes)):
        found = replace(found, glyphs=glyphs)
        notes.append(f"Classes are called by the characters in {mapped}.")
        others = [file for file in others if file != mapped]
    notes += _left_out(files, others)
    if pictures:
        found, note = _table_or_images(source, found, chosen[0], pictures, name, data, vocabulary)
        notes.append(note)
        kind = kind if len(found.images) else "images"
    return kind, replace(found, notes=(*found.notes, *notes))


def _tables(files: _Files, name: str, data: params.Data) -> "tuple[list[Table], list[str]]":
    """The tables of pixels, and the other files that may be tables."""
    if not files.by_kind["csv"] and not files.by_kind["text"]:
        return [], []
    from lekhani.data.readers import table  # pyarrow is slow to import, and only tables need it

    return table.look(files.source, files.by_kind["csv"], files.by_kind["text"], name, data.label_column)


def _read(
    source: Source, kind: str, chosen: list[str], tables: "list[Table]", name: str, data: params.Data
) -> ReadResult:
    if kind == "csv":
        from lekhani.data.readers import table

        return table.read(source, tables, name)
    if kind == "parquet":
        from lekhani.data.readers import parquet

        return parquet.read(source, chosen, name, data.label_column)
    if kind == "mat":
        from lekhani.data.readers import mat

        return mat.read(source, chosen, name)
    return idx.read(source, chosen, name) if kind == "idx" else npz.read(source, chosen, name)


def _without_copies(source: Source, files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of `files` that differ, and a note about each that repeats one of its name, as after a second download."""
    sizes = Counter(source.sizes[file] for file in files)
    first_of: dict[tuple[str, ...], str] = {}
    notes = []
    for file in files:
        content = _sha256(source, file) if sizes[source.sizes[file]] > 1 else file
        key = (content, names.split_of_path(file), *names.words_of(file.rpartition("/")[2]))
        first = first_of.setdefault(key, file)
        if first != file:
            notes.append(f"{file} repeats {first} and was left out.")
    return list(first_of.values()), notes


def _sha256(source: Source, file: str) -> str:
    digest = hashlib.sha256()
    with source.stream(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _one_dataset(files: _Files, chosen: Sequence[str], name: str) -> list[str]:
    """A note where the files named in data.D.files belong to several datasets; raises UsageError where none are."""
    datasets: dict[str, list[str]] = {}
    for file in chosen:
        datasets.setdefault(names.dataset_of_path(file), []).append(file)
    is_pair = len(chosen) == 2 and all(kinds.by_name(file) in {"", "idx", "npy"} for file in chosen)
    if len(datasets) < 2 or is_pair:
        return []
    several = shown(group[0] for group in datasets.values())
    if files.chosen:
        return [f"Files of {len(datasets)} datasets were joined, as data.{name}.files names them: {several}."]
    problem = f"holds files of {len(datasets)} datasets, such as {several}"
    remedy = f"name those to read in data.{name}.files, such as {_pattern_of_one(list(datasets.values()))}"
    raise UsageError(f"data.{name}: {files.source.path} {problem}; {remedy} (** joins all).")


def _pattern_of_one(groups: list[list[str]]) -> str:
    """A pattern that matches the files of one group and no others."""
    for group in groups:
        start = commonprefix(group)  # noqa: RUF071 - of letters is what a pattern needs
        others = [file for other in groups if other is not group for file in other]
        for shorter in (re.sub(r"[^\W_]+$", "", start), start) if len(group) > 1 else ():
            if shorter and not any(file.startswith(shorter) for file in others):
                return f"{shorter}*"
        if len(group) == 1:
            return group[0]
    return groups[0][0]


def _left_out(files: _Files, tables: Sequence[str]) -> list[str]:
    """Notes about what was not read."""
    notes = []
    if pickles := files.by_kind["pickle"]:
        notes.append(f"Left out: {shown(pickles)}, since pickles can run code when they are opened.")
    if tables:
        what = "text or table" if len(tables) == 1 else "texts and tables"
        notes.append(f"Left out: {len(tables):,} {what} without pixels or labels ({shown(tables)}).")
    if others := files.by_kind[""]:
        what = "file that is no image" if len(others) == 1 else "files that are no images"
        notes.append(f"Left out: {len(others):,} {what} ({shown(others)}).")
    return notes


def _pictures(
    files: _Files, tables: Sequence[str], name: str, data: params.Data, vocabulary: names.Vocabulary
) -> tuple[ReadResult, list[str]]:
    """What image files show: labelled by their names where data.D.label_in_name says so, by a table, or by folders.

    Also the tables that were used.
    """
    source, pictures = files.source, files.by_kind["images"]
    if data.label_in_name and pictures:
        return labelled.by_name(source, pictures, name, data.label_in_name), []
    by_folder = _by_folder(source, pictures, name, data, vocabulary)
    in_folders = isinstance(by_folder, ReadResult) and _name_classes(by_folder, vocabulary)
    looked = labelled.look(source, tables, pictures or files.all_images, needed=not in_folders)
    if not looked:
        if isinstance(by_folder, ReadResult):
            return by_folder, []
        if by_folder is None:
            raise _nothing(files, name)
        raise (isinstance(by_folder, tree.OutsideError) and _without_folders(files, name)) or by_folder
    used = [one.file for one in looked]
    if isinstance(by_folder, ReadResult) and data.label_column is None and in_folders:
        if not any(_tells(source, one, name) for one in looked):
            return by_folder, []
        _one_dataset(files, used, name)
        return _beside_folders(source, by_folder, looked, pictures, name)
    notes = _one_dataset(files, used, name)
    found = labelled.read(source, looked, pictures or files.all_images, name, data.label_column)
    return replace(found, notes=(*found.notes, *notes)), used


def _name_classes(by_folder: ReadResult, vocabulary: names.Vocabulary) -> bool:
    """Whether folders may name the classes: several, and all known where the classes are."""
    words = by_folder.words
    return len(words) > 1 and (vocabulary.classes is None or all(vocabulary.find(word) for word in words))


def _without_folders(files: _Files, name: str) -> UsageError | None:
    """The sentence for images that all lie in one folder, or in one for train and one for test; else None."""
    pictures = files.by_kind["images"]
    folders = {image.rpartition("/")[0] for image in pictures}
    if len({tuple(part for part in f.split("/") if not names.split_of_folder(part)) for f in folders}) > 1:
        return None
    problem = f"the {len(pictures):,} images in {files.source.path}, such as {pictures[0]}, lie in no class folders"
    tables = [*files.by_kind["csv"], *files.by_kind["text"], *files.by_kind[""]]
    table = f"no table names them (not {shown(tables)})" if tables else "no table names them"
    remedy = "put those of each class into a folder of its own, or bring a CSV of file names and labels"
    rule = f"set data.{name}.label_in_name where the names of files hold the labels{labelled.suggested_rule(pictures)}"
    return UsageError(f"data.{name}: {problem}, and {table}; {remedy}, or {rule}.")


def _tells(source: Source, table: labelled.Labels, name: str) -> bool:
    """Whether a table has one column that is plainly the label."""
    try:
        return labelled.choose(table, source, name) >= 0
    except UsageError:
        return False


def _by_folder(
    source: Source, pictures: Sequence[str], name: str, data: params.Data, vocabulary: names.Vocabulary
) -> ReadResult | UsageError | None:
    if not pictures:
        return None
    try:
        return tree.find(source, pictures, name, data.class_folder, vocabulary)
    except UsageError as error:
        return error


def _beside_folders(
    source: Source, by_folder: ReadResult, looked: Sequence[labelled.Labels], pictures: Sequence[str], name: str
) -> tuple[ReadResult, list[str]]:
    """The folders, where the tables beside them say the same or nothing of most images; else raises UsageError."""
    try:
        by_table = labelled.read(source, looked, pictures, name, None)
    except UsageError:  # a list of classes by number, such as folders of 1.png, 2.png seem to be named in
        return by_folder, []
    if len(by_table.members) < len(pictures) / 2:
        return by_folder, []
    used = [table.file for table in looked]
    folder_of = dict(zip(by_folder.members, by_folder.labels.tolist(), strict=True))
    pairs = {(folder_of[m], label) for m, label in zip(by_table.members, by_table.labels.tolist(), strict=True)}
    if len(pairs) == len({folder for folder, _ in pairs}) == len({label for _, label in pairs}):
        note = f"{used[0]} groups the images as their folders do, which name the classes."
        return replace(by_folder, notes=(*by_folder.notes, note)), used
    if set(by_folder.words) <= {table.rpartition("/")[2].partition(".")[0] for table in used}:
        return by_table, used  # training-a.csv is about the folder training-a
    problem = f"{used[0]} gives the images other labels than their folders do"
    remedy = f"name the table or the folders in data.{name}.files, such as {used[0]}"
    raise UsageError(f"data.{name}: in {source.path} {problem}; {remedy}.")


def _nothing(files: _Files, name: str) -> UsageError:
    if pickles := files.by_kind["pickle"]:
        return UsageError(f"data.{name}: {files.source.path / pickles[0]} {_PICKLE}.")
    there = [*files.by_kind["csv"], *files.by_kind["text"], *files.by_kind[""]]
    found = f" (only {shown(there)})" if there else ""
    return UsageError(f"data.{name}: {files.source.path} holds no images{found}; give {_ACCEPTED}.")


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
