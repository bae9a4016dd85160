"""A line is written in one hand: glyphs share their noise, scale and head line, and the seed decides the picture."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typeface import TypefaceGenerator, TypefaceJudge, pen, unconditional

from lekhani.errors import LekhaniError, UsageError
from lekhani.handwriting import compose
from lekhani.handwriting.background import Background
from lekhani.handwriting.render import EFFECTS, Line, LineStyle
from lekhani.inference.sampling import run_steps
from lekhani.pen import Pen

CLEAN: dict[str, Any] = {"augment": "none"}


def line_image(
    writer: Pen, text: str, seed: int = 0, number: int = 0, min_confidence: float = 0.5, **style: Any
) -> Image.Image:
    return compose.compose(writer, text, seed, LineStyle(**style), number=number, min_confidence=min_confidence)


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("L")).astype(int)


def ink(image: Image.Image) -> Any:
    return pixels(image) < 128


def test_a_model_that_takes_no_labels_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no labels, so it cannot keep one hand"):
        line_image(unconditional(), "क")


@pytest.mark.parametrize(
    "choices",
    [
        *({"without": ("rain",)}, {"augment": "heavy"}, {"paper": "blue"}),
        *({"height": 15}, {"height": 513}, {"variety": 1.1}),
    ],
)
def test_a_style_out_of_range(choices: dict[str, Any]) -> None:
    sentence = r"no (effect 'rain'|strength 'heavy'|paper)|16 to 512 pixels high, not (15|513|64), and its variety"
    with pytest.raises(UsageError, match=sentence):
        LineStyle(**choices)


# --- the seed ---


def test_the_same_line_is_the_same_picture_whatever_came_before() -> None:
    writer = pen()
    first = line_image(writer, "नमक ४२", 7, number=3)
    line_image(writer, "रल", 7, number=2)
    assert first.tobytes() == line_image(pen(), "नमक ४२", 7, number=3).tobytes()


@pytest.mark.parametrize("other", [{"seed": 8}, {"number": 4}, {"salt": "another model"}])
def test_seed_line_and_model_change_it(other: dict[str, Any]) -> None:
    choices = {"seed": 7, "number": 3, **other}
    writer = pen(salt=choices.pop("salt", ""))
    for style in (CLEAN, {"augment": "strong"}):
        one, another = (
            line_image(writer, "नमक ४२", **choices, **style),
            line_image(pen(), "नमक ४२", 7, number=3, **style),
        )
        assert one.tobytes() != another.tobytes()


def drawn(generator: Any, *arguments: Any) -> Any:
    return run_steps(generator, compose.sample_hand(generator, *arguments))


def test_glyphs_of_a_line_share_their_noise() -> None:
    seen: list[Any] = []

    class RecordingGenerator(TypefaceGenerator):
        def run(self, noise: Any, labels: Any) -> Any:
            seen.append(noise)
            return super().run(noise, labels)

    def alike(variety: float) -> float:
        seen.clear()
        generator = RecordingGenerator()
        generator.noise_dim = 4096
        drawn(generator, np.zeros(6, np.int64), np.random.default_rng(1), variety)
        (noise,) = seen
        assert np.abs(noise.std(1) - 1).max() < 0.06, "noise stays standard normal"
        return float(np.corrcoef(noise)[0, 1])

    assert alike(0) == pytest.approx(1)
    assert alike(0.3) == pytest.approx(0.91, abs=0.03)
    assert alike(1) == pytest.approx(0, abs=0.06)


# --- the judge ---


def test_what_comes_out_wrong_is_drawn_again() -> None:
    writer = pen(often_blank=(0, 1))
    images = drawn(writer.generator, np.array([0, 1, 2] * 5), np.random.default_rng(0), 0.3, writer.reader)
    assert images.max((1, 2)).min() > 0.5
    bare = drawn(writer.generator, np.array([0, 1, 2] * 5), np.random.default_rng(5), 0.3)
    assert bare.max((1, 2)).min() == 0, "the judge made the difference"


def test_a_glyph_that_never_comes_is_named() -> None:
    class ConfusedGenerator(TypefaceGenerator):
        def run(self, noise: Any, labels: Any) -> Any:
            return super().run(noise, np.where(np.asarray(labels) == 3, 4, labels))

    with pytest.raises(LekhaniError, match=r"wrote no घ that the judge reads .* in 30 tries"):
        drawn(ConfusedGenerator(), np.array([0, 3]), np.random.default_rng(0), 0.3, TypefaceJudge())


# --- how it looks ---


@pytest.mark.parametrize("height", [16, 64, 200])
@pytest.mark.parametrize("text", ["नमक घर ४२", "१", "र" * 40])
def test_height_margins_and_polarity(height: int, text: str) -> None:
    image = line_image(pen(), text, 1, height=height, **CLEAN)
    assert (image.mode, image.height) == ("L", height)
    dark = ink(image)
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    assert 0.05 * height < rows[0] < 0.3 * height
    assert 0.65 * height < rows[-1] < 0.95 * height
    assert columns[0] > 0.1 * height
    assert image.width - columns[-1] > 0.1 * height
    assert 0.02 < dark.mean() < 0.5
    np.testing.assert_array_equal(
        pixels(line_image(pen(), text, 1, height=height, light_on_dark=True, **CLEAN)), 255 - pixels(image)
    )


def runs_of_ink(text: str, **choices: Any) -> int:
    """Parts of a line that empty columns part."""
    filled = ink(line_image(pen(), text, 2, **{**CLEAN, **choices})).any(0).astype(int)
    return int((np.diff(np.concatenate([[0], filled])) == 1).sum())


def test_the_head_line_joins_letters_within_words() -> None:
    assert runs_of_ink("नमन मनन") == 2
    assert runs_of_ink("नमन मनन", join=False) == 6
    assert runs_of_ink("१२३") == 3, "digits have none"


def test_an_open_head_stays_open() -> None:
    """Closed, ध is घ and भ is म, so no line runs into the gap."""
    assert runs_of_ink("मध") == 2
    assert runs_of_ink("मघ") == 1
    assert runs_of_ink("मभ") == 2


def line_of(text: str, number: int, **style: Any) -> Line:
    writer = pen()
    return run_steps(writer.generator, compose.compose_steps(writer, text, 5, LineStyle(**style), number))


@pytest.mark.parametrize("height", [32, 128])
@pytest.mark.parametrize("text", ["नमक घर ४२", "१" * 12])
def test_the_box_of_a_glyph_is_where_its_ink_is(text: str, height: int) -> None:
    """Also where the line is turned, slanted and seen from the side: all ink is in boxes, and reaches their edges."""
    for number in range(4):
        effects = tuple(set(EFFECTS) - {"rotation", "perspective"})
        line = line_of(text, number, augment="strong", without=effects, height=height)
        dark, inside = ink(line.image), np.zeros((line.image.height, line.image.width), bool)
        assert [box.text for box in line.boxes] == list(text.replace(" ", ""))
        for box in line.boxes:
            x, y, width, high = box.upright
            inside[y : y + high, x : x + width] = True
            part = dark[y : y + high, x : x + width]
            slack = 1 + height / 10  # a slanted glyph does not fill the corners of its box
            assert min(part.any(1).argmax(), part.any(1)[::-1].argmax()) < slack
            assert min(part.any(0).argmax(), part.any(0)[::-1].argmax()) < slack
        assert (dark & ~inside).sum() < 0.02 * dark.sum(), "but for the head line between two letters"
        lefts = [box.upright[0] for box in line.boxes]
        assert lefts == sorted(lefts)


# --- paper and ink ---


@pytest.mark.parametrize("effect", EFFECTS)
def test_leaving_an_effect_out_changes_the_picture(effect: str) -> None:
    everything, without = (line_image(pen(), "नमक ४२", 3, augment="strong", without=w) for w in ((), (effect,)))
    assert everything.tobytes() != without.tobytes()


def test_without_all_effects_it_is_black_on_white() -> None:
    image = line_image(pen(), "नमक", 3, augment="strong", without=EFFECTS)
    np.testing.assert_array_equal(pixels(image), pixels(line_image(pen(), "नमक", 3, **CLEAN)))


def test_ink_is_darker_than_paper_in_every_line() -> None:
    for number in range(12):
        image = pixels(line_image(pen(), "नमक ४२", 3, number=number, augment="strong"))
        assert np.percentile(image, 80) - np.percentile(image, 2) > 60


def test_rules_are_drawn_between_the_letters_too() -> None:
    for paper, axes in (("ruled", 1), ("squared", 2)):
        empty = [line_of("१", number, paper=paper, augment="none", height=256) for number in range(4)]
        for line in empty:
            page = np.asarray(line.image.convert("L"))
            margin = page[:, : line.boxes[0].upright[0] - 8]  # left of the ink
            crossed = [(margin < 250).mean(axis).max() > 0.9 for axis in (1, 0)]
            assert crossed[:axes] == [True] * axes
            assert (margin == 255).mean() > 0.5
    plain = line_of("१", 0, augment="none")
    assert (plain.image.mode, empty[0].image.mode) == ("L", "RGB")


def test_a_background_is_cropped_at_random_and_stays_light_enough(tmp_path: Path) -> None:
    gradient = np.linspace(0, 120, 900)[:, None] * np.ones((900, 1200))
    Image.fromarray(gradient.astype(np.uint8)).save(tmp_path / "dark.png")
    Image.new("RGB", (20, 10), "lightgreen").save(tmp_path / "small.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    background = Background(tmp_path)
    assert background.facts()["pictures"] == 2
    lines = [line_of("नमक", number, augment="none", background=background).image for number in range(8)]
    again = [line_of("नमक", number, augment="none", background=Background(tmp_path)).image for number in range(8)]
    assert [one.tobytes() for one in lines] == [one.tobytes() for one in again]
    assert len({one.tobytes() for one in lines}) == 8
    for line in lines:
        assert line.mode == "RGB"
        assert np.percentile(pixels(line), 90) > 130, "dark ink shows"
    assert any(np.asarray(line)[0, 0].tolist() == [144, 238, 144] for line in lines), "the small one is enlarged"


def test_a_picture_of_any_size_is_enlarged_to_any_line(tmp_path: Path) -> None:
    Image.new("RGB", (49, 31)).save(tmp_path / "small.png")
    background, rng = Background(tmp_path), np.random.default_rng(0)
    for width in range(50, 300):
        assert background.cropped((width, 41), rng).shape == (3, 41, width)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing", None, "neither a picture nor a folder"),
        ("empty", "folder", "a folder without pictures"),
        ("pipe", "pipe", "neither a picture nor a folder"),
        ("broken.png", b"\x89PNG\r\n\x1a\n junk", "broken.png in .* cannot be read"),
        ("endless.png", 60_000_000, "more than 50 MB"),
    ],
)
def test_what_is_no_background(tmp_path: Path, name: str, content: Any, sentence: str) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        with path.open("wb") as file:
            file.truncate(content)
    with pytest.raises(UsageError, match=sentence):
        line_of("१", 0, background=Background(path))
