"""evaluate: from generator.onnx to its scorecard."""

import logging
from pathlib import Path
from typing import Any

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate import score
from lekhani.evaluate.likelihood import nats
from lekhani.evaluate.per_class import collapsed, table
from lekhani.evaluate.samples import real_sample
from lekhani.inference.session import Generator
from lekhani.params import Params
from lekhani.paths import MODELS, PREPARED, REPORTS, SCORECARDS
from lekhani.pictures import grid, save_png
from lekhani.stages import timings
from lekhani.stages.artefacts import Export, Metrics
from lekhani.stages.inputs import validated_data
from lekhani.stages.trained import load_trained, training_facts

log = logging.getLogger("lekhani")
_CURVE = ("images_seen", "judge_fid")

HEADLINES = ("fid", "fid_ratio", "kid", "precision", "recall", "label_agreement", "modes", "near_copies", "usefulness")
"""What of a card people compare between experiments; a wider table of DVC's does not fit on a screen."""


def evaluate(p: Params, dataset: str, variant: str) -> None:
    """generator.onnx, both judges, prepared data -> reports/D/V/: scorecards, per_class.csv, grid.png, figures/.

    measurements.json is the whole scorecard, scorecard.json its headlines, which DVC compares. What `compare` reads
    goes to reports/scorecards/D-V/ as well. What ships is what is scored: the ONNX file.
    """
    data, reports = validated_data(dataset), REPORTS / dataset / variant
    facts = training_facts(dataset, variant)
    generator = Generator(MODELS / dataset / variant / "generator.onnx")
    with files.replacing(reports / "figures") as folder:
        folder.mkdir()
        card, classes, images = score.score_generator(p, data, generator, folder)
    card |= _from_earlier_stages(p, data, variant, facts)

    rows, picture = table(classes, data.info.classes), score.in_class_order(images, data.info.n_classes)
    files.write_csv(reports / "per_class.csv", rows)
    save_png(picture, reports / "grid.png", scale=2)
    with files.replacing(SCORECARDS / f"{dataset}-{variant}") as folder:
        folder.mkdir()
        files.write_csv(folder / "per_class.csv", rows)
        files.write_csv(folder / "curve.csv", _curve(reports / "scores.csv"), _CURVE)
        save_png(grid(images[:46], 23), folder / "strip.png")
        save_png(picture, folder / "grid.png")
        files.write_json(folder / "measurements.json", card)
    files.write_json(reports / "measurements.json", card)
    files.write_json(reports / "scorecard.json", {name: card[name] for name in HEADLINES if name in card})
    if p.tracking.backend == "mlflow":
        _track(p, data, variant, card, facts)
    for finding in collapsed(classes, data.info.classes):
        log.warning("%s/%s: %s", dataset, variant, finding.sentence)
    agreement = f", label agreement {card['label_agreement']:.1%}" if "label_agreement" in card else ""
    log.info("%s/%s: judge FID %.2f (floor %.2f)%s", dataset, variant, card["fid"], card["fid_floor"], agreement)


def _curve(path: Path) -> list[dict[str, str]]:
    """Images seen and judge FID of each score that training took; none if it took none."""
    is_empty = path.is_file() and not path.stat().st_size
    return [] if is_empty else [{key: row[key] for key in _CURVE} for row in files.read_csv(path, _CURVE, _CURVE)]


def _from_earlier_stages(p: Params, data: spec.Prepared, variant: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What the scorecard takes over from training, export and usefulness, and the likelihood, by the weights."""
    reports, built = REPORTS / data.info.name / variant, load_trained(p, data.info.name, variant)[1]
    exported = files.read_checked(reports / "export.json", Export)
    card: dict[str, Any] = {"train_seed": facts["seed"]}
    card |= nats(built, *data.split("test"), p.seed) | nats(built, *real_sample(p, data), p.seed, "_train")
    if (reports / "usefulness.json").exists():
        card |= files.read_checked(reports / "usefulness.json", Metrics)
    card |= {key: exported[key] for key in ("parity_max_abs", "size_mb")}
    card["images_seen"] = facts["images_seen"]
    card["batch_size"] = facts["choices"][variant]["batch_size"]
    return card


def _track(p: Params, data: spec.Prepared, variant: str, card: dict[str, Any], facts: dict[str, Any]) -> None:
    """Add the scorecard to the MLflow run of the training, with the generator and what lies beside it as a model."""
    from lekhani.tracking import logged, runs

    dataset = data.info.name
    reports, models, scored = REPORTS / dataset / variant, MODELS / dataset, SCORECARDS / f"{dataset}-{variant}"
    run = runs.find_or_import_run(p.tracking.experiment, f"{dataset}/{variant}", facts, reports)
    generator, beside = models / variant / "generator.onnx", logged.beside(scored, models / "judge" / "judge.onnx")
    run_id = run.info.run_id
    uri = logged.logged_model(run_id, generator, beside) or logged.log_model(run_id, generator, beside)
    grid, made = reports / "grid.png", [reports / name for name in ("per_class.csv", "measurements.json")]
    made += [path for part in ("figures", "usefulness") for path in sorted((reports / part).glob("*"))]
    judges = [models / "judge" / name for name in ("judge.onnx", "second.onnx")]
    shown = card | timings.read(dataset, variant, missing_ok=True)
    kept = {"evaluation": [grid, *made], "judge": judges}
    runs.log_scorecard(run_id, uri, shown, data, PREPARED / dataset, kept, grid)
