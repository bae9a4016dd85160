"""What the gate decides about real generators, some better, some worse and some spoilt: what a careful engineer would.

Three are trained, for seconds each, and the others are theirs with another graph. All are registered and promoted as a user would do it.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx_surgery as surgery
import pytest

from lekhani import files, params
from lekhani.data.spec import MNIST, load_prepared
from lekhani.errors import LekhaniError
from lekhani.paths import PREPARED
from lekhani.registry import models
from lekhani.stages import promote as promote_stage
from lekhani.stages.baseline import baseline
from lekhani.stages.evaluate import evaluate
from lekhani.stages.export import export
from lekhani.stages.fetch import fetch
from lekhani.stages.judge import judge
from lekhani.stages.prepare import prepare
from lekhani.stages.train import train
from lekhani.stages.usefulness import usefulness
from lekhani.stages.validate import validate
from lekhani.tracking import runs
from lekhani.tracking.store import connect

ROOT = Path(__file__).parents[2]
DECISION = Path("reports/mnist/decision.json")
GENERATOR = Path("models/mnist/flow_matching/generator.onnx")
TRAINING = Path("models/mnist/flow_matching/training.json")
SCORECARD = Path("reports/scorecards/mnist-flow_matching/scorecard.json")
BUDGETS = {"worse": 4_000, "champion": 10_000, "better": 25_000}  # images seen in training

ALONE = {
    *(
        "fid_ratio",
        "label_agreement",
        "label_agreement_second",
        "recall_ratio",
        "collapsed_classes",
        "near_copies",
        "train_excess",
    ),
    *("usefulness_ratio", "parity_max_abs", "size_mb", "latency_ms"),
}
AGAINST = {"new_model", "same_yardstick", "improvement", "noise", "label_agreement_drop"}
LABELS = {"label_agreement", "label_agreement_second"}


def choices(images_seen: int = 0) -> params.Params:
    """params.yaml's profile quick with the gate as it ships and with less of all else, on MNIST's scans at twice their own size."""
    raw = params.read(ROOT / "params.yaml")
    raw["data"] = {"mnist": raw["data"]["mnist"] | {"image_size": 16}}
    raw["train"]["device"] = "cpu"
    raw["usefulness"]["shares"] = [1.0]
    raw["judge"]["batch_size"] = 64
    quick = raw["profiles"]["quick"]
    quick["judge"] |= {"width": 8, "images_seen": 16_000, "second_budget": 1.0}
    quick["train"] |= {"images_seen": {"per_class": 1, "at_least": max(images_seen, 1)}, "score_every": 0}
    quick["variants"]["flow_matching"] |= {"channels": [16, 32], "batch_size": 16, "steps": 4, "guidance": 1.5}
    quick["evaluate"] |= {"n_generated": 400, "kid_subset_size": 100}
    quick["usefulness"] |= {"images_seen": 3_000, "seeds": 1}
    return params.resolve(raw)


@dataclass
class Told:
    """What a promotion came to."""

    promoted: bool
    table: str
    decision: dict[str, Any]
    failed: set[str] = field(init=False)
    passed: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.failed, self.passed = (
            {one["name"] for one in self.decision["reasons"] if one["passed"] is passed} for passed in (False, True)
        )

    def score(self, who: str, metric: str) -> float:
        return float(self.decision[who]["scorecard"][metric])


@dataclass
class Registry:
    """The registered models of the workspace that is the current folder, by names of this file."""

    versions: dict[str, str] = field(default_factory=dict)

    def generator(self, name: str) -> Path:
        return models.fetch("mnist", self.versions[name]).generator

    def register(self, name: str, path: Path | None = None) -> None:
        """Register what training left, or the file at `path` as if it were another training's."""
        if path is not None:
            shutil.copy(path, GENERATOR)
            files.write_json(TRAINING, files.read_json(TRAINING) | {"mlflow_run_id": None, "generator_sha256": name})
            card = {key: value for key, value in files.read_json(SCORECARD).items() if not key.startswith("usefulness")}
            files.write_json(SCORECARD, card | {"model_sha256": files.sha256(path)})
        promote_stage.register(choices(), "mnist", "flow_matching")
        self.versions[name] = models.aliases("mnist")["challenger"]

    def register_file(self, name: str, path: Path) -> None:
        """Register a generator with nothing beside it."""
        with runs.resume(None, "lekhani", name, {}):
            uri = runs.log_model(path)
        self.versions[name] = str(
            models.register("mnist", uri, {"variant": "flow_matching", "model_sha256": files.sha256(path)}).version
        )

    def promote(self, name: str, *, force: bool = False, reason: str | None = None) -> Told:
        promoted, table = promote_stage.promote(choices(), "mnist", self.versions[name], force=force, reason=reason)
        return Told(promoted, table, files.read_json(DECISION))

    def tags(self, name: str) -> dict[str, str]:
        return dict(connect().get_model_version("lekhani-mnist", self.versions[name]).tags)

    def aliases(self) -> dict[str, str]:
        names = {number: name for name, number in self.versions.items()}
        return {alias: names[number] for alias, number in models.aliases("mnist").items()}

    def crown(self, name: str | None) -> None:
        """Make a version champion past the gate, or leave none; what earlier decisions left goes away."""
        client = connect()
        for alias in models.aliases("mnist"):
            client.delete_registered_model_alias("lekhani-mnist", alias)
        for version in client.search_model_versions("name = 'lekhani-mnist'"):
            for key in version.tags:
                if key.startswith(("gate.", "promoted_", "rolled_back_")):
                    client.delete_model_version_tag("lekhani-mnist", version.version, key)
        for path in (DECISION, DECISION.with_suffix(".md")):
            path.unlink(missing_ok=True)
        if name is not None:
            client.set_registered_model_alias("lekhani-mnist", "champion", self.versions[name])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A workspace in which everything up to registration has been done, and the current folder for all tests."""
    folder, registry = tmp_path_factory.mktemp("gate"), Registry()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(
            "lekhani.evaluate.figures.figure_png", lambda _: b""
        )  # much of the time would go into pictures that nobody sees here
        for stage in (
            fetch,
            prepare,
            validate,
            judge,
            baseline,
        ):
            stage(choices(), "mnist")
        for name, images_seen in BUDGETS.items():
            for step in (train, export, usefulness, evaluate):
                step(choices(images_seen), "mnist", "flow_matching")
            registry.register(name)
        yield registry


@pytest.fixture(scope="module")
def spoilt(trained: Registry, toy_generator: Callable[..., Path]) -> Registry:
    """Registers what graph surgery makes of the trained generators."""
    good, made = trained.generator("better"), Path("made")
    data = load_prepared(PREPARED / "mnist")
    n = data.info.n_classes
    noises = np.random.default_rng(0).standard_normal((10, data.info.image_size**2), dtype=np.float32)
    for name, path in {
        "equal": surgery.retold(
            trained.generator("champion"), made / "equal.onnx", lineage='{"generator_sha256": "of another training"}'
        ),
        "the same file": trained.generator("champion"),
        "one class collapsed": surgery.unheeding(good, made / "one.onnx", noises[:1], {3}, n),
        "all classes collapsed": surgery.unheeding(good, made / "all.onnx", noises[:1], range(n), n),
        "ten images of each class": surgery.unheeding(good, made / "ten.onnx", noises, range(n), n),
        "memorising": surgery.replaying(good, made / "memory.onnx", *data.split("train")),
        "labels permuted": surgery.relabelled(good, made / "permuted.onnx", [(label + 1) % n for label in range(n)]),
        "unconditional": surgery.unlabelled(good, made / "unlabelled.onnx", n),
    }.items():
        trained.register(name, path)
    for name in ("champion", "better"):
        trained.register_file(f"{name}, bare", trained.generator(name))
    toy_generator(made / "square.onnx", classes=MNIST, size=data.info.image_size)
    trained.register("a grey square", made / "square.onnx")
    trained.register_file("three small digits", toy_generator(made / "toy.onnx"))
    return trained


@pytest.fixture
def registry(spoilt: Registry) -> Registry:
    """All of them, and the champion is champion."""
    spoilt.crown("champion")
    return spoilt


def everything() -> tuple[list[str], dict[str, tuple[int, int]]]:
    """All that is in MLflow's database, and size and time of every other file but one that MLflow itself writes beside what it fetches."""
    database = sqlite3.connect("mlruns/mlflow.db")
    rows = list(database.iterdump())
    database.close()
    names = {"mlflow.db", "registered_model_meta"}
    kept = {str(path): path.stat() for path in Path().rglob("*") if path.is_file() and path.name not in names}
    return rows, {path: (stat.st_size, stat.st_mtime_ns) for path, stat in kept.items()}


def kept(tags: Mapping[str, str]) -> dict[str, bytes]:
    """The files of the decision in the version's run."""
    folder = Path(mlflow.artifacts.download_artifacts(tags["gate.report"]))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written() -> dict[str, bytes]:
    """The same in the workspace."""
    return {path.name: path.read_bytes() for path in (DECISION, DECISION.with_suffix(".md"))}


# --- verdicts ---


@dataclass(frozen=True)
class Refusal:
    candidate: str
    fails: set[str]
    may: set[str] = field(default_factory=set)  # may fail besides, which is no part of what is told here
    beats: Sequence[str] = ()  # metrics in which it is better than the champion all the same

    def __str__(self) -> str:
        return self.candidate


REFUSALS = [
    Refusal("equal", {"improvement", "noise"}),
    Refusal("the same file", {"new_model", "improvement", "noise"}),
    Refusal(
        "worse",
        {"improvement", "noise"},
        may={*LABELS, "fid_ratio", "label_agreement_drop", "usefulness_ratio", "recall_ratio"},
    ),
    Refusal("one class collapsed", {"collapsed_classes"}, may={"improvement", "noise"}),
    Refusal(
        "all classes collapsed",
        {"collapsed_classes", "recall_ratio", "improvement", "noise"},
        may={"fid_ratio", "usefulness_ratio"},
    ),
    Refusal("ten images of each class", {"recall_ratio"}, may={"improvement", "noise"}),
    Refusal("memorising", {"near_copies", "train_excess"}, beats=("fid", "label_agreement", "recall")),
    Refusal("labels permuted", {*LABELS, "label_agreement_drop", "usefulness_ratio"}, beats=("fid",)),
    Refusal("unconditional", {"label_agreement_drop"}, beats=("fid",)),
    Refusal(
        "a grey square",
        {
            "improvement",
            "noise",
            "fid_ratio",
            "recall_ratio",
            "collapsed_classes",
            "label_agreement_drop",
            *LABELS,
            "usefulness_ratio",
        },
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_it_is_refused(case: Refusal, registry: Registry) -> None:
    told = registry.promote(case.candidate)
    assert not told.promoted
    assert told.failed >= case.fails
    assert told.failed <= case.fails | case.may
    asked = ALONE | AGAINST
    assert told.passed == (asked - LABELS if case.candidate == "unconditional" else asked) - told.failed
    for metric in case.beats:
        lower = metric == "fid"
        ours, theirs = told.score("candidate", metric), told.score("champion", metric)
        assert ours < theirs if lower else ours > theirs

    assert registry.aliases() == {"champion": "champion"}
    assert told.decision["promote"] is told.decision["forced"] is False
    assert told.decision["candidate"]["version"] == registry.versions[case.candidate]
    assert told.decision["champion"]["version"] == registry.versions["champion"]
    assert told.decision["policy"] == choices().gate.model_dump()
    assert "**Refuse**" in told.table
    assert told.table == DECISION.with_suffix(".md").read_text(encoding="utf-8")
    tags = registry.tags(case.candidate)
    assert tags["gate.verdict"] == "refuse"
    assert set(tags["gate.failed"].split(", ")) == told.failed
    assert float(tags["fid_ratio"]) == pytest.approx(told.score("candidate", "fid_ratio"), rel=1e-4), (
        "as it is here, not as it was registered"
    )
    assert not any(key.startswith("promoted_") for key in tags)
    assert kept(tags) == written()


def test_the_better_takes_the_place_of_the_champion_and_gives_it_back(registry: Registry) -> None:
    before = everything()
    promoted, table = promote_stage.promote(choices(), "mnist", registry.versions["better"], check=True)
    assert promoted
    assert "**Promote**" in table
    assert everything() == before, "--check changes nothing"

    told = registry.promote("better")
    assert told.promoted
    assert not told.failed
    assert told.passed == ALONE | AGAINST
    assert told.decision["promote"] is True
    assert told.decision["forced"] is False
    assert told.score("candidate", "fid") < told.score("champion", "fid")
    assert registry.aliases() == {"champion": "better", "previous": "champion"}
    tags = registry.tags("better")
    assert (tags["gate.verdict"], tags["gate.failed"], tags["promoted_over"]) == (
        "promote",
        "none",
        registry.versions["champion"],
    )
    assert kept(tags) == written()

    sentence = promote_stage.rollback(choices(), "mnist", "it was the better pen")
    assert (
        f"version {registry.versions['champion']} is champion again in place of version {registry.versions['better']}"
        in sentence
    )
    assert registry.aliases() == {"champion": "champion"}
    assert registry.tags("better")["rolled_back_because"] == "it was the better pen"


def test_without_a_champion_a_good_one_is_promoted_alone(registry: Registry) -> None:
    registry.crown(None)
    told = registry.promote("champion")
    assert told.promoted
    assert told.passed == ALONE | {"champion"}
    assert told.decision["champion"] is None
    assert registry.aliases() == {"champion": "champion"}
    assert registry.tags("champion")["promoted_over"] == "none"


def test_without_a_champion_a_collapsed_one_is_refused_alone(registry: Registry) -> None:
    registry.crown(None)
    told = registry.promote("one class collapsed")
    assert not told.promoted
    assert told.failed == {"collapsed_classes"}
    assert told.passed == (ALONE | {"champion"}) - told.failed
    assert registry.aliases() == {}


def test_force_promotes_what_was_refused_and_says_so(registry: Registry) -> None:
    told = registry.promote("one class collapsed", force=True, reason="threes are not used")
    assert told.promoted
    assert told.decision["promote"] is False
    assert told.decision["forced"] is True
    assert told.decision["reason"] == "threes are not used"
    assert "by force: threes are not used" in told.table
    assert registry.aliases() == {"champion": "one class collapsed", "previous": "champion"}
    tags = registry.tags("one class collapsed")
    assert (tags["gate.verdict"], tags["promoted_because"]) == ("forced", "threes are not used")
    assert set(tags["gate.failed"].split(", ")) == told.failed
    assert "collapsed_classes" in told.failed
    promote_stage.rollback(choices(), "mnist")
    assert registry.aliases() == {"champion": "champion"}


# --- odd registries ---


@pytest.fixture
def lost(registry: Registry) -> Iterator[Path]:
    """The champion's folder in MLflow's store, deleted."""
    folder = registry.generator("champion").parents[2]
    away = folder.rename(folder.with_name("away"))
    yield folder
    away.rename(folder)


@pytest.fixture
def tampered(registry: Registry) -> Iterator[Path]:
    """The champion's file, changed after it was registered."""
    path = registry.generator("champion")
    content = path.read_bytes()
    surgery.retold(path, path, profile="full")
    yield path
    path.write_bytes(content)


@pytest.fixture
def foreign(registry: Registry) -> str:
    """A champion of other classes, in another size."""
    registry.crown("three small digits")
    return "draws other classes or sizes"


def stopped(registry: Registry, candidate: str, match: str, **how: Any) -> None:
    """Promotion ends with one sentence and has changed nothing."""
    before = everything()
    with pytest.raises(LekhaniError, match=match) as caught:
        registry.promote(candidate, **how)
    assert "\n" not in str(caught.value)
    assert everything() == before


def test_a_champion_that_is_gone_stops_promotion_until_it_is_forced(registry: Registry, lost: Path) -> None:
    stopped(registry, "better", "lekhani-mnist version .* cannot be fetched")
    told = registry.promote("better", force=True, reason="the old one is gone")
    assert told.promoted
    assert told.failed == {"champion"}
    assert registry.aliases() == {"champion": "better", "previous": "champion"}
    before = everything()
    with pytest.raises(LekhaniError, match="cannot be fetched"):
        promote_stage.rollback(choices(), "mnist")
    assert everything() == before, "there is nothing to go back to"


def test_a_champion_that_was_tampered_with_stops_promotion(registry: Registry, tampered: Path) -> None:
    stopped(registry, "better", "is not the file that was registered as lekhani-mnist version .*: its SHA-256 differs")


def test_a_champion_of_other_classes_stops_promotion(registry: Registry, foreign: str) -> None:
    stopped(registry, "better", foreign)
    assert registry.aliases() == {"champion": "three small digits"}


def test_a_candidate_of_other_classes_is_not_even_forced(registry: Registry) -> None:
    stopped(registry, "three small digits", "draws other classes or sizes", force=True, reason="why not")
    assert registry.aliases() == {"champion": "champion"}


def test_a_candidate_whose_run_was_deleted_is_not_even_forced(registry: Registry) -> None:
    run_id = connect().get_model_version("lekhani-mnist", registry.versions["better"]).run_id
    assert run_id
    connect().delete_run(run_id)
    try:
        stopped(
            registry,
            "better",
            f"The run {run_id[:8]} that made lekhani-mnist version .* is deleted; restore it",
            force=True,
            reason="why not",
        )
    finally:
        connect().restore_run(run_id)


def test_a_champion_without_a_scorecard_is_scored_like_any_other(registry: Registry) -> None:
    registry.crown("champion, bare")
    assert models.fetch("mnist", registry.versions["champion, bare"]).scorecard is None
    told = registry.promote("better")
    assert told.promoted
    assert told.passed == ALONE | AGAINST
    assert registry.aliases() == {"champion": "better", "previous": "champion, bare"}


def test_a_candidate_without_a_scorecard_is_refused_since_its_parity_is_not_known(registry: Registry) -> None:
    told = registry.promote("better, bare")
    assert not told.promoted
    assert told.failed == {"parity_max_abs"}
    assert "The candidate's scorecard has no parity_max_abs; score the candidate again." in told.table
    assert registry.aliases() == {"champion": "champion"}
