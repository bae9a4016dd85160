"""Commands by the hundred: a process that has imported everything forks for each, so that a hang can be killed.

Run as a script it reads requests, one JSON object a line, and answers each with {"code", "out", "err", "seconds"};
`code` is negative for a signal, -14 for one that took too long.
"""

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Commands:
    """`lekhani` in a folder, without its seconds of imports."""

    def __init__(self, home: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
        environment |= {"HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def run(self, folder: Path, words: list[str], seconds: float) -> dict[str, Any]:
        """What `lekhani WORDS` did in `folder` within that time."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"folder": str(folder), "words": words, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def _child(folder: str, words: list[str], out: int, err: int) -> None:
    """Become `lekhani WORDS`; never returns."""
    code = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.argv = ["lekhani", *words]
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        from lekhani import cli

        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(folder: str, words: list[str], seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        pid = os.fork()
        if not pid:
            _child(folder, words, out.fileno(), err.fileno())
        code = None
        while code is None:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() - start > seconds:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                code = -signal.SIGALRM
            else:
                time.sleep(0.002)
        taken = time.monotonic() - start
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(100_000).decode(errors="replace"))
    return {"code": code, "out": texts[0], "err": texts[1], "seconds": taken}


def _serve() -> None:
    import lekhani

    # What commands import late.
    for name in ("pen", "registry", "generate", "handwriting", "inference", "data", "stages", "tracking", "serve"):
        for module in pkgutil.walk_packages([str(Path(lekhani.__path__[0]) / name)], f"lekhani.{name}."):
            with suppress(ImportError):  # an extra that is not installed
                importlib.import_module(module.name)
    from mlflow.store.tracking import sqlalchemy_store

    assert sqlalchemy_store
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps(_run(asked["folder"], asked["words"], asked["seconds"])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
