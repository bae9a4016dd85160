"""Clients that misbehave get one sentence each, and others are served as before."""

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
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
LONG = float(os.environ.get("LEKHANI_LONG_LOAD_SECONDS", "300"))
ASK = {"model": "mnist", "labels": ["0", "1", "2"], "n": 2, "seed": 5}


def memory(pid: int) -> int:
    """Resident bytes of a process group's processes."""
    return sum(one.memory_info().rss for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)])


def head(path: str, length: int, more: str = "") -> bytes:
    headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}"
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


# --- a thousand requests that are wrong ---


def malformed(rng: random.Random) -> tuple[str, bytes]:
    """A path and a body that no server should take."""
    glyph = io.BytesIO()
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(glyph, "PNG")
    odd: list[Any] = [
        None,
        True,
        [],
        {},
        "",
        "x" * 500,
        -1,
        1.5,
        1e308,
        10**30,
        "\ud800",
        "\u0000",
        "\u202e०",
        [None],
        {"a": 1},
        "NaN",
        [[[]]],
    ]
    picture = base64.b64encode(glyph.getvalue()).decode()
    valid: dict[str, dict[str, Any]] = {
        "/v1/generate": {"model": "mnist", "labels": ["0"], "n": 1, "seed": 0},
        "/v1/compose": {"model": "mnist", "text": "012", "seed": 0, "height": 64, "augment": "none", "variety": 0.3},
        "/v1/explore": {"model": "mnist", "points": [{"label": "0", "mix": {"1": 0.5, "2": 0.5}}]},
        "/v1/recognise": {"model": "mnist", "image": picture},
        "/v1/translate": {"model": "mnist", "to": "mnist", "image": picture},
    }
    path, good = rng.choice(list(valid.items()))
    kind = rng.randrange(8)
    if kind == 0:  # a field of another type
        return path, json.dumps(good | {rng.choice(list(good)): rng.choice(odd)}).encode()
    if kind == 1:  # much too much
        huge = {
            "/v1/generate": {"n": rng.choice([10**4, 10**9, 10**100])},
            "/v1/compose": {"text": "0" * rng.choice([201, 10**5])},
            "/v1/explore": {"points": [{"label": "0", "mix": {"1": 1}}] * rng.choice([1001, 10**4])},
        }
        return path, json.dumps(good | huge.get(path, {"image": "A" * rng.choice([8, 10**6])})).encode()
    if kind == 2:  # an unknown field
        return path, json.dumps(good | {rng.choice(["extra", "__proto__", "क", ""]): rng.choice(odd)}).encode()
    if kind == 3:  # cut off
        body = json.dumps(good).encode()
        return path, body[: rng.randrange(len(body) - 1)]
    if kind == 4:  # no UTF-8, no JSON, too deep
        return path, rng.choice(
            [
                b"\xff\xfe{}",
                b"\x00" * 50,
                b"[" * 50_000,
                b'{"model":' * 5_000,
                b'{"n": ' + b"9" * 5_000 + b"}",
                b"NaN",
                b'"\xed\xa0\x80"',
            ]
        )
    if kind == 5:  # no text for this model
        bad = rng.choice(["क\u094d", "\ud83d", "🖋", "0\u0000", "९" * 10, "\u202e", "<script>"])
        return "/v1/compose", json.dumps({"model": "mnist", "text": bad}).encode()
    if kind == 6:  # bombs and ruins for pictures
        cut, bombs = glyph.getvalue()[: rng.randrange(60)], [png_of(60_000, 60_000), png_of(16_000, 12_000)]
        ruin = rng.choice([*bombs, cut, rng.randbytes(300), b"GIF89a" + rng.randbytes(99)])
        return rng.choice(["/v1/recognise", "/v1/translate"]), json.dumps(
            {"model": "mnist", "image": base64.b64encode(ruin).decode()}
        ).encode()
    return path, rng.choice([b"", b"null", b"[]", b'"text"', b"3", b"{}", b"{'single': 1}"])


def test_a_thousand_malformed_requests_get_a_sentence_each(server: str) -> None:
    rng, session = random.Random(8), requests.Session()
    statuses: dict[int, int] = {}
    for _ in range(1000):
        path, body = malformed(rng)
        answer = session.post(server + path, data=body, headers={"Content-Type": "application/json"}, timeout=30)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert 400 <= answer.status_code < 500, (path, body[:200], answer.text[:300])
        value = answer.json()
        assert value["status"] == answer.status_code
        assert re.fullmatch(r"[^\n]{10,800}[.]", value["detail"]), value
    assert sum(statuses.values()) == 1000
    assert session.post(f"{server}/v1/generate", json=ASK, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET / FTP\r\n\r\n", b"400"),
        (b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"400"),
        (
            b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
            b"400",
        ),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: y\r\n" * 20_000 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 65_520 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"431"),
        (head("/v1/generate", 100_000_000), b"413"),
        (
            b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 60,
            b"413",
        ),
        (b"BREW /v1/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"400"),
    ],
)
def test_broken_http(server: str, content: bytes, status: bytes) -> None:
    try:
        answer = live_server.raw_answer(server, content)
    except (ConnectionResetError, BrokenPipeError):  # it hung up on the rest
        return
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 " + status), answer[:300]
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == int(status)


def test_schemathesis_finds_no_server_error(server: str, tmp_path: Path) -> None:
    if not find_spec("schemathesis"):
        pytest.skip("schemathesis is not installed: pip install -e '.[dev]'")
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{server}/openapi.json",
        "--checks",
        "not_a_server_error,content_type_conformance",
    ]
    command += [
        "--max-examples",
        os.environ.get("LEKHANI_SCHEMA_EXAMPLES", "10"),
        "--phases",
        "examples,coverage,fuzzing",
    ]
    command += ["--seed", "7", "--generation-database", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


# --- slow clients, and clients that disconnect ---


@pytest.fixture(scope="module")
def guarded(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """A server with short time-outs that draws image by image: its address, its pid and its folder."""
    folder = tmp_path_factory.mktemp("guarded")
    limits = {
        "header_seconds": 1,
        "body_seconds": 1,
        "batch": 1,
        "images": 10_000,
        "waiting_images": 100_000,
        "answer_seconds": 600,
    }
    words = [word for name, value in limits.items() for word in ("--limit", f"{name}={value}")]
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


def test_a_head_that_trickles_is_cut_off(guarded: tuple[str, int, Path]) -> None:
    host, port = guarded[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                connection.sendall(b"X")
                time.sleep(0.1)
        assert time.monotonic() - began < 10


def test_a_disconnect_cancels_the_work(guarded: tuple[str, int, Path]) -> None:
    address, _, folder = guarded
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps(ASK | {"n": 3000}).encode()  # 9,000 batches of one
    started = time.monotonic()
    for _ in range(10):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(head("/v1/generate", len(body)) + body)
            time.sleep(0.02)
    live_server.until(lambda: sum(line.get("status") == 499 for line in live_server.logged(folder)) == 10)
    live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") == 0)
    given_up = time.monotonic() - started
    assert live_server.metric(address, "lekhani_batch_images_sum") < 90_000 / 2, (
        f"after {given_up:.1f} s most of it was never drawn"
    )
    assert statistics.median(latencies(address, 5)) < 1


def test_an_overload_is_refused_with_a_time(models: list[str], tmp_path: Path) -> None:
    limits = [
        word
        for value in ("waiting_images=3000", "images=3000", "batch=1", "answer_seconds=100")
        for word in ("--limit", value)
    ]
    with live_server.server(tmp_path, *models, *limits) as (address, _):
        seen: list[requests.Response] = []

        def ask() -> None:
            seen.append(
                requests.post(
                    f"{address}/v1/generate", json=ASK | {"n": 600}, headers={"Accept": "image/png"}, timeout=60
                )
            )

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.status_code for one in seen} == {200, 429}
        for one in seen:
            if one.status_code == 429:
                assert int(one.headers["Retry-After"]) >= 1
                assert "try again later" in one.json()["detail"]


# --- the page ---


@pytest.fixture(scope="module")
def paged(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """A server with the page: its address, its pid and its folder, which is all that it may write to."""
    folder = tmp_path_factory.mktemp("paged")
    environment = {**os.environ, "TMPDIR": str(folder)}
    with live_server.server(folder, *models, "--page", env=environment) as (address, pid):
        yield address, pid, folder


def test_the_page_can_be_left_out(server: str, paged: tuple[str, int, Path]) -> None:
    assert [requests.get(one, timeout=30).status_code for one in (server, paged[0])] == [404, 200]


def test_junk_for_the_page_leaves_nothing_behind(paged: tuple[str, int, Path]) -> None:
    address, pid, folder = paged
    session, junk = requests.Session(), {"data": ["x" * 2_900_000], "fn_index": 0, "session_hash": "s"}
    paths = ("/", "/page/", "/page/studio.js", "/page/upload", "/page/queue/join", "/page/gradio_api/queue/join")

    def abuse(times: int) -> int:
        """The number of series about requests, after that many rounds; others come with time."""
        for i in range(times):
            refused = session.post(address + paths[i % len(paths)], json=junk, timeout=30)
            assert 400 <= refused.status_code < 500
            refused = session.post(f"{address}/page/gradio_api/upload", files={"files": ("a", b"1" * 1000)}, timeout=30)
            assert 400 <= refused.status_code < 500
            for unknown in (f"/page/{i}/heartbeat", f"/{i}.html", f"/page/font/{i}"):
                assert session.get(address + unknown, timeout=30).status_code == 404
        return session.get(f"{address}/metrics", timeout=30).text.count("\nlekhani_request")

    abuse(10)
    before, files, series = memory(pid), set(folder.rglob("*")), abuse(1)
    assert abuse(100) == series
    assert memory(pid) - before < 50 << 20, "of 290 MB that were sent"
    assert set(folder.rglob("*")) == files
    assert latencies(address, 1)


def test_no_request_forges_a_line_of_the_log(paged: tuple[str, int, Path]) -> None:
    address, _, folder = paged
    forged = 'x\n{"level": "INFO", "message": "answered", "request_id": "forged"}\n'
    bodies: dict[str, dict[str, Any]] = {
        "/v1/generate": {"model": forged, "labels": [forged]},
        "/v1/compose": {"model": "mnist", "text": forged, "augment": forged},
        "/v1/translate": {"model": "mnist", "to": forged, "image": forged},
        "/page/gradio_api/queue/join": {"data": [forged], "session_hash": forged, "fn_index": forged},
    }
    quoted = requests.utils.quote(forged)
    for path, body in bodies.items():
        for one in (body, {forged: forged}, *({"model": "mnist"} | {name: value} for name, value in body.items())):
            assert requests.post(f"{address}{path}?{quoted}", json=one, timeout=30).status_code >= 400
        assert (
            requests.get(f"{address}{path}/{quoted}", headers={"X-Request-ID": quoted}, timeout=30).status_code >= 400
        )
    written = (folder / "server.log").read_text()
    assert "forged" not in written
    lines = [line for line in written.split("\n") if line and not line.startswith(f"Lekhani answers at {address} ")]
    assert all(isinstance(json.loads(line), dict) for line in lines)


# --- shutdown and kill ---


def test_sigterm_lets_requests_finish_and_waits_for_no_idle_connection(models: list[str], tmp_path: Path) -> None:
    many = ("batch=1", "answer_seconds=100", "images=10000", "waiting_images=10000")  # so that it takes a while
    limits = [word for value in many for word in ("--limit", value)]
    with live_server.server(tmp_path, *models, *limits) as (address, pid), requests.Session() as idle:
        assert idle.get(f"{address}/healthz", timeout=20).ok  # and the connection stays open
        answers: list[requests.Response] = []
        client = threading.Thread(
            target=lambda: answers.append(requests.post(f"{address}/v1/generate", json=ASK | {"n": 3000}, timeout=90))
        )
        client.start()
        live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") > 0)
        (server,) = psutil.Process(pid).children()
        server.send_signal(signal.SIGTERM)
        live_server.until(lambda: requests.get(f"{address}/readyz", timeout=20).status_code == 503)
        assert requests.get(f"{address}/readyz", timeout=20).json()["status"] == "leaving"
        client.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["images"]) == 9000
        server.wait(10)
        assert not services.answers(f"{address}/healthz")
    assert list((tmp_path / "reports" / "serving").glob("*.md")), "the day's report was written"


def test_a_killed_server_comes_back_with_the_same_glyphs(models: list[str], tmp_path: Path) -> None:
    port = services.free_port()
    answers = []
    for _ in range(2):
        with live_server.server(tmp_path, *models, port=port, end=signal.SIGKILL) as (address, pid):
            answers.append(requests.post(f"{address}/v1/generate", json=ASK, timeout=30).json())
            os.killpg(pid, signal.SIGKILL)
    assert answers[0] == answers[1]


# --- saturation ---


def saturated(address: str, pid: int, seconds: float) -> dict[str, float]:
    """What 64 connections that ask without a pause see for so long."""
    import aiohttp

    taken: list[float] = []
    statuses: dict[int, int] = {}
    sizes: list[int] = []

    async def one(session: aiohttp.ClientSession, number: int, end: float) -> None:
        seed = number
        while time.monotonic() < end:
            seed += 64
            started = time.perf_counter()
            async with session.post(
                f"{address}/v1/generate", json={"model": "mnist", "labels": [seed % 3], "seed": seed}
            ) as answer:
                await answer.read()
            taken.append(time.perf_counter() - started)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1

    async def weigh(end: float) -> None:
        while time.monotonic() < end:
            sizes.append(memory(pid))
            await asyncio.sleep(min(1.0, seconds / 10))

    async def all_of_them() -> None:
        end = time.monotonic() + seconds
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=64), timeout=aiohttp.ClientTimeout(60)
        ) as session:
            await asyncio.gather(weigh(end), *(one(session, number, end) for number in range(64)))

    asyncio.run(all_of_them())
    assert set(statuses) == {200}, statuses
    half = len(sizes) // 2
    grown = statistics.mean(sizes[half:]) - statistics.mean(sizes[2:half])
    return {
        "requests_per_second": round(len(taken) / seconds, 1),
        "p50_ms": round(1000 * statistics.median(taken), 1),
        "p99_ms": round(1000 * float(np.percentile(taken, 99)), 1),
        "megabytes": round(sizes[-1] / 2**20),
        "grown_megabytes": round(grown / 2**20, 1),
    }


def check_saturation(models: list[str], folder: Path, seconds: float) -> None:
    with live_server.server(folder, *models) as (address, pid):
        figures = saturated(address, pid, seconds)
        print(f"64 connections for {seconds:g} s: {figures}")  # noqa: T201 - the figure is what the test is for
        assert figures["grown_megabytes"] < 20, figures
        assert live_server.metric(address, "lekhani_batch_images_sum") > 1.5 * live_server.metric(
            address, "lekhani_batch_images_count"
        ), "runs are shared"
        live_server.until(lambda: live_server.metric(address, "lekhani_images_waiting") == 0)


def test_saturation_for_seconds(models: list[str], tmp_path: Path) -> None:
    check_saturation(models, tmp_path, SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_memory_is_flat_over_clients_that_come_and_go(models: list[str], tmp_path: Path) -> None:
    """50,000 requests, right and wrong, each over a connection of its own that may be cut before the answer."""
    import aiohttp

    sizes: list[int] = []

    async def one(address: str, seed: int) -> None:
        rng = random.Random(seed)
        line = json.dumps({"model": "mnist", "text": "012", "seed": seed}).encode()
        kinds = [("/", b""), ("/v1/compose", line), ("/v1/generate", json.dumps(ASK).encode()), malformed(rng)]
        path, body = kinds[seed % 4]
        connector = aiohttp.TCPConnector(force_close=True)
        # One in sixteen is cut off; a body that is too large is not read to its end.
        patience = aiohttp.ClientTimeout(0.01 if seed % 16 == 3 else 60)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
            with contextlib.suppress(*((TimeoutError, aiohttp.ClientError) if seed % 4 == 3 else ())):
                async with session.request("POST" if body else "GET", address + path, data=body or None) as answer:
                    await answer.read()
                    assert answer.status < 500

    async def all_of_them(address: str, pid: int) -> None:
        for start in range(0, 50_000, 50):
            await asyncio.gather(*(one(address, seed) for seed in range(start, start + 50)))
            if start % 1000 == 0:
                sizes.append(memory(pid))

    with live_server.server(tmp_path, *models, "--page") as (address, pid):
        asyncio.run(all_of_them(address, pid))
        print([size >> 20 for size in sizes])  # noqa: T201 - for whoever looks at how it grows
        assert statistics.mean(sizes[-10:]) - statistics.mean(sizes[10:20]) < 10 << 20
        assert live_server.metric(address, "lekhani_images_waiting") == 0


@pytest.mark.slow
def test_saturation_for_minutes(models: list[str], tmp_path: Path) -> None:
    check_saturation(models, tmp_path, LONG)
