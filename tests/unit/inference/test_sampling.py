"""A shard depends on model, seed, number and labels; images that the judge rejects are drawn again, within bounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fake_judge import FakeJudge
from hypothesis import given, settings
from hypothesis import strategies as st

from lekhani.data.spec import MNIST, Bytes
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference import sampling
from lekhani.inference.confidence import confidences
from lekhani.inference.sampling import Plan, Samples, SamplingOptions, noise_source, sample_shard
from lekhani.inference.session import Generator, Reader

ToyGenerator = Callable[..., Path]
FILTERED = SamplingOptions(1, 0.9, 1.5)


@pytest.fixture(scope="module")
def conditional(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(toy_generator(tmp_path_factory.mktemp("c") / "g.onnx"), "cpu")


@pytest.fixture(scope="module")
def unconditional(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(toy_generator(tmp_path_factory.mktemp("u") / "g.onnx", conditional=False), "cpu")


def shard(
    generator: Generator,
    labels: list[int],
    judge: FakeJudge | None = None,
    options: SamplingOptions | None = None,
    **rest: Any,
) -> Samples:
    return sample_shard(
        generator, cast(Reader, judge), np.array(labels, np.int64), options or SamplingOptions(1), **rest
    )


# --- the plan ---


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), min_size=1, max_size=8), st.integers(1, 40))
def test_shards_are_fair_and_hold_all_that_was_requested(runs: list[tuple[int, int]], shard_size: int) -> None:
    plan = Plan(tuple(runs), shard_size)
    rows = [plan.rows(number) for number in range(plan.shards)]
    for i, (_, count) in enumerate(runs):
        shares = [int((one == i).sum()) for one in rows]
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 1
    sizes = [len(one) for one in rows]
    assert max(sizes) <= shard_size
    assert max(sizes) - min(sizes) <= 1
    assert [plan.start(number) for number in range(plan.shards + 1)] == [0, *np.cumsum(sizes).tolist()]
    assert all((np.diff(one) >= 0).all() for one in rows)


# --- noise ---


def test_noise_depends_on_model_seed_and_number(conditional: Generator, unconditional: Generator) -> None:
    def noise(generator: Generator = conditional, seed: int = 1, number: int = 0) -> Any:
        return noise_source(generator, SamplingOptions(seed), number)(4)

    np.testing.assert_array_equal(noise(), noise())
    others = [noise(unconditional), noise(seed=2), noise(number=1), noise(seed=0, number=1), noise(seed=2**40 + 1)]
    assert all(not np.array_equal(noise(), other) for other in others)
    assert noise().dtype == np.float32


def test_truncated_noise_stays_within_its_bound(conditional: Generator) -> None:
    noise = noise_source(conditional, SamplingOptions(1, truncation=0.5), 0)(2000)
    assert noise.dtype == np.float32
    assert 0.49 < np.abs(noise).max() <= 0.5
    assert abs(noise.mean()) < 0.01
    assert 0.26 < noise.std() < 0.30, "a normal distribution cut at half a deviation, not one squeezed into it"


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"min_confidence": 1.0}, {"min_confidence": -0.1}, {"truncation": 0}, {"truncation": float("nan")}],
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be"):
        SamplingOptions(**wrong)


# --- sampling ---


@pytest.mark.parametrize("options", [SamplingOptions(1), FILTERED], ids=["plain", "filtered"])
@pytest.mark.parametrize("which", ["conditional", "unconditional"])
def test_images_are_made_of_their_noise_whatever_the_batch_size(
    which: str, options: SamplingOptions, request: pytest.FixtureRequest
) -> None:
    generator = request.getfixturevalue(which)
    whole = shard(generator, [0, 1, 2] * 30, FakeJudge(), options, batch_size=1000)
    remade = np.rint(generator.run(whole.noise, whole.labels)[:, 0] * 255).astype(np.uint8)
    np.testing.assert_array_equal(remade, whole.images)
    for size in (1, 7, 64):
        again = shard(generator, [0, 1, 2] * 30, FakeJudge(), options, batch_size=size)
        np.testing.assert_array_equal(again.images, whole.images)
        np.testing.assert_array_equal(again.noise, whole.noise)


def test_an_unconditional_generator_is_filtered_by_the_judge(unconditional: Generator) -> None:
    labels = [2] * 70 + [0, 1, 2, 0] + [1] * 300
    samples = shard(unconditional, labels, FakeJudge())
    assert FakeJudge().read(samples.images)[1].argmax(1).tolist() == labels
    assert len({image.tobytes() for image in samples.images}) > 360, "no image is used twice"
    assert samples.seen is not None
    assert samples.good is not None
    assert set(samples.seen.tolist()) == {samples.good.sum()}, "without a least confidence every image is good"


def test_only_images_with_enough_confidence_are_kept(conditional: Generator, unconditional: Generator) -> None:
    for generator in (conditional, unconditional):
        labels = [0, 1, 2] * 100
        samples = shard(generator, labels, FakeJudge(), SamplingOptions(1, 0.95))
        predicted, sure = confidences(FakeJudge().read(samples.images)[1])
        assert predicted.tolist() == labels
        assert samples.confidence is not None
        np.testing.assert_array_equal(samples.confidence, sure)
        assert sure.min() >= 0.95
        assert samples.seen is not None
        assert samples.good is not None
        assert (samples.good < samples.seen).any()
        assert (samples.good >= 100).all()
        assert len({image.tobytes() for image in samples.images}) == 300


def test_images_accepted_in_the_first_round_are_those_of_the_unfiltered_shard(conditional: Generator) -> None:
    labels = [0, 1, 2] * 100
    free, kept = shard(conditional, labels), shard(conditional, labels, FakeJudge(), SamplingOptions(1, 0.9))
    predicted, sure = confidences(FakeJudge().read(free.images)[1])
    good = (predicted == labels) & (sure >= 0.9)
    assert 0 < good.sum() < 300
    same = {image.tobytes() for image in kept.images}
    assert all(image.tobytes() in same for image in free.images[good])


def test_one_filtered_image_takes_few_tries(conditional: Generator) -> None:
    few = shard(conditional, [1], FakeJudge(), SamplingOptions(1, 0.5)).seen
    assert few is not None
    assert few.sum() == sampling.FIRST_ROUND


# --- the bounds ---


def test_a_class_that_never_comes_is_named(
    conditional: Generator, unconditional: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MAX_IDLE_ROUNDS", 3)
    without_2 = FakeJudge(never=(2,))
    sentence = r"Of 1,024 images that dcgan drew the judge recognises too few as 2 \(0\); .*model that takes labels"
    with pytest.raises(LekhaniError, match=sentence):
        shard(unconditional, [0, 1, 2], without_2)
    sentence = r"at least 90% sure of too few as 2 \(0\); ask for fewer of them, or take a lower confidence"
    with pytest.raises(LekhaniError, match=sentence):
        shard(conditional, [0, 1, 2], without_2, SamplingOptions(1, 0.9))


def test_tries_are_bounded_even_when_some_images_are_accepted(
    unconditional: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RareJudge(FakeJudge):
        """Finds label 2 in one image of every third round, and label 0 in all others."""

        def read(self, images: Bytes) -> tuple[Any, Any]:
            features, logits = super().read(images)
            logits[:] = [9, 0, 0]
            if self.calls % 3 == 0:
                logits[0] = [0, 0, 9]
            return features, logits

    monkeypatch.setattr(sampling, "MAX_IDLE_ROUNDS", 3)
    judge = RareJudge()
    assert len(shard(unconditional, [2] * 4, judge).images) == 4, "idle rounds are counted from the last one accepted"
    assert judge.calls == 12
    monkeypatch.setattr(sampling, "MAX_TRIES", 2)
    with pytest.raises(LekhaniError, match=r"too few as 2 \(2\)"):
        shard(unconditional, [2] * 300, RareJudge())


def test_without_a_fitting_judge_nothing_can_be_chosen(conditional: Generator, unconditional: Generator) -> None:
    for generator, options, why in (
        (unconditional, SamplingOptions(), "takes no labels"),
        (conditional, SamplingOptions(0, 0.5), "is to be filtered"),
    ):
        with pytest.raises(UsageError, match=rf"{why}, so a judge must .* such as models/mnist/judge/judge\.onnx"):
            options.check(generator, None)
        with pytest.raises(UsageError, match="A judge must pick"):
            shard(generator, [0], None, options)
    with pytest.raises(UsageError, match="judge reads other classes"):
        SamplingOptions().check(conditional, cast(Reader, FakeJudge(MNIST[1:4])))
