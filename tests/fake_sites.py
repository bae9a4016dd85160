"""Fakes of Kaggle and OpenML on this machine, and the archives that they serve."""

import base64
import gzip
import hashlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from services import serving

from lekhani.data.spec import DEVANAGARI

TOKEN, USER, KEY, SIGNATURE = "KGAT_0123456789secret", "reader", "fedcba9876543210secretkey", "SIGNED0123456789secret"
SECRETS = (TOKEN, KEY, SIGNATURE, base64.b64encode(f"{USER}:{KEY}".encode()).decode())

Fault = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """One request; what it answers is decided by the fake that the server belongs to."""

    timeout = 10
    site: "FakeSite"

    def do_GET(self) -> None:
        self.site.handle(self, b"")

    def do_HEAD(self) -> None:
        self.site.handle(self, b"")

    def do_POST(self) -> None:
        self.site.handle(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, value: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), **headers)


def status(code: int, **headers: str) -> Fault:
    """Answer with an error as Kaggle words it."""
    return lambda handler, _: handler.tell(
        {"code": code, "message": f"trouble with {TOKEN} and {SIGNATURE}"}, code, **headers
    )


def hidden_status(code: int) -> Fault:
    """Answer 200 with an error in the body."""
    return lambda handler, _: handler.tell({"code": code, "message": f"trouble with {TOKEN}"})


def page(handler: Handler, _: bytes) -> None:
    """A sign-in page of a hotel."""
    handler.answer(200, b"<html>please sign in</html>", "text/html")


def cut(handler: Handler, body: bytes) -> None:
    """Announce the whole, send a half and end the connection in good order."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) or 100))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def reset(handler: Handler, body: bytes) -> None:
    """Break the connection in the middle of the body."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    cut(handler, body)
    handler.connection.close()


class FakeSite:
    """What both fakes share: a server in a thread, a record of requests, and faults to come per kind of request."""

    def __init__(self) -> None:
        handler = type("BoundHandler", (Handler,), {"site": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.seen: list[tuple[str, str]] = []  # kind of request and its Authorization
        self.faults: dict[str, list[Fault]] = defaultdict(list)  # used up one by one
        self.always: dict[str, Fault] = {}

    def count(self, kind: str) -> int:
        return sum(seen == kind for seen, _ in self.seen)

    def fault(self, kind: str, handler: Handler, body: bytes = b"") -> bool:
        """Note the request; True when a fault has answered it."""
        self.seen.append((kind, handler.headers.get("Authorization") or ""))
        fault = self.faults[kind].pop(0) if self.faults[kind] else self.always.get(kind)
        if fault:
            fault(handler, body)
        return fault is not None

    def handle(self, handler: Handler, body: bytes) -> None:
        raise NotImplementedError

    @contextmanager
    def running(self) -> Iterator["FakeSite"]:
        with serving(self.server):
            yield self


class FakeKaggle(FakeSite):
    """Kaggle's API as its package calls it, and the storage that it redirects to, on another host name."""

    def __init__(self) -> None:
        super().__init__()
        self.archives: dict[tuple[str, int], bytes] = {}

    def handle(self, handler: Handler, body: bytes) -> None:
        kind = handler.path.split("?")[0].strip("/").split("/")
        if kind[0] == "storage":
            slug, version = "/".join(kind[1:3]), int(kind[3])
            content = self.archives[slug, version]
            if not self.fault("storage", handler, content):
                handler.answer(
                    200,
                    content,
                    "application/zip",
                    Accept_Ranges="bytes",
                    Last_Modified="Wed, 01 Jan 2020 00:00:00 GMT",
                )
            return
        if self.fault(kind[-1], handler):
            return
        given = handler.headers.get("Authorization") or ""
        asked = json.loads(body)
        if kind[-1] == "IntrospectToken":
            handler.tell({"active": asked["token"] == TOKEN, "username": USER})
        elif given not in {f"Bearer {TOKEN}", f"Basic {SECRETS[-1]}"}:
            handler.tell({"code": 401, "message": "Unauthenticated"}, 401)
        else:
            self._dataset(handler, kind[-1], asked)

    def _dataset(self, handler: Handler, kind: str, asked: dict[str, Any]) -> None:
        slug = f"{asked['ownerSlug']}/{asked['datasetSlug']}"
        versions = [version for known, version in self.archives if known == slug]
        version = asked.get("datasetVersionNumber") or max(versions, default=0)
        if version not in versions:
            handler.tell({"code": 404, "message": "Not found"}, 404)
        elif kind == "GetDataset":
            handler.tell({"ref": slug, "currentVersionNumber": version})
        else:
            target = f"http://localhost:{self.port}/storage/{slug}/{version}/archive.zip?signature={SIGNATURE}"
            handler.answer(302, b"", Location=target)


class FakeOpenml(FakeSite):
    """OpenML's JSON API and its files: one data set under one number."""

    def __init__(self) -> None:
        super().__init__()
        self.sets: dict[int, dict[str, Any]] = {}

    def add(self, number: int, arff: bytes, columns: list[tuple[str, str]], target: str, **more: Any) -> None:
        """Serve `arff` as data set `number`; `columns` are names and types (numeric, nominal, string)."""
        self.sets[number] = {
            "file": gzip.compress(arff, 1),
            "features": [
                {
                    "index": str(i),
                    "name": name,
                    "data_type": kind,
                    "is_target": str(name == target).lower(),
                    "is_ignore": "false",
                    "is_row_identifier": "false",
                    "number_of_missing_values": "0",
                }
                for i, (name, kind) in enumerate(columns)
            ],
            "about": {
                "id": str(number),
                "name": "glyphs",
                "version": "1",
                "status": "active",
                "format": "ARFF",
                "description": "glyphs",
                "url": f"{self.url}/data/v1/download/{number}/glyphs.arff",
                "md5_checksum": hashlib.md5(arff).hexdigest(),
                **more,
            },
        }

    def handle(self, handler: Handler, body: bytes) -> None:
        parts = handler.path.strip("/").split("/")
        kind = "file" if parts[0] == "data" else parts[4] if len(parts) > 5 else "about"
        number = int(parts[3] if kind == "file" else parts[-1])
        known = self.sets.get(number)
        packed = known["file"] if known and kind == "file" else b""
        if self.fault(kind, handler, packed):
            return
        if known is None:
            handler.tell({"error": {"code": "111", "message": "Unknown dataset"}}, 412)
        elif kind == "file":
            handler.answer(200, packed, "text/plain", Content_Encoding="gzip")
        elif kind == "features":
            handler.tell({"data_features": {"feature": known["features"]}})
        elif kind == "qualities":
            handler.tell({"data_qualities": {"quality": []}})
        else:
            handler.tell({"data_set_description": known["about"]})


class FakeHub(FakeSite):
    """The Hugging Face hub as its package calls it, with small files that are sent within a commit."""

    COMMIT = "0" * 40

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, bytes]] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.commit = self.COMMIT

    def handle(self, handler: Handler, body: bytes) -> None:
        path = handler.path.split("?")[0]
        if self.fault(path.split("/")[2], handler, body):
            return
        repos = self.datasets if "/datasets/" in path else self.models
        revision = path.partition("/revision/")[2]
        name = "/".join(path.removeprefix("/api").removeprefix("/models").removeprefix("/datasets").split("/")[1:3])
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.models.setdefault(f"{asked['organization']}/{asked['name']}", {})
            handler.tell({"url": f"{self.url}/{asked['organization']}/{asked['name']}"})
        elif path == "/api/validate-yaml":
            handler.tell({"errors": [], "warnings": []})
        elif name not in repos:
            handler.tell({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif revision and revision not in {"main", self.commit}:
            handler.tell({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        elif "/resolve/" in path:
            content = repos[name][path.partition("/resolve/")[2].partition("/")[2]]
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            handler.answer(200, content, "application/octet-stream", ETag=f'"{digest}"', X_Repo_Commit=self.commit)
        else:
            handler.tell(self._repository(name, repos[name], path, body))

    def _repository(self, name: str, files: dict[str, bytes], path: str, body: bytes) -> Any:
        if "/preupload/" in path:
            known = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return {"files": [{"path": file["path"], **known} for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            entries = [json.loads(line) for line in body.splitlines()]
            sent = [entry["value"] for entry in entries if entry["key"] == "file"]
            files |= {file["path"]: base64.b64decode(file["content"]) for file in sent}
            return {"commitOid": self.COMMIT, "commitUrl": f"{self.url}/{name}/commit/{self.COMMIT}"}
        if "/tree/" in path:
            return [{"type": "file", "path": file, "size": len(files[file]), "oid": file} for file in files]
        return {"id": name, "sha": self.commit, "siblings": [{"rfilename": file} for file in files]}


def glyphs(count: int, size: int) -> np.ndarray:
    """Random strokes on black, uint8 [count, size, size], with empty edges as real scans have."""
    images = np.zeros((count, size, size), np.uint8)
    images[:, 6:-6, 6:-6] = np.random.default_rng(count).integers(0, 256, (count, size - 12, size - 12))
    return images


def packed(members: dict[str, bytes]) -> bytes:
    """A zip in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def made(layout: str) -> bytes:
    """A tiny archive in one of the layouts that Kaggle's copies of DHCD and MNIST have."""
    if layout == "mnist-idx":
        members = {}
        for prefix, count in (("train", 40), ("t10k", 20)):
            members[f"{prefix}-images.idx3-ubyte"] = (
                struct.pack(">IIII", 0x803, count, 28, 28) + glyphs(count, 28).tobytes()
            )
            members[f"{prefix}-labels.idx1-ubyte"] = (
                struct.pack(">II", 0x801, count) + (np.arange(count) % 10).astype(np.uint8).tobytes()
            )
        return packed(members)
    names = [DEVANAGARI[label].name for label in (0, 9, 45)]
    if layout == "dhcd-csv":
        rows = [",".join([f"pixel_{i:04d}" for i in range(1024)] + ["character"])]
        words = ("character_01_ka", "character_10_yna", "digit_9")
        rows += [
            ",".join(map(str, image.ravel().tolist())) + f",{words[i % 3]}" for i, image in enumerate(glyphs(60, 32))
        ]
        return packed({"data.csv": "\n".join(rows).encode() + b"\n"})
    members = {}
    for split, count in (("Train", 42), ("Test", 18)):
        for i, image in enumerate(glyphs(count, 32)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            members[f"DevanagariHandwrittenCharacterDataset/{split}/{names[i % 3]}/{i}.png"] = buffer.getvalue()
    return packed(members)


def real(layout: str, folder: Path) -> bytes | None:
    """The same from the real images, 4 per class and split; None where LEKHANI_REAL_DATA names no folder that can
    make it."""
    maker = Path(os.environ.get("LEKHANI_REAL_DATA", "")) / "layouts.py"
    if not os.environ.get("LEKHANI_REAL_DATA") or not maker.is_file():
        return None
    out = folder / f"{layout}.zip"
    subprocess.run([sys.executable, str(maker), layout, str(out), "--per-class", "4"], check=True, timeout=120)
    return out.read_bytes()


def arff(images: np.ndarray, words: list[str], target: str = "character") -> tuple[bytes, list[tuple[str, str]]]:
    """Images uint8 [N,H,W] as OpenML stores them, and the columns' names and types."""
    names = [f"pixel_{i:04d}" for i in range(images[0].size)]
    head = [
        "@RELATION glyphs",
        *(f"@ATTRIBUTE {name} REAL" for name in names),
        f"@ATTRIBUTE {target} {{{','.join(sorted(set(words)))}}}",
        "@DATA",
    ]
    rows = [",".join(map(str, image.ravel().tolist())) + f",{word}" for image, word in zip(images, words, strict=True)]
    return "\n".join([*head, *rows]).encode() + b"\n", [*((name, "numeric") for name in names), (target, "nominal")]
