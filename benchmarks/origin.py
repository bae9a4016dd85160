"""Where a benchmark's figures come from."""

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def origin(*packages: str) -> dict[str, Any]:
    """The commit, the machine with its load over 1, 5 and 15 minutes, and versions of the packages that are there."""
    commit = ""
    with suppress(FileNotFoundError):  # a machine without git has a copy of the files
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = done.stdout.strip()
    return {
        "commit": commit,
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "versions": _versions(packages),
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):  # of onnxruntime and onnxruntime-gpu only one is installed
            found[name] = version(name)
    return found
