"""Pages in a real browser: how tests open them, and what they ask of each."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from workspace import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium")
AXE = ROOT / "studio" / "node_modules" / "axe-core" / "axe.min.js"
SECONDS = 30_000  # Playwright's milliseconds, on a machine with much else to do
SIZES = {"desktop": (1280, 800), "wide": (1920, 1080), "phone": (390, 844)}
LOOKS = [("desktop", "dark", "en"), ("wide", "light", "hi"), ("phone", "light", "en")]  # size, colours, language

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


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Debian's Chromium. Use it in one module alone: while Playwright runs, asyncio.run does not work in its thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as all_browsers:
        browser = all_browsers.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def opened(
    browser: "Browser", address: str, size: str = "desktop", **settings: Any
) -> tuple["Page", list[str], list[str]]:
    """A page, what it asks for, and what its console complains of beyond what the API refuses."""
    width, height = SIZES[size]
    touch: dict[str, Any] = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
    page = browser.new_page(**{"viewport": {"width": width, "height": height}, "locale": "en", **touch, **settings})
    page.set_default_timeout(SECONDS)
    requests: list[str] = []
    complaints: list[str] = []

    def note(message: Any) -> None:
        if message.type in {"error", "warning"} and "/v1/" not in message.location["url"]:
            complaints.append(f"{message.text} ({message.location['url']})")

    page.on("request", lambda request: requests.append(request.url))
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    return page, requests, complaints


@contextmanager
def checked(browser: "Browser", address: str, **settings: Any) -> Iterator["Page"]:
    """A page that asks nothing of anybody else than its server, and whose console stays silent."""
    page, requests, complaints = opened(browser, address, **settings)
    yield page
    page.close()
    origin = address.split("#")[0].rstrip("/")
    assert [url for url in requests if not url.startswith((f"{origin}/", "data:", "blob:"))] == []
    assert complaints == []


def button(page: "Page", name: str) -> "Locator":
    return page.get_by_role("button", name=name, exact=True)


def pixels(image: "Locator") -> bytes:
    """The PNG of a picture on the page."""
    return base64.b64decode(str(image.get_attribute("src")).partition(",")[2])


def assert_fits(page: "Page") -> None:
    """The page does not scroll sideways."""
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def assert_accessible(page: "Page") -> None:
    """axe-core finds nothing, of whatever impact; where it is not installed, nothing is checked."""
    if not AXE.exists():
        return
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(result => result.violations)")
    findings = "\n".join(f"{one['id']}: {node['html']}" for one in found for node in one["nodes"])
    assert not findings, findings
