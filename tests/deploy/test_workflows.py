"""GitHub's workflows: sound, pinned, without a right or a secret too many; and every command of theirs runs here as
well."""

import json
import re
import shutil
from typing import Any

import pytest
import yaml
from linters import checked
from miniature import Project
from workspace import ROOT

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOBS = [(f"{workflow}.{name}", job) for workflow, content in WORKFLOWS.items() for name, job in content["jobs"].items()]
STEPS = [(name, step) for name, job in JOBS for step in job.get("steps", [])]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
# What .ci/run runs, of which these tests are a part, and the demo, whose commands tests/pipeline runs one by one.
RUN_ELSEWHERE = {"docs", "setup", "lint", "types", "studio-check", "studio", "test", "test-slow", "demo"}
RUN_BELOW = {
    "pull",
    "restore",
    "push",
    "retrain",
    "register",
    "pull-request",
    "workspace-check",
    "promotion-check",
    "candidates",
    "promote",
    "comment",
    "summary",
}
TABLE = "## lekhani-mnist: version 2 against champion 1\n\n**Refuse**: too few classes\n"


def job(name: str) -> dict[str, Any]:
    return next(one for known, one in JOBS if known == name)


def commands(name: str) -> list[str]:
    """What a job runs, in order."""
    return [step["run"] for step in job(name)["steps"] if "run" in step]


def test_actionlint_finds_nothing() -> None:
    checked("actionlint", *map(str, FILES))


def test_workflows_keep_to_their_schema() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, FILES))


def test_every_step_is_one_command_with_nothing_put_into_it() -> None:
    ran = [(name, step["run"]) for name, step in STEPS if "run" in step]
    assert len(ran) > 15
    for name, command in ran:
        assert re.fullmatch(r"make [a-z-]+", command), f"{name}: {command}"
        assert command.removeprefix("make ") in TARGETS, f"{name}: {command}"


def test_every_command_is_run_by_a_test_too() -> None:
    used = {step["run"].removeprefix("make ") for _, step in STEPS if "run" in step}
    assert used == RUN_BELOW | RUN_ELSEWHERE
    local = set(re.findall(r"^ *make ([a-z-]+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.M))
    assert RUN_ELSEWHERE - local == {"demo", "test-slow"}


def test_actions_are_pinned_to_commits() -> None:
    seen: dict[str, str] = {}
    for path in FILES:
        for line in re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8")):
            if line.startswith("./"):
                assert (ROOT / line).is_file(), line
                continue
            assert (found := re.fullmatch(r"([\w./-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)), line
            assert seen.setdefault(found[1], line) == line, "one version of an action everywhere"
    assert "actions/checkout" in seen


def test_no_job_may_do_more_than_it_must() -> None:
    for name, content in WORKFLOWS.items():
        assert content["permissions"] == {}, name
    for name, one in JOBS:
        writers = {"promote.comment", "retrain.pull-request", "retrain.gate"}  # to branches that no workflow runs
        expected = {"contents": "write", "pull-requests": "write"} if name in writers else {"contents": "read"}
        assert one["permissions"] == expected, name
    for name, step in STEPS:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, name


def test_secrets_reach_only_the_commands_that_need_them() -> None:
    """Neither the installation nor an action sees one, and no command gets both those of the remote and those of the
    registry."""
    remote, registry = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"}
    needs = {"pull": remote, "restore": remote, "push": remote}
    needs |= dict.fromkeys(("retrain", "register", "workspace-check", "promotion-check", "promote"), registry)
    for name, step in STEPS:
        given = {key for key, value in step.get("env", {}).items() if f"secrets.{key}" in value}
        assert given == needs.get(step.get("run", "").removeprefix("make "), set()), (name, step)
        assert json.dumps(step).count("secrets.") == len(given), name
        if given:
            assert "make setup" in commands(name)[: commands(name).index(step["run"])], (
                f"{name}: {step['run']} installs packages beside secrets"
            )
    for name, one in JOBS:
        assert "secrets." not in json.dumps({key: value for key, value in one.items() if key != "steps"}), name


def test_the_alias_moves_only_behind_the_gate_and_an_approval() -> None:
    movers = [name for name, step in STEPS if step.get("run") in {"make promote", "make register"}]
    assert set(movers) == {"promote.promote"}
    mover = job("promote.promote")
    assert mover["needs"] == "gate"
    assert mover["environment"] == "production"
    assert "github.event_name != 'pull_request'" in mover["if"]
    assert "!inputs.pull_request" in mover["if"]
    assert mover["strategy"]["matrix"]["dataset"] == "${{ fromJSON(needs.gate.outputs.datasets) }}"
    assert mover["concurrency"] == {"group": "promote-${{ matrix.dataset }}", "cancel-in-progress": False}
    checks = [one for one in commands("promote.gate") if one.endswith("check")]
    assert checks == ["make workspace-check", "make promotion-check"]
    # A step that goes on after a refusal would let the alias move: none does, nor does the job.
    assert not any(step.get("continue-on-error") for name, step in STEPS if name != "promote.comment")
    assert not any("continue-on-error" in one for _, one in JOBS)


def test_a_promotion_that_waits_for_approval_stops_no_retraining() -> None:
    assert not any("concurrency" in WORKFLOWS[name] for name in ("retrain", "promote"))
    groups = [one["concurrency"]["group"] for name, one in JOBS if "concurrency" in one]
    assert len(set(groups)) == len(groups) == 4


def test_forks_get_nowhere_near_the_secrets() -> None:
    guard = job("promote.gate")["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in guard
    for name, content in WORKFLOWS.items():
        assert not {"pull_request_target", "workflow_run"} & set(content[True]), (
            name
        )  # YAML reads `on` as a truth value


def test_retraining_keeps_its_work_before_it_tells_of_it() -> None:
    assert commands("retrain.retrain") == [f"make {one}" for one in ("setup", "restore", "retrain", "summary", "push")]
    kept, taken = (
        next(step["with"] for step in job(name)["steps"] if f"{what}-artifact" in step.get("uses", ""))
        for name, what in (("retrain.retrain", "upload"), ("retrain.pull-request", "download"))
    )
    assert (kept["name"], kept["path"]) == (taken["name"], "dvc.lock")
    gate = job("retrain.gate")
    assert gate["uses"] == "./.github/workflows/promote.yml"
    assert set(gate["with"]) == set(WORKFLOWS["promote"][True]["workflow_call"]["inputs"])


def test_data_and_models_go_to_the_remote_and_come_back(small_project: Project) -> None:
    small_project.run("dvc", "repro", "-q")
    small_project.commit("reproduced")
    board = small_project.path / "reports" / "leaderboard.md"
    made = board.read_bytes()

    def forget() -> None:
        for lost in (".dvc/cache", "reports"):
            shutil.rmtree(small_project.path / lost, ignore_errors=True)

    kept = small_project.path.parent / "kept"
    shutil.copytree(small_project.path / ".dvc" / "cache", kept)
    forget()
    small_project.make("pull", code=2)
    small_project.make("restore")  # a first retraining finds an empty remote
    assert not board.exists()
    shutil.copytree(kept, small_project.path / ".dvc" / "cache", dirs_exist_ok=True)
    small_project.make("push")
    forget()
    small_project.make("pull")
    assert board.read_bytes() == made
    # Whoever has the same inputs takes what came of them, even if nobody committed dvc.lock.
    small_project.run("git", "rm", "-q", "dvc.lock")
    forget()
    assert "is cached - skipping run" in small_project.run("dvc", "repro", "--pull")
    assert board.read_bytes() == made


def test_a_new_lock_becomes_a_pull_request(small_project: Project) -> None:
    told, hub = small_project.path.parent / "output", small_project.path.parent / "somebody" / "lekhani"
    small_project.environment |= {"GITHUB_OUTPUT": str(told), "GITHUB_REPOSITORY": "somebody/lekhani"}
    small_project.environment["GITHUB_SERVER_URL"] = small_project.path.parent.as_uri()
    shutil.copytree(ROOT / ".github", small_project.path / ".github")
    small_project.run("git", "init", "-q", "--bare", str(hub))
    calls = small_project.stand_in("gh", "https://github.com/somebody/lekhani/pull/34\n")
    small_project.run("dvc", "repro", "-q")
    small_project.commit("reproduced")
    assert "nothing to propose" in small_project.make("pull-request")
    assert calls() == []
    assert not told.exists()
    lock = small_project.path / "dvc.lock"
    lock.write_text(lock.read_text() + "# another\n")
    small_project.run("git", "add", "dvc.lock")  # as core.autostage does
    (small_project.path / "prefect.yaml").write_text("left over")
    small_project.make("pull-request")
    number, branch = (line.partition("=")[2] for line in told.read_text().splitlines())
    assert number == "34"
    assert re.fullmatch(r"retrain/\d{4}-\d\d-\d\d-\d{4}", branch)
    opened = calls()[-1]
    assert opened[:2] == ["pr", "create"]
    assert opened[opened.index("--head") + 1] == branch
    changed = small_project.run("git", "-C", str(hub), "show", "--format=", "--name-only", branch)
    assert changed.split() == ["dvc.lock"], "and nothing else"


@pytest.mark.parametrize(("reason", "left"), [("", '["a"]'), ("a demonstration", '["a", "b"]')])
def test_what_the_gate_leaves_to_promote(small_project: Project, reason: str, left: str) -> None:
    told = small_project.path.parent / "output"
    small_project.environment |= {"GITHUB_OUTPUT": str(told), "FORCE_REASON": reason}
    (small_project.path / "build").mkdir()
    verdicts = {"a": "promote", "b": "refuse", "c": "no candidate"}
    (small_project.path / "build" / "promotion.json").write_text(json.dumps(verdicts))
    small_project.make("candidates")
    assert told.read_text() == f"datasets={left}\n"
    (small_project.path / "build" / "promotion.json").unlink()
    small_project.make("candidates", code=2)


def test_the_leaderboard_the_comment_and_registration(small_project: Project) -> None:
    page, body = small_project.path.parent / "page.md", small_project.path / "build" / "promotion.md"
    given = {"GITHUB_STEP_SUMMARY": str(page), "PULL_REQUEST": "12", "GITHUB_REPOSITORY": "somebody/lekhani"}
    shutil.copytree(ROOT / ".github", small_project.path / ".github")
    small_project.environment |= given
    page.write_text("before\n")
    (small_project.path / "reports").mkdir()
    (small_project.path / "reports" / "leaderboard.md").write_text("| variant |\n")
    small_project.make("summary")
    assert page.read_text() == "before\n| variant |\n"
    comments, calls = small_project.stand_in("gh"), small_project.stand_in("lekhani")
    small_project.make("comment")  # tests/deploy/test_pull_request.py has one that is kept
    assert "came to no decision" in body.read_text()
    asked, written = comments()
    assert asked[:3] == ["api", "--paginate", "repos/somebody/lekhani/issues/12/comments"]
    assert written[:5] == ["api", "--silent", "--method", "POST", "repos/somebody/lekhani/issues/12/comments"]
    small_project.make("register")
    assert calls() == [["register"]], "of all datasets"


@pytest.mark.slow
def test_retraining_runs_every_stage_and_registers_nothing(small_project: Project) -> None:
    calls = small_project.stand_in("lekhani")
    assert "1 stage run, 0 cached" in small_project.make("retrain")
    assert calls() == []


@pytest.mark.parametrize(("code", "reason", "ends"), [(0, "", 0), (3, "", 2), (3, "a demonstration", 0), (1, "why", 2)])
def test_the_gate_shows_its_table_whatever_it_says(small_project: Project, code: int, reason: str, ends: int) -> None:
    page = small_project.path.parent / "page.md"
    small_project.environment |= {
        "GITHUB_STEP_SUMMARY": str(page),
        "DATASET": "mnist",
        "MODEL_VERSION": "2",
        "FORCE_REASON": reason,
    }
    calls = small_project.stand_in("lekhani", TABLE, code)
    said = small_project.make("promotion-check", code=ends)
    assert calls() == [["promote", "--check", "--report", "build", "--dataset", "mnist", "--version", "2"]], (
        "and nothing is forced while it only decides"
    )
    assert TABLE in said
    assert page.read_text() == TABLE
    if not reason:
        assert TABLE in small_project.make("promote", code=ends)
        assert calls()[-1] == ["promote", "--dataset", "mnist", "--version", "2"]


def test_nothing_that_is_asked_for_becomes_part_of_a_command(small_project: Project) -> None:
    nasty = 'it\'s "$(touch pwned)" `touch pwned`; touch pwned & $HOME $(shell touch pwned) \\ * #'
    small_project.environment |= {
        "DATASET": nasty,
        "MODEL_VERSION": nasty,
        "FORCE_REASON": nasty,
        "PULL_REQUEST": nasty,
        "GITHUB_REPOSITORY": "a/b",
    }
    asked = ["--dataset", nasty, "--version", nasty]
    calls, comments = small_project.stand_in("lekhani", TABLE), small_project.stand_in("gh")
    shutil.copytree(ROOT / ".github", small_project.path / ".github")
    small_project.run("dvc", "repro", "-q")
    for target in ("workspace-check", "promotion-check", "promote", "comment", "pull"):
        small_project.environment["BASE"] = nasty if target == "pull" else ""
        small_project.make(target)
    assert calls() == [
        ["promote", "--check", "--workspace", "--report", "build", *asked[:2]],
        ["promote", "--check", "--report", "build", *asked],
        ["promote", *asked, "--force", "--reason", nasty],
    ]
    assert all(f"repos/a/b/issues/{nasty}/comments" in one for one in comments())
    assert not list(small_project.path.rglob("pwned"))
