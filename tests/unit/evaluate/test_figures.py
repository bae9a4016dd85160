"""Figures that people look at: what they show, and files that open."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from lekhani.data.spec import DEVANAGARI
from lekhani.evaluate.figures import confusion_figure, save_figure

LABELS = np.repeat([0, 1, 3, 4], [9, 10, 10, 10])  # and a class that the test split lacks


def test_the_confusion_as_a_picture(tmp_path: Path) -> None:
    classes = DEVANAGARI[33:38]  # conjuncts and digits: what fonts lack first
    predicted = LABELS.copy()
    predicted[9:11] = 0
    figure = confusion_figure(LABELS, predicted, classes, "What turbo writes", "requested class")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [c.glyph for c in classes]
    assert (axes.get_title(), axes.get_ylabel()) == ("What turbo writes: 94.87% right", "requested class")
    shown = np.asarray(axes.images[0].get_array())
    assert shown[1, 0] == pytest.approx(0.2**0.5), "the share of its true class, on the row of the true class"
    assert shown[0, 1] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is a warning
        for name in ("a", "b"):
            save_figure(figure, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes(), "the same figure gives the same bytes"
