"""What the gate decides about real generators, some good and some spoilt, and what a promotion does to the registry.

Nothing depends on how well a network learns: one is trained for a moment, so that it is far below any bound, and the
others are tables of real glyphs that no split holds, as they are or spoilt in one way. Figures close to a bound are
given to the gate in its unit tests.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from letters import Judged, Letters
from onnx_generators import image_table, with_metadata

from lekhani import files, params
from lekhani.data.spec import Bytes, Prepared, load_prepared
from lekhani.errors import LekhaniError
from lekhani.evaluate.judge import JudgeNet
from lekhani.evaluate.reference import Reference
from lekhani.evaluate.score import score_generator
from lekhani.evaluate.usefulness import metrics
from lekhani.inference.session import Generator, Reader
from lekhani.paths import PREPARED
from lekhani.registry import gate, models
from lekhani.stages import promote as promote_stage
from lekhani.stages.baseline import baseline
from lekhani.stages.evaluate import evaluate
from lekhani.stages.export import export
from lekhani.stages.fetch import fetch
from lekhani.stages.judge import judge
from lekhani.stages.prepare import prepare
from lekhani.stages.train import train
from lekhani.stages.usefulness import score_usefulness, usefulness
from lekhani.stages.validate import validate
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect

ROOT = Path(__file__).parents[2]
DECISION = Path("reports/letters/decision.json")
GENERATOR = Path("models/letters/flow_matching/generator.onnx")
TRAINING = Path("models/letters/flow_matching/training.json")
SCORECARD = Path("reports/scorecards/letters-flow_matching/measurements.json")

LABELS = {"label_agreement", "label_agreement_second"}
AGAINST = {"new_model", "same_yardstick", "improvement", "noise", "label_agreement_drop"}


def choices() -> params.Params:
    """params.yaml's profile quick, with the gate as it ships and with less of all else."""
    raw = params.read(ROOT / "params.yaml")
    raw["data"] = {"letters": raw["data"]["mnist"] | {"source": "local", "path": "letters.npz", "image_size": 24}}
    raw["pipeline"]["datasets"] = ["letters"]
    raw["train"]["device"] = "cpu"
    quick = raw["profiles"]["quick"]
    quick["judge"]["width"] = 8
    quick["train"] |= {"images_seen": {"per_class": 8}, "score_every": 0}
    quick["variants"]["flow_matching"] |= {"channels": [8, 16], "batch_size": 16, "steps": 2, "guidance": 1.5}
    quick["evaluate"] |= {"n_generated": 320, "sampling_seeds": 4, "kid_subset_size": 100}
    quick["usefulness"] |= {"images_seen": 2_500, "seeds": 1, "shares": [1.0]}
    return params.resolve(raw)


@dataclass
class Registry:
    """The registered models of the workspace that is the current folder, by names of this file."""

    versions: dict[str, str] = field(default_factory=dict)

    def generator(self, name: str) -> Path:
        return models.fetch("letters", self.versions[name]).generator

    def register(self, name: str, path: Path | None = None) -> None:
        """Register what training left, or the file at `path` as if it were another training's that proved useful."""
        if path is not None:
            shutil.copy(path, GENERATOR)
            weights = TRAINING.with_name("generator.safetensors")
            weights.write_bytes(name.encode())
            made = {"generator_sha256": files.sha256(weights)}
            files.write_json(TRAINING, files.read_json(TRAINING) | made)
            useful = {"usefulness": 0.95, "usefulness_floor": 0.97, "usefulness_ratio": 0.98}
            files.write_json(SCORECARD, files.read_json(SCORECARD) | {"model_sha256": files.sha256(path)} | useful)
        promote_stage.register(choices(), "letters", "flow_matching")
        self.versions[name] = models.aliases("letters")["challenger"]

    def register_file(self, name: str, path: Path) -> None:
        """Register a generator with nothing beside it."""
        uri = logged.log_model(runs.create_run("lekhani", name, "test", {}), path)
        tags = {"variant": "flow_matching", "model_sha256": files.sha256(path)}
        self.versions[name] = str(models.register("letters", uri, tags).version)

    def promote(self, name: str, **how: Any) -> tuple[bool, set[str]]:
        """Whether it was promoted, and which checks failed."""
        promoted = promote_stage.promote(choices(), "letters", self.versions[name], **how).promote
        return promoted is True, {one["name"] for one in files.read_json(DECISION)["reasons"] if not one["passed"]}

    def tags(self, name: str) -> dict[str, str]:
        return dict(connect().get_model_version("lekhani-letters", self.versions[name]).tags)

    def aliases(self) -> dict[str, str]:
        names = {number: name for name, number in self.versions.items()}
        return {alias: names[number] for alias, number in models.aliases("letters").items()}

    def make_champion(self, name: str | None) -> None:
        """Make a version champion past the gate, or leave none; what earlier decisions left goes away."""
        client = connect()
        for alias in models.aliases("letters"):
            client.delete_registered_model_alias("lekhani-letters", alias)
        for version in client.search_model_versions("name = 'lekhani-letters'"):
            for key in version.tags:
                if key.startswith(("gate.", "promoted_", "rolled_back_")):
                    client.delete_model_version_tag("lekhani-letters", version.version, key)
        for path in (DECISION, DECISION.with_suffix(".md")):
            path.unlink(missing_ok=True)
        if name is not None:
            client.set_registered_model_alias("lekhani-letters", "champion", self.versions[name])


@pytest.fixture(scope="module")
def workspace(
    letters: Letters, judges: tuple[Judged, Judged], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    """The current folder, a project after its evaluation; its judges are those of all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("gate"))
        patch.setenv("MLFLOW_TRACKING_URI", "")  # so that what MLflow writes there is taken back
        patch.delenv("MLFLOW_TRACKING_URI")
        patch.setattr("lekhani.evaluate.figures.figure_png", lambda _: b"")  # pictures take long, and nobody sees them
        patch.setattr("lekhani.stages.judge.train_judge", lambda *how: judges[0 if JudgeNet in how else 1])
        np.savez(
            "letters.npz",
            images=np.concatenate([letters.train[0], letters.test[0]]),
            labels=np.concatenate([letters.train[1], letters.test[1]]),
            splits=np.repeat(["train", "test"], [len(letters.train[1]), len(letters.test[1])]),
            class_names=np.array([one.name for one in letters.classes]),
            glyphs=np.array([one.glyph for one in letters.classes]),
        )
        for stage in (fetch, prepare, validate, judge, baseline):
            stage(choices(), "letters")
        for step in (train, export, usefulness, evaluate):
            step(choices(), "letters", "flow_matching")
        yield load_prepared(PREPARED / "letters")


@pytest.fixture(scope="module")
def generators(workspace: Prepared, letters: Letters) -> dict[str, Path]:
    """Files of generators by name: a good one, a noisy poor one, one barely trained, and spoilt ones."""
    images, labels = letters.fresh
    of_class = images.reshape(8, -1, 24, 24)
    noise = 30 * np.random.default_rng(1).normal(size=images.shape)
    one_collapsed, all_collapsed = of_class.copy(), of_class.copy()
    one_collapsed[3] = of_class[3, 0]
    all_collapsed[:] = of_class[:, :1]

    def table(name: str, images: Bytes, labels: np.ndarray = labels, conditional: bool = True) -> Path:
        return image_table(Path("made") / f"{name}.onnx", workspace.info, images, labels, conditional=conditional)

    return {
        "barely trained": Path(shutil.copy(GENERATOR, "trained.onnx")),
        "good": table("good", images),
        "poor": (poor := table("poor", np.rint(np.clip(images + noise, 0, 255)).astype(np.uint8))),
        "equal": with_metadata(poor, Path("made/equal.onnx"), lineage='{"generator_sha256": "of another training"}'),
        "one class collapsed": table("one", one_collapsed.reshape(images.shape)),
        "all classes collapsed": table("all", all_collapsed.reshape(images.shape)),
        "five images of each class": table("five", of_class[:, :5].reshape(-1, 24, 24), np.repeat(np.arange(8), 5)),
        "memorising": table("memory", *workspace.split("train")),
        "labels permuted": table("permuted", images, (labels + 1) % 8),
        "unconditional": table("unlabelled", images, conditional=False),
        "blank": table("blank", np.zeros_like(images)),
    }


# --- verdicts on real figures, without a registry ---


@pytest.fixture(scope="module")
def card(generators: dict[str, Path], workspace: Prepared) -> Callable[[str], dict[str, Any]]:
    """The scorecard of a generator as a promotion makes it, by name; each is made once."""
    known: dict[str, dict[str, Any]] = {}

    def score(name: str) -> dict[str, Any]:
        if name not in known:
            generator, figures = Generator(generators[name]), Path("figures")
            known[name] = score_generator(choices(), workspace, generator, figures)[0]
            if name in ("good", "barely trained", "labels permuted"):  # it takes long
                known[name] |= metrics(score_usefulness(choices(), workspace, generator))
            known[name] |= {"parity_max_abs": 1e-6, "size_mb": 1.0, "latency_ms": 1.0}
        return known[name]

    return score


FAILS = {  # what a candidate must fail against "poor", and what it may fail besides
    "good": (set(), set()),
    "equal": ({"improvement", "noise"}, {"recall_ratio"}),
    "barely trained": (
        {"improvement", "noise", "fid_ratio", "label_agreement_drop", "usefulness_ratio", *LABELS},
        {"recall_ratio", "collapsed_classes", "modes_ratio"},
    ),
    "one class collapsed": ({"collapsed_classes"}, {"improvement", "noise", "modes_ratio"}),
    "all classes collapsed": (
        {"collapsed_classes", "recall_ratio"},
        {"modes_ratio", "improvement", "noise", "fid_ratio", "label_agreement_second"},
    ),
    "five images of each class": (
        {"recall_ratio"},
        {"improvement", "noise", "collapsed_classes", "train_excess", "modes_ratio"},
    ),
    "memorising": ({"near_copies", "train_excess"}, set()),
    "labels permuted": ({*LABELS, "label_agreement_drop", "usefulness_ratio"}, {"modes_ratio"}),
    "unconditional": ({"label_agreement_drop"}, set()),
    "blank": (
        {"improvement", "noise", "fid_ratio", "recall_ratio", "label_agreement_drop", *LABELS},
        {"collapsed_classes", "modes_ratio"},
    ),
}


@pytest.mark.parametrize(("candidate", "fails", "may"), [(name, *one) for name, one in FAILS.items()], ids=list(FAILS))
def test_only_the_good_generator_passes(
    candidate: str, fails: set[str], may: set[str], card: Callable[[str], dict[str, Any]]
) -> None:
    decision = gate.decide(card(candidate), card("poor"), choices().gate)
    failed = {check.name for check in decision.checks if not check.passed}
    assert fails <= failed <= fails | may, decision.markdown()
    assert decision.promote == (candidate == "good")
    assert {check.name for check in decision.checks} >= AGAINST
    assert ("label_agreement" in {check.name for check in decision.checks}) == (candidate != "unconditional")


# --- promotion ---


@pytest.fixture(scope="module")
def registered(generators: dict[str, Path], toy_generator: Callable[..., Path]) -> Registry:
    """What training left, tables of images as if they were of other trainings, and files with nothing beside them."""
    registry = Registry()
    registry.register("barely trained")
    for name in ("poor", "good", "memorising"):
        registry.register(name, generators[name])
    registry.register_file("good, bare", generators["good"])
    registry.register_file("three small digits", toy_generator(Path("made/toy.onnx")))
    return registry


@pytest.fixture
def registry(registered: Registry) -> Registry:
    """All of them, and the poor one is champion."""
    registered.make_champion("poor")
    return registered


def everything() -> tuple[list[str], dict[str, tuple[int, int]]]:
    """MLflow's whole database, and size and time of other files but those that MLflow writes when it fetches."""
    database = sqlite3.connect("mlruns/mlflow.db")
    rows = list(database.iterdump())
    database.close()
    names = {"mlflow.db", "registered_model_meta"}
    kept = {str(path): path.stat() for path in Path().rglob("*") if path.is_file() and path.name not in names}
    return rows, {path: (stat.st_size, stat.st_mtime_ns) for path, stat in kept.items()}


def test_a_refused_candidate_leaves_the_champion_and_a_report(registry: Registry) -> None:
    assert registry.promote("memorising") == (False, {"near_copies", "train_excess"})
    assert registry.aliases() == {"champion": "poor"}
    decision, tags = files.read_json(DECISION), registry.tags("memorising")
    assert decision["promote"] is decision["forced"] is False
    candidate, champion = decision["candidate"], decision["champion"]
    assert (candidate["version"], champion["version"]) == (registry.versions["memorising"], registry.versions["poor"])
    assert candidate["scorecard"]["fid"] < champion["scorecard"]["fid"]
    assert decision["policy"] == choices().gate.model_dump()
    assert tags["gate.verdict"] == "refuse"
    assert set(tags["gate.failed"].split(", ")) == {"near_copies", "train_excess"}
    as_scored_now = candidate["scorecard"]["fid_ratio"]
    assert float(tags["fid_ratio"]) == pytest.approx(as_scored_now, rel=1e-4), "not as it was registered"
    folder = Path(mlflow.artifacts.download_artifacts(tags["gate.report"]))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in (DECISION, DECISION.with_suffix(".md"))
    }


def test_the_better_takes_the_place_of_the_champion_and_gives_it_back(registry: Registry) -> None:
    before = everything()
    assert promote_stage.check(choices(), "letters", registry.versions["good"]).promote
    assert everything() == before, "--check changes nothing"
    assert registry.promote("good") == (True, set())
    assert registry.aliases() == {"champion": "good", "previous": "poor"}
    tags, poor = registry.tags("good"), registry.versions["poor"]
    assert (tags["gate.verdict"], tags["gate.failed"], tags["promoted_over"]) == ("promote", "none", poor)
    sentence = promote_stage.rollback(choices(), "letters", "it was the better pen")
    assert f"version {poor} is champion again in place of version {registry.versions['good']}" in sentence
    assert registry.aliases() == {"champion": "poor"}


def test_force_promotes_what_was_refused_and_says_so(registry: Registry) -> None:
    assert registry.promote("memorising", force=True, reason="nobody minds copies")[0]
    decision = files.read_json(DECISION)
    assert (decision["promote"], decision["forced"], decision["reason"]) == (False, True, "nobody minds copies")
    assert registry.aliases() == {"champion": "memorising", "previous": "poor"}
    tags = registry.tags("memorising")
    assert (tags["gate.verdict"], tags["promoted_because"]) == ("forced", "nobody minds copies")


# --- odd registries ---


def stopped(registry: Registry, candidate: str, match: str, **how: Any) -> None:
    """Promotion ends with one sentence and has changed nothing."""
    before = everything()
    with pytest.raises(LekhaniError, match=match) as caught:
        registry.promote(candidate, **how)
    assert "\n" not in str(caught.value)
    assert everything() == before


def test_a_champion_that_is_gone_stops_promotion_until_it_is_forced(registry: Registry) -> None:
    folder = registry.generator("poor").parents[2]
    away = folder.rename(folder.with_name("away"))
    try:
        stopped(registry, "good", "lekhani-letters version .* cannot be fetched")
        assert registry.promote("good", force=True, reason="the old one is gone") == (True, {"champion"})
        assert registry.aliases() == {"champion": "good", "previous": "poor"}
        before = everything()
        with pytest.raises(LekhaniError, match="cannot be fetched"):
            promote_stage.rollback(choices(), "letters")
        assert everything() == before, "there is nothing to go back to"
    finally:
        away.rename(folder)


def test_a_version_brings_its_judge_and_known_images_and_a_damaged_one_is_registered_anew(registry: Registry) -> None:
    def register() -> str:
        promote_stage.register(choices(), "letters", "flow_matching")
        return models.aliases("letters")["challenger"]

    found = models.fetch("letters", registry.versions["memorising"])  # the last that was registered
    assert found.judge is not None
    assert files.sha256(found.judge) == files.sha256(Path("models/letters/judge/judge.onnx"))
    reference = Reference.load(found.generator.with_name("reference.npz"))
    assert np.bincount(reference.labels).tolist() == [8] * 8
    assert reference.misread(Reader(found.judge)) == []
    assert register() == found.version, "again: nothing new"
    content = found.judge.read_bytes()
    found.judge.write_bytes(content + b" ")
    try:
        anew = register()
        assert anew != found.version
        assert register() == anew
    finally:
        found.judge.write_bytes(content)


def test_a_champion_that_was_tampered_with_stops_promotion(registry: Registry) -> None:
    path = registry.generator("poor")
    content = path.read_bytes()
    with_metadata(path, path, profile="full")
    try:
        stopped(registry, "good", "is not the file that was registered as lekhani-letters version .*: its SHA-256")
    finally:
        path.write_bytes(content)


def test_other_classes_are_neither_compared_nor_forced(registry: Registry) -> None:
    stopped(registry, "three small digits", "draws other classes or sizes", force=True, reason="why not")
    registry.make_champion("three small digits")
    stopped(registry, "good", "draws other classes or sizes")


def test_a_candidate_whose_run_was_deleted_is_not_even_forced(registry: Registry) -> None:
    run_id = connect().get_model_version("lekhani-letters", registry.versions["good"]).run_id
    assert run_id
    connect().delete_run(run_id)
    try:
        stopped(registry, "good", f"The run {run_id[:8]} .* is deleted; restore it", force=True, reason="why not")
    finally:
        connect().restore_run(run_id)


def test_a_candidate_without_a_scorecard_is_refused_since_its_parity_is_not_known(registry: Registry) -> None:
    assert registry.promote("good, bare") == (False, {"parity_max_abs"})
    assert registry.aliases() == {"champion": "poor"}
