"""Trainings in the studio: their progress, samples and curves, looked at again while the view is open."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import live_server
import numpy as np
import pytest
import studio_page
from studio_page import checked, pixels

from lekhani.train.reporter import CurveFiles

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = studio_page.NEEDS_CHROMIUM


@pytest.fixture
def project(models: list[str], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server and the folder in which it runs."""
    with live_server.server(tmp_path, "--page", *models) as (address, _):
        yield address, tmp_path


def train(folder: Path, first: int, last: int) -> None:
    """Report these steps as a training does."""
    reporter = CurveFiles(folder)
    if first == 1:
        reporter.resume(0)
    for step in range(first, last + 1):
        values = {"images_seen": 64.0 * step, "loss": 8 / step, "images_per_second": 9.0, "seconds_left": 1.0}
        reporter.metrics(step, values)
    reporter.images(last, np.full((8, 8), last, np.uint8))


def test_a_training_is_followed_while_the_view_is_open(browser: "Browser", project: tuple[str, Path]) -> None:
    address, folder = project
    with checked(browser, f"{address}/#training") as page:
        page.clock.install()  # so that none of us waits for it
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "/v1/training" in request.url else None)
        page.get_by_text("Nothing has been trained in this folder; run `dvc repro`").wait_for()
        train(folder / "reports" / "mnist" / "cgan", 1, 1)
        train(folder / "checkpoints" / "mnist" / "dcgan", 1, 30)
        page.clock.fast_forward(5000)
        card = page.get_by_role("region", name="mnist, dcgan", exact=True)
        card.get_by_text("1,920 images so far").wait_for()  # params.yaml does not say of how many
        assert "Running; last sign of life: " in card.inner_text()
        assert page.locator("#training-status").inner_text() == ""
        grid = pixels(card.locator("img"))
        assert card.get_by_role("img", name="loss: from 8 at 64 images to 0.2667 at 1,920 images").is_visible()
        line = str(card.locator("polyline").get_attribute("points")).split()
        assert len(line) == 30
        places = [tuple(map(float, point.split(","))) for point in line]
        assert places == sorted(places), "to the right, and downwards as the loss falls"
        card.get_by_text("As a table").click()
        assert card.locator("tbody tr").last.locator("td").all_inner_texts() == ["1,920", "0.2667"]
        done = page.get_by_role("region", name="mnist, cgan", exact=True)
        assert "64 of 64 images (100%)" in done.inner_text()
        assert done.get_by_role("progressbar").evaluate("bar => bar.position") == 1

        train(folder / "checkpoints" / "mnist" / "dcgan", 31, 40)
        page.clock.fast_forward(5000)
        card.get_by_text("2,560 images so far").wait_for()
        assert card.locator("tbody tr").last.locator("td").all_inner_texts() == ["2,560", "0.2"], "it stays open"
        assert pixels(card.locator("img")) != grid

        page.route("**/v1/training", lambda route: route.abort())
        page.clock.fast_forward(5000)
        page.get_by_text("The server does not answer; try again later.").wait_for()
        assert card.is_visible()
        page.unroute("**/v1/training")
        page.clock.fast_forward(5000)
        page.locator("#training-status:empty").wait_for(state="attached")

        for leave, back in (
            ("location.hash = '#write'", "location.hash = '#training'"),
            (
                "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
                "document.dispatchEvent(new Event('visibilitychange'))",
                "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))",
            ),
        ):
            page.evaluate(leave)
            page.wait_for_timeout(500)
            before = len(asked)
            for _ in range(4):
                page.clock.fast_forward(5000)
            page.wait_for_timeout(500)
            assert len(asked) == before, leave
            with page.expect_response("**/v1/training"):
                page.evaluate(back)
            page.wait_for_timeout(500)
            with page.expect_response("**/v1/training"):
                page.clock.fast_forward(5000)
            assert len(asked) == before + 2, "one round at a time"


def test_it_can_be_seen(browser: "Browser", project: tuple[str, Path]) -> None:
    address, folder = project
    train(folder / "checkpoints" / "mnist" / "dcgan", 1, 30)
    for size, scheme, lang, table in (
        ("phone", "dark", "hi", "तालिका"),
        ("desktop", "light", "en", "As a table"),
        ("wide", "dark", "en", "As a table"),
    ):
        with checked(browser, f"{address}/#training?lang={lang}", size=size, color_scheme=scheme) as page:
            summary = page.get_by_text(table)
            summary.focus()
            page.keyboard.press("Enter")
            page.locator("tbody tr").last.wait_for()
            studio_page.assert_fits(page)
            studio_page.assert_accessible(page)
