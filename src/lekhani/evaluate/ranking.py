"""Which variants are better: places with ties, and the scorecards of several training seeds pooled into one."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from lekhani.errors import LekhaniError
from lekhani.statistics import welch_margin

Card = Mapping[str, Any]  # the content of measurements.json

# What the cards of several training seeds must have in common, or their mean would be one of different things.
_SETTINGS = (
    *("dataset", "variant", "seed", "sampling_seeds", "n_generated", "n_real", "judge_sha256", "data_digest"),
    *("images_seen", "batch_size"),
)


class Ranked(NamedTuple):
    """A scorecard and its place among those of its dataset: "1", or "2=" where several share it."""

    place: str
    card: Card


def rank(cards: Sequence[Card]) -> list[Ranked]:
    """Scorecards by dataset, best first: by FID in parts of its floor or, where a floor is 0, by FID.

    A variant shares the place of the leader of the group above as long as it ties with that leader (see `tie`); ties
    with its neighbour alone would let a chain of small steps end anywhere. After two that share the first place comes
    the third.
    """
    ranked = []
    for dataset in sorted({card["dataset"] for card in cards}):
        contenders = [card for card in cards if card["dataset"] == dataset]
        metric = "fid_ratio" if all("fid_ratio" in card for card in contenders) else "fid"
        pairs = [(_moments(card, metric), card) for card in contenders]
        # Equal models come next to each other, so that no third of the same FID but another deviation parts them.
        pairs.sort(key=lambda p: (p[0][metric], p[0].get(f"{metric}_std", 0), p[0]["sampling_seeds"], p[1]["variant"]))
        places: list[int] = []
        leader = pairs[0][0]
        for position, (moments, _) in enumerate(pairs, 1):
            if places and tie(leader, moments, metric):
                places.append(places[-1])
            else:
                leader = moments
                places.append(position)
        shared = [f"{place}{'=' * (places.count(place) > 1)}" for place in places]
        ranked += [Ranked(place, card) for place, (_, card) in zip(shared, pairs, strict=True)]
    return ranked


def tie(one: Card, other: Card, metric: str = "fid") -> bool:
    """Whether chance in sampling alone may explain how two scorecards differ in `metric`.

    Welch's t-test at 5%: with many sampling seeds that is a difference of up to two standard errors, with few of them
    of more, as their spread is itself uncertain. A scorecard of a single sampling seed has no spread, so then only
    equal values tie.
    """
    std = f"{metric}_std"
    if std not in one or std not in other:
        return bool(one[metric] == other[metric])
    margin = welch_margin(one[std], one["sampling_seeds"], other[std], other["sampling_seeds"])
    return bool(abs(one[metric] - other[metric]) <= margin)


def _moments(card: Card, metric: str) -> dict[str, Any]:
    """What `tie` reads, with the deviation over training seeds where there is one."""
    part = card["fid_floor"] if metric == "fid_ratio" else 1
    std = {f"{metric}_std": card["fid_std"] / part} if "fid_std" in card else {}
    return {metric: card[metric], "sampling_seeds": seeds(card)[0], **std}


def seeds(card: Card) -> tuple[int, str]:
    """How many seeds the deviations of a card are over, and of which kind: training or sampling."""
    kind = "training" if "training_seeds" in card else "sampling"
    return card.get(f"{kind}_seeds", 1), kind


def pool_training_seeds(cards: Sequence[Card]) -> list[Card]:
    """One card per (dataset, variant), in the order of the first ones; that of a single training seed stays as it is.

    Of several, a metric becomes its mean, with `_std` the sample standard deviation over training seeds in place of
    that over sampling seeds or repeated trainings of an OCR model; floors, ratios and deviations within one reading
    (`_subset_std`, `_se`) become means alone. `training_seeds` is how many. What only some cards have, or text that
    differs between them, is left out. Raises LekhaniError when cards differ in what they were made with, or have no
    training seeds of their own.
    """
    groups: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        groups.setdefault((card["dataset"], card["variant"]), []).append(card)
    return [group[0] if len(group) == 1 else _pooled(group) for group in groups.values()]


def _pooled(cards: Sequence[Card]) -> Card:
    first = cards[0]
    _check_comparable(cards, f"{first['dataset']}/{first['variant']}")
    pooled: dict[str, Any] = {}
    shared = [key for key in first if key != "train_seed" and all(key in card for card in cards)]
    for key in shared:
        values = [card[key] for card in cards]
        alike, of = len(set(values)) == 1, key.removesuffix("_std")
        if alike and (key in _SETTINGS or isinstance(values[0], str)):
            pooled[key] = values[0]
        elif isinstance(values[0], str) or (of != key and of in shared and not of.endswith("_floor")):
            continue  # text that differs, or a deviation that stands behind its metric
        else:
            pooled[key] = values[0] if alike else fmean(values)  # a count stays a whole number
            if not key.endswith(("_std", "_floor", "_ratio", "_se")):
                pooled[f"{key}_std"] = stdev(values)
    return {**pooled, "training_seeds": len(cards)}


def _check_comparable(cards: Sequence[Card], name: str) -> None:
    for key in _SETTINGS:
        found = list(dict.fromkeys(str(card.get(key, "unknown")) for card in cards))
        if len(found) > 1:
            what = f"differ in {key} ({', '.join(found)}), so they cannot be pooled"
            raise LekhaniError(f"The scorecards of {name} {what}; make all with the same params.")
    train_seeds = [card.get("train_seed") for card in cards]
    if None in train_seeds or len(set(train_seeds)) < len(cards):
        what = f"needs a train_seed of its own to be pooled, and they have {train_seeds}"
        raise LekhaniError(f"Each scorecard of {name} {what}; train with different seeds.")
