"""Results of DVC experiments that repeat a training."""

import json
import logging
from pathlib import Path
from typing import Any

from lekhani import strict_yaml
from lekhani.errors import UsageError, first_line

log = logging.getLogger("lekhani")


def repeats(paths: list[Path]) -> dict[Path, list[dict[str, Any]]]:
    """The JSON files `paths` of each DVC experiment on top of HEAD whose params.yaml differs in `train.seed` alone.

    An experiment that did not get as far as a file is passed over with a warning. Raises UsageError outside of git and
    DVC.
    """
    import dvc.api
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo() as repo:
            names = sorted(name for found in repo.experiments.ls().values() for name, _ in found)
    except (NotDvcRepoError, SCMError) as error:
        problem = f"DVC finds no experiments here ({first_line(error)})"
        raise UsageError(f"{problem}; run this in the project's git repository.") from error
    mine = _but_for_seed(Path("params.yaml").read_text(encoding="utf-8"))
    found: dict[Path, list[dict[str, Any]]] = {path: [] for path in paths}
    for name in names:
        if _but_for_seed(dvc.api.read("params.yaml", rev=name)) != mine:
            continue
        for path in paths:
            try:
                found[path].append(json.loads(dvc.api.read(path.as_posix(), rev=name)))
            except (DvcException, OSError) as error:
                log.warning("The experiment %s has no %s (%s); it is left out.", name, path, first_line(error))
    return found


def _but_for_seed(text: str) -> Any:
    choices = strict_yaml.load(text)
    choices.get("train", {}).pop("seed", None)
    return choices
