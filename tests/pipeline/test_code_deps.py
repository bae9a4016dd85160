"""dvc.yaml names the code that shapes each stage's outputs, which is what the stage imports."""

from collections.abc import Container

import grimp
import yaml
from workspace import ROOT

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
    "tracking": "what MLflow keeps, which is no output of a stage",
    "tracking.revision": "as above",
    "tracking.runs": "as above",
    "tracking.experiments": "as above",
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
        "stages.durations": "how long stages took, which no output may depend on",
    },
}


def code_of(stage: str, variant: str) -> dict[str, str]:
    """The modules below lekhani that a stage depends on, with the dep that has each; a folder has all modules in it."""
    found = {}
    for entry in STAGES[stage]["deps"]:
        path = ROOT / entry.replace("${item.variant}", variant)
        if entry.startswith("src/"):
            for one in path.rglob("*.py") if path.is_dir() else [path]:
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
