"""What is asked for is what is written, whole or not at all; what cannot be had is one sentence."""

import csv
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from lekhani.data.spec import DEVANAGARI, MNIST, Bytes, GlyphClass
from lekhani.errors import LekhaniError, UsageError
from lekhani.serve import write
from lekhani.serve.session import Generator, Reader
from lekhani.serve.write import Pen, draw, find, parse_labels, write_folder

ToyGenerator = Callable[..., Path]


class Eyes:
    """Stands in for the judge: reads an image's class off its mean brightness, but never sees what it is `blind` to."""

    def __init__(self, classes: tuple[GlyphClass, ...] = MNIST[:3], blind: tuple[int, ...] = ()) -> None:
        self.classes, self.blind, self.calls = classes, blind, 0

    def read(self, images: Bytes) -> tuple[Any, Any]:
        self.calls += 1
        label = np.clip(images.mean(axis=(1, 2)) / 256 * 3, 0, 2).astype(int)
        for one in self.blind:
            label[label == one] = 0
        return np.zeros((len(images), 128), np.float32), np.eye(3, dtype=np.float32)[label]


@pytest.fixture(scope="module")
def conditional(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Pen:
    return Pen(Generator(toy_generator(tmp_path_factory.mktemp("c") / "g.onnx"), "cpu"), None, "the toy")


@pytest.fixture(scope="module")
def plain(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(toy_generator(tmp_path_factory.mktemp("u") / "g.onnx", conditional=False), "cpu")


def with_eyes(generator: Generator, **choices: Any) -> Pen:
    return Pen(generator, cast(Reader, Eyes(**choices)), "the toy")


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# --- labels ---


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        (["क=2"], [0, 0]),
        (["character_2_kha"], [1]),
        (["ज्ञ", "digit_9=1", "0=3"], [35, 45, 0, 0, 0]),
        (["०=1"], [36]),
        (["45"], [45]),
        (["क=001"], [0]),
    ],
)
def test_labels_by_glyph_name_and_number(wanted: list[str], labels: list[int]) -> None:
    got = parse_labels(wanted, DEVANAGARI)
    assert got.tolist() == labels
    assert got.dtype == np.int64


def test_a_glyph_goes_before_a_number() -> None:
    digits = tuple(GlyphClass(9 - i, f"digit_{i}", str(i)) for i in range(10))[::-1]
    assert parse_labels(["3"], digits).tolist() == [6]


def test_a_class_may_hold_an_equals_sign() -> None:
    assert parse_labels(["a=b=2"], [GlyphClass(0, "a=b", "a=b")]).tolist() == [0, 0]


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "", "many", "1000001", "٣", "²", "1e3", " 2", "+2"])
def test_a_bad_count(count: str) -> None:
    with pytest.raises(UsageError, match=r"the count after = must be a whole number from 1 to 1,000,000") as caught:
        parse_labels([f"क={count}"], DEVANAGARI)
    assert f"--label क={count}" in str(caught.value)


@pytest.mark.parametrize(
    ("what", "nearest"), [("character_2_kah", "character_2_kha"), ("digt_3", "digit_3"), ("zzzz", None), ("46", None), ("-1", None)]
)
def test_an_unknown_class_names_the_nearest_and_the_valid_ones(what: str, nearest: str | None) -> None:
    with pytest.raises(UsageError, match="no such class") as caught:
        parse_labels([f"{what}=2"], DEVANAGARI)
    message = str(caught.value)
    assert what in message
    assert all(c.glyph in message for c in DEVANAGARI)
    assert "0 to 45" in message
    assert "\n" not in message
    if nearest:
        assert f"did you mean {nearest}?" in message


def test_an_absurd_count() -> None:
    with pytest.raises(UsageError, match="the count after ="):
        parse_labels(["क=" + "9" * 5000], DEVANAGARI)


# --- drawing ---


def test_a_conditional_generator_is_told_its_labels(conditional: Pen) -> None:
    labels = np.array([2, 0, 1, 0], np.int64)
    images = draw(conditional, labels, seed=1)
    assert np.rint(images.mean(axis=(1, 2)) / 255 * 3 - 0.5).tolist() == labels.tolist()
    np.testing.assert_array_equal(draw(conditional, labels, seed=1), images)
    assert not np.array_equal(draw(conditional, labels, seed=2), images)


def test_an_unconditional_generator_is_filtered_by_the_judge(plain: Generator) -> None:
    labels = np.array([2] * 70 + [0, 1, 2, 0] + [1] * 300, np.int64)
    pen = with_eyes(plain)
    images = draw(pen, labels, seed=1)
    assert images.shape == (374, 4, 4)
    assert Eyes().read(images)[1].argmax(1).tolist() == labels.tolist()
    assert len({image.tobytes() for image in images}) > 360, "the same image is not handed out twice"
    np.testing.assert_array_equal(draw(with_eyes(plain), labels, seed=1), images)
    assert not np.array_equal(draw(with_eyes(plain), labels, seed=2), images)


def test_drawing_stops_when_all_is_there(plain: Generator) -> None:
    pen = with_eyes(plain)
    draw(pen, np.array([1], np.int64), seed=1)
    assert cast(Eyes, pen.reader).calls == 1


def test_a_class_that_never_comes_is_named(plain: Generator) -> None:
    pen = with_eyes(plain, blind=(2,))
    with pytest.raises(LekhaniError, match="the toy wrote nothing that the judge reads as 2 in 768 tries") as caught:
        draw(pen, np.array([0, 1, 2], np.int64), seed=1, patience=3)
    assert "conditional model" in str(caught.value)


def test_patience_starts_anew_with_every_gain(plain: Generator) -> None:
    pen = with_eyes(plain)
    eyes = cast(Eyes, pen.reader)
    read = eyes.read

    def late(images: Bytes) -> tuple[Any, Any]:
        features, logits = read(images)
        return (features, logits) if eyes.calls % 3 == 0 else (features, np.eye(3, dtype=np.float32)[np.zeros(len(images), int)])

    eyes.read = late  # type: ignore[method-assign]
    images = draw(pen, np.array([2] * 300, np.int64), seed=1, patience=3)
    assert len(images) == 300
    assert eyes.calls > 9


# --- folders ---


def test_a_folder_of_pngs_with_their_labels(conditional: Pen, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    said = write_folder(conditional, ["2=2", "0"], 7, out)
    rows = list(csv.DictReader((out / "labels.csv").open(encoding="utf-8", newline="")))
    assert [(row["label"], row["name"], row["glyph"]) for row in rows] == [("2", "2", "2"), ("2", "2", "2"), ("0", "0", "0")]
    assert everything(out) == sorted(["labels.csv", *(row["file"] for row in rows)])
    images = draw(conditional, np.array([2, 2, 0], np.int64), 7)
    for row, image in zip(rows, images, strict=True):
        with Image.open(out / row["file"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)
    assert "3 images of 2 classes" in said
    assert "seed 7" in said
    assert everything(tmp_path / "new") == ["out", *(f"out/{name}" for name in everything(out))]


def test_the_same_seed_writes_the_same_bytes(conditional: Pen, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_folder(conditional, ["1=3"], 7, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_existing_folder_is_left_alone_unless_told_otherwise(conditional: Pen, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"out exists already; .* --overwrite"):
        write_folder(conditional, ["1"], 7, tmp_path / "out")
    with pytest.raises(UsageError, match=r"out holds no labels\.csv, so it is none of ours"):
        write_folder(conditional, ["1"], 7, tmp_path / "out", overwrite=True)
    assert everything(tmp_path) == ["out", "out/mine.txt"]
    write_folder(conditional, ["1", "2"], 7, tmp_path / "own")
    write_folder(conditional, ["1"], 7, tmp_path / "own", overwrite=True)
    assert everything(tmp_path / "own") == ["000000_1.png", "labels.csv"]


def test_a_wrong_label_leaves_the_old_folder_alone(conditional: Pen, tmp_path: Path) -> None:
    write_folder(conditional, ["1"], 7, tmp_path / "out")
    before = everything(tmp_path)
    with pytest.raises(UsageError):
        write_folder(conditional, ["1", "nope"], 7, tmp_path / "out", overwrite=True)
    assert everything(tmp_path) == before


def test_a_full_disk_leaves_nothing(conditional: Pen, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    with pytest.raises(LekhaniError, match=r"Could not write .*; free space"), full_disk():
        write_folder(conditional, ["1=3"], 7, tmp_path / "out")
    assert everything(tmp_path) == []


def test_a_disk_that_fills_up_on_the_way_keeps_the_old_folder(conditional: Pen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(conditional, ["1"], 7, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    save, calls = write.save_png, [0]

    def second_fails(picture: Bytes, path: Path) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(28, "No space left on device")
        save(picture, path)

    monkeypatch.setattr(write, "save_png", second_fails)
    with pytest.raises(LekhaniError, match="No space left"):
        write_folder(conditional, ["2=3"], 7, tmp_path / "out", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_class_name_leads_out_of_the_folder(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    evil = (GlyphClass(0, "x/../../../evil", "क"),)
    pen = Pen(Generator(toy_generator(tmp_path / "models" / "g.onnx", classes=evil), "cpu"), None, "the toy")
    write_folder(pen, ["क"], 7, tmp_path / "deep" / "out")
    assert [name for name in everything(tmp_path) if "evil" in name and not name.startswith("deep/out/")] == []
    assert len([name for name in everything(tmp_path / "deep" / "out") if name.endswith(".png") and "/" not in name]) == 1


@pytest.mark.parametrize("out", [".", ".."])
def test_overwriting_the_folder_one_stands_in_is_refused(conditional: Pen, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "precious").write_text("x")
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(LekhaniError):
        write_folder(conditional, ["1"], 7, Path(out), overwrite=True)
    assert everything(tmp_path) == ["a", "a/b", "a/precious"]


# --- which generator ---


def test_a_model_file_that_takes_labels_needs_no_judge(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    pen = find("whatever", toy_generator(tmp_path / "g.onnx"))
    assert pen.reader is None
    assert pen.origin == str(tmp_path / "g.onnx")


def test_a_model_file_without_labels_needs_a_judge(toy_generator: ToyGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_generator(tmp_path / "g.onnx", conditional=False)
    with pytest.raises(UsageError, match=r"takes no labels, .* pass --judge models/mnist/judge/judge\.onnx"):
        find("whatever", model)
    monkeypatch.setattr(write, "Reader", lambda _: Eyes())
    assert isinstance(find("whatever", model, tmp_path / "j.onnx").reader, Eyes)
    monkeypatch.setattr(write, "Reader", lambda _: Eyes(MNIST[1:4]))
    with pytest.raises(UsageError, match=r"j\.onnx reads other classes"):
        find("whatever", model, tmp_path / "j.onnx")


def test_without_a_file_the_registry_is_asked(
    toy_generator: ToyGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = SimpleNamespace(name="lekhani-mnist", version="3", alias="challenger", generator=toy_generator(tmp_path / "g.onnx", conditional=False))
    known.judge = tmp_path / "j.onnx"
    asked: list[str] = []

    def registered(dataset: str) -> Any:
        asked.append(dataset)
        return known

    stub = SimpleNamespace(find=registered)
    monkeypatch.setitem(sys.modules, "lekhani.registry.models", stub)
    monkeypatch.setattr("lekhani.registry.models", stub, raising=False)
    judges: list[Path] = []
    monkeypatch.setattr(write, "Reader", lambda path: judges.append(path) or Eyes())  # type: ignore[func-returns-value]
    with caplog.at_level(logging.WARNING, "lekhani"):
        pen = find("mnist")
        assert "no champion yet; writing with its challenger, version 3" in caplog.text
        caplog.clear()
        known.alias = "champion"
        find("mnist", judge=tmp_path / "mine.onnx")
        assert caplog.text == ""
    assert asked == ["mnist", "mnist"]
    assert pen.origin == "lekhani-mnist version 3"
    assert judges == [tmp_path / "j.onnx", tmp_path / "mine.onnx"], "a judge that the user names goes first"
