"""Where the pipeline keeps its files, relative to the project folder, which is the current one."""

from pathlib import Path

RAW, PREPARED = Path("data/raw"), Path("data/prepared")
MODELS, REPORTS = Path("models"), Path("reports")
CACHE = Path("cache")  # the judges' readings of real images and how long stages took; may be removed at any time
CHECKPOINTS = Path("checkpoints")  # outside the outputs, which DVC removes before a stage runs
SCORECARDS = REPORTS / "scorecards"  # D-V/: what compare reads, in one folder, since a stage cannot depend on a matrix

VALIDATION_PAGES = ("validation.json", "validation.md", "validation.html", "data_card.md", "contact_sheet.png")
"""What validate writes to reports/D/."""
