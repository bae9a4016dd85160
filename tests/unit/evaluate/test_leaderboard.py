"""The leaderboard: tables, figures and the page."""

import base64
import csv
import io
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from html_page import Page
from matplotlib.figure import Figure
from PIL import Image

from lekhani.data.spec import DEVANAGARI
from lekhani.evaluate.figures import figure_png
from lekhani.evaluate.leaderboard import leaderboard_csv, leaderboard_markdown
from lekhani.evaluate.leaderboard_figures import (
    Entry,
    figures,
    leaderboard_figure,
)
from lekhani.evaluate.leaderboard_page import class_strips, leaderboard_html
from lekhani.evaluate.score import in_class_order


def card(dataset: str, variant: str, fid: float, **more: Any) -> dict[str, Any]:
    metrics = {"fid": fid, "fid_floor": 2.0, "fid_ratio": fid / 2, "kid": 0.0123, "kid_floor": -0.0004}
    metrics |= {"precision": 0.75, "precision_floor": 0.9, "recall": 0.5, "recall_floor": 0.95}
    metrics |= {"inception_score": 8.5, "inception_score_floor": 9.0, "classes_covered": 9, "classes_covered_floor": 10}
    metrics |= {"parity_max_abs": 1e-7, "latency_ms": 1.25, "images_seen": 80000, "train_seconds": 61.4}
    return {"dataset": dataset, "variant": variant, **metrics, **more}


CARDS = [
    card("mnist", "dcgan", 30.0),
    card("devanagari", "dcgan", 9.5),
    card("devanagari", "flow_matching", 10.5, label_agreement=0.987, label_agreement_floor=0.994),
]


def spread(variant: str, fid: float, std: float, **more: Any) -> dict[str, Any]:
    return card("mnist", variant, fid, **{"fid_std": std, "sampling_seeds": 5, **more})


def test_csv_holds_everything_and_leaves_out_what_does_not_apply() -> None:
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(CARDS))))
    assert list(rows[0])[:3] == ["dataset", "place", "variant"]
    assert [(row["place"], row["variant"]) for row in rows] == [("1", "dcgan"), ("2", "flow_matching"), ("1", "dcgan")]
    assert [row["label_agreement"] for row in rows] == ["", "0.987", ""]
    assert float(rows[0]["fid"]) == 9.5
    assert (rows[0]["images_seen"], rows[0]["parity_max_abs"], rows[0]["kid_floor"]) == ("80000", "1e-07", "-0.0004")


def table(markdown: str, dataset: str) -> list[dict[str, str]]:
    section = markdown.split(f"## {dataset}\n")[1].split("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_markdown_has_one_table_per_dataset_with_its_floor() -> None:
    text = leaderboard_markdown(CARDS)
    rows = table(text, "devanagari")
    assert [row["place"] for row in rows] == ["1", "2", ""]
    assert [row["variant"] for row in rows] == ["dcgan", "flow_matching", "*real images*"]
    assert [row["judge FID"] for row in rows] == ["9.50", "10.50", "2.00"]
    assert [row["x floor"] for row in rows] == ["4.75", "5.25", "1.00"]
    assert [row["agreement"] for row in rows] == ["-", "98.7%", "99.4%"]
    assert (rows[0]["train s"], rows[2]["train s"], rows[2]["classes"]) == ("61", "", "10")
    assert [row["variant"] for row in table(text, "mnist")] == ["dcgan", "*real images*"]


def test_a_metric_that_no_variant_has_is_no_column() -> None:
    text = leaderboard_markdown(CARDS)
    assert "agreement" not in table(text, "mnist")[0]
    heads = ("nats", "near copies", "usefulness", "Inception FID")
    assert not {*heads, "second judge"} & set(table(text, "devanagari")[0])
    more = {"nats_per_image": 81.25, "near_copies": 0.0125, "near_copies_floor": 0.002, "usefulness": 0.5}
    more |= {"fid_inception": 31.0, "fid_inception_std": 0.5, "fid_inception_floor": 3.0}
    row, floor = table(leaderboard_markdown([card("mnist", "draw", 9.0, **more)]), "mnist")
    assert [row[head] for head in heads] == ["81.2", "1.25%", "50.0%", "31.00 ± 0.50"]
    assert [floor[head] for head in heads] == ["", "0.20%", "", "3.00"]


def test_what_the_deviation_is_over() -> None:
    one = leaderboard_markdown(CARDS)
    assert "±" not in one
    assert "A single sampling seed was drawn of each variant" in one
    several = leaderboard_markdown([spread("a", 3.0, 0.1), spread("b", 3.1, 0.12)])
    assert table(several, "mnist")[1] | {"place": "1=", "judge FID": "3.10 ± 0.12"} == table(several, "mnist")[1]
    assert "standard deviation over 5 sampling seeds. Equal places (=) are ties: " in several
    assert "at 5%" in several
    assert "single" not in several
    mixed = leaderboard_markdown(
        [spread("a", 3.0, 0.1), spread("b", 3.1, 0.12, training_seeds=2), card("mnist", "c", 4.0)]
    )
    assert "over 5 sampling seeds (a) or 2 training seeds (b)" in mixed
    assert "A single sampling seed was drawn of c," in mixed


def test_a_judge_that_reads_too_little_is_named() -> None:
    told = "The judge reads only 87.4% of the real test images right"
    assert told in leaderboard_markdown([card("private", "a", 3.0, label_agreement_floor=0.874)])
    assert told not in leaderboard_markdown([card("private", "a", 3.0, label_agreement_floor=0.99)])


def test_unequal_budgets_are_named() -> None:
    alike = [card("mnist", name, 3.0, batch_size=64) for name in "ab"]
    assert "Not all" not in leaderboard_markdown(alike)
    text = leaderboard_markdown([*alike, card("mnist", "c", 2.0, images_seen=1000, batch_size=64)])
    assert "Not all were trained on equally many images: 80,000 for most; 1,000 for c." in text
    assert "steps" not in text
    two = leaderboard_markdown([alike[0], card("mnist", "c", 4.0, batch_size=32)])
    assert "Not all were trained in steps of equally many images: 64 for a; 32 for c." in two
    elsewhere = leaderboard_markdown([alike[0], card("devanagari", "a", 2.0, images_seen=1000)])
    assert "Not all" not in elsewhere, "each dataset has a budget of its own"


SECONDS = {
    ("devanagari", ""): {"judge": 34.26, "fetch": 0.2},
    ("devanagari", "dcgan"): {"train": 61.5, "evaluate": 9.0},
}


def test_the_time_per_stage_is_shown_where_it_is_known() -> None:
    text = leaderboard_markdown(CARDS, SECONDS)
    assert text.count("### Time per stage") == 1
    lines = text.split("### Time per stage")[1].split("## mnist")[0].splitlines()
    assert [line for line in lines if line.startswith("|")] == [
        "|  | fetch | judge | train | evaluate |",
        "| --- | --- | --- | --- | --- |",
        "| all variants | 0.2 | 34.3 |  |  |",
        "| dcgan |  |  | 61.5 | 9.0 |",
        "| flow_matching |  |  |  |  |",
    ]
    page = Page(leaderboard_html(ENTRIES, SECONDS))
    assert ["all variants", "0.2", "34.3", "", ""] in page.rows


CLASSES = DEVANAGARI[33:38]  # conjuncts and digits: what fonts lack first


def entry(variant: str, fid: float, *, conditional: bool = True, dataset: str = "devanagari", **more: Any) -> Entry:
    rng = np.random.default_rng(round(100 * fid))
    agreement = {"agreement": 0.9} if conditional else {}
    classes = [
        {"label": c.label, "name": c.name, "glyph": c.glyph, **agreement, "fid_ratio": None if i == 2 else 2.0 + i}
        for i, c in enumerate(CLASSES)
    ]
    curve = [{"images_seen": 1000 * i, "seconds": 7.0 * i, "judge_fid": fid + 9 / i} for i in (1, 2, 3)]
    images = rng.integers(0, 256, (40, 5, 5)).astype(np.uint8)
    return Entry(card(dataset, variant, fid, **more), curve, classes, in_class_order(images, len(CLASSES)))


ENTRIES = [
    entry("dcgan", 9.5, conditional=False),
    entry("draw", 4.5, precision_std=0.05, recall_std=0.03),
    entry("turbo", 3.25),
]


def png(figure: Figure) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is a warning
        return figure_png(figure)


def test_figures_are_those_that_have_something_to_show() -> None:
    assert list(figures(ENTRIES)) == ["curves", "precision_recall", "agreement", "class_fid"]
    assert list(figures(ENTRIES[:1])) == ["curves", "precision_recall", "class_fid"]
    bare = [Entry(one.card, [], [{**row, "fid_ratio": None} for row in one.classes], one.grid) for one in ENTRIES]
    assert list(figures(bare)) == ["precision_recall", "agreement"]


def test_cells_may_be_strings() -> None:
    """As the csv module reads them."""

    def read_back(rows: Any) -> list[dict[str, Any]]:
        return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]

    read = [Entry(one.card, read_back(one.curve), read_back(one.classes), one.grid) for one in ENTRIES]
    expected = figures(ENTRIES)
    for name, figure in figures(read).items():
        assert png(figure) == png(expected[name])


def test_the_leaderboard_as_a_picture() -> None:
    strips = {(c["dataset"], c["variant"]): np.full((20, 200), 10 + 100 * i, np.uint8) for i, c in enumerate(CARDS)}
    figure = leaderboard_figure(CARDS, strips)
    with Image.open(io.BytesIO(png(figure))) as image:
        pixels = np.asarray(image.convert("L"))
    rows = [np.flatnonzero((pixels == 10 + 100 * i).sum(axis=1) > 100) for i in range(3)]
    assert all(len(row) > 10 for row in rows), "every strip is shown"
    assert rows[1].max() < rows[2].min() < rows[0].min(), "devanagari's dcgan, its flow_matching, then mnist's dcgan"
    title = figure.axes[1].get_title(loc="left")
    words = "place 2: judge FID 10.50, 5.2 times its floor, label agreement 98.7%"
    assert title == f"devanagari / flow_matching, {words}"


def test_the_page_says_what_markdown_says() -> None:
    entries = [*ENTRIES, entry("turbo", 8.0, dataset="mnist", images_seen=10)]
    page, text = Page(leaderboard_html(entries)), leaderboard_markdown([one.card for one in entries])
    rows = [[cell.strip("*") for cell in row.values()] for name in ("devanagari", "mnist") for row in table(text, name)]
    heads = [list(table(text, name)[0]) for name in ("devanagari", "mnist")]
    assert [row for row in page.rows if row in rows] == rows
    assert [row for row in page.rows if row[0] == "place"] == heads
    assert "A single sampling seed" in page.text
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "h2"] == ["devanagari", "mnist"]


def shown(source: str) -> Any:
    """The pixels of an image that is written into the page."""
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        return np.asarray(image)


def test_the_page_stands_alone_and_shows_every_picture() -> None:
    text = leaderboard_html(ENTRIES)
    page = Page(text)
    page.assert_stands_alone()
    page.assert_is_accessible()
    assert not re.search(r"https?:|@import|url\(", text)
    images = {str(attributes["alt"]): str(attributes["src"]) for attributes in page.attributes_of("img")}
    charts = [
        f"{title}, devanagari: turbo, draw, dcgan" for title in ("Judge FID while training", "Precision and recall")
    ]
    strips = [f"{c.glyph} by {variant}" for c in CLASSES for variant in ("turbo", "draw")]
    assert list(images) == [*charts, *(f"Glyphs of {one}, devanagari" for one in ("turbo", "draw", "dcgan")), *strips]
    for one in ENTRIES:
        assert np.array_equal(shown(images[f"Glyphs of {one.card['variant']}, devanagari"]), one.grid)
    assert np.array_equal(shown(images[f"{CLASSES[1].glyph} by draw"])[:5, :5], ENTRIES[1].grid[:5, 6:11])
    light, dark = (shown(str(source)) for source in (images[charts[0]], page.attributes_of("source")[0]["srcset"]))
    assert light[0, 0, :3].min() > 250
    assert dark[0, 0, :3].max() < 40
    assert "turbo, place 1: judge FID 3.25, 1.6 times its floor" in page.text


def test_figures_lead_to_their_pictures() -> None:
    files = {
        ("devanagari", "turbo"): {"confusion": "devanagari/turbo/figures/confusion.png"},
        ("devanagari", ""): {"contact_sheet": "devanagari/contact_sheet.png"},
    }
    wrong = {"agreement": 0.5, "mistaken_for": CLASSES[1].name}
    entries = [replace(one, card={**one.card, "label_agreement": 0.9}) for one in ENTRIES]
    entries[2] = replace(entries[2], classes=[{**row, **wrong} for row in entries[2].classes])
    page = Page(leaderboard_html(entries, files=files))
    page.assert_links_lead_somewhere(beside={link for one in files.values() for link in one.values()})
    links = dict(page.links)  # by their text, the last one of each
    assert links["real images"] == "devanagari/contact_sheet.png"
    assert links["what is read as what"] == "devanagari/turbo/figures/confusion.png"
    assert links["3.25"] == "#devanagari/turbo"
    assert links["1.62"] == "#devanagari/class_fid"
    assert links["0.750"] == "#devanagari/precision_recall"
    assert [to for text, to in page.links if text == "90.0%"] == [
        "devanagari/turbo/figures/confusion.png",
        *("#devanagari/agreement", "#devanagari/dcgan"),
    ]
    assert links[CLASSES[1].glyph] == f"#devanagari/class/{CLASSES[1].label}"
    assert "turbo  50% right, else mostly त्र" in page.text
    assert ("span", {"lang": "hi"}) in page.tags


@pytest.mark.parametrize("n_classes", [3, 23, 30, 46, 62])
def test_the_glyphs_of_a_class_are_found_in_the_grid(n_classes: int) -> None:
    for again in (1, 3, 9):
        labels = np.arange(again * n_classes) % n_classes
        images = np.broadcast_to(labels[:, None, None], (len(labels), 4, 4)).astype(np.uint8)
        strips = class_strips(in_class_order(images, n_classes), n_classes)
        assert len(strips) == n_classes
        for label, strip in enumerate(strips):
            assert strip.shape == (4, min(again, 8) * 5 - 1)
            assert set(np.unique(strip[:, :4])) == {label}
            assert set(np.unique(strip)) <= {label, 48}
    assert class_strips(np.zeros((20, 31), np.uint8), n_classes) == []


def test_nothing_breaks_out_of_the_page() -> None:
    nasty = '<script>alert(1)</script>"&'
    page = Page(leaderboard_html([entry(nasty, 3.0, dataset="<b>x"), entry("dcgan", 4.0, dataset="<b>x")]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert nasty in page.text
    assert "<b>x" in page.text
    assert any(nasty in (attributes.get("alt") or "") for _, attributes in page.tags)
