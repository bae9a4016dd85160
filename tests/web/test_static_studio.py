"""The static edition in a real browser, from a plain file server: it writes and reads without a server of ours."""

import base64
import gzip
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import studio_page
from PIL import Image
from studio_page import assert_accessible, assert_fits, button, checked, opened

from lekhani.data.spec import Bytes
from lekhani.errors import UsageError
from lekhani.handwriting.recognise import UnsureError, recognise
from lekhani.handwriting.translate import read_digits
from lekhani.inference.session import Generator, Reader
from lekhani.pen import PRETRAINED
from lekhani.serve import static_studio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MISSING = [name for name in static_studio.RUNTIME if not (static_studio.FILES / "ort" / name).is_file()]
pytestmark = [
    studio_page.NEEDS_CHROMIUM,
    pytest.mark.skipif(bool(MISSING), reason="ONNX Runtime for browsers is not there: make studio, which needs npm"),
]
MB = 1_000_000
# An engine of the page's own code, whose method is called; an error becomes what the page would show of it.
CALL = """async ([method, words]) => {
  const { LocalEngine } = await import("/page/local.js");
  window.engine ??= new LocalEngine();
  const said = ({ message, field, readings, unread }) => ({ error: message, field, readings, ...unread });
  const given = await window.engine[method](...words).catch(said);
  if (!(given instanceof Blob)) return given;
  return [...new Uint8Array(await given.arrayBuffer())];
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lekhani studio build` writes where nothing is registered."""
    out = tmp_path_factory.mktemp("static")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        static_studio.build(out / "studio")
    return out / "studio"


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """The address of a server that knows nothing but files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(browser: "Browser", site: str) -> Iterator["Page"]:
    """The page with its first handwriting; it asks nobody else, and its console stays silent."""
    with checked(browser, site) as page:
        page.locator("#written img").first.wait_for()
        yield page


def call(page: "Page", method: str, *words: Any) -> Any:
    return page.evaluate(CALL, [method, words])


def image(src: str) -> Bytes:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).convert("L"))


def sent(picture: Bytes) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def test_it_writes_at_once_and_is_small(page: "Page", folder: Path) -> None:
    assert image(str(page.locator("#written img").first.get_attribute("src"))).min() < 100
    button(page, "Another hand").click()
    page.get_by_text("Seed 8.").wait_for()
    assert_fits(page)
    assert_accessible(page)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25 * MB
    loaded = [path for path in files if path.parent.name != "licences"]
    assert sum(len(gzip.compress(path.read_bytes(), 6)) for path in loaded) < 8 * MB


@pytest.mark.parametrize(("size", "scheme", "language"), [("desktop", "light", "en"), ("phone", "dark", "hi")])
def test_every_view_works_without_a_server(
    browser: "Browser", site: str, size: str, scheme: str, language: str
) -> None:
    with checked(browser, f"{site}#write?lang={language}", size=size, color_scheme=scheme) as page:
        page.locator("#written img").first.wait_for()
        links = page.get_by_role("navigation").get_by_role("link")
        assert links.count() == 3, "those that need no server"
        links.nth(1).click()
        page.locator("main img").nth(70).wait_for()
        assert_fits(page)
        assert_accessible(page)
        links.nth(2).click()
        box = page.locator("#pad").bounding_box()
        assert box is not None
        circle = [(0.5 + 0.12 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)) for angle in np.linspace(0, 6.3, 24)]
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in circle]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()
        page.locator("#reading", has_text="०").wait_for()
        page.locator("#again img").first.wait_for()
        assert_fits(page)
        assert_accessible(page)


def test_what_nobody_waits_for_is_not_begun(page: "Page") -> None:
    script = """async () => {
      const { LocalEngine } = await import("/page/local.js");
      window.engine ??= new LocalEngine();
      const ask = { model: "mnist", labels: ["1"], n: 1, seed: 1 }, posted = [], post = Worker.prototype.postMessage;
      await window.engine.glyphs(ask);
      Worker.prototype.postMessage = function (task) { posted.push(task.kind); return post.call(this, task); };
      const controller = new AbortController();
      const first = window.engine.glyphs(ask);
      const others = [1, 2, 3].map(() => window.engine.glyphs(ask, controller.signal));
      controller.abort();
      const ends = await Promise.allSettled([first, ...others]), last = await window.engine.glyphs(ask);
      Worker.prototype.postMessage = post;
      return [ends.map((end) => end.status), posted.length, last.length];
    }"""
    assert page.evaluate(script) == [["fulfilled", *["rejected"] * 3], 2, 1]


def test_the_same_seeds_are_the_same_glyphs(page: "Page") -> None:
    ask = {"model": "devanagari", "labels": ["क", "5", "ज्ञ"], "n": 2, "seed": 7}
    glyphs = call(page, "glyphs", ask)
    assert [one["glyph"] for one in glyphs] == ["क", "क", "५", "५", "ज्ञ", "ज्ञ"]
    assert glyphs == call(page, "glyphs", ask)
    assert len({one["src"] for one in [*glyphs, *call(page, "glyphs", {**ask, "seed": 8})]}) == 12
    assert image(glyphs[0]["src"]).shape == (32, 32)
    assert image(glyphs[0]["src"]).mean() < 100, "white on black, as in the data"

    def explored(*mixes: dict[str, float]) -> list[str]:
        points = [{"label": "क", "mix": mix} for mix in mixes]
        return [one["src"] for one in call(page, "explore", {"model": "devanagari", "points": points})]

    one, scaled, other, between = explored({"7": 1}, {"7": 0.5}, {"12": 1}, {"7": 0.8, "12": 0.6})
    assert one == scaled == glyphs[0]["src"]
    assert len({one, other, between}) == 3
    sure = call(page, "glyphs", {"model": "mnist", "labels": ["3"], "n": 20, "seed": 1, "min_confidence": 0.9})
    read = Reader(PRETRAINED / "mnist" / "judge.onnx").read(np.stack([image(one["src"]) for one in sure]))[1]
    assert (read.argmax(1) == 3).all()
    assert call(page, "glyphs", {**ask, "labels": ["Q"]})["error"].startswith("The model writes no Q; it writes क ख")


def test_noise_is_normal(page: "Page", folder: Path) -> None:
    # What the generator is given, seen by a generator that draws its noise.
    script = """async () => {
      const noise = [];
      const post = Worker.prototype.postMessage;
      Worker.prototype.postMessage = function (task) { noise.push(...task.noise ?? []); return post.call(this, task); };
      const { LocalEngine } = await import("/page/local.js");
      const engine = new LocalEngine();
      await engine.glyphs({ model: "mnist", labels: ["1"], n: 200, seed: 3 });
      await engine.glyphs({ model: "mnist", labels: ["1"], n: 200, seed: 3, truncation: 1 });
      const points = Array.from({ length: 200 }, (_, i) => ({ label: "1", mix: { [i]: 0.9, [i + 1000]: -2 } }));
      await engine.explore({ model: "mnist", points });
      Worker.prototype.postMessage = post;
      return noise;
    }"""
    drawn, truncated, mixed = np.split(np.array(page.evaluate(script)), 3)
    for normal in (drawn, mixed):
        assert abs(normal.mean()) < 0.04
        assert abs(normal.std() - 1) < 0.03
        assert abs((normal**4).mean() - 3) < 0.4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.04
    assert np.abs(truncated).max() <= 1
    assert 0.5 < truncated.std() < 0.58, "and not even, which would be 0.577"


def test_lines_name_what_the_typeface_drew(page: "Page") -> None:
    ask = {"model": "devanagari", "text": "  क्षमा कि १2.", "n": 2, "seed": 4, "height": 96, "variety": 0.3}
    lines = call(page, "lines", {**ask, "augment": "none"})
    assert lines["text"] == "क्षमा कि १२."
    assert lines["drawn"] == ["ा", "ि", "."]
    first, second = (image(line["src"]) for line in lines["lines"])
    assert [line["seed"] for line in lines["lines"]] == [4, 5]
    assert first.shape[0] == 96
    assert first.shape != second.shape or (first != second).any()
    assert np.median(first) == 255
    # The head line goes on from letter to letter, so that most words are one spot of ink, but not numbers.
    for text, least, most in (("नमत", 6, 10), ("१२३", 0, 2)):
        words = call(page, "lines", {**ask, "text": text, "n": 10, "augment": "none"})["lines"]
        inked = [np.flatnonzero((image(word["src"]) < 128).any(0)) for word in words]
        assert least <= sum(bool((np.diff(columns) == 1).all()) for columns in inked) <= most
    ruled = call(page, "lines", {**ask, "augment": "strong", "paper": "squared"})
    assert image(ruled["lines"][0]["src"]).mean() < first.mean()
    for text, said in (("क Z", "The model cannot write Z; take it out."), ("ा", "◌ा"), (" ", "nothing to write")):
        refused = call(page, "lines", {**ask, "text": text, "augment": "none"})
        assert said in refused["error"]
        assert refused["field"] == "text"


def test_what_is_saved_can_be_opened(page: "Page") -> None:
    body: dict[str, Any] = {"model": "devanagari", "labels": ["क", "०"], "n": 2, "seed": 7}
    with zipfile.ZipFile(io.BytesIO(bytes(call(page, "save", {"route": "generate", "body": body}, "zip")))) as archive:
        assert archive.testzip() is None
        rows = archive.read("labels.csv").decode().splitlines()
        assert rows[:2] == ["file,label,name,glyph", "000000.png,0,character_1_ka,क"]
        assert Image.open(archive.open("000003.png")).size == (32, 32)
    grid = bytes(call(page, "save", {"route": "generate", "body": body}, "png"))
    assert Image.open(io.BytesIO(grid)).size == (65, 65)
    line = {"model": "devanagari", "text": "कख", "n": 2, "seed": 7, "height": 64, "variety": 0.3, "augment": "light"}
    with zipfile.ZipFile(io.BytesIO(bytes(call(page, "save", {"route": "compose", "body": line}, "zip")))) as archive:
        assert archive.namelist() == ["line_000000.png", "line_000000.gt.txt", "line_000001.png", "line_000001.gt.txt"]
        assert archive.read("line_000001.gt.txt").decode() == "कख\n"
    sheet = bytes(call(page, "save", {"route": "compose", "body": line}, "png"))
    assert Image.open(io.BytesIO(sheet)).height == 136


def on_paper(glyphs: Bytes, rng: np.random.Generator) -> list[Bytes]:
    """Glyphs drawn large on the page's pad, each somewhere else; some of them light on dark."""
    pads = []
    for i, glyph in enumerate(glyphs):
        side = (150, 190, 230)[i % 3]
        pad = Image.new("L", (480, 240), 255)
        large = Image.fromarray(255 - glyph).resize((side, side), Image.Resampling.BICUBIC)
        pad.paste(large, (int(rng.integers(480 - side)), int(rng.integers(240 - side))))
        pads.append(np.asarray(pad) if i % 5 else 255 - np.asarray(pad))
    return pads


@pytest.mark.parametrize(("dataset", "file"), [("devanagari", "drifting"), ("mnist", "generator")])
def test_it_reads_as_the_server_does(page: "Page", dataset: str, file: str) -> None:
    generator, reader = (Generator(PRETRAINED / dataset / f"{file}.onnx"), Reader(PRETRAINED / dataset / "judge.onnx"))
    rng = np.random.default_rng(4)
    digits = [c.label for c in generator.classes if c.is_digit]
    labels = np.concatenate([rng.integers(0, len(generator.classes), 16), rng.choice(digits, 8)])
    pads = on_paper(generator.sample(labels, rng), rng)
    differ = []
    for pad in pads:
        found = call(page, "recognise", {"model": dataset, "image": sent(pad)})
        try:
            expected = recognise(reader, [pad])[0].as_dict()
        except UnsureError as error:
            expected = error.readings[0].as_dict()
            assert found["readings"][0]["glyph"] == expected["glyph"]
            continue
        differ.append(
            found.get("glyph") != expected["glyph"] or abs(found["confidence"] - expected["confidence"]) > 0.02
        )
    assert len(differ) > 18
    assert sum(differ) <= 1, "weights in eight bits may change what was close"
    # And a row of digits, written again.
    row = np.hstack([pad if pad.mean() > 127 else 255 - pad for pad in pads[16:19]])
    expected_digits = "".join(one.best.glyph for one in read_digits(reader, row, force=True))
    ask = {"model": dataset, "to": "mnist", "image": sent(row), "seed": 1, "force": True}
    done = call(page, "translate", ask)
    assert done["read"] == expected_digits
    assert [one["glyph"] for one in done["images"]] == [
        str("०१२३४५६७८९".find(c) if c > "9" else c) for c in expected_digits
    ]


def test_what_it_cannot_read_it_says_in_a_sentence(page: "Page") -> None:
    def refused(picture: Bytes, method: str = "recognise") -> dict[str, Any]:
        ask = {"model": "devanagari", "to": "mnist", "image": sent(picture), "seed": 0}
        found: dict[str, Any] = call(page, method, ask)
        return found

    reader = Reader(PRETRAINED / "devanagari" / "judge.onnx")
    blank = np.full((240, 480), 255, np.uint8)
    with pytest.raises(UsageError) as error:
        recognise(reader, [blank])
    assert refused(blank)["error"] == str(error.value)
    assert refused(blank, "translate")["reason"] == "none"
    two = blank.copy()
    two[60:180, 80:100] = two[60:180, 360:380] = 0
    found = refused(two)
    assert found["error"].startswith("The image shows about 2 glyphs, not one;")
    assert (found["reason"], found["glyphs"]) == ("several", 2)
    assert (len(found["readings"]), len(found["parts"])) == (1, 2)
    noise = np.random.default_rng(0).integers(0, 256, (12, 24), np.uint8).repeat(20, 0).repeat(20, 1)
    assert refused(noise)["error"].startswith("The image shows")
    assert call(page, "recognise", {"model": "mnist", "image": "bm9uZQ=="})["error"].startswith("This file cannot be")


def test_a_browser_that_cannot_load_the_models_says_so(browser: "Browser", site: str) -> None:
    page, _, _ = opened(browser, "about:blank")
    page.route("**/generator.onnx", lambda route: route.fulfill(status=404))
    page.goto(site)
    page.get_by_text("The models cannot run in this browser").wait_for()
    page.unroute_all()
    button(page, "Write").click()
    page.locator("#written img").first.wait_for()
    page.route("**/worker.js", lambda route: route.fulfill(status=404))
    page.reload()
    page.get_by_text("The models cannot run in this browser").wait_for()
    page.close()
