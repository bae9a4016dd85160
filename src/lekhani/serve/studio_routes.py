"""The routes that the studio needs beside those of every client: it looks into models, data and trainings."""

import asyncio
import json

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from lekhani.data.spec import GlyphClass
from lekhani.inference.sampling import mixed_noise
from lekhani.pictures import to_uint8
from lekhani.serve import responses, schemas
from lekhani.serve.champions import ServedModel
from lekhani.serve.common import (
    Accept,
    Holder,
    check_count,
    count,
    kind_of,
    label_in,
    model_of,
    own_share,
    respond,
    version_of,
)
from lekhani.serve.real import real_images
from lekhani.serve.trainings import trainings

api = APIRouter()
UNKNOWN = GlyphClass(-1, "", "")  # what a generator that takes no labels draws


@api.post("/v1/explore", **schemas.IN_ANY_KIND)
async def explore(body: schemas.Explore, request: Request, key: Holder, accept: Accept = None) -> Response:
    """Labelled glyphs at points between seeds.

    A seed alone is the same noise for every label: one hand writes the alphabet. Responses are those of /v1/generate;
    what a generator that takes no labels draws has the label -1 and no glyph.
    """
    kind, model = kind_of(accept), await version_of(request, key, body.model, body.version)
    generator, n = model.generator, len(body.points)
    check_count(n, request.app.state.limits)
    if generator.conditional:
        classes = model.pen.classes
        labels = np.array([_label_at(point, model) for point in body.points], np.int64)
    else:
        classes, labels = (UNKNOWN,), np.full(n, UNKNOWN.label, np.int64)
    mixes = [{int(seed): weight for seed, weight in point.mix.items()} for point in body.points]
    with own_share(request, key, model.queue, n, model.queue.images_per_second):
        noise = await asyncio.to_thread(mixed_noise, generator, mixes)
        images = to_uint8(await model.queue.images(noise, np.maximum(labels, 0)))
    count(request, model, n)
    return await respond(kind, n, responses.glyphs, kind, images, labels, classes, {"model": model.describe()})


@api.get("/v1/versions", **schemas.IN_JSON)
async def versions(request: Request, key: Holder, model: schemas.Wanted) -> Response:
    """The registered versions of a dataset, the newest first, with aliases, figures and the page that MLflow has of it.

    Where a file is served, or what comes with the package, that alone, without a number.
    """
    known = request.app.state.versions
    dataset = model_of(request, model).dataset
    with own_share(request, key, known.pool, 1):
        return JSONResponse(await known.listed(dataset))


@api.get("/v1/real", **schemas.IN_ANY_KIND)
async def real(
    request: Request,
    key: Holder,
    model: schemas.Wanted,
    label: schemas.WantedLabels,
    n: schemas.WantedCount = 1,
    seed: schemas.WantedSeed = 0,
    accept: Accept = None,
) -> Response:
    """Real images of each label: some that came with the model's version, or of the prepared data in this folder.

    At most `n` of each, without repetition. Responses are those of /v1/generate.
    """
    kind, served, state = kind_of(accept), model_of(request, model), request.app.state
    check_count(len(label) * n, state.limits)
    labels = [label_in(one, served) for one in label]
    with own_share(request, key, state.versions.pool, 1):
        images, found = await state.versions.pool.run(lambda: real_images(served, labels, n, seed))
    about = {"model": served.describe(), "seed": seed}
    return await respond(kind, len(images), responses.glyphs, kind, images, found, served.pen.classes, about)


@api.get("/v1/training", **schemas.IN_JSON)
async def training(request: Request, key: Holder) -> Response:
    """The latest trainings in this folder: how far they are, their curves, and a grid of samples as PNG in base64."""
    pool = request.app.state.versions.pool
    with own_share(request, key, pool, 1):
        content = await pool.run(lambda: json.dumps(trainings(), allow_nan=False).encode())
    return Response(content, media_type=responses.JSON)


def _label_at(point: schemas.Point, model: ServedModel) -> int:
    if point.label is None:
        raise HTTPException(422, f"The model of {model.dataset} draws what a label says; give every point a label.")
    return label_in(point.label, model)
