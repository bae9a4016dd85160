"""The monitor raises no alarm for a good generator, whatever clients request, and one for each kind of bad one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lekhani.data.spec import MNIST, Bytes, Labels
from lekhani.evaluate.reference import Reference
from lekhani.inference.session import Floats
from lekhani.serve.monitor import Measure, Monitor

K, SIDE = 4, 6
Writer = Callable[[Labels, np.random.Generator], Bytes]


class FakeJudge:
    """Classifies by the brightest row; its features are the pixels of the three columns in the middle."""

    classes, sha256, dataset = MNIST[:K], "fake", "mnist"

    def read(self, images: Bytes) -> tuple[Floats, Floats]:
        shades = images.astype(np.float32) / 255
        return shades[:, :, 1:4].reshape(len(images), -1), 20 * shades[:, :K].mean(2)


READER: Any = FakeJudge()


def good(labels: Labels, rng: np.random.Generator) -> Bytes:
    """A bright row in the class's place, and texture everywhere."""
    images = rng.normal(60, 20, (len(labels), SIDE, SIDE))
    images[np.arange(len(labels)), labels] += 120
    return np.clip(images, 0, 255).astype(np.uint8)


def blurred(labels: Labels, rng: np.random.Generator) -> Bytes:
    images = good(labels, rng).astype(np.float32)
    return ((images + np.roll(images, 1, 2) + np.roll(images, -1, 2)) / 3).astype(np.uint8)


def collapsed(labels: Labels, rng: np.random.Generator) -> Bytes:
    return np.stack([good(np.array([label]), np.random.default_rng(0))[0] for label in labels])


def confused(labels: Labels, rng: np.random.Generator) -> Bytes:
    return good(np.where(rng.random(len(labels)) < 0.1, (labels + 1) % K, labels), rng)


def never_draws_a_zero(labels: Labels, rng: np.random.Generator) -> Bytes:
    return good(np.where(labels == 0, 1, labels), rng)


@pytest.fixture(scope="module")
def reference() -> Reference:
    labels = np.arange(4000) % K
    return Reference.of(READER, good(labels, np.random.default_rng(1)), labels)


@pytest.fixture(scope="module")
def card(reference: Reference) -> dict[str, float]:
    """The scorecard of the good one."""
    sets = [good(np.arange(1000) % K, np.random.default_rng([2, again])) for again in range(3)]
    fids = [reference.distance(READER.read(images)[0]) for images in sets]
    agreement = float(np.mean([(READER.read(images)[1].argmax(1) == np.arange(1000) % K).mean() for images in sets]))
    return {
        "fid": float(np.mean(fids)),
        "fid_std": float(np.std(fids)),
        "n_generated": 1000,
        "label_agreement": agreement,
        "classes_covered": K,
    }


def monitored(
    card: dict[str, float],
    reference: Reference | None,
    write: Writer,
    requested: Callable[[int], Labels],
    seeds: int = 10**6,
) -> Monitor:
    """A monitor that observed 300 requests of ten images, and probes until its sample was full."""
    monitor = Monitor(READER, card, reference, conditional=True)
    for i in range(300):
        labels = requested(i)
        monitor.observe(write(labels, np.random.default_rng([3, i % seeds])), labels)
        if i % 20 == 0:
            probe(monitor, write, i)
    for i in range(1000):
        if monitor.full:
            break
        probe(monitor, write, i)
    assert monitor.full
    return monitor


def probe(monitor: Monitor, write: Writer, i: int) -> dict[str, Measure]:
    wanted = monitor.labels_to_probe(64)
    images = write(wanted, np.random.default_rng([4, i]))
    return monitor.update(list(zip(images, wanted.tolist(), strict=True)))


def evenly(i: int) -> Labels:
    return (np.arange(10) + i) % K


def alarms(monitor: Monitor) -> set[str]:
    return {name for name, one in monitor.update().items() if one.alarm}


@pytest.mark.parametrize("requested", [evenly, lambda _: np.full(10, 2)], ids=["all classes", "one class"])
@pytest.mark.parametrize("seeds", [10**6, 1], ids=["all seeds", "one seed"])
def test_a_good_generator_raises_no_alarm(
    card: dict[str, float], reference: Reference, requested: Callable[[int], Labels], seeds: int
) -> None:
    monitor = monitored(card, reference, good, requested, seeds)
    assert alarms(monitor) == set()
    measures = monitor.update()
    assert set(measures) == {"confidence", "label_agreement", "classes_covered", "drift"}
    drift = measures["drift"]
    assert drift.expected is not None
    assert 0.4 < drift.value / drift.expected < 1.1, "sampled as the scorecard was, but for twice as many images"
    assert measures["confidence"].value == pytest.approx(reference.confidence, abs=0.02)


@pytest.mark.parametrize(
    ("write", "raised"),
    [
        (blurred, {"drift"}),
        (collapsed, {"drift"}),
        (confused, {"label_agreement"}),
        (never_draws_a_zero, {"label_agreement", "classes_covered"}),
    ],
    ids=["blurred", "collapsed", "confused", "a class is never drawn"],
)
def test_each_kind_of_bad_generator_raises_its_alarm(
    card: dict[str, float], reference: Reference, write: Writer, raised: set[str]
) -> None:
    assert raised <= alarms(monitored(card, reference, write, evenly))


def test_without_a_scorecard_there_are_figures_and_no_alarms(reference: Reference) -> None:
    monitor = monitored({}, None, confused, evenly)
    assert all((one.expected, one.bound, one.alarm) == (None, None, False) for one in monitor.update().values())
    assert "drift" not in monitor.update()


def test_a_reference_by_another_judge_is_ignored(card: dict[str, float], reference: Reference) -> None:
    other = replace(reference, judge="another judge")
    assert Monitor(READER, card, other, conditional=True).reference is None


def test_nothing_is_measured_before_each_class_was_seen(card: dict[str, float], reference: Reference) -> None:
    monitor = Monitor(READER, card, reference, conditional=True)
    labels = np.array([0, 1, 2])
    monitor.observe(good(labels, np.random.default_rng(0)), labels)
    assert monitor.update() == {}
    assert monitor.labels_to_probe(1).tolist() == [3], "what is missing comes first"
