"""All metrics of one generator beside the floor that real data itself scores."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import FiniteFloat, TypeAdapter
from scipy.special import entr

from lekhani import files
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate import fidelity as metrics
from lekhani.evaluate.fidelity import Floats, Readings, fidelity
from lekhani.statistics import mean_and_std, std_entry

# Metrics for which real train images against the test split give a floor, or a ceiling, to hold a generator against.
FLOORED = ("fid", "kid", "inception_score", "precision", "recall")
# Deviations within one reading, which say nothing of the next one.
_WITHIN = {"kid": "subset_std", "inception_score": "split_std"}


@dataclass(frozen=True)
class Real:
    """What every variant of a dataset is held against, as one extractor sees it."""

    test: Readings
    train: Readings  # of as many train images as are generated
    floor: dict[str, float]  # what those train images score against the test split


def read_labels(logits: Floats, labels: Labels | None) -> dict[str, float]:
    """Count what the judge predicts, logits float32 [N,K], against the requested labels int64 [N].

    `label_agreement` is the share predicted as requested, absent without labels; `class_entropy` that of the
    predicted classes, in nats and at most log K; `classes_covered` counts the classes that get a hundredth of a fair
    share or more.
    """
    n, k = logits.shape
    predicted = logits.argmax(1)
    share = np.bincount(predicted, minlength=k) / n
    agreement = {} if labels is None else {"label_agreement": float((predicted == labels).mean())}
    covered = int((share >= 0.01 / k).sum())
    return {**agreement, "class_entropy": float(entr(share).sum()), "classes_covered": covered}


def read_real(
    read: Callable[[Bytes], Readings],
    test: Bytes,
    train: Bytes,
    kid_subset_size: int,
    seed: int,
    cache: Path,
    extractor_sha256: str,
) -> Real:
    """Read the test split and hold train images against it, both uint8 [N,H,W], or take both from the file `cache`.

    `train` should be as many as are generated, since FID depends on the number of images. `cache` (.npz) is valid for
    the very images, extractor, arguments and code of the metrics that it was made with, and is made anew for any
    other or when it is damaged.
    """
    key = hashlib.sha256(json.dumps([extractor_sha256, test.shape, train.shape, kid_subset_size, seed]).encode())
    for content in (test, train):
        key.update(np.ascontiguousarray(content).data)
    key.update(Path(metrics.__file__).read_bytes())
    with (
        suppress(Exception),  # NumPy and zipfile raise many classes
        np.load(cache, allow_pickle=False) as saved,
    ):
        if saved["key"] == key.hexdigest():
            known, drawn = ((saved[name], saved[f"{name}_logits"]) for name in ("test", "train"))
            floor = TypeAdapter(dict[str, FiniteFloat]).validate_json(str(saved["floor"]), strict=True)
            if set(FLOORED) <= set(floor) and _fits(known, len(test)) and _fits(drawn, len(train)):
                return Real(known, drawn, floor)
    real, ours = read(test), read(train)
    floor = fidelity(ours, real, kid_subset_size, seed)
    readings: dict[str, Any] = {"test": real[0], "test_logits": real[1], "train": ours[0], "train_logits": ours[1]}
    with files.replacing(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key.hexdigest()), floor=np.array(json.dumps(floor)), **readings)
    return Real(real, ours, floor)


def _fits(readings: Readings, n: int) -> bool:
    return all(one.ndim == 2 and len(one) == n and bool(np.isfinite(one).all()) for one in readings)


def score(
    generated: Sequence[Readings],
    labels: Labels | None,
    real: Real,
    test_labels: Labels,
    kid_subset_size: int,
    seed: int,
) -> dict[str, float]:
    """The judge's metrics of measurements.json from readings of N generated images per sampling seed.

    `labels` int64 [N] were requested for every sampling seed, None for an unconditional generator. label_agreement,
    class_entropy and classes_covered are counted over all seeds together. `sampling_seeds` is how many there are; for
    the rest see `fidelity_card`.
    """
    card = {"sampling_seeds": len(generated), **fidelity_card(generated, real, kid_subset_size, seed)}
    logits = np.concatenate([one[1] for one in generated])
    pooled = read_labels(logits, None if labels is None else np.tile(labels, len(generated)))
    each = [read_labels(one[1], labels) for one in generated]
    floor = read_labels(real.test[1], test_labels)
    for name, value in pooled.items():
        card |= {name: value, **std_entry(name, [one[name] for one in each]), f"{name}_floor": floor[name]}
    return card


def fidelity_card(
    generated: Sequence[Readings], real: Real, kid_subset_size: int, seed: int, suffix: str = ""
) -> dict[str, float]:
    """Each fidelity metric as `name + suffix`: its mean over the readings of all sampling seeds, and its companions.

    `_std` is the standard deviation between sampling seeds, absent for a single one; `_floor` is what real train
    images score and `_ratio` the metric in parts of it. KID's deviation between subsets of one reading is
    `_subset_std`, the inception score's between splits `_split_std`, both as means over the readings.
    """
    got = [fidelity(readings, real.test, kid_subset_size, seed) for readings in generated]
    card: dict[str, float] = {}
    for name in FLOORED:
        key, values, floor = name + suffix, [one[name] for one in got], real.floor[name]
        card |= {**mean_and_std(key, values), f"{key}_floor": floor}
        if name in _WITHIN:
            card[f"{key}_{_WITHIN[name]}"] = float(np.mean([one[f"{name}_{_WITHIN[name]}"] for one in got]))
        # An unbiased KID of real against real may come out at or below 0, where a ratio means nothing.
        if floor > 0 and name != "kid":
            card[f"{key}_ratio"] = card[key] / floor
    return card


def second_opinion(
    judge: Sequence[Readings],
    second: Sequence[Readings],
    labels: Labels | None,
    judge_test: Readings,
    second_test: Readings,
    test_labels: Labels,
) -> dict[str, float]:
    """What another classifier says of the images, since a generator may please the judge alone.

    `judge` and `second` are readings of the same images, one of each per sampling seed. `judges_agree` is the share of
    images that both predict alike, `label_agreement_second` the share that the second predicts as requested, absent for
    an unconditional generator; each with `_std`, and with the share of real test images as `_floor`.
    """
    predicted = [(one[1].argmax(1), other[1].argmax(1)) for one, other in zip(judge, second, strict=True)]
    real, real_second = judge_test[1].argmax(1), second_test[1].argmax(1)
    card = _shares("judges_agree", [one == other for one, other in predicted], real == real_second)
    if labels is not None:
        right = [other == labels for _, other in predicted]
        card |= _shares("label_agreement_second", right, real_second == test_labels)
    return card


def _shares(name: str, seeds: Sequence[npt.NDArray[np.bool_]], real: npt.NDArray[np.bool_]) -> dict[str, float]:
    return {**mean_and_std(name, [float(one.mean()) for one in seeds]), f"{name}_floor": float(real.mean())}
