"""What a server writes with: the champion of each dataset, looked for again and again, tried out, and swapped in between two batches."""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lekhani import files
from lekhani import pen as pens
from lekhani.data.spec import Bytes, Labels, load_prepared
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.confidence import confidences
from lekhani.inference.session import Floats, Generator, Reader
from lekhani.pictures import to_uint8
from lekhani.serve.batching import Batcher
from lekhani.serve.limits import Limits
from lekhani.serve.monitor import Measure, Reference, Watch
from lekhani.serve.telemetry import Metrics

log = logging.getLogger("lekhani")
TRIED = 8  # images of each class in the self-test
PROBES = 32  # images that a look at the sample adds at most


@dataclass(frozen=True)
class Choice:
    """Which generator to serve: the champion of `dataset` in the registry, or the file `model` with its judge."""

    dataset: str
    model: Path | None = None
    judge: Path | None = None


@dataclass(eq=False)
class Served:
    """A generator at work, with its queue and its watch (None where there is no judge)."""

    dataset: str
    pen: pens.Pen
    version: str  # number in the registry, "" for a file
    alias: str
    card: dict[str, Any]
    lane: Batcher
    watch: Watch | None
    measures: dict[str, Measure] = field(default_factory=dict)
    written: int = 0  # images, for clients

    @property
    def generator(self) -> Generator:
        """The generator itself."""
        return self.pen.generator

    def about(self) -> dict[str, str]:
        """Which model an image is from."""
        return {"dataset": self.dataset, "version": self.version, "sha256": self.generator.sha256}


class Champions:
    """All that is served, by dataset. Its coroutines belong to one event loop; `agreement` is what a self-test asks at least."""

    def __init__(self, choices: Sequence[Choice], limits: Limits, metrics: Metrics, agreement: float) -> None:
        self.choices, self.limits, self.metrics, self.agreement = choices, limits, metrics, agreement
        self.served: dict[str, Served] = {}
        self.trouble: dict[str, str] = {}  # by dataset: why the registry's champion is not served, or the registry away
        self._refused: dict[
            str, str
        ] = {}  # by dataset: the version that failed its self-test, which is not tried again
        self._retiring: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load all; raises LekhaniError when one cannot be served."""
        for choice in self.choices:
            made = (
                await asyncio.to_thread(self._from_file, choice) if choice.model else await self._newest(choice.dataset)
            )
            if made is not None:
                self._put(made)

    async def poll(self) -> None:
        """Ask the registry for new champions and take them over; whatever goes wrong, those that are served stay."""
        for choice in self.choices:
            if choice.model is None:
                try:
                    made = await self._newest(choice.dataset)
                    self._trouble(choice.dataset, None)
                    if made is not None:
                        self._put(made)
                except LekhaniError as error:
                    self._trouble(choice.dataset, str(error))

    async def look(self) -> None:
        """Let every watch look at what was written, and at a few images more."""
        for served in list(self.served.values()):
            if served.watch is not None:
                probes: list[tuple[Bytes, int]] = []
                labels = served.watch.wanting(PROBES)
                if served.lane.waiting < self.limits.batch:  # clients go first
                    images = await served.lane.alone(partial(_probe, served.pen, labels))
                    probes = list(zip(images, labels.tolist(), strict=True))
                served.measures = await asyncio.to_thread(served.watch.look, probes)
                self._tell(served)

    async def close(self) -> None:
        """Finish what waits."""
        await asyncio.gather(*(served.lane.close() for served in self.served.values()), *self._retiring)

    async def _newest(self, dataset: str) -> Served | None:
        """The registry's champion, or while there is none its challenger, tried out; None when it is served already or was refused before."""
        from lekhani.registry import models

        try:
            known = await asyncio.to_thread(models.aliases, dataset)
        except LekhaniError:
            self.metrics.registry_up.labels(dataset).set(0)
            raise
        self.metrics.registry_up.labels(dataset).set(1)
        alias = "champion" if "champion" in known else "challenger"
        number, served = known.get(alias, ""), self.served.get(dataset)
        if not number and served is None:
            raise LekhaniError(
                f"Nothing is registered as {models.model_name(dataset)}; run `make demo`, or serve a file with --model FILE.onnx."
            )
        if not number or (served is not None and served.version == number):
            self._refused.pop(dataset, None)
            return None
        if self._refused.get(dataset) == number:
            raise LekhaniError(self.trouble[dataset])
        try:
            found = await asyncio.to_thread(models.fetch, dataset, number, alias)
        except LekhaniError:
            self.metrics.kept_out.labels(dataset, "fetch").inc()
            raise
        try:
            return await asyncio.to_thread(self._from_registry, dataset, found)
        except LekhaniError:
            self._refused[dataset] = number
            self.metrics.kept_out.labels(dataset, "self-test").inc()
            raise

    def _from_registry(self, dataset: str, found: Any) -> Served:
        origin = f"{found.name} version {found.version}"
        generator, reader = Generator(found.generator, precision="auto"), Reader(found.judge) if found.judge else None
        card = files.read_json(found.scorecard) if found.scorecard else {}
        pen = pens.Pen(generator, reader, origin, f"{found.name}:{found.version}")
        kept = found.generator.with_name("reference.npz")
        return self._tried(
            dataset, pen, found.version, found.alias, card, Reference.load(kept) if kept.exists() else None
        )

    def _from_file(self, choice: Choice) -> Served:
        pen = pens.find("", choice.model, choice.judge)
        return self._tried(choice.dataset, pen, "", "", {}, None)

    def _tried(
        self, dataset: str, pen: pens.Pen, version: str, alias: str, card: dict[str, Any], reference: Reference | None
    ) -> Served:
        try_out(pen, self.agreement)
        watch = None
        if pen.reader is not None:
            if reference is None and card:
                reference = _prepared_reference(dataset, pen.reader)
            watch = Watch(pen.reader, card, reference, pen.generator.conditional)
            if card and watch.reference is None:
                log.warning(
                    "%s came without a reference of real images, so its drift is not watched; register it again to add one.",
                    pen.origin,
                )
        waiting, batches = self.metrics.waiting.labels(dataset), self.metrics.batches.labels(dataset)

        def draw(noise: Floats, labels: Labels) -> Bytes:
            return to_uint8(pen.generator.run(noise, labels))

        lane = Batcher(
            draw, self.limits.batch, self.limits.waiting_images, 0.8 * self.limits.answer_seconds, batches.observe
        )
        waiting.set_function(lambda: lane.waiting)
        return Served(dataset, pen, version, alias, card, lane, watch)

    def _put(self, new: Served) -> None:
        """From now on requests get `new`; what waits for the old one is still written by it."""
        old = self.served.get(new.dataset)
        self.served[new.dataset] = new
        if old is not None:
            self.metrics.swaps.labels(new.dataset).inc()
            self.metrics.model.remove(*_labels(old))
            retiring = asyncio.create_task(old.lane.close())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        self.metrics.model.labels(*_labels(new)).set(1)
        for gauge in (self.metrics.watched, self.metrics.promised, self.metrics.alarm):
            gauge.remove_by_labels({"dataset": new.dataset})
        log.info(
            "Writing %s with %s (%s, %s).", new.dataset, new.pen.origin, new.generator.variant, new.generator.device
        )

    def _trouble(self, dataset: str, sentence: str | None) -> None:
        if sentence is None:
            self.trouble.pop(dataset, None)
        elif self.trouble.get(dataset) != sentence:
            self.trouble[dataset] = sentence
            log.warning(
                "The champion of %s is kept out: %s What is served stays.",
                dataset,
                sentence,
                extra={"dataset": dataset},
            )

    def _tell(self, served: Served) -> None:
        for name, one in served.measures.items():
            before = self.metrics.registry.get_sample_value(
                "lekhani_watch_alarm", {"dataset": served.dataset, "measure": name}
            )
            self.metrics.watched.labels(served.dataset, name).set(one.value)
            self.metrics.alarm.labels(served.dataset, name).set(one.alarm)
            if one.expected is not None:
                self.metrics.promised.labels(served.dataset, name).set(one.expected)
            if one.alarm and not before:
                facts = {
                    "dataset": served.dataset,
                    "measure": name,
                    "value": one.value,
                    "expected": one.expected,
                    "bound": one.bound,
                }
                log.warning("What %s writes is worse than its scorecard promised.", served.pen.origin, extra=facts)


def try_out(pen: pens.Pen, agreement: float) -> None:
    """Draw every class; raises LekhaniError when a pixel is no number in [0,1], or the judge reads less than `agreement` of them as asked.

    What chance may do to so few images is allowed for.
    """
    generator, classes = pen.generator, len(pen.classes)
    labels = np.tile(np.arange(classes, dtype=np.int64), TRIED)
    noise = np.random.default_rng(0).standard_normal((len(labels), generator.noise_dim), dtype=np.float32)
    images = np.concatenate([generator.run(noise[i : i + 64], labels[i : i + 64]) for i in range(0, len(labels), 64)])
    if images.shape != (len(labels), 1, generator.image_size, generator.image_size):
        raise LekhaniError(
            f"{pen.origin} draws images of the shape {images.shape}, not what it says of itself; export it again."
        )
    if not np.isfinite(images).all() or images.min() < -0.01 or images.max() > 1.01:
        raise LekhaniError(f"{pen.origin} draws pixels that are no numbers between 0 and 1; export it again.")
    if pen.reader is None:
        return
    if pen.reader.classes != pen.classes:
        raise LekhaniError(
            f"The judge of {pen.origin} reads other classes than it draws; register it with its own judge."
        )
    if generator.conditional:
        read = float((confidences(pen.reader.read(to_uint8(images))[1])[0] == labels).mean())
        chance = 3 * math.sqrt(agreement * (1 - agreement) / len(labels))
        if read < agreement - chance:
            raise LekhaniError(
                f"The judge reads {read:.1%} of what {pen.origin} draws as asked, and the gate wants {agreement:.1%}."
            )
    else:
        pen.generate(range(classes), seed=0)


def _prepared_reference(dataset: str, reader: Reader) -> Reference | None:
    """For versions registered without one: from the prepared data of this folder, if they are here."""
    folder = Path("data/prepared") / dataset
    try:
        return Reference.of(reader, load_prepared(folder).split("test")[0])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def from_files(generators: Sequence[Path], judges: Sequence[Path]) -> list[Choice]:
    """Each generator with the judge of its dataset, if that is among `judges`; raises UsageError for two generators of one dataset."""
    readers = {Reader(path).dataset: path for path in judges}
    found: dict[str, Choice] = {}
    for path in generators:
        dataset = Generator(path).dataset
        if dataset in found:
            raise UsageError(f"{found[dataset].model} and {path} both write {dataset}; serve one of them.")
        found[dataset] = Choice(dataset, path, readers.get(dataset))
    return list(found.values())


def registered_datasets() -> list[Choice]:
    """All datasets that have a registered generator; raises LekhaniError when there is none."""
    from lekhani.registry import models

    found = [Choice(name) for name in models.datasets()]
    if not found:
        raise UsageError("Nothing is registered to serve; run `make demo`, or serve a file with --model FILE.onnx.")
    return found


def _probe(pen: pens.Pen, labels: Labels, _: object) -> Bytes:
    return pen.generate(labels.tolist(), seed=int(np.random.default_rng().integers(2**31))).images


def _labels(served: Served) -> tuple[str, str, str, str]:
    return served.dataset, served.version, served.generator.variant, served.generator.sha256
