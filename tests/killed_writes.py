"""Kills `write_dataset` before its n-th change of a folder, for n = 0, STEP, 2 STEP ..., and lets it run again.

    python killed_writes.py MODEL FOLDER FORMAT STEP

Every time FOLDER/new, the wanted dataset, must come of it. It begins with FOLDER/old, if that exists: another dataset,
among files of the user. Prints how often it killed. A script of its own, since it forks.
"""

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from datasets_on_disk import digests
from fake_judge import FakeJudge

from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions
from lekhani.inference.session import Generator, Reader
from lekhani.pen import Pen

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
PLAN = Plan(((2, 9), (0, 9), (1, 7)), 9)
MINE = {"notes.txt", "weights/w.bin", "00001/seen.txt"}  # what the user put there


def wanted(format: Any, seed: int) -> DatasetRequest:
    return DatasetRequest(PLAN, SamplingOptions(seed, 0.9), format)


def write(model: Path, out: Path, request: DatasetRequest) -> None:
    write_dataset(Pen(Generator(model, "cpu"), cast(Reader, FakeJudge()), "toy"), request, str(out), overwrite=True)


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does the work; sessions of ONNX Runtime would not survive a fork."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(left: int, folder: Path) -> None:
    """Kill this process before its change number `left` of the folder."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and str(arguments[0]).startswith(str(folder)):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)


def check_state(out: Path, old: dict[str, str], new: dict[str, str]) -> None:
    """Where there is a datasheet, there is its whole dataset; the user's files are there in any case."""
    now = digests(out)
    if "dataset.json" in now:
        whole = next(one for one in (old, new) if one.get("dataset.json") == now["dataset.json"])
        assert whole.items() <= now.items(), set(whole) - set(now)
    else:
        assert not old or (out / ".unfinished").exists()
    assert {name: old[name] for name in MINE & set(old)}.items() <= now.items()


def main() -> None:
    model, folder, format, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    out, request = folder / "out", wanted(format, 8)
    old = digests(folder / "old") if (folder / "old").exists() else {}
    new = digests(folder / "new")
    for number in itertools.count(0, step):
        shutil.rmtree(out, ignore_errors=True)
        if old:
            shutil.copytree(folder / "old", out)

        def killed(number: int = number) -> None:
            die_at(number, out)
            write(model, out, request)

        if (code := in_child(killed)) == 0:
            break
        assert code == -signal.SIGKILL, code
        if out.exists():
            check_state(out, old, new)
        assert in_child(lambda: write(model, out, request)) == 0
        mine = {name: old[name] for name in MINE & set(old)}
        assert digests(out) == new | mine, f"killed at change {number}: {set(digests(out)) ^ set(new | mine)}"
    sys.stdout.write(f"{number}\n")


if __name__ == "__main__":
    main()
