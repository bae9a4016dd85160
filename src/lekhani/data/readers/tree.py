"""Folders of image files, with the class in a folder's name; with or without train and test, and below any wrappers."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lekhani.data import kinds
from lekhani.data.archives import Source
from lekhani.data.names import Vocabulary, natural_key, split_of_folder
from lekhani.data.readers import ReadResult
from lekhani.errors import UsageError

Level = Literal["first", "last", "path"]
_Folder = tuple[str, ...]


class OutsideError(UsageError):
    """An image lies in no class folder."""


@dataclass(frozen=True)
class _Place:
    """A folder that holds images: its split, and the folders between the split and the images."""

    split: str
    below: _Folder


def find(source: Source, images: Sequence[str], name: str, level: Level | None, vocabulary: Vocabulary) -> ReadResult:
    """Class, split and path of every image, none decoded yet.

    Where class folders do not all lie at one level, `level` says which folder names the class, or else the one whose
    names are all in `vocabulary`. Raises UsageError for an image outside class folders, an empty class folder, and
    where nothing tells which level it is.
    """
    by_folder: dict[_Folder, list[str]] = {}
    for image in images:
        by_folder.setdefault(_parts(image)[:-1], []).append(image)
    folders = _relevant(source, by_folder)
    root = _below_wrappers(folders, by_folder)
    places, split_level = _places(source, by_folder, root, name)
    depths = {len(place.below) for place in places.values()}
    if depths == {1} or level is None:
        _check_filled(source, folders, by_folder, len(root) + (split_level is not None) + 1, depths, name)
    chosen: Level = "last" if depths == {1} else level or _decide(source, places, images[0], vocabulary, name)
    word_of = {folder: _word(place, chosen) for folder, place in places.items()}
    words = sorted(set(word_of.values()), key=natural_key)
    number = {word: i for i, word in enumerate(words)}
    rows = sorted(
        (number[word_of[folder]], image, places[folder].split)
        for folder, inside in by_folder.items()
        for image in inside
    )
    plural = "s" if len(words) > 1 else ""
    notes = [f"Read {len(rows):,} images in {len(words):,} class folder{plural} of {source.path.name}."]
    if depths != {1}:
        which = "joined path" if chosen == "path" else f"{chosen} folder"
        notes.append(f"Class folders nest; the classes were taken from the {which}.")
    labels = np.array([row[0] for row in rows], np.int64)
    return ReadResult((), words, labels, [row[1] for row in rows], [row[2] for row in rows], tuple(notes))


def _parts(path: str) -> _Folder:
    return tuple(path.split("/"))


def _with_parents(folders: Iterable[_Folder]) -> set[_Folder]:
    return {folder[:depth] for folder in folders for depth in range(len(folder) + 1)}


def _relevant(source: Source, filled: Iterable[_Folder]) -> set[_Folder]:
    """Folders with images below them, and those without any table, which may be empty classes."""
    tables = {_parts(file)[:-1] for file in source.sizes if kinds.by_name(file) in set(kinds.DATA) - {"images"}}
    return set(map(_parts, source.folders)) - (_with_parents(tables) - _with_parents(filled))


def _below_wrappers(folders: set[_Folder], filled: Iterable[_Folder]) -> _Folder:
    """The folder that holds the class folders or the splits: below every folder that only wraps a single other one."""
    inside: dict[_Folder, list[_Folder]] = {}
    for folder in folders:
        inside.setdefault(folder[:-1], []).append(folder)
    root: _Folder = ()
    while root not in filled and len(inside.get(root, [])) == 1 and inside.get(inside[root][0]):
        root = inside[root][0]
    return root


def _places(
    source: Source, by_folder: dict[_Folder, list[str]], root: _Folder, name: str
) -> tuple[dict[_Folder, _Place], int | None]:
    """Where each folder with images stands, and the level of folders that name the split, if there is one."""
    below_root = {folder: folder[len(root) :] for folder in by_folder}
    shallowest = min(map(len, below_root.values()))
    levels = (i for i in range(shallowest) if all(split_of_folder(path[i]) for path in below_root.values()))
    level = next(levels, None)
    some = level is None and any(path and split_of_folder(path[0]) in {"train", "test"} for path in below_root.values())
    places = {}
    for folder, path in below_root.items():
        split = split_of_folder(path[level]) if level is not None else ""
        rest = path if level is None else path[:level] + path[level + 1 :]
        if not rest or (some and not split_of_folder(path[0])):
            where = " below the train or the test folder" if some or level is not None else ""
            problem = f"lies in no class folder; put it into one{where} or remove it."
            raise OutsideError(f"data.{name}: {by_folder[folder][0]} in {source.path} {problem}")
        places[folder] = _Place(split, tuple(unicodedata.normalize("NFC", part).strip() for part in rest))
    return places, level


def _check_filled(
    source: Source, folders: set[_Folder], filled: Iterable[_Folder], depth: int, depths: set[int], name: str
) -> None:
    """Raise UsageError for a folder without images at the `depth` of class folders, or at any depth if these nest."""
    for folder in sorted(folders - _with_parents(filled)):
        if len(folder) == depth or len(depths) > 1:
            where = f"{'/'.join(folder)} in {source.path}"
            raise UsageError(f"data.{name}: the class folder {where} holds no images; add some or remove it.")


def _word(place: _Place, level: Level) -> str:
    return "_".join(place.below) if level == "path" else place.below[0 if level == "first" else -1]


def _decide(source: Source, places: dict[_Folder, _Place], example: str, vocabulary: Vocabulary, name: str) -> Level:
    """Which level of nested folders names the classes: the one whose names are all known."""
    levels: tuple[Level, ...] = ("path", "first", "last")
    named = {level: sorted({_word(place, level) for place in places.values()}, key=natural_key) for level in levels}
    if vocabulary.classes is not None:
        fitting = [level for level in levels if all(vocabulary.find(word) for word in named[level])]
        if fitting and (fitting[0] == "path" or len(fitting) == 1):
            return fitting[0]
        known = [word for word in named["path"] if vocabulary.find(word)]
        groups = {place.below[0] for place in places.values()}
        of_group = {group: [word for word in named["path"] if word.startswith(f"{group}_")] for group in groups}
        if not fitting and any(set(words) <= set(known) for words in of_group.values()):
            return "path"  # some groups of classes are known as a whole; the first unknown one will be named
    choices = "; ".join(f"`{level}` gives {_summary(named[level])}" for level in ("first", "last", "path"))
    problem = f"folders nest in {source.path}, such as {example}; set data.{name}.class_folder: {choices}."
    raise UsageError(f"data.{name}: {problem}")


def _summary(words: Sequence[str]) -> str:
    shown = ", ".join(word[:40] for word in words[:3])
    return f"{len(words):,} class{'es' if len(words) > 1 else ''} ({shown}{', ...' if len(words) > 3 else ''})"
