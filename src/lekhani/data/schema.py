"""The validate stage: what prepared data must be like, checked by pandera and by what the images themselves say."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from lekhani import params
from lekhani.data.prepare import digest
from lekhani.data.spec import DatasetInfo, Prepared, load_prepared
from lekhani.errors import LekhaniError, first_line


class Manifest(pa.DataFrameModel):
    """manifest.parquet: one row per image, in the order of images.npy."""

    id: Series[np.int64] = pa.Field(ge=0, unique=True)
    split: Series[str] = pa.Field(isin=["train", "test"])
    label: Series[np.int64] = pa.Field(ge=0)
    class_name: Series[str] = pa.Field(str_length={"min_value": 1})
    glyph: Series[str] = pa.Field(str_length={"min_value": 1})
    sha256: Series[str] = pa.Field(str_matches=r"^[0-9a-f]{64}$")
    ink_mean: Series[np.float32] = pa.Field(ge=0, le=1)
    ink_fraction: Series[np.float32] = pa.Field(ge=0, le=1)
    centre_x: Series[np.float32] = pa.Field(ge=0, le=1, nullable=True)
    centre_y: Series[np.float32] = pa.Field(ge=0, le=1, nullable=True)
    member: Series[str] = pa.Field(str_length={"min_value": 1})

    class Config:
        """No column may be missing or unknown, and none is converted."""

        strict = True


def validate(folder: Path, policy: params.Validate) -> dict[str, Any]:
    """Check the prepared dataset in `folder` and return the report for validation.json.

    The report is {"dataset", "passed", "checks": [{"name", "policy", "passed", "count", "sentence"}]}; `passed` is False when a
    check fails whose policy is "error". Faults in the data are reported, not raised; LekhaniError is raised when a file is
    missing or cannot be read.
    """
    try:
        prepared = load_prepared(folder)
        table = pd.read_parquet(folder / "manifest.parquet")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:  # pyarrow's are among them
        raise LekhaniError(f"{folder} cannot be read ({first_line(error)}); run `lekhani prepare` for this dataset again.") from None
    checks = [_schema(table)]
    if checks[0]["passed"]:  # the others read the columns
        checks += [_integrity(table, prepared), _label_set(table, prepared.info)]
        checks += [
            check
            for check in (
                _class_balance(table, prepared.info, policy),
                _blank_images(table, policy.blank_images),
                _exact_duplicates(table, policy.exact_duplicates),
                _split_leaks(table, policy.split_leaks),
                _label_conflicts(table, policy.label_conflicts),
            )
            if check["policy"] != "off"
        ]
    passed = all(check["passed"] or check["policy"] != "error" for check in checks)
    return {"dataset": prepared.info.name, "passed": passed, "checks": checks}


def report_text(report: dict[str, Any]) -> str:
    """The report of `validate` as a short Markdown page: what failed first."""
    lines = [f"# Validation of {report['dataset']}: {'passed' if report['passed'] else 'failed'}", ""]
    for check in sorted(report["checks"], key=lambda check: (check["passed"], check["policy"] != "error")):
        verdict = "ok" if check["passed"] else {"error": "**failed**"}.get(check["policy"], "warning")
        lines.append(f"- {check['name']}: {verdict}. {check['sentence']}")
    return "\n".join(lines) + "\n"


def _check(name: str, policy: str, count: int, fault: str, fine: str) -> dict[str, Any]:
    return {"name": name, "policy": policy, "passed": count == 0, "count": count, "sentence": fault if count else fine}


def _some(values: Sequence[Any]) -> str:
    """The first three of `values`, in words."""
    return ", ".join(str(value) for value in values[:3]) + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _schema(table: pd.DataFrame) -> dict[str, Any]:
    try:
        Manifest.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        places = [
            f"{case.column if case.schema_context == 'Column' else 'columns'}: {case.check} (found {case.failure_case})"
            for case in cases.drop_duplicates(["column", "check"]).itertuples()
        ]
        fault = f"manifest.parquet breaks its schema in {len(cases)} places ({_some(places)}); run `lekhani prepare` again."
        return _check("schema", "error", len(cases), fault, "")
    return _check("schema", "error", 0, "", f"All {len(table)} rows of the manifest have the columns, types and ranges they should.")


def _integrity(table: pd.DataFrame, prepared: Prepared) -> dict[str, Any]:
    info, n = prepared.info, len(table)
    size = (n, info.image_size, info.image_size)
    splits = np.repeat(["train", "test"], [info.counts.get("train", 0), info.counts.get("test", 0)])
    faults = {
        f"images.npy is {prepared.images.dtype} {list(prepared.images.shape)} where uint8 {list(size)} is due": prepared.images.dtype != np.uint8
        or prepared.images.shape != size,
        "labels.npy differs from the manifest": not np.array_equal(prepared.labels, table["label"]),
        "the manifest's rows are not in the order of their ids": not np.array_equal(table["id"], np.arange(n)),
        "the manifest's splits differ from the counts in dataset.json": not np.array_equal(table["split"], splits),
        "images or labels have not the digest in dataset.json": digest(prepared.images, prepared.labels, info.counts) != info.digest,
    }
    found = [fault for fault, is_there in faults.items() if is_there]
    fault = f"The prepared files do not belong together: {_some(found)}; run `lekhani prepare` again."
    return _check("integrity", "error", len(found), fault, f"images.npy, labels.npy, the manifest and dataset.json agree on {n} images.")


def _label_set(table: pd.DataFrame, info: DatasetInfo) -> dict[str, Any]:
    classes = pd.DataFrame([(c.label, c.name, c.glyph) for c in info.classes], columns=["label", "class_name", "glyph"])
    known = table[["label", "class_name", "glyph"]].merge(classes, how="left", indicator=True)["_merge"] == "both"
    strangers = table.loc[~known.to_numpy(), "member"].tolist()
    present = set(zip(table["split"], table["label"], strict=True))
    absent = [f"{c.name} in {split}" for split in ("train", "test") for c in info.classes if (split, c.label) not in present]
    faults = [f"{len(strangers)} with a class that dataset.json does not know ({_some(strangers)})"] if strangers else []
    faults += [f"none of {_some(absent)}"] if absent else []
    fault = f"Among the images there are {' and '.join(faults)}; add images to the source or leave the class out with data.{info.name}.classes."
    fine = f"All {len(info.classes)} classes have images in both splits."
    return _check("label_set", "error", len(strangers) + len(absent), fault, fine)


def _class_balance(table: pd.DataFrame, info: DatasetInfo, policy: params.Validate) -> dict[str, Any]:
    scarce = []
    for split in ("train", "test"):
        counts = table.loc[table["split"] == split, "label"].value_counts().reindex(range(info.n_classes), fill_value=0)
        least = max(policy.min_per_class, counts.max() / policy.max_imbalance)
        scarce += [f"{c.name} in {split} has {counts[c.label]}" for c in info.classes if counts[c.label] < least]
    fault = (
        f"Classes with fewer than {policy.min_per_class} images or less than 1/{policy.max_imbalance:g} of the biggest in a split: {len(scarce)} "
        f"({_some(scarce)}); add images of these or cap the others with per_class_train and per_class_test."
    )
    fine = f"Every class has at least {policy.min_per_class} images and 1/{policy.max_imbalance:g} of the biggest, in each split."
    return _check("class_balance", policy.class_balance, len(scarce), fault, fine)


def _blank_images(table: pd.DataFrame, policy: str) -> dict[str, Any]:
    blank = table.loc[table["ink_fraction"] == 0, "member"].tolist()
    fault = f"Blank images: {len(blank)} ({_some(blank)}); remove them from the source."
    return _check("blank_images", policy, len(blank), fault, "No image is blank.")


def _exact_duplicates(table: pd.DataFrame, policy: str) -> dict[str, Any]:
    repeats = table.loc[table.duplicated(["split", "sha256"]), "member"].tolist()
    fault = f"Images that repeat another one of their split pixel by pixel: {len(repeats)} ({_some(repeats)}); remove the copies from the source."
    return _check("exact_duplicates", policy, len(repeats), fault, "No image repeats another one of its split.")


def _split_leaks(table: pd.DataFrame, policy: str) -> dict[str, Any]:
    is_test = table["split"] == "test"
    leaked = table.loc[is_test & table["sha256"].isin(table.loc[~is_test, "sha256"]), "member"].tolist()
    fault = f"Test images that are in train too: {len(leaked)} ({_some(leaked)}); remove them from one of the two, or test results flatter."
    return _check("split_leaks", policy, len(leaked), fault, "No test image is in train too.")


def _label_conflicts(table: pd.DataFrame, policy: str) -> dict[str, Any]:
    torn = table[table.groupby("sha256")["label"].transform("nunique") > 1].sort_values(["sha256", "id"])
    places = [f"{row.member} as {row.class_name}" for row in torn.itertuples()]
    fault = f"Images with the same pixels as one of another class: {len(torn)} ({_some(places)}); remove or relabel the wrong ones."
    return _check("label_conflicts", policy, len(torn), fault, "No two classes share an image.")
