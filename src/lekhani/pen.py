"""The Python API: models by name, glyphs and lines of handwriting.

    pen = lekhani.load("devanagari")
    pen.generate(["क", "०"], n=8, seed=7)
    pen.compose("४२")

Commands, flows and servers use the same pens.
"""

import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.labels import label_of
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
from lekhani.inference.session import Generator, LoadedModel, Reader

if TYPE_CHECKING:
    from PIL.Image import Image

    from lekhani.handwriting.recognise import Reading
    from lekhani.handwriting.render import Strength

log = logging.getLogger("lekhani")
PRETRAINED = Path(__file__).with_name("pretrained")
"""D/{generator,judge}.onnx and their card, for each dataset that the package can write without training.

Beside the best generator there may be others, called as their variants.
"""
_HUB_NAME = r"\w[\w.-]{0,95}/\w[\w.-]{0,95}"
_DATASET = "(?P<dataset>[a-z][a-z0-9_]{0,99})"
_NAME = re.compile(rf"(?:lekhani-)?{_DATASET}(?:@(?P<alias>[\w-]{{1,99}})|:(?P<number>[0-9]{{1,9}}))?")


@dataclass(frozen=True)
class Glyphs:
    """Labelled glyphs: `images` uint8 [N,H,W], white on black, `labels` int64 [N]; iterating yields pairs of them."""

    images: Bytes
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Bytes, int]]:
        return zip(self.images, self.labels.tolist(), strict=True)


@dataclass(frozen=True)
class Pen(LoadedModel):
    """A model to generate and compose with."""

    def generate(
        self,
        labels: Sequence[str | int],
        n: int = 1,
        seed: int = 0,
        *,
        min_confidence: float | None = None,
        truncation: float | None = None,
    ) -> Glyphs:
        """`n` images of each entry of `labels` (glyphs, class names, or label numbers as int), in that order.

        They are the images that `lekhani generate` writes for the same labels and seed. For `min_confidence` and
        `truncation` see `SamplingOptions`. Raises UsageError for a label that the model does not know, and LekhaniError
        when a class does not come.
        """
        if n < 1 or not labels:
            raise UsageError("There is nothing to generate; name at least one label, and an `n` of 1 or more.")
        # Numbers are looked up without the names and glyphs that may look like other numbers.
        numbered = tuple(GlyphClass(c.label, f"{c.label}", f"{c.label}") for c in self.classes)
        known = ((label, self.classes if isinstance(label, str) else numbered) for label in labels)
        runs = [(label_of(str(label), classes, f"Label {label!r}"), n) for label, classes in known]
        options, plan = SamplingOptions(seed, min_confidence, truncation), Plan(tuple(runs))
        options.check(self.generator, self.reader)
        batch_size = self.generator.batch_size_for(plan.total)
        shards = [
            sample_shard(self.generator, self.reader, plan.labels(number), options, number, batch_size)
            for number in range(plan.shards)
        ]
        order = np.argsort(np.concatenate([plan.rows(number) for number in range(plan.shards)]), kind="stable")
        images = np.concatenate([shard.images for shard in shards])
        return Glyphs(images[order], np.concatenate([shard.labels for shard in shards])[order])

    def compose(
        self,
        text: str,
        seed: int = 0,
        *,
        height: int = 64,
        join: bool = True,
        variety: float = 0.3,
        augment: "Strength" = "light",
        without: Collection[str] = (),
        light_on_dark: bool = False,
        min_confidence: float = 0.5,
    ) -> "Image":
        """A line of handwriting as a Pillow image; see `lekhani.handwriting.render.LineStyle` for the options."""
        from lekhani.handwriting.compose import compose
        from lekhani.handwriting.render import LineStyle

        style = LineStyle(height, join, variety, augment, without, light_on_dark)
        return compose(self, text, seed, style, min_confidence=min_confidence)

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Publish this model as `owner/name` on the Hugging Face hub and return its address; see `lekhani.hub.push`."""
        from lekhani import hub

        return hub.push(self, name, private=private)


@dataclass(frozen=True)
class Judge:
    """A judge that recognises glyphs."""

    reader: Reader

    @property
    def classes(self) -> tuple[GlyphClass, ...]:
        """What it can read, in label order."""
        return self.reader.classes

    def recognise(self, image: "str | Path | Image | Bytes", top: int = 3) -> "Reading":
        """Read one glyph from a file, a Pillow image or grey uint8 [H,W], dark on light or light on dark.

        Raises UsageError for a picture that cannot be read or shows nothing; see `lekhani.handwriting.recognise`.
        """
        from lekhani.data.images import decode_one
        from lekhani.handwriting import recognise

        if isinstance(image, str | Path):
            picture = recognise.load_picture(Path(image))
        elif isinstance(image, np.ndarray):
            picture = image
        else:
            content = BytesIO()
            image.save(content, "PNG")
            picture = decode_one("", "image", content.getvalue(), recognise.SIDE)
        return recognise.recognise(self.reader, [picture], top)[0]


def load(name: str | Path, judge: str | Path | None = None) -> Pen:
    """A pen by the name of its model.

    That is a dataset for its champion (`devanagari`), an alias (`devanagari@challenger`), a version (`devanagari:3`), a
    model on the Hugging Face hub (`owner/name`) or a file. A file brings no judge; `judge` names a judge.onnx for it,
    or replaces the registered one. Raises LekhaniError when there is no such model, and UsageError for a malformed
    name.
    """
    judge = None if judge is None else Path(judge)
    return find("", Path(name), judge) if _is_file(name) else find(str(name), None, judge)


def load_judge(name: str | Path) -> Judge:
    """The judge in a file, or of a registered generator named as in `load`; raises LekhaniError when there is none."""
    if _is_file(name):
        return Judge(Reader(Path(name)))
    known = look_up(str(name))
    if known.judge is None:
        raise LekhaniError(f"{known.origin} was registered without its judge; name a judge.onnx instead.")
    return Judge(Reader(known.judge))


def find(dataset: str, model: Path | None = None, judge: Path | None = None) -> Pen:
    """The generator in the file `model`, or else the registered one called `dataset`, with its judge.

    A dataset of which none is registered has the one that comes with the package. Raises LekhaniError when there is
    none at all.
    """
    origin, version = str(model), None
    if model is None:
        known = look_up(dataset)
        model, judge, origin, version = known.generator, judge or known.judge, known.origin, known.version
    generator = Generator(model, precision="auto")
    log.info("Writing with %s (%s) on %s in %s", origin, generator.variant, generator.device, generator.precision)
    reader = None if judge is None else Reader(judge)
    SamplingOptions().check(generator, reader)
    return Pen(generator, reader, origin, version)


class Found(NamedTuple):
    """The files of a model that was found by its name."""

    generator: Path
    judge: Path | None
    origin: str  # for people
    version: str | None  # lekhani-D:VERSION of a registered model


def look_up(name: str) -> Found:
    """The generator `D`, `D@ALIAS` or `D:VERSION`, or the one on the Hugging Face hub called `owner/name`.

    D alone is the registered champion, or else the challenger, or else what comes with the package; so does D@VARIANT
    where the package has that variant. Raises UsageError for a malformed name or an unknown alias, and LekhaniError
    when there is no such model.
    """
    if re.fullmatch(_HUB_NAME, name):
        from lekhani import hub

        folder = hub.download(name)
        judge = folder / hub.JUDGE
        return Found(
            folder / hub.GENERATOR, judge if judge.is_file() else None, f"{name} of the Hugging Face hub", None
        )
    match = _NAME.fullmatch(name)
    if match is None:
        remedy = "write a dataset, as in devanagari, devanagari@challenger or devanagari:3, or a file."
        raise UsageError(f"{name!r} names no model; {remedy}")
    dataset, alias, number = match["dataset"], match["alias"], match["number"]
    if number is None and (pretrained := find_pretrained(dataset, alias)):
        return pretrained
    from lekhani.registry import models

    if alias is not None:
        known = models.aliases(dataset)
        if alias not in known:
            problem = f"{models.model_name(dataset)} has no alias {alias!r}"
            raise UsageError(f"{problem}; it has {', '.join(known) or 'none'}.")
        found = models.fetch(dataset, known[alias], alias)
    elif number is not None:
        found = models.fetch(dataset, number)
    else:
        found = models.find(dataset)
        if found.alias != "champion":
            log.warning("%s has no champion yet; writing with its challenger, version %s.", found.name, found.version)
    return Found(found.generator, found.judge, f"{found.name} version {found.version}", f"{found.name}:{found.version}")


def find_pretrained(dataset: str, variant: str | None = None) -> Found | None:
    """What comes with the package: that variant, or else the best one where nothing is registered."""
    generator = PRETRAINED / dataset / f"{variant or 'generator'}.onnx"
    if not generator.is_file() or (variant is None and _is_registered(dataset)):
        return None
    name = f"the pretrained {variant or 'model'} of {dataset}"
    return Found(generator, generator.with_name("judge.onnx"), name, None)


def has_registry() -> bool:
    """Whether there can be registered models: importing MLflow and making a store of it takes seconds."""
    return find_spec("mlflow") is not None and ("MLFLOW_TRACKING_URI" in os.environ or Path("mlruns").exists())


def _is_registered(dataset: str) -> bool:
    if not has_registry():
        return False
    from lekhani.registry import models

    return bool(models.aliases(dataset))


def _is_file(name: str | Path) -> bool:
    is_path = isinstance(name, Path) or name.endswith(".onnx") or Path(name).is_file()
    return is_path or ("/" in str(name) and not re.fullmatch(_HUB_NAME, str(name)))
