"""The page in a real browser: typing, tapping, drawing and saving work, and nothing leaves the machine."""

import base64
import io
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live_server
import numpy as np
import pytest
import requests
from PIL import Image, ImageDraw
from toy_judge import toy_judge
from typer.testing import CliRunner

from lekhani.cli import app as cli
from lekhani.data.spec import MNIST, GlyphClass
from lekhani.serve import server as servers
from lekhani.serve import telemetry
from lekhani.serve.keys import new_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("gradio", reason="Gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium")

ToyGenerator = Callable[..., Path]
CLASSES = tuple(GlyphClass(i, f"class_{i}", glyph) for i, glyph in enumerate(("क", "ज्ञ", "१", "०", "२")))
SECONDS = 120_000  # Playwright's milliseconds, on a machine with much else to do
# What the toy judge, which only sees how much of its frame is ink, reads as "क", and as "१" or "1".
STROKE = [(0.5, 0.15), (0.5, 0.85)]
HATCH = [(0.35 + 0.3 * (i % 2), 0.2 + 0.06 * i) for i in range(11)]


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
    """The page, what it asks for, and what its console complains of."""
    page = browser.new_page(**settings)
    page.set_default_timeout(SECONDS)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#write")
    return page, requests, complaints


@pytest.fixture
def page(browser: "Browser", server: str) -> Iterator["Page"]:
    """The page with its letters; afterwards no request went elsewhere, and the console shows no error."""
    page, urls, complaints = opened(browser, server)
    page.wait_for_selector("#letters button")
    yield page
    page.close()
    strange = [url for url in urls if not url.startswith((f"{server}/", "data:", "blob:"))]
    assert strange == []
    assert complaints == []


def draw(page: "Page", points: list[tuple[float, float]]) -> None:
    box = page.locator("#pad canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def saved(page: "Page", link: str) -> bytes:
    with page.expect_download() as coming:
        page.get_by_text(link).click()
    return Path(coming.value.path()).read_bytes()


def sentence(server: str, route: str, **body: Any) -> str:
    """What the API says to this."""
    return str(requests.post(f"{server}/v1/{route}", json=body, timeout=60).json()["detail"])


def test_what_is_typed_and_tapped_is_written_as_the_api_writes_it(page: "Page", server: str) -> None:
    text = page.get_by_label("Text")
    text.fill("क")
    page.locator("#letters button", has_text="ज्ञ").click()
    assert text.input_value() == "कज्ञ"
    text.evaluate("field => field.setSelectionRange(0, 0)")
    page.locator("#letters button", has_text="२").click()
    assert text.input_value() == "२कज्ञ"
    page.get_by_label("Seed").first.fill("11")
    page.click("#write")
    shown = page.locator("#written .lines img")
    assert shown.evaluate("image => image.naturalHeight") == 96
    body: Any = {"model": "devanagari", "text": "२कज्ञ", "seed": 11, "height": 96}
    expected = requests.post(f"{server}/v1/compose", json=body, headers={"Accept": "image/png"}, timeout=60).content
    assert base64.b64decode(str(shown.get_attribute("src")).partition(",")[2]) == expected
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(saved(page, "Save as PNG")))), np.asarray(Image.open(io.BytesIO(expected)))
    )
    with zipfile.ZipFile(io.BytesIO(saved(page, "Save all as ZIP"))) as archive:
        assert archive.namelist() == ["00.png", "00.gt.txt"]
        assert archive.read("00.png") == expected
        assert archive.read("00.gt.txt").decode() == "२कज्ञ\n"


def test_several_lines_have_several_hands(page: "Page") -> None:
    page.locator("#count input").fill("3")
    page.get_by_label("Text").fill("कक")
    page.click("#write")
    page.wait_for_selector("#written .lines figure:nth-child(3)")
    sources = {image.get_attribute("src") for image in page.locator("#written img").all()}
    assert len(sources) == 3
    sheet = Image.open(io.BytesIO(saved(page, "Save as PNG")))
    assert sheet.height == 3 * 96 + 2 * 8


def test_single_letters_come_with_their_labels(page: "Page", server: str) -> None:
    page.get_by_label("Each letter by itself").check()
    page.get_by_label("Text").fill("ज्ञ ०")
    page.locator("#count input").fill("2")
    page.click("#write")
    page.wait_for_selector("#written .glyphs")
    assert page.locator("#written figcaption").all_inner_texts() == ["ज्ञ", "ज्ञ", "०", "०"]
    body: Any = {"model": "devanagari", "labels": ["ज्ञ", "०"], "n": 2, "seed": 7}
    expected = requests.post(
        f"{server}/v1/generate", json=body, headers={"Accept": "application/zip"}, timeout=60
    ).content
    assert saved(page, "Save all as ZIP") == expected


def test_the_letters_are_those_of_the_model(page: "Page") -> None:
    assert page.locator("#letters button").all_inner_texts() == [c.glyph for c in CLASSES]
    page.locator("#model").get_by_label("mnist").check()
    page.wait_for_function("document.querySelectorAll('#letters button').length == 4")
    assert page.locator("#letters button").all_inner_texts() == ["0", "1", "2", "3"]


def test_a_drawn_digit_is_read_and_written_again(page: "Page") -> None:
    page.get_by_role("tab", name="Read and write again").click()
    draw(page, HATCH)
    page.click("#translate")
    page.wait_for_selector("#read h3")
    assert page.locator("#read .number").inner_text() == "१"
    assert page.locator("#read .guess b").all_inner_texts()[0] == "१"
    assert len(page.locator("#read .guess b").all()) == 3, "the digits that it may be, of five classes"
    assert page.locator("#read figcaption").all_inner_texts() == ["1"]
    assert page.locator("#read img").evaluate("image => image.naturalWidth") == 16
    # And back.
    page.locator("#source").get_by_label("mnist").check()
    page.locator("#target").get_by_label("devanagari").check()
    page.click("#translate")
    page.wait_for_function("document.querySelector('#read figcaption')?.textContent == '१'")


def test_one_character_is_read_with_its_alternatives(page: "Page") -> None:
    page.get_by_role("tab", name="Read and write again").click()
    draw(page, STROKE)
    page.click("#recognise")
    page.wait_for_selector("#read h3")
    assert page.locator("#read .guess b").all_inner_texts() == ["क", "ज्ञ", "१"]
    assert page.locator("#read meter").first.get_attribute("value") == "1.0"
    page.get_by_text("Clear").click()
    draw(page, HATCH)
    page.click("#recognise")
    page.wait_for_function("document.querySelector('#read .number').textContent == '१'")


def test_an_uploaded_picture_is_read(page: "Page", tmp_path: Path) -> None:
    photo = Image.new("L", (2400, 1200), 230)
    ImageDraw.Draw(photo).line([(2400 * x, 1200 * y) for x, y in HATCH], 30, 80, "curve")
    photo.save(tmp_path / "photo.png")
    page.get_by_role("tab", name="Read and write again").click()
    page.locator("#pad input").set_input_files(tmp_path / "photo.png")
    page.wait_for_function("document.querySelector('#pad canvas').width == 1024")
    page.click("#recognise")
    page.wait_for_selector("#read h3")
    assert page.locator("#read .number").inner_text() == "१"
    (tmp_path / "song.png").write_bytes(b"no picture")
    page.locator("#pad input").set_input_files(tmp_path / "song.png")
    page.get_by_text("This file cannot be read").wait_for()


def test_errors_are_the_sentences_of_the_api(page: "Page", server: str) -> None:
    def shown(place: str) -> str:
        page.wait_for_selector(f"{place} .wrong")
        return str(page.locator(f"{place} .wrong").inner_text())

    page.get_by_label("Text").fill("<b>Z")
    page.click("#write")
    assert shown("#written") == sentence(server, "compose", model="devanagari", text="<b>Z")
    page.locator("#count input").fill("0")
    page.get_by_label("Text").fill("क")
    page.click("#write")
    page.get_by_text("How many is from 1 to 24.").wait_for()
    page.get_by_role("tab", name="Read and write again").click()
    page.click("#translate")
    blank = io.BytesIO()
    Image.new("L", (480, 240), 255).save(blank, "PNG")
    assert shown("#read") == sentence(server, "translate", image=base64.b64encode(blank.getvalue()).decode())


def test_devanagari_is_shown_by_the_font_that_is_served(page: "Page") -> None:
    page.wait_for_function("document.fonts.check('20px \"Lekhani Devanagari\"', 'क')")
    assert page.evaluate("[...document.fonts].filter(f => f.family.includes('Lekhani')).map(f => f.status)") == [
        "loaded"
    ]
    family = page.locator("#letters button").first.evaluate("e => getComputedStyle(e).fontFamily")
    assert family.replace('"', "").startswith("Lekhani Devanagari")
    drawn = page.evaluate(
        """() => ["क", "ख", "\\u0378", "ज्ञ", "ज्\\u200cञ"].map(text => {
          const board = document.createElement("canvas").getContext("2d");
          board.font = "60px 'Lekhani Devanagari'";
          board.fillText(text, 10, 100);
          const pixels = [...board.getImageData(0, 0, 300, 150).data];
          return [board.measureText(text).width, pixels.reduce((a, b, i) => (a * 31 + b * i) % 1000003, 0)];
        })"""
    )
    assert len({pixels for _, pixels in drawn}) == 5, "two letters look the same, as boxes for missing ones do"
    assert drawn[3][0] < drawn[4][0], "the conjunct is not joined"


def test_people_at_once_get_their_own(page: "Page", browser: "Browser", server: str) -> None:
    other, _, complaints = opened(browser, server)
    for one, text in ((page, "क"), (other, "२२")):
        one.get_by_label("Each letter by itself").check()
        one.get_by_label("Text").fill(text)
    for one in (page, other):
        one.click("#write")
    for one in (page, other):
        one.wait_for_selector("#written figcaption")
    assert page.locator("#written figcaption").all_inner_texts() == ["क"]
    assert other.locator("#written figcaption").all_inner_texts() == ["२", "२"]
    assert other.locator("#key").count() == 0, "a field for a key, though there are no keys"
    assert complaints == []
    other.close()


def test_it_fits_a_telephone(browser: "Browser", server: str) -> None:
    page, _, _ = opened(browser, server, viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    page.wait_for_selector("#letters button")
    page.get_by_label("Text").fill("कज्ञ०१२ " * 12)
    page.click("#write")
    page.wait_for_selector("#written img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.get_by_role("tab", name="Read and write again").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_with_keys_it_asks_for_one_and_takes_no_files(browser: "Browser", models: list[str], tmp_path: Path) -> None:
    key, line = new_key("tests")
    (tmp_path / "keys").write_text(line)
    (tmp_path / "gradio").mkdir()
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    with live_server.server(tmp_path, *models, "--keys", str(tmp_path / "keys"), env=environment) as (address, pid):
        refused = requests.post(
            f"{address}/page/gradio_api/upload", files={"files": ("a.png", b"1" * 1000)}, timeout=60
        )
        assert refused.status_code >= 400
        page, _, _ = opened(browser, address)
        page.click("#write")
        page.wait_for_selector("#written .wrong")
        assert (
            page.locator("#written .wrong").inner_text()
            == "A valid key is needed; send it as `Authorization: Bearer KEY`."
        )
        field = page.get_by_label("Key")
        assert field.get_attribute("type") == "password"
        field.fill(key)
        field.press("Enter")
        page.wait_for_selector("#letters button")
        page.get_by_label("Text").fill("क")
        page.click("#write")
        page.wait_for_selector("#written img")
        assert [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()] == []
        # A page that is open does not keep the server from ending. The signal is for `timeout`, which hands it on.
        os.kill(pid, signal.SIGTERM)
        started = time.monotonic()
        while requests_go_through(address):
            assert time.monotonic() - started < 40
            time.sleep(0.2)
        page.close()


def requests_go_through(address: str) -> bool:
    try:
        return bool(requests.get(f"{address}/healthz", timeout=5).ok)
    except requests.RequestException:
        return False


def test_without_gradio_there_is_no_page_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    servers.add_page(None, asks_key=False)  # type: ignore[arg-type]
    assert caplog.messages == [
        "There is no page at /: it needs Gradio; pip install 'lekhani[page]', or start with --no-page."
    ]


@pytest.mark.parametrize(("words", "pages"), [([], 1), (["--no-page"], 0)])
def test_the_page_can_be_left_out(
    models: list[str], monkeypatch: pytest.MonkeyPatch, words: list[str], pages: int
) -> None:
    added: list[Any] = []
    monkeypatch.setattr(servers, "add_page", lambda app, **_: added.append(app))
    monkeypatch.setattr(servers, "serve", lambda *_: None)
    monkeypatch.setattr(telemetry, "json_logs", lambda: None)
    done = CliRunner().invoke(cli, ["serve", *models[1:], *words])
    assert done.exit_code == 0, done.output
    assert len(added) == pages
