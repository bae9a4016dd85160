"""What is registered, at a glance."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lekhani import cli
from lekhani.errors import UsageError
from lekhani.registry import lineage, listing, models, promotion
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect


@pytest.fixture
def registered(store: Path, toy_generator: Callable[..., Path], tmp_path: Path) -> str:
    """Two versions of a dataset: the first with figures, a verdict and an alias, the second as MLflow's pages make
    one."""
    dataset = "listed"
    for name, tags in (("one", {"variant": "turbo", "fid_ratio": "3.25", "label_agreement": "0.981"}), ("two", {})):
        path = toy_generator(tmp_path / f"{name}.onnx", metadata={"lineage": f"listed {name}"})
        uri = logged.log_model(runs.create_run("test-listing", name, "test", {}), path)
        models.register(dataset, uri, tags)
    client = connect()
    client.set_model_version_tag("lekhani-listed", "1", "gate.verdict", "promote")
    client.set_registered_model_alias("lekhani-listed", "champion", "1")
    return dataset


def test_versions_with_aliases_verdicts_and_scores(registered: str) -> None:
    second, first = listing.listed([registered])
    assert (first.version, first.aliases, first.variant, first.verdict) == ("1", ("champion",), "turbo", "promote")
    assert (first.fid_ratio, first.label_agreement, first.usefulness) == (3.25, 0.981, None)
    assert (second.version, second.aliases, second.variant, second.verdict) == ("2", ("challenger",), None, None)
    assert {one.dataset for one in listing.listed()} >= {registered}
    said = CliRunner().invoke(cli.app, ["models", "-d", registered])
    assert said.exit_code == 0
    _, _, *rows = said.stdout.splitlines()
    assert rows[-1].split()[:8] == ["listed", "1", "champion", "turbo", "promote", "3.25", "98.1%", "-"]
    told = json.loads(CliRunner().invoke(cli.app, ["models", "-d", registered, "--json"]).stdout)
    assert [one["version"] for one in told] == ["2", "1"]
    assert "Nothing is registered" in CliRunner().invoke(cli.app, ["models", "-d", "nothing"]).stdout


def test_looking_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (listing.listed(), listing.listed(["mnist"]), models.aliases("mnist")) == ([], [], {})
    for look in (
        lambda: lineage.trace("lekhani-d"),
        lambda: lineage.trained_on("0" * 8),
        lambda: promotion.rollback("d"),
    ):
        with pytest.raises(UsageError, match=r"Nothing is registered here|has no champion"):
            look()
    assert not list(tmp_path.iterdir())
