"""What Prefect and DVC cost on top of the stages.

    python benchmarks/flow.py [--side-by-side 1 2] [--out benchmarks/results/flow.json]

Runs `python pipelines/retrain.py` in a fresh clone of the commit at hand, with MNIST's embedded scans and profile
`quick`, once for each number of stages side by side, from nothing to the leaderboard; then the same flow and `dvc
repro` with nothing to do. What the flow takes longer than the sum of the stages' own processes is Prefect's server, its
tasks and DVC's processes. Side by side, stages share cores and so take longer each; the ratio of wall clock to sum then
shows what running side by side gains. Without PREFECT_API_URL a flow starts a server of its own, which counts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from clock import Clone
from origin import origin

from lekhani import files


def mnist_alone(folder: Path) -> Clone:
    """The commit at hand, with MNIST as its only dataset."""
    clone = Clone(folder)
    params = yaml.safe_load((clone.path / "params.yaml").read_text(encoding="utf-8"))
    params["pipeline"]["datasets"] = ["mnist"]
    files.write_text(clone.path / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    return clone


def seconds(clone: Clone, *words: str) -> float:
    """How long a command takes to its good end."""
    started = time.perf_counter()
    clone.run(*words)
    return time.perf_counter() - started


def measure(side_by_side: int, repeats: int) -> dict[str, Any]:
    """One flow from nothing, then `repeats` flows and `dvc repro` each with nothing to do."""
    with tempfile.TemporaryDirectory() as temporary:
        clone = mnist_alone(Path(temporary))
        flow = (sys.executable, "pipelines/retrain.py", "--no-register", "--side-by-side", str(side_by_side))
        wall = seconds(clone, *flow)
        own = [one.wall for one in clone.timed()]
        again = [seconds(clone, *flow) for _ in range(repeats)]
        plain = [seconds(clone, "dvc", "repro", "-q") for _ in range(repeats)]
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
