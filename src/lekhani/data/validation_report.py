"""What validation found, for people: pages with the pictures of offenders, the data card and the contact sheet."""

import html
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lekhani import files
from lekhani.data.checks import PAIRED
from lekhani.data.spec import Bytes, Prepared, load_prepared
from lekhani.pages import glyph_image, page
from lekhani.pictures import enlarged, grid, use_devanagari_font
from lekhani.text import code, escaped, markdown_table, printable

_SHOWN = 10  # images per class on the contact sheet
_ROWS = 24  # classes in one column of it


def write_reports(report: Mapping[str, Any], prepared: Path, folder: Path) -> None:
    """Write VALIDATION_PAGES into `folder` from the `report` of `schema.validate` on the folder `prepared`.

    validation.html is one page without a link outside; the data card links the contact sheet beside it. Where the prepared files
    do not belong together, the pages stand without pictures of single images. Raises LekhaniError when `folder` cannot be written.
    """
    data = load_prepared(prepared)
    sound = not report["skipped"]  # else ids and columns cannot be trusted
    table = pd.read_parquet(prepared / "manifest.parquet") if sound else None
    cases = _cases(report, data, table) if table is not None else {}
    files.write_json(folder / "validation.json", report)
    files.write_text(folder / "validation.md", validation_markdown(report, cases))
    files.write_text(folder / "validation.html", validation_html(report, data, cases))
    files.write_text(folder / "data_card.md", data_card(report, data, table))
    with files.replacing(folder / "contact_sheet.png") as temporary:
        _save_contact_sheet(data, temporary)


@dataclass(frozen=True)
class Case:
    """One image that shows a fault: which it is, why it stands here, and what it looks like."""

    id: int
    member: str
    class_name: str
    glyph: str
    split: str
    why: str
    picture: Bytes

    @property
    def label(self) -> str:
        """The class with its glyph, where that is another word."""
        return self.class_name if self.glyph == self.class_name else f"{self.class_name} {self.glyph}"


def _cases(report: Mapping[str, Any], data: Prepared, table: pd.DataFrame) -> dict[str, list[Case]]:
    """The examples of each check, as cases."""
    medians = table.groupby("label")["ink_mean"].median()

    def why(name: str, row: Any) -> str:
        if name in {"blank_images", "full_images"}:
            return f"ink on {row.ink_fraction:.1%} of its pixels"
        if name == "off_centre":
            return f"its centre of ink is {np.hypot(row.centre_x - 0.5, row.centre_y - 0.5):.2f} from the middle"
        if name == "ink_outliers":
            return f"ink {row.ink_mean:.3f}, its class usually {medians[row.label]:.3f}"
        return ""

    found = {}
    for check in report["checks"]:
        found[check["name"]] = [
            Case(
                id=int(row.id),
                member=printable(row.member),
                class_name=printable(row.class_name),
                glyph=printable(row.glyph),
                split=str(row.split),
                why=why(check["name"], row),
                picture=data.images[row.id],
            )
            for row in table.iloc[check["examples"]].itertuples()
        ]
        if check["name"] in PAIRED:
            pairs = found[check["name"]]
            found[check["name"]] = [_beside(one, pairs[i ^ 1]) for i, one in enumerate(pairs)]
    return found


def _beside(one: Case, other: Case) -> Case:
    same = "repeats" if np.array_equal(one.picture, other.picture) else "nearly repeats"
    where = [] if one.split == other.split else [f"which is in {other.split}"]
    where += [] if one.class_name == other.class_name else [f"which is of class {other.label}"]
    return replace(one, why=f"{same} image {other.id:,}" + (f", {' and '.join(where)}" if where else ""))


def _verdict(check: Mapping[str, Any]) -> str:
    return "ok" if check["passed"] else {"error": "failed"}.get(check["policy"], "warning")


def _ordered(checks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(checks, key=lambda check: ("failed", "warning", "ok").index(_verdict(check)))


def _summary(report: Mapping[str, Any]) -> str:
    verdicts = [_verdict(check) for check in report["checks"]]
    counts = [
        f"{verdicts.count(word)} {words}"
        for word, words in (("failed", "failed"), ("warning", "with a warning"), ("ok", "fine"))
        if word in verdicts
    ]
    return f"{len(verdicts)} checks: {', '.join(counts)}."


def report_text(report: Mapping[str, Any]) -> str:
    """The report of `schema.validate` as a short Markdown page for the terminal: what failed first."""
    marks = {"failed": "**failed**"}
    lines = [f"# Validation of {report['dataset']}: {'passed' if report['passed'] else 'failed'}", ""]
    lines += [
        f"- {check['name']}: {marks.get(_verdict(check), _verdict(check))}. {check['sentence']}"
        for check in _ordered(report["checks"])
    ]
    lines += [f"- {report['skipped']}"] if report["skipped"] else []
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [*markdown_table(heads, rows), ""]


def validation_markdown(report: Mapping[str, Any], cases: Mapping[str, Sequence[Case]]) -> str:
    """validation.md: the verdict, a table of the checks, and where the offenders lie."""
    lines = [
        f"# Validation of {escaped(report['dataset'])}: {'passed' if report['passed'] else 'failed'}",
        "",
        _summary(report),
        "",
    ]
    lines += [report["skipped"], ""] if report["skipped"] else []
    rows = [
        (check["name"], _verdict(check), f"{check['count']:,}", escaped(check["sentence"]))
        for check in _ordered(report["checks"])
    ]
    lines += _table(("check", "verdict", "count", "what it says"), rows)
    for check in _ordered(report["checks"]):
        if shown := cases.get(check["name"]):
            lines += [f"## {check['name']}", ""]
            heads = ("image", "member", "class", "split", "why")
            lines += _table(
                heads, ((one.id, escaped(one.member), escaped(one.label), one.split, escaped(one.why)) for one in shown)
            )
    lines += (
        ["## How it was prepared", "", *(f"- {escaped(note)}" for note in report["notes"]), ""]
        if report["notes"]
        else []
    )
    return "\n".join(lines)


_STYLE = """
td:last-child { overflow-wrap: anywhere; }
.verdict { display: inline-block; padding: 0 .55rem; border-radius: .75rem; font-size: .85rem; font-weight: 600; white-space: nowrap; }
.failed { background: #fbe3e1; color: #8f1d14; }
.warning { background: #fdf0cf; color: #6b4700; }
.ok { background: #e0f2e5; color: #14532d; }
h1 .verdict { font-size: 1rem; padding: .1rem .8rem; vertical-align: .25rem; margin-left: .5rem; }
.cases { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 0; padding: 0; list-style: none; }
.case { display: flex; gap: .75rem; padding: .75rem; border: 1px solid var(--line); border-radius: .5rem; }
figure { width: 8.5rem; }
img { image-rendering: pixelated; }
figcaption span { display: block; color: var(--quiet); }
"""


def validation_html(report: Mapping[str, Any], data: Prepared, cases: Mapping[str, Sequence[Case]]) -> str:
    """validation.html: the same with pictures; every name is escaped, and nothing is loaded from elsewhere."""
    name, word = _html(report["dataset"]), "passed" if report["passed"] else "failed"
    info = data.info
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    body = [
        f'<h1>Validation of {name} <span class="verdict {"ok" if report["passed"] else "failed"}">{word}</span></h1>',
        f'<p class="lead">{_html(counts)} images of {info.image_size} &times; {info.image_size} pixels in {info.n_classes} classes, '
        f"version {_html(str(info.digest)[:12])}. {_html(_summary(report))}</p>",
        f"<p>{_html(report['skipped'])}</p>" if report["skipped"] else "",
        "<table><thead><tr><th scope=col>check</th><th scope=col>verdict</th><th scope=col class=number>count</th>"
        "<th scope=col>what it says</th></tr></thead><tbody>",
    ]
    for check in _ordered(report["checks"]):
        title = f'<a href="#{check["name"]}">{check["name"]}</a>' if cases.get(check["name"]) else check["name"]
        mark = f'<span class="verdict {_verdict(check)}">{_verdict(check)}</span>'
        body.append(
            f"<tr><td>{title}</td><td>{mark}</td><td class=number>{check['count']:,}</td><td>{_html(check['sentence'])}</td></tr>"
        )
    body.append("</tbody></table>")
    for check in _ordered(report["checks"]):
        shown = cases.get(check["name"], ())
        if shown:
            body += [
                f'<section><h2 id="{check["name"]}">{check["name"]}</h2><p>{_html(check["sentence"])}</p><ul class="cases">'
            ]
            step = 2 if check["name"] in PAIRED else 1
            body += [
                f'<li class="case">{"".join(map(_figure, shown[i : i + step]))}</li>'
                for i in range(0, len(shown), step)
            ]
            body.append("</ul></section>")
    if report["notes"]:
        body += [
            "<section><h2>How it was prepared</h2><ul>",
            *(f"<li>{_html(note)}</li>" for note in report["notes"]),
            "</ul></section>",
        ]
    return page(f"Validation of {name}: {word}", _STYLE, body)


def _html(text: Any) -> str:
    return html.escape(printable(text))


def _figure(case: Case) -> str:
    scale = max(1, 96 // max(case.picture.shape))
    alt = _html(f"Image {case.id:,} of class {case.label}, {case.split}")
    facts = f"<span>{_html(case.why)}</span>" if case.why else ""
    return (
        f"<figure>{glyph_image(enlarged(case.picture, scale), alt)}"
        f"<figcaption><b><bdi>{_html(case.label)}</bdi></b>, {case.split}, image {case.id:,}{facts}"
        f"<span><bdi>{_html(case.member)}</bdi></span></figcaption></figure>"
    )


def data_card(report: Mapping[str, Any], data: Prepared, table: pd.DataFrame | None) -> str:
    """data_card.md: where the images come from, what they are, how they were prepared, and the faults that validation found."""
    info, source = data.info, data.info.source
    name = info.name

    def told(key: str) -> str:
        return escaped(source[key]) if source.get(key) else f"not stated; set `data.{name}.{key}` in params.yaml"

    place = next((f", `{code(source[key])}`" for key in ("slug", "id", "path") if source.get(key)), "")
    facts = [
        ("origin", told("origin")),
        ("licence", told("licence")),
        ("citation", told("citation")),
        ("source", f"{escaped(source.get('name', 'unknown'))}{place}"),
        ("version", escaped(source.get("version") or "unknown")),
        ("SHA-256 of the source", f"`{code(source.get('sha256') or 'unknown')}`"),
        ("script", escaped(info.script)),
        (
            "images",
            f"{sum(info.counts.values()):,} of {info.image_size} x {info.image_size} pixels, grey, white strokes on black",
        ),
        ("classes", f"{info.n_classes}"),
        ("SHA-256 of the prepared images", f"`{code(info.digest)}`"),
    ]
    lines = [f"# Data card: {escaped(name)}", "", *_table(("", ""), facts)]
    lines += ["![Some images of each class](contact_sheet.png)", ""]
    lines += [
        "## How it was prepared",
        "",
        *(f"- {escaped(note)}" for note in info.notes or ["As the source has it."]),
        "",
    ]
    lines += ["## Known faults", "", "What validation found; validation.html shows the images.", ""]
    faults = [
        f"- {check['name']}: {escaped(check['sentence'])}"
        for check in _ordered(report["checks"])
        if not check["passed"]
    ]
    lines += [*(faults or ["- none"]), *([f"- {report['skipped']}"] if report["skipped"] else []), ""]
    if table is not None:
        lines += [
            "## Ink",
            "",
            "Share of the whole frame; the centre is 0.5 in the middle, x to the right and y down.",
            "",
            *_ink(table),
        ]
        lines += ["## Classes", "", *_classes(data)]
    return "\n".join(lines)


def _ink(table: pd.DataFrame) -> list[str]:
    heads = ("split", "ink, mean", "ink, 5% to 95%", "centre x", "centre y")
    rows = []
    for split, part in table.groupby("split", sort=False):
        low, high = part["ink_mean"].quantile([0.05, 0.95])
        rows.append(
            (
                split,
                f"{part['ink_mean'].mean():.3f}",
                f"{low:.3f} to {high:.3f}",
                *(f"{part[c].mean():.3f}" for c in ("centre_x", "centre_y")),
            )
        )
    return _table(heads, rows)


def _classes(data: Prepared) -> list[str]:
    known = (data.labels >= 0) & (data.labels < data.info.n_classes)
    counts = [
        np.bincount(data.labels[known & of], minlength=data.info.n_classes) for of in (~data.is_test, data.is_test)
    ]
    rows = [
        (c.label, escaped(c.name), escaped(c.glyph), f"{counts[0][c.label]:,}", f"{counts[1][c.label]:,}")
        for c in data.info.classes
    ]
    return _table(("label", "class", "glyph", "train", "test"), rows)


def _save_contact_sheet(data: Prepared, path: Path) -> None:
    """Ten train images per class at even steps, a row a class, in columns of 24 classes at most."""
    from matplotlib.figure import Figure

    use_devanagari_font()
    classes, size = (
        data.info.classes,
        data.images.shape[-1] if data.images.ndim == 3 and data.images.dtype == np.uint8 else 0,
    )
    rows = min(len(classes), _ROWS)
    columns = -(-len(classes) // rows)
    scale = max(1, 48 // max(size, 1))  # screen pixels per pixel
    names = [c.name if len(c.name) <= 22 else f"{c.name[:21]}…" for c in classes]
    labels = [
        printable(name if c.name == c.glyph else f"{name}  {c.glyph}") for name, c in zip(names, classes, strict=True)
    ]
    line, strip, margin = size * scale + 8, _SHOWN * (size + 1) * scale, 32 + 6 * max(map(len, labels))
    width, height, dpi = columns * (margin + strip + 16) + 8, rows * line + 8, 100
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    train = np.flatnonzero(~data.is_test[: len(data.labels)])
    for place, c in enumerate(classes):
        left, top = place // rows * (margin + strip + 16) + margin, place % rows * line + 8
        axes.text(
            left - 8, top + size * scale / 2, labels[place].replace("$", r"\$"), ha="right", va="center", fontsize=8
        )
        of_class = train[data.labels[train] == c.label] if size else train[:0]
        shown = of_class[np.arange(min(_SHOWN, len(of_class))) * len(of_class) // min(_SHOWN, max(len(of_class), 1))]
        if len(shown):
            picture = enlarged(grid(data.images[shown], _SHOWN), scale)
            extent = (left, left + picture.shape[1], top + picture.shape[0], top)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent, aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))  # imshow moves them
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font", UserWarning
        )  # a script without a font of ours is drawn as boxes
        figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})
