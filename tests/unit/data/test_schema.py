"""Each check finds the fault planted for it, and the policy decides what that means."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lekhani import params
from lekhani.data.fetch import fetch
from lekhani.data.prepare import prepare
from lekhani.data.schema import report_text, validate
from lekhani.errors import LekhaniError

ALWAYS = {"schema", "integrity", "label_set"}
CHOSEN = {"class_balance", "blank_images", "exact_duplicates", "split_leaks", "label_conflicts"}
Images = np.ndarray[Any, np.dtype[np.uint8]]


def prepared(folder: Path, plant: Callable[[Images, Any, Any], None] | None = None) -> Path:
    """Three classes of 12 train and 10 test images, all different, then whatever `plant` does to images, labels and splits."""
    labels = np.repeat(np.arange(3), 22)
    splits = np.tile(["train"] * 12 + ["test"] * 10, 3)
    images = np.zeros((66, 16, 16), np.uint8)
    images[:, 4:12, 4:12] = np.random.default_rng(0).integers(0, 256, (66, 8, 8))
    if plant:
        plant(images, labels, splits)
    np.savez(folder / "own.npz", images=images, labels=labels, splits=splits, class_names=["a", "b", "c"])
    data = params.Data(source="local", path=str(folder / "own.npz"), image_size=16)
    fetch("own", data, 7, folder / "raw")
    prepare("own", data, 7, folder / "raw", folder / "prepared")
    return folder / "prepared"


def check(folder: Path, name: str, **policy: Any) -> dict[str, Any]:
    report = validate(folder, params.Validate(**policy))
    return next(found for found in report["checks"] if found["name"] == name)


def change_manifest(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(folder / "manifest.parquet")).to_parquet(folder / "manifest.parquet", index=False)


def test_sound_data_pass_every_check(tmp_path: Path) -> None:
    report = validate(prepared(tmp_path), params.Validate())
    assert report["passed"] is True
    assert report["dataset"] == "own"
    assert {found["name"] for found in report["checks"]} == ALWAYS | CHOSEN
    for found in report["checks"]:
        assert set(found) == {"name", "policy", "passed", "count", "sentence"}
        assert (found["passed"], found["count"]) == (True, 0)
        assert found["sentence"].endswith(".")
    assert json.loads(json.dumps(report)) == report


def blank(images: Images, labels: Any, splits: Any) -> None:
    images[5] = 90  # grey all over, without ink


def repeat(images: Images, labels: Any, splits: Any) -> None:
    images[1] = images[2] = images[0]


def leak(images: Images, labels: Any, splits: Any) -> None:
    images[12] = images[0]


def conflict(images: Images, labels: Any, splits: Any) -> None:
    images[22] = images[0]


def scarce(images: Images, labels: Any, splits: Any) -> None:
    labels[:9] = 1  # leaves 3 train images of class a


PLANTED = {
    "blank_images": (blank, 1, "Blank images: 1 (own.npz[5]); remove"),
    "exact_duplicates": (repeat, 2, "pixel by pixel: 2 (own.npz[1], own.npz[2]); remove"),
    "split_leaks": (leak, 1, "Test images that are in train too: 1 (own.npz[12]); remove"),
    "label_conflicts": (conflict, 2, "one of another class: 2 (own.npz[0] as a, own.npz[22] as b); remove"),
    "class_balance": (scarce, 1, "1 (a in train has 3); add"),
}


@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_a_planted_fault_is_found_and_the_policy_decides(tmp_path: Path, name: str) -> None:
    plant, count, words = PLANTED[name]
    folder = prepared(tmp_path, plant)
    others = dict.fromkeys(CHOSEN - {name}, "off")
    found = check(folder, name, **others)
    assert (found["passed"], found["count"]) == (False, count)
    assert words in found["sentence"]
    assert validate(folder, params.Validate(**others, **{name: "error"}))["passed"] is False
    warned = validate(folder, params.Validate(**others, **{name: "warn"}))
    assert warned["passed"] is True
    assert {c["name"] for c in warned["checks"]} == ALWAYS | {name}
    without = validate(folder, params.Validate(**others, **{name: "off"}))
    assert {c["name"] for c in without["checks"]} == ALWAYS
    assert f"- {name}: warning. " in report_text(warned)


def test_balance_follows_its_two_bounds(tmp_path: Path) -> None:
    folder = prepared(tmp_path, scarce)
    assert check(folder, "class_balance", min_per_class=3, max_imbalance=7.0)["passed"]
    assert not check(folder, "class_balance", min_per_class=4, max_imbalance=7.0)["passed"]
    assert not check(folder, "class_balance", min_per_class=3, max_imbalance=6.9)["passed"]


def test_a_class_missing_from_a_split(tmp_path: Path) -> None:
    def plant(images: Images, labels: Any, splits: Any) -> None:
        splits[labels == 2] = "train"

    found = check(prepared(tmp_path, plant), "label_set")
    assert (found["passed"], found["policy"], found["count"]) == (False, "error", 1)
    assert "there are none of c in test" in found["sentence"]
    assert "data.own.classes" in found["sentence"]


def test_a_label_that_no_class_has(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    change_manifest(folder, lambda table: table.assign(label=table["label"].where(table["member"] != "own.npz[4]", 10**12)))
    found = check(folder, "label_set")
    assert (found["passed"], found["count"]) == (False, 1)
    assert "1 with a class that dataset.json does not know (own.npz[4])" in found["sentence"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="glyph"), "columns: column_in_dataframe (found glyph)"),
        (lambda table: table.assign(more=1), "columns: column_in_schema (found more)"),
        (lambda table: table.astype({"label": "int32"}), "label: dtype('int64') (found int32)"),
        (lambda table: table.assign(split="validation"), "split: isin(['train', 'test']) (found validation)"),
        (lambda table: table.assign(sha256="ABC"), "sha256: str_matches"),
        (lambda table: table.assign(ink_mean=np.float32(2)), "ink_mean: less_than_or_equal_to(1) (found 2.0)"),
        (lambda table: table.assign(id=0), "id: field_uniqueness (found 0)"),
        (lambda table: table.assign(member=None), "member: "),
    ],
)
def test_a_manifest_that_breaks_its_schema(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    folder = prepared(tmp_path)
    change_manifest(folder, change)
    report = validate(folder, params.Validate())
    assert report["passed"] is False
    assert [found["name"] for found in report["checks"]] == ["schema"]
    assert words in report["checks"][0]["sentence"]
    assert "\n" not in report["checks"][0]["sentence"]


def change_array(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    np.save(folder / name, change(np.load(folder / name)))


def change_info(folder: Path, **fields: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: change_array(folder, "images.npy", lambda images: images[:-1]), "images.npy is uint8 [65, 16, 16] where uint8 [66, 16, 16]"),
        (lambda folder: change_array(folder, "images.npy", lambda images: images ^ 1), "have not the digest"),
        (lambda folder: change_array(folder, "labels.npy", lambda labels: labels[::-1]), "labels.npy differs from the manifest"),
        (lambda folder: change_info(folder, digest="0" * 64), "have not the digest"),
        (lambda folder: change_info(folder, counts={"train": 35, "test": 31}), "splits differ from the counts"),
        (lambda folder: change_manifest(folder, lambda table: table[::-1]), "not in the order of their ids"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    folder = prepared(tmp_path)
    change(folder)
    report = validate(folder, params.Validate())
    found = next(c for c in report["checks"] if c["name"] == "integrity")
    assert report["passed"] is False
    assert (found["passed"], found["policy"]) == (False, "error")
    assert words in found["sentence"]


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.parquet", "dataset.json"])
@pytest.mark.parametrize("content", [None, b"", b"broken"])
def test_a_missing_or_broken_file_is_one_sentence(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = prepared(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(LekhaniError, match=r"prepared cannot be read \(.+\); run `lekhani prepare`") as caught:
        validate(folder, params.Validate())
    assert "\n" not in str(caught.value)


def test_the_text_tells_failures_first(tmp_path: Path) -> None:
    text = report_text(validate(prepared(tmp_path, conflict), params.Validate()))
    lines = text.splitlines()
    assert lines[0] == "# Validation of own: failed"
    assert lines[2].startswith("- label_conflicts: **failed**. Images with")
    assert sum(": ok. " in line for line in lines) == 6  # a conflict is a duplicate too


def test_real_devanagari(tmp_path: Path) -> None:
    folder = os.environ.get("LEKHANI_REAL_DATA")
    if not folder:
        pytest.skip("LEKHANI_REAL_DATA names no folder with dhcd_train.npz and dhcd_test.npz")
    data = params.Data(source="local", path=f"{folder}/dhcd_*.npz")
    fetch("devanagari", data, 7, tmp_path / "raw")
    info = prepare("devanagari", data, 7, tmp_path / "raw", tmp_path / "prepared")
    assert info.counts == {"train": 78_200, "test": 13_800}
    assert info.n_classes == 46
    assert info.digest == "cd4c8557199454307f65d2ec04630735a9ab5efeece48ac6cdaf52190f811ac1"
    report = validate(tmp_path / "prepared", params.Validate())
    assert report["passed"]
    assert {found["name"]: found["count"] for found in report["checks"] if not found["passed"]} == {"exact_duplicates": 20, "split_leaks": 5}
