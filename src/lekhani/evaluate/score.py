"""Scoring a generator against prepared data: it is sampled as when it is served, and the judges read its images."""

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
from lekhani.paths import CACHE, MODELS, in_project
from lekhani.pictures import Picture, grid
from lekhani.train.devices import pick_device


def score_generator(
    p: Params, data: spec.Prepared, generator: Generator, figures: Path
) -> tuple[dict[str, Any], list[per_class.ClassScore], spec.Bytes]:
    """What a generator's images alone say about it: scorecard, scores per class, and images uint8 [N,H,W].

    The images are those of the first sampling seed; figures are saved in the folder `figures`.
    """
    sets = [sample(p, generator, data, again)[0] for again in range(p.evaluate.sampling_seeds)]
    train, (test, test_labels), few = data.split("train")[0], data.split("test"), real_sample(p, data)
    requested = requested_labels(p, data) if generator.conditional else None
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
    reader, second = (Reader(MODELS / data.info.name / "judge" / f"{name}.onnx") for name in ("judge", "second"))
    readings = [reader.read(images) for images in sets]
    subset, cache = p.evaluate.kid_subset_size, CACHE / data.info.name
    real = read_real(reader.read, test, few[0], subset, p.seed, cache / "judge.npz", reader.sha256)
    card |= score(readings, requested, real, test_labels, subset, p.seed)
    opinions = [second.read(images) for images in sets]
    card |= second_opinion(readings, opinions, requested, real.test, second.read(test), test_labels)
    if "inception" in p.evaluate.extractors:
        card |= _inception_card(p, sets, test, few[0], cache)

    features, logits = (np.concatenate(parts) for parts in zip(*readings, strict=True))
    pooled, labels = (features, logits), None if requested is None else np.tile(requested, len(sets))
    classes = per_class.by_class(pooled, labels, real.test, test_labels, real.train, few[1], p.seed)
    card |= among_features(readings[0][0], real.train[0], real.test[0])
    card["collapsed_classes"] = sum(one.is_collapsed for one in classes)
    card |= per_class.worst_modes(classes)
    copies, pairs = memorisation(sets[0], train, test, p.seed)
    card |= copies

    predicted, worst = logits.argmax(1), per_class.worst(classes)
    shown = np.concatenate(sets), predicted if labels is None else labels
    save_figure(per_class.worst_figure(worst, data.info.classes, shown, (test, test_labels)), figures / "worst.png")
    if labels is not None:
        title = f"{generator.variant}, read by the judge"
        figure = confusion_figure(labels, predicted, data.info.classes, title, "requested class")
        save_figure(figure, figures / "confusion.png")
    save_figure(closest_figure(pairs, sets[0], train), figures / "closest.png")
    return card, classes, sets[0]


def _inception_card(
    p: Params, sets: Sequence[spec.Bytes], test: spec.Bytes, train: spec.Bytes, cache: Path
) -> dict[str, Any]:
    weights, subset = p.evaluate.inception_weights, p.evaluate.kid_subset_size
    inception = Inception(in_project(Path(weights).expanduser()) if weights else None, pick_device(p.train.device))
    real = read_real(inception.read, test, train, subset, p.seed, cache / "inception.npz", inception.sha256)
    card = fidelity_card([inception.read(images) for images in sets], real, subset, p.seed, "_inception")
    return card | {"inception_sha256": inception.sha256}


def in_class_order(images: spec.Bytes, n_classes: int) -> Picture:
    """Generated glyphs, a column per class and eight of each, of images whose labels count up and start anew."""
    shown = 8 if n_classes * 8 <= len(images) else max(1, len(images) // n_classes)
    columns = min(n_classes, 23)
    blocks = [
        images[row * n_classes + np.arange(first, min(first + columns, n_classes))]
        for first in range(0, n_classes, columns)
        for row in range(shown)
    ]
    return grid(np.concatenate(blocks), columns)
