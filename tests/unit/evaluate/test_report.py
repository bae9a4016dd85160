"""Tables and figures that people read: nothing invented, files that open."""

import csv
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lekhani.data.spec import DEVANAGARI
from lekhani.errors import LekhaniError
from lekhani.evaluate import report


def test_save_table(tmp_path: Path) -> None:
    report.save_table([{"name": "क", "n": 1.0}, {"name": "a,b", "n": float("nan")}], tmp_path / "new" / "t.csv")
    rows = list(csv.DictReader((tmp_path / "new" / "t.csv").open(encoding="utf-8", newline="")))
    assert rows == [{"name": "क", "n": "1.0"}, {"name": "a,b", "n": "nan"}]


def saved(figure: Figure, path: Path) -> np.ndarray[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is a warning
        report.save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


def test_the_confusion_as_a_picture(tmp_path: Path) -> None:
    classes = DEVANAGARI[33:38]  # conjuncts and digits: what fonts lack first
    confusion = np.diag([9, 8, 0, 10, 10])  # and a class that the test split lacks
    confusion[1, 0] = 2
    figure = report.confusion_figure(confusion, classes, 0.9487)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [c.glyph for c in classes]
    assert "94.87%" in axes.get_title()
    shown = np.asarray(axes.images[0].get_array())
    assert shown[1, 0] == pytest.approx(0.2**0.5), "the share of its true class, on the row of the true class"
    assert shown[0, 1] == 0
    assert saved(figure, tmp_path / "c.png").std() > 0


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        report.save_figure(report.confusion_figure(np.eye(3, dtype=np.int64), DEVANAGARI[:3], 1.0), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_figure_on_a_full_disk(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    figure = report.confusion_figure(np.eye(3, dtype=np.int64), DEVANAGARI[:3], 1.0)
    with pytest.raises(LekhaniError, match=r"Could not write .*c\.png"), full_disk():
        report.save_figure(figure, tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []
