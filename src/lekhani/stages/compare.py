"""compare: the leaderboard of all scorecards."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from lekhani import files
from lekhani.errors import LekhaniError, UsageError
from lekhani.evaluate import leaderboard, leaderboard_figures, leaderboard_page
from lekhani.evaluate.figures import save_figure
from lekhani.evaluate.ranking import pool_training_seeds
from lekhani.params import Params
from lekhani.paths import REPORTS, SCORECARDS
from lekhani.pictures import Picture
from lekhani.stages import durations, timings
from lekhani.stages.artefacts import Scorecard, per_class

log = logging.getLogger("lekhani")
_CURVE = ("images_seen", "judge_fid")
# What other stages wrote below reports/D/V/ and reports/D/, by the names that the page has for it.
_VARIANT_FILES = {name: f"figures/{name}.png" for name in ("confusion", "worst", "closest")}
_VARIANT_FILES["usefulness"] = "usefulness/curve.png"
_DATASET_FILES = {name: f"{name}.png" for name in ("contact_sheet", "confusion")} | {"validation": "validation.html"}


def compare(p: Params, repeats: bool = False) -> None:
    """All scorecards -> reports/leaderboard.{csv,md,png,html} and reports/leaderboard/.

    With `repeats`, those of DVC experiments that repeat the training with other seeds are pooled with the workspace's,
    and all that is written lies in reports/repeats/.
    """
    folders = {(d, v): SCORECARDS / f"{d}-{v}" for d in p.pipeline.datasets for v in p.pipeline.everyone}
    cards: list[Mapping[str, Any]] = [scorecard(*key) for key in folders]
    if repeats:
        cards = _pooled(cards, [folder / "measurements.json" for folder in folders.values()])
    entries, strips = [], {}
    for card in cards:
        key = card["dataset"], card["variant"]
        strips[key] = _picture(folders[key] / "strip.png")
        curve = timings.with_seconds(*key, files.read_csv(folders[key] / "curve.csv", _CURVE, _CURVE))
        classes = per_class(folders[key] / "per_class.csv")
        timed = card if repeats else {**card, **timings.read(*key, missing_ok=True)}
        entries.append(leaderboard_figures.Entry(timed, curve, classes, _picture(folders[key] / "grid.png")))
    seconds, target = ({}, REPORTS / "repeats") if repeats else (durations.recorded(), REPORTS)
    text = leaderboard.leaderboard_markdown([entry.card for entry in entries], seconds)
    with files.replacing(target / "leaderboard") as folder:
        folder.mkdir()
        for dataset in p.pipeline.datasets:
            shown = [entry for entry in entries if entry.card["dataset"] == dataset]
            for name, figure in leaderboard_figures.figures(shown).items():
                save_figure(figure, folder / f"{dataset}-{name}.png")
    save_figure(leaderboard_figures.leaderboard_figure(cards, strips), target / "leaderboard.png")
    files.write_text(target / "leaderboard.csv", leaderboard.leaderboard_csv(cards))
    files.write_text(target / "leaderboard.md", text)
    beside = {(d, v): _beside(target, d, v) for d in p.pipeline.datasets for v in ("", *p.pipeline.everyone)}
    files.write_text(target / "leaderboard.html", leaderboard_page.leaderboard_html(entries, seconds, beside))
    if p.tracking.backend == "mlflow":
        from lekhani.tracking import runs

        made = [target / f"leaderboard.{kind}" for kind in ("csv", "md", "png")]
        pictures = sorted((target / "leaderboard").iterdir())
        with TemporaryDirectory() as place:
            alone = Path(place) / "leaderboard.html"  # without links to what is not beside it there
            files.write_text(alone, leaderboard_page.leaderboard_html(entries, seconds))
            runs.log_leaderboard(p.tracking.experiment, [*made, alone, *pictures])
    log.info("%s", text)


def scorecard(dataset: str, variant: str) -> dict[str, Any]:
    """reports/scorecards/D-V/measurements.json; a LekhaniError where it is of another variant."""
    path = SCORECARDS / f"{dataset}-{variant}" / "measurements.json"
    card: dict[str, Any] = files.read_checked(path, Scorecard)
    if (card["dataset"], card["variant"]) != (dataset, variant):
        raise LekhaniError(f"{path} is of another variant; run `dvc repro evaluate@{dataset}-{variant}`.")
    return card


def _beside(folder: Path, dataset: str, variant: str) -> dict[str, str]:
    """Links from a page in `folder` to the pictures of a variant, or with "" of a dataset, that are there."""
    names = _VARIANT_FILES if variant else _DATASET_FILES
    paths = {name: REPORTS / dataset / variant / inside for name, inside in names.items()}
    return {name: quote(os.path.relpath(path, folder)) for name, path in paths.items() if path.is_file()}


def _picture(path: Path) -> Picture:
    """A grey picture that `evaluate` wrote."""
    with files.reading(path), Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def _pooled(cards: Sequence[Mapping[str, Any]], paths: list[Path]) -> list[Mapping[str, Any]]:
    """The workspace's scorecards pooled with those of DVC experiments that differ in the training's seed."""
    from lekhani.tracking.experiments import repeats as experiments

    seen = {json.dumps(card) for card in cards}
    others = [card for found in experiments(paths).values() for card in found if json.dumps(card) not in seen]
    if not others:
        hint = "queue some with `dvc exp run --queue -S train.seed=8`"
        raise UsageError(f"No experiment on top of HEAD repeats this training; {hint}.")
    return list(pool_training_seeds([*cards, *others]))
