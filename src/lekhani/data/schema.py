"""The validate stage: pandera holds the manifest to its schema, `checks` look at what it and the images say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from lekhani import params
from lekhani.data import checks
from lekhani.data.checks import Finding, Subject
from lekhani.data.spec import Prepared, load_prepared
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

    @pa.check("id", name="rows_in_order_of_ids")
    @classmethod
    def _in_order(cls, ids: "pd.Series[int]") -> "pd.Series[bool]":
        return ids == np.arange(len(ids))

    @pa.check("split", name="train_before_test")
    @classmethod
    def _train_first(cls, split: "pd.Series[str]") -> "pd.Series[bool]":
        return ~((split == "train") & (split == "test").cummax())

    @pa.dataframe_check(name="a_centre_where_there_is_ink")
    @classmethod
    def _centred(cls, table: pd.DataFrame) -> "pd.Series[bool]":
        inked = table["ink_mean"] > 0
        return (table["centre_x"].notna() == inked) & (table["centre_y"].notna() == inked)


# Those that follow manifest_schema and integrity, in the order of the report.
_CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    *(
        checks.enough_images,
        checks.label_set,
        checks.class_balance,
        checks.blank_images,
        checks.full_images,
        checks.off_centre,
    ),
    *(checks.ink_outliers, checks.exact_duplicates, checks.near_duplicates, checks.split_leaks),
    *(checks.label_conflicts, checks.drift),
)
_COMPARE_IMAGES = {"near_duplicates", "split_leaks", "label_conflicts"}
_MAX_EXAMPLES = 16


def validate(folder: Path, policy: params.Validate, previous: pd.DataFrame | None = None) -> dict[str, Any]:
    """Check the prepared dataset in `folder`, also against the `previous` manifest; returns what validation.json holds.

    That is {"dataset", "digest", "passed", "checks", "skipped", "notes"}. Each check is {"name", "policy", "passed",
    "count", "sentence", "examples"}, named like its key in params.Validate; one whose policy is "off" is absent.
    `examples` are ids of up to 16 images that show the fault, the worst first, in pairs where two images make one case.
    `passed` is False when a check fails whose policy is "error". `skipped` is a sentence about checks that could not be
    made, else empty; `notes` are those of dataset.json. Faults in the data are reported, not raised; LekhaniError is
    raised when a file is missing or cannot be read.
    """
    data, table = _load(folder)
    findings, skipped = {"manifest_schema": _manifest_schema(table)}, ""
    if findings["manifest_schema"].count:
        skipped = "Every other check was skipped, for they read the manifest."
    else:
        subject = Subject(table, data, checks.repeats(table, None), previous, policy)
        findings["integrity"] = checks.integrity(subject)
        chosen = {check.__name__: check for check in _CHECKS if getattr(policy, check.__name__) != "off"}
        if findings["integrity"].count:
            skipped = "The images were not compared with one another, for the files do not belong together."
            chosen.pop("near_duplicates", None)
        elif not _COMPARE_IMAGES.isdisjoint(chosen):
            subject = replace(subject, repeats=checks.repeats(table, data.images))
        findings |= {name: check(subject) for name, check in chosen.items()}
    entries = [
        {
            "name": name,
            "policy": getattr(policy, name),
            "passed": finding.count == 0,
            "count": int(finding.count),
            "sentence": finding.fault if finding.count else finding.fine,
            "examples": [int(one) for one in finding.examples[:_MAX_EXAMPLES]],
        }
        for name, finding in findings.items()
        if getattr(policy, name) != "off"
    ]
    return {
        "dataset": data.info.name,
        "digest": data.info.digest,
        "passed": all(entry["passed"] or entry["policy"] != "error" for entry in entries),
        "checks": entries,
        "skipped": skipped,
        "notes": list(data.info.notes),
    }


def _load(folder: Path) -> tuple[Prepared, pd.DataFrame]:
    try:
        table = pd.read_parquet(folder / "manifest.parquet")
        for name in table.select_dtypes("object"):
            if not table[name].map(pd.api.types.is_scalar).all():
                raise ValueError(f"the column {name} of manifest.parquet holds lists")
        return load_prepared(folder), table
    except Exception as error:  # NumPy, pyarrow and zipfile raise many classes
        remedy = "run `lekhani prepare` for this dataset again."
        raise LekhaniError(f"{folder} cannot be read ({first_line(error)}); {remedy}") from None


def _manifest_schema(table: pd.DataFrame) -> Finding:
    fine = f"All {len(table):,} rows of the manifest have the columns, types, ranges and order they should."
    try:
        Manifest.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        places = checks.first_few(
            f"{case.column if case.schema_context == 'Column' else 'columns'}: {case.check} (found {case.failure_case})"
            for case in cases.drop_duplicates(["column", "check"]).itertuples()
        )
        fault = f"manifest.parquet breaks its schema in {len(cases):,} places ({places}); run `lekhani prepare` again."
        return Finding(len(cases), fault, fine)
    return Finding(0, "", fine)
