"""judge: the classifiers that measure every variant."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate.figures import confusion_figure, save_figure
from lekhani.evaluate.judge import Classifier, JudgeNet, JudgeReport, SecondNet, train_judge
from lekhani.export.onnx_file import export_onnx, parity, require_parity
from lekhani.export.weights import save_weights
from lekhani.inference.confidence import TRUSTED, weak_judge
from lekhani.params import Params
from lekhani.paths import MODELS, REPORTS
from lekhani.stages.inputs import validated_data
from lekhani.train.devices import pick_device, takes_bf16

log = logging.getLogger("lekhani")

HEADLINES = ("accuracy", "ece")
PARITY_TOLERANCE = 1e-3  # logits reach tens, so the bound is looser than for images in [0, 1]


def judge(p: Params, dataset: str) -> None:
    """Prepared data -> models/D/judge/{judge,second}.{safetensors,onnx}, reports/D/{judge.json, confusion.png}.

    judge.json has the headlines of judge_measurements.json, and judge_timing.json how long the trainings took.
    """
    data = validated_data(dataset)
    info = data.info
    budget = p.judge.images(info.n_classes)
    report = _trained_judge(p, data, "judge", JudgeNet, budget, p.seed)
    second_budget = max(1, round(budget * p.judge.second_budget))
    second = _trained_judge(p, data, "second", SecondNet, second_budget, p.seed + 1)
    labels = data.split("test")[1]
    right = np.bincount(labels[report.predicted == labels], minlength=info.n_classes)
    per_class = right / np.maximum(np.bincount(labels, minlength=info.n_classes), 1)
    card: dict[str, Any] = {
        "accuracy": report.accuracy,
        "worst_class_accuracy": float(per_class.min()),
        "ece": report.ece,
        "ece_unscaled": report.ece_unscaled,
        "temperature": report.temperature,
        "second_accuracy": second.accuracy,
        "second_ece": second.ece,
        "second_ece_unscaled": second.ece_unscaled,
        "second_temperature": second.temperature,
        "second_agreement": float((report.predicted == second.predicted).mean()),
        "n_test": info.counts["test"],
        "images_seen": report.images_seen,
        "second_images_seen": second.images_seen,
    }
    card["per_class"] = {c.name: round(float(value), 4) for c, value in zip(info.classes, per_class, strict=True)}
    files.write_json(REPORTS / dataset / "judge_measurements.json", card)
    files.write_json(REPORTS / dataset / "judge.json", {name: card[name] for name in HEADLINES})
    seconds = {"judge_seconds": round(report.seconds, 1), "second_judge_seconds": round(second.seconds, 1)}
    files.write_json(REPORTS / dataset / "judge_timing.json", seconds)
    save_figure(confusion_figure(labels, report.predicted, info.classes), REPORTS / dataset / "confusion.png")
    log.info(
        "The judge of %s reads %.2f%% of its test split right, a second one %.2f%%, and both agree on %.2f%%",
        dataset,
        *(100 * card[key] for key in ("accuracy", "second_accuracy", "second_agreement")),
    )
    if report.accuracy < TRUSTED:
        log.warning("%s: %s", dataset, weak_judge(report.accuracy))


def _trained_judge(
    p: Params, data: spec.Prepared, name: str, network: Callable[[int, int], Classifier], images_seen: int, seed: int
) -> JudgeReport:
    """Train one classifier and write models/D/judge/NAME.{safetensors,onnx}."""
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
    export_onnx(net, inputs, ["features", "logits"], path, {"dataset": info.name, "classes": info.classes_json})
    require_parity(parity(net, path, inputs), PARITY_TOLERANCE, path)
    return report
