"""Prepared data are square, white on black, filtered, split and the same at every run."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sources import encoded, write_tree

from lekhani import params
from lekhani.data.prepare import fit, prepare
from lekhani.data.spec import DEVANAGARI, DatasetInfo, load_prepared
from lekhani.errors import LekhaniError, UsageError

PER_CLASS = 20


def data(**choices: Any) -> params.Data:
    return params.Data(**{"source": "local", "path": "x", "script": "Devanagari", "image_size": 16, **choices})


def write_raw(raw: Path, labels: Any, **arrays: Any) -> None:
    """Random images, so that each is one of a kind, behind a dark border."""
    raw.mkdir(parents=True)
    images = np.zeros((len(labels), 16, 16), np.uint8)
    images[:, 4:12, 4:12] = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8))
    np.savez(raw / "x.npz", **{"images": images, "labels": np.array(labels), **arrays})
    (raw / "source.json").write_text(json.dumps({"name": "local", "version": "1", "sha256": "0" * 64, "path": "x"}))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """46 classes of 20 images in mixed order, without a split."""
    write_raw(tmp_path / "raw", np.random.default_rng(1).permutation(np.repeat(np.arange(46), PER_CLASS)))
    return tmp_path / "raw"


def run(
    raw: Path, name: str = "devanagari", seed: int = 7, deduplicate: bool = False, **choices: Any
) -> tuple[DatasetInfo, pd.DataFrame]:
    out = raw.parent / "prepared"
    info = prepare(name, data(**choices), params.Prepare(deduplicate=deduplicate), seed, raw, out)
    return info, pd.read_parquet(out / "manifest.parquet")


def test_the_four_files_agree(raw: Path) -> None:
    info, table = run(raw)
    prepared = load_prepared(raw.parent / "prepared")
    assert prepared.info == info
    assert prepared.images.shape == (920, 16, 16)
    assert prepared.images.dtype == np.uint8
    assert prepared.labels.dtype == np.int64
    assert info.counts == {"train": 736, "test": 184}
    assert info.source["version"] == "1"
    assert info.script == "Devanagari"
    np.testing.assert_array_equal(table["label"], prepared.labels)
    np.testing.assert_array_equal(table["split"] == "test", prepared.is_test)
    np.testing.assert_array_equal(table["id"], np.arange(920))
    keys = list(zip(table["split"] == "test", table["label"], table["member"], strict=True))
    assert keys == sorted(keys)
    assert (table["glyph"][0], table["class_name"].iloc[-1]) == ("क", "digit_9")
    assert table.attrs["source"] == info.source
    assert "The source has no split: 20% of each class became the test split, drawn with seed 7." in info.notes
    assert {path.name for path in (raw.parent / "prepared").iterdir()} == {
        "images.npy",
        "labels.npy",
        "manifest.parquet",
        "dataset.json",
    }


def test_ink_statistics(tmp_path: Path) -> None:
    images = np.zeros((2, 16, 16), np.uint8)
    images[0, 0:4, 8:16] = 255
    write_raw(tmp_path / "raw", [0, 1], images=images)
    _, table = run(tmp_path / "raw", "mnist", test_fraction=0.5)
    drawn, blank = table.sort_values("ink_mean", ascending=False).itertuples()
    assert (drawn.ink_mean, drawn.ink_fraction) == (0.125, 0.125)
    assert (drawn.centre_x, drawn.centre_y) == (0.75, 0.125)
    assert blank.ink_mean == 0
    assert np.isnan(blank.centre_x)
    assert np.isnan(blank.centre_y)


def test_the_same_seed_makes_the_same_data(raw: Path) -> None:
    first, _ = run(raw)
    before = {path.name: path.read_bytes() for path in (raw.parent / "prepared").iterdir()}
    again, _ = run(raw)
    assert first == again
    assert before == {path.name: path.read_bytes() for path in (raw.parent / "prepared").iterdir()}
    assert run(raw, seed=8)[0].digest != first.digest


@pytest.mark.parametrize(("fraction", "held"), [(0.2, 4), (0.01, 1), (0.99, 19)])
def test_the_split_is_stratified(raw: Path, fraction: float, held: int) -> None:
    _, table = run(raw, test_fraction=fraction)
    assert set(table[table["split"] == "test"]["label"].value_counts()) == {held}
    assert set(table[table["split"] == "train"]["label"].value_counts()) == {PER_CLASS - held}


def test_the_split_does_not_hang_on_the_order_of_files(raw: Path) -> None:
    with np.load(raw / "x.npz") as arrays:
        labels, images = arrays["labels"], arrays["images"]
    order = np.random.default_rng(2).permutation(len(labels))
    names = np.array([f"{i:04d}.png" for i in range(len(labels))])
    write_raw(raw.parent / "a" / "raw", labels, images=images, filenames=names)
    write_raw(raw.parent / "b" / "raw", labels[order], images=images[order], filenames=names[order])
    assert run(raw.parent / "a" / "raw")[0].digest == run(raw.parent / "b" / "raw")[0].digest


def test_a_source_s_own_split_is_kept(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", [0, 1, 0, 1], splits=["test", "train", "train", "test"])
    info, table = run(tmp_path / "raw", "mnist", test_fraction=0.9)
    assert info.counts == {"train": 2, "test": 2}
    assert table["member"].tolist() == ["x.npz[2]", "x.npz[1]", "x.npz[0]", "x.npz[3]"]


def test_caps_choose_at_random_but_the_same(raw: Path) -> None:
    _, table = run(raw, per_class_train=5, per_class_test=2)
    sizes = table.groupby("split").apply(lambda part: set(part["label"].value_counts())).to_dict()
    assert sizes == {"train": {5}, "test": {2}}
    _, whole = run(raw)
    train, chosen = (part[part["split"] == "train"].groupby("label")["member"].apply(list) for part in (whole, table))
    assert any(set(train[k][:5]) != set(chosen[k]) for k in range(46))
    assert set(table["member"]) <= set(whole["member"])


@pytest.mark.parametrize(
    ("classes", "glyphs"),
    [
        ("all", [c.glyph for c in DEVANAGARI]),
        ("digits", list("०१२३४५६७८९")),
        ("consonants", [c.glyph for c in DEVANAGARI[:36]]),
        (("ख", "क"), ["क", "ख"]),
        (("character_01_ka", "kha", "9", 45, 2), ["क", "ख", "ग", "९"]),
    ],
)
def test_classes_are_kept_in_the_dataset_s_order(raw: Path, classes: Any, glyphs: list[str]) -> None:
    info, table = run(raw, classes=classes)
    assert [c.glyph for c in info.classes] == glyphs
    assert [c.label for c in info.classes] == list(range(len(glyphs)))
    assert list(dict.fromkeys(table["glyph"])) == glyphs
    assert table["label"].tolist() == [glyphs.index(glyph) for glyph in table["glyph"]]


@pytest.mark.parametrize(
    ("classes", "pattern"),
    [
        (("character_1_kaa",), r"unknown class `character_1_kaa` \(did you mean `character_1_ka`\?\)"),
        (("zz",), r"unknown class `zz` \(valid are character_1_ka, .* and so on\)"),
        ((46,), "there is no label 46; the nearest is 45"),
        ((-1,), "there is no label -1; the nearest is 0"),
        ((), "the list is empty"),
    ],
)
def test_an_unknown_class_names_the_key_and_the_nearest(raw: Path, classes: Any, pattern: str) -> None:
    with pytest.raises(UsageError, match=rf"^data\.devanagari\.classes: {pattern}"):
        run(raw, classes=classes)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ("7_1.png 7_2.png 3_1.png 3_2.png", r" \(prefix finds 2: 3, 7\)"),
        ("1.png 2.png", ""),
    ],
)
def test_one_class_is_a_sentence_that_names_the_ways_out(tmp_path: Path, names: str, hint: str) -> None:
    write_tree(tmp_path / "raw", *(f"images/{name}" for name in names.split()))
    (tmp_path / "raw" / "source.json").write_text(json.dumps({"name": "local", "version": "1", "sha256": "0" * 64}))
    with pytest.raises(UsageError, match=rf"are of one class, images, .*names of files hold the labels{hint}\.$"):
        run(tmp_path / "raw", "own")
    write_tree(tmp_path / "raw", "labels.xlsx", content=b"PK\3\4")
    with pytest.raises(UsageError, match=r"images \(left out: 1 file that is no image \(labels\.xlsx\)\),"):
        run(tmp_path / "raw", "own")
    if hint:
        info, _ = run(tmp_path / "raw", "own", label_in_name="prefix")
        assert [c.name for c in info.classes] == ["3", "7"]


def test_prepare_says_what_it_saw_and_did(tmp_path: Path) -> None:
    shades = [np.full((10, 14), 16, np.uint8) for _ in range(8)]
    for i, image in enumerate(shades):
        image[3:6, 4 + i % 4 : 9] = i % 3
    write_tree(tmp_path / "raw", "a/README.md", content=b"Scanned by hand.\n")
    write_tree(tmp_path / "raw", "a/notes.pdf", content=b"%PDF-1.4 \x00\x01")
    for i, image in enumerate(shades):
        write_tree(tmp_path / "raw", f"{'ab'[i % 2]}/{i}.pgm", content=encoded(image, "PPM"))
    (tmp_path / "raw" / "source.json").write_text(json.dumps({"name": "local", "version": "1", "sha256": "0" * 64}))
    info, _ = run(tmp_path / "raw", "own")
    assert info.notes == (
        "Read 8 images in 2 class folders of raw.",
        "Left out: 1 text or table without pixels or labels (a/README.md).",
        "Left out: 1 file that is no image (a/notes.pdf).",
        "Pixel values lie between 0 and 16; 0..16 was scaled to 0..255.",
        "The source is black on white; all images were inverted.",
        "The source has no split: 20% of each class became the test split, drawn with seed 7.",
        "8 of 8 images were fitted into 16 x 16 pixels.",
    )


def test_groups_and_classes_without_an_image(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", [0, 0], class_names=["a", "b"])
    with pytest.raises(UsageError, match="this dataset has no consonants"):
        run(tmp_path / "raw", "own", classes="consonants")
    with pytest.raises(UsageError, match=r"^data\.own\.classes: the source holds no image"):
        run(tmp_path / "raw", "own", classes=("b",))


# --- fitting ---


@pytest.mark.parametrize("shape", [(64, 64), (100, 40), (40, 100), (9, 5)])
def test_any_shape_is_centred_with_its_aspect(shape: tuple[int, int]) -> None:
    (image,) = fit([np.full(shape, 255, np.uint8)], 32)
    assert image.shape == (32, 32)
    rows, columns = np.flatnonzero(image.max(axis=1) > 127), np.flatnonzero(image.max(axis=0) > 127)
    for found, length in ((rows, shape[0]), (columns, shape[1])):
        assert len(found) == pytest.approx(32 * length / max(shape) / 1.25, abs=2.5)
        assert (found[0] + found[-1]) / 2 == pytest.approx(15.5, abs=2)


def test_a_margin_is_left_only_where_strokes_touch_the_frame() -> None:
    scan = np.zeros((8, 8), np.uint8)
    scan[:, 3:5] = 255
    (touching,) = fit([scan], 28)
    assert touching[[0, 1, -2, -1]].max() < 16
    assert touching[14, 14] == 255
    (apart,) = fit([np.pad(scan[1:-1], ((4, 4), (3, 3)))], 28)
    np.testing.assert_array_equal(np.flatnonzero(apart.max(axis=1) > 127), np.arange(8, 20))


# --- whole folders or none ---


def test_a_full_disk_leaves_the_earlier_data(raw: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    run(raw)
    out = raw.parent / "prepared"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with full_disk(), pytest.raises(LekhaniError, match=r"^Could not write .*prepared: "):
        run(raw, seed=8)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    assert {path.name for path in raw.parent.iterdir()} == {"raw", "prepared"}


# --- what the source leaves open ---


def test_the_size_of_the_source_is_kept_where_every_variant_can_work_with_it(tmp_path: Path) -> None:
    for side, size in ((16, 16), (28, 28), (30, 32), (256, 32)):
        images = np.zeros((20, side, side), np.uint8)
        images[:, 4:12, 4:12] = np.random.default_rng(0).integers(128, 256, (20, 8, 8))
        write_raw(tmp_path / str(side) / "raw", np.repeat(np.arange(2), 10), images=images)
        info, _ = run(tmp_path / str(side) / "raw", "own", image_size=None)
        assert info.image_size == size
        fitted = f"20 of 20 images were fitted into {size} x {size} pixels."
        assert (fitted in info.notes) == (side != size)


def test_duplicates_are_left_out_when_asked(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    labels = np.repeat(np.arange(2), 20)
    write_raw(raw, labels, splits=np.tile(["train"] * 12 + ["test"] * 8, 2))
    with np.load(raw / "x.npz") as file:
        arrays = dict(file)
    images = arrays["images"]
    images[1] = images[0]  # twice in train
    images[12] = images[2]  # in train and in test
    images[23] = images[3]  # in train under two labels
    np.savez(raw / "x.npz", **arrays)
    before, _ = run(raw, "own")
    assert before.counts == {"train": 24, "test": 16}
    info, table = run(raw, "own", deduplicate=True)
    assert info.counts == {"train": 20, "test": 16}, "one copy, one leak, and both of two that contradict each other"
    assert not table["sha256"].duplicated().any()
    assert "4 train and 0 test images that repeat another one were left out." in info.notes
    assert run(raw, "own", deduplicate=True)[0] == info


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": 1, "version": "1", "sha256": "x"}', "[" * 100_000, "\x00"]
)
def test_a_garbled_note_of_the_source_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "source.json").write_text(content)
    with pytest.raises(LekhaniError, match=r"source\.json cannot be read \(.+\); remove it and run") as caught:
        prepare("own", params.Data(source="local", path="x"), params.Prepare(), 7, tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
