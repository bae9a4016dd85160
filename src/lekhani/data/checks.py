"""What prepared data must be like, one function per check: by the manifest, the images, and the version before.

pandera holds the manifest to its schema (see `schema`). These checks are our own, for they compare rows with one
another or with the images, and name the worst offenders first, which its failure cases do not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import chdtri

from lekhani import params
from lekhani.data.duplicates import joined, near_pairs
from lekhani.data.spec import Bytes, DatasetInfo, Prepared, digest
from lekhani.text import printable

# The examples of these checks are pairs: a, b, a, b, ...
PAIRED = ("exact_duplicates", "near_duplicates", "split_leaks", "label_conflicts")

MIN_IMAGES = 4  # of each split: the evaluation's precision and recall look at 3 neighbours of each image
_MAD = 1.4826  # makes the median absolute deviation of normal data their standard deviation
# The least deviation of ink and of its logarithm within a class: none is so even that less would mean anything.
_MIN_DEVIATION, _MIN_LOG_DEVIATION = 0.01, 0.05
_FEATURES = ("ink_mean", "ink_fraction", "centre_x", "centre_y")
_BINS = 10
_Floats = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Repeats:
    """Which of N images repeat one another.

    `first` int64 [N] is the first row with the same pixels, `group` int64 [N] joins near copies too (see
    `duplicates.groups`); `pairs` int64 [P,2] are the near copies themselves, those across classes first, then those
    across splits, then the nearest.
    """

    first: _Rows
    group: _Rows
    pairs: _Rows


@dataclass(frozen=True)
class Subject:
    """What is checked: the manifest, the prepared data, their repeats, the manifest before (if any) and the policy."""

    table: pd.DataFrame
    data: Prepared
    repeats: Repeats
    previous: pd.DataFrame | None
    policy: params.Validate

    @property
    def info(self) -> DatasetInfo:
        """The contents of dataset.json."""
        return self.data.info


@dataclass(frozen=True)
class Finding:
    """How many faults a check found, and a sentence for when there are some and one for when there are none.

    `examples` are ids of images that show the fault, the worst first, in pairs for the checks that are PAIRED.
    """

    count: int
    fault: str
    fine: str
    examples: Sequence[int] | _Rows = ()


def first_few(values: Iterable[Any]) -> str:
    """The first three of `values`, in words."""
    values = list(values)
    more = f" and {len(values) - 3:,} more" if len(values) > 3 else ""
    return ", ".join(printable(value) for value in values[:3]) + more


def repeats(table: pd.DataFrame, images: Bytes | None) -> Repeats:
    """Compare `images` uint8 [N,H,W] with one another; None: only by the manifest's sha256."""
    first = table.groupby("sha256")["id"].transform("first").to_numpy(np.int64)
    pairs, distances = (np.empty((0, 2), np.int64), np.empty(0)) if images is None else near_pairs(images)
    columns = (table[column].to_numpy() for column in ("split", "label"))
    same = [values[pairs[:, 0]] == values[pairs[:, 1]] for values in columns]
    return Repeats(first, joined(first, pairs), pairs[np.lexsort((distances, *same))])


def integrity(s: Subject) -> Finding:
    """images.npy, labels.npy, manifest.parquet and dataset.json belong together."""
    info, images, labels, n = s.info, s.data.images, s.data.labels, len(s.table)
    shape = (n, info.image_size, info.image_size)
    splits = np.repeat(["train", "test"], [info.counts.get("train", 0), info.counts.get("test", 0)])
    faults = []
    if images.dtype != np.uint8 or images.shape != shape:
        faults.append(f"images.npy is {images.dtype} {list(images.shape)} where uint8 {list(shape)} is due")
    if not np.array_equal(labels, s.table["label"]):
        faults.append("labels.npy differs from the manifest")
    if not np.array_equal(s.table["split"], splits):
        faults.append("the manifest's splits differ from the counts in dataset.json")
    if digest(images, labels, info.counts) != info.digest:
        faults.append("images or labels do not have the digest in dataset.json")
    fault = f"The prepared files do not belong together: {first_few(faults)}; run `lekhani prepare` again."
    return Finding(len(faults), fault, f"images.npy, labels.npy, the manifest and dataset.json agree on {n:,} images.")


def enough_images(s: Subject) -> Finding:
    """There are two classes or more, and in each split as many images as the evaluation needs."""
    counts = {split: int((s.table["split"] == split).sum()) for split in ("train", "test")}
    few = [f"{count:,} {split} images" for split, count in counts.items() if count < MIN_IMAGES]
    faults = []
    if s.info.n_classes < 2:
        faults.append("one class only, where no label can be wrong; bring at least 2 classes")
    if few:
        need = f"precision and recall need at least {MIN_IMAGES} in each split"
        faults.append(f"{' and '.join(few)}, where {need}; add images, or change data.{s.info.name}.test_fraction")
    fault = f"There is too little to train and judge on: {'; and '.join(faults)}."
    fine = f"There are {s.info.n_classes} classes, {counts['train']:,} train and {counts['test']:,} test images."
    return Finding(len(faults), fault, fine)


def label_set(s: Subject) -> Finding:
    """The classes of the manifest are those of dataset.json, each with images in both splits."""
    columns = ["label", "class_name", "glyph"]
    classes = pd.DataFrame([(c.label, c.name, c.glyph) for c in s.info.classes], columns=columns)
    known = s.table[columns].merge(classes, how="left", indicator=True)["_merge"] == "both"
    unknown = s.table.loc[~known.to_numpy()]
    present = set(zip(s.table["split"], s.table["label"], strict=True))
    splits = ("train", "test")
    absent = [f"{c.name} in {split}" for split in splits for c in s.info.classes if (split, c.label) not in present]
    faults = []
    if len(unknown):
        members = first_few(unknown["member"])
        faults.append(f"{len(unknown):,} with a class that dataset.json does not know ({members})")
    if absent:
        faults.append(f"none of {first_few(absent)}")
    remedy = f"add images to the source or leave the class out with data.{s.info.name}.classes."
    fault = f"Among the images there are {' and '.join(faults)}; {remedy}"
    fine = f"All {len(s.info.classes)} classes have images in both splits."
    return Finding(len(unknown) + len(absent), fault, fine, unknown["id"].to_numpy())


def class_balance(s: Subject) -> Finding:
    """Every class has enough images in each split, and not too few beside the biggest."""
    minimum, ratio = s.policy.min_per_class, f"1/{s.policy.max_imbalance:g}"
    scarce = []
    for split in ("train", "test"):
        labels = s.table.loc[s.table["split"] == split, "label"]
        counts = labels.value_counts().reindex(range(s.info.n_classes), fill_value=0)
        least = max(minimum, counts.max() / s.policy.max_imbalance)
        scarce += [f"{c.name} in {split} has {counts[c.label]}" for c in s.info.classes if counts[c.label] < least]
    fault = (
        f"Classes with fewer than {minimum} images or less than {ratio} of the biggest in a split: {len(scarce)} "
        f"({first_few(scarce)}); add images of these or cap the others with per_class_train and per_class_test."
    )
    fine = f"Every class has at least {minimum} images and {ratio} of the biggest, in each split."
    return Finding(len(scarce), fault, fine)


def blank_images(s: Subject) -> Finding:
    """No image is without ink."""
    blank = s.table.loc[s.table["ink_fraction"] == 0]
    fault = f"Blank images: {len(blank):,} ({first_few(blank['member'])}); remove them from the source."
    return Finding(len(blank), fault, "No image is blank.", blank["id"].to_numpy())


def _beyond(table: pd.DataFrame, measure: "pd.Series[float] | _Floats", bound: float) -> pd.DataFrame:
    """The rows whose `measure` is above `bound`, the highest first."""
    return table.assign(measure=measure)[measure > bound].sort_values(["measure", "id"], ascending=[False, True])


def full_images(s: Subject) -> Finding:
    """No image is nearly all ink."""
    bound = f"more than {s.policy.max_ink:.0%} of ink"
    full = _beyond(s.table, s.table["ink_fraction"], s.policy.max_ink)
    remedy = "remove them, or set data.*.polarity if ink and paper are swapped."
    fault = f"Images with {bound}: {len(full):,} ({first_few(full['member'])}); {remedy}"
    return Finding(len(full), fault, f"No image has {bound}.", full["id"].to_numpy())


def off_centre(s: Subject) -> Finding:
    """No image has its centre of ink far from the middle of the frame."""
    bound = f"{s.policy.max_offset:g} of the frame from the middle"
    offset = np.hypot(s.table["centre_x"] - 0.5, s.table["centre_y"] - 0.5)  # NaN where blank, another check's matter
    far = _beyond(s.table, offset, s.policy.max_offset)
    found = f"{len(far):,} ({first_few(far['member'])})"
    fault = f"Images whose centre of ink lies more than {bound}: {found}; look whether they were cut well."
    return Finding(len(far), fault, f"The centre of ink of every image lies within {bound}.", far["id"].to_numpy())


def ink_outliers(s: Subject) -> Finding:
    """No image has far more or far less ink than its class."""
    inked = s.table[s.table["ink_fraction"] > 0]
    deviation = np.zeros(len(inked))
    for column in ("ink_mean", "ink_fraction"):
        ink = inked[column].to_numpy(np.float64)
        # Ink is skewed: thick pens show as it is, thin ones and stray dots on the scale of logarithms.
        much = _deviations(ink, inked["label"], _MIN_DEVIATION)
        little = -_deviations(np.log(ink), inked["label"], _MIN_LOG_DEVIATION)
        deviation = np.maximum(deviation, np.maximum(much, little))
    bound = f"{s.policy.outlier_deviations:g} robust deviations"
    odd = _beyond(inked, deviation, s.policy.outlier_deviations)
    remedy = "look whether they are blots, specks or of another class."
    members = first_few(odd["member"])
    fault = f"Images whose ink differs more than {bound} from their class: {len(odd):,} ({members}); {remedy}"
    return Finding(len(odd), fault, f"The ink of every image is within {bound} of its class.", odd["id"].to_numpy())


def _deviations(values: _Floats, label: "pd.Series[int]", least: float) -> _Floats:
    """Distance from the class's median in robust deviations, which are `least` or more, float64 [N].

    A robust deviation is 1.4826 times the median absolute deviation (Hampel 1974).
    """
    offset = pd.Series(values, label.index)
    offset -= offset.groupby(label).transform("median")
    spread = offset.abs().groupby(label).transform("median")
    return offset.to_numpy() / np.maximum(_MAD * spread.to_numpy(), least)


def exact_duplicates(s: Subject) -> Finding:
    """No image repeats another one of its split pixel by pixel."""
    repeated = s.table.duplicated(["split", "sha256"])
    copies = s.table[repeated]
    original = s.table.groupby(["split", "sha256"])["id"].transform("first")[repeated]
    found = f"{len(copies):,} ({first_few(copies['member'])})"
    remedy = "set prepare.deduplicate: true to keep one of each."
    fault = f"Images that repeat another one of their split pixel by pixel: {found}; {remedy}"
    examples = np.column_stack([original, copies["id"]]).ravel()
    return Finding(len(copies), fault, "No image repeats another one of its split.", examples)


def near_duplicates(s: Subject) -> Finding:
    """No image shows the same drawing as another one, in other pixels."""
    found = s.repeats
    columns = {"group": found.group, "first": found.first, "split": s.table["split"], "label": s.table["label"]}
    distinct = pd.DataFrame(columns).groupby("group").nunique()
    distinct = distinct[distinct["first"] > 1]
    count = int(np.isin(found.group, distinct.index).sum())
    members = s.table["member"].to_numpy()
    pairs = first_few(f"{members[a]} and {members[b]}" for a, b in found.pairs)
    in_both, of_several = (int((distinct[column] > 1).sum()) for column in ("split", "label"))
    fault = (
        f"Images that nearly repeat another one, such as the same drawing cut out or saved twice: {count:,} in "
        f"{len(distinct):,} groups, {in_both:,} of which lie in both train and test"
        + (f" and {of_several:,} in more than one class" if of_several else "")
        + f" ({pairs}); set prepare.deduplicate: true to keep one of each."
    )
    return Finding(count, fault, "No image nearly repeats another one.", found.pairs.ravel())


def split_leaks(s: Subject) -> Finding:
    """No test image is in train too, exactly or nearly."""
    is_test = (s.table["split"] == "test").to_numpy()
    train = pd.Series(s.table["id"].to_numpy()[~is_test])
    tests = s.table.loc[is_test, ["id", "member"]]
    for column, same in (("exactly", s.repeats.first), ("nearly", s.repeats.group)):
        tests[column] = train.groupby(same[~is_test]).first().reindex(same[is_test]).to_numpy()
    tests["in_train"] = tests["exactly"].fillna(tests["nearly"])
    leaked = tests[tests["in_train"].notna()].sort_values("exactly", kind="stable")  # exact ones first
    near = int(leaked["exactly"].isna().sum())
    found = f"{len(leaked):,}, {len(leaked) - near:,} exactly and {near:,} nearly ({first_few(leaked['member'])})"
    remedy = "set prepare.deduplicate: true to take them out of train, or test results flatter."
    fault = f"Test images that are in train too: {found}; {remedy}"
    examples = leaked[["in_train", "id"]].to_numpy(np.int64).ravel()
    return Finding(len(leaked), fault, "No test image is in train too.", examples)


def label_conflicts(s: Subject) -> Finding:
    """No two classes share an image; near copies across classes do not fail, for an honest O may look like a 0."""
    shared = s.table[s.table.groupby("sha256")["label"].transform("nunique") > 1].sort_values(["sha256", "id"])
    places = first_few(f"{row.member} as {row.class_name}" for row in shared.itertuples())
    labels = s.table["label"].to_numpy()[s.repeats.pairs]
    near = int((labels[:, 0] != labels[:, 1]).sum())
    also = f" Pairs that are nearly alike across classes: {near:,}, see near_duplicates." if near else ""
    fault = (
        f"Images with the same pixels as one of another class: {len(shared):,} ({places}); remove or relabel the wrong "
        f"ones, or set prepare.deduplicate: true to leave them out.{also}"
    )
    by_pixels = shared.groupby("sha256")
    shared = shared.assign(first=by_pixels["id"].transform("first"), first_label=by_pixels["label"].transform("first"))
    others = shared[shared["label"] != shared["first_label"]].drop_duplicates(["sha256", "label"])
    examples = others[["first", "id"]].to_numpy(np.int64).ravel()
    return Finding(len(shared), fault, f"No two classes share an image.{also}", examples)


def drift(s: Subject) -> Finding:
    """Neither the classes nor their shares nor the ink and where it lies have moved since the previous manifest."""
    if s.previous is None:
        return Finding(0, "", "There is no earlier version to compare with.")
    if not {"split", "class_name", *_FEATURES} <= set(s.previous.columns):
        return Finding(0, "", "The earlier version's manifest has other columns, so there was nothing to compare.")
    before, now = set(s.previous["class_name"]), set(s.table["class_name"])
    faults = [f"class {name} is new" for name in sorted(now - before)]
    faults += [f"class {name} is gone" for name in sorted(before - now)]
    shifts = _shifts(s.previous, s.table, sorted(before & now))
    # In a small split chance alone moves the index far; what it does once in a thousand times is no drift.
    moved = [(what, index) for what, index, chance in shifts if index > max(s.policy.max_drift, chance)]
    moved.sort(key=lambda shift: -shift[1])
    faults += [f"{what} (stability index {index:.2f})" for what, index in moved]
    since = f"Since the earlier version ({s.policy.previous})"
    fault = (
        f"{since} the data moved beyond {s.policy.max_drift:g}: {first_few(faults)}; "
        "if you meant it, commit the new version, else look at what changed with `lekhani data diff`."
    )
    largest = max((index for _, index, _ in shifts), default=0.0)
    fine = f"{since} classes, their shares and the ink have not moved (largest stability index {largest:.2f})."
    return Finding(len(faults), fault, fine)


def _shifts(before: pd.DataFrame, now: pd.DataFrame, classes: list[str]) -> list[tuple[str, float, float]]:
    """How far the shares of `classes` and each feature moved in each split: name, index and what chance may do."""
    shifts = []
    for split in ("train", "test"):
        tables = [table[table["split"] == split] for table in (before, now)]
        counts = [table["class_name"].value_counts().reindex(classes, fill_value=0).to_numpy() for table in tables]
        shifts.append((f"class shares in {split}", *_stability(*counts)))
        for column in _FEATURES:
            values = [table[column].dropna().to_numpy() for table in tables]
            quantiles = np.quantile(values[0], np.arange(1, _BINS) / _BINS) if len(values[0]) else np.empty(0)
            edges = np.unique(quantiles)
            bins = [np.searchsorted(edges, one, "right") for one in values]
            counts = [np.bincount(one, minlength=len(edges) + 1) for one in bins]
            shifts.append((f"{column} in {split}", *_stability(*counts)))
    return shifts


def _stability(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> tuple[float, float]:
    """The population stability index of two histograms, and what chance exceeds once in a thousand times.

    PSI = sum (p - q) ln(p / q) over the bins' shares p and q; half a case is added per bin, so that an empty one stays
    finite. Of n and m cases from one distribution it is about (1/n + 1/m) times chi-squared with bins - 1 degrees of
    freedom (Yurdakul, Naranjo 2020). An empty histogram says nothing: 0.
    """
    if len(old) < 2 or not old.sum() or not new.sum():
        return 0.0, 0.0
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (old, new))
    return float(((p - q) * np.log(p / q)).sum()), float((1 / old.sum() + 1 / new.sum()) * chdtri(len(old) - 1, 0.001))
