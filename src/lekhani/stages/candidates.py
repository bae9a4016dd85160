"""What may become champion: a version of the registry or a model of this workspace, scored anew beside the champion."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lekhani import files
from lekhani.data import spec
from lekhani.errors import LekhaniError
from lekhani.evaluate.ranking import rank
from lekhani.evaluate.score import score_generator
from lekhani.evaluate.usefulness import metrics
from lekhani.export.onnx_file import generator_inputs, latency_ms
from lekhani.inference.session import Generator
from lekhani.params import Params
from lekhani.paths import MODELS, PREPARED, SCORECARDS
from lekhani.registry import gate, models
from lekhani.stages.artefacts import Scorecard
from lekhani.stages.compare import scorecard
from lekhani.stages.usefulness import score_usefulness

log = logging.getLogger("lekhani")


@dataclass(frozen=True)
class Contender:
    """A generator, the scorecard that it came with (empty where none was kept), and a picture of its glyphs."""

    name: str  # in a sentence
    generator: Path
    scorecard: Mapping[str, Any]
    grid: Path


@dataclass(frozen=True)
class Comparison:
    """A candidate and the champion, both with new scorecards, and what the gate says of them.

    `champion` is None where there is none, `champion_card` also where it cannot be scored.
    """

    candidate: Contender
    candidate_card: dict[str, Any]
    champion: Contender | None
    champion_card: dict[str, Any] | None
    decision: gate.Decision


def registered(dataset: str, number: str) -> tuple[Contender, models.Registered]:
    """A version of the registry, with its files."""
    found = models.fetch(dataset, number)
    card = files.read_checked(found.scorecard, Scorecard) if found.scorecard else {}
    name = f"version {number} ({found.variant})"
    return Contender(name, found.generator, card, found.generator.with_name("grid.png")), found


def variants_in_lock(dataset: str, lock: Path = Path("dvc.lock")) -> set[str]:
    """The variants of which dvc.lock names a generator."""
    if not lock.exists():
        return set()
    with files.reading(lock, "restore it with `git checkout dvc.lock`"):
        stages = yaml.safe_load(lock.read_text(encoding="utf-8")).get("stages") or {}
        outs = [Path(out["path"]) for stage in stages.values() for out in stage.get("outs", ())]
    return {out.parent.name for out in outs if out.parent.parent == MODELS / dataset and out.name == "generator.onnx"}


def best_variant(p: Params, dataset: str) -> str:
    """The variant of this workspace that leads the leaderboard."""
    return str(rank([scorecard(dataset, variant) for variant in p.pipeline.everyone])[0].card["variant"])


def scored_file(dataset: str, variant: str) -> dict[str, Any]:
    """The scorecard of a variant of this workspace; a LekhaniError where it is not of the files that lie here."""
    card, folder = scorecard(dataset, variant), MODELS / dataset
    scored = {
        "model_sha256": folder / variant / "generator.onnx",
        "judge_sha256": folder / "judge" / "judge.safetensors",
    }
    for key, path in scored.items():
        if files.sha256(path) != card[key]:
            raise LekhaniError(f"{path} is not the file that was scored; run `dvc repro` first.")
    return card


def of_workspace(p: Params, dataset: str, variant: str | None = None) -> Contender | None:
    """A variant of this workspace, by default the best; None where dvc.lock names no generator to choose from."""
    known = variants_in_lock(dataset).intersection([variant] if variant else p.pipeline.everyone)
    if not known:
        return None
    for path in (MODELS / dataset / one / "generator.onnx" for one in sorted(known)):
        if not path.exists():
            raise LekhaniError(f"{path} is not here, though dvc.lock names it; bring it with `dvc pull`.")
    chosen = variant or best_variant(p, dataset)
    card, grid = scored_file(dataset, chosen), SCORECARDS / f"{dataset}-{chosen}" / "grid.png"
    return Contender(f"{chosen} of this workspace", MODELS / dataset / chosen / "generator.onnx", card, grid)


def compare(p: Params, data: spec.Prepared, candidate: Contender, champion: str | None, force: bool) -> Comparison:
    """Score both anew, on the same data with the same seeds, and ask the gate.

    A champion that cannot be scored is an error, and with `force` a failed check.
    """
    card, broken = _scored_again(p, data, candidate, is_candidate=True), list[gate.Check]()
    incumbent, incumbent_card = None, None
    if champion is not None:
        try:
            incumbent, _ = registered(data.info.name, champion)
            incumbent_card = _scored_again(p, data, incumbent, is_candidate=False)
        except LekhaniError as error:
            if not force:
                raise
            broken.append(gate.Check("champion", champion, None, False, f"The champion cannot be scored: {error}"))
    decision = gate.decide(card, incumbent_card, p.gate)
    decision = gate.Decision(decision.promote and not broken, (*broken, *decision.checks))
    return Comparison(candidate, card, incumbent, incumbent_card, decision)


def _scored_again(p: Params, data: spec.Prepared, found: Contender, is_candidate: bool) -> dict[str, Any]:
    """The scorecard of a generator on the data and by the judge of this folder.

    The difference from torch can only be measured with the weights that it came from, so it is taken from the
    generator's own scorecard; so is usefulness, if it was measured on these data. Only a candidate needs usefulness,
    which takes as long as everything else.
    """
    what, generator = f"{models.model_name(data.info.name)} {found.name}", Generator(found.generator)
    if (generator.classes, generator.image_size) != (data.info.classes, data.info.image_size):
        folder = PREPARED / data.info.name
        raise LekhaniError(f"{what} draws other classes or sizes than {folder} holds, so the two cannot be compared.")
    log.info("Scoring %s on the test images of %s", what, data.info.name)
    with tempfile.TemporaryDirectory() as figures:
        card = score_generator(p, data, generator, Path(figures))[0]
    own = found.scorecard
    card |= {key: own[key] for key in ("parity_max_abs",) if key in own}
    card["size_mb"] = found.generator.stat().st_size / 2**20
    card["latency_ms"] = latency_ms(found.generator, generator_inputs(generator.noise_dim, len(generator.classes)))
    if is_candidate and p.usefulness.seeds:
        kept = {}
        if own.get("data_digest") == data.info.digest:
            kept = {key: value for key, value in own.items() if key.startswith("usefulness")}
        card |= kept or metrics(score_usefulness(p, data, generator))
    return card
