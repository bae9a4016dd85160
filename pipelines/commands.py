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

# Before the import of Prefect, which reads them then. Without them Prefect and DVC report usage, and Prefect gives a
# server of its own too little time to start on a busy machine.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
# SQLite has one writer at a time, and a server of a flow's own is stopped as soon as the flow ends. With a transaction
# for each state of each task it was still writing by then: tracebacks, and tasks that stay Pending for good. So it
# writes the states of many tasks at once, and leaves out the feed of events.
os.environ.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "1000")
os.environ.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL", "60")
os.environ.setdefault("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED", "false")

from prefect import get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed

from lekhani.errors import UsageError
from lekhani.machine import name_user
from lekhani.params import ParamsError

name_user()  # for DVC
ROOT = Path(__file__).resolve().parent.parent

_RUNNING: set["subprocess.Popen[str]"] = set()
_STOPPED = threading.Event()


@dataclass(frozen=True)
class CommandResult:
    """The exit code of a command, and the lines that it printed to stdout and stderr."""

    code: int
    lines: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Why it failed: Lekhani's own sentence or Python's exception where there is one, else the last line."""
        lines = [line for line in self.lines if line]
        ours = [line for line in lines if line.startswith("lekhani: ")]
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        last = (ours or raised or lines or [f"it ended with exit code {self.code}"])[-1]
        return last.removeprefix("lekhani: ").removeprefix("ERROR: ")

    @property
    def stage_code(self) -> int:
        """The exit code of the stage that `dvc repro` ran; that of the command itself where no stage failed."""
        found = re.findall(r"exited with (-?\d+)$", "\n".join(self.lines), re.MULTILINE)
        return int(found[-1]) if found else self.code


def run_name(*words: object) -> str:
    """The name of the flow run that begins: one that it was given, else the words that are not empty."""
    given = str(flow_run.name)
    is_given = re.fullmatch(r"[a-z]+-[a-z]+", given) is None  # Prefect makes up names such as brave-otter
    return given if is_given else ", ".join(str(word) for word in words if word)


def run_command(root: Path, *words: str, environment: Mapping[str, str] | None = None) -> CommandResult:
    """Run one of the environment's own commands in `root` to its end; each line of its output goes to the run's log."""
    log, scripts, lines = get_run_logger(), str(Path(sys.executable).parent), []
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    variables.setdefault("LEKHANI_PIPELINE", f"flow-{flow_run.id}")  # MLflow's runs of one flow have this in common
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
            _terminate(process)
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if lines[-1]:
                    log.info(lines[-1])
        except BaseException:  # as when the flow is cancelled; leaving the block waits for the end
            _terminate(process)
            raise
        finally:
            _RUNNING.discard(process)
    return CommandResult(process.returncode, tuple(lines))


def options(**values: object) -> list[str]:
    """A command's options: `min_confidence=0.5` becomes --min-confidence 0.5, True a flag, None and False nothing."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


@contextmanager
def terminating_commands() -> Iterator[None]:
    """Terminate the commands that still run when the block ends by an exception, as by Ctrl-C or a cancelled run."""
    _STOPPED.clear()
    try:
        yield
    except BaseException:
        _STOPPED.set()
        for process in list(_RUNNING):
            _terminate(process)
        raise


def wait_for_stop(seconds: float) -> bool:
    """Wait so long; True at once when the flow is stopped."""
    return _STOPPED.wait(seconds)


def _terminate(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def failed_state(result: CommandResult) -> State[Any]:
    """The state of a task whose command failed, with one sentence; `is_worth_retrying` goes by its name."""
    text = "\n".join(result.lines)
    if _STOPPED.is_set():
        return Cancelled(message="stopped together with the flow")
    if blocked := re.search(r"is being blocked by:\s*\(PID (\d+)\): (.+)", text):
        who = f"Process {blocked[1]} ({blocked[2]}) is working on the same files"
        return Failed(name="Busy", message=f"{who}; wait for its end, or end it.")
    if "Unable to acquire lock" in text:
        who = "Another DVC command holds this workspace's lock"
        return Failed(name="Busy", message=f"{who}; wait for its end, or end it.")
    signals = {one.value: one.name for one in signal.Signals}
    number = -result.stage_code if result.stage_code < 0 else result.stage_code - 128  # a shell adds 128 to a signal
    if number in signals:
        hint = "if memory was short, lower `side_by_side` or sizes"
        return Failed(name="Killed", message=f"The process was killed by {signals[number]}; {hint}.")
    return Failed(name=_failure(result), message=result.sentence)


def _failure(result: CommandResult) -> str | None:
    if "MLflow at http" in result.sentence:  # a server may be back soon; a file will not
        return "Unreachable"
    if " is being written by " in result.sentence:
        return "Busy"
    return "Invalid" if result.stage_code == 2 else None


def combined_state(states: Sequence[State[Any]]) -> State[Any]:
    """One state for those of several tasks: failed when one of them is, with all their sentences."""
    sentences = ", ".join(state.message or state.name or "" for state in states)
    if all(state.is_completed() for state in states):
        return Completed(message=sentences)
    return Failed(message=sentences)


def run_flow_here(flow: str, run: Callable[[], State[Any]]) -> int:
    """Run a flow once in this process, print its final sentence and return the exit code."""
    try:
        state = run()
    except KeyboardInterrupt:
        print(f"{flow}: stopped.", file=sys.stderr)  # noqa: T201
        return 130
    except RuntimeError as error:
        if "API" not in str(error):
            raise
        hint = "Check PREFECT_API_URL, or unset it for a server that lasts as long as the run."
        print(f"{flow}: {error} {hint}", file=sys.stderr)  # noqa: T201
        return 1
    is_good = state.is_completed()
    print(f"{flow}: {state.message or state.name}", file=sys.stdout if is_good else sys.stderr)
    is_wrong_use = isinstance(getattr(state.data, "result", None), UsageError | ParamsError)
    return 0 if is_good else 2 if is_wrong_use else 1


def is_worth_retrying(_task: object, run: TaskRun, state: State[Any]) -> bool:
    """True while a server is away or files are in use; for a killed process or a lost machine, three times at most."""
    return state.name in {"Unreachable", "Busy"} or (state.name in {"Killed", "Lost"} and run.run_count <= 3)


# Twenty minutes in all: a server may restart, another run may end. Prefect's own setting changes the delays.
RETRY_DELAYS = get_current_settings().tasks.default_retry_delay_seconds or [20.0, 40.0, 60.0]
RETRIES: dict[str, Any] = {
    "retries": 21,
    "retry_delay_seconds": RETRY_DELAYS,
    "retry_condition_fn": is_worth_retrying,
}
