"""What Prefect and DVC cost on top of the stages: the flow's wall clock beside the sum of its stages' own times, and runs with nothing to do.

    python benchmarks/flow.py [--side-by-side 1 2] [--out benchmarks/results/flow.json]

Runs `python pipelines/retrain.py` in a fresh clone of the commit at hand, with MNIST's embedded scans and profile `quick`, once
for each number of stages side by side, from nothing to the leaderboard; then the same flow and `dvc repro` with nothing to do. A stage's
own time is that of its `lekhani` process from start to end, told by the process itself, so that what is left is
Prefect's server, its tasks and DVC's processes. Side by side stages share cores and so take longer each; the ratio of wall
clock to sum then shows what running side by side gains. Without PREFECT_API_URL a flow starts a server of its own, which counts.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from origin import origin

from lekhani import files

ROOT = Path(__file__).resolve().parent.parent
# Imported by every Python process that has its folder on PYTHONPATH; only stages of the pipeline write a line.
CLOCK = """
import atexit, json, os, sys, time
import psutil
def told():
    if sys.argv and os.path.basename(sys.argv[0]) == "lekhani":
        with open(os.environ["STAGE_TIMES"], "a") as file:
            file.write(json.dumps([sys.argv[1:], time.time() - psutil.Process().create_time()]) + "\\n")
atexit.register(told)
"""


def clone(folder: Path) -> Path:
    """The commit at hand, with MNIST alone."""
    target = folder / "project"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(target)], check=True)
    params = yaml.safe_load((target / "params.yaml").read_text(encoding="utf-8"))
    del params["data"]["devanagari"]
    files.write_text(target / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    return target


def seconds(folder: Path, environment: dict[str, str], *words: str) -> float:
    """Run a command in `folder` to its good end."""
    started = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def measure(side_by_side: int, repeats: int) -> dict[str, Any]:
    """One flow from nothing, then `repeats` flows and `dvc repro` each with nothing to do."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, times = clone(Path(temporary)), Path(temporary) / "times.jsonl"
        (Path(temporary) / "sitecustomize.py").write_text(CLOCK)
        scripts = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": scripts + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([temporary, str(folder / "src")]),
            "STAGE_TIMES": str(times),
            "PREFECT_HOME": str(Path(temporary) / "prefect"),
            "DVC_NO_ANALYTICS": "1",
        }
        flow = (sys.executable, "pipelines/retrain.py", "--no-register", "--side-by-side", str(side_by_side))
        wall = seconds(folder, environment, *flow)
        own = [one for _, one in map(json.loads, times.read_text().splitlines())]
        again = [seconds(folder, environment, *flow) for _ in range(repeats)]
        plain = [seconds(folder, environment, "dvc", "repro", "-q") for _ in range(repeats)]
        shutil.rmtree(folder)
    return {
        "stages": len(own),
        "stages_seconds": round(sum(own), 1),
        "flow_seconds": round(wall, 1),
        "flow_over_stages": round(wall / sum(own), 3),
        "nothing_to_do_flow_seconds": round(statistics.median(again), 1),
        "nothing_to_do_dvc_repro_seconds": round(statistics.median(plain), 1),
    }


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-by-side", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="runs with nothing to do, of which the median counts")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {str(number): measure(number, given.repeats) for number in given.side_by_side}
    for number, one in results.items():
        print(f"side by side {number}: " + ", ".join(f"{key} {value}" for key, value in one.items()))
    if given.out:
        files.write_json(given.out, {**origin("prefect", "dvc", "torch"), "side_by_side": results})


if __name__ == "__main__":
    main()
