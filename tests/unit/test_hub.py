"""A model goes to the hub and comes back as it was; refusals are sentences."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fake_sites
import numpy as np
import pytest
from toy_judge import toy_judge

import lekhani
from lekhani import hub
from lekhani.errors import LekhaniError, UsageError

ToyGenerator = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_sites.FakeHub]:
    with fake_sites.FakeHub().running() as site:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", site.url)
        template = f"{site.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield site  # type: ignore[misc]


def test_a_model_comes_back_as_it_was(site: fake_sites.FakeHub, toy_generator: ToyGenerator, tmp_path: Path) -> None:
    model, judge = toy_generator(tmp_path / "m" / "g.onnx"), toy_judge(tmp_path / "m" / "j.onnx")
    (model.parent / "README.md").write_text("# The card of the registry")
    pen = lekhani.load(model, judge)
    assert pen.push_to_hub("team/digits") == f"{site.url}/team/digits"
    assert site.models["team/digits"] == {
        "generator.onnx": model.read_bytes(),
        "judge.onnx": judge.read_bytes(),
        "README.md": b"# The card of the registry",
    }
    back = lekhani.load("team/digits")
    assert back.origin == "team/digits of the Hugging Face hub"
    np.testing.assert_array_equal(back.generate(["1"], 4, 7).images, pen.generate(["1"], 4, 7).images)
    assert lekhani.load_judge("team/digits").classes == pen.classes
    assert {given for kind, given in site.seen if kind == "repos"} == {"Bearer hf_secret"}


def test_a_model_without_a_card_gets_one(site: fake_sites.FakeHub, toy_generator: ToyGenerator, tmp_path: Path) -> None:
    lekhani.load(toy_generator(tmp_path / "g.onnx")).push_to_hub("team/digits")
    assert set(site.models["team/digits"]) == {"generator.onnx", "README.md"}
    assert 'lekhani.load("team/digits").generate(["0"], n=8)' in site.models["team/digits"]["README.md"].decode()


def test_refusals_are_sentences(site: fake_sites.FakeHub, toy_generator: ToyGenerator, tmp_path: Path) -> None:
    pen = lekhani.load(toy_generator(tmp_path / "g.onnx"))
    with pytest.raises(LekhaniError, match="There is no team/none on the Hugging Face hub, or it is private"):
        lekhani.load("team/none")
    site.models["team/text"] = {"README.md": b"words"}
    with pytest.raises(LekhaniError, match=r"team/text on the Hugging Face hub has no generator\.onnx"):
        lekhani.load("team/text")
    with pytest.raises(UsageError, match="'digits' is no name"):
        pen.push_to_hub("digits")
    site.always["repos"] = fake_sites.status(403)
    with pytest.raises(LekhaniError, match=r"team/digits could not be published on .*403.*; check the connection"):
        pen.push_to_hub("team/digits")
    assert "team/digits" not in site.models
    site.always["models"] = fake_sites.status(500)
    with pytest.raises(LekhaniError, match=r"team/digits could not be loaded from the Hugging Face hub: .*500"):
        hub.download("team/digits")
