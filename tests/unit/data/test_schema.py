"""Each check finds the fault planted for it, and the policy decides what that means."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lekhani import params
from lekhani.data import checks
from lekhani.data.prepare import prepare
from lekhani.data.schema import validate
from lekhani.data.sources.fetch import fetch
from lekhani.data.spec import GlyphClass
from lekhani.data.validation_report import report_text, write_reports
from lekhani.errors import LekhaniError
from lekhani.text import printable

NAMES = [name for name, value in params.Validate() if value in {"error", "warn"}]
WritePrepared = Callable[..., Path]


def check(folder: Path, name: str, previous: pd.DataFrame | None = None, **policy: Any) -> dict[str, Any]:
    report = validate(folder, params.Validate(**policy), previous)
    return next(found for found in report["checks"] if found["name"] == name)


def members_of(folder: Path, found: dict[str, Any]) -> list[str]:
    return pd.read_parquet(folder / "manifest.parquet")["member"].iloc[found["examples"]].tolist()


def change_manifest(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(folder / "manifest.parquet")).to_parquet(folder / "manifest.parquet", index=False)


def test_sound_data_pass_every_check(write_prepared: WritePrepared) -> None:
    report = validate(write_prepared(), params.Validate())
    assert report["passed"] is True
    assert (report["dataset"], report["skipped"], report["notes"]) == ("own", "", ["Two <b>notes</b>."])
    assert [found["name"] for found in report["checks"]] == NAMES
    for found in report["checks"]:
        assert set(found) == {"name", "policy", "passed", "count", "sentence", "examples"}
        assert (found["passed"], found["count"], found["examples"]) == (True, 0, [])
        assert found["sentence"].endswith(".")
    assert json.loads(json.dumps(report)) == report


def blank(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[5] = 90  # grey all over, without ink


def full(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[5] = 255
    images[6, 1:] = 255


def off(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[5] = np.roll(images[5], (4, -3), axis=(0, 1))
    images[6] = np.roll(images[6], (-4, 4), axis=(0, 1))


def speck(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[5] = 0
    images[5, 8, 7:9] = 255
    images[30, 1:15, 1:15] = 255


def repeat(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[1] = images[2] = images[0]


def saved_again(image: Any) -> Any:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


def nearly(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[1] = saved_again(images[0])
    images[12] = np.roll(images[2], 1, axis=1)  # a test image


def leak(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[12] = images[0]
    images[13] = saved_again(images[1])
    images[14] = images[13]  # a copy of the copy


def conflict(images: Any, labels: Any, splits: Any, members: Any) -> None:
    images[22] = images[0]


def scarce(images: Any, labels: Any, splits: Any, members: Any) -> None:
    labels[:9] = 1  # leaves 3 train images of class a


PLANTED: dict[str, tuple[Any, int, str, list[str]]] = {
    "blank_images": (blank, 1, "Blank images: 1 (own/5); remove", ["own/5"]),
    "full_images": (full, 2, "more than 90% of ink: 2 (own/5, own/6); remove", ["own/5", "own/6"]),
    "off_centre": (off, 2, "more than 0.3 of the frame from the middle: 2 (own/6, own/5); look", ["own/6", "own/5"]),
    "ink_outliers": (speck, 2, "robust deviations from their class: 2 (own/5, own/30); look", ["own/5", "own/30"]),
    "exact_duplicates": (
        repeat,
        2,
        "pixel by pixel: 2 (own/1, own/2); set prepare.deduplicate",
        ["own/0", "own/1", "own/0", "own/2"],
    ),
    "near_duplicates": (nearly, 4, "4 in 2 groups, 1 of which lie in both", ["own/2", "own/12", "own/0", "own/1"]),
    "split_leaks": (
        leak,
        3,
        "3, 1 exactly and 2 nearly (own/12, own/13, own/14); set",
        ["own/0", "own/12", "own/1", "own/13", "own/1", "own/14"],
    ),
    "label_conflicts": (conflict, 2, "one of another class: 2 (own/0 as a, own/22 as b); remove", ["own/0", "own/22"]),
    "class_balance": (scarce, 1, "1 (a in train has 3); add", []),
}


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_fault_is_found_and_the_policy_decides(write_prepared: WritePrepared, name: str) -> None:
    plant, count, words, examples = PLANTED[name]
    folder = write_prepared(plant)
    others = dict.fromkeys(set(NAMES) - {name}, "off")
    found = check(folder, name, **others)
    assert (found["passed"], found["count"]) == (False, count)
    assert words in found["sentence"]
    assert members_of(folder, found) == examples
    failed = validate(folder, params.Validate(**others, **{name: "error"}))
    assert (failed["passed"], failed["checks"][0]["policy"]) == (False, "error")
    warned = validate(folder, params.Validate(**others, **{name: "warn"}))
    assert (warned["passed"], [c["name"] for c in warned["checks"]]) == (True, [name])
    assert f"- {name}: warning. " in report_text(warned)
    without = validate(folder, params.Validate(**others, **{name: "off"}))
    assert (without["passed"], without["checks"]) == (True, [])


def test_near_copies_across_classes_are_told_and_do_not_fail(write_prepared: WritePrepared) -> None:
    def plant(images: Any, labels: Any, splits: Any, members: Any) -> None:
        images[22] = saved_again(images[0])

    report = validate(write_prepared(plant), params.Validate())
    found = {c["name"]: c for c in report["checks"]}
    assert report["passed"] is True
    assert "and 1 in more than one class (own/0 and own/22)" in found["near_duplicates"]["sentence"]
    assert "nearly alike across classes: 1, see near_duplicates" in found["label_conflicts"]["sentence"]


def test_balance_follows_its_two_bounds(write_prepared: WritePrepared) -> None:
    folder = write_prepared(scarce)
    assert check(folder, "class_balance", min_per_class=3, max_imbalance=7.0)["passed"]
    assert not check(folder, "class_balance", min_per_class=4, max_imbalance=7.0)["passed"]
    assert not check(folder, "class_balance", min_per_class=3, max_imbalance=6.9)["passed"]


def test_too_little_to_train_on_fails(write_prepared: WritePrepared) -> None:
    """The evaluation's precision and recall need more than 3 images on each side."""

    def few(images: Any, labels: Any, splits: Any, members: Any) -> None:
        splits[np.flatnonzero(splits == "test")[3:]] = "train"

    found = check(write_prepared(few), "enough_images")
    assert (found["passed"], found["policy"], found["count"]) == (False, "error", 1)
    assert "3 test images, where precision and recall need at least 4 in each split" in found["sentence"]

    def alone(images: Any, labels: Any, splits: Any, members: Any) -> None:
        labels[:] = 0

    found = check(write_prepared(alone, (GlyphClass(0, "a", "a"),), "alone"), "enough_images")
    assert (found["passed"], found["count"]) == (False, 1)
    assert "one class only, where no label can be wrong; bring at least 2 classes" in found["sentence"]


def test_the_least_is_what_the_evaluation_needs() -> None:
    from lekhani.evaluate.fidelity import NEIGHBOURS

    assert NEIGHBOURS + 1 == checks.MIN_IMAGES


def test_classes_and_images_that_do_not_fit(write_prepared: WritePrepared) -> None:
    def plant(images: Any, labels: Any, splits: Any, members: Any) -> None:
        splits[labels == 2] = "train"

    found = check(write_prepared(plant), "label_set")
    assert (found["passed"], found["policy"], found["count"]) == (False, "error", 1)
    assert "there are none of c in test" in found["sentence"]
    assert "data.own.classes" in found["sentence"]
    folder = write_prepared(folder="other")
    change_manifest(folder, lambda table: table.assign(label=table["label"].where(table["member"] != "own/4", 10**12)))
    found = check(folder, "label_set")
    assert (found["passed"], found["count"], members_of(folder, found)) == (False, 1, ["own/4"])
    assert "1 with a class that dataset.json does not know (own/4)" in found["sentence"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="glyph"), "columns: column_in_dataframe (found glyph)"),
        (lambda table: table.astype({"label": "int32"}), "label: dtype('int64') (found int32)"),
        (lambda table: table.assign(ink_mean=np.float32(2)), "ink_mean: less_than_or_equal_to(1) (found 2.0)"),
        (lambda table: table.assign(id=0), "id: field_uniqueness (found 0)"),
        (lambda table: table[::-1], "rows_in_order_of_ids"),
        (lambda table: table.assign(split=table["split"][::-1].to_numpy()), "train_before_test"),
        (lambda table: table.assign(centre_x=np.float32(np.nan)), "a_centre_where_there_is_ink"),
    ],
)
def test_a_manifest_that_breaks_its_schema(
    write_prepared: WritePrepared, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    folder = write_prepared()
    change_manifest(folder, change)
    report = validate(folder, params.Validate())
    assert report["passed"] is False
    assert [found["name"] for found in report["checks"]] == ["manifest_schema"]
    assert words in report["checks"][0]["sentence"]
    assert "\n" not in report["checks"][0]["sentence"]
    assert report["skipped"].startswith("Every other check was skipped")
    assert report["skipped"] in report_text(report)
    assert validate(folder, params.Validate(manifest_schema="warn"))["passed"] is True


def change_array(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)))


def change_info(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_array("images.npy", lambda a: a[:-1]), "images.npy is uint8 [65, 16, 16] where uint8 [66, 16, 16]"),
        (change_array("images.npy", lambda images: images ^ 1), "do not have the digest"),
        (change_array("labels.npy", lambda labels: labels[::-1]), "labels.npy differs from the manifest"),
        (change_info(digest="0" * 64), "do not have the digest"),
        (change_info(counts={"train": 35, "test": 31}), "splits differ from the counts"),
    ],
)
def test_files_that_do_not_belong_together(
    write_prepared: WritePrepared, change: Callable[[Path], None], words: str
) -> None:
    folder = write_prepared(repeat)
    change(folder)
    report = validate(folder, params.Validate())
    found = {c["name"]: c for c in report["checks"]}
    assert report["passed"] is False
    assert (found["integrity"]["passed"], found["integrity"]["policy"]) == (False, "error")
    assert words in found["integrity"]["sentence"]
    assert "near_duplicates" not in found
    assert report["skipped"].startswith("The images were not compared")
    assert found["exact_duplicates"]["count"] == 2  # the manifest alone tells


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.parquet", "dataset.json"])
@pytest.mark.parametrize("content", [None, b"", b"broken"])
def test_a_missing_or_broken_file_is_one_sentence(
    write_prepared: WritePrepared, name: str, content: bytes | None
) -> None:
    folder = write_prepared()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(LekhaniError, match=r"prepared cannot be read \(.+\); run `lekhani prepare`") as caught:
        validate(folder, params.Validate())
    assert "\n" not in str(caught.value)


def test_a_name_cannot_steer_the_terminal(write_prepared: WritePrepared) -> None:
    def plant(images: Any, labels: Any, splits: Any, members: list[str]) -> None:
        blank(images, labels, splits, members)
        members[5] = "a\x1b[31m\nb\u202e.png"

    sentence = check(write_prepared(plant), "blank_images")["sentence"]
    assert "(a�[31m�b�.png)" in sentence
    assert printable("क्\u200dष") == "क्\u200dष"  # a joiner is part of the spelling


def earlier(folder: Path, **change: Any) -> pd.DataFrame:
    return pd.read_parquet(folder / "manifest.parquet").assign(**change)


def test_drift_without_and_with_an_equal_earlier_version(write_prepared: WritePrepared) -> None:
    folder = write_prepared()
    found = check(folder, "drift")
    assert (found["passed"], found["sentence"]) == (True, "There is no earlier version to compare with.")
    found = check(folder, "drift", earlier(folder))
    assert found["passed"]
    assert "largest stability index 0.00" in found["sentence"]
    assert check(folder, "drift", earlier(folder).iloc[:0])["count"] == 3  # nothing before: all classes are new
    assert "other columns" in check(folder, "drift", earlier(folder).drop(columns="centre_x"))["sentence"]


def test_drift_of_ink_classes_and_shares(write_prepared: WritePrepared) -> None:
    folder = write_prepared()
    now = earlier(folder)
    inkier = earlier(folder, ink_mean=now["ink_mean"] / 2)
    found = check(folder, "drift", inkier)
    assert (found["passed"], found["count"], found["policy"]) == (False, 2, "warn")
    assert "ink_mean in train (stability index " in found["sentence"]
    assert "lekhani data diff" in found["sentence"]
    assert check(folder, "drift", inkier, max_drift=50.0)["passed"]
    assert validate(folder, params.Validate(drift="error"), inkier)["passed"] is False
    assert "drift" not in {c["name"] for c in validate(folder, params.Validate(drift="off"), inkier)["checks"]}
    renamed = check(folder, "drift", earlier(folder, class_name=now["class_name"].replace("c", "d")))
    assert renamed["count"] == 2
    assert "class c is new, class d is gone" in renamed["sentence"]
    shares = now[(now["class_name"] == "a") | (now["id"] % 11 == 0)]
    assert "class shares in train" in check(folder, "drift", pd.concat([shares] * 4))["sentence"]


def test_chance_in_a_small_split_is_no_drift(write_prepared: WritePrepared) -> None:
    def others(images: Any, labels: Any, splits: Any, members: Any) -> None:
        images[:, 4:12, 4:12] = np.random.default_rng(1).integers(0, 256, (66, 8, 8))

    folder = write_prepared()
    found = check(folder, "drift", earlier(write_prepared(others, folder="before")))
    assert found["passed"]
    assert float(found["sentence"].split("index ")[1].rstrip(").")) > 0.25  # 10 bins and some 30 images each


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "short": lambda array: array[:-1],
    "none": lambda array: array[:0],
    "float": lambda array: array.astype(np.float32),
    "one axis more": lambda array: array[None],
    "two axes": lambda array: array.reshape(-1, 2),
    "scalar": lambda array: np.float64(1),
    "text": lambda array: np.array(["a"] * 66),
    "nan": lambda array: np.full(array.shape, np.nan),
    "no label": lambda array: np.where(np.arange(66) == 7, 500, array) if array.ndim == 1 else array + 1,
    "structured": lambda array: np.zeros(66, [("a", "i4")]),
    "pickled": lambda array: np.array([{}] * 66),
}


def failed_or_refused(folder: Path) -> bool:
    """Whether the report says that the data are not sound, or a LekhaniError does."""
    try:
        report = validate(folder, params.Validate())
        write_reports(report, folder, folder.with_name("reports"))
    except LekhaniError as error:
        return str(folder) in str(error)
    return not report["passed"]


@pytest.mark.parametrize("name", ["images", "labels"])
def test_arrays_of_other_shapes_and_types_never_pass(write_prepared: WritePrepared, name: str) -> None:
    path = write_prepared() / f"{name}.npy"
    good = np.load(path)
    for kind, change in list(ARRAYS.items())[:: 2 if name == "images" else 1]:
        np.save(path, change(good), allow_pickle=True)
        assert failed_or_refused(path.parent), kind
    for content in (b"", b"PK\x03\x04" + bytes(50), b"\x93NUMPY\xff", b"x" * 99):
        path.write_bytes(content)
        assert failed_or_refused(path.parent), content[:9]


def test_manifests_of_other_columns_never_pass(write_prepared: WritePrepared) -> None:
    path = write_prepared() / "manifest.parquet"
    good, content = pd.read_parquet(path), path.read_bytes()
    tables = [good.drop(columns=[name]) for name in ("id", "sha256")]
    tables += [good.assign(**{name: [[1]] * 66}) for name in ("id", "member")]
    tables += [good.assign(**{name: None}) for name in ("id", "glyph", "ink_mean")]
    tables += [good.assign(id=10**18), good.assign(label=-1), good[:0], good[:-1], good[::-1], pd.concat([good, good])]
    for table in tables:
        table.to_parquet(path, index=False)
        assert failed_or_refused(path.parent)
    for damaged in (b"", content[:100], content[:-50], content[:200] + bytes(200) + content[400:], b"x" * 99):
        path.write_bytes(damaged)
        assert failed_or_refused(path.parent), damaged[:9]


def test_real_devanagari(tmp_path: Path) -> None:
    folder = os.environ.get("LEKHANI_REAL_DATA")
    if not folder:
        pytest.skip("LEKHANI_REAL_DATA names no folder with dhcd_train.npz and dhcd_test.npz")
    data = params.Data(source="local", path=f"{folder}/dhcd_*.npz")
    fetch("devanagari", data, params.Embedded(), 7, tmp_path / "raw")
    info = prepare("devanagari", data, params.Prepare(), 7, tmp_path / "raw", tmp_path / "prepared")
    assert info.counts == {"train": 78_200, "test": 13_800}
    assert info.n_classes == 46
    assert info.digest == "cd4c8557199454307f65d2ec04630735a9ab5efeece48ac6cdaf52190f811ac1"
    report = validate(tmp_path / "prepared", params.Validate())
    assert report["passed"]
    counts = {"off_centre": 1, "exact_duplicates": 20, "near_duplicates": 50, "split_leaks": 14}
    assert {found["name"]: found["count"] for found in report["checks"] if not found["passed"]} == counts
