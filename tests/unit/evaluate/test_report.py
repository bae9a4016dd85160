"""Tables and figures that people read: the right order, nothing invented, files that open."""

import csv
import io
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lekhani.data.spec import DEVANAGARI
from lekhani.errors import LekhaniError
from lekhani.evaluate import report


def card(dataset: str, variant: str, fid: float, **more: Any) -> dict[str, Any]:
    metrics = {"fid": fid, "kid": 0.0123, "inception_score": 8.5, "precision": 0.75, "recall": 0.5}
    floors = {
        f"{name}_floor": value for name, value in (("fid", 2.0), ("kid", -0.0004), ("inception_score", 9.0), ("precision", 0.9), ("recall", 0.95))
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
CARDS = [card("mnist", "dcgan", 30.0), card("devanagari", "dcgan", 9.5), card("devanagari", "flow_matching", 10.5, **AGREES)]


def test_the_best_of_each_dataset_comes_first() -> None:
    assert [(c["dataset"], c["variant"]) for c in report.rank(CARDS)] == [
        ("devanagari", "dcgan"),
        ("devanagari", "flow_matching"),
        ("mnist", "dcgan"),
    ]


def test_csv_leaves_out_what_does_not_apply() -> None:
    rows = list(csv.DictReader(io.StringIO(report.leaderboard_csv(CARDS))))
    assert [row["variant"] for row in rows] == ["dcgan", "flow_matching", "dcgan"]
    assert [row["label_agreement"] for row in rows] == ["", "0.987", ""]
    assert float(rows[0]["fid"]) == 9.5
    assert rows[0]["images_seen"] == "80000"
    assert rows[0]["parity_max_abs"] == "1e-07"
    assert list(rows[0])[:3] == ["dataset", "variant", "fid"]


def table(markdown: str, dataset: str) -> list[list[str]]:
    section = markdown.split(f"## {dataset}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]


def test_markdown_has_one_table_per_dataset_with_its_floor() -> None:
    text = report.leaderboard_markdown(CARDS)
    head, rule, *rows = table(text, "devanagari")
    assert len({len(row) for row in (head, rule, *rows)}) == 1, "every row has every cell"
    by_name = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["variant"] for row in by_name] == ["dcgan", "flow_matching", "*real images*"]
    assert [row["FID"] for row in by_name] == ["9.50", "10.50", "2.00"]
    assert [row["x floor"] for row in by_name] == ["4.8", "5.2", "1.0"]
    assert [row["label agreement"] for row in by_name[:2]] == ["-", "98.7%"]
    assert by_name[0]["train s"] == "61"
    assert by_name[2]["classes"] == "10"
    assert [row[0] for row in table(text, "mnist")[2:]] == ["dcgan", "*real images*"]


def test_a_metric_that_is_absent_is_a_dash() -> None:
    poor = {key: value for key, value in CARDS[0].items() if key not in {"fid_ratio", "latency_ms", "train_seconds"}}
    head, _, row, _ = table(report.leaderboard_markdown([poor]), "mnist")
    cells = dict(zip(head, row, strict=True))
    assert (cells["x floor"], cells["ms/image"], cells["train s"], cells["label agreement"]) == ("-", "-", "-", "-")


def test_the_floor_of_label_agreement_does_not_hang_on_who_leads() -> None:
    head, _, *rows = table(report.leaderboard_markdown(CARDS), "devanagari")
    assert dict(zip(head, rows[-1], strict=True))["label agreement"] == "99.4%"


def test_save_table(tmp_path: Path) -> None:
    report.save_table([{"name": "क", "n": 1.0}, {"name": "a,b", "n": float("nan")}], tmp_path / "new" / "t.csv")
    rows = list(csv.DictReader((tmp_path / "new" / "t.csv").open(encoding="utf-8", newline="")))
    assert rows == [{"name": "क", "n": "1.0"}, {"name": "a,b", "n": "nan"}]


def saved(figure: Figure, path: Path) -> np.ndarray[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is a warning
        report.save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


def test_the_leaderboard_as_a_picture(tmp_path: Path) -> None:
    strips = {(c["dataset"], c["variant"]): np.full((20, 200), 10 + 100 * i, np.uint8) for i, c in enumerate(CARDS)}
    pixels = saved(report.leaderboard_figure(CARDS, strips), tmp_path / "new" / "l.png")
    rows = [np.flatnonzero((pixels == 10 + 100 * i).sum(axis=1) > 100) for i in range(3)]
    assert all(len(row) > 10 for row in rows), "every strip is shown"
    assert rows[1].max() < rows[2].min() < rows[0].min(), "devanagari's dcgan, its flow_matching, then mnist's dcgan"


def test_the_confusion_as_a_picture(tmp_path: Path) -> None:
    classes = DEVANAGARI[33:38]  # conjuncts and digits: what fonts lack first
    confusion = np.diag([9, 8, 0, 10, 10])  # and a class that the test split lacks
    confusion[1, 0] = 2
    figure = report.confusion_figure(confusion, classes, 0.9487)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [c.glyph for c in classes]
    assert "94.87%" in axes.get_title()
    shown = np.asarray(axes.images[0].get_array())
    assert shown[1, 0] == pytest.approx(0.2**0.5), "the share of its true class, on the row of the true class"
    assert shown[0, 1] == 0
    assert saved(figure, tmp_path / "c.png").std() > 0


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        report.save_figure(report.confusion_figure(np.eye(3, dtype=np.int64), DEVANAGARI[:3], 1.0), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_figure_on_a_full_disk(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    figure = report.confusion_figure(np.eye(3, dtype=np.int64), DEVANAGARI[:3], 1.0)
    with pytest.raises(LekhaniError, match=r"Could not write .*c\.png"), full_disk():
        report.save_figure(figure, tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []
