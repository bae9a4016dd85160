"""Small servers, and clients that send bytes as they are."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import services


@contextmanager
def server(folder: Path, *words: str, port: int | None = None, **process: Any) -> Iterator[tuple[str, int]]:
    """`lekhani serve` with these options until the block ends, logging to server.log in `folder`.

    Yields its address and the pid of its process group.
    """
    port = port or services.free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "lekhani", "serve", "--no-page", "--port", str(port), *words]
    folder.mkdir(parents=True, exist_ok=True)
    with services.running(
        command, lambda: services.answers(f"{address}/readyz"), folder / "server.log", cwd=folder, **process
    ) as pid:
        until(lambda: f"Lekhani answers at {address} " in (folder / "server.log").read_text())
        yield address, pid


def logged(folder: Path) -> list[dict[str, Any]]:
    """What a server has logged, line by line."""
    return [json.loads(line) for line in (folder / "server.log").read_text().splitlines() if line.startswith("{")]


def metric(address: str, name: str, **labels: str) -> float:
    """A metric's value; the sum over all labels that are not named."""
    from prometheus_client.parser import text_string_to_metric_families

    text = requests.get(f"{address}/metrics", timeout=20).text
    found = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return sum(s.value for s in found if labels.items() <= s.labels.items())


def raw_answer(address: str, content: bytes, seconds: float = 20, parts: Sequence[bytes] = ()) -> bytes:
    """The answer to these bytes, sent as they are, until the server closes the connection or that time is over."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        for part in (content, *parts):
            connection.sendall(part)
        return receive(connection, TimeoutError)


def receive(connection: socket.socket, end: type[OSError]) -> bytes:
    """All bytes until the other side closes the connection, or until that error, which counts as the end."""
    answer = b""
    with suppress(end):
        while part := connection.recv(65536):
            answer += part
    return answer


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for that to be true; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.05)
