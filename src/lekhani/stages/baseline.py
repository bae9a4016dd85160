"""baseline: how well an OCR model reads after training on real images alone."""

import logging
from collections.abc import Callable
from dataclasses import asdict

from lekhani import files
from lekhani.evaluate.usefulness import Point, real_alone
from lekhani.params import Params
from lekhani.paths import REPORTS
from lekhani.stages.inputs import validated_data
from lekhani.train.devices import pick_device

log = logging.getLogger("lekhani")


def baseline(p: Params, dataset: str) -> None:
    """Prepared data -> reports/D/usefulness_real.json: how well an OCR model reads after training on real images alone."""
    data = validated_data(dataset)
    train, test, n_classes = data.split("train"), data.split("test"), data.info.n_classes
    device = pick_device(p.train.device)
    points = real_alone(train, test, n_classes, p.usefulness, p.seed, device, log_point(dataset))
    files.write_json(REPORTS / dataset / "usefulness_real.json", {"points": [asdict(point) for point in points]})


def log_point(name: str) -> Callable[[Point], None]:
    """A callback that logs each OCR model as it is done."""
    return lambda one: log.info("%s: %s, %d real images, reads %.1f%%", name, one.kind, one.n_real, 100 * one.mean)
