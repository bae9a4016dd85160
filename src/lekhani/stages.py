"""The pipeline on one page: each stage of dvc.yaml is one short function that composes the rooms of the house."""

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lekhani import files
from lekhani.data import spec
from lekhani.data.versions import PREPARED
from lekhani.errors import LekhaniError, UsageError

if TYPE_CHECKING:
    import torch

    from lekhani.evaluate.judge import Classifier, JudgeReport
    from lekhani.evaluate.per_class import ClassScore
    from lekhani.evaluate.quick import QuickScore
    from lekhani.evaluate.usefulness import Point
    from lekhani.inference.session import Generator
    from lekhani.params import Params, Variants
    from lekhani.pictures import Picture
    from lekhani.registry.models import Registered
    from lekhani.train.checkpoint import Checkpoints
    from lekhani.train.reporter import Reporter
    from lekhani.variants import Variant

log = logging.getLogger("lekhani")

RAW, MODELS, REPORTS = Path("data/raw"), Path("models"), Path("reports")
CACHE = Path("cache")  # what judges read of real images, made anew when it is missing or of other images
CHECKPOINTS = Path("checkpoints")  # outside the outputs, which DVC removes before a stage runs
SCORECARDS = REPORTS / "scorecards"  # D-V/: a scorecard again and what goes with it, all in one folder, since a stage cannot depend on a matrix


def fetch(p: "Params", dataset: str) -> None:
    """Source -> data/raw/D/."""
    from lekhani.data.sources import fetch as sources

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
    from lekhani.train.loop import pick_device, takes_bf16

    info, device = data.info, pick_device(p.train.device)
    folder = MODELS / info.name / "judge"
    net, report = train_judge(
        p.judge.model_copy(update={"images_seen": images_seen}),
        data.split("train"),
        data.split("test"),
        info.n_classes,
        seed,
        device,
        lambda done, loss: log.info("%s of %s: %.0f%%, loss %.3f", name, info.name, 100 * done, loss),
        network,
        takes_bf16(p.train, device),
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
        choices, trained_teacher = _trained(p, dataset, taught_by)
        teacher = trained_teacher.generator()
    folder, reports = MODELS / dataset / variant, REPORTS / dataset / variant
    images_seen = round(max(p.train.images_seen.per_class * info.n_classes, p.train.images_seen.at_least) * choice.budget)
    device = distributed.device_of(pick_device(p.train.device))
    leads = distributed.ranks().leads
    settings = {"profile": p.profile, "seed": p.train_seed, "images_seen": images_seen, **_flat(choice.model_dump())}
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
            seed=p.train_seed,
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
        "seed": p.train_seed,
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


def _trained(p: "Params", dataset: str, variant: str) -> tuple["Variants", "Variant"]:
    """A variant with trained weights on the CPU, rebuilt from what training wrote down rather than from today's params.yaml, and those choices."""
    import torch

    from lekhani.export.weights import load_weights
    from lekhani.variants import VARIANTS

    folder = MODELS / dataset / variant
    facts = files.read_json(folder / "training.json")
    made_with = {name: type(getattr(p.variants, name)).model_validate_json(json.dumps(choice)) for name, choice in facts["choices"].items()}
    choices = p.variants.model_copy(update=made_with)
    built = VARIANTS[variant].build(choices, facts["image_size"], facts["n_classes"], torch.device("cpu"))
    load_weights(built.generator().eval(), folder / "generator.safetensors")
    return choices, built


def _made_with(p: "Params", dataset: str, variant: str, info: spec.DatasetInfo, images_seen: int) -> dict[str, Any]:
    """Every choice that the weights of a run depend on, by the name it has in params.yaml."""
    from lekhani.variants import VARIANTS

    taught_by = VARIANTS[variant].teacher
    return {
        **({f"the weights of {taught_by}": files.sha256(MODELS / dataset / taught_by / "generator.safetensors")[:16]} if taught_by else {}),
        f"data.{dataset} (its digest)": info.digest[:16],
        "seed": p.train_seed,
        "train.images_seen": images_seen,
        **{f"train.{key}": getattr(p.train, key) for key in ("precision", "score_every", "score_images")},
        **{f"variants.{variant}.{key}": value for key, value in getattr(p.variants, variant).model_dump().items()},
    }


def _tracked_run(p: "Params", dataset: str, variant: str, settings: dict[str, Any], info: spec.DatasetInfo, checkpoints: "Checkpoints") -> str:
    """The MLflow run of this training: the one that an interrupted session opened, or a new one."""
    from lekhani.data.report import PAGES
    from lekhani.tracking import runs

    note = checkpoints.folder / "mlflow_run.json"
    if note.exists():
        run_id: str = files.read_json(note)["run_id"]
        if checkpoints.load() is not None and runs.reopen_run(p.tracking.experiment, run_id):
            return run_id
        runs.give_up(run_id)  # it was cut short before its first checkpoint
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
    generator = _trained(p, dataset, variant)[1].generator()
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
    if (missed := _backlog(dataset, variant)).exists():
        from lekhani.tracking import runs

        runs.deliver(missed)


def baseline(p: "Params", dataset: str) -> None:
    """Prepared data -> reports/D/usefulness_real.json: how well an OCR model reads after training on real images alone."""
    from lekhani.evaluate.usefulness import real_alone
    from lekhani.train.loop import pick_device

    data = _validated(dataset)
    points = real_alone(
        data.split("train"), data.split("test"), data.info.n_classes, p.usefulness, p.seed, pick_device(p.train.device), _point_log(dataset)
    )
    files.write_json(REPORTS / dataset / "usefulness_real.json", {"points": [asdict(point) for point in points]})


def usefulness(p: "Params", dataset: str, variant: str) -> None:
    """generator.onnx, judge, prepared data, reports/D/usefulness_real.json -> reports/D/V/usefulness.json and usefulness/{points.csv, curve.png}.

    With `usefulness.seeds: 0` it is left out: the file is then empty and the folder too.
    """
    from lekhani.evaluate.report import save_figure, save_table
    from lekhani.evaluate.usefulness import metrics, usefulness_figure
    from lekhani.inference.session import Generator

    reports = REPORTS / dataset / variant
    card: dict[str, float] = {}
    with files.replacing(reports / "usefulness") as folder:
        folder.mkdir()
        if p.usefulness.seeds:
            points = _useful(p, _validated(dataset), Generator(MODELS / dataset / variant / "generator.onnx"))
            card = metrics(points)
            save_table([point.row() for point in points], folder / "points.csv")
            save_figure(usefulness_figure(points, f"{dataset} / {variant}"), folder / "curve.png")
    files.write_json(reports / "usefulness.json", card)


def _useful(p: "Params", data: spec.Prepared, generator: "Generator") -> list["Point"]:
    """What OCR models read after training on the generator's images, beside what they read after real ones alone."""
    from lekhani.evaluate.usefulness import Point, usefulness
    from lekhani.inference.session import Reader
    from lekhani.train.loop import pick_device

    name = data.info.name
    images, labels = _draw(p, generator, data, 0)
    if not generator.conditional:
        labels = Reader(MODELS / name / "judge" / "judge.onnx").read(images)[1].argmax(1)
    real = [Point(**point) for point in files.read_json(REPORTS / name / "usefulness_real.json")["points"]]
    return real + usefulness(
        (images, labels),
        data.split("train"),
        data.split("test"),
        data.info.n_classes,
        p.usefulness,
        p.seed,
        pick_device(p.train.device),
        _point_log(f"{name}/{generator.variant}"),
    )


def evaluate(p: "Params", dataset: str, variant: str) -> None:
    """generator.onnx, both judges and prepared data -> reports/D/V/{scorecard.json, per_class.csv, grid.png, figures/}, reports/scorecards/D-V/.

    What ships is what is scored.
    """
    from lekhani.evaluate.likelihood import nats
    from lekhani.evaluate.per_class import collapsed, table
    from lekhani.evaluate.report import save_table
    from lekhani.evaluate.scorecard import curve
    from lekhani.inference.session import Generator
    from lekhani.pictures import grid, save_png

    data, reports = _validated(dataset), REPORTS / dataset / variant
    facts, exported = files.read_json(MODELS / dataset / variant / "training.json"), files.read_json(reports / "export.json")
    generator, built = Generator(MODELS / dataset / variant / "generator.onnx"), _trained(p, dataset, variant)[1]
    with files.replacing(reports / "figures") as folder:
        folder.mkdir()
        card, classes, images = _scored(p, data, generator, folder)
    card["train_seed"] = facts["seed"]
    card |= nats(built, *data.split("test"), p.seed) | nats(built, *_like_generated(p, data), p.seed, "_train")
    if (reports / "usefulness.json").exists():
        card |= files.read_json(reports / "usefulness.json")
    card |= {key: exported[key] for key in ("parity_max_abs", "latency_ms", "size_mb")}
    card |= {key: facts[key] for key in ("images_seen", "train_seconds", "images_per_second")}
    card["batch_size"] = facts["choices"][variant]["batch_size"]

    rows, picture = table(classes, data.info.classes), _in_class_order(images, data.info.n_classes)
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
        from lekhani.tracking import runs

        with runs.resume(facts["mlflow_run_id"], p.tracking.experiment, f"{dataset}/{variant}", _revision(facts)):
            made = [reports / name for name in ("grid.png", "per_class.csv", "scorecard.json")]
            made += [path for part in ("figures", "usefulness") for path in sorted((reports / part).glob("*"))]
            runs.log_scorecard(card, made, [MODELS / dataset / "judge" / name for name in ("judge.onnx", "second.onnx")])
    for finding in collapsed(classes, data.info.classes):
        log.warning("%s/%s: %s", dataset, variant, finding.sentence)
    agreement = f", label agreement {card['label_agreement']:.1%}" if "label_agreement" in card else ""
    log.info("%s/%s: FID %.2f (floor %.2f)%s", dataset, variant, card["fid"], card["fid_floor"], agreement)


def _scored(p: "Params", data: spec.Prepared, generator: "Generator", figures: Path) -> tuple[dict[str, Any], list["ClassScore"], spec.Bytes]:
    """What can be told of a generator from its images alone: scorecard, classes, and the images of the first sampling seed; figures in a folder."""
    from lekhani.evaluate.memorisation import closest_figure, memorisation
    from lekhani.evaluate.report import save_figure

    sets = [_draw(p, generator, data, again)[0] for again in range(p.evaluate.sampling_seeds)]
    train, test = data.split("train")[0], data.split("test")[0]
    card: dict[str, Any] = {
        "dataset": data.info.name,
        "variant": generator.variant,
        "model_sha256": generator.sha256,
        "judge_sha256": files.sha256(MODELS / data.info.name / "judge" / "judge.safetensors"),
        "data_digest": data.info.digest,
        "n_generated": len(sets[0]),
        "n_real": len(test),
        "seed": p.seed,
    }
    copies, pairs = memorisation(sets[0], train, test, p.seed)
    measured, classes = _judged(p, data, generator, sets, figures)
    save_figure(closest_figure(pairs, sets[0], train), figures / "closest.png")
    return card | measured | copies, classes, sets[0]


def _like_generated(p: "Params", data: spec.Prepared) -> tuple[spec.Bytes, spec.Labels]:
    """As many train images as are generated, by a stream of its own, so that every variant stands beside the same floor."""
    images, labels = data.split("train")
    some = np.sort(np.random.default_rng([p.seed, 3]).choice(len(images), len(_asked(p, data)), replace=False))
    return images[some], labels[some]


def _judged(
    p: "Params",
    data: spec.Prepared,
    generator: "Generator",
    sets: Sequence[spec.Bytes],
    figures: Path,
) -> tuple[dict[str, Any], list["ClassScore"]]:
    """What all extractors say of the images of each sampling seed; the judge's view of each class, drawn in `figures`."""
    from lekhani.evaluate import per_class
    from lekhani.evaluate.fidelity import Inception
    from lekhani.evaluate.memorisation import among_features
    from lekhani.evaluate.report import confusion_figure, save_figure
    from lekhani.evaluate.scorecard import fidelity_card, read_real, score, second_opinion
    from lekhani.inference.session import Reader
    from lekhani.train.loop import pick_device

    info, (test_images, test_labels), few, choice = data.info, data.split("test"), _like_generated(p, data), p.evaluate
    asked = _asked(p, data) if generator.conditional else None
    reader, second = (Reader(MODELS / info.name / "judge" / f"{name}.onnx") for name in ("judge", "second"))
    readings = [reader.read(images) for images in sets]
    real = read_real(reader.read, test_images, few[0], choice.kid_subset_size, p.seed, CACHE / info.name / "judge.npz", reader.sha256)
    card: dict[str, Any] = score(readings, asked, real, test_labels, choice.kid_subset_size, p.seed)
    card |= second_opinion(readings, [second.read(images) for images in sets], asked, real.test, second.read(test_images), test_labels)
    if "inception" in choice.extractors:
        inception = Inception(Path(choice.inception_weights) if choice.inception_weights else None, pick_device(p.train.device))
        cache = CACHE / info.name / "inception.npz"
        seen = read_real(inception.read, test_images, few[0], choice.kid_subset_size, p.seed, cache, inception.sha256)
        card |= fidelity_card([inception.read(images) for images in sets], seen, choice.kid_subset_size, p.seed, "_inception")
        card["inception_sha256"] = inception.sha256

    features, logits = (np.concatenate(columns) for columns in zip(*readings, strict=True))
    labels = None if asked is None else np.tile(asked, len(sets))
    classes = per_class.by_class((features, logits), labels, real.test, test_labels, real.train, few[1], p.seed)
    card |= among_features(readings[0][0], real.train[0], real.test[0])
    card["collapsed_classes"] = sum(one.is_collapsed for one in classes)
    shown = np.concatenate(sets), logits.argmax(1) if labels is None else labels
    save_figure(per_class.worst_figure(per_class.worst(classes), info.classes, shown, (test_images, test_labels)), figures / "worst.png")
    if labels is not None:
        counts, title = per_class.confusion(labels, logits), f"{generator.variant}, read by the judge"
        save_figure(confusion_figure(counts, info.classes, card["label_agreement"], title, "asked for"), figures / "confusion.png")
    return card, classes


def _asked(p: "Params", data: spec.Prepared) -> spec.Labels:
    """Equally many labels of each class, no more than there are train images."""
    return np.arange(min(p.evaluate.n_generated, data.info.counts["train"]), dtype=np.int64) % data.info.n_classes


def _draw(p: "Params", generator: "Generator", data: spec.Prepared, again: int) -> tuple[spec.Bytes, spec.Labels]:
    """Images of one sampling seed and the labels that they were asked for."""
    asked = _asked(p, data)
    return np.concatenate(list(generator.draw(asked, np.random.default_rng([p.seed, 2, again])))), asked


def _in_class_order(images: spec.Bytes, n_classes: int) -> "Picture":
    """Generated glyphs, a column a class and eight of each, of images whose labels count up and start anew."""
    from lekhani.pictures import grid

    shown = 8 if n_classes * 8 <= len(images) else max(1, len(images) // n_classes)
    columns = min(n_classes, 23)
    blocks = [
        images[row * n_classes + np.arange(first, min(first + columns, n_classes))] for first in range(0, n_classes, columns) for row in range(shown)
    ]
    return grid(np.concatenate(blocks), columns)


def _point_log(name: str) -> Callable[["Point"], None]:
    return lambda point: log.info("%s: %s, %d real images, reads %.1f%%", name, point.kind, point.n_real, 100 * point.mean)


def compare(p: "Params", repeats: bool = False) -> None:
    """All scorecards -> reports/leaderboard.{csv,md,png,html} and reports/leaderboard/.

    With `repeats`, those of DVC experiments that repeat the training with other seeds are pooled with the workspace's, and all that is
    written lies in reports/repeats/.
    """
    from PIL import Image

    from lekhani.evaluate import leaderboard
    from lekhani.evaluate.report import save_figure

    folders = {(d, v): SCORECARDS / f"{d}-{v}" for d in p.data for v in p.pipeline.everyone}
    cards = [files.read_json(folder / "scorecard.json") for folder in folders.values()]
    if repeats:
        from lekhani.tracking.experiments import repeats as experiments

        found = experiments([folder / "scorecard.json" for folder in folders.values()])
        seen = {json.dumps(card) for card in cards}
        others = [card for of_path in found.values() for card in of_path if json.dumps(card) not in seen]
        if not others:
            raise UsageError("No experiment on top of HEAD repeats this training; queue some with `dvc exp run --queue -S train.seed=8`.")
        cards = list(leaderboard.repeats(cards + others))
    entries, strips = [], {}
    for card in cards:
        key = card["dataset"], card["variant"]
        with Image.open(folders[key] / "strip.png") as strip, Image.open(folders[key] / "grid.png") as grid:
            strips[key] = np.asarray(strip)
            curve, classes = (files.read_csv(folders[key] / f"{name}.csv") for name in ("curve", "per_class"))
            entries.append(leaderboard.Entry(card, curve, classes, np.asarray(grid)))
    target, text = REPORTS / "repeats" if repeats else REPORTS, leaderboard.leaderboard_markdown(cards)
    with files.replacing(target / "leaderboard") as folder:
        folder.mkdir()
        for dataset in p.data:
            for name, figure in leaderboard.figures([entry for entry in entries if entry.card["dataset"] == dataset]).items():
                save_figure(figure, folder / f"{dataset}-{name}.png")
    save_figure(leaderboard.leaderboard_figure(cards, strips), target / "leaderboard.png")
    files.write_text(target / "leaderboard.csv", leaderboard.leaderboard_csv(cards))
    files.write_text(target / "leaderboard.md", text)
    files.write_text(target / "leaderboard.html", leaderboard.leaderboard_html(entries))
    if p.tracking.backend == "mlflow":
        from lekhani.tracking import runs

        made = [target / f"leaderboard.{kind}" for kind in ("csv", "md", "png", "html")]
        runs.log_leaderboard(p.tracking.experiment, [*made, *sorted((target / "leaderboard").iterdir())], _revision())
    log.info("%s", text)


def register(p: "Params", dataset: str, variant: str | None = None) -> str:
    """Register a variant of `dataset`, that which leads the leaderboard unless one is named, and return a sentence that says what was done."""
    _need_registry(p)
    from importlib import import_module

    from lekhani.evaluate.leaderboard import rank
    from lekhani.inference.session import Reader
    from lekhani.registry import card as cards
    from lekhani.registry import models
    from lekhani.serve.monitor import Reference
    from lekhani.tracking import runs

    p.dataset(dataset)
    if variant is None:
        variant = rank([files.read_json(SCORECARDS / f"{dataset}-{v}" / "scorecard.json") for v in p.pipeline.everyone])[0].card["variant"]
    folder, scored = MODELS / dataset / variant, SCORECARDS / f"{dataset}-{variant}"
    facts, card, info = files.read_json(folder / "training.json"), files.read_json(scored / "scorecard.json"), _info(dataset)
    if files.sha256(folder / "generator.onnx") != card["model_sha256"]:
        raise LekhaniError(f"{folder / 'generator.onnx'} is not the file that was scored; run `dvc repro` first.")
    name, revision = models.model_name(dataset), _revision(facts)
    about = import_module(f"lekhani.variants.{variant}").__doc__ or ""
    text = cards.model_card(name, info, facts, card, files.read_csv(scored / "per_class.csv"), revision, about)
    with runs.resume(facts["mlflow_run_id"], p.tracking.experiment, f"{dataset}/{variant}", revision) as run_id:
        uri = runs.logged_model(run_id, card["model_sha256"])
        if uri is None:
            runs.log_lineage([path for path in (Path("dvc.lock"), Path("params.yaml"), PREPARED / dataset / "dataset.json") if path.exists()])
            with tempfile.TemporaryDirectory() as temporary:
                page, reference = Path(temporary) / "README.md", Path(temporary) / "reference.npz"
                files.write_text(page, text)
                real = spec.load_prepared(PREPARED / dataset).split("test")[0]
                Reference.of(Reader(MODELS / dataset / "judge" / "judge.onnx"), real).save(reference)
                beside = [page, reference, *(scored / one for one in ("grid.png", "scorecard.json", "per_class.csv"))]
                uri = runs.log_model(folder / "generator.onnx", beside)
    source = {f"source.{key}": str(info.source[key]) for key in ("name", "version", "sha256") if info.source.get(key)}
    known = {"variant": variant} | _told(card) | {key: str(card[key]) for key in ("data_digest", "model_sha256", "judge_sha256")}
    version = models.register(dataset, uri, known | revision | source, cards.headline(card))
    held = [alias for alias, number in models.aliases(dataset).items() if number == str(version.version)]
    return f"{version.name} version {version.version} is {variant} (FID {card['fid']:.2f}), alias {' and '.join(sorted(held))}."


def promote(
    p: "Params", dataset: str, version: str | None = None, check: bool = False, force: bool = False, reason: str | None = None
) -> tuple[bool, str]:
    """Hold the challenger of `dataset`, or the version named, against its champion, both scored anew; it takes its place if the gate says so.

    Returns whether it was promoted and the decision as Markdown. With `check` nothing is changed. Otherwise the decision goes to
    reports/D/decision.{json,md} and to the version's run, whatever it is; `force` promotes in spite of it, for a `reason`.
    """
    _need_registry(p)
    if force and not (reason or "").strip():
        raise UsageError("--force goes around the gate, so say why with --reason; it is kept with the version.")
    from lekhani.registry import gate, models, promotion

    name, data = models.model_name(dataset), _validated(dataset)
    if not check:
        promotion.finish(dataset)
    known = models.aliases(dataset)
    number, champion = version or known.get("challenger"), known.get("champion")
    if champion is not None and number in (None, champion):
        return False, f"## {name}: champion {champion} stands\n\nThere is no challenger; `lekhani register` registers one.\n"
    if number is None:
        raise UsageError(f"{name} has no challenger; register one with `lekhani register --dataset {dataset}`, or name a version with --version.")
    found = models.fetch(dataset, number)
    promotion.check_run(dataset, number, found.run_id)
    ours = _scored_again(p, data, found, is_candidate=True)
    theirs, broken = None, list[gate.Check]()
    if champion is not None:
        try:
            theirs = _scored_again(p, data, models.fetch(dataset, champion), is_candidate=False)
        except LekhaniError as error:
            if not force:
                raise
            broken.append(gate.Check("champion", champion, None, False, f"The champion cannot be scored: {error}"))
    decision = gate.decide(ours, theirs, gate.Policy(**p.gate.model_dump()))
    decision = gate.Decision(decision.promote and not broken, (*broken, *decision.checks))
    table = f"## {name}: version {number} ({found.variant}) against {f'champion {champion}' if champion else 'no champion'}\n\n{decision.markdown()}"
    if check:
        return decision.promote, table
    verdict = "promote" if decision.promote else "forced" if force else "refuse"
    if verdict == "forced":
        table += f"\nPromoted all the same, by force: {reason}\n"
    told = {
        "dataset": dataset,
        **decision.as_dict(),
        "forced": verdict == "forced",
        "reason": reason,
        "candidate": {"version": number, "scorecard": ours},
        "champion": None if champion is None else {"version": champion, "scorecard": theirs},
        "policy": p.gate.model_dump(),
        "by": promotion.author(),
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        **_revision(),
    }
    written = REPORTS / dataset / "decision.json", REPORTS / dataset / "decision.md"
    files.write_json(written[0], told)
    files.write_text(written[1], table)
    failed = ", ".join(one.name for one in decision.checks if not one.passed)
    tags = {"gate.verdict": verdict, "gate.failed": failed or "none", "gate.data_digest": data.info.digest}
    promotion.record(dataset, number, found.run_id, written, tags | _told(ours))
    if verdict != "refuse":
        promotion.promote(dataset, number, champion, reason)
    return verdict != "refuse", table


def _scored_again(p: "Params", data: spec.Prepared, found: "Registered", is_candidate: bool) -> dict[str, Any]:
    """The scorecard of a registered version on the data and by the judge of this folder.

    How far it is from torch can only be told with the weights that it came from, so that is taken over from the version's own scorecard;
    so is its usefulness, if it was of these data. Only a candidate must show usefulness, which takes as long as all else.
    """
    from lekhani.export.onnx_file import generator_inputs, latency_ms
    from lekhani.inference.session import Generator

    what, generator = f"{found.name} version {found.version}", Generator(found.generator)
    if (generator.classes, generator.image_size) != (data.info.classes, data.info.image_size):
        raise LekhaniError(f"{what} draws other classes or sizes than {PREPARED / data.info.name} holds, so the two cannot be held together.")
    log.info("Scoring %s (%s) on the test images of %s", what, generator.variant, data.info.name)
    with tempfile.TemporaryDirectory() as figures:
        card = _scored(p, data, generator, Path(figures))[0]
    own = files.read_json(found.scorecard) if found.scorecard else {}
    card |= {key: own[key] for key in ("parity_max_abs",) if key in own}
    card["size_mb"] = found.generator.stat().st_size / 2**20
    card["latency_ms"] = latency_ms(found.generator, generator_inputs(generator.noise_dim, len(generator.classes)))
    if is_candidate and p.usefulness.seeds:
        from lekhani.evaluate.usefulness import metrics

        kept = {key: value for key, value in own.items() if key.startswith("usefulness")} if own.get("data_digest") == data.info.digest else {}
        card |= kept or metrics(_useful(p, data, generator))
    return card


def rollback(p: "Params", dataset: str, reason: str | None = None) -> str:
    """Give the alias champion of `dataset` back to the version that had it before; returns a sentence that says what was done."""
    _need_registry(p)
    from lekhani.registry import models, promotion

    p.dataset(dataset)
    restored, left = promotion.rollback(dataset, reason, lambda version: models.fetch(dataset, version))
    return f"{models.model_name(dataset)} version {restored} is champion again in place of version {left}."


def _need_registry(p: "Params") -> None:
    if p.tracking.backend != "mlflow":
        raise UsageError("tracking.backend is `none` in params.yaml, so there is no registry; set it to `mlflow`.")


def _told(card: Mapping[str, Any]) -> dict[str, str]:
    """What the registry's pages show of a scorecard, as tags; the rest stands in the model card."""
    return {name: f"{card[name]:.5g}" for name in ("fid", "fid_ratio", "label_agreement", "near_copies", "usefulness") if name in card}


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
