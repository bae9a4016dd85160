"""The HTTP API: what the Python API does, for many clients at once, within limits."""

import asyncio
import base64
import binascii
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from lekhani import __version__
from lekhani.data.images import decode_one
from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError, UsageError
from lekhani.handwriting import compose
from lekhani.handwriting import recognise as reading
from lekhani.handwriting import translate as translation
from lekhani.handwriting.alphabet import Alphabet, plain
from lekhani.handwriting.recognise import SIDE, Reading
from lekhani.handwriting.render import LineStyle
from lekhani.handwriting.translate import Translation
from lekhani.inference.labels import label_of
from lekhani.inference.sampling import SamplingOptions, noise_source, sample_shard
from lekhani.inference.session import Reader
from lekhani.serve import reports, responses
from lekhani.serve.batching import Batcher, BusyError
from lekhani.serve.champions import Champions, Choice, Served
from lekhani.serve.keys import Keys
from lekhani.serve.limits import Limits
from lekhani.serve.middleware import Edge, problem
from lekhani.serve.telemetry import Metrics

log = logging.getLogger("lekhani.api")
PICTURES = ("PNG", "JPEG", "BMP", "GIF", "TIFF")


# What the framework says in a word, said to people.
PLAIN = {
    "Not Found": "There is nothing at this address; GET /openapi.json says what there is.",
    "Method Not Allowed": "This address takes another method; GET /openapi.json says which.",
    "There was an error parsing the body": "The body cannot be read as JSON.",
}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Dataset = Annotated[
    str,
    Field(max_length=100, description="whose champion to use, as GET /v1/models names them", examples=["devanagari"]),
]
Seed = Annotated[
    int, Field(ge=0, le=2**63 - 1, description="the same seed gives the same picture, as long as the model is the same")
]
Picture = Annotated[
    str,
    Field(
        min_length=1,
        max_length=20_000_000,
        description="a picture file, such as a PNG, in base64",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]


class Generate(_Body):
    """What to draw: `n` images of each label."""

    model: Dataset = "devanagari"
    labels: list[Annotated[str, Field(min_length=1, max_length=80)] | Annotated[int, Field(ge=0, le=100_000)]] = Field(
        min_length=1,
        max_length=1000,
        description="glyphs, class names, or label numbers as integers",
        examples=[["क", "०"]],
    )
    n: int = Field(1, ge=1, le=10_000)
    seed: Seed = 0
    min_confidence: float | None = Field(None, ge=0, le=1, description="keep only what the judge recognises so surely")
    truncation: float | None = Field(
        None, gt=0, le=100, description="keep the noise within so many standard deviations"
    )


class Compose(_Body):
    """A line of text in one hand."""

    model: Dataset = "devanagari"
    text: str = Field(min_length=1, max_length=200, examples=["४२ कखग"])
    seed: Seed = 0
    height: int = Field(64, ge=16, le=256, description="pixels")
    join: bool = Field(True, description="draw the head line from letter to letter")
    variety: float = Field(0.3, ge=0, le=1, description="how much the glyphs differ beyond their letters")
    augment: Literal["none", "light", "strong"] = Field(
        "light", description="how strong paper, ink, rotation, blur and noise are"
    )


class Recognise(_Body):
    """A picture of one glyph."""

    model: Dataset = "devanagari"
    image: Picture


class Translate(_Body):
    """A picture of one digit, or of a row of them, to be written in another hand."""

    model: Dataset = Field("devanagari", description="whose judge reads the picture")
    to: Dataset = Field("mnist", description="whose champion writes what was read")
    image: Picture
    seed: Seed = 0


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def _documented(*kinds: str) -> dict[str, Any]:
    """What a route may answer besides a validation error, for OpenAPI."""
    content: dict[str, Any] = {
        kind: {"schema": {"type": "object"} if kind == responses.JSON else {"type": "string", "format": "binary"}}
        for kind in kinds
    }
    wrong = {"content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    told = {
        400: "no JSON",
        401: "no valid key",
        404: "no such model",
        406: "no such form",
        408: "too slow",
        413: "too large",
        415: "no JSON",
    }
    told |= {422: "not what the schema says", 429: "too much waits; see Retry-After", 503: "not in time, or not ready"}
    problems = {code: {"description": sentence, **wrong} for code, sentence in told.items()}
    return {"responses": {200: {"description": "Done", "content": content}, **problems}, "response_class": Response}


GLYPHS, TOLD = _documented(*responses.KINDS), _documented(responses.JSON)


def create_app(
    choices: Sequence[Choice],
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    cors: Sequence[str] = (),
    agreement: float = 0.9,
    poll_seconds: float = 30.0,
    look_seconds: float = 10.0,
    report_folder: Path | None = None,
) -> FastAPI:
    """The application, which loads the models of `choices` when it starts.

    `keys` are asked for on every route but the health checks and the schema, when given; `cors` are origins whose pages may call it. The
    registry is asked for new champions every `poll_seconds`, `agreement` is what their self-test asks; every `look_seconds` the watches
    look at what was written, and tell `report_folder` once a day. A page may be mounted at "/" afterwards.
    """
    limits = limits or Limits()
    metrics = Metrics()
    champions = Champions(choices, limits, metrics, agreement)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.loop = asyncio.get_running_loop()
        app.state.readers = Batcher(lambda *_: np.empty(0, np.uint8), 1, limits.waiting_pictures, limits.answer_seconds)
        if not champions.served:
            await champions.start()
        repeated = [asyncio.create_task(_every(poll_seconds, champions.poll))]
        diary = reports.Diary(champions, report_folder)
        repeated.append(asyncio.create_task(_every(look_seconds, champions.look, diary.note)))
        app.state.ready = True
        yield
        app.state.ready = False
        for task in repeated:
            task.cancel()
        await asyncio.gather(*repeated, return_exceptions=True)
        await asyncio.gather(champions.close(), app.state.readers.close())
        await diary.note(end=True)

    app = FastAPI(
        title="Lekhani", version=__version__, summary=__doc__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.champions, app.state.limits, app.state.metrics = champions, limits, metrics
    app.state.ready = app.state.leaving = False
    app.state.loop = None
    app.add_middleware(Edge, limits=limits, metrics=metrics)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        )
    _errors(app)
    guarded = [Security(_guard(keys))] if keys else []
    _writing(app, champions, limits, metrics, guarded)
    _reading(app, champions, limits, metrics, guarded)
    _telling(app, champions, metrics, guarded)
    return app


def _writing(app: FastAPI, champions: Champions, limits: Limits, metrics: Metrics, guarded: list[Any]) -> None:
    @app.post("/v1/generate", dependencies=guarded, **GLYPHS)
    async def generate(body: Generate, request: Request, accept: Annotated[str | None, Header()] = None) -> Response:
        """Labelled glyphs: a grid, a ZIP of PNGs with labels.csv, an NPZ of `images` uint8 [N,H,W] and `labels` int64 [N], or JSON."""
        kind, served = _kind(accept, responses.KINDS), _served(champions, body.model)
        if len(body.labels) * body.n > limits.images:
            raise HTTPException(
                422,
                f"{len(body.labels) * body.n:,} images are more than {limits.images:,}, the most of one request; ask for fewer.",
            )
        pen = served.pen
        labels = np.repeat([_label(label, served) for label in body.labels], body.n).astype(np.int64)
        wishes = SamplingOptions(body.seed, body.min_confidence, body.truncation)
        wishes.check(pen.generator, pen.reader)
        if pen.generator.conditional and wishes.min_confidence is None:
            images = await served.lane.rows(noise_source(pen.generator, wishes, 0)(len(labels)), labels)
        else:

            def choose(still_wanted: Callable[[], None]) -> Bytes:
                return sample_shard(pen.generator, pen.reader, labels, wishes, advance=lambda _: still_wanted()).images

            images = await served.lane.alone(choose, len(labels))
        if served.watch is not None and wishes == SamplingOptions(
            body.seed
        ):  # what was filtered is no sample of what the model draws
            served.watch.saw(images, labels)
        _wrote(request, served, metrics, len(labels))
        about = {"model": served.about(), "seed": body.seed}
        return await _answer(kind, len(labels), responses.glyphs, kind, images, labels, pen.classes, about)

    @app.post("/v1/compose", dependencies=guarded, **GLYPHS)
    async def compose_line(body: Compose, request: Request, accept: Annotated[str | None, Header()] = None) -> Response:
        """A line of handwriting: a PNG, a ZIP of it with its transcript, an NPZ of `image` uint8 and `text`, or JSON."""
        kind, served = _kind(accept, responses.KINDS), _served(champions, body.model)
        if len(body.text) > limits.text:
            raise HTTPException(
                422, f"The text has {len(body.text):,} characters, and {limits.text:,} is the most; break it up."
            )
        style = LineStyle(height=body.height, join=body.join, variety=body.variety, augment=body.augment)
        text = plain(body.text)
        Alphabet(served.pen.classes).labels(text)  # what cannot be written is said before it waits
        picture = await served.lane.alone(
            lambda _: compose.compose(served.pen, text, body.seed, style), cost=max(1, len(text))
        )
        _wrote(request, served, metrics, len(text))
        return await _answer(
            kind, len(text), responses.line, kind, picture, text, {"model": served.about(), "seed": body.seed}
        )


def _reading(app: FastAPI, champions: Champions, limits: Limits, metrics: Metrics, guarded: list[Any]) -> None:
    @app.post("/v1/recognise", dependencies=guarded, **TOLD)
    async def recognise(body: Recognise, request: Request) -> Response:
        """Which glyph a picture shows, how sure the judge is of it in [0,1], and what else it may be."""
        reader = _reader(champions, body.model)

        def read(_: Any) -> Reading:
            return reading.recognise(reader, [_picture(body.image, limits)])[0]

        found: Reading = await request.app.state.readers.alone(read)
        return JSONResponse({"model": {"dataset": body.model, "judge": reader.sha256}, **found.as_dict()})

    @app.post("/v1/translate", dependencies=guarded, **GLYPHS)
    async def translate(body: Translate, request: Request, accept: Annotated[str | None, Header()] = None) -> Response:
        """The number that a picture shows, written again: a row of digits as PNG, or their images as ZIP, NPZ or JSON."""
        kind, reader, served = (
            _kind(accept, responses.KINDS),
            _reader(champions, body.model),
            _served(champions, body.to),
        )
        digits = await request.app.state.readers.alone(
            lambda _: translation.read_digits(reader, _picture(body.image, limits))
        )
        done: Translation = await served.lane.alone(
            lambda _: translation.write_number(served.pen, digits, body.seed, translation.MIN_CONFIDENCE), len(digits)
        )
        _wrote(request, served, metrics, len(digits))
        if kind == responses.PNG:
            return Response(responses.png(done.picture), media_type=kind)
        labels = np.array([label_of(glyph, served.pen.classes, "A digit") for glyph in done.text], np.int64)
        return await _answer(
            kind,
            0,
            responses.glyphs,
            kind,
            done.images,
            labels,
            served.pen.classes,
            {"model": served.about(), **done.as_dict()},
        )


def _telling(app: FastAPI, champions: Champions, metrics: Metrics, guarded: list[Any]) -> None:
    @app.get("/v1/models", dependencies=guarded)
    async def models() -> list[dict[str, Any]]:
        """What is served: version, classes, and what the watch makes of what was written."""
        return [_described(served) for served in champions.served.values()]

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "It starts or leaves"}})
    async def readyz(request: Request) -> JSONResponse:
        """Whether it should get requests: 503 while it starts and once it leaves. A registry that is away is told of, but is no reason."""
        state = request.app.state
        status = "leaving" if state.leaving else "ready" if state.ready else "starting"
        value = {
            "status": status,
            "models": {name: one.version for name, one in champions.served.items()},
            "trouble": champions.trouble,
        }
        return JSONResponse(value, 200 if status == "ready" else 503)

    @app.get("/metrics", dependencies=guarded, response_class=Response)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def known(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return problem(error.status_code, PLAIN.get(str(error.detail), str(error.detail)), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem(422, "The body is no JSON.")
        if first["loc"] == ("body",):
            return problem(422, "The body must be a JSON object, sent as application/json.")
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        # What was sent is not sent back: it may be anything.
        return problem(422, f"{_ascii(place)[:80]}: {first['msg']}.")

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return problem(429, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(LekhaniError)
    async def failed(_: Request, error: LekhaniError) -> JSONResponse:
        # What goes beyond a wrong wish is that a class does not come from this model, which asking for less may help.
        return problem(422, str(error))


def _guard(keys: Keys) -> Callable[..., Awaitable[None]]:
    async def guard(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if given is None or keys.holder(given.credentials) is None:
            raise HTTPException(
                401, "A valid key is needed; send it as `Authorization: Bearer KEY`.", {"WWW-Authenticate": "Bearer"}
            )

    return guard


def _kind(accept: str | None, kinds: Sequence[str]) -> str:
    kind = responses.chosen(accept, kinds)
    if kind is None:
        raise HTTPException(406, f"There is no such form; Accept one of {', '.join(kinds)}.")
    return kind


def _served(champions: Champions, dataset: str) -> Served:
    if dataset not in champions.served:
        raise HTTPException(404, f"There is no model {_ascii(dataset)} here; there are {', '.join(champions.served)}.")
    return champions.served[dataset]


def _reader(champions: Champions, dataset: str) -> Reader:
    reader = _served(champions, dataset).pen.reader
    if reader is None:
        raise HTTPException(404, f"No judge of {dataset} is served here; start the server with --judge judge.onnx.")
    return reader


def _label(wanted: str | int, served: Served) -> int:
    """A glyph, a class name or a number as text, or a number; raises UsageError naming the valid ones."""
    classes = served.pen.classes
    if isinstance(wanted, int) and wanted < len(classes):
        return wanted
    return label_of(
        str(wanted) if isinstance(wanted, str) else f"number {wanted}", classes, f"The label {_ascii(str(wanted))}"
    )


def _picture(text: str, limits: Limits) -> Bytes:
    """What a client sent in base64, as grey uint8 [H,W]; raises UsageError for what is no picture or too large a one."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("The image is no base64; encode the bytes of a picture file.") from None
    if len(content) > limits.picture_bytes:
        raise UsageError(
            f"The image has more than {limits.picture_bytes:,} bytes, the most that is taken; send a smaller one."
        )
    try:
        with Image.open(io.BytesIO(content), formats=PICTURES) as image:
            width, height = image.size  # nothing is unpacked yet
    except Exception:  # a damaged file makes Pillow raise nearly anything
        raise UsageError(f"The image cannot be read; send one of {', '.join(PICTURES)}.") from None
    if width * height > limits.picture_pixels:
        raise UsageError(
            f"The image has {width:,} x {height:,} pixels, and {limits.picture_pixels:,} is the most; shrink it."
        )
    return decode_one("the request", "sent", content, SIDE)


def _wrote(request: Request, served: Served, metrics: Metrics, images: int) -> None:
    """Let metrics, log and the day's report know."""
    served.written += images
    metrics.images.labels(served.dataset).inc(images)
    request.scope["lekhani"] = {"dataset": served.dataset, "version": served.version, "images": images}


async def _answer(kind: str, size: int, render: Callable[..., Any], *values: Any) -> Response:
    """What `render` makes of `values`; in a thread of its own where that takes a while."""
    made = await asyncio.to_thread(render, *values) if size > 8 else render(*values)
    return JSONResponse(made) if kind == responses.JSON else Response(made, media_type=kind)


def _described(served: Served) -> dict[str, Any]:
    generator = served.generator
    return {
        **served.about(),
        "alias": served.alias,
        "variant": generator.variant,
        "image_size": generator.image_size,
        "takes_labels": generator.conditional,
        "classes": [{"label": c.label, "name": c.name, "glyph": c.glyph} for c in served.pen.classes],
        "watch": reports.told(served),
    }


async def _every(seconds: float, *steps: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        for step in steps:
            try:
                await step()
            except LekhaniError as error:
                log.warning("%s", error)
            except Exception:  # tomorrow is another day; nobody would notice that a task ended
                log.exception("A bug in what runs beside the requests")


def _ascii(text: str) -> str:
    return ascii(text)[1:-1]
