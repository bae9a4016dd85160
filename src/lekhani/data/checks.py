"""What prepared data must be like, one function per check: from the manifest, from the images, and from the version before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtri

from lekhani import params
from lekhani.data.duplicates import joined, near_pairs
from lekhani.data.prepare import digest
from lekhani.data.spec import Bytes, DatasetInfo, Prepared
from lekhani.text import printable

Check = dict[
    str, Any
]  # name, policy, passed, count, sentence and examples: up to 16 ids of images, in pairs where two images make one case

EXAMPLES = 16
PAIRED = (
    "exact_duplicates",
    "near_duplicates",
    "split_leaks",
    "label_conflicts",
)  # their examples are pairs: a, b, a, b, ...

_MAD = 1.4826  # makes the median absolute deviation of normal data their standard deviation
_LEAST_SPREAD, _LEAST_LOG_SPREAD = (
    0.01,
    0.05,
)  # of ink and of its logarithm: no class is so even that less would mean anything
_FEATURES = ("ink_mean", "ink_fraction", "centre_x", "centre_y")
_BINS = 10
_Floats = npt.NDArray[np.float64]


def some(values: Iterable[Any]) -> str:
    """The first three of `values`, in words."""
    values = list(values)
    return ", ".join(printable(value) for value in values[:3]) + (
        f" and {len(values) - 3:,} more" if len(values) > 3 else ""
    )


def check(
    name: str, policy: str, count: int, fault: str, fine: str, examples: Sequence[int] | npt.NDArray[np.int64] = ()
) -> Check:
    """One entry of the report: it passes when `count` is 0, and says `fault` or `fine` accordingly."""
    ids = [int(one) for one in examples[:EXAMPLES]]
    return {
        "name": name,
        "policy": policy,
        "passed": count == 0,
        "count": int(count),
        "sentence": fault if count else fine,
        "examples": ids,
    }


def integrity(table: pd.DataFrame, prepared: Prepared, policy: params.Validate) -> Check:
    """images.npy, labels.npy, manifest.parquet and dataset.json belong together."""
    info, n = prepared.info, len(table)
    size = (n, info.image_size, info.image_size)
    splits = np.repeat(["train", "test"], [info.counts.get("train", 0), info.counts.get("test", 0)])
    faults = {
        f"images.npy is {prepared.images.dtype} {list(prepared.images.shape)} where uint8 {list(size)} is due": prepared.images.dtype
        != np.uint8
        or prepared.images.shape != size,
        "labels.npy differs from the manifest": not np.array_equal(prepared.labels, table["label"]),
        "the manifest's splits differ from the counts in dataset.json": not np.array_equal(table["split"], splits),
        "images or labels have not the digest in dataset.json": digest(prepared.images, prepared.labels, info.counts)
        != info.digest,
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    fault = f"The prepared files do not belong together: {some(found)}; run `lekhani prepare` again."
    return check(
        "integrity",
        policy.integrity,
        len(found),
        fault,
        f"images.npy, labels.npy, the manifest and dataset.json agree on {n:,} images.",
    )


def label_set(table: pd.DataFrame, info: DatasetInfo, policy: params.Validate) -> Check:
    """The classes of the manifest are those of dataset.json, each with images in both splits."""
    classes = pd.DataFrame([(c.label, c.name, c.glyph) for c in info.classes], columns=["label", "class_name", "glyph"])
    known = table[["label", "class_name", "glyph"]].merge(classes, how="left", indicator=True)["_merge"] == "both"
    strangers = table.loc[~known.to_numpy()]
    present = set(zip(table["split"], table["label"], strict=True))
    absent = [
        f"{c.name} in {split}" for split in ("train", "test") for c in info.classes if (split, c.label) not in present
    ]
    faults = (
        [f"{len(strangers):,} with a class that dataset.json does not know ({some(strangers['member'])})"]
        if len(strangers)
        else []
    )
    faults += [f"none of {some(absent)}"] if absent else []
    fault = f"Among the images there are {' and '.join(faults)}; add images to the source or leave the class out with data.{info.name}.classes."
    fine = f"All {len(info.classes)} classes have images in both splits."
    return check("label_set", policy.label_set, len(strangers) + len(absent), fault, fine, strangers["id"].to_numpy())


def class_balance(table: pd.DataFrame, info: DatasetInfo, policy: params.Validate) -> Check:
    """Every class has enough images in each split, and not too few beside the biggest."""
    scarce = []
    for split in ("train", "test"):
        counts = table.loc[table["split"] == split, "label"].value_counts().reindex(range(info.n_classes), fill_value=0)
        least = max(policy.min_per_class, counts.max() / policy.max_imbalance)
        scarce += [f"{c.name} in {split} has {counts[c.label]}" for c in info.classes if counts[c.label] < least]
    fault = (
        f"Classes with fewer than {policy.min_per_class} images or less than 1/{policy.max_imbalance:g} of the biggest in a split: {len(scarce)} "
        f"({some(scarce)}); add images of these or cap the others with per_class_train and per_class_test."
    )
    fine = f"Every class has at least {policy.min_per_class} images and 1/{policy.max_imbalance:g} of the biggest, in each split."
    return check("class_balance", policy.class_balance, len(scarce), fault, fine)


def blank_images(table: pd.DataFrame, policy: params.Validate) -> Check:
    """No image is without ink."""
    blank = table.loc[table["ink_fraction"] == 0]
    fault = f"Blank images: {len(blank):,} ({some(blank['member'])}); remove them from the source."
    return check("blank_images", policy.blank_images, len(blank), fault, "No image is blank.", blank["id"].to_numpy())


def _beyond(table: pd.DataFrame, measure: "pd.Series[float] | _Floats", bound: float) -> pd.DataFrame:
    """The rows whose `measure` is above `bound`, the highest first."""
    return table.assign(measure=measure)[measure > bound].sort_values(["measure", "id"], ascending=[False, True])


def full_images(table: pd.DataFrame, policy: params.Validate) -> Check:
    """No image is nearly all ink."""
    full = _beyond(table, table["ink_fraction"], policy.max_ink)
    fault = (
        f"Images with more than {policy.max_ink:.0%} of ink: {len(full):,} ({some(full['member'])}); remove them, "
        "or set data.*.polarity if ink and paper are swapped."
    )
    fine = f"No image has more than {policy.max_ink:.0%} of ink."
    return check("full_images", policy.full_images, len(full), fault, fine, full["id"].to_numpy())


def off_centre(table: pd.DataFrame, policy: params.Validate) -> Check:
    """No image has its centre of ink far from the middle of the frame."""
    off = np.hypot(table["centre_x"] - 0.5, table["centre_y"] - 0.5)  # NaN where blank, which is another check's matter
    far = _beyond(table, off, policy.max_offset)
    fault = (
        f"Images whose centre of ink lies more than {policy.max_offset:g} of the frame from the middle: {len(far):,} ({some(far['member'])}); "
        "look whether they were cut well."
    )
    fine = f"The centre of ink of every image lies within {policy.max_offset:g} of the frame from the middle."
    return check("off_centre", policy.off_centre, len(far), fault, fine, far["id"].to_numpy())


def ink_outliers(table: pd.DataFrame, policy: params.Validate) -> Check:
    """No image has far more or far less ink than its class."""
    marks = table[table["ink_fraction"] > 0]
    odd = np.zeros(len(marks))
    for column in ("ink_mean", "ink_fraction"):
        ink = marks[column].to_numpy(np.float64)
        # Ink is skewed: thick pens show as it is, thin ones and stray dots on the scale of logarithms.
        much, little = (
            _deviations(ink, marks["label"], _LEAST_SPREAD),
            -_deviations(np.log(ink), marks["label"], _LEAST_LOG_SPREAD),
        )
        odd = np.maximum(odd, np.maximum(much, little))
    bad = _beyond(marks, odd, policy.outlier_deviations)
    fault = (
        f"Images whose ink differs more than {policy.outlier_deviations:g} robust deviations from their class: {len(bad):,} ({some(bad['member'])}); "
        "look whether they are blots, specks or of another class."
    )
    fine = f"The ink of every image is within {policy.outlier_deviations:g} robust deviations of its class."
    return check("ink_outliers", policy.ink_outliers, len(bad), fault, fine, bad["id"].to_numpy())


def _deviations(values: _Floats, label: "pd.Series[int]", least: float) -> _Floats:
    """Distance from the class's median in robust deviations, 1.4826 x median absolute deviation (Hampel 1974), which is `least` or more."""
    off = pd.Series(values, label.index)
    off -= off.groupby(label).transform("median")
    spread = off.abs().groupby(label).transform("median")
    return off.to_numpy() / np.maximum(_MAD * spread.to_numpy(), least)


@dataclass(frozen=True)
class Repeats:
    """Which images repeat one another.

    `first` int64 [N] is the first row with the same pixels, `group` int64 [N] joins near copies too (see `duplicates.groups`);
    `pairs` int64 [P,2] are the near copies themselves, those across classes first, then those across splits, then the nearest.
    """

    first: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]


def repeats(table: pd.DataFrame, images: Bytes | None) -> Repeats:
    """Compare `images` uint8 [N,H,W] with one another; None: only by the manifest's sha256."""
    first = table.groupby("sha256")["id"].transform("first").to_numpy(np.int64)
    pairs, distances = (np.empty((0, 2), np.int64), np.empty(0)) if images is None else near_pairs(images)
    differs = [
        (table[column].to_numpy()[pairs[:, 0]] == table[column].to_numpy()[pairs[:, 1]])
        for column in ("split", "label")
    ]
    return Repeats(first, joined(first, pairs), pairs[np.lexsort((distances, *differs))])


def exact_duplicates(table: pd.DataFrame, policy: params.Validate) -> Check:
    """No image repeats another one of its split pixel by pixel."""
    repeated = table.duplicated(["split", "sha256"])
    copies = table[repeated]
    original = table.groupby(["split", "sha256"])["id"].transform("first")[repeated]
    fault = (
        f"Images that repeat another one of their split pixel by pixel: {len(copies):,} ({some(copies['member'])}); "
        "set prepare.deduplicate: true to keep one of each."
    )
    return check(
        "exact_duplicates",
        policy.exact_duplicates,
        len(copies),
        fault,
        "No image repeats another one of its split.",
        _pairs(original, copies["id"]),
    )


def near_duplicates(table: pd.DataFrame, found: Repeats, policy: params.Validate) -> Check:
    """No image shows the same drawing as another one, in other pixels."""
    rows = pd.DataFrame({"group": found.group, "first": found.first, "split": table["split"], "label": table["label"]})
    kinds = rows.groupby("group").nunique()
    kinds = kinds[kinds["first"] > 1]
    count = int(rows["group"].isin(kinds.index).sum())
    members = table["member"].to_numpy()
    places = [f"{members[a]} and {members[b]}" for a, b in found.pairs]
    torn = int((kinds["label"] > 1).sum())
    fault = (
        f"Images that nearly repeat another one, such as the same drawing cut out or saved twice: {count:,} in {len(kinds):,} groups, "
        f"{int((kinds['split'] > 1).sum()):,} of which lie in both train and test"
        + (f" and {torn:,} in more than one class" if torn else "")
        + f" ({some(places)}); set prepare.deduplicate: true to keep one of each."
    )
    return check(
        "near_duplicates",
        policy.near_duplicates,
        count,
        fault,
        "No image nearly repeats another one.",
        found.pairs.ravel(),
    )


def split_leaks(table: pd.DataFrame, found: Repeats, policy: params.Validate) -> Check:
    """No test image is in train too, exactly or nearly."""
    is_test = (table["split"] == "test").to_numpy()
    train = pd.Series(table["id"].to_numpy()[~is_test])
    exactly = train.groupby(found.first[~is_test]).first()
    nearly = train.groupby(found.group[~is_test]).first()
    tests = table.loc[is_test, ["id", "member"]].assign(exactly=exactly.reindex(found.first[is_test]).to_numpy())
    tests["there"] = tests["exactly"].fillna(pd.Series(nearly.reindex(found.group[is_test]).to_numpy(), tests.index))
    leaked = tests[tests["there"].notna()].sort_values("exactly", kind="stable")  # exact ones first
    near = int(leaked["exactly"].isna().sum())
    fault = (
        f"Test images that are in train too: {len(leaked):,}, {len(leaked) - near:,} exactly and {near:,} nearly ({some(leaked['member'])}); "
        "set prepare.deduplicate: true to take them out of train, or test results flatter."
    )
    return check(
        "split_leaks",
        policy.split_leaks,
        len(leaked),
        fault,
        "No test image is in train too.",
        _pairs(leaked["there"], leaked["id"]),
    )


def label_conflicts(table: pd.DataFrame, found: Repeats, policy: params.Validate) -> Check:
    """No two classes share an image. Near copies across classes are told but do not fail: an honest O may look like a 0."""
    torn = table[table.groupby("sha256")["label"].transform("nunique") > 1].sort_values(["sha256", "id"])
    places = [f"{row.member} as {row.class_name}" for row in torn.itertuples()]
    labels = table["label"].to_numpy()
    near = int((labels[found.pairs[:, 0]] != labels[found.pairs[:, 1]]).sum())
    also = f" Pairs that are nearly alike across classes: {near:,}, see near_duplicates." if near else ""
    fault = (
        f"Images with the same pixels as one of another class: {len(torn):,} ({some(places)}); remove or relabel the wrong ones, "
        f"or set prepare.deduplicate: true to leave them out.{also}"
    )
    first = torn.drop_duplicates("sha256").set_index("sha256")
    others = torn[(torn["label"] != first["label"].reindex(torn["sha256"]).to_numpy())].drop_duplicates(
        ["sha256", "label"]
    )
    examples = _pairs(first["id"].reindex(others["sha256"]), others["id"])
    return check(
        "label_conflicts", policy.label_conflicts, len(torn), fault, f"No two classes share an image.{also}", examples
    )


def _pairs(one: Iterable[int], other: Iterable[int]) -> list[int]:
    return [int(row) for pair in zip(one, other, strict=True) for row in pair]


def drift(table: pd.DataFrame, previous: pd.DataFrame | None, policy: params.Validate) -> Check:
    """Neither the classes nor their shares nor the ink and where it lies have moved since the `previous` manifest."""
    if previous is None:
        return check("drift", policy.drift, 0, "", "There is no earlier version to compare with.")
    if not {"split", "class_name", *_FEATURES} <= set(previous.columns):
        return check(
            "drift",
            policy.drift,
            0,
            "",
            "The earlier version's manifest has other columns, so there was nothing to compare.",
        )
    before, now = set(previous["class_name"]), set(table["class_name"])
    faults = [
        f"class {name} is {what}"
        for what, names in (("new", now - before), ("gone", before - now))
        for name in sorted(names)
    ]
    shifts = []
    for split in ("train", "test"):
        old, new = previous[previous["split"] == split], table[table["split"] == split]
        shared = sorted(before & now)
        counts = [frame["class_name"].value_counts().reindex(shared, fill_value=0).to_numpy() for frame in (old, new)]
        shifts.append((f"class shares in {split}", *_stability(*counts)))
        for column in _FEATURES:
            was, present = old[column].dropna().to_numpy(), new[column].dropna().to_numpy()
            edges = np.unique(np.quantile(was, np.arange(1, _BINS) / _BINS)) if len(was) else np.empty(0)
            counts = [
                np.bincount(np.searchsorted(edges, values, "right"), minlength=len(edges) + 1)
                for values in (was, present)
            ]
            shifts.append((f"{column} in {split}", *_stability(*counts)))
    # In a small split chance alone moves the index far; what it does once in a thousand times is no drift.
    moved = sorted(
        ((what, psi) for what, psi, chance in shifts if psi > max(policy.max_drift, chance)),
        key=lambda shift: -shift[1],
    )
    faults += [f"{what} (stability index {psi:.2f})" for what, psi in moved]
    fault = (
        f"Since the earlier version ({policy.previous}) the data moved beyond {policy.max_drift:g}: {some(faults)}; "
        "if you meant it, commit the new version, else look at what changed with `lekhani data diff`."
    )
    largest = max((psi for _, psi, _ in shifts), default=0.0)
    fine = f"Since the earlier version ({policy.previous}) classes, their shares and the ink have not moved (largest stability index {largest:.2f})."
    return check("drift", policy.drift, len(faults), fault, fine)


def _stability(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> tuple[float, float]:
    """The population stability index of two histograms, and what chance exceeds once in a thousand times.

    PSI = sum (p - q) ln(p / q) over the bins' shares p and q; half a case is added per bin, so that an empty one stays finite.
    Of n and m cases from one distribution it is about (1/n + 1/m) times chi-squared with bins - 1 degrees (Yurdakul, Naranjo 2020).
    An empty histogram tells nothing: 0.
    """
    if len(old) < 2 or not old.sum() or not new.sum():
        return 0.0, 0.0
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (old, new))
    return float(((p - q) * np.log(p / q)).sum()), float((1 / old.sum() + 1 / new.sum()) * chdtri(len(old) - 1, 0.001))
