"""The middleware of every request: id, limits on body and time, errors as problem details, log and metrics."""

import asyncio
import http
import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lekhani.serve.limits import Limits
from lekhani.serve.telemetry import Metrics

log = logging.getLogger("lekhani.api")
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORT = re.compile(r":\d*$")
_METHODS = {method.value for method in http.HTTPMethod}


def problem(status: int, sentence: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """An error as RFC 9457 wants it, with one sentence for people and `more` members."""
    value = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return JSONResponse({**value, **more}, status, headers, "application/problem+json")


class _RefusedError(Exception):
    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


class RequestMiddleware:
    """ASGI middleware around the whole application.

    Requests to another host than `hosts`, if any, are refused, against DNS rebinding: a page of another origin, whose
    name was made to point here, may read what that name answers. A request's body is read whole and within the limits
    before the application starts. When a client disconnects, its request is cancelled.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, hosts: Collection[str] | None = None) -> None:
        self.app, self.limits, self.metrics, self.hosts = app, limits, metrics, hosts
        self.held = 0  # bytes of all bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, body = time.perf_counter(), 0, bytearray()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        async def refuse(code: int, sentence: str, **headers: str) -> None:
            if not status:  # an answer that has begun cannot become another one
                await problem(code, sentence, headers)(scope, receive, answer)

        # What answers GET answers HEAD; uvicorn, which knows the method that came, leaves the body out.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        self.metrics.in_flight.inc()
        try:
            self._check_host(scope)
            await self._read(body, scope, receive)
            await self._handle(asked, receive, answer, bytes(body))
        except _RefusedError as refused:
            await refuse(refused.status, refused.sentence, Connection="close", **refused.headers)
        except TimeoutError:
            seconds = f"{self.limits.answer_seconds:g} seconds"
            sentence = f"The answer took longer than {seconds}; ask for less at once, or try again later."
            await refuse(503, sentence, **{"Retry-After": "10"})
        except _DisconnectedError:
            status = 499  # nginx's code for it, for the log alone
        except Exception:
            log.exception("A bug", extra={"request_id": request_id})
            await refuse(500, f"This is a bug; the log has more under the request id {request_id}.")
        finally:
            self.held -= len(body)
            self.metrics.in_flight.dec()
            asked["method"] = scope["method"]
            self._record(asked, status or 499, time.perf_counter() - started, request_id)

    def _check_host(self, scope: Scope) -> None:
        """Raise _RefusedError when the request is to another host; see `hosts`."""
        host = _PORT.sub("", Headers(scope=scope).get("host", "")).lower()
        if self.hosts is not None and host not in self.hosts:
            raise _RefusedError(421, "This server has another name; start it with --allowed-host NAME to add this one.")

    async def _read(self, body: bytearray, scope: Scope, receive: Receive) -> None:
        """Fill `body`.

        Raises _RefusedError when it is too large or too slow, or too much is held already, and _DisconnectedError.
        """
        most, seconds = self.limits.body_bytes, self.limits.body_seconds
        too_large = _RefusedError(413, f"The body is larger than {most:,} bytes, the most that is taken; send less.")
        with suppress(ValueError):
            if int(Headers(scope=scope).get("content-length", "0")) > most:
                raise too_large
        try:
            async with asyncio.timeout(seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _DisconnectedError
                    part = message.get("body", b"")
                    body += part
                    self.held += len(part)
                    if len(body) > most:
                        raise too_large
                    if self.held > self.limits.held_bytes:
                        raise _RefusedError(
                            429, "Too much is being sent at this moment; try again later.", {"Retry-After": "5"}
                        )
                    more = message.get("more_body", False)
        except TimeoutError:
            raise _RefusedError(408, f"The body did not arrive within {seconds:g} seconds; send it faster.") from None

    async def _handle(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Run the application until it has answered.

        Raises TimeoutError when time is up, and _DisconnectedError when the client is gone.
        """
        gone = asyncio.ensure_future(receive())
        given = complete = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await asyncio.shield(gone)
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def notice(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        work = asyncio.ensure_future(self.app(scope, replay, notice))
        try:
            await asyncio.wait({work, gone}, timeout=self.limits.answer_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not complete:
                raise _DisconnectedError if gone.done() else TimeoutError
            await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route: str = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        facts: dict[str, Any] = {"request_id": request_id, "method": method, "route": route, "status": status}
        facts |= {"milliseconds": round(1000 * seconds, 1), "client": (scope.get("client") or ["unknown"])[0]}
        level = logging.DEBUG if scope.get("lekhani_asset") else logging.INFO  # a page is many files
        log.log(level, "answered", extra=facts | scope.get("lekhani", {}))


class _DisconnectedError(Exception):
    """The client went away."""
