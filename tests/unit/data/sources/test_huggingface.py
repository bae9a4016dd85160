"""A dataset of the Hugging Face hub comes at one commit, with all its files, and stays while nothing newer is known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_sites
import pytest
from sources import glyphs, parquet

from lekhani import params
from lekhani.data.layouts import read_raw
from lekhani.data.sources import fetch as fetch_stage
from lekhani.data.sources import transfer
from lekhani.errors import LekhaniError, UsageError

SHARDS = {f"data/{split}-00000-of-00001.parquet": parquet([0, 1, 0], ["x", "y"]) for split in ("train", "test")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_sites.FakeHub]:
    with fake_sites.FakeHub().running() as site:
        assert isinstance(site, fake_sites.FakeHub)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.url)
        template = f"{site.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(transfer, "MIN_WAIT", 0.001)
        monkeypatch.setattr(transfer, "MAX_WAIT", 0.002)
        site.datasets["team/glyphs"] = {"README.md": b"a card", "load.py": b"code", ".gitattributes": b"", **SHARDS}
        yield site


def fetch(out: Path, revision: str | None = None, repo: str = "team/glyphs") -> dict[str, Any]:
    data = params.Data(source="huggingface", huggingface=params.HuggingFace(repo=repo, revision=revision))
    fetch_stage.fetch("own", data, params.Embedded(), 7, out)
    return dict(json.loads((out / "source.json").read_text()))


def files(out: Path) -> set[str]:
    return {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()} - {"source.json"}


def test_the_files_of_a_commit(site: fake_sites.FakeHub, tmp_path: Path) -> None:
    out = tmp_path / "raw" / "own"
    source = fetch(out)
    assert (source["name"], source["repo"], source["version"]) == ("huggingface", "team/glyphs", site.COMMIT)
    assert files(out) == {f"glyphs/{file}" for file in SHARDS}, "neither the card nor programs"
    raw = read_raw(out, "own")
    assert glyphs(raw) == ["x", "y", "x"] * 2
    assert (raw.splits.count("train"), raw.splits.count("test")) == (3, 3)


def test_what_is_here_stays_and_what_is_newer_comes(site: fake_sites.FakeHub, tmp_path: Path) -> None:
    out = tmp_path / "raw" / "own"
    first, asked = fetch(out), site.count("datasets")
    assert fetch(out) == first
    assert site.count("datasets") == asked + 1, "the commit alone was asked for"
    assert fetch(out, site.COMMIT) == first
    assert site.count("datasets") == asked + 1, "a commit that is here needs no network"
    site.commit = "1" * 40
    site.datasets["team/glyphs"]["data/test-00000-of-00001.parquet"] = parquet([1, 1], ["x", "y"])
    newer = fetch(out)
    assert newer["version"] == site.commit
    assert newer["sha256"] != first["sha256"]
    site.always["datasets"] = fake_sites.status(503)
    assert fetch(out) == newer, "the hub does not answer, and what is here stays"
    with pytest.raises(LekhaniError, match=r"could not be loaded from the Hugging Face hub: .*503"):
        fetch(out, "main")


@pytest.mark.parametrize(
    ("repo", "revision", "sentence"),
    [
        ("team/none", None, r"huggingface\.repo: the Hugging Face hub has no dataset team/none, or it is private"),
        ("team/glyphs", "v2", r"huggingface\.revision: team/glyphs has no revision v2; name a branch"),
        ("team/empty", None, r"huggingface: team/empty holds no files of data"),
    ],
)
def test_refusals(site: fake_sites.FakeHub, tmp_path: Path, repo: str, revision: str | None, sentence: str) -> None:
    site.datasets["team/empty"] = {"README.md": b"a card"}
    with pytest.raises(UsageError, match=rf"^data\.own\.{sentence}"):
        fetch(tmp_path / "own", revision, repo)
    assert not (tmp_path / "own").exists()


def test_errors_that_pass_are_tried_again(site: fake_sites.FakeHub, tmp_path: Path) -> None:
    site.faults["datasets"] = [fake_sites.status(502)]
    assert fetch(tmp_path / "own")["version"] == site.COMMIT
