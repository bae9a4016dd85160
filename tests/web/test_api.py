"""What the API answers: the same glyphs as Python's pen in every form, and one sentence for whatever is wrong."""

import base64
import csv
import io
import json
import logging
import re
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from lekhani.cli import app as cli
from lekhani.errors import UsageError
from lekhani.pen import load
from lekhani.serve.api import create_app
from lekhani.serve.champions import Choice
from lekhani.serve.keys import Keys, new_key
from lekhani.serve.limits import Limits
from lekhani.serve.server import serve

ToyGenerator = Callable[..., Path]
PNG, ZIP, NPZ = "image/png", "application/zip", "application/x-npz"
ASK = {"model": "mnist", "labels": ["1", "2"], "n": 3, "seed": 7}


@pytest.fixture(scope="module")
def choice(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> Choice:
    folder = tmp_path_factory.mktemp("models")
    return Choice("mnist", toy_generator(folder / "g.onnx"), toys.judge(folder / "j.onnx"))


@pytest.fixture(scope="module")
def client(choice: Choice) -> Iterator[TestClient]:
    with TestClient(
        create_app([choice], limits=Limits(images=500, body_bytes=400_000, picture_bytes=100_000))
    ) as client:
        yield client


def detail(answer: Any, status: int) -> str:
    """The sentence of a problem, after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert set(told) == {"type", "title", "status", "detail"}
    assert told["status"] == status
    assert re.fullmatch(r".{10,600}[.]", told["detail"], re.S), told["detail"]
    return str(told["detail"])


def picture(image: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- glyphs ---


def test_the_same_glyphs_as_pythons_in_every_form(client: TestClient, choice: Choice) -> None:
    assert choice.model is not None
    expected = load(choice.model).generate(["1", "2"], n=3, seed=7)

    def asked(accept: str) -> Any:
        answer = client.post("/v1/generate", json=ASK, headers={"accept": accept})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == accept
        return answer

    with np.load(io.BytesIO(asked(NPZ).content)) as arrays:
        assert (arrays["images"] == expected.images).all()
        assert (arrays["labels"] == [1, 1, 1, 2, 2, 2]).all()
    told = asked("application/json").json()
    assert told["seed"] == 7
    assert told["model"]["dataset"] == "mnist"
    assert [one["glyph"] for one in told["images"]] == list("111222")
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["png"])))) for one in told["images"]]
    assert (np.stack(shown) == expected.images).all()
    with zipfile.ZipFile(io.BytesIO(asked(ZIP).content)) as archive:
        rows = list(csv.DictReader(archive.read("labels.csv").decode().splitlines()))
        assert [row["label"] for row in rows] == list("111222")
        assert (np.asarray(Image.open(archive.open(rows[4]["file"]))) == expected.images[4]).all()
    grid = np.asarray(Image.open(io.BytesIO(asked(PNG).content)))
    assert grid.shape == (2 * 5 - 1, 3 * 5 - 1)
    assert (grid[5:9, :4] == expected.images[3]).all()
    assert asked(ZIP).content == asked(ZIP).content, "the same request, the same bytes"


def test_labels_may_be_glyphs_names_and_numbers(client: TestClient) -> None:
    def labels(*wanted: str | int) -> list[int]:
        answer = client.post("/v1/generate", json={"model": "mnist", "labels": wanted})
        return [one["label"] for one in answer.json()["images"]]

    assert labels("0", 2, "1", 0) == [0, 2, 1, 0]
    assert "The label 5: no such class" in detail(
        client.post("/v1/generate", json={"model": "mnist", "labels": [5]}), 422
    )
    assert "valid are 0 1 2" in detail(client.post("/v1/generate", json={"model": "mnist", "labels": ["\u0915"]}), 422)


def test_a_filter_and_truncation_are_the_pens(client: TestClient, choice: Choice) -> None:
    assert choice.model is not None
    pen = load(choice.model, choice.judge)
    for wishes in ({"min_confidence": 0.5}, {"truncation": 0.5}, {"min_confidence": 0.2, "truncation": 1.5}):
        answer = client.post("/v1/generate", json=ASK | wishes, headers={"accept": NPZ})
        with np.load(io.BytesIO(answer.content)) as arrays:
            assert (arrays["images"] == pen.generate(["1", "2"], n=3, seed=7, **wishes).images).all(), wishes  # type: ignore[arg-type]


def test_only_what_is_unfiltered_is_watched(choice: Choice) -> None:
    with TestClient(create_app([choice])) as client:
        (served,) = client.app.state.champions.served.values()  # type: ignore[attr-defined]
        for wishes, taken in (({"truncation": 0.5}, 0), ({"min_confidence": 0.1}, 0), ({}, 6)):
            assert client.post("/v1/generate", json=ASK | wishes).status_code == 200
            assert len(served.watch._new) == taken, wishes
        assert served.written == 18


def test_an_unconditional_generator_serves_labels_too(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    choice = Choice("mnist", toy_generator(tmp_path / "g.onnx", conditional=False), toys.judge(tmp_path / "j.onnx"))
    with TestClient(create_app([choice])) as client:
        told = client.post("/v1/generate", json=ASK).json()
        assert [one["label"] for one in told["images"]] == [1, 1, 1, 2, 2, 2]
        assert detail(client.post("/v1/compose", json={"model": "mnist", "text": "12"}), 422)


def test_what_no_one_can_have(client: TestClient) -> None:
    assert "600 images are more than 500" in detail(client.post("/v1/generate", json=ASK | {"n": 300}), 422)
    assert "no model kannada here; there are mnist" in detail(
        client.post("/v1/generate", json=ASK | {"model": "kannada"}), 404
    )
    assert "no model ../../etc" in detail(client.post("/v1/generate", json=ASK | {"model": "../../etc/passwd"}), 404)
    assert "Accept one of application/json, image/png" in detail(
        client.post("/v1/generate", json=ASK, headers={"accept": "text/html"}), 406
    )
    assert "another method" in detail(client.get("/v1/generate"), 405)
    assert "nothing at this address" in detail(client.get("/v2/generate"), 404)


# --- lines, recognition, translation ---


def test_a_line_comes_as_a_picture_with_its_transcript(client: TestClient) -> None:
    ask = {"model": "mnist", "text": " 12  0 ", "seed": 3, "augment": "none", "height": 40}
    line = client.post("/v1/compose", json=ask, headers={"accept": PNG})
    image = Image.open(io.BytesIO(line.content))
    assert image.height == 40
    assert image.width > 40
    told = client.post("/v1/compose", json=ask).json()
    assert told["text"] == "12 0"
    assert base64.b64decode(told["png"]) == line.content
    with zipfile.ZipFile(io.BytesIO(client.post("/v1/compose", json=ask, headers={"accept": ZIP}).content)) as archive:
        assert archive.read("line.gt.txt").decode() == "12 0\n"
        assert archive.read("line.png") == line.content
    assert "cannot write \u0915" in detail(client.post("/v1/compose", json=ask | {"text": "1\u0915"}), 422)


def test_a_glyph_is_recognised_and_written_again(client: TestClient) -> None:
    glyph = np.zeros((4, 4), np.uint8)
    glyph[1:3, 1:3] = 255
    told = client.post("/v1/recognise", json={"model": "mnist", "image": picture(glyph)}).json()
    assert told["glyph"] in "012"
    assert 0 <= told["confidence"] <= 1
    assert {one["glyph"] for one in told["alternatives"]} | {told["glyph"]} == set("012")
    again = client.post("/v1/translate", json={"model": "mnist", "to": "mnist", "image": picture(glyph)})
    assert again.status_code == 200, again.text
    assert again.json()["written"] == told["glyph"]


def test_what_is_no_picture(client: TestClient) -> None:
    def sent(image: str) -> str:
        return detail(client.post("/v1/recognise", json={"model": "mnist", "image": image}), 422)

    assert "no base64" in sent("!!!")
    assert "cannot be read" in sent(base64.b64encode(b"GIF89a nothing").decode())
    assert "cannot be read" in sent(picture(np.zeros((50, 50), np.uint8))[:60])
    assert "shows nothing" in sent(picture(np.full((50, 50), 200, np.uint8)))
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    assert "900,000,000 pixels" in sent(base64.b64encode(bomb.getvalue()).decode()) or len(bomb.getvalue()) > 100_000
    assert "more than 100,000 bytes" in sent(base64.b64encode(bytes(110_000)).decode())


# --- around them ---


def test_models_say_what_they_are(client: TestClient) -> None:
    (told,) = client.get("/v1/models").json()
    assert (told["dataset"], told["takes_labels"], told["image_size"]) == ("mnist", True, 4)
    assert [c["glyph"] for c in told["classes"]] == list("012")
    assert len(told["sha256"]) == 64


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    client.post("/v1/generate", json=ASK)
    text = client.get("/metrics").text
    assert re.search(r'lekhani_requests_total\{method="POST",route="/v1/generate",status="200"\} [1-9]', text)
    assert re.search(r'lekhani_images_total\{dataset="mnist"\} [1-9]', text)
    assert 'lekhani_model_info{dataset="mnist"' in text


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


def test_a_bug_is_a_500_that_tells_nothing(
    choice: Choice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret of the house")

    with TestClient(create_app([choice])) as client:
        monkeypatch.setattr("lekhani.serve.api.responses.glyphs", broken)
        answer = client.post("/v1/generate", json=ASK, headers={"X-Request-ID": "unlucky"})
    assert "request id unlucky" in detail(answer, 500)
    assert "secret of the house" in caplog.text, "the log has it"


def test_an_answer_that_takes_too_long_is_given_up(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def slow(*_: Any) -> None:
        await asyncio.sleep(30)

    with TestClient(create_app([choice], limits=Limits(answer_seconds=0.2))) as client:
        monkeypatch.setattr("lekhani.serve.api._answer", slow)
        answer = client.post("/v1/generate", json=ASK)
        assert "longer than 0.2 seconds" in detail(answer, 503)
        assert answer.headers["Retry-After"] == "10"


def test_keys_are_asked_for_on_all_but_the_health_checks(choice: Choice, tmp_path: Path) -> None:
    key, line = new_key("team")
    (tmp_path / "keys").write_text(line)
    with TestClient(create_app([choice], keys=Keys(tmp_path / "keys"))) as client:
        let_in = {"Authorization": f"Bearer {key}"}
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("POST", "/v1/generate"),
            ("POST", "/v1/recognise"),
        ):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": f"Basic {key}"},
                {"Authorization": "Bearer \u00e9"},
            ):
                answer = client.request(
                    method, path, json=ASK, headers={k: v.encode("latin-1") for k, v in headers.items()}
                )
                assert "A valid key is needed" in detail(answer, 401), (path, headers)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/v1/generate", json=ASK, headers=let_in).status_code == 200
        assert client.get("/metrics", headers=let_in).status_code == 200
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert client.get(path).status_code == 200, path


def test_pages_of_other_origins_are_let_in_only_when_named(choice: Choice, client: TestClient) -> None:
    asking = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    assert "access-control-allow-origin" not in client.post("/v1/generate", json=ASK, headers=asking).headers
    with TestClient(create_app([choice], cors=["https://page.example"])) as open_one:
        assert (
            open_one.options("/v1/generate", headers=asking).headers["access-control-allow-origin"]
            == "https://page.example"
        )
        other = open_one.options("/v1/generate", headers=asking | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_schema_names_limits_forms_and_errors(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {
        "/v1/generate",
        "/v1/compose",
        "/v1/recognise",
        "/v1/translate",
        "/v1/models",
        "/healthz",
        "/readyz",
        "/metrics",
    } <= set(schema["paths"])
    generate = schema["paths"]["/v1/generate"]["post"]
    assert set(generate["responses"]["200"]["content"]) == {"application/json", PNG, ZIP, NPZ}
    assert set(generate["responses"]["429"]["content"]) == {"application/problem+json"}
    assert "\u0915" in json.dumps(schema, ensure_ascii=False), "an example in the script"


# --- the command ---


def test_another_address_than_loopback_wants_keys(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0", "--model", "g.onnx"])
    assert "On 0.0.0.0 others can reach the API, so it needs --keys FILE" in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 2
    done = CliRunner().invoke(cli, ["serve", "--model", "g.onnx", "--keys", str(tmp_path / "none")])
    assert "cannot be read" in str(done.exception)
    done = CliRunner().invoke(cli, ["serve", "--model", "g.onnx", "--limit", "imagse=3"])
    assert re.match(r"--limit imagse: .*; there are: images, text, ", str(done.exception))


def test_a_port_that_is_taken_is_a_sentence(choice: Choice) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match=r"port \d+, cannot be listened on .*; choose another"),
    ):
        serve(create_app([choice]), "127.0.0.1", taken.getsockname()[1], Limits())


def test_a_new_key_is_printed_with_its_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["serve", "--new-key", "team"])
    key, line = re.findall(r": +(.+)", done.stdout)
    (tmp_path / "keys").write_text(line)
    assert Keys(tmp_path / "keys").holder(key) == "team"
