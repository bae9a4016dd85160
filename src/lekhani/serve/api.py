"""The HTTP API: what the Python API does, for many clients at once, within limits."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from lekhani import __version__
from lekhani.errors import LekhaniError
from lekhani.handwriting.ink import PictureError
from lekhani.handwriting.recognise import UnsureError
from lekhani.serve import routes, studio_routes
from lekhani.serve.batching import BoundedPool, BusyError
from lekhani.serve.champions import Champions, ModelSource
from lekhani.serve.common import Holder
from lekhani.serve.daily_report import DailyReport
from lekhani.serve.keys import Keys
from lekhani.serve.limits import Limits
from lekhani.serve.middleware import RequestMiddleware, problem
from lekhani.serve.telemetry import Metrics
from lekhani.serve.versions import Versions

log = logging.getLogger("lekhani.api")
READERS = 2  # pictures that are read at a time: a large one takes much memory

# Sentences in place of the framework's few words.
SENTENCES = {
    "Not Found": "There is nothing at this address; GET /openapi.json says what there is.",
    "Method Not Allowed": "This address takes another method; GET /openapi.json says which.",
    "There was an error parsing the body": "The body cannot be read as JSON.",
}


# What pydantic finds wrong, by its name for it, in words for people.
MISTAKES = {
    "missing": "It is missing; send it too.",
    "extra_forbidden": "There is no such field; leave it out.",
    "string_too_short": "There is nothing in it; send at least one character.",
    "string_too_long": "It is too long; send at most {max_length:,} characters.",
    "too_short": "There is nothing in it; send at least one.",
    "too_long": "These are too many; send at most {max_length:,}.",
    "greater_than_equal": "It is too small; send {ge} or more.",
    "greater_than": "It is too small; send more than {gt}.",
    "less_than_equal": "It is too large; send at most {le:,}.",
    "finite_number": "It is not finite; send a number.",
    "string_type": "It is no text; send text between quotes.",
    "string_pattern_mismatch": "It is not written as the schema wants it; see GET /openapi.json.",
    "int_type": "It is no whole number; send one.",
    "int_parsing": "It is no whole number; send one.",
    "float_type": "It is no number; send one.",
    "bool_type": "It is neither true nor false; send one of them.",
    "list_type": "It is no list; send one, as in [1, 2].",
    "dict_type": "It is no object; send one, as in {{}}.",
    "literal_error": "There is no such choice; send {expected}.",
}
_NO_FIELDS = {"constrained-str", "constrained-int", "[key]"}  # what pydantic names beside the fields themselves


def create_app(
    sources: Sequence[ModelSource],
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    hosts: Collection[str] | None = None,
    cors: Sequence[str] = (),
    agreement: float = 0.9,
    poll_seconds: float = 30.0,
    monitor_seconds: float = 10.0,
    report_folder: Path | None = None,
) -> FastAPI:
    """The application, which loads the models of `sources` when it starts.

    With `keys`, one of them is required on every route but the health checks and the schema. `hosts` are the names to
    answer to, None for any (see `server.allowed_hosts`); `cors` are origins whose pages may call the API. The registry
    is asked for new champions every `poll_seconds`, and `agreement` is what their self-test requires; every
    `monitor_seconds` the quality of what was served is measured, and `report_folder` gets a report each day.
    """
    limits, metrics = limits or Limits(), Metrics()
    app = FastAPI(
        title="Lekhani", version=__version__, summary=__doc__, lifespan=_lifespan, docs_url=None, redoc_url=None
    )
    state = app.state
    state.limits, state.metrics, state.champions = limits, metrics, Champions(sources, limits, metrics, agreement)
    state.keys, state.waiting = keys, Counter()
    state.report = DailyReport(state.champions, report_folder)
    state.poll_seconds, state.monitor_seconds = poll_seconds, monitor_seconds
    state.ready = state.draining = False
    state.loop = None  # while it runs
    app.add_middleware(RequestMiddleware, limits=limits, metrics=metrics, hosts=hosts)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        )
    for router in (routes.api, studio_routes.api):
        app.include_router(router, dependencies=[Security(_need_key)] if keys else [])
    app.include_router(routes.health)
    _add_error_handlers(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    champions, report = state.champions, state.report
    state.loop = asyncio.get_running_loop()
    state.pictures = BoundedPool(READERS, state.limits.waiting_pictures, 0.8 * state.limits.answer_seconds)
    lookups = BoundedPool(READERS, state.limits.waiting_pictures, 0.8 * state.limits.answer_seconds, "requests")
    state.versions = Versions(champions, lookups)
    if not champions.served:
        await champions.start()
    repeated = [
        asyncio.create_task(_every(state.poll_seconds, champions.poll)),
        asyncio.create_task(_every(state.monitor_seconds, champions.update_monitors, report.update)),
    ]
    state.ready = True
    yield
    state.ready = False
    for task in repeated:
        task.cancel()
    await asyncio.gather(*repeated, return_exceptions=True)
    await _logged(partial(report.update, end=True))


async def _every(seconds: float, *steps: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        for step in steps:
            await _logged(step)


async def _logged(step: Callable[[], Awaitable[None]]) -> None:
    """Log what `step` raises: it would end a task, which nobody would notice, or the server's shutdown."""
    try:
        await step()
    except LekhaniError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("A bug in what runs beside the requests")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def known(request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(headers["Allow"])
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        return problem(error.status_code, SENTENCES.get(str(error.detail), str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Of what may be text or a number, pydantic says that it is not the other one, too.
        first = sorted(error.errors(), key=lambda one: str(one["type"]).endswith("_type"))[0]
        if first["type"] == "json_invalid":
            return problem(422, "The body is no JSON.")
        if first["loc"] == ("body",):
            return problem(422, "The body must be a JSON object, sent as application/json.")
        place = ".".join(str(part) for part in first["loc"][1:] if part not in _NO_FIELDS)
        known = MISTAKES.get(first["type"])
        sentence = known.format(**first.get("ctx", {})) if known else f"{first['msg']}."
        # What was sent is not sent back: it may be anything.
        return problem(422, f"{ascii(place)[1:-1][:80]}: {sentence}")

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return problem(429, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(PictureError)
    async def unread(_: Request, error: PictureError) -> JSONResponse:
        why: dict[str, Any] = {"reason": error.reason}
        if error.glyphs is not None:
            why["glyphs"] = error.glyphs
        if isinstance(error, UnsureError):
            why["readings"] = [one.as_dict() for one in error.readings]
            why["parts"] = [one.as_dict() for one in error.parts]
        return problem(422, str(error), **why)

    @app.exception_handler(LekhaniError)
    async def failed(_: Request, error: LekhaniError) -> JSONResponse:
        # Beyond bad input that is a class that the model does not draw, where another request may succeed.
        return problem(422, str(error))


def _allowed(methods: str) -> str:
    """The methods of an address beside those that are listed: RequestMiddleware takes HEAD for GET."""
    found = {*re.findall(r"[A-Z]+", methods), "OPTIONS"}
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))


async def _need_key(holder: Holder) -> None:
    if holder is None:
        sentence = "A valid key is needed; send it as `Authorization: Bearer KEY`."
        raise HTTPException(401, sentence, {"WWW-Authenticate": "Bearer"})
