"""register, promote and rollback: the steps that change the registry."""

import logging
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from lekhani import files
from lekhani.data import spec
from lekhani.errors import LekhaniError, UsageError
from lekhani.evaluate.ranking import rank
from lekhani.evaluate.reference import Reference
from lekhani.evaluate.score import score_generator
from lekhani.evaluate.usefulness import metrics
from lekhani.export.onnx_file import generator_inputs, latency_ms
from lekhani.inference.session import Generator, Reader
from lekhani.params import Params
from lekhani.paths import MODELS, PREPARED, REPORTS, SCORECARDS
from lekhani.registry import card as cards
from lekhani.registry import gate, models, promotion
from lekhani.stages import timings
from lekhani.stages.artefacts import Scorecard, per_class
from lekhani.stages.compare import scorecard
from lekhani.stages.inputs import dataset_info, validated_data
from lekhani.stages.trained import training_facts
from lekhani.stages.usefulness import score_usefulness
from lekhani.tracking import logged, runs
from lekhani.tracking.revision import action_tags, revision
from lekhani.tracking.store import exclusive

log = logging.getLogger("lekhani")


def register(p: Params, dataset: str, variant: str | None = None) -> str:
    """Register a variant of `dataset`, by default the best of the leaderboard; returns a sentence about it."""
    _need_registry(p)
    p.dataset(dataset)
    if variant is None:
        found = [scorecard(dataset, v) for v in p.pipeline.everyone]
        variant = rank(found)[0].card["variant"]
    folder, beside = MODELS / dataset / variant, SCORECARDS / f"{dataset}-{variant}"
    facts, card = training_facts(dataset, variant), scorecard(dataset, variant)
    scored = {"model_sha256": folder / "generator.onnx", "judge_sha256": _judge(dataset).with_suffix(".safetensors")}
    for key, path in scored.items():
        if files.sha256(path) != card[key]:
            raise LekhaniError(f"{path} is not the file that was scored; run `dvc repro` first.")
    info, name = dataset_info(dataset), models.model_name(dataset)
    run = runs.find_or_import_run(p.tracking.experiment, f"{dataset}/{variant}", facts, REPORTS / dataset / variant)
    made_at = runs.provenance(run) | {key: value for key, value in revision().items() if key == "dvc.lock_sha256"}
    run_id, generator, judged = run.info.run_id, folder / "generator.onnx", logged.beside(beside, _judge(dataset))
    source = {f"source.{key}": str(info.source[key]) for key in ("name", "version", "sha256") if info.source.get(key)}
    digests = {key: str(card[key]) for key in ("data_digest", "model_sha256", "judge_sha256")}
    digests["generator_sha256"] = facts["generator_sha256"]
    tags = {"variant": variant} | _headline_tags(card) | digests | made_at | source | action_tags("registered")
    with exclusive(f"{name}.register"):  # or else two at once would make two versions of one model
        uri = logged.logged_model(run_id, generator, judged)
        if uri is None or not models.is_intact(dataset, uri):
            uri = logged.log_model(run_id, generator, judged)
        if not models.is_registered(dataset, uri):
            kept = (Path("dvc.lock"), Path("params.yaml"), PREPARED / dataset / "dataset.json")
            runs.log_files(run_id, {"lineage": [path for path in kept if path.exists()]}, "registered")
            about = import_module(f"lekhani.variants.{variant}").__doc__ or ""
            classes, lineage = per_class(beside / "per_class.csv"), {"MLflow run": run_id, **made_at}
            timing = timings.read(dataset, variant)
            shown = card | {"latency_ms": timing["latency_ms"]}
            _complete_model(dataset, uri, cards.model_card(name, info, facts | timing, shown, classes, lineage, about))
        version = models.register(dataset, uri, tags, cards.headline(card))
    held = [alias for alias, number in models.aliases(dataset).items() if number == str(version.version)]
    aliases = " and ".join(sorted(held))
    return f"{version.name} version {version.version} is {variant} (judge FID {card['fid']:.2f}), alias {aliases}."


def _complete_model(dataset: str, uri: str, card: str) -> None:
    """Put the model card and the reference for monitoring into a logged model."""
    with tempfile.TemporaryDirectory() as temporary:
        page, reference = Path(temporary) / "README.md", Path(temporary) / "reference.npz"
        files.write_text(page, card)
        real = validated_data(dataset).split("test")
        Reference.of(Reader(_judge(dataset)), *real).save(reference)
        logged.add_to_model(uri, [page, reference])


def _judge(dataset: str) -> Path:
    return MODELS / dataset / "judge" / "judge.onnx"


def promote(
    p: Params,
    dataset: str,
    version: str | None = None,
    check: bool = False,
    force: bool = False,
    reason: str | None = None,
) -> tuple[bool, str]:
    """Compare the challenger of `dataset`, or the version named, with its champion; both are scored anew.

    It becomes champion if the gate allows it. Returns whether it was promoted and the decision as Markdown. With
    `check` nothing is changed. Otherwise the decision goes to reports/D/decision.{json,md} and to the version's run,
    whatever it is; `force` promotes in spite of it, for a `reason`.
    """
    _need_registry(p)
    if force and not (reason or "").strip():
        raise UsageError("--force overrides the gate, so give a --reason; it is kept with the version.")
    name, data = models.model_name(dataset), validated_data(dataset)
    if not check:
        promotion.complete(dataset)
    known = models.aliases(dataset)
    number, champion = version or known.get("challenger"), known.get("champion")
    if champion is not None and number in (None, champion):
        nothing = "There is no challenger; `lekhani register` registers one."
        return False, f"## {name}: champion {champion} stands\n\n{nothing}\n"
    if number is None:
        hint = f"register one with `lekhani register --dataset {dataset}`, or name a version with --version"
        raise UsageError(f"{name} has no challenger; {hint}.")
    found = models.fetch(dataset, number)
    promotion.check_run(dataset, number, found.run_id)
    candidate = _scored_again(p, data, found, is_candidate=True)
    incumbent, decision = _decide(p, data, candidate, champion, force)
    opponent = f"champion {champion}" if champion else "no champion"
    table = f"## {name}: version {number} ({found.variant}) against {opponent}\n\n{decision.markdown()}"
    if check:
        return decision.promote, table
    verdict = "promote" if decision.promote else "forced" if force else "refuse"
    if verdict == "forced":
        table += f"\nPromoted all the same, by force: {reason}\n"
    scored = {
        "candidate": {"version": number, "scorecard": candidate},
        "champion": None if champion is None else {"version": champion, "scorecard": incumbent},
    }
    report = _write_decision(
        p, dataset, table, {**decision.as_dict(), "forced": verdict == "forced", "reason": reason, **scored}
    )
    failed = ", ".join(one.name for one in decision.checks if not one.passed)
    tags = {"gate.verdict": verdict, "gate.failed": failed or "none", "gate.data_digest": data.info.digest}
    promotion.record(dataset, number, found.run_id, report, tags | _headline_tags(candidate))
    if verdict != "refuse":
        promotion.promote(dataset, number, champion, reason)
    return verdict != "refuse", table


def _write_decision(p: Params, dataset: str, table: str, decision: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write reports/D/decision.{json,md} and return their paths."""
    report = REPORTS / dataset / "decision.json", REPORTS / dataset / "decision.md"
    made = {"by": promotion.author(), "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **revision()}
    files.write_json(report[0], {"dataset": dataset, **decision, "policy": p.gate.model_dump(), **made})
    files.write_text(report[1], table)
    return report


def _decide(
    p: Params, data: spec.Prepared, candidate: dict[str, Any], champion: str | None, force: bool
) -> tuple[dict[str, Any] | None, gate.Decision]:
    """The champion's scorecard, if there is one that can be scored, and the gate's decision.

    A champion that cannot be scored is an error, and with `force` a failed check.
    """
    incumbent, broken = None, list[gate.Check]()
    if champion is not None:
        try:
            incumbent = _scored_again(p, data, models.fetch(data.info.name, champion), is_candidate=False)
        except LekhaniError as error:
            if not force:
                raise
            broken.append(gate.Check("champion", champion, None, False, f"The champion cannot be scored: {error}"))
    decision = gate.decide(candidate, incumbent, p.gate)
    return incumbent, gate.Decision(decision.promote and not broken, (*broken, *decision.checks))


def _scored_again(p: Params, data: spec.Prepared, found: models.Registered, is_candidate: bool) -> dict[str, Any]:
    """The scorecard of a registered version on the data and by the judge of this folder.

    The difference from torch can only be measured with the weights that it came from, so it is taken from the version's
    own scorecard; so is usefulness, if it was measured on these data. Only a candidate needs usefulness, which takes as
    long as everything else.
    """
    what, generator = f"{found.name} version {found.version}", Generator(found.generator)
    if (generator.classes, generator.image_size) != (data.info.classes, data.info.image_size):
        folder = PREPARED / data.info.name
        raise LekhaniError(f"{what} draws other classes or sizes than {folder} holds, so the two cannot be compared.")
    log.info("Scoring %s (%s) on the test images of %s", what, generator.variant, data.info.name)
    with tempfile.TemporaryDirectory() as figures:
        card = score_generator(p, data, generator, Path(figures))[0]
    own = files.read_checked(found.scorecard, Scorecard) if found.scorecard else {}
    card |= {key: own[key] for key in ("parity_max_abs",) if key in own}
    card["size_mb"] = found.generator.stat().st_size / 2**20
    card["latency_ms"] = latency_ms(found.generator, generator_inputs(generator.noise_dim, len(generator.classes)))
    if is_candidate and p.usefulness.seeds:
        kept = {}
        if own.get("data_digest") == data.info.digest:
            kept = {key: value for key, value in own.items() if key.startswith("usefulness")}
        card |= kept or metrics(score_usefulness(p, data, generator))
    return card


def rollback(p: Params, dataset: str, reason: str | None = None) -> str:
    """Give the alias champion of `dataset` back to the version that had it before; returns a sentence about it."""
    _need_registry(p)
    p.dataset(dataset)
    restored, left = promotion.rollback(dataset, reason, lambda version: models.fetch(dataset, version))
    instead = f" in place of version {left}" if left else ", which completes a move that was interrupted"
    return f"{models.model_name(dataset)} version {restored} is champion again{instead}."


def _need_registry(p: Params) -> None:
    if p.tracking.backend != "mlflow":
        raise UsageError("tracking.backend is `none` in params.yaml, so there is no registry; set it to `mlflow`.")


def _headline_tags(card: Mapping[str, Any]) -> dict[str, str]:
    """What the registry's pages show of a scorecard, as tags; the rest is in the model card."""
    shown = ("fid", "fid_ratio", "label_agreement", "near_copies", "usefulness")
    return {name: f"{card[name]:.5g}" for name in shown if name in card}
