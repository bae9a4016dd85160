"""A pen by its name, labels as people write them, and glyphs in three lines of Python."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fake_judge import FakeJudge
from PIL import Image

import lekhani
from lekhani import pen as pens
from lekhani.data.spec import DEVANAGARI, MNIST, GlyphClass
from lekhani.errors import LekhaniError, UsageError
from lekhani.files import sha256
from lekhani.inference.labels import label_of, parse_runs
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
from lekhani.inference.session import Generator, Reader
from lekhani.pen import Judge, Pen, find, load, load_judge

ToyGenerator = Callable[..., Path]


@pytest.fixture(scope="module")
def pen(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Pen:
    return Pen(
        Generator(toy_generator(tmp_path_factory.mktemp("c") / "g.onnx"), "cpu"), cast(Reader, FakeJudge()), "the toy"
    )


# --- labels ---


@pytest.mark.parametrize(
    ("wanted", "classes", "runs"),
    [
        (["क=2", "character_2_kha"], DEVANAGARI, [(0, 2), (1, 1)]),
        (["ज्ञ", "digit_9=1", "0=3", "٣=1"], DEVANAGARI, [(35, 1), (45, 1), (36, 3), (39, 1)]),  # digits, not numbers
        (["45", "क=001", "45=1000000"], DEVANAGARI, [(45, 1), (0, 1), (45, 1000000)]),
        (["3"], tuple(GlyphClass(9 - i, f"digit_{i}", str(i)) for i in range(10))[::-1], [(6, 1)]),  # the glyph 3
        (["a=b=2"], [GlyphClass(0, "a=b", "a=b")], [(0, 2)]),
    ],
)
def test_labels_by_glyph_name_and_number(
    wanted: list[str], classes: Sequence[GlyphClass], runs: list[tuple[int, int]]
) -> None:
    assert parse_runs(wanted, classes) == runs


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "", "1000000001", "9" * 5000, "٣", "1e3", " 2"])
def test_a_bad_count(count: str) -> None:
    with pytest.raises(UsageError, match=r"the count after = must be a whole number from 1 to 1,000,000,000") as caught:
        parse_runs([f"क={count}"], DEVANAGARI)
    assert f"`label` क={count}" in str(caught.value)


@pytest.mark.parametrize(
    ("what", "nearest"),
    [("character_2_kah", "character_2_kha"), ("digt_3", "digit_3"), ("zzzz", None), ("46", None), ("-1", None)],
)
def test_an_unknown_class_names_the_nearest_and_the_valid_ones(what: str, nearest: str | None) -> None:
    with pytest.raises(UsageError, match="here: no such class") as caught:
        label_of(what, DEVANAGARI, "here")
    message = str(caught.value)
    assert all(c.glyph in message for c in DEVANAGARI)
    assert "0 to 45" in message
    assert "\n" not in message
    if nearest:
        assert f"did you mean {nearest}?" in message


# --- writing ---


def test_glyphs_come_in_the_order_of_the_labels_whatever_the_shards(pen: Pen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pens, "Plan", lambda runs: Plan(runs, 4))
    glyphs = pen.generate(["2", "0"], n=5, seed=7)
    assert glyphs.labels.tolist() == [label for _, label in glyphs] == [2] * 5 + [0] * 5
    assert (glyphs.images.shape, glyphs.images.dtype, glyphs.labels.dtype) == ((10, 4, 4), np.uint8, np.int64)
    assert np.rint(glyphs.images.mean(axis=(1, 2)) / 255 * 3 - 0.5).tolist() == [2] * 5 + [0] * 5
    plan = Plan(((2, 5), (0, 5)), 4)
    shards = [
        sample_shard(pen.generator, None, plan.labels(number), SamplingOptions(7), number).images for number in range(3)
    ]
    assert {image.tobytes() for image in glyphs.images} == {image.tobytes() for one in shards for image in one}


def test_a_whole_number_is_a_label_and_text_is_a_glyph(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    digits = tuple(GlyphClass(i, f"digit_{9 - i}", str(9 - i)) for i in range(10))
    pen = Pen(Generator(toy_generator(tmp_path / "g.onnx", classes=digits), "cpu"), None, "the toy")
    assert pen.generate([3, "3", np.int64(4)]).labels.tolist() == [3, 6, 4]  # type: ignore[list-item]
    assert pen.generate(3, n=2).labels.tolist() == [3, 3]
    assert pen.generate("3").labels.tolist() == [6]
    for labels in ([10], [-1], [True], [1.5], [None]):
        with pytest.raises(UsageError, match=r"is no label of the toy; .* a whole number from 0 to 9\."):
            pen.generate(labels)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nothing to generate"):
        pen.generate([])
    for n in (0, 2.5, "2", True, 10**10):
        with pytest.raises(UsageError, match="it must be a whole number from 1 to 1,000,000,000"):
            pen.generate([1], n=n)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"1,000,000,000 images are more than 2 GB.* `lekhani generate`"):
        pen.generate([1], n=10**9)
    with pytest.raises(UsageError, match=r"The seed is 0\.5; it must be a whole number"):
        pen.generate([1], seed=0.5)  # type: ignore[arg-type]


def test_glyphs_show_themselves(pen: Pen, tmp_path: Path) -> None:
    glyphs = pen.generate([0, 1, 2], n=2)
    assert repr(glyphs) == "Glyphs(6 images of 4 x 4 pixels)"
    assert repr(pen) == "Pen(the toy, flow_matching, 3 classes)"
    with Image.open(BytesIO(glyphs._repr_png_())) as shown:
        assert shown.size == (2 * (6 * 5 - 1), 8)
    glyphs.save(tmp_path / "g.png", columns=3)
    with Image.open(tmp_path / "g.png") as saved:
        assert saved.size == (3 * 5 - 1, 2 * 5 - 1)


def test_the_package_says_what_there_is() -> None:
    assert {"load", "load_judge", "translate", "Pen", "Glyphs", "UsageError"} <= set(dir(lekhani))
    assert all(getattr(lekhani, name) is not None for name in dir(lekhani))


def test_an_unknown_model_without_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match=r"There is no model 'devnagari': .* did you mean devanagari\?"):
        load("devnagari")
    assert not list(tmp_path.iterdir()), "no store of MLflow is made"


def test_a_number_is_translated_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    load("devanagari").compose("४२", seed=1, height=96, augment="none").save("number.png")
    done = lekhani.translate("number.png", to="mnist", seed=3)
    assert (done.read, done.text) == ("४२", "42")
    done.save("out.png")
    with Image.open("number.png") as number, Image.open("out.png") as out:
        np.testing.assert_array_equal(np.asarray(out), done.picture)
        assert lekhani.translate(number, to="mnist", seed=3).read == "४२"


# --- which model ---


def test_a_model_file_that_takes_labels_needs_no_judge(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    pen = find("whatever", toy_generator(tmp_path / "g.onnx"))
    assert (pen.reader, pen.origin, pen.version) == (None, str(tmp_path / "g.onnx"), None)
    for name in (tmp_path / "g.onnx", str(tmp_path / "g.onnx")):
        assert load(name).generator.sha256 == pen.generator.sha256
    with pytest.raises(LekhaniError, match="There is no model at nowhere/a/g"):
        load("nowhere/a/g")


def test_a_model_file_without_labels_needs_a_judge(
    toy_generator: ToyGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_generator(tmp_path / "g.onnx", conditional=False)
    with pytest.raises(UsageError, match=r"takes no labels, .* name one, such as models/mnist/judge/judge\.onnx"):
        find("whatever", model)
    monkeypatch.setattr(pens, "Reader", lambda _: FakeJudge())
    assert isinstance(load(model, tmp_path / "j.onnx").reader, FakeJudge)
    monkeypatch.setattr(pens, "Reader", lambda _: FakeJudge(MNIST[1:4]))
    with pytest.raises(UsageError, match=r"judge reads other classes"):
        find("whatever", model, tmp_path / "j.onnx")


class FakeRegistry:
    """Replaces registry.models, with versions 3 (challenger) and 4."""

    def __init__(self, generator: Path, judge: Path | None) -> None:
        self.generator, self.judge, self.alias = generator, judge, "challenger"
        self.fetched: list[Any] = []

    def model_name(self, dataset: str) -> str:
        return f"lekhani-{dataset}"

    def aliases(self, dataset: str) -> dict[str, str]:
        return {"challenger": "3"}

    def find(self, dataset: str) -> Any:
        return self.fetch(dataset, "3", self.alias)

    def fetch(self, dataset: str, number: str, alias: str = "") -> Any:
        self.fetched.append((dataset, number, alias))
        return SimpleNamespace(
            name=f"lekhani-{dataset}", version=number, alias=alias, generator=self.generator, judge=self.judge
        )


@pytest.fixture
def registry(toy_generator: ToyGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    stub = FakeRegistry(toy_generator(tmp_path / "g.onnx", conditional=False), tmp_path / "j.onnx")
    monkeypatch.setitem(sys.modules, "lekhani.registry.models", stub)
    monkeypatch.setattr("lekhani.registry.models", stub, raising=False)
    return stub


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    monkeypatch.setattr(pens, "Reader", lambda path: opened.append(path) or FakeJudge())  # type: ignore[func-returns-value]
    return opened


def test_without_a_file_the_model_comes_from_the_registry(
    registry: FakeRegistry, judges: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lekhani"):
        pen = find("mnist")
        assert "no champion yet; writing with its challenger, version 3" in caplog.text
        caplog.clear()
        registry.alias = "champion"
        load("mnist", tmp_path / "mine.onnx")
        assert caplog.text == ""
    assert registry.fetched == [("mnist", "3", "challenger"), ("mnist", "3", "champion")]
    assert (pen.origin, pen.version) == ("lekhani-mnist version 3", "lekhani-mnist:3")
    assert judges == [tmp_path / "j.onnx", tmp_path / "mine.onnx"], "a judge that the user names goes first"


def test_by_alias_and_by_version(registry: FakeRegistry, judges: list[Path]) -> None:
    lekhani.load("mnist@challenger")
    load("lekhani-mnist:4")
    assert registry.fetched == [("mnist", "3", "challenger"), ("mnist", "4", "")]
    with pytest.raises(UsageError, match="lekhani-mnist has no alias 'best'; it has challenger"):
        load("mnist@best")
    for name in ("mnist:", "mnist:x", "a@b:3", "@champion", ""):
        with pytest.raises(UsageError, match="names no model"):
            load(name)


def test_what_comes_with_the_package_gives_way_to_what_is_registered(
    registry: FakeRegistry,
    judges: list[Path],
    toy_generator: ToyGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(pens, "PRETRAINED", tmp_path)
    toy_generator(tmp_path / "mnist" / "generator.onnx")
    assert (load("mnist").origin, load("mnist").version) == ("the pretrained model of mnist", None)
    load_judge("mnist")
    assert set(judges) == {tmp_path / "mnist" / "judge.onnx"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    assert load("mnist@challenger").version == "lekhani-mnist:3", "an alias asks for a registered one"
    assert load("mnist").version == "lekhani-mnist:3"
    toy_generator(tmp_path / "mnist" / "toy.onnx")
    assert load("mnist@toy").origin == "the pretrained toy of mnist"
    monkeypatch.setattr(registry, "aliases", lambda _: {})
    assert load("mnist").version is None


@pytest.mark.parametrize("folder", sorted(pens.PRETRAINED.iterdir()), ids=lambda folder: folder.name)
def test_the_pretrained_models_write_what_their_judges_read(folder: Path) -> None:
    models, reader = set(folder.glob("*.onnx")), Reader(folder / "judge.onnx")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    for path in models - {folder / "judge.onnx"}:
        pen = Pen(Generator(path, "cpu"), reader, path.name)
        glyphs = pen.generate(range(len(pen.classes)), n=2, seed=3)
        agreement = (reader.read(glyphs.images)[1].argmax(1) == glyphs.labels).mean()
        assert agreement > card[path.name]["figures"]["label_agreement"] - 0.1
    assert card["sha256"] == {path.name: sha256(path) for path in models}


def test_a_judge_by_name(registry: FakeRegistry, judges: list[Path], tmp_path: Path) -> None:
    assert load_judge("mnist").classes == MNIST[:3]
    load_judge(tmp_path / "other.onnx")
    assert judges == [tmp_path / "j.onnx", tmp_path / "other.onnx"]
    registry.judge = None
    with pytest.raises(LekhaniError, match="lekhani-mnist version 3 was registered without its judge"):
        load_judge("mnist")


def test_a_judge_reads_files_pictures_and_arrays_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lekhani.handwriting.recognise.recognise", lambda _, pictures, top, force: [(pictures[0], top)])
    grey = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    picture, file = Image.fromarray(grey), tmp_path / "a.png"
    picture.save(file)
    for image in (grey, picture, picture.convert("RGB"), file, str(file)):
        seen: Any = Judge(cast(Reader, FakeJudge())).recognise(image, top=5)
        np.testing.assert_array_equal(seen[0], grey)
        assert seen[1] == 5
