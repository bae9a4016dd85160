"""What the operating system says of this process, on Linux, macOS and Windows."""

import getpass
import os
import sys
from pathlib import Path
from tempfile import gettempdir

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]


def name_user() -> None:
    """Give this process a user's name and a home folder where the system knows none, as in a container.

    MLflow, DVC and Prefect end in an error without them.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        home = Path(gettempdir(), f"lekhani-home-{os.getuid()}")
        home.mkdir(mode=0o700, exist_ok=True)
        if home.stat().st_uid == os.getuid():  # and not a folder that somebody else has prepared
            os.environ["HOME"] = str(home)


def cpu_count() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a container or taskset may allow fewer than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; 0 on Windows, where the standard library does not tell."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
