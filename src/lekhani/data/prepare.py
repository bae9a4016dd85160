"""The prepare stage: raw files to square white-on-black images of one size, with labels, a split and a manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from lekhani import files, params
from lekhani.data import duplicates
from lekhani.data.layouts import read_raw
from lekhani.data.names import normalised, spellings, suggestion
from lekhani.data.raw import Images, RawImages, Source
from lekhani.data.readers.labelled import suggested_rule
from lekhani.data.spec import Bytes, DatasetInfo, GlyphClass, Labels, digest
from lekhani.errors import UsageError

INK = 127  # a pixel above this counts as ink

_Rows = npt.NDArray[np.int64]


def prepare(name: str, data: params.Data, options: params.Prepare, seed: int, raw: Path, out: Path) -> DatasetInfo:
    """Fit, filter and split the raw files in `raw`, and write the prepared dataset into `out`.

    That is images.npy uint8 [N,size,size], labels.npy int64 [N], manifest.parquet and dataset.json: train images first,
    then test, each ordered by label and member. The folder `out` is replaced as a whole or stays as it was. Raises
    UsageError for bad input (see `layouts.read_raw`) and for an unknown entry of `data.classes`; LekhaniError when
    `raw` is missing or `out` cannot be written.
    """
    source = files.read_checked(raw / "source.json", Source)
    found = read_raw(raw, name, data)
    notes = list(found.notes)
    if len(found.classes) < 2:
        raise _one_class(name, found)
    kept = _kept_classes(f"data.{name}.classes", data.classes, found.classes)
    classes = tuple(GlyphClass(i, c.name, c.glyph) for i, c in enumerate(kept))
    if "test" not in found.splits:
        share = f"{data.test_fraction:.0%} of each class became the test split, drawn with seed {seed}."
        notes.append(f"The source has no split: {share}")
    train, test = _chosen_rows(found, kept, data, seed)
    rows = np.concatenate([train, test])
    if not len(rows):
        raise UsageError(f"data.{name}.classes: the source holds no image of the classes to keep; keep other classes.")
    size = data.image_size or _own_size(found.images)
    chosen = found.images[rows] if isinstance(found.images, np.ndarray) else [found.images[row] for row in rows]
    images = fit(chosen, size)
    if resized := sum(image.shape != (size, size) for image in chosen):
        notes.append(f"{resized:,} of {len(rows):,} images were fitted into {size} x {size} pixels.")
    new_label = np.full(len(found.classes), -1)
    new_label[[c.label for c in kept]] = np.arange(len(kept))
    labels: Labels = new_label[found.labels[rows]].astype(np.int64)
    is_test = np.arange(len(rows)) >= len(train)
    if options.deduplicate:
        unique = _unique(images, labels, is_test)
        gone = f"{(~unique & ~is_test).sum():,} train and {(~unique & is_test).sum():,} test images"
        notes.append(f"{gone} that repeat another one were left out.")
        images, labels, rows, is_test = images[unique], labels[unique], rows[unique], is_test[unique]
    counts = {"train": int((~is_test).sum()), "test": int(is_test.sum())}
    info = DatasetInfo(name, data.script, size, classes, counts, source, digest(images, labels, counts), tuple(notes))
    _write(out, info, images, labels, [found.members[row] for row in rows])
    return info


def _one_class(name: str, found: RawImages) -> UsageError:
    only = f"data.{name}: all {len(found.members):,} images are of one class, {found.classes[0].name}"
    left_out = [note[0].lower() + note[1:-1] for note in found.notes if note.startswith("Left out")]
    only = f"{only} ({'; '.join(left_out)})" if left_out else only
    remedy = "put images of each class into a folder of their own, or bring a CSV of file names and labels"
    rule = f"set data.{name}.label_in_name where the names of files hold the labels{suggested_rule(found.members)}"
    return UsageError(f"{only}, and a generator needs two or more; {remedy}, or {rule}.")


def _write(out: Path, info: DatasetInfo, images: Bytes, labels: Labels, members: Sequence[str]) -> None:
    table = manifest(images, labels, info.classes, info.counts, members)
    table.attrs = {"source": info.source}  # pandas keeps it in the Parquet file's own metadata
    with files.replacing(out) as folder:
        folder.mkdir()
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)
        table.to_parquet(folder / "manifest.parquet", index=False)
        files.write_json(folder / "dataset.json", info.to_dict())


def _unique(images: Bytes, labels: Labels, is_test: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which images stay when no two may repeat one another, bool [N]."""
    stays = np.ones(len(images), bool)
    while True:  # what stays is compared again, since a copy may hide behind another
        rows = np.flatnonzero(stays)
        kept = duplicates.kept(duplicates.groups(images[rows]), labels[rows], is_test[rows])
        stays[rows] = kept
        if kept.all():
            return stays


def _own_size(images: Images) -> int:
    """The side of the images where all are one square that every variant can work with, else 32 pixels."""
    side = images[0].shape[0]
    usable = 16 <= side <= 128 and side % 4 == 0
    return side if usable and all(image.shape == (side, side) for image in images) else 32


def fit(images: Images, size: int) -> Bytes:
    """Fit grey images uint8 [H,W] of any shapes into uint8 [N,size,size].

    Those of the right size stay untouched. Others keep their aspect and are centred on black; when most of them have
    ink on their outermost pixels, all get a margin of a tenth of the frame, so that all strokes keep one scale.
    """
    if isinstance(images, np.ndarray) and images.shape[1:] == (size, size):
        return images
    others = [image for image in images if image.shape != (size, size)]
    edges = ((image[0], image[-1], image[:, 0], image[:, -1]) for image in others)
    touching = sum(max(line.max() for line in lines) > INK for lines in edges)
    side = 1.25 if touching > len(others) / 2 else 1.0
    fitted = np.empty((len(images), size, size), np.uint8)
    for row, image in enumerate(images):
        fitted[row] = image if image.shape == (size, size) else _scaled(image, round(max(image.shape) * side), size)
    return fitted


def _scaled(image: Bytes, side: int, size: int) -> Bytes:
    height, width = image.shape
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    # Pillow widens its filters when it shrinks, so both are antialiased; Lanczos would ring when it magnifies.
    method = Image.Resampling.BICUBIC if side < size else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(square).resize((size, size), method))


def manifest(
    images: Bytes, labels: Labels, classes: Sequence[GlyphClass], counts: Mapping[str, int], members: Sequence[str]
) -> pd.DataFrame:
    """One row per image of `images` uint8 [N,H,W], in their order; a blank one has NaN as `centre_x` and `centre_y`."""
    n, height, width = images.shape
    by_column, by_row = (images.sum(axis=axis, dtype=np.float64) for axis in (1, 2))
    ink = by_column.sum(axis=1)
    divisor = np.where(ink > 0, ink, np.nan)
    return pd.DataFrame(
        {
            "id": np.arange(n, dtype=np.int64),
            "split": np.repeat(["train", "test"], [counts["train"], counts["test"]]),
            "label": labels,
            "class_name": np.array([c.name for c in classes])[labels],
            "glyph": np.array([c.glyph for c in classes])[labels],
            "sha256": [hashlib.sha256(image).hexdigest() for image in images],
            "ink_mean": (ink / (255 * height * width)).astype(np.float32),
            "ink_fraction": ((images > INK).sum(axis=(1, 2)) / (height * width)).astype(np.float32),
            "centre_x": (by_column @ ((np.arange(width) + 0.5) / width) / divisor).astype(np.float32),
            "centre_y": (by_row @ ((np.arange(height) + 0.5) / height) / divisor).astype(np.float32),
            "member": list(members),
        }
    )


def _kept_classes(key: str, wanted: str | tuple[str | int, ...], classes: tuple[GlyphClass, ...]) -> list[GlyphClass]:
    """The classes that the filter `wanted` keeps, in the dataset's order."""
    if wanted == "all":
        return list(classes)
    if wanted in {"digits", "consonants"}:
        kept = [c for c in classes if (c.is_digit if wanted == "digits" else _is_consonant(c.glyph))]
        if not kept:
            raise UsageError(f"{key}: this dataset has no {wanted}; use `all` or list the classes to keep.")
        return kept
    words = spellings(classes)
    labels = set()
    for word in wanted:
        if isinstance(word, int):
            if not 0 <= word < len(classes):
                nearest = min(max(word, 0), len(classes) - 1)
                raise UsageError(f"{key}: there is no label {word}; the nearest is {nearest}, and labels count from 0.")
            labels.add(word)
        elif normalised(word) in words:
            labels.add(words[normalised(word)].label)
        else:
            raise UsageError(f"{key}: unknown class `{word}` ({suggestion(word, classes)}).")
    if not labels:
        raise UsageError(f"{key}: the list is empty; name the classes to keep, or `all`.")
    return [c for c in classes if c.label in labels]


def _is_consonant(glyph: str) -> bool:
    """True for Devanagari consonants and for conjuncts, which start with one."""
    return "\u0915" <= glyph[:1] <= "\u0939" or "\u0958" <= glyph[:1] <= "\u095f"


def _chosen_rows(found: RawImages, kept: Sequence[GlyphClass], data: params.Data, seed: int) -> tuple[_Rows, _Rows]:
    """Row numbers of the train and the test images to keep, each ordered by label and member.

    Every class draws from a random stream of its own, so that neither the order of files on disk nor the other classes
    change its choice.
    """
    splits = np.array(found.splits)
    by_member = np.array(sorted(range(len(found.members)), key=found.members.__getitem__))
    train, test = [], []
    for c in kept:
        rng = np.random.default_rng([seed, c.label])
        rows = by_member[found.labels[by_member] == c.label]
        if "test" in splits:
            for_train, for_test = rows[splits[rows] == "train"], rows[splits[rows] == "test"]
        else:
            for_train, for_test = _hold_out(rows, data.test_fraction, rng)
        train.append(_at_most(for_train, data.per_class_train, rng))
        test.append(_at_most(for_test, data.per_class_test, rng))
    return np.concatenate(train), np.concatenate(test)


def _hold_out(rows: _Rows, fraction: float, rng: np.random.Generator) -> tuple[_Rows, _Rows]:
    count = min(max(round(len(rows) * fraction), 1), len(rows) - 1) if len(rows) else 0
    is_test = np.zeros(len(rows), bool)
    is_test[rng.permutation(len(rows))[:count]] = True
    return rows[~is_test], rows[is_test]


def _at_most(rows: _Rows, count: int | None, rng: np.random.Generator) -> _Rows:
    # A random choice: the first ones in order of members would come from few writers.
    return rows if count is None else rows[np.sort(rng.permutation(len(rows))[:count])]
