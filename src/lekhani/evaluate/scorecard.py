"""All metrics of one generator beside the floor that real data itself scores."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate import fidelity as metrics
from lekhani.evaluate.fidelity import Floats, Readings, fidelity

# Metrics for which real train images against the test split give a floor, or a ceiling, to hold a generator against.
FLOORED = ("fid", "kid", "inception_score", "precision", "recall")
# Deviations within one reading, which say nothing of the next one.
_WITHIN = {"kid": "subset_std", "inception_score": "split_std"}


@dataclass(frozen=True)
class Read:
    """What the judge made of generated images against the labels they were asked for."""

    label_agreement: float | None  # None for a generator that takes no label
    class_entropy: float  # of predicted classes, in nats; at most log K
    classes_covered: int  # classes that at least one image in a hundred per fair share was read as


@dataclass(frozen=True)
class Real:
    """What every variant of a dataset is held against, as one extractor sees it."""

    test: Readings
    train: Readings  # of as many train images as are generated
    floor: dict[str, float]  # what those train images score against the test split


def read_labels(logits: Floats, labels: Labels | None) -> Read:
    """Compare predictions with the labels asked for, logits float32 [N,K] and labels int64 [N]."""
    n, k = logits.shape
    predicted = logits.argmax(1)
    share = np.bincount(predicted, minlength=k) / n
    seen = share[share > 0]
    return Read(
        label_agreement=None if labels is None else float((predicted == labels).mean()),
        class_entropy=float(-(seen * np.log(seen)).sum()),
        classes_covered=int((share >= 0.01 / k).sum()),
    )


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

    `train` should be as many as are generated, since FID depends on the number of images. `cache` (.npz) is valid for the very images,
    extractor, arguments and code of the metrics that it was made with, and is made anew for any other or when it is damaged.
    """
    key = hashlib.sha256(json.dumps([extractor_sha256, test.shape, train.shape, kid_subset_size, seed]).encode())
    for content in (test, train):
        key.update(np.ascontiguousarray(content).data)
    key.update(Path(metrics.__file__).read_bytes())
    with (
        suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        np.load(cache, allow_pickle=False) as saved,
    ):
        if saved["key"] == key.hexdigest():
            return Real(
                (saved["test"], saved["test_logits"]),
                (saved["train"], saved["train_logits"]),
                json.loads(str(saved["floor"])),
            )
    real, ours = read(test), read(train)
    floor = fidelity(ours, real, kid_subset_size, seed)
    with files.replacing(cache) as temporary, temporary.open("wb") as file:
        key_text, floor_text = np.array(key.hexdigest()), np.array(json.dumps(floor))
        np.savez(
            file, key=key_text, floor=floor_text, test=real[0], test_logits=real[1], train=ours[0], train_logits=ours[1]
        )
    return Real(real, ours, floor)


def score(
    generated: Sequence[Readings],
    labels: Labels | None,
    real: Real,
    test_labels: Labels,
    kid_subset_size: int,
    seed: int,
) -> dict[str, float]:
    """The judge's metrics of scorecard.json: generated images, one reading of N per sampling seed, against the test split.

    `labels` int64 [N] are those every sampling seed was asked for, None for an unconditional generator; label_agreement, class_entropy
    and classes_covered are counted over all seeds together. `sampling_seeds` is how many; for the rest see `fidelity_card`.
    """
    card = {"sampling_seeds": len(generated), **fidelity_card(generated, real, kid_subset_size, seed)}
    logits = np.concatenate([one[1] for one in generated])
    pooled = asdict(read_labels(logits, None if labels is None else np.tile(labels, len(generated))))
    each = [asdict(read_labels(one[1], labels)) for one in generated]
    floor = asdict(read_labels(real.test[1], test_labels))
    for name, value in pooled.items():
        if value is not None:
            card |= {name: value, **_spread(name, [one[name] for one in each]), f"{name}_floor": floor[name]}
    return card


def fidelity_card(
    generated: Sequence[Readings], real: Real, kid_subset_size: int, seed: int, suffix: str = ""
) -> dict[str, float]:
    """Each fidelity metric as `name + suffix`, its mean over the readings of several sampling seeds, with what stands beside it.

    `_std` is the standard deviation between sampling seeds, absent for a single one; `_floor` is what real train images score and
    `_ratio` the metric in parts of it. KID's deviation between subsets of one reading is `_subset_std`, the inception score's between
    splits `_split_std`, both as means over the readings.
    """
    got = [fidelity(readings, real.test, kid_subset_size, seed) for readings in generated]
    card: dict[str, float] = {}
    for name in FLOORED:
        key, values, floor = name + suffix, [one[name] for one in got], real.floor[name]
        card |= {key: float(np.mean(values)), **_spread(key, values), f"{key}_floor": floor}
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
    """What another classifier says of the images, one reading of each per sampling seed: a generator may please the judge alone.

    `judges_agree` is the share of images that both read as the same class, `label_agreement_second` the share that the second reads as
    what was asked for, absent for an unconditional generator; each with `_std`, and as `_floor` what real test images get.
    """
    read = [(one[1].argmax(1), other[1].argmax(1)) for one, other in zip(judge, second, strict=True)]
    floor = judge_test[1].argmax(1), second_test[1].argmax(1)
    agree = [float((one == other).mean()) for one, other in read]
    card = {
        "judges_agree": float(np.mean(agree)),
        **_spread("judges_agree", agree),
        "judges_agree_floor": float((floor[0] == floor[1]).mean()),
    }
    if labels is not None:
        name, right = "label_agreement_second", [float((other == labels).mean()) for _, other in read]
        card |= {
            name: float(np.mean(right)),
            **_spread(name, right),
            f"{name}_floor": float((floor[1] == test_labels).mean()),
        }
    return card


def curve(scores: Sequence[Mapping[str, str]], losses: Sequence[Mapping[str, str]]) -> list[dict[str, float]]:
    """Rows images_seen, seconds, judge_fid from the rows of scores.csv and losses.csv; seconds are those of training until then."""
    seen = np.array([float(row["images_seen"]) for row in losses])
    speed = np.array([float(row["images_per_second"]) for row in losses])  # from the start of training
    at = np.array([float(row["images_seen"]) for row in scores])
    fid = [float(row["judge_fid"]) for row in scores]
    return [
        {"images_seen": int(images), "seconds": round(float(spent), 2), "judge_fid": value}
        for images, spent, value in zip(at, np.interp(at, seen, seen / speed), fid, strict=True)
    ]


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_std": float(np.std(values, ddof=1))} if len(values) > 1 else {}


def tie(one: Mapping[str, float], other: Mapping[str, float], metric: str = "fid") -> bool:
    """Whether chance in sampling alone may explain how two scorecards differ in `metric`.

    Welch's t-test at 5%: with many sampling seeds that is a difference below two standard errors, with few of them below more, as
    their spread is itself unsure. A scorecard of a single sampling seed knows no spread, so then only equal values tie.
    """
    from scipy.stats import ttest_ind_from_stats

    if f"{metric}_std" not in one or f"{metric}_std" not in other:
        return one[metric] == other[metric]
    moments = [(card[metric], card[f"{metric}_std"], card["sampling_seeds"]) for card in (one, other)]
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue
    return not chance <= 0.05  # undefined, hence a tie, for two equal values without any spread
