"""baseline: how well an OCR model reads after training on real images alone."""

import logging
from dataclasses import asdict

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate.usefulness import Point, Trainings
from lekhani.params import Params
from lekhani.paths import REPORTS
from lekhani.stages.inputs import validated_data
from lekhani.train.devices import pick_device

log = logging.getLogger("lekhani")


def baseline(p: Params, dataset: str) -> None:
    """Prepared data -> reports/D/usefulness_real.json: accuracy of an OCR model after training on real images alone.

    With `usefulness.seeds: 0` it has no points.
    """
    points = trainings(p, validated_data(dataset), dataset).on_real() if p.usefulness.seeds else []
    files.write_json(REPORTS / dataset / "usefulness_real.json", {"points": [asdict(point) for point in points]})


def trainings(p: Params, data: spec.Prepared, name: str) -> Trainings:
    """The trainings of OCR models on prepared data, each logged under `name` once it is done."""

    def on_point(one: Point) -> None:
        log.info("%s: %s, %d real images, reads %.1f%%", name, one.kind, one.n_real, 100 * one.mean)

    train, test, device = data.split("train"), data.split("test"), pick_device(p.train.device)
    return Trainings(train, test, data.info.n_classes, p.usefulness, p.seed, device, on_point)
