"""Tables and pictures for people: files of them, and the judge's confusion."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lekhani.data.spec import GlyphClass
from lekhani.files import replacing, write_text
from lekhani.pictures import use_devanagari_font


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        temporary.write_bytes(figure_png(figure))


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()


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


def save_table(rows: Sequence[Mapping[str, Any]], path: Path, heads: Sequence[str] = ()) -> None:
    """Write rows as CSV, with `heads` for a table that may be without rows."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0] if rows else heads), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())
