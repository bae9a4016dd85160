"""Aliases that move in several steps: killed between any two, tried by two at once, undone, and changed by hand."""

import itertools
import json
import multiprocessing
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from lekhani.errors import LekhaniError, UsageError
from lekhani.registry import models, promotion
from lekhani.tracking.store import connect

# Everything in a move that changes the registry.
WRITES = (
    *("create_registered_model", "delete_registered_model", "set_model_version_tag"),
    *("set_registered_model_alias", "delete_registered_model_alias"),
)
# Children that are forked from a process that has MLflow imported and no database open start in no time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lekhani.registry.promotion"])


def new(name: str, versions: int) -> MlflowClient:
    """A registered model with so many versions, the first of which is champion."""
    client = connect()
    client.create_registered_model(models.model_name(name))
    for _ in range(versions):
        client.create_model_version(models.model_name(name), "file:///nowhere", tags={"variant": "dcgan"})
    promotion.promote(name, "1", None)
    return client


def tags(name: str, version: str) -> dict[str, str]:
    return dict(connect().get_model_version(models.model_name(name), version).tags)


def left_over(name: str) -> bool:
    return any(model.name.endswith(f"{name}.move") for model in connect().search_registered_models())


def test_the_first_champion_has_no_previous(store: Path) -> None:
    new("first-ever", 1)
    assert models.aliases("first-ever") == {"champion": "1"}
    assert tags("first-ever", "1")["promoted_over"] == "none"


def test_promotion_keeps_the_old_champion_and_takes_the_challenger(store: Path) -> None:
    client = new("moved", 3)
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
    assert not left_over("moved")


def test_rollback_goes_back_step_by_step(store: Path) -> None:
    new("undone", 3)
    promotion.promote("undone", "2", "1")
    promotion.promote("undone", "3", "2")
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
    new("circle", 2)
    promotion.promote("circle", "2", "1")
    promotion.promote("circle", "1", "2", "the old one again")
    promotion.rollback("circle")
    assert models.aliases("circle") == {"champion": "2"}, "version 2 stood over version 1, which was just left"


def test_what_cannot_be_restored_leaves_the_aliases(store: Path) -> None:
    new("lost", 2)
    promotion.promote("lost", "2", "1")
    before = models.aliases("lost")

    def refuse(version: str) -> None:
        raise LekhaniError(f"{version} is gone")

    with pytest.raises(LekhaniError, match="1 is gone"):
        promotion.rollback("lost", check=refuse)
    assert models.aliases("lost") == before
    assert not left_over("lost")


def test_a_champion_that_has_changed_meanwhile_is_kept(store: Path) -> None:
    new("overtaken", 3)
    promotion.promote("overtaken", "2", "1")
    with pytest.raises(
        LekhaniError, match="lekhani-overtaken has become version 2 in the meantime, no longer 1; nothing was changed"
    ):
        promotion.promote("overtaken", "3", "1")
    assert models.aliases("overtaken") == {"champion": "2", "previous": "1"}
    assert "promoted_at" not in tags("overtaken", "3")
    assert not left_over("overtaken")


def _die_before(uri: str, step: int, action: str, name: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    count = itertools.count()
    for method in WRITES:
        original = getattr(MlflowClient, method)

        def counted(self: MlflowClient, *args: Any, _original: Any = original, **options: Any) -> Any:
            if next(count) == step:
                os._exit(9)
            return _original(self, *args, **options)

        setattr(MlflowClient, method, counted)
    if action == "promote":
        promotion.promote(name, "3", "2")
    else:
        promotion.rollback(name)
    os._exit(0)


@pytest.mark.parametrize(
    ("action", "done"),
    [("promote", {"champion": "3", "previous": "2"}), ("rollback", {"champion": "1"})],
    ids=["promote", "rollback"],
)
def test_killed_between_any_two_steps_the_next_call_finishes(action: str, done: dict[str, str], store: Path) -> None:
    before, codes = {"champion": "2", "previous": "1"}, []
    for step in itertools.count():
        name = f"killed-{action}-{step}"
        client = new(name, 4)
        promotion.promote(name, "2", "1")
        if action == "promote":
            client.set_registered_model_alias(models.model_name(name), "challenger", "3")
        child = PROCESSES.Process(target=_die_before, args=(os.environ["MLFLOW_TRACKING_URI"], step, action, name))
        child.start()
        child.join(60)
        codes.append(child.exitcode)
        found = models.aliases(name)
        assert found["champion"] in (before["champion"], done["champion"]), "a champion at any moment"
        if child.exitcode == 0:
            break
        assert left_over(name) == (step > 0)
        promotion.finish(name)
        now = models.aliases(name)
        now.pop("challenger", None)
        assert now == (done if step else before)
        assert not left_over(name)
        if action == "promote" and step:
            assert tags(name, "3")["promoted_over"] == "2"
            assert "challenger" not in models.aliases(name)
        promotion.promote(name, "4", now["champion"])
        assert models.aliases(name)["champion"] == "4", "and the registry goes on"
    assert set(codes[:-1]) == {9}
    assert codes[-1] == 0
    assert len(codes) > 6, "each write of a move was one of the places"


def _try(uri: str, name: str, version: str, start: Any, said: Any) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    connect()
    start.wait(60)
    try:
        promotion.promote(name, version, "1")
        said.put((version, "won"))
    except LekhaniError as error:
        said.put((version, str(error)))


def test_of_two_at_once_one_wins_and_the_other_says_so(store: Path) -> None:
    for attempt in range(4):
        name = f"race-{attempt}"
        new(name, 3)
        start, said = PROCESSES.Barrier(2), PROCESSES.Queue()
        both = [
            PROCESSES.Process(target=_try, args=(os.environ["MLFLOW_TRACKING_URI"], name, version, start, said))
            for version in ("2", "3")
        ]
        for child in both:
            child.start()
        answers = dict(said.get(timeout=60) for _ in both)
        for child in both:
            child.join(60)
        (winner,) = [version for version, answer in answers.items() if answer == "won"]
        (loser,) = set(answers) - {winner}
        assert "Someone else moves the champion" in answers[loser] or "in the meantime" in answers[loser]
        assert models.aliases(name) == {"champion": winner, "previous": "1"}
        assert "promoted_at" not in tags(name, loser)


def journal(name: str, **changes: Any) -> promotion.Move:
    """A move to version 2 that was broken off before its first step."""
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    move = replace(
        promotion.Move("promote", "2", "1", "1", "2", {"promoted_by": "asha"}, "asha", at, "elsewhere", 1), **changes
    )
    connect().create_registered_model(f"lekhani-{name}.move", {"move": json.dumps(asdict(move))})
    return move


def test_a_move_on_another_machine_is_left_alone_until_it_is_old(store: Path) -> None:
    new("far-away", 3)
    journal("far-away")
    with pytest.raises(LekhaniError, match=r"asha is promoting lekhani-far-away version 2 since .*; wait a moment"):
        promotion.finish("far-away")
    with pytest.raises(LekhaniError, match="Someone else moves the champion of lekhani-far-away at this moment"):
        promotion.promote("far-away", "3", "1")
    assert models.aliases("far-away") == {"champion": "1"}
    connect().delete_registered_model("lekhani-far-away.move")
    journal("far-away", at="2020-01-01T00:00:00Z")
    promotion.finish("far-away")
    assert models.aliases("far-away") == {"champion": "2", "previous": "1"}


def test_an_old_move_does_not_undo_what_was_set_by_hand_since(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = new("by-hand", 3)
    journal("by-hand", at="2020-01-01T00:00:00Z")
    client.set_registered_model_alias("lekhani-by-hand", "champion", "3")
    promotion.finish("by-hand")
    assert models.aliases("by-hand") == {"champion": "3"}
    assert "its champion has been set by hand since" in caplog.text
    assert not left_over("by-hand")


def test_a_journal_of_someone_else_is_a_sentence(store: Path) -> None:
    new("foreign", 2)
    connect().create_registered_model("lekhani-foreign.move", {"move": "{}"})
    with pytest.raises(LekhaniError, match=r"lekhani-foreign\.move is not one of ours; delete it"):
        promotion.finish("foreign")


def test_a_database_that_cannot_be_written_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new("read-only", 2)

    def fail(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("(sqlite3.OperationalError) attempt to write a readonly database\nlong story")

    with monkeypatch.context() as patch:
        for method in WRITES:
            patch.setattr(MlflowClient, method, fail)
        with pytest.raises(
            LekhaniError, match=r"lets no alias of lekhani-read-only move: .*readonly database; nothing was changed"
        ) as caught:
            promotion.promote("read-only", "2", "1")
    assert "\n" not in str(caught.value)
    assert models.aliases("read-only") == {"champion": "1"}


def test_a_failure_in_the_middle_says_that_the_next_call_finishes_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new("middle", 2)

    def fail(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("the server went away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", fail)
        with pytest.raises(
            LekhaniError, match="to version 2 was broken off: the server went away; the next call finishes it"
        ):
            promotion.promote("middle", "2", "1")
    assert models.aliases("middle") == {"champion": "1"}
    promotion.finish("middle")
    assert models.aliases("middle") == {"champion": "2", "previous": "1"}


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
