"""The leaderboard: all variants of a dataset side by side, as CSV and as Markdown."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from lekhani.evaluate.ranking import Card, Ranked, rank, seeds
from lekhani.files import csv_text
from lekhani.inference.confidence import TRUSTED, weak_judge
from lekhani.text import markdown_table

Durations = Mapping[tuple[str, str], Mapping[str, float]]  # (dataset, variant or "") -> seconds by stage


class Column(NamedTuple):
    """A metric as the tables show it."""

    head: str
    name: str  # of the metric
    format_spec: str
    best: Callable[[Iterable[float]], float]
    spread: bool = False  # with its deviation


_COLUMNS = (
    Column("judge FID", "fid", ".2f", min, spread=True),
    Column("x floor", "fid_ratio", ".2f", min),
    Column("Inception FID", "fid_inception", ".2f", min, spread=True),
    Column("x its floor", "fid_inception_ratio", ".2f", min),
    Column("KID", "kid", ".4f", min),
    Column("IS", "inception_score", ".2f", max),
    Column("precision", "precision", ".3f", max),
    Column("recall", "recall", ".3f", max),
    Column("agreement", "label_agreement", ".1%", max),
    Column("second judge", "label_agreement_second", ".1%", max),
    Column("classes", "classes_covered", ".4g", max),
    Column("worst modes", "modes", ".1%", max),
    Column("near copies", "near_copies", ".2%", min),
    Column("usefulness", "usefulness", ".1%", max),
    Column("nats", "nats_per_image", ".1f", min),
    Column("ms/image", "latency_ms", ".2f", min),
    Column("train s", "train_seconds", ".0f", min),
)
INTRO = (
    "FID, KID, near copies, nats and times are better when lower, the rest when higher. The last row of a table is "
    "what real train images score against the test split, or what training on them gives."
)
_STAGES = ("fetch", "prepare", "validate", "judge", "baseline", "train", "export", "usefulness", "evaluate")
DURATIONS_NOTE = (
    "Seconds that each stage took when it last ran here, imports included; stages in the first row run once for all."
)


def leaderboard_csv(cards: Sequence[Card]) -> str:
    """The leaderboard as CSV, with all that the scorecards hold; a metric that does not apply is empty."""
    names = dict.fromkeys(["dataset", "place", "variant", *(key for card in cards for key in card)])
    rows = [
        {"place": place, **{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in card.items()}}
        for place, card in rank(cards)
    ]
    return csv_text(rows, names)


def leaderboard_markdown(cards: Sequence[Card], durations: Durations | None = None) -> str:
    """The leaderboard as Markdown, a table per dataset and, where known, one of the time that its stages took.

    A metric that no variant of the dataset has is left out, one that a variant lacks is a dash.
    """
    lines = ["# Leaderboard", "", INTRO, ""]
    for dataset, ranked in by_dataset(cards).items():
        heads, rows, floor = scores_table(ranked)
        floor[1] = f"*{floor[1]}*"
        lines += [f"## {dataset}", "", *markdown_table(heads, [*rows, floor]), ""]
        lines += [line for note in remarks([card for _, card in ranked]) for line in (note, "")]
        if times := duration_table(dataset, ranked, durations or {}):
            lines += ["### Time per stage", "", DURATIONS_NOTE, "", *markdown_table(times[0], times[1:]), ""]
    return "\n".join(lines)


def by_dataset(cards: Sequence[Card]) -> dict[str, list[Ranked]]:
    """The scorecards of each dataset with their places, best first."""
    return {name: list(ranked) for name, ranked in groupby(rank(cards), lambda one: one.card["dataset"])}


def shown_columns(cards: Sequence[Card]) -> list[Column]:
    """The columns of a table of `cards`: metrics that at least one of them has."""
    return [column for column in _COLUMNS if any(column.name in card for card in cards)]


def scores_table(ranked: Sequence[Ranked]) -> tuple[list[str], list[list[str]], list[str]]:
    """Heads, a row per variant, and the row of real images; the first two columns are place and variant."""
    cards = [card for _, card in ranked]
    shown = shown_columns(cards)
    rows = [[place, card["variant"], *(_cell(card, column) for column in shown)] for place, card in ranked]
    floor = ["", "real images", *(_floor_cell(cards, column) for column in shown)]
    return ["place", "variant", *(column.head for column in shown)], rows, floor


def _cell(card: Card, column: Column) -> str:
    if column.name not in card:
        return "-"
    std = f"{column.name}_std"
    spread = f" ± {card[std]:{column.format_spec}}" if column.spread and std in card else ""
    return f"{card[column.name]:{column.format_spec}}{spread}"


def _floor_cell(cards: Sequence[Card], column: Column) -> str:
    if column.name.endswith("_ratio"):
        return format(1, column.format_spec)
    floor = next((card[f"{column.name}_floor"] for card in cards if f"{column.name}_floor" in card), None)
    return "" if floor is None else format(floor, column.format_spec)


def duration_table(dataset: str, ranked: Sequence[Ranked], durations: Durations) -> list[list[str]]:
    """Heads and rows of the seconds per stage; nothing where none is known."""
    names = ["", *(card["variant"] for _, card in ranked)]
    known = {name: durations.get((dataset, name), {}) for name in names}
    stages = [stage for stage in _STAGES if any(stage in seconds for seconds in known.values())]
    if not stages:
        return []
    rows = [
        [name or "all variants", *(f"{seconds[stage]:.1f}" if stage in seconds else "" for stage in stages)]
        for name, seconds in known.items()
    ]
    return [["", *stages], *rows]


def remarks(cards: Sequence[Card]) -> list[str]:
    """Sentences below a table: what deviations are over, what equal places mean, and what variants differed in."""
    notes, spreads = [], [card for card in cards if "fid_std" in card]
    floor = next((card["label_agreement_floor"] for card in cards if "label_agreement_floor" in card), 1.0)
    if floor < TRUSTED:
        notes.append(weak_judge(floor))
    if spreads:
        kinds = _by_value(spreads, lambda card: "{} {} seeds".format(*seeds(card)))
        over = " or ".join(f"{kind} ({', '.join(names)})" if len(kinds) > 1 else kind for kind, names in kinds.items())
        meaning = "Equal places (=) are ties: chance may explain the difference (Welch's t-test at 5%)."
        notes.append(f"± is the standard deviation over {over}. {meaning}")
    if len(spreads) < len(cards):
        which = ", ".join(card["variant"] for card in cards if "fid_std" not in card) if spreads else "each variant"
        unknown = "so how much of a difference is chance is not known."
        notes.append(f"A single sampling seed was drawn of {which}, {unknown}")
    for key, unlike in (
        ("images_seen", "trained on equally many images"),
        ("batch_size", "trained in steps of equally many images"),
        ("n_generated", "scored on equally many images"),
    ):
        groups = _by_value([card for card in cards if key in card], itemgetter(key))
        if len(groups) > 1:
            half = sum(map(len, groups.values())) / 2
            each = [f"{n:,} for {'most' if len(names) > half else ', '.join(names)}" for n, names in groups.items()]
            notes.append(f"Not all were {unlike}: {'; '.join(each)}.")
    return notes


def _by_value(cards: Sequence[Card], value: Callable[[Card], Any]) -> dict[Any, list[str]]:
    """The names of variants by a value that their cards have, the most common value first."""
    groups: dict[Any, list[str]] = {}
    for card in cards:
        groups.setdefault(value(card), []).append(card["variant"])
    return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))


def best_variants(cards: Sequence[Card], column: Column) -> set[str]:
    """The variants whose value of a column looks like its best one; none where all look alike."""
    values = {card["variant"]: card[column.name] for card in cards if column.name in card}
    looks = {variant: format(value, column.format_spec) for variant, value in values.items()}
    if len(Counter(looks.values())) < 2:
        return set()
    best = format(column.best(values.values()), column.format_spec)
    return {variant for variant, text in looks.items() if text == best}
