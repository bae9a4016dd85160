"""Labelled glyphs on request: which labels, from which generator, into a folder of PNGs."""

import csv
import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.files import replacing
from lekhani.pictures import save_png, to_uint8
from lekhani.serve.session import Floats, Generator, Reader

log = logging.getLogger("lekhani")
MAX_COUNT = 1_000_000


@dataclass(frozen=True)
class Pen:
    """A generator, and the judge that an unconditional one needs to serve labels."""

    generator: Generator
    reader: Reader | None
    origin: str  # for people: where the generator came from


def find(dataset: str, model: Path | None = None, judge: Path | None = None) -> Pen:
    """The generator in `model`, or without it the registered one of `dataset`; raises LekhaniError when there is none."""
    if model is None:
        from lekhani.registry import models

        known = models.find(dataset)
        if known.alias != "champion":
            log.warning("%s has no champion yet; writing with its challenger, version %s.", known.name, known.version)
        model, origin = known.generator, f"{known.name} version {known.version}"
        judge = judge or known.judge
    else:
        origin = str(model)
    generator = Generator(model)
    log.info("Writing with %s (%s) on %s", origin, generator.variant, generator.session.get_providers()[0].removesuffix("ExecutionProvider"))
    if generator.conditional:
        return Pen(generator, None, origin)
    if judge is None:
        raise UsageError(f"{origin} takes no labels, so a judge must pick what to keep; pass --judge models/{generator.dataset}/judge/judge.onnx.")
    reader = Reader(judge)
    if reader.classes != generator.classes:
        raise UsageError(f"{judge} reads other classes than {origin} writes; pass the judge of the same dataset.")
    return Pen(generator, reader, origin)


def parse_labels(wanted: Sequence[str], classes: Sequence[GlyphClass]) -> Labels:
    """`["क=8", "digit_0=2", "36"]` -> int64 [N], one entry per image, in the order asked for; raises UsageError naming the valid labels."""
    by_name: dict[str, int] = {str(c.label): c.label for c in classes}
    by_name |= {c.name: c.label for c in classes}
    by_name |= {c.glyph: c.label for c in classes}  # last: the glyph 3 is what a person means by "3"
    labels: list[int] = []
    for entry in wanted:
        what, count = entry.rsplit("=", 1) if "=" in entry else (entry, "1")
        if not re.fullmatch(r"[0-9]{1,7}", count) or not 1 <= int(count) <= MAX_COUNT:
            raise UsageError(f"--label {entry}: the count after = must be a whole number from 1 to {MAX_COUNT:,}.")
        if what not in by_name:
            close = difflib.get_close_matches(what, by_name, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            glyphs = " ".join(c.glyph for c in classes)
            raise UsageError(
                f"--label {entry}: no such class; {hint}valid are {glyphs}, names such as {classes[0].name}, and 0 to {len(classes) - 1}."
            )
        labels += [by_name[what]] * int(count)
    return np.array(labels, np.int64)


def draw(pen: Pen, labels: Labels, seed: int, patience: int = 200) -> Bytes:
    """One image per label, uint8 [N,H,W], as `drawn` finds them."""
    images = np.zeros((len(labels), pen.generator.image_size, pen.generator.image_size), np.uint8)
    for places, batch, _ in drawn(pen, labels, seed, patience):
        images[places] = batch
    return images


def drawn(pen: Pen, labels: Labels, seed: int, patience: int = 200) -> Iterator[tuple[Labels, Bytes, Floats]]:
    """Yield what fills which places of `labels`: places int64 [n], images uint8 [n,H,W], and the noise float32 [n, noise_dim] they are made of.

    A conditional generator is told its label. Any other is sampled until the judge has recognised enough of every class;
    after `patience` batches in which some class gained nothing, a LekhaniError names what cannot be written.
    """
    rng = np.random.default_rng(seed)
    if pen.reader is None:
        for start in range(0, len(labels), 128):
            chosen = labels[start : start + 128]
            noise = _noise(pen, len(chosen), rng)
            yield np.arange(start, start + len(chosen)), to_uint8(pen.generator.run(noise, chosen)), noise
        return
    open_places = {int(label): list(np.flatnonzero(labels == label)[::-1]) for label in np.unique(labels)}
    idle = 0
    while open_places:
        noise = _noise(pen, 256, rng)
        batch = to_uint8(pen.generator.run(noise, np.zeros(256, np.int64)))
        kept, places = [], []
        for i, label in enumerate(pen.reader.read(batch)[1].argmax(1).tolist()):
            if label in open_places:
                kept.append(i)
                places.append(open_places[label].pop())
                if not open_places[label]:
                    del open_places[label]
        yield np.array(places, np.int64), batch[kept], noise[kept]
        idle = 0 if kept else idle + 1
        if idle >= patience:
            missing = " ".join(pen.generator.classes[label].glyph for label in open_places)
            raise LekhaniError(
                f"{pen.origin} wrote nothing that the judge reads as {missing} in {idle * 256:,} tries; use a conditional model for these labels."
            )


def _noise(pen: Pen, n: int, rng: np.random.Generator) -> Floats:
    return rng.standard_normal((n, pen.generator.noise_dim), dtype=np.float32)


def write_folder(pen: Pen, wanted: Sequence[str], seed: int, out: Path, overwrite: bool = False) -> str:
    """Draw what is `wanted` and write PNGs and labels.csv into the folder `out`, whole or not at all; returns a sentence about it."""
    target = out.resolve()  # "." has no name of its own to rename
    if target.exists():
        if not overwrite:
            raise UsageError(f"{out} exists already; choose another --out or pass --overwrite.")
        if not (target / "labels.csv").is_file():
            raise UsageError(f"{out} holds no labels.csv, so it is none of ours to overwrite; choose another --out.")
    labels = parse_labels(wanted, pen.generator.classes)
    images = draw(pen, labels, seed)
    with replacing(target) as folder:
        folder.mkdir()
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("file", "label", "name", "glyph"))
            for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                known = pen.generator.classes[label]
                safe = re.sub(r"[^\w-]", "_", known.name)[:80]  # a model file may name its classes as it likes
                name = f"{i:06d}_{safe}.png"
                save_png(image, folder / name)
                writer.writerow((name, label, known.name, known.glyph))
    return f"Wrote {len(images)} images of {len(set(labels.tolist()))} classes to {out} with {pen.origin}, seed {seed}."
