"""The Python API: models by name, glyphs and lines of handwriting.

    pen = lekhani.load("devanagari")
    pen.generate(["क", "०"], n=8, seed=7)
    pen.compose("४२")
    lekhani.translate("number.png", to="mnist")

Commands, flows and servers use the same pens.
"""

import difflib
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.labels import MAX_COUNT, label_of
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
from lekhani.inference.session import MEMORY_LIMIT, Generator, LoadedModel, Reader
from lekhani.paths import local_path, project
from lekhani.pictures import enlarged, grid, save_png
from lekhani.text import pluralize

if TYPE_CHECKING:
    from PIL.Image import Image

    from lekhani.handwriting.recognise import Reading
    from lekhani.handwriting.render import Ink, Paper, Strength
    from lekhani.handwriting.translate import Translation

    Label = str | int
    AnyPicture = str | Path | Image | Bytes

log = logging.getLogger("lekhani")
SHOWN, COLUMNS = 230, 23  # glyphs in a notebook, and in a row
PRETRAINED = Path(__file__).with_name("pretrained")
"""D/{generator,judge}.onnx and their card, for each dataset that the package can write without training.

Beside the best generator there may be others, called as their variants.
"""
_HUB_NAME = r"\w[\w.-]{0,95}/\w[\w.-]{0,95}"
_DATASET = "(?P<dataset>[a-z][a-z0-9_]{0,99})"
_NAME = re.compile(rf"(?:lekhani-)?{_DATASET}(?:@(?P<alias>[\w-]{{1,99}})|:(?P<number>[0-9]{{1,9}}))?")


@dataclass(frozen=True)
class Glyphs:
    """Labelled glyphs: `images` uint8 [N,H,W], white on black, `labels` int64 [N]; iterating yields pairs of them.

    A notebook shows the first SHOWN of them.
    """

    images: Bytes
    labels: Labels

    def __repr__(self) -> str:
        height, width = self.images.shape[1:]
        return f"Glyphs({pluralize(len(self), 'image')} of {height} x {width} pixels)"

    def _repr_png_(self) -> bytes:
        return _png(enlarged(grid(self.images[:SHOWN], min(COLUMNS, len(self))), 2))

    def save(self, path: str | Path, columns: int = COLUMNS, scale: int = 1) -> None:
        """Write all glyphs as one PNG, `columns` in a row, each pixel `scale` pixels wide; replaces the file `path`."""
        save_png(grid(self.images, min(columns, len(self))), Path(path), scale)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Bytes, int]]:
        return zip(self.images, self.labels.tolist(), strict=True)


@dataclass(frozen=True)
class Pen(LoadedModel):
    """A model to generate and compose with."""

    def __repr__(self) -> str:
        return f"Pen({self.origin}, {self.generator.variant}, {pluralize(len(self.classes), 'class', 'classes')})"

    def generate(
        self,
        labels: "Label | Sequence[Label]",
        n: int = 1,
        seed: int = 0,
        *,
        min_confidence: float | None = None,
        truncation: float | None = None,
    ) -> Glyphs:
        """`n` images of each entry of `labels` (glyphs, class names, or label numbers as int), or of one, in order.

        They are the images that `lekhani generate` writes for the same labels and seed. For `min_confidence` and
        `truncation` see `SamplingOptions`. Raises UsageError for a label that the model does not know and for a number
        that is none, and LekhaniError when a class does not come.
        """
        runs = [(self._label(one), _count(n)) for one in ([labels] if isinstance(labels, str | int) else labels)]
        if not runs:
            raise UsageError("There is nothing to generate; name at least one label.")
        options, plan = SamplingOptions(seed, min_confidence, truncation), Plan(tuple(runs))
        if plan.total * self.generator.image_size**2 > MEMORY_LIMIT:
            problem = f"{plan.total:,} images are more than {MEMORY_LIMIT >> 30} GB, which this returns at once"
            raise UsageError(f"{problem}; ask for fewer, or write them to files with `lekhani generate`.")
        options.check(self.generator, self.reader)
        batch_size = self.generator.batch_size_for(plan.total)
        numbers = range(plan.shards)
        shards = (  # of each the images alone are kept: the noise takes more room than they do
            sample_shard(self.generator, self.reader, plan.labels(number), options, number, batch_size).images
            for number in numbers
        )
        images = np.concatenate(list(shards))
        order = np.argsort(np.concatenate([plan.rows(number) for number in numbers]), kind="stable")
        return Glyphs(images[order], np.concatenate([plan.labels(number) for number in numbers])[order])

    def _label(self, wanted: "Label") -> int:
        if isinstance(wanted, str):
            return label_of(wanted, self.classes, f"Label {wanted!r}")
        if isinstance(wanted, Integral) and not isinstance(wanted, bool) and 0 <= wanted < len(self.classes):
            return int(wanted)
        bounds = f"a glyph or class name as text, or a whole number from 0 to {len(self.classes) - 1}"
        raise UsageError(f"Label {wanted!r} is no label of {self.origin}; give {bounds}.")

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
        paper: "Paper" = "plain",
        ink: "Ink" = "any",
        background: str | Path | None = None,
        learned_only: bool = False,
        min_confidence: float = 0.5,
    ) -> "Image":
        """A line of handwriting as a Pillow image; see `lekhani.handwriting.render.LineStyle` for the options.

        `background` is a picture to write on, or a folder of them. The picture's `info` holds the transcript as
        `text`, and as `drawn` what a typeface drew because the model has not learned it.
        """
        from lekhani.handwriting.background import Background
        from lekhani.handwriting.compose import compose
        from lekhani.handwriting.render import LineStyle

        ground = None if background is None else Background(background)
        style = LineStyle(height, join, variety, augment, without, light_on_dark, paper, ground, learned_only, ink)
        return compose(self, text, seed, style, min_confidence=min_confidence)

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Publish this model as `owner/name` on the Hugging Face hub and return its address; see `lekhani.hub.push`."""
        from lekhani import hub

        return hub.push(self, name, private=private)


@dataclass(frozen=True)
class Judge:
    """A judge that recognises glyphs."""

    reader: Reader

    def __repr__(self) -> str:
        return f"Judge({self.reader.dataset}, {pluralize(len(self.classes), 'class', 'classes')})"

    @property
    def classes(self) -> tuple[GlyphClass, ...]:
        """What it can read, in label order."""
        return self.reader.classes

    def recognise(self, image: "AnyPicture", top: int = 3, *, force: bool = False) -> "Reading":
        """Read one glyph from a file, a Pillow image or grey uint8 [H,W], dark on light or light on dark.

        Raises UsageError for a picture that cannot be read or shows nothing, and its subclass UnsureError where it
        shows several glyphs or none for sure, unless `force` is set; see `lekhani.handwriting.recognise`.
        """
        from lekhani.handwriting import recognise

        return recognise.recognise(self.reader, [_picture(image, recognise.SIDE)], top, force=force)[0]


def load(name: str | Path, judge: str | Path | None = None) -> Pen:
    """A pen by the name of its model.

    That is a dataset for its champion (`devanagari`), an alias (`devanagari@challenger`), a version (`devanagari:3`), a
    model on the Hugging Face hub (`owner/name`) or a file. A file brings no judge; `judge` names a judge.onnx for it,
    or replaces the registered one. Raises LekhaniError when there is no such model, and UsageError for a malformed
    name.
    """
    judge = None if judge is None else local_path(judge)
    return find("", local_path(name), judge) if _is_file(name) else find(str(name), None, judge)


def load_judge(name: str | Path) -> Judge:
    """The judge in a file, or of a registered generator named as in `load`; raises LekhaniError when there is none."""
    if _is_file(name):
        return Judge(Reader(local_path(name)))
    known = look_up(str(name))
    if known.judge is None:
        raise LekhaniError(f"{known.origin} was registered without its judge; name a judge.onnx instead.")
    return Judge(Reader(known.judge))


def translate(
    image: "AnyPicture",
    to: str | Path,
    source: str | Path | None = None,
    seed: int = 0,
    *,
    min_confidence: float = 0.95,
    force: bool = False,
) -> "Translation":
    """Read a number from a picture and write it in another handwriting, as `lekhani translate` does.

    `image` is as for `Judge.recognise`, with one row of digits. `to` names the pen that writes as in `load`, `source`
    the judge that reads as in `load_judge`: by default devanagari, or mnist where `to` is devanagari. A digit that is
    not read for sure raises UnsureError unless `force` is set; for all errors see `lekhani.handwriting.translate`.
    """
    from lekhani.handwriting import translate as translation

    judge = load_judge(source or default_source(to))
    picture = _picture(image, translation.MAX_WIDTH)
    return translation.translate(judge.reader, picture, load(to), seed, min_confidence, force=force)


def default_source(to: str | Path) -> str:
    """Whose judge reads where `to` writes and nothing else was asked for."""
    return "mnist" if str(to).startswith("devanagari") else "devanagari"


def _picture(image: "AnyPicture", side: int) -> Bytes:
    """Grey uint8 [H,W], shrunk to at most `side` pixels where it is a file or a Pillow image."""
    from lekhani.data.images import decode_one
    from lekhani.handwriting.recognise import load_picture

    if isinstance(image, str | Path):
        return load_picture(local_path(image), side)
    if isinstance(image, np.ndarray):
        if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
            found = f"{image.dtype} of shape {list(image.shape)}"
            raise UsageError(f"The image is an array of {found}; give grey uint8 [height, width].")
        return image
    return decode_one("", "image", _png(image), side)


def _png(picture: "Image | Bytes") -> bytes:
    from PIL.Image import fromarray

    content = BytesIO()
    (fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(content, "PNG")
    return content.getvalue()


def _count(n: int) -> int:
    if not isinstance(n, Integral) or isinstance(n, bool) or not 1 <= n <= MAX_COUNT:
        raise UsageError(f"n is {n!r}; it must be a whole number from 1 to {MAX_COUNT:,}.")
    return int(n)


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
    if not has_registry():
        raise _unknown(name, dataset)
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


def _unknown(name: str, dataset: str) -> UsageError:
    shipped = sorted(folder.name for folder in PRETRAINED.iterdir())
    close = difflib.get_close_matches(dataset, shipped, n=1)
    hint = f"did you mean {close[0]}?" if close and dataset != close[0] else "train and register one, or name a file."
    with_it = f"the package comes with {' and '.join(shipped)}"
    return UsageError(f"There is no model {name!r}: nothing is registered here, and {with_it}; {hint}")


def find_pretrained(dataset: str, variant: str | None = None) -> Found | None:
    """What comes with the package: that variant, or else the best one where nothing is registered."""
    generator = PRETRAINED / dataset / f"{variant or 'generator'}.onnx"
    if not generator.is_file() or (variant is None and _is_registered(dataset)):
        return None
    name = f"the pretrained {variant or 'model'} of {dataset}"
    return Found(generator, generator.with_name("judge.onnx"), name, None)


@cache
def pretrained_card(generator: Path) -> dict[str, Any]:
    """What the card beside a model of the package says; {} for other models."""
    return files.read_json(generator.with_name("card.json")) if generator.is_relative_to(PRETRAINED) else {}


def has_registry() -> bool:
    """Whether there can be registered models: importing MLflow and making a store of it takes seconds."""
    return find_spec("mlflow") is not None and ("MLFLOW_TRACKING_URI" in os.environ or (project() / "mlruns").exists())


def _is_registered(dataset: str) -> bool:
    if not has_registry():
        return False
    from lekhani.registry import models

    return bool(models.aliases(dataset))


def _is_file(name: str | Path) -> bool:
    is_path = isinstance(name, Path) or name.endswith(".onnx") or Path(name).is_file()
    return is_path or ("/" in str(name) and not re.fullmatch(_HUB_NAME, str(name)))
