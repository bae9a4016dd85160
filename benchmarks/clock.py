"""Seconds of every `lekhani` process below a command, wall clock and CPU, as the process counts them at its end."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Every Python process imports sitecustomize from PYTHONPATH.
_SITECUSTOMIZE = """
import atexit, json, os, sys, time
import psutil
def record():
    if sys.argv and os.path.basename(sys.argv[0]) == "lekhani":
        cpu = os.times()
        wall = time.time() - psutil.Process().create_time()
        seconds = wall, cpu.user + cpu.system + cpu.children_user + cpu.children_system
        with open(os.environ["STAGE_SECONDS"], "a") as file:
            file.write(json.dumps([sys.argv[1:], *seconds]) + "\\n")
atexit.register(record)
"""


@dataclass(frozen=True)
class Timed:
    """One process: its words after `lekhani`, and its seconds from start to end."""

    words: tuple[str, ...]
    wall: float
    cpu: float


class Clone:
    """A fresh clone of the commit at hand, in which commands are timed."""

    def __init__(self, folder: Path) -> None:
        self.path, self._log = folder / "project", folder / "seconds.jsonl"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(self.path)], check=True)
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        self.environment = {
            **os.environ,
            "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(folder), str(self.path / "src")]),
            "STAGE_SECONDS": str(self._log),
            "PREFECT_HOME": str(folder / "prefect"),
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command to its end and return its stdout; another exit code than `codes` ends the benchmark."""
        done = subprocess.run(words, cwd=self.path, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def timed(self) -> list[Timed]:
        """The `lekhani` processes so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [Timed(tuple(words), wall, cpu) for words, wall, cpu in map(json.loads, lines)]
