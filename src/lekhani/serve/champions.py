"""The models that are served: the champion of each dataset, tested and swapped in while the server runs."""

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes, Labels, load_prepared
from lekhani.errors import LekhaniError, UsageError
from lekhani.evaluate.reference import Reference
from lekhani.inference.confidence import confidences
from lekhani.inference.sampling import SamplingOptions, noise_source, rejection_sample
from lekhani.inference.session import Generator, Reader
from lekhani.paths import PREPARED
from lekhani.pen import PRETRAINED, Pen, find, find_pretrained, has_registry
from lekhani.pictures import to_uint8
from lekhani.serve.batching import Batcher
from lekhani.serve.limits import Limits
from lekhani.serve.monitor import Measure, Monitor
from lekhani.serve.telemetry import Metrics

if TYPE_CHECKING:
    from lekhani.registry.models import Registered

log = logging.getLogger("lekhani")
IMAGES_PER_CLASS = 8  # of the self-test
MAX_PROBES = 32  # images that are generated for the monitor at a time


@dataclass(frozen=True)
class ModelSource:
    """Which generator to serve: the champion of `dataset` in the registry, or the file `model` with its judge."""

    dataset: str
    model: Path | None = None
    judge: Path | None = None


@dataclass(eq=False)
class ServedModel:
    """A model that answers requests, with its queue and its monitor (None where there is no judge)."""

    dataset: str
    pen: Pen
    version: str  # number in the registry, "" for a file
    source: str  # where the registry has its files
    alias: str
    queue: Batcher
    monitor: Monitor | None
    reference: Reference | None = None  # real images of the version
    measures: dict[str, Measure] = field(default_factory=dict)
    written: int = 0  # images, for clients

    @property
    def generator(self) -> Generator:
        """The generator itself."""
        return self.pen.generator

    def describe(self) -> dict[str, str]:
        """Which model an image is from."""
        return {"dataset": self.dataset, "version": self.version, "sha256": self.generator.sha256}

    def describe_measures(self) -> dict[str, dict[str, float | bool | None]]:
        """The monitor's latest figures, by measure."""
        return {name: asdict(one) for name, one in self.measures.items()}

    async def sample(self, labels: Labels, options: SamplingOptions) -> Bytes:
        """The images uint8 [N,H,W] that `pen.generate` would draw, in batches with those of other requests."""
        pen = self.pen
        options.check(pen.generator, pen.reader)
        if pen.generator.conditional and options.min_confidence is None:
            noise = noise_source(pen.generator, options, 0)(len(labels))
            return to_uint8(await self.queue.images(noise, labels))
        samples = await self.queue.run(rejection_sample(pen.generator, pen.reader, labels, options), len(labels))
        return samples.images

    async def update_monitor(self, idle_below: int) -> None:
        """Let the monitor measure what was served, and a few images more if fewer than `idle_below` are waiting."""
        if self.monitor is None:
            return
        probes: list[tuple[Bytes, int]] = []
        labels = self.monitor.labels_to_probe(MAX_PROBES)
        if self.queue.waiting < idle_below:  # clients go first
            seed = int(np.random.default_rng().integers(2**31))
            images = await self.sample(labels, SamplingOptions(seed))
            probes = list(zip(images, labels.tolist(), strict=True))
        self.measures = await asyncio.to_thread(self.monitor.update, probes)


class Champions:
    """All served models, by dataset. Its coroutines belong to one event loop.

    `agreement` in [0,1] is the share of images that the judge must classify as requested in the self-test.
    """

    def __init__(self, sources: Sequence[ModelSource], limits: Limits, metrics: Metrics, agreement: float) -> None:
        self.sources, self.limits, self.metrics, self.agreement = sources, limits, metrics, agreement
        self.served: dict[str, ServedModel] = {}
        self.trouble: dict[str, str] = {}  # by dataset: why the registry's champion is not served
        self._rejected: dict[str, tuple[str, str]] = {}  # by dataset: what failed its self-test, not to be tried again

    async def start(self) -> None:
        """Load all; raises LekhaniError when one cannot be served."""
        for source in self.sources:
            if source.model is None:
                model = await self._newest(source.dataset)
            else:
                pen = await asyncio.to_thread(find, "", source.model, source.judge)
                model = await asyncio.to_thread(self._tested, self._ready(source.dataset, pen))
            if model is not None:
                self._swap_in(model)

    async def poll(self) -> None:
        """Swap in the registry's new champions; whatever goes wrong, those that are served stay."""
        for source in self.sources:
            if source.model is None:
                try:
                    new = await self._newest(source.dataset)
                    self.trouble.pop(source.dataset, None)
                    if new is not None:
                        self._swap_in(new)
                except LekhaniError as error:
                    if self.trouble.get(source.dataset) != str(error):  # logged once
                        self.trouble[source.dataset] = str(error)
                        message = "The champion of %s is not taken over: %s The model that is served stays."
                        log.warning(message, source.dataset, error, extra={"dataset": source.dataset})

    async def update_monitors(self) -> None:
        """Measure what was served."""
        for model in list(self.served.values()):
            await model.update_monitor(self.limits.batch)
            self._export_measures(model)

    async def _newest(self, dataset: str) -> ServedModel | None:
        """The registry's champion, or else its challenger, after its self-test.

        None when it is served already; raises LekhaniError when the registry does not answer or lacks it or its files,
        and when it cannot be served, or could not before.
        """
        from lekhani.registry import models

        served, up = self.served.get(dataset), self.metrics.registry_up.labels(dataset)
        try:
            number, source, alias = await asyncio.to_thread(models.newest, dataset)
            is_served = served is not None and (served.version, served.source) == (number, source)
            if is_served:
                await asyncio.to_thread(models.check_there, dataset, number)
        except LekhaniError:
            up.set(0)
            raise
        up.set(1)
        if is_served:
            self._rejected.pop(dataset, None)
            return None
        if self._rejected.get(dataset) == (number, source):
            raise LekhaniError(self.trouble[dataset])
        try:
            found = await asyncio.to_thread(models.fetch, dataset, number, alias)
        except LekhaniError:
            self.metrics.rejected.labels(dataset, "fetch").inc()
            raise
        try:
            return await asyncio.to_thread(lambda: self._tested(self.load(dataset, found)))
        except LekhaniError:
            self._rejected[dataset] = number, source
            self.metrics.rejected.labels(dataset, "self-test").inc()
            raise

    def load(self, dataset: str, found: "Registered") -> ServedModel:
        """A registered version, which has yet to pass its self-test; raises LekhaniError for damaged files."""
        generator, reader = Generator(found.generator, precision="auto"), Reader(found.judge) if found.judge else None
        pen = Pen(generator, reader, f"{found.name} version {found.version}", f"{found.name}:{found.version}")
        card = files.read_json(found.scorecard) if found.scorecard else {}
        kept = found.generator.with_name("reference.npz")
        reference = Reference.load(kept) if kept.exists() else None
        return self._ready(dataset, pen, found.version, found.source, found.alias, card, reference)

    def _tested(self, model: ServedModel) -> ServedModel:
        """The model itself; raises LekhaniError when it fails its self-test."""
        self_test(model.pen, self.agreement, model.reference)
        return model

    def _ready(
        self,
        dataset: str,
        pen: Pen,
        version: str = "",
        source: str = "",
        alias: str = "",
        card: dict[str, Any] | None = None,
        reference: Reference | None = None,
    ) -> ServedModel:
        """The model with its queue and monitor."""
        if reference is None and card and pen.reader is not None:  # from the prepared data of this folder, if any
            with suppress(OSError, ValueError, KeyError, TypeError):
                reference = Reference.of(pen.reader, *load_prepared(PREPARED / dataset).split("test"))
        monitor = None
        if pen.reader is not None:
            monitor = Monitor(pen.reader, card or {}, reference, pen.generator.conditional)
            if card and (monitor.reference is None or not len(monitor.reference.labels)):
                message = "%s came without real images by which to test its judge and its drift; register it again."
                log.warning(message, pen.origin)
        on_batch, limits = self.metrics.batches.labels(dataset).observe, self.limits
        seconds = 0.8 * limits.answer_seconds
        queue = Batcher(pen.generator.run, limits.batch, limits.waiting_images, seconds, on_batch)
        return ServedModel(dataset, pen, version, source, alias, queue, monitor, reference)

    def _swap_in(self, new: ServedModel) -> None:
        """Answer new requests with `new`; the old model still answers those that wait for it."""
        old = self.served.get(new.dataset)
        self.served[new.dataset] = new
        if old is not None:
            self.metrics.swaps.labels(new.dataset).inc()
            self.metrics.model.remove(*_model_labels(old))
        self.metrics.waiting.labels(new.dataset).set_function(lambda: new.queue.waiting)
        self.metrics.model.labels(*_model_labels(new)).set(1)
        for gauge in (self.metrics.measured, self.metrics.expected, self.metrics.alarm):
            gauge.remove_by_labels({"dataset": new.dataset})
        variant, device = new.generator.variant, new.generator.device
        log.info("Writing %s with %s (%s, %s).", new.dataset, new.pen.origin, variant, device)

    def _export_measures(self, model: ServedModel) -> None:
        for name, one in model.measures.items():
            labels = {"dataset": model.dataset, "measure": name}
            before = self.metrics.registry.get_sample_value("lekhani_watch_alarm", labels)
            self.metrics.measured.labels(**labels).set(one.value)
            self.metrics.alarm.labels(**labels).set(one.alarm)
            if one.expected is not None:
                self.metrics.expected.labels(**labels).set(one.expected)
            if one.alarm and not before:
                facts = {**labels, "value": one.value, "expected": one.expected, "bound": one.bound}
                log.warning("What %s writes is worse than its scorecard promised.", model.pen.origin, extra=facts)


def self_test(pen: Pen, agreement: float, reference: Reference | None = None) -> None:
    """Generate a few images of every class, and let the judge read them and the known images of the reference.

    Raises LekhaniError when a pixel is no number in [0,1], when the judge classifies less than the share `agreement` as
    requested, allowing for chance, and when it takes the known images of a class for another.
    """
    generator, classes = pen.generator, len(pen.classes)
    labels = np.tile(np.arange(classes, dtype=np.int64), IMAGES_PER_CLASS)
    noise = np.random.default_rng(0).standard_normal((len(labels), generator.noise_dim), dtype=np.float32)
    images = np.concatenate([generator.run(noise[i : i + 64], labels[i : i + 64]) for i in range(0, len(labels), 64)])
    if not np.isfinite(images).all() or images.min() < -0.01 or images.max() > 1.01:
        raise LekhaniError(f"{pen.origin} draws pixels that are no numbers between 0 and 1; export it again.")
    if pen.reader is None:
        return
    if pen.reader.classes != pen.classes:
        problem = f"The judge of {pen.origin} reads other classes than it draws"
        raise LekhaniError(f"{problem}; register it with its own judge.")
    if reference is not None and (wrong := reference.misread(pen.reader)):
        problem = f"The judge of {pen.origin} takes real images of {' '.join(pen.classes[k].glyph for k in wrong)}"
        raise LekhaniError(f"{problem} for other classes; register the model with a judge that reads them.")
    if not generator.conditional:
        pen.generate(range(classes), seed=0)  # raises where the judge does not find every class
        return
    predicted, _ = confidences(pen.reader.read(to_uint8(images))[1])
    share, chance = float((predicted == labels).mean()), 3 * math.sqrt(agreement * (1 - agreement) / len(labels))
    if share < agreement - chance:
        problem = f"The judge reads {share:.1%} of what {pen.origin} draws as requested,"
        raise LekhaniError(f"{problem} and the gate wants {agreement:.1%}.")


def find_sources(
    datasets: Sequence[str], generators: Sequence[Path] = (), judges: Sequence[Path] = ()
) -> list[ModelSource]:
    """What to serve: the files `generators`, or else the champions of `datasets`, or else of all that are registered.

    Where nothing is registered, that is what comes with the package. A file comes with the one of `judges` for its
    dataset, if any. Raises UsageError for two files of one dataset.
    """
    readers = {Reader(path).dataset: path for path in judges} if generators else {}
    found: dict[str, ModelSource] = {}
    for path in generators:
        dataset = Generator(path).dataset
        if dataset in found:
            raise UsageError(f"{found[dataset].model} and {path} both write {dataset}; serve one of them.")
        found[dataset] = ModelSource(dataset, path, readers.get(dataset))
    if not found and not datasets:
        if has_registry():
            from lekhani.registry import models

            datasets = models.datasets()
        datasets = datasets or sorted(folder.name for folder in PRETRAINED.iterdir())
    return list(found.values()) or [_named_source(name) for name in datasets]


def _named_source(dataset: str) -> ModelSource:
    pretrained = find_pretrained(dataset)
    return ModelSource(dataset, pretrained.generator, pretrained.judge) if pretrained else ModelSource(dataset)


def _model_labels(model: ServedModel) -> tuple[str, str, str, str]:
    return model.dataset, model.version, model.generator.variant, model.generator.sha256
