"""The routes of the HTTP API: what the Python API does, for many clients at once."""

import base64
import binascii
import io
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lekhani.data.images import FORMATS, decode_one
from lekhani.data.spec import Bytes
from lekhani.errors import UsageError
from lekhani.handwriting import compose, recognise, translate
from lekhani.handwriting.alphabet import alphabet_of
from lekhani.handwriting.recognise import Reading
from lekhani.handwriting.render import LineStyle
from lekhani.inference.labels import label_of
from lekhani.inference.sampling import SamplingOptions, Steps
from lekhani.inference.session import Reader
from lekhani.pen import pretrained_card
from lekhani.serve import responses, schemas
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
from lekhani.serve.limits import Limits

api, health = APIRouter(), APIRouter()  # with keys where there are any, and without


@api.post("/v1/generate", **schemas.IN_ANY_KIND)
async def generate(body: schemas.Generate, request: Request, key: Holder, accept: Accept = None) -> Response:
    """Labelled glyphs.

    A grid as PNG, a ZIP of PNGs with labels.csv, an NPZ of `images` uint8 [N,H,W] and `labels` int64 [N], or JSON.
    """
    kind, model = kind_of(accept), await version_of(request, key, body.model, body.version)
    n = len(body.labels) * body.n
    check_count(n, request.app.state.limits)
    labels = np.repeat([label_in(label, model) for label in body.labels], body.n).astype(np.int64)
    options = SamplingOptions(body.seed, body.min_confidence, body.truncation)
    with own_share(request, key, model.queue, n, model.queue.images_per_second):
        images = await model.sample(labels, options)
    # Images that were filtered or truncated are no sample of what the model draws.
    if model.monitor is not None and options == SamplingOptions(body.seed):
        model.monitor.observe(images, labels)
    count(request, model, n)
    about = {"model": model.describe(), "seed": body.seed}
    return await respond(kind, n, responses.glyphs, kind, images, labels, model.pen.classes, about)


@api.post("/v1/compose", **schemas.IN_ANY_KIND)
async def compose_line(body: schemas.Compose, request: Request, key: Holder, accept: Accept = None) -> Response:
    """A text as lines of handwriting.

    One above the other as PNG, a ZIP of PNGs with transcripts, an NPZ of a uint8 array a line and `text`, or JSON.
    """
    kind, model = kind_of(accept), model_of(request, body.model)
    _check_size(body, request.app.state.limits)
    look = {"height", "join", "variety", "augment", "without", "paper", "ink", "light_on_dark"}
    style = LineStyle(**body.model_dump(include=look))
    alphabet = alphabet_of(model.pen.classes, body.learned_only)
    text = alphabet.transcript(body.text)
    about = {"model": model.describe(), "drawn": alphabet.drawn(text)}  # raises before the request waits

    def lines() -> Steps[dict[int, Image.Image]]:
        pictures = {}
        for seed in range(body.seed, body.seed + body.n):
            pictures[seed] = (
                yield from compose.compose_steps(model.pen, text, seed, style, 0, body.min_confidence)
            ).image
        return pictures

    glyphs = body.n * len(text)
    with own_share(request, key, model.queue, glyphs, model.queue.images_per_second):
        pictures = await model.queue.run(lines(), glyphs)
    count(request, model, glyphs)
    return await respond(kind, glyphs, responses.lines, kind, pictures, text, about)


def _check_size(body: schemas.Compose, limits: Limits) -> None:
    size = len(body.text)
    if size > limits.text:
        raise HTTPException(422, f"The text has {size:,} characters, and {limits.text:,} is the most; break it up.")
    if size * body.height**2 > limits.line_pixels:
        most = f"more than {limits.line_pixels:,} pixels, the most that is taken"
        problem = f"A line of {size:,} characters, {body.height} pixels high, has {most}"
        raise HTTPException(422, f"{problem}; make it shorter or lower.")
    if size * body.n > limits.images:
        problem = f"{body.n} lines of {size:,} characters are more than {limits.images:,}, the most of one request"
        raise HTTPException(422, f"{problem}; ask for fewer.")


@api.post("/v1/recognise", name="recognise", **schemas.IN_JSON)
async def recognise_glyph(body: schemas.Recognise, request: Request, key: Holder) -> Response:
    """Which glyph a picture shows, how sure the judge is of it in [0,1], and what else it may be."""
    reader, state = _reader(request, body.model), request.app.state

    def read() -> Reading:
        return recognise.recognise(reader, [_picture(body.image, state.limits)], force=body.force)[0]

    with own_share(request, key, state.pictures, 1):
        found = await state.pictures.run(read)
    return JSONResponse({"model": {"dataset": body.model, "judge": reader.sha256}, **found.as_dict()})


@api.post("/v1/translate", name="translate", **schemas.IN_ANY_KIND)
async def translate_number(body: schemas.Translate, request: Request, key: Holder, accept: Accept = None) -> Response:
    """The number that a picture shows, written again: a row of digits as PNG, or their images as ZIP, NPZ or JSON."""
    kind, reader, state = kind_of(accept), _reader(request, body.model), request.app.state
    model = model_of(request, body.to)
    pen = model.pen

    def read() -> list[Reading]:
        return translate.read_digits(reader, _picture(body.image, state.limits), force=body.force)

    with own_share(request, key, state.pictures, 1):
        digits = await state.pictures.run(read)
    steps = translate.write_number(pen, digits, body.seed, translate.MIN_WRITTEN)
    with own_share(request, key, model.queue, len(digits), model.queue.images_per_second):
        done = await model.queue.run(steps, len(digits))
    count(request, model, len(digits))
    if kind == responses.PNG:
        return Response(responses.png(done.picture), media_type=kind)
    labels = np.array([label_of(glyph, pen.classes, "A digit") for glyph in done.text], np.int64)
    about = {"model": model.describe(), **done.as_dict()}
    return await respond(kind, 0, responses.glyphs, kind, done.images, labels, pen.classes, about)


@api.get("/v1/models")
async def models(request: Request) -> list[dict[str, Any]]:
    """The served models: version, classes, and the measured quality of their latest images."""
    return [
        {
            **model.describe(),
            "alias": model.alias,
            "variant": model.generator.variant,
            "image_size": model.generator.image_size,
            "takes_labels": model.generator.conditional,
            "classes": [{"label": c.label, "name": c.name, "glyph": c.glyph} for c in model.pen.classes],
            "letter_forms": pretrained_card(model.generator.path).get("letter_forms", {}),
            "animated": list(model.animated),
            "watch": model.describe_measures(),
        }
        for model in request.app.state.champions.served.values()
    ]


@api.get("/metrics", response_class=Response)
async def prometheus(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process is alive."""
    return {"status": "ok"}


@health.get("/readyz", responses={503: {"description": "It starts or leaves"}})
async def readyz(request: Request, key: Holder) -> JSONResponse:
    """Whether it should get requests: 503 while it starts and once it shuts down, but not when the registry is away.

    With a valid key, or where none is needed, also what is served, and why a champion is not.
    """
    state = request.app.state
    status = "leaving" if state.draining else "ready" if state.ready else "starting"
    value: dict[str, Any] = {"status": status}
    if key or not state.keys:
        value["models"] = {dataset: model.version for dataset, model in state.champions.served.items()}
        value["trouble"] = state.champions.trouble
    return JSONResponse(value, 200 if status == "ready" else 503)


def _reader(request: Request, dataset: str) -> Reader:
    reader = model_of(request, dataset).pen.reader
    if reader is None:
        raise HTTPException(404, f"No judge of {dataset} is served here; start the server with --judge judge.onnx.")
    return reader


def _picture(text: str, limits: Limits) -> Bytes:
    """A picture in base64 as grey uint8 [H,W]; raises UsageError for what is no picture or too large a one."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("The image is no base64; encode the bytes of a picture file.") from None
    if len(content) > limits.picture_bytes:
        problem = f"The image has more than {limits.picture_bytes:,} bytes, the most that is taken"
        raise UsageError(f"{problem}; send a smaller one.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size  # nothing is decoded yet
    except Exception:  # a damaged file makes Pillow raise nearly anything
        raise UsageError(f"The image cannot be read; send one of {', '.join(FORMATS)}.") from None
    if width * height > limits.picture_pixels:
        problem = f"The image has {width:,} x {height:,} pixels, and {limits.picture_pixels:,} is the most"
        raise UsageError(f"{problem}; shrink it.")
    return decode_one("the request", "sent", content, recognise.SIDE)
