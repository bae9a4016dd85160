"""What a server tells of itself: Prometheus metrics, and logs of one JSON object a line."""

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pythonjsonlogger.json import JsonFormatter

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        route, model = ("method", "route"), ("dataset",)
        self.requests = Counter("lekhani_requests", "Answers by status", (*route, "status"), registry=self.registry)
        self.seconds = Histogram(
            "lekhani_request_seconds", "Time to answer", route, buckets=SECONDS, registry=self.registry
        )
        self.in_flight = Gauge("lekhani_requests_in_flight", "Requests without an answer yet", registry=self.registry)
        self.images = Counter("lekhani_images", "Images written for clients", model, registry=self.registry)
        self.waiting = Gauge(
            "lekhani_images_waiting", "Images that waiting requests ask for", model, registry=self.registry
        )
        self.batches = Histogram(
            "lekhani_batch_images", "Images drawn in one run", model, buckets=SIZES, registry=self.registry
        )
        about = (*model, "version", "variant", "sha256")
        self.model = Gauge("lekhani_model_info", "The model that writes now, always 1", about, registry=self.registry)
        self.swaps = Counter(
            "lekhani_model_swaps", "Champions taken over from the registry", model, registry=self.registry
        )
        self.kept_out = Counter(
            "lekhani_models_kept_out",
            "Champions that could not be taken over",
            (*model, "reason"),
            registry=self.registry,
        )
        self.registry_up = Gauge(
            "lekhani_registry_up", "Whether the registry answered last time", model, registry=self.registry
        )
        what = (*model, "measure")
        self.watched = Gauge(
            "lekhani_watch", "What the judge makes of the latest images of each class", what, registry=self.registry
        )
        self.promised = Gauge(
            "lekhani_watch_promised",
            "What the scorecard of the version leads to expect of it",
            what,
            registry=self.registry,
        )
        self.alarm = Gauge(
            "lekhani_watch_alarm",
            "1 where the images are worse than promised, beyond chance",
            what,
            registry=self.registry,
        )


def json_logs() -> None:
    """Let everything that is logged be a line of JSON on stderr; uvicorn's access log gives way to ours, which knows no query and no header."""
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
