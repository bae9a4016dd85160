"""Clients that misbehave get one sentence each, and others are served as before."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import live_server
import numpy as np
import psutil
import pytest
import requests
import services
from PIL import Image

SECONDS = float(os.environ.get("LEKHANI_LOAD_SECONDS", "5"))
ASK = {"model": "mnist", "labels": ["0", "1", "2"], "n": 2, "seed": 5}


def memory(pid: int) -> int:
    """Resident bytes of a process group's processes."""
    return sum(one.memory_info().rss for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)])


def head(path: str, length: int, more: str = "") -> bytes:
    headers = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is that large, of few bytes: white, as far as it goes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    pixels = b"".join(packer.compress(row) for _ in range(min(height, 2000))) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


# --- requests that are wrong ---


def asking(**fields: Any) -> bytes:
    return json.dumps({"model": "mnist", **fields}).encode()


def showing(picture: bytes) -> bytes:
    return asking(image=base64.b64encode(picture).decode())


GLYPH = io.BytesIO()
Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(GLYPH, "PNG")
MALFORMED = [
    ("generate", b""),
    ("generate", b"null"),
    ("generate", b"[]"),
    ("generate", b"{'single': 1}"),
    ("generate", b"\xff\xfe{}"),
    ("generate", b"\x00" * 50),
    ("generate", b"[" * 50_000),
    ("generate", b'{"model":' * 5_000),
    ("generate", b'{"n": ' + b"9" * 5_000 + b"}"),
    ("generate", b'"\xed\xa0\x80"'),
    ("generate", asking(labels=["0"])[:-5]),
    ("generate", asking(labels=[[[]]])),
    ("generate", asking(labels=["\ud800"])),
    ("generate", asking(labels=["0"], n=10**100)),
    ("generate", asking(labels=["0"], seed=-1)),
    ("generate", asking(labels=["0"], seed=1e308)),
    ("generate", asking(labels=["0"], __proto__={"a": 1})),
    ("compose", asking(text="0" * 100_000)),
    ("compose", asking(text="\u202e")),
    ("compose", asking(text="<script>")),
    ("compose", asking(text="0\u0000")),
    ("compose", asking(text="012", height=1.5)),
    ("recognise", asking(image="!!!")),
    ("recognise", asking(image="A" * 10**6)),
    ("recognise", showing(b"GIF89a and nothing more")),
    ("recognise", showing(GLYPH.getvalue()[:60])),
    ("recognise", showing(png_of(60_000, 60_000))),
    ("translate", showing(png_of(16_000, 12_000))),
    ("translate", showing(bytes(300))),
]


@pytest.mark.parametrize(("path", "body"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_request_gets_a_sentence(server: str, path: str, body: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    answer = requests.post(f"{server}/v1/{path}", data=body, headers=kind, timeout=30)
    assert 400 <= answer.status_code < 500, answer.text[:300]
    value = answer.json()
    assert value["status"] == answer.status_code
    assert re.fullmatch(r"[^\n]{10,800}[.]", value["detail"]), value
    assert requests.post(f"{server}/v1/generate", json=ASK, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET / FTP\r\n\r\n", b"400"),
        (b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello", b"400"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"4"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Many: y\r\n" * 20_000 + b"\r\n", b"400"),
        (head("/v1/generate", 100_000_000), b"413"),
        (
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 60,
            b"413",
        ),
        (b"BREW /v1/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"400"),
    ],
)
def test_broken_http(server: str, content: bytes, status: bytes) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(content)
            answer = live_server.receive(connection, TimeoutError)
        except (ConnectionResetError, BrokenPipeError):  # it hung up on the rest
            answer = b"HTTP/1.1 " + status
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]


def test_schemathesis_finds_no_server_error(server: str, tmp_path: Path) -> None:
    if not find_spec("schemathesis"):
        pytest.skip("schemathesis is not installed: pip install -e '.[dev]'")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server}/openapi.json"]
    command += ["--checks", "not_a_server_error,content_type_conformance", "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", os.environ.get("LEKHANI_SCHEMA_EXAMPLES", "10")]
    command += ["--seed", "7", "--generation-database", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


# --- slow clients, and clients that disconnect ---


def limits(**values: float) -> list[str]:
    return [word for name, value in values.items() for word in ("--limit", f"{name}={value}")]


@pytest.fixture(scope="module")
def guarded(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """A server with short time-outs that draws image by image: its address, its pid and its folder."""
    folder = tmp_path_factory.mktemp("guarded")
    words = limits(
        header_seconds=1, body_seconds=1, batch=1, images=10_000, waiting_images=100_000, answer_seconds=3600
    )
    with live_server.server(folder, *models, *words) as (address, pid):
        yield address, pid, folder


def latencies(address: str, count: int = 30) -> list[float]:
    session, taken = requests.Session(), []
    for _ in range(count):
        started = time.perf_counter()
        assert session.post(f"{address}/v1/generate", json=ASK, timeout=30).status_code == 200
        taken.append(time.perf_counter() - started)
    return taken


def test_slow_loris_does_not_slow_others(guarded: tuple[str, int, Path]) -> None:
    address, pid, _ = guarded
    host, port = address.removeprefix("http://").split(":")
    usual, before = statistics.median(latencies(address)), memory(pid)
    slow = []
    for i in range(200):
        connection = socket.create_connection((host, int(port)), timeout=20)
        connection.sendall(b"POST /v1/generate HTT" if i % 2 else head("/v1/generate", 1000) + b'{"model"')
        slow.append(connection)
    began = time.monotonic()
    assert statistics.median(latencies(address)) < 3 * usual + 0.05
    assert memory(pid) - before < 50 << 20
    answers = []
    for connection in slow:
        answers.append(live_server.receive(connection, ConnectionResetError))
        connection.close()
    assert time.monotonic() - began < 30, "all were hung up on"
    assert all(
        b"408" in answer.split(b"\r\n")[0] and b"did not arrive within 1 seconds" in answer for answer in answers[::2]
    )
    assert not any(answers[1::2]), "who sends no whole head gets no answer"

    with socket.create_connection((host, int(port)), timeout=20) as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                connection.sendall(b"X")
                time.sleep(0.1)
        assert time.monotonic() - began < 10, "a head that trickles is cut off"


def test_a_disconnect_cancels_the_work(guarded: tuple[str, int, Path]) -> None:
    address, _, folder = guarded
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps(ASK | {"n": 3000}).encode()  # 9,000 batches of one
    latencies(address)  # a server that has only drawn its first, slow batch refuses so many as too slow
    connections = [socket.create_connection((host, int(port)), timeout=20) for _ in range(10)]
    for connection in connections:
        connection.sendall(head("/v1/generate", len(body)) + body)
    live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") > 60_000)
    for connection in connections:
        connection.close()
    live_server.until(lambda: sum(line.get("status") == 499 for line in live_server.logged(folder)) == 10)
    live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") == 0)
    assert live_server.metric(address, "lekhani_batch_images_sum") < 90_000 / 2, "most of it was never drawn"
    assert statistics.median(latencies(address, 5)) < 1


def test_an_overload_is_refused_with_a_time(models: list[str], tmp_path: Path) -> None:
    words = limits(waiting_images=3000, images=3000, batch=1, answer_seconds=100)
    with live_server.server(tmp_path, *models, *words) as (address, _):

        def ask(_: int) -> requests.Response:
            kind = {"Accept": "image/png"}
            return requests.post(f"{address}/v1/generate", json=ASK | {"n": 600}, headers=kind, timeout=60)

        with ThreadPoolExecutor(12) as clients:
            answers = list(clients.map(ask, range(12)))
    assert {one.status_code for one in answers} == {200, 429}
    refused = [one for one in answers if one.status_code == 429]
    assert all(int(one.headers["Retry-After"]) >= 1 for one in refused)
    assert all("try again later" in one.json()["detail"] for one in refused)


# --- shutdown ---


def test_sigterm_lets_requests_finish(models: list[str], tmp_path: Path) -> None:
    words = limits(batch=1, answer_seconds=100)
    with live_server.server(tmp_path, *models, *words) as (address, pid), ThreadPoolExecutor(1) as client:
        work = client.submit(requests.post, f"{address}/v1/generate", json=ASK | {"n": 300}, timeout=90)
        live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") > 0)
        (server,) = psutil.Process(pid).children()
        server.send_signal(signal.SIGTERM)
        live_server.until(lambda: requests.get(f"{address}/readyz", timeout=20).status_code == 503)
        assert requests.get(f"{address}/readyz", timeout=20).json()["status"] == "leaving"
        assert work.result().status_code == 200
        assert len(work.result().json()["images"]) == 900
        live_server.until(lambda: not services.answers(f"{address}/healthz"))
        server.wait(20)
    assert list((tmp_path / "reports" / "serving").glob("*.md")), "the day's report was written"


# --- saturation ---


def test_saturation_shares_runs_and_does_not_grow(models: list[str], tmp_path: Path) -> None:
    """64 connections that ask without a pause, for LEKHANI_LOAD_SECONDS."""
    import aiohttp

    statuses: set[int] = set()
    sizes: list[int] = []

    async def ask(session: aiohttp.ClientSession, address: str, seed: int, end: float) -> None:
        while time.monotonic() < end:
            seed += 64
            body = {"model": "mnist", "labels": [seed % 3], "seed": seed}
            async with session.post(f"{address}/v1/generate", json=body) as answer:
                await answer.read()
                statuses.add(answer.status)

    async def weigh(pid: int, end: float) -> None:
        while time.monotonic() < end:
            sizes.append(memory(pid))
            await asyncio.sleep(min(1.0, SECONDS / 10))

    async def all_of_them(address: str, pid: int) -> None:
        end = time.monotonic() + SECONDS
        connections, patience = aiohttp.TCPConnector(limit=64), aiohttp.ClientTimeout(60)
        async with aiohttp.ClientSession(connector=connections, timeout=patience) as session:
            await asyncio.gather(weigh(pid, end), *(ask(session, address, number, end) for number in range(64)))

    with live_server.server(tmp_path, *models) as (address, pid):
        asyncio.run(all_of_them(address, pid))
        assert statuses == {200}
        half = len(sizes) // 2
        assert statistics.mean(sizes[half:]) - statistics.mean(sizes[2:half]) < 20 << 20
        runs, images = (live_server.metric(address, f"lekhani_batch_images_{one}") for one in ("count", "sum"))
        assert images > 1.5 * runs, "runs are shared"
        live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") == 0)
