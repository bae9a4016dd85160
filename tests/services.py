"""Servers for tests: each listens on a free port of 127.0.0.1, runs until its block ends, and ends by its own pid."""

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import requests


def free_port() -> int:
    """A port on which nobody listens, among those that the system gives to no client and this process has alone."""
    first = 12_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in random.sample(range(first, first + 1_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"No port is free from {first} on.")


@contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    """Let a server answer in a thread of this process until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def answers(url: str) -> bool:
    """Whether a server greets with a status that means well."""
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


@contextmanager
def running(
    command: Sequence[str],
    ready: Callable[[], bool],
    log: Path,
    *,
    end: signal.Signals = signal.SIGKILL,
    **process: Any,
) -> Iterator[int]:
    """Start a server in a process group of its own, wait until it is `ready` and give its pid; `process` goes to Popen,
    what it says to `log`.

    When the block ends, the group gets the signal `end`, and what is left of it after 20 seconds is killed. A server
    outlives tests that were killed themselves by no more than an hour.
    """
    bounded = ["timeout", "--kill-after=20", "3600", *command]
    with log.open("a") as told:
        server = subprocess.Popen(
            bounded, stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True, **process
        )
    try:
        deadline = time.monotonic() + 240
        while not ready():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{command[0]} does not start:\n{log.read_text()}"
            time.sleep(0.1)
        yield server.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, end)
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=20)
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=20)


@contextmanager
def mlflow_server(
    folder: Path, port: int, store: str, artifacts: str, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """MLflow's server over a database and a place for artifacts, with the variables in `environment`; its log lies
    in `folder`."""
    others = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_"))}
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **(environment or {}),
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", artifacts]
    health = f"http://127.0.0.1:{port}/health"
    with running(command, lambda: answers(health), folder / "server.log", cwd=folder, env=others | settings) as pid:
        yield pid


@contextmanager
def fake_s3(bucket: str) -> Iterator[str]:
    """The address of a fake S3 in this process, with one empty bucket; any credentials will do."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        client = boto3.client(
            "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        client.create_bucket(Bucket=bucket)
        yield address
    finally:
        server.stop()
