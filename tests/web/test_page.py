"""The page in a real browser: typing, tapping, drawing and saving work, and nothing leaves the machine."""

import base64
import io
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live_server
import psutil
import pytest
import requests
from PIL import Image, ImageDraw
from toy_judge import toy_judge

from lekhani.data.spec import MNIST, GlyphClass
from lekhani.serve.keys import new_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium")

ToyGenerator = Callable[..., Path]
CLASSES = tuple(GlyphClass(i, f"class_{i}", glyph) for i, glyph in enumerate(("क", "ज्ञ", "१", "०", "२")))
SECONDS = 60_000  # Playwright's milliseconds, on a machine with much else to do
HOSTILE = "<img src=x onerror=alert(1)>"
# What the toy judge, which only sees how much of its frame is ink, reads as "क", and as "१" or "1".
STROKE = [(0.5, 0.15), (0.5, 0.85)]
HATCH = [(0.35 + 0.3 * (i % 2), 0.2 + 0.06 * i) for i in range(11)]
# The least contrast of what can be read, with the text that has it; see WCAG 2.
CONTRAST = r"""() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    const colour = numbers(getComputedStyle(element).backgroundColor);
    return colour.length === 3 || colour[3] === 1 ? colour : behind(element.parentElement);
  };
  const says = (one) => one.value || [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const shown = [...document.querySelectorAll("body :not(option)")].filter((one) => one.checkVisibility() && says(one));
  return shown.map((one) => {
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind(one))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.outerHTML];
  }).reduce((a, b) => (a[0] < b[0] ? a : b));
}"""


@pytest.fixture(scope="module")
def models(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two datasets, so that there is something to translate."""
    folder = tmp_path_factory.mktemp("models")
    words = ["--page"]
    for dataset, classes in (("devanagari", CLASSES), ("mnist", MNIST[:4])):
        model = toy_generator(folder / dataset / "g.onnx", classes=classes, size=16, metadata={"dataset": dataset})
        words += ["--model", str(model), "--judge", str(toy_judge(folder / dataset / "j.onnx", classes, 16, dataset))]
    return words


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    # Of this module alone: while Playwright runs, asyncio.run does not work in this thread.
    with playwright.sync_playwright() as all_browsers:
        browser = all_browsers.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def opened(browser: "Browser", address: str, **settings: Any) -> tuple["Page", list[str], list[str]]:
    """The page, what it asks for, and what its console complains of beyond what the API refuses."""
    page = browser.new_page(**settings)
    page.set_default_timeout(SECONDS)
    requests: list[str] = []
    complaints: list[str] = []

    def note(message: Any) -> None:
        if message.type in {"error", "warning"} and "/v1/" not in message.location["url"]:
            complaints.append(message.text)

    page.on("request", lambda request: requests.append(request.url))
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    return page, requests, complaints


@pytest.fixture
def page(browser: "Browser", server: str) -> Iterator["Page"]:
    """The page with its letters; afterwards no request went elsewhere, and the console shows no error."""
    page, urls, complaints = opened(browser, server)
    page.wait_for_selector("#letters button")
    yield page
    page.close()
    assert [url for url in urls if not url.startswith((f"{server}/", "data:", "blob:"))] == []
    assert complaints == []


def button(page: "Page", name: str) -> "Locator":
    return page.get_by_role("button", name=name, exact=True)


def draw(page: "Page", points: list[tuple[float, float]]) -> None:
    box = page.locator("#pad").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def saved(page: "Page", name: str) -> bytes:
    with page.expect_download() as coming:
        button(page, f"Save as {name}").click()
    assert coming.value.suggested_filename == f"handwriting.{name.lower()}"
    return Path(coming.value.path()).read_bytes()


def answer(server: str, route: str, accept: str = "application/json", **body: Any) -> requests.Response:
    return requests.post(f"{server}/v1/{route}", json=body, headers={"Accept": accept}, timeout=60)


def pixels(image: "Locator") -> bytes:
    return base64.b64decode(str(image.get_attribute("src")).partition(",")[2])


def test_what_is_typed_and_tapped_is_written_as_the_api_writes_it(page: "Page", server: str) -> None:
    text = page.get_by_label("Text")
    text.fill("क")
    button(page, "ज्ञ").click()
    assert text.input_value() == "कज्ञ"
    text.evaluate("field => field.setSelectionRange(0, 0)")
    button(page, "२").click()
    assert text.input_value() == "२कज्ञ"
    assert text.get_attribute("lang") == "hi"
    page.locator("#seed").fill("11")
    button(page, "Write").click()
    page.get_by_text("Wrote 1 line with devanagari, seed 11.").wait_for()
    body: Any = {"model": "devanagari", "text": "२कज्ञ", "seed": 11, "height": 96}
    assert pixels(page.locator("#written img")) == answer(server, "compose", "image/png", **body).content
    assert page.locator("#written img").get_attribute("alt") == "२कज्ञ"
    button(page, "Write").click()
    page.get_by_text("Written again, and the same").wait_for()
    # And as many hands as lines.
    page.get_by_label("How many").fill("3")
    text.press("Enter")
    page.get_by_text("Wrote 3 lines with devanagari, seeds 11 to 13.").wait_for()
    assert len({pixels(image) for image in page.locator("#written img").all()}) == 3
    assert saved(page, "PNG") == answer(server, "compose", "image/png", **body, n=3).content
    assert saved(page, "ZIP") == answer(server, "compose", "application/zip", **body, n=3).content
    page.get_by_text("Saved handwriting.zip.").wait_for()


def test_single_letters_come_with_their_labels(page: "Page", server: str) -> None:
    page.get_by_label("As", exact=True).select_option("letters")
    page.get_by_label("Text").fill("ज्ञ 0")
    page.get_by_label("How many").fill("2")
    button(page, "Write").click()
    page.get_by_text("Wrote 4 letters").wait_for()
    captions = page.locator("#written figcaption")
    assert captions.all_inner_texts() == ["ज्ञ", "ज्ञ", "०", "०"]
    assert captions.first.get_attribute("lang") == "hi"
    body: Any = {"model": "devanagari", "labels": ["ज्ञ", "०"], "n": 2, "seed": 7}
    assert saved(page, "ZIP") == answer(server, "generate", "application/zip", **body).content
    # The letters, and the text that it begins with, are those of the model.
    assert page.locator("#letters button").all_inner_texts() == [c.glyph for c in CLASSES]
    page.get_by_label("Text").fill("कज्ञ१")
    page.get_by_label("Model").select_option("mnist")
    assert page.locator("#letters button").all_inner_texts() == ["0", "1", "2", "3"]
    assert page.get_by_label("Text").input_value() == "012"


def test_what_is_drawn_or_uploaded_is_read_and_written_again(page: "Page", tmp_path: Path) -> None:
    page.get_by_role("tab", name="Read and write again").click()
    status = page.locator("#read-status")
    draw(page, HATCH)
    button(page, "Read and write again").click()
    page.wait_for_selector("#reading li")
    assert status.inner_text() == "Read as १ by the judge of devanagari."
    assert page.locator("#reading .guess b").all_inner_texts()[0] == "१"
    assert len(page.locator("#reading .guess b").all()) == 3, "the digits that it may be, of five classes"
    assert page.locator("#reading figcaption").all_inner_texts() == ["1"]
    assert page.locator("#reading img").evaluate("image => image.naturalWidth") == 16
    # And back.
    page.get_by_label("It is written in").select_option("mnist")
    page.get_by_label("Write it again in").select_option("devanagari")
    button(page, "Read and write again").click()
    page.locator("#reading figcaption", has_text="१").wait_for()
    # One character, which need not be a digit.
    page.get_by_label("It is written in").select_option("devanagari")
    button(page, "Clear").click()
    draw(page, STROKE)
    button(page, "Read one character").click()
    page.get_by_text("Read as क").wait_for()
    assert page.locator("#reading .guess b").all_inner_texts() == ["क", "ज्ञ", "१"]
    assert page.locator("#reading meter").first.get_attribute("value") == "1"
    # A photo, which is shrunk in the browser, and a file that is none.
    photo = Image.new("L", (2400, 1200), 230)
    ImageDraw.Draw(photo).line([(2400 * x, 1200 * y) for x, y in HATCH], 30, 80, "curve")
    photo.save(tmp_path / "photo.png")
    page.get_by_label("Upload a picture").set_input_files(tmp_path / "photo.png")
    page.locator("#pad[width='1024']").wait_for()
    button(page, "Read one character").click()
    page.get_by_text("Read as १").wait_for()
    (tmp_path / "song.png").write_bytes(b"no picture")
    page.get_by_label("Upload a picture").set_input_files(tmp_path / "song.png")
    page.get_by_text("This file cannot be read").wait_for()


def test_errors_are_sentences_at_the_field(page: "Page", server: str) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    for field, wrong, right, said in (
        ("#count", "0", "1", "How many is a whole number from 1 to 24."),
        ("#count", "", "1", "How many is a whole number from 1 to 24."),
        ("#seed", "1.5", "7", "The seed is a whole number from 0 to 9007199254740991."),
        ("#text", "  ", "क", "There is nothing to write; type or tap a text."),
        ("#text", "क\u094d <b>", "क", "Letter by letter, the model writes only what is shown, not ◌\u094d, <, b, >"),
    ):
        page.get_by_label("As", exact=True).select_option("letters")
        page.fill(field, wrong)
        button(page, "Write").click()
        page.locator(f"{field}-error", has_text=said).wait_for()
        assert page.locator(field).get_attribute("aria-invalid") == "true"
        assert f"{field}-error".removeprefix("#") in str(page.locator(field).get_attribute("aria-describedby"))
        page.fill(field, right)
    assert sent == [], "what the page sees by itself is not sent"
    page.get_by_label("As", exact=True).select_option("lines")
    page.get_by_label("Text").fill("<b>Z")
    button(page, "Write").click()
    said = answer(server, "compose", model="devanagari", text="<b>Z").json()["detail"]
    page.locator("#text-error").get_by_text(said, exact=True).wait_for()
    page.get_by_role("tab", name="Read and write again").click()
    button(page, "Read and write again").click()
    blank = io.BytesIO()
    Image.new("L", (480, 240), 255).save(blank, "PNG")
    said = answer(server, "translate", image=base64.b64encode(blank.getvalue()).decode()).json()["detail"]
    page.locator("#pad-error").get_by_text(said, exact=True).wait_for()


def test_what_is_not_read_for_sure_is_shown_and_taken_on_demand(browser: "Browser", server: str) -> None:
    page, _, _ = opened(browser, server)
    guesses = [{"glyph": glyph, "confidence": share} for glyph, share in (("६", 0.22), ("ङ", 0.1))]
    reading = {**guesses[0], "alternatives": guesses[1:]}
    sent: list[Any] = []

    def answered(route: Any) -> None:
        sent.append(route.request.post_data_json)
        forced = "force" in sent[-1]
        route.fulfill(status=200 if forced else 422, json=reading if forced else {"detail": "", "readings": [reading]})

    page.route("**/v1/recognise", answered)
    page.get_by_role("tab", name="Read and write again").click()
    button(page, "Read one character").click()
    page.locator("#read-status", has_text="not sure").wait_for()
    assert [one.strip() for one in page.locator(".guess b").all_inner_texts()] == ["६", "ङ"]
    button(page, "Take it anyway").click()
    page.locator("#read-status b", has_text="६").wait_for()
    assert [one.get("force") for one in sent] == [None, True]


def test_whatever_the_server_says_is_shown_as_text(browser: "Browser", server: str) -> None:
    page, _, complaints = opened(browser, "about:blank")
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    png = base64.b64encode(answer(server, "compose", "image/png", text="क").content).decode()
    classes = [{"label": 0, "name": HOSTILE, "glyph": HOSTILE}]
    model = {"dataset": HOSTILE, "classes": classes}
    reading = {"glyph": HOSTILE, "confidence": 0.5, "alternatives": []}
    images = [{"glyph": HOSTILE, "png": png}]
    page.route("**/v1/models", lambda route: route.fulfill(json=[model, model]))
    page.route("**/v1/generate", lambda route: route.fulfill(json={"images": images}))
    page.route("**/v1/compose", lambda route: route.fulfill(status=422, json={"detail": HOSTILE}))
    page.route(
        "**/v1/translate", lambda route: route.fulfill(json={"read": HOSTILE, "digits": [reading], "images": images})
    )
    page.goto(server)
    page.locator("#letters button").click()
    button(page, "Write").click()
    page.locator("#text-error", has_text=HOSTILE).wait_for()
    page.get_by_label("As", exact=True).select_option("letters")
    button(page, "Write").click()
    page.locator("#written figcaption", has_text=HOSTILE).wait_for()
    page.get_by_role("tab", name="Read").click()
    button(page, "Read and write again").click()
    page.locator("#read-status b", has_text=HOSTILE).wait_for()
    assert page.locator("img:not([src^='data:image/png;base64,'])").count() == 0
    assert page.evaluate("document.body.innerText.includes('onerror=')")
    page.wait_for_timeout(100)
    assert complaints == []
    page.close()


def test_a_keyboard_is_enough(page: "Page") -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    page.keyboard.press("Tab")
    assert focused() == "write-tab"
    page.keyboard.press("ArrowRight")
    assert page.locator("#pad").is_visible()
    page.keyboard.press("ArrowLeft")
    assert page.get_by_label("Text").is_visible()
    for expected in ("model", "text", "Write"):
        page.keyboard.press("Tab")
        assert focused() == expected
    page.keyboard.press("Enter")
    page.get_by_text("Wrote 1 line").wait_for()
    assert focused() == "Write", "the focus stays"
    for expected in ("style", "count", "seed", "Save as PNG", "Save as ZIP", "क"):
        page.keyboard.press("Tab")
        assert focused() == expected
    for key, expected in (("ArrowRight", "ज्ञ"), ("End", "२"), ("ArrowRight", "२"), ("Home", "क")):
        page.keyboard.press(key)
        assert focused() == expected
    page.keyboard.press("Enter")
    assert page.get_by_label("Text").input_value() == "कज्ञ१क"
    page.keyboard.press("Tab")
    assert focused() not in {"क", "ज्ञ", "१", "०", "२"}, "all letters are one stop"


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_seen(browser: "Browser", server: str, width: int, height: int, scheme: Any) -> None:
    phone: Any = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    page, _, complaints = opened(
        browser, server, viewport={"width": width, "height": height}, color_scheme=scheme, **phone
    )
    page.wait_for_selector("#letters button")
    page.get_by_label("Text").fill("कज्ञ०१२ " * 12)
    button(page, "Write").click()
    page.wait_for_selector("#written img")
    for place in ("#text", "#write button", "#write-status", "#written img"):
        box = page.locator(place).bounding_box()
        assert box is not None
        assert box["y"] >= 0, place
        assert box["y"] + box["height"] <= height, place
    page.fill("#count", "0")
    button(page, "Write").click()
    for tab in ("Write", "Read and write again"):
        page.get_by_role("tab", name=tab, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        contrast, text = page.evaluate(CONTRAST)
        assert contrast >= 4.5, text
    assert complaints == []
    page.close()


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
        assert page.locator("main").is_hidden()
        for wrong, said in (("कुंजी", "A key consists of letters"), ("lk_wrong", "A valid key is needed")):
            field.fill(wrong)
            field.press("Enter")
            page.locator("#key-error", has_text=said).wait_for()
        field.fill(key)
        field.press("Enter")
        page.locator("#text:focus").wait_for()
        for _ in range(2):
            button(page, "Write").click()
            page.wait_for_selector("#written img")
            assert field.is_hidden()
            page.reload()  # the tab keeps it
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
