"""A pull request that changes dvc.lock, from the pull of its models to the comment: real MLflow, DVC and git; a program
in the place of GitHub's `gh` keeps the comments."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import services
from miniature import REMOTE, Project
from workspace import ROOT

pytestmark = pytest.mark.slow

GH = """\
import json, re, sys
words, store = sys.argv[1:], {store!r}
options = dict(zip(words, words[1:]))
place = next(word for word in words if word.startswith("repos/"))
comments = json.load(open(store))
method = options.get("--method", "GET")
if method == "GET":
    start = re.search(r'startswith\\("(.*)"\\)', options["--jq"])[1]
    print("\\n".join(key for key, body in comments.items() if body.startswith(start)))
else:
    text = open(options["--field"].removeprefix("body=@")).read()
    key = place.rsplit("/", 1)[1] if method == "PATCH" else str(len(comments))
    json.dump(comments | {{key: text}}, open(store, "w"))
"""


class Hub:
    """A repository on a GitHub of its own, with a pull request that has comments."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.comments_file = folder / "hub" / "somebody" / "lekhani", folder / "comments.json"
        self.comments_file.write_text(json.dumps({"0": "Looks good!"}))
        program = folder / "stand_ins" / "gh"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\n{GH.format(store=str(self.comments_file))}")
        program.chmod(0o755)
        self.environment = {
            "GITHUB_SERVER_URL": (folder / "hub").as_uri(),
            "GITHUB_REPOSITORY": "somebody/lekhani",
            "PULL_REQUEST": "12",
        }

    def comments(self) -> list[str]:
        return list(json.loads(self.comments_file.read_text()).values())


class Team:
    """Two members of a team: one whose model is champion, and a clone in which another one's branch is checked."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.hub = Hub(folder)
        self.author, self.runner = Project(folder / "project"), Project(folder / "runner")
        for one in (self.author, self.runner):
            one.environment |= self.hub.environment | {"MLFLOW_TRACKING_URI": uri, "BASE": "origin/main"}
            one.environment["PATH"] = f"{folder / 'stand_ins'}:{one.environment['PATH']}"
            one.environment["PYTHONPATH"] = str(ROOT / "src")

    def start(self) -> None:
        """A champion that is on main."""
        self.author.copy_pipeline()
        self.author.cut_small()
        shutil.copy(ROOT / "Makefile", self.author.path)
        shutil.copytree(ROOT / ".github", self.author.path / ".github")
        (self.author.path / ".dvc" / "config").write_text(REMOTE.format(url=self.author.path.parent / "remote"))
        self.author.run("git", "branch", "-m", "main")
        self.reproduce("the first")
        self.author.run("lekhani", "register")
        self.author.run("lekhani", "promote")
        self.author.run("git", "init", "-q", "--bare", str(self.hub.repository))
        self.author.run("git", "push", "-q", str(self.hub.repository), "main")

    def reproduce(self, message: str) -> None:
        self.author.run("dvc", "repro")
        self.author.run("dvc", "push", "-q")
        self.author.commit(message)

    def propose(self) -> None:
        """A branch with another training."""
        self.author.run("git", "checkout", "-q", "-b", "proposal")
        params = self.author.params()
        params["train"]["seed"] = 8
        self.author.write_params(params)
        self.reproduce("another seed")
        self.author.run("git", "push", "-q", str(self.hub.repository), "proposal")

    def check_out(self, branch: str) -> None:
        """A fresh clone, as a workflow begins with."""
        shutil.rmtree(self.runner.path, ignore_errors=True)
        self.author.run("git", "clone", "-q", "-b", branch, str(self.hub.repository), str(self.runner.path))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder, port = tmp_path_factory.mktemp("pull_request"), services.free_port()
    with services.mlflow_server(folder, port, f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts")):
        team = Team(folder, f"http://127.0.0.1:{port}")
        team.start()
        team.propose()
        yield team


def test_a_branch_without_another_model_has_no_candidate(team: Team) -> None:
    team.check_out("main")
    runner = team.runner
    assert "There is no challenger" in runner.make("promotion-check")
    assert "dvc.lock here names no model of dcgan for mnist." in runner.run(
        *("lekhani", "promote", "--check", "--workspace", "--variant", "dcgan")
    )
    assert "bring it with `dvc pull`" in runner.run("lekhani", "promote", "--check", "--workspace", code=1)
    runner.make("pull")
    said = runner.make("workspace-check")
    assert "lekhani-mnist: no candidate, champion 1 stands" in said
    page = (runner.path / "build" / "promotion.md").read_text()
    assert page.startswith("- **lekhani-mnist**: no candidate, champion 1 stands\n")
    assert "Every figure is as it was." in page
    runner.make("comment")
    assert len(team.hub.comments()) == 2
    (runner.path / "dvc.lock").unlink()
    assert "names no models for mnist" in runner.make("workspace-check")


def test_the_comment_shows_what_the_branch_changes(team: Team) -> None:
    team.check_out("proposal")
    runner = team.runner
    runner.make("pull")
    said = runner.make("workspace-check", code=2)  # of another seed, it is no better by more than chance
    assert "flow_matching of this workspace against champion 1" in said
    runner.make("comment")
    greeting, comment = team.hub.comments()
    assert greeting == "Looks good!"
    lines = comment.splitlines()
    assert lines[:2] == ["<!-- lekhani promotion -->", lines[1]]
    assert lines[1].startswith("- **lekhani-mnist**: **Refuse**: ")
    failed, folded, table = comment.partition("<details><summary>All ")
    assert folded
    assert "| **failed** |" in failed
    assert "| passed |" not in failed
    assert re.search(r"\| `flow_matching` \| 1 \| [\d.]+ → \*\*[\d.]+\*\* \|", table)
    links = re.findall(r"!\[\w+ of mnist\]\((.+)/blob/([0-9a-f]{40})/12/(mnist-\w+\.png)\?raw=true\)", comment)
    assert [name for *_, name in links] == ["mnist-candidate.png", "mnist-champion.png"]
    git = ("git", "-C", str(team.hub.repository))
    assert runner.run(*git, "ls-tree", "-r", "--name-only", links[0][1]).split() == [f"12/{name}" for *_, name in links]
    assert runner.run(*git, "rev-parse", "lekhani-reports").strip() == links[0][1]
    assert "there are: @champion, :1." in runner.run("lekhani", "lineage", "lekhani-mnist:2", code=2), (
        "nothing was registered"
    )

    runner.environment["BASE"] = "0" * 40
    runner.make("pull")
    runner.make("workspace-check", code=2)
    runner.make("comment")
    assert len(team.hub.comments()) == 2, "it is edited in place"
    assert "The base branch has no leaderboard that could be read" in team.hub.comments()[1]
    assert runner.run(*git, "rev-list", "--count", "lekhani-reports").strip() == "2", "earlier pictures stay"
