"""dvc.yaml names the code that shapes each stage's outputs: what a stage imports, and what `dvc status` makes of a
change."""

from collections.abc import Container, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import grimp
import pytest
import yaml
from dvc.repo import Repo
from workspace import ROOT, Workspace

from lekhani.params import VARIANT_SETTINGS

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# Modules that a stage imports without depending on them; what they import in turn does not count either.
NOWHERE = {
    "": "the version and the facade",
    "params": "values are listed as params, and a new key must not rerun everything",
    "paths": "where files lie, which dvc.yaml says too",
    "errors": "sentences for people",
    "files": "how files are written, not what is in them",
    "machine": "what the machine has",
    "stages.artefacts": "refuses garbled files, and leaves the others as they are",
    "stages.timings": "how long training took, which no stage may depend on",
    "variants.state": "refuses states that do not fit, and leaves the others as they are",
    "tracking": "what MLflow keeps, which is no output of a stage",
    "tracking.revision": "as above",
    "tracking.runs": "as above",
    "tracking.experiments": "as above",
    "tracking.logged": "as above",
    "tracking.reporter": "as above",
    "variants": "the table of variants; each stage has the file of its own",
}
LOSSES = "not in use when weights are read; what changes them in training reruns train"
PARITY = "opens the exported file, to compare what it computes"
LEFT_OUT = {
    "export": {"inference.session": PARITY},
    "judge": {
        "inference.stepwise": "for networks in several steps, which no judge is",
        "variants.base": "its Stepwise alone, which no judge is",
        "variants.nets": "how weights lie in memory",
    },
    "baseline": {"variants.nets": "how weights lie in memory"},
    "usefulness": {"variants.nets": "how weights lie in memory", "pictures": "fonts of figures"},
    "evaluate": {
        "train.devices": "where to compute",
        "train.diagnosis": "its Finding alone",
        "variants.gan": LOSSES,
        "variants.losses": LOSSES,
        "variants.nets": LOSSES,
        "variants.optimise": LOSSES,
        "variants.flow_matching": LOSSES,
    },
    "compare": {
        "data.spec": "its GlyphClass alone",
        "stages.durations": "how long stages took, which no stage may depend on",
    },
}


def code_of(stage: str, variant: str) -> dict[str, str]:
    """The modules below lekhani that a stage depends on, with the dep that has each; a folder has all modules in it."""
    found = {}
    for entry in STAGES[stage]["deps"]:
        path = ROOT / entry.replace("${item.variant}", variant)
        if entry.startswith("src/"):
            for one in path.rglob("*.py") if path.is_dir() else [path] * (path.suffix == ".py"):
                parts = one.relative_to(ROOT / "src/lekhani").with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = entry
    return found


def imports_of(start: set[str], graph: grimp.ImportGraph, stop: Container[str] = ()) -> set[str]:
    """The modules of `start` and all that they import, at their top or in a function, without those behind `stop`."""
    found, waiting = set[str](), list(start)
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            if module not in stop:
                modules = graph.find_modules_directly_imported_by(f"lekhani.{module}".rstrip("."))
                waiting += [one.removeprefix("lekhani").removeprefix(".") for one in modules]
    return found


def test_a_stage_depends_on_what_it_imports() -> None:
    graph = grimp.build_graph("lekhani")
    unused, to_do = {stage: set(modules) for stage, modules in LEFT_OUT.items()}, set[str]()
    for stage, body in STAGES.items():
        command, matrix = body["cmd"].split()[1], body.get("matrix", {})
        is_student = matrix.get("variant") == "${pipeline.students}"
        variants = [name for name, settings in VARIANT_SETTINGS.items() if bool(settings.teacher) == is_student]
        for variant in variants if "variant" in matrix else [""]:
            listed = code_of(stage, variant)
            start = {f"stages.{command}"} | {f"variants.{variant}"} & set(listed)
            left_out = NOWHERE | LEFT_OUT.get(command, {})
            found = imports_of(start, graph, left_out)
            behind = imports_of(start | {f"variants.{name}" for name in variants if "variant" in matrix}, graph)
            behind |= {module.rpartition(".")[0] for module in behind}  # a package comes with its modules
            to_do |= {f"{stage}: add {module}" for module in found - set(listed) - set(left_out)}
            to_do |= {f"{stage}: remove {listed[module]}" for module in set(listed) - behind}
            unused.get(command, set()).difference_update(found - set(listed))
    assert not to_do, "Change dvc.yaml, or LEFT_OUT above with a reason:\n" + "\n".join(sorted(to_do))
    assert not any(unused.values()), "these need no exception in LEFT_OUT"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The pipeline with two variants and a student, whose outputs are stand-ins that DVC takes for what the stages
    made."""
    space = Workspace(tmp_path_factory.mktemp("code") / "project")
    space.copy_pipeline()
    choices = space.params()
    choices["pipeline"] |= {"variants": ["dcgan", "flow_matching"], "students": ["turbo"]}
    space.write_params(choices)
    with chdir(space.path), Repo() as repo:
        for out in repo.index.outs:
            path = Path(out.fspath)
            path = path if path.suffix else path / "dataset.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(out))
        repo.commit(force=True)
    return space


def due(space: Workspace) -> set[str]:
    with chdir(space.path), Repo() as repo:
        return set(repo.status())


@contextmanager
def changed(space: Workspace, *paths: str) -> Iterator[None]:
    """A comment at the end of files in src/lekhani, or of a new file."""
    files = [space.path / "src/lekhani" / path for path in paths]
    before = [file.read_text(encoding="utf-8") if file.exists() else "" for file in files]
    for file, text in zip(files, before, strict=True):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text + "# a comment\n", encoding="utf-8")
    yield
    for file, text in zip(files, before, strict=True):
        file.write_text(text, encoding="utf-8")


ALL_TRAIN = ["train@mnist-dcgan", "train@mnist-flow_matching", "distil@mnist-turbo"]
ALL_EVALUATE = ["evaluate@mnist-dcgan", "evaluate@mnist-flow_matching", "evaluate-student@mnist-turbo"]


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("data/sources/kaggle.py", ["fetch@mnist"]),
        ("data/prepare.py", ["prepare@mnist"]),
        ("data/readers/idx.py", ["fetch@mnist", "prepare@mnist"]),
        ("data/checks.py", ["validate@mnist"]),
        ("stages/judge.py", ["judge@mnist"]),
        ("train/loop.py", ALL_TRAIN),
        ("variants/dcgan.py", ["train@mnist-dcgan", "export@mnist-dcgan", "evaluate@mnist-dcgan"]),
        (
            "variants/flow_matching.py",
            [
                *("train@mnist-flow_matching", "export@mnist-flow_matching", "evaluate@mnist-flow_matching"),
                *("distil@mnist-turbo", "export-student@mnist-turbo"),
            ],
        ),
        ("evaluate/score.py", ALL_EVALUATE),
        (
            "evaluate/usefulness.py",
            [
                *("baseline@mnist", "usefulness@mnist-dcgan", "usefulness@mnist-flow_matching"),
                "usefulness-student@mnist-turbo",
            ],
        ),
        ("evaluate/leaderboard.py", ["compare"]),
        ("house.css", ["validate@mnist", "compare"]),  # no module, but written into what they make
    ],
)
def test_a_change_of_the_code_makes_these_stages_due(made: Workspace, path: str, stages: list[str]) -> None:
    with changed(made, path):
        assert due(made) == set(stages)


def test_code_that_shapes_no_output_makes_no_stage_due(made: Workspace) -> None:
    others = ("serve/api.py", "registry/gate.py", "handwriting/lines.py", "params.py", "cli.py", "tracking/runs.py")
    with changed(made, *others, "variants/draw.py", "export/__pycache__/weights.pyc"):
        assert due(made) == set()


def test_a_stage_may_be_kept_after_a_change_without_effect(made: Workspace) -> None:
    with changed(made, "stages/judge.py"):
        made.run("dvc", "commit", "--force", "judge@mnist")
        assert due(made) == set()
