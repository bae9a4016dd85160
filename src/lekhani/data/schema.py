"""The validate stage: pandera holds the manifest to its schema, `checks` look at what it and the images say."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from lekhani import params
from lekhani.data import checks
from lekhani.data.checks import Check
from lekhani.data.spec import load_prepared
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


def validate(folder: Path, policy: params.Validate, previous: pd.DataFrame | None = None) -> dict[str, Any]:
    """Check the prepared dataset in `folder`, against the manifest of an earlier version too, and return the report for validation.json.

    The report is {"dataset", "digest", "passed", "checks", "skipped", "notes"}. Each check is {"name", "policy", "passed", "count",
    "sentence", "examples"}, named like its key in params.Validate; one whose policy is "off" is absent. `examples` are ids of up to
    16 images that show the fault, the worst first, in pairs where two images make one case. `passed` is False when a check
    fails whose policy is "error". `skipped` is a sentence about checks that could not be made, else empty; `notes` are those of
    dataset.json. Faults in the data are reported, not raised; LekhaniError is raised when a file is missing or cannot be read.
    """
    try:
        prepared = load_prepared(folder)
        table = pd.read_parquet(folder / "manifest.parquet")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:  # pyarrow's are among them
        raise LekhaniError(
            f"{folder} cannot be read ({first_line(error)}); run `lekhani prepare` for this dataset again."
        ) from None
    info, skipped = prepared.info, ""
    done = [_manifest_schema(table, policy)]
    if not done[0]["passed"]:
        skipped = "Every other check was skipped, for they read the manifest."
    else:
        done.append(checks.integrity(table, prepared, policy))
        belong = done[-1]["passed"]
        if not belong:
            skipped = "The images were not compared with one another, for the files do not belong together."
        found = _repeats_if_asked(table, prepared.images if belong else None, policy)
        rest: dict[str, Callable[[], Check]] = {
            "label_set": lambda: checks.label_set(table, info, policy),
            "class_balance": lambda: checks.class_balance(table, info, policy),
            "blank_images": lambda: checks.blank_images(table, policy),
            "full_images": lambda: checks.full_images(table, policy),
            "off_centre": lambda: checks.off_centre(table, policy),
            "ink_outliers": lambda: checks.ink_outliers(table, policy),
            "exact_duplicates": lambda: checks.exact_duplicates(table, policy),
            "near_duplicates": lambda: checks.near_duplicates(table, found, policy),
            "split_leaks": lambda: checks.split_leaks(table, found, policy),
            "label_conflicts": lambda: checks.label_conflicts(table, found, policy),
            "drift": lambda: checks.drift(table, previous, policy),
        }
        needs_images = set() if belong else {"near_duplicates"}
        done += [make() for name, make in rest.items() if getattr(policy, name) != "off" and name not in needs_images]
    done = [check for check in done if check["policy"] != "off"]
    passed = all(check["passed"] or check["policy"] != "error" for check in done)
    return {
        "dataset": info.name,
        "digest": info.digest,
        "passed": passed,
        "checks": done,
        "skipped": skipped,
        "notes": list(info.notes),
    }


def _repeats_if_asked(table: pd.DataFrame, images: Any, policy: params.Validate) -> checks.Repeats:
    asked = {policy.near_duplicates, policy.split_leaks, policy.label_conflicts} != {"off"}
    return checks.repeats(table, images if asked else None)


def _manifest_schema(table: pd.DataFrame, policy: params.Validate) -> Check:
    try:
        Manifest.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        places = [
            f"{case.column if case.schema_context == 'Column' else 'columns'}: {case.check} (found {case.failure_case})"
            for case in cases.drop_duplicates(["column", "check"]).itertuples()
        ]
        fault = f"manifest.parquet breaks its schema in {len(cases):,} places ({checks.some(places)}); run `lekhani prepare` again."
        return checks.check("manifest_schema", policy.manifest_schema, len(cases), fault, "")
    fine = f"All {len(table):,} rows of the manifest have the columns, types, ranges and order they should."
    return checks.check("manifest_schema", policy.manifest_schema, 0, "", fine)
