"""The registry: one model per dataset, a challenger, perhaps a champion, and files that can be fetched."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from lekhani.errors import LekhaniError
from lekhani.files import sha256
from lekhani.registry import models
from lekhani.tracking import runs
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
    """Logs a toy generator to a run of its own, with a judge beside it."""

    def one(name: str, judge: bool = True) -> Logged:
        path = toy_generator(tmp_path / f"{name}.onnx", metadata={"lineage": json.dumps({"logged_as": name})})
        (tmp_path / "judge.onnx").write_text("the judge")
        with runs.resume(None, EXPERIMENT, name, {}) as run_id:
            uri = runs.log_model(path)
            if judge:
                mlflow.log_artifact(str(tmp_path / "judge.onnx"), "judge")
        return Logged(run_id, uri, path)

    return one


def test_nothing_registered_is_a_sentence(store: Path) -> None:
    with pytest.raises(
        LekhaniError,
        match=r"Nothing is registered as lekhani-nothing in MLflow at sqlite.*; run `make demo` or pass --model",
    ):
        models.find("nothing")


def test_register_find_and_promote(log: Callable[..., Logged]) -> None:
    client, name = connect(), "lekhani-toys"
    first, second = log("first"), log("second", judge=False)

    version = models.register("toys", first.uri, {"variant": "dcgan", "fid": "3.5"})
    assert (version.name, str(version.version)) == (name, "1")
    stored = client.get_model_version(name, "1")
    assert stored.run_id == first.run_id
    assert stored.tags == {"variant": "dcgan", "fid": "3.5"}
    assert str(client.get_model_version_by_alias(name, "challenger").version) == "1"

    again = models.register("toys", first.uri, {})
    assert str(again.version) == "1", "calling twice adds nothing"
    assert len(client.search_model_versions(f"name = '{name}'")) == 1

    found = models.find("toys")
    assert (found.name, found.version, found.alias) == (name, "1", "challenger")
    assert found.generator.suffix == ".onnx"
    assert found.judge is not None
    assert found.judge.read_text() == "the judge"

    client.set_registered_model_alias(name, "champion", "1")
    assert str(models.register("toys", second.uri, {}).version) == "2"
    assert str(client.get_model_version_by_alias(name, "challenger").version) == "2"
    found = models.find("toys")
    assert (found.version, found.alias) == ("1", "champion"), "a champion goes first"

    client.delete_registered_model_alias(name, "champion")
    found = models.find("toys")
    assert (found.version, found.alias) == ("2", "challenger")
    assert found.judge is None, "its run kept none"

    assert str(models.register("toys", first.uri, {}).version) == "1"
    assert str(client.get_model_version_by_alias(name, "challenger").version) == "1", (
        "an older model can be put forward again"
    )


def test_what_is_found_is_the_generator_that_was_logged(log: Callable[..., Logged]) -> None:
    from lekhani.inference.session import Generator

    logged = log("entire")
    models.register("entire", logged.uri, {})
    generator = Generator(models.find("entire").generator, "cpu")
    assert generator.lineage == {"logged_as": "entire"}
    assert generator.noise_dim == 16
    assert sha256(models.find("entire").generator) == generator.sha256


def test_a_model_logged_as_onnx_alone_is_found_too(store: Path, toy_generator: ToyGenerator, tmp_path: Path) -> None:
    import onnx

    path = toy_generator(tmp_path / "generator.onnx")
    with runs.resume(None, EXPERIMENT, "old form", {}):
        info = mlflow.onnx.log_model(
            onnx.load(path), name="generator", save_as_external_data=False, pip_requirements=["onnxruntime"]
        )
    models.register("old_form", info.model_uri, {})
    assert sha256(models.find("old_form").generator) == sha256(path)


def test_a_file_that_was_changed_is_a_sentence(log: Callable[..., Logged]) -> None:
    logged = log("changed")
    models.register("changed", logged.uri, {"model_sha256": sha256(logged.file)})
    path = models.find("changed").generator
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(
        LekhaniError, match="is not the file that was registered as lekhani-changed version 1, for its SHA-256 differs"
    ) as caught:
        models.find("changed")
    assert "\n" not in str(caught.value)


def test_datasets_do_not_share_versions(log: Callable[..., Logged]) -> None:
    logged = log("shared")
    models.register("one", logged.uri, {})
    models.register("one_more", logged.uri, {})
    assert models.find("one").name == "lekhani-one"
    assert len(connect().search_model_versions("name = 'lekhani-one'")) == 1
    with pytest.raises(LekhaniError, match="Nothing is registered as lekhani-on in"):
        models.find("on")


def test_a_model_that_is_gone_is_a_sentence(log: Callable[..., Logged]) -> None:
    logged = log("gone")
    models.register("gone", logged.uri, {})
    models.find("gone").generator.rename(logged.file)
    with pytest.raises(LekhaniError, match=r"holds 0 ONNX files|cannot be fetched"):
        models.find("gone")


def test_a_model_that_was_never_logged_cannot_be_registered(store: Path) -> None:
    with pytest.raises(LekhaniError, match="Could not register lekhani-ghost in MLflow at sqlite") as caught:
        models.register("ghost", "models:/m-0123456789", {})
    assert "\n" not in str(caught.value)


def test_the_champion_is_not_its_own_challenger(log: Callable[..., Logged]) -> None:
    logged = log("champion")
    models.register("crowned", logged.uri, {})
    client = connect()
    client.set_registered_model_alias("lekhani-crowned", "champion", "1")
    client.delete_registered_model_alias("lekhani-crowned", "challenger")
    models.register("crowned", logged.uri, {})
    assert models.aliases("crowned") == {"champion": "1"}


def test_another_model_gives_a_new_version(log: Callable[..., Logged]) -> None:
    models.register("anew", log("anew").uri, {}, "A description.")
    models.register("anew", log("another").uri, {})
    assert models.aliases("anew") == {"challenger": "2"}
    assert connect().get_model_version("lekhani-anew", "1").description == "A description."


def test_files_beside_the_generator_come_with_it(store: Path, toy_generator: ToyGenerator, tmp_path: Path) -> None:
    path, card = toy_generator(tmp_path / "generator.onnx"), tmp_path / "scorecard.json"
    card.write_text("{}")
    with runs.resume(None, EXPERIMENT, "beside", {}) as run_id:
        uri = runs.log_model(path, [card])
    models.register("beside", uri, {"variant": "dcgan"})
    found = models.fetch("beside", "1")
    assert found.scorecard is not None
    assert found.scorecard.read_text() == "{}"
    assert (found.run_id, found.variant, found.alias) == (run_id, "dcgan", "")


def test_a_version_that_is_not_there_is_a_sentence(store: Path) -> None:
    with pytest.raises(LekhaniError, match="lekhani-nothing version 7 cannot be fetched from MLflow at sqlite"):
        models.fetch("nothing", "7")


def test_a_server_that_is_away_is_a_sentence(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for ask in (models.aliases, models.find):
        with pytest.raises(LekhaniError, match=r"cannot be read from MLflow at http://127\.0\.0\.1:9") as caught:
            ask("away")
        assert "\n" not in str(caught.value)


def test_datasets_are_those_with_a_registered_model(store: Path) -> None:
    client = connect()
    for name in ("lekhani-listed-toys", "lekhani-listed-toys.move", "foreign-listed-toys"):
        client.create_registered_model(name)
    assert [name for name in models.datasets() if "listed" in name] == ["listed-toys"]
