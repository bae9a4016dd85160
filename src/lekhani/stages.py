"""The pipeline on one page: each stage of dvc.yaml is one short function that composes the rooms of the house."""

import json
import logging
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lekhani import files
from lekhani.data import spec
from lekhani.data.versions import PREPARED
from lekhani.errors import LekhaniError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lekhani.evaluate.judge import Classifier, JudgeReport
    from lekhani.evaluate.quick import QuickScore
    from lekhani.params import Params, Variants
    from lekhani.train.checkpoint import Checkpoints
    from lekhani.train.reporter import Reporter

log = logging.getLogger("lekhani")

RAW, MODELS, REPORTS = Path("data/raw"), Path("models"), Path("reports")
CHECKPOINTS = Path("checkpoints")  # outside the outputs, which DVC removes before a stage runs
SCORECARDS = REPORTS / "scorecards"  # every scorecard again with a strip of glyphs, in one folder: DVC's way to say "all of them" to compare


def fetch(p: "Params", dataset: str) -> None:
    """Source -> data/raw/D/."""
    from lekhani.data import fetch as sources

    sources.fetch(dataset, p.dataset(dataset), p.embedded, p.seed, RAW / dataset)


def prepare(p: "Params", dataset: str) -> None:
    """data/raw/D/ -> data/prepared/D/{images.npy, labels.npy, manifest.parquet, dataset.json}."""
    from lekhani.data import prepare as preparing

    info = preparing.prepare(dataset, p.dataset(dataset), p.prepare, p.seed, RAW / dataset, PREPARED / dataset)
    log.info("%s: %d train and %d test images in %d classes", dataset, info.counts["train"], info.counts["test"], info.n_classes)


def validate(p: "Params", dataset: str) -> None:
    """data/prepared/D/ -> reports/D/{validation.json, .md, .html, data_card.md, contact_sheet.png}.

    A failed check is a LekhaniError, which stops everything downstream.
    """
    from lekhani.data import report as pages
    from lekhani.data import schema, versions

    previous = None
    if p.validation.drift != "off":
        try:
            previous = versions.manifest_at(dataset, p.validation.previous).manifest
        except versions.NoVersion:
            pass  # the first of its kind
        except UsageError as error:
            log.warning("Drift cannot be judged: %s", error)
    report = schema.validate(PREPARED / dataset, p.validation, previous)
    pages.write_reports(report, PREPARED / dataset, REPORTS / dataset)
    log.info("%s", pages.report_text(report))
    if not report["passed"]:
        failed = [check["sentence"] for check in report["checks"] if not check["passed"] and check["policy"] == "error"]
        raise LekhaniError(f"{dataset} is not fit to train on: {' '.join(failed)} The report is {REPORTS / dataset / 'validation.html'}.")


def judge(p: "Params", dataset: str) -> None:
    """Prepared data -> models/D/judge/{judge,second}.{safetensors,onnx}, reports/D/{judge.json, confusion.png}."""
    from lekhani.evaluate.judge import JudgeNet, SecondNet
    from lekhani.evaluate.report import confusion_figure, save_figure

    data = _validated(dataset)
    info = data.info
    report = _trained_judge(p, data, "judge", JudgeNet, p.judge.images_seen, p.seed)
    second = _trained_judge(p, data, "second", SecondNet, max(1, round(p.judge.images_seen * p.judge.second_budget)), p.seed + 1)
    card: dict[str, Any] = {
        "accuracy": report.accuracy,
        "worst_class_accuracy": float(report.per_class.min()),
        "ece": report.ece,
        "ece_unscaled": report.ece_unscaled,
        "temperature": report.temperature,
        "second_accuracy": second.accuracy,
        "second_ece": second.ece,
        "second_ece_unscaled": second.ece_unscaled,
        "second_temperature": second.temperature,
        "second_agreement": float((report.predicted == second.predicted).mean()),
        "n_test": info.counts["test"],
        "seconds": round(report.seconds, 1),
        "second_seconds": round(second.seconds, 1),
    }
    card["per_class"] = {c.name: round(float(value), 4) for c, value in zip(info.classes, report.per_class, strict=True)}
    files.write_json(REPORTS / dataset / "judge.json", card)
    save_figure(confusion_figure(report.confusion, info.classes, report.accuracy), REPORTS / dataset / "confusion.png")
    log.info(
        "The judge of %s reads %.2f%% of its test split right, a second one %.2f%%, and both agree on %.2f%%",
        dataset,
        *(100 * card[key] for key in ("accuracy", "second_accuracy", "second_agreement")),
    )


def _trained_judge(
    p: "Params", data: spec.Prepared, name: str, network: Callable[[int, int], "Classifier"], images_seen: int, seed: int
) -> "JudgeReport":
    """Train one classifier and write models/D/judge/NAME.{safetensors,onnx}."""
    import torch

    from lekhani.evaluate.judge import train_judge
    from lekhani.export.onnx_file import export_onnx, parity
    from lekhani.export.weights import save_weights
    from lekhani.train.loop import pick_device

    info = data.info
    folder = MODELS / info.name / "judge"
    net, report = train_judge(
        p.judge.model_copy(update={"images_seen": images_seen}),
        data.split("train"),
        data.split("test"),
        info.n_classes,
        seed,
        pick_device(p.train.device),
        lambda done, loss: log.info("%s of %s: %.0f%%, loss %.3f", name, info.name, 100 * done, loss),
        network,
    )
    save_weights(net, folder / f"{name}.safetensors")
    inputs, path = {"images": torch.zeros(3, 1, info.image_size, info.image_size)}, folder / f"{name}.onnx"
    export_onnx(net, inputs, ["features", "logits"], path, {"dataset": info.name, "classes": _classes_json(info)})
    # Logits reach tens, so the bound is looser than for images in [0, 1].
    _check_parity(parity(net, path, inputs), 1e-3, path)
    return report


def train(p: "Params", dataset: str, variant: str) -> None:
    """Prepared data -> models/D/V/{generator.safetensors, training.json}, reports/D/V/{losses.csv, scores.csv, samples/}."""
    import torch

    from lekhani.export.weights import save_weights
    from lekhani.train import distributed
    from lekhani.train.checkpoint import Checkpoints
    from lekhani.train.loop import StoppedError, pick_device
    from lekhani.train.loop import train as run_loop
    from lekhani.train.progress import ProgressBar
    from lekhani.train.reporter import Fanout, LossFile, Silent
    from lekhani.variants import VARIANTS, Variant

    data = _validated(dataset)
    info, choice = data.info, getattr(p.variants, variant)
    choices, teacher, taught_by = p.variants, None, VARIANTS[variant].teacher
    if taught_by:
        weights = MODELS / dataset / taught_by / "generator.safetensors"
        if not weights.exists():
            raise LekhaniError(f"{variant} learns from {taught_by}, but {weights} is not there; run `dvc repro train@{dataset}-{taught_by}` first.")
        choices, teacher = _trained(p, dataset, taught_by)
    folder, reports = MODELS / dataset / variant, REPORTS / dataset / variant
    images_seen = round(max(p.train.images_seen.per_class * info.n_classes, p.train.images_seen.at_least) * choice.budget)
    device = distributed.device_of(pick_device(p.train.device))
    leads = distributed.ranks().leads
    settings = {"profile": p.profile, "seed": p.seed, "images_seen": images_seen, **_flat(choice.model_dump())}
    checkpoints = Checkpoints(CHECKPOINTS / dataset / variant, _made_with(p, dataset, variant, info, images_seen), p.train.keep_checkpoints)
    reporters: list[Reporter] = [
        ProgressBar(f"{dataset}/{variant}", images_seen),
        LossFile(reports / "losses.csv", reports / "scores.csv", reports / "samples"),
    ]
    run_id = _tracked_run(p, dataset, variant, settings, info, checkpoints) if leads and p.tracking.backend == "mlflow" else None
    if run_id:
        from lekhani.tracking import runs

        reporters.append(runs.MlflowReporter(run_id, _backlog(dataset, variant)))
    reporter = Fanout(reporters) if leads else Silent()

    def build(device: torch.device) -> Variant:
        built = VARIANTS[variant].build(choices, info.image_size, info.n_classes, device)
        if teacher is not None:
            built.learn_from(teacher)
        return built

    try:
        trained = run_loop(
            build,
            *data.split("train"),
            images_seen=images_seen,
            batch_size=choice.batch_size,
            ema_decay=choice.ema_decay,
            ema_start=getattr(choice, "ema_start", 0.0),
            seed=p.seed,
            choice=p.train,
            device=device,
            reporter=reporter,
            checkpoints=checkpoints,
            score=_quick_score(p, data, device) if leads and p.train.score_every else None,
        )
    except BaseException as error:
        if run_id:
            runs.end_run(run_id, "KILLED" if isinstance(error, StoppedError | KeyboardInterrupt) else "FAILED")
        raise
    finally:
        reporter.close()
    if not leads:
        return
    save_weights(trained.generator, folder / "generator.safetensors")
    facts = {
        "dataset": dataset,
        "variant": variant,
        "image_size": info.image_size,
        "n_classes": info.n_classes,
        "noise_dim": trained.variant.noise_dim,
        "conditional": trained.variant.conditional,
        "parameters": sum(weight.numel() for weight in trained.generator.parameters()),
        "choices": {name: getattr(choices, name).model_dump() for name in (variant, taught_by) if name},
        "seed": p.seed,
        "profile": p.profile,
        "data_digest": info.digest,
        "generator_sha256": files.sha256(folder / "generator.safetensors"),
        "images_seen": trained.images_seen,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "findings": [asdict(finding) for finding in trained.findings],
        "train_seconds": round(trained.seconds, 1),
        "images_per_second": round(trained.images_per_second, 1),
        "peak_memory_mb": round(trained.peak_memory_mb),
        "device": trained.device,
        "torch": torch.__version__,
        "mlflow_run_id": run_id,
    }
    files.write_json(folder / "training.json", facts)
    checkpoints.clear()


def _trained(p: "Params", dataset: str, variant: str) -> tuple["Variants", "nn.Module"]:
    """A trained generator on the CPU, rebuilt from what training wrote down rather than from today's params.yaml, and those choices."""
    import torch

    from lekhani.export.weights import load_weights
    from lekhani.variants import VARIANTS

    folder = MODELS / dataset / variant
    facts = files.read_json(folder / "training.json")
    made_with = {name: type(getattr(p.variants, name)).model_validate_json(json.dumps(choice)) for name, choice in facts["choices"].items()}
    choices = p.variants.model_copy(update=made_with)
    generator = VARIANTS[variant].build(choices, facts["image_size"], facts["n_classes"], torch.device("cpu")).generator().eval()
    load_weights(generator, folder / "generator.safetensors")
    return choices, generator


def _made_with(p: "Params", dataset: str, variant: str, info: spec.DatasetInfo, images_seen: int) -> dict[str, Any]:
    """Every choice that the weights of a run depend on, by the name it has in params.yaml."""
    from lekhani.variants import VARIANTS

    taught_by = VARIANTS[variant].teacher
    return {
        **({f"the weights of {taught_by}": files.sha256(MODELS / dataset / taught_by / "generator.safetensors")[:16]} if taught_by else {}),
        f"data.{dataset} (its digest)": info.digest[:16],
        "seed": p.seed,
        "train.images_seen": images_seen,
        **{f"train.{key}": getattr(p.train, key) for key in ("precision", "score_every", "score_images")},
        **{f"variants.{variant}.{key}": value for key, value in getattr(p.variants, variant).model_dump().items()},
    }


def _tracked_run(p: "Params", dataset: str, variant: str, settings: dict[str, Any], info: spec.DatasetInfo, checkpoints: "Checkpoints") -> str:
    """The MLflow run of this training: the one that an interrupted session opened, or a new one."""
    from lekhani.data.report import PAGES
    from lekhani.tracking import runs

    note = checkpoints.folder / "mlflow_run.json"
    if checkpoints.load() is not None and note.exists():
        run_id: str = files.read_json(note)["run_id"]
        if runs.reopen_run(p.tracking.experiment, run_id):
            return run_id
    run_id = runs.start_run(
        p.tracking.experiment,
        f"{dataset}/{variant}",
        settings,
        {"dataset": dataset, "variant": variant, **_revision()},
        info,
        PREPARED / dataset,
        [path for path in (REPORTS / dataset / name for name in PAGES) if path.exists()],
    )
    files.write_json(note, {"run_id": run_id})
    return run_id


def _backlog(dataset: str, variant: str) -> Path:
    return CHECKPOINTS / dataset / f"{variant}.untold.json"


def _quick_score(p: "Params", data: spec.Prepared, device: "torch.device") -> "QuickScore":
    """The judge's score for the loop."""
    from lekhani.evaluate.judge import JudgeNet
    from lekhani.evaluate.quick import QuickScore
    from lekhani.export.weights import load_weights

    net = JudgeNet(data.info.n_classes, p.judge.width)
    load_weights(net, MODELS / data.info.name / "judge" / "judge.safetensors")
    # Against train images: the test split must not choose among weights that it is to judge.
    return QuickScore(net, data.split("train"), data.info.n_classes, p.train.score_images, p.seed, device)


def export(p: "Params", dataset: str, variant: str) -> None:
    """models/D/V/generator.safetensors -> models/D/V/generator.onnx and reports/D/V/export.json; a parity failure is a LekhaniError."""
    from lekhani.export.onnx_file import export_onnx, generator_inputs, latency_ms, parity

    info, folder = _info(dataset), MODELS / dataset / variant
    facts = files.read_json(folder / "training.json")
    _, generator = _trained(p, dataset, variant)
    inputs, path = generator_inputs(facts["noise_dim"], facts["n_classes"]), folder / "generator.onnx"
    metadata = {
        **{key: str(facts[key]) for key in ("dataset", "variant", "noise_dim", "image_size", "seed", "profile")},
        "conditional": str(facts["conditional"]).lower(),
        "classes": _classes_json(info),
        "lineage": json.dumps({key: facts[key] for key in ("data_digest", "generator_sha256")}),
    }
    export_onnx(generator, inputs, ["images"], path, metadata)
    difference = parity(generator, path, inputs)
    _check_parity(difference, p.evaluate.parity_tolerance, path)
    report = {
        "parity_max_abs": difference,
        "latency_ms": latency_ms(path, inputs),
        "size_mb": path.stat().st_size / 2**20,
        "model_sha256": files.sha256(path),
    }
    files.write_json(REPORTS / dataset / variant / "export.json", report)
    if p.tracking.backend == "mlflow":
        from lekhani.tracking import runs

        runs.deliver(_backlog(dataset, variant))
        with runs.resume(facts["mlflow_run_id"], p.tracking.experiment, f"{dataset}/{variant}", _revision(facts)):
            runs.log_model(path, facts["noise_dim"], facts["image_size"])


def evaluate(p: "Params", dataset: str, variant: str) -> None:
    """generator.onnx, judge and prepared data -> reports/D/V/{scorecard.json, per_class.csv, grid.png}. What ships is what is scored."""
    from lekhani.evaluate.report import save_table
    from lekhani.evaluate.scorecard import per_class, score
    from lekhani.pictures import grid, save_png
    from lekhani.serve.session import Generator, Reader

    data = _validated(dataset)
    info, reports, weights = data.info, REPORTS / dataset / variant, MODELS / dataset / "judge" / "judge.safetensors"
    facts, exported = files.read_json(MODELS / dataset / variant / "training.json"), files.read_json(reports / "export.json")
    reader, generator = Reader(MODELS / dataset / "judge" / "judge.onnx"), Generator(MODELS / dataset / variant / "generator.onnx")

    train_images, _ = data.split("train")
    test_images, test_labels = data.split("test")
    n = min(p.evaluate.n_generated, len(train_images))
    rng = np.random.default_rng([p.seed, 2])
    asked = np.arange(n, dtype=np.int64) % info.n_classes
    images = np.concatenate(list(generator.draw(asked, rng)))
    labels = asked if generator.conditional else None
    readings = reader.read(images)
    # A stream of its own, so that every variant stands beside the same floor.
    real = train_images[np.sort(np.random.default_rng([p.seed, 3]).choice(len(train_images), n, replace=False))]
    metrics = score(readings, labels, reader.read(test_images), test_labels, reader.read(real), p.evaluate.kid_subset_size, p.seed)

    card = {
        "dataset": dataset,
        "variant": variant,
        "model_sha256": generator.sha256,
        "judge_sha256": files.sha256(weights),
        "n_generated": n,
        "n_real": len(test_images),
        "seed": p.seed,
        **metrics,
        **{key: exported[key] for key in ("parity_max_abs", "latency_ms", "size_mb")},
        **{key: facts[key] for key in ("images_seen", "train_seconds", "images_per_second")},
    }
    rows = [{"name": c.name, "glyph": c.glyph, **row} for c, row in zip(info.classes, per_class(readings[1], labels, info.n_classes), strict=True)]
    save_table(rows, reports / "per_class.csv")
    # Generated glyphs in class order, eight of each (a column a class), at the very noise that was scored.
    shown = 8 if info.n_classes * 8 <= n else max(1, n // info.n_classes)
    columns = min(info.n_classes, 23)
    blocks = [
        images[row * info.n_classes + np.arange(first, min(first + columns, info.n_classes))]
        for first in range(0, info.n_classes, columns)
        for row in range(shown)
    ]
    save_png(grid(np.concatenate(blocks), columns), reports / "grid.png", scale=2)
    save_png(grid(images[:46], 23), SCORECARDS / f"{dataset}-{variant}.png")
    files.write_json(SCORECARDS / f"{dataset}-{variant}.json", card)
    files.write_json(reports / "scorecard.json", card)
    if p.tracking.backend == "mlflow":
        from lekhani.tracking import runs

        runs.deliver(_backlog(dataset, variant))
        with runs.resume(facts["mlflow_run_id"], p.tracking.experiment, f"{dataset}/{variant}", _revision(facts)):
            runs.log_scorecard(
                card, [reports / "grid.png", reports / "per_class.csv", reports / "scorecard.json"], MODELS / dataset / "judge" / "judge.onnx"
            )
    log.info(
        "%s/%s: FID %.2f (floor %.2f)%s",
        dataset,
        variant,
        card["fid"],
        card["fid_floor"],
        f", label agreement {card['label_agreement']:.1%}" if labels is not None else "",
    )


def compare(p: "Params") -> None:
    """All scorecards -> reports/leaderboard.{csv,md,png}."""
    from PIL import Image

    from lekhani.evaluate.report import leaderboard_csv, leaderboard_figure, leaderboard_markdown, save_figure

    cards = [files.read_json(SCORECARDS / f"{d}-{v}.json") for d in p.data for v in p.pipeline.everyone]
    strips = {}
    for card in cards:
        key = card["dataset"], card["variant"]
        with Image.open(SCORECARDS / f"{key[0]}-{key[1]}.png") as picture:
            strips[key] = np.asarray(picture)
    files.write_text(REPORTS / "leaderboard.csv", leaderboard_csv(cards))
    text = leaderboard_markdown(cards)
    files.write_text(REPORTS / "leaderboard.md", text)
    save_figure(leaderboard_figure(cards, strips), REPORTS / "leaderboard.png")
    log.info("%s", text)


def register(p: "Params", dataset: str) -> str:
    """Register the variant of `dataset` that leads the leaderboard and return one sentence that says what was done."""
    if p.tracking.backend != "mlflow":
        raise UsageError("tracking.backend is `none` in params.yaml, so there is no registry; set it to `mlflow`.")
    from lekhani.evaluate.report import rank
    from lekhani.registry import models
    from lekhani.tracking import runs

    p.dataset(dataset)
    best = rank([files.read_json(SCORECARDS / f"{dataset}-{v}.json") for v in p.pipeline.everyone])[0]
    folder = MODELS / dataset / best["variant"]
    facts = files.read_json(folder / "training.json")
    if files.sha256(folder / "generator.onnx") != best["model_sha256"]:
        raise LekhaniError(f"{folder / 'generator.onnx'} is not the file that was scored; run `dvc repro` first.")
    with runs.resume(facts["mlflow_run_id"], p.tracking.experiment, f"{dataset}/{best['variant']}", _revision(facts)) as run_id:
        uri = runs.logged_model(run_id) or runs.log_model(folder / "generator.onnx", facts["noise_dim"], facts["image_size"])
    tags = {key: str(best[key]) for key in ("variant", "model_sha256", "fid", "fid_ratio", "label_agreement") if key in best}
    version = models.register(dataset, run_id, uri, {**tags, "data_digest": facts["data_digest"]})
    return f"{version.name} version {version.version} is {best['variant']} (FID {best['fid']:.2f}), alias challenger."


def _info(dataset: str) -> spec.DatasetInfo:
    return spec.DatasetInfo.from_dict(files.read_json(PREPARED / dataset / "dataset.json"))


def _validated(dataset: str) -> spec.Prepared:
    report = files.read_json(REPORTS / dataset / "validation.json")
    if not report["passed"]:
        raise LekhaniError(f"{dataset} failed its validation, see {REPORTS / dataset / 'validation.json'}; mend the data and run `dvc repro`.")
    try:
        return spec.load_prepared(PREPARED / dataset)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LekhaniError(f"{PREPARED / dataset} cannot be read ({error}); run `dvc repro prepare@{dataset}`.") from error


def _check_parity(difference: float, tolerance: float, path: Path) -> None:
    if not difference <= tolerance:
        raise LekhaniError(
            f"{path} differs from torch by {difference:.2g}, more than {tolerance:.2g}, so it is not fit to ship; please report the params you used."
        )


def _classes_json(info: spec.DatasetInfo) -> str:
    return json.dumps([asdict(c) for c in info.classes], ensure_ascii=False)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return {key: json.dumps(value) if isinstance(value, list | tuple) else value for key, value in values.items()}


def _revision(facts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Tags that lead from a run back to code, data and weights: git commit, whether the tree was clean, DVC's lock and experiment."""
    tags = {"generator_sha256": facts["generator_sha256"]} if facts else {}
    ask: Callable[..., str] = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731, S603, S607
    try:
        tags["git.commit"] = ask("rev-parse", "HEAD")
        tags["git.dirty"] = str(bool(ask("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.CalledProcessError):
        tags["git.commit"] = "none"
    if Path("dvc.lock").exists():
        tags["dvc.lock_sha256"] = files.sha256(Path("dvc.lock"))
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return tags
