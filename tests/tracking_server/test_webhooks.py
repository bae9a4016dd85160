"""MLflow's webhooks tell of promotions and refusals: what docs/promotion.md has somebody set up, against a listener."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
import services
from cryptography.fernet import Fernet
from workspace import ROOT

from lekhani.registry import promotion


class Listener(HTTPServer):
    """Keeps what is posted to it, with its headers."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.news = threading.Condition()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def until(self, **data: str) -> dict[str, str]:
        """The headers of the first message whose data hold these."""

        def found() -> dict[str, str] | None:
            matching = (headers for body, headers in self.heard if data.items() <= body["data"].items())
            return next(matching, None)

        with self.news:
            headers = self.news.wait_for(found, timeout=60)
        assert headers is not None, f"nothing of {data} in {[body for body, _ in self.heard]}"
        return headers


class Handler(BaseHTTPRequestHandler):
    """See `Listener`."""

    server: Listener

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.news:
            self.server.heard.append((body, {key.lower(): value for key, value in self.headers.items()}))
            self.server.news.notify_all()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    with services.serving(server):
        yield server


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    """An MLflow server that may call this machine."""
    port = services.free_port()
    settings = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    with services.mlflow_server(tmp_path, port, f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), settings):
        yield f"http://127.0.0.1:{port}"


def test_promotions_and_refusals_are_told(uri: str, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "promotion.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"<<'END'\n(.*create_webhook.*?)^END$", page, re.MULTILINE | re.DOTALL)
    for name, value in (("MLFLOW_TRACKING_URI", uri), ("WEBHOOK_URL", listener.url), ("WEBHOOK_SECRET", "a secret")):
        monkeypatch.setenv(name, value)
    said = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "200"
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("lekhani-mnist")
    client.create_model_version("lekhani-mnist", "s3://nowhere/model")

    client.set_model_version_tag("lekhani-mnist", "1", "gate.verdict", "refuse")  # as promotion.record does
    listener.until(name="lekhani-mnist", version="1", key="gate.verdict", value="refuse")
    promotion.promote("mnist", "1", None)
    headers = listener.until(name="lekhani-mnist", alias="champion", version="1")
    assert headers["x-mlflow-signature"].startswith("v1,")
