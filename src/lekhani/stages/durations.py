"""How long each stage took when it last ran in this folder.

That is kept beside DVC's outputs, so that the bytes of outputs do not depend on it.
"""

from lekhani import files
from lekhani.paths import CACHE
from lekhani.stages.artefacts import Duration

_FOLDER = CACHE / "seconds"


def record(stage: str, dataset: str, variant: str, seconds: float) -> None:
    """Keep the duration of a stage of `dataset` and, unless it is empty, `variant`."""
    entry = {"stage": stage, "dataset": dataset, "variant": variant, "seconds": round(seconds, 1)}
    files.write_json(_FOLDER / f"{stage}@{dataset}{'-' if variant else ''}{variant}.json", entry)


def recorded() -> dict[tuple[str, str], dict[str, float]]:
    """Seconds by (dataset, variant or "") and stage."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(_FOLDER.glob("*.json")):
        entry = files.read_checked(path, Duration)
        found.setdefault((entry["dataset"], entry["variant"]), {})[entry["stage"]] = entry["seconds"]
    return found
