"""A project of one's own in an empty home, with Kaggle and OpenML on loopback ports."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_sites
import pytest
import yaml

from lekhani import params
from lekhani.data.sources import transfer

ROOT = Path(__file__).resolve().parents[2]
# What a command needs to meet the fakes instead of the world.
_PATCHED = """
import os, sys
import kagglesdk.kaggle_env as kaggle
kaggle._env_to_endpoint[kaggle.KaggleEnv.PROD] = os.environ["FAKE_KAGGLE"]
from lekhani.data.sources import transfer
transfer.MIN_WAIT = transfer.MAX_WAIT = 0.001
from lekhani.cli import main
sys.argv[0] = "lekhani"
main()
"""


class Project:
    """A folder with params.yaml, in which stages run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kaggle_url = "http://127.0.0.1:9"

    def describe(self, name: str, **data: Any) -> params.Params:
        """Write params.yaml with the one dataset `name` and read it."""
        text = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        text["data"] = {name: {"image_size": 28 if name == "mnist" else 32, **data}}
        text["pipeline"]["datasets"] = [name]
        (self.path / "params.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
        return params.load(self.path / "params.yaml")

    def run(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line in a process of its own."""
        environment = {**os.environ, "FAKE_KAGGLE": self.kaggle_url, **environment}
        return subprocess.run(
            [sys.executable, "-c", _PATCHED, *words],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def holds_no_secret(self, *texts: str) -> None:
        """Assert that no secret stands in `texts`, nor in any file's name or content."""
        for secret in fake_sites.SECRETS:
            assert all(secret not in text for text in texts)
            for path in self.path.rglob("*"):
                assert secret not in str(path)
                assert not path.is_file() or secret.encode() not in path.read_bytes()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    home = tmp_path / "home"
    home.mkdir()
    for key in [*os.environ]:
        if (
            key.startswith("KAGGLE_")
            or key.lower().endswith("_proxy")
            or key in {"VERBOSE", "VERBOSE_OUTPUT", "XDG_CONFIG_HOME", "NETRC"}
        ):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "scikit_learn_data"))
    monkeypatch.setattr(transfer, "MIN_WAIT", 0.001)
    monkeypatch.setattr(transfer, "MAX_WAIT", 0.002)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture
def kaggle(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_sites.FakeKaggle]:
    """Kaggle on a loopback port, for this process and for `project.run`; a token lies in the environment."""
    from kagglesdk import kaggle_env

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it greets those without credentials
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9")
        from kaggle.api.kaggle_api_extended import KaggleApi
    # Found when the package was imported, maybe for the home of another test.
    monkeypatch.setattr(KaggleApi, "config_dir", str(tmp_path / "home" / ".kaggle"))
    monkeypatch.setattr(KaggleApi, "config", str(tmp_path / "home" / ".kaggle" / "kaggle.json"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", fake_sites.TOKEN)
    site = fake_sites.FakeKaggle()
    with site.running():
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, site.url)
        project.kaggle_url = site.url
        yield site


@pytest.fixture
def openml(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_sites.FakeOpenml]:
    """OpenML on a loopback port, for this process."""
    from sklearn.datasets import _openml

    site = fake_sites.FakeOpenml()
    with site.running():
        for name in ("_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
            monkeypatch.setattr(_openml, name, getattr(_openml, name).replace("https://www.openml.org", site.url))
        monkeypatch.setattr(_openml, "time", SimpleNamespace(sleep=lambda _: None))
        yield site


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], bytes | None]:
    """Per layout: a tiny archive, and one of the real images where there are any."""
    folder = tmp_path_factory.mktemp("archives")
    layouts = ("dhcd-csv", "dhcd-folders", "mnist-idx")
    return {
        (layout, kind): make
        for layout in layouts
        for kind, make in (("made", fake_sites.made(layout)), ("real", fake_sites.real(layout, folder)))
    }
