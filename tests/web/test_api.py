"""The API answers with the same glyphs as the Python API in every media type, and with one sentence for every error."""

import base64
import csv
import io
import logging
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from live_server import until
from PIL import Image
from toy_judge import toy_judge
from typer.testing import CliRunner

from lekhani.cli import app as cli
from lekhani.errors import UsageError
from lekhani.pen import load
from lekhani.serve.api import create_app
from lekhani.serve.champions import ModelSource
from lekhani.serve.keys import Keys, new_key
from lekhani.serve.limits import Limits
from lekhani.serve.page import add_page
from lekhani.serve.responses import GAP
from lekhani.serve.server import address, allowed_hosts, serve

ToyGenerator = Callable[..., Path]
PNG, ZIP, NPZ = "image/png", "application/zip", "application/x-npz"
ASK = {"model": "mnist", "labels": ["1", "2"], "n": 3, "seed": 7}


@pytest.fixture(scope="module")
def client(source: ModelSource) -> Iterator[TestClient]:
    with TestClient(
        create_app([source], limits=Limits(images=500, body_bytes=400_000, picture_bytes=100_000))
    ) as client:
        yield client


def detail(answer: Any, status: int) -> str:
    """The sentence of a problem, after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value = answer.json()
    assert set(value) == {"type", "title", "status", "detail"}
    assert value["status"] == status
    assert re.fullmatch(r".{10,600}[.]", value["detail"], re.S), value["detail"]
    return str(value["detail"])


def picture(image: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- glyphs ---


def test_the_glyphs_of_the_python_api_in_every_media_type(client: TestClient, source: ModelSource) -> None:
    assert source.model is not None
    expected = load(source.model).generate(["1", "2"], n=3, seed=7)

    def fetch(accept: str) -> Any:
        answer = client.post("/v1/generate", json=ASK, headers={"accept": accept})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == accept
        return answer

    with np.load(io.BytesIO(fetch(NPZ).content)) as arrays:
        assert (arrays["images"] == expected.images).all()
        assert (arrays["labels"] == [1, 1, 1, 2, 2, 2]).all()
    value = fetch("application/json").json()
    assert value["seed"] == 7
    assert value["model"]["dataset"] == "mnist"
    assert [one["glyph"] for one in value["images"]] == list("111222")
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["png"])))) for one in value["images"]]
    assert (np.stack(shown) == expected.images).all()
    with zipfile.ZipFile(io.BytesIO(fetch(ZIP).content)) as archive:
        rows = list(csv.DictReader(archive.read("labels.csv").decode().splitlines()))
        assert [row["label"] for row in rows] == list("111222")
        assert (np.asarray(Image.open(archive.open(rows[4]["file"]))) == expected.images[4]).all()
    grid = np.asarray(Image.open(io.BytesIO(fetch(PNG).content)))
    assert grid.shape == (2 * 5 - 1, 3 * 5 - 1)
    assert (grid[5:9, :4] == expected.images[3]).all()
    assert fetch(ZIP).content == fetch(ZIP).content, "the same request, the same bytes"


def test_labels_may_be_glyphs_names_and_numbers(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"model": "mnist", "labels": ["0", 2, "1", 0]})
    assert [one["label"] for one in answer.json()["images"]] == [0, 2, 1, 0]


def test_filtered_and_truncated_glyphs_are_those_of_the_python_api(client: TestClient, source: ModelSource) -> None:
    assert source.model is not None
    pen = load(source.model, source.judge)
    for options in ({"min_confidence": 0.5}, {"truncation": 0.5}, {"min_confidence": 0.2, "truncation": 1.5}):
        answer = client.post("/v1/generate", json=ASK | options, headers={"accept": NPZ})
        with np.load(io.BytesIO(answer.content)) as arrays:
            assert (arrays["images"] == pen.generate(["1", "2"], n=3, seed=7, **options).images).all(), options  # type: ignore[arg-type]


def test_only_unfiltered_images_are_monitored(source: ModelSource) -> None:
    with TestClient(create_app([source])) as client:
        (model,) = client.app.state.champions.served.values()  # type: ignore[attr-defined]
        for options, taken in (({"truncation": 0.5}, 0), ({"min_confidence": 0.1}, 0), ({}, 6)):
            assert client.post("/v1/generate", json=ASK | options).status_code == 200
            assert len(model.monitor._pending) == taken, options
        assert model.written == 18


def test_an_unconditional_generator_serves_labels_too(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    source = ModelSource("mnist", toy_generator(tmp_path / "g.onnx", conditional=False), toy_judge(tmp_path / "j.onnx"))
    with TestClient(create_app([source])) as client:
        value = client.post("/v1/generate", json=ASK).json()
        assert [one["label"] for one in value["images"]] == [1, 1, 1, 2, 2, 2]
        assert detail(client.post("/v1/compose", json={"model": "mnist", "text": "12"}), 422)


def test_requests_that_are_refused(client: TestClient) -> None:
    def refusal(status: int, **changes: Any) -> str:
        return detail(client.post("/v1/generate", json=ASK | changes), status)

    assert "600 images are more than 500" in refusal(422, n=300)
    assert "no model kannada here; there are mnist" in refusal(404, model="kannada")
    assert "no model ../../etc" in refusal(404, model="../../etc/passwd")
    assert "The label 5: no such class" in refusal(422, labels=[5])
    assert "valid are 0 1 2" in refusal(422, labels=["\u0915"])
    assert "Accept one of application/json, image/png" in detail(
        client.post("/v1/generate", json=ASK, headers={"accept": "text/html"}), 406
    )
    line = {"model": "mnist", "text": "12" * 50, "height": 256}
    assert "100 characters, 256 pixels high" in detail(client.post("/v1/compose", json=line), 422)
    assert "another method" in detail(client.get("/v1/generate"), 405)
    assert "nothing at this address" in detail(client.get("/v2/generate"), 404)


def test_head_and_options_say_what_an_address_takes(client: TestClient) -> None:
    for path in ("/healthz", "/v1/models", "/metrics"):
        got, head, options = client.get(path), client.head(path), client.options(path)
        assert (head.status_code, head.headers["content-type"]) == (200, got.headers["content-type"]), path
        assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS"), path
    refused = client.head("/v1/generate")
    assert (refused.status_code, refused.headers["allow"]) == (405, "OPTIONS, POST")
    for answer in (refused, client.options("/v2")):
        assert answer.headers["content-type"] == "application/problem+json"


# --- lines, recognition, translation ---


def test_lines_in_as_many_hands_come_with_their_transcript(client: TestClient, source: ModelSource) -> None:
    assert source.model is not None
    pen = load(source.model, source.judge)
    expected = [np.asarray(pen.compose("12 0", seed=seed, augment="none", height=40)) for seed in (3, 4, 5)]
    ask = {"model": "mnist", "text": " 12  0 ", "n": 3, "seed": 3, "augment": "none", "height": 40}

    def fetch(accept: str) -> Any:
        return client.post("/v1/compose", json=ask, headers={"accept": accept})

    value = fetch("application/json").json()
    assert (value["text"], value["drawn"]) == ("12 0", [])
    assert client.post("/v1/compose", json=ask | {"text": "1,2"}).json()["drawn"] == [","]
    assert [line["seed"] for line in value["lines"]] == [3, 4, 5]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(line["png"])))) for line in value["lines"]]
    sheet = np.asarray(Image.open(io.BytesIO(fetch(PNG).content)))
    assert len(sheet) == 3 * 40 + 2 * GAP
    with np.load(io.BytesIO(fetch(NPZ).content)) as arrays, zipfile.ZipFile(io.BytesIO(fetch(ZIP).content)) as archive:
        assert str(arrays["text"]) == "12 0"
        for i, line in enumerate(expected):
            top = i * (40 + GAP)
            assert (shown[i] == line).all()
            assert (arrays[f"line_{i:06d}"] == line).all()
            assert (np.asarray(Image.open(archive.open(f"line_{i:06d}.png"))) == line).all()
            assert (sheet[top : top + 40, : line.shape[1]] == line).all()
            assert (sheet[top : top + 40, line.shape[1] :] == 255).all()
            assert archive.read(f"line_{i:06d}.gt.txt").decode() == "12 0\n"
    for changes, problem in (
        ({"text": "1\u0915"}, "cannot write \u0915"),
        ({"text": "1,2", "learned_only": True}, "cannot write ,"),
        ({"text": "12" * 10, "n": 26}, "26 lines of 20 characters are more than 500"),
    ):
        assert problem in detail(client.post("/v1/compose", json=ask | changes), 422)


def test_a_glyph_is_recognised_and_written_again(client: TestClient) -> None:
    glyph = np.zeros((4, 4), np.uint8)
    glyph[1:3, 1:3] = 255
    value = client.post("/v1/recognise", json={"model": "mnist", "image": picture(glyph)}).json()
    assert value["glyph"] in "012"
    assert 0 <= value["confidence"] <= 1
    assert {one["glyph"] for one in value["alternatives"]} | {value["glyph"]} == set("012")
    again = client.post("/v1/translate", json={"model": "mnist", "to": "mnist", "image": picture(glyph)})
    assert again.status_code == 200, again.text
    assert again.json()["written"] == value["glyph"]
    # Five thirds of a pixel more lie between two of the classes of the toy judge.
    glyph[0, 0], glyph[3, 3] = 255, 85
    for path, body in (("recognise", {"model": "mnist"}), ("translate", {"model": "mnist", "to": "mnist"})):
        refused = client.post(f"/v1/{path}", json={**body, "image": picture(glyph)})
        assert refused.status_code == 422
        assert "for sure" in refused.json()["detail"]
        (reading,) = refused.json()["readings"]
        assert {reading["glyph"], reading["alternatives"][0]["glyph"]} == {"0", "1"}
        assert (refused.json()["reason"], refused.json()["glyphs"]) == ("unsure", 1)
        forced = client.post(f"/v1/{path}", json={**body, "image": picture(glyph), "force": True}).json()
        assert forced.get("read", forced.get("glyph")) == reading["glyph"]
    row = np.full((60, 300), 255, np.uint8)
    row[10:50, 20:30] = row[10:50, 140:150] = row[10:50, 260:270] = 0
    refused = client.post("/v1/recognise", json={"model": "mnist", "image": picture(row)}).json()
    assert (refused["reason"], refused["glyphs"], len(refused["parts"])) == ("several", 3, 3)
    blank = client.post("/v1/recognise", json={"model": "mnist", "image": picture(np.zeros((60, 60), np.uint8))}).json()
    assert blank["reason"] == "none"
    assert "readings" not in blank


# --- around them ---


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    client.post("/v1/generate", json=ASK)
    text = client.get("/metrics").text
    assert re.search(r'lekhani_requests_total\{method="POST",route="/v1/generate",status="200"\} [1-9]', text)
    assert re.search(r'lekhani_images_total\{dataset="mnist"\} [1-9]', text)
    assert 'lekhani_model_info{dataset="mnist"' in text


def test_a_report_that_cannot_be_written_is_a_sentence_in_the_log(
    source: ModelSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with TestClient(create_app([source], report_folder=tmp_path / "file" / "reports")):
        pass
    assert "Could not write" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_id_follows_a_request_into_the_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lekhani.api"):
        answer = client.post(
            "/v1/generate?token=hunter2",
            json=ASK,
            headers={"X-Request-ID": "mine-1.2_3", "Authorization": "Bearer hunter2"},
        )
        other = client.get("/healthz", headers={"X-Request-ID": 'evil"id\\'})
    assert answer.headers["X-Request-ID"] == "mine-1.2_3"
    assert re.fullmatch("[0-9a-f]{32}", other.headers["X-Request-ID"]), "an id of another kind is replaced"
    record = next(record for record in caplog.records if getattr(record, "request_id", "") == "mine-1.2_3")
    facts = vars(record)
    assert (facts["route"], facts["status"], facts["images"], facts["dataset"]) == ("/v1/generate", 200, 6, "mnist")
    assert "hunter2" not in str([vars(record) for record in caplog.records])


def test_files_of_the_page_are_not_logged_unless_they_are_missing(
    source: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app([source])
    add_page(app)
    with TestClient(app) as client, caplog.at_level(logging.INFO, "lekhani.api"):
        paths = ["/", *re.findall(r"/?page/[\w./-]+", client.get("/").text), "/page/missing.js", "/v1/models"]
        answers = [client.get(path).status_code for path in paths]
    assert (len(paths), answers.count(404)) == (5, 1)
    assert [vars(one)["status"] for one in caplog.records if one.message == "answered"] == [404, 200]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("localhost", "localhost")],
)
def test_the_address_can_be_opened_on_this_machine(host: str, expected: str) -> None:
    assert address(host, 8001) == f"http://{expected}:8001"


def test_a_bug_is_a_500_that_tells_nothing(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret")

    with TestClient(create_app([source])) as client:
        monkeypatch.setattr("lekhani.serve.routes.responses.glyphs", broken)
        answer = client.post("/v1/generate", json=ASK, headers={"X-Request-ID": "unlucky"})
    assert "request id unlucky" in detail(answer, 500)
    assert "a secret" in caplog.text, "the log has it"


def test_a_response_that_takes_too_long(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def slow(*_: Any) -> None:
        await asyncio.sleep(30)

    with TestClient(create_app([source], limits=Limits(answer_seconds=0.2))) as client:
        monkeypatch.setattr("lekhani.serve.routes.respond", slow)
        answer = client.post("/v1/generate", json=ASK)
        assert "longer than 0.2 seconds" in detail(answer, 503)
        assert answer.headers["Retry-After"] == "10"


def test_keys_are_required_except_for_health_checks_and_schema(source: ModelSource, tmp_path: Path) -> None:
    key, line = new_key("team")
    (tmp_path / "keys").write_text(line)
    with TestClient(create_app([source], keys=Keys(tmp_path / "keys"))) as client:
        let_in = {"Authorization": f"Bearer {key}"}
        for path in ("/v1/models", "/metrics", "/v1/generate", "/v1/recognise"):
            method = "GET" if path in ("/v1/models", "/metrics") else "POST"
            for wrong in (b"", b"Bearer wrong", f"Basic {key}".encode(), b"Bearer \xe9"):
                answer = client.request(method, path, json=ASK, headers={"Authorization": wrong} if wrong else {})
                assert "A valid key is needed" in detail(answer, 401), (path, wrong)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/v1/generate", json=ASK, headers=let_in).status_code == 200
        assert client.get("/metrics", headers=let_in).status_code == 200
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        client.app.state.champions.trouble["mnist"] = "It is away."  # type: ignore[attr-defined]
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert client.get("/readyz", headers=headers).json() == {"status": "ready"}
        value = client.get("/readyz", headers=let_in).json()
        assert value == {"status": "ready", "models": {"mnist": ""}, "trouble": {"mnist": "It is away."}}


def test_a_key_leaves_room_for_others(source: ModelSource, tmp_path: Path) -> None:
    (greedy, first), (modest, second) = new_key("greedy"), new_key("modest")
    (tmp_path / "keys").write_text(f"{first}\n{second}\n")
    limits, free = Limits(images=600, waiting_images=1000), threading.Event()

    def ask(client: TestClient, key: str, n: int) -> Any:
        body, headers = ASK | {"labels": ["1"], "n": n}, {"Authorization": f"Bearer {key}", "Accept": PNG}
        return client.post("/v1/generate", json=body, headers=headers)

    with (
        TestClient(create_app([source], limits=limits, keys=Keys(tmp_path / "keys"))) as client,
        ThreadPoolExecutor() as pool,
    ):
        queue = client.app.state.champions.served["mnist"].queue  # type: ignore[attr-defined]
        draw = queue.draw
        queue.draw = lambda *rows: free.wait(30) and draw(*rows)
        waiting = [pool.submit(ask, client, greedy, 600)]
        until(lambda: queue.waiting == 600)
        refused = ask(client, greedy, 1)
        waiting.append(pool.submit(ask, client, modest, 100))
        until(lambda: queue.waiting == 700)
        waiting.append(pool.submit(ask, client, modest, 300))
        until(lambda: queue.waiting == 1000)
        free.set()
        assert "600 images are waiting for this key already" in detail(refused, 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert [one.result(30).status_code for one in waiting] == [200] * 3
        assert ask(client, greedy, 600).status_code == 200, "there is room again"
        assert not client.app.state.waiting  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("host", "names", "answered", "refused"),
    [
        (
            "127.0.0.1",
            [],
            ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"],
            ["evil.example", "127.0.0.2"],
        ),
        ("::1", [], ["[::1]:8000", "localhost"], ["", "::1", "localhost.evil.example:8000", "evil.example:localhost"]),
        ("127.0.0.2", ["Api.example.org"], ["127.0.0.2", "api.example.org", "localhost"], ["example.org"]),
        ("0.0.0.0", [], ["evil.example", "10.0.0.1:8000"], []),
        ("0.0.0.0", ["api.example.org"], ["api.example.org:443", "localhost"], ["evil.example", "10.0.0.1"]),
    ],
)
def test_only_its_own_names_are_answered(
    source: ModelSource, host: str, names: list[str], answered: list[str], refused: list[str]
) -> None:
    client = TestClient(create_app([source], hosts=allowed_hosts(host, names)))  # health needs no model
    for name in answered:
        assert client.get("/healthz", headers={"Host": name}).json() == {"status": "ok"}, name
    for name in refused:
        for path in ("/healthz", "/v1/models", "/"):
            answer = client.get(path, headers={"Host": name})
            assert "start it with --allowed-host NAME to add this one" in detail(answer, 421), name


def test_the_page_is_files_that_need_no_key(source: ModelSource, tmp_path: Path) -> None:
    _, line = new_key("team")
    (tmp_path / "keys").write_text(line)
    app = create_app([source], keys=Keys(tmp_path / "keys"))
    add_page(app)
    with TestClient(app) as client:
        page = client.get("/")
        links = re.findall(r'(?:src|href)="(.*?)"', page.text)
        style = client.get("/page/style.css").text
        links += [f"page/{link}" for link in re.findall(r'url\("?(.*?)"?\)', style)]
        assert links.pop(0).startswith("data:image/svg")
        assert len(links) == 3, "all that is loaded is its own: a style, a script and a font"
        for answer in (page, *(client.get(f"/{link}") for link in links)):
            assert answer.status_code == 200, answer.url
            policy = answer.headers["Content-Security-Policy"].split("; ")
            assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            again = client.get(answer.url.path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert not re.search(r"<style|style=|\son\w+=|<script(?! type=\"module\" src=)", page.text), "nothing is inline"
        for path in ("/page/nothing.js", "/page/%2e%2e/page.py", "/page/%00", f"/page/{'a' * 5000}"):
            assert "nothing at this address" in detail(client.get(path), 404)
        assert "another method" in detail(client.post("/page/studio.js", json=ASK), 405)
        detail(client.get("/v1/models"), 401)


def test_cors_only_for_named_origins(source: ModelSource, client: TestClient) -> None:
    page, allowed = "https://page.example", "access-control-allow-origin"
    asking = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert allowed not in client.post("/v1/generate", json=ASK, headers=asking).headers
    with TestClient(create_app([source], cors=[page])) as open_one:
        assert open_one.options("/v1/generate", headers=asking).headers[allowed] == page
        other = open_one.options("/v1/generate", headers=asking | {"Origin": "https://evil.example"})
        assert allowed not in other.headers


# --- the command ---


def test_another_address_than_loopback_needs_keys(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0", "--model", "g.onnx"])
    assert "On 0.0.0.0 others can reach the API, so it needs `keys` FILE" in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 2
    done = CliRunner().invoke(cli, ["serve", "--model", "g.onnx", "--limit", "imagse=3"])
    assert re.match(r"`limit` imagse: .*; there are: images, text, ", str(done.exception))
    done = CliRunner().invoke(cli, ["serve", "--model", "g.onnx", "--allowed-host", "http://a.example"])
    assert "`allowed_host` 'http://a.example' is no name; write one as" in str(done.exception)


def test_a_port_in_use(source: ModelSource) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match=r"cannot listen on 127.0.0.1, port \d+ .*; choose another"),
    ):
        serve(create_app([source]), "127.0.0.1", taken.getsockname()[1], Limits())
