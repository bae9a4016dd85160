"""A watch on what is served: still with an honest generator whatever clients ask for, alarmed by a blurred, a collapsed or a confused one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lekhani.data.spec import MNIST, Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.inference.session import Floats
from lekhani.serve.monitor import Measure, Reference, Watch

K, SIDE = 4, 6
Writer = Callable[[Labels, np.random.Generator], Bytes]


class Eyes:
    """Reads a class by the brightest row; its features are the pixels of the three columns in the middle."""

    classes, sha256, dataset = MNIST[:K], "eyes", "mnist"

    def read(self, images: Bytes) -> tuple[Floats, Floats]:
        shades = images.astype(np.float32) / 255
        return shades[:, :, 1:4].reshape(len(images), -1), 20 * shades[:, :K].mean(2)


READER: Any = Eyes()


def honest(labels: Labels, rng: np.random.Generator) -> Bytes:
    """A bright row in the class's place, and texture everywhere."""
    images = rng.normal(60, 20, (len(labels), SIDE, SIDE))
    images[np.arange(len(labels)), labels] += 120
    return np.clip(images, 0, 255).astype(np.uint8)


def blurred(labels: Labels, rng: np.random.Generator) -> Bytes:
    images = honest(labels, rng).astype(np.float32)
    return ((images + np.roll(images, 1, 2) + np.roll(images, -1, 2)) / 3).astype(np.uint8)


def collapsed(labels: Labels, rng: np.random.Generator) -> Bytes:
    return np.stack([honest(np.array([label]), np.random.default_rng(0))[0] for label in labels])


def confused(labels: Labels, rng: np.random.Generator) -> Bytes:
    return honest(np.where(rng.random(len(labels)) < 0.1, (labels + 1) % K, labels), rng)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(READER, honest(np.arange(4000) % K, np.random.default_rng(1)))


@pytest.fixture(scope="module")
def card(reference: Reference) -> dict[str, float]:
    """The scorecard of the honest one."""
    sets = [honest(np.arange(1000) % K, np.random.default_rng([2, again])) for again in range(3)]
    fids = [reference.distance(READER.read(images)[0]) for images in sets]
    agreement = float(np.mean([(READER.read(images)[1].argmax(1) == np.arange(1000) % K).mean() for images in sets]))
    return {
        "fid": float(np.mean(fids)),
        "fid_std": float(np.std(fids)),
        "n_generated": 1000,
        "label_agreement": agreement,
        "classes_covered": K,
    }


def watched(
    card: dict[str, float],
    reference: Reference | None,
    write: Writer,
    asked: Callable[[int], Labels],
    seeds: int = 10**6,
) -> Watch:
    """A watch that saw 300 requests of ten images, and probes until its sample was full."""
    watch = Watch(READER, card, reference, conditional=True)
    for i in range(300):
        labels = asked(i)
        watch.saw(write(labels, np.random.default_rng([3, i % seeds])), labels)
        if i % 20 == 0:
            probe(watch, write, i)
    for i in range(1000):
        if watch.full:
            break
        probe(watch, write, i)
    assert watch.full
    return watch


def probe(watch: Watch, write: Writer, i: int) -> dict[str, Measure]:
    wanted = watch.wanting(64)
    return watch.look(zip(write(wanted, np.random.default_rng([4, i])), wanted.tolist(), strict=True))


def evenly(i: int) -> Labels:
    return (np.arange(10) + i) % K


def alarms(watch: Watch) -> set[str]:
    return {name for name, one in watch.look().items() if one.alarm}


@pytest.mark.parametrize("asked", [evenly, lambda _: np.full(10, 2)], ids=["all classes", "one class"])
@pytest.mark.parametrize("seeds", [10**6, 1], ids=["all seeds", "one seed"])
def test_an_honest_one_is_left_alone(
    card: dict[str, float], reference: Reference, asked: Callable[[int], Labels], seeds: int
) -> None:
    watch = watched(card, reference, honest, asked, seeds)
    assert alarms(watch) == set()
    measures = watch.look()
    assert set(measures) == {"confidence", "label_agreement", "classes_covered", "drift"}
    drift = measures["drift"]
    assert drift.expected is not None
    assert 0.4 < drift.value / drift.expected < 1.1, "sampled as the scorecard was, but for twice as many images"
    assert measures["confidence"].value == pytest.approx(reference.confidence, abs=0.02)


def test_a_blurred_one_drifts(card: dict[str, float], reference: Reference) -> None:
    assert alarms(watched(card, reference, blurred, evenly)) == {"drift"}


def test_a_collapsed_one_drifts(card: dict[str, float], reference: Reference) -> None:
    assert "drift" in alarms(watched(card, reference, collapsed, evenly))


def test_a_confused_one_breaks_its_promise_of_labels(card: dict[str, float], reference: Reference) -> None:
    assert alarms(watched(card, reference, confused, evenly)) == {"label_agreement"}


def test_a_class_that_is_never_written_is_missed(card: dict[str, float], reference: Reference) -> None:
    watch = watched(card, reference, lambda labels, rng: honest(np.where(labels == 0, 1, labels), rng), evenly)
    assert {"label_agreement", "classes_covered"} <= alarms(watch)


def test_a_good_one_that_turns_bad_is_noticed_by_what_it_serves(card: dict[str, float], reference: Reference) -> None:
    watch = watched(card, reference, honest, evenly)
    assert alarms(watch) == set()
    for i in range(2000):
        labels = evenly(i)
        watch.saw(blurred(labels, np.random.default_rng([5, i])), labels)
        if i % 100 == 0:
            watch.look()
    assert alarms(watch) == {"drift"}


def test_without_a_promise_there_are_figures_and_no_alarms(reference: Reference) -> None:
    watch = watched({}, None, confused, evenly)
    assert all((one.expected, one.bound, one.alarm) == (None, None, False) for one in watch.look().values())
    assert "drift" not in watch.look()


def test_a_reference_by_another_judge_is_none(card: dict[str, float], reference: Reference) -> None:
    other = Reference(reference.mean, reference.cov, reference.confidence, "another judge")
    assert Watch(READER, card, other, conditional=True).reference is None


def test_nothing_is_told_before_each_class_was_seen(card: dict[str, float], reference: Reference) -> None:
    watch = Watch(READER, card, reference, conditional=True)
    labels = np.array([0, 1, 2])
    watch.saw(honest(labels, np.random.default_rng(0)), labels)
    assert watch.look() == {}
    assert watch.wanting(1).tolist() == [3], "what is missing comes first"


def test_a_reference_survives_its_file(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "r.npz")
    again = Reference.load(tmp_path / "r.npz")
    assert (again.mean == reference.mean).all()
    assert (again.cov == reference.cov).all()
    assert (again.confidence, again.judge) == (reference.confidence, "eyes")
    (tmp_path / "r.npz").write_bytes(b"PK nothing")
    with pytest.raises(LekhaniError, match=r"r\.npz is no reference of real images"):
        Reference.load(tmp_path / "r.npz")
