"""A small project for the commands of workflows and containers."""

from pathlib import Path

import pytest
from miniature import Project


@pytest.fixture
def small_project(tmp_path: Path) -> Project:
    """The project, committed, its one stage not yet run."""
    project = Project(tmp_path / "project")
    project.fill()
    return project
