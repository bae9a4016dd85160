"""train: from prepared data to the weights of a generator."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lekhani import files
from lekhani.data import spec
from lekhani.errors import LekhaniError, UsageError
from lekhani.evaluate.judge import JudgeNet
from lekhani.evaluate.quick import QuickScore
from lekhani.export.weights import load_weights, save_weights
from lekhani.params import Params, Variants
from lekhani.paths import CHECKPOINTS, MODELS, PREPARED, REPORTS, VALIDATION_PAGES
from lekhani.stages import timings
from lekhani.stages.artefacts import RunNote
from lekhani.stages.inputs import validated_data
from lekhani.stages.trained import load_trained
from lekhani.train import distributed
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.devices import pick_device
from lekhani.train.loop import StoppedError, Trained, Trainer, TrainerConfig
from lekhani.train.progress import ProgressBar
from lekhani.train.reporter import CURVES, CurveFiles, Fanout, Reporter
from lekhani.variants import VARIANTS, Variant

log = logging.getLogger("lekhani")


def train(p: Params, dataset: str, variant: str) -> None:
    """Prepared data -> models/D/V/{generator.safetensors, training.json}, reports/D/V/: timing, curves, samples.

    While it trains, curves and samples lie beside its checkpoints, since DVC removes outputs before it runs a stage.
    """
    data = validated_data(dataset)
    choice = getattr(p.variants, variant)
    choices, teacher = _teacher(p, dataset, variant)
    device = distributed.local_device(pick_device(p.train.device))
    is_main = distributed.ranks().is_main
    images_seen = _images_seen(p, variant, data.info)
    made_with = _made_with(p, dataset, variant, data.info, images_seen)
    checkpoints = Checkpoints(CHECKPOINTS / dataset / variant, made_with, p.train.keep_checkpoints)
    score = _quick_score(p, data, device) if is_main and p.train.score_every else None
    run_id = None
    if is_main and p.tracking.backend == "mlflow":
        run_id = _tracked_run(p, data, variant, checkpoints)
    reporter = _reporter(p, dataset, variant, images_seen, run_id, checkpoints.folder) if is_main else Reporter()

    def build(device: torch.device) -> Variant:
        built = VARIANTS[variant].build(choices, data.info.image_size, data.info.n_classes, device)
        if teacher is not None:
            built.learn_from(teacher)
        if choice.start_from:
            _start_from(built.generator(), Path(choice.start_from), variant)
        return built

    images, labels = data.split("train")
    config = TrainerConfig(
        build=build,
        images=images,
        labels=labels,
        images_seen=images_seen,
        batch_size=choice.batch_size,
        ema_decay=choice.ema_decay,
        ema_start=choice.ema_start,
        seed=p.train_seed,
        settings=p.train,
        device=device,
        reporter=reporter,
        checkpoints=checkpoints,
        score=score,
    )
    with _ending(run_id) as tags:
        trained = _fit(config)
        if is_main:
            tags.update(_save(p, data.info, choices, trained))
    if is_main:
        for name in CURVES:
            files.copy(checkpoints.folder / name, REPORTS / dataset / variant / name)
        checkpoints.clear()


def _fit(config: TrainerConfig) -> Trained:
    try:
        return Trainer(config).fit()
    finally:
        config.reporter.close()


@contextmanager
def _ending(run_id: str | None) -> Iterator[dict[str, str]]:
    """End the MLflow run, if there is one, with the block: with the tags put into what is yielded, if it ends well."""
    tags: dict[str, str] = {}
    if run_id is None:
        yield tags
        return
    from lekhani.tracking import runs

    try:
        yield tags
    except BaseException as error:
        runs.end_run(run_id, "KILLED" if isinstance(error, StoppedError | KeyboardInterrupt) else "FAILED")
        raise
    runs.end_run(run_id, "FINISHED", tags)


def _teacher(p: Params, dataset: str, variant: str) -> tuple[Variants, nn.Module | None]:
    """The choices to build `variant` with, and the trained generator that it learns from, if it learns from one."""
    name = getattr(p.variants, variant).teacher
    if name is None:
        return p.variants, None
    weights = MODELS / dataset / name / "generator.safetensors"
    if not weights.exists():
        run = f"run `dvc repro train@{dataset}-{name}` first"
        raise LekhaniError(f"{variant} learns from {name}, but {weights} is not there; {run}.")
    choices, trained = load_trained(p, dataset, name)
    return choices, trained.generator()


def _start_from(generator: nn.Module, weights: Path, variant: str) -> None:
    """Fill `generator`; raises UsageError where the file is not there or is of another network."""
    try:
        load_weights(generator, weights, "name the generator.safetensors of one with the same sizes and classes")
    except LekhaniError as error:
        raise UsageError(f"variants.{variant}.start_from: {error}") from error


def _made_with(p: Params, dataset: str, variant: str, info: spec.DatasetInfo, images_seen: int) -> dict[str, Any]:
    """Every choice that the weights of a run depend on, by the name it has in params.yaml."""
    teacher = getattr(p.variants, variant).teacher
    taught = {}
    if teacher:
        taught[f"the weights of {teacher}"] = files.sha256(MODELS / dataset / teacher / "generator.safetensors")[:16]
    choices = getattr(p.variants, variant).model_dump()
    if start := choices.pop("start_from"):
        if not Path(start).is_file():
            problem = f"variants.{variant}.start_from: there is no file {start}"
            raise UsageError(f"{problem}; name the generator.safetensors of an earlier training.")
        choices["start_from (its digest)"] = files.sha256(Path(start))[:16]
    return {
        **taught,
        f"data.{dataset} (its digest)": info.digest[:16],
        "seed": p.train_seed,
        "train.images_seen": images_seen,
        **{f"train.{key}": getattr(p.train, key) for key in ("precision", "score_every", "score_images")},
        **{f"variants.{variant}.{key}": value for key, value in choices.items()},
    }


def _reporter(p: Params, dataset: str, variant: str, images_seen: int, run_id: str | None, folder: Path) -> Reporter:
    """The progress bar, the curves and samples in `folder`, and the MLflow run if there is one."""
    reporters: list[Reporter] = [ProgressBar(f"{dataset}/{variant}", images_seen), CurveFiles(folder)]
    if run_id:
        from lekhani.tracking.reporter import MlflowReporter

        reporters.append(MlflowReporter(run_id, p.tracking.system_metrics))
    return Fanout(reporters)


def _images_seen(p: Params, variant: str, info: spec.DatasetInfo) -> int:
    return round(p.train.images_seen.images(info.n_classes) * float(getattr(p.variants, variant).budget))


def _run_params(p: Params, variant: str, info: spec.DatasetInfo) -> dict[str, Any]:
    """The choices of a training that its MLflow run has as params."""
    choice = getattr(p.variants, variant).model_dump()
    choice = {key: json.dumps(value) if isinstance(value, list | tuple) else value for key, value in choice.items()}
    return {"profile": p.profile, "seed": p.train_seed, "images_seen": _images_seen(p, variant, info), **choice}


def _tracked_run(p: Params, data: spec.Prepared, variant: str, checkpoints: Checkpoints) -> str:
    """The MLflow run of this training: the one that an interrupted session opened, or a new one."""
    from lekhani.tracking import revision, runs

    dataset, note = data.info.name, checkpoints.folder / "mlflow_run.json"
    if note.exists() and checkpoints.load() is not None:
        run_id: str = files.read_checked(note, RunNote)["run_id"]
        if runs.reopen_run(p.tracking.experiment, run_id):
            return run_id
    params, committed = _run_params(p, variant, data.info), revision.committed_params()
    run_id = runs.start_run(
        p.tracking.experiment,
        runs.run_name(f"{dataset}/{variant}", params, _run_params(committed, variant, data.info) if committed else {}),
        params,
        {"dataset": dataset, "variant": variant},
        data,
        PREPARED / dataset,
        [path for path in (REPORTS / dataset / name for name in VALIDATION_PAGES) if path.exists()],
    )
    files.write_json(note, {"run_id": run_id})
    return run_id


def _quick_score(p: Params, data: spec.Prepared, device: torch.device) -> QuickScore:
    """The judge's score for the loop."""
    net = JudgeNet(data.info.n_classes, p.judge.width)
    load_weights(net, MODELS / data.info.name / "judge" / "judge.safetensors")
    # Against train images: the test split must not choose among weights that it is to judge.
    return QuickScore(net, data.split("train"), data.info.n_classes, p.train.score_images, p.seed, device)


def _save(p: Params, info: spec.DatasetInfo, choices: Variants, trained: Trained) -> dict[str, str]:
    """Write generator.safetensors, training.json and train_timing.json; returns what the MLflow run is found by."""
    variant, weights = trained.variant, MODELS / info.name / trained.variant.name / "generator.safetensors"
    save_weights(trained.generator, weights)
    facts = {
        "dataset": info.name,
        "variant": variant.name,
        "image_size": info.image_size,
        "n_classes": info.n_classes,
        "noise_dim": variant.noise_dim,
        "conditional": variant.conditional,
        "parameters": sum(weight.numel() for weight in trained.generator.parameters()),
        "choices": {
            name: getattr(choices, name).model_dump(exclude_none=True)
            for name in (variant.name, getattr(choices, variant.name).teacher)
            if name
        },
        "seed": p.train_seed,
        "profile": p.profile,
        "data_digest": info.digest,
        "generator_sha256": files.sha256(weights),
        "images_seen": trained.images_seen,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "findings": [asdict(finding) for finding in trained.findings],
        "device": trained.device,
        "torch": torch.__version__,
    }
    files.write_json(weights.with_name("training.json"), facts)
    timing = {
        "train_seconds": round(trained.seconds, 1),
        "images_per_second": round(trained.images_per_second, 1),
        "peak_memory_mb": round(trained.peak_memory_mb),
    }
    files.write_json(timings.path(info.name, variant.name, "train"), timing)
    return {key: str(facts[key]) for key in ("generator_sha256", "parameters")}
