"""The reports in a real browser: nothing is cut off at any width, all can be read, and every link leads somewhere."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import studio_page
from PIL import Image
from workspace import ROOT

from lekhani import files, params
from lekhani.data.prepare import manifest
from lekhani.data.schema import validate
from lekhani.data.spec import DEVANAGARI, DatasetInfo, digest
from lekhani.data.validation_report import write_reports
from lekhani.evaluate.score import in_class_order
from lekhani.pictures import save_png
from lekhani.stages.compare import compare

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = studio_page.NEEDS_CHROMIUM

NAMES = ("leaderboard.html", "devanagari/validation.html")
RNG = np.random.default_rng(7)


def write_scorecard(variant: str, conditional: bool, fid: float) -> None:
    """What `evaluate` leaves of a variant, with every column of the leaderboard but DRAW's."""
    folder, sha = Path("reports/scorecards") / f"devanagari-{variant}", "0" * 64
    card: dict[str, Any] = {"dataset": "devanagari", "variant": variant, "judge_sha256": sha, "data_digest": sha}
    card |= {"model_sha256": sha, "seed": 7, "sampling_seeds": 2, "n_generated": 368, "n_real": 92}
    for name in ("fid", "fid_inception"):
        card |= {name: fid, f"{name}_floor": 1.5, f"{name}_ratio": fid / 1.5, f"{name}_std": 0.25}
    measured = ("kid", "inception_score", "precision", "recall", "modes", "near_copies", "usefulness")
    for name in (*measured, *(("label_agreement", "label_agreement_second") if conditional else ())):
        card |= {name: float(RNG.random()), f"{name}_floor": 0.9}
    card |= {"classes_covered": 46, "images_seen": 1000, "batch_size": 8}
    files.write_json(folder / "measurements.json", card)
    files.write_csv(folder / "curve.csv", [{"images_seen": 1000 * i, "judge_fid": fid + 9 / i} for i in (1, 2, 3)])
    figures = ("read_as", "confidence", "fid", "fid_floor", "recall", "recall_floor", "diversity", "modes")
    rows = []
    for c in DEVANAGARI:
        other = DEVANAGARI[c.label - 1].name
        asked = {"asked": 8, "agreement": RNG.random(), "mistaken_for": other} if conditional else {}
        row = {"name": c.name, "glyph": c.glyph, "label": c.label, **dict.fromkeys(figures, 1), "modes_floor": 1}
        rows.append({**row, **asked, "fid_ratio": 1 + 20 * RNG.random()})
    files.write_csv(folder / "per_class.csv", rows)
    picture = in_class_order(RNG.integers(0, 256, (368, 32, 32)).astype(np.uint8), 46)
    for name in ("grid", "strip"):
        save_png(picture, folder / f"{name}.png")
    shown = Path("reports/devanagari") / variant / "figures"
    shown.mkdir(parents=True)
    for name in ("worst", "closest", *(["confusion"] if conditional else [])):
        Image.new("L", (64, 48)).save(shown / f"{name}.png")


def write_validation() -> None:
    """Two images of each class and split, two of which are blank and one of which repeats another."""
    labels = np.tile(np.repeat(np.arange(46), 2), 2)
    images = np.zeros((184, 32, 32), np.uint8)
    images[:, 8:24, 8:24] = RNG.integers(0, 256, (184, 16, 16))
    images[[3, 9]], images[20] = 0, images[21]
    counts, prepared = {"train": 92, "test": 92}, Path("data/prepared/devanagari")
    info = DatasetInfo(
        "devanagari", "Devanagari", 32, DEVANAGARI, counts, {"name": "local"}, digest(images, labels, counts), ("क",)
    )
    members = [f"Train/{'a_long_name_without_any_space' * 3}/क{i}.png" for i in range(184)]
    prepared.mkdir(parents=True)
    np.save(prepared / "images.npy", images)
    np.save(prepared / "labels.npy", labels)
    manifest(images, labels, DEVANAGARI, counts, members).to_parquet(prepared / "manifest.parquet", index=False)
    files.write_json(prepared / "dataset.json", info.to_dict())
    write_reports(validate(prepared, params.Validate()), prepared, Path("reports/devanagari"))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of reports, with two that are pages and with the pictures that they link."""
    shipped = params.load(ROOT / "params.yaml")
    pipeline = shipped.pipeline.model_copy(update={"datasets": ("devanagari",)})
    off = shipped.tracking.model_copy(update={"backend": "none"})
    folder = tmp_path_factory.mktemp("project")
    with chdir(folder):
        for variant, fid in (("dcgan", 110.5), ("flow_matching", 2.5), ("drifting", 3.25)):
            write_scorecard(variant, variant != "dcgan", fid)
        write_validation()
        compare(shipped.model_copy(update={"pipeline": pipeline, "tracking": off}))
    return folder / "reports"


@pytest.fixture(params=NAMES)
def page(request: pytest.FixtureRequest, browser: "Browser", reports: Path) -> Iterator["Page"]:
    """A report as a file; it asks for nothing but itself."""
    page, asked = browser.new_page(), list[str]()
    page.on("request", lambda one: asked.append(one.url))
    page.goto((reports / request.param).as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [(reports / request.param).as_uri()]
    page.close()


def test_nothing_is_cut_off_and_all_can_be_read(page: "Page") -> None:
    for width, height in ((1280, 800), (390, 844), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What does not scroll in a box of its own ends within the page.
        outside = "[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll'))"
        assert page.evaluate(f"Math.max(...{outside}.map(one => one.getBoundingClientRect().right))") <= width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            contrast, text = page.evaluate(studio_page.CONTRAST)
            assert contrast >= 4.5, text
    page.set_viewport_size({"width": 390, "height": 844})
    for box in page.get_by_role("region").filter(has=page.locator("table")).all():
        head = box.locator("tbody th").first
        before = head.bounding_box()
        box.focus()
        box.evaluate("one => one.scrollLeft = one.scrollWidth")
        assert box.evaluate("one => document.activeElement === one && one.scrollLeft > 50")
        after = head.bounding_box()
        assert before
        assert after
        assert 0 <= after["x"] <= before["x"], "the heads of rows stay in sight"


def test_every_link_leads_to_what_is_there(page: "Page", reports: Path) -> None:
    links = page.eval_on_selector_all("a", "all => all.map(one => [one.getAttribute('href'), one.href])")
    assert len(links) > 5
    for written, address in links:
        if written.startswith("#"):
            assert page.evaluate("id => document.getElementById(id) !== null", written[1:]), written
        else:
            assert address.startswith(reports.as_uri())
            assert Path(address.removeprefix("file://")).is_file(), written
    targets = {written for written, _ in links}
    if page.title() == "Leaderboard":
        assert {f"devanagari/drifting/figures/{name}.png" for name in ("confusion", "worst", "closest")} <= targets
        assert {"devanagari/validation.html", "devanagari/contact_sheet.png", "#devanagari/class/45"} <= targets
        assert not [one for one in targets if "usefulness" in one], "no link to a file that is not there"
        page.get_by_role("table").nth(1).get_by_role("link", name="ज्ञ").click()
        card = page.locator(":target")
        assert card.locator("h4").inner_text() == f"ज्ञ {DEVANAGARI[35].name}"
        assert card.locator("img").count() == 2
    else:
        assert {"#blank_images", "#exact_duplicates", "contact_sheet.png"} <= targets
