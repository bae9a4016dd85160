"""How long a sweep takes on N workers: a simulation from measured times, checked against small real runs.

    python benchmarks/scale.py [--points 4] [--seconds 20 5] [--out scale.json] [--plot docs/images/scale.png]

The real runs have a Prefect server, a coordinator and workers in clones of their own with a folder as DVC remote, as in
tests/pipeline/test_scale.py. Their stages sleep, so that workers that share this machine's cores do not slow each
other's stages; all else is real: processes, git, DVC's pull and push, Prefect. The run with one worker gives the fixed
costs. A stage that is handed over costs its worker `worker_seconds` on top of its own time (process start, pull, push
and waiting for the next), and a worker's first stage `first_seconds` more (a worktree, an empty cache); it costs the
coordinator `coordinator_seconds` (recording, pulling), one stage after the other, since DVC locks the workspace. From
these and the stages' own times the simulation gives a free worker the next stage that is ready. The run with two
workers checks it; `error` is (simulated - measured) / measured.

The sweeps are of 1,000 points, each train, export, usefulness and evaluate one after the other. The times of `quick`
are those of the dcgan of MNIST in the finished project of --project; in `an hour each` trainings are assumed to take
3,600 s and all else what it takes in quick. `whole runs` are `retrain` runs of all stages of a point on one worker,
which cost `run_seconds` on top and need no coordinator.
"""

import argparse
import heapq
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from origin import origin

from lekhani import files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from cluster import Cluster, cluster  # noqa: E402
from workspace import Workspace  # noqa: E402

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
STAGES = ("train", "export", "usefulness", "evaluate")


def simulate(
    own: Sequence[float],
    points: int,
    workers: int,
    worker_cost: float,
    coordinator_cost: float,
    first_cost: float = 0.0,
) -> float:
    """Seconds until `points` chains of stages with the times `own` are done and restored at the coordinator."""
    ready, running = deque((point, 0) for point in range(points)), list[tuple[float, int, int]]()
    free = fresh = workers
    now = restored = 0.0
    arriving: list[tuple[float, int, int]] = []  # stages whose predecessor the coordinator will have restored by then
    while ready or running or arriving:
        while ready and free:
            point, stage = ready.popleft()
            heapq.heappush(running, (now + worker_cost + own[stage] + (first_cost if fresh else 0.0), point, stage))
            free, fresh = free - 1, max(fresh - 1, 0)
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
        "evaluate": {
            "matrix": {"point": list(range(points))},
            "deps": ["trained-${item.point}"],
            "outs": ["scored-${item.point}"],
        },
        "compare": {
            "cmd": "cat scored-* > compared",
            "deps": [f"scored-{point}" for point in range(points)],
            "outs": ["compared"],
        },
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


def real(points: int, seconds: Sequence[float]) -> dict[int, dict[str, float]]:
    """A run on one worker and one on two, with seeds of their own, timed by what Prefect's server has seen."""
    found = {}
    with (
        tempfile.TemporaryDirectory() as temporary,
        cluster(toy(Path(temporary), points, seconds), ("first", "second")) as machines,
        ExitStack() as stack,
    ):
        for workers, name in enumerate(machines.clones, 1):
            stack.enter_context(machines.worker(name))
            machines.prefect.until("the worker", 300, lambda count=workers: len(online(machines)) == count)
            # In the end the flow fails, for want of a leaderboard to show.
            machines.retrain("--side-by-side", str(2 * points), "-S", f"seed={workers}").communicate()
            runs = {run["name"]: run for run in machines.stage_runs()[: 2 * points]}
            flow = machines.prefect.ended(
                deployment_id={"is_null_": True}
            )  # none of those that the server has scheduled
            if len(runs) != 2 * points or any(run["state_name"] != "Completed" for run in runs.values()):
                raise SystemExit(f"Stages did not come to a good end: {flow['state']['message']}")
            restored = machines.prefect.until(
                "the tasks' ends", 60, lambda flow=flow, runs=runs: ends_of(machines, flow["id"], runs)
            )
            ends = sorted((moment(run["end_time"]), name.split("@")[0]) for name, run in runs.items())
            own = dict(zip(("train", "evaluate"), seconds, strict=True))
            found[workers] = {
                "wall_seconds": max(restored.values())
                - min(moment(run["expected_start_time"]) for run in runs.values()),
                # One worker that always has a next stage spends the time between two ends on the later one.
                "worker_seconds": statistics.mean(
                    later - earlier - own[name] for (earlier, _), (later, name) in pairwise(ends)
                ),
                "coordinator_seconds": statistics.median(
                    restored[name] - moment(run["end_time"]) for name, run in runs.items()
                ),
            }
            print(f"{workers} workers: {found[workers]}", flush=True)
    return found


def ends_of(machines: Cluster, flow: str, names: Collection[str]) -> dict[str, float]:
    """When each of these tasks ended; empty until the server knows all of them, which takes it some seconds."""
    tasks = machines.prefect.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [flow]}}})
    ends = {task["name"]: task["end_time"] for task in tasks if task["name"] in names}
    return {name: moment(end) for name, end in ends.items()} if len(ends) == len(names) and all(ends.values()) else {}


def online(machines: Cluster) -> list[str]:
    """The workers that poll."""
    known = machines.prefect.ask("work_pools/lekhani/workers/filter", {})
    return [worker["name"] for worker in known if worker["status"] == "ONLINE"]


def own_times(project: Path) -> dict[str, float]:
    """Seconds of each stage of the MNIST dcgan in a finished project: training as recorded there, the rest as CPU time.

    CPU time, since other work on the machine does not change it.
    """
    found = {"train": float(files.read_json(project / "reports/mnist/dcgan/train_timing.json")["train_seconds"])}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("data/prepared/mnist", "models/mnist", "reports/mnist"):
            shutil.copytree(project / name, folder / name)
        files.write_text(folder / "params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8"))
        for stage in STAGES[1:]:
            before = os.times()
            words = ["lekhani", stage, "--dataset", "mnist", "--variant", "dcgan"]
            subprocess.run(
                words, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True
            )
            after = os.times()
            found[stage] = after.children_user + after.children_system - before.children_user - before.children_system
            print(f"{stage}: {found[stage]:.1f} s", flush=True)
    return found


def moved(lock: Path) -> dict[str, dict[str, int]]:
    """Bytes that a stage of the MNIST dcgan pulls into an empty worker, and pushes, by the sizes in dvc.lock."""
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    size = {name: sum(out["size"] for out in stage["outs"]) for name, stage in stages.items()}
    made_by = {out["path"]: name for name, stage in stages.items() for out in stage["outs"]}
    found = {}
    for stage in STAGES:
        name = f"{stage}@mnist-dcgan"
        owners = {
            owner
            for dep in stages[name]["deps"]
            for path, owner in made_by.items()
            if Path(dep["path"]).is_relative_to(path)
        }
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
            axes.plot(
                WORKERS, hours, line, color=colour, marker="o", markersize=3, label=f"{name}, {kind.replace('_', ' ')}"
            )
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
    parser.add_argument(
        "--run-seconds",
        type=float,
        default=20.0,
        help="what a whole run costs on top of its stages; see benchmarks/flow.py",
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    own = own_times(given.project)
    print(f"own times of quick: {own}")
    runs = real(given.points, given.seconds)
    costs = [runs[1]["worker_seconds"], runs[1]["coordinator_seconds"]]
    costs.append(max(0.0, runs[1]["wall_seconds"] - simulate(given.seconds, given.points, 1, *costs)))
    check = {}
    for workers, run in runs.items():
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
            "whole_runs": {
                str(workers): round(simulate([sum(chain)], 1000, workers, given.run_seconds, 0.0))
                for workers in WORKERS
            },
        }
    for kind in ("stages", "whole_runs"):
        for name, sweep in sweeps.items():
            print(
                f"{name}, {kind}: "
                + ", ".join(f"{workers}: {seconds / 3600:.1f} h" for workers, seconds in sweep[kind].items())
            )
    if given.plot:
        draw(sweeps, given.plot)
    if given.out:
        report = {
            **origin("prefect", "dvc", "torch"),
            "worker_seconds": round(costs[0], 1),
            "coordinator_seconds": round(costs[1], 1),
            "first_seconds": round(costs[2], 1),
            "run_seconds": given.run_seconds,
            "check": {"points": given.points, "sleep_seconds": given.seconds, "workers": check},
            "bytes": moved(given.project / "dvc.lock"),
            "sweeps": sweeps,
        }
        files.write_json(given.out, report)


if __name__ == "__main__":
    main()
