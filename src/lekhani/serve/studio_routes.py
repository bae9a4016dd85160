"""The routes that the studio needs beside those of every client: it looks into models, data and trainings."""

import asyncio

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from lekhani.data.spec import GlyphClass
from lekhani.inference.sampling import mixed_noise
from lekhani.pictures import to_uint8
from lekhani.serve import responses, schemas
from lekhani.serve.champions import ServedModel
from lekhani.serve.common import Accept, Holder, check_count, count, kind_of, label_in, model_of, own_share, respond

api = APIRouter()
UNKNOWN = GlyphClass(-1, "", "")  # what a generator that takes no labels draws


@api.post("/v1/explore", **schemas.IN_ANY_KIND)
async def explore(body: schemas.Explore, request: Request, key: Holder, accept: Accept = None) -> Response:
    """Labelled glyphs at points between seeds.

    A seed alone is the same noise for every label: one hand writes the alphabet. Responses are those of /v1/generate;
    what a generator that takes no labels draws has the label -1 and no glyph.
    """
    kind, model = kind_of(accept), model_of(request, body.model)
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


def _label_at(point: schemas.Point, model: ServedModel) -> int:
    if point.label is None:
        raise HTTPException(422, f"The model of {model.dataset} draws what a label says; give every point a label.")
    return label_in(point.label, model)
