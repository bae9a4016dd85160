"""Writing in the studio, in a real browser: typing, tapping, saving and sharing work, and nothing leaves us."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live_server
import psutil
import pytest
import requests
import studio_page
from studio_page import button, checked, opened, pixels
from toy_judge import toy_judge

from lekhani.data.spec import MNIST, GlyphClass
from lekhani.serve.keys import new_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = studio_page.NEEDS_CHROMIUM
ToyGenerator = Callable[..., Path]
CLASSES = tuple(GlyphClass(i, f"class_{i}", glyph) for i, glyph in enumerate(("क", "ज्ञ", "१", "०", "२")))
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def models(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two datasets, so that there is a choice."""
    folder = tmp_path_factory.mktemp("models")
    words = ["--page"]
    for dataset, classes in (("devanagari", CLASSES), ("mnist", MNIST[:4])):
        model = toy_generator(folder / dataset / "g.onnx", classes=classes, size=16, metadata={"dataset": dataset})
        words += ["--model", str(model), "--judge", str(toy_judge(folder / dataset / "j.onnx", classes, 16, dataset))]
    return words


@pytest.fixture
def page(browser: "Browser", server: str) -> Iterator["Page"]:
    """The page with its first handwriting."""
    with checked(browser, server) as page:
        written(page)
        yield page


def written(page: "Page", said: str = "Seed") -> None:
    page.locator("#write-status", has_text=said).wait_for()


def more(page: "Page") -> None:
    page.get_by_text("More", exact=True).click()


def saved(page: "Page", kind: str) -> bytes:
    with page.expect_download() as coming:
        button(page, f"Save {kind}").click()
    assert coming.value.suggested_filename == f"handwriting.{kind.lower()}"
    return Path(coming.value.path()).read_bytes()


def answer(server: str, route: str, accept: str = "application/json", **body: Any) -> requests.Response:
    return requests.post(f"{server}/v1/{route}", json=body, headers={"Accept": accept}, timeout=60)


def test_it_opens_with_handwriting_and_each_click_brings_another_hand(page: "Page") -> None:
    assert page.get_by_label("Text").input_value() == "कज्ञ१"
    seen = [pixels(page.locator("#written img"))]
    for name, seed in (("Write", 8), ("Another hand", 9)):
        button(page, name).click()
        written(page, f"Seed {seed}.")
        seen.append(pixels(page.locator("#written img")))
    assert len(set(seen)) == 3


def test_what_is_typed_and_tapped_is_written_and_saved_as_the_api_does(page: "Page", server: str) -> None:
    text = page.get_by_label("Text")
    text.fill("क")
    button(page, "ज्ञ").click()
    assert text.input_value() == "कज्ञ"
    text.press("Home")
    for tapped in ("२", "Space", "२", "Backspace", "१"):
        button(page, tapped).click()
    assert text.input_value() == "२ १कज्ञ"
    assert text.get_attribute("lang") == "hi"
    more(page)
    page.get_by_label("How many").fill("3")
    page.get_by_label("Seed").fill("11")
    page.get_by_label("Paper", exact=True).select_option("ruled")
    page.get_by_label("Ink", exact=True).select_option("blue")
    text.press("Enter")
    written(page, "3 lines, seeds 11 to 13.")
    body: Any = {"text": "२ १कज्ञ", "n": 3, "seed": 11, "height": 144, "paper": "ruled", "ink": "blue"}
    lines = answer(server, "compose", **body).json()["lines"]
    assert page.locator("#written img").evaluate_all("images => images.map(image => image.src.split(',')[1])") == [
        line["png"] for line in lines
    ]
    assert page.locator("#written img").first.get_attribute("alt") == "२ १कज्ञ"
    for kind, accept in (
        ("PNG", "image/png"),
        ("ZIP", "application/zip"),
        ("PARQUET", "application/vnd.apache.parquet"),
    ):
        assert saved(page, kind) == answer(server, "compose", accept, **body).content
    page.get_by_text("Saved handwriting.parquet.").wait_for()
    # Letter by letter, with their labels.
    page.get_by_label("As", exact=True).select_option("letters")
    text.fill("ज्ञ 0")
    page.get_by_label("How many").fill("2")
    text.press("Enter")
    written(page, "4 letters, seed 11.")
    assert page.locator("#written figcaption").all_inner_texts() == ["ज्ञ", "ज्ञ", "०", "०"]
    body = {"labels": ["ज्ञ", "०"], "n": 2, "seed": 11}
    assert saved(page, "ZIP") == answer(server, "generate", "application/zip", **body).content
    # Another model begins with letters of its own, unless there is a text.
    page.get_by_label("Model").select_option("mnist")
    assert page.get_by_label("Model").locator("option").all_inner_texts()[1] == "Latin digits (MNIST), 4 digits"
    letters = page.locator("#letters button").all_inner_texts()
    assert letters == ["0", "1", "2", "3", "Space", "Backspace"]


def test_what_is_shown_can_be_shared_by_its_address(page: "Page", browser: "Browser", server: str) -> None:
    more(page)
    page.get_by_label("Text").fill("१२ क&Q")
    page.get_by_label("Text").press("Enter")
    page.locator("#text-error", has_text="Q").wait_for()  # what cannot be written has an address, too
    page.get_by_label("Text").fill("१२ क")
    page.get_by_label("Paper and ink effects").select_option("strong")
    page.get_by_label("Seed").fill("5")
    button(page, "Write").click()
    written(page, "Seed 5.")
    with checked(browser, page.url) as other:
        written(other, "Seed 5.")
        assert other.get_by_label("Text").input_value() == "१२ क"
        assert pixels(other.locator("#written img")) == pixels(page.locator("#written img"))
    for nonsense in (
        "#write?model=x&seed=-1&style=x&count=1e9",
        "#nowhere?text=%FF",
        "#?&&=",
        "#write?text=%E0%A4%95&text=x",
    ):
        with checked(browser, f"{server}/{nonsense}") as other:
            other.locator("#written img, .error:not(:empty)").first.wait_for()
    page.goto(f"{server}/#write?lang=hi")
    button(page, "दूसरी लिखावट").wait_for()
    assert page.evaluate("document.documentElement.lang") == "hi"
    assert page.locator("#letters button").first.get_attribute("lang") == "hi"
    button(page, "English").click()
    button(page, "Another hand").wait_for()


def test_errors_are_sentences_at_the_field(page: "Page", server: str) -> None:
    more(page)
    for field, wrong, right, said in (
        ("#count", "0", "1", "How many is a whole number from 1 to 24."),
        ("#seed", "1.5", "7", "Seed is a whole number from 0 to 9007199254740991."),
        ("#text", "  ", "क", "There is nothing to write; type or tap a text."),
    ):
        page.fill(field, wrong)
        button(page, "Write").click()
        page.locator(f"{field}-error", has_text=said).wait_for()
        assert page.locator(field).get_attribute("aria-invalid") == "true"
        assert f"{field}-error".removeprefix("#") in str(page.locator(field).get_attribute("aria-describedby"))
        page.fill(field, right)
    page.get_by_label("Text").fill("<b>Z")
    button(page, "Write").click()
    said = answer(server, "compose", model="devanagari", text="<b>Z").json()["detail"]
    page.locator("#text-error").get_by_text(said, exact=True).wait_for()
    page.get_by_label("As", exact=True).select_option("letters")
    page.locator(
        "#text-error", has_text="Letter by letter, the model writes only what is shown, not <, b, >, Z"
    ).wait_for()


def test_whatever_the_server_says_is_shown_as_text(browser: "Browser", server: str) -> None:
    page, _, complaints = opened(browser, "about:blank")
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    png = answer(server, "generate", labels=["क"]).json()["images"][0]["png"]
    classes = [{"label": 0, "name": HOSTILE, "glyph": HOSTILE}]
    model = {"dataset": HOSTILE, "classes": classes}
    lines = {"text": HOSTILE, "drawn": [HOSTILE], "lines": [{"seed": 1, "png": png}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=[model, model]))
    page.route("**/v1/generate", lambda route: route.fulfill(status=422, json={"detail": HOSTILE}))
    page.route("**/v1/compose", lambda route: route.fulfill(json=lines))
    page.goto(server)
    page.locator("#write-status", has_text=HOSTILE).wait_for()
    page.locator("#letters button").first.click()
    page.goto(f"{server}/#write?style=letters&text={HOSTILE}")
    page.locator("#text-error", has_text=HOSTILE).wait_for()
    assert page.locator("img:not([src^='data:image/png;base64,'])").count() == 0
    page.wait_for_timeout(100)
    assert complaints == []
    page.close()


def test_a_keyboard_is_enough(page: "Page") -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    page.keyboard.press("Tab")
    assert focused() == "Skip to content"
    page.keyboard.press("Enter")
    for expected in ("text", "Write", "another"):
        page.keyboard.press("Tab")
        assert focused() == expected
    page.keyboard.press("Enter")
    written(page, "Seed 8.")
    assert focused() == "another", "the focus stays"
    while focused() != "क":
        page.keyboard.press("Tab")
    for key, expected in (("ArrowRight", "ज्ञ"), ("End", "Backspace"), ("ArrowRight", "Backspace"), ("Home", "क")):
        page.keyboard.press(key)
        assert focused() == expected
    page.keyboard.press("Enter")
    assert page.get_by_label("Text").input_value() == "कज्ञ१क"
    page.keyboard.press("Tab")
    assert page.locator("#letters button:focus").count() == 0, "all letters are one stop"


@pytest.mark.parametrize(("size", "scheme", "language"), studio_page.LOOKS)
def test_it_can_be_seen(browser: "Browser", server: str, size: str, scheme: Any, language: str) -> None:
    with checked(browser, f"{server}/#write?text=कज्ञ०१२&lang={language}", size=size, color_scheme=scheme) as page:
        written(page, "7")
        for place in ("#text", "#write .primary", "#another", "#written img", "#letters button >> nth=0"):
            box = page.locator(place).bounding_box()
            assert box is not None
            assert box["y"] >= 0, place
            assert box["y"] + box["height"] <= studio_page.SIZES[size][1], place
        page.locator("summary").click()
        page.fill("#count", "0")
        page.locator("#write .primary").click()
        page.locator("#count-error:not(:empty)").wait_for()
        studio_page.assert_fits(page)
        studio_page.assert_accessible(page)


def test_devanagari_is_shown_by_the_font_that_is_served(page: "Page") -> None:
    page.evaluate("document.fonts.ready.then(() => true)")
    assert page.evaluate("[...document.fonts].map(font => font.status)") == ["loaded"]
    family = page.locator("#letters button").first.evaluate("e => getComputedStyle(e).fontFamily")
    assert family.replace('"', "").startswith("Lekhani Devanagari")
    drawn = page.evaluate(
        """() => ["क", "ख", "\\u0978", "ज्ञ", "ज्\\u200cञ"].map(text => {
          const board = document.createElement("canvas").getContext("2d");
          board.font = "60px 'Lekhani Devanagari'";
          board.fillText(text, 10, 100);
          const pixels = [...board.getImageData(0, 0, 300, 150).data];
          return [board.measureText(text).width, pixels.reduce((a, b, i) => (a * 31 + b * i) % 1000003, 0)];
        })"""
    )
    assert len({pixels for _, pixels in drawn}) == 5, "two letters look the same, as boxes for missing ones do"
    assert drawn[3][0] < drawn[4][0], "the conjunct is not joined"


def test_a_key_is_asked_for_once_and_an_open_tab_lets_the_server_end(
    browser: "Browser", models: list[str], tmp_path: Path
) -> None:
    key, line = new_key("tests")
    (tmp_path / "keys").write_text(line)
    with live_server.server(tmp_path, *models, "--keys", str(tmp_path / "keys")) as (address, pid):
        page, urls, complaints = opened(browser, address)
        field = page.get_by_label("Key")
        field.wait_for()
        assert field.get_attribute("type") == "password"
        assert page.locator("#text").count() == 0
        studio_page.assert_accessible(page)
        for wrong, said in (("कुंजी", "A key consists of letters"), ("lk_wrong", "A valid key is needed")):
            field.fill(wrong)
            field.press("Enter")
            page.locator("#key-error", has_text=said).wait_for()
        field.fill(key)
        field.press("Enter")
        for _ in range(2):
            written(page)
            assert field.count() == 0
            page.reload()  # the tab keeps it
        written(page)
        assert key not in "".join(urls)
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        other, _, _ = opened(browser, address)  # another tab asks again
        other.get_by_label("Key").wait_for()
        (process,) = psutil.Process(pid).children()
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert time.monotonic() - started < 8
        button(page, "Write").click()
        page.get_by_text("The server does not answer; try again later.").wait_for()
        assert complaints == []
        page.close()
        other.close()
