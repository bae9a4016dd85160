"""The folder of the static edition: small weights that write and read as before, the font, and what is refused."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import uharfbuzz as hb
from toy_judge import toy_judge

from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.session import Generator, Reader
from lekhani.pen import PRETRAINED, Found
from lekhani.pictures import to_uint8
from lekhani.serve import assets, static_studio
from lekhani.serve.small_weights import with_small_weights
from lekhani.typefaces import SANS, face

ToyGenerator = Callable[..., Path]


@pytest.fixture
def page_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, with something that takes the place of ONNX Runtime."""
    copy = tmp_path / "page_files"
    shutil.copytree(assets.FILES, copy, ignore=shutil.ignore_patterns("ort"))
    (copy / "ort").mkdir()
    for name in static_studio.RUNTIME:
        (copy / "ort" / name).write_bytes(b"runtime")
    monkeypatch.setattr(static_studio, "FILES", copy)
    monkeypatch.chdir(tmp_path)  # where nothing is registered
    return copy


@pytest.mark.parametrize(("dataset", "file"), [("devanagari", "drifting"), ("mnist", "generator")])
def test_small_weights_write_and_read_as_before(dataset: str, file: str, tmp_path: Path) -> None:
    paths = {name: PRETRAINED / dataset / f"{name}.onnx" for name in (file, "judge")}
    for name, path in paths.items():
        onnx.save(with_small_weights(onnx.load(path)), tmp_path / path.name)
        assert (tmp_path / path.name).stat().st_size < 0.3 * path.stat().st_size, name
    generator, small = Generator(paths[file]), Generator(tmp_path / f"{file}.onnx")
    assert small.lineage == generator.lineage
    rng, classes = np.random.default_rng(0), len(generator.classes)
    labels = np.tile(np.arange(classes), 400 // classes)
    noise = rng.standard_normal((len(labels), generator.noise_dim), dtype=np.float32)
    before, after = generator.run(noise, labels), small.run(noise, labels)
    assert np.abs(before - after).mean() < 0.003
    judge, small_judge = Reader(paths["judge"]), Reader(tmp_path / "judge.onnx")
    read = [one.read(to_uint8(images))[1].argmax(1) for one in (judge, small_judge) for images in (before, after)]
    assert all((one == read[0]).mean() > 0.99 for one in read)


def test_a_folder_for_a_static_host(page_files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "with devanagari and mnist to" in static_studio.build(out)
    models = json.loads((out / "page" / "models.json").read_text(encoding="utf-8"))
    assert [(one["dataset"], one["variant"], one["licence"].split(",")[0]) for one in models] == [
        ("devanagari", "drifting", "CC BY 4.0"),
        ("mnist", "drifting", "CC BY-SA 3.0"),
    ]
    assert all((out / "page" / one[kind]).is_file() for one in models for kind in ("generator", "judge"))
    index = (out / "index.html").read_text(encoding="utf-8")
    assert 'data-edition="static"' in index
    assert "script-src 'self' 'wasm-unsafe-eval'" in index
    assert "unsafe-inline" not in index
    assert {path.name for path in (out / "page" / "licences").iterdir()} == {
        "noto_sans_devanagari.txt",
        "onnxruntime.txt",
        "onnxruntime_third_party.txt",
    }
    with pytest.raises(UsageError, match=r"exists already; choose another folder or pass `overwrite`\."):
        static_studio.build(out)
    (out / "left_over").touch()
    static_studio.build(out, ["mnist"], overwrite=True)
    assert not (out / "left_over").exists()
    assert [path.name for path in (out / "page" / "models").iterdir()] == ["mnist"]
    # What it did not write stays.
    (out / "page" / "models.json").unlink()
    with pytest.raises(UsageError, match="did not write it, so it stays"):
        static_studio.build(out, overwrite=True)
    with pytest.raises(UsageError, match="There is no model 'nepali'"):
        static_studio.build(tmp_path / "other", ["nepali"])
    (page_files / "ort" / static_studio.RUNTIME[1]).unlink()
    with pytest.raises(LekhaniError, match="run `make studio` in the source folder"):
        static_studio.build(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("steps", "takes"), [(0, "champion"), (4, "champion"), (8, "shipped")])
def test_a_champion_goes_first_where_it_is_fast(
    steps: int,
    takes: str,
    page_files: Path,
    tmp_path: Path,
    toy_generator: ToyGenerator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = toy_generator(tmp_path / "g.onnx", metadata={"dataset": "mnist", "variant": "toy"})
    judge = toy_judge(tmp_path / "j.onnx")
    model = onnx.load(path)
    for i in range(steps + 1 if steps else 0):  # values that are named as states are
        model.graph.node.append(onnx.helper.make_node("Identity", ["noise"], [f"state_{i}"]))
    onnx.save(model, path)
    champion = Found(path, judge, "lekhani-mnist version 3", "lekhani-mnist:3")
    monkeypatch.setattr(static_studio, "look_up", lambda _: champion)
    monkeypatch.setattr(static_studio, "describe_model", lambda _: {"lineage": {"data": {"licence": "CC0"}}})
    static_studio.build(tmp_path / "out", ["mnist"])
    (written,) = json.loads((tmp_path / "out" / "page" / "models.json").read_text(encoding="utf-8"))
    expected = ("3", "toy", "CC0") if takes == "champion" else ("", "drifting", "CC BY-SA 3.0, as the data")
    assert (written["version"], written["variant"], written["licence"]) == expected


def shaped(font: "hb.Face", text: str, language: str) -> list[int]:
    """How far each glyph of a text goes."""
    buffer = hb.Buffer()
    buffer.add_str(text)
    buffer.direction, buffer.script, buffer.language = "ltr", "Deva", language
    hb.shape(hb.Font(font), buffer)
    return [place.x_advance for place in buffer.glyph_positions]


def test_the_font_has_devanagari_alone_and_joins_it_as_before() -> None:
    whole, woff = face(SANS), assets.web_font()
    assert len(woff) < 130_000
    fonttools = pytest.importorskip("fontTools.ttLib")
    plain = fonttools.TTFont(BytesIO(woff))
    plain.flavor = None
    content = BytesIO()
    plain.save(content)
    part = hb.Face(content.getvalue())
    for text in ("क्षत्रिय", "र्कि", "ट्रंक", "द्ध्र", "श्री", "झ५८", "\u00a0ी"):
        for language in ("hi", "ne", "mr"):
            assert shaped(part, text, language) == shaped(whole, text, language), (text, language)
    assert "A" not in map(chr, plain.getBestCmap())
