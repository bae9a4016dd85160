"""How long a sweep takes on N workers: a simulation from measured times, checked against small real runs with one and two workers.

    python benchmarks/scale.py [--points 4] [--seconds 20 5] [--out benchmarks/results/scale.json] [--plot docs/images/scale.png]

The real runs have a Prefect server, a coordinator and workers in clones of their own with a folder as DVC remote, as in
tests/pipeline/test_scale.py. Their stages sleep, so that workers that share this machine's cores do not slow each other's stages; all else
is real: processes, git, DVC's pull and push, Prefect. The run with one worker gives two fixed costs. A stage that is handed over costs its
worker `worker_seconds` on top of its own time (process start, pull, push and waiting for the next), and the coordinator
`coordinator_seconds` (recording, pulling), one stage after the other, since DVC locks the workspace. From these two and the stages'
own times the simulation gives a free worker the next stage that is ready. The run with two workers checks it; `error` is
(simulated - measured) / measured.

The sweeps are of 1,000 points, each train, export, usefulness and evaluate one after the other. The times of `quick` are those of the dcgan
of MNIST, measured here in a copy of the finished project in --project; in `an hour each` trainings are assumed to take 3,600 s and all else
what it takes in quick. `whole runs` are `retrain` runs of all stages of a point on one worker, which cost `run_seconds` on top and need no
coordinator.
"""

import argparse
import heapq
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lekhani import files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from cluster import cluster  # noqa: E402
from workspace import Workspace  # noqa: E402

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
STAGES = ("train", "export", "usefulness", "evaluate")


def simulate(own: Sequence[float], points: int, workers: int, worker_cost: float, coordinator_cost: float) -> float:
    """Seconds until `points` chains of stages with the times `own` are done and restored at the coordinator."""
    ready, free, running = deque((point, 0) for point in range(points)), workers, list[tuple[float, int, int]]()
    now = restored = 0.0
    arriving: list[tuple[float, int, int]] = []  # stages whose predecessor the coordinator will have restored by then
    while ready or running or arriving:
        while ready and free:
            point, stage = ready.popleft()
            heapq.heappush(running, (now + worker_cost + own[stage], point, stage))
            free -= 1
        if arriving and (not running or arriving[0][0] <= running[0][0]):
            now, point, stage = heapq.heappop(arriving)
            ready.append((point, stage))
            continue
        if not running:
            break
        now, point, stage = heapq.heappop(running)
        free += 1
        restored = max(restored, now) + coordinator_cost
        if stage + 1 < len(own):
            heapq.heappush(arriving, (restored, point, stage + 1))
    return max(now, restored)


def toy(folder: Path, points: int, seconds: Sequence[float]) -> Workspace:
    """A project in which each point of a sweep has two stages that sleep and write a megabyte."""
    space = Workspace(folder / "project")
    space.copy_pipeline()
    shutil.copy(ROOT / "prefect.yaml", space.path)
    write = "head -c 1000000 /dev/urandom > ${item}"
    stages: dict[str, Any] = {
        "prepare": {"cmd": "head -c 1000000 /dev/urandom > prepared", "params": ["seed"], "outs": ["prepared"]},
        "train": {"matrix": {"point": list(range(points))}, "deps": ["prepared"], "outs": ["trained-${item.point}"]},
        "evaluate": {"matrix": {"point": list(range(points))}, "deps": ["trained-${item.point}"], "outs": ["scored-${item.point}"]},
        "compare": {"cmd": "cat scored-* > compared", "deps": [f"scored-{point}" for point in range(points)], "outs": ["compared"]},
    }
    for (name, out), pause in zip((("train", "trained"), ("evaluate", "scored")), seconds, strict=True):
        stages[name]["cmd"] = f"sleep {pause}; " + write.replace("${item}", f"{out}-${{item.point}}")
    (space.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (space.path / ".gitignore").write_text("/prepared\n/trained-*\n/scored-*\n/compared\n/mlruns\n")
    params = space.params()
    params["tracking"]["backend"] = "none"
    space.write_params(params)
    return space


def moment(text: str) -> float:
    """Seconds since 1970 of a time as Prefect's API gives it."""
    return datetime.fromisoformat(text).timestamp()


def real(workers: int, points: int, seconds: Sequence[float]) -> dict[str, Any]:
    """One run on real workers, timed by what Prefect's server has seen."""
    names = tuple(f"worker{number}" for number in range(workers))
    with tempfile.TemporaryDirectory() as temporary, cluster(toy(Path(temporary), points, seconds), names) as machines, ExitStack() as stack:
        for name in names:
            stack.enter_context(machines.worker(name))
        time.sleep(30)  # until they poll
        machines.retrain("--side-by-side", str(2 * points)).communicate()  # in the end it fails, for want of a leaderboard to show
        runs = {run["name"]: run for run in machines.stage_runs()}
        asked = {"flows": {"name": {"any_": ["retrain"]}}}
        (flow,) = machines.prefect.ask("flow_runs/filter", asked)
        tasks = machines.prefect.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [flow["id"]]}}})
    handed = {task["name"]: task for task in tasks if task["name"] in runs}
    if len(runs) != 2 * points or any(run["state_name"] != "Completed" for run in runs.values()):
        raise SystemExit(f"Stages did not come to a good end: {[(name, run['state']['message']) for name, run in runs.items()]}")
    begin = min(moment(run["expected_start_time"]) for run in runs.values())
    ends = sorted((moment(run["end_time"]), name.split("@")[0]) for name, run in runs.items())
    own = dict(zip(("train", "evaluate"), seconds, strict=True))
    restoring = [moment(handed[name]["end_time"]) - moment(run["end_time"]) for name, run in runs.items()]
    return {
        "wall_seconds": max(moment(task["end_time"]) for task in handed.values()) - begin,
        # With one worker that always has a next stage the time between two ends is that of the later stage.
        "worker_seconds": statistics.mean(later - earlier - own[name] for (earlier, _), (later, name) in pairwise(ends)),
        "coordinator_seconds": statistics.median(restoring),
    }


def own_times(project: Path) -> dict[str, float]:
    """Seconds of each stage of the MNIST dcgan in a copy of a finished project, from process start to end."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        folder.mkdir()
        for name in ("data/prepared/mnist", "models/mnist", "reports/mnist"):
            shutil.copytree(project / name, folder / name)
        choices = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        choices["tracking"]["backend"] = "none"
        files.write_text(folder / "params.yaml", yaml.safe_dump(choices, sort_keys=False))
        found = {}
        for stage in STAGES:
            started = time.perf_counter()
            subprocess.run(["lekhani", stage, "--dataset", "mnist", "--variant", "dcgan"], cwd=folder, check=True, capture_output=True)
            found[stage] = time.perf_counter() - started
    return found


def moved(lock: Path) -> dict[str, dict[str, int]]:
    """Bytes that a stage of the MNIST dcgan takes from the remote when its worker has nothing yet, and gives to it, from the sizes in dvc.lock."""
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    size = {name: sum(out["size"] for out in stage["outs"]) for name, stage in stages.items()}
    made_by = {out["path"]: name for name, stage in stages.items() for out in stage["outs"]}
    found = {}
    for stage in STAGES:
        name = f"{stage}@mnist-dcgan"
        owners = {owner for dep in stages[name]["deps"] for path, owner in made_by.items() if Path(dep["path"]).is_relative_to(path)}
        found[stage] = {"pulled": sum(size[owner] for owner in owners), "pushed": size[name]}
    return found


def draw(sweeps: dict[str, dict[str, Any]], path: Path) -> None:
    """Hours against workers."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for colour, (name, sweep) in zip(("tab:blue", "tab:orange"), sweeps.items(), strict=True):
        for kind, line in (("stages", "-"), ("whole_runs", "--")):
            hours = [sweep[kind][str(workers)] / 3600 for workers in WORKERS]
            axes.plot(WORKERS, hours, line, color=colour, marker="o", markersize=3, label=f"{name}, {kind.replace('_', ' ')}")
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="hours", title="1,000 points of a sweep (simulated)")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, simulate, print tables and write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=4, help="of the real runs")
    parser.add_argument("--seconds", type=float, nargs=2, default=[20.0, 5.0], help="that their two stages sleep")
    parser.add_argument("--project", type=Path, default=ROOT, help="a project after `make demo`")
    parser.add_argument("--run-seconds", type=float, default=20.0, help="what a whole run costs on top of its stages; see benchmarks/flow.py")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    own = own_times(given.project)
    print(f"own times of quick: {own}")
    one, two = (real(workers, given.points, given.seconds) for workers in (1, 2))
    costs = one["worker_seconds"], one["coordinator_seconds"]
    check = {}
    for workers, run in ((1, one), (2, two)):
        foretold = simulate(given.seconds, given.points, workers, *costs)
        check[str(workers)] = {
            "measured_seconds": round(run["wall_seconds"], 1),
            "simulated_seconds": round(foretold, 1),
            "error": round(foretold / run["wall_seconds"] - 1, 3),
        }
        print(f"{workers} workers: {check[str(workers)]}")
    sweeps: dict[str, dict[str, Any]] = {}
    for name, times in {"quick": own, "an hour each": own | {"train": 3600.0}}.items():
        chain = [times[stage] for stage in STAGES]
        sweeps[name] = {
            "own_seconds": {stage: round(value, 1) for stage, value in times.items()},
            "stages": {str(workers): round(simulate(chain, 1000, workers, *costs)) for workers in WORKERS},
            "whole_runs": {str(workers): round(simulate([sum(chain)], 1000, workers, given.run_seconds, 0.0)) for workers in WORKERS},
        }
    for kind in ("stages", "whole_runs"):
        for name, sweep in sweeps.items():
            print(f"{name}, {kind}: " + ", ".join(f"{workers}: {seconds / 3600:.1f} h" for workers, seconds in sweep[kind].items()))
    if given.plot:
        draw(sweeps, given.plot)
    if given.out:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        machine = {"cpus": len(os.sched_getaffinity(0)), "machine": platform.machine(), "python": platform.python_version()}
        report = {
            "commit": commit,
            "machine": machine,
            "versions": {name: version(name) for name in ("prefect", "dvc", "torch")},
            "worker_seconds": round(costs[0], 1),
            "coordinator_seconds": round(costs[1], 1),
            "run_seconds": given.run_seconds,
            "check": {"points": given.points, "sleep_seconds": given.seconds, "workers": check},
            "bytes": moved(given.project / "dvc.lock"),
            "sweeps": sweeps,
        }
        files.write_json(given.out, report)


if __name__ == "__main__":
    main()
