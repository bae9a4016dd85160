"""Small models to serve, and a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live_server
import pytest
import studio_page
from toy_judge import toy_judge

from lekhani.serve.champions import ModelSource

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ToyGenerator = Callable[..., Path]


@pytest.fixture(scope="session")
def models(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of `lekhani serve` for a generator and a judge of three classes."""
    folder = tmp_path_factory.mktemp("models")
    return ["--model", str(toy_generator(folder / "g.onnx")), "--judge", str(toy_judge(folder / "j.onnx"))]


@pytest.fixture(scope="module")
def server(models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the tests of a file share."""
    with live_server.server(tmp_path_factory.mktemp("server"), *models) as (address, _):
        yield address


@pytest.fixture(scope="module")
def source(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """What a server within a test's process loads."""
    folder = tmp_path_factory.mktemp("models")
    return ModelSource("mnist", toy_generator(folder / "g.onnx"), toy_judge(folder / "j.onnx"))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, for one file alone: while Playwright runs, asyncio.run does not work in this thread."""
    with studio_page.chromium() as found:
        yield found


@pytest.fixture
def registry(store: Path, toy_generator: ToyGenerator, tmp_path: Path) -> Iterator[Any]:
    """A registry whose champion is the version "first"; see toy_registry.Registry."""
    from toy_registry import DATASET, NAME, Registry

    from lekhani.tracking.store import connect

    made = Registry(tmp_path, toy_generator(tmp_path / "good.onnx", metadata={"dataset": DATASET}))
    made.register("first", made.good)
    made.promote("first")
    yield made
    connect().delete_registered_model(NAME)
