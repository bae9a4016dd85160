"""What changed between two versions of a prepared dataset, image by image, and how to say it."""

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

By = Literal["sha256", "member"]
Status = Literal["same", "changed", "added", "removed"]
CHANGES = ("added", "removed", "relabelled", "moved")
COUNTS = ("before", "after", "added", "removed", "relabelled_out", "relabelled_in", "moved", "unchanged")
_SIDES = ("class", "split", "member")
# What two images must share beside the key to be taken for one, most alike first: of several copies the one that stayed counts as unchanged.
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

    `rows` has one row per image, or per pair of images that are one and the same, in the newer manifest's order and the removed
    ones last: kind (unchanged, added, removed, relabelled, moved), class_before, class_after, split_before, split_after,
    member_before, member_after; a side that is not there holds None. `per_class` is indexed by class name and counts before,
    after, added, removed, relabelled_out, relabelled_in, moved, unchanged: before = unchanged + moved + relabelled_out + removed,
    and after = unchanged + moved + relabelled_in + added.
    """

    by: By
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
        """How many added images stand in the source where a removed one stood: one member with other pixels."""
        gone = self.rows.loc[self.rows["kind"] == "removed", "member_before"]
        return int(self.rows.loc[self.rows["kind"] == "added", "member_after"].isin(gone).sum())


@dataclass(frozen=True)
class DatasetDiff:
    """Two versions of one dataset, called `before` and `after`.

    `status` is same, changed, added (no version before) or removed (none after). `facts` maps what differs in dataset.json,
    such as image_size or source.version, to its two values, None where there is none; `classes_added`, `classes_removed` and
    `glyphs` (of all classes) are by name.
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


def diff(before: pd.DataFrame, after: pd.DataFrame, by: By = "sha256") -> ImageDiff:
    """Match the images of two manifests by their pixels, or by where in the source they were found (`member`).

    Both need the columns split, class_name, member and `by`, in any order of rows. An image that is there several times is
    matched as often as both have it. Matched images are unchanged, moved (other split, same class) or relabelled (other
    class, whatever the split); the others are added or removed.
    """
    left, right = before.reset_index(drop=True), after.reset_index(drop=True)
    pairs = []
    for same in _PASSES:
        found = _pairs(left, right, list(dict.fromkeys((by, *same))))
        left, right = left.drop(index=found["left"].tolist()), right.drop(index=found["right"].tolist())
        pairs.append(found)
    # Row numbers of both sides, -1 where there is none.
    added, removed = pd.DataFrame({"left": -1, "right": right.index}), pd.DataFrame({"left": left.index, "right": -1})
    at = pd.concat([pd.concat([*pairs, added]).sort_values("right"), removed], ignore_index=True).astype(np.int64)
    rows = pd.DataFrame({"kind": ""}, index=at.index)
    for what in _SIDES:
        column = "class_name" if what == "class" else what
        rows[f"{what}_before"], rows[f"{what}_after"] = (
            _taken(before[column], at["left"]),
            _taken(after[column], at["right"]),
        )
    rows["kind"] = np.select(
        [
            at["left"] < 0,
            at["right"] < 0,
            rows["class_before"] != rows["class_after"],
            rows["split_before"] != rows["split_after"],
        ],
        ["added", "removed", "relabelled", "moved"],
        "unchanged",
    )
    return ImageDiff(by, rows, _per_class(rows))


def _pairs(left: pd.DataFrame, right: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Row labels `left` and `right` of rows that agree on the columns `on`, each row at most once and in order."""
    sides = [table[on].assign(nth=table.groupby(on, sort=False).cumcount(), row=table.index) for table in (left, right)]
    found = sides[0].merge(sides[1], on=[*on, "nth"], suffixes=("_left", "_right"))
    return found[["row_left", "row_right"]].set_axis(["left", "right"], axis=1)


def _taken(column: pd.Series, rows: pd.Series) -> pd.Series:
    """The values of `column` at the row numbers `rows`, None for -1."""
    values = column.tolist()
    return pd.Series([values[row] if row >= 0 else None for row in rows], dtype=object)


def _per_class(rows: pd.DataFrame) -> pd.DataFrame:
    kind, old, new = rows["kind"], rows["class_before"], rows["class_after"]
    counts = {"before": old, "after": new, "added": new[kind == "added"], "removed": old[kind == "removed"]}
    counts |= {"relabelled_out": old[kind == "relabelled"], "relabelled_in": new[kind == "relabelled"]}
    counts |= {name: new[kind == name] for name in ("moved", "unchanged")}
    table = pd.DataFrame({name: column.value_counts() for name, column in counts.items()}, columns=list(COUNTS))
    names = list(dict.fromkeys([*new.dropna(), *old.dropna()]))
    return table.reindex(names).fillna(0).astype(np.int64)


def compare(dataset: str, before: Version | None, after: Version | None, names: tuple[str, str]) -> DatasetDiff:
    """Compare two versions called `names`, of which one may be missing.

    When their image sizes differ no pixels can agree, so that images are matched by their member instead.
    """
    there = [version for version in (before, after) if version]
    sizes = {version.info.image_size for version in there}
    empty = there[0].manifest.iloc[:0]
    images = diff(
        before.manifest if before else empty,
        after.manifest if after else empty,
        "sha256" if len(sizes) == 1 else "member",
    )
    old, new = (_facts(version.info) if version else {} for version in (before, after))
    facts = {key: (old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)}
    was, now = ({c.name: c.glyph for c in version.info.classes} if version else {} for version in (before, after))
    facts |= {f"classes.{name}.glyph": (was[name], now[name]) for name in was if name in now and was[name] != now[name]}
    status: Status = (
        "added" if not before else "removed" if not after else "same" if images.same and not facts else "changed"
    )
    return DatasetDiff(
        dataset,
        *names,
        status,
        facts,
        tuple(name for name in now if name not in was),
        tuple(name for name in was if name not in now),
        was | now,
        images,
    )


def between(dataset: str, revision: str, to: str | None = None) -> DatasetDiff:
    """Compare `dataset` as of a git revision with another one, or with the working tree when `to` is None.

    A dataset that only one of them has is added or removed. Raises UsageError as `versions.manifest_at` and
    `versions.working_tree` do, and NoVersion when neither has it.
    """
    before = after = nowhere = None
    try:
        before = versions.manifest_at(dataset, revision)
    except versions.NoDataset as error:
        nowhere = error
    try:
        after = versions.manifest_at(dataset, to) if to else versions.working_tree(dataset)
    except UsageError as error:
        if nowhere:
            raise nowhere from None
        if not isinstance(error, versions.NoDataset):
            raise
    return compare(dataset, before, after, (revision, to or "the working tree"))


def _facts(info: DatasetInfo) -> dict[str, Any]:
    """What dataset.json says beside its classes, flat."""
    values = {"image_size": info.image_size, "script": info.script}
    values |= {f"images.{split}": count for split, count in info.counts.items()}
    values |= {f"source.{key}": value for key, value in info.source.items()}
    return values | {"notes": list(info.notes), "digest": info.digest}


def as_dict(found: DatasetDiff, examples: int = 5) -> dict[str, Any]:
    """Everything found, ready for JSON, with at most `examples` images for each kind of change."""
    images = found.images
    totals = {"before": int(images.per_class["before"].sum()), "after": int(images.per_class["after"].sum())}
    return {
        "status": found.status,
        "before": found.before,
        "after": found.after,
        "matched_by": images.by,
        "images": totals
        | {kind: images.count(kind) for kind in (*CHANGES, "unchanged")}
        | {"same_member": images.same_member},
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


def _render(found: DatasetDiff, examples: int, title: str, mark: str, table: Callable[[list[list[str]]], str]) -> str:
    images, totals = found.images, found.images.per_class.sum()
    if found.status == "same":
        return f"{title}\nNo difference: {totals['after']:,} images."
    parts = [f"{title}\n{' '.join(_sentences(found))}"]
    changed = images.per_class[
        images.per_class["unchanged"].ne(images.per_class["before"])
        | images.per_class["unchanged"].ne(images.per_class["after"])
    ]
    if len(changed):
        columns = [name for name in COUNTS if name in {"before", "after"} or changed[name].any()]
        lines = [["class", *(name.replace("_", " ") for name in columns), "glyph"]]
        lines += [
            [str(name), *(f"{row[key]:,}" for key in columns), found.glyphs.get(str(name), "")]
            for name, row in changed.iterrows()
        ]
        parts.append(f"{mark}Classes\n\n{table(lines)}")
    for kind in CHANGES:
        if examples and (rows := _examples(images, kind, examples)):
            lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
            parts.append(f"{mark}{kind.capitalize()}, {len(rows)} of {images.count(kind):,}\n\n{table(lines)}")
    if found.facts and found.status == "changed":
        lines = [
            ["key", "before", "after"],
            *([key, _short(old), _short(new)] for key, (old, new) in found.facts.items()),
        ]
        parts.append(f"{mark}dataset.json\n\n{table(lines)}")
    return "\n\n".join(parts)


def _sentences(found: DatasetDiff) -> list[str]:
    images, totals = found.images, found.images.per_class.sum()
    if found.status == "added":
        return [
            f"New: {found.before} has no such dataset; {totals['after']:,} images in {len(found.classes_added)} classes."
        ]
    if found.status == "removed":
        return [
            f"Gone: {found.after} has no such dataset; it had {totals['before']:,} images in {len(found.classes_removed)} classes."
        ]
    said = []
    if images.by == "member":
        old, new = found.facts["image_size"]
        said.append(
            f"The image size changed from {old} to {new}, so that all pixels differ: images are matched by where in the source they were found."
        )
    counts = [f"{images.count(kind):,} {kind}" for kind in (*CHANGES, "unchanged") if images.count(kind)]
    said.append(f"{totals['before']:,} images before and {totals['after']:,} after: {', '.join(counts)}.")
    if images.same_member:
        said.append(
            f"{images.same_member:,} of the added images stand in the source where a removed one stood: the same member with other pixels."
        )
    if images.same and "digest" in found.facts and images.by == "sha256":
        said.append("The images, their classes and splits are the same; their order or the label numbers changed.")
    said += [f"New classes: {', '.join(found.classes_added)}."] if found.classes_added else []
    said += [f"Classes gone: {', '.join(found.classes_removed)}."] if found.classes_removed else []
    return said


def _examples(images: ImageDiff, kind: str, most: int) -> list[dict[str, str]]:
    """The first images of one kind, spread over the classes: one of each, then the second of each."""
    rows = images.rows[images.rows["kind"] == kind]
    side = "before" if kind == "removed" else "after"
    nth = rows.groupby(f"class_{side}", sort=False).cumcount()
    found = []
    for _, row in rows.loc[nth.sort_values(kind="stable").index[:most]].iterrows():
        example = {"member": row[f"member_{side}"], "class": row[f"class_{side}"], "split": row[f"split_{side}"]}
        if kind in {"relabelled", "moved"}:
            example |= {
                "class_before": row["class_before"],
                "split_before": row["split_before"],
                "member_before": row["member_before"],
            }
        found.append({key: str(value) for key, value in example.items()})
    return found


def _short(value: Any) -> str:
    said = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 80 else f"{said[:79]}…"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    numbers = [all(line[at].replace(",", "").isdecimal() for line in lines[1:]) for at in range(len(widths))]
    padded = (
        [cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(line, widths, numbers, strict=True)]
        for line in lines
    )
    return "\n".join(f"  {'  '.join(cells)}".rstrip() for cells in padded)


def _piped(lines: list[list[str]]) -> str:
    heads, *rows = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(markdown_table(heads, rows))
