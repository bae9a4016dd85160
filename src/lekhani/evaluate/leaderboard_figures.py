"""The variants of a dataset side by side in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import color_sequences, colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from lekhani.evaluate.ranking import Card, rank
from lekhani.params import Variants
from lekhani.pictures import Picture, use_devanagari_font

_MARKERS = "osD^vP"
# A legend right of its axes.
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0, "frameon": False}


@dataclass(frozen=True)
class Entry:
    """One variant of one dataset.

    Cells of tables are numbers or, as the csv module reads them, strings; an empty one is no value.
    """

    card: Card
    curve: Sequence[Mapping[str, Any]]  # rows of curve.csv; none when no score was taken in training
    classes: Sequence[Mapping[str, Any]]  # rows of per_class.csv, see `per_class.table`
    grid: Picture  # generated glyphs uint8 [H,W], of the same labels and noise seeds for all variants


def in_words(card: Card) -> str:
    """The leading metrics of a scorecard."""
    ratio = f", {card['fid_ratio']:.1f} times its floor" if "fid_ratio" in card else ""
    agreement = f", label agreement {card['label_agreement']:.1%}" if "label_agreement" in card else ""
    return f"judge FID {card['fid']:.2f}{ratio}{agreement}"


def leaderboard_figure(cards: Sequence[Card], strips: Mapping[tuple[str, str], Picture]) -> Figure:
    """One row per (dataset, variant): its leading metrics, and glyphs that it draws."""
    ranked = rank(cards)
    figure = Figure(figsize=(13, 1.15 * len(ranked) + 0.6))
    for row, (place, card) in enumerate(ranked):
        axes = figure.add_subplot(len(ranked), 1, row + 1)
        axes.imshow(strips[card["dataset"], card["variant"]], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        title = f"{card['dataset']} / {card['variant']}, place {place}: {in_words(card)}"
        axes.set_title(title, loc="left", fontsize=10)
    figure.tight_layout()
    return figure


def figures(entries: Sequence[Entry]) -> dict[str, Figure]:
    """The figures of one dataset that have something to show, in the order of the page.

    They are `curves`, `precision_recall`, `agreement` and `class_fid`.
    """
    maps = {name: class_figure(shown) for name, shown in class_maps(entries).items()}
    found = {"curves": curves_figure(entries), "precision_recall": scatter_figure(entries), **maps}
    return {name: figure for name, figure in found.items() if figure is not None}


def curves_figure(entries: Sequence[Entry]) -> Figure | None:
    """Judge FID in training against images seen and against the wall clock; None without any score."""
    panels = {}
    for axis in ("images_seen", "seconds"):
        lines = {e.card["variant"]: _points(e.curve, axis) for e in in_order(entries)}
        if any(map(len, lines.values())):
            panels[axis] = {variant: points for variant, points in lines.items() if len(points)}
    if not panels:
        return None
    figure = Figure(figsize=(5.1 * len(panels), 4.4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (axis, lines) in zip(all_axes, panels.items(), strict=True):
        for variant, points in lines.items():
            colour, marker = look(variant)
            axes.plot(*points.T, color=colour, marker=marker, markersize=5, label=variant)
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        if axis == "seconds":
            _scale_seconds(axes)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_xlabel("images seen in training")
    all_axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    all_axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    all_axes[0].yaxis.set_minor_formatter(NullFormatter())
    all_axes[0].set_ylabel("judge FID against train images")
    all_axes[-1].legend(*all_axes[0].get_legend_handles_labels(), **_BESIDE)
    figure.suptitle("Judge FID while training")
    return figure


def _scale_seconds(axes: Axes) -> None:
    """A logarithmic scale, as trainings take from a minute to hours."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds of training")


def _points(curve: Sequence[Mapping[str, Any]], axis: str) -> npt.NDArray[np.float64]:
    """(axis, judge_fid) [n,2] of the rows that have both and fit on logarithmic scales."""
    points = np.array([(_number(row, axis), _number(row, "judge_fid")) for row in curve], np.float64).reshape(-1, 2)
    return points[(np.isfinite(points) & (points > 0)).all(1)]


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None or value == "" else float(value)


def scatter_figure(entries: Sequence[Entry]) -> Figure | None:
    """Precision against recall with deviations, and the floor of real images as a star; None where none has both."""
    cards = [e.card for e in in_order(entries) if {"precision", "recall"} <= set(e.card)]
    if not cards:
        return None
    figure = Figure(figsize=(5.2, 5.2))
    axes = figure.add_subplot()
    for card in cards:
        colour, marker = look(card["variant"])
        point, errors = (card["precision"], card["recall"]), (card.get("precision_std"), card.get("recall_std"))
        style: dict[str, Any] = {"color": colour, "fmt": marker, "markersize": 8, "capsize": 3}
        axes.errorbar(*point, xerr=errors[0], yerr=errors[1], label=card["variant"], **style)
    real = next((card for card in cards if {"precision_floor", "recall_floor"} <= set(card)), None)
    if real is not None:
        star = "real train images"
        axes.plot(
            real["precision_floor"], real["recall_floor"], "*", color=rcParams["text.color"], markersize=14, label=star
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("precision: share of images that look real")
    axes.set_ylabel("recall: share of real images that are met")
    axes.grid(alpha=0.3)
    axes.set_title("Precision and recall")
    axes.legend(**_BESIDE)
    return figure


@dataclass(frozen=True)
class ClassMap:
    """A metric of per_class.csv by variants and classes, as text on colours."""

    title: str
    classes: Sequence[Mapping[str, Any]]  # rows of per_class.csv
    texts: Mapping[str, Sequence[str]]  # by variant, a cell per class; "" is a missing value
    colours: Mapping[str, Sequence[tuple[str, str]]]  # of its ground and of its text


def class_maps(entries: Sequence[Entry]) -> dict[str, ClassMap]:
    """The maps of one dataset that have something to show: `agreement` and `class_fid`, dark where it is bad.

    Label agreement is shown in percent, judge FID in parts of its floor on a logarithmic scale from 1 to at least 10; a
    missing value is grey. A map has the variants that have the metric in any class.
    """
    found = {"agreement": _class_map(entries, "agreement"), "class_fid": _class_map(entries, "fid_ratio")}
    return {name: shown for name, shown in found.items() if shown is not None}


def _class_map(entries: Sequence[Entry], metric: Literal["agreement", "fid_ratio"]) -> ClassMap | None:
    values = {e.card["variant"]: [_number(row, metric) for row in e.classes] for e in in_order(entries)}
    values = {variant: cells for variant, cells in values.items() if not np.isnan(cells).all()}
    if not values:
        return None
    cells = np.array(list(values.values()), np.float64)
    if metric == "agreement":
        title, shades = "Label agreement per class (%)", colormaps["viridis"]
        scale: Normalize = PowerNorm(3, 0, 1)  # the cube makes a few errors visible
    else:
        title, shades = "Judge FID per class in parts of its floor", colormaps["viridis_r"]
        scale = LogNorm(1, max(10, np.nanmax(cells)))
    grounds = shades.with_extremes(bad="lightgrey")(scale(np.ma.masked_invalid(cells)))[..., :3]
    # Relative luminance as WCAG 2 has it: from 0.179 on, black has more contrast than white, and at least 4.5.
    linear = np.where(grounds <= 0.04045, grounds / 12.92, ((grounds + 0.055) / 1.055) ** 2.4)
    is_light = linear @ (0.2126, 0.7152, 0.0722) > 0.179
    return ClassMap(
        title,
        next(e.classes for e in entries if e.card["variant"] in values),
        {variant: [_in_map(value, metric) for value in row] for variant, row in values.items()},
        {
            variant: [(to_hex(ground), "#000000" if light else "#ffffff") for ground, light in zip(*row, strict=True)]
            for variant, row in zip(values, zip(grounds, is_light, strict=True), strict=True)
        },
    )


def _in_map(value: float, metric: str) -> str:
    if np.isnan(value):
        return ""
    if metric == "agreement":
        return f"{100 * value:.0f}"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def class_figure(shown: ClassMap) -> Figure:
    """A map as a figure: rows variants, columns classes."""
    use_devanagari_font()
    n, k = len(shown.texts), len(shown.classes)
    figure = Figure(figsize=(2.5 + 0.32 * k, 1.2 + 0.32 * n))
    axes = figure.add_subplot()
    axes.imshow([[to_rgb(ground) for ground, _ in row] for row in shown.colours.values()], aspect="auto")
    axes.set_xticks(range(k), [row["glyph"] for row in shown.classes], fontsize=10)
    axes.set_yticks(range(n), list(shown.texts))
    axes.set_title(shown.title)
    for row, variant in enumerate(shown.texts):
        for column, (text, (_, colour)) in enumerate(zip(shown.texts[variant], shown.colours[variant], strict=True)):
            axes.text(column, row, text, fontsize=7, ha="center", va="center", color=colour)
    return figure


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Entries as `rank` orders their scorecards."""
    by_name = {(e.card["dataset"], e.card["variant"]): e for e in entries}
    return [by_name[card["dataset"], card["variant"]] for _, card in rank([e.card for e in entries])]


def look(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant, the same in every figure, whichever others stand beside it."""
    names = sorted(Variants.model_fields)
    place = names.index(variant) if variant in names else len(names) + sum(variant.encode())
    return to_hex(color_sequences["tab10"][place % 10]), _MARKERS[place % len(_MARKERS)]
