"""What a generated dataset says of itself: dataset.json for programs and README.md for people (Gebru et al., "Datasheets for Datasets", 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from lekhani.generate.formats import LAYOUTS
from lekhani.inference.model import LoadedModel
from lekhani.text import code, escaped, markdown_table


def origin(pen: LoadedModel) -> dict[str, Any]:
    """Where a pen's model comes from: of a registered one the links that `lekhani lineage` shows, of a file what its metadata tell."""
    generator = pen.generator
    told: dict[str, Any] = {
        "name": pen.version or generator.path.name,
        "dataset": generator.dataset,
        "variant": generator.variant,
        "sha256": generator.sha256,
    }
    told["lineage"] = generator.lineage
    if pen.version is not None:
        from lekhani.registry.lineage import trace

        facts = {link.name: link.facts for link in trace(pen.version).links}
        wanted = {
            "run": ("id",),
            "commit": ("id", "dirty"),
            "lock": ("sha256",),
            "data": ("digest", "origin", "licence"),
            "source": ("name", "version", "sha256"),
        }
        told["lineage"] = {link: {key: facts[link].get(key) for key in keys} for link, keys in wanted.items()}
    return told


def licence(pen: LoadedModel, model: Mapping[str, Any]) -> str | None:
    """The licence of the data that a registered model was trained on; None for one whose lineage is not known."""
    return model["lineage"].get("data", {}).get("licence") if pen.version else None


def licence_sentence(known: str | None) -> str:
    """That licence, for people."""
    return f"Licence of the images that the model was trained on: {escaped(known) if known else 'not known here; ask whoever gave you the model'}."


def datasheet(
    pen: LoadedModel, request: Mapping[str, Any], records: Sequence[Mapping[str, Any]], runs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The contents of dataset.json. `request` is what was asked for, `records` what came of each shard, in order.

    Per class it gives the `count` and, where a judge chose, `seen`, `good` and the share kept as `rate`.
    """
    counts = np.zeros(len(pen.classes), np.int64)
    np.add.at(counts, [label for label, _ in runs], [count for _, count in runs])
    chosen = [record for record in records if record["seen"] is not None]
    seen, good = (np.sum([record[key] for record in chosen], axis=0) if chosen else None for key in ("seen", "good"))
    classes = []
    for known in pen.classes:
        one: dict[str, Any] = {
            "label": known.label,
            "name": known.name,
            "glyph": known.glyph,
            "count": int(counts[known.label]),
        }
        if seen is not None and good is not None and one["count"]:
            one |= {"seen": int(seen[known.label]), "good": int(good[known.label])}
            one["rate"] = round(one["good"] / one["seen"], 4)
        classes.append(one)
    model = origin(pen)
    return {
        "made_by": MADE_BY,
        "images": int(counts.sum()),
        "image_size": pen.generator.image_size,
        "licence": licence(pen, model),
        "model": model,
        "judge_sha256": request["judge_sha256"],
        "request": dict(request),
        "classes": classes,
        "shards": [{key: record[key] for key in ("number", "images", "sha256")} for record in records],
    }


def readme(sheet: Mapping[str, Any]) -> str:
    """README.md, with the front matter of Hugging Face's dataset cards."""
    from lekhani.registry.card import licence_tags

    model, request, layout = sheet["model"], sheet["request"], LAYOUTS[sheet["request"]["format"]]
    head = {
        **licence_tags(sheet["licence"]),
        "task_categories": ["image-classification"],
        "tags": ["handwriting", "synthetic", model["dataset"]],
    }
    facts = [
        ("images", f"{sheet['images']:,}, {sheet['image_size']} x {sheet['image_size']} pixels, white on black"),
        ("files", escaped(f"{layout.about}; shards: {len(sheet['shards'])}")),
        ("model", f"{escaped(model['name'])} ({escaped(model['variant'])})"),
        ("model, SHA-256", f"`{model['sha256']}`"),
        ("seed", f"{request['seed']}"),
        (
            "truncation",
            f"noise within {request['truncation']} standard deviations" if request["truncation"] else "none",
        ),
        ("filter", _filter(request)),
        ("computed on", f"{request['device']} in {request['precision']}"),
    ]
    judged = any("seen" in one for one in sheet["classes"])
    heads = ("label", "name", "glyph", "images", *(("judged", "kept") if judged else ()))
    rows = [
        (
            one["label"],
            escaped(one["name"]),
            escaped(one["glyph"]),
            f"{one['count']:,}",
            *(_rates(one) if judged else ()),
        )
        for one in sheet["classes"]
    ]
    lines = [
        *("---", yaml.safe_dump(head, allow_unicode=True, sort_keys=False) + "---", ""),
        f"# Generated glyphs: {escaped(model['dataset'])}",
        "",
        "These images were drawn by a generative model, not by people. Train with them, and test on real handwriting.",
        "",
        *markdown_table(("", ""), facts),
        "",
        "The same model, seed and request give the same bytes, whichever machine of the same kind draws them and however often it was interrupted.",
        "",
        "## Classes",
        "",
        *(
            ["Judged is how many images the judge saw for a class, kept the share that it found good.", ""]
            if judged
            else []
        ),
        *markdown_table(heads, rows),
        "",
        "## Licence",
        "",
        f"{licence_sentence(sheet['licence'])} Who passes on what it drew should keep to it.",
        "",
        "## Lineage",
        "",
        *markdown_table(
            ("", ""),
            [(escaped(key), f"`{code(value)}`") for key, value in _flat(model["lineage"]) if value is not None],
        ),
        "",
    ]
    return "\n".join(lines)


MADE_BY = "lekhani generate"


def _filter(request: Mapping[str, Any]) -> str:
    if request["judge_sha256"] is None:
        return "none: every image that was drawn is here"
    sure = request["min_confidence"]
    return f"only what the judge reads as its label{f', at least {sure:.1%} sure' if sure else ''}"


def _rates(one: Mapping[str, Any]) -> tuple[str, str]:
    return (f"{one['seen']:,}", f"{one['rate']:.1%}") if "seen" in one else ("", "")


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [pair for key, one in value.items() for pair in _flat(one, f"{name} {key}".strip())]
