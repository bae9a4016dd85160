"""The route that shows glyphs step by step, and which generators can be watched."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from lekhani.inference.sampling import SamplingOptions, noise_source, sample_shard
from lekhani.inference.session import Floats, Generator
from lekhani.inference.stepwise import StepwiseSession
from lekhani.pictures import to_uint8
from lekhani.serve import responses, schemas
from lekhani.serve.champions import ServedModel
from lekhani.serve.common import Holder, count, label_in, model_of, own_share

api = APIRouter()


@api.post("/v1/steps", name="steps", **schemas.IN_JSON)
async def steps(body: schemas.Steps, request: Request, key: Holder) -> Response:
    """Glyphs after each step of a variant that works in steps, and where each step wrote.

    `frames` has, for each moment from before the first step to after the last one, a PNG in base64 for each label, and
    `windows` likewise a square {x, y, width}, its centre and its side in parts of the image's side, or null.
    """
    model, state = model_of(request, body.model), request.app.state
    if body.variant not in model.animated:
        offered = ", ".join(model.animated) or "none"
        problem = f"There is no variant {ascii(body.variant)[1:-1]} of {body.model} to watch"
        raise HTTPException(404, f"{problem}; there are: {offered}.")
    with own_share(request, key, state.pictures, 1):
        shown = await state.pictures.run(lambda: _watched(model, body))
    count(request, model, len(body.labels))
    return JSONResponse({"model": model.describe(), "variant": body.variant, "seed": body.seed, **shown})


def _watched(model: ServedModel, body: schemas.Steps) -> dict[str, Any]:
    """The frames and windows that a request asks for, as a value for JSON."""
    path = model.animated[body.variant]
    generator = model.generator if path == model.generator.path else _generator(path)
    labels = np.array([label_in(label, model) for label in body.labels], np.int64)
    options = SamplingOptions(body.seed)
    if generator.conditional:
        noise = noise_source(generator, options, 0)(len(labels))
    else:  # the judge says which noise becomes which label
        noise = sample_shard(generator, model.pen.reader, labels, options).noise
    images, windows = _session(generator).watch(noise, labels)
    frames = [[responses.base64_png(image) for image in to_uint8(step)] for step in images]
    return {"frames": frames, "windows": [[None] * len(labels), *_squares(windows, images)]}


def _squares(windows: Floats | None, images: Floats) -> list[list[dict[str, float] | None]]:
    """For each step a square for each label, or None."""
    if windows is None:
        return [[None] * images.shape[1] for _ in images[1:]]
    return [[dict(zip(("x", "y", "width"), place, strict=True)) for place in step] for step in windows.tolist()]


@lru_cache(maxsize=8)
def _generator(path: Path) -> Generator:
    return Generator(path)


@lru_cache(maxsize=8)
def _session(generator: Generator) -> StepwiseSession:
    return StepwiseSession(generator)
