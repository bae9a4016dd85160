"""The same shards on many cores or machines: Ray Data hands their numbers to actors, each with a session of its own."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.generate.shards import Job, write_shard
from lekhani.inference.model import LoadedModel
from lekhani.inference.session import Generator, Precision, Reader
from lekhani.machine import cpu_count


class Writer:
    """An actor: it opens the models once, from their bytes, since the files lie on another machine, and writes shards by their numbers."""

    def __init__(self, job: Job, generator: bytes, judge: bytes | None, provider: str, precision: Precision) -> None:
        """Open what every shard needs."""
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
        """Write the shards whose numbers are in the column `id`; `error` is empty, or the sentence that says what went wrong."""
        errors, number = [], -1
        for number in batch["id"].tolist():
            try:
                write_shard(self.job, self.generator, self.reader, number)
                errors.append("")
            except LekhaniError as error:
                errors.append(str(error))
        return {"id": batch["id"], "error": np.array(errors, dtype=object)}


def write_shards(job: Job, pen: LoadedModel, missing: Sequence[int], advance: Callable[[int], object]) -> None:
    """Write the `missing` shards on the Ray cluster that RAY_ADDRESS names, or on one of this machine's cores.

    All machines must reach `job.out`. Raises UsageError when Ray is not installed, and LekhaniError when a shard cannot be written.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray; install lekhani[ray], or leave --engine out.") from error
    ours = not ray.is_initialized()
    gpu = pen.generator.device != "CPU"
    try:
        if ours:
            own: dict[str, Any] = {
                "address": "local",
                "num_cpus": cpu_count(),
                "include_dashboard": False,
            }
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else own))
        ray.data.DataContext.get_current().enable_progress_bars = False
        judge = None if pen.reader is None else pen.reader.path.read_bytes()
        provider = "auto" if gpu else "cpu"
        arguments = (job, pen.generator.path.read_bytes(), judge, provider, pen.generator.precision)
        workers = int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)) or 1
        each: dict[str, Any] = {"num_gpus": 1} if gpu else {"num_cpus": 1}
        numbers = ray.data.from_items([{"id": number} for number in missing], override_num_blocks=len(missing))
        done = numbers.map_batches(
            Writer,
            batch_size=1,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(workers, len(missing))),
            **each,
        )
        for row in done.iter_rows():
            if row["error"]:
                raise LekhaniError(row["error"])
            advance(len(job.request.plan.labels(row["id"])))
    except ray.exceptions.RayError as error:
        raise LekhaniError(
            f"Ray could not finish: {first_line(error)}; run the same again, what is finished is kept."
        ) from error
    finally:
        if ours:
            ray.shutdown()
