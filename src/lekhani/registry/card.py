"""The model card of a generator: what it is, made from what, how good, for what, and where it fails (Mitchell et al. 2019)."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lekhani.data.spec import DatasetInfo
from lekhani.errors import LekhaniError
from lekhani.text import code, escaped, markdown_table

Row = Mapping[
    str, Any
]  # of per_class.csv; cells are numbers or, as the csv module reads them, strings; None and "" are no value

_SHOWN = 10  # classes that stand outside the fold
_NAMED = 5  # classes that a limit names

# What stands beside a metric in scorecard.json, and what there is no metric.
_BESIDE = ("_floor", "_floor_std", "_ratio", "_std", "_subset_std", "_split_std", "_se")
_SETTINGS = (
    "n_generated",
    "n_real",
    "seed",
    "train_seed",
    "sampling_seeds",
    "images_seen",
    "train_seconds",
    "images_per_second",
    "batch_size",
)
_MEANING = {
    "fid": "distance to the test images in the judge's features; lower is better",
    "fid_inception": "the same in Inception's features, which papers use",
    "kid": "the same distance by kernels; 0 is best",
    "inception_score": "sure and evenly spread over classes",
    "precision": "share of its images near real ones",
    "recall": "share of real images near its own: variety",
    "label_agreement": "share that the judge reads as what was asked for",
    "label_agreement_second": "the same by a second classifier",
    "judges_agree": "share that both classifiers read alike",
    "classes_covered": "classes that the judge sees in its images",
    "near_copies": "share that shows a training image again",
    "train_excess": "how much nearer to training images than chance explains",
    "usefulness": "accuracy on real images of a reader trained on its images alone",
}
# Identifiers of the Hugging Face hub, by what sources say.
_LICENCES = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "ofl-1.1",
    *(f"cc-{kind}-{version}" for kind in ("by", "by-sa", "by-nc") for version in ("3.0", "4.0")),
)
_PER_CLASS = (
    ("read as asked", "agreement", ".0%"),
    ("images read as it", "read_as", ".0f"),
    ("FID", "fid", ".2f"),
    ("floor", "fid_floor", ".2f"),
    ("x floor", "fid_ratio", ".1f"),
    ("recall", "recall", ".0%"),
    ("diversity", "diversity", ".2f"),
)


def model_card(
    name: str,
    info: DatasetInfo,
    facts: Mapping[str, Any],
    card: Mapping[str, Any],
    rows: Sequence[Row],
    lineage: Mapping[str, str],
    about: str,
) -> str:
    """The card of the registered model `name` as Markdown, with the front matter of Hugging Face's model cards; grid.png lies beside it.

    `facts` are training.json, `card` scorecard.json and `rows` per_class.csv of one variant, `lineage` the tags that lead back to code
    and data, `about` what the variant's file says of it: a first paragraph, then papers and formulas. Names from data and params are
    escaped. Raises LekhaniError when the generator was trained on other images than `info` describes.
    """
    if facts["data_digest"] != info.digest:
        raise LekhaniError(
            f"{facts['variant']} was trained on {info.name} {facts['data_digest'][:12]}, but the prepared images are {info.digest[:12]}; "
            "run `dvc repro`, so that its card describes what it was trained on."
        )
    worst = _worst_first(rows, card)
    takes = (
        "It is told which one to draw."
        if facts["conditional"]
        else "It takes no label: which one it draws is up to the noise."
    )
    sections = [
        _front_matter(info, facts, card),
        [f"# {escaped(name)}: {escaped(facts['variant'])}", ""],
        [
            f"A generator of single glyphs, {info.image_size} x {info.image_size} pixels, white on black, in {info.n_classes} classes."
        ],
        [f"{takes} {escaped(headline(card))}", "", "![Eight glyphs of every class](grid.png)", ""],
        _use(name, info, facts),
        ["## Intended use", "", *(f"- {line}" for line in _intended(card)), ""],
        ["## Limits", "", *(f"- {line}" for line in _limits(info, facts, card, worst)), ""],
        _data(info),
        _training(facts, about),
        _metrics(card),
        _classes(worst),
        _licence(info),
        _lineage(info, facts, card, lineage),
    ]
    return "\n".join(line for section in sections for line in section)


def headline(card: Mapping[str, Any]) -> str:
    """The leading metrics of scorecard.json in one sentence, for the card and for a registered version's description."""
    ratio = f", {card['fid_ratio']:.1f} times what real images score" if "fid_ratio" in card else ""
    agreement = (
        f"; the judge reads {card['label_agreement']:.1%} as what was asked for" if "label_agreement" in card else ""
    )
    copies = f"; {card['near_copies']:.2%} near copies of training images" if "near_copies" in card else ""
    return f"FID {card['fid']:.2f}{ratio}{agreement}{copies}."


def licence_tags(licence: str | None) -> dict[str, str]:
    """A licence as the front matter of Hugging Face's cards names it."""
    plain = re.sub(r"\s*\(.*", "", licence or "").strip().lower().replace(" ", "-")
    return (
        {"license": plain}
        if plain in _LICENCES
        else {"license": "other", "license_name": licence}
        if licence
        else {"license": "unknown"}
    )


def _front_matter(info: DatasetInfo, facts: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    task = {} if facts["conditional"] else {"pipeline_tag": "unconditional-image-generation"}
    head = {
        **licence_tags(info.source.get("licence")),
        "library_name": "onnx",
        **task,
        "tags": ["handwriting", "image-generation", "onnx", facts["variant"], info.script],
        "datasets": [info.name],
        "metrics": [
            name for name in ("fid", "kid", "inception_score", "precision", "recall", "label_agreement") if name in card
        ],
    }
    return ["---", yaml.safe_dump(head, allow_unicode=True, sort_keys=False) + "---", ""]


def _use(name: str, info: DatasetInfo, facts: Mapping[str, Any]) -> list[str]:
    asked = json.dumps([code(c.glyph) for c in info.classes[:3]], ensure_ascii=False)
    what = (
        "glyphs, class names or numbers"
        if facts["conditional"]
        else "as many entries as images; what they say is ignored"
    )
    return [
        "## How to use it",
        "",
        "```python",
        "import mlflow",
        "",
        f'model = mlflow.pyfunc.load_model("models:/{code(name)}@champion")',
        f'drawn = model.predict({{"label": {asked}}}, params={{"seed": 7}})  # {what}',
        'drawn["image"][0]  # uint8 [H,W]',
        "```",
        "",
        "The same seed and labels give the same images. It needs ONNX Runtime, NumPy and pandas; `mlflow models serve` answers the same over HTTP.",
        "",
    ]


def _intended(card: Mapping[str, Any]) -> list[str]:
    useful = ""
    if "usefulness" in card:
        floor = (
            f"; one trained on real images reads {card['usefulness_floor']:.1%}" if "usefulness_floor" in card else ""
        )
        useful = (
            f" A small reader trained on its images alone reads {card['usefulness']:.1%} of real test images{floor}."
        )
    return [
        "Fonts, drawings, games and teaching material that want characters by the hand of no one in particular.",
        f"More training images for readers of handwriting, tested on real images.{useful}",
        "Study of generative models.",
        "Not as test data or as evidence of how people write: it shows what it has learned, not what there is.",
        "Not to imitate the hand of a person or to pass for one: it knows no writers, and its images are not signatures.",
    ]


def _limits(info: DatasetInfo, facts: Mapping[str, Any], card: Mapping[str, Any], worst: Sequence[Row]) -> list[str]:
    """What does not work, from the numbers that say so."""
    lines = [
        "It draws single glyphs of the classes below and nothing else: no words, no other size, no choice of style."
    ]
    if info.source.get("origin"):
        lines.append(f"It knows writing from its data alone: {escaped(info.source['origin'])}.")
    if not facts["conditional"]:
        lines.append("It takes no label, so a classifier must pick the letters that are wanted from what it draws.")
    if worst:
        lines.append(f"It is weakest in {'; '.join(_weakness(row) for row in worst[:_NAMED])}.")
    if alike := _alike(worst, card):
        lines.append(
            f"Within {len(alike)} of {info.n_classes} classes its images hardly differ: {', '.join(_named(row) for row in alike)}."
        )
    if card.get("classes_covered", info.n_classes) < info.n_classes:
        lines.append(f"The judge sees only {card['classes_covered']} of {info.n_classes} classes in what it draws.")
    if card.get("label_agreement", 1) < card.get("label_agreement_floor", 0):
        wrong, real = 1 - card["label_agreement"], 1 - card["label_agreement_floor"]
        lines.append(
            f"{wrong:.1%} of its images are read as another letter than was asked for; of real test images it is {real:.1%}."
        )
    if card.get("recall", 1) < card.get("recall_floor", 0):
        lines.append(
            f"It has less variety than real images: recall {card['recall']:.2f}, where theirs is {card['recall_floor']:.2f}."
        )
    lines += _copies(card)
    lines += [f"In training: {escaped(finding['sentence'])}" for finding in facts["findings"]]
    if facts["profile"] == "quick":
        lines.append(
            "It was trained with the profile `quick`, which is made for minutes on two CPU cores; `full` trains longer."
        )
    if card.get("sampling_seeds", 1) < 2:
        lines.append("It was sampled once, so how much of its figures is chance is not known.")
    lines.append(
        "FID without a suffix is of the judge's features: hold it against its floor and models of the same data, not against papers."
    )
    return lines


def _copies(card: Mapping[str, Any]) -> list[str]:
    """How far it repeats what it was trained on, where that was measured."""
    lines = []
    if "near_copies" in card:
        usual = card.get("near_copies_floor", 0)
        so = ": what it draws may be somebody's own hand" if card["near_copies"] > usual else ""
        lines.append(
            f"{card['near_copies']:.2%} of its images show a training image again, of real test images {usual:.2%}{so}."
        )
    if card.get("train_excess", 0) > card.get("train_excess_floor", 0) + 2 * card.get("train_excess_std", 0):
        lines.append(
            f"Its images lie nearer to training images than chance explains (excess {card['train_excess']:.3f}): it remembers some of them."
        )
    return lines


def _data(info: DatasetInfo) -> list[str]:
    told = info.source
    facts = [
        ("name", escaped(info.name)),
        ("script", escaped(info.script)),
        ("images", ", ".join(f"{count:,} {split}" for split, count in info.counts.items())),
        ("classes", f"{info.n_classes}"),
        ("origin", _told(told, "origin")),
        ("source", f"{_told(told, 'name')}, version {_told(told, 'version')}"),
        ("licence", _told(told, "licence")),
        ("citation", _told(told, "citation")),
        ("SHA-256 of the prepared images", f"`{code(info.digest)}`"),
    ]
    notes = [f"- {escaped(note)}" for note in info.notes]
    return ["## Data", "", *markdown_table(("", ""), facts), "", *notes, *([""] if notes else [])]


def _told(source: Mapping[str, Any], key: str) -> str:
    return escaped(source[key]) if source.get(key) else "not stated"


def _training(facts: Mapping[str, Any], about: str) -> list[str]:
    table = [
        ("variant", escaped(facts["variant"])),
        ("told the label", "yes" if facts["conditional"] else "no"),
        ("weights of the generator", f"{facts['parameters']:,}"),
        (
            "images seen",
            f"{facts['images_seen']:,} in {facts['steps']:,} steps; the weights are those of step {facts['best_step']:,}",
        ),
        ("time", f"{facts['train_seconds']:,.0f} s, {facts['images_per_second']:,.0f} images per second"),
        (
            "machine",
            f"{escaped(facts['device'])}, at most {facts['peak_memory_mb']:,} MB; torch {escaped(facts['torch'])}",
        ),
        ("seed, profile", f"{facts['seed']}, {escaped(facts['profile'])}"),
    ]
    first, _, rest = about.strip().partition("\n\n")
    choices = json.dumps(facts["choices"], indent=2, ensure_ascii=False)
    lines = ["## Training", "", escaped(" ".join(first.split())), "", *markdown_table(("", ""), table), ""]
    lines += _folded("How it works, its papers, and what differs from them", rest) if rest else []
    return [*lines, *_folded("All choices, as in params.yaml", choices)]


def _folded(title: str, text: str) -> list[str]:
    return [
        "<details>",
        f"<summary>{title}</summary>",
        "",
        "```text",
        text.replace("```", "'''"),
        "```",
        "",
        "</details>",
        "",
    ]


def _metrics(card: Mapping[str, Any]) -> list[str]:
    """Every number of the scorecard: first those that real images have a floor for."""
    numbers = {key: value for key, value in card.items() if isinstance(value, int | float) and key not in _SETTINGS}
    names = [
        key for key in numbers if not any(key.endswith(end) and key.removesuffix(end) in numbers for end in _BESIDE)
    ]
    floored = [name for name in names if f"{name}_floor" in numbers]

    def figures(name: str, *keys: str) -> list[str]:
        return [f"{numbers[key]:.4g}" if (key := f"{name}{end}") in numbers else "" for end in keys]

    first = [(f"`{name}`", *figures(name, "", "_std", "_floor", "_ratio"), _MEANING.get(name, "")) for name in floored]
    others = [(f"`{name}`", *figures(name, "", "_std")) for name in names if name not in floored]
    seeds = card.get("sampling_seeds", 1)
    drawn = f"{card['n_generated']:,} images" + (f" of each of {seeds} sampling seeds" if seeds > 1 else "")
    lines = [
        *("## Metrics", ""),
        f"Of {drawn}, drawn by the ONNX file that ships, against {card['n_real']:,} real test images.",
        "The floor is what as many real train images score, and the ratio is the metric in parts of it; ± is the deviation between sampling seeds.",
        "",
        *markdown_table(("metric", "value", "±", "floor", "ratio", "what it says"), first),
        "",
    ]
    return [*lines, *markdown_table(("other figures", "value", "±"), others), ""] if others else lines


def _worst_first(rows: Sequence[Row], card: Mapping[str, Any]) -> list[Row]:
    """Rows in the order of `evaluate.per_class.worst`: collapsed classes, then lowest agreement, then highest fid in parts of its floor.

    Classes that nothing is read as stand with the collapsed ones; those never asked for are left out.
    """
    alike = {row["name"] for row in _alike(rows, card)}

    def badness(row: Row) -> tuple[bool, int, float]:
        agreement, ratio = _number(row, "agreement"), _number(row, "fid_ratio")
        right = 0 if agreement is None else round(20 * agreement)  # in steps of 5%, since single errors are chance
        return row["name"] in alike or not _number(row, "read_as"), -right, float("inf") if ratio is None else ratio

    return sorted((row for row in rows if _number(row, "asked") != 0), key=badness, reverse=True)


def _alike(rows: Sequence[Row], card: Mapping[str, Any]) -> list[Row]:
    """The classes that the scorecard counts as collapsed: so many of the least diversity."""
    known = [(diversity, row) for row in rows if (diversity := _number(row, "diversity")) is not None]
    return [row for _, row in sorted(known, key=lambda pair: pair[0])[: card.get("collapsed_classes", 0)]]


def _number(row: Row, key: str) -> float | None:
    return None if row.get(key) in (None, "") else float(row[key])


def _named(row: Row) -> str:
    return escaped(row["glyph"]) if row["glyph"] == row["name"] else f"{escaped(row['glyph'])} ({escaped(row['name'])})"


def _weakness(row: Row) -> str:
    agreement, ratio, instead = _number(row, "agreement"), _number(row, "fid_ratio"), row.get("mistaken_for")
    said = [] if agreement is None else [f"{agreement:.0%} right"]
    said += [f"else mostly {escaped(instead)}"] if instead else []
    said += [] if ratio is None else [f"FID {ratio:.1f} times its floor"]
    return f"{_named(row)}: {', '.join(said) or 'hardly ever drawn'}"


def _classes(worst: Sequence[Row]) -> list[str]:
    columns = [column for column in _PER_CLASS if any(_number(row, column[1]) is not None for row in worst)]
    instead = any(row.get("mistaken_for") for row in worst)
    heads = ("class", *(head for head, *_ in columns), *(["else mostly"] if instead else []))

    def cells(row: Row) -> Iterable[str]:
        yield _named(row)
        for _, key, form in columns:
            value = _number(row, key)
            yield "" if value is None else format(value, form)
        if instead:
            yield escaped(row.get("mistaken_for") or "")

    tables = [markdown_table(heads, map(list, map(cells, part))) for part in (worst[:_SHOWN], worst[_SHOWN:]) if part]
    lines = [
        "## Classes",
        "",
        "The worst come first. Hold a class's FID against its own floor.",
        "",
        *(tables[0] if tables else []),
        "",
    ]
    if len(tables) > 1:
        lines += [
            "<details>",
            f"<summary>The other {len(worst) - _SHOWN}</summary>",
            "",
            *tables[1],
            "",
            "</details>",
            "",
        ]
    return lines


def _licence(info: DatasetInfo) -> list[str]:
    told = info.source
    cite = f" Cite: {escaped(told['citation'])}" if told.get("citation") else ""
    images = (
        escaped(told["licence"])
        if told.get("licence")
        else f"not stated (`data.{code(info.name)}.licence` in params.yaml states it)"
    )
    return [
        *("## Licence", ""),
        f"Licence of the images it was trained on: {images}. Who passes these weights or their images on should keep to it.{cite}",
        *("", "The code that made it is under Apache-2.0.", ""),
    ]


def _lineage(
    info: DatasetInfo, facts: Mapping[str, Any], card: Mapping[str, Any], lineage: Mapping[str, str]
) -> list[str]:
    known = {
        "generator.onnx, SHA-256": card["model_sha256"],
        "generator_sha256": facts["generator_sha256"],
        "judge, SHA-256": card["judge_sha256"],
        "data, digest": info.digest,
        "source, SHA-256": info.source.get("sha256"),
        "MLflow run": facts.get("mlflow_run_id"),
        **lineage,
    }
    return [
        "## Lineage",
        "",
        *markdown_table(("", ""), [(escaped(key), f"`{code(value)}`") for key, value in known.items() if value]),
        "",
    ]
