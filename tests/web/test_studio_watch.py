"""Watching glyphs being written, in a real browser: steps, windows and addresses, by hand and by keyboard."""

from typing import TYPE_CHECKING, Any

import pytest
import requests
import studio_page
from stepwise_toy import STEPS, stepwise_generator
from studio_page import assert_accessible, assert_fits, button, checked

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = studio_page.NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A generator that tells its windows."""
    path = stepwise_generator(tmp_path_factory.mktemp("models") / "g.onnx", windows=True)
    return ["--page", "--model", str(path)]


def asked(server: str, **body: Any) -> Any:
    given = {"model": "mnist", "variant": "draw", "seed": 7, **body}
    return requests.post(f"{server}/v1/steps", json=given, timeout=60).json()


def step(page: "Page", number: int) -> None:
    page.locator("output", has_text=f"step {number} of {STEPS}").wait_for()


def test_the_steps_and_their_windows_by_keyboard(browser: "Browser", server: str) -> None:
    with checked(browser, f"{server}/#watch", reduced_motion="reduce") as page:
        step(page, STEPS)  # nothing moves by itself
        column, slider = page.get_by_role("region", name="DRAW with attention"), page.get_by_label("Step", exact=True)
        windows = [moment[0] for moment in asked(server, labels=["0"])["windows"]]
        assert page.evaluate("document.querySelectorAll('canvas').length") == 1
        for number in range(STEPS, -1, -1):
            step(page, number)
            assert slider.get_attribute("aria-valuetext") == f"step {number} of {STEPS}"
            image, frame = column.get_by_role("img"), column.locator(".window")
            if number:
                x, y, width = (windows[number][side] for side in ("x", "y", "width"))
                says = f", window at {100 * x:.0f}%, {100 * y:.0f}%, {100 * width:.0f}% wide"
                outer, inner = image.bounding_box(), frame.bounding_box()
                assert outer is not None
                assert inner is not None
                assert inner["x"] == pytest.approx(outer["x"] + max(0, x - width / 2) * outer["width"], abs=1)
                right = outer["x"] + min(1, x + width / 2) * outer["width"]
                assert inner["x"] + inner["width"] == pytest.approx(right, abs=1)
            else:
                says = ""
                assert frame.is_hidden(), "nothing is written yet"
            assert image.get_attribute("aria-label") == f"0, step {number} of {STEPS}{says}"
            slider.press("ArrowLeft")
        slider.press("ArrowRight")
        step(page, 1)
        address = page.url
        assert "at=0.33" in address
        assert_accessible(page)
        button(page, "Play").press("Enter")
        step(page, STEPS)
        button(page, "Play").wait_for()
    with checked(browser, address) as other:
        step(other, 1)
        other.wait_for_timeout(400)
        step(other, 1)


def test_a_word_another_hand_and_what_cannot_be_watched(browser: "Browser", server: str) -> None:
    with checked(browser, f"{server}/#watch?text=012&seed=3", size="phone") as page:
        step(page, STEPS)  # played to its end
        assert page.get_by_role("img").count() == 3
        assert_fits(page)
        with page.expect_request("**/v1/steps") as sent:
            button(page, "Another hand").click()
        assert sent.value.post_data_json == {"model": "mnist", "variant": "draw", "labels": ["0", "1", "2"], "seed": 4}
        page.locator("#watch-status", has_text="Seed 4.").wait_for()
        assert "text=012&seed=4" in page.url
        text = page.get_by_label("A letter, or a word")
        for wrong, said in (("", "There is nothing to watch"), ("0120120", "more than 6 letters"), ("क", "not क.")):
            text.fill(wrong)
            text.press("Enter")
            page.locator("#watch-text-error", has_text=said).wait_for()
        page.get_by_role("toolbar", name="Letters").get_by_role("button", name="2", exact=True).click()
        page.locator("canvas[aria-label^='2, step 0']").wait_for()
        assert text.input_value() == "2"


def test_it_is_there_in_hindi(browser: "Browser", server: str) -> None:
    with checked(browser, f"{server}/#watch?lang=hi&at=1") as page:
        page.get_by_role("region", name="DRAW, ध्यान के साथ").wait_for()
        page.locator("output", has_text=f"चरण {STEPS}, कुल {STEPS}").wait_for()
        assert_accessible(page)
