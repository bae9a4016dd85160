"""A Prefect server for tests, and what they ask it."""

import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from services import answers, free_port, running
from urllib3.util import Retry
from workspace import SCRIPTS, Workspace


class Prefect:
    """A server on a port of its own, for the workspaces that `join` it; logs lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"

    def join(self, space: Workspace) -> Workspace:
        """Have the workspace's commands use this server."""
        space.environment |= {"PREFECT_API_URL": self.url, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        return space

    @contextmanager
    def serving(self, space: Workspace, **settings: str) -> Iterator[None]:
        """The server itself, until the block ends; its database lies in the PREFECT_HOME of `space`."""
        environment = {**space.environment, "PREFECT_SERVER_UI_ENABLED": "false", **settings}
        environment.setdefault("PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS", "3")
        environment.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "100")  # as in the Makefile
        environment.setdefault("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL", "1")
        command = [f"{SCRIPTS}/prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        log = self.folder / "server.log"
        with running(
            command, lambda: answers(f"{self.url}/health"), log, end=signal.SIGTERM, cwd=self.folder, env=environment
        ):
            yield

    def worker(self, space: Workspace) -> AbstractContextManager[int]:
        """A worker in a workspace, whose process group has the number that the block gets."""
        command = [f"{SCRIPTS}/prefect", "worker", "start", "--pool", "lekhani", "--work-queue", "default"]
        return running(
            command, lambda: True, self.folder / "worker.log", end=signal.SIGTERM, cwd=space.path, env=space.environment
        )

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Ask the server's API: POST what there is to post, else GET."""
        # With 503 it says that its database is locked; Prefect's own clients ask again, too.
        again = Retry(5, backoff_factor=1, status_forcelist=[503], allowed_methods=None)
        with requests.Session() as session:
            session.mount("http://", HTTPAdapter(max_retries=again))
            verb = method or ("GET" if body is None else "POST")
            answer = session.request(verb, f"{self.url}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def until(self, what: str, seconds: float, probe: Any) -> Any:
        """What `probe` returns once that is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError):
                if found := probe():
                    return found
            time.sleep(0.5)
        logs = "\n".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))
        pytest.fail(f"{what} did not come about within {seconds} s\n{logs}")

    def runs(self, **which: Any) -> list[dict[str, Any]]:
        """The flow runs that answer a filter, the latest first."""
        return self.ask("flow_runs/filter", {"flow_runs": which, "sort": "START_TIME_DESC"})  # type: ignore[no-any-return]

    def ended(self, **which: Any) -> dict[str, Any]:
        """The flow run that answers a filter, once it has ended."""
        final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
        return self.until("the flow run", 400, lambda: self.runs(**which, state=final))[0]  # type: ignore[no-any-return]

    def tasks(self, run: dict[str, Any]) -> dict[str, str]:
        """State by name of a flow run's tasks, which the server hears of a moment later."""
        asked = {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 200}
        return {task["name"]: task["state_name"] for task in self.ask("task_runs/filter", asked)}

    def artifacts(self, run: dict[str, Any]) -> dict[str, str]:
        """What a flow run shows, by key."""
        asked = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
        return {one["key"]: one["data"] for one in self.ask("artifacts/filter", asked)}

    def seconds(self, run: dict[str, Any]) -> float:
        """How long a flow run took."""
        start, end = (datetime.fromisoformat(run[key]) for key in ("start_time", "end_time"))
        return (end - start).total_seconds()
