"""What changed between two versions of a prepared dataset, image by image, and how to say it.

`dvc diff` knows files; which images of one file were added, moved or relabelled only the manifests say.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lekhani.data import versions
from lekhani.data.spec import DatasetInfo
from lekhani.data.versions import Version
from lekhani.errors import UsageError
from lekhani.text import markdown_table

Key = Literal["sha256", "member"]
Status = Literal["same", "changed", "added", "removed"]
CHANGES = ("added", "removed", "relabelled", "moved")
COUNTS = ("before", "after", "added", "removed", "relabelled_out", "relabelled_in", "moved", "unchanged")
# What two images must share beside the key to be taken for one, most alike first: of several copies the one that stayed
# counts as unchanged.
_PASSES = (
    ("class_name", "split", "member"),
    ("class_name", "split"),
    ("class_name", "member"),
    ("class_name",),
    ("member",),
    (),
)


@dataclass(frozen=True)
class ImageDiff:
    """How the images of two manifests correspond.

    `rows` has one row per image, or per pair of images that are one and the same, in the newer manifest's order and the
    removed ones last: kind (unchanged, added, removed, relabelled, moved), class_before, class_after, split_before,
    split_after, member_before, member_after; a side that is not there holds None. `per_class` is indexed by class name
    and has the columns COUNTS: before = unchanged + moved + relabelled_out + removed, and after = unchanged + moved +
    relabelled_in + added. `key` is what they were matched by.
    """

    key: Key
    rows: pd.DataFrame
    per_class: pd.DataFrame

    def count(self, kind: str) -> int:
        """How many images, or pairs of them, are of one kind."""
        return int((self.rows["kind"] == kind).sum())

    @property
    def same(self) -> bool:
        """True when both have the same images, each with its class and its split."""
        return self.count("unchanged") == len(self.rows)

    @property
    def same_member(self) -> int:
        """How many added images were read from the same member as a removed one, which has other pixels now."""
        gone = self.rows.loc[self.rows["kind"] == "removed", "member_before"]
        return int(self.rows.loc[self.rows["kind"] == "added", "member_after"].isin(gone).sum())


@dataclass(frozen=True)
class DatasetDiff:
    """Two versions of one dataset, called `before` and `after`.

    `status` is same, changed, added (no version before) or removed (none after). `facts` maps what differs in
    dataset.json, such as image_size or source.version, to its two values, None where there is none; `classes_added`,
    `classes_removed` and `glyphs` (of all classes) are by name.
    """

    dataset: str
    before: str
    after: str
    status: Status
    facts: dict[str, tuple[Any, Any]]
    classes_added: tuple[str, ...]
    classes_removed: tuple[str, ...]
    glyphs: dict[str, str]
    images: ImageDiff


# --- what changed ---


def diff_images(before: pd.DataFrame, after: pd.DataFrame, key: Key = "sha256") -> ImageDiff:
    """Match the images of two manifests by their pixels, or by where in the source they were found (`member`).

    Both need the columns split, class_name, member and `key`, in any order of rows. An image that is there several
    times is matched as often as both have it. Matched images are unchanged, moved (other split, same class) or
    relabelled (other class, whatever the split); the others are added or removed.
    """
    left, right = before.reset_index(drop=True), after.reset_index(drop=True)
    pairs = []
    for same in _PASSES:
        found = _pairs(left, right, list(dict.fromkeys((key, *same))))
        left, right = left.drop(index=found["left"].tolist()), right.drop(index=found["right"].tolist())
        pairs.append(found)
    # Row numbers of both sides, -1 where there is none.
    added, removed = pd.DataFrame({"left": -1, "right": right.index}), pd.DataFrame({"left": left.index, "right": -1})
    at = pd.concat([pd.concat([*pairs, added]).sort_values("right"), removed], ignore_index=True).astype(np.int64)
    rows = pd.DataFrame({"kind": ""}, index=at.index)
    for what, column in (("class", "class_name"), ("split", "split"), ("member", "member")):
        rows[f"{what}_before"] = _values_at(before[column], at["left"])
        rows[f"{what}_after"] = _values_at(after[column], at["right"])
    kinds = {
        "added": at["left"] < 0,
        "removed": at["right"] < 0,
        "relabelled": rows["class_before"] != rows["class_after"],
        "moved": rows["split_before"] != rows["split_after"],
    }
    rows["kind"] = np.select(list(kinds.values()), list(kinds), "unchanged")
    return ImageDiff(key, rows, _per_class(rows))


def _pairs(left: pd.DataFrame, right: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Row labels `left` and `right` of rows that agree on the columns `on`, each row at most once and in order."""
    sides = [table[on].assign(nth=table.groupby(on, sort=False).cumcount(), row=table.index) for table in (left, right)]
    found = sides[0].merge(sides[1], on=[*on, "nth"], suffixes=("_left", "_right"))
    return found[["row_left", "row_right"]].set_axis(["left", "right"], axis=1)


def _values_at(column: pd.Series, rows: pd.Series) -> pd.Series:
    """The values of `column` at the row numbers `rows`, None for -1."""
    values = [*column.tolist(), None]
    return pd.Series([values[row] for row in rows], dtype=object)


def _per_class(rows: pd.DataFrame) -> pd.DataFrame:
    kind, old, new = rows["kind"], rows["class_before"], rows["class_after"]
    counts = {"before": old, "after": new, "added": new[kind == "added"], "removed": old[kind == "removed"]}
    counts |= {"relabelled_out": old[kind == "relabelled"], "relabelled_in": new[kind == "relabelled"]}
    counts |= {name: new[kind == name] for name in ("moved", "unchanged")}
    table = pd.DataFrame({name: column.value_counts() for name, column in counts.items()}, columns=list(COUNTS))
    names = list(dict.fromkeys([*new.dropna(), *old.dropna()]))
    return table.reindex(names).fillna(0).astype(np.int64)


def diff_versions(dataset: str, before: Version | None, after: Version | None, names: tuple[str, str]) -> DatasetDiff:
    """Compare two versions called `names`, of which one may be missing.

    When their image sizes differ no pixels can agree, so that images are matched by their member instead.
    """
    there = [version for version in (before, after) if version]
    same_size = len({version.info.image_size for version in there}) == 1
    tables = [version.manifest if version else there[0].manifest.iloc[:0] for version in (before, after)]
    images = diff_images(tables[0], tables[1], "sha256" if same_size else "member")
    old, new = (_facts(version.info) if version else {} for version in (before, after))
    facts = {key: (old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)}
    was, now = ({c.name: c.glyph for c in version.info.classes} if version else {} for version in (before, after))
    facts |= {f"classes.{name}.glyph": (was[name], now[name]) for name in was if name in now and was[name] != now[name]}
    status: Status = "same" if images.same and not facts else "changed"
    if not before or not after:
        status = "removed" if before else "added"
    classes_added, classes_removed = tuple(n for n in now if n not in was), tuple(n for n in was if n not in now)
    return DatasetDiff(dataset, *names, status, facts, classes_added, classes_removed, {**was, **now}, images)


def _facts(info: DatasetInfo) -> dict[str, Any]:
    """What dataset.json says beside its classes, flat."""
    values = {"image_size": info.image_size, "script": info.script}
    values |= {f"images.{split}": count for split, count in info.counts.items()}
    values |= {f"source.{key}": value for key, value in info.source.items()}
    return values | {"notes": list(info.notes), "digest": info.digest}


def diff_revisions(dataset: str, revision: str, to: str | None = None) -> DatasetDiff:
    """Compare `dataset` as of a git revision with another one, or with the working tree when `to` is None.

    A dataset that only one of them has is added or removed. Raises UsageError as `versions.version_at` and
    `versions.current_version` do, and NoVersionError when neither has it.
    """
    before = after = missing_before = None
    try:
        before = versions.version_at(dataset, revision)
    except versions.NoDatasetError as error:
        missing_before = error
    try:
        after = versions.version_at(dataset, to) if to else versions.current_version(dataset)
    except UsageError as error:
        if missing_before:
            raise missing_before from None
        if not isinstance(error, versions.NoDatasetError):
            raise
    return diff_versions(dataset, before, after, (revision, to or "the working tree"))


# --- how to say it ---


def as_dict(found: DatasetDiff, examples: int = 5) -> dict[str, Any]:
    """Everything found, ready for JSON, with at most `examples` images for each kind of change."""
    images = found.images
    totals = {name: int(images.per_class[name].sum()) for name in ("before", "after")}
    kinds = {kind: images.count(kind) for kind in (*CHANGES, "unchanged")}
    return {
        "status": found.status,
        "before": found.before,
        "after": found.after,
        "matched_by": images.key,
        "images": {**totals, **kinds, "same_member": images.same_member},
        "classes": {"added": list(found.classes_added), "removed": list(found.classes_removed)},
        "facts": {key: {"before": old, "after": new} for key, (old, new) in found.facts.items()},
        "per_class": {str(name): {key: int(row[key]) for key in COUNTS} for name, row in images.per_class.iterrows()},
        "examples": {kind: _examples(images, kind, examples) for kind in CHANGES},
    }


def text(found: DatasetDiff, examples: int = 5) -> str:
    """The same for a terminal or a pipe: plain aligned lines without colour."""
    return _render(found, examples, f"{found.dataset}, from {found.before} to {found.after}", "", _aligned)


def markdown(found: DatasetDiff, examples: int = 5) -> str:
    """The same as Markdown, for a pull request."""
    return _render(found, examples, f"## {found.dataset}, from {found.before} to {found.after}\n", "### ", _piped)


def _render(found: DatasetDiff, examples: int, title: str, prefix: str, table: Callable[[list[list[str]]], str]) -> str:
    """`prefix` stands before each heading, and `table` lays out lines of cells, the first of which are heads."""
    images, counts = found.images, found.images.per_class
    if found.status == "same":
        return f"{title}\nNo difference: {counts['after'].sum():,} images."
    parts = [f"{title}\n{' '.join(_sentences(found))}"]
    changed = counts[(counts["unchanged"] != counts["before"]) | (counts["unchanged"] != counts["after"])]
    if len(changed):
        columns = [name for name in COUNTS if name in {"before", "after"} or changed[name].any()]
        lines = [["class", *(name.replace("_", " ") for name in columns), "glyph"]]
        for name, row in changed.iterrows():
            lines.append([str(name), *(f"{row[key]:,}" for key in columns), found.glyphs.get(str(name), "")])
        parts.append(f"{prefix}Classes\n\n{table(lines)}")
    for kind in CHANGES:
        if examples and (rows := _examples(images, kind, examples)):
            lines = [list(rows[0]), *(list(row.values()) for row in rows)]
            parts.append(f"{prefix}{kind.capitalize()}, {len(rows)} of {images.count(kind):,}\n\n{table(lines)}")
    if found.facts and found.status == "changed":
        lines = [["key", "before", "after"]]
        lines += [[key, _short(old), _short(new)] for key, (old, new) in found.facts.items()]
        parts.append(f"{prefix}dataset.json\n\n{table(lines)}")
    return "\n\n".join(parts)


def _sentences(found: DatasetDiff) -> list[str]:
    images, totals = found.images, found.images.per_class.sum()
    before, after = f"{totals['before']:,}", f"{totals['after']:,}"
    if found.status == "added":
        there = f"{after} images in {len(found.classes_added)} classes."
        return [f"New: {found.before} has no such dataset; {there}"]
    if found.status == "removed":
        gone = f"it had {before} images in {len(found.classes_removed)} classes."
        return [f"Gone: {found.after} has no such dataset; {gone}"]
    sentences = []
    if images.key == "member":
        old, new = found.facts["image_size"]
        why = "so that all pixels differ: images are matched by where in the source they were found."
        sentences.append(f"The image size changed from {old} to {new}, {why}")
    counts = [f"{images.count(kind):,} {kind}" for kind in (*CHANGES, "unchanged") if images.count(kind)]
    sentences.append(f"{before} images before and {after} after: {', '.join(counts)}.")
    if images.same_member:
        where = "stand in the source where a removed one stood: the same member with other pixels."
        sentences.append(f"{images.same_member:,} of the added images {where}")
    if images.same and "digest" in found.facts and images.key == "sha256":
        sentences.append("The images, their classes and splits are the same; their order or the label numbers changed.")
    if found.classes_added:
        sentences.append(f"New classes: {', '.join(found.classes_added)}.")
    if found.classes_removed:
        sentences.append(f"Classes gone: {', '.join(found.classes_removed)}.")
    return sentences


def _examples(images: ImageDiff, kind: str, most: int) -> list[dict[str, str]]:
    """The first images of one kind, spread over the classes: one of each, then the second of each."""
    rows = images.rows[images.rows["kind"] == kind]
    side = "before" if kind == "removed" else "after"
    nth = rows.groupby(f"class_{side}", sort=False).cumcount()
    columns = {name: f"{name}_{side}" for name in ("member", "class", "split")}
    if kind in {"relabelled", "moved"}:
        columns |= {name: name for name in ("class_before", "split_before", "member_before")}
    chosen = rows.loc[nth.sort_values(kind="stable").index[:most], list(columns.values())]
    return chosen.set_axis(list(columns), axis=1).astype(str).to_dict("records")  # type: ignore[return-value]


def _short(value: Any) -> str:
    shown = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _aligned(lines: list[list[str]]) -> str:
    """Columns of numbers to the right, others to the left."""
    columns = []
    for head, *cells in zip(*lines, strict=True):
        width = max(map(len, (head, *cells)))
        is_number = all(cell.replace(",", "").isdecimal() for cell in cells)
        columns.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in (head, *cells)])
    return "\n".join(f"  {'  '.join(line)}".rstrip() for line in zip(*columns, strict=True))


def _piped(lines: list[list[str]]) -> str:
    heads, *rows = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(markdown_table(heads, rows))
