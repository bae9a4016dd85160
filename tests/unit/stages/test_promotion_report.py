"""The page that a pull request gets: verdicts first, failed checks before all checks, figures before and after."""

import json
from pathlib import Path
from typing import Any

import pytest

from lekhani import files
from lekhani.registry.gate import Check, Decision
from lekhani.stages.candidates import Comparison, Contender
from lekhani.stages.promote import Outcome
from lekhani.stages.promotion_report import write_report


def row(dataset: str, variant: str, judge: str = "j", **figures: float) -> dict[str, Any]:
    return {"dataset": dataset, "place": "1", "variant": variant, "judge_sha256": judge, **figures}


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Outcome]:
    """A refusal, and a dataset without a candidate."""
    monkeypatch.chdir(tmp_path)
    Path("grid.png").write_bytes(b"picture")
    candidate = Contender("dcgan of this workspace", Path("x"), {}, Path("grid.png"))
    champion = Contender("version 1 (cgan)", Path("y"), {}, Path("none.png"))
    checks = (Check("new_model", None, None, True, "It is."), Check("noise", 1.0, 2.0, False, "It is chance."))
    refused = Comparison(candidate, {}, champion, {}, Decision(False, checks))
    heading = "## lekhani-letters: dcgan of this workspace against champion 1"
    nothing = Outcome(None, "## lekhani-digits: no candidate, champion 4 stands\n\nWhy.\n")
    return {"letters": Outcome(False, f"{heading}\n\ntable", refused), "digits": nothing}


def test_verdicts_first_and_failed_checks_before_all(outcomes: dict[str, Outcome]) -> None:
    write_report(outcomes, Path("build"))
    page = Path("build/promotion.md").read_text(encoding="utf-8")
    assert page.splitlines()[:2] == [
        "- **lekhani-letters**: **Refuse**: 1 of 2 checks failed (noise).",
        "- **lekhani-digits**: no candidate, champion 4 stands",
    ]
    shown, folded = page.split("<details><summary>All 2 checks</summary>")
    assert "It is chance." in shown
    assert "new_model" not in shown
    assert "new_model" in folded.split("</details>")[0]
    assert "![candidate of letters](letters-candidate.png)" in page
    assert Path("build/letters-candidate.png").read_bytes() == b"picture"
    assert "champion.png" not in page, "an old version has no picture"
    assert json.loads(Path("build/promotion.json").read_text()) == {"letters": "refuse", "digits": "no candidate"}


def test_the_leaderboard_before_and_after(outcomes: dict[str, Outcome]) -> None:
    names = ["dataset", "place", "variant", "judge_sha256", "fid", "recall"]
    before = [row("letters", "dcgan", fid=3.25, recall=0.5), row("letters", "old", fid=9)]
    after = [row("letters", "dcgan", fid=2.75, recall=0.5), row("letters", "new", fid=4)]

    def page(rows: list[dict[str, Any]]) -> str:
        files.write_text(Path("reports/leaderboard.csv"), files.csv_text(rows, names))
        write_report(outcomes, Path("build"), Path("base.csv"))
        return Path("build/promotion.md").read_text(encoding="utf-8").split("before and after\n")[1]

    assert "no leaderboard that could be read" in page(after)
    files.write_text(Path("base.csv"), files.csv_text(before, names))
    assert page(after).strip().splitlines()[2:] == [
        "| variant | place | fid | recall |",
        "| --- | --- | --- | --- |",
        "| `dcgan` | 1 | 3.25 → **2.75** | 0.5 |",
        "| `new` | - → **1** | - → **4** | - |",
        "| `old` | 1 → **-** | 9 → **-** | - |",
    ]
    assert page(before).strip() == "Every figure is as it was."
    assert "Another judge scored these" in page([row("letters", "dcgan", "k", fid=2)])
