"""Requests per second of `lekhani serve` and of `mlflow models serve`, one image each, and the session, by turns.

    python benchmarks/serve_api.py models/mnist/turbo/generator.onnx [--connections 64] [--seconds 10]
        [--out benchmarks/results/serve_api_cpu.json]

session  Generator.run in this process with a batch of as many images as there are connections: images per second
api      `lekhani serve`: POST /v1/generate for one image as JSON, from that many connections, one request after another
mlflow   `mlflow models serve` with one worker, the same model and the same requests

Clients, servers and session share this machine's cores, so the figures are lower bounds; the ratios are what counts.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from origin import origin

from lekhani.files import write_json
from lekhani.inference.session import Generator

TURNS = 3


@contextmanager
def running(command: Sequence[str], health: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A server, from when it answers until the block ends."""
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | environment)
    try:
        for _ in range(2400):
            try:
                urllib.request.urlopen(health, timeout=2).close()  # noqa: S310 - our own address
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None:
                    sys.exit(f"{command} ended:\n{(folder / 'server.log').read_text()}")
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


async def load(url: str, bodies: Sequence[Any], connections: int, seconds: float) -> dict[str, float]:
    """Requests per second and latencies of so many connections, each with one request after another."""
    taken: list[float] = []

    async def one(session: aiohttp.ClientSession, number: int, end: float) -> None:
        while time.monotonic() < end:
            started = time.perf_counter()
            async with session.post(url, json=bodies[number % len(bodies)]) as answer:
                await answer.read()
                answer.raise_for_status()
            taken.append(time.perf_counter() - started)
            number += connections

    started = time.monotonic()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(120)
    ) as session:
        await asyncio.gather(*(one(session, number, started + seconds) for number in range(connections)))
    spent = time.monotonic() - started
    return {
        "per_second": len(taken) / spent,
        "p50_ms": 1000 * statistics.median(taken),
        "p99_ms": 1000 * float(np.percentile(taken, 99)),
    }


def bare_session(generator: Generator, batch: int, seconds: float) -> dict[str, float]:
    """Images per second of the session, noise included."""
    rng, labels = np.random.default_rng(0), np.arange(batch, dtype=np.int64) % len(generator.classes)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        generator.run(rng.standard_normal((batch, generator.noise_dim), dtype=np.float32), labels)
        count += batch
    return {"per_second": count / (time.perf_counter() - started)}


def log_model(path: Path, store: dict[str, str]) -> str:
    """Log the generator in a store of its own as `lekhani register` does, and return its URI."""
    script = """
import sys
from pathlib import Path
from lekhani.tracking import logged, runs
print(logged.log_model(runs.create_run("benchmark", "peer", "benchmark", {}), Path(sys.argv[1])))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(path)],
        env=os.environ | store,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1]


def requests_of(generator: Generator, api: str, mlflow: str) -> dict[str, tuple[str, list[Any]]]:
    """The addresses and the bodies of the requests, which mean the same to both servers."""
    glyphs = [c.glyph for c in generator.classes]
    labels = [glyphs[seed % len(glyphs)] for seed in range(1000)]
    ours = [{"model": generator.dataset, "labels": [label], "seed": seed} for seed, label in enumerate(labels)]
    theirs = [{"dataframe_records": [{"label": one}], "params": {"seed": seed}} for seed, one in enumerate(labels)]
    return {"api": (f"{api}/v1/generate", ours), "mlflow": (f"{mlflow}/invocations", theirs)}


def measure(model: Path, generator: Generator, given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """The figures of every turn, by name."""
    api, mlflow = (f"http://127.0.0.1:{port}" for port in given.ports)
    results: dict[str, list[dict[str, float]]] = {"session": [], "api": [], "mlflow": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
        python = [sys.executable, "-m"]
        serve = [*python, "lekhani", "serve", "--no-page", "--model", str(model), "--port", str(given.ports[0])]
        peer = [*python, "mlflow", "models", "serve", "--model-uri", log_model(model, store), "--env-manager", "local"]
        peer += ["--host", "127.0.0.1", "--port", str(given.ports[1])]
        with running(serve, f"{api}/readyz", folder, {}), running(peer, f"{mlflow}/ping", folder, store):
            for turn in range(TURNS + 1):
                seconds = given.seconds if turn else 2.0  # the first one warms up
                found = {"session": bare_session(generator, given.connections, seconds)}
                for name, (url, bodies) in requests_of(generator, api, mlflow).items():
                    found[name] = asyncio.run(load(url, bodies, given.connections, seconds))
                if turn:
                    for name, one in found.items():
                        results[name].append(one)
    return results


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="each turn")
    parser.add_argument("--ports", type=int, nargs=2, default=[8701, 8702])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = given.model.resolve()
    generator = Generator(model)
    middle = {
        name: {key: round(statistics.median(turn[key] for turn in turns), 1) for key in turns[0]}
        for name, turns in measure(model, generator, given).items()
    }
    speed = {name: figures["per_second"] for name, figures in middle.items()}
    ratios = {
        "api_to_mlflow": round(speed["api"] / speed["mlflow"], 2),
        "api_to_session": round(speed["api"] / speed["session"], 3),
    }
    for name, figures in middle.items():
        print(f"{name:8}" + "".join(f"{key} {value:>10,.1f}   " for key, value in figures.items()))
    print(ratios)
    if given.out:
        report = {
            **origin("onnxruntime-gpu", "fastapi", "uvicorn", "mlflow"),
            "model": f"{generator.dataset}/{generator.variant}",
            "connections": given.connections,
            "median_of_turns": middle,
            "ratios": ratios,
        }
        write_json(given.out, report)


if __name__ == "__main__":
    main()
