"""The leaderboard: all variants of a dataset side by side as CSV, as Markdown, and as a page that works offline."""

import html
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from lekhani.evaluate.figures import figure_png
from lekhani.evaluate.leaderboard_figures import Entry, figures, in_order, in_words, look
from lekhani.evaluate.ranking import Card, Ranked, rank, seeds
from lekhani.files import csv_text
from lekhani.pages import glyph_image, image, page
from lekhani.pictures import Picture
from lekhani.text import markdown_table

Durations = Mapping[tuple[str, str], Mapping[str, float]]  # (dataset, variant or "") -> seconds by stage


class _Column(NamedTuple):
    head: str
    name: str  # of the metric
    format_spec: str
    best: Callable[[Iterable[float]], float]
    spread: bool = False  # with its deviation


_COLUMNS = (
    _Column("judge FID", "fid", ".2f", min, spread=True),
    _Column("x floor", "fid_ratio", ".2f", min),
    _Column("Inception FID", "fid_inception", ".2f", min, spread=True),
    _Column("x its floor", "fid_inception_ratio", ".2f", min),
    _Column("KID", "kid", ".4f", min),
    _Column("IS", "inception_score", ".2f", max),
    _Column("precision", "precision", ".3f", max),
    _Column("recall", "recall", ".3f", max),
    _Column("agreement", "label_agreement", ".1%", max),
    _Column("second judge", "label_agreement_second", ".1%", max),
    _Column("classes", "classes_covered", ".4g", max),
    _Column("worst modes", "modes", ".1%", max),
    _Column("near copies", "near_copies", ".2%", min),
    _Column("usefulness", "usefulness", ".1%", max),
    _Column("nats", "nats_per_image", ".1f", min),
    _Column("ms/image", "latency_ms", ".2f", min),
    _Column("train s", "train_seconds", ".0f", min),
)
_INTRO = (
    "FID, KID, near copies, nats and times are better when lower, the rest when higher. The last row of a table is "
    "what real train images score against the test split, or what training on them gives."
)
_STAGES = ("fetch", "prepare", "validate", "judge", "baseline", "train", "export", "usefulness", "evaluate")
_DURATIONS_NOTE = (
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
    lines = ["# Leaderboard", "", _INTRO, ""]
    for dataset, ranked in _by_dataset(cards).items():
        heads, rows, floor = _table(ranked)
        floor[1] = f"*{floor[1]}*"
        lines += [f"## {dataset}", "", *markdown_table(heads, [*rows, floor]), ""]
        lines += [line for note in _notes([card for _, card in ranked]) for line in (note, "")]
        if times := _duration_table(dataset, ranked, durations or {}):
            lines += ["### Time per stage", "", _DURATIONS_NOTE, "", *markdown_table(times[0], times[1:]), ""]
    return "\n".join(lines)


def _by_dataset(cards: Sequence[Card]) -> dict[str, list[Ranked]]:
    return {name: list(ranked) for name, ranked in groupby(rank(cards), lambda one: one.card["dataset"])}


def _columns(cards: Sequence[Card]) -> list[_Column]:
    return [column for column in _COLUMNS if any(column.name in card for card in cards)]


def _table(ranked: Sequence[Ranked]) -> tuple[list[str], list[list[str]], list[str]]:
    """Heads, a row per variant, and the row of real images."""
    cards = [card for _, card in ranked]
    columns = _columns(cards)
    rows = [[place, card["variant"], *(_cell(card, column) for column in columns)] for place, card in ranked]
    floor = ["", "real images", *(_floor_cell(cards, column) for column in columns)]
    return ["place", "variant", *(column.head for column in columns)], rows, floor


def _cell(card: Card, column: _Column) -> str:
    if column.name not in card:
        return "-"
    std = f"{column.name}_std"
    spread = f" ± {card[std]:{column.format_spec}}" if column.spread and std in card else ""
    return f"{card[column.name]:{column.format_spec}}{spread}"


def _floor_cell(cards: Sequence[Card], column: _Column) -> str:
    if column.name.endswith("_ratio"):
        return format(1, column.format_spec)
    floor = next((card[f"{column.name}_floor"] for card in cards if f"{column.name}_floor" in card), None)
    return "" if floor is None else format(floor, column.format_spec)


def _duration_table(dataset: str, ranked: Sequence[Ranked], durations: Durations) -> list[list[str]]:
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


def _notes(cards: Sequence[Card]) -> list[str]:
    """Sentences below a table: what deviations are over, what equal places mean, and what variants differed in."""
    notes, spreads = [], [card for card in cards if "fid_std" in card]
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


# --- the page ---

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
    "agreement": "Label agreement per class",
    "class_fid": "Judge FID per class",
}


def leaderboard_html(entries: Sequence[Entry], durations: Durations | None = None) -> str:
    """The leaderboard as one page that loads nothing from elsewhere.

    Per dataset it has a table, `leaderboard_figures.figures`, glyphs of each variant and the time per stage.
    """
    body = ["<h1>Leaderboard</h1>", f'<p class="lead">{_INTRO} The best of a column is bold.</p>']
    for dataset, ranked in _by_dataset([entry.card for entry in entries]).items():
        of_dataset = [entry for entry in entries if entry.card["dataset"] == dataset]
        name = html.escape(dataset)
        body += [f'<section><h2 id="{name}">{name}</h2>', *_html_scores(ranked)]
        body += [f"<p>{html.escape(note)}</p>" for note in _notes([card for _, card in ranked])]
        variants = html.escape(", ".join(card["variant"] for _, card in ranked))
        for key, figure in figures(of_dataset).items():
            shown = image(figure_png(figure), f"{_TITLES[key]}, {name}: {variants}")
            body.append(f'<h3>{_TITLES[key]}</h3><figure class="figure scroll">{shown}</figure>')
        body += ["<h3>Generated glyphs</h3>", *_html_grids(ranked, [one.grid for one in in_order(of_dataset)])]
        if times := _duration_table(dataset, ranked, durations or {}):
            rows = [_html_row([html.escape(row[0]), *row[1:]]) for row in times[1:]]
            body += ["<h3>Time per stage</h3>", f"<p>{_DURATIONS_NOTE}</p>", *_html_table(times[0], rows, texts=1)]
        body.append("</section>")
    return page("Leaderboard", _STYLE, body)


def _html_scores(ranked: Sequence[Ranked]) -> list[str]:
    heads, rows, floor = _table(ranked)
    cards = [card for _, card in ranked]
    best = [_best(cards, column) for column in _columns(cards)]
    lines = []
    for (place, variant, *cells), card in zip(rows, cards, strict=True):
        dot = f'<span class="dot" style="background:{look(variant)[0]}"></span>'
        bold = [f"<b>{cell}</b>" if card["variant"] in names else cell for cell, names in zip(cells, best, strict=True)]
        lines.append(_html_row([place, dot + html.escape(variant), *bold], texts=2))
    return _html_table(heads, [*lines, _html_row(floor, texts=2, kind="floor")], texts=2)


def _html_table(heads: Sequence[str], rows: Sequence[str], texts: int) -> list[str]:
    """A table whose first `texts` columns are text and the others numbers."""
    classes = ["" if column < texts else ' class="number"' for column in range(len(heads))]
    cells = [f'<th scope="col"{kind}>{html.escape(head)}</th>' for kind, head in zip(classes, heads, strict=True)]
    head = f'<div class="scroll"><table><thead><tr>{"".join(cells)}</tr></thead><tbody>'
    return [head, *rows, "</tbody></table></div>"]


def _html_row(cells: Sequence[str], texts: int = 1, kind: str = "") -> str:
    row = "".join(f"<td>{cell}</td>" for cell in cells[:texts])
    row += "".join(f'<td class="number">{cell}</td>' for cell in cells[texts:])
    return f'<tr class="{kind}">{row}</tr>' if kind else f"<tr>{row}</tr>"


def _best(cards: Sequence[Card], column: _Column) -> set[str]:
    """The variants whose value of a column looks like its best one; none where all look alike."""
    values = {card["variant"]: card[column.name] for card in cards if column.name in card}
    looks = {variant: format(value, column.format_spec) for variant, value in values.items()}
    if len(Counter(looks.values())) < 2:
        return set()
    best = format(column.best(values.values()), column.format_spec)
    return {variant for variant, text in looks.items() if text == best}


def _html_grids(ranked: Sequence[Ranked], grids: Sequence[Picture]) -> list[str]:
    widest = max(grid.shape[1] for grid in grids)
    columns = f"repeat(auto-fill, minmax(min(100%, 34rem, {widest}px), 1fr))"  # all at one scale
    lines = [f'<div class="grids" style="grid-template-columns: {columns}">']
    for (place, card), grid in zip(ranked, grids, strict=True):
        name = html.escape(card["variant"])
        shown = glyph_image(grid, f"Glyphs of {name}, {html.escape(card['dataset'])}")
        caption = f"<figcaption><b>{name}</b>, place {place}: {html.escape(in_words(card))}</figcaption>"
        lines.append(f'<figure style="max-width:{grid.shape[1]}px">{shown}{caption}</figure>')
    return [*lines, "</div>"]
