"""Linters of files that are no Python."""

import shutil
import subprocess

import pytest
from workspace import ROOT


def checked(program: str, *words: str) -> None:
    """Run a linter over the project; what it has to say is what fails."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: pip install -e '.[dev]'")
    done = subprocess.run([found, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
