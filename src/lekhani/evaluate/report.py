"""Tables and pictures for people: the judge's confusion, the leaderboard."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lekhani.data.spec import GlyphClass
from lekhani.files import markdown_table, replacing, write_text
from lekhani.pictures import Picture, use_devanagari_font

# The leading metric comes first; lower is better for fid and kid.
COLUMNS = (
    "dataset",
    "variant",
    "fid",
    "fid_floor",
    "fid_ratio",
    "kid",
    "inception_score",
    "precision",
    "recall",
    "label_agreement",
    "classes_covered",
    "parity_max_abs",
    "latency_ms",
    "images_seen",
    "train_seconds",
)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})


def confusion_figure(
    confusion: npt.NDArray[np.int64],
    classes: Sequence[GlyphClass],
    accuracy: float,
    title: str = "The judge on the test split",
    rows: str = "true class",
) -> Figure:
    """The confusion matrix [K,K], rows true (or asked for) and columns read, each row as shares; errors are what catches the eye."""
    use_devanagari_font()
    k = len(classes)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(2.5 + 0.2 * k, 2 + 0.2 * k))
    axes = figure.add_subplot()
    image = axes.imshow(np.sqrt(share), cmap="magma", vmin=0, vmax=1)  # the root makes single errors visible
    axes.set_xticks(range(k), [c.glyph for c in classes], fontsize=9)
    axes.set_yticks(range(k), [c.glyph for c in classes], fontsize=9)
    axes.set_xlabel("read as")
    axes.set_ylabel(rows)
    axes.set_title(f"{title}: {accuracy:.2%} right")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[0, 0.1**0.5, 0.5**0.5, 1])
    bar.ax.set_yticklabels(["0", "10%", "50%", "100%"])
    return figure


def rank(cards: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Scorecards by dataset, best leading metric (fid) first."""
    return sorted(cards, key=lambda card: (card["dataset"], card["fid"]))


def leaderboard_csv(cards: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as CSV; a metric that does not apply is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for card in rank(cards):
        writer.writerow({name: f"{value:.6g}" if isinstance(value := card[name], float) else value for name in COLUMNS if name in card})
    return file.getvalue()


def leaderboard_markdown(cards: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as Markdown, one table per dataset."""
    heads = ("variant", "FID", "x floor", "KID", "IS", "precision", "recall", "label agreement", "classes", "ms/image", "train s")
    lines = ["# Leaderboard", "", "Lower is better for FID and KID. The floor is what real train images score against the test split.", ""]
    ranked = rank(cards)
    for dataset in dict.fromkeys(card["dataset"] for card in ranked):
        rows = [card for card in ranked if card["dataset"] == dataset]
        floor = _floor_cells(next((card for card in rows if "label_agreement_floor" in card), rows[0]))
        lines += [f"## {dataset}", "", *markdown_table(heads, [*map(_cells, rows), floor]), ""]
    return "\n".join(lines)


def _cells(card: Mapping[str, Any]) -> list[str]:
    def show(name: str, form: str) -> str:
        return format(card[name], form) if name in card else "-"

    names = (
        ("fid", ".2f"),
        ("fid_ratio", ".1f"),
        ("kid", ".4f"),
        ("inception_score", ".2f"),
        ("precision", ".3f"),
        ("recall", ".3f"),
        ("label_agreement", ".1%"),
    )
    return [card["variant"], *(show(*pair) for pair in names), show("classes_covered", "d"), show("latency_ms", ".2f"), show("train_seconds", ".0f")]


def _floor_cells(card: Mapping[str, Any]) -> list[str]:
    names = (("fid", ".2f"), ("kid", ".4f"), ("inception_score", ".2f"), ("precision", ".3f"), ("recall", ".3f"))
    fid, *rest = (format(card[f"{name}_floor"], form) for name, form in names)
    agreement = f"{card['label_agreement_floor']:.1%}" if "label_agreement_floor" in card else "-"
    return ["*real images*", fid, "1.0", *rest, agreement, format(card["classes_covered_floor"], "d"), "", ""]


def leaderboard_figure(cards: Sequence[Mapping[str, Any]], strips: Mapping[tuple[str, str], Picture]) -> Figure:
    """One row per (dataset, variant): its leading metrics and what it writes, so that numbers and eyes can be compared."""
    ranked = rank(cards)
    figure = Figure(figsize=(13, 1.15 * len(ranked) + 0.6))
    for row, card in enumerate(ranked):
        axes = figure.add_subplot(len(ranked), 1, row + 1)
        axes.imshow(strips[card["dataset"], card["variant"]], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        agreement = f" · label agreement {card['label_agreement']:.1%}" if "label_agreement" in card else ""
        ratio = f", {card['fid_ratio']:.1f}x its floor" if "fid_ratio" in card else ""
        axes.set_title(f"{card['dataset']} / {card['variant']} — FID {card['fid']:.2f}{ratio}{agreement}", loc="left", fontsize=10)
    figure.tight_layout()
    return figure


def save_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())
