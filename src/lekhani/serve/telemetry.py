"""Observability: Prometheus metrics, and logs of one JSON object a line."""

import logging
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pythonjsonlogger.json import JsonFormatter

from lekhani.errors import redacted

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        route, model = ("method", "route"), ("dataset",)
        measure, about = (*model, "measure"), (*model, "version", "variant", "sha256")
        self.requests = counter("lekhani_requests", "Answers by status", (*route, "status"))
        self.seconds = histogram("lekhani_request_seconds", "Time to answer", route, buckets=SECONDS)
        self.in_flight = gauge("lekhani_requests_in_flight", "Requests without an answer yet")
        self.images = counter("lekhani_images", "Images written for clients", model)
        self.waiting = gauge("lekhani_images_waiting", "Images that waiting requests ask for", model)
        self.batches = histogram("lekhani_batch_images", "Images drawn in one run", model, buckets=SIZES)
        self.model = gauge("lekhani_model_info", "The model that writes now, always 1", about)
        self.swaps = counter("lekhani_model_swaps", "Champions taken over from the registry", model)
        self.rejected = counter("lekhani_models_kept_out", "Champions that could not be taken over", (*model, "reason"))
        self.registry_up = gauge("lekhani_registry_up", "Whether the registry answered, and has what is served", model)
        self.measured = gauge("lekhani_watch", "What the judge makes of the latest images of each class", measure)
        self.expected = gauge(
            "lekhani_watch_promised", "What the scorecard of the version leads to expect of it", measure
        )
        self.alarm = gauge("lekhani_watch_alarm", "1 where the images are worse than promised, beyond chance", measure)


class _Formatter(JsonFormatter):
    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Keep secrets out of every field, as `errors.RedactingFormatter` does."""
        return {name: redacted(value) if isinstance(value, str) else value for name, value in log_data.items()}


def json_formatter() -> logging.Formatter:
    """Makes a line of JSON of a record."""
    return _Formatter(
        "%(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        json_ensure_ascii=False,
    )


def json_logs() -> None:
    """Log everything as lines of JSON on stderr, without uvicorn's access log, which would show queries."""
    handler = logging.StreamHandler()
    handler.setFormatter(json_formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("lekhani", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
