"""A generated dataset's own description: dataset.json for programs and README.md for people.

After Gebru et al., "Datasheets for Datasets", 2021.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import Field, model_validator

from lekhani.data.spec import Digest, GlyphClass
from lekhani.files import FileModel
from lekhani.generate.formats import FORMATS, FormatName, Shard
from lekhani.inference.sampling import Plan
from lekhani.inference.session import LoadedModel
from lekhani.text import code, escaped, markdown_table

MADE_BY = "lekhani generate"
Count = Annotated[int, Field(ge=0, le=1 << 53)]
_LINEAGE = {  # the facts of each link of a registered model's lineage that a dataset repeats
    "run": ("id",),
    "commit": ("id", "dirty"),
    "lock": ("sha256",),
    "data": ("digest", "origin", "licence"),
    "source": ("name", "version", "sha256"),
}


class RequestFacts(FileModel):
    """What was asked for: all that decides the bytes."""

    model_sha256: Digest
    judge_sha256: Digest | None
    labels: tuple[tuple[str, Count], ...]
    format: FormatName
    seed: Annotated[int, Field(ge=0)]
    min_confidence: float | None
    truncation: float | None
    shard_size: Annotated[int, Field(ge=1)]
    device: str
    precision: str


class ClassFacts(FileModel):
    """A class, how many images of it there are, and where a judge chose, how many it saw and kept."""

    label: Annotated[int, Field(ge=0)]
    name: str
    glyph: str
    count: Count = 0
    seen: int | None = None
    good: int | None = None
    rate: float | None = None


class ShardFacts(FileModel):
    """A finished shard."""

    number: Annotated[int, Field(ge=0)]
    images: Count
    sha256: Digest


class ShardRecord(ShardFacts):
    """A finished shard of an unfinished dataset: of which request, and what the judge saw and kept of each class."""

    request: Digest
    seen: tuple[Count, ...] | None
    good: tuple[Count, ...] | None

    @model_validator(mode="after")
    def _consistent(self) -> "ShardRecord":
        if (self.seen is None) != (self.good is None) or len(self.seen or ()) != len(self.good or ()):
            raise ValueError("it does not say of the same classes how many were seen and how many were good")
        return self

    @property
    def classes(self) -> int | None:
        """Of how many classes it has figures; None where no judge chose."""
        return None if self.seen is None else len(self.seen)


class Datasheet(FileModel):
    """dataset.json. While the dataset is unfinished, request.json holds the first three."""

    made_by: Literal["lekhani generate"]
    request: RequestFacts
    classes: tuple[ClassFacts, ...]
    images: int | None = None
    image_size: int | None = None
    licence: str | None = None
    model: dict[str, Any] | None = None
    judge_sha256: Digest | None = None
    shards: tuple[ShardFacts, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Datasheet":
        names = [one.name for one in self.classes]
        if [one.label for one in self.classes] != list(range(len(names))) or len(set(names)) < len(names):
            raise ValueError("its classes are not numbered from 0 or not all different")
        if unknown := {name for name, _ in self.request.labels} - set(names):
            raise ValueError(f"there is no class {min(unknown)[:40]!r}")
        if self.shards and [(one.number, one.images) for one in self.shards] != self._planned():
            raise ValueError("its shards are not those of its request")
        return self

    def _planned(self) -> list[tuple[int, int]]:
        plan = self.plan
        sizes = range(min(plan.shards, len(self.shards) + 1))  # enough to see that there are more
        return [(number, plan.size(number)) for number in sizes]

    @property
    def plan(self) -> Plan:
        """Which labels the dataset has, and in which shards."""
        numbers = {one.name: one.label for one in self.classes}
        return Plan(tuple((numbers[name], count) for name, count in self.request.labels), self.request.shard_size)

    def files(self, number: int) -> list[str]:
        """The names of a shard's files; none where there is no such shard."""
        plan = self.plan
        if number >= plan.shards:
            return []
        classes = [GlyphClass(one.label, one.name, one.glyph) for one in self.classes]
        return FORMATS[self.request.format].names(
            Shard(number, plan.shards, plan.start(number), plan.labels(number), classes)
        )


def describe_model(pen: LoadedModel) -> dict[str, Any]:
    """What a pen's model is and where it comes from.

    Its lineage is what `lekhani lineage` shows of a registered model, and the metadata of a file.
    """
    generator = pen.generator
    lineage: dict[str, Any] = dict(generator.lineage)
    if pen.version is not None:
        from lekhani.registry.lineage import trace

        links = trace(pen.version).links
        lineage = {link: {key: links[link].facts.get(key) for key in keys} for link, keys in _LINEAGE.items()}
    return {
        "name": pen.version or generator.path.name,
        "dataset": generator.dataset,
        "variant": generator.variant,
        "sha256": generator.sha256,
        "lineage": lineage,
    }


def data_licence(pen: LoadedModel, model: Mapping[str, Any]) -> str | None:
    """The licence of the data that a registered model was trained on; None where it is not known."""
    return model["lineage"].get("data", {}).get("licence") if pen.version else None


def licence_sentence(licence: str | None) -> str:
    """That licence, for people."""
    known = escaped(licence) if licence else "not known here; ask whoever gave you the model"
    return f"Licence of the images that the model was trained on: {known}."


def datasheet(
    pen: LoadedModel, request: Mapping[str, Any], records: Sequence[ShardRecord], runs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The contents of dataset.json, from the described request and the records of all shards, in order.

    Per class it gives the `count` and, where a judge chose, `seen`, `good` and the share kept as `rate`.
    """
    counts = np.zeros(len(pen.classes), np.int64)
    np.add.at(counts, [label for label, _ in runs], [count for _, count in runs])
    judged = [record for record in records if record.seen is not None]
    seen, good = (np.sum([getattr(one, key) for one in judged], axis=0) if judged else None for key in ("seen", "good"))
    classes = []
    for known, count in zip(pen.classes, counts.tolist(), strict=True):
        one: dict[str, Any] = {"label": known.label, "name": known.name, "glyph": known.glyph, "count": count}
        if seen is not None and good is not None and count and seen[known.label]:
            one |= {"seen": int(seen[known.label]), "good": int(good[known.label])}
            one["rate"] = round(one["good"] / one["seen"], 4)
        classes.append(one)
    model = describe_model(pen)
    return {
        "made_by": MADE_BY,
        "images": int(counts.sum()),
        "image_size": pen.generator.image_size,
        "licence": data_licence(pen, model),
        "model": model,
        "judge_sha256": request["judge_sha256"],
        "request": dict(request),
        "classes": classes,
        "shards": [record.model_dump(include=set(ShardFacts.model_fields)) for record in records],
    }


def readme(sheet: Mapping[str, Any]) -> str:
    """README.md of the dataset that `sheet` describes, with the front matter of Hugging Face's dataset cards."""
    from lekhani.registry.card import licence_tags

    model = sheet["model"]
    head = {
        **licence_tags(sheet["licence"]),
        "task_categories": ["image-classification"],
        "tags": ["handwriting", "synthetic", model["dataset"]],
    }
    lineage = [(escaped(key), f"`{code(value)}`") for key, value in _flat(model["lineage"]) if value is not None]
    lines = [
        *("---", yaml.safe_dump(head, allow_unicode=True, sort_keys=False) + "---", ""),
        *(f"# Generated glyphs: {escaped(model['dataset'])}", ""),
        "These images were drawn by a generative model, not by people. Train with them, and test on real handwriting.",
        "",
        *markdown_table(("", ""), _facts(sheet)),
        "",
        "The same model, seed and request give the same bytes, whichever machine of the same kind draws them and "
        "however often it was interrupted.",
        *("", "## Classes", "", *_classes(sheet["classes"])),
        *("", "## Licence", ""),
        f"{licence_sentence(sheet['licence'])} Who passes on what it drew should keep to it.",
        *("", "## Lineage", "", *markdown_table(("", ""), lineage), ""),
    ]
    return "\n".join(lines)


def _facts(sheet: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, request, size = sheet["model"], sheet["request"], sheet["image_size"]
    bound, sure, picked = request["truncation"], request["min_confidence"], "none: every image that was drawn is here"
    if request["judge_sha256"] is not None:
        picked = f"only what the judge reads as its label{f', at least {sure:.1%} sure' if sure else ''}"
    return [
        ("images", f"{sheet['images']:,}, {size} x {size} pixels, white on black"),
        ("files", escaped(f"{FORMATS[request['format']].about}; shards: {len(sheet['shards'])}")),
        ("model", f"{escaped(model['name'])} ({escaped(model['variant'])})"),
        ("model, SHA-256", f"`{model['sha256']}`"),
        ("seed", f"{request['seed']}"),
        ("truncation", f"noise within {bound} standard deviations" if bound else "none"),
        ("filter", picked),
        ("computed on", f"{request['device']} in {request['precision']}"),
    ]


def _classes(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of classes, with the judge's figures where there are any."""
    rows = [(c["label"], escaped(c["name"]), escaped(c["glyph"]), f"{c['count']:,}") for c in classes]
    heads = ("label", "name", "glyph", "images")
    if not any("seen" in c for c in classes):
        return markdown_table(heads, rows)
    rates = [(f"{c['seen']:,}", f"{c['rate']:.1%}") if "seen" in c else ("", "") for c in classes]
    return [
        "Judged is how many images the judge saw for a class, kept the share that it found good.",
        "",
        *markdown_table((*heads, "judged", "kept"), [(*row, *rate) for row, rate in zip(rows, rates, strict=True)]),
    ]


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [pair for key, one in value.items() for pair in _flat(one, f"{name} {key}".strip())]
