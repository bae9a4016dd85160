"""Figures as PNG files, and the confusion matrix as a figure."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lekhani.data.spec import GlyphClass, Labels
from lekhani.files import replacing
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
    labels: Labels,
    predicted: Labels,
    classes: Sequence[GlyphClass],
    title: str = "The judge on the test split",
    rows: str = "true class",
) -> Figure:
    """The confusion matrix of int64 [N] labels (rows) and predictions (columns), each row as shares.

    Errors are what catches the eye.
    """
    from sklearn.metrics import confusion_matrix  # here, because scikit-learn takes two seconds to import

    use_devanagari_font()
    k = len(classes)
    share = confusion_matrix(labels, predicted, labels=range(k), normalize="true")
    figure = Figure(figsize=(2.5 + 0.2 * k, 2 + 0.2 * k))
    axes = figure.add_subplot()
    image = axes.imshow(np.sqrt(share), cmap="magma", vmin=0, vmax=1)  # the root makes single errors visible
    axes.set_xticks(range(k), [c.glyph for c in classes], fontsize=9)
    axes.set_yticks(range(k), [c.glyph for c in classes], fontsize=9)
    axes.set_xlabel("predicted class")
    axes.set_ylabel(rows)
    axes.set_title(f"{title}: {(labels == predicted).mean():.2%} right")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[0, 0.1**0.5, 0.5**0.5, 1])
    bar.ax.set_yticklabels(["0", "10%", "50%", "100%"])
    return figure
