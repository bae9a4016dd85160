"""The leaderboard: places, ties, pooled training seeds, tables, figures and the page."""

import base64
import csv
import io
import re
import statistics
import warnings
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from lekhani.data.spec import DEVANAGARI
from lekhani.errors import LekhaniError
from lekhani.evaluate import leaderboard, per_class
from lekhani.evaluate.figures import figure_png
from lekhani.evaluate.leaderboard import Entry, rank, repeats
from lekhani.evaluate.per_class import ClassScore


def card(dataset: str, variant: str, fid: float, **more: Any) -> dict[str, Any]:
    metrics = {"fid": fid, "kid": 0.0123, "inception_score": 8.5, "precision": 0.75, "recall": 0.5}
    floors = {
        f"{name}_floor": value
        for name, value in (
            ("fid", 2.0),
            ("kid", -0.0004),
            ("inception_score", 9.0),
            ("precision", 0.9),
            ("recall", 0.95),
        )
    }
    rest = {
        "classes_covered": 9,
        "classes_covered_floor": 10,
        "parity_max_abs": 1e-7,
        "latency_ms": 1.25,
        "images_seen": 80000,
        "train_seconds": 61.4,
    }
    return {"dataset": dataset, "variant": variant, **metrics, **floors, "fid_ratio": fid / 2, **rest, **more}


AGREES = {"label_agreement": 0.987, "label_agreement_floor": 0.994}
CARDS = [
    card("mnist", "dcgan", 30.0),
    card("devanagari", "dcgan", 9.5),
    card("devanagari", "flow_matching", 10.5, **AGREES),
]


def spread(variant: str, fid: float, std: float, **more: Any) -> dict[str, Any]:
    return card("mnist", variant, fid, **{"fid_std": std, "sampling_seeds": 5, **more})


def places(cards: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(place, one["variant"]) for place, one in rank(cards)]


def test_the_best_of_each_dataset_comes_first() -> None:
    assert [(one.place, one.card["dataset"], one.card["variant"]) for one in rank(CARDS)] == [
        ("1", "devanagari", "dcgan"),
        ("2", "devanagari", "flow_matching"),
        ("1", "mnist", "dcgan"),
    ]


def test_fid_counts_in_parts_of_its_floor() -> None:
    nearer = card(
        "mnist", "nearer", 10.0, fid_floor=8.0, fid_ratio=1.25
    )  # scored on fewer images: both its FID and its floor are higher
    assert places([card("mnist", "farther", 9.0), nearer]) == [("1", "nearer"), ("2", "farther")]
    without = {key: value for key, value in nearer.items() if key != "fid_ratio"} | {"fid_floor": 0.0}
    assert places([card("mnist", "farther", 9.0), without]) == [("1", "farther"), ("2", "nearer")]


def test_a_tie_is_judged_in_parts_of_the_floor_too() -> None:
    # 1.25 +- 0.01 against 1.275 +- 0.05; taken as +- 0.08 and +- 0.1 of the FID both would have tied with 1.4.
    cards = [spread("a", 10.0, 0.08, fid_floor=8.0, fid_ratio=1.25), spread("b", 2.55, 0.1), spread("c", 2.8, 0.1)]
    assert places(cards) == [("1=", "a"), ("1=", "b"), ("3", "c")]


def test_ties_share_the_place_of_the_leader_and_do_not_chain() -> None:
    # Standard error of a difference is 0.1 * sqrt(2/5) = 0.063, and t at 8 degrees of freedom 2.31, so that 0.146 apart is a tie.
    cards = [
        spread("d", 3.9, 0.1),
        spread("b", 3.12, 0.1),
        spread("c", 3.24, 0.1),
        spread("a", 3.0, 0.1),
        spread("e", 3.36, 0.1),
    ]
    assert places(cards) == [("1=", "a"), ("1=", "b"), ("3=", "c"), ("3=", "e"), ("5", "d")]


def test_equal_models_share_a_place_whatever_stands_at_the_same_fid() -> None:
    # b and d tie with a, and c with its small deviation does not; by name alone c would part b from d.
    b, c, d = (spread(name, 3.1, std) for name, std in (("b", 0.2), ("c", 0.001), ("d", 0.2)))
    assert places([spread("a", 3.0, 0.03), b, d]) == [("1=", "a"), ("1=", "b"), ("1=", "d")]
    assert places([spread("a", 3.0, 0.03), b, c, d]) == [("1", "a"), ("2=", "c"), ("2=", "b"), ("2=", "d")]


def test_a_single_seed_ties_with_equal_values_only() -> None:
    assert places([card("mnist", "b", 3.0), card("mnist", "a", 3.0), card("mnist", "c", 3.0001)]) == [
        ("1=", "a"),
        ("1=", "b"),
        ("3", "c"),
    ]


def test_training_seeds_count_where_there_are_any() -> None:
    # 0.2 apart at deviation 0.1: told apart with 5 seeds, but not with the 2 trainings that the deviation is over.
    assert places([spread("a", 3.0, 0.1), spread("b", 3.2, 0.1)]) == [("1", "a"), ("2", "b")]
    assert places([spread("a", 3.0, 0.1, training_seeds=2), spread("b", 3.2, 0.1, training_seeds=2)]) == [
        ("1=", "a"),
        ("1=", "b"),
    ]


def seeded(train_seed: int, fid: float, **more: Any) -> dict[str, Any]:
    shared = {
        "fid_std": 0.5,
        "kid_subset_std": 0.01 * train_seed,
        "sampling_seeds": 3,
        "judge_sha256": "j",
        "n_generated": 100,
        "profile": "quick",
    }
    return card("mnist", "draw", fid, train_seed=train_seed, model_sha256=f"m{train_seed}", **shared, **more)


def test_training_seeds_are_pooled() -> None:
    alone = card("mnist", "dcgan", 7.0, train_seed=1)
    fids, floors = [4.0, 5.0, 9.0], {"usefulness_floor": 0.9, "usefulness_floor_std": 0.01}
    pooled, other = repeats(
        [seeded(1, 4.0, **floors), alone, seeded(2, 5.0, label_agreement=0.5, **floors), seeded(3, 9.0, **floors)]
    )
    assert other is alone
    assert pooled["training_seeds"] == 3
    assert pooled["fid"] == 6.0
    assert pooled["fid_std"] == pytest.approx(statistics.stdev(fids)), "not the 0.5 over sampling seeds"
    assert pooled["fid_ratio"] == 3.0
    assert pooled["fid_floor"] == 2.0
    assert pooled["kid_subset_std"] == pytest.approx(0.02)
    assert pooled["recall_std"] == 0
    assert (pooled["usefulness_floor"], pooled["usefulness_floor_std"]) == (0.9, 0.01), (
        "the floor has no training seeds"
    )
    assert (pooled["classes_covered"], pooled["n_generated"], pooled["judge_sha256"], pooled["profile"]) == (
        9,
        100,
        "j",
        "quick",
    )
    assert isinstance(pooled["classes_covered"], int)
    made = {"model_sha256", "train_seed", "label_agreement"}  # of one training alone, or that not all have
    invented = {key for key in pooled if re.search(r"(_floor|_ratio|_subset_std|generated|seen|seeds)_std$", key)} - {
        "usefulness_floor_std"
    }
    assert not (made | invented) & set(pooled)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge_sha256": "other"}, r"mnist/draw differ in judge_sha256 \(j, other\)"),
        ({"n_generated": 99}, r"differ in n_generated \(100, 99\)"),
        ({"images_seen": 5}, r"differ in images_seen \(80000, 5\)"),
        ({"data_digest": "d"}, r"differ in data_digest \(unknown, d\)"),
        ({"train_seed": 1}, r"train_seed of its own .* \[1, 1\]"),
        ({"train_seed": None}, r"train_seed of its own"),
    ],
)
def test_what_does_not_compare_is_not_pooled(change: dict[str, Any], said: str) -> None:
    with pytest.raises(LekhaniError, match=said):
        repeats([seeded(1, 4.0), {**seeded(2, 5.0), **change}])


def test_csv_holds_everything_and_leaves_out_what_does_not_apply() -> None:
    rows = list(csv.DictReader(io.StringIO(leaderboard.leaderboard_csv(CARDS))))
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
    text = leaderboard.leaderboard_markdown(CARDS)
    rows = table(text, "devanagari")
    assert [(row["place"], row["variant"]) for row in rows] == [
        ("1", "dcgan"),
        ("2", "flow_matching"),
        ("", "*real images*"),
    ]
    assert [row["FID"] for row in rows] == ["9.50", "10.50", "2.00"]
    assert [row["x floor"] for row in rows] == ["4.75", "5.25", "1.00"]
    assert [row["agreement"] for row in rows] == ["-", "98.7%", "99.4%"]
    assert (rows[0]["train s"], rows[2]["train s"], rows[2]["classes"]) == ("61", "", "10")
    assert [row["variant"] for row in table(text, "mnist")] == ["dcgan", "*real images*"]


def test_a_metric_that_no_variant_has_is_no_column() -> None:
    text = leaderboard.leaderboard_markdown(CARDS)
    assert "agreement" not in table(text, "mnist")[0]
    assert not {"nats", "usefulness", "FID Inception", "near copies", "second judge"} & set(
        table(text, "devanagari")[0]
    )
    more = {
        "nats_per_image": 81.25,
        "near_copies": 0.0125,
        "near_copies_floor": 0.002,
        "usefulness": 0.5,
        "fid_inception": 31.0,
    }
    row, floor = table(
        leaderboard.leaderboard_markdown(
            [card("mnist", "draw", 9.0, **more, fid_inception_std=0.5, fid_inception_floor=3.0)]
        ),
        "mnist",
    )
    assert (row["nats"], row["near copies"], row["usefulness"], row["FID Inception"]) == (
        "81.2",
        "1.25%",
        "50.0%",
        "31.00 ± 0.50",
    )
    assert (floor["nats"], floor["near copies"], floor["usefulness"], floor["FID Inception"]) == (
        "",
        "0.20%",
        "",
        "3.00",
    )


def test_what_the_deviation_is_over() -> None:
    one = leaderboard.leaderboard_markdown(CARDS)
    assert "±" not in one
    assert "A single sampling seed was drawn of each variant" in one
    several = leaderboard.leaderboard_markdown([spread("a", 3.0, 0.1), spread("b", 3.1, 0.12)])
    assert table(several, "mnist")[1] | {"place": "1=", "FID": "3.10 ± 0.12"} == table(several, "mnist")[1]
    assert "standard deviation over 5 sampling seeds. Equal places (=) are ties: " in several
    assert "at 5%" in several
    assert "single" not in several
    mixed = leaderboard.leaderboard_markdown(
        [spread("a", 3.0, 0.1), spread("b", 3.1, 0.12, training_seeds=2), card("mnist", "c", 4.0)]
    )
    assert "over 5 sampling seeds (a) or 2 training seeds (b)" in mixed
    assert "A single sampling seed was drawn of c," in mixed


def test_unequal_budgets_are_told() -> None:
    alike = [card("mnist", name, 3.0, batch_size=64) for name in "ab"]
    assert "Not all" not in leaderboard.leaderboard_markdown(alike)
    text = leaderboard.leaderboard_markdown([*alike, card("mnist", "c", 2.0, images_seen=1000, batch_size=64)])
    assert "Not all were trained on equally many images: 80,000 for most; 1,000 for c." in text
    assert "steps" not in text
    two = leaderboard.leaderboard_markdown([alike[0], card("mnist", "c", 4.0, batch_size=32)])
    assert "Not all were trained in steps of equally many images: 64 for a; 32 for c." in two
    elsewhere = leaderboard.leaderboard_markdown([alike[0], card("devanagari", "a", 2.0, images_seen=1000)])
    assert "Not all" not in elsewhere, "each dataset has a budget of its own"


CLASSES = DEVANAGARI[33:38]  # conjuncts and digits: what fonts lack first


def entry(variant: str, fid: float, *, conditional: bool = True, dataset: str = "devanagari", **more: Any) -> Entry:
    rng = np.random.default_rng(round(100 * fid))
    scores = [
        ClassScore(
            c.label,
            20 if conditional else None,
            20,
            0.9 if conditional else None,
            0.8,
            None if i == 2 else 2.0 + i,
            1.0,
        )
        for i, c in enumerate(CLASSES)
    ]
    curve = [{"images_seen": 1000 * i, "seconds": 7.0 * i, "judge_fid": fid + 9 / i} for i in (1, 2, 3)]
    return Entry(
        card(dataset, variant, fid, **more),
        curve,
        per_class.table(scores, CLASSES),
        rng.integers(0, 256, (20, 30)).astype(np.uint8),
    )


def as_csv(rows: Any) -> list[dict[str, Any]]:
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def read_back(one: Entry) -> Entry:
    """The same entry with its tables as the csv module reads them."""
    return Entry(one.card, as_csv(one.curve), as_csv(one.classes), one.grid)


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
    assert list(leaderboard.figures(ENTRIES)) == ["curves", "precision_recall", "agreement", "class_fid"]
    assert list(leaderboard.figures(ENTRIES[:1])) == ["curves", "precision_recall", "class_fid"]
    bare = [Entry(one.card, [], [{**row, "fid_ratio": None} for row in one.classes], one.grid) for one in ENTRIES]
    assert list(leaderboard.figures(bare)) == ["precision_recall", "agreement"]


def test_cells_may_be_strings() -> None:
    ours, read = (leaderboard.figures(entries) for entries in (ENTRIES, [read_back(one) for one in ENTRIES]))
    assert {name: png(figure) for name, figure in ours.items()} == {name: png(figure) for name, figure in read.items()}


def test_curves_by_images_and_by_time() -> None:
    cut = Entry(
        ENTRIES[0].card,
        [*ENTRIES[0].curve, {"images_seen": 4000, "seconds": "", "judge_fid": 2.0}],
        [],
        ENTRIES[0].grid,
    )
    figure = leaderboard.curves_figure([cut, *ENTRIES[1:]])
    assert figure is not None
    by_images, by_time = figure.axes
    assert by_images.get_yscale() == by_time.get_yscale() == "log"
    lines = {str(line.get_label()): line for line in by_images.lines}
    assert list(lines) == ["turbo", "draw", "dcgan"], "best first"
    assert np.array_equal(lines["draw"].get_xdata(), [1000, 2000, 3000])
    assert np.allclose(lines["draw"].get_ydata(), [13.5, 9, 7.5])
    assert len(lines["dcgan"].get_xdata()) == 4  # type: ignore[arg-type]
    assert [np.asarray(line.get_xdata()).tolist() for line in by_time.lines] == [[7.0, 14.0, 21.0]] * 3, (
        "a row without a time has no place here"
    )
    png(figure)


def test_curves_without_times_are_one_panel() -> None:
    figure = leaderboard.curves_figure(
        [Entry(ENTRIES[0].card, [{"images_seen": 10, "judge_fid": 3.0}], [], ENTRIES[0].grid)]
    )
    assert figure is not None
    assert len(figure.axes) == 1


def test_precision_against_recall() -> None:
    figure = leaderboard.scatter_figure([entry("dcgan", 9.5, precision=0.3, recall=0.6), ENTRIES[1]])
    assert figure is not None
    axes = figure.axes[0]
    draw, dcgan = axes.containers
    assert draw.get_label() == "draw"
    assert np.allclose(dcgan[0].get_xydata(), [[0.3, 0.6]])
    assert np.allclose(draw[2][0].get_segments(), [[[0.7, 0.5], [0.8, 0.5]]]), "precision give or take its deviation"
    assert np.allclose(draw[2][1].get_segments(), [[[0.75, 0.47], [0.75, 0.53]]])
    (star,) = (line for line in axes.lines if line.get_label() == "real train images")
    assert np.allclose(star.get_xydata(), [[0.9, 0.95]])
    png(figure)


def test_class_maps_by_variant() -> None:
    found = leaderboard.figures(ENTRIES)
    fid, agreement = (
        np.asarray(found[name].axes[0].images[0].get_array(), np.float64) for name in ("class_fid", "agreement")
    )
    assert np.allclose(fid[:, [0, 1, 3, 4]], [[2, 3, 5, 6]] * 3)
    assert not np.isfinite(fid[:, 2]).any()
    assert agreement.shape == (2, 5), "no label was asked for of dcgan"
    assert [text.get_text() for text in found["agreement"].axes[0].get_yticklabels()] == ["turbo", "draw"]
    assert [text.get_text() for text in found["class_fid"].axes[0].get_xticklabels()] == [c.glyph for c in CLASSES]
    png(found["class_fid"])


def test_a_variant_has_one_colour_everywhere() -> None:
    def colours(entries: list[Entry]) -> dict[str, str]:
        curves, scatter = leaderboard.curves_figure(entries), leaderboard.scatter_figure(entries)
        assert curves is not None
        assert scatter is not None
        found = {str(line.get_label()): to_hex(line.get_color()) for line in curves.axes[0].lines}
        assert found == {str(c.get_label()): to_hex(c[0].get_color()) for c in scatter.axes[0].containers}
        return found

    all_three, other = (
        colours(ENTRIES),
        colours([entry("turbo", 1.0, dataset="mnist"), entry("bare_bones", 2.0, dataset="mnist")]),
    )
    assert all_three["turbo"] == other["turbo"]
    assert len({*all_three.values(), *other.values()}) == 4
    assert len(colours([entry("turbo", 3.0), entry("made_by_me", 4.0)])) == 2


def test_the_leaderboard_as_a_picture() -> None:
    strips = {(c["dataset"], c["variant"]): np.full((20, 200), 10 + 100 * i, np.uint8) for i, c in enumerate(CARDS)}
    figure = leaderboard.leaderboard_figure(CARDS, strips)
    with Image.open(io.BytesIO(png(figure))) as image:
        pixels = np.asarray(image.convert("L"))
    rows = [np.flatnonzero((pixels == 10 + 100 * i).sum(axis=1) > 100) for i in range(3)]
    assert all(len(row) > 10 for row in rows), "every strip is shown"
    assert rows[1].max() < rows[2].min() < rows[0].min(), "devanagari's dcgan, its flow_matching, then mnist's dcgan"
    assert (
        figure.axes[1].get_title(loc="left")
        == "devanagari / flow_matching, place 2: FID 10.50, 5.2 times its floor, label agreement 98.7%"
    )


VOID = {"meta", "img"}


class Page(HTMLParser):
    """The tags of a page, its rows of cells and its text; a tag that is not closed where it should be is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "b" in self.open:
            self.bold.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_says_what_markdown_says() -> None:
    entries = [*ENTRIES, entry("turbo", 8.0, dataset="mnist", images_seen=10)]
    page, text = (
        Page(leaderboard.leaderboard_html(entries)),
        leaderboard.leaderboard_markdown([one.card for one in entries]),
    )
    told = [list(row.values()) for dataset in ("devanagari", "mnist") for row in table(text, dataset)]
    assert [row for row in page.rows if row[0] != "place"] == [[cell.strip("*") for cell in row] for row in told]
    assert page.rows[0] == list(table(text, "devanagari")[0])
    assert "A single sampling seed" in page.text
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "h2"] == ["devanagari", "mnist"]


def test_the_page_stands_alone() -> None:
    text = leaderboard.leaderboard_html(ENTRIES)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|@import|url\(", text)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4 + len(ENTRIES)
    for attributes in images:
        source = attributes["src"] or ""
        assert source.startswith("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert image.size == (int(attributes["width"] or 0), int(attributes["height"] or 0))
        assert attributes["alt"]


def test_the_page_shows_each_grid_by_its_name() -> None:
    page = Page(leaderboard.leaderboard_html(ENTRIES))
    grids = [attributes for tag, attributes in page.tags if tag == "img"][-3:]
    for attributes, one in zip(grids, (ENTRIES[2], ENTRIES[1], ENTRIES[0]), strict=True):
        with Image.open(io.BytesIO(base64.b64decode((attributes["src"] or "").partition(",")[2]))) as image:
            assert np.array_equal(np.asarray(image), one.grid)
        assert attributes["alt"] == f"Glyphs of {one.card['variant']}, devanagari"
    assert "turbo, place 1: FID 3.25, 1.6 times its floor" in page.text


def test_the_best_of_each_column_is_bold() -> None:
    cards = [
        card("mnist", "a", 3.0, precision=0.5, latency_ms=1.0),
        card("mnist", "b", 4.0, precision=0.7504, latency_ms=2.0),
    ]
    cards += [card("mnist", "c", 5.0, precision=0.7501, latency_ms=3.0)]
    page = Page(leaderboard.leaderboard_html([Entry(one, [], [], ENTRIES[0].grid) for one in cards]))
    of_table = page.bold[: -len(cards)]  # names below the grids are bold too
    assert of_table == ["3.00", "1.50", "1.00", "0.750", "0.750"], (
        "what looks alike is alike, and a column of equal values has no best"
    )


def test_nothing_breaks_out_of_the_page() -> None:
    nasty = '<script>alert(1)</script>"&'
    page = Page(leaderboard.leaderboard_html([entry(nasty, 3.0, dataset="<b>x"), entry("dcgan", 4.0, dataset="<b>x")]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert nasty in page.text
    assert "<b>x" in page.text
    assert any(nasty in (attributes.get("alt") or "") for _, attributes in page.tags)
