"""uvicorn, with time-outs for clients that send or read too slowly, and a notice to load balancers before it stops."""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lekhani.errors import UsageError
from lekhani.serve.keys import is_loopback
from lekhani.serve.limits import Limits
from lekhani.serve.middleware import problem

log = logging.getLogger("lekhani.api")
DRAIN_SECONDS = 2.0  # between the notice in /readyz and no longer accepting connections
SHUTDOWN_SECONDS = 60  # for requests in flight
MAX_HEAD = 1 << 16  # bytes; the parser itself has no bound


class TimeoutProtocol(HttpToolsProtocol):
    """HTTP/1.1 in which a request's head must be short and arrive in time, and the answer be read in time.

    `limits` is set by `serve`.
    """

    limits = Limits()
    _head: asyncio.TimerHandle | None = None  # set while a head is awaited
    _head_bytes = 0
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_idle():  # empty lines begin no request, but end uvicorn's own time-out for an idle connection
            self._await_head()
        if self._head is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        _cancel(self._head)
        self._head, self._head_bytes = None, 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            self._refuse_head()
            raise ValueError("The head is too long.")  # which ends the parser
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """See uvicorn, which calls it for what is no HTTP."""
        self._refuse(400, "This is no HTTP/1.1 request; check the method, the headers and the body's length.")

    def _refuse_head(self) -> None:
        self._refuse(431, f"The request's head is longer than {MAX_HEAD:,} bytes, the most that is taken; send less.")

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer with a problem, outside of any application, and hang up."""
        if self.transport.is_closing():
            return
        answer = problem(status, sentence, {"Connection": "close", "X-Content-Type-Options": "nosniff"})
        head = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in answer.raw_headers), b"\r\n"]
        self.transport.write(b"".join([*head, answer.body]))
        self.transport.close()

    def pause_writing(self) -> None:
        """See asyncio: the client takes less than it is sent."""
        super().pause_writing()
        self._write = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._write)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head)
        _cancel(self._write)
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self.limits.header_seconds, self._hang_up)

    def _hang_up(self) -> None:
        self._head = None
        if self._is_idle():
            self.transport.abort()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class DrainingServer(uvicorn.Server):
    """On a signal /readyz answers 503, so that a load balancer sends no more, before the server shuts down.

    A second signal takes effect at once. Once requests are answered, `ready` is told so.
    """

    ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        state = self.config.app.state  # type: ignore[union-attr]
        if state.draining or state.loop is None:
            super().handle_exit(sig, frame)
            return
        state.draining = True
        log.info("Leaving: requests in flight are finished, new ones should go elsewhere.")
        state.loop.call_soon_threadsafe(state.loop.call_later, DRAIN_SECONDS, super().handle_exit, sig, frame)


def allowed_hosts(host: str, names: Sequence[str]) -> frozenset[str] | None:
    """What a request's Host may be, without the port, on a server that listens on `host`; None for anything.

    That is `names`, and this machine's own. Without `names` it is anything on other addresses than loopback: a server
    cannot know what it is called there, and requests need a key, which a page of another origin does not have. Raises
    UsageError for what is no name.
    """
    if not names and not is_loopback(host):
        return None
    for name in names:
        if not re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", name):
            raise UsageError(f"--allowed-host {name!r} is no name; write one as in api.example.org, without a port.")
    own = "localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host
    return frozenset(name.lower() for name in (*own, *names))


def address(host: str, port: int) -> str:
    """What a browser on this machine opens of a server that listens on `host`, which may be all addresses."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: FastAPI, host: str, port: int, limits: Limits, ready: Callable[[str], None] = lambda _: None) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those in flight; the process then ends by that signal.

    Port 0 is any that is free. Once requests are answered, `ready` is called with the server's address. Raises
    LekhaniError when a model cannot be served, and UsageError when the address cannot be used.
    """
    asyncio.run(app.state.champions.start())
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        failed = f"The server cannot listen on {host}, port {port} ({error.strerror or error})"
        raise UsageError(f"{failed}; choose another --host or --port.") from None
    port = listener.getsockname()[1]
    log.info("Listening on %s, port %d.", host, port)
    protocol = type("Protocol", (TimeoutProtocol,), {"limits": limits})
    settings: dict[str, Any] = {"http": protocol, "ws": "none", "timeout_graceful_shutdown": SHUTDOWN_SECONDS}
    settings |= {"log_config": None, "access_log": False, "server_header": False}
    server = DrainingServer(uvicorn.Config(app, host, port, **settings))
    server.ready = lambda: ready(address(host, port))
    server.run([listener])
