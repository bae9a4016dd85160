"""A row of digits of one script becomes the same number in another script, in both directions."""

import json
from pathlib import Path

import light_command
import numpy as np
import pytest
from PIL import Image
from typeface import DEVANAGARI, pen, reader, shape, unconditional

from lekhani.data.spec import MNIST, Bytes
from lekhani.errors import UsageError
from lekhani.handwriting.ink import split_glyphs
from lekhani.handwriting.recognise import UnsureError
from lekhani.handwriting.translate import read_digits, translate, translate_file


def row(text: str, dataset: str = "devanagari", size: int = 80, gap: int = 10) -> Bytes:
    """Glyphs of a typeface beside one another, black on white."""
    parts = [
        np.pad(np.rint(255 * shape(glyph, size, dataset)).astype(np.uint8), ((gap, gap), (gap // 2, gap // 2)))
        for glyph in text
    ]
    return 255 - np.hstack(parts)


@pytest.mark.parametrize("text", ["४", "४२", "५६०००१", "९८७६५४३२१०", "११११"])
def test_devanagari_becomes_mnist_and_comes_back(text: str) -> None:
    done = translate(reader(), row(text), pen("mnist"), 7)
    number = "".join(str("०१२३४५६७८९".index(glyph)) for glyph in text)
    assert (done.read, done.text) == (text, number)
    assert done.images.shape == (len(text), 28, 28)
    assert done.picture.shape == (28, 28 * len(text))
    back = translate(reader("mnist"), done.picture, pen(), 7)
    assert (back.read, back.text) == (number, text)
    assert back.images.shape == (len(text), 32, 32)


def test_strokes_that_do_not_touch_are_one_digit() -> None:
    ink = np.zeros((60, 200), np.float32)
    ink[10:22, 20:50] = ink[28:50, 18:48] = 1  # one above the other
    ink[10:50, 80:90] = ink[12:20, 93:101] = 1  # a small one close by
    ink[10:50, 150:170] = 1
    ink[30, 120] = 1  # dust
    parts = split_glyphs(ink)
    assert [tuple(np.flatnonzero(part.any(0))[[0, -1]]) for part in parts] == [(18, 49), (80, 100), (150, 169)]
    assert sum(parts).sum() == ink.sum() - 1  # type: ignore[union-attr]


@pytest.mark.timeout(20)
def test_thousands_of_dots_are_refused_at_once() -> None:
    ink = np.zeros((1000, 1000), np.float32)
    ink[::4, ::4] = 1
    with pytest.raises(UsageError, match="The image shows 250 rows"):
        split_glyphs(ink)
    ink = np.zeros((1000, 1000), np.float32)
    ink[200:800, 500:510] = ink[::5, ::5] = 1  # a tall stroke, of which each dot may be a part
    assert len(split_glyphs(ink)) == 1


def test_digits_that_overlap_in_columns_stay_apart() -> None:
    ink = np.zeros((60, 100), np.float32)
    for i in range(40):
        ink[50 - i, 10 + i : 16 + i] = ink[50 - i, 26 + i : 32 + i] = 1  # two slanted strokes
    assert len(split_glyphs(ink)) == 2


def test_one_hand_writes_the_number_and_the_seed_decides() -> None:
    first, again, other = (translate(reader(), row("४२"), pen("mnist"), seed).picture for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_digit_that_comes_out_wrong_is_drawn_again() -> None:
    unreliable = pen("mnist", often_blank=tuple(range(10)))
    assert all(translate(reader(), row("४"), unreliable, seed).images.max() > 200 for seed in range(8))
    as_it_comes = [translate(reader(), row("४"), unreliable, seed, 0).images.max() for seed in range(8)]
    assert min(as_it_comes) == 0, "without the judge some are blank"


# --- what cannot be translated ---


def test_pictures_and_models_that_are_refused() -> None:
    with pytest.raises(UsageError, match="shows nothing"):
        translate(reader(), np.full((50, 90), 255, np.uint8), pen("mnist"))
    with pytest.raises(UsageError, match="shows 2 rows of glyphs; cut it to one"):
        translate(reader(), np.vstack([row("४२३"), row("५६७")]), pen("mnist"))
    with pytest.raises(UsageError, match="shows 51 glyphs, and 50 is the most"):
        translate(reader(), row("१" * 51, size=40), pen("mnist"))
    with pytest.raises(UsageError, match="takes no labels"):
        translate(reader(), row("४"), unconditional())
    no_digits = reader()
    no_digits.classes = DEVANAGARI[:5]
    with pytest.raises(UsageError, match="reads no digits"):
        read_digits(no_digits, row("४"))
    few = pen("mnist", judge=False)
    few.generator.classes = MNIST[:3]
    with pytest.raises(UsageError, match="the typeface does not write the digits 4 7"):
        translate(reader(), row("७४२"), few)


def test_a_glyph_that_is_no_digit_is_named_by_its_place() -> None:
    with pytest.raises(UnsureError, match=r"^Glyph 2 of 3 looks like क .*%, which is no digit") as refused:
        translate(reader(), row("४क२"), pen("mnist"))
    done = translate(reader(), row("४क२"), pen("mnist"), force=True)
    assert done.readings == refused.value.readings
    assert (done.read[0], done.read[2], len(done.text)) == ("४", "२", 3)


def test_many_small_spots_are_refused_soon() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((400, 4000), 255, np.uint8)
    picture[rng.integers(0, 400, 3000), rng.integers(0, 4000, 3000)] = 0
    with pytest.raises(UsageError):
        read_digits(reader(), picture)


# --- files ---


def test_a_file_becomes_a_file(tmp_path: Path) -> None:
    Image.fromarray(row("४२")).save(tmp_path / "in.png")
    done = translate_file(reader(), tmp_path / "in.png", pen("mnist"), tmp_path / "new" / "out.png", 7, scale=3)
    with Image.open(tmp_path / "new" / "out.png") as image:
        np.testing.assert_array_equal(np.asarray(image), done.picture.repeat(3, 0).repeat(3, 1))
    value = done.as_dict()
    assert json.loads(json.dumps(value)) == value
    assert (value["read"], value["written"], len(value["digits"])) == ("४२", "42", 2)
    assert str(done).startswith("Read ४२ (")
    assert str(done).endswith(" sure) and wrote 42")


def test_files_in_the_way_and_at_fault(tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 90), 255, np.uint8)).save(tmp_path / "blank.png")
    Image.fromarray(row("४")).save(tmp_path / "in.png")
    (tmp_path / "there.png").write_text("precious")
    for source, out, sentence in (
        ("blank.png", "out.png", r"blank\.png: The image shows nothing"),
        ("missing.png", "out.png", r"missing\.png cannot be read"),
        ("in.png", "out.jpg", r"choose a name that ends in \.png"),
        ("in.png", "there.png", "exists already"),
    ):
        with pytest.raises(UsageError, match=sentence):
            translate_file(reader(), tmp_path / source, pen("mnist"), tmp_path / out)
    assert (tmp_path / "there.png").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.png", "in.png", "there.png"]


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    done = light_command.run(
        tmp_path, "translate", *["in.png", "--to", "mnist", "--out", "out.png", "--reader", "missing.onnx"]
    )
    assert done.returncode == 1
    assert done.stderr.startswith("lekhani: There is no model at missing.onnx")
