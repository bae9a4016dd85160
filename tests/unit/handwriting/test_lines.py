"""Folders hold pictures and transcripts as OCR toolkits read them, and are complete or not there at all."""

import json
import re
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import light_command
import numpy as np
import pytest
from PIL import Image
from typeface import TypefaceGenerator, pen

from lekhani.errors import LekhaniError, UsageError
from lekhani.handwriting.compose import FORMS, Hands, compose_steps
from lekhani.handwriting.lines import Layout, LineRequest, choose_texts, write_lines
from lekhani.handwriting.render import LineStyle
from lekhani.inference.sampling import run_steps
from lekhani.pen import find

ToyGenerator = Callable[..., Path]
GENERATOR: Any = TypefaceGenerator()


# --- texts ---


def test_texts_are_taken_in_turn() -> None:
    assert choose_texts(GENERATOR, [" क  ख ", "ग"], None, None, None, 0) == ["क ख", "ग"]
    assert choose_texts(GENERATOR, ["क", "ग"], None, None, 5, 0) == ["क", "ग", "क", "ग", "क"]


def test_a_text_of_a_pattern_depends_on_its_number_alone() -> None:
    many = choose_texts(GENERATOR, [], "pin_code", None, 20, 7)
    assert choose_texts(GENERATOR, [], "pin_code", None, 5, 7) == many[:5]
    assert len(set(many)) == 20
    assert choose_texts(GENERATOR, [], "pin_code", None, 20, 8) != many
    assert choose_texts(GENERATOR, [], "pin_code", None, None, 7) == many[:1]


def test_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes("\ufeffक ख\r\n\r\n  ग४ \n".encode())
    assert choose_texts(GENERATOR, [], None, file, None, 0) == ["क ख", "ग४"]
    file.write_text("क 4\n\nकिb\nQ\n")
    bad = r"2 lines of .*t\.txt cannot be written\. line 3: .* b in 'किb'.*line 4: .* Q .*`skip_unwritable`"
    with pytest.raises(UsageError, match=bad):
        choose_texts(GENERATOR, [], None, file, None, 0)
    assert choose_texts(GENERATOR, [], None, file, None, 0, skip_unwritable=True) == ["क ४"]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as UTF-8"):
        choose_texts(GENERATOR, [], None, file, None, 0)
    file.write_text("\n \n")
    with pytest.raises(UsageError, match="holds no text"):
        choose_texts(GENERATOR, [], None, file, None, 0)
    with pytest.raises(UsageError, match="cannot be read"):
        choose_texts(GENERATOR, [], None, tmp_path / "missing", None, 0)


# --- folders ---


TEXTS = ("नमक ४२", "घर", "क्ष")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def assert_tesseract(folder: Path) -> list[str]:
    """Check tesstrain's rules: each NAME.png has a NAME.gt.txt of one normalised line, and the other way round."""
    pictures, transcripts = (
        {path.name.removesuffix(end) for path in folder.glob(f"*{end}")} for end in (".png", ".gt.txt")
    )
    assert pictures == transcripts
    texts = []
    for name in sorted(pictures):
        with Image.open(folder / f"{name}.png") as image:
            image.load()
            assert image.format == "PNG"
        (text,) = (folder / f"{name}.gt.txt").read_bytes().decode("utf-8").splitlines()
        assert text.strip() == text
        assert text
        assert unicodedata.is_normalized("NFC", text)
        texts.append(text)
    return texts


def test_tesseract(tmp_path: Path) -> None:
    sentence = write_lines(pen(), LineRequest(TEXTS, 7), tmp_path / "out")
    assert assert_tesseract(tmp_path / "out") == list(TEXTS)
    assert sentence == f"Wrote 3 lines for tesseract to {tmp_path / 'out'} with the typeface, seed 7."
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_paddleocr(tmp_path: Path) -> None:
    write_lines(pen(), LineRequest(TEXTS, 7, layout="paddleocr"), tmp_path / "out")
    rows = [line.split("\t") for line in (tmp_path / "out" / "rec_gt.txt").read_text(encoding="utf-8").splitlines()]
    assert [text for _, text in rows] == list(TEXTS)
    for name, _ in rows:
        Image.open(tmp_path / "out" / name).verify()
    labels = [line.split("\t") for line in (tmp_path / "out" / "Label.txt").read_text(encoding="utf-8").splitlines()]
    assert [name for name, _ in labels] == [name for name, _ in rows]
    glyphs = json.loads(labels[0][1])
    assert [glyph["transcription"] for glyph in glyphs] == list("नमक४२")
    assert np.shape([glyph["points"] for glyph in glyphs]) == (5, 4, 2)
    alphabet = (tmp_path / "out" / "dict.txt").read_text(encoding="utf-8").splitlines()
    assert set("".join(TEXTS)) - {" "} == set(alphabet)


def test_hugging_face_loads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    write_lines(pen(), LineRequest(TEXTS, 7, layout="huggingface"), tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["text"][:] == list(TEXTS)
    assert loaded[0]["image"].size[1] == 64
    assert [sorted(glyph) for glyph in loaded[2]["glyphs"]] == [["h", "text", "w", "x", "y"]]
    assert [glyph["text"] for glyph in loaded[2]["glyphs"]] == ["क्ष"]


def test_tesseracts_boxes_stand_on_the_lower_edge(tmp_path: Path) -> None:
    write_lines(pen(), LineRequest(TEXTS[:1], 7), tmp_path / "out")
    write_lines(pen(), LineRequest(TEXTS[:1], 7, layout="huggingface"), tmp_path / "other")
    content = (tmp_path / "out" / "line_000000.box").read_text(encoding="utf-8")
    rows = [line.rsplit(" ", 5) for line in content.split("\n")]
    assert [row[0] for row in rows] == [*TEXTS[0], "\t", ""], "a tab ends the line"
    places = {text: [int(number) for number in numbers] for text, *numbers in rows[:-1]}
    for glyph in json.loads((tmp_path / "other" / "metadata.jsonl").read_text(encoding="utf-8"))["glyphs"]:
        left, bottom, right, top, page = places[glyph["text"]]
        assert (left, 64 - top, right - left, top - bottom, page) == (*(glyph[key] for key in "xywh"), 0)


def test_the_same_request_gives_the_same_bytes_and_lines_do_not_depend_on_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_lines(pen(), LineRequest(TEXTS, 7), tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    write_lines(pen(), LineRequest(TEXTS[:2], 7), tmp_path / "c")
    assert files(tmp_path / "c")["line_000001.png"] == files(tmp_path / "a")["line_000001.png"]
    assert files(tmp_path / "a")["line_000000.png"] != files(tmp_path / "a")["line_000001.png"]


def test_a_few_hands_write_in_turn_each_with_few_forms_of_a_letter(
    toy_generator: ToyGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, drawn = find("", toy_generator(tmp_path / "g.onnx")), []
    run = writer.generator.run
    monkeypatch.setattr(writer.generator, "run", lambda noise, labels: drawn.extend(labels) or run(noise, labels))
    request = LineRequest(["0120", "2101"] * 15, 7, hands=2, layout="huggingface")
    write_lines(writer, request, tmp_path / "out")
    assert len(drawn) <= 2 * 3 * FORMS, "2 hands, 3 digits"
    table = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8")
    assert [json.loads(row)["hand"] for row in table.splitlines()] == [0, 1] * 15
    pages = files(tmp_path / "out")
    assert len({pages[f"line_{number:06d}.png"] for number in range(30)}) == 30
    *_, last = request.render(writer)
    alone = run_steps(writer.generator, compose_steps(writer, "2101", 7, request.style, 29, hands=Hands(2)))
    assert alone.image.tobytes() == last.image.tobytes(), "whatever was written before"
    with pytest.raises(UsageError, match=r"`hands` 0: 1 to 1,000 people can write"):
        LineRequest(["0"], hands=0)


def test_the_datasheet(tmp_path: Path) -> None:
    writer = pen()
    write_lines(writer, LineRequest(TEXTS, 7, LineStyle(height=32, without=("blur",))), tmp_path / "out")
    sheet = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert (sheet["lines"], sheet["different_texts"], sheet["seed"], sheet["layout"]) == (3, 3, 7, "tesseract")
    assert sheet["model"]["sha256"] == writer.generator.sha256
    assert sheet["judge"] == {"sha256": writer.reader.sha256, "min_confidence": 0.5}  # type: ignore[union-attr]
    assert (sheet["look"]["height"], sheet["look"]["without"]) == (32, ["blur"])
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "3 lines of 3 different texts" in readme
    assert "read every glyph as its label" in readme
    write_lines(pen(judge=False), LineRequest(TEXTS, 7), tmp_path / "bare")
    assert "No judge read the glyphs over" in (tmp_path / "bare" / "README.md").read_text(encoding="utf-8")


def test_what_was_drawn_and_not_learned_is_marked(tmp_path: Path) -> None:
    request = LineRequest(["घर", "नमकि", "घि।", "घर"], 7, layout="huggingface")
    sentence = write_lines(pen(), request, tmp_path / "out")
    assert sentence.endswith("Drawn from a typeface, not learned: ◌ि ।.")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert [row["drawn"] for row in rows] == [[], ["ि"], ["ि", "।"], []]
    assert [[glyph["text"] for glyph in row["glyphs"]] for row in rows[1:3]] == [["न", "म", "कि"], ["घि", "।"]]
    sheet = json.loads((tmp_path / "out" / "dataset.json").read_text("utf-8"))
    assert sheet["drawn"] == {"signs": ["ि", "।"], "lines": 2}
    assert "Drawn from a typeface, not learned: ◌ि ।." in (tmp_path / "out" / "README.md").read_text("utf-8")
    picture = pen().compose("घि।", seed=7)
    assert picture.info == {"text": "घि।", "drawn": ["ि", "।"]}
    with pytest.raises(UsageError, match="cannot write ◌ि"):
        pen().compose("घि।", learned_only=True)
    with pytest.raises(UsageError, match="cannot write ◌ि"):
        choose_texts(GENERATOR, ["घि।"], None, None, None, 0, learned_only=True)


def test_a_single_picture(tmp_path: Path) -> None:
    sentence = write_lines(pen(), LineRequest(["घर"], 7), tmp_path / "new" / "a.png")
    assert sentence.startswith("Wrote 'घर' to ")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.height == 64
    with pytest.raises(UsageError, match=r"b\.png is one picture, and there are 3 lines"):
        write_lines(pen(), LineRequest(TEXTS, 7), tmp_path / "b.png")


def test_an_existing_folder_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_lines(pen(), LineRequest(TEXTS, 7), out)
    before = files(out)
    with pytest.raises(UsageError, match=r"exists already; .* `overwrite`"):
        write_lines(pen(), LineRequest(TEXTS[:1], 7), out)
    assert files(out) == before
    write_lines(pen(), LineRequest(TEXTS[:1], 7), out, overwrite=True)
    assert len(files(out)) == 5
    for name in ("notes.txt", "images/mine.png"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("precious")
        with pytest.raises(UsageError, match=r"is not by `lekhani compose`, and `overwrite` replaces .*; move it away"):
            write_lines(pen(), LineRequest(TEXTS, 7), out, overwrite=True)
        (out / name).unlink()
    ours, theirs = '{"made_by": "lekhani compose", "layout": 5}', '{"made_by": "lekhani prepare"}'
    for content in ("junk", "[]", "[" * 100_000, ours, theirs):
        (out / "dataset.json").write_text(content)
        with pytest.raises(UsageError, match="`lekhani compose` did not write, so it stays"):
            write_lines(pen(), LineRequest(TEXTS, 7), out, overwrite=True)
    assert len(files(out)) == 5


@pytest.mark.parametrize("layout", get_args(Layout))
def test_every_layout_may_be_overwritten(tmp_path: Path, layout: Layout) -> None:
    for texts in (TEXTS, TEXTS[:1]):
        write_lines(pen(), LineRequest(texts, 7, layout=layout), tmp_path / "out", overwrite=True)
    write_lines(pen(), LineRequest(TEXTS[:1], 7, layout=layout), tmp_path / "new")
    assert files(tmp_path / "out") == files(tmp_path / "new")


def test_what_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with pytest.raises(LekhaniError, match=r"Could not write .*out"), full_disk():
        write_lines(pen(), LineRequest(TEXTS, 7), tmp_path / "out")
    with pytest.raises(LekhaniError, match="cannot write Q"):
        write_lines(pen(), LineRequest([*TEXTS, "Q"], 7), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- the command ---


def test_the_command(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    model = str(toy_generator(tmp_path / "g.onnx"))
    words = ["--model", model, "--pattern", "[12]{4}", "--count", "2", "--without", "blur", "--out", "out"]
    done = light_command.run(tmp_path, "compose", *words)
    assert done.returncode == 0, done.stderr
    assert "Wrote 2 lines for tesseract to out" in done.stdout
    assert all(re.fullmatch("[12]{4}", text) for text in assert_tesseract(tmp_path / "out"))
    for wrong, sentence in (
        (["--text", "1x2"], "cannot write x in '1x2'; it writes 0 1 2, punctuation, and spaces."),
        (["--text", "1,2", "--learned-only"], "cannot write , in '1,2'; it writes 0 1 2, and spaces."),
        ([], "Say what to write with one of --text, --pattern and --lines."),
    ):
        done = light_command.run(tmp_path, "compose", "--model", model, "--out", "new", *wrong)
        assert (done.returncode, sentence in done.stderr) == (2, True)
        assert not (tmp_path / "new").exists()
