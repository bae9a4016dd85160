"""Earlier versions of prepared data are found in DVC's cache or remote, also while DVC runs a stage."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from isolation import isolated_environment
from services import fake_s3

from lekhani.data import versions
from lekhani.data.prepare import manifest
from lekhani.data.spec import DatasetInfo, GlyphClass
from lekhani.data.versions import NoDatasetError, NoVersionError, version_at
from lekhani.errors import UsageError

# One stage makes the data, the next asks for HEAD's while `dvc repro` runs it.
GRAPH = """
stages:
  prepare:
    cmd: mkdir -p data/prepared && cp -r made data/prepared/d
    deps:
      - made
    outs:
      - data/prepared/d
  check:
    cmd: python check.py
    deps:
      - data/prepared/d
    outs:
      - seen.txt
"""
CHECK = """
from pathlib import Path
from lekhani.data.versions import NoVersionError, version_at
try:
    seen = str(len(version_at("d", "HEAD").manifest))
except NoVersionError as error:
    seen = f"{type(error).__name__}: {error}"
Path("seen.txt").write_text(seen)
"""
Run = Callable[..., str]


def make(folder: Path, n: int) -> None:
    """A prepared dataset of `n` images, without its pixels."""
    images = np.random.default_rng(0).integers(0, 256, (n, 16, 16)).astype(np.uint8)
    classes, counts = (GlyphClass(0, "ka", "क"),), {"train": n, "test": 0}
    folder.mkdir(exist_ok=True)
    table = manifest(images, np.zeros(n, np.int64), classes, counts, [str(i) for i in range(n)])
    table.to_parquet(folder / "manifest.parquet", index=False)
    info = DatasetInfo("d", "none", 16, classes, counts, {"version": str(n)}, f"{n:064x}")
    (folder / "dataset.json").write_text(json.dumps(info.to_dict(), ensure_ascii=False), encoding="utf-8")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No settings and no index of DVC from outside."""
    return isolated_environment(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def run(environment: dict[str, str]) -> Run:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_", "AWS_"))}
    no_amazon = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"}
    env = {**inherited, **environment, **no_amazon}

    def run(folder: Path, *words: str, code: int = 0) -> str:
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Three commits: the graph alone, then data of 3 images (tag `three`) and of 5, each made by `dvc repro`."""
    path = tmp_path_factory.mktemp("history") / "project"
    path.mkdir()
    run(path, "git", "init", "-q")
    for key, value in {"user.name": "t", "user.email": "t@example.org"}.items():  # DVC reads no GIT_CONFIG_GLOBAL
        run(path, "git", "config", key, value)
    run(path, "dvc", "init", "-q")
    (path / "dvc.yaml").write_text(GRAPH)
    (path / "check.py").write_text(CHECK)
    (path / ".gitignore").write_text("/data\n/seen.txt\n")
    make(path / "made", 3)
    seen = []
    for n, name in ((None, "graph"), (3, "three"), (5, "five")):
        if n:
            make(path / "made", n)
            run(path, "dvc", "repro")
            seen.append((path / "seen.txt").read_text())
        run(path, "git", "add", "-A")
        run(path, "git", "commit", "-qm", name)
        run(path, "git", "tag", name)
    (path / "seen.json").write_text(json.dumps(seen))
    return path


@pytest.fixture
def here(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that we are in, without settings from outside."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    path = tmp_path / "project"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def project(history: Path, here: Path) -> Path:
    """A copy of the history to change, and the folder we are in."""
    shutil.copytree(history, here, dirs_exist_ok=True)
    return here


def sizes(*revisions: str) -> list[int]:
    found = [version_at("d", revision) for revision in revisions]
    assert all(int(one.info.source["version"]) == len(one.manifest) for one in found)
    return [len(one.manifest) for one in found]


def written(project: Path) -> dict[Path, int]:
    """When each file was written, but for DVC's temporary ones."""
    files = (path for path in project.rglob("*") if path.is_file() and ".dvc/tmp" not in path.as_posix())
    return {path: path.stat().st_mtime_ns for path in files}


def test_every_kind_of_revision(project: Path, run: Run) -> None:
    commit = run(project, "git", "rev-parse", "HEAD~1").strip()
    run(project, "git", "branch", "side", "HEAD~1")
    before = written(project)
    assert sizes("HEAD", "HEAD~1", "three", commit, commit[:8], "side", "main") == [5, 3, 3, 3, 3, 3, 5]
    assert version_at("d", "three").info.classes == (GlyphClass(0, "ka", "क"),)
    assert version_at("d", "three").manifest["member"].tolist() == ["0", "1", "2"]
    assert written(project) == before, "looking changes no file"


def test_inside_a_running_stage(project: Path, run: Run) -> None:
    before, after = json.loads((project / "seen.json").read_text())
    assert before == "NoDatasetError: There is no data/prepared/d in HEAD; name a revision whose dvc.lock has it."
    assert after == "3"
    run(project, "dvc", "repro", "--pull", "--force")
    assert (project / "seen.txt").read_text() == "5"


def test_the_remote_stands_in_for_the_cache(project: Path, run: Run, tmp_path: Path) -> None:
    # The remote is added today, and no commit knows of it.
    run(project, "dvc", "remote", "add", "--local", "-d", "store", str(tmp_path / "store"))
    run(project, "dvc", "push", "-q", "--all-commits")
    shutil.rmtree(project / ".dvc/cache")
    assert sizes("HEAD", "HEAD~1") == [5, 3]
    assert not (project / ".dvc/cache").exists()
    # It is committed, and serves commits from before too.
    (project / ".dvc/config.local").unlink()
    run(project, "dvc", "remote", "add", "-d", "store", "../store")
    run(project, "git", "commit", "-qam", "remote")
    assert sizes("HEAD", "three") == [5, 3]


def test_the_command_compares_what_lies_in_s3(project: Path, run: Run) -> None:
    pytest.importorskip("moto")
    pytest.importorskip("dvc_s3")
    words = ("lekhani", "data", "diff", "three", "-d", "d")
    with fake_s3("lekhani") as address:
        run(project, "dvc", "remote", "add", "--local", "-d", "store", "s3://lekhani/data")
        facts = {"endpointurl": address, "region": "us-east-1", "access_key_id": "test", "secret_access_key": "test"}
        for key, value in facts.items():
            run(project, "dvc", "remote", "modify", "--local", "store", key, value)
        run(project, "dvc", "push", "-q", "--all-commits")
        shutil.rmtree(project / ".dvc/cache")
        assert "3 images before and 5 after: 2 added, 3 unchanged." in run(project, *words)
        found = json.loads(run(project, *words, "--to", "five", "--json"))["datasets"]["d"]
        assert (found["matched_by"], found["images"]["added"], found["images"]["unchanged"]) == ("sha256", 2, 3)
        assert not (project / ".dvc/cache").exists()
        for key in ("access_key_id", "secret_access_key"):
            run(project, "dvc", "remote", "modify", "--local", "--unset", "store", key)
        (sentence,) = run(project, *words, code=2).strip().splitlines()
        assert re.search("its default remote cannot be read .*credentials.*dvc remote list", sentence)


def test_data_that_is_nowhere(project: Path, run: Run, tmp_path: Path) -> None:
    shutil.rmtree(project / ".dvc/cache")
    problem = "of three is neither in DVC's cache nor on its default remote; run `dvc push --all-commits`"
    with pytest.raises(UsageError, match=problem) as error:
        version_at("d", "three")
    assert not isinstance(error.value, NoVersionError)
    run(project, "dvc", "remote", "add", "-d", "store", str(tmp_path / "empty"))
    with pytest.raises(UsageError, match=problem):
        version_at("d", "three")


def test_unknown_revisions_and_datasets(project: Path) -> None:
    for revision in ("nope", "HEAD~9", "--help", "0" * 40, "HEAD:x"):
        with pytest.raises(UsageError, match="Git knows no revision") as error:
            version_at("d", revision)
        assert not isinstance(error.value, NoVersionError), revision
    for dataset, revision in (("other", "HEAD"), ("d", "graph"), ("other", "graph")):
        with pytest.raises(NoDatasetError, match=f"There is no data/prepared/{dataset} in {revision}"):
            version_at(dataset, revision)


def test_what_cannot_be_read_is_a_sentence(project: Path, run: Run) -> None:
    (project / "made/dataset.json").write_text("{}")
    run(project, "dvc", "repro", "prepare")
    run(project, "git", "commit", "-qam", "a file of another form")
    with pytest.raises(UsageError, match="data/prepared/d of HEAD cannot be read"):
        version_at("d", "HEAD")
    (project / "dvc.yaml").write_text("stages: [")
    run(project, "git", "commit", "-qam", "a graph that cannot be read")
    with pytest.raises(UsageError, match=r"DVC cannot read HEAD \(.*dvc.yaml"):
        version_at("d", "HEAD")
    assert sizes("HEAD~2") == [5]
    (project / ".dvc/config.local").write_text("[core")
    with pytest.raises(UsageError, match="DVC cannot read its configuration"):
        version_at("d", "HEAD")


def test_where_nothing_can_be_earlier(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))

    def refused(match: str, kind: type[NoVersionError] = NoVersionError) -> None:
        with pytest.raises(kind, match=match):
            version_at("d", "HEAD")

    refused("not in a git repository with DVC")
    run(here, "dvc", "init", "-q", "--no-scm")
    refused("not in a git repository with DVC")
    run(here, "git", "init", "-q")
    refused("not in a git repository with DVC")  # `no_scm` still stands in DVC's configuration
    shutil.rmtree(here / ".dvc")
    refused("not in a git repository with DVC")
    run(here, "dvc", "init", "-q")
    refused("no commit yet")
    run(here, "git", "commit", "-qm", "1")
    refused("There is no data/prepared/d", NoDatasetError)
    shutil.rmtree(here / ".git")
    refused("not in a git repository with DVC")


def test_the_working_tree(here: Path) -> None:
    remedy = "run `dvc pull data/prepared/d` or `dvc repro prepare@d`"
    with pytest.raises(UsageError, match=f"data/prepared/d is not here; {remedy}"):
        versions.current_version("d")
    (here / "data/prepared").mkdir(parents=True)
    make(here / "data/prepared/d", 4)
    assert len(versions.current_version("d").manifest) == 4
