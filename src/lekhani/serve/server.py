"""uvicorn, with what it lacks: time-outs for clients that send or take too slowly, and a word to load balancers before it stops."""

import asyncio
import importlib.util
import logging
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from lekhani.errors import UsageError
from lekhani.serve.limits import Limits

log = logging.getLogger("lekhani.api")
LEAVE_SECONDS = 2.0  # between saying so in /readyz and closing the door
FINISH_SECONDS = 60  # for requests in flight


class PatientProtocol(H11Protocol):
    """HTTP/1.1 in which a request's head must arrive in time, and an answer be taken in time; `limits` is set by `serve`."""

    limits = Limits()
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """See asyncio: the client takes less than it is sent."""
        super().pause_writing()
        self._write = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        _off(self._write)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        _off(self._head)
        _off(self._write)
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        # Idle is the client's state until its request's head is complete; between requests uvicorn has a time-out of its own.
        if self.conn.their_state is not h11.IDLE:
            _off(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self.limits.header_seconds, self._hang_up)

    def _hang_up(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self.transport.abort()


def _off(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """It says in /readyz that it leaves, so that a load balancer sends no more, and then finishes what it has begun.

    A second signal is heard at once.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        state = self.config.app.state  # type: ignore[union-attr]
        if state.leaving or state.loop is None:
            super().handle_exit(sig, frame)
            return
        state.leaving = True
        log.info("Leaving: requests in flight are finished, new ones should go elsewhere.")
        state.loop.call_soon_threadsafe(state.loop.call_later, LEAVE_SECONDS, super().handle_exit, sig, frame)


def add_page(app: FastAPI, *, asks_key: bool) -> None:
    """Put the page at "/", or say that it needs Gradio; see `page.mount`."""
    if importlib.util.find_spec("gradio") is None:
        log.warning("There is no page at /: it needs Gradio; pip install 'lekhani[page]', or start with --no-page.")
        return
    from lekhani.serve.page import mount

    mount(app, asks_key=asks_key)


def serve(app: FastAPI, host: str, port: int, limits: Limits) -> None:
    """Answer until SIGTERM or SIGINT, then finish what is in flight; the process then ends as that signal ends one.

    Raises LekhaniError when a model cannot be served, and UsageError when the address cannot be listened on.
    """
    asyncio.run(app.state.champions.start())
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except OSError as error:
        raise UsageError(f"{host}, port {port}, cannot be listened on ({error.strerror or error}); choose another --host or --port.") from None
    log.info("Listening on %s, port %d.", host, port)
    protocol = type("Protocol", (PatientProtocol,), {"limits": limits})
    settings: dict[str, Any] = {"http": protocol, "ws": "none", "log_config": None, "access_log": False, "server_header": False}
    Server(uvicorn.Config(app, host, port, timeout_graceful_shutdown=FINISH_SECONDS, **settings)).run([listener])
