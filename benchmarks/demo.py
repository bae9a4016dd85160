"""Where the time of `make demo` goes: seconds of each of its commands, wall clock and CPU.

    python benchmarks/demo.py [--threads 1] [--out benchmarks/results/demo.json]

Runs what the target `demo` runs, installation aside, in a fresh clone of the commit at hand. Where other work shares
the cores, CPU seconds with one thread are what to compare.
"""

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from clock import Clone, Timed
from origin import origin

from lekhani import files

GLYPHS = ("--label", "क=8", "--label", "०=8", "--seed", "7", "--out", "generated/demo")


def demo(clone: Clone) -> tuple[float, float]:
    """Run the demo in a clone; its seconds, wall clock and CPU."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    clone.run("pipelines/repro.sh")
    clone.run("lekhani", "register")
    clone.run("lekhani", "promote", codes=(0, 3))
    clone.run("lekhani", "generate", "--dataset", "devanagari", *GLYPHS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(timed: list[Timed], wall: float, cpu: float) -> str:
    """Markdown: a row per command, the one that takes most first; what is left is DVC."""
    rows = defaultdict[str, list[Timed]](list)
    for one in timed:
        rows[one.words[0]].append(one)
    rows = dict(sorted(rows.items(), key=lambda row: -sum(one.cpu for one in row[1])))
    lines = ["| command | runs | seconds | CPU seconds | the longest |", "| --- | --- | --- | --- | --- |"]
    for command, runs in rows.items():
        longest = max(runs, key=lambda one: one.cpu)
        what = "-".join(word for word in longest.words[1:] if not word.startswith("-"))
        seconds = [sum(one.wall for one in runs), sum(one.cpu for one in runs)]
        most = f"{what}: {longest.cpu:.0f}" if len(runs) > 1 else ""
        lines.append(f"| {command} | {len(runs)} | {seconds[0]:.0f} | {seconds[1]:.0f} | {most} |")
    rest = wall - sum(one.wall for one in timed), cpu - sum(one.cpu for one in timed)
    lines.append(f"| DVC itself | | {rest[0]:.0f} | {rest[1]:.0f} | |")
    return "\n".join([*lines, f"| all | {len(timed)} | {wall:.0f} | {cpu:.0f} | |"])


def main() -> None:
    """Measure, print a table and the leaderboard, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="of each process; all cores when left out")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.threads:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        clone = Clone(Path(temporary))
        wall, cpu = demo(clone)
        timed = clone.timed()
        print(table(timed, wall, cpu), (clone.path / "reports/leaderboard.md").read_text(encoding="utf-8"), sep="\n\n")
    if given.out:
        each = [{"command": " ".join(one.words), "wall": round(one.wall, 1), "cpu": round(one.cpu, 1)} for one in timed]
        total = {"threads": given.threads, "wall": round(wall, 1), "cpu": round(cpu, 1)}
        files.write_json(given.out, {**origin("dvc", "mlflow", "torch"), **total, "commands": each})


if __name__ == "__main__":
    main()
