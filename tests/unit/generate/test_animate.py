"""Animations show the steps of a generator, without torch and without another file than the one that ships."""

from pathlib import Path
from typing import Any, cast

import light_command
import numpy as np
import pytest
from PIL import Image
from stepwise_toy import STEPS, stepwise_generator

from lekhani.errors import UsageError
from lekhani.generate.animate import HOLD_MS, write_animation
from lekhani.inference.sampling import SamplingOptions, noise_source
from lekhani.inference.session import Generator
from lekhani.inference.stepwise import StepwiseSession
from lekhani.pen import Pen
from lekhani.pictures import enlarged, grid, to_uint8


@pytest.fixture(scope="module")
def pen(tmp_path_factory: pytest.TempPathFactory) -> Pen:
    return Pen(Generator(stepwise_generator(tmp_path_factory.mktemp("toy") / "g.onnx"), "cpu"), None, "the toy")


def frames(path: Path) -> tuple[list[Any], list[int], dict[str, Any]]:
    """Grey frames uint8 [H,W] of a moving picture, how long each one stays in ms, and what the file says of itself."""
    pictures, durations = [], []
    with Image.open(path) as film:
        for i in range(cast(Any, film).n_frames):
            film.seek(i)
            film.load()
            durations.append(int(film.info["duration"]))
            pictures.append(np.asarray(film.convert("L")))
        return pictures, durations, dict(film.info)


@pytest.mark.parametrize("suffix", [".webp", ".GIF"])
def test_an_animation_shows_the_steps_and_holds_the_last_frame(pen: Pen, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"film{suffix}"
    sentence = write_animation(pen, ["1=2", "2", "0=2"], 7, out, columns=3, scale=2, fps=5)
    pictures, durations, info = frames(out)
    assert len(pictures) == STEPS + 1
    assert durations == [200, 200, 200, 200 + HOLD_MS]
    assert info["loop"] == 0, "for ever"
    labels = np.array([1, 1, 2, 0, 0], np.int64)
    written = pen.generate(["1", "1", "2", "0", "0"], seed=7)
    np.testing.assert_array_equal(pictures[-1], enlarged(grid(written.images, 3), 2))
    noise = noise_source(pen.generator, SamplingOptions(7), 0)(5)
    np.testing.assert_array_equal(
        pictures[1], enlarged(grid(to_uint8(StepwiseSession(pen.generator).run(noise, labels)[1]), 3), 2)
    )
    assert sentence == f"Wrote 4 frames of 5 glyphs, 28 x 18 pixels, to {out} with the toy, seed 7."
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_same_seed_writes_the_same_bytes(pen: Pen, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_animation(pen, ["1=3"], seed, tmp_path / f"{name}.webp")
    a, b, c = ((tmp_path / f"{name}.webp").read_bytes() for name in "abc")
    assert a == b
    assert a != c


# --- errors are one sentence and leave nothing behind ---


@pytest.mark.parametrize(
    ("label", "name", "choices", "sentence"),
    [
        ("1", "film.mp4", {}, r"`out` .*film\.mp4: animations end in \.gif or \.webp"),
        ("1=1001", "a.gif", {}, "1,001 glyphs are too many to watch"),
        ("1=1000", "a.gif", {"columns": 1}, r"would be 16 x 19,996 pixels, .* choose another `columns` or `scale`"),
        ("7", "a.gif", {}, "no such class"),
    ],
)
def test_what_is_refused(
    pen: Pen, tmp_path: Path, label: str, name: str, choices: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        write_animation(pen, [label], 7, tmp_path / name, **choices)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_it_may_be_overwritten(pen: Pen, tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_text("precious")
    with pytest.raises(UsageError, match=r"a\.gif exists already; .* `overwrite`"):
        write_animation(pen, ["1"], 7, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_text() == "precious"
    write_animation(pen, ["1"], 7, tmp_path / "a.gif", overwrite=True)
    assert len(frames(tmp_path / "a.gif")[0]) == STEPS + 1


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    model = stepwise_generator(tmp_path / "g.onnx")
    done = light_command.run(tmp_path, "animate", *f"--model {model} --label 1=2 --out a.gif --fps 10".split())
    assert "Wrote 4 frames of 2 glyphs" in done.stdout
    assert frames(tmp_path / "a.gif")[1] == [100, 100, 100, 100 + HOLD_MS]
