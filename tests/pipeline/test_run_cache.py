"""What DVC spares: a setting that was tried before trains nothing again, a policy that only warns reruns validate."""

import re

import pytest
from workspace import Workspace

pytestmark = pytest.mark.slow
TRAIN = "train@mnist-flow_matching"


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A pipeline of one variant after a run, committed."""
    space = Workspace(tmp_path_factory.mktemp("cache") / "project")
    space.copy_pipeline()
    space.cut_small()
    params = space.params()
    params["profiles"]["quick"]["usefulness"]["seeds"] = 0
    params["tracking"]["backend"] = "none"
    space.write_params(params)
    space.commit("start")
    space.run("dvc", "repro")
    space.commit("reproduced")
    return space


def experiment(space: Workspace, change: str) -> tuple[set[str], set[str]]:
    """The stages that an experiment runs, and those that it takes from the run cache."""
    said = space.run("dvc", "exp", "run", "-S", change)
    return set(re.findall(r"Running stage '(.+)'", said)), set(re.findall(r"Stage '(.+)' is cached", said))


def test_a_setting_that_was_tried_before_comes_from_the_run_cache(reproduced: Workspace) -> None:
    first, second = "variants.flow_matching.lr=1e-3", "variants.flow_matching.lr=4e-3"
    weights = reproduced.path / "models/mnist/flow_matching/generator.safetensors"
    assert TRAIN in experiment(reproduced, first)[0]
    trained = weights.read_bytes()
    assert TRAIN in experiment(reproduced, second)[0]
    assert weights.read_bytes() != trained
    ran, cached = experiment(reproduced, first)
    assert ran == set()
    after = {f"{stage}@mnist-flow_matching" for stage in ("train", "export", "usefulness", "evaluate")}
    assert cached == {*after, "compare"}
    assert weights.read_bytes() == trained
    reproduced.run("git", "checkout", "-q", ".")
    reproduced.run("dvc", "checkout", "-q")


def test_a_policy_that_only_warns_reruns_validate_alone(reproduced: Workspace) -> None:
    report = reproduced.path / "reports/mnist/validation.md"
    before = report.read_text(encoding="utf-8")
    assert experiment(reproduced, "validation.min_per_class=500")[0] == {"validate@mnist"}
    assert report.read_text(encoding="utf-8") != before
    reproduced.run("git", "checkout", "-q", ".")
    reproduced.run("dvc", "checkout", "-q")


def test_datasets_are_chosen_again_and_again(reproduced: Workspace) -> None:
    for _ in range(2):
        assert experiment(reproduced, "pipeline.datasets=[mnist]") == (set(), set())
    params = reproduced.params()
    params["data"]["mine"] = {"source": "local", "path": "mine"}
    reproduced.write_params(params)
    said = reproduced.lekhani("prepare", "--dataset", "mine", code=2)
    assert "'mine' is described in the params, but not among pipeline.datasets; add it there." in said
    reproduced.run("git", "checkout", "-q", ".")
