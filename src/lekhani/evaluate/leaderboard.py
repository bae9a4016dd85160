"""All variants of a dataset side by side: places with ties, tables, figures, and a page that works offline."""

import html
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import color_sequences
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from lekhani import params
from lekhani.data.spec import GlyphClass
from lekhani.errors import LekhaniError
from lekhani.evaluate.figures import figure_png
from lekhani.evaluate.per_class import heat_map
from lekhani.evaluate.scorecard import tie
from lekhani.files import csv_text
from lekhani.pages import glyph_image, image, page
from lekhani.pictures import Picture
from lekhani.text import markdown_table

Card = Mapping[str, Any]  # the content of scorecard.json

# What the cards of several training seeds must have in common, or their mean would be one of different things.
_SETTINGS = (
    *("dataset", "variant", "seed", "sampling_seeds", "n_generated", "n_real", "judge_sha256", "data_digest"),
    *("images_seen", "batch_size"),
)
_MARKERS = "osD^vP"
_BESIDE: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.02, 1),
    "borderaxespad": 0,
    "frameon": False,
}  # a legend right of its axes


@dataclass(frozen=True)
class Entry:
    """One variant of one dataset. Cells of tables are numbers or, as the csv module reads them, strings; an empty one is no value."""

    card: Card
    curve: Sequence[
        Mapping[str, Any]
    ]  # rows of curve.csv: images_seen, seconds, judge_fid; none when no score was taken in training
    classes: Sequence[Mapping[str, Any]]  # rows of per_class.csv, see `per_class.table`
    grid: Picture  # generated glyphs uint8 [H,W], of the same labels and noise seeds for all variants


class Ranked(NamedTuple):
    """A scorecard and its place among those of its dataset: "1", or "2=" where several share it."""

    place: str
    card: Card


def rank(cards: Sequence[Card]) -> list[Ranked]:
    """Scorecards by dataset, best first: by FID in parts of its floor or, where a floor is 0, by FID.

    A variant shares the place of the leader of the group above as long as it ties with that leader (see
    `scorecard.tie`); ties with its neighbour alone would let a chain of small steps end anywhere. After two that
    share the first place comes the third.
    """
    ranked = []
    for dataset in sorted({card["dataset"] for card in cards}):
        of_it = [card for card in cards if card["dataset"] == dataset]
        metric = "fid_ratio" if all("fid_ratio" in card for card in of_it) else "fid"
        # Equal models come next to each other, so that no third of the same FID but another deviation parts them.
        held = sorted(
            ((_held(card, metric), card) for card in of_it),
            key=lambda pair: (
                pair[0][metric],
                pair[0].get(f"{metric}_std", 0),
                pair[0]["sampling_seeds"],
                pair[1]["variant"],
            ),
        )
        places, leader = [], held[0][0]
        for position, (moments, _) in enumerate(held, 1):
            if position == 1 or not tie(leader, moments, metric):
                leader, place = moments, position
            places.append(place)
        ranked += [
            Ranked(f"{place}{'=' * (places.count(place) > 1)}", card)
            for place, (_, card) in zip(places, held, strict=True)
        ]
    return ranked


def _held(card: Card, metric: str) -> dict[str, float]:
    """What `tie` reads, with the deviation over training seeds where there is one."""
    part = card["fid_floor"] if metric == "fid_ratio" else 1
    std = {f"{metric}_std": card["fid_std"] / part} if "fid_std" in card else {}
    return {metric: card[metric], "sampling_seeds": _seeds(card)[0], **std}


def _seeds(card: Card) -> tuple[int, str]:
    """How many seeds the deviations of a card are over, and of which kind."""
    kind = "training" if "training_seeds" in card else "sampling"
    return card.get(f"{kind}_seeds", 1), kind


def repeats(cards: Sequence[Card]) -> list[Card]:
    """One card per (dataset, variant), in the order of the first ones: several training seeds are pooled, a single one stays as it is.

    A metric becomes its mean, with `_std` the sample standard deviation over training seeds in place of that over
    sampling seeds or repeated trainings of an OCR model; floors, ratios and deviations within one reading
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
    name = f"{first['dataset']}/{first['variant']}"
    for key in _SETTINGS:
        found = list(dict.fromkeys(str(card.get(key, "unknown")) for card in cards))
        if len(found) > 1:
            raise LekhaniError(
                f"The scorecards of {name} differ in {key} ({', '.join(found)}), so they cannot be pooled; make all with the same params."
            )
    seeds = [card.get("train_seed") for card in cards]
    if None in seeds or len(set(seeds)) < len(seeds):
        raise LekhaniError(
            f"Each scorecard of {name} needs a train_seed of its own to be pooled, and they have {seeds}; train with different seeds."
        )
    pooled: dict[str, Any] = {}
    shared = [key for key in first if key != "train_seed" and all(key in card for card in cards)]
    for key in shared:
        values = [card[key] for card in cards]
        of = key.removesuffix("_std")
        if len(set(values)) == 1 and (key in _SETTINGS or isinstance(values[0], str)):
            pooled[key] = values[0]
        elif isinstance(values[0], str) or (of != key and of in shared and not of.endswith("_floor")):
            continue  # text that differs, or a deviation that stands behind its metric
        else:
            pooled[key] = values[0] if len(set(values)) == 1 else fmean(values)  # a count stays a whole number
            if not key.endswith(("_std", "_floor", "_ratio", "_se")):
                pooled[f"{key}_std"] = stdev(values)
    return {**pooled, "training_seeds": len(cards)}


@dataclass(frozen=True)
class _Column:
    head: str
    name: str  # of the metric
    form: str
    best: Callable[[Iterable[float]], float]
    spread: bool = False  # with its deviation


_COLUMNS = (
    _Column("FID", "fid", ".2f", min, spread=True),
    _Column("x floor", "fid_ratio", ".2f", min),
    _Column("FID Inception", "fid_inception", ".2f", min, spread=True),
    _Column("x its floor", "fid_inception_ratio", ".2f", min),
    _Column("KID", "kid", ".4f", min),
    _Column("IS", "inception_score", ".2f", max),
    _Column("precision", "precision", ".3f", max),
    _Column("recall", "recall", ".3f", max),
    _Column("agreement", "label_agreement", ".1%", max),
    _Column("second judge", "label_agreement_second", ".1%", max),
    _Column("classes", "classes_covered", ".4g", max),
    _Column("near copies", "near_copies", ".2%", min),
    _Column("usefulness", "usefulness", ".1%", max),
    _Column("nats", "nats_per_image", ".1f", min),
    _Column("ms/image", "latency_ms", ".2f", min),
    _Column("train s", "train_seconds", ".0f", min),
)
_INTRO = (
    "FID, KID, near copies, nats and times are better when lower, the rest when higher. The last row of a table is what real train images "
    "score against the test split, or what training on them gives."
)


def _columns(cards: Sequence[Card]) -> list[_Column]:
    return [column for column in _COLUMNS if any(column.name in card for card in cards)]


def _cell(card: Card, column: _Column) -> str:
    if column.name not in card:
        return "-"
    spread = f" ± {card[f'{column.name}_std']:{column.form}}" if column.spread and f"{column.name}_std" in card else ""
    return f"{card[column.name]:{column.form}}{spread}"


def _floor_cell(cards: Sequence[Card], column: _Column) -> str:
    if column.name.endswith("_ratio"):
        return format(1, column.form)
    floor = next((card[f"{column.name}_floor"] for card in cards if f"{column.name}_floor" in card), None)
    return "" if floor is None else format(floor, column.form)


def _notes(cards: Sequence[Card]) -> list[str]:
    """Sentences below a table: what the deviations are over, what equal places mean, and in what the variants were not treated alike."""
    spreads = [card for card in cards if "fid_std" in card]
    notes = []
    if spreads:
        kinds = _by_value(spreads, lambda card: "{} {} seeds".format(*_seeds(card)))
        over = (
            next(iter(kinds))
            if len(kinds) == 1
            else " or ".join(f"{seeds} ({', '.join(names)})" for seeds, names in kinds.items())
        )
        notes.append(
            f"± is the standard deviation over {over}. Equal places (=) are ties: chance may explain the difference (Welch's t-test at 5%)."
        )
    if len(spreads) < len(cards):
        which = ", ".join(card["variant"] for card in cards if "fid_std" not in card) if spreads else "each variant"
        notes.append(
            f"A single sampling seed was drawn of {which}, so that how much of a difference is chance is not known."
        )
    for key, unlike in (
        ("images_seen", "trained on equally many images"),
        ("batch_size", "trained in steps of equally many images"),
        ("n_generated", "scored on equally many images"),
    ):
        groups = _by_value([card for card in cards if key in card], itemgetter(key))
        if len(groups) > 1:
            most = sum(map(len, groups.values())) / 2
            each = [
                f"{value:,} for {'most' if len(names) > most else ', '.join(names)}" for value, names in groups.items()
            ]
            notes.append(f"Not all were {unlike}: {'; '.join(each)}.")
    return notes


def _by_value(cards: Sequence[Card], value: Callable[[Card], Any]) -> dict[Any, list[str]]:
    """The names of variants by a value that their cards have, the most common value first."""
    groups: dict[Any, list[str]] = {}
    for card in cards:
        groups.setdefault(value(card), []).append(card["variant"])
    return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))


def leaderboard_csv(cards: Sequence[Card]) -> str:
    """The leaderboard as CSV, with all that the scorecards hold; a metric that does not apply is empty."""
    names = dict.fromkeys(["dataset", "place", "variant", *(key for card in cards for key in card)])
    rows = [
        {"place": place, **{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in card.items()}}
        for place, card in rank(cards)
    ]
    return csv_text(rows, names)


def leaderboard_markdown(cards: Sequence[Card]) -> str:
    """The leaderboard as Markdown, a table per dataset; a metric that no variant of the dataset has is left out, one that a variant lacks a dash."""
    lines = ["# Leaderboard", "", _INTRO, ""]
    for dataset, ranked in _by_dataset(cards).items():
        of_it = [card for _, card in ranked]
        columns = _columns(of_it)
        rows = [[place, card["variant"], *(_cell(card, column) for column in columns)] for place, card in ranked]
        floor = ["", "*real images*", *(_floor_cell(of_it, column) for column in columns)]
        lines += [
            f"## {dataset}",
            "",
            *markdown_table(["place", "variant", *(column.head for column in columns)], [*rows, floor]),
            "",
        ]
        lines += [line for note in _notes(of_it) for line in (note, "")]
    return "\n".join(lines)


def _by_dataset(cards: Sequence[Card]) -> dict[str, list[Ranked]]:
    ranked = rank(cards)
    return {
        dataset: [one for one in ranked if one.card["dataset"] == dataset]
        for dataset in dict.fromkeys(one.card["dataset"] for one in ranked)
    }


def leaderboard_figure(cards: Sequence[Card], strips: Mapping[tuple[str, str], Picture]) -> Figure:
    """One row per (dataset, variant): its leading metrics and what it writes, so that numbers and eyes can be compared."""
    ranked = rank(cards)
    figure = Figure(figsize=(13, 1.15 * len(ranked) + 0.6))
    for row, (place, card) in enumerate(ranked):
        axes = figure.add_subplot(len(ranked), 1, row + 1)
        axes.imshow(strips[card["dataset"], card["variant"]], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(
            f"{card['dataset']} / {card['variant']}, place {place}: {_in_words(card)}", loc="left", fontsize=10
        )
    figure.tight_layout()
    return figure


def _in_words(card: Card) -> str:
    ratio = f", {card['fid_ratio']:.1f} times its floor" if "fid_ratio" in card else ""
    agreement = f", label agreement {card['label_agreement']:.1%}" if "label_agreement" in card else ""
    return f"FID {card['fid']:.2f}{ratio}{agreement}"


def figures(entries: Sequence[Entry]) -> dict[str, Figure]:
    """What there is to show of one dataset, in the order of the page: `curves`, `precision_recall`, `agreement`, `class_fid`."""
    maps = {"agreement": class_figure(entries, "agreement"), "class_fid": class_figure(entries, "fid_ratio")}
    found = {"curves": curves_figure(entries), "precision_recall": scatter_figure(entries), **maps}
    return {name: figure for name, figure in found.items() if figure is not None}


def curves_figure(entries: Sequence[Entry]) -> Figure | None:
    """The judge's FID in training against images seen and against the wall clock, entries of one dataset; None without any score."""
    panels = {}
    for axis in ("images_seen", "seconds"):
        lines = {e.card["variant"]: _points(e.curve, axis) for e in _in_order(entries)}
        if any(map(len, lines.values())):
            panels[axis] = {variant: points for variant, points in lines.items() if len(points)}
    if not panels:
        return None
    figure = Figure(figsize=(5.1 * len(panels), 4.4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (axis, lines) in zip(all_axes, panels.items(), strict=True):
        for variant, points in lines.items():
            colour, marker = _look(variant)
            axes.plot(*points.T, color=colour, marker=marker, markersize=5, label=variant)
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        if axis == "seconds":  # from a minute to hours, which one even scale would not show
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("seconds of training")
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_xlabel("images seen in training")
    all_axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    all_axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    all_axes[0].yaxis.set_minor_formatter(NullFormatter())
    all_axes[0].set_ylabel("FID against train images")
    all_axes[-1].legend(*all_axes[0].get_legend_handles_labels(), **_BESIDE)
    figure.suptitle("FID while training, by the judge's features")
    return figure


def _points(curve: Sequence[Mapping[str, Any]], axis: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """(axis, judge_fid) [n,2] of the rows that have both and fit on logarithmic scales."""
    points = np.array([(_number(row, axis), _number(row, "judge_fid")) for row in curve], np.float64).reshape(-1, 2)
    return points[(np.isfinite(points) & (points > 0)).all(1)]


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None or value == "" else float(value)


def scatter_figure(entries: Sequence[Entry]) -> Figure | None:
    """Precision against recall with deviations, entries of one dataset, and the floor of real images as a star; None without any."""
    of_both = [e.card for e in _in_order(entries) if {"precision", "recall"} <= set(e.card)]
    if not of_both:
        return None
    figure = Figure(figsize=(5.2, 5.2))
    axes = figure.add_subplot()
    for card in of_both:
        colour, marker = _look(card["variant"])
        xerr, yerr = card.get("precision_std"), card.get("recall_std")
        axes.errorbar(
            card["precision"],
            card["recall"],
            xerr=xerr,
            yerr=yerr,
            color=colour,
            fmt=marker,
            markersize=8,
            capsize=3,
            label=card["variant"],
        )
    real = next((card for card in of_both if {"precision_floor", "recall_floor"} <= set(card)), None)
    if real is not None:
        axes.plot(real["precision_floor"], real["recall_floor"], "k*", markersize=14, label="real train images")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="precision: share of images that look real",
        ylabel="recall: share of real images that are met",
    )
    axes.grid(alpha=0.3)
    axes.set_title("Precision and recall")
    axes.legend(**_BESIDE)
    return figure


def class_figure(entries: Sequence[Entry], metric: Literal["agreement", "fid_ratio"]) -> Figure | None:
    """`per_class.heat_map` of the variants of one dataset that have the metric in any class; None where none has."""
    values = {e.card["variant"]: [_number(row, metric) for row in e.classes] for e in _in_order(entries)}
    values = {variant: cells for variant, cells in values.items() if not np.isnan(cells).all()}
    if not values:
        return None
    rows = next(e.classes for e in entries if e.card["variant"] in values)
    return heat_map(values, [GlyphClass(int(row["label"]), row["name"], row["glyph"]) for row in rows], metric)


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    by_name = {(e.card["dataset"], e.card["variant"]): e for e in entries}
    return [by_name[card["dataset"], card["variant"]] for _, card in rank([e.card for e in entries])]


def _look(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant, the same in every figure, whichever others stand beside it."""
    names = sorted(params.Variants.model_fields)
    place = names.index(variant) if variant in names else len(names) + sum(variant.encode())
    return to_hex(color_sequences["tab10"][place % 10]), _MARKERS[place % len(_MARKERS)]


_STYLE = """
body { max-width: 84rem; }
h2 { font-size: 1.4rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; }
.scroll img { max-width: none; }
td, th { white-space: nowrap; padding-right: 1rem; }
td b { font-weight: 700; }
.floor td { color: var(--quiet); }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .45rem; }
.figure img { background: #fff; border-radius: .5rem; }
.grids { display: grid; gap: 1.25rem; align-items: start; }
"""
_TITLES = {
    "curves": "Training",
    "precision_recall": "Precision and recall",
    "agreement": "Read as what was asked for, per class",
    "class_fid": "FID per class",
}


def leaderboard_html(entries: Sequence[Entry]) -> str:
    """The leaderboard as one page that loads nothing from elsewhere: per dataset a table, `figures`, and what each variant writes."""
    body = ["<h1>Leaderboard</h1>", f'<p class="lead">{_INTRO} The best of a column is bold.</p>']
    for dataset, ranked in _by_dataset([e.card for e in entries]).items():
        of_it = [e for e in entries if e.card["dataset"] == dataset]
        name = html.escape(dataset)
        body += [f'<section><h2 id="{name}">{name}</h2>', *_html_table(ranked)]
        body += [f"<p>{html.escape(note)}</p>" for note in _notes([card for _, card in ranked])]
        variants = html.escape(", ".join(card["variant"] for _, card in ranked))
        for key, figure in figures(of_it).items():
            shown = image(figure_png(figure), f"{_TITLES[key]}, {name}: {variants}")
            body.append(f'<h3>{_TITLES[key]}</h3><figure class="figure scroll">{shown}</figure>')
        widest = max(e.grid.shape[1] for e in of_it)
        columns = (
            f"grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem, {widest}px), 1fr))"  # all at one scale
        )
        body.append(f'<h3>What they write</h3><div class="grids" style="{columns}">')
        body += [_html_grid(one, e.grid) for one, e in zip(ranked, _in_order(of_it), strict=True)]
        body.append("</div></section>")
    return page("Leaderboard", _STYLE, body)


def _html_table(ranked: Sequence[Ranked]) -> list[str]:
    cards = [card for _, card in ranked]
    columns = _columns(cards)
    heads = "".join(f'<th scope="col" class="number">{html.escape(column.head)}</th>' for column in columns)
    lines = [
        f'<div class="scroll"><table><thead><tr><th scope="col">place</th><th scope="col">variant</th>{heads}</tr></thead><tbody>'
    ]
    best = {column.name: _best(cards, column) for column in columns}
    for place, card in ranked:
        dot = f'<span class="dot" style="background:{_look(card["variant"])[0]}"></span>'
        cells = [
            _bold(html.escape(_cell(card, column)), card.get(column.name) in best[column.name]) for column in columns
        ]
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        lines.append(f"<tr><td>{place}</td><td>{dot}{html.escape(card['variant'])}</td>{numbers}</tr>")
    floor = "".join(f'<td class="number">{html.escape(_floor_cell(cards, column))}</td>' for column in columns)
    return [*lines, f'<tr class="floor"><td></td><td>real images</td>{floor}</tr>', "</tbody></table></div>"]


def _best(cards: Sequence[Card], column: _Column) -> list[float]:
    """The values of a column that look like its best one; none where all look alike."""
    values = [card[column.name] for card in cards if column.name in card]
    looks = Counter(format(value, column.form) for value in values)
    return (
        []
        if len(looks) < 2
        else [value for value in values if format(value, column.form) == format(column.best(values), column.form)]
    )


def _bold(text: str, best: bool) -> str:
    return f"<b>{text}</b>" if best else text


def _html_grid(one: Ranked, grid: Picture) -> str:
    place, card = one
    name = html.escape(card["variant"])
    shown = glyph_image(grid, f"Glyphs of {name}, {html.escape(card['dataset'])}")
    return (
        f'<figure style="max-width:{grid.shape[1]}px">{shown}'
        f"<figcaption><b>{name}</b>, place {place}: {html.escape(_in_words(card))}</figcaption></figure>"
    )
