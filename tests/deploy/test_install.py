"""What is imported is declared, the light install needs no more than it brings, and ONNX Runtime is there once."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lekhani.data.spec import MNIST
from lekhani.extras import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# REFUSED are top-level modules, with commas between them, that cannot be imported, as if they were not installed.
ONLY = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        refused = name.split(".")[0] in set(REFUSED.split(","))
        return None if refused else super().find_spec(name, path, target)
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv[0] = "lekhani"
from lekhani.cli import main
main()
"""


def distributions(extras: set[str]) -> set[str]:
    """The base dependencies and those of `extras`."""
    wanted = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(one).name) for one in wanted} - {"lekhani"}


def closure(names: set[str]) -> set[str]:
    """`names` and all that they require in turn, as far as it is installed here."""
    found: set[str] = set()
    while names - found:
        name = (names - found).pop()
        found.add(name)
        try:
            needed = [Requirement(one) for one in requires(name) or ()]
        except PackageNotFoundError:
            continue
        names = names | {canonicalize_name(one.name) for one in needed if not one.marker or one.marker.evaluate()}
    return found


def outside(light: set[str]) -> str:
    """The installed top-level modules that the distributions `light` do not bring, with commas between them."""
    known = packages_distributions()
    light |= {"lekhani"}
    names = [module for module, owners in known.items() if not light & {canonicalize_name(one) for one in owners}]
    return ",".join(name for name in names if name.isidentifier() and not name.startswith("_"))


def lekhani(folder: Path, *words: str, code: int = 0, extras: Sequence[str] = ("cpu",)) -> str:
    refused = outside(closure(distributions(set(extras))) | {"onnxruntime-gpu"})
    script = ONLY.replace("REFUSED", repr(refused), 1)
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_is_imported_is_declared() -> None:
    graph = grimp.build_graph("lekhani", include_external_packages=True)
    imported = {name for name in graph.modules if not name.startswith("lekhani")} - sys.stdlib_module_names
    declared = distributions(set(PROJECT["optional-dependencies"]) - {"dev"})
    known = packages_distributions()
    for name in sorted(imported):
        owners = {canonicalize_name(one).removesuffix("-gpu") for one in known.get(name, [name])}
        assert owners & declared, f"{name} comes with {owners}, and pyproject.toml names none of them"
        if not owners & distributions(set()):
            extra = EXTRAS.get(name)
            assert extra, f"{name} is in no line of lekhani.extras"
            assert owners & distributions({extra}), f"{name} does not come with lekhani[{extra}]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "-d", "mnist", "-v", "dcgan"), r"needs torch, .*pip install 'lekhani\[train\]'"),
        (("fetch", "-d", "mnist"), r"needs \w+, .*pip install 'lekhani\[(train|pipeline)\]'"),
        (("promote",), r"needs \w+, .*pip install 'lekhani\[(train|pipeline)\]'"),
        (("serve", "--model", "toy.onnx"), r"needs \w+, .*pip install 'lekhani\[serve\]'"),
    ],
)
def test_a_command_without_its_extra_names_it(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    told = lekhani(tmp_path, *words, code=2)
    assert re.search(said, told), told
    assert "Traceback" not in told


def test_the_light_install_writes_reads_and_composes(tmp_path: Path, toy_generator: Callable[..., Path]) -> None:
    toy_generator(tmp_path / "toy.onnx", classes=MNIST, size=28)
    (tmp_path / "lines.txt").write_text("42\n", encoding="utf-8")
    lekhani(tmp_path, "generate", "--model", "toy.onnx", "--label", "3=2", "--out", "threes")
    assert len(list((tmp_path / "threes").rglob("*.png"))) == 2
    lekhani(tmp_path, "compose", "--model", "toy.onnx", "--lines", "lines.txt", "--out", "line.png")
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")
    told = lekhani(
        tmp_path, "generate", "--model", "toy.onnx", "--label", "3", "--format", "parquet", "--out", "p", code=2
    )
    assert "pip install 'lekhani[parquet]'" in told


def test_the_light_install_writes_without_training(tmp_path: Path) -> None:
    told = lekhani(tmp_path, "generate", "--label", "क=2", "--out", "k")
    assert "the pretrained model of devanagari" in told
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert len(list((tmp_path / "k").rglob("*.png"))) == 2


def test_training_needs_no_more_than_its_extra(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for words in (("train", "-v", "dcgan"), ("evaluate", "-v", "dcgan")):
        told = lekhani(tmp_path, *words, "-d", "mnist", code=1, extras=("cpu", "train"))
        assert "is not there" in told or "dvc repro" in told, told


def test_serving_needs_no_more_than_its_extra(tmp_path: Path, toy_generator: Callable[..., Path]) -> None:
    toy_generator(tmp_path / "toy.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # all is loaded, the page too, before it listens
        words = ("--model", "toy.onnx", "--port", str(taken.getsockname()[1]))
        assert "cannot listen" in lekhani(tmp_path, "serve", *words, code=2, extras=("cpu", "serve"))


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "other"), [("cpu", "onnxruntime-gpu"), ("gpu", "onnxruntime")])
def test_pip_takes_one_onnxruntime(extra: str, other: str, tmp_path: Path) -> None:
    """By pip's own resolver, which asks the package index; skipped where there is none."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--quiet"]
    report = tmp_path / "report.json"
    words = ["--ignore-installed", "-c", "constraints.txt", "--report", str(report)]
    done = subprocess.run(
        [*pip, *words, f".[{extra},all]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        env=os.environ,
    )
    if done.returncode and re.search(r"(NewConnectionError|Could not find a version .*none)", done.stderr, re.S):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    names = {canonicalize_name(one["metadata"]["name"]) for one in json.loads(report.read_text())["install"]}
    assert {"onnxruntime", "onnxruntime-gpu"} - {other} <= names
    assert other not in names
    assert {"torch", "mlflow", "fastapi"} <= names
