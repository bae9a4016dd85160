"""Shards on many cores or machines: Ray Data hands their numbers to actors, each with a session of its own."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.generate.shards import Job, write_shard
from lekhani.inference.sampling import Advance
from lekhani.inference.session import Generator, LoadedModel, Precision, Reader
from lekhani.machine import cpu_count


class ShardWriter:
    """An actor that writes shards by their numbers.

    It gets the models as bytes, since the files lie on another machine, and opens them once.
    """

    def __init__(self, job: Job, generator: bytes, judge: bytes | None, provider: str, precision: Precision) -> None:
        self.job = job
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(generator)
            self.generator = Generator(path, provider, precision)
            self.reader = None
            if judge is not None:
                path.write_bytes(judge)
                self.reader = Reader(path, provider)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the shards in the column `id`; the column `error` holds what went wrong as a sentence, or is empty."""
        errors = []
        for number in batch["id"].tolist():
            try:
                write_shard(self.job, self.generator, self.reader, number)
                errors.append("")
            except LekhaniError as error:
                errors.append(error.for_command_line)
        return {"id": batch["id"], "error": np.array(errors, dtype=object)}


def write_shards(job: Job, pen: LoadedModel, missing: Sequence[int], advance: Advance) -> None:
    """Write the `missing` shards on the Ray cluster that RAY_ADDRESS names, or on this machine's cores.

    All machines must reach `job.out`. Raises UsageError when Ray is not installed, and LekhaniError when a shard cannot
    be written.
    """
    gpu = pen.generator.device != "CPU"
    with _cluster() as ray:
        models = (pen.generator.path.read_bytes(), None if pen.reader is None else pen.reader.path.read_bytes())
        workers = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)) or 1
        resources: dict[str, Any] = {"num_gpus": 1} if gpu else {"num_cpus": 1}
        numbers = ray.data.from_items([{"id": number} for number in missing], override_num_blocks=len(missing))
        done = numbers.map_batches(
            ShardWriter,
            batch_size=1,
            fn_constructor_args=(job, *models, "auto" if gpu else "cpu", pen.generator.precision),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(workers, len(missing))),
            **resources,
        )
        for row in done.iter_rows():
            if row["error"]:
                raise LekhaniError(row["error"])
            advance(job.request.plan.size(row["id"]))


@contextmanager
def _cluster() -> Iterator[Any]:
    """The module `ray`, connected to a cluster; one that was not there before is shut down afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray; install lekhani[ray], or leave --engine out.") from error
    ours = not ray.is_initialized()
    here: dict[str, Any] = {"address": "local", "num_cpus": cpu_count(), "include_dashboard": False}
    try:
        if ours:
            address = {} if os.environ.get("RAY_ADDRESS") else here
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **address)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
    except ray.exceptions.RayError as error:
        problem = f"Ray could not finish: {first_line(error)}"
        raise LekhaniError(f"{problem}; run the same again, what is finished is kept.") from error
    finally:
        if ours:
            ray.shutdown()
