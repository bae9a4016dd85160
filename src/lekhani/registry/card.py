"""The model card of a generator: what it is, its data, its use, its figures and its limits (Mitchell et al. 2019)."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lekhani.data.spec import DatasetInfo
from lekhani.errors import LekhaniError
from lekhani.text import code, escaped, markdown_table

Row = Mapping[str, Any]  # of per_class.csv; numbers may be text, as the csv module reads them, and "" is None

_PAGE = 5000  # characters of a version's description that MLflow's database takes
_SHOWN = 10  # classes above the fold
_NAMED = 5  # classes that a limit names

# In measurements.json: the endings of what belongs to a metric, and the keys that are no metrics.
_BESIDE = ("_floor", "_floor_std", "_ratio", "_std", "_subset_std", "_split_std", "_se")
_SETTINGS = {
    *("n_generated", "n_real", "seed", "train_seed", "sampling_seeds", "batch_size"),
    *("images_seen", "train_seconds", "images_per_second"),
}
_MEANING = {
    "fid": "distance to the test images in the judge's features; lower is better",
    "fid_inception": "the same in Inception's features, which papers use",
    "kid": "the same distance by kernels; 0 is best",
    "inception_score": "how confident the judge is, and how evenly the classes are drawn",
    "precision": "share of its images near real ones",
    "recall": "share of real images near its own: variety",
    "label_agreement": "share that the judge reads as the label that was requested",
    "label_agreement_second": "the same by a second classifier",
    "judges_agree": "share that both classifiers read as the same class",
    "classes_covered": "classes that the judge sees in its images",
    "near_copies": "share that shows a training image again",
    "train_excess": "how much nearer to training images than chance explains",
    "usefulness": "accuracy on real images of an OCR model trained on its images alone",
}
# Identifiers of the Hugging Face hub.
_LICENCES = {
    *("apache-2.0", "mit", "cc0-1.0", "ofl-1.1"),
    *(f"cc-{kind}-{version}" for kind in ("by", "by-sa", "by-nc") for version in ("3.0", "4.0")),
}
_PER_CLASS = {
    "agreement": ("read as requested", ".0%"),
    "read_as": ("images read as it", ".0f"),
    "fid": ("judge FID", ".2f"),
    "fid_floor": ("floor", ".2f"),
    "fid_ratio": ("x floor", ".1f"),
    "recall": ("recall", ".0%"),
    "diversity": ("diversity", ".2f"),
}


def model_card(
    name: str,
    info: DatasetInfo,
    facts: Mapping[str, Any],
    card: Mapping[str, Any],
    rows: Sequence[Row],
    lineage: Mapping[str, str],
    about: str,
    registry: str,
) -> str:
    """The card of the registered model `name` as Markdown, with the front matter of Hugging Face's model cards.

    `facts` are training.json, `card` measurements.json and `rows` per_class.csv of one variant, `lineage` the tags that
    lead back to code and data, `about` what the variant's file says of it: a first paragraph, then papers and formulas,
    `registry` MLflow's tracking URI.
    grid.png belongs beside it. Names from data and params are escaped. Raises LekhaniError when the generator was
    trained on other images than `info` describes.
    """
    if facts["data_digest"] != info.digest:
        raise LekhaniError(
            f"{facts['variant']} was trained on {info.name} {facts['data_digest'][:12]}, but the prepared images are "
            f"{info.digest[:12]}; run `dvc repro`, so that its card describes what it was trained on."
        )
    worst = _worst_first(rows, card)
    summary, _, details = about.strip().partition("\n\n")
    conditional = facts["conditional"]
    takes = "The label says which one to draw" if conditional else "It takes no label: the noise decides what it draws"
    blocks = (
        f"---\n{yaml.safe_dump(_front_matter(info, facts, card), allow_unicode=True, sort_keys=False)}---",
        f"# {escaped(name)}: {escaped(facts['variant'])}",
        f"A generator of single glyphs, {info.image_size} x {info.image_size} pixels, white on black, in "
        f"{info.n_classes} classes.\n{takes}. {escaped(headline(card))}",
        "![Eight glyphs of every class](grid.png)",
        "## How to use it",
        _usage(name, registry, info, conditional),
        "The same seed and labels give the same images. It needs ONNX Runtime, NumPy and pandas; `mlflow models serve` "
        "serves the same over HTTP.",
        "## Intended use",
        _bullets(_intended(card)),
        "## Limits",
        _bullets(_limits(info, facts, card, worst)),
        "## Data",
        _table(("", ""), _data(info)),
        _bullets(escaped(note) for note in info.notes),
        "## Training",
        escaped(" ".join(summary.split())),
        _table(("", ""), _training(facts)),
        _folded("How it works, its papers, and what differs from them", _quoted(details)) if details else "",
        _folded("All choices, as in params.yaml", _quoted(json.dumps(facts["choices"], indent=2, ensure_ascii=False))),
        "## Metrics",
        *_metrics(card),
        "## Classes",
        "The worst come first. Compare a class's judge FID with its own floor.",
        *_classes(worst),
        "## Licence",
        _licence(info),
        "The code that made it is under Apache-2.0.",
        "## Lineage",
        _table(("", ""), _lineage(info, facts, card, lineage)),
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def headline(card: Mapping[str, Any]) -> str:
    """The leading metrics of measurements.json in one sentence, for the card and a registered version's description."""
    parts = [f"Judge FID {card['fid']:.2f}"]
    if "fid_ratio" in card:
        parts[0] += f", {card['fid_ratio']:.1f} times what real images score"
    if "label_agreement" in card:
        parts.append(f"the judge reads {card['label_agreement']:.1%} as the requested label")
    if "near_copies" in card:
        parts.append(f"{card['near_copies']:.2%} near copies of training images")
    return "; ".join(parts) + "."


def page(card: str, name: str, version: str) -> str:
    """A card as MLflow's page of a registered version shows it: without front matter, what is folded, and what is last.

    MLflow keeps 5,000 characters. The picture is the version's own.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    text = re.sub(r"<details>.*?</details>\s*", "", text, flags=re.DOTALL).strip()
    artifacts = f"model-versions/get-artifact?name={name}&version={version}&path=artifacts%2F"
    text = text.replace("](grid.png)", f"]({artifacts}grid.png)")
    if len(text) <= _PAGE:
        return text
    rest, shown = f"The whole card is [README.md]({artifacts}README.md).", ""
    for section in re.split(r"(?=^## )", text, flags=re.MULTILINE):
        if len(shown) + len(section) + len(rest) > _PAGE:
            break
        shown += section
    return f"{shown}{rest}"


def licence_tags(licence: str | None) -> dict[str, str]:
    """A licence as the front matter of Hugging Face's cards names it."""
    if not licence:
        return {"license": "unknown"}
    plain = re.sub(r"\s*\(.*", "", licence).strip().lower().replace(" ", "-")
    return {"license": plain} if plain in _LICENCES else {"license": "other", "license_name": licence}


# ---- Markdown


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(markdown_table(heads, rows))


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _folded(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def _quoted(text: str) -> str:
    return f"```text\n{text.replace('```', chr(39) * 3)}\n```"


# ---- the sections


def _front_matter(info: DatasetInfo, facts: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    metrics = ("fid", "kid", "inception_score", "precision", "recall", "label_agreement")
    return {
        **licence_tags(info.source.get("licence")),
        "library_name": "onnx",
        **({} if facts["conditional"] else {"pipeline_tag": "unconditional-image-generation"}),
        "tags": ["handwriting", "image-generation", "onnx", facts["variant"], info.script],
        "datasets": [info.name],
        "metrics": [name for name in metrics if name in card],
    }


def _usage(name: str, registry: str, info: DatasetInfo, conditional: bool) -> str:
    labels = json.dumps([code(c.glyph) for c in info.classes[:3]], ensure_ascii=False)
    comment = "glyphs, class names or class numbers" if conditional else "as many as images; their values are ignored"
    return f"""```python
import mlflow

mlflow.set_tracking_uri({json.dumps(code(registry))})
model = mlflow.pyfunc.load_model("models:/{code(name)}@champion")
drawn = model.predict({{"label": {labels}}}, params={{"seed": 7}})  # {comment}
drawn["image"][0]  # uint8 [H,W]
```"""


def _intended(card: Mapping[str, Any]) -> list[str]:
    useful = ""
    if "usefulness" in card:
        useful = f" A small OCR model trained on its images alone reads {card['usefulness']:.1%} of real test images"
        if "usefulness_floor" in card:
            useful += f"; one trained on real images reads {card['usefulness_floor']:.1%}"
        useful += "."
    return [
        "Fonts, drawings, games and teaching material that need characters in nobody's particular hand.",
        f"More training images for OCR of handwriting, tested on real images.{useful}",
        "Study of generative models.",
        "Not as test data or as evidence of how people write: it shows what it has learned, not what there is.",
        "Not to imitate a person's hand or to pass for one: it knows no writers, and its images are not signatures.",
    ]


def _limits(info: DatasetInfo, facts: Mapping[str, Any], card: Mapping[str, Any], worst: Sequence[Row]) -> list[str]:
    """What does not work, from the figures that show it."""
    k = info.n_classes
    nothing_else = "no words, no other size, no choice of style"
    lines = [f"It draws single glyphs of the classes below and nothing else: {nothing_else}."]
    if info.source.get("origin"):
        lines.append(f"It knows writing from its data alone: {escaped(info.source['origin'])}.")
    if not facts["conditional"]:
        lines.append("It takes no label, so a classifier must pick the letters that are wanted from what it draws.")
    if worst:
        lines.append(f"It is weakest in {'; '.join(_weakness(row) for row in worst[:_NAMED])}.")
    if alike := _alike(worst, card):
        named = ", ".join(_named(row) for row in alike)
        lines.append(f"Within {len(alike)} of {k} classes its images hardly differ: {named}.")
    if card.get("classes_covered", k) < k:
        lines.append(f"The judge sees only {card['classes_covered']} of {k} classes in what it draws.")
    if card.get("label_agreement", 1) < card.get("label_agreement_floor", 0):
        wrong, real = (f"{1 - card[key]:.1%}" for key in ("label_agreement", "label_agreement_floor"))
        lines.append(f"{wrong} of its images are read as another letter than requested; of real ones it is {real}.")
    if card.get("recall", 1) < card.get("recall_floor", 0):
        recall = f"recall {card['recall']:.2f}, where theirs is {card['recall_floor']:.2f}"
        lines.append(f"It has less variety than real images: {recall}.")
    lines += _copies(card)
    lines += [f"In training: {escaped(finding['sentence'])}" for finding in facts["findings"]]
    if facts["profile"] == "quick":
        quick = "made for minutes on two CPU cores; `full` trains longer"
        lines.append(f"It was trained with the profile `quick`, {quick}.")
    if card.get("sampling_seeds", 1) < 2:
        lines.append("It was sampled once, so it is not known how much of its figures is chance.")
    lines.append("Judge FID is comparable with its floor and between models of the same data, not with FIDs in papers.")
    return lines


def _copies(card: Mapping[str, Any]) -> list[str]:
    """How far it repeats what it was trained on, where that was measured."""
    lines = []
    if "near_copies" in card:
        copies, usual = card["near_copies"], card.get("near_copies_floor", 0)
        so = ": what it draws may be somebody's own hand" if copies > usual else ""
        lines.append(f"{copies:.2%} of its images show a training image again, of real test images {usual:.2%}{so}.")
    if card.get("train_excess", 0) > card.get("train_excess_floor", 0) + 2 * card.get("train_excess_std", 0):
        lines.append(
            f"Its images lie nearer to training images than chance explains (excess {card['train_excess']:.3f}): "
            "it remembers some of them."
        )
    return lines


def _data(info: DatasetInfo) -> list[tuple[str, str]]:
    keys = ("name", "version", "origin", "licence", "citation")
    source = {key: escaped(info.source.get(key) or "not stated") for key in keys}
    return [
        ("name", escaped(info.name)),
        ("script", escaped(info.script)),
        ("images", ", ".join(f"{count:,} {split}" for split, count in info.counts.items())),
        ("classes", f"{info.n_classes}"),
        ("origin", source["origin"]),
        ("source", f"{source['name']}, version {source['version']}"),
        ("licence", source["licence"]),
        ("citation", source["citation"]),
        ("SHA-256 of the prepared images", f"`{code(info.digest)}`"),
    ]


def _training(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    seen = f"{facts['images_seen']:,} in {facts['steps']:,} steps"
    memory = f"at most {facts['peak_memory_mb']:,} MB"
    return [
        ("variant", escaped(facts["variant"])),
        ("takes labels", "yes" if facts["conditional"] else "no"),
        ("parameters of the generator", f"{facts['parameters']:,}"),
        ("images seen", f"{seen}; the weights are those of step {facts['best_step']:,}"),
        ("time", f"{facts['train_seconds']:,.0f} s, {facts['images_per_second']:,.0f} images per second"),
        ("machine", f"{escaped(facts['device'])}, {memory}; torch {escaped(facts['torch'])}"),
        ("seed, profile", f"{facts['seed']}, {escaped(facts['profile'])}"),
    ]


def _metrics(card: Mapping[str, Any]) -> list[str]:
    """Every number of the scorecard: first those for which real images have a floor."""
    numbers = {key: value for key, value in card.items() if isinstance(value, int | float) and key not in _SETTINGS}
    beside = {f"{key}{ending}" for key in numbers for ending in _BESIDE}
    names = [key for key in numbers if key not in beside]
    floored = [name for name in names if f"{name}_floor" in numbers]

    def figures(name: str, *endings: str) -> list[str]:
        return [f"{numbers[key]:.4g}" if (key := f"{name}{ending}") in numbers else "" for ending in endings]

    first = [(f"`{name}`", *figures(name, "", "_std", "_floor", "_ratio"), _MEANING.get(name, "")) for name in floored]
    others = [(f"`{name}`", *figures(name, "", "_std")) for name in names if name not in floored]
    seeds = card.get("sampling_seeds", 1)
    drawn = f"{card['n_generated']:,} images" + (f" of each of {seeds} sampling seeds" if seeds > 1 else "")
    return [
        f"Of {drawn}, drawn by the ONNX file that ships, against {card['n_real']:,} real test images.\n"
        "The floor is what as many real train images score, the ratio is the metric divided by it, and ± is the "
        "standard deviation between sampling seeds.",
        _table(("metric", "value", "±", "floor", "ratio", "what it says"), first),
        _table(("other figures", "value", "±"), others) if others else "",
    ]


def _classes(worst: Sequence[Row]) -> list[str]:
    columns = [key for key in _PER_CLASS if any(row[key] is not None for row in worst)]
    mistaken = any(row.get("mistaken_for") for row in worst)
    heads = ("class", *(_PER_CLASS[key][0] for key in columns), *(["else mostly"] if mistaken else []))

    def cells(row: Row) -> Iterable[str]:
        yield _named(row)
        for key in columns:
            yield "" if row[key] is None else format(row[key], _PER_CLASS[key][1])
        if mistaken:
            yield escaped(row.get("mistaken_for") or "")

    shown, rest = worst[:_SHOWN], worst[_SHOWN:]
    tables = [_table(heads, [list(cells(row)) for row in part]) for part in (shown, rest) if part]
    return [*tables[:1], *(_folded(f"The other {len(rest)}", table) for table in tables[1:])]


def _licence(info: DatasetInfo) -> str:
    hint = f"not stated (`data.{code(info.name)}.licence` in params.yaml states it)"
    images = escaped(info.source["licence"]) if info.source.get("licence") else hint
    cite = f" Cite: {escaped(info.source['citation'])}" if info.source.get("citation") else ""
    return (
        f"Licence of the images it was trained on: {images}. "
        f"Anyone who passes on these weights or their images should keep to it.{cite}"
    )


def _lineage(
    info: DatasetInfo, facts: Mapping[str, Any], card: Mapping[str, Any], lineage: Mapping[str, str]
) -> list[tuple[str, str]]:
    known = {
        "generator.onnx, SHA-256": card["model_sha256"],
        "generator_sha256": facts["generator_sha256"],
        "judge, SHA-256": card["judge_sha256"],
        "data, digest": info.digest,
        "source, SHA-256": info.source.get("sha256"),
        **lineage,
    }
    return [(escaped(key), f"`{code(value)}`") for key, value in known.items() if value]


# ---- classes


def _worst_first(rows: Sequence[Row], card: Mapping[str, Any]) -> list[Row]:
    """Rows with numbers as float or None, in the order of `evaluate.per_class.worst`.

    Collapsed classes come first, with those that nothing is read as, then the lowest agreement, then the highest FID
    divided by its floor. Classes that were never requested are left out.
    """
    numbers = [{**row, **{key: _number(row.get(key)) for key in (*_PER_CLASS, "asked")}} for row in rows]
    alike = {row["name"] for row in _alike(numbers, card)}

    def badness(row: Row) -> tuple[bool, int, float]:
        # In steps of 5%: single errors are chance.
        right = 0 if row["agreement"] is None else round(20 * row["agreement"])
        ratio = float("inf") if row["fid_ratio"] is None else row["fid_ratio"]
        return row["name"] in alike or not row["read_as"], -right, ratio

    return sorted((row for row in numbers if row["asked"] != 0), key=badness, reverse=True)


def _number(cell: Any) -> float | None:
    return None if cell in (None, "") else float(cell)


def _alike(rows: Sequence[Row], card: Mapping[str, Any]) -> list[Row]:
    """The classes that the scorecard counts as collapsed: that many of the least diversity."""
    known = sorted((row for row in rows if row["diversity"] is not None), key=lambda row: float(row["diversity"]))
    return known[: card.get("collapsed_classes", 0)]


def _named(row: Row) -> str:
    return escaped(row["glyph"]) if row["glyph"] == row["name"] else f"{escaped(row['glyph'])} ({escaped(row['name'])})"


def _weakness(row: Row) -> str:
    parts = [] if row["agreement"] is None else [f"{row['agreement']:.0%} right"]
    parts += [f"else mostly {escaped(row['mistaken_for'])}"] if row.get("mistaken_for") else []
    parts += [] if row["fid_ratio"] is None else [f"judge FID {row['fid_ratio']:.1f} times its floor"]
    return f"{_named(row)}: {', '.join(parts) or 'hardly ever drawn'}"
