"""The curves and sample grids of a training, in its MLflow run."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from lekhani.errors import first_line
from lekhani.pictures import Picture, enlarged
from lekhani.tracking.store import connect
from lekhani.tracking.unlogged import Item, keep, now
from lekhani.train.reporter import Reporter

log = logging.getLogger("lekhani")


class MlflowReporter(Reporter):
    """Logs the curves and sample grids of a training run to MLflow as they come.

    While MLflow does not answer, training goes on and they wait in memory; they are logged once it is back. What is
    still unlogged at the end is kept for the next stage (see `unlogged`).
    """

    RETRY_SECONDS = 30.0  # between two attempts while MLflow does not answer

    def __init__(self, run_id: str, system_metrics: bool = False) -> None:
        self.run_id = run_id
        untyped: Any = SystemMetricsMonitor
        self.monitor = untyped(run_id, resume_logging=True) if system_metrics else None
        if self.monitor:
            self.monitor.start()
        self.client = connect()
        self.queue: deque[Item] = deque()
        self.logged_step = 0  # the last one that an earlier session has logged
        self.failing, self.retry_at = False, 0.0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, {f"train/{key}": value for key, value in values.items() if key != "seconds_left"})

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, {f"train/{key}": value for key, value in values.items() if key != "images_seen"})

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter; the run's page shows the grids with a slider over steps."""
        self._log(step, image=enlarged(grid, 2))

    def resume(self, step: int) -> None:
        """See Reporter; a step that MLflow has from an earlier session is not logged again."""
        if step == 0:
            return
        try:
            history = self.client.get_metric_history(self.run_id, "train/images_seen")
            self.logged_step = max((metric.step for metric in history), default=0)
        except Exception as error:  # MLflow, its database and its transport raise many kinds
            self._wait(error)

    def close(self) -> None:
        """See Reporter; the run itself is ended by `runs.end_run`."""
        if self.monitor:
            self.monitor.finish()
        self.retry_at = 0.0
        self._flush()
        if self.queue:
            keep(self.run_id, self.queue)

    def _log(self, step: int, metrics: Mapping[str, float] | None = None, image: Picture | None = None) -> None:
        if step > self.logged_step:
            self.queue.append(Item(now(), step, metrics, image))
            self._flush()

    def _flush(self) -> None:
        if time.monotonic() < self.retry_at:
            return
        try:
            while self.queue:
                self.queue[0].log(self.client, self.run_id)
                self.queue.popleft()
            self.failing = False
        except Exception as error:  # as above
            self._wait(error)

    def _wait(self, error: Exception) -> None:
        if not self.failing:
            message = "MLflow does not answer (%s); training goes on, and what it makes is logged later."
            log.warning(message, first_line(error))
        self.failing, self.retry_at = True, time.monotonic() + self.RETRY_SECONDS
