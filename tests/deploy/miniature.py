"""A small project with the real Makefile and flows, over a pipeline of one stage."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from workspace import ROOT, Workspace

PIPELINE = """\
stages:
  board:
    cmd: mkdir -p reports && cp params.yaml reports/leaderboard.md
    deps: [params.yaml]
    outs: [reports/leaderboard.md]
"""
REMOTE = """\
[core]
    remote = store
['remote "store"']
    url = {url}
"""


class Project(Workspace):
    """A folder in which targets of the Makefile run, within the environment of these tests."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # `make test` is no parent of what runs here
            self.environment.pop(name, None)
        self.environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"  # a busy machine takes its time

    def make(self, target: str, code: int = 0) -> str:
        """Run a target; `setup` is taken as done."""
        return self.run("make", "-o", ".venv/.ready", target, code=code)

    def stand_in(self, program: str, says: str = "", code: int = 0) -> Callable[[], list[list[str]]]:
        """Put a program of this name before all others, and return a function that tells how it was called."""
        folder, calls = self.path.parent / "stand_ins", self.path.parent / f"{program}.calls"
        folder.mkdir(exist_ok=True)
        calls.write_text("")
        note = f"open({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
        script = f"import json, sys\n{note}\nprint({says!r}, end='')\nsys.exit({code})\n"
        (folder / program).write_text(f"#!{sys.executable}\n{script}")
        (folder / program).chmod(0o755)
        if not self.environment["PATH"].startswith(str(folder)):
            self.environment["PATH"] = f"{folder}:{self.environment['PATH']}"
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    def fill(self) -> None:
        """Copy what the Makefile and the flows need, and commit it; a folder beside it is DVC's remote."""
        self.path.mkdir()
        (self.path / ".dvc").mkdir()
        for name in ("Makefile", "params.yaml", "prefect.yaml", ".gitignore", ".dvcignore", ".dvc/.gitignore"):
            shutil.copy(ROOT / name, self.path / name)
        (self.path / ".dvc" / "config").write_text(REMOTE.format(url=self.path.parent / "remote"))
        shutil.copytree(ROOT / "pipelines", self.path / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
        (self.path / "dvc.yaml").write_text(PIPELINE)
        self.run("git", "init", "-q")
        self.commit("start")
