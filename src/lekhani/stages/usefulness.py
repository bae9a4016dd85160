"""usefulness: how well an OCR model reads after training on generated images, alone and beside real ones."""

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate import usefulness as ocr
from lekhani.evaluate.figures import save_figure
from lekhani.evaluate.samples import sample
from lekhani.inference.session import Generator, Reader
from lekhani.params import Params
from lekhani.paths import MODELS, REPORTS
from lekhani.stages.artefacts import Points
from lekhani.stages.baseline import trainings
from lekhani.stages.inputs import validated_data


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
    measured = files.read_checked(REPORTS / name / "usefulness_real.json", Points)
    real = [ocr.Point(**point) for point in measured["points"]]
    return real + trainings(p, data, f"{name}/{generator.variant}").on_synthetic((images, labels))
