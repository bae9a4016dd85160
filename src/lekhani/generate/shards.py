"""Writing one shard of a dataset: its request, its images, its files and the record that it is finished."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lekhani.data.spec import GlyphClass
from lekhani.errors import UsageError
from lekhani.generate.datasheet import ShardRecord
from lekhani.generate.formats import FORMATS, FormatName, Shard
from lekhani.generate.store import UNFINISHED, Store
from lekhani.inference.sampling import Advance, Plan, SamplingOptions, sample_shard
from lekhani.inference.session import Generator, LoadedModel, Reader


@dataclass(frozen=True)
class DatasetRequest:
    """The dataset to write: the labels of `plan`, the `options` for its images, the `format` of its files."""

    plan: Plan
    options: SamplingOptions
    format: FormatName = "png"

    def describe(self, pen: LoadedModel) -> dict[str, Any]:
        """All that decides the bytes, ready for JSON."""
        judged = not pen.generator.conditional or self.options.min_confidence is not None
        return {
            "model_sha256": pen.generator.sha256,
            "judge_sha256": pen.reader.sha256 if judged and pen.reader else None,
            "labels": [[pen.classes[label].name, count] for label, count in self.plan.runs],
            "format": self.format,
            "seed": self.options.seed,
            "min_confidence": self.options.min_confidence,
            "truncation": self.options.truncation,
            "shard_size": self.plan.shard_size,
            "device": pen.generator.device,
            "precision": pen.generator.precision,
        }


def digest(described: Mapping[str, Any]) -> str:
    """SHA-256 of a described request."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """What is needed, besides the models, to write any shard of a dataset; `digest` is that of its description."""

    request: DatasetRequest
    digest: str
    out: str
    batch_size: int

    def shard(self, number: int, classes: Sequence[GlyphClass]) -> Shard:
        """Which part of the dataset a shard is."""
        plan = self.request.plan
        return Shard(number, plan.shards, plan.start(number), plan.labels(number), classes)


def write_shard(
    job: Job, generator: Generator, reader: Reader | None, number: int, advance: Advance = lambda _: None
) -> None:
    """Sample one shard, move its files to their places, then write the record that it is finished."""
    store, shard, format = Store(job.out), job.shard(number, generator.classes), FORMATS[job.request.format]
    with store.errors(), store.workspace() as folder:
        samples = sample_shard(generator, reader, shard.labels, job.request.options, number, job.batch_size, advance)
        format.write(folder, shard, samples.images, samples.confidence)
        names = format.names(shard)
        record = ShardRecord(
            number=number,
            images=len(samples.images),
            sha256=Store(str(folder)).digest(names) or "",
            request=job.digest,
            seen=None if samples.seen is None else tuple(samples.seen.tolist()),
            good=None if samples.good is None else tuple(samples.good.tolist()),
        )
        store.publish(folder, names)
        store.write(record_name(number), record.model_dump_json())


def read_record(store: Store, job: Job, number: int, n_classes: int) -> ShardRecord | None:
    """The record of a shard; None where it is missing, damaged, or of another request."""
    with suppress(UsageError):
        record = store.read(record_name(number), ShardRecord)
        expected = (number, job.request.plan.size(number), job.digest)
        if (
            record
            and (record.number, record.images, record.request) == expected
            and record.classes in {None, n_classes}
        ):
            return record
    return None


def record_name(number: int) -> str:
    """The file that says that a shard is finished, with its digest and the judge's figures."""
    return f"{UNFINISHED}/{number:05d}.json"
