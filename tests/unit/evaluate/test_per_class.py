"""Each class against others' formulas, planted faults named, nothing invented where there are too few images."""

import csv
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from lekhani.data.spec import DEVANAGARI, Labels
from lekhani.evaluate.fidelity import Floats, Readings
from lekhani.evaluate.figures import save_figure
from lekhani.evaluate.per_class import ClassScore, by_class, collapsed, table, worst, worst_figure, worst_modes
from lekhani.files import write_csv

K, F = 5, 24
CLASSES = DEVANAGARI[33:38]  # conjuncts and digits: what fonts lack first
CLOSENESS = ("fid", "fid_floor", "fid_ratio", "recall", "recall_floor", "diversity")
Set = tuple[Readings, Labels]

# --- fake data: classes are Gaussians with correlated features, and the judge predicts the nearest centre ---

_RNG = np.random.default_rng(99)
CENTRES = 3 * _RNG.normal(size=(K, F))
MIX = _RNG.normal(size=(K, F, F)) / F**0.5


def judged(features: np.ndarray[Any, Any]) -> Readings:
    return features.astype(np.float32), (-cdist(features, CENTRES, "sqeuclidean") / 4).astype(np.float32)


def drawn(per_class: int, seed: int, wider: float = 1.0) -> Set:
    rng = np.random.default_rng(seed)
    labels = (np.arange(per_class * K) % K).astype(np.int64)
    return judged(np.stack([CENTRES[label] + wider * rng.normal(size=F) @ MIX[label] for label in labels])), labels


TEST, TRAIN = drawn(60, 1), drawn(80, 2)


def scored(
    generated: Set, *, conditional: bool = True, test: Set = TEST, train: Set = TRAIN, seed: int = 7
) -> list[ClassScore]:
    return by_class(generated[0], generated[1] if conditional else None, *test, *train, seed)


def of(one: Set, label: int) -> Floats:
    return one[0][0][one[1] == label]


def logits_for(predicted: list[int], k: int, certainty: float = 5.0) -> Floats:
    return (certainty * np.eye(k)[predicted]).astype(np.float32)


def counted(logits: Floats, requested: Labels | None) -> list[ClassScore]:
    """Scores where only what the judge predicts matters."""
    none, no_labels = (np.zeros((0, F), np.float32), logits[:0]), np.zeros(0, np.int64)
    return by_class((np.zeros((len(logits), F), np.float32), logits), requested, none, no_labels, none, no_labels, 1)


# --- distance, recall, diversity ---


def shrunk_frechet(a: Floats, b: Floats) -> float:
    (one, _), (other, _) = (ledoit_wolf(x.astype(np.float64)) for x in (a, b))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real))


def inside(points: Floats, among: Floats) -> float:
    radii = np.sort(cdist(among, among), axis=1)[:, 3]
    return float((cdist(points, among) <= radii).any(axis=1).mean())


def test_each_class_by_the_formulas_of_others() -> None:
    generated = drawn(80, 3, wider=0.7)  # as many as train images, so that all of both are taken
    for score in scored(generated):
        ours, real, train = (of(one, score.label) for one in (generated, TEST, TRAIN))
        assert score.fid == pytest.approx(shrunk_frechet(ours, real), rel=1e-3)
        assert score.fid_floor == pytest.approx(shrunk_frechet(train, real), rel=1e-3)
        assert score.fid_ratio == pytest.approx(shrunk_frechet(ours, real) / shrunk_frechet(train, real), rel=1e-3)
        assert score.recall == pytest.approx(inside(real, ours), abs=1e-9)
        assert score.recall_floor == pytest.approx(inside(real, train), abs=1e-9)
        spreads = [np.sqrt(np.trace(np.cov(x, rowvar=False)) / F) for x in (ours, real)]
        assert score.diversity == pytest.approx(spreads[0] / spreads[1], rel=1e-5)


@pytest.mark.parametrize("per_class", [12, 30, 80])
def test_real_images_are_about_as_far_as_their_floor_at_any_number(per_class: int) -> None:
    """Also with fewer images than features."""
    scores = [score for seed in range(6) for score in scored(drawn(per_class, 10 + seed), train=drawn(300, 20 + seed))]
    assert np.mean([score.fid_ratio for score in scores]) == pytest.approx(1, abs=0.2)  # type: ignore[arg-type]
    gain = [score.recall - score.recall_floor for score in scores]  # type: ignore[operator]
    assert np.mean(gain) == pytest.approx(0, abs=0.1)


def test_the_seed_decides_which_images_are_taken() -> None:
    first, again, other = (scored(drawn(30, 3), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0].fid == pytest.approx(other[0].fid, rel=1e-9), "all generated images were taken"
    assert first[0].fid_floor != other[0].fid_floor
    variant = scored(drawn(30, 9, wider=0.5), seed=1)
    assert [score.fid_floor for score in variant] == [score.fid_floor for score in first], (
        "every variant stands beside the same floor"
    )


def test_a_way_of_writing_that_is_missing_is_seen() -> None:
    """Half of class 2 is written in another way, which generated images have in one of ten."""

    def two_ways(per_class: int, seed: int, share: float) -> Set:
        (features, _), labels = drawn(per_class, seed)
        other = (labels == 2) & (np.random.default_rng(seed).random(len(labels)) < share)
        return judged(features + other[:, None] * 2.0), labels

    test, train = two_ways(60, 1, 0.5), two_ways(80, 2, 0.5)
    whole, lacking = (scored(two_ways(80, 3, share), test=test, train=train) for share in (0.5, 0.1))
    assert worst_modes(whole)["modes_ratio"] > 0.75
    assert lacking[2].modes == pytest.approx(0.6, abs=0.1)
    assert worst_modes(lacking) == {
        "modes": lacking[2].modes,
        "modes_floor": lacking[2].modes_floor,
        "modes_ratio": lacking[2].modes_ratio,
    }


def test_too_few_images_are_no_metric() -> None:
    names = (*CLOSENESS, "modes", "modes_floor")
    for generated, test, train in (
        (drawn(9, 3), TEST, TRAIN),
        (drawn(30, 3), drawn(9, 1), TRAIN),
        (drawn(30, 3), TEST, drawn(9, 2)),
    ):
        score = scored(generated, test=test, train=train)[0]
        assert [getattr(score, name) for name in names] == [None] * len(names)
        assert score.agreement is not None
    assert None not in [getattr(scored(drawn(10, 3))[0], name) for name in CLOSENESS]


# --- predictions ---


def test_counts_by_hand() -> None:
    requested = np.array([0, 0, 1, 1, 1, 2], np.int64)
    scores = counted(logits_for([0, 1, 1, 1, 0, 1], 4, certainty=2.0), requested)
    assert [score.label for score in scores] == [0, 1, 2, 3]
    assert [score.requested for score in scores] == [2, 3, 1, 0]
    assert [score.read_as for score in scores] == [2, 4, 0, 0]
    assert [score.agreement for score in scores] == [1 / 2, 2 / 3, 0, None]
    assert scores[0].confidence == pytest.approx(math.e**2 / (math.e**2 + 3), rel=1e-5)
    assert scores[2].confidence is None
    assert [score.mistaken_for for score in scores] == [1, 0, 1, None]


def test_an_unconditional_generator_is_grouped_by_predictions() -> None:
    generated = drawn(40, 3)
    (features, _), labels = generated
    shown_as = np.where(labels == 0, 1, labels)  # nothing is predicted as class 0, twice as much as class 1
    moved = np.where((labels == 0)[:, None], features + (CENTRES[1] - CENTRES[0]).astype(np.float32), features)
    scores = scored((judged(moved), labels), conditional=False)
    assert [score.read_as for score in scores] == [0, 80, 40, 40, 40]
    assert {(score.requested, score.agreement, score.mistaken_for) for score in scores} == {(None, None, None)}
    assert scores[0].fid is None
    conditional = scored((judged(moved), shown_as))
    assert [score.fid for score in scores] == [score.fid for score in conditional]
    assert scores[2] == replace(scored(generated)[2], requested=None, agreement=None)


# --- tables ---


def test_rows_hold_what_applies(tmp_path: Path) -> None:
    (features, logits), labels = drawn(30, 3)
    logits[labels == 1] = logits[labels == 2]
    keep = labels != 4
    write_csv(tmp_path / "t.csv", table(scored(((features[keep], logits[keep]), labels[keep])), CLASSES))
    cells = list(csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8", newline="")))
    closeness = "fid fid_floor fid_ratio recall recall_floor diversity modes modes_floor"
    assert list(cells[0]) == f"name glyph label asked read_as agreement confidence {closeness} mistaken_for".split()
    assert [cell["glyph"] for cell in cells] == [c.glyph for c in CLASSES]
    assert [cell["mistaken_for"] for cell in cells] == ["", CLASSES[2].name, "", "", ""]
    assert [cell["agreement"] for cell in cells] == ["1.0", "0.0", "1.0", "1.0", ""]
    assert cells[4]["fid"] == ""
    unconditional = table(scored(drawn(30, 3), conditional=False), CLASSES)
    assert set(cells[0]) - set(unconditional[0]) == {"asked", "agreement", "mistaken_for"}


# --- what is wrong ---


def planted(collapse: int | None = None, lost: tuple[int, int] | None = None) -> Set:
    """Class `collapse` as copies of a single image, class `lost[0]` drawn as class `lost[1]`."""
    (features, _), labels = drawn(40, 3)
    if collapse is not None:
        features[labels == collapse] = features[labels == collapse][0]
    if lost is not None:
        features[labels == lost[0]] = of(drawn(40, 8), lost[1])
    return judged(features), labels


def named(sentence: str) -> list[str]:
    return [c.name for c in CLASSES if c.name in sentence]


def test_nothing_is_wrong_with_real_images() -> None:
    for conditional in (True, False):
        assert collapsed(scored(drawn(40, 3), conditional=conditional), CLASSES) == []
    assert collapsed(scored(drawn(40, 3, wider=0.5)), CLASSES) == []


@pytest.mark.parametrize("conditional", [True, False])
def test_a_planted_collapse_is_named(conditional: bool) -> None:
    scores = scored(planted(collapse=3), conditional=conditional)
    (finding,) = collapsed(scores, CLASSES)
    assert finding.name == "collapsed_classes"
    assert named(finding.sentence) == [CLASSES[3].name]
    assert f"within 1 of {K} classes" in finding.sentence
    assert f"{CLASSES[3].glyph} ({CLASSES[3].name}) 0.00" in finding.sentence
    assert scores[3].diversity == pytest.approx(0, abs=1e-6)
    assert (scores[3].recall or 0) < 0.1 < (scores[2].recall or 0)
    assert [score.label for score in worst(scores, 1)] == [3]


def test_a_planted_loss_is_named_with_what_is_drawn_instead() -> None:
    scores = scored(planted(lost=(1, 4)))
    (finding,) = collapsed(scores, CLASSES)
    assert finding.name == "lost_classes"
    one, other = (f"{CLASSES[i].glyph} ({CLASSES[i].name})" for i in (1, 4))
    assert f"in 1 of {K} classes: {one}, 0% right, mostly read as {other}." in finding.sentence
    assert named(finding.sentence) == [CLASSES[1].name, CLASSES[4].name]
    assert scores[1].mistaken_for == 4
    assert (scores[1].fid_ratio or 0) > 5 > (scores[4].fid_ratio or 9)


def test_a_hundredth_of_a_fair_share_is_not_lost() -> None:
    # A fair share of 2,000 images in 4 classes is 500; a hundredth of it is 5.
    (finding,) = collapsed(counted(logits_for([0] * 1991 + [1] * 4 + [2] * 5, 4), None), DEVANAGARI[:4])
    assert [c.name for c in DEVANAGARI[:4] if c.name in finding.sentence] == [DEVANAGARI[1].name, DEVANAGARI[3].name]


# --- the worst ---


def one(label: int, agreement: float | None = 1.0, ratio: float | None = 1.0, **more: Any) -> ClassScore:
    values = {"requested": None if agreement is None else 50, "read_as": 50, "confidence": 0.9, "fid_floor": 2.0}
    values |= {"agreement": agreement, "fid": None if ratio is None else 2 * ratio, "diversity": 1.0}
    return ClassScore(label=label, **(values | more))  # type: ignore[arg-type]


def test_agreement_comes_before_distance_and_single_errors_do_not_count() -> None:
    figures = [(1.0, 9.0), (0.6, 1.5), (0.98, 1.1), (0.8, 3.0), (1.0, 2.0), (0.0, 4.0), (0.79, 8.0)]
    scores = [one(label, *pair) for label, pair in enumerate(figures)]  # agreement and distance
    assert [score.label for score in worst(scores)] == [5, 1, 6, 3, 0]
    assert [score.label for score in worst(scores, 99)] == [5, 1, 6, 3, 0, 4, 2]


# --- figures ---


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def marked(count: int, start: int, classes: int = K) -> tuple[Any, Labels]:
    """Images whose one value says which they are."""
    values = (start + np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None], (count, 6, 7)), (np.arange(count) % classes).astype(np.int64)


def test_the_worst_as_a_picture(tmp_path: Path) -> None:
    scores = [
        one(3, 0.62, 2.3, mistaken_for=1, recall=0.25, recall_floor=0.8),
        one(0, 0.98, 1.5, recall=0.5, recall_floor=0.75),
    ]
    figure = worst_figure(scores, CLASSES, marked(100, 0), marked(30, 100))
    glyph, name, words = texts(figure)[:3]
    assert (glyph, name) == (CLASSES[3].glyph, CLASSES[3].name)
    assert f"agreement 62.0% of 50, else mostly {CLASSES[1].glyph}" in words
    assert "judge FID 4.60, floor 2.00 (2.3x)" in words
    strips = [np.asarray(axes.images[0].get_array())[3] for axes in figure.axes if axes.images]
    places = slice(3, None, 8)
    assert strips[0][places].tolist() == [3 + 5 * i for i in range(8)], "the generated images of class 3"
    assert strips[1][places].tolist() == [103 + 5 * i for i in range(6)] + [255] * 2, "six real ones"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is a warning
        save_figure(figure, tmp_path / "w.png")
    images, labels = marked(30, 0)
    others, score = (images[labels != 0], labels[labels != 0]), one(0, None, None, read_as=0, diversity=None)
    figure = worst_figure([score], CLASSES, others, (images, labels))
    assert "read as it: 0 images\ntoo few images for a judge FID" in texts(figure)[2]
    assert (np.asarray(figure.axes[1].images[0].get_array()) == 255).all()
