"""Glyphs piece by piece: a shard depends on the model, the seed, its number and what it is asked for, and on nothing that ran before."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.confidence import confidences
from lekhani.inference.session import Floats, Generator, Reader
from lekhani.pictures import to_uint8

SHARD = 10_000  # images
ROUND = 256  # images that a judge chooses from at a time, at the least
PATIENCE = 200  # rounds without an image to keep
TRIES = 1000  # for each image, on average

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """How many images of which label, spread over shards so that each holds its share of every label.

    `runs` are pairs (label, count) in the order asked for, which is the order within a shard too. Shards are of `shard_size` images or
    less, and differ by one image at most.
    """

    runs: tuple[tuple[int, int], ...]
    shard_size: int = SHARD

    @property
    def total(self) -> int:
        """Images in all."""
        return sum(count for _, count in self.runs)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.total // self.shard_size)

    def start(self, number: int) -> int:
        """The place of a shard's first image among all images."""
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
class Wishes:
    """What decides the images besides model and labels.

    `min_confidence`: keep only what the judge reads as the label at least so surely. `truncation`: noise values stay within so many
    standard deviations, for likelier shapes in less variety.
    """

    seed: int = 0
    min_confidence: float | None = None
    truncation: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be wished for."""
        if self.seed < 0:
            raise UsageError(f"The seed is {self.seed}; it must be 0 or more.")
        if self.min_confidence is not None and not 0 <= self.min_confidence < 1:
            raise UsageError(f"The least confidence is {self.min_confidence}; it must be from 0 to below 1.")
        if self.truncation is not None and not 0 < self.truncation < math.inf:
            raise UsageError(
                f"The truncation is {self.truncation}; it must be a number above 0, and 2 already leaves out the rarest shapes."
            )

    def check(self, generator: Generator, reader: Reader | None) -> None:
        """Raise UsageError when these wishes need a judge and there is none, or one of other classes."""
        if reader is None and (self.min_confidence is not None or not generator.conditional):
            why = "takes no labels" if not generator.conditional else "is to be filtered"
            raise UsageError(
                f"{generator.path} {why}, so a judge must pick what to keep; pass --judge models/{generator.dataset}/judge/judge.onnx."
            )
        if reader is not None and reader.classes != generator.classes:
            raise UsageError(
                f"The judge reads other classes than {generator.path} writes; pass the judge of the same dataset."
            )


@dataclass(frozen=True)
class Drawn:
    """One shard: `labels` int64 [n], `images` uint8 [n,H,W], the `noise` float32 [n, noise_dim] they are made of.

    Where a judge chose, `confidence` float32 [n] says how sure it was. For each class, int64 [K], it saw `seen` images that were to be of
    that class (all of them, when the generator takes no label), and `good` of those were worth keeping.
    """

    labels: Labels
    images: Bytes
    noise: Floats
    confidence: Floats | None = None
    seen: Counts | None = None
    good: Counts | None = None


def noise_source(generator: Generator, wishes: Wishes, number: int) -> Callable[[int], Floats]:
    """What draws n rows of a shard's noise, float32 [n, noise_dim]: the same rows for the same model, seed and shard number."""
    rng = np.random.Generator(
        np.random.Philox(np.random.SeedSequence(int(generator.sha256, 16), spawn_key=(wishes.seed, number)))
    )

    def normal(n: int) -> Floats:
        return rng.standard_normal((n, generator.noise_dim), dtype=np.float32)

    if (bound := wishes.truncation) is None:
        return normal
    from scipy.special import ndtr, ndtri

    low = ndtr(-bound)

    def truncated(n: int) -> Floats:
        values: Floats = ndtri(rng.uniform(low, 1 - low, (n, generator.noise_dim))).astype(np.float32)
        return values

    return truncated


def draw_shard(
    generator: Generator,
    reader: Reader | None,
    labels: Labels,
    wishes: Wishes,
    number: int = 0,
    batch_size: int = 128,
    advance: Callable[[int], object] = lambda _: None,
) -> Drawn:
    """Draw one image per label.

    A conditional generator is told its labels; with `min_confidence` images are drawn again until the judge recognises them. Any other
    generator is sampled until the judge has recognised enough of every class. `advance` hears of images as they are there. Raises
    LekhaniError naming the classes that do not come, after PATIENCE rounds without an image to keep or TRIES images for each that was asked for.
    """
    noise_of = noise_source(generator, wishes, number)
    if generator.conditional and wishes.min_confidence is None:
        noise = noise_of(len(labels))
        images = np.empty((len(labels), generator.image_size, generator.image_size), np.uint8)
        for part in _parts(len(labels), batch_size):
            images[part] = to_uint8(generator.run(noise[part], labels[part]))
            advance(len(images[part]))
        return Drawn(labels, images, noise)
    if reader is None:
        raise UsageError(f"A judge must pick what to keep of {generator.path}, and there is none.")
    return _chosen(generator, reader, labels, wishes.min_confidence or 0.0, noise_of, batch_size, advance)


def _chosen(
    generator: Generator,
    reader: Reader,
    labels: Labels,
    min_confidence: float,
    noise_of: Callable[[int], Floats],
    batch_size: int,
    advance: Callable[[int], object],
) -> Drawn:
    """Draw in rounds, of which the judge keeps what fits."""
    images = np.empty((len(labels), generator.image_size, generator.image_size), np.uint8)
    noise, confidence = np.empty((len(labels), generator.noise_dim), np.float32), np.empty(len(labels), np.float32)
    seen, good = np.zeros((2, len(generator.classes)), np.int64)
    open_places = {int(label): list(np.flatnonzero(labels == label)[::-1]) for label in np.unique(labels)}
    idle = tries = 0
    while open_places:
        if idle >= PATIENCE or tries > TRIES * len(labels) + PATIENCE * ROUND:
            raise _given_up(generator, open_places, tries, good, min_confidence)
        waiting = labels[np.sort(np.concatenate(list(open_places.values())))]
        asked = np.resize(waiting, max(ROUND, len(waiting))) if generator.conditional else np.zeros(ROUND, np.int64)
        tried = noise_of(len(asked))
        drawn = np.concatenate(
            [to_uint8(generator.run(tried[part], asked[part])) for part in _parts(len(asked), batch_size)]
        )
        read, sure = confidences(reader.read(drawn)[1])
        fits = (sure >= min_confidence) & ((read == asked) if generator.conditional else True)
        tries += len(asked)
        seen += np.bincount(asked, minlength=len(seen)) if generator.conditional else len(asked)
        np.add.at(good, read[fits], 1)
        kept = 0
        for i in np.flatnonzero(fits).tolist():
            label = int(read[i])
            if label in open_places:
                place = open_places[label].pop()
                images[place], noise[place], confidence[place] = drawn[i], tried[i], sure[i]
                kept += 1
                if not open_places[label]:
                    del open_places[label]
        advance(kept)
        idle = 0 if kept else idle + 1
    return Drawn(labels, images, noise, confidence, seen, good)


def _given_up(
    generator: Generator, missing: dict[int, list[int]], tries: int, good: Counts, min_confidence: float
) -> LekhaniError:
    sure = f" and is at least {min_confidence:.0%} sure of" if min_confidence else ""
    told = ", ".join(f"{generator.classes[label].glyph} ({good[label]:,})" for label in missing)
    advice = ["a lower --min-confidence"] if min_confidence else []
    advice += [] if generator.conditional else ["a model that takes labels"]
    advice += [] if advice else ["another model"]
    return LekhaniError(
        f"Of {tries:,} images that {generator.variant} drew the judge recognises{sure} too few as {told}; "
        f"ask for fewer of them, or take {' or '.join(advice)}."
    )


def _parts(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))
