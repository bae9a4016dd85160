"""Versions beside each other in the studio, and the test of whether people can tell them from real images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live_server
import pytest
import requests
import studio_page
from scipy.stats import binomtest
from studio_page import button, checked
from toy_registry import DATASET, NAME, Registry, constant

from lekhani.tracking.store import connect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = studio_page.NEEDS_CHROMIUM
ToyGenerator = Callable[..., Path]
Registered = tuple[str, dict[str, str]]


@pytest.fixture(scope="module")
def models(models: list[str]) -> list[str]:
    """With the page."""
    return ["--page", *models]


@pytest.fixture(scope="module")
def registered(
    store_folder: Path, toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registered]:
    """A server of three versions, of which the first is champion and the third challenger; their numbers by name."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store_folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_folder / 'mlflow.db'}")
        made = Registry(folder, toy_generator(folder / "good.onnx", metadata={"dataset": DATASET}))
        made.register("first", made.good)
        made.promote("first")
        for name, little, tags in (
            ("second", 0.03, {"fid_ratio": "1.25", "label_agreement": "0.9", "usefulness": "0.8"}),
            ("third", 0.04, {"fid_ratio": "1.5", "label_agreement": "0.95"}),
        ):
            made.register(name, constant(made.good, folder / f"{name}.onnx", "little", little), **tags)
        with live_server.server(folder / "server", "--page", "--dataset", DATASET) as (address, _):
            yield address, made.numbers
        connect().delete_registered_model(NAME)


def images(page: "Page", place: str) -> list[str]:
    """The PNGs of the pictures there, in base64."""
    found: list[str] = page.locator(f"{place} img").evaluate_all("all => all.map(one => one.src.split(',')[1])")
    return found


def settled(page: "Page") -> None:
    """Every version has written."""
    page.locator(".columns section").first.wait_for()
    unfinished = "#compare-status:not(:empty), .columns section:not(:has(img)), .columns section > .quiet:not(:empty)"
    live_server.until(lambda: page.locator(unfinished).count() == 0)


def shown(page: "Page") -> list[str]:
    return [one.input_value() for one in page.locator(".columns select").all()]


def test_versions_stand_beside_each_other(browser: "Browser", registered: Registered) -> None:
    versions, numbers = registered
    first, second, third = (numbers[name] for name in ("first", "second", "third"))

    def with_pages(route: Any) -> None:
        answer = route.fetch()
        known = [{**one, "url": f"http://mlflow.test/{one['version']}"} for one in answer.json()]
        route.fulfill(json=known)

    with checked(browser, f"{versions}/#compare?letters=2%200&seed=5&count=2") as page:
        settled(page)
        assert shown(page) == [first, third], "the champion and the challenger"
        button(page, "Add a version").click()
        page.keyboard.press("ArrowDown")  # no other is left to add, and the new one has the focus
        settled(page)
        assert shown(page)[2] != second
        page.locator(".columns select").nth(2).select_option(second)
        settled(page)
        assert shown(page) == [first, third, second]
        ask = {"model": DATASET, "labels": ["2", "0"], "n": 2, "seed": 5}
        for place, number in enumerate(shown(page), 1):
            answer = requests.post(f"{versions}/v1/generate", json={**ask, "version": number}, timeout=60)
            section = f".columns section:nth-child({place})"
            assert images(page, section) == [one["png"] for one in answer.json()["images"]]
            assert page.locator(f"{section} figcaption").all_inner_texts() == ["2", "0"]
        rows = [row.all_inner_texts() for row in (row.locator("td") for row in page.locator(".beside tbody tr").all())]
        assert rows == [["–", "1.5", "1.25 best"], ["–", "95% best", "90%"], ["–", "–", "80%"]]
        with checked(browser, page.url) as other:
            settled(other)
            assert shown(other) == [first, third, second]
            assert images(other, ".columns") == images(page, ".columns")
            other.route("**/v1/versions?*", with_pages)
            other.reload()
            link = other.get_by_role("link", name=f"Version {second} in MLflow")
            assert link.get_attribute("href") == f"http://mlflow.test/{second}"
        button(page, f"Remove version {third} (challenger, toy)").click()
        assert shown(page) == [first, second]
        assert page.evaluate("document.activeElement.textContent") == "Add a version"
        page.get_by_role("textbox", name="Letters").fill("2 Q")
        page.get_by_role("textbox", name="Letters").press("Enter")
        page.get_by_text("The model has not learned Q; take letters that it knows.").wait_for()
        page.goto(f"{versions}/#compare?versions=nonsense,{second},&letters=2&count=99")
        page.get_by_text("Images of each letter is a whole number from 1 to 8.").wait_for()


def test_which_row_is_real_is_counted(browser: "Browser", registered: Registered) -> None:
    versions, numbers = registered
    with checked(browser, f"{versions}/#compare") as page:
        settled(page)
        sent: list[Any] = []
        page.on("response", lambda answer: sent.append(answer) if "/v1/real?" in answer.url else None)
        counts = {"first": [0, 0], "third": [0, 0]}
        for name, answers in (("first", "rwrrr"), ("third", "ww")):
            page.locator("#blind-version").select_option(numbers[name])
            if name == "first":
                button(page, "Begin").click()
            for answer in answers:
                live_server.until(lambda: page.locator(".blind > .quiet:empty").count() and sent)
                real = [one["png"] for one in sent[-1].json()["images"]]
                rows = [images(page, f'.rows[role="group"] .pair:nth-child({i})') for i in (1, 2)]
                place, right = rows.index(real), answer == "r"
                pressed = str((place if right else 1 - place) + 1)
                if name == "first":
                    page.keyboard.press(pressed)  # the focus stays at the rows
                else:
                    button(page, f"Row {pressed} is real").click()
                counts[name][0] += 1
                counts[name][1] += right
                said = f"{'Right' if right else 'Wrong'}: row {place + 1} was real."
                assert page.locator("#verdict").inner_text() == said
        for row, (name, (n, right)) in zip(page.locator(".blind tbody tr").all(), counts.items(), strict=True):
            low, high = binomtest(right, n).proportion_ci(method="wilson")
            assert numbers[name] in row.locator("th").inner_text()
            assert row.locator("td").all_inner_texts()[:3] == [str(n), f"{right / n:.0%}", f"{low:.0%} to {high:.0%}"]
        assert page.get_by_text("50% means that nobody can tell them apart.").count() == 1
        assert page.locator(".rows:not([role]) .pair span").all_inner_texts().count("real") == 1


def test_it_can_be_seen(browser: "Browser", registered: Registered) -> None:
    versions, _ = registered
    for size, scheme, lang, begin in (
        ("phone", "dark", "hi", "शुरू करें"),
        ("desktop", "light", "en", "Begin"),
        ("wide", "dark", "en", "Begin"),
    ):
        address = f"{versions}/#compare?lang={lang}"
        with checked(browser, address, size=size, color_scheme=scheme) as page:
            settled(page)
            button(page, begin).focus()
            page.keyboard.press("Enter")
            page.locator('.rows[role="group"] img').first.wait_for()
            page.keyboard.press("2")
            page.locator(".blind tbody tr").wait_for()
            studio_page.assert_fits(page)
            studio_page.assert_accessible(page)


def test_one_version_alone_and_no_real_images(browser: "Browser", server: str) -> None:
    with checked(browser, f"{server}/#compare") as page:
        settled(page)
        assert page.locator(".columns section").count() == 1
        page.get_by_text("There is one version alone; run `dvc repro` and `lekhani register` for more").wait_for()
        page.get_by_text("No scorecard is known of these versions").wait_for()
        assert not button(page, "Add a version").is_visible()
        button(page, "Begin").click()
        page.locator("#blind-version-error", has_text="There are no real images of").wait_for()
        assert not page.locator('.rows[role="group"]').is_visible()
        studio_page.assert_accessible(page)
