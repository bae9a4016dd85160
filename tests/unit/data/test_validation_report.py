"""The pages hold what the report says, show the offenders, and let no name out of its place."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from PIL import Image

from lekhani import params
from lekhani.data.schema import validate
from lekhani.data.validation_report import write_reports
from lekhani.paths import VALIDATION_PAGES

WritePrepared = Callable[..., Path]
NASTY = "<script>alert(1)</script>|`*_[x](y)&\"'\n\x1b.png"


def faulty(images: Any, labels: Any, splits: Any, members: list[str]) -> None:
    images[5] = 0
    images[12] = images[0]
    members[5] = members[12] = NASTY


@pytest.fixture
def pages(write_prepared: WritePrepared, tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    prepared = write_prepared(faulty, licence="CC BY 4.0", version="v|1", sha256="ab", path=f"own/{NASTY}")
    report = validate(prepared, params.Validate())
    write_reports(report, prepared, tmp_path / "out")
    return tmp_path / "out", prepared, report


def test_the_html_stands_alone_and_shows_the_offenders(pages: tuple[Path, Path, dict[str, Any]]) -> None:
    out, prepared, report = pages
    text = (out / "validation.html").read_text()
    page = Page(text)
    page.assert_stands_alone(beside={path.name for path in out.iterdir()})
    page.assert_is_accessible()
    assert "http" not in text
    assert "\x1b" not in text
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "Two <b>notes</b>." in page.text
    pictures = page.attributes_of("img")
    assert len(pictures) == sum(len(check["examples"]) for check in report["checks"]) > 0
    blank = next(check for check in report["checks"] if check["name"] == "blank_images")["examples"][0]
    assert f"Image {blank} of class a, train" in {attributes["alt"] for attributes in pictures}
    first = str(pictures[0]["src"]).removeprefix("data:image/png;base64,")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))))
    assert np.array_equal(shown[::6, ::6], np.load(prepared / "images.npy")[blank])
    assert shown.shape == (96, 96)
    assert "ink on 0.0% of its pixels" in page.text
    assert re.search(r"repeats image \d+, which is in train", page.text)
    assert "failed" in page.text[:200]


def test_markdown_keeps_names_in_their_cells(pages: tuple[Path, Path, dict[str, Any]]) -> None:
    for name in ("validation.md", "data_card.md"):
        text = (pages[0] / name).read_text()
        assert not re.search(r"(?<!\\)<(script|b)>", text.replace("`", "")) or name == "data_card.md"
        for line in text.splitlines():
            if line.startswith("|"):
                cells = re.split(r"(?<!\\)\|", line)
                assert len(cells) in {4, 6, 7}, line


def test_the_data_card(pages: tuple[Path, Path, dict[str, Any]]) -> None:
    card = (pages[0] / "data_card.md").read_text()
    assert "| licence | CC BY 4.0 |" in card
    assert "| origin | not stated; set `data.own.origin` in params.yaml |" in card
    assert "| version | v\\|1 |" in card
    assert "| 1 | b | b | 12 | 10 |" in card
    assert "- Two \\<b\\>notes\\</b\\>." in card
    assert "- blank_images: Blank images: 1" in card


def test_pages_are_equal_for_equal_data(pages: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    out, prepared, report = pages
    write_reports(report, prepared, tmp_path / "again")
    for name in VALIDATION_PAGES:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def without_glyphs(folder: Path) -> None:
    path = folder / "manifest.parquet"
    pd.read_parquet(path).drop(columns="glyph").to_parquet(path)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)))


@pytest.mark.parametrize(
    "harm",
    [
        changed("images.npy", lambda images: images[:-1]),
        changed("labels.npy", lambda labels: labels[:-1]),
        without_glyphs,
    ],
)
def test_broken_data_have_their_pages_too(
    write_prepared: WritePrepared, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    prepared = write_prepared(faulty)
    harm(prepared)
    report = validate(prepared, params.Validate())
    write_reports(report, prepared, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(VALIDATION_PAGES)
    page = Page((tmp_path / "out" / "validation.html").read_text())
    assert report["skipped"] in page.text
    assert not page.attributes_of("img")
