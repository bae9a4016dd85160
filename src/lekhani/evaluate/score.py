"""Scoring a generator against prepared data: it draws its samples as it will when it is served, and the judges read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate import per_class
from lekhani.evaluate.fidelity import Inception
from lekhani.evaluate.figures import confusion_figure, save_figure
from lekhani.evaluate.memorisation import among_features, closest_figure, memorisation
from lekhani.evaluate.samples import real_sample, requested_labels, sample
from lekhani.evaluate.scorecard import fidelity_card, read_real, score, second_opinion
from lekhani.inference.session import Generator, Reader
from lekhani.params import Params
from lekhani.paths import CACHE, MODELS
from lekhani.pictures import Picture, grid
from lekhani.train.devices import pick_device


def score_generator(
    p: Params, data: spec.Prepared, generator: Generator, figures: Path
) -> tuple[dict[str, Any], list[per_class.ClassScore], spec.Bytes]:
    """What can be told of a generator from its images alone: scorecard, scores per class, and images uint8 [N,H,W].

    The images are those of the first sampling seed; figures are saved in the folder `figures`.
    """
    sets = [sample(p, generator, data, again)[0] for again in range(p.evaluate.sampling_seeds)]
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


def in_class_order(images: spec.Bytes, n_classes: int) -> Picture:
    """Generated glyphs, a column a class and eight of each, of images whose labels count up and start anew."""
    shown = 8 if n_classes * 8 <= len(images) else max(1, len(images) // n_classes)
    columns = min(n_classes, 23)
    blocks = [
        images[row * n_classes + np.arange(first, min(first + columns, n_classes))]
        for first in range(0, n_classes, columns)
        for row in range(shown)
    ]
    return grid(np.concatenate(blocks), columns)


def _judged(
    p: Params, data: spec.Prepared, generator: Generator, sets: Sequence[spec.Bytes], figures: Path
) -> tuple[dict[str, Any], list[per_class.ClassScore]]:
    """What all extractors say of the images of each sampling seed; the judge's view of each class, drawn in `figures`."""
    info, (test_images, test_labels), few, choice = data.info, data.split("test"), real_sample(p, data), p.evaluate
    requested = requested_labels(p, data) if generator.conditional else None
    reader, second = (Reader(MODELS / info.name / "judge" / f"{name}.onnx") for name in ("judge", "second"))
    readings = [reader.read(images) for images in sets]
    cache, subset = CACHE / info.name, choice.kid_subset_size
    real = read_real(reader.read, test_images, few[0], subset, p.seed, cache / "judge.npz", reader.sha256)
    second_real = second.read(test_images)
    card: dict[str, Any] = score(readings, requested, real, test_labels, subset, p.seed)
    card |= second_opinion(
        readings, [second.read(images) for images in sets], requested, real.test, second_real, test_labels
    )
    if "inception" in choice.extractors:
        weights = Path(choice.inception_weights) if choice.inception_weights else None
        inception = Inception(weights, pick_device(p.train.device))
        seen = read_real(inception.read, test_images, few[0], subset, p.seed, cache / "inception.npz", inception.sha256)
        card |= fidelity_card([inception.read(images) for images in sets], seen, subset, p.seed, "_inception")
        card["inception_sha256"] = inception.sha256

    features, logits = (np.concatenate(columns) for columns in zip(*readings, strict=True))
    labels = None if requested is None else np.tile(requested, len(sets))
    classes = per_class.by_class((features, logits), labels, real.test, test_labels, real.train, few[1], p.seed)
    card |= among_features(readings[0][0], real.train[0], real.test[0])
    card["collapsed_classes"] = sum(one.is_collapsed for one in classes)
    shown = np.concatenate(sets), logits.argmax(1) if labels is None else labels
    worst = per_class.worst_figure(per_class.worst(classes), info.classes, shown, (test_images, test_labels))
    save_figure(worst, figures / "worst.png")
    if labels is not None:
        title = f"{generator.variant}, read by the judge"
        figure = confusion_figure(labels, logits.argmax(1), info.classes, title, "requested class")
        save_figure(figure, figures / "confusion.png")
    return card, classes
