"""Real glyphs of eight letters, and the types of what is trained on them."""

from dataclasses import dataclass

import numpy as np
import pytest

from lekhani.data.sources import embedded
from lekhani.data.spec import DEVANAGARI, Bytes, GlyphClass, Labels
from lekhani.evaluate.judge import Classifier, JudgeReport

Labelled = tuple[Bytes, Labels]
Judged = tuple[Classifier, JudgeReport]


@dataclass(frozen=True)
class Letters:
    """Images uint8 [N,24,24] with labels int64 [N], in the order of the labels and equally many of each class."""

    classes: tuple[GlyphClass, ...]
    train: Labelled
    test: Labelled
    fresh: Labelled  # real glyphs that are in neither split


def draw_letters() -> Letters:
    """80 train, 50 test and 120 fresh images of each class."""
    classes = DEVANAGARI[::6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "DEVANAGARI", classes)
        raw = embedded.devanagari(11, 200, 50, size=24)
    images, numbers = np.stack(list(raw.images)), np.array([int(one.rsplit("/", 1)[1]) for one in raw.members])
    labels, is_test = np.searchsorted([one.label for one in classes], raw.labels), np.array(raw.splits) == "test"
    is_train = ~is_test & (numbers < 80)
    train, test, fresh = ((images[some], labels[some]) for some in (is_train, is_test, ~is_test & ~is_train))
    return Letters(classes, train, test, fresh)
