"""A shard is decided by model, seed, number and request; what a judge does not recognise is drawn again, within bounds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from eyes import Eyes
from hypothesis import given, settings
from hypothesis import strategies as st

from lekhani.data.spec import MNIST, Bytes
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference import sampling
from lekhani.inference.confidence import confidences
from lekhani.inference.sampling import Drawn, Plan, Wishes, draw_shard, noise_source
from lekhani.inference.session import Generator, Reader

ToyGenerator = Callable[..., Path]


@pytest.fixture(scope="module")
def conditional(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(toy_generator(tmp_path_factory.mktemp("c") / "g.onnx"), "cpu")


@pytest.fixture(scope="module")
def plain(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(toy_generator(tmp_path_factory.mktemp("u") / "g.onnx", conditional=False), "cpu")


def shard(
    generator: Generator, labels: list[int], eyes: Eyes | None = None, wishes: Wishes | None = None, **rest: Any
) -> Drawn:
    return draw_shard(generator, cast(Reader, eyes), np.array(labels, np.int64), wishes or Wishes(1), **rest)


# --- the plan ---


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), min_size=1, max_size=8), st.integers(1, 40))
def test_the_shards_hold_what_was_asked_for(runs: list[tuple[int, int]], shard_size: int) -> None:
    plan = Plan(tuple(runs), shard_size)
    rows = [plan.rows(number) for number in range(plan.shards)]
    for i, (_, count) in enumerate(runs):
        shares = [int((one == i).sum()) for one in rows]
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 1, "each shard is a fair sample"
    sizes = [len(one) for one in rows]
    assert max(sizes) <= shard_size
    assert max(sizes) - min(sizes) <= 1
    assert [plan.start(number) for number in range(plan.shards + 1)] == [0, *np.cumsum(sizes).tolist()]
    assert all((np.diff(one) >= 0).all() for one in rows)


def test_one_shard_is_in_the_order_asked_for() -> None:
    assert Plan(((2, 2), (0, 1), (2, 1))).labels(0).tolist() == [2, 2, 0, 2]


# --- noise ---


def test_noise_is_decided_by_model_seed_and_number(conditional: Generator, plain: Generator) -> None:
    def noise(generator: Generator = conditional, seed: int = 1, number: int = 0) -> Any:
        return noise_source(generator, Wishes(seed), number)(4)

    np.testing.assert_array_equal(noise(), noise())
    others = [noise(plain), noise(seed=2), noise(number=1), noise(seed=0, number=1), noise(seed=2**40 + 1)]
    assert all(not np.array_equal(noise(), other) for other in others)
    assert noise().dtype == np.float32


def test_truncated_noise_stays_within_its_bound(conditional: Generator) -> None:
    source = noise_source(conditional, Wishes(1, truncation=0.5), 0)
    noise = source(2000)
    assert noise.dtype == np.float32
    assert 0.49 < np.abs(noise).max() <= 0.5
    assert abs(noise.mean()) < 0.01
    assert 0.26 < noise.std() < 0.30, "a normal distribution cut at half a deviation, not one squeezed into it"


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"min_confidence": 1.0}, {"min_confidence": -0.1}, {"truncation": 0}, {"truncation": float("nan")}],
)
def test_wishes_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be"):
        Wishes(**wrong)


# --- drawing ---


def test_a_conditional_generator_is_told_its_labels(conditional: Generator) -> None:
    drawn = shard(conditional, [2, 0, 1, 0])
    assert np.rint(drawn.images.mean(axis=(1, 2)) / 255 * 3 - 0.5).tolist() == [2, 0, 1, 0]
    assert (drawn.confidence, drawn.seen, drawn.good) == (None, None, None)
    np.testing.assert_array_equal(shard(conditional, [2, 0, 1, 0]).images, drawn.images)
    assert not np.array_equal(shard(conditional, [2, 0, 1, 0], wishes=Wishes(2)).images, drawn.images)


@pytest.mark.parametrize("wishes", [Wishes(1), Wishes(1, 0.9, 1.5)], ids=["plain", "filtered"])
@pytest.mark.parametrize("which", ["conditional", "plain"])
def test_the_batch_size_does_not_matter(which: str, wishes: Wishes, request: pytest.FixtureRequest) -> None:
    generator = request.getfixturevalue(which)
    whole = shard(generator, [0, 1, 2] * 30, Eyes(), wishes, batch_size=1000)
    for size in (1, 7, 64):
        again = shard(generator, [0, 1, 2] * 30, Eyes(), wishes, batch_size=size)
        np.testing.assert_array_equal(again.images, whole.images)
        np.testing.assert_array_equal(again.noise, whole.noise)


@pytest.mark.parametrize("wishes", [Wishes(1), Wishes(1, 0.9)], ids=["plain", "filtered"])
@pytest.mark.parametrize("which", ["conditional", "plain"])
def test_the_noise_is_what_the_images_are_made_of(which: str, wishes: Wishes, request: pytest.FixtureRequest) -> None:
    generator = request.getfixturevalue(which)
    drawn = shard(generator, [0, 1, 2] * 9, Eyes(), wishes)
    remade = np.rint(generator.run(drawn.noise, drawn.labels)[:, 0] * 255).astype(np.uint8)
    np.testing.assert_array_equal(remade, drawn.images)


def test_an_unconditional_generator_is_filtered_by_the_judge(plain: Generator) -> None:
    labels = [2] * 70 + [0, 1, 2, 0] + [1] * 300
    drawn = shard(plain, labels, Eyes())
    assert drawn.images.shape == (374, 4, 4)
    assert Eyes().read(drawn.images)[1].argmax(1).tolist() == labels
    assert len({image.tobytes() for image in drawn.images}) > 360, "the same image is not handed out twice"
    assert drawn.seen is not None
    assert drawn.good is not None
    assert set(drawn.seen.tolist()) == {drawn.good.sum()}, "without a least confidence every image is good as something"


def test_drawing_stops_when_all_is_there(plain: Generator) -> None:
    eyes = Eyes()
    shard(plain, [1], eyes)
    assert eyes.calls == 1


def test_only_what_the_judge_is_sure_of_is_kept(conditional: Generator, plain: Generator) -> None:
    for generator in (conditional, plain):
        labels = [0, 1, 2] * 100
        drawn = shard(generator, labels, Eyes(), Wishes(1, 0.95))
        read, sure = confidences(Eyes().read(drawn.images)[1])
        assert read.tolist() == labels
        assert drawn.confidence is not None
        np.testing.assert_array_equal(drawn.confidence, sure)
        assert sure.min() >= 0.95
        assert drawn.seen is not None
        assert drawn.good is not None
        assert (drawn.good < drawn.seen).any()
        assert (drawn.good >= 100).all()
        assert len({image.tobytes() for image in drawn.images}) == 300


def test_what_was_good_at_once_is_kept_as_it_was(conditional: Generator) -> None:
    labels = [0, 1, 2] * 100
    free, kept = shard(conditional, labels), shard(conditional, labels, Eyes(), Wishes(1, 0.9))
    read, sure = confidences(Eyes().read(free.images)[1])
    good = (read == labels) & (sure >= 0.9)
    assert 0 < good.sum() < 300
    same = [image.tobytes() for image in kept.images]
    assert all(image.tobytes() in same for image in free.images[good])


def test_a_class_that_never_comes_is_named(
    conditional: Generator, plain: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 3)
    with pytest.raises(
        LekhaniError,
        match=r"Of 1,024 images that dcgan drew the judge recognises too few as 2 \(0\); .*model that takes labels",
    ):
        shard(plain, [0, 1, 2], Eyes(blind=(2,)))
    with pytest.raises(
        LekhaniError,
        match=r"at least 90% sure of too few as 2 \(0\); ask for fewer of them, or take a lower --min-confidence",
    ):
        shard(conditional, [0, 1, 2], Eyes(blind=(2,)), Wishes(1, 0.9))


def test_tries_are_bounded_even_when_some_are_good(plain: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 3)
    monkeypatch.setattr(sampling, "TRIES", 2)
    eyes = Eyes()
    read = eyes.read

    def rarely(images: Bytes) -> tuple[Any, Any]:
        features, logits = read(images)
        only = np.zeros_like(logits)
        only[:, 0] = 9
        only[0] = [0, 0, 9]
        return features, only

    eyes.read = rarely  # type: ignore[method-assign]
    with pytest.raises(LekhaniError, match=r"too few as 2 \(6\)"):
        shard(plain, [2] * 300, eyes)


def test_patience_starts_anew_with_every_gain(plain: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 3)
    eyes = Eyes()
    read = eyes.read

    def late(images: Bytes) -> tuple[Any, Any]:
        features, logits = read(images)
        return (
            (features, logits)
            if eyes.calls % 3 == 0
            else (features, np.eye(3, dtype=np.float32)[np.zeros(len(images), int)])
        )

    eyes.read = late  # type: ignore[method-assign]
    assert len(shard(plain, [2] * 300, eyes).images) == 300
    assert eyes.calls > 9


def test_without_a_judge_nothing_can_be_chosen(conditional: Generator, plain: Generator) -> None:
    for generator, wishes, why in (
        (plain, Wishes(), "takes no labels"),
        (conditional, Wishes(0, 0.5), "is to be filtered"),
    ):
        with pytest.raises(UsageError, match=rf"{why}, so a judge must pick .* --judge models/mnist/judge/judge\.onnx"):
            wishes.check(generator, None)
        with pytest.raises(UsageError, match="A judge must pick"):
            shard(generator, [0], None, replace(wishes))
    with pytest.raises(UsageError, match="judge reads other classes"):
        Wishes().check(conditional, cast(Reader, Eyes(MNIST[1:4])))


def test_progress_is_told_in_images(conditional: Generator, plain: Generator) -> None:
    for generator, eyes in ((conditional, None), (plain, Eyes())):
        told: list[int] = []
        shard(generator, [0, 1, 2] * 100, eyes, batch_size=64, advance=told.append)
        assert sum(told) == 300
        assert len(told) > 1
