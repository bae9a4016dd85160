"""baseline, usefulness, evaluate and compare: from generator.onnx to scorecards and the leaderboard."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lekhani import files
from lekhani.data import spec
from lekhani.errors import UsageError
from lekhani.evaluate import leaderboard, score
from lekhani.evaluate.likelihood import nats
from lekhani.evaluate.per_class import collapsed, table
from lekhani.evaluate.report import save_figure, save_table
from lekhani.evaluate.scorecard import curve
from lekhani.evaluate.usefulness import metrics, real_alone, usefulness_figure
from lekhani.inference.session import Generator
from lekhani.params import Params
from lekhani.paths import MODELS, REPORTS, SCORECARDS
from lekhani.pictures import grid, save_png
from lekhani.stages.inputs import validated_data
from lekhani.stages.train import load_trained
from lekhani.train.loop import pick_device

log = logging.getLogger("lekhani")


def baseline(p: Params, dataset: str) -> None:
    """Prepared data -> reports/D/usefulness_real.json: how well an OCR model reads after training on real images alone."""
    data = validated_data(dataset)
    train, test, n_classes = data.split("train"), data.split("test"), data.info.n_classes
    device = pick_device(p.train.device)
    points = real_alone(train, test, n_classes, p.usefulness, p.seed, device, score.log_point(dataset))
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
            points = score.score_usefulness(p, data, Generator(MODELS / dataset / variant / "generator.onnx"))
            card = metrics(points)
            save_table([point.row() for point in points], folder / "points.csv")
            save_figure(usefulness_figure(points, f"{dataset} / {variant}"), folder / "curve.png")
    files.write_json(reports / "usefulness.json", card)


def evaluate(p: Params, dataset: str, variant: str) -> None:
    """generator.onnx, both judges, prepared data -> reports/D/V/{scorecard.json, per_class.csv, grid.png, figures/}.

    The same and the curve go to reports/scorecards/D-V/. What ships is what is scored: the ONNX file.
    """
    data, reports = validated_data(dataset), REPORTS / dataset / variant
    facts = files.read_json(MODELS / dataset / variant / "training.json")
    generator = Generator(MODELS / dataset / variant / "generator.onnx")
    with files.replacing(reports / "figures") as folder:
        folder.mkdir()
        card, classes, images = score.score_generator(p, data, generator, folder)
    card |= _from_earlier_stages(p, data, variant, facts)

    rows, picture = table(classes, data.info.classes), score.in_class_order(images, data.info.n_classes)
    save_table(rows, reports / "per_class.csv")
    save_png(picture, reports / "grid.png", scale=2)
    with files.replacing(SCORECARDS / f"{dataset}-{variant}") as folder:
        folder.mkdir()
        save_table(rows, folder / "per_class.csv")
        points = curve(files.read_csv(reports / "scores.csv"), files.read_csv(reports / "losses.csv"))
        save_table(points, folder / "curve.csv", ("images_seen", "seconds", "judge_fid"))
        save_png(grid(images[:46], 23), folder / "strip.png")
        save_png(picture, folder / "grid.png")
        files.write_json(folder / "scorecard.json", card)
    files.write_json(reports / "scorecard.json", card)
    if p.tracking.backend == "mlflow":
        _track(p, dataset, variant, card, facts)
    for finding in collapsed(classes, data.info.classes):
        log.warning("%s/%s: %s", dataset, variant, finding.sentence)
    agreement = f", label agreement {card['label_agreement']:.1%}" if "label_agreement" in card else ""
    log.info("%s/%s: FID %.2f (floor %.2f)%s", dataset, variant, card["fid"], card["fid_floor"], agreement)


def _from_earlier_stages(p: Params, data: spec.Prepared, variant: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What the scorecard takes over from training, export and usefulness, and the likelihood, which needs the weights."""
    reports, built = REPORTS / data.info.name / variant, load_trained(p, data.info.name, variant)[1]
    exported = files.read_json(reports / "export.json")
    card: dict[str, Any] = {"train_seed": facts["seed"]}
    card |= nats(built, *data.split("test"), p.seed) | nats(built, *score.real_sample(p, data), p.seed, "_train")
    if (reports / "usefulness.json").exists():
        card |= files.read_json(reports / "usefulness.json")
    card |= {key: exported[key] for key in ("parity_max_abs", "latency_ms", "size_mb")}
    card |= {key: facts[key] for key in ("images_seen", "train_seconds", "images_per_second")}
    card["batch_size"] = facts["choices"][variant]["batch_size"]
    return card


def _track(p: Params, dataset: str, variant: str, card: dict[str, Any], facts: dict[str, Any]) -> None:
    """Add the scorecard to the MLflow run of the training."""
    from lekhani.tracking import runs
    from lekhani.tracking.revision import revision

    reports = REPORTS / dataset / variant
    made = [reports / name for name in ("grid.png", "per_class.csv", "scorecard.json")]
    made += [path for part in ("figures", "usefulness") for path in sorted((reports / part).glob("*"))]
    judges = [MODELS / dataset / "judge" / name for name in ("judge.onnx", "second.onnx")]
    with runs.resume(facts["mlflow_run_id"], p.tracking.experiment, f"{dataset}/{variant}", revision(facts)):
        runs.log_scorecard(card, made, judges)


def compare(p: Params, repeats: bool = False) -> None:
    """All scorecards -> reports/leaderboard.{csv,md,png,html} and reports/leaderboard/.

    With `repeats`, those of DVC experiments that repeat the training with other seeds are pooled with the workspace's,
    and all that is written lies in reports/repeats/.
    """
    folders = {(d, v): SCORECARDS / f"{d}-{v}" for d in p.data for v in p.pipeline.everyone}
    cards: list[Mapping[str, Any]] = [files.read_json(folder / "scorecard.json") for folder in folders.values()]
    if repeats:
        cards = _pooled(cards, [folder / "scorecard.json" for folder in folders.values()])
    entries, strips = [], {}
    for card in cards:
        key = card["dataset"], card["variant"]
        with Image.open(folders[key] / "strip.png") as strip, Image.open(folders[key] / "grid.png") as picture:
            strips[key] = np.asarray(strip)
            curve_rows, classes = (files.read_csv(folders[key] / f"{name}.csv") for name in ("curve", "per_class"))
            entries.append(leaderboard.Entry(card, curve_rows, classes, np.asarray(picture)))
    target, text = REPORTS / "repeats" if repeats else REPORTS, leaderboard.leaderboard_markdown(cards)
    with files.replacing(target / "leaderboard") as folder:
        folder.mkdir()
        for dataset in p.data:
            shown = [entry for entry in entries if entry.card["dataset"] == dataset]
            for name, figure in leaderboard.figures(shown).items():
                save_figure(figure, folder / f"{dataset}-{name}.png")
    save_figure(leaderboard.leaderboard_figure(cards, strips), target / "leaderboard.png")
    files.write_text(target / "leaderboard.csv", leaderboard.leaderboard_csv(cards))
    files.write_text(target / "leaderboard.md", text)
    files.write_text(target / "leaderboard.html", leaderboard.leaderboard_html(entries))
    if p.tracking.backend == "mlflow":
        from lekhani.tracking import runs
        from lekhani.tracking.revision import revision

        made = [target / f"leaderboard.{kind}" for kind in ("csv", "md", "png", "html")]
        pictures = sorted((target / "leaderboard").iterdir())
        runs.log_leaderboard(p.tracking.experiment, [*made, *pictures], revision())
    log.info("%s", text)


def _pooled(cards: Sequence[Mapping[str, Any]], paths: list[Path]) -> list[Mapping[str, Any]]:
    """The workspace's scorecards pooled with those of DVC experiments that differ in the training's seed."""
    from lekhani.tracking.experiments import repeats as experiments

    seen = {json.dumps(card) for card in cards}
    others = [card for found in experiments(paths).values() for card in found if json.dumps(card) not in seen]
    if not others:
        hint = "queue some with `dvc exp run --queue -S train.seed=8`"
        raise UsageError(f"No experiment on top of HEAD repeats this training; {hint}.")
    return list(leaderboard.repeats([*cards, *others]))
