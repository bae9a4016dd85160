"""Observability: Prometheus metrics, and logs of one JSON object a line."""

import logging
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pythonjsonlogger.json import JsonFormatter

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        shared: dict[str, Any] = {"registry": self.registry}
        route, model = ("method", "route"), ("dataset",)
        measure, about = (*model, "measure"), (*model, "version", "variant", "sha256")
        self.requests = Counter("lekhani_requests", "Answers by status", (*route, "status"), **shared)
        self.seconds = Histogram("lekhani_request_seconds", "Time to answer", route, buckets=SECONDS, **shared)
        self.in_flight = Gauge("lekhani_requests_in_flight", "Requests without an answer yet", **shared)
        self.images = Counter("lekhani_images", "Images written for clients", model, **shared)
        self.waiting = Gauge("lekhani_images_waiting", "Images that waiting requests ask for", model, **shared)
        self.batches = Histogram("lekhani_batch_images", "Images drawn in one run", model, buckets=SIZES, **shared)
        self.model = Gauge("lekhani_model_info", "The model that writes now, always 1", about, **shared)
        self.swaps = Counter("lekhani_model_swaps", "Champions taken over from the registry", model, **shared)
        self.rejected = Counter(
            "lekhani_models_kept_out", "Champions that could not be taken over", (*model, "reason"), **shared
        )
        self.registry_up = Gauge("lekhani_registry_up", "Whether the registry answered last time", model, **shared)
        self.measured = Gauge(
            "lekhani_watch", "What the judge makes of the latest images of each class", measure, **shared
        )
        self.expected = Gauge(
            "lekhani_watch_promised", "What the scorecard of the version leads to expect of it", measure, **shared
        )
        self.alarm = Gauge(
            "lekhani_watch_alarm", "1 where the images are worse than promised, beyond chance", measure, **shared
        )


def json_logs() -> None:
    """Log everything as lines of JSON on stderr, without uvicorn's access log, which would show queries."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            json_ensure_ascii=False,
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("lekhani", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
