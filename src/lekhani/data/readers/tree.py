"""Folders of image files, with the class in a folder's name: with or without train and test, below any wrapping folders."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import Vocabulary, natural, split_word
from lekhani.data.readers import Found
from lekhani.errors import UsageError

Level = Literal["first", "last", "path"]
_Folder = tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """A folder that holds images: its split, and the folders between the split and the images."""

    split: str
    below: _Folder


def find(source: Source, images: Sequence[str], name: str, level: Level | None, words: Vocabulary) -> Found:
    """Class, split and path of every image, none decoded yet.

    Where class folders do not all lie at one level, `level` says which folder names the class, or else the one whose
    names are all in `words`. Raises UsageError for an image outside class folders, an empty class folder, and where
    nothing tells which level it is.
    """
    by_folder: dict[str, list[str]] = {}
    for image in images:
        by_folder.setdefault(image.rpartition("/")[0], []).append(image)
    holding = {tuple(folder.split("/")) if folder else (): files for folder, files in by_folder.items()}
    everything = _relevant(source, holding)
    root = _below_wrappers(everything, holding)
    places, split_level = _places(source, holding, root, name)
    depths = {len(place.below) for place in places.values()}
    if depths == {1} or level is None:
        _check_filled(source, everything, holding, len(root) + (split_level is not None) + 1, depths, name)
    chosen: Level = "last" if depths == {1} else level or _decide(source, places, holding, words, name)
    label_of = {folder: _word(place, chosen) for folder, place in places.items()}
    order = sorted(set(label_of.values()), key=natural)
    number = {word: i for i, word in enumerate(order)}
    rows = sorted(
        (number[label_of[folder]], image, places[folder].split) for folder, files in holding.items() for image in files
    )
    notes = [
        f"Read {len(rows):,} images in {len(order):,} class folder{'s' if len(order) > 1 else ''} of {source.path.name}."
    ]
    if depths != {1}:
        notes.append(
            f"Class folders nest; the classes were taken from the {'joined path' if chosen == 'path' else f'{chosen} folder'}."
        )
    labels = np.array([row[0] for row in rows], np.int64)
    return Found((), order, labels, [row[1] for row in rows], [row[2] for row in rows], tuple(notes))


def _relevant(source: Source, holding: Iterable[_Folder]) -> set[_Folder]:
    """Folders with images below them, and those that hold nothing else that is read either: they may be empty classes."""
    filled = _with_parents(holding)
    tables = {
        tuple(file.split("/")[:-1])
        for file in source.sizes
        if file.endswith(".npz") or archives.is_table(file) or archives.is_idx(file)
    }
    others = _with_parents(tables) - filled
    return {folder for folder in map(_parts, source.folders) if folder not in others}


def _parts(folder: str) -> _Folder:
    return tuple(folder.split("/"))


def _with_parents(folders: Iterable[_Folder]) -> set[_Folder]:
    return {folder[:depth] for folder in folders for depth in range(len(folder) + 1)}


def _below_wrappers(folders: set[_Folder], holding: Iterable[_Folder]) -> _Folder:
    """The folder that holds the class folders or the splits: below every folder that only wraps a single other one."""
    below: dict[_Folder, list[_Folder]] = {}
    for folder in folders:
        below.setdefault(folder[:-1], []).append(folder)
    root: _Folder = ()
    while root not in holding and len(below.get(root, [])) == 1 and below.get(below[root][0]):
        root = below[root][0]
    return root


def _places(
    source: Source, holding: dict[_Folder, list[str]], root: _Folder, name: str
) -> tuple[dict[_Folder, _Place], int | None]:
    """Where each folder with images stands, and the level of folders that name the split, if there is one."""
    inside = {folder: folder[len(root) :] for folder in holding}
    shallowest = min(map(len, inside.values()))
    level = next((i for i in range(shallowest) if all(split_word(path[i]) for path in inside.values())), None)
    some = level is None and any(path and split_word(path[0]) in {"train", "test"} for path in inside.values())
    places = {}
    for folder, path in inside.items():
        split = split_word(path[level]) if level is not None else ""
        rest = path if level is None else path[:level] + path[level + 1 :]
        if not rest or (some and not split_word(path[0])):
            where = " below the train or the test folder" if some or level is not None else ""
            raise UsageError(
                f"data.{name}: {holding[folder][0]} in {source.path} lies in no class folder; put it into one{where} or remove it."
            )
        places[folder] = _Place(split, tuple(unicodedata.normalize("NFC", part).strip() for part in rest))
    return places, level


def _check_filled(
    source: Source, folders: set[_Folder], holding: Iterable[_Folder], depth: int, depths: set[int], name: str
) -> None:
    filled = _with_parents(holding)
    for folder in sorted(folders - filled):
        if len(folder) == depth or len(depths) > 1:
            raise UsageError(
                f"data.{name}: the class folder {'/'.join(folder)} in {source.path} holds no images; add some or remove it."
            )


def _word(place: _Place, level: Level) -> str:
    return "_".join(place.below) if level == "path" else place.below[0 if level == "first" else -1]


def _decide(
    source: Source, places: dict[_Folder, _Place], holding: dict[_Folder, list[str]], words: Vocabulary, name: str
) -> Level:
    """Which level of nested folders names the classes: the one whose names are all known."""
    levels: tuple[Level, ...] = ("path", "first", "last")
    named = {level: sorted({_word(place, level) for place in places.values()}, key=natural) for level in levels}
    if not words.open:
        fitting = [level for level in levels if all(words.find(word) for word in named[level])]
        if fitting and (fitting[0] == "path" or len(fitting) == 1):
            return fitting[0]
        groups = {place.below[0] for place in places.values()}
        if not fitting and any(
            all(words.find(word) for word in named["path"] if word.startswith(f"{group}_")) for group in groups
        ):
            return "path"  # some groups of classes are known as a whole; the first unknown one will be named
    told = "; ".join(f"`{level}` gives {_told(named[level])}" for level in ("first", "last", "path"))
    example = next(iter(holding.values()))[0]
    raise UsageError(
        f"data.{name}: folders nest in {source.path}, such as {example}; set data.{name}.class_folder: {told}."
    )


def _told(words: Sequence[str]) -> str:
    shown = ", ".join(word[:40] for word in words[:3])
    return f"{len(words):,} class{'es' if len(words) > 1 else ''} ({shown}{', ...' if len(words) > 3 else ''})"
