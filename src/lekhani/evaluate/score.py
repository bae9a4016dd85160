"""Scoring a generator against prepared data: it draws its samples as it will when it is served, and the judges read them."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate import per_class
from lekhani.evaluate.fidelity import Inception
from lekhani.evaluate.memorisation import among_features, closest_figure, memorisation
from lekhani.evaluate.report import confusion_figure, save_figure
from lekhani.evaluate.scorecard import fidelity_card, read_real, score, second_opinion
from lekhani.evaluate.usefulness import Point, usefulness
from lekhani.inference.session import Generator, Reader
from lekhani.params import Params
from lekhani.paths import CACHE, MODELS, REPORTS
from lekhani.pictures import Picture, grid
from lekhani.train.loop import pick_device

log = logging.getLogger("lekhani")


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


def requested_labels(p: Params, data: spec.Prepared) -> spec.Labels:
    """Equally many labels of each class, int64 [N], no more than there are train images."""
    return np.arange(min(p.evaluate.n_generated, data.info.counts["train"]), dtype=np.int64) % data.info.n_classes


def sample(p: Params, generator: Generator, data: spec.Prepared, again: int) -> tuple[spec.Bytes, spec.Labels]:
    """Images uint8 [N,H,W] of sampling seed number `again`, and the labels int64 [N] that they were requested for."""
    labels = requested_labels(p, data)
    return generator.sample(labels, np.random.default_rng([p.seed, 2, again])), labels


def real_sample(p: Params, data: spec.Prepared) -> tuple[spec.Bytes, spec.Labels]:
    """As many train images as are generated, by a stream of their own, so that every variant has the same floor."""
    images, labels = data.split("train")
    chosen = np.random.default_rng([p.seed, 3]).choice(len(images), len(requested_labels(p, data)), replace=False)
    chosen.sort()
    return images[chosen], labels[chosen]


def score_usefulness(p: Params, data: spec.Prepared, generator: Generator) -> list[Point]:
    """What OCR models read after training on the generator's images, beside what they read after real ones alone."""
    name = data.info.name
    images, labels = sample(p, generator, data, 0)
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
        log_point(f"{name}/{generator.variant}"),
    )


def log_point(name: str) -> Callable[[Point], None]:
    """A callback that logs each OCR model as it is done."""
    return lambda one: log.info("%s: %s, %d real images, reads %.1f%%", name, one.kind, one.n_real, 100 * one.mean)


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
        counts, title = per_class.confusion(labels, logits), f"{generator.variant}, read by the judge"
        figure = confusion_figure(counts, info.classes, card["label_agreement"], title, "asked for")
        save_figure(figure, figures / "confusion.png")
    return card, classes
