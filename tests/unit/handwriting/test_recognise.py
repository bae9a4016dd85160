"""The judge reads glyphs in photos, scans and drawings; a picture that shows none is an error that names it."""

import io
import json
import os
from pathlib import Path
from typing import Any

import light_command
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from toy_judge import toy_judge
from typeface import DEVANAGARI, reader, shape

from lekhani.data.images import decode_one
from lekhani.data.spec import Bytes
from lekhani.errors import UsageError
from lekhani.handwriting.ink import PictureError, frame_ink, frame_picture
from lekhani.handwriting.recognise import (
    SIDE,
    UnsureError,
    load_picture,
    read_files,
    recognise,
    table,
)
from lekhani.pen import PRETRAINED, load_judge

READER = reader()


def photo(
    glyph: str, seed: int, *, light_on_dark: bool = False, quality: int = 70, dataset: str = "devanagari"
) -> bytes:
    """A glyph somewhere on paper, a little turned, in uneven light, with grain, as JPEG."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(90, 300))
    ink = np.asarray(Image.fromarray(shape(glyph, 32, dataset)).resize((side, side), Image.Resampling.BICUBIC))
    height, width = (int(side * rng.uniform(1.2, 2)) for _ in range(2))
    page = np.zeros((height, width), np.float32)
    top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
    page[top : top + side, left : left + side] = np.clip(ink, 0, 1)
    page = np.asarray(Image.fromarray(page).rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR))
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    paper = rng.uniform(160, 220) + rng.uniform(-30, 30) * across + rng.uniform(-30, 30) * down
    picture = paper * (1 - page) + rng.uniform(30, 80) * page
    picture = np.clip((255 - picture if light_on_dark else picture) + rng.normal(0, 3, picture.shape), 0, 255)
    colour = np.stack([picture, picture * 0.95, picture * 0.85], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def glyph_of(picture: Bytes) -> str:
    return recognise(READER, [picture])[0].best.glyph


def scan(glyph: str, size: int = 32) -> Bytes:
    return np.rint(255 * shape(glyph, size, "devanagari")).astype(np.uint8)


# --- what is read ---


@pytest.mark.parametrize("glyph", [c.glyph for c in DEVANAGARI])
def test_images_of_the_dataset_are_read_in_either_polarity(glyph: str) -> None:
    picture = scan(glyph)
    np.testing.assert_array_equal(frame_picture(picture, READER), picture)
    np.testing.assert_array_equal(frame_picture(255 - picture, READER), picture)
    assert glyph_of(picture) == glyph_of(255 - picture) == glyph


@pytest.mark.parametrize("light_on_dark", [False, True])
def test_photos(light_on_dark: bool) -> None:
    wrong = [
        known.glyph
        for seed, known in enumerate(DEVANAGARI)
        if glyph_of(decode_one("", "a.jpg", photo(known.glyph, seed, light_on_dark=light_on_dark), SIDE)) != known.glyph
    ]
    assert wrong == []


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([c.glyph for c in DEVANAGARI]),
    st.integers(40, 300),
    st.tuples(*[st.integers(2, 200)] * 4),
    st.booleans(),
)
def test_size_and_place_do_not_matter(glyph: str, size: int, margins: tuple[int, int, int, int], dark: bool) -> None:
    picture = np.pad(scan(glyph, size), (margins[:2], margins[2:]))
    assert glyph_of(255 - picture if dark else picture) == glyph


def test_dust_does_not_widen_the_frame() -> None:
    picture = 255 - np.pad(scan("क", 100), 40)
    clean = frame_picture(picture, READER)
    dusty = picture.copy()
    dusty[3:5, 3:5] = dusty[-6:-4, -9:-7] = 0
    assert np.abs(frame_picture(dusty, READER).astype(int) - clean).mean() < 2


def test_a_thin_pen_still_writes_bright_strokes() -> None:
    """A stroke one pixel wide in a large picture would fade to grey in 32 pixels."""
    picture = np.full((400, 400), 250, np.uint8)
    picture[60:340, 199:202] = picture[199:202, 60:340] = 30
    assert frame_picture(picture, READER).max() > 200


def test_the_frame_has_the_datasets_proportions() -> None:
    ink = np.zeros((90, 60), np.float32)
    ink[5:85, 10:50] = 1
    rows = np.flatnonzero((frame_ink(ink, READER) > 127).any(1))
    assert (rows[0], rows[-1]) == (2, 29), "28 of 32 pixels, as in DHCD"
    heavy_top = np.zeros((90, 60), np.float32)
    heavy_top[5:85, 25:35] = heavy_top[5:25, 20:40] = 1
    square = frame_ink(heavy_top, reader("mnist")).astype(float)
    assert np.ptp(np.flatnonzero((square > 127).any(1))) + 1 == 20
    middle = (square.sum(1) @ np.arange(28)) / square.sum()
    assert middle == pytest.approx(13.5, abs=1), "MNIST's digits are centred by mass"


def test_guesses_are_ordered_and_add_up() -> None:
    (reading,) = recognise(READER, [scan("घ")], top=3)
    guesses = [reading.best, *reading.alternatives]
    assert len(guesses) == 3
    assert guesses == sorted(guesses, key=lambda guess: -guess.confidence)
    assert 0.3 < guesses[0].confidence <= 1
    assert guesses[0].name == DEVANAGARI[guesses[0].label].name
    everything = recognise(READER, [scan("घ")], top=1000)[0]
    assert sum(guess.confidence for guess in [everything.best, *everything.alternatives]) == pytest.approx(1, abs=0.01)


# --- ruled and turned paper ---


def ruled(picture: Bytes, rows: Any, columns: Any = (), shade: int = 90, degrees: float = 0) -> Bytes:
    """A dark glyph on paper with rules 2 pixels thick at these rows and columns, all turned around its middle."""
    paper = picture.copy()
    for place in rows:
        paper[place : place + 2] = np.minimum(paper[place : place + 2], shade)
    for place in columns:
        paper[:, place : place + 2] = np.minimum(paper[:, place : place + 2], shade)
    cut = len(paper) // 5 if degrees else 0  # so that rules reach the borders
    turned = np.asarray(Image.fromarray(paper).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255))
    return turned[cut : len(paper) - cut, cut : len(paper) - cut]


@pytest.mark.parametrize(
    ("rows", "columns", "shade", "degrees"),
    [
        (range(20, 360, 60), (), 90, 0),
        (range(20, 360, 60), (), 0, 0),  # as dark as the pen, yet thinner
        (range(0, 360, 36), range(0, 360, 36), 120, 0),  # squares that begin at the border
        ((150,), (), 90, 0),  # one, through the middle
        (range(20, 360, 60), (), 90, 10),
        (range(20, 360, 60), (), 90, -20),
    ],
)
def test_rules_are_taken_out(rows: Any, columns: Any, shade: int, degrees: float) -> None:
    for glyph in ("क", "म", "४", "०"):
        picture = 255 - np.pad(scan(glyph, 160), 100)
        drawn = ruled(picture, rows, columns, shade, degrees)
        assert glyph_of(drawn) == glyph
        if not degrees:  # and nothing of the glyph with them
            framed = [frame_picture(one, READER).astype(float) for one in (picture, drawn)]
            assert np.corrcoef(framed[0].ravel(), framed[1].ravel())[0, 1] > 0.9


def test_a_head_line_in_a_picture_that_is_cut_to_it_is_no_rule() -> None:
    picture = scan("म", 160)
    rows, columns = (np.flatnonzero(picture.max(axis) > 99) for axis in (1, 0))
    cut = 255 - picture[rows[0] - 5 : rows[-1] + 6, columns[0] : columns[-1] + 1]
    np.testing.assert_allclose(frame_picture(cut, READER), scan("म"), atol=110)
    assert glyph_of(cut) == "म"


@pytest.mark.parametrize("degrees", [-25, -10, 20])
def test_turned_glyphs_are_turned_back(degrees: int) -> None:
    for glyph in ("क", "म", "५", "६", "९"):
        picture = Image.fromarray(np.pad(scan(glyph, 160), 60)).rotate(degrees, Image.Resampling.BICUBIC)
        assert glyph_of(255 - np.asarray(picture)) == glyph


# --- what cannot be read ---


def star(side: int = 160) -> Bytes:
    """A drawing that is no letter."""
    picture = Image.new("L", (side + 80, side + 80), 255)
    turns = 4 * np.pi * np.arange(6) / 5
    middle, reach = side / 2 + 40, side / 2
    ends = [
        (float(middle + reach * x), float(middle - reach * y))
        for x, y in zip(np.sin(turns), np.cos(turns), strict=True)
    ]
    ImageDraw.Draw(picture).line(ends, 0, 9)
    return np.asarray(picture)


def beside(*glyphs: str, joined: bool = False) -> Bytes:
    row = np.hstack([np.pad(scan(glyph, 120), ((30, 30), (5, 5))) for glyph in glyphs])
    if joined:
        rows = np.flatnonzero(row.max(1) > 99)
        row[rows[0] : rows[0] + 10, 20:-20] = 255
    return 255 - np.pad(row, ((0, 0), (40, 40)))


@pytest.mark.parametrize(
    ("picture", "sentence", "reason", "parts"),
    [
        (beside("४", "२", "३"), "about 3 glyphs, not one", "several", "४२३"),
        (beside("म", "न"), "about 2 glyphs, not one", "several", "मन"),
        (beside("क", "म", "ल", joined=True), "glyphs, not one", "several", ""),
        (np.vstack([beside("४"), beside("२")]), "2 rows of glyphs", "rows", ""),
        (star(), "no glyph of devanagari for sure", "unsure", ""),
    ],
)
def test_what_shows_no_single_glyph_is_refused_unless_forced(
    picture: Bytes, sentence: str, reason: str, parts: str
) -> None:
    with pytest.raises(PictureError, match=sentence) as refused:
        recognise(READER, [picture])
    assert refused.value.reason == reason
    if parts:
        assert isinstance(refused.value, UnsureError)
        assert refused.value.glyphs == len(parts)
        assert "".join(part.best.glyph for part in refused.value.parts) == parts
    forced = recognise(READER, [picture], force=True)
    if isinstance(refused.value, UnsureError):
        assert list(refused.value.readings) == forced
    assert forced[0].best.glyph in {c.glyph for c in DEVANAGARI}


def png(picture: Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "empty.png": (b"", "is empty"),
    "junk.png": (b"junk", "none of the accepted formats"),
    "cut.png": (png(scan("क"))[:60], "cannot be read"),
    "white.png": (png(np.full((60, 50), 255, np.uint8)), "shows nothing"),
    "black.png": (png(np.zeros((32, 32), np.uint8)), "shows nothing"),
    "grain.png": (png(np.random.default_rng(0).integers(200, 206, (90, 90), dtype=np.uint8)), "shows nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_names_the_bad_image(tmp_path: Path, name: str) -> None:
    content, sentence = BAD[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.png").write_bytes(png(scan("क")))
    bad, good = read_files(READER, [tmp_path / name, tmp_path / "good.png"])
    assert isinstance(bad, UsageError)
    assert name in str(bad)
    assert sentence in str(bad)
    assert not isinstance(good, UsageError), "the others are still read"
    assert good.best.glyph == "क"


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UsageError, match="more than 64 MB"):
        load_picture(tmp_path / "huge.png")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([1, 30, 255]))
def test_any_picture_is_framed_or_refused(height: int, width: int, seed: int, depth: int) -> None:
    picture = np.random.default_rng(seed).integers(0, depth + 1, (height, width)).astype(np.uint8)
    try:
        made = frame_picture(picture, READER)
    except UsageError:
        return
    assert made.shape == (32, 32)
    assert made.dtype == np.uint8


def test_the_judge_of_the_package_refuses_noise() -> None:
    judge = load_judge(PRETRAINED / "devanagari" / "judge.onnx")
    for seed in range(3):
        with pytest.raises(UsageError, match=r"for sure|rows of glyphs|not one"):
            judge.recognise(np.random.default_rng(seed).integers(0, 255, (90, 120), dtype=np.uint8))


# --- the command ---


def test_the_command_reads_on_after_a_bad_image(tmp_path: Path) -> None:
    toy_judge(tmp_path / "judge.onnx", size=28)
    # The toy judge reads brightness: a small square is its class 0.
    (tmp_path / "0.png").write_bytes(png(np.pad(np.full((60, 60), 250, np.uint8), 20)))
    (tmp_path / "blank.png").write_bytes(BAD["white.png"][0])
    (tmp_path / "three.png").write_bytes(png(beside("४", "२", "३")))
    command = ["recognise", "--judge", "judge.onnx", "--json", "blank.png", "three.png", "0.png"]
    done = light_command.run(tmp_path, *command)
    assert done.returncode == 2
    blank_error, three_error = done.stderr.splitlines()
    assert blank_error == "lekhani: blank.png: The image shows nothing: ink and paper hardly differ."
    assert three_error.startswith("lekhani: three.png: The image shows about 3 glyphs, not one; cut them apart")
    blank, three, read = json.loads(done.stdout)
    assert "shows nothing" in blank["error"]
    assert len(three["readings"]) == 1
    forced = json.loads(light_command.run(tmp_path, *command, "--force").stdout)
    assert [forced[1], forced[2]] == [{"file": "three.png", **three["readings"][0]}, read]
    assert (read["file"], read["glyph"], read["label"]) == ("0.png", "0", 0)
    assert read["confidence"] > 0.9
    assert len(read["alternatives"]) == 2


def test_the_table_holds_no_escape_sequences(tmp_path: Path) -> None:
    rows: list[Any] = [
        (Path("a\x1b[31m.png"), recognise(READER, [scan("क")])[0]),
        (Path("longer.png"), recognise(READER, [scan("४")], top=1)[0]),
    ]
    text = table(rows)
    assert "\x1b" not in text
    first, second = text.splitlines()
    assert first.index("क") == second.index("४")
    assert " or " in first
    assert " or " not in second


# --- real handwriting ---


def test_real_glyphs_come_out_of_photos_as_they_are() -> None:
    """A real image, enlarged onto paper and framed again, is the image it was."""
    folder = os.environ.get("LEKHANI_REAL_DATA")
    if not folder or not (Path(folder) / "dhcd_test.npz").is_file():
        pytest.skip("LEKHANI_REAL_DATA names no folder with dhcd_test.npz")
    with np.load(Path(folder) / "dhcd_test.npz") as data:
        images = data["images"][::690]
    alike = []
    for image in images:
        large = np.pad(np.asarray(Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC)), 50)
        alike.append(np.corrcoef(image.ravel(), frame_picture(255 - large, READER).ravel())[0, 1])
    # The rest are faint and thin, and come out bolder.
    assert np.mean(np.array(alike) > 0.8) > 0.8
