"""Drawing and reading in the studio, in a real browser, with the models that come with the package."""

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import studio_page
from PIL import Image, ImageDraw
from studio_page import button, checked, opened, pixels

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = studio_page.NEEDS_CHROMIUM
Stroke = list[tuple[float, float]]  # places in parts of the pad's width and height
HOSTILE = "<img src=x onerror=alert(1)>"


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Stroke:
    angles = [math.radians(start + (end - start) * i / 16) for i in range(17)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


def moved(strokes: list[Stroke], right: float, scale: float) -> list[Stroke]:
    return [[((x - 0.5) * scale + 0.5 + right, (y - 0.5) * scale + 0.5) for x, y in stroke] for stroke in strokes]


KA: list[Stroke] = [
    [(0.3, 0.2), (0.72, 0.2)],
    [(0.5, 0.2), (0.5, 0.88)],
    [(0.5, 0.45), *arc(0.41, 0.52, 0.09, 0.13, -60, -330), (0.5, 0.6)],
    [(0.5, 0.5), *arc(0.6, 0.52, 0.09, 0.13, -150, 70)],
]
FOUR_TWO: list[Stroke] = [
    [(0.26, 0.25), (0.36, 0.5), *arc(0.3, 0.66, 0.06, 0.13, -60, 240), (0.42, 0.25)],
    [*arc(0.66, 0.36, 0.08, 0.14, -150, 60), (0.62, 0.55), (0.66, 0.55), (0.62, 0.56), (0.78, 0.8)],
]
STAR: list[Stroke] = [
    [(0.5 + 0.25 * math.cos(a), 0.5 + 0.4 * math.sin(a)), (0.5 - 0.25 * math.cos(a), 0.5 - 0.4 * math.sin(a))]
    for a in (0.1, 0.6, 1.1, 1.6, 2.2, 2.8)
]


@pytest.fixture(scope="module")
def models() -> list[str]:
    return ["--page"]


@pytest.fixture
def page(browser: "Browser", server: str) -> Iterator["Page"]:
    with checked(browser, f"{server}/#draw") as page:
        page.locator("#pad").wait_for()
        yield page


def places(page: "Page", stroke: Stroke) -> Stroke:
    box = page.locator("#pad").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def draw(page: "Page", strokes: list[Stroke]) -> None:
    for stroke in strokes:
        first, *rest = places(page, stroke)
        page.mouse.move(*first)
        page.mouse.down()
        for place in rest:
            page.mouse.move(*place)
        page.mouse.up()


def touch(page: "Page", strokes: list[Stroke]) -> None:
    finger = page.context.new_cdp_session(page)
    for stroke in strokes:
        points = [{"x": x, "y": y} for x, y in places(page, stroke)]
        for kind, at in [("touchStart", points[:1]), *(("touchMove", [one]) for one in points[1:]), ("touchEnd", [])]:
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})


def wait_for_reading(page: "Page", glyphs: Sequence[str]) -> None:
    page.wait_for_function(
        """glyphs => document.querySelector(".answer").ariaBusy === "false" && glyphs.join() ===
        [...document.querySelectorAll(".readings > li > b")].map(one => one.textContent).join()""",
        arg=list(glyphs),
    )


def again(page: "Page") -> list[str]:
    return page.locator("#again figcaption").all_inner_texts()


def photo(background: int = 230, ink: int = 30) -> bytes:
    image = Image.new("L", (2400, 1350), background)
    for stroke in KA:
        ImageDraw.Draw(image).line([(2400 * x, 1350 * y) for x, y in stroke], ink, 90, "curve")
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_a_letter_is_read_once_the_hand_rests_and_written_again(page: "Page") -> None:
    draw(page, KA)
    wait_for_reading(page, "क")
    meters = page.locator(".readings meter")
    assert float(str(meters.first.get_attribute("value"))) > 0.9
    assert page.locator(".readings li li").count() == 2, "what else it may be"
    assert page.get_by_role("status").inner_text().startswith("Read as क, 9")
    assert page.locator("#again h2").inner_text() == "The same letter in another hand"
    assert again(page) == ["क"]
    before = pixels(page.locator("#again img"))
    button(page, "Another hand").click()
    page.wait_for_function(
        "src => document.querySelector('#again img').src !== src",
        arg=f"data:image/png;base64,{base64.b64encode(before).decode()}",
    )
    assert "seed=8" in page.url
    button(page, "Clear").click()
    page.get_by_text("Draw a character").wait_for()
    assert page.locator("#again").is_hidden()
    page.keyboard.press("Control+z")
    wait_for_reading(page, "क")
    for _ in range(len(KA) + 2):
        button(page, "Undo").click()
    page.get_by_text("Draw a character").wait_for()


def test_a_row_of_digits_is_a_number_in_another_script_too(page: "Page", server: str, browser: "Browser") -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(str(request.post_data)) if "translate" in request.url else None)
    draw(page, FOUR_TWO)
    wait_for_reading(page, "४२")
    assert page.locator("#reading p").inner_text() == "This looks like two digits: ४२"
    assert again(page) == ["4", "2"]
    done = requests.post(f"{server}/v1/translate", json=json.loads(sent[-1]), timeout=60).json()
    assert [pixels(image) for image in page.locator("#again img").all()] == [
        base64.b64decode(one["png"]) for one in done["images"]
    ]
    page.get_by_label("In whose handwriting").select_option("devanagari")
    page.locator("#again figcaption", has_text="२").wait_for()
    assert again(page) == ["४", "२"]
    assert "to=devanagari" in page.url
    # The other language keeps what is drawn.
    button(page, "हिन्दी").click()
    page.get_by_text("इसमें दो अंक लगते हैं:").wait_for()
    assert again(page) == ["४", "२"]
    with checked(browser, f"{server}/#draw?model=mnist") as other:
        draw(other, moved([[(0.5, 0.1), (0.5, 0.9)]], -0.2, 0.7) + moved([arc(0.5, 0.5, 0.13, 0.4, 0, 360)], 0.2, 0.7))
        wait_for_reading(other, "10")
        assert again(other) == ["१", "०"]


def test_what_is_not_one_character_for_sure_is_said_and_taken_on_demand(page: "Page") -> None:
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "recognise" in request.url else None)
    draw(page, moved(KA, -0.25, 0.6) + moved(KA, 0.25, 0.6))
    wait_for_reading(page, "कक")
    assert page.locator(".verdict").inner_text() == "This looks like two glyphs"
    assert again(page) == ["क", "क"]
    button(page, "Clear").click()
    draw(page, STAR)
    page.locator(".verdict", has_text="I am not sure what this is").wait_for()
    (likeliest,) = page.locator(".readings > li > b").all_inner_texts()
    assert page.locator("#again").is_hidden()
    page.get_by_role("button", name="Take it anyway").click()
    wait_for_reading(page, [likeliest])
    assert page.locator("#again").is_visible()
    assert again(page) == [likeliest]
    assert [sent[-2]["force"], sent[-1]["force"]] == [False, True]
    # Several of which one is in doubt: as a number, or as one character.
    guess = {"glyph": "४", "confidence": 0.6, "alternatives": []}
    several = {"detail": "", "reason": "several", "glyphs": 3, "readings": [guess], "parts": []}
    page.route("**/v1/recognise", lambda route: route.fulfill(status=422, json=several))
    page.route(
        "**/v1/translate",
        lambda route: route.fulfill(status=422, json={"detail": "", "reason": "unsure", "readings": [guess] * 3}),
    )
    button(page, "Read").click()
    page.locator(".verdict", has_text="This looks like three glyphs").wait_for()
    assert page.locator(".take").all_inner_texts() == ["Take it anyway, as the number ४४४", "Take it anyway, as ४"]
    page.unroute_all()
    with page.expect_request("**/v1/translate") as asked:
        page.locator(".take").first.click()
    assert asked.value.post_data_json["force"] is True


def test_a_picture_may_be_uploaded_pasted_or_dropped(page: "Page", tmp_path: Path) -> None:
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "recognise" in request.url else None)
    upload = page.get_by_label("Upload picture")
    page.locator("#draw-model").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
    assert upload.evaluate("field => field === document.activeElement"), "by keyboard"
    upload.set_input_files({"name": "photo.png", "mimeType": "image/png", "buffer": photo()})
    wait_for_reading(page, "क")
    image = Image.open(io.BytesIO(base64.b64decode(sent[-1]["image"])))
    assert (image.size, image.format) == ((1024, 576), "JPEG")
    upload.set_input_files({"name": "song.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.locator("#draw-file-error", has_text="This file cannot be read").wait_for()
    for event in ("paste", "drop"):
        button(page, "Clear").click()
        page.get_by_text("Draw a character").wait_for()
        page.evaluate(
            """([kind, png]) => {
              const bytes = Uint8Array.from(atob(png), one => one.charCodeAt(0)), files = new DataTransfer();
              files.items.add(new File([bytes], "picture.png", { type: "image/png" }));
              const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: files, bubbles: true })
                : new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true });
              document.querySelector("#pad").dispatchEvent(event);
            }""",
            [event, base64.b64encode(photo(20, 240)).decode()],
        )
        wait_for_reading(page, "क")
    blank = io.BytesIO()
    Image.new("L", (300, 200), 255).save(blank, "PNG")
    upload.set_input_files({"name": "blank.png", "mimeType": "image/png", "buffer": blank.getvalue()})
    page.locator(".verdict", has_text="There is nothing to be seen").wait_for()
    assert page.locator(".readings").count() == 0


def test_whatever_is_read_is_shown_as_text(browser: "Browser", server: str) -> None:
    page, _, complaints = opened(browser, f"{server}/#draw")
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    reading = {"glyph": HOSTILE, "confidence": 0.95, "alternatives": [{"glyph": HOSTILE, "confidence": 0.05}]}
    page.route("**/v1/recognise", lambda route: route.fulfill(json=reading))
    draw(page, KA)
    wait_for_reading(page, [HOSTILE])
    page.route("**/v1/recognise", lambda route: route.fulfill(status=422, json={"detail": HOSTILE}))
    button(page, "Read").click()
    page.locator("#draw-file-error", has_text=HOSTILE).wait_for()
    assert page.locator("img[src='x']").count() == 0
    assert complaints == []
    page.close()


@pytest.mark.parametrize(("size", "scheme", "lang"), studio_page.LOOKS)
def test_pad_and_answer_are_seen_together(browser: "Browser", server: str, size: str, scheme: Any, lang: str) -> None:
    def inside(place: "Locator") -> bool:
        box = place.bounding_box()
        assert box is not None
        return box["y"] >= 0 and box["y"] + box["height"] <= studio_page.SIZES[size][1]

    with checked(browser, f"{server}/#draw?lang={lang}", size=size, color_scheme=scheme) as page:
        page.locator("#pad").wait_for()
        (touch if size == "phone" else draw)(page, FOUR_TWO)
        wait_for_reading(page, "४२")
        assert page.evaluate("scrollY") == 0, "a stroke does not scroll"
        for place in ("#pad", ".readings", "#again img >> nth=1"):
            assert inside(page.locator(place)), place
        studio_page.assert_fits(page)
        studio_page.assert_accessible(page)
        colour = page.locator("#pad").evaluate("pad => [...pad.getContext('2d').getImageData(3, 3, 1, 1).data]")
        assert colour == [255, 255, 255, 255], "paper is white in the dark, too"
        page.get_by_role("button", name="Clear" if lang == "en" else "साफ़ करें").click()
        (touch if size == "phone" else draw)(page, STAR)
        page.locator(".take").wait_for()
        assert inside(page.locator(".take"))
        studio_page.assert_accessible(page)
