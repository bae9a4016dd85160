"""What the docs tell people to type works: Python as it stands, our commands with small numbers, the others by name.

It is taken from README.md, docs/*.md and a model card, and runs in a folder that has a registry and some pictures.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from typeface_models import KINDS, register_typefaces
from workspace import ROOT, Workspace

import lekhani
from lekhani import cli
from lekhani.data.spec import DatasetInfo
from lekhani.registry.card import _usage
from lekhani.tracking import store

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {"compose", "generate", "lineage", "models", "recognise", "translate"}
NOT_HERE = "letters"  # the reader's own dataset
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_", "GIT_"))}


def snippets(language: str) -> list[Any]:
    """The text of each, as a parameter of a test that names its page."""
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    found = ((page.name, match[2]) for page in PAGES for match in pattern.finditer(page.read_text(encoding="utf-8")))
    return [pytest.param(text, id=f"{name}-{number}") for number, (name, text) in enumerate(found)]


def commands(text: str) -> list[list[str]]:
    """The words of each command; a line with variables or quotes over lines is left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line):
            with contextlib.suppress(ValueError):
                words = shlex.split(part, comments=True)
                if words and "$" not in part:
                    found.append(words)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    with contextlib.chdir(folder), mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
        register_typefaces(folder / "models")
        pen = lekhani.load("devanagari")
        for name in ("letter.png", "photo.jpg", "scan.png"):
            pen.compose("क", join=False).save(name)
        for name in ("number.png", "number.jpg"):
            pen.compose("४२", join=False).save(name)
        store.connect()
    (folder / "words.txt").write_text("कमल\n४२\n", encoding="utf-8")
    return folder


@pytest.fixture
def here(project: Path, tmp_path: Path) -> Path:
    """A folder with the project's registry and pictures."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mlruns").symlink_to(project / "mlruns")
    for path in project.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    (folder / "scans").mkdir()
    shutil.copy(project / "scan.png", folder / "scans")
    return folder


def run_python(text: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("text", snippets("python"))
def test_python(text: str, here: Path) -> None:
    run_python(text, here)
    assert not (here / "mlflow.db").exists(), "MLflow was asked where nothing is"


def test_the_card_s_own_lines_work_from_anywhere(project: Path, tmp_path: Path) -> None:
    """As `lekhani register` writes them."""
    info = DatasetInfo("devanagari", "Devanagari", 32, KINDS["devanagari"][0], {}, {}, "0" * 64)
    text = _usage("lekhani-devanagari", f"sqlite:///{project / 'mlruns' / 'mlflow.db'}", info, conditional=True)
    lines = text.removeprefix("```python\n").removesuffix("```")
    said = run_python(f"{lines}\nprint(drawn['image'][0].shape)", tmp_path)
    assert said.strip() == "(32, 32)"
    assert list(tmp_path.iterdir()) == []


def lekhani_words(text: str) -> list[list[str]]:
    return [words for words in commands(text) if words[0] == "lekhani"]


def is_run(words: list[str]) -> bool:
    return words[1] in RUN and NOT_HERE not in words


@pytest.mark.parametrize(
    "text", [one for one in snippets("bash") if any(map(is_run, lekhani_words(str(one.values[0]))))]
)
def test_commands(text: str, here: Path) -> None:
    space, given = Workspace(here), {path.name for path in here.iterdir()}
    for words in filter(is_run, lekhani_words(text)):
        if "--out" in words and (out := words[words.index("--out") + 1]) in given:
            (here / out).unlink()  # which the command makes
        arguments = [path for word in words[1:] for path in (sorted(one.name for one in here.glob(word)) or [word])]
        space.lekhani(*(re.sub(r"^\d{4,}$", "50", word) for word in arguments))
    assert not (here / "mlflow.db").exists()


def test_names_and_options_are_known() -> None:
    group: Any = typer.main.get_command(cli.app)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    number = 0
    for param in snippets("bash"):
        text = str(param.values[0])
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        for words in commands(text):
            if words[0] == "make":
                assert set(words[1:]) <= targets, words
        for words in lekhani_words(text):
            group.commands[words[1]].make_context(words[1], words[2:])
            number += is_run(words)
    assert number > 15, "enough of it is run"
