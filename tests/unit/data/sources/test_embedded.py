"""The embedded datasets: what is drawn, and that the same seed draws the same bytes."""

import numpy as np
import pytest

from lekhani import typefaces
from lekhani.data.raw import RawImages
from lekhani.data.sources import embedded
from lekhani.data.spec import DEVANAGARI, MNIST, Bytes
from lekhani.errors import LekhaniError

CONJUNCTS = {"क्ष": "क", "त्र": "त", "ज्ञ": "ज"}
HALANT, DOTTED_CIRCLE = "\u094d", "\u25cc"


@pytest.fixture(scope="module")
def drawn() -> RawImages:
    return embedded.devanagari(seed=3, per_class_train=12, per_class_test=5)


@pytest.fixture
def stack(drawn: RawImages) -> Bytes:
    return np.asarray(drawn.images)


def test_shapes_types_order_and_names(drawn: RawImages, stack: Bytes) -> None:
    assert stack.shape == (46 * 17, 32, 32)
    assert stack.dtype == np.uint8
    assert drawn.labels.dtype == np.int64
    assert drawn.classes == DEVANAGARI
    assert list(drawn.splits) == ["train"] * (46 * 12) + ["test"] * (46 * 5)
    assert np.array_equal(np.bincount(drawn.labels[: 46 * 12]), np.full(46, 12))
    assert np.array_equal(np.bincount(drawn.labels[46 * 12 :]), np.full(46, 5))
    assert drawn.members[11] == "train/character_1_ka/000011"
    assert drawn.members[-1] == "test/digit_9/000004"
    assert len(set(drawn.members)) == len(stack)


def test_bytes_depend_on_the_seed_alone(drawn: RawImages, stack: Bytes) -> None:
    # Cold caches, so that nothing drawn before can leak into the bytes.
    embedded._glyph.cache_clear()
    embedded._soften.cache_clear()
    again = embedded.devanagari(seed=3, per_class_train=12, per_class_test=5)
    assert np.array_equal(stack, np.asarray(again.images))
    assert list(drawn.members) == list(again.members)


def test_first_images_stay_when_more_are_asked_for(drawn: RawImages, stack: Bytes) -> None:
    few = embedded.devanagari(seed=3, per_class_train=2, per_class_test=1)
    by_name = dict(zip(drawn.members, stack, strict=True))
    assert all(np.array_equal(image, by_name[name]) for name, image in zip(few.members, few.images, strict=True))


@pytest.mark.parametrize("family", embedded.FAMILIES, ids=lambda family: family.module)
@pytest.mark.parametrize("conjunct", CONJUNCTS)
def test_conjuncts_are_one_glyph_of_their_own(family: typefaces.Family, conjunct: str) -> None:
    font = typefaces.open_font(family, 100, 100)
    ((shaped, _),) = typefaces.shape(font, conjunct)
    assert shaped not in (0, *(typefaces.shape(font, part)[0][0] for part in (*conjunct, HALANT, DOTTED_CIRCLE)))
    plain = embedded._glyph(family, 100, 100, CONJUNCTS[conjunct])
    assert embedded._glyph(family, 100, 100, conjunct).xy.shape != plain.xy.shape


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(LekhaniError, match="pip install some-font"):
        typefaces.open_font(typefaces.Family("some-font", "lekhani", "none.ttf"), 100, 100)
    for text in ("कख", "\U0001f600"):
        with pytest.raises(LekhaniError, match="no single glyph"):
            embedded._glyph(embedded.FAMILIES[0], 100, 100, text)


def test_mnist_is_scikit_learns_digits() -> None:
    digits = embedded.mnist()
    images = np.asarray(digits.images)
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.uint8
    assert images.min() == 0
    assert images.max() == 255
    assert digits.classes == MNIST
    assert digits.labels[:10].tolist() == list(range(10)), "load_digits starts 0 to 9"
    assert set(digits.splits) == {""}
    assert digits.members[123] == "digits/000123"
    assert len(digits.members) == len(digits.splits) == 1797
