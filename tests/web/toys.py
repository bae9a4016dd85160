"""A judge that reads the toy generator's glyphs, small servers, and clients that behave badly."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import requests
import services
from onnx import TensorProto, helper

from lekhani.data.spec import MNIST, GlyphClass

CLASSES = MNIST[:3]


def judge(path: Path, classes: tuple[GlyphClass, ...] = CLASSES, size: int = 4, dataset: str = "mnist") -> Path:
    """judge.onnx that tells classes by the mean brightness that the toy generator paints them in; its features are the pixels."""
    centres = [(i + 0.5) / len(classes) for i in range(len(classes))]
    constants = [
        helper.make_tensor("row", TensorProto.INT64, [2], [-1, size**2]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("centres", TensorProto.FLOAT, [1, len(classes)], centres),
        helper.make_tensor("steep", TensorProto.FLOAT, [], [-1000.0]),
    ]
    nodes = [
        helper.make_node("Reshape", ["images", "row"], ["features"]),
        helper.make_node("ReduceMean", ["features", "axis"], ["mean"]),
        helper.make_node("Sub", ["mean", "centres"], ["away"]),
        helper.make_node("Mul", ["away", "away"], ["squared"]),
        helper.make_node("Mul", ["squared", "steep"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy judge",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, size, size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
            for name, width in (("features", size**2), ("logits", len(classes)))
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    told = {
        "dataset": dataset,
        "image_size": str(size),
        "classes": json.dumps([asdict(c) for c in classes], ensure_ascii=False),
    }
    helper.set_model_props(model, told)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


@contextmanager
def server(folder: Path, *words: str, port: int | None = None, **process: Any) -> Iterator[tuple[str, int]]:
    """`lekhani serve` with these options until the block ends; its address and the pid of its process group. It logs to server.log in `folder`."""
    port = port or services.free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "lekhani", "serve", "--no-page", "--port", str(port), *words]
    folder.mkdir(parents=True, exist_ok=True)
    with services.running(
        command, lambda: services.answers(f"{address}/readyz"), folder / "server.log", cwd=folder, **process
    ) as pid:
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


def said(address: str, content: bytes, seconds: float = 20, parts: Sequence[bytes] = ()) -> bytes:
    """What a server answers to these bytes, sent as they are, until it hangs up or that time is over."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        for part in (content, *parts):
            connection.sendall(part)
        return heard(connection, TimeoutError)


def heard(connection: socket.socket, end: type[OSError]) -> bytes:
    """What comes until the other side hangs up, or until that error, which is as good an end."""
    answer = b""
    with suppress(end):
        while part := connection.recv(65536):
            answer += part
    return answer


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for that to be true; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)
