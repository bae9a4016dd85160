"""Seeded sampling in shards.

The images of a shard depend on the model, the seed, the shard's number and its labels, and on nothing that ran before.
"""

import collections.abc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.confidence import confidences
from lekhani.inference.session import DEFAULT_BATCH_SIZE, Floats, Generator, Reader
from lekhani.pictures import to_uint8

SHARD_SIZE = 10_000  # images
FIRST_ROUND = 16  # images that a judge chooses from at first, twice as many each time
MIN_ROUND = 256  # the fewest that it chooses from after that
MAX_IDLE_ROUNDS = 200  # consecutive rounds without an accepted image
MAX_TRIES = 1000  # per requested image, on average

Counts = npt.NDArray[np.int64]
Advance = Callable[[int], object]  # hears how many images were finished
Result = TypeVar("Result")
Steps = collections.abc.Generator[tuple[Floats, Labels], Floats, Result]
"""Work that yields the noise float32 [N, noise_dim] and labels int64 [N] that it wants drawn, is sent the images
float32 [N,1,H,W], and returns its result. So whoever runs it can draw for others in between."""


@dataclass(frozen=True)
class Plan:
    """How many images of which label, spread over shards so that each holds its share of every label.

    `runs` are pairs (label, count); images keep their order, within a shard too. No shard holds more than `shard_size`
    images, and their sizes differ by one image at most.
    """

    runs: tuple[tuple[int, int], ...]
    shard_size: int = SHARD_SIZE

    @property
    def total(self) -> int:
        """Images in all."""
        return sum(count for _, count in self.runs)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.total // self.shard_size)

    def size(self, number: int) -> int:
        """How many images a shard holds."""
        return self.total // self.shards + (number < self.total % self.shards)

    def start(self, number: int) -> int:
        """The index of a shard's first image among all images."""
        return number * (self.total // self.shards) + min(number, self.total % self.shards)

    def rows(self, number: int) -> Labels:
        """Which of `runs` each image of a shard belongs to, int64 [n], ascending."""
        counts = np.array([count for _, count in self.runs], np.int64)
        whole, rest = np.divmod(counts, self.shards)
        first = np.cumsum(rest) - rest  # the shards take turns with what does not divide evenly
        return np.repeat(np.arange(len(counts)), whole + ((number - first) % self.shards < rest))

    def labels(self, number: int) -> Labels:
        """The labels of one shard, int64 [n]."""
        return np.array([label for label, _ in self.runs], np.int64)[self.rows(number)]


@dataclass(frozen=True)
class SamplingOptions:
    """What decides the images besides model and labels.

    `min_confidence` in [0,1): keep only images that the judge classifies as their label with at least this confidence.
    `truncation` above 0: noise values stay within so many standard deviations, for likelier shapes in less variety.
    Raises UsageError for values outside these ranges.
    """

    seed: int = 0
    min_confidence: float | None = None
    truncation: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise UsageError(f"The seed is {self.seed}; it must be a whole number of 0 or more.")
        if self.min_confidence is not None and not 0 <= self.min_confidence < 1:
            raise UsageError(f"The least confidence is {self.min_confidence}; it must be from 0 to below 1.")
        if self.truncation is not None and not 0 < self.truncation < math.inf:
            problem = f"The truncation is {self.truncation}"
            raise UsageError(f"{problem}; it must be a number above 0, and 2 already leaves out the rarest shapes.")

    def check(self, generator: Generator, reader: Reader | None) -> None:
        """Raise UsageError when these options need a judge and there is none, or one of other classes."""
        if reader is None and (self.min_confidence is not None or not generator.conditional):
            why = "takes no labels" if not generator.conditional else "is to be filtered"
            problem = f"{generator.path} {why}, so a judge must pick what to keep"
            raise UsageError(f"{problem}; name one, such as models/{generator.dataset}/judge/judge.onnx.")
        if reader is not None and reader.classes != generator.classes:
            problem = f"The judge reads other classes than {generator.path} writes"
            raise UsageError(f"{problem}; name the judge of the same dataset.")


@dataclass(frozen=True)
class Samples:
    """One shard: `labels` int64 [n], `images` uint8 [n,H,W], and the `noise` float32 [n, noise_dim] they are made of.

    Where a judge chose, `confidence` float32 [n] is its confidence in each image. For each class, int64 [K], it saw
    `seen` images that were requested as that class (all of them, when the generator takes no label), of which `good`
    were fit to keep.
    """

    labels: Labels
    images: Bytes
    noise: Floats
    confidence: Floats | None = None
    seen: Counts | None = None
    good: Counts | None = None


def noise_source(generator: Generator, options: SamplingOptions, number: int) -> Callable[[int], Floats]:
    """A function that draws the next n rows of a shard's noise, float32 [n, noise_dim].

    The same model, seed and shard number give the same rows.
    """
    key = np.random.SeedSequence(int(generator.sha256, 16), spawn_key=(options.seed, number))
    rng = np.random.Generator(np.random.Philox(key))

    def normal(n: int) -> Floats:
        return rng.standard_normal((n, generator.noise_dim), dtype=np.float32)

    if (bound := options.truncation) is None:
        return normal
    from scipy.special import ndtr, ndtri

    low = ndtr(-bound)

    def truncated(n: int) -> Floats:
        values: Floats = ndtri(rng.uniform(low, 1 - low, (n, generator.noise_dim))).astype(np.float32)
        return values

    return truncated


def mixed_noise(generator: Generator, mixes: Sequence[Mapping[int, float]]) -> Floats:
    """Noise float32 [N, noise_dim] between seeds: for each of `mixes` the sum of theirs by their weights.

    A seed's noise is that of its first image. Weights are scaled to unit length, so that a sum is as normally
    distributed as its parts, and a walk between two seeds lies on a sphere. Raises UsageError for weights that are not
    finite or all 0.
    """
    seeds = dict.fromkeys(seed for mix in mixes for seed in mix)
    noise = {seed: noise_source(generator, SamplingOptions(seed), 0)(1)[0] for seed in seeds}
    mixed = np.zeros((len(mixes), generator.noise_dim), np.float32)
    for row, mix in enumerate(mixes):
        weights = np.array(list(mix.values()), np.float64)
        if not (np.isfinite(weights).all() and weights.any()):
            raise UsageError(
                "The weights of a mix must be finite numbers, and not all 0; give at least one seed weight."
            )
        weights /= np.abs(weights).max()  # else the squares of extreme ones would overflow
        weights /= np.linalg.norm(weights)
        for seed, weight in zip(mix, weights.tolist(), strict=True):
            mixed[row] += np.float32(weight) * noise[seed]
    return mixed


def sample_shard(
    generator: Generator,
    reader: Reader | None,
    labels: Labels,
    options: SamplingOptions,
    number: int = 0,
    batch_size: int = 128,
    advance: Advance = lambda _: None,
) -> Samples:
    """One image per label, int64 [n].

    A conditional generator is given the labels; with `min_confidence` an image is drawn again until the judge accepts
    it. An unconditional generator is sampled until the judge has found enough images of every class. Raises
    LekhaniError naming the classes that do not come, after MAX_IDLE_ROUNDS rounds without an accepted image or
    MAX_TRIES images for each requested one.
    """
    if generator.conditional and options.min_confidence is None:
        noise = noise_source(generator, options, number)(len(labels))
        images = [to_uint8(part) for part in _run(generator, noise, labels, batch_size, advance)]
        return Samples(labels, np.concatenate(images), noise)
    return run_steps(generator, rejection_sample(generator, reader, labels, options, number, advance), batch_size)


def run_steps(generator: Generator, steps: Steps[Result], batch_size: int = DEFAULT_BATCH_SIZE) -> Result:
    """Draw what `steps` want, in batches, and return what they return."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(np.concatenate(list(_run(generator, *wanted, batch_size))))
    except StopIteration as done:
        result: Result = done.value
        return result


def _run(
    generator: Generator, noise: Floats, labels: Labels, batch_size: int, advance: Advance = lambda _: None
) -> Iterator[Floats]:
    """Batches of images float32 [n,1,H,W]."""
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        yield (images := generator.run(noise[part], labels[part]))
        advance(len(images))


def rejection_sample(
    generator: Generator,
    reader: Reader | None,
    labels: Labels,
    options: SamplingOptions,
    number: int = 0,
    advance: Advance = lambda _: None,
) -> Steps[Samples]:
    """Draw in rounds, and keep what the judge accepts; see `sample_shard`."""
    if reader is None:
        raise UsageError(f"A judge must pick what to keep of {generator.path}, and there is none.")
    noise_of, min_confidence = noise_source(generator, options, number), options.min_confidence or 0.0
    images = np.empty((len(labels), generator.image_size, generator.image_size), np.uint8)
    noise, confidence = np.empty((len(labels), generator.noise_dim), np.float32), np.empty(len(labels), np.float32)
    seen, good = np.zeros((2, len(generator.classes)), np.int64)
    missing = np.arange(len(labels))
    idle = tries = 0
    least = FIRST_ROUND if generator.conditional else MIN_ROUND
    while len(missing):
        if idle >= MAX_IDLE_ROUNDS or tries > MAX_TRIES * len(labels) + MAX_IDLE_ROUNDS * MIN_ROUND:
            raise _too_few(generator, labels[missing], tries, good, min_confidence)
        n = max(least, len(missing)) if generator.conditional else MIN_ROUND
        least = min(2 * least, MIN_ROUND)
        requested = np.resize(labels[missing], n) if generator.conditional else np.zeros(n, np.int64)
        tried = noise_of(n)
        drawn = to_uint8((yield tried, requested))
        predicted, sure = confidences(reader.read(drawn)[1])
        accepted = (sure >= min_confidence) & ((predicted == requested) if generator.conditional else True)
        tries += n
        seen += np.bincount(requested, minlength=len(seen)) if generator.conditional else n
        np.add.at(good, predicted[accepted], 1)
        before = len(missing)
        for label in np.unique(labels[missing]):
            places = missing[labels[missing] == label]
            chosen = np.flatnonzero(accepted & (predicted == label))[: len(places)]
            places = places[: len(chosen)]
            images[places], noise[places], confidence[places] = drawn[chosen], tried[chosen], sure[chosen]
            missing = np.setdiff1d(missing, places, assume_unique=True)
        advance(before - len(missing))
        idle = 0 if len(missing) < before else idle + 1
    return Samples(labels, images, noise, confidence, seen, good)


def _too_few(generator: Generator, missing: Labels, tries: int, good: Counts, min_confidence: float) -> LekhaniError:
    sure = f" and is at least {min_confidence:.0%} sure of" if min_confidence else ""
    found = ", ".join(f"{generator.classes[label].glyph} ({good[label]:,})" for label in np.unique(missing))
    advice = ["a lower confidence"] if min_confidence else []
    advice += [] if generator.conditional else ["a model that takes labels"]
    problem = f"Of {tries:,} images that {generator.variant} drew the judge recognises{sure} too few as {found}"
    return LekhaniError(f"{problem}; ask for fewer of them, or take {' or '.join(advice or ['another model'])}.")
