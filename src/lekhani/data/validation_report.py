"""What validation found, for people: pages with pictures of the faults, the data card and the contact sheet."""

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
from lekhani.pages import attribute, glyph_image, html_table, page, words
from lekhani.pictures import enlarged, grid, use_devanagari_font
from lekhani.text import code, escaped, markdown_table, printable

_SHOWN = 10  # images per class on the contact sheet
_ROWS = 24  # classes in one column of it

Report = Mapping[str, Any]  # what `schema.validate` returns


def write_reports(report: Report, prepared: Path, folder: Path) -> None:
    """Write VALIDATION_PAGES into `folder` from the `report` of `schema.validate` on the folder `prepared`.

    validation.html and the data card link nothing but what is written beside them. Where the
    prepared files do not belong together, the pages come without pictures of single images. Raises LekhaniError when
    `folder` cannot be written.
    """
    data = load_prepared(prepared)
    sound = not report["skipped"]  # else ids and columns cannot be trusted
    table = pd.read_parquet(prepared / "manifest.parquet") if sound else None
    cases = _cases(report, data, table) if table is not None else {}
    files.write_json(folder / "validation.json", report)
    files.write_text(folder / "validation.md", _validation_markdown(report, cases))
    files.write_text(folder / "validation.html", _validation_html(report, data, cases))
    files.write_text(folder / "data_card.md", _data_card(report, data, table))
    with files.replacing(folder / "contact_sheet.png") as temporary:
        _save_contact_sheet(data, temporary)


def report_text(report: Report) -> str:
    """The report of `schema.validate` as a short Markdown page for the terminal: what failed first."""
    lines = [f"# {_title(report)}", ""]
    for check, verdict in _by_verdict(report):
        shown = "**failed**" if verdict == "failed" else verdict
        lines.append(f"- {check['name']}: {shown}. {check['sentence']}")
    lines += [f"- {report['skipped']}"] if report["skipped"] else []
    return "\n".join(lines) + "\n"


def _title(report: Report) -> str:
    return f"Validation of {report['dataset']}: {'passed' if report['passed'] else 'failed'}"


def _by_verdict(report: Report) -> list[tuple[Mapping[str, Any], str]]:
    """Every check with its verdict: what failed first, then warnings, then what is fine."""
    verdicts = ["ok" if c["passed"] else "failed" if c["policy"] == "error" else "warning" for c in report["checks"]]
    pairs = zip(report["checks"], verdicts, strict=True)
    return sorted(pairs, key=lambda pair: ("failed", "warning", "ok").index(pair[1]))


def _summary(report: Report) -> str:
    verdicts = [verdict for _, verdict in _by_verdict(report)]
    words = {"failed": "failed", "warning": "with a warning", "ok": "fine"}
    counts = [f"{verdicts.count(verdict)} {word}" for verdict, word in words.items() if verdict in verdicts]
    return f"{len(verdicts)} checks: {', '.join(counts)}."


# --- the images that show a fault ---


@dataclass(frozen=True)
class _Case:
    """One image that shows a fault: which it is, why it is here, and what it looks like (uint8 [H,W])."""

    id: int
    member: str
    label: str  # the class, with its glyph where that is another word
    split: str
    picture: Bytes
    why: str = ""


def _cases(report: Report, data: Prepared, table: pd.DataFrame) -> dict[str, list[_Case]]:
    """The examples of each check, as cases."""
    usual_ink = table.groupby("label")["ink_mean"].transform("median")
    found = {}
    for check in report["checks"]:
        name, rows = check["name"], table.assign(usual_ink=usual_ink).iloc[check["examples"]]
        cases = [_case(name, row, data.images[row.id]) for row in rows.itertuples()]
        if name in PAIRED:
            cases = [replace(one, why=_relation(one, cases[i ^ 1])) for i, one in enumerate(cases)]
        found[name] = cases
    return found


def _case(check: str, row: Any, picture: Bytes) -> _Case:
    """`row` is one of the manifest, with the median of ink_mean in its class as `usual_ink`."""
    why = ""
    if check in {"blank_images", "full_images"}:
        why = f"ink on {row.ink_fraction:.1%} of its pixels"
    elif check == "off_centre":
        why = f"its centre of ink is {np.hypot(row.centre_x - 0.5, row.centre_y - 0.5):.2f} from the middle"
    elif check == "ink_outliers":
        why = f"ink {row.ink_mean:.3f}, its class usually {row.usual_ink:.3f}"
    member, class_name, glyph = map(printable, (row.member, row.class_name, row.glyph))
    label = class_name if glyph == class_name else f"{class_name} {glyph}"
    return _Case(int(row.id), member, label, str(row.split), picture, why)


def _relation(one: _Case, other: _Case) -> str:
    same = "repeats" if np.array_equal(one.picture, other.picture) else "nearly repeats"
    where = [] if one.split == other.split else [f"which is in {other.split}"]
    where += [] if one.label == other.label else [f"which is of class {other.label}"]
    return f"{same} image {other.id:,}" + (f", {' and '.join(where)}" if where else "")


# --- validation.md and validation.html ---


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [*markdown_table(heads, rows), ""]


def _validation_markdown(report: Report, cases: Mapping[str, Sequence[_Case]]) -> str:
    """The verdict, a table of the checks, and where the faults lie."""
    ordered = _by_verdict(report)
    lines = [f"# {_title({**report, 'dataset': escaped(report['dataset'])})}", "", _summary(report), ""]
    lines += [report["skipped"], ""] if report["skipped"] else []
    rows = ((c["name"], verdict, f"{c['count']:,}", escaped(c["sentence"])) for c, verdict in ordered)
    lines += _table(("check", "verdict", "count", "what it says"), rows)
    for check, _ in ordered:
        if shown := cases.get(check["name"]):
            lines += [f"## {check['name']}", ""]
            images = ((c.id, escaped(c.member), escaped(c.label), c.split, escaped(c.why)) for c in shown)
            lines += _table(("image", "member", "class", "split", "why"), images)
    if report["notes"]:
        lines += ["## How it was prepared", "", *(f"- {escaped(note)}" for note in report["notes"]), ""]
    return "\n".join(lines)


_STYLE = """
td:last-child { min-width: 16rem; max-width: 60rem; overflow-wrap: anywhere; }
.verdict { display: inline-block; padding: 0 .55rem; border: 1px solid; border-radius: .75rem; font-size: var(--small);
  font-weight: 600; white-space: nowrap; }
.failed { color: var(--wrong); }
.warning { color: var(--doubt); }
.ok { color: var(--right); }
h1 .verdict { vertical-align: .25rem; }
.cases { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.pairs .card { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
.card img { image-rendering: pixelated; }
figcaption span:not([lang]) { display: block; color: var(--quiet); }
"""


def _validation_html(report: Report, data: Prepared, cases: Mapping[str, Sequence[_Case]]) -> str:
    """The same with pictures; every name is escaped, and nothing is loaded from elsewhere."""
    name, word = words(report["dataset"]), "passed" if report["passed"] else "failed"
    info, ordered = data.info, _by_verdict(report)
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    rows = [_html_row(check, verdict, bool(cases.get(check["name"]))) for check, verdict in ordered]
    body = [
        f'<h1>Validation of {name} <span class="verdict {"ok" if report["passed"] else "failed"}">{word}</span></h1>',
        f'<p class="quiet">{words(counts)} images of {info.image_size} &times; {info.image_size} pixels in '
        f"{info.n_classes} classes, version {words(str(info.digest)[:12])}. {words(_summary(report))}</p>",
        '<p>Beside this page lie <a href="contact_sheet.png">some images of each class</a> and the '
        '<a href="data_card.md">data card</a>.</p>',
        f"<p>{words(report['skipped'])}</p>" if report["skipped"] else "",
        *html_table("What each check found", ("check", "verdict", "count", "what it says"), rows, numbers={2}),
    ]
    body += [_html_section(check, shown) for check, _ in ordered if (shown := cases.get(check["name"]))]
    if report["notes"]:
        notes = (f"<li>{words(note)}</li>" for note in report["notes"])
        body += ["<section><h2>How it was prepared</h2><ul>", *notes, "</ul></section>"]
    return page(f"Validation of {attribute(report['dataset'])}: {word}", _STYLE, body)


def _html_row(check: Mapping[str, Any], verdict: str, has_section: bool) -> list[str]:
    """The cells of a check; its name and its count lead to the images that it found."""
    name, count = check["name"], f"{check['count']:,}"
    if has_section:
        name, count = (f'<a href="#{check["name"]}">{shown}</a>' for shown in (name, count))
    return [name, f'<span class="verdict {verdict}">{verdict}</span>', count, words(check["sentence"])]


def _html_section(check: Mapping[str, Any], cases: Sequence[_Case]) -> str:
    step = 2 if check["name"] in PAIRED else 1
    groups = ("".join(map(_figure, cases[i : i + step])) for i in range(0, len(cases), step))
    name, sentence = check["name"], words(check["sentence"])
    kind = "pairs" if step == 2 else "cases"
    head = f'<section><h2 id="{name}">{name}</h2><p>{sentence}</p><ul class="cards {kind}">'
    return "\n".join([head, *(f'<li class="card">{group}</li>' for group in groups), "</ul></section>"])


def _figure(case: _Case) -> str:
    scale = max(1, 96 // max(case.picture.shape))
    alt = f"Image {case.id:,} of class {case.label}, {case.split}"
    why = f"<span>{words(case.why)}</span>" if case.why else ""
    return (
        f"<figure>{glyph_image(enlarged(case.picture, scale), alt)}"
        f"<figcaption><b><bdi>{words(case.label)}</bdi></b>, {case.split}, image {case.id:,}{why}"
        f"<span><bdi>{words(case.member)}</bdi></span></figcaption></figure>"
    )


# --- the data card ---


def _data_card(report: Report, data: Prepared, table: pd.DataFrame | None) -> str:
    """Where the images come from, what they are, how they were prepared, and the faults that validation found."""
    notes = data.info.notes or ["As the source has it."]
    faults = [f"- {c['name']}: {escaped(c['sentence'])}" for c, _ in _by_verdict(report) if not c["passed"]]
    faults = faults or ["- none"]
    lines = [f"# Data card: {escaped(data.info.name)}", "", *_table(("", ""), _facts(data))]
    lines += ["![Some images of each class](contact_sheet.png)", ""]
    lines += ["## How it was prepared", "", *(f"- {escaped(note)}" for note in notes), ""]
    lines += ["## Known faults", "", "What validation found; validation.html shows the images.", "", *faults]
    lines += [*([f"- {report['skipped']}"] if report["skipped"] else []), ""]
    if table is not None:
        legend = "Share of the whole frame; the centre is 0.5 in the middle, x to the right and y down."
        lines += ["## Ink", "", legend, "", *_ink(table), "## Classes", "", *_classes(data)]
    return "\n".join(lines)


def _facts(data: Prepared) -> list[tuple[str, str]]:
    info, source = data.info, data.info.source
    stated = [
        (key, escaped(source[key]) if source.get(key) else f"not stated; set `data.{info.name}.{key}` in params.yaml")
        for key in ("origin", "licence", "citation")
    ]
    place = next((f", `{code(source[key])}`" for key in ("slug", "id", "path") if source.get(key)), "")
    size = f"{info.image_size} x {info.image_size} pixels"
    return [
        *stated,
        ("source", f"{escaped(source.get('name', 'unknown'))}{place}"),
        ("version", escaped(source.get("version") or "unknown")),
        ("SHA-256 of the source", f"`{code(source.get('sha256') or 'unknown')}`"),
        ("script", escaped(info.script)),
        ("images", f"{sum(info.counts.values()):,} of {size}, grey, white strokes on black"),
        ("classes", f"{info.n_classes}"),
        ("SHA-256 of the prepared images", f"`{code(info.digest)}`"),
    ]


def _ink(table: pd.DataFrame) -> list[str]:
    rows = []
    for split, part in table.groupby("split", sort=False):
        low, high = part["ink_mean"].quantile([0.05, 0.95])
        ink, x, y = (f"{part[column].mean():.3f}" for column in ("ink_mean", "centre_x", "centre_y"))
        rows.append((split, ink, f"{low:.3f} to {high:.3f}", x, y))
    return _table(("split", "ink, mean", "ink, 5% to 95%", "centre x", "centre y"), rows)


def _classes(data: Prepared) -> list[str]:
    n = data.info.n_classes
    known = (data.labels >= 0) & (data.labels < n)
    train, test = (np.bincount(data.labels[known & part], minlength=n) for part in (~data.is_test, data.is_test))
    rows = (
        (c.label, escaped(c.name), escaped(c.glyph), f"{train[c.label]:,}", f"{test[c.label]:,}")
        for c in data.info.classes
    )
    return _table(("label", "class", "glyph", "train", "test"), rows)


# --- the contact sheet ---


def _save_contact_sheet(data: Prepared, path: Path) -> None:
    """Ten train images per class at even steps, a row a class, in columns of 24 classes at most."""
    from matplotlib.figure import Figure

    use_devanagari_font()
    classes, labels = data.info.classes, [_sheet_label(c.name, c.glyph) for c in data.info.classes]
    size = data.images.shape[-1] if data.images.ndim == 3 and data.images.dtype == np.uint8 else 0
    rows = min(len(classes), _ROWS)
    scale = max(1, 48 // max(size, 1))  # screen pixels per pixel
    line, strip, margin = size * scale + 8, _SHOWN * (size + 1) * scale, 32 + 6 * max(map(len, labels))
    width, height, dpi = -(-len(classes) // rows) * (margin + strip + 16) + 8, rows * line + 8, 100
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    train = np.flatnonzero(~data.is_test[: len(data.labels)])
    for place, c in enumerate(classes):
        left, top = place // rows * (margin + strip + 16) + margin, place % rows * line + 8
        text = labels[place].replace("$", r"\$")
        axes.text(left - 8, top + size * scale / 2, text, ha="right", va="center", fontsize=8)
        of_class = train[data.labels[train] == c.label] if size else train[:0]
        count = min(_SHOWN, len(of_class))
        if count:
            shown = of_class[np.arange(count) * len(of_class) // count]
            picture = enlarged(grid(data.images[shown], _SHOWN), scale)
            extent = (left, left + picture.shape[1], top + picture.shape[0], top)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent, aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))  # imshow moves them
    with warnings.catch_warnings():  # a script without a font of ours is drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})


def _sheet_label(name: str, glyph: str) -> str:
    short = name if len(name) <= 22 else f"{name[:21]}…"
    return printable(short if name == glyph else f"{short}  {glyph}")
