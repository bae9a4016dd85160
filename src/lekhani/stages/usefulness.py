"""baseline and usefulness: how well an OCR model reads after training on real images, on generated ones, and on both."""

import logging
from collections.abc import Callable
from dataclasses import asdict

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate import usefulness as ocr
from lekhani.evaluate.figures import save_figure
from lekhani.evaluate.samples import sample
from lekhani.inference.session import Generator, Reader
from lekhani.params import Params
from lekhani.paths import MODELS, REPORTS
from lekhani.stages.inputs import validated_data
from lekhani.train.devices import pick_device

log = logging.getLogger("lekhani")


def baseline(p: Params, dataset: str) -> None:
    """Prepared data -> reports/D/usefulness_real.json: how well an OCR model reads after training on real images alone."""
    data = validated_data(dataset)
    train, test, n_classes = data.split("train"), data.split("test"), data.info.n_classes
    device = pick_device(p.train.device)
    points = ocr.real_alone(train, test, n_classes, p.usefulness, p.seed, device, _log_point(dataset))
    files.write_json(REPORTS / dataset / "usefulness_real.json", {"points": [asdict(point) for point in points]})


def usefulness(p: Params, dataset: str, variant: str) -> None:
    """generator.onnx, judge, prepared data, reports/D/usefulness_real.json -> reports/D/V/usefulness.json, usefulness/.

    The folder holds points.csv and curve.png. With `usefulness.seeds: 0` the file is empty and so is the folder.
    """
    reports = REPORTS / dataset / variant
    card: dict[str, float] = {}
    with files.replacing(reports / "usefulness") as folder:
        folder.mkdir()
        if p.usefulness.seeds:
            data = validated_data(dataset)
            points = score_usefulness(p, data, Generator(MODELS / dataset / variant / "generator.onnx"))
            card = ocr.metrics(points)
            files.write_csv(folder / "points.csv", [point.row() for point in points])
            save_figure(ocr.usefulness_figure(points, f"{dataset} / {variant}"), folder / "curve.png")
    files.write_json(reports / "usefulness.json", card)


def score_usefulness(p: Params, data: spec.Prepared, generator: Generator) -> list[ocr.Point]:
    """What OCR models read after training on the generator's images, beside what they read after real ones alone."""
    name = data.info.name
    images, labels = sample(p, generator, data, 0)
    if not generator.conditional:
        labels = Reader(MODELS / name / "judge" / "judge.onnx").read(images)[1].argmax(1)
    real = [ocr.Point(**point) for point in files.read_json(REPORTS / name / "usefulness_real.json")["points"]]
    return real + ocr.usefulness(
        (images, labels),
        data.split("train"),
        data.split("test"),
        data.info.n_classes,
        p.usefulness,
        p.seed,
        pick_device(p.train.device),
        _log_point(f"{name}/{generator.variant}"),
    )


def _log_point(name: str) -> Callable[[ocr.Point], None]:
    """A callback that logs each OCR model as it is done."""
    return lambda one: log.info("%s: %s, %d real images, reads %.1f%%", name, one.kind, one.n_real, 100 * one.mean)
