"""Where the pipeline keeps its files, relative to the project folder, which is the current one."""

import re
from pathlib import Path

from lekhani.errors import UsageError

RAW, PREPARED = Path("data/raw"), Path("data/prepared")
MODELS, REPORTS = Path("models"), Path("reports")
CACHE = Path("cache")  # the judges' readings of real images and how long stages took; may be removed at any time
CHECKPOINTS = Path("checkpoints")  # outside the outputs, which DVC removes before a stage runs
SCORECARDS = REPORTS / "scorecards"  # D-V/: what compare reads, in one folder, since a stage cannot depend on a matrix

VALIDATION_PAGES = ("validation.json", "validation.md", "validation.html", "data_card.md", "contact_sheet.png")
"""What validate writes to reports/D/."""


def project() -> Path:
    """The project's folder: the current one, or the one to which a copy below .dvc/tmp for an experiment belongs."""
    above = Path.cwd().parents
    copies = (one for one in reversed(above) if {one / ".dvc/tmp/exps", one / ".dvc/tmp/flows"} & set(above))
    return next(copies, Path())


def in_project(path: Path) -> Path:
    """What a path in params.yaml stands for: a relative one starts in the project, also in a copy that lacks it."""
    return path if path.is_absolute() or path.exists() else project() / path


def local_path(text: str | Path) -> Path:
    """A path on this machine as people write it: ~ is the home folder, file:// and local:// may stand before it.

    Raises UsageError for other addresses and a home folder that is not known.
    """
    local = re.sub("^(file|local):(//)?", "", str(text))
    if address := re.match(r"([a-z][a-z0-9+.:-]+)://", local, re.IGNORECASE):
        problem = f"{text}: {address[1]}:// is no place on this machine"
        raise UsageError(
            f"{problem}; give a path here, since only `lekhani generate` writes to s3://, gs:// and az://."
        )
    try:
        return Path(local).expanduser()
    except RuntimeError:
        raise UsageError(f"{text}: there is no such home folder; write the path out.") from None
