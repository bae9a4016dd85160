"""One shard of a dataset of generated glyphs: what decides it, and how it is written."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lekhani.data.spec import GlyphClass
from lekhani.generate.formats import LAYOUTS, Format, Place
from lekhani.generate.store import UNFINISHED, Store
from lekhani.inference.model import LoadedModel
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
from lekhani.inference.session import Generator, Reader


@dataclass(frozen=True)
class Request:
    """What a dataset is to hold and how: the labels of `plan`, the `wishes` for its images, the `format` of its files."""

    plan: Plan
    wishes: SamplingOptions
    format: Format = "png"

    def told(self, pen: LoadedModel) -> dict[str, Any]:
        """All that decides the bytes, ready for JSON."""
        judged = not pen.generator.conditional or self.wishes.min_confidence is not None
        return {
            "model_sha256": pen.generator.sha256,
            "judge_sha256": pen.reader.sha256 if judged and pen.reader else None,
            "labels": [[pen.classes[label].name, count] for label, count in self.plan.runs],
            "format": self.format,
            "seed": self.wishes.seed,
            "min_confidence": self.wishes.min_confidence,
            "truncation": self.wishes.truncation,
            "shard_size": self.plan.shard_size,
            "device": pen.generator.device,
            "precision": pen.generator.precision,
        }


@dataclass(frozen=True)
class Job:
    """What is needed, besides a pen, to make any shard of a dataset."""

    request: Request
    out: str
    batch_size: int

    def place(self, number: int, classes: Sequence[GlyphClass]) -> Place:
        """Which part of the dataset a shard is."""
        plan = self.request.plan
        return Place(number, plan.shards, plan.start(number), plan.labels(number), classes)


def write_shard(
    job: Job,
    generator: Generator,
    reader: Reader | None,
    number: int,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Draw one shard and bring its files to where they belong, then the record that it is finished."""
    store, place, layout = Store(job.out), job.place(number, generator.classes), LAYOUTS[job.request.format]
    with store.errors(), store.workplace() as folder:
        drawn = sample_shard(generator, reader, place.labels, job.request.wishes, number, job.batch_size, advance)
        layout.write(folder, place, drawn.images, drawn.confidence)
        names = layout.names(place)
        record = {
            "number": number,
            "images": len(drawn.images),
            "sha256": Store(str(folder)).digest(names),
            "seen": None if drawn.seen is None else drawn.seen.tolist(),
            "good": None if drawn.good is None else drawn.good.tolist(),
        }
        store.place(folder, names)
        store.write(record_name(number), json.dumps(record))


def record_name(number: int) -> str:
    """The file that says that a shard is finished, and how it came out."""
    return f"{UNFINISHED}/{number:05d}.json"
