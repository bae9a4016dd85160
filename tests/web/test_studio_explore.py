"""The studio's view Explore in a real browser: it shows what POST /v1/explore draws between and around seeds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
import requests
import studio_page
from studio_page import assert_accessible, assert_fits, checked
from toy_judge import toy_judge

from lekhani.data.spec import MNIST, GlyphClass

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = studio_page.NEEDS_CHROMIUM
ToyGenerator = Callable[..., Path]
CLASSES = tuple(GlyphClass(i, f"class_{i}", glyph) for i, glyph in enumerate(("१", "ज्ञ", "क", "ख")))
ROWS = ["क", "ख", "ज्ञ", "१"]  # as they are learned


@pytest.fixture(scope="module")
def models(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Letters, digits, and a generator that takes no labels."""
    folder = tmp_path_factory.mktemp("models")
    words = ["--page"]
    for dataset, classes, conditional in (
        ("devanagari", CLASSES, True),
        ("mnist", MNIST[:3], True),
        ("any", MNIST[:2], False),
    ):
        file = folder / dataset / "g.onnx"
        model = toy_generator(file, classes=classes, size=16, conditional=conditional, metadata={"dataset": dataset})
        words += ["--model", str(model), "--judge", str(toy_judge(folder / dataset / "j.onnx", classes, 16, dataset))]
    return words


class Studio:
    """The page, and the requests for pictures that it makes."""

    def __init__(self, page: "Page", server: str) -> None:
        self.page, self.server = page, server
        self.asked: list[list[Any]] = []
        page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if request.url.endswith("/v1/explore"):
            self.asked.append(request.post_data_json["points"])

    def open(self, state: str = "") -> None:
        self.page.goto("about:blank")
        self.asked.clear()
        self.page.goto(f"{self.server}/#explore?lang=en{state}")
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector(".neighbours img")
        self.page.wait_for_function(
            "() => ![...document.querySelectorAll('.explore [role=status]')].some((one) => one.textContent)"
        )

    @property
    def address(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.page.url.partition("?")[2]).items()}

    def drawn(self, label: str, mix: dict[str, float], model: str = "devanagari") -> str:
        """The address of the picture that the API draws there."""
        body: Any = {"model": model, "points": [{"label": label, "mix": mix}]}
        image = requests.post(f"{self.server}/v1/explore", json=body, timeout=60).json()["images"][0]
        return f"data:image/png;base64,{image['png']}"

    def sources(self, place: str) -> list[str]:
        return [str(image.get_attribute("src")) for image in self.page.locator(f"{place} img").all()]

    def button(self, name: str, part: int = 0) -> "Locator":
        return self.page.locator(".part").nth(part).get_by_role("button", name=name, exact=True)


@pytest.fixture
def studio(browser: "Browser", server: str) -> Iterator[Studio]:
    with checked(browser, f"{server}/#explore") as page:
        studio = Studio(page, server)
        studio.open()
        yield studio


def test_a_slider_walks_between_two_hands_without_asking_again(studio: Studio) -> None:
    page, slider = studio.page, studio.page.get_by_role("slider", name="From A to B")
    assert sorted(map(len, studio.asked)) == [4, 25, 41], "each part asks once"
    assert studio.sources(".large") == [studio.drawn("क", {"7": 1, "12": 1})], "half of the way"
    slider.press("Home")
    assert studio.sources(".large") == [studio.drawn("क", {"7": 1})] == studio.sources(".strip")[:1]
    page.get_by_role("button", name="20% of the way").click()
    assert studio.sources(".large") == [studio.drawn("क", {"7": 0.951, "12": 0.309})], "on the sphere"
    assert slider.input_value() == studio.address["at"] == "20"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert slider.get_attribute("aria-valuetext") == "30% of the way from A to B"
    assert len(studio.asked) == 3
    # Another hand B, another letter; and the address leads back to all of it.
    studio.button("Another hand").nth(1).click()
    page.get_by_label("Letter", exact=True).select_option("ज्ञ")
    slider.press("End")
    studio.settle()
    assert studio.sources(".large") == [studio.drawn("ज्ञ", {"13": 1})]
    address, before = page.url, [studio.sources(place) for place in (".large", ".strip", ".neighbours")]
    assert studio.address == {"lang": "en", "letter": "ज्ञ", "b": "13", "at": "100"}
    page.goto("about:blank")
    page.goto(address)
    studio.settle()
    assert before == [studio.sources(place) for place in (".large", ".strip", ".neighbours")]
    page.get_by_label("Hand A").fill("1.5")
    page.get_by_label("Hand A").press("Enter")
    page.get_by_text("Hand A (seed) is a whole number from 0").wait_for()


def test_a_neighbour_becomes_the_middle(studio: Studio) -> None:
    page = studio.page
    assert studio.sources(".neighbours")[12] == studio.drawn("क", {"7": 1})
    assert studio.sources(".neighbours")[14] == studio.drawn("क", {"7": 0.857, "101": 0.514})
    # With keys, from the middle: right, up, and there.
    studio.button("Middle", 1).focus()
    for key in ("ArrowRight", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    studio.settle()
    mix = {"7": 0.921, "101": 0.276, "102": -0.276}
    assert studio.address["middle"] == "7:0.921 101:0.276 102:-0.276"
    assert studio.sources(".neighbours")[12] == studio.drawn("क", mix)
    assert page.evaluate("document.activeElement.ariaLabel") == "Row 2, column 4", "so that Enter goes further"
    # However far one goes, there is somewhere to go, and no mix has more seeds than the API takes.
    for _ in range(5):
        studio.button("Other directions", 1).click()
        studio.button("Row 5, column 5", 1).click()
        studio.settle()
    for _ in range(6):
        page.keyboard.press("Enter")
        studio.settle()
    assert len(studio.address["middle"].split()) == 8
    assert len(set(studio.sources(".neighbours"))) == 25
    studio.button("Back to A", 1).click()
    studio.settle()
    assert studio.sources(".neighbours")[12] == studio.drawn("क", {"7": 1})
    # A slider that is dragged asks once it rests.
    studio.asked.clear()
    drag = "slider.value = value; slider.dispatchEvent(new Event('input'));"
    page.get_by_label("Distance").evaluate(f"slider => {{ for (const value of [0.4, 0.5, 0.6, 0.7]) {{ {drag} }} }}")
    studio.settle()
    assert [len(points) for points in studio.asked] == [25]
    assert studio.asked[0][13]["mix"] == {"7": 0.819, str(int(studio.address["right"])): 0.573}


def test_what_is_superseded_is_not_shown(studio: Studio) -> None:
    page = studio.page
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/v1/explore", hold)
    page.get_by_label("Letter", exact=True).select_option("ख")
    page.wait_for_function(
        "() => document.querySelector('.large.stale') && document.querySelector('.neighbours.stale')"
    )
    page.unroute("**/v1/explore")
    page.get_by_label("Letter", exact=True).select_option("१")
    studio.settle()
    assert len(held) == 1, "the neighbours wait for the walk"
    assert page.locator(".stale").count() == 0
    assert studio.sources(".neighbours")[12] == studio.drawn("१", {"7": 1})
    page.route("**/v1/explore", lambda route: route.abort())
    page.get_by_label("Letter", exact=True).select_option("ख")
    page.get_by_text("The server does not answer").first.wait_for()
    assert page.locator(".large.stale").count() == 1, "it is not of this letter"


def test_one_hand_writes_all_letters(studio: Studio) -> None:
    page = studio.page
    tiles = page.locator(".alphabet button")
    assert [tile.get_attribute("aria-label") for tile in tiles.all()] == ROWS
    assert studio.sources(".alphabet") == [studio.drawn(glyph, {"7": 1}) for glyph in ROWS]
    studio.button("Another hand", 2).click()
    studio.settle()
    assert studio.sources(".alphabet") == [studio.drawn(glyph, {"8": 1}) for glyph in ROWS]
    # The hand that the slider has come to, and back to one letter of it.
    page.get_by_role("slider", name="From A to B").fill("20")
    studio.button("All letters like this").click()
    studio.settle()
    assert page.get_by_label("Hand (seed, or").input_value() == studio.address["hand"] == "7:0.951 12:0.309"
    assert studio.sources(".alphabet")[2] == studio.drawn("ज्ञ", {"7": 0.951, "12": 0.309})
    studio.button("ज्ञ", 2).click()
    studio.settle()
    assert page.get_by_label("Letter", exact=True).input_value() == "ज्ञ"
    assert studio.sources(".large") == [studio.sources(".alphabet")[2]]
    hand = page.get_by_label("Hand (seed, or")
    for wrong in ("", "x", "7:", "7:0", "9999999999", "-1"):
        hand.fill(wrong)
        hand.press("Tab")
        page.get_by_text("A hand is a seed such as 7").wait_for()
        hand.fill("7")
        hand.press("Tab")
        page.get_by_text("A hand is a seed such as 7").wait_for(state="hidden")
    # Other models: their letters, or none.
    page.locator("#explore-model").select_option("mnist")
    page.get_by_role("heading", name="One hand writes the digits").wait_for()
    studio.settle()
    assert studio.sources(".alphabet") == [studio.drawn(glyph, {"7": 1}, "mnist") for glyph in "012"]
    page.locator("#explore-model").select_option("any")
    studio.settle()
    assert not page.locator(".alphabet").is_visible()
    assert not page.get_by_label("Letter", exact=True).is_visible()
    assert studio.sources(".neighbours")[12] == studio.drawn("0", {"7": 1}, "any")


@pytest.mark.parametrize(
    "state", ["&at=x&a=-1&right=1e99&middle=7:x&hand=0:0&distance=9&letter=Q&model=none", "&at=200&distance=-1&a=1.5"]
)
def test_an_address_that_means_nothing_opens_what_can_be_shown(studio: Studio, state: str) -> None:
    studio.open(state)
    assert len(studio.sources(".neighbours")) == 25
    assert studio.sources(".neighbours")[12] == studio.drawn("क", {"7": 1})


@pytest.mark.parametrize(("size", "scheme", "language"), studio_page.LOOKS)
def test_everyone_can_use_it(browser: "Browser", server: str, size: str, scheme: str, language: str) -> None:
    with checked(browser, f"{server}/#explore?lang={language}", size=size, color_scheme=scheme) as page:
        page.wait_for_selector(".alphabet img")
        assert_accessible(page)
        assert_fits(page)
        sides = "(tiles) => tiles.flatMap((tile) => [tile.offsetWidth, tile.offsetHeight])"
        assert min(page.locator(".tile").evaluate_all(sides)) >= 24, "the least that a finger hits"
