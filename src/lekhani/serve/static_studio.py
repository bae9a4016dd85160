"""The studio for any static host: a folder of files whose page writes and reads in the browser itself."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lekhani import files
from lekhani.errors import LekhaniError, UsageError
from lekhani.generate.datasheet import data_licence, describe_model
from lekhani.inference.session import Generator, Reader
from lekhani.inference.stepwise import steps_of
from lekhani.pen import PRETRAINED, Found, Pen, has_registry, look_up, pretrained_card
from lekhani.pictures import to_uint8
from lekhani.serve.assets import FILES, FONT, POLICY, policy, web_font
from lekhani.serve.small_weights import with_small_weights
from lekhani.text import pluralize

log = logging.getLogger("lekhani")
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # ONNX Runtime for browsers
FEW = 4  # steps, beyond which a browser writes too slowly
IMAGES_PER_CLASS = 8  # that tell whether small weights do
SAME = 0.98  # the share of them that the judge has to read as before
_RULES = {**POLICY, "script-src": "'self' 'wasm-unsafe-eval'", "worker-src": "'self'", "trusted-types": "lekhani"}
del _RULES["frame-ancestors"]  # which only a server can ask for


def build(out: Path, datasets: Sequence[str] = (), *, overwrite: bool = False) -> str:
    """Write the studio with the models of these datasets into the new folder `out`, by default with all there are.

    All is written or nothing. Returns a sentence about it. Raises UsageError for an existing `out` and an unknown
    dataset, and LekhaniError where the runtime for browsers is missing.
    """
    for name in RUNTIME:
        if not (FILES / "ort" / name).is_file():
            problem = f"ONNX Runtime for browsers is missing ({FILES / 'ort' / name})"
            raise LekhaniError(f"{problem}; run `make studio` in the source folder, which needs npm.")
    target = out.resolve()
    _check_target(target, out, overwrite)
    with files.replacing(target) as temporary:
        page = temporary / "page"
        shutil.copytree(FILES, page, ignore=shutil.ignore_patterns("index.html", "LICENSE", "*.txt"))
        (page / "font").mkdir()
        (page / "font" / FONT).write_bytes(web_font())
        _copy_licences(page / "licences")
        models = [_add_model(name, page) for name in datasets or _known()]
        (page / "models.json").write_text(json.dumps(models, ensure_ascii=False), encoding="utf-8")
        (temporary / "index.html").write_text(_index(), encoding="utf-8")
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    names = " and ".join(model["dataset"] for model in models)
    return f"Wrote the studio with {names} to {out}, {size / 1e6:.1f} MB; any static host serves it."


def _check_target(target: Path, out: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / "page" / "models.json").is_file():
        problem = f"{out} is not empty, and `lekhani studio build` did not write it, so it stays"
        raise UsageError(f"{problem}; choose another folder.")
    if not overwrite:
        raise UsageError(f"{out} exists already; choose another folder or pass --overwrite.")


def _index() -> str:
    """The page of the static edition, with its policy, since there is no server to send it."""
    page = (FILES / "index.html").read_text(encoding="utf-8")
    meta = f'<meta charset="utf-8">\n  <meta http-equiv="Content-Security-Policy" content="{policy(_RULES)}">'
    engine = '<link rel="modulepreload" href="page/local.js">\n  <script'
    page = page.replace('data-edition="server"', 'data-edition="static"').replace("<script", engine, 1)
    return page.replace('<meta charset="utf-8">', meta)


def _copy_licences(folder: Path) -> None:
    """The licences of what is not ours."""
    runtime, font = resources.files("onnxruntime"), resources.files("fontpkg_noto_sans_devanagari")
    folder.mkdir()
    for name, source in (
        ("onnxruntime.txt", runtime / "LICENSE"),
        ("onnxruntime_third_party.txt", runtime / "ThirdPartyNotices.txt"),
        ("noto_sans_devanagari.txt", font / "LICENSE"),
    ):
        (folder / name).write_bytes(source.read_bytes())


def _known() -> list[str]:
    """The datasets that come with the package, and those with a registered model."""
    names = {folder.name for folder in PRETRAINED.iterdir()}
    if has_registry():
        from lekhani.registry import models

        names |= set(models.datasets())
    return sorted(names)


def _add_model(dataset: str, page: Path) -> dict[str, Any]:
    """Write a generator and its judge with small weights, and return what the page has to know of them."""
    found = _fast(dataset)
    if found.judge is None:
        raise LekhaniError(f"{found.origin} has no judge, and the studio reads with it; register it with one.")
    reader = Reader(found.judge, "cpu")
    pen = Pen(Generator(found.generator, "cpu"), reader, found.origin, found.version)
    if not pen.generator.conditional:
        problem = f"{pen.origin} ({pen.generator.variant}) takes no labels, so nobody can choose a letter"
        raise LekhaniError(f"{problem}; register a conditional model.")
    folder = page / "models" / dataset
    folder.mkdir(parents=True)
    generator, judge = folder / "generator.onnx", folder / "judge.onnx"
    onnx.save(with_small_weights(onnx.load(found.generator)), generator)
    onnx.save(with_small_weights(onnx.load(found.judge)), judge)
    if not _same(pen.generator, reader, generator, judge):
        log.warning("%s does not bear small weights, so the browser loads some four times as much.", pen.origin)
        shutil.copyfile(found.generator, generator)
        shutil.copyfile(found.judge, judge)
    card = pretrained_card(found.generator)
    return {
        "dataset": dataset,
        "version": (found.version or "").rpartition(":")[2],
        "variant": pen.generator.variant,
        "image_size": pen.generator.image_size,
        "noise_dim": pen.generator.noise_dim,
        "takes_labels": True,
        "classes": [asdict(one) for one in pen.classes],
        "title": pen.origin,
        "licence": card["licence"] if card else data_licence(pen, describe_model(pen)),
        "card": card,
        "letter_forms": card.get("letter_forms", {}),
        "generator": generator.relative_to(page).as_posix(),
        "judge": judge.relative_to(page).as_posix(),
    }


def _fast(dataset: str) -> Found:
    """The registered champion where it works in few steps, or else what comes with the package and does."""
    best = look_up(dataset)
    steps = steps_of(onnx.load(best.generator))
    if steps <= FEW:
        return best
    for path in sorted((PRETRAINED / dataset).glob("*.onnx")):
        if path.name != "judge.onnx" and steps_of(onnx.load(path)) <= FEW:
            if best.version:
                why = f"{best.origin} takes {pluralize(steps, 'step')}, too slow for a browser"
                log.warning("%s; the page writes with what comes with the package.", why)
            return Found(path, path.with_name("judge.onnx"), f"the pretrained {path.stem} of {dataset}", None)
    log.warning("%s takes %s, so the page writes slowly.", best.origin, pluralize(steps, "step"))
    return best


def _same(writer: Generator, reader: Reader, generator: Path, judge: Path) -> bool:
    """Whether these files write and read as `writer` and `reader` do."""
    labels = np.repeat(np.arange(len(writer.classes), dtype=np.int64), IMAGES_PER_CLASS)
    noise = np.random.default_rng(0).standard_normal((len(labels), writer.noise_dim), dtype=np.float32)
    before, after = (to_uint8(one.run(noise, labels)) for one in (writer, Generator(generator, "cpu")))
    meant = reader.read(before)[1].argmax(1)
    read = [reader.read(after)[1].argmax(1), Reader(judge, "cpu").read(before)[1].argmax(1)]
    return all(float((one == meant).mean()) >= SAME for one in read)
