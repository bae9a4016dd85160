"""The project's own commands, run from a flow: their output goes to the run's log, and they end when the flow does."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the import: Prefect reports usage otherwise, and DVC asks on its own account; and a busy machine needs its time to start a server.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

from prefect import get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed

from lekhani.errors import UsageError
from lekhani.params import ParamsError

ROOT = Path(__file__).resolve().parent.parent

_RUNNING: set["subprocess.Popen[str]"] = set()
_STOPPED = threading.Event()


@dataclass(frozen=True)
class Ended:
    """How a command ended and all that it said."""

    code: int
    lines: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Why it failed: Lekhani's own sentence where there is one, else what was said last."""
        lines = [line for line in self.lines if line]
        ours = [line for line in lines if line.startswith("lekhani: ")]
        said = (ours or lines or [f"it ended with exit code {self.code}"])[-1]
        return said.removeprefix("lekhani: ").removeprefix("ERROR: ")

    @property
    def stage_code(self) -> int:
        """The exit code of the stage that `dvc repro` ran, which has one of its own; of the command itself where no stage failed."""
        found = re.findall(r"exited with (-?\d+)$", "\n".join(self.lines), re.MULTILINE)
        return int(found[-1]) if found else self.code


def command(root: Path, *words: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Run one of the environment's own commands in `root` to its end, every line that it says streamed to the run's log."""
    log, scripts, lines = get_run_logger(), str(Path(sys.executable).parent), []
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    variables["PATH"] = scripts + os.pathsep + os.environ.get("PATH", "")
    # A session of its own, so that a signal reaches the stage below `dvc repro` as well.
    with subprocess.Popen(
        [f"{scripts}/{words[0]}", *words[1:]],
        cwd=root,
        env=variables,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        _RUNNING.add(process)
        if _STOPPED.is_set():  # while it was starting
            _end(process)
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if lines[-1]:
                    log.info(lines[-1])
        except BaseException:  # as when the flow is cancelled; leaving the block waits for the end
            _end(process)
            raise
        finally:
            _RUNNING.discard(process)
    return Ended(process.returncode, tuple(lines))


@contextmanager
def ending_commands() -> Iterator[None]:
    """When the block is left by an exception, as by Ctrl-C or a cancelled run, end the commands that still run."""
    _STOPPED.clear()
    try:
        yield
    except BaseException:
        _STOPPED.set()
        for process in list(_RUNNING):
            _end(process)
        raise


def stopped(seconds: float) -> bool:
    """Wait, and say whether the flow was stopped meanwhile."""
    return _STOPPED.wait(seconds)


def _end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def failed(ended: Ended) -> State[Any]:
    """The state of a task whose command failed, with one sentence; its name says whether trying again may help (`may_pass`)."""
    text = "\n".join(ended.lines)
    if _STOPPED.is_set():
        return Cancelled(message="stopped together with the flow")
    if blocked := re.search(r"is being blocked by:\s*\(PID (\d+)\): (.+)", text):
        return Failed(
            name="Busy",
            message=f"Process {blocked[1]} ({blocked[2]}) is working on the same files; wait for its end, or end it.",
        )
    if "Unable to acquire lock" in text:
        return Failed(
            name="Busy", message="Another DVC command holds this workspace's lock; wait for its end, or end it."
        )
    signals = {one.value: one.name for one in signal.Signals}
    number = -ended.stage_code if ended.stage_code < 0 else ended.stage_code - 128  # a shell adds 128 to a signal
    if number in signals:
        return Failed(
            name="Killed",
            message=f"The process was killed by {signals[number]}; when memory was short, lower `side_by_side` or sizes.",
        )
    if "MLflow at http" in ended.sentence:  # a server, which may be back soon, and no file
        return Failed(name="Unreachable", message=ended.sentence)
    return Failed(name="Invalid" if ended.stage_code == 2 else None, message=ended.sentence)


def summary(states: Sequence[State[Any]]) -> State[Any]:
    """One state for those of several tasks: failed when one of them is, with all their sentences."""
    said = ", ".join(state.message or state.name or "" for state in states)
    return Failed(message=said) if any(not state.is_completed() for state in states) else Completed(message=said)


def here(flow: str, run: Callable[[], State[Any]]) -> int:
    """Run a flow once, here and now, print what it came to and return the exit code."""
    try:
        state = run()
    except KeyboardInterrupt:
        print(f"{flow}: stopped.", file=sys.stderr)  # noqa: T201
        return 130
    except RuntimeError as error:
        if "API" not in str(error):
            raise
        print(  # noqa: T201
            f"{flow}: {error} Check PREFECT_API_URL, or unset it for a server that lasts as long as the run.",
            file=sys.stderr,
        )
        return 1
    is_good = state.is_completed()
    print(f"{flow}: {state.message or state.name}", file=sys.stdout if is_good else sys.stderr)
    is_wrong_use = isinstance(getattr(state.data, "result", None), UsageError | ParamsError)
    return 0 if is_good else 2 if is_wrong_use else 1


def may_pass(_task: object, run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: a server is away, someone else works on the files; a process was killed or its machine is gone, thrice at most."""
    return state.name in {"Unreachable", "Busy"} or (state.name in {"Killed", "Lost"} and run.run_count <= 3)


# Twenty minutes in all: a server may restart, another run may come to its end. Prefect's own setting changes the waits.
WAITS = get_current_settings().tasks.default_retry_delay_seconds or [20.0, 40.0, 60.0]
RETRIES: dict[str, Any] = {"retries": 21, "retry_delay_seconds": WAITS, "retry_condition_fn": may_pass}
