"""register, promote and rollback: the steps that change the registry."""

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lekhani import files
from lekhani.errors import UsageError
from lekhani.evaluate.reference import Reference
from lekhani.inference.session import Reader
from lekhani.params import Params
from lekhani.paths import MODELS, PREPARED, REPORTS, SCORECARDS
from lekhani.registry import card as cards
from lekhani.registry import models, promotion
from lekhani.stages import candidates, timings
from lekhani.stages.artefacts import per_class
from lekhani.stages.candidates import Comparison, Contender
from lekhani.stages.inputs import dataset_info, validated_data
from lekhani.stages.trained import training_facts
from lekhani.tracking import logged, runs
from lekhani.tracking.revision import action_tags, revision
from lekhani.tracking.store import address, exclusive


def register(p: Params, dataset: str, variant: str | None = None) -> str:
    """Register a variant of `dataset`, by default the best of the leaderboard; returns a sentence about it."""
    _need_registry(p)
    p.dataset(dataset)
    variant = variant or candidates.best_variant(p, dataset)
    folder, beside = MODELS / dataset / variant, SCORECARDS / f"{dataset}-{variant}"
    facts, card = training_facts(dataset, variant), candidates.scored_file(dataset, variant)
    info, name = dataset_info(dataset), models.model_name(dataset)
    run = runs.find_or_import_run(p.tracking.experiment, f"{dataset}/{variant}", facts, REPORTS / dataset / variant)
    made_at = runs.provenance(run) | {key: value for key, value in revision().items() if key == "dvc.lock_sha256"}
    run_id, generator, judged = run.info.run_id, folder / "generator.onnx", logged.beside(beside, _judge(dataset))
    source = {f"source.{key}": str(info.source[key]) for key in ("name", "version", "sha256") if info.source.get(key)}
    digests = {key: str(card[key]) for key in ("data_digest", "model_sha256", "judge_sha256")}
    digests["generator_sha256"] = facts["generator_sha256"]
    made_from, page = digests | made_at | source | action_tags("registered"), ""
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
            page = cards.model_card(name, info, facts | timing, shown, classes, lineage, about, address())
            _complete_model(dataset, uri, page)
        version = models.register(dataset, uri, {"variant": variant} | _headline_tags(card), made_from, page)
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


class Outcome(NamedTuple):
    """What became of a dataset's candidate; `promote` is None where there is none to decide on."""

    promote: bool | None
    text: str
    comparison: Comparison | None = None


def check(
    p: Params, dataset: str, version: str | None = None, workspace: bool = False, variant: str | None = None
) -> Outcome:
    """What the gate says of the challenger of `dataset`, the version named, or a model of this workspace.

    Candidate and champion are scored anew, and nothing is changed. The workspace's candidate is the `variant` named or
    the one that `register` would choose.
    """
    _need_registry(p)
    p.dataset(dataset)
    known = models.aliases(dataset)
    champion = known.get("champion")
    if workspace:
        candidate = candidates.of_workspace(p, dataset, variant)
        if candidate is None:
            which = f"model of {variant}" if variant else "models"
            return _no_candidate(dataset, champion, f"The dvc.lock here names no {which} for {dataset}.")
        if champion and models.tags(dataset, champion).get("model_sha256") == candidate.scorecard["model_sha256"]:
            return _no_candidate(dataset, champion, f"Its generator is that of {candidate.name}.")
    else:
        number = version or known.get("challenger")
        if number in (None, champion):
            return _no_challenger(dataset, champion)
        candidate = _challenger(dataset, number)[0]
    comparison = candidates.compare(p, validated_data(dataset), candidate, champion, force=False)
    return Outcome(comparison.decision.promote, _table(dataset, comparison, champion), comparison)


def promote(
    p: Params, dataset: str, version: str | None = None, force: bool = False, reason: str | None = None
) -> Outcome:
    """Compare the challenger of `dataset`, or the version named, with its champion; both are scored anew.

    It becomes champion if the gate allows it. The decision goes to reports/D/decision.{json,md} and to the version's
    run, whatever it is; `force` promotes in spite of it, for a `reason`.
    """
    _need_registry(p)
    if force and not (reason or "").strip():
        raise UsageError("--force overrides the gate, so give a --reason; it is kept with the version.")
    p.dataset(dataset)
    promotion.complete(dataset)
    known = models.aliases(dataset)
    number, champion = version or known.get("challenger"), known.get("champion")
    if number is None or number == champion:
        return _no_challenger(dataset, champion)
    candidate, found = _challenger(dataset, number)
    data = validated_data(dataset)
    comparison = candidates.compare(p, data, candidate, champion, force)
    table, decision = _table(dataset, comparison, champion), comparison.decision
    verdict = "promote" if decision.promote else "forced" if force else "refuse"
    if verdict == "forced":
        table += f"\nPromoted all the same, by force: {reason}\n"
    scored = {
        "candidate": {"version": number, "scorecard": comparison.candidate_card},
        "champion": None if champion is None else {"version": champion, "scorecard": comparison.champion_card},
    }
    report = _write_decision(
        p, dataset, table, {**decision.as_dict(), "forced": verdict == "forced", "reason": reason, **scored}
    )
    failed = ", ".join(one.name for one in decision.failed)
    tags = {"gate.verdict": verdict, "gate.failed": failed or "none", "gate.data_digest": data.info.digest}
    promotion.record(dataset, number, found.run_id, report, tags | _headline_tags(comparison.candidate_card))
    if verdict != "refuse":
        promotion.promote(dataset, number, champion, reason)
    return Outcome(verdict != "refuse", table, comparison)


def _challenger(dataset: str, number: str) -> tuple[Contender, models.Registered]:
    candidate, found = candidates.registered(dataset, number)
    promotion.check_run(dataset, number, found.run_id)
    return candidate, found


def _no_challenger(dataset: str, champion: str | None) -> Outcome:
    hint = f"`lekhani register --dataset {dataset}` registers one"
    return _no_candidate(dataset, champion, f"There is no challenger; {hint}.")


def _no_candidate(dataset: str, champion: str | None, why: str) -> Outcome:
    stands = f"champion {champion} stands" if champion else "and no champion yet"
    return Outcome(None, f"## {models.model_name(dataset)}: no candidate, {stands}\n\n{why}\n")


def _table(dataset: str, found: Comparison, champion: str | None) -> str:
    """The decision as Markdown."""
    opponent = f"champion {champion}" if champion else "no champion"
    return f"## {models.model_name(dataset)}: {found.candidate.name} against {opponent}\n\n{found.decision.markdown()}"


def _write_decision(p: Params, dataset: str, table: str, decision: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write reports/D/decision.{json,md} and return their paths."""
    report = REPORTS / dataset / "decision.json", REPORTS / dataset / "decision.md"
    made = {"by": promotion.author(), "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **revision()}
    files.write_json(report[0], {"dataset": dataset, **decision, "policy": p.gate.model_dump(), **made})
    files.write_text(report[1], table)
    return report


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
    shown = ("fid_ratio", "label_agreement", "usefulness")
    return {name: f"{card[name]:.5g}" for name in shown if name in card}
