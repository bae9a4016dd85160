"""The leaderboard as a page that works offline: every figure leads to the pictures that show what it means."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np

from lekhani.evaluate.figures import figure_png
from lekhani.evaluate.leaderboard import (
    DURATIONS_NOTE,
    INTRO,
    Durations,
    best_variants,
    by_dataset,
    duration_table,
    remarks,
    scores_table,
    shown_columns,
)
from lekhani.evaluate.leaderboard_figures import (
    Entry,
    class_maps,
    curves_figure,
    in_order,
    in_words,
    look,
    scatter_figure,
)
from lekhani.evaluate.ranking import Ranked
from lekhani.pages import attribute, glyph_image, html_table, image, page, words
from lekhani.pictures import Picture
from lekhani.pictures import grid as join

Files = Mapping[tuple[str, str], Mapping[str, str]]
"""Links to files beside the page by (dataset, variant or "") and by name, one of VARIANT_FILES or DATASET_FILES."""

VARIANT_FILES = {
    "confusion": "what is read as what",
    "worst": "the worst classes beside real ones",
    "closest": "its images beside the nearest train images",
    "usefulness": "what it teaches an OCR model",
}
DATASET_FILES = {
    "contact_sheet": "real images of each class",
    "confusion": "what the judge reads as what",
    "validation": "validation of the images",
}
_STYLE = """
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .45rem; }
.charts > * { min-width: 0; }
.charts img { max-width: none; border-radius: 0; box-shadow: none; }
@media (min-width: 100rem) {
  .charts { display: flex; gap: 2rem; }
  .charts img { max-width: 100%; }
}
.grids { display: grid; gap: 1.25rem; align-items: start; margin-top: .75rem; }
.map td { padding: 0; min-width: 2rem; text-align: center; border: 1px solid var(--paper); }
.map thead th { text-align: center; white-space: nowrap; padding-inline: .3rem; font-weight: 400; }
.map thead .stays { text-align: left; padding-left: .6rem; }
.map td span { display: block; padding: .4rem .2rem; min-height: 2.1em; }
.classes { grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr)); }
.classes h4 { margin: 0 0 .25rem; font-weight: 400; }
.classes h4 b { font-size: var(--larger); }
.classes figure + figure { margin-top: .75rem; }
figcaption ul { margin: .25rem 0 0; padding: 0; list-style: none; line-height: 1.75rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: .75rem 0 0; padding: 0; }
"""
_DARK: Any = {  # house.css has the same colours
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#16191d"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), "#e4e7eb"),
    "grid.color": "#a0a8b1",
}
_CHARTS = {
    "curves": (curves_figure, "Judge FID while training"),
    "precision_recall": (scatter_figure, "Precision and recall"),
}
_MAP_NOTES = {
    "agreement": "Share of the images requested as a class that the judge reads as it.",
    "class_fid": "1 is as close to the test split as real train images are; grey has too few images.",
}
_SHORT = {
    "curves": "training",
    "precision_recall": "precision and recall",
    "agreement": "agreement per class",
    "class_fid": "FID per class",
    "glyphs": "glyphs",
    "classes": "class by class",
}
# What shows why a metric is as it is, the best first: a file, or a section of the page. The glyphs are always there.
_SHOWN_BY = {
    "fid_ratio": ("class_fid",),
    **dict.fromkeys(("precision", "recall"), ("precision_recall",)),
    **dict.fromkeys(("label_agreement", "label_agreement_second"), ("confusion", "agreement")),
    "modes": ("worst", "class_fid"),
    "near_copies": ("closest",),
    "usefulness": ("usefulness",),
    "train_seconds": ("curves",),
}
_WITHOUT_PICTURE = {"latency_ms"}


def leaderboard_html(entries: Sequence[Entry], durations: Durations | None = None, files: Files | None = None) -> str:
    """The leaderboard as one page that loads nothing from elsewhere.

    Per dataset it has a table, curves, maps of the classes, glyphs of each variant and of each class, and the time per
    stage. Figures link to what shows them, on the page and in `files`.
    """
    datasets = by_dataset([entry.card for entry in entries])
    parts = [_Part(name, [one for one in entries if one.card["dataset"] == name], files or {}) for name in datasets]
    body = ["<h1>Leaderboard</h1>", f'<p class="quiet">{INTRO} The best of a column is bold.</p>']
    body += ['<nav aria-label="Contents">', *(line for part in parts for line in part.contents()), "</nav>"]
    for part in parts:
        body += part.html(datasets[part.dataset], durations or {})
    return page("Leaderboard", _STYLE, body)


def class_strips(grid: Picture, n_classes: int) -> list[Picture]:
    """The glyphs of each class side by side, cut out of a grid by `score.in_class_order`; none of another picture."""
    columns = min(n_classes, 23)
    side = (grid.shape[1] + 1) // columns  # of a glyph and the gap beside it
    if (grid.shape[1] + 1) % columns or side < 2 or (grid.shape[0] + 1) % side:
        return []
    shown = (grid.shape[0] + 1) // side * columns // n_classes  # of each class
    strips = []
    for label in range(n_classes):
        first = label // columns * columns  # class of its block, in which a row has `width` glyphs
        width = min(columns, n_classes - first)
        places = [divmod(first * shown + again * width + label - first, columns) for again in range(shown)]
        glyphs = [grid[row * side :, column * side :][: side - 1, : side - 1] for row, column in places]
        strips.append(join(np.stack(glyphs), shown))
    return strips


class _Part:
    """What the page has of one dataset."""

    def __init__(self, dataset: str, entries: Sequence[Entry], files: Files) -> None:
        self.dataset, self.entries = dataset, in_order(entries)
        self.files = {one: files.get((dataset, one), {}) for one in ("", *(e.card["variant"] for e in entries))}
        self.maps = class_maps(entries)
        charts = {name: self._chart(name) for name in _CHARTS}
        self.charts = {name: chart for name, chart in charts.items() if chart}
        self.strips = {
            e.card["variant"]: class_strips(e.grid, len(e.classes))
            for e in self.entries
            if any("agreement" in row for row in e.classes)  # else the columns of its grid are no classes
        }
        self.has_classes = any(self.strips.values())

    def contents(self) -> list[str]:
        there = {**self.charts, **self.maps, "glyphs": True, "classes": self.has_classes}
        links = "".join(f"<li>{_link(self._at(name), _SHORT[name])}</li>" for name, shown in there.items() if shown)
        return [f"<ul><li>{_link(self._at(), f'<b>{words(self.dataset)}</b>')}</li>{links}</ul>"]

    def html(self, ranked: Sequence[Ranked], durations: Durations) -> list[str]:
        lines = [f'<section><h2 id="{self._id()}">{words(self.dataset)}</h2>', *self._scores(ranked)]
        lines += [f"<p>{words(note)}</p>" for note in remarks([card for _, card in ranked])]
        lines += [f"<p>Of the data: {', '.join(self._file_links('', DATASET_FILES))}.</p>"] if self.files[""] else []
        lines += ['<div class="charts">', *self.charts.values(), "</div>"] if self.charts else []
        for name in self.maps:
            lines += self._map(name)
        lines += [f'<h3 id="{self._id("glyphs")}">Generated glyphs</h3>', *self._grids(ranked)]
        if self.has_classes:
            lines += [f'<h3 id="{self._id("classes")}">Class by class</h3>', *self._classes()]
        if times := duration_table(self.dataset, ranked, durations):
            heads, *rows = times
            lines += ["<h3>Time per stage</h3>", f"<p>{DURATIONS_NOTE}</p>"]
            cells = [[words(row[0]), *row[1:]] for row in rows]
            numbers = range(1, len(heads))
            lines += html_table(f"Seconds per stage of {self.dataset}", ["variant", *heads[1:]], cells, numbers=numbers)
        return [*lines, "</section>"]

    def _id(self, *parts: str) -> str:
        return "/".join(quote(part, safe="") for part in (self.dataset, *parts))

    def _at(self, *parts: str) -> str:
        return f"#{self._id(*parts)}"

    def _scores(self, ranked: Sequence[Ranked]) -> list[str]:
        heads, rows, floor = scores_table(ranked)
        cards = [card for _, card in ranked]
        columns = shown_columns(cards)
        best = [best_variants(cards, column) for column in columns]
        lines = []
        for place, variant, *cells in rows:
            dot = f'<span class="dot" style="background:{look(variant)[0]}"></span>'
            line = [place, dot + _link(self._at(variant), words(variant))]
            for cell, column, names in zip(cells, columns, best, strict=True):
                shown = f"<b>{cell}</b>" if variant in names else cell
                is_shown = cell != "-" and column.name not in _WITHOUT_PICTURE
                line.append(self._to_pictures(shown, column.name, variant) if is_shown else shown)
            lines.append(line)
        if "contact_sheet" in self.files[""]:
            floor[1] = _link(self.files[""]["contact_sheet"], floor[1], DATASET_FILES["contact_sheet"])
        numbers = range(2, len(heads))
        return html_table(f"Scores of {self.dataset}", heads, lines, numbers=numbers, row_head=1, foot=floor)

    def _to_pictures(self, cell: str, metric: str, variant: str) -> str:
        """A cell of the scores that leads to what shows why it is as it is."""
        for name in _SHOWN_BY.get(metric, ()):
            if name in self.files[variant]:
                return _link(self.files[variant][name], cell, VARIANT_FILES[name])
            if name in self.charts:
                return _link(self._at(name), cell, _CHARTS[name][1])
            if name in self.maps and variant in self.maps[name].texts:
                return _link(self._at(name), cell, self.maps[name].title)
        return _link(self._at(variant), cell, f"glyphs of {variant}")

    def _chart(self, name: str) -> str:
        draw, title = _CHARTS[name]
        figure = draw(self.entries)
        if figure is None:
            return ""
        with mpl.rc_context(_DARK):
            dark = figure_png(draw(self.entries) or figure)
        variants = ", ".join(entry.card["variant"] for entry in self.entries)
        label = attribute(f"{title}, {self.dataset}")
        shown = image(figure_png(figure), f"{title}, {self.dataset}: {variants}", dark)
        box = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><figure>{shown}</figure></div>'
        return f'<section><h3 id="{self._id(name)}">{title}</h3>{box}</section>'

    def _map(self, name: str) -> list[str]:
        shown = self.maps[name]
        heads = ["variant"]
        for row in shown.classes:
            glyph = words(row["glyph"])
            heads.append(_link(self._class(row), glyph, str(row["name"])) if self.has_classes else glyph)
        rows = [
            [
                _link(self._at(variant), words(variant)),
                *(
                    f'<span style="background:{ground};color:{ink}">{text or "–"}</span>'
                    for text, (ground, ink) in zip(cells, shown.colours[variant], strict=True)
                ),
            ]
            for variant, cells in shown.texts.items()
        ]
        title = f'<h3 id="{self._id(name)}">{shown.title}</h3><p class="quiet">{_MAP_NOTES[name]}</p>'
        return [title, '<div class="map">', *html_table(f"{shown.title}, {self.dataset}", heads, rows), "</div>"]

    def _class(self, row: Mapping[str, Any]) -> str:
        return self._at("class", str(row["label"]))

    def _grids(self, ranked: Sequence[Ranked]) -> list[str]:
        widest = max(entry.grid.shape[1] for entry in self.entries)
        columns = f"repeat(auto-fill, minmax(min(100%, 34rem, {widest}px), 1fr))"  # all at one scale
        lines = [f'<div class="grids" style="grid-template-columns: {columns}">']
        for (place, card), entry in zip(ranked, self.entries, strict=True):
            variant, width = card["variant"], entry.grid.shape[1]
            links = "".join(f"<li>{link}</li>" for link in self._file_links(variant, VARIANT_FILES))
            more = f"<ul>{links}</ul>" if links else ""
            caption = f"<figcaption><b>{words(variant)}</b>, place {place}: {words(in_words(card))}{more}</figcaption>"
            shown = glyph_image(entry.grid, f"Glyphs of {variant}, {self.dataset}")
            lines.append(f'<figure id="{self._id(variant)}" style="max-width:{width}px">{shown}{caption}</figure>')
        return [*lines, "</div>"]

    def _file_links(self, variant: str, titles: Mapping[str, str]) -> list[str]:
        found = self.files[variant]
        return [_link(found[name], title) for name, title in titles.items() if name in found]

    def _classes(self) -> list[str]:
        """A card per class with what each variant that takes labels draws of it, and what it is read as instead."""
        by_name = {row["name"]: row for row in self.entries[0].classes}
        lines = ['<div class="cards classes">']
        for place, row in enumerate(self.entries[0].classes):
            glyph, name = words(row["glyph"]), words(row["name"])
            title = f"<b>{glyph}</b>"
            title += "" if row["glyph"] == row["name"] else f' <span class="quiet">{name}</span>'
            lines.append(f'<section class="card" id="{self._class(row)[1:]}"><h4>{title}</h4>')
            for entry in self.entries:
                variant = entry.card["variant"]
                if strips := self.strips.get(variant):
                    alt = f"{row['glyph']} by {variant}"
                    caption = (
                        f"{_link(self._at(variant), words(variant))}{self._reading(entry.classes[place], by_name)}"
                    )
                    shown = glyph_image(strips[place], alt)
                    lines.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
            lines.append("</section>")
        return [*lines, "</div>"]

    def _reading(self, row: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]) -> str:
        """How often the judge reads a class as what it is, and what it takes it for instead."""
        said = ""
        if row.get("agreement") not in {None, ""}:
            share = float(row["agreement"])
            said = f' <meter value="{share:.3f}" aria-label="label agreement"></meter> {share:.0%} right'
        if other := by_name.get(row.get("mistaken_for") or ""):
            said += f", else mostly {_link(self._class(other), words(other['glyph']))}"
        return said


def _link(to: str, shown: str, title: str = "") -> str:
    """A link with HTML to click on, and plain text that says what is there."""
    told = f' title="{attribute(title)}"' if title else ""
    return f'<a href="{attribute(to)}"{told}>{shown}</a>'
