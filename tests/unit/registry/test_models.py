"""The registry: one model per dataset, a challenger, perhaps a champion, and files that can be fetched."""

import json
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from sqlalchemy.exc import OperationalError

from lekhani.errors import LekhaniError
from lekhani.files import sha256
from lekhani.registry import models
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect

EXPERIMENT = "test-registry"
ToyGenerator = Callable[..., Path]


@dataclass(frozen=True)
class Logged:
    run_id: str
    uri: str
    file: Path


@pytest.fixture
def log(store: Path, toy_generator: ToyGenerator, tmp_path: Path) -> Callable[..., Logged]:
    """Logs a toy generator to a run of its own, with a scorecard and a judge beside it."""

    def one(name: str, judge: bool = True, card: str = "measurements.json") -> Logged:
        path = toy_generator(tmp_path / f"{name}.onnx", metadata={"lineage": json.dumps({"logged_as": name})})
        (tmp_path / "judge.onnx").write_text("the judge")
        (tmp_path / card).write_text("{}")
        run_id = runs.create_run(EXPERIMENT, name, "test", {})
        uri = logged.log_model(run_id, path, [tmp_path / card, tmp_path / "judge.onnx"] if judge else [])
        return Logged(run_id, uri, path)

    return one


def test_register_and_find(log: Callable[..., Logged]) -> None:
    client, name = connect(), "lekhani-toys"
    first, second = log("first"), log("second", judge=False)

    version = models.register(
        "toys", first.uri, {"variant": "dcgan", "fid": "3.5"}, {"source.name": "kaggle"}, "A card."
    )
    assert (version.name, str(version.version)) == (name, "1")
    stored = client.get_model_version(name, "1")
    assert (stored.run_id, stored.description) == (first.run_id, "A card.")
    assert stored.tags.items() >= {"variant": "dcgan", "fid": "3.5"}.items()
    assert set(stored.tags) == {"variant", "fid", models.MADE_FROM}
    assert models.tags_of(stored) == {"variant": "dcgan", "fid": "3.5", "source.name": "kaggle"}
    digests = json.loads(stored.tags[models.MADE_FROM])["files_sha256"]
    assert digests["artifacts/first.onnx"] == sha256(first.file)
    assert {"artifacts/judge.onnx", "artifacts/measurements.json", "MLmodel", "pyfunc.py"} <= set(digests)
    assert models.aliases("toys") == {"challenger": "1"}
    assert str(models.register("toys", first.uri, {}).version) == "1", "calling twice adds nothing"

    found = models.find("toys")
    assert (found.name, found.version, found.alias) == (name, "1", "challenger")
    assert (found.run_id, found.variant) == (first.run_id, "dcgan")
    assert sha256(found.generator) == sha256(first.file)
    assert found.scorecard is not None
    assert found.scorecard.read_text() == "{}"
    assert found.judge is not None
    assert found.judge.read_text() == "the judge"
    assert not list(found.generator.parents[1].glob("registered_model_meta")), "reading writes nothing"

    client.set_registered_model_alias(name, "champion", "1")
    assert str(models.register("toys", second.uri, {}).version) == "2"
    assert models.aliases("toys") == {"champion": "1", "challenger": "2"}
    assert models.find("toys").alias == "champion", "a champion goes first"
    models.register("toys", first.uri, {})
    assert models.aliases("toys") == {"champion": "1", "challenger": "2"}, "a champion is not its own challenger"

    client.delete_registered_model_alias(name, "champion")
    found = models.find("toys")
    assert (found.version, found.alias) == ("2", "challenger")
    assert found.scorecard is found.judge is None, "it was logged without"
    models.register("toys", first.uri, {})
    assert models.aliases("toys") == {"challenger": "1"}, "an older model can become challenger again"


def test_a_version_of_an_earlier_release_has_its_scorecard(log: Callable[..., Logged]) -> None:
    models.register("renamed", log("renamed", card="scorecard.json").uri, {})
    found = models.find("renamed")
    assert found.scorecard is not None
    assert found.scorecard.name == "scorecard.json"


def test_datasets_do_not_share_versions(log: Callable[..., Logged]) -> None:
    client, logged = connect(), log("shared")
    client.create_registered_model("foreign-one")
    models.register("one", logged.uri, {})
    models.register("one_more", logged.uri, {})
    assert len(client.search_model_versions("name = 'lekhani-one'")) == 1
    assert {"one", "one_more"} <= set(models.datasets())
    assert "foreign-one" not in models.datasets()


@pytest.mark.parametrize("name", ["generator.onnx", "judge.onnx", "measurements.json"])
def test_a_file_that_was_changed_or_is_gone_is_a_sentence(log: Callable[..., Logged], name: str) -> None:
    dataset = f"changed-{name.partition('.')[0]}"
    logged = log("generator")
    models.register(dataset, logged.uri, {})
    models.check_there(dataset, "1")
    assert models.is_intact(dataset, logged.uri)
    path = models.find(dataset).generator.with_name(name)
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    expected = rf"^{name} in MLflow at .* is not the file that was registered as lekhani-{dataset} version 1: its SHA"
    with pytest.raises(LekhaniError, match=expected):
        models.find(dataset)
    assert not models.is_intact(dataset, logged.uri)
    path.unlink()
    for look in (lambda: models.find(dataset), lambda: models.check_there(dataset, "1")):
        with pytest.raises(LekhaniError, match=rf"{name} of lekhani-{dataset} version 1 in MLflow at .* is missing;"):
            look()
    path.write_bytes(content)
    connect().set_model_version_tag(f"lekhani-{dataset}", "1", models.MADE_FROM, "{")
    with pytest.raises(LekhaniError, match=r"The tag lekhani\.made_from of .* cannot be read"):
        models.find(dataset)


def test_a_version_of_earlier_has_its_judge_in_its_run(
    log: Callable[..., Logged], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logged, client = log("earlier", judge=False), connect()
    client.log_artifact(logged.run_id, str(tmp_path / "judge.onnx"), "judge")
    models.register("earlier", logged.uri, {"model_sha256": sha256(logged.file)})
    digests = json.loads(client.get_model_version("lekhani-earlier", "1").tags[models.MADE_FROM])[models.FILES]
    client.delete_model_version_tag("lekhani-earlier", "1", models.MADE_FROM)
    client.set_model_version_tag("lekhani-earlier", "1", models.FILES, json.dumps(digests | {"artifacts/none": "0"}))
    with pytest.raises(LekhaniError, match="none of lekhani-earlier version 1"):
        models.find("earlier")
    client.set_model_version_tag("lekhani-earlier", "1", models.FILES, "{")
    with pytest.raises(LekhaniError, match=r"The tag files_sha256 of .* cannot be read"):
        models.find("earlier")
    client.delete_model_version_tag("lekhani-earlier", "1", models.FILES)
    found = models.find("earlier")
    assert found.judge is not None
    assert found.judge.read_text() == "the judge"
    assert "lekhani-earlier version 1 has a SHA-256 of its generator alone to check" in caplog.text
    models.check_there("earlier", "1")
    found.generator.write_bytes(found.generator.read_bytes() + b" ")
    with pytest.raises(LekhaniError, match=r"earlier\.onnx in MLflow at .* is not the file that was registered"):
        models.find("earlier")


def test_a_database_that_was_moved_away_is_missed_and_another_in_its_place_is_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "mlflow.db", tmp_path / "other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    for name in ("lekhani-moved-one", "lekhani-moved-two"):
        shutil.copy(store / "mlflow.db", path)
        connect().create_registered_model(name)
        if name == "lekhani-moved-one":
            path.rename(other)
    assert "moved-two" in models.datasets()
    path.rename(tmp_path / "away.db")
    with pytest.raises(LekhaniError, match=r"The database of MLflow at sqlite.* is not there; restore it"):
        models.datasets()
    assert not path.exists()
    other.rename(path)
    assert "moved-two" not in models.datasets()
    assert "moved-one" in models.datasets()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda: models.find("nothing"),
            r"Nothing is registered as lekhani-nothing in MLflow at .*; run `make demo`",
        ),
        (lambda: models.fetch("nothing", "7"), "lekhani-nothing version 7 cannot be fetched from MLflow at sqlite"),
        (lambda: models.register("ghost", "models:/m-0123456789", {}), "Could not register lekhani-ghost in MLflow at"),
    ],
    ids=["find", "fetch", "register"],
)
def test_what_is_not_there_is_a_sentence(store: Path, ask: Callable[[], object], said: str) -> None:
    with pytest.raises(LekhaniError, match=said) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_a_server_that_is_away_is_a_sentence_without_its_password(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = {"http": "Could not read lekhani-away from", "htp": "Could not connect to"}
    for scheme, failed in said.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://user:hunter2@127.0.0.1:9")
        with pytest.raises(LekhaniError, match=rf"{failed} MLflow at {scheme}://127\.0\.0\.1:9: \w+") as caught:
            models.find("away")
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_database_that_is_away_is_a_sentence(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OperationalError("connect", {}, Exception("connection refused"))

    monkeypatch.setattr(mlflow.MlflowClient, "get_registered_model", away)
    with pytest.raises(LekhaniError, match=r"Could not read lekhani-away from MLflow at .*connection refused"):
        models.find("away")
