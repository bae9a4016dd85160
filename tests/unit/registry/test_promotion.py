"""Aliases that move in several steps: killed between any two, by two processes at once, undone, and changed by hand."""

import itertools
import multiprocessing
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from lekhani.errors import LekhaniError, UsageError
from lekhani.registry import models, promotion
from lekhani.tracking import store as tracking_store
from lekhani.tracking.store import connect

# Every call in a move that changes the registry.
WRITES = ("set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias")
# Children that are forked from a process that has imported MLflow and opened no database start quickly.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lekhani.registry.promotion"])


def new(name: str, versions: int, **aliases: str) -> MlflowClient:
    """A registered model with so many versions and these aliases, each version promoted over the one before."""
    client, model = connect(), models.model_name(name)
    client.create_registered_model(model)
    for number in range(versions):
        tags = {"variant": "dcgan", "promoted_over": str(number or "none")}
        client.create_model_version(model, "file:///nowhere", tags=tags)
    for alias, version in aliases.items():
        client.set_registered_model_alias(model, alias, version)
    return client


def tags(name: str, version: str) -> dict[str, str]:
    return dict(connect().get_model_version(models.model_name(name), version).tags)


def test_promotion_keeps_the_old_champion_and_takes_the_challenger(store: Path) -> None:
    client = new("moved", 3)
    promotion.promote("moved", "1", None)
    assert models.aliases("moved") == {"champion": "1"}
    assert tags("moved", "1")["promoted_over"] == "none"
    client.set_registered_model_alias("lekhani-moved", "challenger", "2")
    promotion.promote("moved", "2", "1")
    assert models.aliases("moved") == {"champion": "2", "previous": "1"}
    known = tags("moved", "2")
    assert known["promoted_over"] == "1"
    assert known["promoted_by"] == promotion.author()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(known["promoted_at"])) < timedelta(minutes=1)
    client.set_registered_model_alias("lekhani-moved", "challenger", "2")
    promotion.promote("moved", "3", "2", "because I say so")
    assert models.aliases("moved") == {"champion": "3", "previous": "2", "challenger": "2"}, "another challenger stays"
    assert tags("moved", "3")["promoted_because"] == "because I say so"


def test_rollback_goes_back_step_by_step(store: Path) -> None:
    new("undone", 3, champion="3", previous="2")
    assert promotion.rollback("undone", "it draws ghosts") == ("2", "3")
    assert models.aliases("undone") == {"champion": "2", "previous": "1"}
    known = tags("undone", "3")
    assert (known["rolled_back_to"], known["rolled_back_because"]) == ("2", "it draws ghosts")
    assert promotion.rollback("undone") == ("1", "2")
    assert models.aliases("undone") == {"champion": "1"}
    with pytest.raises(UsageError, match="lekhani-undone has no previous champion, so there is nothing to go back to"):
        promotion.rollback("undone")
    with pytest.raises(UsageError, match="lekhani-unheard has no champion"):
        promotion.rollback("unheard")


def test_rolling_back_a_return_of_an_old_version_does_not_go_in_circles(store: Path) -> None:
    new("circle", 2, champion="2", previous="1")
    promotion.promote("circle", "1", "2", "the old one again")
    promotion.rollback("circle")
    assert models.aliases("circle") == {"champion": "2"}, "version 2 was promoted over version 1, which was just left"


def test_what_cannot_be_restored_leaves_the_aliases(store: Path) -> None:
    new("lost", 2, champion="2", previous="1")

    def refuse(version: str) -> None:
        raise LekhaniError(f"{version} is gone")

    with pytest.raises(LekhaniError, match="1 is gone"):
        promotion.rollback("lost", check=refuse)
    assert models.aliases("lost") == {"champion": "2", "previous": "1"}


class Killed(BaseException):
    """Ends a move between two of its steps, as no handler of errors can prevent."""


def killed_before(step: int, move: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Make a move, ending it before its write number `step`; False when it had fewer."""
    count = itertools.count()

    def counted(client: MlflowClient, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if next(count) == step:
            raise Killed
        return method(client, *args, **options)

    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(MlflowClient, name, partialmethod(counted, getattr(MlflowClient, name)))
        try:
            move()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_killed_between_any_two_steps_the_next_call_finishes(
    action: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, before = f"killed-{action}", {"champion": "3", "previous": "2", "challenger": "4"}
    client, done = new(name, 4), {"promote": ("4", "3"), "rollback": ("2", "1")}[action]

    def move() -> None:
        """What `lekhani promote` does once the gate has decided, or `lekhani rollback`."""
        if action == "rollback":
            promotion.rollback(name)
            return
        promotion.complete(name)
        if (champion := models.aliases(name)["champion"]) != "4":
            promotion.promote(name, "4", champion)

    for step in itertools.count():
        for alias, version in before.items():
            client.set_registered_model_alias(models.model_name(name), alias, version)
        if not killed_before(step, move, monkeypatch):
            break
        assert models.aliases(name)["champion"] in (before["champion"], done[0]), "a champion at any moment"
        move()
        known = models.aliases(name)
        assert (known["champion"], known["previous"]) == done
        assert ("challenger" in known) == (action == "rollback")
        assert tags(name, "4")["promoted_over"] == "3"
    assert step > 5, "each write was one of the places"


def test_rollback_undoes_a_promotion_that_was_killed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new("half", 3, champion="2", previous="1", challenger="3")
    assert killed_before(5, lambda: promotion.promote("half", "3", "2"), monkeypatch)
    assert models.aliases("half") == {"champion": "2", "previous": "2", "challenger": "3"}
    assert promotion.rollback("half") == ("2", None)
    assert models.aliases("half") == {"champion": "2", "previous": "1", "challenger": "3"}


def _pause_before_the_champion_moves(uri: str, name: str, reached: Any, go_on: Any) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    original = MlflowClient.set_registered_model_alias

    def pausing(self: MlflowClient, model: str, alias: str, version: str) -> None:
        if alias == "champion":
            reached.set()
            go_on.wait(60)
        original(self, model, alias, version)

    MlflowClient.set_registered_model_alias = pausing  # type: ignore[method-assign]
    promotion.promote(name, "2", "1")


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_processes_one_moves_the_champion(killed: bool, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"two-{killed}".lower()
    new(name, 3, champion="1")
    reached, go_on = PROCESSES.Event(), PROCESSES.Event()
    arguments = (os.environ["MLFLOW_TRACKING_URI"], name, reached, go_on)
    child = PROCESSES.Process(target=_pause_before_the_champion_moves, args=arguments)
    child.start()
    assert reached.wait(120)
    monkeypatch.setattr(tracking_store, "LOCK_SECONDS", 0.2)
    with pytest.raises(LekhaniError, match=f"Another process is changing lekhani-{name} in MLflow at sqlite"):
        promotion.promote(name, "3", "1")
    if killed:
        child.kill()
        child.join(60)
        promotion.promote(name, "2", "1")
    else:
        go_on.set()
        child.join(60)
        with pytest.raises(LekhaniError, match="changed from version 1 to 2 in the meantime; nothing was changed"):
            promotion.promote(name, "3", "1")
    assert models.aliases(name) == {"champion": "2", "previous": "1"}
    assert "promoted_at" not in tags(name, "3")


def test_without_a_lock_the_one_who_lost_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a server, where another member may set the alias just after this one."""
    new("raced", 3, champion="1")
    original = MlflowClient.set_registered_model_alias

    def set_by_both(self: MlflowClient, model: str, alias: str, version: str) -> None:
        original(self, model, alias, version)
        if alias == "champion":
            original(self, model, alias, "3")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_by_both)
    with pytest.raises(LekhaniError, match=r"Someone else made version 3 the champion .* so that version 2 is not"):
        promotion.promote("raced", "2", "1")


def test_a_failure_is_one_sentence_and_may_be_repeated(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new("failing", 2, champion="1")

    def fail(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("(sqlite3.OperationalError) attempt to write a readonly database\nlong story")

    for method in ("set_model_version_tag", "set_registered_model_alias"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, fail)
            with pytest.raises(
                LekhaniError, match=r"Could not make version 2 the champion .*readonly database; run"
            ) as e:
                promotion.promote("failing", "2", "1")
        assert "\n" not in str(e.value)
        assert models.aliases("failing")["champion"] == "1"
    promotion.promote("failing", "2", "1")
    assert models.aliases("failing") == {"champion": "2", "previous": "1"}


def test_a_decision_is_kept_with_its_version_and_run(store: Path, tmp_path: Path) -> None:
    new("kept", 1)
    with mlflow.start_run() as run:
        pass
    for name in ("decision.json", "decision.md"):
        (tmp_path / name).write_text(name)
    files = [tmp_path / "decision.json", tmp_path / "decision.md"]
    for verdict in ("refuse", "promote"):
        promotion.record("kept", "1", run.info.run_id, files, {"gate.verdict": verdict, "gate.fid": "1.5"})
    known = tags("kept", "1")
    assert (known["gate.verdict"], known["gate.fid"]) == ("promote", "1.5")
    assert Path(mlflow.artifacts.download_artifacts(f"{known['gate.report']}/decision.md")).read_text() == "decision.md"
    client = connect()
    assert len(client.list_artifacts(run.info.run_id, "gate")) == 2, "the refusal is kept too"
    assert client.get_run(run.info.run_id).data.tags["gate.verdict"] == "promote"


def test_a_run_that_is_gone_is_a_sentence(store: Path) -> None:
    with mlflow.start_run() as run:
        pass
    promotion.check_run("any", "4", run.info.run_id)
    connect().delete_run(run.info.run_id)
    with pytest.raises(
        LekhaniError, match=f"The run {run.info.run_id[:8]} that made lekhani-any version 4 is deleted; restore it"
    ):
        promotion.check_run("any", "4", run.info.run_id)
    for unknown in ("0" * 32, ""):
        with pytest.raises(LekhaniError, match="version 4 is missing"):
            promotion.check_run("any", "4", unknown)
