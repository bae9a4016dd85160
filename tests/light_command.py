"""The command line in a process of its own, which must not import torch."""

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys
sys.argv = ["lekhani", *sys.argv[1:]]
from lekhani import cli
try:
    cli.main()
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What `lekhani WORDS` prints in `folder`; it fails where torch was imported."""
    command = [sys.executable, "-c", _SCRIPT, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "torch was imported" not in done.stderr
    return done
