"""Real data leave this machine and come back byte for byte: a folder and S3 as remotes, clones, and diffs."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import services
import yaml
from isolation import isolated_environment

from lekhani import files

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """A clone of the pipeline, of which fetch and prepare run on MNIST's embedded scans."""

    def __init__(self, path: Path, settings: Path) -> None:
        self.path, self.settings = path, settings
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_", "AWS_"))
        }
        self.environment |= isolated_environment(settings)

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            words, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def change(self, **choices: Any) -> None:
        """Change data.mnist in params.yaml, reproduce its data and commit."""
        params = yaml.safe_load((self.path / "params.yaml").read_text(encoding="utf-8"))
        params["data"]["mnist"] |= choices
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        self.run("dvc", "repro", "-q", "prepare")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", str(choices))

    def diff(self, *words: str) -> dict[str, Any]:
        found = json.loads(self.run("lekhani", "data", "diff", *words, "--json"))
        return dict(found["datasets"]["mnist"])


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two commits: all ten digits, then the first five."""
    folder = tmp_path_factory.mktemp("origin")
    project = Project(folder / "project", folder)
    project.path.mkdir()
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project.path / name)
    shutil.copytree(ROOT / "src", project.path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    params = yaml.safe_load((project.path / "params.yaml").read_text(encoding="utf-8"))
    del params["data"]["devanagari"]
    (project.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    project.change(classes="all")
    project.change(classes=["0", "1", "2", "3", "4"])
    return project


@pytest.fixture
def project(origin: Project, tmp_path: Path) -> Project:
    """A copy of the origin that may be changed."""
    shutil.copytree(origin.path, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", origin.settings)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    if not (find_spec("moto") and find_spec("dvc_s3")):
        pytest.skip("moto and dvc-s3 are not installed: pip install -e '.[dev]'")
    with services.fake_s3("lekhani") as address:
        yield address


def with_s3(project: Project, address: str, *where: str) -> None:
    """Credentials come from the environment, the rest from DVC's configuration."""
    project.environment |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    project.run("dvc", "remote", "add", *where, "-d", "store", "s3://lekhani/data")
    project.run("dvc", "remote", "modify", *where, "store", "endpointurl", address)


def test_a_clone_compares_what_lies_in_s3(project: Project, s3: str, tmp_path: Path) -> None:
    # A committed remote would not do: `--all-commits` asks each commit's own configuration.
    with_s3(project, s3, "--local")
    project.run("dvc", "push", "-q", "--all-commits")
    other = Project(tmp_path / "clone", project.settings)
    project.run("git", "clone", "-q", str(project.path), str(other.path))
    with_s3(other, s3, "--local")
    said = other.run("lekhani", "data", "diff", "HEAD", code=2)
    assert "data/prepared/mnist is not here; run `dvc pull data/prepared/mnist`" in said
    found = other.diff("HEAD~1", "--to", "HEAD")
    assert (found["images"]["before"], found["images"]["after"]) == (1797, 901)
    assert not (other.path / ".dvc/cache").exists()
    other.run("dvc", "pull", "-q", "data/prepared/mnist")
    name = "data/prepared"
    assert files.sha256(other.path / name) == files.sha256(project.path / name)

    # Without credentials it is a sentence, not a traceback.
    shutil.rmtree(other.path / ".dvc/cache")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del other.environment[key]
    other.environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "none",
        "AWS_SHARED_CREDENTIALS_FILE": "none",
    }
    said = other.run("lekhani", "data", "diff", "HEAD~1", code=2)
    assert "credentials" in said
    assert len(said.strip().splitlines()) == 1


def test_what_changed_shows_in_a_diff(project: Project) -> None:
    found = project.diff("HEAD~1")
    assert (found["status"], found["matched_by"]) == ("changed", "sha256")
    assert found["classes"] == {"added": [], "removed": ["5", "6", "7", "8", "9"]}
    images = found["images"]
    assert (images["before"], images["after"], images["removed"], images["unchanged"]) == (1797, 901, 896, 901)
    nothing = dict.fromkeys(("after", "added", "relabelled_out", "relabelled_in", "moved", "unchanged"), 0)
    assert found["per_class"]["9"] == {**nothing, "before": 180, "removed": 180}
    text = project.run("lekhani", "data", "diff", "HEAD~1", "--examples", "1")
    title = "mnist, from HEAD~1 to the working tree"
    assert f"{title}\n1,797 images before and 901 after: 896 removed, 901 unchanged." in text
    assert "Classes gone: 5, 6, 7, 8, 9." in text
    said = project.run("lekhani", "data", "diff", "HEAD", "-d", "mnist")
    assert said == "mnist, from HEAD to the working tree\nNo difference: 901 images.\n"

    params = yaml.safe_load((project.path / "params.yaml").read_text(encoding="utf-8"))
    (project.path / "params.yaml").write_text(yaml.safe_dump({**params, "seed": 8}, sort_keys=False), encoding="utf-8")
    project.change(image_size=32)  # and another seed moves images between splits
    found = project.diff("HEAD~1", "--to", "HEAD")
    assert found["matched_by"] == "member"
    assert found["images"]["moved"] > 100
    assert found["images"]["moved"] + found["images"]["unchanged"] == 901
    assert found["facts"]["image_size"] == {"before": 28, "after": 32}

    shutil.rmtree(project.path / ".dvc/cache")
    (line,) = project.run("lekhani", "data", "diff", "HEAD~1", code=2).strip().splitlines()
    assert "neither in DVC's cache nor on its default remote" in line
